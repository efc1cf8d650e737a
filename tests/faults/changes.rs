//! Files that others change while they are read: what is passed on is all of one image, and no copy
//! of two halves is kept.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::StreamExt as _;
use imaged::wire::records::Mode;
use imaged_drivers::{Body, Kind, Location, Span, window::CHUNK};

use crate::harness::{
    daemon::{Daemon, IMAGED, STORES, noise},
    raw::Raw,
    stores::{self, Fixture, assert_free, assert_same, claim, filled, order, soon, window},
};

const MIB: u64 = 1 << 20;

/// What becomes of a file of 40 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// Nothing is left.
    Emptied,
    /// It lacks its last byte.
    Cut,
    /// It was empty for a moment, and is as long as before.
    CutAndExtended,
    Grown,
    /// Its last bytes are others.
    Rewritten,
    /// The same, and its time is set back.
    RewrittenUnseen,
    /// Another file has its name.
    Replaced,
    Removed,
}

impl Change {
    const ALL: [Self; 8] = [
        Self::Emptied,
        Self::Cut,
        Self::CutAndExtended,
        Self::Grown,
        Self::Rewritten,
        Self::RewrittenUnseen,
        Self::Replaced,
        Self::Removed,
    ];

    /// Whether whoever has it open still reads what was there.
    fn is_harmless(self) -> bool {
        matches!(self, Self::Replaced | Self::Removed)
    }

    fn make(self, path: &Path) {
        let file = File::options().write(true).open(path).unwrap();
        let (meta, last) = (file.metadata().unwrap(), 40 * MIB - 1);
        match self {
            Self::Emptied => file.set_len(0).unwrap(),
            Self::Cut => file.set_len(last).unwrap(),
            Self::CutAndExtended => {
                file.set_len(0).unwrap();
                file.set_len(40 * MIB).unwrap();
            }
            Self::Grown => file.set_len(41 * MIB).unwrap(),
            Self::Rewritten => file.write_all_at(b"?", last).unwrap(),
            Self::RewrittenUnseen => {
                file.write_all_at(b"?", last).unwrap();
                file.set_modified(meta.modified().unwrap()).unwrap();
            }
            Self::Replaced => {
                let other = path.with_extension("other");
                fs::write(&other, "another").unwrap();
                fs::rename(other, path).unwrap();
            }
            Self::Removed => fs::remove_file(path).unwrap(),
        }
    }
}

/// What a file holds.
#[derive(Clone, Copy, Debug)]
enum Form {
    Full,
    /// A hole after its first 20 MiB.
    HalfHole,
    /// Nothing but a hole.
    Hole,
}

const FORMS: [Form; 3] = [Form::Full, Form::HalfHole, Form::Hole];

/// A file of 40 MiB whose times are past: its next change shows. Gives its bytes.
fn plant(path: &Path, form: Form) -> Vec<u8> {
    let data = match form {
        Form::Full => 40 * MIB,
        Form::HalfHole => 20 * MIB,
        Form::Hole => 0,
    };
    let mut bytes = noise(usize::try_from(data).unwrap(), 5);
    let file = File::create(path).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    file.set_len(40 * MIB).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
    // The clock of files moves in steps.
    let since = file.metadata().unwrap();
    let clock = path.with_extension("clock");
    let ctime = |meta: &fs::Metadata| {
        use std::os::unix::fs::MetadataExt as _;
        (meta.ctime(), meta.ctime_nsec())
    };
    loop {
        fs::write(&clock, "").unwrap();
        let now = ctime(&fs::metadata(&clock).unwrap());
        fs::remove_file(&clock).unwrap();
        if now > ctime(&since) {
            break;
        }
    }
    bytes.resize(usize::try_from(40 * MIB).unwrap(), 0);
    bytes
}

#[test]
fn an_image_that_is_changed_while_it_is_sent_ends_short_of_its_length() {
    let daemon = Daemon::start(STORES);
    let path = daemon.path("fast/x");
    for form in FORMS {
        for change in Change::ALL {
            for (headers, from) in [("", 0_usize), ("range: bytes=1000-\r\n", 1000)] {
                let what = format!("{form:?} {change:?} {headers}");
                let bytes = plant(&path, form);
                let mut raw = Raw::connect(&daemon.socket);
                raw.head("GET", "/v1/stores/fast/images/x", headers);
                // The rest does not fit between the daemon and here.
                raw.wait_for(1 << 20);
                change.make(&path);
                let got = raw.answer("GET");
                assert_eq!(got.headers["content-length"], (bytes.len() - from).to_string());
                let sent = bytes.get(from..from + got.body.len()).unwrap();
                // Who sets times back is believed, unless a look falls between the writing and the
                // setting back; digests tell, where they are known.
                if change != Change::RewrittenUnseen {
                    assert_same(&got.body, sent, &what);
                    assert_eq!(got.whole, change.is_harmless(), "{what}");
                }
                let _gone = fs::remove_file(&path);
            }
        }
    }
}

/// Opens an image, reads a piece, lets `change` happen, and reads on.
async fn read_over(f: &Fixture, at: &Location, path: &Path, change: Change, copy: bool) -> bool {
    let reader = f.driver.open(at, Span::All, window(CHUNK)).await.unwrap();
    let mut stream = match copy {
        true => reader.body.into_source(),
        false => reader.body.into_extents(),
    };
    let first = stream.next().await.unwrap().unwrap();
    drop(first);
    change.make(path);
    match filled(stream).await {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), Kind::Mismatch, "{change:?}: {error:?}");
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_copies_believes_less_than_whoever_reads() {
    let f = stores::file().await;
    let path = f.dirs[0].join("x");
    let at: Location = format!("file://{}", path.display()).parse().unwrap();
    for form in FORMS {
        for change in Change::ALL {
            plant(&path, form);
            let read = read_over(&f, &at, &path, change, false).await;
            // Of the unseen one a look may fall between the writing and the setting back.
            if change != Change::RewrittenUnseen {
                assert_eq!(read, change.is_harmless(), "{form:?} {change:?}");
            }
            plant(&path, form);
            assert!(!read_over(&f, &at, &path, change, true).await, "{form:?} {change:?}");
            let _gone = fs::remove_file(&path);
        }
    }
    f.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_inside_a_filesystem_of_a_file_that_was_changed_is_refused() {
    let f = stores::file().await;
    let path = f.dirs[0].join("x");
    let at: Location = format!("file://{}", path.display()).parse().unwrap();
    for form in FORMS {
        for change in Change::ALL {
            plant(&path, form);
            let reader = f.driver.open(&at, Span::All, window(CHUNK)).await.unwrap();
            let source = reader.source();
            assert!(matches!(reader.body, Body::File(_)));
            drop(reader);
            change.make(&path);
            let id = f.id();
            let error = f
                .driver
                .copies()
                .unwrap()
                .copy(source, &claim(&id))
                .await
                .expect_err("what was changed");
            assert_eq!(error.kind(), Kind::Mismatch, "{form:?} {change:?}: {error:?}");
            let _gone = fs::remove_file(&path);
            assert_free(&f, &id, "of what was changed").await;
            f.assert_empty().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_changed_while_it_is_copied_leaves_nothing() {
    // Writes into this one wait for us.
    let f = stores::plain("links", "").await;
    let plain = f.plain.as_ref().unwrap();
    let beside = f.store_named("beside");
    let path = f.home().join("beside/x");
    let at: Location = format!("file://{}", path.display()).parse().unwrap();
    for form in [Form::Full, Form::HalfHole] {
        for change in Change::ALL {
            let what = format!("{form:?} {change:?}");
            plant(&path, form);
            plain.hang("write");
            let id = f.id();
            let copy = Arc::clone(&f.store).copy(
                order(&id, None),
                Arc::clone(&beside),
                at.clone(),
                Mode::Auto,
            );
            let copy = tokio::spawn(copy);
            soon("a write", async {
                while plain.held() == 0 {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            change.make(&path);
            plain.free();
            let error = soon("the copy to end", copy).await.unwrap().expect_err(&what);
            assert_eq!(error.kind(), Kind::Mismatch, "{what}: {error:?}");
            assert_eq!((error.left(), error.location()), (None, None), "{what}");
            let _gone = fs::remove_file(&path);
            f.settle().await;
            f.assert_empty().await;
            assert_free(&f, &id, &what).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_file_that_grows_while_it_is_copied_is_no_empty_image() {
    let f = stores::file().await;
    let path = f.dirs[0].join("x");
    let at: Location = format!("file://{}", path.display()).parse().unwrap();
    for inside in [true, false] {
        plant(&path, Form::Hole);
        File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        let reader = f.driver.open(&at, Span::All, window(CHUNK)).await.unwrap();
        let source = reader.source();
        Change::Grown.make(&path);
        let error = match inside {
            true => f.driver.copies().unwrap().copy(source, &claim(&f.id())).await.unwrap_err(),
            false => filled(reader.body.into_source()).await.unwrap_err(),
        };
        assert_eq!(error.kind(), Kind::Mismatch, "{inside}: {error:?}");
        fs::remove_file(&path).unwrap();
    }
    f.assert_empty().await;
}

/// `imaged get` of an image that comes as a descriptor and has no digest.
fn get(daemon: &Daemon, to: &str) -> Command {
    let mut get = Command::new(IMAGED);
    get.args(["get", "fast", "x", to, "--socket"]).arg(&daemon.socket);
    get
}

/// Whether a process has a file of this directory open, be it one without a name.
fn open_in(process: u32, directory: &Path) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    open.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|to| to.starts_with(directory)))
}

#[test]
fn a_get_of_a_descriptor_whose_file_is_changed_fails() {
    let daemon = Daemon::start(STORES);
    let path = daemon.path("fast/x");
    for form in FORMS {
        for change in Change::ALL {
            plant(&path, form);
            let child = get(&daemon, "-").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
            let mut child = child.unwrap();
            let mut out = child.stdout.take().unwrap();
            // The rest does not fit into the pipe.
            out.read_exact(&mut [0; 1000]).unwrap();
            change.make(&path);
            let count = 1000 + out.read_to_end(&mut Vec::new()).unwrap();
            let got = child.wait_with_output().unwrap();
            let what = format!("{form:?} {change:?}: {got:?}");
            if change.is_harmless() || change == Change::RewrittenUnseen {
                assert_eq!((got.status.code(), count as u64), (Some(0), 40 * MIB), "{what}");
            } else {
                assert_eq!(got.status.code(), Some(1), "{what}");
                assert!(String::from_utf8_lossy(&got.stderr).contains("was changed"), "{what}");
            }
            let _gone = fs::remove_file(&path);
        }
    }
}

#[test]
fn a_get_of_a_descriptor_whose_file_is_cut_leaves_no_file() {
    let daemon = Daemon::start(STORES);
    let (path, out) = (daemon.path("fast/x"), daemon.path("out"));
    for change in [Change::Emptied, Change::CutAndExtended, Change::Cut] {
        let failed = (0..50).any(|_| {
            let _gone = fs::remove_dir_all(&out);
            fs::create_dir(&out).unwrap();
            plant(&path, Form::Full);
            let file = File::options().write(true).open(&path).unwrap();
            // Many small pieces take their time.
            for at in (0..20 * MIB).step_by(8192) {
                rustix::fs::fallocate(
                    &file,
                    rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
                    at,
                    4096,
                )
                .unwrap();
            }
            let to = out.join("x").display().to_string();
            let child = get(&daemon, &to).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
            let mut child = child.unwrap();
            let child_id = child.id();
            // The file that it writes has no name until it is whole.
            let writing = || open_in(child_id, &out);
            while !writing() && child.try_wait().unwrap().is_none() {}
            let pid = nix::unistd::Pid::from_raw(child_id.try_into().unwrap());
            let signal = |signal| nix::sys::signal::kill(pid, signal).is_ok();
            let _heard = signal(nix::sys::signal::Signal::SIGSTOP);
            // It may have ended before it was stopped.
            let early = !writing() || out.join("x").exists();
            change.make(&path);
            let _heard = signal(nix::sys::signal::Signal::SIGCONT);
            let got = child.wait_with_output().unwrap();
            if early {
                return false;
            }
            if got.status.success() {
                // All had been copied: then it is whole.
                assert_eq!(fs::metadata(out.join("x")).unwrap().len(), 40 * MIB);
                return false;
            }
            assert_eq!(got.status.code(), Some(1), "{change:?}: {got:?}");
            assert_eq!(daemon.files("out"), [""; 0], "{change:?}");
            true
        });
        assert!(failed, "{change:?}: it never was cut in time");
    }
}
