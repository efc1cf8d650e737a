//! What drivers are built from; all of it serves any driver, and none is named here.
//!
//! * [`lane`]: where calls that block wait; [`DropOnLane`]: what must not be dropped elsewhere
//! * [`memory`]: the memory of all transfers; [`window`]: of one; [`zeros`]: bytes that need not be stored
//! * [`open_file`]: open files as images, which others may change while they are read
//! * [`clock`]: the time that is written down
//! * [`durable`]: small files that are on the disk once they have their names
//! * [`ledger`]: what is held in backends beyond one call, for the next process to give back
//! * [`parts`]: what object stores are sent, in memory or on disk
//! * [`http`]: the client of whatever speaks plain HTTP; [`addresses`]: where it may connect to
//! * `stretches`: how images are read from servers that give ranges
//! * [`keystone`]: tokens of OpenStack and of Swifts that give their own
//! * [`options`]: how a driver reads its section of the configuration
//! * `latest`: secrets that a reload may replace
//! * `see_through`: requests that nobody waits for any more; `turns`: calls about one object, one after the
//!   other; `pause`: pauses of no fixed length, and other tries
//! * [`refusals`]: what every driver says alike; [`point`]: where tests kill the process

pub mod addresses;
pub mod clock;
mod drop_on_lane;
mod drops;
pub mod durable;
pub mod file_body;
pub mod http;
pub mod keystone;
pub mod lane;
#[cfg(feature = "s3")]
pub(crate) mod latest;
pub mod ledger;
pub mod meminfo;
pub mod memory;
pub mod open_file;
pub mod options;
pub mod parts;
pub(crate) mod pause;
pub mod point;
pub mod refusals;
pub(crate) mod see_through;
pub(crate) mod stretches;
pub(crate) mod turns;
pub mod window;
pub mod zeros;

pub use drop_on_lane::DropOnLane;
