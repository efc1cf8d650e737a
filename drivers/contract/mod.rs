//! What every backend promises, whatever it is: this knows no driver.
//!
//! * [`driver`]: a store's backend; read it first
//! * [`upload`]: an image being written; [`reader`]: an image being read, and what copies are made from;
//!   [`extent`]: what it holds, and its holes
//! * [`copies`], [`volumes`], [`shares`]: what only some backends can do
//! * [`claim`]: who owns an id; [`image`]: ids, spans, digests; [`state`]: what a backend tells of itself
//! * [`host`]: the daemon, as backends know it; [`error`]: what can go wrong

pub mod claim;
pub mod copies;
pub mod driver;
pub mod error;
pub mod extent;
pub mod host;
pub mod image;
pub mod reader;
pub mod shares;
pub mod state;
pub mod upload;
pub mod volumes;

pub use claim::{Claim, Hold};
pub use copies::{Copied, Copies, Progress};
pub use driver::{Caps, Driver, Listed, Pieces, Recovered, Stat};
pub use error::{Error, Kind, Result};
pub use extent::Extent;
pub use host::Host;
pub(crate) use image::is_uuid;
pub use image::{Digests, ImageId, Span};
pub use reader::{Body, Reader, Source};
pub use shares::{Access, Shares};
pub use state::{Capacity, Common, Part, Properties, Site, Usable};
pub use upload::{Committed, Context, NewImage, Upload, write_zeros};
pub use volumes::{Asker, Need, Standing, Volumes};
