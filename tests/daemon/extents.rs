//! Images as extents: what holds something, and nothing of the holes.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    process::Command,
};

use bytes::Bytes;
use imaged::wire::extents::Decoder;
use imaged_drivers::Extent;

use crate::harness::{
    daemon::{Daemon, IMAGED, STORES, noise},
    raw::{Answer, Raw},
};

const MIB: usize = 1 << 20;
pub(super) const ACCEPT: &str = "imaged-accept: extents\r\n";

/// An image of this length with these bytes in it.
pub(super) fn image(size: usize, data: &[(usize, &[u8])]) -> Vec<u8> {
    let mut image = vec![0; size];
    for (at, bytes) in data {
        image[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    image
}

/// What an answer's body holds of `size` bytes, from the offset `from` on, and whether it is whole.
fn decoded(answer: &Answer, from: u64, size: usize) -> (Vec<u8>, bool) {
    read(&answer.body, from, size)
}

/// The same of a body.
fn read(body: &[u8], from: u64, size: usize) -> (Vec<u8>, bool) {
    let mut decoder = Decoder::new(from..from + size as u64);
    let (mut came, mut found) = (Bytes::copy_from_slice(body), Vec::new());
    while let Some(extent) = decoder.next(&mut came).unwrap() {
        match extent {
            Extent::Data(bytes) => found.extend_from_slice(&bytes),
            Extent::Hole(len) => found.resize(found.len() + usize::try_from(len).unwrap(), 0),
        }
    }
    (found, decoder.is_over())
}

fn get(raw: &mut Raw, store: &str, headers: &str) -> Answer {
    raw.head("GET", &format!("/v1/stores/{store}/images/x"), headers);
    raw.answer("GET")
}

#[test]
fn what_holds_something_is_sent_and_holes_are_not() {
    let some = noise(100_000, 1);
    for (what, image) in [
        ("a hole at the start", image(9 * MIB + 7, &[(8 * MIB, &some)])),
        ("one in the middle", image(9 * MIB + 7, &[(0, &some), (9 * MIB, b"abcdefg")])),
        ("one at the end", image(9 * MIB + 7, &[(0, &some)])),
        ("nothing else", image(9 * MIB + 7, &[])),
        ("many", {
            let places: Vec<_> = (0..16).map(|n| (n * MIB / 2 + 5, &some[..999])).collect();
            image(9 * MIB + 7, &places)
        }),
    ] {
        let daemon = Daemon::start(STORES);
        assert_eq!(daemon.put("fast", "x", &image).status, 201);
        let mut raw = Raw::connect(&daemon.socket);
        let plain = get(&mut raw, "fast", "");
        assert!(plain.body == image, "{what}");
        let answer = get(&mut raw, "fast", ACCEPT);
        assert_eq!(answer.status, 200, "{what}");
        assert_eq!(answer.headers["content-type"], "application/vnd.imaged.extents", "{what}");
        assert_eq!(answer.headers["imaged-size"], image.len().to_string());
        // What a cache keeps of one form it must not give to who asks for the other.
        assert_eq!(answer.headers["vary"], "imaged-accept", "{what}");
        for header in ["etag", "repr-digest", "accept-ranges", "vary"] {
            assert_eq!(answer.headers[header], plain.headers[header], "{what}");
        }
        assert!(answer.whole && answer.body.len() < 3 * MIB / 2, "{what}: {}", answer.body.len());
        assert!(decoded(&answer, 0, image.len()) == (image.clone(), true), "{what}");
        // Parts, by offsets in the whole image.
        for (from, to) in [(0, 9 * MIB), (8 * MIB + 5, 9 * MIB + 6), (5, 6), (MIB, MIB)] {
            let range = format!("{ACCEPT}range: bytes={from}-{to}\r\n");
            let answer = get(&mut raw, "fast", &range);
            assert_eq!(answer.status, 206, "{what}");
            let told = format!("bytes {from}-{to}/{}", image.len());
            assert_eq!(answer.headers["content-range"], told, "{what}");
            assert_eq!(answer.headers["imaged-size"], image.len().to_string());
            let wanted = image[from..=to].to_vec();
            assert!(decoded(&answer, from as u64, wanted.len()) == (wanted, true), "{what}");
        }
        // What is counted is the image.
        let text = String::from_utf8(daemon.ask("GET", "/metrics").body).unwrap();
        assert!(text.contains("op=\"get\",store=\"fast\",outcome=\"done\"} 6"), "{text}");
    }
}

#[test]
fn a_store_that_knows_no_holes_sends_plain_bytes() {
    let daemon = Daemon::start(STORES);
    let (dense, sparse) = (noise(3 * MIB, 2), image(3 * MIB, &[(MIB, b"x")]));
    daemon.put("small", "x", &sparse);
    daemon.put("fast", "x", &dense);
    daemon.put("cheap", "x", &sparse);
    let mut raw = Raw::connect(&daemon.socket);
    for (store, image) in [("small", &sparse), ("fast", &dense)] {
        let answer = get(&mut raw, store, ACCEPT);
        assert_eq!(answer.headers["content-type"], "application/octet-stream", "{store}");
        assert!(answer.body == *image, "{store}");
    }
    // A descriptor goes before extents, in whatever order they are named; what nobody knows is left out.
    for forms in ["fd, extents", "extents,fd", "extents , br, fd"] {
        let answer = get(&mut raw, "cheap", &format!("imaged-accept: {forms}\r\n"));
        assert_eq!(answer.headers["imaged-body"], "fd", "{forms}");
        assert_eq!(raw.take_descriptors().len(), 1);
    }
    let answer = get(&mut raw, "cheap", "imaged-accept: extent, EXTENTS\r\n");
    assert!(answer.body == sparse);
    // An empty image has no holes.
    assert_eq!(daemon.put("cheap", "empty", b"").status, 201);
    raw.head("GET", "/v1/stores/cheap/images/empty", ACCEPT);
    let answer = raw.answer("GET");
    assert_eq!((answer.status, answer.headers["content-length"].as_str()), (200, "0"));
}

#[test]
fn only_that_very_word_asks_for_extents_and_parts_are_as_of_any_answer() {
    let daemon = Daemon::start(STORES);
    // No multiple of anything, with a hole at its end.
    let image = image(3 * MIB + 5, &[(MIB + 1, b"something")]);
    let (size, last) = (image.len(), image.len() - 1);
    assert_eq!(daemon.put("fast", "x", &image).status, 201);
    let mut raw = Raw::connect(&daemon.socket);
    for forms in ["", "extent", "EXTENTS", "extents;q=0", "extents=1", "fd;extents", "*", " , ,"] {
        let answer = get(&mut raw, "fast", &format!("imaged-accept: {forms}\r\n"));
        assert_eq!(answer.headers["content-type"], "application/octet-stream", "{forms}");
        assert!(answer.status == 200 && answer.body == image, "{forms}");
    }
    let twice = get(&mut raw, "fast", &ACCEPT.repeat(2));
    assert_eq!((twice.status, twice.code()), (400, "Invalid".to_owned()));
    // What a HEAD tells is the image's.
    raw.head("HEAD", "/v1/stores/fast/images/x", ACCEPT);
    let head = raw.answer("HEAD");
    assert_eq!(head.headers["content-length"], size.to_string());
    assert_eq!(head.headers["content-type"], "application/octet-stream");
    for (range, from) in [
        (format!("bytes={last}-"), last),
        ("bytes=-1".to_owned(), last),
        ("bytes=0-".to_owned(), 0),
        (format!("bytes=0-{}", u64::MAX), 0),
        ("bytes=-99999999999".to_owned(), 0),
        // Nothing but a hole, and one that begins within the data.
        (format!("bytes={}-", 2 * MIB), 2 * MIB),
        (format!("bytes={}-", MIB + 3), MIB + 3),
    ] {
        let answer = get(&mut raw, "fast", &format!("{ACCEPT}range: {range}\r\n"));
        assert_eq!(answer.status, 206, "{range}");
        assert_eq!(answer.headers["content-range"], format!("bytes {from}-{last}/{size}"));
        let wanted = (image[from..].to_vec(), true);
        assert!(decoded(&answer, from as u64, size - from) == wanted, "{range}");
    }
    for (range, status) in [
        (format!("bytes={size}-"), 416),
        ("bytes=-0".to_owned(), 416),
        ("bytes=0-1,3-4".to_owned(), 400),
        ("bytes=2-1".to_owned(), 400),
    ] {
        let answer = get(&mut raw, "fast", &format!("{ACCEPT}range: {range}\r\n"));
        assert_eq!(answer.status, status, "{range}");
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{range}");
        let told = answer.headers.get("content-range");
        assert_eq!(told.is_some_and(|told| *told == format!("bytes */{size}")), status == 416);
    }
    let etag = &head.headers["etag"];
    let same = get(&mut raw, "fast", &format!("{ACCEPT}if-none-match: {etag}\r\n"));
    assert_eq!((same.status, same.body.len()), (304, 0));
    assert_eq!(same.headers["vary"], "imaged-accept");
    let range = "range: bytes=5-9\r\nif-range: \"another\"\r\n";
    let whole = get(&mut raw, "fast", &format!("{ACCEPT}{range}"));
    assert!(whole.status == 200 && decoded(&whole, 0, size) == (image, true));
}

#[test]
fn a_hole_costs_nothing_however_long_it_is() {
    let daemon = Daemon::start(STORES);
    let size = 1_u64 << 40;
    File::create(daemon.path("fast/x")).unwrap().set_len(size).unwrap();
    let mut raw = Raw::connect(&daemon.socket);
    for (range, from) in [(String::new(), 0), (format!("range: bytes={}-\r\n", size - 5), size - 5)]
    {
        let answer = get(&mut raw, "fast", &format!("{ACCEPT}{range}"));
        let (mut decoder, mut came) = (Decoder::new(from..size), Bytes::from(answer.body));
        assert_eq!(decoder.next(&mut came), Ok(Some(Extent::Hole(size - from))));
        assert_eq!((decoder.next(&mut came), decoder.is_over()), (Ok(None), true));
    }
    let back = daemon.path("back");
    let mut command = Command::new(IMAGED);
    command.args(["get", "fast", "x"]).arg(&back).arg("--no-verify");
    let ran = command.env("IMAGED_SOCKET", &daemon.socket).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    let found = fs::metadata(&back).unwrap();
    assert_eq!((found.len(), found.blocks()), (size, 0));
}

/// A body of HTTP/1.0 has no framing but the end of its connection: the last record tells what that was.
#[test]
fn extents_over_http_1_0_have_an_end_of_their_own() {
    let daemon = Daemon::start(STORES);
    let some = noise(8 * MIB, 5);
    let image = image(64 * MIB + 9, &[(0, &some), (40 * MIB, &some)]);
    for changed in [false, true] {
        assert_eq!(daemon.put("fast", "x", &image).status, 201);
        for more in ["", "connection: keep-alive\r\n"] {
            let mut raw = Raw::connect(&daemon.socket);
            let head = "GET /v1/stores/fast/images/x HTTP/1.0\r\n";
            raw.send(format!("{head}{ACCEPT}{more}\r\n").as_bytes());
            let (status, headers) = raw.read_head().unwrap();
            assert_eq!((status, headers["imaged-size"].clone()), (200, image.len().to_string()));
            for framing in ["transfer-encoding", "content-length"] {
                assert!(!headers.contains_key(framing), "{headers:?}");
            }
            assert_eq!(headers["connection"], "close", "{more}");
            if changed {
                let file = File::options().write(true).open(daemon.path("fast/x")).unwrap();
                file.write_all_at(b"x", 30 << 20).unwrap();
            }
            let (found, over) = read(&raw.rest(usize::MAX), 0, image.len());
            assert_eq!(over, !changed);
            assert!(found[..] == image[..found.len()]);
            if changed {
                // Once is enough: the next reader would see it as it is now.
                break;
            }
        }
        fs::remove_file(daemon.path("fast/x")).unwrap();
    }
}

/// An image that is changed while it is sent, by somebody who writes where there was a hole.
#[test]
fn extents_of_an_image_that_is_changed_meanwhile_have_no_end() {
    let daemon = Daemon::start(STORES);
    let some = noise(8 * MIB, 3);
    let image = image(64 * MIB, &[(0, &some), (40 * MIB, &some)]);
    for cut in [false, true] {
        daemon.put("fast", "x", &image);
        let mut raw = Raw::connect(&daemon.socket);
        raw.head("GET", "/v1/stores/fast/images/x", ACCEPT);
        raw.wait_for_a_byte();
        let file = File::options().write(true).open(daemon.path("fast/x")).unwrap();
        match cut {
            true => file.set_len(30 << 20).unwrap(),
            false => file.write_all_at(b"x", 30 << 20).unwrap(),
        }
        let answer = raw.answer("GET");
        let (found, over) = decoded(&answer, 0, image.len());
        assert!(!answer.whole && !over && found.len() < image.len(), "{cut}");
        assert!(found[..] == image[..found.len()], "{cut}");
        fs::remove_file(daemon.path("fast/x")).unwrap();
    }
}

#[test]
fn a_reader_of_extents_who_leaves_or_waits_holds_nothing_for_long() {
    let daemon = Daemon::start(STORES);
    let some = noise(16 * MIB, 4);
    let image = image(200 * MIB, &[(0, &some), (150 * MIB, &some)]);
    daemon.put("fast", "x", &image);
    let mut raw = Raw::connect(&daemon.socket);
    raw.head("GET", "/v1/stores/fast/images/x", ACCEPT);
    raw.wait_for_a_byte();
    drop(raw);
    daemon.wait_until_idle();
    let mut raw = Raw::connect(&daemon.socket);
    raw.head("GET", "/v1/stores/fast/images/x", ACCEPT);
    raw.wait_for_a_byte();
    // As long as it takes for others to come and go.
    for _ in 0..5 {
        assert_eq!(daemon.put("cheap", "y", b"abc").status, 201);
        assert_eq!(daemon.ask("DELETE", "/v1/stores/cheap/images/y").status, 204);
    }
    let answer = raw.answer("GET");
    assert!(decoded(&answer, 0, image.len()) == (image, true));
    daemon.wait_until_idle();
}
