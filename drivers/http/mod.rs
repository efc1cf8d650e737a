//! Images on servers of the web, which others have put there: they are read, and nothing is written.
//!
//! # Location
//! `http://` and `https://` URLs, with a user and a password or without, the query kept and the fragment
//! dropped. An image has the id that its store finds it by only where `imaged_http_base_url` says below
//! which URL images are.
//! # Commit point
//! None: nothing is written.
//! # Residue
//! None.
//! # Blocking
//! Nothing blocks but the look for a server's address, which the runtime does on a thread of its own.
//! # Limits
//! The server has to tell how long an image is, with the image or by the answer to a range of it. At most five
//! redirects are followed, each of them judged as the first URL is, and none leads from https to http unless
//! certificates are not verified anyway. What a server packs is refused, for its length is not the image's.
//! Versions are strong ETags: an image that changes under one that its server keeps is not noticed.
//!
//! # Decisions
//! * Chose: a download that breaks goes on from the byte that was reached, if the server tells by a strong ETag
//!   or by the time of the last change that the image is still the same. Because: images are large, and half
//!   of one and half of another is neither. Instead of: beginning again, which callers who have half of it
//!   cannot do.
//! * Chose: it goes on at the URL that the redirects led to, and where that is refused, from the
//!   beginning of them. Because: mirrors differ in their ETags, and signed URLs end. Instead of: one of both.
//! * Chose: a user and a password go to the server that they were given for, and to no other that it redirects
//!   to. Because: they are that server's. Instead of: sending them along.

mod config;
mod driver;
mod exchange;
mod location;
mod object;
mod read;

pub use config::Config;
pub use driver::open;
pub use location::{Location, SCHEMES};
