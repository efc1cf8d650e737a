//! `imaged check-config`: what is wrong with a configuration, and which locations no store could serve.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use super::{Lost, Ran, finish};
use crate::harness::{
    cinder::{Cinder, SECRET, TYPE},
    daemon::{Daemon, IMAGED},
    raw::Raw,
    stores::ceph::{Ceph, POOL, VOLUMES},
};

const CONFIG: &str = "\
[DEFAULT]
enabled_backends = fast:file, memory:mem
[glance_store]
default_backend = fast
[fast]
filesystem_store_datadir = {dir}/fast
imaged_also_directories = {dir}/cheap
";

/// A directory with a configuration and its directories.
fn home(config: &str) -> tempfile::TempDir {
    let home = Daemon::home();
    let text = config.replace("{dir}", &home.path().display().to_string());
    fs::write(home.path().join("conf"), text).unwrap();
    home
}

fn check(home: &Path, words: &[&str], input: &[u8]) -> Ran {
    let mut command = Command::new(IMAGED);
    command.args(["check-config", "--config-file"]).arg(home.join("conf")).args(words);
    finish(command, input)
}

#[test]
fn the_directory_of_systemds_credentials_may_be_named() {
    let home = home(&CONFIG.replace("{dir}/fast", "${CREDENTIALS_DIRECTORY}/fast"));
    let run = |set: Option<&Path>| {
        let mut command = Command::new(IMAGED);
        command.args(["check-config", "--config-file"]).arg(home.path().join("conf"));
        command.env_remove("CREDENTIALS_DIRECTORY");
        command.envs(set.map(|set| ("CREDENTIALS_DIRECTORY", set)));
        finish(command, b"")
    };
    let ran = run(Some(home.path()));
    assert_eq!(ran.code, 0, "{}", ran.err);
    for set in [None, Some(Path::new(""))] {
        let ran = run(set);
        assert_eq!(ran.code, 1);
        let told = "[fast] filesystem_store_datadir: the environment has no CREDENTIALS_DIRECTORY";
        assert!(ran.err.contains(told), "{}", ran.err);
        assert!(ran.err.contains("LoadCredential="), "{}", ran.err);
    }
}

/// Locations, of which two can be served.
fn locations(home: &Path) -> String {
    let home = home.display();
    format!(
        "file://{home}/fast/one\n\
         \n\
         \t file://{home}/cheap/two \r\n\
         file://{home}/elsewhere/three\n\
         filesystem:///var/lib/glance/images/four\n\
         vsphere://user:secret@host/folder/five\n\
         rbd://fsid/images/six/snap\n\
         mem://other/seven\n\
         eight\n\
         file://nine\n\
         {}\n\
         mem://memory/ten",
        "x".repeat(20_000)
    )
}

#[test]
fn locations_that_no_store_could_serve_are_named_and_counted() {
    let home = home(CONFIG);
    let text = locations(home.path());
    fs::write(home.path().join("uris"), &text).unwrap();
    let file = home.path().join("uris").display().to_string();
    for (words, input) in [(["--locations", &file], ""), (["--locations", "-"], text.as_str())] {
        let ran = check(home.path(), &words, input.as_bytes());
        assert_eq!((ran.code, ran.text()), (1, ""), "{ran:?}");
        for told in [
            "line 4: no store could serve it: location=`file:///".to_owned(),
            "line 5: no store could serve it: location=`filesystem:///var".to_owned(),
            "line 6: no store of this build has locations that begin with `vsphere://`: \
             location=`vsphere://...@host/folder/five`"
                .to_owned(),
            "line 7: no store could serve it: location=`rbd://fsid/images/six/snap`".to_owned(),
            "line 8: no store could serve it: location=`mem://other/seven`".to_owned(),
            "line 9: is no URI such as file:///var/lib/glance/images/ID: location=`eight`"
                .to_owned(),
            "line 10: a file location has an absolute path after file://: location=`file://nine`"
                .to_owned(),
            "line 11: is longer than 8192 bytes: location=`xxx".to_owned(),
            "11 locations: 3 could be served, 5 could not, 3 are no locations\n".to_owned(),
        ] {
            assert!(ran.err.contains(&told), "{told}\n{}", &ran.err[..2000]);
        }
        assert!(!ran.err.contains("secret") && !ran.err.contains("line 1:"), "{}", ran.err);
    }
    let json = check(home.path(), &["--locations", &file, "--json"], b"");
    assert_eq!(json.code, 1);
    let found = json.json();
    let counts = &found["locations"];
    assert_eq!(
        (&counts["served"], &counts["unserved"], &counts["bad"]),
        (&3.into(), &5.into(), &3.into())
    );
    assert_eq!(counts["refused"][0]["line"], 4);
    assert_eq!(counts["refused"][7]["state"], "bad");
    assert_eq!(found["problems"], serde_json::json!([]));
}

#[test]
fn locations_that_can_all_be_served_are_no_failure() {
    let home = home(CONFIG);
    let dir = home.path().display();
    let text = format!("\n\nfile://{dir}/fast/one\nfile://{dir}/cheap/sub/two\n\nmem://memory/x\n");
    let ran = check(home.path(), &["--locations", "-"], text.as_bytes());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("3 locations: 3 could be served, 0 could not"), "{ran:?}");
    let none = check(home.path(), &["--locations", "-", "--json"], b"");
    assert_eq!((none.code, &none.json()["locations"]["served"]), (0, &0.into()));
    let missing = check(home.path(), &["--locations", "/nonexistent/uris"], b"");
    assert_eq!(missing.code, 1);
    assert!(missing.err.contains("cannot read `/nonexistent/uris`"), "{missing:?}");
    // What is not text is no location.
    let binary = check(home.path(), &["--locations", "-"], b"file:///\xff\xfe\n\0\n");
    assert_eq!(binary.code, 1);
    assert!(binary.err.contains("line 1: is no UTF-8 text"), "{binary:?}");
    assert!(binary.err.contains("line 2: is no URI"), "{binary:?}");
}

#[test]
fn a_store_that_is_down_is_named_where_it_might_have_served() {
    let home = home(CONFIG);
    fs::remove_dir(home.path().join("fast")).unwrap();
    let at = format!("file://{}/fast/one\n", home.path().display());
    let ran = check(home.path(), &["--locations", "-"], at.as_bytes());
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("store `fast` is down: the directory does not exist"), "{ran:?}");
    assert!(
        ran.err.contains("line 1: no store that is up could serve it; store `fast`"),
        "{ran:?}"
    );
    // A configuration that cannot be read has no stores at all.
    fs::write(home.path().join("conf"), "[DEFAULT]\nenabled_backends = a:nfs\n").unwrap();
    let ran = check(home.path(), &["--locations", "-"], at.as_bytes());
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("no such type of store"), "{ran:?}");
}

#[test]
fn what_is_good_to_know_is_told_beside_what_is_wrong() {
    let config = CONFIG.replace("[glance_store]\n", "[glance_store]\nrbd_store_pool = images\n");
    let wrong = format!("{config}weight = much\n");
    let home = home(&wrong);
    let note = "[glance_store] rbd_store_pool: changes nothing";
    let ran = check(home.path(), &[], b"");
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains(note) && ran.err.contains("[fast] weight"), "{}", ran.err);
    let ran = check(home.path(), &["--json"], b"");
    let found = ran.json();
    assert_eq!((ran.code, found["problems"].as_array().unwrap().len()), (1, 1), "{found}");
    assert!(found["fine"].to_string().contains(note), "{found}");
    let found = check(home.path(), &["--for-cinder", "--json"], b"").json();
    assert!(found["fine"].to_string().contains(note), "{found}");

    // The same where the daemon starts, and where a configuration is made of it.
    let conf = home.path().join("conf").display().to_string();
    for words in [["serve", "--config-file", &conf].as_slice(), &["import-config", &conf]] {
        let mut command = Command::new(IMAGED);
        command.args(words);
        let ran = finish(command, b"");
        assert_eq!((ran.code, ran.text()), (1, ""), "{words:?}");
        assert!(ran.err.contains(note) && ran.err.contains("[fast] weight"), "{}", ran.err);
    }
}

#[test]
fn locations_that_cannot_be_read_leave_what_was_found_and_one_document() {
    let home = home(CONFIG);
    let dir = home.path().display().to_string();
    for from in ["/nonexistent/uris", dir.as_str()] {
        let ran = check(home.path(), &["--locations", from], b"");
        assert_eq!(ran.code, 1);
        assert!(ran.err.contains("store `fast` (file) can be used"), "{}", ran.err);
        let ran = check(home.path(), &["--locations", from, "--json"], b"");
        let found = ran.json();
        assert_eq!((ran.code, &found["error"]["code"]), (1, &"System".into()), "{found}");
        assert!(found["fine"].to_string().contains("can be used"), "{found}");
    }
    // Editors put a mark before the first line, and do not show it.
    let at = format!("\u{feff}file://{dir}/fast/one\n");
    assert_eq!(check(home.path(), &["--locations", "-"], at.as_bytes()).code, 0);
}

#[test]
fn a_document_that_cannot_be_printed_is_told_to_people() {
    let home = home(CONFIG);
    for words in [
        &["check-config", "--config-file", "conf", "--json"][..],
        &["check-config", "--config-file", "conf", "--json", "--locations", "conf"],
        &["check-config", "--config-file", "none", "--json"],
        &["import-config", "conf"],
        &["stores", "--json", "--socket", "none"],
        &["stores", "--json", "--nonsense"],
        &["completions", "bash"],
        &["man"],
        &["--nonsense"],
        &["--help"],
        &["--version"],
        &["put", "--help"],
    ] {
        for lost in Lost::ALL {
            let mut command = Command::new(IMAGED);
            command.args(words).current_dir(home.path());
            lost.assert_told(&lost.run(command), &words.join(" "));
        }
    }
}

#[test]
fn memory_does_not_grow_with_the_locations() {
    let home = home(CONFIG);
    let mut command = Command::new(IMAGED);
    command.args(["check-config", "--json", "--locations", "-", "--config-file"]);
    command.arg(home.path().join("conf"));
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = pipes.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let most = |child: &std::process::Child| {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let lines = "file:///nowhere/at/all/00000000-0000-0000-0000-000000000000\n".repeat(1000);
    let mut write = |times: usize| {
        for _ in 0..times {
            stdin.write_all(lines.as_bytes()).unwrap();
        }
    };
    // The pipe holds few of them, so nearly all were read when they were written.
    write(20);
    let before = most(&child);
    write(200);
    let after = most(&child);
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(after < before + 4096, "{before} KiB before, {after} KiB after 200,000 lines more");
}

#[test]
fn a_time_that_no_clock_tells_is_refused_and_nothing_panics() {
    let most = ["86401", "4294967296", "9223372036854775807", "18446744073709551615"];
    for (section, option) in [
        ("fast", "filesystem_store_timeout"),
        ("imaged", "header_timeout_s"),
        ("imaged", "idle_timeout_s"),
        ("imaged", "stall_timeout_s"),
        ("imaged", "drain_timeout_s"),
        ("ceph", "rados_connect_timeout"),
    ] {
        for value in most {
            let config = CONFIG.replace("memory:mem", "memory:mem, ceph:rbd");
            let config = format!("{config}[ceph]\n[imaged]\n")
                .replace(&format!("[{section}]\n"), &format!("[{section}]\n{option} = {value}\n"));
            let home = home(&config);
            let ran = check(home.path(), &[], b"");
            assert_eq!(ran.code, 1, "{option} = {value}: {ran:?}");
            let told = format!("[{section}] {option}: must be a whole number");
            assert!(ran.err.contains(&told), "{ran:?}");
        }
    }
}

/// Every option that takes a number, at the edges of what a number can be.
#[test]
fn numbers_at_the_edge_are_taken_or_refused_and_nothing_panics() {
    let edges = ["-9223372036854775809", "-9223372036854775808", "-1", "0", "1", "4294967295"];
    let more =
        ["4294967296", "9223372036854775807", "18446744073709551615", "18446744073709551616"];
    for (section, option) in [
        ("fast", "weight"),
        ("fast", "filesystem_store_file_perm"),
        ("fast", "filesystem_store_chunk_size"),
        ("fast", "filesystem_store_timeout"),
        ("fast", "filesystem_store_thread_pool_size"),
        ("memory", "mem_capacity"),
        ("memory", "weight"),
        ("imaged", "socket_mode"),
        ("imaged", "connection_limit"),
        ("imaged", "header_timeout_s"),
        ("imaged", "idle_timeout_s"),
        ("imaged", "stall_timeout_s"),
        ("imaged", "drain_timeout_s"),
        ("imaged", "put_window_mib"),
        ("imaged", "get_window_kib"),
        ("imaged", "total_window_mib"),
        ("imaged", "digest_threads"),
    ] {
        for value in edges.into_iter().chain(more) {
            let config = format!("{CONFIG}[memory]\n[imaged]\n")
                .replace(&format!("[{section}]\n"), &format!("[{section}]\n{option} = {value}\n"));
            let home = home(&config);
            let ran = check(home.path(), &[], b"");
            assert!(matches!(ran.code, 0 | 1), "{option} = {value}: {ran:?}");
            assert!(!ran.err.contains("panicked"), "{option} = {value}: {ran:?}");
            assert_eq!(ran.code == 1, ran.err.contains(option), "{option} = {value}: {ran:?}");
        }
    }
}

/// What one store needs, of a document that `--for-cinder --json` prints.
fn needs<'a>(found: &'a serde_json::Value, store: &str) -> &'a serde_json::Value {
    let stores = found["for_cinder"]["stores"].as_array().unwrap();
    stores.iter().find(|one| one["store"] == store).unwrap()
}

#[test]
fn what_is_needed_for_clones_of_volumes_in_ceph_is_what_then_suffices() {
    let ceph = Ceph::up();
    let keyring = ceph.conf().with_file_name("ceph.client.needy.keyring");
    let osd = format!("profile rbd pool={POOL}, profile rbd-read-only pool={VOLUMES}");
    let caps = ["mon", "profile rbd", "mgr", "profile rbd", "osd", &osd];
    // A test that failed has left it.
    ceph.admin(&["auth", "rm", "client.needy"]);
    let made = [&["auth", "get-or-create", "client.needy"][..], &caps].concat();
    fs::write(&keyring, ceph.admin(&made) + "\n").unwrap();
    let config = format!(
        "[DEFAULT]\nenabled_backends = ceph:rbd, fast:file\n[glance_store]\ndefault_backend = ceph\n\
         [fast]\nfilesystem_store_datadir = {{dir}}/fast\n[ceph]\n{}\
         [imaged]\nsocket = /run/here.sock\nroles = glance:admin, cinder:service\n",
        ceph.options_of("needy", POOL, 20)
    );
    let home = home(&config);
    let ask = |words: &[&str]| check(home.path(), words, b"");
    let lacking = ask(&["--for-cinder", "--json"]);
    assert_eq!(lacking.code, 1, "{lacking:?}");
    let found = lacking.json();
    let caps = &needs(&found, "ceph")["needs"][0];
    assert_eq!(caps["state"], "missing", "{caps}");
    assert!(
        caps["why"].as_str().unwrap().contains("may read the pool `volumes` and not write to it")
    );
    let line = caps["lines"][0].as_str().unwrap();
    assert_eq!(
        line,
        "ceph auth caps client.needy mon 'profile rbd' mgr 'profile rbd' osd 'profile rbd pool=images, \
         profile rbd pool=volumes'"
    );
    // The line, given to Ceph as it is printed.
    let words: Vec<_> = line
        .split('\'')
        .flat_map(|part| {
            let quoted = part.starts_with("profile");
            if quoted {
                vec![part.to_owned()]
            } else {
                part.split_whitespace().map(str::to_owned).collect()
            }
        })
        .collect();
    let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
    ceph.admin(&words);
    let told = ask(&["--for-cinder=volumes"]).done();
    for line in [
        "store `ceph` (rbd): raw images of volumes are clones inside it",
        "    given: it may read and write images, volumes;",
        "      ceph auth caps client.cinder mon 'profile rbd' mgr 'profile rbd pool=volumes' osd 'profile rbd \
         pool=volumes, profile rbd-read-only pool=images'",
        "      volume_driver = imaged.cinder.RBDDriver",
        "      enable_clone_optimization = true",
        "      imaged_socket = /run/here.sock",
        "      imaged_store = ceph",
        "store `fast` (file): images of volumes are streamed into it",
        "      roles = glance:admin, cinder:service",
        "    given: cinder has it;",
        "      openstack role add --user cinder --project service service",
        "      send_service_user_token = true",
        "Who has the role service at Glance can give a queued image any location",
    ] {
        assert!(told.text().contains(line), "{line}\n{}", told.text());
    }
    // It has changed nothing, and a daemon makes an image by these caps.
    assert_eq!((ceph.images(), ceph.volumes()), (Vec::new(), Vec::new()));
    ceph.volume("volume-1", b"bytes");
    let daemon = Daemon::start(&config.replace("socket = /run/here.sock\n", ""));
    let body = format!(r#"{{"source": {{"rbd_volume": "{VOLUMES}/volume-1"}}, "mode": "clone"}}"#);
    let path = "/v1/stores/ceph/images/x";
    assert_eq!(Raw::ask(&daemon.socket, "POST", path, body.as_bytes()).status, 201);
    assert_eq!(daemon.ask("DELETE", path).status, 204);
    daemon.wait_until_idle();
    drop(daemon);
    // Pools that there are not, and one that it may not use.
    let none = ask(&["--for-cinder=volumes,volumse,small", "--json"]);
    assert_eq!(none.code, 1, "{none:?}");
    let found = none.json();
    let why = needs(&found, "ceph")["needs"][0]["why"].as_str().unwrap();
    for part in
        ["the cluster has no pool `volumse`", "--for-cinder=POOL", "may not read the pool `small`"]
    {
        assert!(why.contains(part), "{part}: {why}");
    }
    ceph.admin(&["auth", "rm", "client.needy"]);
    // One that Ceph does not let in is told what to be given all the same.
    let down = ask(&["--for-cinder", "--json"]);
    assert_eq!(down.code, 1, "{down:?}");
    let found = down.json();
    assert!(found["problems"][0].as_str().unwrap().contains("store `ceph` is down"), "{found}");
    let caps = &needs(&found, "ceph")["needs"][0];
    assert_eq!((&caps["state"], &caps["lines"][0]), (&"not-checked".into(), &line.into()));
    fs::remove_file(keyring).unwrap();
}

#[test]
fn what_is_needed_for_clones_inside_cinder_is_asked_of_cinder() {
    let folder = tempfile::tempdir().unwrap();
    let cinder = Cinder::nfs(folder.path());
    let config = |kind: &str| {
        format!(
            "[DEFAULT]\nenabled_backends = volumes:cinder\n[imaged]\nroles = 34:service\n\
             [volumes]\n{}cinder_volume_type = {kind}\n",
            cinder.login()
        )
    };
    let found = check(home(&config(TYPE)).path(), &["--for-cinder", "--json"], b"").done().json();
    let needed = needs(&found, "volumes");
    assert_eq!(needed["cloned"], true);
    let states = |needed: &serde_json::Value| {
        let needs = needed["needs"].as_array().unwrap();
        needs.iter().map(|need| need["state"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(states(needed), ["given", "given", "given", "not-checked"]);
    let lines = needed["needs"][3]["lines"].as_array().unwrap();
    for line in [
        "cinder_internal_tenant_project_id = PROJECT_ID",
        "image_upload_use_cinder_backend = true",
        "imaged_store = volumes",
    ] {
        assert!(lines.contains(&line.into()), "{line}: {lines:?}");
    }
    // A type that there is not, and a project that has no room.
    cinder.limit(1, 10);
    cinder.place("somebody's", 1, &[]);
    let lacking = check(home(&config("none")).path(), &["--for-cinder", "--json"], b"");
    assert_eq!(lacking.code, 1, "{lacking:?}");
    let found = lacking.json();
    let needed = needs(&found, "volumes");
    assert_eq!(states(needed), ["given", "missing", "missing", "not-checked"]);
    assert!(
        needed["needs"][1]["why"].as_str().unwrap().contains("no volume type none"),
        "{needed}"
    );
    assert!(needed["needs"][2]["why"].as_str().unwrap().contains("1 of 1 volumes"), "{needed}");
    // A login that is refused.
    let refused = config(TYPE).replace(SECRET, "wrong");
    let refused = check(home(&refused).path(), &["--for-cinder", "--json"], b"");
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(!refused.text().contains("wrong"), "{refused:?}");
    assert_eq!(states(needs(&refused.json(), "volumes")), ["not-checked"; 4]);
}

#[test]
fn the_caps_of_the_clusters_own_administrator_are_never_replaced() {
    let config = "[DEFAULT]\nenabled_backends = ceph:rbd\n[glance_store]\ndefault_backend = ceph\n[ceph]\n\
                  rbd_store_user = admin\nrbd_store_ceph_conf = {dir}/none.conf\n";
    let ran = check(home(config).path(), &["--for-cinder", "--json"], b"");
    assert!(!ran.text().contains("ceph auth caps client.admin"), "{ran:?}");
    let found = ran.json();
    let caps = &needs(&found, "ceph")["needs"][0];
    assert_eq!(
        caps["lines"][0],
        "ceph auth get-or-create client.glance mon 'profile rbd' mgr 'profile rbd' osd 'profile rbd \
         pool=images, profile rbd pool=volumes'"
    );
    assert!(caps["what"].as_str().unwrap().contains("rbd_store_user = glance"), "{caps}");
}

#[test]
fn bad_words_for_cinder_are_refused_with_what_to_write() {
    let home = home(CONFIG);
    let ran = check(home.path(), &["--for-cinder"], b"");
    assert_eq!((ran.code, ran.text()), (1, ""), "{ran:?}");
    assert!(ran.err.contains("no store of this configuration is of type rbd or cinder"), "{ran:?}");
    let json = check(home.path(), &["--for-cinder", "--json"], b"");
    assert_eq!((json.code, &json.json()["for_cinder"]), (1, &serde_json::Value::Null));
    for words in
        ["--for-cinder=", "--for-cinder=a,,b", "--for-cinder=pool/volume", "--for-cinder=a b"]
    {
        let ran = check(home.path(), &[words], b"");
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains("as in --for-cinder=volumes,fast"), "{ran:?}");
    }
    for words in [&["--for-cinder", "volumes"][..], &["--for-cinder", "--locations", "-"]] {
        assert_eq!(check(home.path(), words, b"").code, 2);
    }
    // A configuration that cannot be read.
    fs::write(home.path().join("conf"), "[DEFAULT]\nenabled_backends = a:nfs\n").unwrap();
    let ran = check(home.path(), &["--for-cinder"], b"");
    assert_eq!(ran.code, 1, "{ran:?}");
    for part in ["no such type of store", "the configuration cannot be read; mend that first"] {
        assert!(ran.err.contains(part), "{ran:?}");
    }
}

#[test]
fn a_role_that_nobody_has_is_missing_and_its_line_keeps_the_others() {
    let config = "[DEFAULT]\nenabled_backends = ceph:rbd\n[imaged]\nroles = glance:admin, 42:reader\n\
                  [ceph]\nrbd_store_ceph_conf = /nonexistent\nimaged_flatten = false\n\
                  rbd_store_data_pool = ec\nimaged_also_pools = old\nrbd_store_pool = volumes\n";
    let found =
        check(home(config).path(), &["--for-cinder=volumes,fast,fast", "--json"], b"").json();
    let role = &found["for_cinder"]["needs"][0];
    assert_eq!(role["state"], "missing", "{role}");
    assert_eq!(role["lines"][1], "roles = glance:admin, 42:reader, cinder:service");
    // Each pool once, the store's own among the volumes' too.
    let needed = &needs(&found, "ceph")["needs"];
    let osd = "osd 'profile rbd pool=volumes, profile rbd pool=ec, profile rbd pool=old, profile rbd pool=fast'";
    assert!(needed[0]["lines"][0].as_str().unwrap().ends_with(osd), "{needed}");
    let osd = "osd 'profile rbd pool=volumes, profile rbd pool=fast'";
    assert!(needed[1]["lines"][0].as_str().unwrap().ends_with(osd), "{needed}");
}
