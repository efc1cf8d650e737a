//! Images through the command line: in, looked at, out, away.

use std::{fs, path::Path};

use super::{bytes, command, daemon, feed, finish, line, run};

#[test]
fn the_help_and_the_manual_say_what_the_modes_of_a_copy_do() {
    for words in [&["copy", "--help"][..], &["man"]] {
        let said = finish(command(Path::new("/nowhere"), words), b"").done();
        let text = said.text().split_whitespace().collect::<Vec<_>>().join(" ");
        let mode = "clone or copy inside the backend, or stream through the daemon; auto does what can be done";
        assert!(text.contains(mode) && text.contains("default: auto"), "{words:?}: {text}");
    }
}

#[test]
fn an_image_is_put_looked_at_copied_read_and_removed() {
    let daemon = daemon();
    let image = bytes(3_000_001);
    fs::write(daemon.path("image"), &image).unwrap();
    let file = daemon.path("image").display().to_string();

    let put = line(&daemon, &format!("put fast one {file}")).done();
    let location = format!("file://{}", daemon.path("fast/one").display());
    assert!(put.text().starts_with("stored one in fast: 2.86 MiB\n"), "{}", put.text());
    assert!(put.text().contains(&location));

    let stat = line(&daemon, "stat fast one").done();
    assert!(stat.text().contains("3000001") && stat.text().contains("sha512"));
    let by_location = line(&daemon, &format!("stat fast {location} --json")).done().json();
    assert_eq!(by_location["size"], 3_000_001);

    line(&daemon, &format!("copy cheap two --from {location} --from-store fast")).done();
    line(&daemon, &format!("copy cheap three --mode stream --from {location}")).done();
    let listed = line(&daemon, "list cheap --json").done().json();
    let mut ids: Vec<_> =
        listed["images"].as_array().unwrap().iter().map(|i| i["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["three", "two"]);

    let back = daemon.path("back").display().to_string();
    let got = line(&daemon, &format!("get cheap two {back}")).done();
    assert!(got.text().contains("sha512 verified"), "{}", got.text());
    assert_eq!(fs::read(&back).unwrap(), image);

    line(&daemon, "delete fast one").done();
    assert_eq!(line(&daemon, "delete fast one").code, 4);
    assert_eq!(line(&daemon, "list fast").done().out, b"");
    assert!(!daemon.path("fast/one").exists());
}

#[test]
fn standard_input_and_output_carry_an_image_of_any_length() {
    let daemon = daemon();
    for store in ["fast", "memory"] {
        for length in [0, 1, 4096, 4097, 65_536, 1 << 20, 9_000_000] {
            let image = bytes(length);
            let (id, size) = (format!("i{length}"), length.to_string());
            feed(&daemon, ["put", store, &id, "-", "--size", &size], &image).done();
            let got = run(&daemon, ["get", store, &id, "-"]).done();
            assert!(got.out == image, "{store} {length}");
            let unsized_id = format!("u{length}");
            feed(&daemon, ["put", store, &unsized_id, "-"], &image).done();
            assert!(run(&daemon, ["get", store, &unsized_id, "-"]).done().out == image);
        }
    }
}

#[test]
fn a_file_on_standard_input_is_stored_from_its_offset() {
    use std::io::{Seek as _, SeekFrom};
    let daemon = daemon();
    let image = bytes(500_000);
    fs::write(daemon.path("image"), &image).unwrap();
    let mut file = fs::File::open(daemon.path("image")).unwrap();
    file.seek(SeekFrom::Start(100_000)).unwrap();
    let mut put = command(&daemon.socket, ["put", "fast", "tail", "-"]);
    assert!(put.stdin(file).output().unwrap().status.success());
    assert!(line(&daemon, "get fast tail -").done().out == image[100_000..]);
}

#[test]
fn a_range_is_read_from_either_end() {
    let daemon = daemon();
    let image = bytes(100_000);
    for store in ["fast", "memory"] {
        feed(&daemon, ["put", store, "x", "-"], &image).done();
        let range = |range: &str| run(&daemon, ["get", store, "x", "-", "--range", range]);
        assert!(range("10-19").done().out == image[10..20]);
        assert!(range("99990-").done().out == image[99_990..]);
        assert!(range("-7").done().out == image[99_993..]);
        assert!(range("50000-999999").done().out == image[50_000..]);
        assert_eq!(range("100000-").code, 1);
        assert_eq!(range("5-4").code, 2);
        let file = daemon.path("part").display().to_string();
        run(&daemon, ["get", store, "x", &file, "--range", "4096-8191"]).done();
        assert!(fs::read(&file).unwrap() == image[4096..8192]);
    }
}

#[test]
fn an_image_of_another_length_than_promised_is_not_stored() {
    let daemon = daemon();
    let image = bytes(300_000);
    for size in ["1", "299999", "300001", "90000000000"] {
        let put = feed(&daemon, ["put", "fast", "x", "-", "--size", size], &image);
        assert_eq!(put.code, 1, "{size}: {put:?}");
        assert!(put.err.contains("promised"), "{}", put.err);
    }
    fs::write(daemon.path("image"), &image).unwrap();
    let file = daemon.path("image").display().to_string();
    let put = run(&daemon, ["put", "fast", "x", &file, "--size", "5"]);
    assert_eq!(put.code, 1);
    assert_eq!(line(&daemon, "stat fast x").code, 4);
}

#[test]
fn the_hash_algorithm_can_be_chosen() {
    let daemon = daemon();
    let put = "put fast x - --hash-algo sha256 --json".split_whitespace();
    let receipt = feed(&daemon, put, b"abc").done().json();
    assert_eq!(receipt["checksum"], "900150983cd24fb0d6963f7d28e17f72");
    assert_eq!(receipt["hash_algo"], "sha256");
    assert_eq!(
        receipt["hash_value"],
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    assert_eq!(line(&daemon, "put fast y - --hash-algo crc32").code, 2);
}
