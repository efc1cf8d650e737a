//! Images in this process's memory: the smallest driver that keeps the contract. Copy it to begin
//! a new one.
//!
//! # Location
//! `mem://<store>/<id>`
//! # Commit point
//! Insertion into the map of images, under its lock.
//! # Residue
//! None: it dies with the process.
//! # Blocking
//! Nothing blocks.
//! # Limits
//! The memory of the process; `mem_capacity` bounds it. For trials and tests only.

mod config;
mod driver;
mod images;
mod location;
mod read;
mod upload;

pub use config::Config;
pub use driver::{Mem, open};
pub use location::{Location, SCHEMES};
