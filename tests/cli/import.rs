//! `imaged import-config`: a file of the daemon's own from Glance's.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output},
};

use crate::harness::daemon::{Daemon, IMAGED};

const GLANCE: &str = "\
[DEFAULT]
debug = true
enabled_backends = fast:file, objects:vmware
[database]
connection = mysql+pymysql://glance:secret@db/glance
[glance_store]
default_backend = fast
[fast]
imaged_socket = DIR/imaged.sock
filesystem_store_datadir = DIR/images
imaged_also_directories = DIR/old, DIR/older
[objects]
s3_store_secret_key = secret
";

fn import(words: &[&str]) -> Output {
    Command::new(IMAGED).arg("import-config").args(words).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_daemon_runs_on_what_was_made_of_glances_file() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name).display().to_string();
    let glance = GLANCE.replace("DIR", &dir.path().display().to_string());
    fs::write(place("glance-api.conf"), glance).unwrap();
    for name in ["images", "old", "older"] {
        fs::create_dir(place(name)).unwrap();
    }
    let (from, to) = (place("glance-api.conf"), place("imaged.conf"));
    let made = import(&[&from, "--output", &to]);
    assert!(made.status.success(), "{made:?}");
    assert!(text(&made.stderr).contains("[objects]: left to Glance"), "{made:?}");
    assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
    let found = fs::read_to_string(&to).unwrap();
    assert!(!found.contains("secret"), "{found}");
    assert_eq!(text(&import(&[&from]).stdout), found, "the same on standard output");

    // A second time it is left alone.
    fs::write(&to, found.clone() + "# mine\n").unwrap();
    let again = import(&[&from, "--output", &to]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("name another one"), "{again:?}");
    assert!(fs::read_to_string(&to).unwrap().ends_with("# mine\n"));

    // No user `glance` need be here for a daemon to start, and this one has its own socket.
    let ours = format!("[imaged]\nsocket = {}\nroles = glance:admin\n\n", place("imaged.sock"));
    assert!(found.contains(&ours), "{found}");
    let daemon = Daemon::start(&found.replace(&ours, ""));
    let ran = super::line(&daemon, "stores --json").done().json();
    assert_eq!(ran["stores"][0]["id"], "fast", "{ran}");
    assert_eq!(ran["stores"][0]["state"], "up", "{ran}");
    let also = &ran["stores"][0]["properties"]["directories"][2];
    assert_eq!((&also["path"], &also["also"]), (&place("older").into(), &true.into()), "{ran}");
}

#[test]
fn the_pools_that_a_store_was_in_before_come_along() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("glance-api.conf").display().to_string();
    let glance = format!(
        "[DEFAULT]\nenabled_backends = ceph:rbd\nolder = older\n[ceph]\n\
         imaged_socket = {}/imaged.sock\nimaged_also_pools = old images, ${{DEFAULT.older}}\n",
        dir.path().display()
    );
    fs::write(&from, glance).unwrap();
    let made = import(&[&from]);
    assert!(made.status.success(), "{made:?}");
    let found = text(&made.stdout);
    assert!(found.contains("imaged_also_pools = old images, older\n"), "{found}");
}

#[test]
fn what_is_wrong_is_told_and_no_file_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name).display().to_string();
    let (from, to) = (place("glance-api.conf"), place("imaged.conf"));
    let gone = import(&[&from, "-o", &to]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(text(&gone.stderr).contains("cannot be read"), "{gone:?}");
    for (was, is, told) in [
        ("filesystem_store_datadir", "filesystem_store_datadr", "did you mean"),
        ("fast", "objects", "two stores have this name"),
        ("fast:file, ", "", "the stores are objects"),
        ("DIR/images", "$nowhere/images", "$nowhere"),
    ] {
        fs::write(&from, GLANCE.replace(was, is)).unwrap();
        let wrong = import(&[&from, "-o", &to]);
        assert_eq!(wrong.status.code(), Some(1), "{is}");
        assert!(text(&wrong.stderr).contains(told), "{is}: {wrong:?}");
        assert!(!fs::exists(&to).unwrap(), "{is}");
    }
    assert_eq!(import(&[]).status.code(), Some(2));
}

#[test]
fn a_directory_of_configurations_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let glance = GLANCE.replace("DIR", &dir.path().display().to_string());
    fs::write(dir.path().join("10.conf"), glance).unwrap();
    fs::write(dir.path().join("20.conf"), "[fast]\nweight = 7\n").unwrap();
    let made = import(&["--config-dir", dir.path().to_str().unwrap()]);
    assert!(made.status.success(), "{made:?}");
    assert!(text(&made.stdout).contains("weight = 7\n"), "{made:?}");
    // Why a store was left out is told also where none remains.
    fs::write(
        dir.path().join("20.conf"),
        "[fast]\nimaged_socket =\n[objects]\nimaged_socket = /x\n",
    )
    .unwrap();
    let none = import(&["--config-dir", dir.path().to_str().unwrap()]);
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none.stderr).contains("[fast]: left to Glance"), "{none:?}");
}
