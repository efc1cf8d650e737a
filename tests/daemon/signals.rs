//! The daemon's own life: one a socket, drained by SIGTERM, reconfigured by SIGHUP.

use std::{
    fs,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::sys::signal::Signal;

use crate::harness::{
    daemon::{Daemon, STORES, noise},
    raw::Raw,
};

const MIB: usize = 1 << 20;

/// A put that has begun: its head and 5 MiB of its 6 are sent.
fn begin(daemon: &Daemon, image: &[u8]) -> Raw {
    let mut raw = Raw::connect(&daemon.socket);
    let length = format!("content-length: {}\r\n", image.len());
    raw.head("PUT", "/v1/stores/fast/images/slow", &length);
    raw.send(&image[..5 * MIB]);
    daemon.wait_until("the put is under way", |d| d.files("state/journal").len() == 1);
    raw
}

#[test]
fn sigterm_lets_transfers_finish_and_takes_no_new_ones() {
    let mut daemon = Daemon::start(STORES);
    let image = noise(6 * MIB, 1);
    let mut kept = Raw::connect(&daemon.socket);
    kept.head("GET", "/healthz", "");
    kept.answer("GET");
    let mut raw = begin(&daemon, &image);
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_log("draining");
    daemon.wait_until("nobody listens", |d| !d.socket.exists());
    assert!(kept.is_closed(), "an idle connection is closed");
    raw.send(&image[5 * MIB..]);
    assert_eq!(raw.answer("PUT").status, 201);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.log());
    assert!(fs::read(daemon.path("fast/slow")).unwrap() == image);
}

#[test]
fn transfers_that_do_not_finish_are_aborted_and_the_exit_code_tells() {
    let mut daemon = Daemon::start(&format!("{STORES}[imaged]\ndrain_timeout_s = 1\n"));
    let image = noise(6 * MIB, 2);
    daemon.put("fast", "there", &noise(32 * MIB, 3));
    let mut reading = Raw::connect(&daemon.socket);
    reading.head("GET", "/v1/stores/fast/images/there", "");
    let mut raw = begin(&daemon, &image);
    assert_eq!(daemon.stop().code(), Some(1), "{}", daemon.log());
    let answer = raw.answer("PUT");
    assert_eq!((answer.status, answer.code().as_str()), (503, "Unavailable"));
    assert!(!reading.answer("GET").whole);
    assert_eq!(daemon.files("fast"), ["there"]);
    assert_eq!(daemon.files("state/journal"), Vec::<String>::new());
}

#[test]
fn sigquit_waits_for_transfers_however_long_they_take() {
    let mut daemon = Daemon::start(&format!("{STORES}[imaged]\ndrain_timeout_s = 0\n"));
    let image = noise(6 * MIB, 5);
    let mut raw = begin(&daemon, &image);
    daemon.signal(Signal::SIGQUIT);
    daemon.wait_until("nobody listens", |d| !d.socket.exists());
    raw.send(&image[5 * MIB..]);
    assert_eq!(raw.answer("PUT").status, 201);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.log());
    assert!(fs::read(daemon.path("fast/slow")).unwrap() == image);
}

#[test]
fn sigterm_after_sigquit_gives_transfers_their_time_and_a_second_one_none() {
    let mut daemon = Daemon::start(STORES);
    let mut raw = begin(&daemon, &noise(6 * MIB, 6));
    daemon.signal(Signal::SIGQUIT);
    daemon.wait_for_log("draining");
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_log("patience_s=30");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(raw.answer("PUT").status, 503);
    assert_eq!(daemon.wait().code(), Some(1), "{}", daemon.log());
    assert_eq!(daemon.files("fast"), Vec::<String>::new());
}

#[test]
fn sighup_changes_stores_while_transfers_go_on() {
    let daemon = Daemon::start(STORES);
    let image = noise(6 * MIB, 4);
    let mut raw = begin(&daemon, &image);
    let conf = fs::read_to_string(daemon.path("conf")).unwrap();
    fs::create_dir(daemon.path("extra")).unwrap();
    let base = daemon.dir.path().display();
    let changed = conf
        .replace("cheap:file", "extra:file")
        .replace(
            "filesystem_store_datadir = ",
            "filesystem_thin_provisioning = no\nfilesystem_store_datadir = ",
        )
        .replace("[cheap]", "[extra]")
        .replace(&format!("{base}/cheap"), &format!("{base}/extra"));
    fs::write(daemon.path("conf"), &changed).unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("configuration reloaded");
    assert_eq!(daemon.put("extra", "x", b"x").status, 201);
    assert_eq!(daemon.put("cheap", "x", b"x").status, 404);
    let fast = daemon.ask("GET", "/v1/stores/fast").json();
    assert_eq!(fast["properties"]["thin_provisioning"], false);
    assert_eq!(daemon.put("fast", "slow", b"x").code(), "Exists", "the claim outlives the reload");
    raw.send(&image[5 * MIB..]);
    assert_eq!(raw.answer("PUT").status, 201);
    // A bad file changes nothing and says why, all of it.
    fs::write(daemon.path("conf"), changed.replace("thin", "thinn").replace("state_dir", "state"))
        .unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("was not taken");
    let log = daemon.log();
    assert!(log.contains("filesystem_thinn_provisioning"), "{log}");
    assert_eq!(daemon.put("extra", "y", b"x").status, 201);
    let metrics = String::from_utf8(daemon.ask("GET", "/metrics").body).unwrap();
    assert!(metrics.contains("imaged_reloads_failed_total 1"));
}

#[test]
fn a_change_that_is_not_the_backends_leaves_it_open() {
    let daemon = Daemon::start(STORES);
    assert_eq!(daemon.put("small", "x", b"in memory").status, 201);
    let conf = fs::read_to_string(daemon.path("conf")).unwrap();
    let changed = conf.replace("[small]", "[small]\nstore_description = Small");
    fs::write(daemon.path("conf"), changed.replace("[imaged]", "[imaged]\nsocket_mode = 0600"))
        .unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("configuration reloaded");
    assert_eq!(daemon.ask("GET", "/v1/stores/small").json()["description"], "Small");
    assert_eq!(daemon.get("small", "x").body, b"in memory");
    daemon.wait_for_log("take a restart");
    assert!(daemon.log().contains("socket_mode"));
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let mut daemon = Daemon::start(STORES);
    let mut second = Command::new(env!("CARGO_BIN_EXE_imaged"));
    second.arg("serve").arg("--config-file").arg(daemon.path("conf"));
    second.arg("--socket").arg(&daemon.socket).stderr(Stdio::piped());
    let output = second.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("another imaged has this state_dir"), "{said}");
    assert_eq!(daemon.ask("GET", "/healthz").status, 200);
    daemon.kill();
    assert!(daemon.socket.exists(), "what a kill leaves");
    let mut daemon = daemon.restart(&[]);
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(!daemon.socket.exists());
    // Something that is no socket is not removed.
    fs::write(&daemon.socket, "precious").unwrap();
    let output = second.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("something else where the socket should be"), "{said}");
    assert_eq!(fs::read(&daemon.socket).unwrap(), b"precious");
}

/// A daemon to which systemd passes what `words` make, told of which it gives a file of its log.
fn activated(dir: &Path, words: &[&str]) -> Command {
    for name in ["fast", "cheap"] {
        fs::create_dir_all(dir.join(name)).unwrap();
    }
    let text = format!("{STORES}[imaged]\nsocket = {{dir}}/socket\nstate_dir = {{dir}}/state\n");
    fs::write(dir.join("conf"), text.replace("{dir}", &dir.display().to_string())).unwrap();
    let mut command = Command::new("systemd-socket-activate");
    command.args(words).arg(env!("CARGO_BIN_EXE_imaged")).args(["serve", "--config-file"]);
    command.arg(dir.join("conf")).stderr(fs::File::create(dir.join("log")).unwrap());
    command
}

fn terminate(child: &mut Child) {
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// It is there a moment before anyone listens.
fn connect(socket: &Path) -> UnixStream {
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return stream,
            Err(_) => std::thread::yield_now(),
        }
    }
}

#[test]
fn systemd_may_pass_the_socket_and_is_told_of_readiness() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("passed");
    let notify = dir.path().join("notify");
    let told = std::os::unix::net::UnixDatagram::bind(&notify).unwrap();
    told.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    let environment = format!("NOTIFY_SOCKET={}", notify.display());
    let words = ["-l", socket.to_str().unwrap(), "-E", &environment];
    let mut child = activated(dir.path(), &words).spawn().unwrap();
    drop(connect(&socket));
    // Whoever is first finds the stores open.
    assert_eq!(Raw::ask(&socket, "PUT", "/v1/stores/fast/images/first", b"x").status, 201);
    let mut room = [0; 4096];
    let got = told.recv(&mut room).unwrap();
    assert!(room[..got].starts_with(b"READY=1"), "{:?}", str::from_utf8(&room[..got]));
    terminate(&mut child);
    assert!(UnixListener::bind(&socket).is_err(), "the socket is systemd's to remove");
}

#[test]
fn every_socket_that_systemd_passes_is_served_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let sockets = ["one", "two", "three"].map(|name| dir.path().join(name).display().to_string());
    let words: Vec<_> = sockets.iter().flat_map(|socket| ["-l", socket]).collect();
    let mut child = activated(dir.path(), &words).spawn().unwrap();
    drop(connect(Path::new(&sockets[2])));
    for _ in 0..3 {
        for socket in sockets.iter().rev() {
            assert_eq!(Raw::ask(Path::new(socket), "GET", "/readyz", b"").status, 200, "{socket}");
        }
    }
    // One whose callers are many does not keep the others waiting.
    let crowd: Vec<_> = (0..100).map(|_| UnixStream::connect(&sockets[0]).unwrap()).collect();
    assert_eq!(Raw::ask(Path::new(&sockets[1]), "GET", "/readyz", b"").status, 200);
    drop(crowd);
    terminate(&mut child);
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.contains(&sockets.join(", ")), "{log}");
    let configured = dir.path().join("socket");
    let told = log.lines().find(|line| line.contains("the configured one is not made"));
    assert!(told.is_some_and(|told| told.contains(configured.to_str().unwrap())), "{log}");
    assert!(!configured.exists());
}

#[test]
fn what_nobody_can_connect_to_is_refused_when_systemd_passes_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("passed").display().to_string();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let datagram = std::os::unix::net::UnixDatagram::unbound().unwrap();
    // A byte wakes systemd-socket-activate, and then it passes what it has.
    let mut child = activated(dir.path(), &["--datagram", "-l", &path]).spawn().unwrap();
    while datagram.send_to(b"x", &path).is_err() {
        std::thread::yield_now();
    }
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let log = || fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log().contains("number 1 is no stream socket of Unix"), "{}", log());

    let other = dir.path().join("other").display().to_string();
    let words = ["-l", &other, "-l", &port.to_string()];
    let mut child = activated(dir.path(), &words).spawn().unwrap();
    let first = connect(Path::new(&other));
    assert_eq!(child.wait().unwrap().code(), Some(1));
    drop(first);
    assert!(log().contains("number 2 is no stream socket of Unix"), "{}", log());
}

#[test]
fn what_is_passed_to_another_process_or_is_nothing_leaves_the_configured_socket() {
    for (count, pid) in [("0", None), ("2", Some("1")), ("none", None)] {
        let mut env = vec![("LISTEN_FDS", count)];
        env.extend(pid.map(|pid| ("LISTEN_PID", pid)));
        let mut daemon = Daemon::start_in(Daemon::home(), STORES, &env);
        assert!(daemon.log().contains(daemon.socket.to_str().unwrap()), "{}", daemon.log());
        assert_eq!(daemon.stop().code(), Some(0));
    }
}
