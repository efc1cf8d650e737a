//! Which images are in the page cache when they have been stored.

use std::{fs::File, io::IoSliceMut, path::Path};

use bytes::Bytes;
use imaged_drivers::{Location, Result, window::PAGE};
use rustix::{
    fs::{Advice, fadvise},
    io::{Errno, ReadWriteFlags, preadv2},
};

use crate::harness::stores::{
    Fixture, aligned_chunks,
    content::{Look, image},
    write_image,
};

/// A store on a disk: in a tmpfs everything is in memory.
async fn store(options: &str) -> Fixture {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = home.path().join("images");
    std::fs::create_dir(&dir).unwrap();
    Fixture::new("file", &[(dir, 0)], options, None, home).await
}

/// How many pages of a file can be read without the disk.
fn cached(path: &Path) -> usize {
    let file = File::open(path).unwrap();
    // Without this, the look itself has the disk bring what comes next.
    fadvise(&file, 0, None, Advice::Random).unwrap();
    let pages = file.metadata().unwrap().len().div_ceil(PAGE as u64);
    let is_there = |page: u64| {
        let mut byte = [0];
        let to = &mut [IoSliceMut::new(&mut byte)];
        match preadv2(&file, to, page * PAGE as u64, ReadWriteFlags::NOWAIT) {
            Ok(count) => count == 1,
            Err(Errno::AGAIN) => false,
            Err(error) => panic!("{error}"),
        }
    };
    (0..pages).filter(|page| is_there(*page)).count()
}

async fn put(f: &Fixture, bytes: &Bytes, size: Option<u64>) -> Result<Location> {
    let chunks = aligned_chunks(bytes);
    Ok(write_image(&*f.driver, &f.id(), size, chunks).await?.0)
}

#[tokio::test]
async fn an_image_is_left_in_the_page_cache_as_the_option_says() {
    const PAGES: usize = 1000;
    let bytes = image(Look::Random, PAGES * PAGE, 3);
    for (option, kept) in [("", true), ("auto", true), ("always", true), ("never", false)] {
        let f = match option {
            "" => store("").await,
            set => store(&format!("imaged_page_cache = {set}\n")).await,
        };
        for size in [Some(bytes.len() as u64), None] {
            let expected = if kept { PAGES } else { 0 };
            let mut found = Vec::new();
            // Pages that the kernel has in its hands at that moment do not go; those of another image do.
            while found.len() < 3 && found.last() != Some(&expected) {
                let at = put(&f, &bytes, size).await.unwrap();
                let Location::File(file) = &at else { panic!("{at}") };
                found.push(cached(file.path()));
                assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
            }
            assert_eq!(found.last(), Some(&expected), "{option} {size:?}: {found:?}");
        }
    }
}
