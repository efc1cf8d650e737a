//! What Linux can do and rustix does not offer.
//!
//! Rules of the room: every unsafe block holds one operation and says why it is sound.

#![expect(unsafe_code, reason = "this is the room for it")]

pub mod stdio;
mod writeback;

pub use writeback::start_writeback;
