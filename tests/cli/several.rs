//! `imaged put` to several stores.

use std::fs;

use super::{bytes, daemon, feed, line};

#[test]
fn one_file_goes_to_several_stores_and_each_has_a_receipt() {
    let daemon = daemon();
    let image = bytes(3 << 20);
    fs::write(daemon.path("image"), &image).unwrap();
    let file = daemon.path("image").display().to_string();
    let put = line(&daemon, &format!("put --store fast --store memory x {file}")).done();
    assert!(put.text().contains("stored x in fast") && put.text().contains("stored x in memory"));
    assert_eq!(put.text().matches("sha512").count(), 2, "{}", put.text());
    for store in ["fast", "memory"] {
        assert!(daemon.get(store, "x").body == image, "{store}");
    }
    let put =
        feed(&daemon, ["put", "y", "-", "--store", "cheap", "--store", "fast"], b"abc").done();
    assert!(put.text().contains("stored y in cheap") && put.text().contains("stored y in fast"));
    let put = feed(&daemon, ["put", "--json", "--store", "cheap", "z", "-"], b"abc").done().json();
    assert_eq!(put["results"][0]["receipt"]["checksum"], "900150983cd24fb0d6963f7d28e17f72");
}

#[test]
fn only_if_all_have_it_the_exit_code_is_0() {
    let daemon = daemon();
    feed(&daemon, ["put", "fast", "x", "-"], b"abc").done();
    let both = ["put", "--store", "cheap", "--store", "fast", "x", "-"];
    let put = feed(&daemon, both, b"abc");
    assert_eq!(put.code, 1, "{put:?}");
    assert!(put.text().contains("stored x in cheap"), "{put:?}");
    assert!(!put.text().contains("stored x in fast"), "{put:?}");
    assert!(put.err.contains("not stored in fast: ") && put.err.contains("image of this id"));
    line(&daemon, "delete cheap x").done();
    let put = feed(&daemon, both.into_iter().chain(["--json"]), b"abc");
    let results = put.json()["results"].clone();
    assert_eq!(put.code, 1, "{put:?}");
    assert_eq!(results[0]["receipt"]["store"], "cheap", "{results}");
    assert_eq!(results[1]["problem"]["code"], "Exists", "{results}");
    line(&daemon, "delete cheap x").done();
    let none = feed(&daemon, both.into_iter().chain(["--all-or-none"]), b"abc");
    assert_eq!((none.code, none.text()), (5, ""), "{none:?}");
    assert!(
        none.err.contains("not stored in cheap: ") && none.err.contains("another store failed")
    );
    assert_eq!(line(&daemon, "stat cheap x").code, 4);
    let none = feed(&daemon, both.into_iter().chain(["--all-or-none", "--json"]), b"abc");
    assert_eq!(none.json()["error"]["results"][1]["problem"]["code"], "Exists");
}

#[test]
fn a_store_that_is_named_twice_or_in_two_ways_is_wrong_usage() {
    let daemon = daemon();
    for (words, told) in [
        ("put --store fast cheap x -", "leave out the store"),
        ("put --store fast x", "the image's id and the file"),
        ("put fast x", "name the store"),
        ("put fast x - more", "more"),
        ("put --all-or-none fast x -", "--store"),
    ] {
        let wrong = line(&daemon, words);
        assert_eq!((wrong.code, wrong.text()), (2, ""), "{words}: {wrong:?}");
        assert!(wrong.err.contains(told), "{words}: {}", wrong.err);
    }
    let json = line(&daemon, "put --json --store fast cheap x -");
    assert_eq!((json.code, &json.json()["error"]["code"]), (2, &"Usage".into()));
    let twice = feed(&daemon, ["put", "--store", "fast", "--store", "fast", "x", "-"], b"abc");
    assert_eq!(twice.code, 1);
    assert!(twice.err.contains("the store `fast` is named twice"), "{}", twice.err);
    assert_eq!(line(&daemon, "stat fast x").code, 4);
}
