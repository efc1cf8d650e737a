//! What Linux can do and rustix does not offer.
//!
//! Rules of the room: every unsafe block holds one operation and says why it is sound.

#![expect(unsafe_code, reason = "this is the room for it")]

mod receive;
mod shared;
pub mod stdio;
mod writeback;

pub use receive::{Came, receive};
pub use shared::{Shared, Slot, View};
pub use writeback::start_writeback;
