//! A pool that is renamed, removed or made again under a running daemon: the store is in the pool that
//! has the name now, and in none while none has it.

use std::{
    fs,
    io::Write as _,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread::{self, ScopedJoinHandle},
};

use super::{MIB, health, looked_at};
use crate::harness::{
    daemon::{Daemon, noise},
    raw::{Answer, Raw},
    stores::ceph::Ceph,
};

/// The name in the configuration, and those that its pools have before and afterwards.
const NAME: &str = "moving";
const NEW: &str = "moving-new";
const OLD: &str = "moving-old";

/// How long the daemons here give their cluster for an answer, in seconds: an image whose pool is removed
/// answers no more.
const TIMEOUT_S: u32 = 5;

/// Callers at a time, of both stores.
const CALLERS: usize = 8;

/// Images that each store stores in each pool, at least.
const EACH: usize = 2 * CALLERS;

/// Stores by the users that they go by: one who may use every pool, and one who may use the pool of this
/// name, as the manual has it.
const STORES: [(&str, &str); 2] = [("wide", "profile rbd"), ("narrow", "profile rbd pool=moving")];

/// What these tests make; what a test has left is removed before and after.
struct Made<'a>(&'a Ceph);

impl<'a> Made<'a> {
    fn daemon(ceph: &'a Ceph) -> (Self, Daemon) {
        let made = Self(ceph);
        made.remove();
        ceph.make_pool(NAME);
        let mut sections = String::new();
        for (store, osd) in STORES {
            let user = format!("client.{store}");
            let caps = ["mon", "profile rbd", "mgr", "profile rbd", "osd", osd];
            let key = ceph.admin(&[&["auth", "get-or-create", &user][..], &caps].concat());
            fs::write(ceph.file(&format!("ceph.{user}.keyring")), key + "\n").unwrap();
            sections += &format!("[{store}]\n{}", ceph.options_of(store, NAME, TIMEOUT_S));
        }
        let daemon = Daemon::start(&format!(
            "[DEFAULT]\nenabled_backends = wide:rbd, narrow:rbd\n\
             [glance_store]\ndefault_backend = wide\n{sections}"
        ));
        for (store, _) in STORES {
            looked_at(&daemon, store).unwrap();
        }
        (made, daemon)
    }

    fn rename(&self, from: &str, to: &str) {
        self.0.admin(&["osd", "pool", "rename", from, to]);
    }

    /// Another pool has the name from now on.
    fn exchange(&self) {
        self.0.make_pool(NEW);
        self.rename(NAME, OLD);
        self.rename(NEW, NAME);
    }

    fn remove(&self) {
        for pool in [NAME, NEW, OLD] {
            self.0.remove_pool(pool);
        }
        for (store, _) in STORES {
            self.0.try_admin(&["auth", "rm", &format!("client.{store}")]);
        }
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}

fn path(store: &str, id: &str) -> String {
    format!("/v1/stores/{store}/images/{id}")
}

fn assert_unavailable(answer: &Answer, what: &str) {
    let told = String::from_utf8_lossy(&answer.body);
    assert_eq!((answer.status, answer.code().as_str()), (503, "Unavailable"), "{what}: {told}");
    assert!(answer.headers.contains_key("retry-after"), "{what}");
    assert!(answer.detail().contains("rbd_store_pool=`moving`"), "{what}: {told}");
}

/// The answer to a request that is made again as long as it is to be.
fn at_last(mut ask: impl FnMut() -> Answer, what: &str) -> Answer {
    for _ in 0..3 {
        let answer = ask();
        if answer.status != 503 {
            return answer;
        }
        assert_unavailable(&answer, what);
    }
    panic!("{what}: it stays away");
}

/// A put whose image is there and whose body is not all sent.
fn begin(ceph: &Ceph, daemon: &Daemon, store: &str, id: &str, image: &[u8]) -> Raw {
    let mut raw = Raw::connect(&daemon.socket);
    raw.head("PUT", &path(store, id), &format!("content-length: {}\r\n", image.len()));
    raw.send(&image[..9 * MIB]);
    ceph.until("an image to be made", |ceph| ceph.images_in(NAME).iter().any(|image| image == id));
    raw
}

#[test]
fn another_pool_that_has_the_name_is_the_one_that_is_used() {
    let ceph = Ceph::up();
    for (store, _) in STORES {
        let (made, daemon) = Made::daemon(&ceph);
        let image = noise(9 * MIB, 81);
        for id in ["x", "y"] {
            assert_eq!(daemon.put(store, id, &image).status, 201, "{store}");
        }
        made.exchange();
        let gone = at_last(|| daemon.ask("DELETE", &path(store, "x")), store);
        assert_eq!(gone.status, 404, "{store}: what was put aside stays as it is");
        for n in 0..2 {
            let id = format!("new-{n}");
            let put = at_last(|| daemon.put(store, &id, &image), store);
            assert_eq!(put.status, 201, "{store}: {}", String::from_utf8_lossy(&put.body));
            assert!(daemon.get(store, &id).body == image, "{store}");
            assert!(ceph.images_in(NAME).contains(&id), "{store}: it is where it was said to be");
        }
        assert_eq!(daemon.ask("HEAD", &path(store, "y")).status, 404, "{store}");
        looked_at(&daemon, store).unwrap();
        assert_eq!(ceph.images_in(OLD), ["x", "y"], "{store}");
        // And once more, for the old one is to be had back.
        made.rename(NAME, NEW);
        made.rename(OLD, NAME);
        looked_at(&daemon, store).unwrap();
        assert!(daemon.get(store, "x").body == image, "{store}");
        let list = daemon.ask("GET", &format!("/v1/stores/{store}/images"));
        assert_eq!(String::from_utf8(list.body).unwrap().lines().count(), 2, "{store}");
        assert_eq!(daemon.ask("DELETE", &path(store, "y")).status, 204, "{store}");
        assert_eq!(ceph.images_in(NAME), ["x"], "{store}");
    }
}

/// Many come in the same moment to a pool that was put aside: one finds out, and what the others are
/// refused there they are told for the same reason.
#[test]
fn whoever_comes_while_the_name_goes_to_another_pool_is_told_to_try_again() {
    let ceph = Ceph::up();
    let (made, daemon) = Made::daemon(&ceph);
    let image = noise(MIB, 84);
    let (done, daemon, image) = (AtomicBool::default(), &daemon, &image);
    let stored = STORES.map(|_| AtomicUsize::default());
    thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let of = caller % STORES.len();
                let (store, done, stored) = (STORES[of].0, &done, &stored[of]);
                scope.spawn(move || {
                    for n in 0.. {
                        if done.load(Ordering::Relaxed) {
                            break;
                        }
                        let id = format!("{store}-{caller}-{n}");
                        let put = daemon.put(store, &id, image);
                        if put.status == 201 {
                            stored.fetch_add(1, Ordering::Relaxed);
                        } else {
                            assert_unavailable(&put, &id);
                        }
                        // Deleted, or put aside with the pool that it is in.
                        let deleted = daemon.ask("DELETE", &path(store, &id));
                        if ![204, 404].contains(&deleted.status) {
                            assert_unavailable(&deleted, &id);
                        }
                    }
                })
            })
            .collect();
        let used = || {
            let before = stored.each_ref().map(|stored| stored.load(Ordering::Relaxed));
            daemon.wait_until("both stores to have stored something in the pool", |_| {
                let more = |(stored, before): (&AtomicUsize, usize)| {
                    stored.load(Ordering::Relaxed) >= before + EACH
                };
                // Who has ended has failed, and says why.
                callers.iter().any(ScopedJoinHandle::is_finished)
                    || stored.iter().zip(before).all(more)
            });
        };
        made.exchange();
        for aside in [NEW, OLD, NEW] {
            used();
            let other = if aside == NEW { OLD } else { NEW };
            made.rename(NAME, aside);
            made.rename(other, NAME);
        }
        used();
        done.store(true, Ordering::Relaxed);
        callers.into_iter().for_each(|caller| caller.join().unwrap());
    });
    for (store, _) in STORES {
        looked_at(daemon, store).unwrap();
        assert_eq!(daemon.put(store, store, image).status, 201, "{store}");
    }
}

#[test]
fn while_no_pool_has_the_name_the_store_is_down_and_nothing_is_missing() {
    let ceph = Ceph::up();
    let (made, daemon) = Made::daemon(&ceph);
    let image = noise(9 * MIB, 82);
    assert_eq!(daemon.put("wide", "x", &image).status, 201);
    for round in ["renamed", "removed"] {
        match round {
            "renamed" => made.rename(NAME, OLD),
            _ => ceph.remove_pool(NAME),
        }
        for (store, _) in STORES {
            let what = format!("{round}, {store}");
            let why = looked_at(&daemon, store).unwrap_err();
            assert!(why.contains("the pool does not exist, create it"), "{what}: {why}");
            for method in ["GET", "HEAD", "DELETE"] {
                let answer = daemon.ask(method, &path(store, "x"));
                assert_eq!(answer.status, 503, "{what}: {method}");
                if method != "HEAD" {
                    assert_unavailable(&answer, &what);
                }
            }
            assert_unavailable(&daemon.put(store, "y", &image), &what);
            assert_unavailable(&daemon.ask("GET", &format!("/v1/stores/{store}/images")), &what);
        }
        match round {
            "renamed" => made.rename(OLD, NAME),
            _ => ceph.make_pool(NAME),
        }
        for (store, _) in STORES {
            daemon.wait_until("the store to be up", |daemon| looked_at(daemon, store).is_ok());
        }
        if round == "renamed" {
            assert!(daemon.get("narrow", "x").body == image);
        }
        for (store, _) in STORES {
            assert_eq!(daemon.put(store, "y", &image).status, 201, "{round}, {store}");
            assert!(daemon.get(store, "y").body == image, "{round}, {store}");
            assert_eq!(daemon.ask("DELETE", &path(store, "y")).status, 204, "{round}, {store}");
        }
    }
    assert!(health(&daemon, "wide").is_ok());
    ceph.assert_empty_pool(NAME);
}

#[test]
fn nothing_that_was_written_to_a_pool_that_has_gone_is_called_stored() {
    let ceph = Ceph::up();
    for change in ["exchanged", "renamed", "removed", "made again"] {
        let (made, daemon) = Made::daemon(&ceph);
        let image = noise(24 * MIB, 83);
        // What waits for the cluster waits side by side: the image of each store has its name.
        let putting = STORES.map(|(store, _)| begin(&ceph, &daemon, store, store, &image));
        match change {
            "exchanged" => made.exchange(),
            "renamed" => made.rename(NAME, OLD),
            _ => ceph.remove_pool(NAME),
        }
        if change == "made again" {
            ceph.make_pool(NAME);
        }
        let answers = thread::scope(|scope| {
            let answers = putting.map(|mut putting| {
                let rest = &image[9 * MIB..];
                scope.spawn(move || {
                    // A refusal may come before all is sent.
                    let _sent = putting.stream.write_all(rest);
                    putting.answer("PUT")
                })
            });
            answers.map(|answer| answer.join().unwrap())
        });
        for ((store, _), answer) in STORES.iter().zip(&answers) {
            let what = format!("{change}, {store}");
            let told = String::from_utf8_lossy(&answer.body);
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (503, "Unavailable"),
                "{what}: {told}"
            );
            if *store == "wide" && matches!(change, "exchanged" | "renamed") {
                let left = ceph.images_in(OLD);
                assert!(left.iter().all(|image| image != store), "{what}: {told}: {left:?}");
            }
        }
        assert_eq!(ceph.images_in(NAME), [""; 0], "{change}");
        if !matches!(change, "exchanged" | "made again") {
            continue;
        }
        // librbd may never answer for an image whose pool was removed; its id is held so long.
        let other = if change == "exchanged" { "" } else { "-other" };
        if other.is_empty() {
            daemon.wait_until_idle();
        }
        for (store, _) in STORES {
            let (what, id) = (format!("{change}, {store}"), format!("{store}{other}"));
            let put = at_last(|| daemon.put(store, &id, &image), &what);
            assert_eq!(put.status, 201, "{what}: {}", String::from_utf8_lossy(&put.body));
            assert!(daemon.get(store, &id).body == image, "{what}");
            assert!(ceph.images_in(NAME).contains(&id), "{what}");
        }
        assert_eq!(ceph.images_in(NAME).len(), STORES.len(), "{change}");
    }
}
