//! Disks over iSCSI on a real target, tgtd: `imaged-ffi-iscsi` by itself.

mod disks;
mod ends;
mod ways;

use std::time::Duration;

use bytes::Bytes;
use imaged_ffi_iscsi::{Chap, Session, Settings, Target};

use crate::harness::rigs::Disks;

const MIB: u64 = 1 << 20;

/// The way to one of these disks.
fn way(disks: &Disks, lun: u16) -> Target {
    Target { portal: disks.facts["portal"].clone(), iqn: disks.iqn.clone(), lun }
}

/// To write, with more patience than is ever needed.
fn settings(disks: &Disks) -> Settings {
    let chap =
        Chap { user: disks.facts["user"].clone(), password: disks.facts["password"].clone() };
    Settings {
        initiator: "iqn.2026-11.test.imaged:host".to_owned(),
        chap: Some(chap),
        writable: true,
        connect: Duration::from_secs(60),
        command: Duration::from_secs(60),
    }
}

async fn connect(disks: &Disks, lun: u16) -> Session {
    Session::connect(&[way(disks, lun)], &settings(disks)).await.unwrap()
}

/// Bytes that are different in each block, and with each seed.
fn bytes(seed: u64, len: u64) -> Bytes {
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    for (n, block) in (0_u64..).zip(bytes.chunks_mut(512)) {
        let word = (n ^ seed << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        block.copy_from_slice(&word.repeat(64));
    }
    bytes.into()
}
