//! The main job on real input: the disk of a real system, through every door.

use std::{
    fs::{self, File},
    os::{
        fd::AsFd as _,
        unix::fs::{FileExt as _, MetadataExt as _},
    },
    path::Path,
    process::Command,
};

use crate::harness::{
    daemon::{Daemon, STORES},
    raw::Raw,
    rigs::{rigs, run},
};

/// The command line, on a daemon's socket.
fn imaged(daemon: &Daemon, args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imaged"));
    command.args(args).arg("--json").env("IMAGED_SOCKET", &daemon.socket);
    let ran = command.output().unwrap();
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success(), "{args:?}: {said}{}", String::from_utf8_lossy(&ran.stderr));
    said
}

fn same(a: &Path, b: &Path) -> bool {
    Command::new("cmp").args(["-s"]).arg(a).arg(b).status().unwrap().success()
}

#[test]
fn the_disk_of_a_system_goes_through_every_door_and_comes_back_whole() {
    let images = rigs().join("disk-image");
    run(Command::new("ci/disk-image").arg(&images));
    let daemon = Daemon::start(STORES);
    let out = daemon.path("out");
    for name in ["os.raw", "os.qcow2", "os-again.raw"] {
        let source = images.join(name);
        let size = fs::metadata(&source).unwrap().len();
        // By curl, streamed.
        let target = format!("http://imaged/v1/stores/fast/images/curl-{name}");
        let put = Command::new("curl")
            .args(["-sf", "--unix-socket"])
            .arg(&daemon.socket)
            .arg("-T")
            .arg(&source)
            .arg(&target)
            .output()
            .unwrap();
        let receipt: serde_json::Value = serde_json::from_slice(&put.stdout).unwrap();
        assert_eq!(receipt["size"], size);
        let sum = Command::new("sha512sum").arg(&source).output().unwrap().stdout;
        let hash = receipt["hash_value"].as_str().unwrap();
        assert!(sum.starts_with(hash.as_bytes()), "{name}");
        assert!(same(&source, &daemon.path(&format!("fast/curl-{name}"))), "{name}");
        // By the command.
        imaged(&daemon, &["put", "fast", &format!("cli-{name}"), source.to_str().unwrap()]);
        imaged(&daemon, &["get", "fast", &format!("cli-{name}"), out.to_str().unwrap()]);
        assert!(same(&source, &out), "{name}");
        // By descriptor.
        let file = File::open(&source).unwrap();
        let mut raw = Raw::connect(&daemon.socket);
        raw.head_with(
            "PUT",
            &format!("/v1/stores/fast/images/fd-{name}"),
            "imaged-body: fd\r\ncontent-length: 0\r\n",
            &[file.as_fd()],
        );
        assert_eq!(raw.answer("PUT").json()["hash_value"], hash, "{name}");
        // Ranges: of the partition's start, across a chunk, the end.
        for (start, len) in [(1024, 1024), ((4 << 20) - 7, 14), (size - 9, 9)] {
            raw.head(
                "GET",
                &format!("/v1/stores/fast/images/fd-{name}"),
                &format!("range: bytes={start}-{}\r\n", start + len - 1),
            );
            let part = raw.answer("GET");
            let mut there = vec![0; usize::try_from(len).unwrap()];
            file.read_exact_at(&mut there, start).unwrap();
            assert!(part.status == 206 && part.body == there, "{name} {start}");
        }
        // Copied to the other store.
        let from = receipt["location"].as_str().unwrap();
        let copied = imaged(&daemon, &["copy", "cheap", &format!("copy-{name}"), "--from", from]);
        let copied: serde_json::Value = serde_json::from_str(&copied).unwrap();
        assert_eq!(copied["hash_value"], hash);
        assert!(same(&source, &daemon.path(&format!("cheap/copy-{name}"))), "{name}");
        if name.ends_with(".raw") {
            let stored = fs::metadata(daemon.path(&format!("fast/curl-{name}"))).unwrap();
            assert!(stored.blocks() * 512 < size / 2, "zeros became holes");
        }
        // And gone.
        for door in ["curl", "cli", "fd"] {
            imaged(&daemon, &["delete", "fast", &format!("{door}-{name}")]);
        }
        imaged(&daemon, &["delete", "cheap", &format!("copy-{name}")]);
    }
    daemon.assert_empty();
}
