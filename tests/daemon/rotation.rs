//! Keys and passwords that are changed while transfers go on.

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::harness::{
    daemon::{Daemon, noise},
    objects::{BUCKET, Objects, SECRET, USER},
    pause,
    raw::Raw,
};

/// The next keys, of both servers.
struct Keys {
    /// Of the S3.
    access: String,
    /// Of the Swift.
    password: String,
}

impl Keys {
    fn new(turn: usize) -> Self {
        match turn {
            0 => Self { access: USER.to_owned(), password: SECRET.to_owned() },
            _ => Self { access: format!("ACCESS{turn}"), password: format!("password-{turn}") },
        }
    }

    fn config(&self, s3: &Objects, swift: &Objects) -> String {
        format!(
            "[DEFAULT]\nenabled_backends = cloud:s3, swift:swift\n\
             [glance_store]\ndefault_backend = cloud\n\
             [cloud]\ns3_store_host = {}\ns3_store_bucket = {BUCKET}\n\
             s3_store_access_key = {}\ns3_store_secret_key = {SECRET}\n\
             s3_store_region_name = us-east-1\n\
             s3_store_large_object_size = 0\ns3_store_large_object_chunk_size = 5\n\
             [swift]\nswift_store_auth_version = 1\nswift_store_auth_address = {}/auth/v1.0\n\
             swift_store_user = {USER}\nswift_store_key = {}\nswift_store_container = {BUCKET}\n\
             swift_store_large_object_size = 1\nswift_store_large_object_chunk_size = 1\n",
            s3.url(),
            self.access,
            swift.url(),
            self.password,
        )
    }
}

/// Puts an image slowly, reads it slowly and removes it, again and again.
fn transfers(daemon: &Daemon, store: &str, nth: usize, over: &AtomicBool, done: &AtomicUsize) {
    let image = noise((11 << 20) + nth, 31);
    let path = format!("/v1/stores/{store}/images/image-{nth}");
    while !over.load(Ordering::Relaxed) {
        let mut raw = Raw::connect(&daemon.socket);
        raw.head("PUT", &path, "transfer-encoding: chunked\r\n");
        for piece in image.chunks(1 << 20) {
            raw.chunk(piece);
            pause(Duration::from_millis(20));
        }
        raw.send(b"0\r\n\r\n");
        let put = raw.answer("PUT");
        assert_eq!(put.status, 201, "{store}: {put:?}");
        let mut raw = Raw::connect(&daemon.socket);
        raw.head("GET", &path, "");
        for so_far in 1..8 {
            raw.wait_for(so_far << 20);
            pause(Duration::from_millis(20));
        }
        let got = raw.answer("GET");
        assert!(got.body == image, "{store}: {} of {} bytes", got.body.len(), image.len());
        let deleted = daemon.ask("DELETE", &path);
        assert_eq!(deleted.status, 204, "{store}: {deleted:?}");
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_passwords_change_under_load_and_no_transfer_fails() {
    let (s3, swift) = (Objects::s3(), Objects::swift());
    let daemon = Daemon::start(&Keys::new(0).config(&s3, &swift));
    let whole = fs::read_to_string(daemon.path("conf")).unwrap();
    let (over, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    // The servers have the other worker.
    thread::scope(|scope| {
        for (nth, store) in ["cloud", "swift", "cloud", "swift"].into_iter().enumerate() {
            let (daemon, over, done) = (&daemon, &over, &done);
            scope.spawn(move || transfers(daemon, store, nth, over, done));
        }
        for turn in 1..=5 {
            let (old, new) = (Keys::new(turn - 1), Keys::new(turn));
            s3.admit(&new.access, "");
            swift.admit(&format!("{USER} {}", new.password), &format!("AUTH_{USER}"));
            let conf = whole.replace(&Keys::new(0).config(&s3, &swift), &new.config(&s3, &swift));
            assert_ne!(conf, fs::read_to_string(daemon.path("conf")).unwrap());
            fs::write(daemon.path("conf"), conf).unwrap();
            daemon.signal(Signal::SIGHUP);
            daemon.wait_until("the reload", |daemon| {
                daemon.log().matches("configuration reloaded").count() == turn
            });
            s3.refuse(&old.access);
            swift.refuse(&format!("{USER} {}", old.password));
            let seen = done.load(Ordering::Relaxed);
            daemon.wait_until("more to be done", |_| done.load(Ordering::Relaxed) > seen + 4);
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!((s3.left(), swift.left()), (Vec::new(), Vec::new()));
    let log = daemon.log();
    for secret in ["password-", SECRET] {
        assert!(!log.contains(secret), "the log has a secret: {log}");
    }
}
