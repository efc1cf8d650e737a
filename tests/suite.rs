//! All integration tests, in one binary.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "all of this is a test: to panic is to fail, which is what it is for"
)]

/// Every kind of store that has to keep the contract, by its type in `enabled_backends` and the function
/// in `harness/stores/kinds.rs` that makes one. A driver is entered here, with each of its ways to keep
/// images that differ in what the backend does.
macro_rules! every_store {
    ($then:ident) => {
        $then!(mem: mem);
        $then!(mem: mem_that_cannot_copy);
        $then!(mem: mem_that_cannot_delete);
        $then!(mem: mem_that_cannot_list);
        $then!(mem: mem_that_cannot_seek);
        $then!(mem: mem_that_only_reads);
        $then!(mem: mem_that_gives_whole_images_only);
        $then!(cinder: cinder);
        $then!(cinder: cinder_local);
        $then!(file: file);
        $then!(file: file_thick);
        $then!(file: file_two_dirs);
        $then!(file: file_two_filesystems);
        $then!(file: file_unnamed);
        $then!(file: file_staged);
        $then!(file: file_renamed);
        $then!(http: http);
        $then!(http: http_nginx);
        $then!(rbd: rbd);
        $then!(rbd: rbd_thick);
        $then!(s3: s3);
        $then!(s3: s3_in_parts);
        $then!(s3: s3_without_conditions);
        $then!(s3: s3_seaweed);
        $then!(s3: s3_radosgw);
        $then!(swift: swift);
        $then!(swift: swift_in_segments);
        $then!(swift: swift_by_lists);
        $then!(swift: swift_of_ceph);
    };
}

mod bench;
#[path = "harness/stores/ceph.rs"]
mod ceph;
mod cli;
mod conformance;
mod daemon;
mod explore;
mod faults;
mod harness;
mod iscsi;
mod parity;
mod system_image;

#[test]
fn every_driver_has_its_stores_in_the_suite() {
    let mut entered = std::collections::BTreeSet::new();
    macro_rules! enter {
        ($kind:ident: $name:ident) => {
            entered.insert(stringify!($kind));
        };
    }
    every_store!(enter);
    for kind in imaged_drivers::TYPES {
        assert!(
            entered.remove(kind),
            "no store of type `{kind}` is tested: write a function that makes one in \
             tests/harness/stores/kinds.rs, and enter it in `every_store!` of tests/suite.rs as \
             `$then!({kind}: NAME);`"
        );
    }
    assert!(entered.is_empty(), "there are no drivers of these types: {entered:?}");
}
