//! Every route and every refusal of the protocol.

use std::{env, fs, io::Write as _, os::unix::fs::symlink};

use crate::harness::{
    daemon::{Daemon, STORES, noise},
    raw::Raw,
};

const MIB: usize = 1 << 20;

#[test]
fn an_image_is_put_read_looked_at_listed_and_deleted() {
    let daemon = Daemon::start(STORES);
    let image = noise(5 * MIB + 13, 1);
    let put = daemon.put("fast", "one", &image);
    assert_eq!(put.status, 201, "{put:?}");
    let receipt = put.json();
    let location = format!("file://{}", daemon.path("fast/one").display());
    assert_eq!(receipt["location"], location.as_str());
    assert_eq!(receipt["size"], image.len());
    assert_eq!(receipt["metadata"], serde_json::json!({"store": "fast"}));
    assert_eq!(receipt["hash_algo"], "sha512");
    assert_eq!(fs::read(daemon.path("fast/one")).unwrap(), image);

    let got = daemon.get("fast", "one");
    assert_eq!((got.status, got.whole), (200, true));
    assert!(got.body == image);
    assert_eq!(got.headers["accept-ranges"], "bytes");
    assert_eq!(got.headers["etag"], format!("\"{}\"", receipt["checksum"].as_str().unwrap()));
    assert!(got.headers["repr-digest"].contains("sha-512=:"));

    let head = daemon.ask("HEAD", "/v1/stores/fast/images/one");
    assert_eq!(head.headers["content-length"], image.len().to_string());
    assert_eq!(head.headers["content-location"], location);

    let list = daemon.ask("GET", "/v1/stores/fast/images");
    assert_eq!(list.headers["content-type"], "application/x-ndjson");
    let line: serde_json::Value = serde_json::from_slice(&list.body).unwrap();
    assert_eq!(line, serde_json::json!({"id": "one", "location": location, "size": image.len()}));

    let at =
        format!("/v1/stores/fast/images?at={}", location.replace(':', "%3A").replace('/', "%2F"));
    assert!(daemon.ask("GET", &at).body == image);
    assert_eq!(daemon.ask("HEAD", &at).status, 200);
    assert_eq!(daemon.ask("DELETE", &at).status, 204);
    assert_eq!(daemon.ask("DELETE", &at).code(), "NotFound");
    daemon.assert_empty();
}

#[test]
fn ranges_are_the_slices_they_name() {
    let daemon = Daemon::start(STORES);
    let image = noise(MIB + 5, 2);
    daemon.put("fast", "r", &image);
    let size = image.len();
    for (range, start, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=5-9", 5, 10),
        ("bytes=-7", size - 7, size),
        (&format!("bytes={}-", size - 1), size - 1, size),
        ("bytes=262140-262150", 262_140, 262_151),
        ("bytes=3-99999999", 3, size),
    ] {
        let mut raw = Raw::connect(&daemon.socket);
        raw.head("GET", "/v1/stores/fast/images/r", &format!("range: {range}\r\n"));
        let part = raw.answer("GET");
        assert_eq!(part.status, 206, "{range}");
        assert!(part.body == image[start..end], "{range}");
        assert_eq!(part.headers["content-range"], format!("bytes {start}-{}/{size}", end - 1));
    }
    let mut raw = Raw::connect(&daemon.socket);
    raw.head("GET", "/v1/stores/fast/images/r", &format!("range: bytes={size}-\r\n"));
    let outside = raw.answer("GET");
    assert_eq!((outside.status, outside.code()), (416, "Range".to_owned()));
    assert_eq!(outside.headers["content-range"], format!("bytes */{size}"));
    // A part is only given of the image that the caller has the rest of.
    let etag = &daemon.ask("HEAD", "/v1/stores/fast/images/r").headers["etag"];
    for (etag, status) in [(etag.as_str(), 206), ("\"another\"", 200)] {
        let headers = format!("range: bytes=5-9\r\nif-range: {etag}\r\n");
        raw.head("GET", "/v1/stores/fast/images/r", &headers);
        assert_eq!(raw.answer("GET").status, status, "{etag}");
    }
    // The connection is still good.
    raw.head("GET", "/v1/stores/fast/images/r", "range: bytes=1-2,4-5\r\n");
    assert_eq!(raw.answer("GET").code(), "Invalid");
    raw.head("GET", "/v1/stores/fast/images/r", "if-none-match: *\r\n");
    assert_eq!(raw.answer("GET").status, 304);
}

#[test]
fn every_refusal_has_its_status_and_code() {
    let daemon = Daemon::start(&format!("{STORES}[imaged]\nstall_timeout_s = 1\n"));
    daemon.put("fast", "taken", b"x");
    for (method, path, body, status, code) in [
        ("GET", "/v1/nothing", &b""[..], 404, "NotFound"),
        ("GET", "/v1/stores/none", b"", 404, "NotFound"),
        ("GET", "/v1/stores/fast/images/none", b"", 404, "NotFound"),
        ("DELETE", "/v1/stores/fast/images/none", b"", 404, "NotFound"),
        ("GET", "/v1/jobs/none", b"", 404, "NotFound"),
        ("PUT", "/v1/stores/fast/images/.hidden", b"x", 400, "Invalid"),
        ("PUT", "/v1/stores/fast/images/a%2Fb", b"x", 400, "Invalid"),
        ("PUT", "/v1/stores/fast/images/x?hash_algo=crc32", b"x", 400, "Invalid"),
        ("PUT", "/v1/stores/fast/images/x?colour=red", b"x", 400, "Invalid"),
        ("GET", "/v1/stores/fast/images?at=rbd%3A%2F%2Fx", b"", 400, "Invalid"),
        ("POST", "/v1/stores/fast/images/x", b"{", 400, "Invalid"),
        ("POST", "/v1/stores/fast/images/x", b"{\"source\":{}}", 400, "Invalid"),
        ("PUT", "/v1/stores/fast/images/taken", b"y", 409, "Exists"),
        ("PATCH", "/v1/stores", b"", 405, "Unsupported"),
        ("POST", "/v1/stores/fast/images/x", &[b' '; 70_000], 413, "TooLarge"),
        ("PUT", "/v1/stores/small/images/x", &[7; 9 * MIB], 507, "Full"),
    ] {
        let answer = Raw::ask(&daemon.socket, method, path, body);
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{method} {path}");
    }
    let patch = daemon.ask("PATCH", "/v1/stores/fast/images/x");
    assert_eq!(patch.headers["allow"], "GET, HEAD, PUT, POST, DELETE");
    let volume = br#"{"source":{"rbd_volume":"volumes/x"}}"#;
    let volume = Raw::ask(&daemon.socket, "POST", "/v1/stores/fast/images/x", volume);
    assert_eq!((volume.status, volume.code().as_str()), (405, "Unsupported"));
    assert_eq!(daemon.files("fast"), ["taken"]);
    assert_eq!(daemon.files("state/journal"), Vec::<String>::new());
}

#[test]
fn bodies_that_are_not_what_was_promised_store_nothing() {
    let daemon = Daemon::start(&format!("{STORES}[imaged]\nstall_timeout_s = 1\n"));
    let put = |headers: &str, body: &[u8]| {
        let mut raw = Raw::connect(&daemon.socket);
        raw.head("PUT", "/v1/stores/fast/images/x", headers);
        // A refusal may come before the body is through.
        let _sent = raw.stream.write_all(body);
        raw
    };
    // A promised digest that is another's.
    let md5_of_nothing = "repr-digest: md5=:1B2M2Y8AsgTpgAmY7PhCfg==:\r\n";
    let mut raw = put(&format!("content-length: 1\r\n{md5_of_nothing}"), b"x");
    let answer = raw.answer("PUT");
    assert_eq!((answer.status, answer.code().as_str()), (422, "Mismatch"));
    let crc = "content-length: 1\r\nrepr-digest: crc32=:AAAA:\r\n";
    assert_eq!(put(crc, b"x").answer("PUT").code(), "Invalid");
    // A size that is another's, told by two headers, or by a chunked body.
    let two = "content-length: 1\r\nx-openstack-image-size: 2\r\n";
    assert_eq!(put(two, b"x").answer("PUT").code(), "Invalid");
    for (said, code) in [("9", "Mismatch"), ("2", "Mismatch"), ("-1", "Invalid")] {
        let chunked = format!("transfer-encoding: chunked\r\nx-openstack-image-size: {said}\r\n");
        let mut raw = put(&chunked, b"3\r\nabc\r\n0\r\n\r\n");
        assert_eq!(raw.answer("PUT").code(), code, "{said}");
    }
    // One that stalls.
    let mut raw = put("content-length: 2\r\n", b"x");
    let answer = raw.answer("PUT");
    assert_eq!((answer.status, answer.code().as_str()), (504, "Timeout"));
    // Callers that leave, with known and unknown size, at the start and after a chunk.
    for (n, (headers, sent)) in [
        ("content-length: 9000000\r\n", 0),
        ("content-length: 9000000\r\n", 5 * MIB),
        ("transfer-encoding: chunked\r\n", 1),
        ("transfer-encoding: chunked\r\n", 5 * MIB),
    ]
    .into_iter()
    .enumerate()
    {
        let mut raw = Raw::connect(&daemon.socket);
        raw.head("PUT", &format!("/v1/stores/fast/images/gone{n}"), headers);
        if headers.starts_with("transfer") {
            raw.chunk(&vec![7; sent]);
        } else {
            raw.send(&vec![7; sent]);
        }
        drop(raw);
        daemon.wait_for_log(&format!("image=\"gone{n}\""));
    }
    daemon.wait_until_idle();
    let ranged = "content-length: 1\r\ncontent-range: bytes 0-0/5\r\n";
    assert_eq!(put(ranged, b"x").answer("PUT").code(), "Invalid");
    daemon.assert_empty();
    let right = "content-length: 1\r\nrepr-digest: md5=:ndTkYSaMgDT1yFZOFVxnpg==:\r\n";
    let answer = put(right, b"x").answer("PUT");
    assert_eq!(answer.status, 201, "{answer:?}");
}

#[test]
fn a_hundred_continue_is_given_only_when_bytes_are_wanted() {
    let daemon = Daemon::start(&format!("{STORES}[imaged]\nheader_timeout_s = 5\n"));
    daemon.put("fast", "taken", b"x");
    let expect = |path: &str| {
        let mut raw = Raw::connect(&daemon.socket);
        raw.head("PUT", path, "content-length: 3\r\nexpect: 100-continue\r\n");
        raw
    };
    for (path, status) in [
        ("/v1/stores/none/images/x", 404),
        ("/v1/stores/fast/images/taken", 409),
        ("/v1/stores/fast/images/x?hash_algo=none", 400),
    ] {
        assert_eq!(expect(path).answer("PUT").status, status, "{path}");
    }
    let mut raw = expect("/v1/stores/fast/images/x");
    assert_eq!(raw.read_head().unwrap().0, 100);
    raw.send(b"abc");
    assert_eq!(raw.answer("PUT").status, 201);
}

#[test]
fn a_callers_token_is_taken_once_and_shown_nowhere() {
    let daemon = Daemon::start(&format!("{STORES}[imaged]\nlog_level = trace\n"));
    let token = "gAAAAAB-of-a-caller";
    let put = |tokens: &str, id: &str| {
        let mut raw = Raw::connect(&daemon.socket);
        let path = format!("/v1/stores/fast/images/{id}");
        raw.head("PUT", &path, &format!("{tokens}content-length: 1\r\n"));
        raw.send(b"x");
        raw.answer("PUT")
    };
    let one = format!("X-Auth-Token: {token}\r\n");
    let answer = put(&one, "x");
    assert_eq!(answer.status, 201, "{answer:?}");
    let twice = put(&one.repeat(2), "y");
    assert_eq!((twice.status, twice.code()), (400, "Invalid".to_owned()));
    for shown in [daemon.log(), format!("{answer:?} {twice:?}")] {
        assert!(!shown.contains(token), "{shown}");
    }
    let metrics = daemon.ask("GET", "/metrics").body;
    assert!(!String::from_utf8(metrics).unwrap().contains(token));
}

#[test]
fn stores_tell_their_state_and_a_broken_one_harms_no_other() {
    let config = STORES.replace("small:mem", "small:mem, lost:file, later:vmware")
        + "[lost]\nfilesystem_store_datadir = {dir}/lost\n[later]\nvmware_server_host = fast\n";
    let daemon = Daemon::start(&config);
    let stores = daemon.ask("GET", "/v1/stores").json();
    let states: Vec<_> = stores["stores"]
        .as_array()
        .unwrap()
        .iter()
        .map(|store| (store["id"].as_str().unwrap(), store["state"].as_str().unwrap()))
        .collect();
    assert_eq!(
        states,
        [("fast", "up"), ("cheap", "up"), ("small", "up"), ("lost", "down"), ("later", "down")]
    );
    let lost = daemon.put("lost", "x", b"x");
    assert_eq!((lost.status, lost.code().as_str()), (503, "Unavailable"));
    assert!(lost.detail().contains("does not exist; mount it, or create it"), "{lost:?}");
    assert!(lost.headers.contains_key("retry-after"));
    assert!(daemon.put("later", "x", b"x").detail().contains("no driver"));
    assert_eq!(daemon.put("fast", "x", b"x").status, 201);
    let fast = daemon.ask("GET", "/v1/stores/fast").json();
    assert!(fast["capacity"]["total"].as_u64() > fast["capacity"]["available"].as_u64());
    assert_eq!(fast["properties"]["thin_provisioning"], true);
    // It comes back by itself once it can.
    fs::create_dir(daemon.path("lost")).unwrap();
    assert_eq!(daemon.ask("GET", "/v1/stores/lost").json()["state"], "up");
    assert_eq!(daemon.put("lost", "x", b"x").status, 201);
}

#[test]
fn nothing_outside_the_directories_can_be_read_or_deleted() {
    let daemon = Daemon::start(STORES);
    let secret = daemon.path("secret");
    fs::write(&secret, "secret").unwrap();
    symlink(&secret, daemon.path("fast/link")).unwrap();
    symlink(daemon.dir.path(), daemon.path("fast/dir")).unwrap();
    fs::create_dir(daemon.path("fast/sub")).unwrap();
    nix::unistd::mkfifo(&daemon.path("fast/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let base = daemon.dir.path().display();
    for path in [
        "/etc/passwd".to_owned(),
        format!("{base}/secret"),
        format!("{base}/fast/link"),
        format!("{base}/fast/dir/secret"),
        format!("{base}/fast/../secret"),
        format!("{base}/fast/sub"),
        format!("{base}/fast/fifo"),
        format!("{base}/fast"),
        format!("{base}/faster/x"),
        "/proc/self/environ".to_owned(),
    ] {
        for method in ["GET", "DELETE"] {
            let at = format!("/v1/stores/fast/images?at=file://{path}");
            let answer = daemon.ask(method, &at);
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (400, "Invalid"),
                "{method} {path}"
            );
        }
    }
    assert!(secret.exists() && daemon.path("fast/link").is_symlink());
}

#[test]
fn an_image_is_copied_between_stores_with_its_digests() {
    let daemon = Daemon::start(STORES);
    let image = noise(6 * MIB + 1, 3);
    let receipt = daemon.put("fast", "a", &image).json();
    let from = receipt["location"].as_str().unwrap();
    let copy = |store: &str, id: &str, from: &str, mode: &str| {
        let body = serde_json::json!({"source": {"location": from}, "mode": mode}).to_string();
        let path = format!("/v1/stores/{store}/images/{id}");
        Raw::ask(&daemon.socket, "POST", &path, body.as_bytes())
    };
    for (store, mode) in
        [("cheap", "auto"), ("cheap", "stream"), ("fast", "clone"), ("small", "auto")]
    {
        let id = format!("b-{mode}");
        let copied = copy(store, &id, from, mode);
        assert_eq!(copied.status, 201, "{mode}: {copied:?}");
        assert_eq!(copied.json()["hash_value"], receipt["hash_value"], "{mode}");
        assert!(daemon.get(store, &id).body == image, "{mode}");
    }
    assert_eq!(copy("cheap", "b-auto", from, "auto").code(), "Exists");
    assert_eq!(copy("small", "c", from, "clone").code(), "Unsupported");
    // One that something else wrote has no digests yet: they follow.
    fs::write(daemon.path("fast/foreign"), &image).unwrap();
    let foreign = format!("file://{}", daemon.path("fast/foreign").display());
    let copied = copy("cheap", "c", &foreign, "auto").json();
    let job = copied["digest_job"].as_str().unwrap();
    let job = daemon.ask("GET", &format!("/v1/jobs/{job}?wait=30")).json();
    assert_eq!(
        (job["state"].as_str().unwrap(), job["total"].as_u64().unwrap()),
        ("done", image.len() as u64)
    );
    let head = daemon.ask("HEAD", "/v1/stores/cheap/images/c");
    assert_eq!(head.headers["etag"], format!("\"{}\"", receipt["checksum"].as_str().unwrap()));
    let now = copy("cheap", "d", &foreign, "copy").json();
    assert_eq!(now["checksum"], receipt["checksum"]);
}

#[test]
fn health_metrics_and_the_description_are_told() {
    let daemon = Daemon::start(STORES);
    daemon.put("fast", "m", &noise(MIB, 1));
    assert_eq!(daemon.ask("GET", "/healthz").status, 200);
    let metrics = String::from_utf8(daemon.ask("GET", "/metrics").body).unwrap();
    for line in [
        "imaged_transfer_bytes_total{op=\"put\",store=\"fast\",outcome=\"done\"} 1048576",
        "imaged_store_up{store=\"small\"} 1",
        "imaged_journal_entries 0",
        "imaged_windows_bytes 0",
        "# EOF",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    let description = daemon.ask("GET", "/openapi.json").json();
    assert!(description["paths"]["/v1/stores/{store}/images/{id}"]["put"].is_object());
    let mut raw = Raw::connect(&daemon.socket);
    raw.head("GET", "/v1/stores", "x-request-id: mine-1\r\n");
    assert_eq!(raw.answer("GET").headers["x-request-id"], "mine-1");
    raw.head("GET", "/v1/stores", "x-request-id: \"bad id\"\r\n");
    assert!(raw.answer("GET").headers["x-request-id"].starts_with("req-"));
    daemon.wait_for_log("op=\"put\"");
    let line = daemon.log().lines().find(|l| l.contains("op=\"put\"")).unwrap().to_owned();
    for part in ["request=\"req-", "store=\"fast\"", "bytes=1048576", "mb_per_s=", "limit="] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

/// With `IMAGED_REWRITE=1` in the environment it writes the file instead.
#[test]
fn the_committed_description_is_what_the_daemon_answers() {
    let mut answer = Daemon::start(STORES).ask("GET", "/openapi.json").json();
    answer.sort_all_objects();
    let text = serde_json::to_string_pretty(&answer).unwrap() + "\n";
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/openapi.json");
    if env::var_os("IMAGED_REWRITE").is_some() {
        fs::write(file, text).unwrap();
        return;
    }
    let committed = fs::read_to_string(file).unwrap_or_default();
    let different = committed
        .lines()
        .zip(text.lines())
        .position(|(committed, answered)| committed != answered)
        .unwrap_or_else(|| committed.lines().count().min(text.lines().count()));
    assert!(
        committed == text,
        "conf/openapi.json, line {}: not what this daemon answers; if its interface was to change, \
         write the file anew and look at the difference:\n    \
         IMAGED_REWRITE=1 cargo test --test suite the_committed_description",
        different + 1,
    );
}

#[test]
fn what_cannot_be_looked_at_is_not_told_to_be_missing() {
    let daemon = Daemon::start(STORES);
    let receipt = daemon.put("cheap", "x", b"image").json();
    fs::rename(daemon.path("cheap"), daemon.path("away")).unwrap();
    let body = serde_json::json!({"source": {"location": receipt["location"]}}).to_string();
    let copied = Raw::ask(&daemon.socket, "POST", "/v1/stores/fast/images/y", body.as_bytes());
    assert_eq!(copied.code(), "Unavailable");
    assert_eq!(daemon.ask("GET", "/v1/stores/cheap/images").code(), "Unavailable");
    fs::rename(daemon.path("away"), daemon.path("cheap")).unwrap();
}

#[test]
fn a_size_that_no_store_can_hold_is_the_callers_fault() {
    let daemon = Daemon::start(STORES);
    for size in ["9223372036854775808", "18446744073709551613"] {
        for headers in [
            format!("content-length: {size}\r\n"),
            format!("x-openstack-image-size: {size}\r\ntransfer-encoding: chunked\r\n"),
            format!("x-openstack-image-size: 9{size}\r\ntransfer-encoding: chunked\r\n"),
        ] {
            let mut raw = Raw::connect(&daemon.socket);
            raw.head("PUT", "/v1/stores/fast/images/x", &headers);
            assert_eq!(raw.read_head().unwrap().0, 413, "{headers}");
        }
    }
    let mut raw = Raw::connect(&daemon.socket);
    raw.head("PUT", "/v1/stores/fast/images/x", "content-length: 9223372036854775808\r\n");
    assert_eq!(raw.answer("PUT").code(), "TooLarge");
    daemon.assert_empty();
}

#[test]
fn a_job_that_somebody_ended_is_not_to_be_tried_again() {
    let daemon = Daemon::start(STORES);
    let source = fs::File::create(daemon.path("cheap/source")).unwrap();
    source.set_len(200 << 30).unwrap();
    let at = format!("file://{}", daemon.path("cheap/source").display());
    let body = serde_json::json!({"source": {"location": at}, "mode": "copy"}).to_string();
    let mut raw = Raw::connect(&daemon.socket);
    raw.head("POST", "/v1/stores/fast/images/x", &format!("content-length: {}\r\n", body.len()));
    raw.send(body.as_bytes());
    let running = |daemon: &Daemon| {
        let jobs = daemon.ask("GET", "/v1/jobs").json();
        let running = jobs["jobs"].as_array().unwrap().iter().find(|job| {
            job["state"] == "running" && job["id"].as_str().unwrap().starts_with("digest")
        });
        running.map(|job| job["id"].as_str().unwrap().to_owned())
    };
    daemon.wait_until("its digests are computed", |daemon| running(daemon).is_some());
    let job = running(&daemon).unwrap();
    assert_eq!(daemon.ask("DELETE", &format!("/v1/jobs/{job}")).status, 204);
    let answer = raw.answer("POST");
    assert_eq!((answer.status, answer.code()), (422, "Mismatch".to_owned()), "{answer:?}");
    assert!(!answer.headers.contains_key("retry-after"));
    fs::remove_file(daemon.path("cheap/source")).unwrap();
    daemon.assert_empty();
}
