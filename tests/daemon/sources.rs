//! Passed files that are not, to their end, what they were when they were passed.

use std::{
    fs::{self, File, OpenOptions},
    io::{Seek as _, SeekFrom},
    os::{
        fd::AsFd as _,
        unix::{
            fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _, chown},
            process::CommandExt as _,
        },
    },
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use crate::harness::{
    daemon::{Daemon, STORES, noise},
    raw::{Answer, Raw},
    stores::plain::Plain,
};

const FD: &str = "imaged-body: fd\r\ncontent-length: 0\r\n";
const TARGET: &str = "/v1/stores/fast/images/x";

fn put(daemon: &Daemon, file: &File) -> Answer {
    let mut raw = Raw::connect(&daemon.socket);
    raw.head_with("PUT", TARGET, FD, &[file.as_fd()]);
    raw.answer("PUT")
}

fn assert_refused(answer: &Answer, part: &str) {
    assert_eq!((answer.status, answer.code()), (422, "Mismatch".to_owned()), "{part}: {answer:?}");
    assert!(answer.detail().contains(part), "{part}: {}", answer.detail());
}

/// Does something to the file at a path, of 40 MiB.
type Change = fn(&Path);

fn writable(path: &Path) -> File {
    OpenOptions::new().write(true).open(path).unwrap()
}

const SIZE: usize = 40 << 20;

/// What its owner can do to a file while the daemon reads it.
const CHANGES: [(&str, Change); 8] = [
    ("cut at its middle", |path| writable(path).set_len(SIZE as u64 / 2).unwrap()),
    ("cut at its beginning", |path| writable(path).set_len(0).unwrap()),
    ("cut by a byte", |path| writable(path).set_len(SIZE as u64 - 1).unwrap()),
    ("cut and made as long again", |path| {
        writable(path).set_len(0).unwrap();
        writable(path).set_len(SIZE as u64).unwrap();
    }),
    ("written further", |path| {
        let mut file = writable(path);
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all_at(b"more", SIZE as u64).unwrap();
    }),
    ("written over where it was read already", |path| {
        writable(path).write_all_at(b"other", 0).unwrap();
    }),
    ("written over at its end", |path| {
        writable(path).write_all_at(b"other", SIZE as u64 - 5).unwrap();
    }),
    ("written over, and its time set back", |path| {
        let before = fs::metadata(path).unwrap().modified().unwrap();
        let file = writable(path);
        file.write_all_at(b"other", 0).unwrap();
        file.set_modified(before).unwrap();
    }),
];

#[test]
fn a_passed_file_that_changes_while_it_is_read_is_refused() {
    let home = Daemon::home();
    // The store stands still while the file changes.
    let daemon;
    let plain = Plain::mount(&home.path().join("fast"), "links");
    daemon = Daemon::start_in(home, &format!("{STORES}[imaged]\nput_window_mib = 8\n"), &[]);
    let image = noise(SIZE, 1);
    for (what, change) in CHANGES {
        // All of it bytes, and one that ends in a hole.
        for bytes in [SIZE, 12 << 20] {
            let path = daemon.path("source");
            fs::write(&path, &image[..bytes]).unwrap();
            writable(&path).set_len(SIZE as u64).unwrap();
            let old = SystemTime::now() - Duration::from_secs(60);
            writable(&path).set_modified(old).unwrap();
            let file = File::open(&path).unwrap();
            plain.hang("write");
            let mut raw = Raw::connect(&daemon.socket);
            raw.head_with("PUT", TARGET, FD, &[file.as_fd()]);
            daemon.wait_until("the store stands still", |_| plain.held() > 0);
            change(&path);
            plain.free();
            assert_refused(&raw.answer("PUT"), "the passed file");
            daemon.wait_until_idle();
            daemon.assert_empty();
        }
        assert_eq!(daemon.ask("GET", TARGET).status, 404, "{what}");
    }
    // And one that does not change is stored.
    assert_eq!(put(&daemon, &File::open(daemon.path("source")).unwrap()).status, 201);
}

#[test]
fn a_file_that_tells_another_size_than_it_has_is_refused() {
    let daemon = Daemon::start(STORES);
    for path in ["/proc/cpuinfo", "/proc/self/status", "/proc/sys/kernel/ostype"] {
        assert_refused(&put(&daemon, &File::open(path).unwrap()), "send the bytes as the body");
    }
    let short = File::open("/sys/kernel/mm/transparent_hugepage/enabled").unwrap();
    assert_refused(&put(&daemon, &short), "ended early");
    daemon.assert_empty();
    let empty = File::create_new(daemon.path("empty")).unwrap();
    drop(empty);
    assert_eq!(put(&daemon, &File::open(daemon.path("empty")).unwrap()).json()["size"], 0);
}

#[test]
fn a_passed_file_that_cannot_be_read_is_its_owners_to_mend() {
    let daemon = Daemon::start(STORES);
    let mount = tempfile::tempdir().unwrap();
    let plain = Plain::mount(mount.path(), "links");
    let path = mount.path().join("image");
    fs::write(&path, noise(3 << 20, 2)).unwrap();
    // Without what the kernel has kept of it.
    let direct =
        || OpenOptions::new().read(true).custom_flags(libc_o_direct()).open(&path).unwrap();
    for errno in [5, 116, 22] {
        plain.fail("read", errno);
        assert_refused(&put(&daemon, &direct()), "cannot read the passed file");
        daemon.assert_empty();
    }
    plain.fail("read", 0);
    assert_eq!(put(&daemon, &direct()).status, 201);
}

fn libc_o_direct() -> i32 {
    i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap()
}

#[test]
fn a_descriptor_for_which_the_daemon_has_no_number_left_is_to_be_sent_again() {
    let daemon = Daemon::start(STORES);
    fs::write(daemon.path("image"), b"image").unwrap();
    let file = File::open(daemon.path("image")).unwrap();
    let limit = |files: usize| {
        let set = Command::new("prlimit")
            .args(["--pid", &daemon.pid().to_string(), &format!("--nofile={files}:")])
            .status();
        assert!(set.unwrap().success());
    };
    let mut raw = Raw::connect(&daemon.socket);
    raw.head("GET", "/healthz", "");
    assert_eq!(raw.answer("GET").status, 200);
    // What is open stays so; 0, 1 and 2 always are.
    limit(3);
    raw.head_with("PUT", TARGET, FD, &[file.as_fd()]);
    let answer = raw.answer("PUT");
    limit(4096);
    assert_eq!((answer.status, answer.code()), (503, "Unavailable".to_owned()), "{answer:?}");
    assert!(answer.detail().contains("LimitNOFILE"), "{}", answer.detail());
    assert_eq!(put(&daemon, &file).status, 201);
}

#[test]
fn a_file_that_the_daemon_may_not_open_is_read_by_the_callers_own_descriptor() {
    const NOBODY: u32 = 65534;
    let home = Daemon::home();
    // The daemon's program, where its user may run it.
    let program = home.path().join("imaged");
    fs::copy(crate::harness::daemon::IMAGED, &program).unwrap();
    let config = STORES.replace("{dir}", &home.path().display().to_string());
    fs::write(
        home.path().join("conf"),
        format!("{config}[imaged]\nroles = 0:admin\nstate_dir = {}/state\n", home.path().display()),
    )
    .unwrap();
    for name in ["fast", "cheap", "conf", ""] {
        chown(home.path().join(name), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let secret = tempfile::tempdir().unwrap();
    let image = noise((2 << 20) + 5, 3);
    let path = secret.path().join("image");
    fs::write(&path, &image).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = Command::new(&program);
    command.uid(NOBODY).gid(NOBODY);
    let daemon = Daemon::start_by(home, command);

    let mut file = File::open(&path).unwrap();
    file.seek(SeekFrom::Start(5)).unwrap();
    let answer = put(&daemon, &file);
    assert_eq!(answer.status, 201, "{answer:?}");
    assert!(daemon.get("fast", "x").body == image[5..]);
    assert_eq!(file.stream_position().unwrap(), 5, "the offset is the caller's");
    assert_eq!(daemon.ask("DELETE", TARGET).status, 204);
    let direct = OpenOptions::new().read(true).custom_flags(libc_o_direct()).open(&path).unwrap();
    let refused = put(&daemon, &direct);
    assert_eq!((refused.status, refused.code()), (400, "Invalid".to_owned()));
    assert!(refused.detail().contains("O_DIRECT"), "{}", refused.detail());
}
