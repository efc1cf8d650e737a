//! The C libraries that imaged calls: the only crate of the house where unsafe code may be.
//!
//! Rules of the room: every unsafe block holds one operation and says why it is sound; safe types
//! outside, C inside; nothing here knows of stores, images or HTTP.

#![deny(unsafe_code)]
