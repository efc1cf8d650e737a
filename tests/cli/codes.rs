//! Exit codes, what goes to which stream, and the commands that need no daemon.

use std::{fs, path::Path};

use super::{bytes, command, daemon, feed, finish, line, run};

#[test]
fn every_exit_code_means_what_is_documented() {
    let daemon = daemon();
    assert_eq!(feed(&daemon, ["put", "fast", "x", "-"], b"abc").code, 0);
    assert_eq!(line(&daemon, "copy fast y --from-volume pool/volume").code, 1);
    assert_eq!(line(&daemon, "put fast").code, 2);
    assert_eq!(line(&daemon, "frobnicate").code, 2);
    assert_eq!(line(&daemon, "stores --socket /nonexistent/socket").code, 3);
    assert_eq!(line(&daemon, "stat fast nothing").code, 4);
    assert_eq!(line(&daemon, "get fast nothing -").code, 4);
    assert_eq!(line(&daemon, "list nowhere").code, 4);
    assert_eq!(line(&daemon, "jobs nothing").code, 4);
    let file = daemon.path("conf").display().to_string();
    assert_eq!(line(&daemon, &format!("put fast x {file}")).code, 5);
    assert_eq!(line(&daemon, &format!("put fast y {file}x")).code, 1);
}

#[test]
fn a_refusal_reaches_a_caller_who_is_still_sending() {
    let daemon = daemon();
    feed(&daemon, ["put", "fast", "x", "-"], b"abc").done();
    let much = bytes(30 << 20);
    for _ in 0..5 {
        let put = feed(&daemon, ["put", "fast", "x", "-"], &much);
        assert_eq!(put.code, 5, "{put:?}");
        assert!(put.err.contains("has an image of this id"), "{}", put.err);
        assert_eq!(feed(&daemon, ["put", "nowhere", "x", "-"], &much).code, 4);
    }
}

#[test]
fn a_missing_daemon_is_named_with_the_remedy() {
    let nowhere = Path::new("/nonexistent/imaged.sock");
    let stores = finish(command(nowhere, ["stores"]), b"");
    assert_eq!((stores.code, stores.text()), (3, ""));
    assert!(stores.err.contains("/nonexistent/imaged.sock"), "{}", stores.err);
    assert!(stores.err.contains("imaged serve"), "{}", stores.err);
    let stores = finish(command(nowhere, ["stores", "--json"]), b"");
    assert_eq!((stores.code, &stores.json()["error"]["code"]), (3, &"Unreachable".into()));
}

#[test]
fn usage_without_a_login_names_what_is_missing() {
    let nowhere = Path::new("/nonexistent/imaged.sock");
    let usage = |given: &[(&str, &str)]| {
        let mut usage = command(nowhere, ["usage"]);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OS_")) {
            usage.env_remove(name);
        }
        finish(
            {
                usage.envs(given.iter().copied());
                usage
            },
            b"",
        )
    };
    let nothing = usage(&[]);
    assert_eq!(nothing.code, 2);
    assert!(nothing.err.contains("OS_AUTH_URL"), "{}", nothing.err);
    let url = ("OS_AUTH_URL", "http://127.0.0.1:1/v3");
    let user = usage(&[url]);
    assert_eq!(user.code, 2);
    assert!(user.err.contains("OS_USERNAME"), "{}", user.err);
    // Nobody listens there.
    let unreachable = usage(&[url, ("OS_TOKEN", "secret-token")]);
    assert_eq!(unreachable.code, 1);
    assert!(unreachable.err.contains("127.0.0.1:1"), "{}", unreachable.err);
    assert!(!unreachable.err.contains("secret-token"), "{}", unreachable.err);
}

#[test]
fn json_is_one_document_and_nothing_else() {
    let daemon = daemon();
    let out = daemon.path("out").display().to_string();
    let put = feed(&daemon, ["put", "fast", "x", "-", "--json"], b"abc").done().json();
    assert_eq!((&put["store"], &put["size"]), (&"fast".into(), &3.into()));
    let location = put["location"].as_str().unwrap();
    let json = |words: &str| line(&daemon, &format!("{words} --json")).done().json();
    assert_eq!(json("stat fast x")["digests"]["md5"], "900150983cd24fb0d6963f7d28e17f72");
    assert_eq!(json("list fast")["images"][0]["id"], "x");
    assert_eq!(json("list cheap")["images"], serde_json::json!([]));
    assert_eq!(json("stores")["stores"][0]["state"], "up");
    assert!(json("stores")["stores"][0]["capacity"]["available"].is_u64());
    assert_eq!(json(&format!("get fast x {out}"))["verified"], "sha512");
    assert_eq!(json("get fast x /dev/null")["verified"], "sha512");
    assert_eq!(json(&format!("copy cheap x --from {location}"))["id"], "x");
    let jobs = json("jobs");
    assert_eq!(jobs["jobs"][0]["state"], "done");
    let id = jobs["jobs"][0]["id"].as_str().unwrap();
    assert_eq!(json(&format!("jobs {id}"))["kind"], "copy");
    assert_eq!(json("delete fast x")["deleted"], true);
    let conf = daemon.path("conf").display().to_string();
    let checked = json(&format!("check-config --config-file {conf}"));
    assert_eq!(checked["problems"], serde_json::json!([]));
    let fine: Vec<String> = serde_json::from_value(checked["fine"].clone()).unwrap();
    assert_eq!(fine.iter().filter(|line| line.ends_with("can be used")).count(), 3, "{fine:?}");

    let error = |words: &str| {
        let ran = line(&daemon, &format!("{words} --json"));
        let document = ran.json();
        assert_eq!(document["error"]["exit_code"], ran.code);
        document["error"]["code"].as_str().unwrap().to_owned()
    };
    assert_eq!(error("stat fast x"), "NotFound");
    assert_eq!(error("delete fast x"), "NotFound");
    assert_eq!(error("get cheap x -"), "Usage");
    assert_eq!(error("stat fast"), "Usage");
    assert_eq!(error("copy fast y --from-volume a/b"), "Unsupported");
    assert_eq!(error(&format!("put cheap x {conf}")), "Exists");
    assert_eq!(error(&format!("jobs --cancel {id}")), "InUse");
    assert_eq!(error("put cheap y /nonexistent"), "System");
}

#[test]
fn people_are_told_of_stores_and_jobs_in_tables() {
    let daemon = daemon();
    let file = daemon.path("conf").display().to_string();
    line(&daemon, &format!("put fast x {file}")).done();
    let stores = line(&daemon, "stores").done();
    let fast = stores.text().lines().find(|line| line.starts_with("fast")).unwrap();
    assert!(fast.contains("up") && fast.contains("iB") && fast.ends_with("The fast one"), "{fast}");
    let jobs = line(&daemon, "jobs").done();
    assert!(jobs.text().lines().nth(1).unwrap().contains("done"), "{}", jobs.text());
    let id = jobs.text().lines().nth(1).unwrap().split_whitespace().next().unwrap();
    let job = run(&daemon, ["jobs", id]).done();
    assert!(job.text().contains("put of x in fast"), "{}", job.text());
}

#[test]
fn nothing_is_drawn_when_nobody_looks() {
    let daemon = daemon();
    fs::write(daemon.path("image"), bytes(4 << 20)).unwrap();
    let (file, back) = (daemon.path("image"), daemon.path("back"));
    let put = line(&daemon, &format!("put fast x {}", file.display())).done();
    let piped = feed(&daemon, ["put", "fast", "y", "-"], &bytes(4 << 20)).done();
    let get = line(&daemon, &format!("get fast x {}", back.display())).done();
    for ran in [put, piped, get] {
        assert_eq!(ran.err, "");
        assert!(!ran.text().contains(['\r', '\u{1b}']));
    }
}

#[test]
fn a_broken_configuration_is_told_whole() {
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("broken.conf");
    let text = "[DEFAULT]\nenabled_backends = fast:file, odd:tape\n[imaged]\nput_window_mb = 3\n\
                [fast]\nfilesystem_store_datadir = relative\nrbd_pool = x\n";
    fs::write(&conf, text).unwrap();
    let words = ["check-config", "--config-file", conf.to_str().unwrap()];
    let check = finish(command(Path::new("/nonexistent"), words), b"");
    assert_eq!((check.code, check.text()), (1, ""));
    for wrong in ["tape", "put_window_mb", "relative", "rbd_pool"] {
        assert_eq!(check.err.matches(wrong).count().min(1), 1, "{wrong}: {}", check.err);
    }
    let serve = finish(command(Path::new("/x"), ["serve", words[1], words[2]]), b"");
    assert_eq!(serve.code, 1);
    assert!(serve.err.contains("put_window_mib"), "the nearest name: {}", serve.err);

    let good = dir.path().join("good.conf");
    let missing = dir.path().join("missing");
    let text = |datadir: &Path| {
        format!(
            "[DEFAULT]\nenabled_backends = fast:file\n[glance_store]\ndefault_backend = fast\n\
             [fast]\nfilesystem_store_datadir = {}\n",
            datadir.display()
        )
    };
    let words = ["check-config", "--config-file", good.to_str().unwrap()];
    fs::write(&good, text(dir.path())).unwrap();
    let check = finish(command(Path::new("/nonexistent"), words), b"").done();
    assert!(check.err.contains("store `fast` (file) can be used"), "{}", check.err);
    assert_eq!(check.text(), "");
    // A store that cannot be opened is wrong too.
    fs::write(&good, text(Path::new("/proc/nothing"))).unwrap();
    let check = finish(command(&missing, words), b"");
    assert_eq!(check.code, 1, "{check:?}");
    assert!(check.err.contains("store `fast`"), "{}", check.err);
}

#[test]
fn completions_and_the_manual_come_from_the_commands() {
    let nowhere = Path::new("/nonexistent");
    for shell in ["bash", "zsh", "fish"] {
        let script = finish(command(nowhere, ["completions", shell]), b"").done();
        assert!(script.text().contains("check-config"), "{shell}");
    }
    let man = finish(command(nowhere, ["man"]), b"").done();
    assert!(man.text().contains(".TH imaged 1"), "{}", man.text());
    for section in ["IMAGED PUT", "IMAGED CHECK\\-CONFIG", "Exit codes"] {
        assert!(man.text().contains(section), "{section}: {}", man.text());
    }
}
