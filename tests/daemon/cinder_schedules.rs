//! Random schedules over a daemon whose Cinder hangs, fails and is late, beside a store of files that is well: put,
//! get, delete, images of volumes, reload, callers that leave, kill and stop. What is done, and what goes wrong with
//! it, follows from a seed. This is in real time: a server is on the other end.
//!
//! * `IMAGED_SEED=N`: runs that seed alone
//! * `IMAGED_EXPLORE=SECONDS`: goes on with other seeds for so long (`ci/explore`)

use std::{
    env, fs,
    io::Write as _,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    explore::random::Random,
    harness::{
        cinder::{Call, Cinder, Fault, Rule, TYPE},
        daemon::{Daemon, noise},
        pause,
        raw::{Answer, Raw},
    },
};

/// Seeds that the gate runs.
const SEEDS: u64 = 8;
/// Of which so many are under way at a time: nearly all of it is waiting.
const AT_A_TIME: usize = 4;

/// How long an answer may take whatever Cinder does: a request to it may take two seconds, and an image takes some
/// twelve.
const LONGEST: Duration = Duration::from_secs(45);
/// How long what the store of files does may take.
const UNDISTURBED: Duration = Duration::from_secs(10);
/// How long the daemon may take to end: it drains for three seconds and lets go of volumes for five.
const END: Duration = Duration::from_secs(20);

const FAULTS: [Fault; 13] = [
    // It hangs more often than it fails.
    Fault::Hang,
    Fault::Hang,
    Fault::Silent,
    Fault::Late,
    Fault::Stall,
    Fault::Status(401),
    Fault::Status(404),
    Fault::Status(409),
    Fault::Status(413),
    Fault::Status(500),
    Fault::CutBefore,
    Fault::CutMiddle,
    Fault::CutAfter,
];

/// What no client can tell from the truth, or only by waiting for ever: that there is no such volume or attachment,
/// and a volume that comes to be after all that looks for it.
const LIES: [(Fault, Call); 3] = [
    (Fault::Status(404), Call::ShowVolume),
    (Fault::Status(404), Call::DeleteAttachment),
    (Fault::Late, Call::CreateVolume),
];

/// One thing that is done to an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Put,
    /// Without its length.
    PutUnknown,
    /// The caller goes in the middle.
    Leave,
    Get,
    Delete,
    /// An image of a volume.
    Copy,
}

/// How the daemon's life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    Kill,
    Stop,
    Not,
}

#[derive(Debug)]
struct Schedule {
    rules: Vec<(Fault, Call, usize)>,
    /// Each of an image of its own, and begun so many milliseconds after the first.
    acts: Vec<(u64, Act)>,
    reloads: bool,
    ends: Ends,
    /// So many milliseconds after the first act.
    end: u64,
    polls: usize,
}

impl Schedule {
    fn of(seed: u64) -> Self {
        let mut random = Random::of(seed, 0);
        let acts = [Act::Put, Act::PutUnknown, Act::Leave, Act::Get, Act::Delete, Act::Copy];
        let rules = random.between(1, 4);
        let count = random.between(3, 8);
        Self {
            rules: (0..rules)
                .map(|_| {
                    let every = [1, 2, 3, 5];
                    (random.pick(&FAULTS), random.pick(&Call::OF_IMAGES), random.pick(&every))
                })
                .filter(|(fault, call, _)| !LIES.contains(&(*fault, *call)))
                .collect(),
            acts: (0..count).map(|_| (random.below(1500), random.pick(&acts))).collect(),
            reloads: random.happens(500),
            ends: random.pick(&[Ends::Kill, Ends::Stop, Ends::Not]),
            end: random.between(200, 4000),
            polls: usize::try_from(random.below(3)).unwrap(),
        }
    }
}

/// What is known of an image in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    There,
    Absent,
    Either,
}

fn config(cinder: &Cinder, folder: &Path) -> String {
    let (login, folder) = (cinder.login(), folder.display());
    format!(
        "[DEFAULT]\nenabled_backends = volumes:cinder, fast:file\n\
         [glance_store]\ndefault_backend = fast\n\
         [volumes]\n{login}cinder_volume_type = {TYPE}\nimaged_cinder_mounts = 127.0.0.1:/exports/rig={folder}\n\
         cinder_state_transition_timeout = 2\nimaged_cinder_timeout_s = 1\ncinder_http_retries = 1\n\
         cinder_attachment_retry_attempts = 2\n\
         [fast]\nfilesystem_store_datadir = {{dir}}/fast\n[imaged]\ndrain_timeout_s = 3\n"
    )
}

fn path(nth: usize) -> String {
    format!("/v1/stores/volumes/images/i{nth}")
}

fn image(nth: usize) -> Vec<u8> {
    noise(300_000 + nth, nth as u64 + 1)
}

/// Asks for something, and may not live to hear the answer.
fn ask(socket: &Path, act: Act, nth: usize, volume: &str) -> Option<Answer> {
    let stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
    let (mut raw, path, image) = (Raw::over(stream), path(nth), image(nth));
    let length = |body: &[u8]| format!("content-length: {}\r\n", body.len());
    let (method, headers, body) = match act {
        Act::Put => ("PUT", length(&image), image),
        Act::PutUnknown => {
            let mut body = format!("{:x}\r\n", image.len()).into_bytes();
            body.extend_from_slice(&image);
            body.extend_from_slice(b"\r\n0\r\n\r\n");
            ("PUT", "transfer-encoding: chunked\r\n".to_owned(), body)
        }
        Act::Leave => ("PUT", length(&image), image[..100_000].to_vec()),
        Act::Get => ("GET", String::new(), Vec::new()),
        Act::Delete => ("DELETE", String::new(), Vec::new()),
        Act::Copy => {
            let body = json!({"source": {"cinder_volume": volume}}).to_string().into_bytes();
            ("POST", length(&body), body)
        }
    };
    let head = format!("{method} {path} HTTP/1.1\r\nhost: imaged\r\n{headers}\r\n");
    // A refusal may come before all is sent, and an end before anything is.
    let sent = raw.stream.write_all(head.as_bytes());
    let _sent = sent.and_then(|()| raw.stream.write_all(&body));
    if act == Act::Leave { None } else { raw.answer_if_any(method) }
}

/// What follows from an answer, and what is wrong with it.
fn judge(act: Act, nth: usize, answer: Option<&Answer>) -> Known {
    let Some(answer) = answer else { return Known::Either };
    match (act, answer.status) {
        (Act::Put | Act::PutUnknown | Act::Copy, 201) => Known::There,
        (Act::Put | Act::PutUnknown | Act::Copy, 504) => Known::Either,
        (Act::Put | Act::PutUnknown | Act::Copy, _) => Known::Absent,
        (Act::Get, status) => {
            assert!(status != 404, "an image that is there was not found: {answer:?}");
            let is_it = status != 200 || !answer.whole || answer.body == image(nth);
            assert!(is_it, "a reader was given other bytes");
            Known::There
        }
        (Act::Delete, 204) => Known::Absent,
        (Act::Delete | Act::Leave, _) => Known::Either,
    }
}

/// Other stores go on as if there was no Cinder.
fn others_go_on(daemon: &Daemon, what: &str) {
    let begun = Instant::now();
    let bytes = noise(100_000, 99);
    assert_eq!(daemon.put("fast", "other", &bytes).status, 201, "{what}");
    assert!(daemon.get("fast", "other").body == bytes, "{what}");
    assert_eq!(daemon.ask("DELETE", "/v1/stores/fast/images/other").status, 204, "{what}");
    let took = begun.elapsed();
    assert!(took < UNDISTURBED, "{what}: held up by another store for {took:?}");
}

fn reload(daemon: &Daemon) {
    let conf = fs::read_to_string(daemon.path("conf")).unwrap();
    let next = conf.replace("cinder_http_retries = 1", "cinder_http_retries = 0");
    fs::write(daemon.path("conf.new"), next).unwrap();
    fs::rename(daemon.path("conf.new"), daemon.path("conf")).unwrap();
    daemon.signal(Signal::SIGHUP);
}

fn explore(seed: u64) {
    let schedule = Schedule::of(seed);
    let what = format!("IMAGED_SEED={seed}: {schedule:?}");
    let folder: TempDir = tempfile::tempdir().unwrap();
    let cinder = Cinder::nfs(folder.path());
    let dir = Daemon::home();
    let mut daemon = Daemon::start_in(dir, &config(&cinder, folder.path()), &[]);
    let volume = cinder.place("somebody's", 1, &[]);
    for (nth, (_, act)) in schedule.acts.iter().enumerate() {
        if matches!(act, Act::Get | Act::Delete) {
            assert_eq!(
                daemon.put("volumes", &format!("i{nth}"), &image(nth)).status,
                201,
                "{what}"
            );
        }
    }
    cinder.take_polls(schedule.polls);
    for (fault, call, every) in &schedule.rules {
        cinder.fail(Rule::new(*fault).on(*call).every(*every));
    }
    let socket = daemon.socket.clone();
    let known: Vec<Known> = thread::scope(|scope| {
        let (socket, volume) = (&socket, volume.as_str());
        let callers: Vec<_> = schedule
            .acts
            .iter()
            .enumerate()
            .map(|(nth, (at, act))| {
                scope.spawn(move || {
                    pause(Duration::from_millis(*at));
                    let begun = Instant::now();
                    let answer = ask(socket, *act, nth, volume);
                    let took = begun.elapsed();
                    assert!(took < LONGEST, "{act:?} took {took:?}");
                    judge(*act, nth, answer.as_ref())
                })
            })
            .collect();
        if schedule.reloads {
            pause(Duration::from_millis(schedule.end / 2));
            reload(&daemon);
        }
        others_go_on(&daemon, &what);
        pause(Duration::from_millis(schedule.end / 2));
        match schedule.ends {
            Ends::Kill => daemon.kill(),
            Ends::Stop => {
                let begun = Instant::now();
                daemon.stop();
                assert!(begun.elapsed() < END, "{what}: ended after {:?}", begun.elapsed());
            }
            Ends::Not => others_go_on(&daemon, &what),
        }
        let joined = callers.into_iter().map(|caller| caller.join());
        joined.map(|known| known.unwrap_or_else(|_| panic!("{what}"))).collect()
    });
    cinder.heal();
    if schedule.ends != Ends::Not {
        daemon = daemon.restart(&[]);
    }
    for (nth, known) in known.into_iter().enumerate() {
        let act = schedule.acts[nth].1;
        let of = format!("i{nth} {act:?} {known:?} {what}");
        let may_be = match known {
            Known::There => &[200][..],
            Known::Absent => &[404],
            Known::Either => &[200, 404],
        };
        let mut found = daemon.ask("HEAD", &path(nth));
        // The store may be looked at yet, and what is left of an earlier life cleared away.
        daemon.wait_until(&of, |daemon| {
            found = daemon.ask("HEAD", &path(nth));
            may_be.contains(&found.status)
        });
        if found.status == 200 {
            if act != Act::Copy {
                assert!(daemon.get("volumes", &format!("i{nth}")).body == image(nth), "{of}");
            }
            daemon.wait_until(&format!("its readers to be gone: {of}"), |daemon| {
                daemon.ask("DELETE", &path(nth)).status == 204
            });
        }
        // The id is free.
        daemon.wait_until(&format!("the id to be free: {of}"), |daemon| {
            daemon.put("volumes", &format!("i{nth}"), b"again").status == 201
        });
        assert_eq!(daemon.ask("DELETE", &path(nth)).status, 204, "{of}");
    }
    let volume = [volume.as_str()];
    daemon.wait_until_idle();
    daemon.wait_until(
        &format!("nothing to be left: {:?} {what}", cinder.left(&volume)),
        |daemon| {
            let held = fs::read_dir(daemon.path("state/held"));
            cinder.left(&volume).is_empty() && held.is_ok_and(|mut held| held.next().is_none())
        },
    );
    others_go_on(&daemon, &what);
}

/// A number in the environment.
fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

#[test]
fn a_cinder_that_hangs_and_fails_harms_no_image_and_no_other_store() {
    if let Some(seed) = number("IMAGED_SEED") {
        return explore(seed);
    }
    let time = number("IMAGED_EXPLORE").map(Duration::from_secs);
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let (first, begun) = (if time.is_some() { now << 16 } else { 0 }, Instant::now());
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    let over = time.map_or(nth >= SEEDS, |time| begun.elapsed() > time);
                    if over {
                        return;
                    }
                    explore(first + nth);
                }
            });
        }
    });
}
