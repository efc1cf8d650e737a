//! What goes wrong beneath a store, one thing at a time and each in its turn: the image is whole
//! or absent afterwards, its id is free, and the error says what to do.

mod backends;
mod buckets;
mod calls;
mod ceph;
mod changes;
mod cinder;
mod directories;
mod disks;
mod exchanges;
mod faulty;
mod hangs;
mod journal;
mod outlived;
mod owners;
mod planted;
mod refused;
mod reloads;
mod s3;
mod several;
mod swift;
mod system;
mod web;
