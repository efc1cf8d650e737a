//! Against the real peers from PyPI: glance_store's filesystem driver on the same directory, and
//! oslo.config on the same files.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use imaged::config::ini;

use crate::harness::{
    daemon::{Daemon, STORES, noise},
    raw::Raw,
};

/// A Python that has the peers, made once by the script that people use too.
static PYTHON: LazyLock<PathBuf> = LazyLock::new(|| {
    let rigs = crate::harness::rigs();
    let made = Command::new("ci/glance-store").arg(rigs.join("glance-store")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).unwrap().trim().into()
});

fn python(script: &str, args: &[&str]) -> serde_json::Value {
    let ran = Command::new(&*PYTHON).arg(script).args(args).output().unwrap();
    let said = String::from_utf8(ran.stdout).unwrap();
    serde_json::from_str(said.trim())
        .unwrap_or_else(|error| panic!("{error}: {said}{}", String::from_utf8_lossy(&ran.stderr)))
}

fn glance_store(args: &[&str]) -> serde_json::Value {
    python("tests/parity/glance_store_file.py", args)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn each_reads_sizes_and_deletes_what_the_other_wrote() {
    let daemon = Daemon::start(STORES);
    let dir = daemon.path("fast");
    let (source, out) = (daemon.path("source"), daemon.path("out"));
    let mut sparse = vec![0; 3 << 20];
    sparse[1 << 20..(1 << 20) + 5].copy_from_slice(b"hello");
    for (n, image) in
        [Vec::new(), b"x".to_vec(), noise((5 << 20) + 3, 1), sparse].iter().enumerate()
    {
        fs::write(&source, image).unwrap();
        for algo in ["sha512", "sha384", "sha256", "sha224", "sha1", "blake2b", "md5"] {
            if n != 1 && !["sha512", "blake2b"].contains(&algo) {
                continue;
            }
            let theirs = format!("theirs-{n}-{algo}");
            let ours = format!("ours-{n}-{algo}");
            let peer = glance_store(&["put", text(&dir), &theirs, text(&source), "--algo", algo]);
            let path = format!("/v1/stores/fast/images/{ours}?hash_algo={algo}");
            let receipt = Raw::ask(&daemon.socket, "PUT", &path, image).json();
            // Byte for byte the same, but for the id.
            let uri = peer["uri"].as_str().unwrap().replace(&theirs, &ours);
            assert_eq!(receipt["location"], uri.as_str());
            for key in ["size", "checksum", "hash_value"] {
                assert_eq!(receipt[key], peer[key], "{algo} {key}");
            }
            assert_eq!(receipt["metadata"], peer["metadata"]);
            // Each reads the other's.
            let got = daemon.get("fast", &theirs);
            assert!(got.status == 200 && got.body == *image);
            glance_store(&["get", text(&dir), &ours, text(&out)]);
            assert!(fs::read(&out).unwrap() == *image);
            // Each sizes the other's.
            let head = daemon.ask("HEAD", &format!("/v1/stores/fast/images/{theirs}"));
            assert_eq!(head.headers["content-length"], image.len().to_string());
            assert_eq!(glance_store(&["size", text(&dir), &ours])["size"], image.len());
            // Each deletes the other's, and the id is free.
            let at = format!("/v1/stores/fast/images?at={}", peer["uri"].as_str().unwrap());
            assert_eq!(daemon.ask("DELETE", &at).status, 204);
            let gone = glance_store(&["size", text(&dir), &theirs]);
            assert_eq!(gone["error"], "NotFound");
            glance_store(&["delete", text(&dir), &ours]);
            assert_eq!(daemon.get("fast", &ours).code(), "NotFound");
        }
    }
    daemon.assert_empty();
}

#[test]
fn each_refuses_an_id_that_the_other_has_taken() {
    let daemon = Daemon::start(STORES);
    let dir = daemon.path("fast");
    let source = daemon.path("source");
    fs::write(&source, b"image").unwrap();
    glance_store(&["put", text(&dir), "theirs", text(&source)]);
    assert_eq!(daemon.put("fast", "theirs", b"other").code(), "Exists");
    daemon.put("fast", "ours", b"image");
    let refused = glance_store(&["put", text(&dir), "ours", text(&source)]);
    assert_eq!(refused["error"], "Duplicate");
}

#[test]
fn configuration_files_are_read_as_oslo_config_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let sample = fs::read_to_string("conf/imaged.conf").unwrap();
    for (n, file) in [
        sample.as_str(),
        "[a]\nx = 1\nx = 2\ny: two\n  words\n; note\n# note\n[a]\nz=\n",
        "[s]\npassword = p#a;s$s%s\nquoted = \"a b\"\nsingle = 'a'\nlist = a, b\n",
        "[DEFAULT]\nenabled_backends = fast:rbd, cheap:file\n\n[fast]\nrbd_store_pool=images\n",
        "[long]\nvalue = one\n\ttwo\n    three\nnext = \n",
    ]
    .iter()
    .enumerate()
    {
        let path = dir.path().join(format!("{n}.conf"));
        fs::write(&path, file).unwrap();
        let theirs: BTreeMap<String, BTreeMap<String, Vec<String>>> =
            serde_json::from_value(python("tests/parity/oslo.py", &[text(&path)])).unwrap();
        let ours = ini::raw(file).unwrap_or_else(|faults| panic!("{n}: {faults:?}"));
        assert_eq!(ours, theirs, "{file}");
    }
}
