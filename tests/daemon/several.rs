//! One body to several stores, over the socket.

use std::{fs::File, io::Write as _, os::fd::AsFd as _, thread};

use imaged::point::POINTS;
use serde_json::Value;

use crate::harness::{
    daemon::{Daemon, HANGING, STORES, noise},
    raw::{Answer, Raw},
    stores::plain::Plain,
};

const MIB: usize = 1 << 20;

fn put(daemon: &Daemon, query: &str, body: &[u8]) -> Answer {
    Raw::ask(&daemon.socket, "PUT", &format!("/v1/images/x?{query}"), body)
}

/// The code of each store's problem, or nothing for a receipt.
fn codes(results: &Value) -> Vec<(String, String)> {
    let results = results["results"].as_array().unwrap();
    let one = |one: &Value| {
        let code = one["problem"]["code"].as_str().unwrap_or_default();
        assert_eq!(code.is_empty(), one["receipt"]["store"] == one["store"], "{one}");
        (one["store"].as_str().unwrap().to_owned(), code.to_owned())
    };
    results.iter().map(one).collect()
}

fn pairs<const N: usize>(codes: [(&str, &str); N]) -> Vec<(String, String)> {
    codes.map(|(store, code)| (store.to_owned(), code.to_owned())).to_vec()
}

fn delete(daemon: &Daemon, store: &str) -> u16 {
    daemon.ask("DELETE", &format!("/v1/stores/{store}/images/x")).status
}

#[test]
fn one_body_goes_to_several_stores_and_the_answer_says_what_became_of_it() {
    let daemon = Daemon::start(STORES);
    let image = noise(5 * MIB + 7, 61);
    let all = put(&daemon, "stores=fast,cheap,small&hash_algo=sha256", &image);
    assert_eq!(all.status, 201, "{all:?}");
    let results = all.json();
    assert_eq!(codes(&results), pairs([("fast", ""), ("cheap", ""), ("small", "")]));
    for store in ["fast", "cheap", "small"] {
        assert!(daemon.get(store, "x").body == image, "{store}");
    }
    let receipts = results["results"].as_array().unwrap();
    for one in receipts {
        let receipt = &one["receipt"];
        assert_eq!(receipt["hash_algo"], "sha256");
        assert_eq!(receipt["hash_value"], receipts[0]["receipt"]["hash_value"]);
        assert_eq!(receipt["checksum"], receipts[0]["receipt"]["checksum"]);
    }
    assert_eq!(delete(&daemon, "fast"), 204);
    let some = put(&daemon, "stores=fast,cheap", &image);
    assert_eq!(some.status, 207, "{some:?}");
    assert_eq!(codes(&some.json()), pairs([("fast", ""), ("cheap", "Exists")]));
    let none = put(&daemon, "stores=small,cheap", &image);
    assert_eq!((none.status, none.code()), (409, "Exists".to_owned()));
    assert_eq!(codes(&none.json()), pairs([("small", "Exists"), ("cheap", "Exists")]));
    assert_eq!(delete(&daemon, "fast"), 204);
    let none = put(&daemon, "stores=fast,cheap&all_or_none=true", &image);
    assert_eq!((none.status, none.code()), (409, "Exists".to_owned()));
    assert_eq!(codes(&none.json()), pairs([("fast", "Exists"), ("cheap", "Exists")]));
    assert!(none.detail().contains("store=`cheap`"), "{}", none.detail());
    assert_eq!(daemon.get("fast", "x").status, 404);
    assert!(daemon.get("cheap", "x").body == image);
    for store in ["cheap", "small"] {
        assert_eq!(delete(&daemon, store), 204);
    }
    daemon.assert_empty();
}

#[test]
fn a_store_that_is_full_fails_for_itself() {
    let daemon = Daemon::start(STORES);
    let image = noise(9 * MIB, 62);
    for size in ["content-length", "chunked"] {
        let mut raw = Raw::connect(&daemon.socket);
        let path = "/v1/images/x?stores=small,fast,cheap";
        if size == "chunked" {
            raw.head("PUT", path, "transfer-encoding: chunked\r\n");
            image.chunks(MIB).for_each(|chunk| raw.chunk(chunk));
            raw.send(b"0\r\n\r\n");
        } else {
            raw.head("PUT", path, &format!("content-length: {}\r\n", image.len()));
            raw.send(&image);
        }
        let some = raw.answer("PUT");
        assert_eq!(some.status, 207, "{size}: {some:?}");
        assert_eq!(codes(&some.json()), pairs([("small", "Full"), ("fast", ""), ("cheap", "")]));
        for store in ["fast", "cheap"] {
            assert!(daemon.get(store, "x").body == image, "{size} {store}");
            assert_eq!(delete(&daemon, store), 204);
        }
        let none = put(&daemon, "stores=fast,small,cheap&all_or_none=true", &image);
        assert_eq!((none.status, none.code()), (507, "Full".to_owned()), "{size}");
        daemon.assert_empty();
    }
}

#[test]
fn what_cannot_begin_is_refused_before_a_byte_is_asked_for() {
    let daemon = Daemon::start(STORES);
    assert_eq!(daemon.put("fast", "x", b"taken").status, 201);
    assert_eq!(daemon.put("cheap", "x", b"taken").status, 201);
    for (query, status) in [
        ("stores=fast,cheap", 409),
        ("stores=fast,small&all_or_none=true", 409),
        ("stores=fast,fast", 400),
        ("stores=fast,nowhere", 400),
        ("stores=", 400),
        ("stores=fast,,small", 400),
        ("all_or_none=true", 400),
        ("stores=small&all_or_none=maybe", 400),
    ] {
        let mut raw = Raw::connect(&daemon.socket);
        let path = format!("/v1/images/x?{query}");
        raw.head("PUT", &path, "content-length: 9\r\nexpect: 100-continue\r\n");
        assert_eq!(raw.read_head().unwrap().0, status, "{query}");
    }
    let nowhere = put(&daemon, "stores=fast,nowhere", b"x");
    assert!(nowhere.detail().contains("store=`nowhere`"), "{}", nowhere.detail());
    let conditions = "content-length: 1\r\nif-match: *\r\n";
    let mut raw = Raw::connect(&daemon.socket);
    raw.head("PUT", "/v1/images/y?stores=fast,small", conditions);
    assert_eq!(raw.read_head().unwrap().0, 412);
    let mut raw = Raw::connect(&daemon.socket);
    raw.head(
        "PUT",
        "/v1/images/y?stores=fast,small",
        "content-length: 3\r\nexpect: 100-continue\r\n",
    );
    assert_eq!(raw.read_head().unwrap().0, 100);
    raw.send(b"abc");
    assert_eq!(raw.answer("PUT").status, 201);
}

#[test]
fn a_descriptor_and_a_promise_serve_several_stores() {
    let daemon = Daemon::start(STORES);
    let image = noise(6 * MIB + 5, 63);
    std::fs::write(daemon.path("image"), &image).unwrap();
    let file = File::open(daemon.path("image")).unwrap();
    let pass = |headers: &str| {
        let mut raw = Raw::connect(&daemon.socket);
        let headers = format!("imaged-body: fd\r\ncontent-length: 0\r\n{headers}");
        let path = "/v1/images/x?stores=fast,small";
        raw.head_with("PUT", path, &headers, &[file.as_fd()]);
        std::io::Seek::rewind(&mut &file).unwrap();
        raw.answer("PUT")
    };
    let other = pass("repr-digest: md5=:kAFQmDzST7DWlj99KOF/cg==:\r\n");
    assert_eq!((other.status, other.code()), (422, "Mismatch".to_owned()));
    assert_eq!(codes(&other.json()), pairs([("fast", "Mismatch"), ("small", "Mismatch")]));
    let stored = pass("");
    assert_eq!(stored.status, 201, "{stored:?}");
    for store in ["fast", "small"] {
        assert!(daemon.get(store, "x").body == image, "{store}");
    }
    let jobs = daemon.ask("GET", "/v1/jobs").json();
    let of = |n: usize| (jobs["jobs"][n]["state"].clone(), jobs["jobs"][n]["done"].clone());
    assert_eq!(of(0).0, "failed", "{jobs}");
    assert_eq!(of(1), ("done".into(), image.len().into()), "{jobs}");
}

#[test]
fn a_caller_that_leaves_leaves_nothing_in_any_store() {
    let daemon = Daemon::start(STORES);
    for all_or_none in [false, true] {
        let mut raw = Raw::connect(&daemon.socket);
        let path = format!("/v1/images/x?stores=fast,cheap,small&all_or_none={all_or_none}");
        raw.head("PUT", &path, "content-length: 7000000\r\n");
        raw.send(&noise(6 * MIB, 64));
        drop(raw);
        daemon.wait_until("all three have ended", |daemon| {
            daemon.log().matches("refused").count() == if all_or_none { 6 } else { 3 }
        });
        daemon.wait_until_idle();
        daemon.assert_empty();
        let small = daemon.ask("GET", "/v1/stores/small").json();
        assert_eq!(small["capacity"]["used"], 0);
    }
}

#[test]
fn several_stores_share_the_memory_of_one_window() {
    let config = STORES.replace("mem_capacity = 8388608", "mem_capacity = 83886080");
    let daemon = Daemon::start(&format!("{config}[imaged]\nput_window_mib = 8\n"));
    let image = noise(64 * MIB, 65);
    thread::scope(|scope| {
        let storing = scope.spawn(|| put(&daemon, "stores=fast,cheap,small", &image));
        let mut most = 0;
        while !storing.is_finished() {
            most = most.max(daemon.held_memory());
        }
        assert_eq!(storing.join().unwrap().status, 201);
        assert!(most > 0 && most <= 8 * MIB as u64, "{most}");
    });
    daemon.wait_until("all memory is back", |daemon| daemon.held_memory() == 0);
}

#[test]
fn a_store_that_hangs_ends_by_its_own_deadline_and_loses_no_other() {
    thread::scope(|scope| {
        for call in ["create", "write", "fsync"] {
            for all_or_none in [false, true] {
                scope.spawn(move || hang(call, all_or_none));
            }
        }
    });
}

/// Puts into a store in which `call` hangs, and into one that is well.
fn hang(call: &str, all_or_none: bool) {
    let what = format!("{call}, {all_or_none}");
    let image = noise(40 * MIB + 3, 66);
    let home = Daemon::home();
    let daemon;
    let plain = Plain::mount(&home.path().join("fast"), "links");
    daemon = Daemon::start_in(home, &format!("{HANGING}[imaged]\nput_window_mib = 8\n"), &[]);
    plain.hang(call);
    let query = format!("stores=fast,cheap&all_or_none={all_or_none}");
    let stored = put(&daemon, &query, &image);
    if all_or_none {
        assert_eq!((stored.status, stored.code()), (504, "Timeout".into()), "{what}");
        let wanted = pairs([("fast", "Timeout"), ("cheap", "Timeout")]);
        assert_eq!(codes(&stored.json()), wanted, "{what}");
        assert_eq!(daemon.files("cheap"), [""; 0], "{what}");
    } else {
        assert_eq!(stored.status, 207, "{what}: {stored:?}");
        let wanted = pairs([("fast", "Timeout"), ("cheap", "")]);
        assert_eq!(codes(&stored.json()), wanted, "{what}");
        assert!(daemon.get("cheap", "x").body == image, "{what}");
        assert_eq!(delete(&daemon, "cheap"), 204, "{what}");
    }
    plain.free();
    daemon.wait_until_idle();
    // A commit that answered late may have come to be.
    if daemon.get("fast", "x").status == 200 {
        assert_eq!(call, "fsync", "{what}");
        assert!(daemon.get("fast", "x").body == image, "{what}");
        assert_eq!(delete(&daemon, "fast"), 204, "{what}");
    }
    daemon.assert_empty();
}

#[test]
fn a_daemon_killed_at_any_point_leaves_each_store_the_whole_image_or_nothing() {
    let image = noise(9 * MIB + 11, 67);
    for all_or_none in [false, true] {
        for point in POINTS {
            let what = format!("{point}, {all_or_none}");
            let mut daemon = Daemon::start_in(Daemon::home(), STORES, &[("IMAGED_KILL_AT", point)]);
            let mut raw = Raw::connect(&daemon.socket);
            let path = format!("/v1/images/x?stores=fast,cheap&all_or_none={all_or_none}");
            raw.head("PUT", &path, &format!("content-length: {}\r\n", image.len()));
            // The daemon dies in the middle of this.
            let _sent = raw.stream.write_all(&image);
            assert!(raw.read_head().is_none(), "{what}: the daemon answered before it died");
            assert!(!daemon.wait().success());
            let daemon = daemon.restart(&[]);
            daemon.wait_until_idle();
            let mut whole = 0;
            for store in ["fast", "cheap"] {
                let found = daemon.get(store, "x");
                if found.status == 200 {
                    assert!(found.body == image, "{what}: {store}");
                    assert_eq!(delete(&daemon, store), 204, "{what}: {store}");
                    whole += 1;
                }
            }
            let committed = matches!(point, "put-committed" | "put-cleared");
            assert_eq!(whole > 0, committed, "{what}");
            daemon.assert_empty();
            assert_eq!(put(&daemon, "stores=fast,cheap", b"again").status, 201, "{what}");
        }
    }
}

fn copy(daemon: &Daemon, id: &str, wanted: &Value) -> Answer {
    Raw::ask(&daemon.socket, "POST", &format!("/v1/images/{id}"), wanted.to_string().as_bytes())
}

#[test]
fn an_image_is_copied_to_several_stores_in_one_pass() {
    let daemon = Daemon::start(STORES);
    let image = noise(5 * MIB + 7, 63);
    let put = daemon.put("cheap", "y", &image);
    let (receipt, from) = (put.json(), put.json()["location"].clone());
    let source = serde_json::json!({"location": from, "store": "cheap"});
    let wanted = serde_json::json!({"source": source, "stores": ["fast", "cheap"]});
    let all = copy(&daemon, "x", &wanted);
    assert_eq!(all.status, 201, "{all:?}");
    assert_eq!(codes(&all.json()), pairs([("fast", ""), ("cheap", "")]));
    for one in all.json()["results"].as_array().unwrap() {
        assert_eq!(one["receipt"]["hash_value"], receipt["hash_value"]);
    }
    for store in ["fast", "cheap"] {
        assert!(daemon.get(store, "x").body == image, "{store}");
    }
    assert_eq!(delete(&daemon, "fast"), 204);
    let some = copy(&daemon, "x", &wanted);
    assert_eq!(
        (some.status, codes(&some.json())),
        (207, pairs([("fast", ""), ("cheap", "Exists")]))
    );
    assert_eq!(delete(&daemon, "fast"), 204);
    let mut together = wanted;
    together["all_or_none"] = true.into();
    let none = copy(&daemon, "x", &together);
    assert_eq!((none.status, none.code()), (409, "Exists".to_owned()));
    assert_eq!(daemon.get("fast", "x").status, 404);
    assert_eq!(delete(&daemon, "cheap"), 204);
    assert_eq!(daemon.ask("DELETE", "/v1/stores/cheap/images/y").status, 204);
    daemon.assert_empty();
}

/// A hole is passed on as one to whoever keeps holes, and as zeros to whoever keeps bytes.
#[test]
fn a_sparse_image_is_copied_to_stores_with_and_without_holes_in_one_pass() {
    let daemon = Daemon::start(STORES);
    let mut image = vec![0; 7 * MIB + 5];
    image[2 * MIB..2 * MIB + 1000].copy_from_slice(&noise(1000, 64));
    let put = daemon.put("cheap", "y", &image).json();
    let source = serde_json::json!({"location": put["location"], "store": "cheap"});
    let wanted = serde_json::json!({"source": source, "stores": ["small", "fast"]});
    let all = copy(&daemon, "x", &wanted);
    assert_eq!(all.status, 201, "{all:?}");
    for one in all.json()["results"].as_array().unwrap() {
        let receipt = &one["receipt"];
        for digest in ["checksum", "hash_value", "size"] {
            assert_eq!(receipt[digest], put[digest], "{one}");
        }
        let stored = receipt["stored_bytes"].as_u64().unwrap();
        match one["store"].as_str() {
            Some("small") => assert_eq!(stored, image.len() as u64, "{one}"),
            _ => assert!(stored < MIB as u64, "{one}"),
        }
        assert!(daemon.get(one["store"].as_str().unwrap(), "x").body == image, "{one}");
    }
}

#[test]
fn a_copy_to_several_that_cannot_be_is_refused_with_the_remedy() {
    let daemon = Daemon::start(STORES);
    let from = daemon.put("cheap", "y", b"image").json()["location"].clone();
    let missing = from.as_str().unwrap().replace("/y", "/z");
    for (wanted, status, told) in [
        (serde_json::json!({"source": {"location": from}}), 400, "no store is named"),
        (
            serde_json::json!({"source": {"location": from}, "stores": ["fast", "fast"]}),
            400,
            "twice",
        ),
        (serde_json::json!({"source": {"location": from}, "stores": ["nowhere"]}), 400, "nowhere"),
        (
            serde_json::json!({"source": {"location": from}, "stores": ["fast"], "mode": "clone"}),
            400,
            "auto or stream",
        ),
        (
            serde_json::json!({"source": {"location": missing, "store": "cheap"}, "stores": ["fast"]}),
            404,
            "",
        ),
    ] {
        let refused = copy(&daemon, "x", &wanted);
        assert_eq!(refused.status, status, "{wanted}: {refused:?}");
        assert!(refused.detail().contains(told), "{wanted}: {}", refused.detail());
        assert_eq!(daemon.get("fast", "x").status, 404);
    }
    let body = serde_json::json!({"source": {"location": from}, "stores": ["fast"]}).to_string();
    let one = Raw::ask(&daemon.socket, "POST", "/v1/stores/fast/images/x", body.as_bytes());
    assert!(one.status == 400 && one.detail().contains("POST /v1/images"), "{one:?}");
}
