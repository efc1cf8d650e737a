//! What becomes of files on this side: holes, verification, what is left after a failure.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{
        fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Lost, by, bytes, command, daemon, feed, finish, line};
use crate::harness::daemon::{Daemon, IMAGED, refusing};

fn names(daemon: &Daemon, dir: &str) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(daemon.path(dir))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn a_sparse_file_comes_back_sparse() {
    let daemon = daemon();
    let sparse = fs::File::create(daemon.path("sparse")).unwrap();
    sparse.set_len(200 << 20).unwrap();
    sparse.write_all_at(&bytes(10_000), 50 << 20).unwrap();
    let file = daemon.path("sparse").display().to_string();
    let receipt = line(&daemon, &format!("put fast x {file} --json")).done().json();
    assert_eq!(receipt["size"], 200 << 20);
    assert!(receipt["stored_bytes"].as_u64().unwrap() < 1 << 20, "{receipt}");
    // Whole, with a digest to verify; and a range, without.
    for range in ["", "--range 0-"] {
        let back = daemon.path("back").display().to_string();
        line(&daemon, &format!("get fast x {back} {range}")).done();
        let found = fs::metadata(&back).unwrap();
        assert_eq!(found.len(), 200 << 20);
        assert!(found.blocks() * 512 < 1 << 20, "{} blocks", found.blocks());
        let same = Command::new("cmp").args([&file, &back]).status().unwrap();
        assert!(same.success());
    }
}

#[test]
fn zeros_that_come_through_the_socket_become_holes() {
    let daemon = daemon();
    let mut image = bytes(100_000);
    image.resize(20 << 20, 0);
    image.extend(bytes(1000));
    feed(&daemon, ["put", "memory", "x", "-"], &image).done();
    let back = daemon.path("back");
    line(&daemon, &format!("get memory x {}", back.display())).done();
    assert!(fs::read(&back).unwrap() == image);
    assert!(fs::metadata(&back).unwrap().blocks() * 512 < 1 << 20);
}

/// Says this to every caller, and then nothing more: it leaves, or `stays`.
fn server(dir: &Path, said: Vec<u8>, stays: bool) -> PathBuf {
    let socket = dir.join("server");
    let _gone = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || {
        let mut kept = Vec::new();
        for caller in listener.incoming() {
            let (mut caller, mut head) = (caller.unwrap(), [0; 65536]);
            let _head = caller.read(&mut head).unwrap();
            let _gone = caller.write_all(&said);
            kept.extend(stays.then_some(caller));
        }
    });
    socket
}

/// An answer with extents, in chunks of any length, of an image of which this is the body.
fn with_extents(size: u64, headers: &str, body: &[u8], whole: bool) -> Vec<u8> {
    let kind = imaged::wire::extents::MEDIA_TYPE;
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nimaged-size: {size}\r\n{headers}\
         transfer-encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for chunk in body.chunks(1003) {
        answer.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        answer.extend(chunk);
        answer.extend(b"\r\n");
    }
    if whole {
        answer.extend(b"0\r\n\r\n");
    }
    answer
}

fn record(at: u64, bytes: &[u8]) -> Vec<u8> {
    [&imaged::wire::extents::head(at, bytes.len() as u64), bytes].concat()
}

#[test]
fn extents_become_a_sparse_file_and_their_digest_is_of_all_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (some, size) = (bytes(10_000), 80_u64 << 20);
    let mut image = vec![0; usize::try_from(size).unwrap()];
    image[50 << 20..(50 << 20) + 10_000].copy_from_slice(&some);
    let records = [record(50 << 20, &some), record(size, b"")].concat();
    let digest = |image: &[u8]| {
        let mut hasher = imaged::digest::Algo::Sha256.hasher();
        hasher.update(image);
        let digest = hasher.finish();
        let raw = data_encoding::HEXLOWER.decode(digest.as_bytes()).unwrap();
        format!("repr-digest: sha-256=:{}:\r\n", data_encoding::BASE64.encode(&raw))
    };
    let (right, wrong) = (digest(&image), digest(b"another"));
    for (digest, words, code, told) in [
        (&right, "", 0, "sha256 verified"),
        (&right, "--no-verify", 0, "not verified"),
        (&wrong, "--no-verify", 0, "not verified"),
        (&wrong, "", 1, "sha256"),
    ] {
        let socket = server(dir.path(), with_extents(size, digest, &records, true), false);
        let back = dir.path().join("back");
        // What was there is replaced, or stays.
        fs::write(&back, "precious").unwrap();
        let line = format!("get fast x {} {words}", back.display());
        let got = finish(command(&socket, line.split_whitespace()), b"");
        assert_eq!(got.code, code, "{got:?}");
        assert!(format!("{}{}", got.text(), got.err).contains(told), "{got:?}");
        if code == 0 {
            assert!(fs::read(&back).unwrap() == image);
            assert!(fs::metadata(&back).unwrap().blocks() * 512 < 1 << 20, "{words}");
        } else {
            assert_eq!(fs::read(&back).unwrap(), b"precious");
        }
        // A pipe has no holes.
        let got = finish(command(&socket, ["get", "fast", "x", "-"]), b"");
        assert!(got.out == image);
    }
}

#[test]
fn extents_without_their_end_are_no_image() {
    let dir = tempfile::tempdir().unwrap();
    let (some, size) = (bytes(100_000), 1_u64 << 20);
    let whole = [record(5, &some), record(500_000, &some), record(size, b"")].concat();
    let mut other = whole.clone();
    other.extend(b"x");
    let past = record(size - 1, b"ab");
    let back = [record(5, &some), record(4, b"a"), record(size, b"")].concat();
    for (what, body, ended) in [
        ("in the middle of a record", &whole[..60_000], false),
        ("in the middle of a head", &whole[..100_016 + 7], false),
        ("before the last record", &whole[..whole.len() - 16], false),
        ("before the last chunk", &whole[..], false),
        ("within, as if it were whole", &whole[..60_000], true),
        ("without the last record, as if it were whole", &whole[..whole.len() - 16], true),
        ("with more after it", &other[..], true),
        ("past its end", &past[..], true),
        ("out of order", &back[..], true),
        ("with nothing at all", b"", true),
    ] {
        let socket = server(dir.path(), with_extents(size, "", body, ended), false);
        let target = dir.path().join("target");
        let got = command(&socket, ["get", "fast", "x", target.to_str().unwrap()]);
        let got = finish(got, b"");
        assert_eq!(got.code, 1, "{what}: {got:?}");
        assert!(!target.exists(), "{what}");
    }
}

#[test]
fn a_flipped_byte_is_found_and_no_file_is_left() {
    let daemon = daemon();
    feed(&daemon, ["put", "fast", "x", "-"], &bytes(3 << 20)).done();
    let stored = fs::File::options().write(true).read(true).open(daemon.path("fast/x")).unwrap();
    let mut byte = [0];
    stored.read_exact_at(&mut byte, 1_234_567).unwrap();
    stored.write_all_at(&[byte[0] ^ 1], 1_234_567).unwrap();

    fs::create_dir(daemon.path("out")).unwrap();
    let target = daemon.path("out/x").display().to_string();
    let got = line(&daemon, &format!("get fast x {target}"));
    assert_eq!(got.code, 1, "{got:?}");
    assert!(got.err.contains("sha512"), "{}", got.err);
    assert_eq!(names(&daemon, "out"), [""; 0]);

    // What was there before stays.
    fs::write(&target, "precious").unwrap();
    let got = line(&daemon, &format!("get fast x {target} --json"));
    assert_eq!((got.code, &got.json()["error"]["code"]), (1, &"Mismatch".into()));
    assert_eq!(names(&daemon, "out"), ["x"]);
    assert_eq!(fs::read(&target).unwrap(), b"precious");

    // Standard output has it already; the exit code tells.
    assert_eq!(line(&daemon, "get fast x -").code, 1);
}

#[test]
fn what_finds_no_room_as_late_as_when_it_is_closed_is_no_file() {
    let daemon = daemon();
    let target = daemon.path("out/x");
    fs::create_dir(daemon.path("out")).unwrap();
    fs::write(&target, "precious").unwrap();
    // By descriptor, and as a stream.
    for store in ["fast", "memory"] {
        feed(&daemon, ["put", store, "x", "-"], &bytes(100_000)).done();
        for more in ["", " --no-verify", " --range 5-"] {
            let words = format!("get {store} x {}{more}", target.display());
            let got = Lost::Late.run(command(&daemon.socket, words.split_whitespace()));
            assert_eq!(got.code, 1, "{words}: {got:?}");
            assert!(got.err.contains("out/x") && got.err.contains("quota"), "{words}: {got:?}");
            assert_eq!(fs::read(&target).unwrap(), b"precious", "{words}");
            assert_eq!(names(&daemon, "out"), ["x"], "{words}");
        }
    }
}

#[test]
fn a_directory_gets_a_file_named_by_the_id() {
    let daemon = daemon();
    feed(&daemon, ["put", "fast", "x", "-"], b"abc").done();
    fs::create_dir(daemon.path("out")).unwrap();
    line(&daemon, &format!("get fast x {}", daemon.path("out").display())).done();
    assert_eq!(fs::read(daemon.path("out/x")).unwrap(), b"abc");
    let mut here = command(&daemon.socket, ["get", "fast", "x"]);
    here.current_dir(daemon.path("cheap"));
    finish(here, b"").done();
    assert_eq!(fs::read(daemon.path("cheap/x")).unwrap(), b"abc");
}

#[test]
fn an_interrupted_put_stores_nothing() {
    let daemon = daemon();
    for id in ["short", "long"] {
        let mut put = command(&daemon.socket, ["put", "fast", id, "-"]);
        let put = put.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut put = put.spawn().unwrap();
        let mut stdin = put.stdin.take().unwrap();
        let some = if id == "long" { 20 << 20 } else { 10 };
        stdin.write_all(&bytes(some)).unwrap();
        let pid = put.id().to_string();
        // Until it listens to signals it dies of them, which stores nothing either.
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let ended = put.wait().unwrap();
        drop(stdin);
        assert!(!ended.success());
        let mut out = String::new();
        put.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        assert_eq!(out, "");
        assert_eq!(line(&daemon, &format!("stat fast {id}")).code, 4);
    }
    // The daemon notices within a moment.
    let since = Instant::now();
    while names(&daemon, "fast") != [""; 0] {
        assert!(since.elapsed() < Duration::from_secs(20), "{:?}", names(&daemon, "fast"));
    }
}

#[test]
fn a_reader_who_has_had_enough_is_told_nothing_and_the_shell_hears_of_it() {
    let daemon = daemon();
    feed(&daemon, ["put", "fast", "x", "-"], &bytes(8 << 20)).done();
    let mut get = command(&daemon.socket, ["get", "fast", "x", "-"]);
    let mut get = get.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut some = [0; 10];
    get.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let got = get.wait_with_output().unwrap();
    // As of a program that SIGPIPE has ended.
    assert_eq!((got.status.code(), &*got.stderr), (Some(141), &b""[..]));
}

/// The longest name that a file can have.
fn longest() -> String {
    "n".repeat(255)
}

#[test]
fn whoever_is_killed_leaves_nothing_and_the_next_one_gets_the_image() {
    let daemon = daemon();
    let id = longest();
    feed(&daemon, ["put", "memory", &id, "-"], &bytes(32 << 20)).done();
    fs::create_dir(daemon.path("out")).unwrap();
    let here = |words: &[&str]| {
        let mut get = command(&daemon.socket, words);
        get.current_dir(daemon.path("out")).stdout(Stdio::piped()).stderr(Stdio::piped());
        get
    };
    // In the middle of it: when it has a file open there.
    let out = daemon.path("out").display().to_string();
    let writes = |pid: u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let paths = open.filter_map(|entry| fs::read_link(entry.path()).ok());
        paths
            .map(|path| path.display().to_string())
            .any(|path| path.starts_with(&format!("{out}/")))
    };
    for _ in 0..2 {
        let mut get = here(&["get", "memory", &id]).spawn().unwrap();
        while !writes(get.id()) {
            assert!(get.try_wait().unwrap().is_none(), "it has ended too soon");
        }
        get.kill().unwrap();
        get.wait().unwrap();
        assert_eq!(names(&daemon, "out"), [""; 0]);
    }
    finish(here(&["get", "memory", &id]), b"").done();
    assert_eq!(names(&daemon, "out"), [id.as_str()]);
    // What an earlier one of the same process id left is in nobody's way.
    let shell = format!(
        "touch .{}.imaged-$$ && exec {} get memory x x --socket {}",
        "x",
        IMAGED,
        daemon.socket.display()
    );
    feed(&daemon, ["put", "memory", "x", "-"], b"abc").done();
    let got = Command::new("sh").args(["-c", &shell]).current_dir(daemon.path("out")).output();
    assert!(got.as_ref().unwrap().status.success(), "{got:?}");
    assert_eq!(fs::read(daemon.path("out/x")).unwrap(), b"abc");
}

/// Where a filesystem has no files without a name, or gives them none later.
#[test]
fn what_cannot_be_without_a_name_has_one_that_fits_and_is_in_nobodys_way() {
    let daemon = daemon();
    let (id, image) = (longest(), bytes(32 << 20));
    feed(&daemon, ["put", "memory", &id, "-"], &image).done();
    feed(&daemon, ["put", "fast", "bad", "-"], &image).done();
    let stored = fs::File::options().write(true).open(daemon.path("fast/bad")).unwrap();
    stored.write_all_at(&[image[7] ^ 1], 7).unwrap();
    fs::create_dir(daemon.path("out")).unwrap();
    let out = || names(&daemon, "out");
    // An image of which no more comes than half.
    let mut half =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", image.len()).into_bytes();
    half.extend(&image[..image.len() / 2]);
    let half = server(daemon.dir.path(), half, true);
    for (errno, calls) in [
        ("EOPNOTSUPP", "tmpfile"),
        ("EISDIR", "tmpfile"),
        ("EPERM", "linkat"),
        ("ENOENT", "linkat"),
    ] {
        let get = |socket: &Path, store: &str, id: &str| {
            let mut get = by(refusing(errno, calls), socket, ["get", store, id]);
            get.current_dir(daemon.path("out")).stdout(Stdio::piped()).stderr(Stdio::piped());
            get
        };
        // A signal that can be heard leaves nothing, and the other a name that is another's every time.
        let mut left = Vec::new();
        for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGKILL] {
            let mut got = get(&half, "memory", &id).spawn().unwrap();
            let written = |name: &String| {
                let found = fs::metadata(daemon.path("out").join(name));
                !left.contains(name) && found.is_ok_and(|found| found.len() > 0)
            };
            let since = Instant::now();
            while !out().iter().any(written) {
                assert!(got.try_wait().unwrap().is_none(), "{calls}: it has ended too soon");
                assert!(since.elapsed() < Duration::from_secs(20), "{calls}: {:?}", out());
            }
            kill(Pid::from_raw(got.id().try_into().unwrap()), signal).unwrap();
            assert!(!got.wait().unwrap().success());
            let before = left.len();
            left = out();
            assert_eq!(
                left.len(),
                before + usize::from(signal == Signal::SIGKILL),
                "{calls} {signal}"
            );
        }
        let fits = |name: &String| name.starts_with(".imaged-") && name.len() <= 64;
        assert!(left.iter().all(fits), "{calls}: {left:?}");

        let all: Vec<_> =
            (0..3).map(|_| get(&daemon.socket, "memory", &id).spawn().unwrap()).collect();
        for got in all {
            let got = got.wait_with_output().unwrap();
            assert!(got.status.success(), "{calls}: {got:?}");
        }
        assert!(fs::read(daemon.path("out").join(&id)).unwrap() == image, "{calls}");

        let got = finish(get(&daemon.socket, "fast", "bad"), b"");
        assert!(got.code == 1 && got.err.contains("sha512"), "{calls}: {got:?}");
        left.push(id.clone());
        assert_eq!(out(), left, "{calls}");
        for name in left {
            fs::remove_file(daemon.path("out").join(name)).unwrap();
        }
    }
}

#[test]
fn two_at_once_of_one_name_both_succeed_and_the_file_is_whole() {
    let daemon = daemon();
    let image = bytes(2 << 20);
    feed(&daemon, ["put", "memory", "x", "-"], &image).done();
    fs::create_dir(daemon.path("out")).unwrap();
    let target = daemon.path("out/x").display().to_string();
    for _ in 0..5 {
        let all: Vec<_> = (0..4)
            .map(|_| {
                let mut get = command(&daemon.socket, ["get", "memory", "x", &target, "--json"]);
                get.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for get in all {
            let got = get.wait_with_output().unwrap();
            assert!(got.status.success(), "{got:?}");
        }
        assert!(fs::read(&target).unwrap() == image);
        assert_eq!(names(&daemon, "out"), ["x"]);
    }
}

#[test]
fn a_file_that_is_replaced_keeps_its_mode_and_links_to_it_stay() {
    let daemon = daemon();
    feed(&daemon, ["put", "fast", "x", "-"], b"abc").done();
    for name in ["out", "there"] {
        fs::create_dir(daemon.path(name)).unwrap();
    }
    let there = daemon.path("there/real");
    fs::write(&there, "precious").unwrap();
    fs::set_permissions(&there, fs::Permissions::from_mode(0o600)).unwrap();
    let link = daemon.path("out/link");
    for to in ["../there/real", "../there/new"] {
        symlink(to, &link).unwrap();
        line(&daemon, &format!("get fast x {}", link.display())).done();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "{to}");
        assert_eq!(fs::read(&link).unwrap(), b"abc");
        fs::remove_file(&link).unwrap();
    }
    assert_eq!(fs::metadata(&there).unwrap().mode() & 0o777, 0o600);
    assert_eq!(names(&daemon, "there"), ["new", "real"]);
    // One that leads to itself leads nowhere.
    symlink("link", &link).unwrap();
    let got = line(&daemon, &format!("get fast x {}", link.display()));
    assert_eq!(got.code, 1, "{got:?}");
    assert_eq!(names(&daemon, "out"), ["link"]);
}

#[test]
fn what_cannot_be_written_is_named_and_nothing_is_left() {
    let daemon = daemon();
    feed(&daemon, ["put", "fast", "x", "-"], b"abc").done();
    feed(&daemon, ["put", "memory", "x", "-"], &bytes(3 << 20)).done();
    let at = line(&daemon, "stat fast x --json").done().json()["location"].clone();
    fs::create_dir_all(daemon.path("out/x")).unwrap();
    let (out, taken) = (daemon.path("out").display().to_string(), daemon.path("out/x"));
    let gone = daemon.path("gone/x").display().to_string();
    for store in ["fast", "memory"] {
        for file in ["/dev/full", &gone, &out, "/proc/version_x", "/sys/x"] {
            for json in [false, true] {
                let words = ["get", store, "x", file, "--json"];
                let got = super::run(&daemon, &words[..if json { 5 } else { 4 }]);
                assert_eq!(got.code, 1, "{words:?}");
                let told = if json { got.json().to_string() } else { got.err.clone() };
                let named = if file == out { taken.to_str().unwrap() } else { file };
                assert!(told.contains(named), "{words:?}: {told}");
            }
        }
    }
    assert_eq!(names(&daemon, "out"), ["x"]);
    // A location names no file.
    let got = line(&daemon, &format!("get fast {} {out}", at.as_str().unwrap()));
    assert_eq!(got.code, 2, "{got:?}");
}

#[test]
fn a_fifo_whose_reader_leaves_is_a_failure_that_is_told() {
    let daemon = daemon();
    feed(&daemon, ["put", "fast", "x", "-"], &bytes(8 << 20)).done();
    feed(&daemon, ["put", "memory", "x", "-"], &bytes(4 << 20)).done();
    let fifo = daemon.path("fifo").display().to_string();
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for (store, json) in [("fast", true), ("fast", false), ("memory", true), ("memory", false)] {
        let words = ["get", store, "x", &fifo, "--json"];
        let mut get = command(&daemon.socket, &words[..if json { 5 } else { 4 }]);
        let get = get.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut some = [0; 10];
        fs::File::open(&fifo).unwrap().read_exact(&mut some).unwrap();
        let got = get.wait_with_output().unwrap();
        assert_eq!(got.status.code(), Some(1), "{got:?}");
        let told = String::from_utf8(if json { got.stdout } else { got.stderr }).unwrap();
        assert!(told.contains("its reader left") && told.contains(&fifo), "{told}");
    }
    // One that nobody reads can be interrupted.
    let mut get = command(&daemon.socket, ["get", "fast", "x", &fifo]);
    let mut get = get.stderr(Stdio::null()).spawn().unwrap();
    let pid = get.id().to_string();
    let waits = || {
        fs::read_dir(format!("/proc/{pid}/task")).unwrap().any(|task| {
            let at = fs::read_to_string(task.unwrap().path().join("wchan")).unwrap_or_default();
            at.contains("fifo_open") || at.contains("wait_for_partner")
        })
    };
    let since = Instant::now();
    while !waits() && since.elapsed() < Duration::from_secs(2) {
        thread::yield_now();
    }
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let since = Instant::now();
    loop {
        if let Some(ended) = get.try_wait().unwrap() {
            assert!(!ended.success());
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(20), "it hangs");
        thread::yield_now();
    }
}

#[test]
fn standard_output_by_any_name_is_standard_output() {
    let daemon = daemon();
    feed(&daemon, ["put", "fast", "x", "-"], b"abc").done();
    let words = |more: &str| format!("get fast x /dev/stdout {more}");
    let got = line(&daemon, &words(""));
    assert_eq!((got.code, got.text()), (0, "abc"));
    assert_eq!(line(&daemon, &words("--json")).code, 2);
    let out = daemon.path("redirected");
    for name in ["/dev/stdout", "/proc/self/fd/1", out.to_str().unwrap()] {
        let mut get = command(&daemon.socket, ["get", "fast", "x", name]);
        assert!(get.stdout(fs::File::create(&out).unwrap()).status().unwrap().success());
        assert_eq!(fs::read(&out).unwrap(), b"abc", "{name}");
    }
    assert!(fs::symlink_metadata("/dev/stdout").unwrap().is_symlink());
    for words in ["get fast x -", "get fast x - --range 0-1", "get fast x /dev/null --json"] {
        let got = Lost::Full.run(command(&daemon.socket, words.split_whitespace()));
        assert_eq!(got.code, 1, "{words}");
        assert!(got.err.contains("standard output"), "{words}: {got:?}");
    }
}

#[test]
fn no_command_says_nothing_when_its_document_cannot_be_printed() {
    let daemon = daemon();
    fs::write(daemon.path("image"), bytes(1000)).unwrap();
    let image = daemon.path("image").display().to_string();
    let at = format!("file://{}/x", daemon.path("fast").display());
    for lost in Lost::ALL {
        for words in [
            &format!("put fast x {image}"),
            "put fast x nothing",
            &format!("put --store fast --store cheap y {image}"),
            "stat fast x",
            "stat fast none",
            "list fast",
            "list none",
            "stores",
            "jobs",
            "jobs none",
            "jobs --cancel none",
            &format!("copy cheap x --from {at}"),
            "get fast x /dev/null",
            "delete fast x",
            "delete fast x",
            "recover fast x",
            "usage",
            "selftest --glance http://127.0.0.1:9",
            "bench fast --size 1M --count 1 --jobs 1",
            "bench none --size 1M --count 1",
        ] {
            for json in [" --json", ""] {
                let line = format!("{words}{json}");
                let ran = lost.run(command(&daemon.socket, line.split_whitespace()));
                lost.assert_told(&ran, &line);
            }
        }
        for id in ["x", "y"] {
            for store in ["fast", "cheap"] {
                line(&daemon, &format!("delete {store} {id}"));
            }
        }
        // An image is an answer too.
        feed(&daemon, ["put", "fast", "z", "-"], b"abc").done();
        for words in ["get fast z -", "get fast z /dev/stdout", "get fast z - --range 0-1"] {
            lost.assert_told(&lost.run(command(&daemon.socket, words.split_whitespace())), words);
        }
        line(&daemon, "delete fast z").done();
    }
}

#[test]
fn what_is_closed_is_no_empty_image() {
    let daemon = daemon();
    for name in ["-", "/dev/stdin"] {
        let mut put = Command::new("sh");
        put.args(["-c", "exec \"$0\" \"$@\" <&-", IMAGED, "put", "fast", "x", name]);
        let put = put.env("IMAGED_SOCKET", &daemon.socket).output().unwrap();
        assert_eq!(put.status.code(), Some(1), "{name}: {put:?}");
        assert!(String::from_utf8_lossy(&put.stderr).contains("Bad file descriptor"), "{put:?}");
    }
    assert!(!daemon.path("fast/x").exists());
}

#[test]
fn a_file_that_does_not_tell_its_size_is_read_to_its_end() {
    let daemon = daemon();
    let enabled = "/sys/kernel/mm/transparent_hugepage/enabled";
    for (id, file) in [("a", "/proc/cpuinfo"), ("b", "/proc/sys/kernel/ostype"), ("c", enabled)] {
        let image = fs::read(file).unwrap();
        let receipt = line(&daemon, &format!("put fast {id} {file} --json")).done().json();
        assert_eq!(receipt["size"], image.len(), "{file}");
        assert!(fs::read(daemon.path(&format!("fast/{id}"))).unwrap() == image, "{file}");
    }
    // What has no bytes is an image all the same, and so is what has nothing but a hole.
    for (id, size) in [("empty", 0), ("hole", 5 << 20)] {
        let path = daemon.path(id);
        fs::File::create(&path).unwrap().set_len(size).unwrap();
        let put = format!("put fast {id} {} --json", path.display());
        let receipt = line(&daemon, &put).done().json();
        assert_eq!((&receipt["size"], &receipt["stored_bytes"]), (&size.into(), &0.into()));
    }
    assert_eq!(line(&daemon, "put fast d /proc/cpuinfo --size 3").code, 1);
    assert!(!daemon.path("fast/d").exists());
}
