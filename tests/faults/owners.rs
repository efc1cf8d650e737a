//! Stores whose daemon is not root, as it is in service.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use imaged::digest::Algo;
use imaged_drivers::{Hold, Kind, Location};
use nix::unistd::{Gid, Uid, chown, setfsgid, setfsuid};

use crate::harness::stores::{
    Fixture, assert_free, claim,
    content::{Look, digests, image},
    order, put, read,
};

const NOBODY: u32 = 65534;

/// Runs a test on threads that have nobody's rights to files, whoever runs the tests.
fn as_nobody<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    assert!(
        Uid::effective().is_root(),
        "this test gives up root's rights to files, so it needs them"
    );
    let give_up = || {
        setfsgid(Gid::from_raw(NOBODY));
        setfsuid(Uid::from_raw(NOBODY));
    };
    let thread = std::thread::spawn(move || {
        give_up();
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .on_thread_start(give_up)
            .enable_all()
            .build()
            .unwrap()
            .block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn give_to_nobody(dir: &Path) {
    chown(dir, Some(Uid::from_raw(NOBODY)), Some(Gid::from_raw(NOBODY))).unwrap();
}

#[test]
fn images_that_their_owner_cannot_write_are_put_with_their_digests() {
    let home = tempfile::tempdir().unwrap();
    let images = home.path().join("images");
    fs::create_dir(&images).unwrap();
    give_to_nobody(home.path());
    give_to_nobody(&images);
    as_nobody(async move || {
        let more = "filesystem_store_file_perm = 0440\n";
        let f = Fixture::new("file", &[(images, 0)], more, None, home).await;
        let bytes = image(Look::Random, 10_000, 51);
        let receipt = put(&f.store, order(&f.id(), None), &bytes).await.unwrap();
        let at: Location = receipt.location.parse().unwrap();
        let mode = fs::metadata(f.dirs[0].join(&receipt.id)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o440);
        let kept = f.driver.stat(&at).await.unwrap().digests;
        assert_eq!(kept, Some(digests(&bytes, Algo::Sha256)));
        // There is no place for others later, and that is no failure.
        f.driver.record(&at, &claim(&f.id()), &digests(&bytes, Algo::Md5)).await.unwrap();
        f.driver.delete(&at, Hold::default()).await.unwrap();
        f.assert_empty().await;
    });
}

#[test]
fn a_directory_without_rights_is_told_and_nothing_is_left() {
    let home = tempfile::tempdir().unwrap();
    let images = home.path().join("images");
    fs::create_dir(&images).unwrap();
    give_to_nobody(home.path());
    give_to_nobody(&images);
    as_nobody(async move || {
        let f = Fixture::new("file", &[(images, 0)], "", None, home).await;
        let bytes = image(Look::Random, 10_000, 52);
        let allow = |mode| {
            fs::set_permissions(&f.dirs[0], fs::Permissions::from_mode(mode)).unwrap();
        };
        let at = f.place(&f.id(), &bytes).await;
        allow(0o500);
        let id = f.id();
        let refused = put(&f.store, order(&id, None), &bytes).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::BackendDenied, "{refused:?}");
        let refused = f.store.delete(&at, "r").await.unwrap_err();
        assert_eq!(refused.kind(), Kind::BackendDenied, "{refused:?}");
        assert_eq!(read(&*f.driver, &at, imaged_drivers::Span::All).await.unwrap(), bytes);
        f.settle().await;
        assert!(f.store.health().is_ok(), "it can be read");
        assert!(f.driver.reading_only().is_some(), "the store says so too");
        allow(0o700);
        f.settle().await;
        assert_eq!(f.driver.reading_only(), None);
        f.driver.delete(&at, Hold::default()).await.unwrap();
        assert_free(&f, &id, "refused").await;
        f.assert_empty().await;
    });
}
