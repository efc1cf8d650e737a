//! Configurations that are exchanged while images are on their way.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::harness::{
    daemon::{Daemon, STORES, noise},
    pause,
    raw::Raw,
    stores::plain::Plain,
};

/// Writes the other one of two configurations, whose store `fast` has another backend, and has it read.
fn reload(daemon: &Daemon, thin: &mut bool) {
    let conf = fs::read_to_string(daemon.path("conf")).unwrap();
    let line = |thin| format!("[fast]\nfilesystem_thin_provisioning = {thin}\n");
    let next = conf.replace(&line(*thin), &line(!*thin));
    assert_ne!(next, conf);
    *thin = !*thin;
    let staged = daemon.path("conf.new");
    fs::write(&staged, next).unwrap();
    fs::rename(staged, daemon.path("conf")).unwrap();
    daemon.signal(Signal::SIGHUP);
}

fn config(more: &str) -> String {
    STORES.replace("[fast]\n", &format!("[fast]\nfilesystem_thin_provisioning = true\n{more}"))
}

#[test]
fn an_id_is_not_free_after_a_reload_while_a_call_of_its_upload_is_out() {
    for kind in ["unnamed", "no-links"] {
        let home = Daemon::home();
        let daemon;
        let plain = Plain::mount(&home.path().join("fast"), kind);
        daemon = Daemon::start_in(home, &config("filesystem_store_timeout = 3\n"), &[]);
        let (first, second) = (noise(3 << 20, 1), noise(2 << 20, 2));
        plain.hang("fsync");
        let late = daemon.put("fast", "x", &first);
        assert_eq!((late.status, late.code()), (504, "Timeout".to_owned()), "{kind}");
        let mut thin = true;
        reload(&daemon, &mut thin);
        daemon.wait_for_log("configuration reloaded");
        // Also after what is left over was looked at.
        let until = Instant::now() + Duration::from_secs(12);
        while Instant::now() < until {
            let again = daemon.put("fast", "x", &second);
            assert_eq!((again.status, again.code()), (503, "Unavailable".to_owned()), "{kind}");
            pause(Duration::from_millis(300));
        }
        plain.free();
        daemon.wait_until("the first is there, or its id free", |d| {
            d.get("fast", "x").status == 200 && d.is_idle()
        });
        assert_eq!(daemon.get("fast", "x").body, first, "{kind}");
        assert_eq!(daemon.ask("DELETE", "/v1/stores/fast/images/x").status, 204, "{kind}");
        assert_eq!(daemon.put("fast", "x", &second).status, 201, "{kind}");
        assert_eq!(daemon.get("fast", "x").body, second, "{kind}");
        assert_eq!(daemon.ask("DELETE", "/v1/stores/fast/images/x").status, 204, "{kind}");
        daemon.wait_until_idle();
        daemon.assert_empty();
    }
}

#[test]
fn reloads_at_any_moment_disturb_nobody() {
    let daemon = Daemon::start(&config(""));
    let until = Instant::now() + Duration::from_secs(30);
    let rounds = thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|n| {
                let daemon = &daemon;
                scope.spawn(move || {
                    let image = noise((1 << 20) * (n + 1), n as u64);
                    let mut rounds = 0;
                    while Instant::now() < until {
                        let (id, copy) = (format!("image-{n}"), format!("copy-{n}"));
                        let put = daemon.put("fast", &id, &image);
                        assert_eq!(put.status, 201, "{put:?}");
                        let from = put.json()["location"].clone();
                        let order =
                            serde_json::json!({"source": {"location": from, "store": "fast"}});
                        let target = format!("/v1/stores/fast/images/{copy}");
                        let copied =
                            Raw::ask(&daemon.socket, "POST", &target, order.to_string().as_bytes());
                        assert_eq!(copied.status, 201, "{copied:?}");
                        for id in [&id, &copy] {
                            let got = daemon.get("fast", id);
                            assert!(got.status == 200 && got.body == image, "{}", got.status);
                            let target = format!("/v1/stores/fast/images/{id}");
                            assert_eq!(daemon.ask("DELETE", &target).status, 204);
                        }
                        rounds += 1;
                    }
                    rounds
                })
            })
            .collect();
        let mut thin = true;
        while Instant::now() < until {
            reload(&daemon, &mut thin);
            pause(Duration::from_millis(100));
        }
        workers.into_iter().map(|worker| worker.join().unwrap()).sum::<u32>()
    });
    assert!(rounds > 0);
    daemon.wait_until_idle();
    daemon.assert_empty();
}
