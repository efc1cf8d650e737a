//! The commands, a file each or a few, and what they share: `args` is what may be written on the
//! command line, `talk` a conversation with the daemon, `output` what is printed where.

pub(crate) mod args;
pub(crate) mod bench;
pub(crate) mod check;
mod cloud;
pub(crate) mod copy;
pub(crate) mod get;
pub(crate) mod images;
pub(crate) mod import;
pub(crate) mod jobs;
pub(crate) mod output;
pub(crate) mod pages;
pub(crate) mod progress;
pub(crate) mod put;
pub(crate) mod selftest;
pub(crate) mod serve;
pub(crate) mod stores;
pub(crate) mod talk;
mod target;
pub(crate) mod usage;
