//! Images through memory that the daemon and its caller share.

use std::{
    fs::{self, File},
    io::Write as _,
    ops::Range,
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt as _, MetadataExt as _},
    },
    process::{Command, Stdio},
};

use bytes::Bytes;
use imaged::wire::memory::{BYTES, Decoder, SLOT, SLOTS, Told, slot};

use super::extents::image;
use crate::harness::{
    daemon::{Daemon, IMAGED, STORES, noise},
    raw::Raw,
};

const MIB: usize = 1 << 20;
const ACCEPT: &str = "imaged-accept: memory\r\n";
const IMAGE: &str = "/v1/stores/fast/images/x";

/// An answer that comes through memory.
struct Through {
    raw: Raw,
    memory: File,
    returned: File,
    decoder: Decoder,
}

impl Through {
    /// Asks for an image, or a range of it.
    fn get(daemon: &Daemon, range: Range<usize>, headers: &str) -> Self {
        let mut raw = Raw::connect(&daemon.socket);
        raw.head("GET", IMAGE, &format!("{ACCEPT}{headers}"));
        let (status, headers) = raw.read_head().unwrap();
        assert!(matches!(status, 200 | 206), "{status}");
        assert_eq!(headers["content-type"], "application/vnd.imaged.memory");
        let passed: [OwnedFd; 2] = raw.take_descriptors().try_into().unwrap();
        let [memory, returned] = passed.map(File::from);
        assert_eq!(memory.metadata().unwrap().len(), BYTES as u64);
        let decoder = Decoder::new(range.start as u64..range.end as u64);
        Self { raw, memory, returned, decoder }
    }

    /// The next record; `None` if the connection ended before it.
    fn told(&mut self) -> Option<Told> {
        let chunk = self.raw.read_chunk()?;
        let told = self.decoder.next(&mut Bytes::from(chunk)).unwrap();
        Some(told.expect("a record in each chunk"))
    }

    fn read(&self, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_exact_at(&mut bytes, at as u64).unwrap();
        bytes
    }

    fn give_back(&mut self, at: usize) {
        self.returned.write_all(&[slot(at)]).unwrap();
    }

    /// All that comes, and whether that is whole. As long as fewer than `until` bytes have come, those of `hold`
    /// records are kept, and those that came last are given back first.
    fn rest(&mut self, hold: usize, until: usize) -> (Vec<u8>, bool) {
        let (mut found, mut held) = (Vec::new(), Vec::new());
        while let Some(Told { hole, bytes }) = self.told() {
            found.resize(found.len() + usize::try_from(hole).unwrap(), 0);
            let Some((there, len)) = bytes else { break };
            let at = found.len();
            found.resize(at + len, 0);
            held.push((there, at..at + len));
            while held.len() > hold || (found.len() >= until && !held.is_empty()) {
                let (there, at) = held.pop().unwrap();
                found[at.clone()].copy_from_slice(&self.read(there, at.len()));
                self.give_back(there);
            }
        }
        let over = self.decoder.is_over() && self.raw.read_chunk() == Some(Vec::new());
        (found, over)
    }

    /// Blocks that the memory has.
    fn blocks(&self) -> u64 {
        self.memory.metadata().unwrap().blocks()
    }
}

/// Waits until the daemon has nothing under way, and no memory.
fn wait_until_nothing_is_held(daemon: &Daemon) {
    daemon.wait_until_idle();
    daemon.wait_until("all memory is back", |daemon| daemon.held_memory() == 0);
}

#[test]
fn what_comes_through_memory_is_the_image_however_slots_are_given_back() {
    let daemon = Daemon::start(STORES);
    let some = noise(9 * MIB + 5, 1);
    for (what, image, until) in [
        ("no holes", some.clone(), some.len()),
        ("a hole at the start", image(14 * MIB, &[(4 * MIB, &some)]), 13 * MIB),
        ("one at the end", image(14 * MIB + 3, &[(3, &some)]), 9 * MIB),
        ("nothing else", image(14 * MIB + 3, &[]), 0),
        ("zeros that are stored", image(12 * MIB, &[(0, &[1]), (12 * MIB - 1, &[1])]), 12 * MIB),
    ] {
        fs::write(daemon.path("fast/x"), &image).unwrap();
        // One more is on its way to be read into, and one for copies.
        for hold in 0..usize::from(SLOTS) - 1 {
            let mut through = Through::get(&daemon, 0..image.len(), "");
            let (found, over) = through.rest(hold, until);
            assert!(over && found == image, "{what}, {hold}");
            assert_eq!(through.blocks(), 0, "{what}: memory that nobody needs is kept");
        }
        let (first, last) = (MIB + 7, 9 * MIB - 2);
        let range = format!("range: bytes={first}-{last}\r\n");
        let mut through = Through::get(&daemon, first..last + 1, &range);
        let (found, over) = through.rest(0, 0);
        assert!(over && found == image[first..=last], "{what}");
    }
    wait_until_nothing_is_held(&daemon);
}

/// What is given is plain, or extents, or a descriptor.
#[test]
fn memory_is_not_for_little_and_a_descriptor_goes_first() {
    let daemon = Daemon::start(STORES);
    let some = noise(5 * MIB, 2);
    daemon.put("fast", "x", &some);
    daemon.put("cheap", "x", &image(5 * MIB, &[(0, b"x")]));
    let form = |store: &str, headers: &str| {
        let mut raw = Raw::connect(&daemon.socket);
        raw.head("GET", &format!("/v1/stores/{store}/images/x"), headers);
        let answer = raw.read_head().unwrap().1;
        let body = answer.get("imaged-body").cloned().unwrap_or_default();
        (answer["content-type"].rsplit(['/', '.']).next().unwrap().to_owned(), body)
    };
    let of = |form: &str, body: &str| (form.to_owned(), body.to_owned());
    for (store, headers, expected) in [
        ("fast", ACCEPT.to_owned(), of("memory", "")),
        ("fast", "imaged-accept: extents, memory\r\n".to_owned(), of("memory", "")),
        ("fast", "imaged-accept: memory, fd\r\n".to_owned(), of("octet-stream", "fd")),
        ("fast", "imaged-accept: Memory\r\n".to_owned(), of("octet-stream", "")),
        ("fast", format!("{ACCEPT}range: bytes=0-{}\r\n", 4 * MIB - 1), of("memory", "")),
        ("fast", format!("{ACCEPT}range: bytes=0-{}\r\n", 4 * MIB - 2), of("octet-stream", "")),
        (
            "cheap",
            "imaged-accept: memory, extents\r\nrange: bytes=1-9\r\n".to_owned(),
            of("extents", ""),
        ),
    ] {
        assert_eq!(form(store, &headers), expected, "{store} {headers}");
    }
    wait_until_nothing_is_held(&daemon);
}

/// Who gives back what he does not have, or leaves, or keeps everything, ends his own answer.
#[test]
fn whoever_does_not_keep_to_the_rules_has_his_answer_cut_and_keeps_no_memory() {
    let daemon = Daemon::start(&format!("{STORES}[imaged]\nstall_timeout_s = 1\n"));
    let some = noise(32 * MIB, 3);
    daemon.put("fast", "x", &some);
    for slots in [vec![SLOTS], vec![255], vec![0, 1, 2, 3, 0, 1, 2, 3], vec![2; 9]] {
        let mut through = Through::get(&daemon, 0..some.len(), "");
        through.raw.wait_for_a_byte();
        through.returned.write_all(&slots).unwrap();
        while through.told().is_some() {}
        assert!(!through.decoder.is_over(), "{slots:?}");
        daemon.wait_until("the memory is empty", |_| through.blocks() == 0);
    }
    daemon.wait_for_log("gave back what it does not have");
    // Nothing is given back: after a second the daemon gives up, as with a socket that nobody reads.
    let mut through = Through::get(&daemon, 0..some.len(), "");
    let mut told = 0;
    while through.told().is_some() {
        told += 1;
    }
    assert_eq!(told, SLOTS - 1);
    daemon.wait_for_log("the caller read nothing for 1 s");
    daemon.wait_until("the memory is empty", |_| through.blocks() == 0);
    // The last slot is kept: no last record.
    let mut through = Through::get(&daemon, 0..some.len(), "");
    let (found, over) = through.rest(1, usize::MAX);
    assert!(!over && found.len() == some.len() && !through.decoder.is_over());
    // The pipe is closed, and the connection is not.
    let mut through = Through::get(&daemon, 0..some.len(), "");
    through.returned = File::open("/dev/null").unwrap();
    while through.told().is_some() {}
    assert!(!through.decoder.is_over());
    daemon.wait_for_log("the caller left before the end of the image");
    // All is closed.
    let through = Through::get(&daemon, 0..some.len(), "");
    let memory = through.memory.try_clone().unwrap();
    drop(through);
    daemon.wait_until("the memory is empty", |_| memory.metadata().unwrap().blocks() == 0);
    assert!(daemon.get("fast", "x").body == some);
    wait_until_nothing_is_held(&daemon);
}

/// Who reads it cannot write to it.
#[test]
fn a_caller_can_do_nothing_to_the_memory() {
    let daemon = Daemon::start(STORES);
    let some = noise(24 * MIB, 4);
    daemon.put("fast", "x", &some);
    let mut bad = Through::get(&daemon, 0..some.len(), "");
    for length in [0, BYTES as u64 + 1] {
        bad.memory.set_len(length).unwrap_err();
    }
    bad.memory.write_all_at(b"x", 0).unwrap_err();
    let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&bad.memory, flags, 0, BYTES as u64).unwrap_err();
    // Nor can another user open it again.
    assert_eq!(bad.memory.metadata().unwrap().mode() & 0o777, 0o400);
    assert!(bad.rest(3, some.len()) == (some, true));
    wait_until_nothing_is_held(&daemon);
}

/// A crowd that reads nothing gets no more memory than leaves enough to others, and is served by the socket then.
#[test]
fn a_crowd_shares_little_memory_and_the_others_are_served_without() {
    let daemon = Daemon::start(&format!("{STORES}[imaged]\ntotal_window_mib = 512\n"));
    let some = noise(16 * MIB, 5);
    daemon.put("fast", "x", &some);
    let crowd: Vec<_> = (0..40)
        .map(|_| {
            let mut raw = Raw::connect(&daemon.socket);
            raw.head("GET", IMAGE, ACCEPT);
            let (_, headers) = raw.read_head().unwrap();
            (headers["content-type"].ends_with("memory"), raw)
        })
        .collect();
    let through = crowd.iter().filter(|(through, _)| *through).count();
    assert!((1..=4).contains(&through), "{through}");
    assert!(daemon.get("fast", "x").body == some);
    assert_eq!(daemon.put("cheap", "y", &some).status, 201);
    drop(crowd);
    wait_until_nothing_is_held(&daemon);
    assert_eq!(Through::get(&daemon, 0..some.len(), "").rest(0, 0), (some, true));
}

#[test]
fn an_image_that_is_changed_meanwhile_or_whose_daemon_is_killed_has_no_last_record() {
    let mut daemon = Daemon::start(STORES);
    let some = noise(64 * MIB, 6);
    for killed in [false, true] {
        daemon.put("fast", "x", &some);
        let mut through = Through::get(&daemon, 0..some.len(), "");
        through.raw.wait_for_a_byte();
        if killed {
            daemon.kill();
        } else {
            let file = File::options().write(true).open(daemon.path("fast/x")).unwrap();
            file.write_all_at(b"x", 60 << 20).unwrap();
        }
        let (mut told, mut held) = (0, Vec::new());
        while let Some(Told { bytes, .. }) = through.told() {
            let Some((at, len)) = bytes else { break };
            told += len;
            held.push(at);
            // The daemon may be gone.
            let _unheard =
                held.drain(..).try_for_each(|at| through.returned.write_all(&[slot(at)]));
        }
        assert!(!through.decoder.is_over() && told < some.len(), "{killed}");
        if !killed {
            fs::remove_file(daemon.path("fast/x")).unwrap();
        }
    }
}

/// The command, to a file and to a pipe, whose slots go back as it writes and digests them.
#[test]
fn imaged_get_reads_through_memory() {
    // Of this store no descriptor can be had.
    let daemon =
        Daemon::start(&STORES.replace("mem_capacity = 8388608", "mem_capacity = 99999999"));
    let image = image(40 * MIB + 5, &[(MIB, &noise(20 * MIB + 7, 7)), (39 * MIB, b"x")]);
    assert_eq!(daemon.put("small", "x", &image).status, 201);
    let back = daemon.path("back");
    for verify in [&[][..], &["--no-verify"], &["--range", "5-33554432"]] {
        let mut command = Command::new(IMAGED);
        command.args(["get", "small", "x", "-"]).args(verify).stdout(Stdio::piped());
        let ran = command.env("IMAGED_SOCKET", &daemon.socket).output().unwrap();
        let wanted = if verify.len() == 2 { &image[5..=33_554_432] } else { &image[..] };
        assert!(ran.status.success() && ran.stdout == wanted, "{verify:?}");
        let mut command = Command::new(IMAGED);
        command.args(["get", "small", "x"]).arg(&back).args(verify);
        let ran = command.env("IMAGED_SOCKET", &daemon.socket).output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
        assert!(fs::read(&back).unwrap() == wanted, "{verify:?}");
        if verify.is_empty() {
            assert!(fs::metadata(&back).unwrap().blocks() * 512 < 25 * MIB as u64, "holes stay");
        }
    }
    wait_until_nothing_is_held(&daemon);
}

const _: () = assert!(SLOT * SLOTS as usize == BYTES);
