//! kill -9 of a daemon at every named point of a delete: the image is whole, readable and listed, or it is
//! gone. The dead watch their images for a while, so all die first.

use std::thread;

use imaged::point::DELETE_POINTS;

use super::{MIB, TIMEOUT_S, assert_free, conf};
use crate::harness::{
    daemon::{Daemon, noise},
    raw::Raw,
    stores::ceph::{Ceph, POOL, VOLUMES},
};

/// One whose deletion was broken off.
struct Broken {
    id: String,
    /// The formats of its clones.
    clones: &'static [u8],
    daemon: Daemon,
}

impl Broken {
    fn clone(&self, format: u8) -> String {
        format!("{}-{format}", self.id)
    }
}

/// The names of what is in the trash.
fn trashed(ceph: &Ceph) -> Vec<String> {
    let said = ceph.rbd(&["trash", "ls", POOL]);
    said.lines().filter_map(|line| line.split(' ').nth(1)).map(str::to_owned).collect()
}

/// Each finds the other's handle, and neither may take that for a stranger's.
#[test]
fn of_two_daemons_that_delete_an_image_at_once_one_succeeds() {
    let ceph = Ceph::up();
    let text = conf(&ceph.options_of("glance", POOL, 20));
    let daemons = [Daemon::start(&text), Daemon::start(&text)];
    let image = noise(100_000, 73);
    for round in 0..60 {
        let id = format!("at-once-{round}");
        assert_eq!(daemons[round % 2].put("slow", &id, &image).status, 201);
        let path = format!("/v1/stores/slow/images/{id}");
        let delete = |daemon: &Daemon| {
            let deleted = daemon.ask("DELETE", &path);
            (deleted.status, String::from_utf8_lossy(&deleted.body).into_owned())
        };
        let (one, other) = thread::scope(|scope| {
            let other = scope.spawn(|| delete(&daemons[1]));
            (delete(&daemons[0]), other.join().unwrap())
        });
        let both = [one.0, other.0];
        assert!(both.contains(&204), "{round}: {one:?} {other:?}");
        assert!(
            both.iter().all(|status| [204, 404].contains(status)),
            "{round}: {one:?} {other:?}"
        );
        assert!(daemons.iter().all(|daemon| daemon.get("slow", &id).status == 404), "{round}");
    }
    ceph.until("the trash to be purged", |ceph| ceph.is_empty());
    ceph.assert_empty();
}

#[test]
fn a_daemon_killed_at_any_point_of_a_delete_leaves_the_image_whole_or_gone() {
    let ceph = Ceph::up();
    let text = conf(&ceph.options_of("glance", POOL, TIMEOUT_S));
    let image = noise(9 * MIB + 11, 71);
    let goes: Vec<_> = DELETE_POINTS.into_iter().filter(|point| *point != "delete-back").collect();
    // A clone needs the snapshot, and so it stays in the trash.
    let is_kept = ["delete-marked", "delete-moved", "delete-decided"];
    let stays = ["delete-marked", "delete-moved", "delete-back"];
    let mut dead = Vec::new();
    for (clones, points) in
        [(&[][..], &goes[..]), (&[2][..], &is_kept[..]), (&[1, 2][..], &stays[..])]
    {
        for point in points {
            let id = format!("{point}-{}", clones.len());
            let env = [("IMAGED_KILL_AT", *point)];
            let mut daemon = Daemon::start_in(Daemon::home(), &text, &env);
            assert_eq!(daemon.put("slow", &id, &image).status, 201);
            for format in clones {
                ceph.clone_of(&id, &format!("{id}-{format}"), *format);
            }
            let mut raw = Raw::connect(&daemon.socket);
            raw.head("DELETE", &format!("/v1/stores/slow/images/{id}"), "");
            assert!(raw.read_head().is_none(), "{id}: the daemon answered before it died");
            assert!(!daemon.wait().success());
            dead.push(Broken { id, clones, daemon });
        }
    }
    let living: Vec<_> = dead
        .into_iter()
        .map(|broken| Broken { daemon: broken.daemon.restart(&[]), ..broken })
        .collect();
    // Nothing stays half way: in the trash is only what clones need.
    ceph.until("all deletes to be over", |ceph| {
        let trash = trashed(ceph);
        living.iter().all(|broken| broken.clones == [2] || !trash.contains(&broken.id))
    });
    let listed = ceph.images();
    for broken in &living {
        let Broken { id, clones, daemon } = broken;
        let found = daemon.get("slow", id);
        let must_stay = clones.contains(&1) || id.starts_with("delete-marked");
        assert_eq!(found.status, if must_stay { 200 } else { 404 }, "{id}");
        assert_eq!(listed.contains(id), must_stay, "{id}: {listed:?}");
        if must_stay {
            assert!(found.body == image, "{id}");
            assert_eq!(ceph.info(&format!("{id}@snap"))["protected"], "true", "{id}");
        }
        for format in *clones {
            let clone = format!("{VOLUMES}/{}", broken.clone(*format));
            let to = daemon.path("exported").display().to_string();
            ceph.rbd_must(&["export", "--no-progress", &clone, &to]);
            assert!(std::fs::read(&to).unwrap() == image, "{clone}");
            std::fs::remove_file(&to).unwrap();
            ceph.rbd_must(&["rm", "--no-progress", &clone]);
        }
        if must_stay {
            let deleted = daemon.ask("DELETE", &format!("/v1/stores/slow/images/{id}"));
            assert_eq!(deleted.status, 204, "{id}: {}", String::from_utf8_lossy(&deleted.body));
        }
    }
    ceph.until("the trash to be purged", |ceph| ceph.is_empty());
    for broken in &living {
        assert_free(&broken.daemon, &broken.id);
    }
    ceph.until("the pool to be empty", |ceph| ceph.is_empty());
    ceph.assert_empty();
}
