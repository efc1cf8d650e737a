//! Two daemons, each on a host of its own as Cinder knows them, that want the same volume.

use std::thread;

use crate::harness::{
    cinder::Cinder,
    daemon::{Daemon, noise},
    raw::{Answer, Raw},
    stores::project::Project,
};

const X: &str = "/v1/stores/volumes/images/x";

/// Bytes of the image: more than the sockets between a daemon and its caller hold.
const SIZE: usize = 24 << 20;

/// One with a store of these options.
fn daemon(host: &str, options: &str) -> Daemon {
    let config = format!(
        "[DEFAULT]\nenabled_backends = volumes:cinder\n[volumes]\n{options}\
         imaged_cinder_host = {host}\ncinder_attachment_retry_attempts = 2\n"
    );
    Daemon::start(&config)
}

/// A reader that has begun, and goes on when it is asked to.
struct Slow(Raw);

impl Slow {
    fn begin(daemon: &Daemon) -> Self {
        let mut raw = Raw::connect(&daemon.socket);
        raw.head("GET", X, "");
        raw.wait_for(1);
        Self(raw)
    }

    fn end(mut self) -> Answer {
        self.0.answer("GET")
    }
}

/// Whether both can read a volume at a time is told by `several`.
fn both_want_a_volume(options: &str, several: bool, what: &str) {
    let first = daemon("glance1", options);
    let second = daemon("glance2", options);
    let image = noise(SIZE, 1);
    assert_eq!(first.put("volumes", "x", &image).status, 201, "{what}");
    let slow = Slow::begin(&first);
    let read = second.get("volumes", "x");
    if several {
        assert!(read.status == 200 && read.body == image, "{what}");
    } else {
        assert_eq!((read.status, read.code().as_str()), (503, "Unavailable"), "{what}");
        assert!(read.detail().contains("in use by host glance1"), "{what}: {}", read.detail());
        assert!(read.detail().contains("multiattach"), "{what}: {}", read.detail());
    }
    let busy = second.ask("DELETE", X);
    assert_eq!((busy.status, busy.code().as_str()), (409, "InUse"), "{what}");
    assert!(several || busy.detail().contains("in use by host glance1"), "{}", busy.detail());
    assert_eq!(second.put("volumes", "x", b"another").code(), "Exists", "{what}");
    // Nothing that the other did has harmed the reader.
    let whole = slow.end();
    assert!(whole.whole && whole.body == image, "{what}");
    second.wait_until("the volume to be free", |second| second.get("volumes", "x").status == 200);
    second.wait_until("the readers to be gone", |second| second.ask("DELETE", X).status == 204);
    assert_eq!(first.get("volumes", "x").status, 404, "{what}");
}

#[test]
fn readers_on_two_hosts_share_a_volume_that_can_be_attached_twice_or_are_told_who_has_it() {
    for several in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let cinder = Cinder::nfs(folder.path());
        cinder.add_type("type", several);
        let options = format!(
            "{}cinder_volume_type = type\nimaged_cinder_mounts = 127.0.0.1:/exports/rig={}\n",
            cinder.login(),
            folder.path().display()
        );
        both_want_a_volume(&options, several, &format!("several: {several}"));
        assert_eq!(cinder.left(&[]), [""; 0]);
    }
}

#[test]
fn in_a_real_cinder_too() {
    // Side by side: most of it is to wait for Cinder, and for attachments that linger.
    thread::scope(|scope| {
        for (make, several) in [
            (Project::in_files as fn() -> Project, false),
            (Project::in_iscsi, false),
            (Project::in_ceph, false),
            (Project::shared, true),
        ] {
            scope.spawn(move || {
                let project = make();
                both_want_a_volume(&project.options(), several, project.volume_type);
                assert_eq!(project.left(&[]), [""; 0], "{}", project.volume_type);
            });
        }
    });
}
