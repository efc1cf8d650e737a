//! What both ends of the socket say: the daemon's side (`api`, `socket`) and [`client`](crate::client)
//! stand on this, and neither knows the other.

pub mod digests;
pub mod extents;
pub mod headers;
pub mod memory;
pub mod problem;
pub mod range;
pub mod records;
pub mod stream;
