//! Stores of type rbd, as the cluster shows them.

use std::{
    os::unix::fs::{FileExt as _, MetadataExt as _},
    process::Command,
};

use bytes::Bytes;
use imaged::wire::extents::Decoder;
use imaged_drivers::{Extent, Recovered};
use serde_json::Value;

use super::extents::ACCEPT;
use crate::harness::{
    daemon::{Daemon, IMAGED, noise},
    raw::Raw,
    stores::{
        self,
        ceph::{Ceph, POOL},
        claim,
    },
};

#[test]
fn images_have_the_size_features_and_pool_that_the_section_says() {
    let ceph = Ceph::up();
    let options = ceph.options();
    let daemon = Daemon::start(&format!(
        "[DEFAULT]\nenabled_backends = plain:rbd, set:rbd\n[glance_store]\ndefault_backend = plain\n\
         [backend_defaults]\n{options}\n[plain]\n[set]\nrbd_store_data_pool = small\n\
         rbd_store_features = layering,exclusive-lock\nrbd_store_chunk_size = 4\n"
    ));
    let image = noise(9_000_001, 95);
    for store in ["plain", "set"] {
        assert_eq!(daemon.put(store, store, &image).status, 201);
        assert!(daemon.get(store, store).body == image);
    }
    let (plain, set) = (ceph.info("plain"), ceph.info("set"));
    for info in [&plain, &set] {
        assert_eq!(info["size"], image.len());
    }
    assert_eq!((&plain["order"], &plain["data_pool"]), (&23.into(), &Value::Null));
    let all = ["layering", "exclusive-lock", "object-map", "fast-diff", "deep-flatten"];
    assert_eq!(plain["features"], Value::from(&all[..]));
    assert_eq!((&set["order"], &set["data_pool"]), (&22.into(), &"small".into()));
    assert_eq!(set["features"], Value::from(&["layering", "exclusive-lock", "data-pool"][..]));
    let facts = daemon.ask("GET", "/v1/stores/set").json();
    let fsid = ceph.fsid();
    assert_eq!(facts["properties"]["fsid"], fsid.as_str());
    assert_eq!(facts["properties"]["pool"], POOL);
    assert_eq!(facts["properties"]["chunk_size"], 4 << 20);
    assert_eq!(facts["properties"]["thin_provisioning"], true);
    for store in ["plain", "set"] {
        let gone = daemon.ask("DELETE", &format!("/v1/stores/{store}/images/{store}"));
        assert_eq!(gone.status, 204);
    }
    for pool in [POOL, "small"] {
        ceph.assert_empty_pool(pool);
    }
}

/// What holes cost, from one end to the other: neither reading, nor sending, nor writing.
#[test]
fn a_sparse_image_costs_what_it_holds_whichever_way_it_goes() {
    let ceph = Ceph::up();
    let options = ceph.options();
    let daemon = Daemon::start(&format!(
        "[DEFAULT]\nenabled_backends = fast:rbd, thick:rbd, dir:file\n[glance_store]\n\
         default_backend = fast\n[fast]\n{options}\n[thick]\n{options}\n\
         rbd_thin_provisioning = false\n[dir]\nfilesystem_store_datadir = {{dir}}/fast\n"
    ));
    let (size, some) = ((96_u64 << 20) + 4097, noise(100_000, 97));
    let source = daemon.path("source");
    let file = std::fs::File::create(&source).unwrap();
    file.set_len(size).unwrap();
    file.write_all_at(&some, 41 << 20).unwrap();
    file.write_all_at(&some[..7], size - 7).unwrap();
    let image = std::fs::read(&source).unwrap();
    let run = |words: &str| {
        let mut command = Command::new(IMAGED);
        let ran = command.args(words.split_whitespace()).env("IMAGED_SOCKET", &daemon.socket);
        let ran = ran.output().unwrap();
        assert!(ran.status.success(), "{words}: {ran:?}");
        String::from_utf8(ran.stdout).unwrap()
    };
    let stored = |receipt: String| {
        let receipt: Value = serde_json::from_str(&receipt).unwrap();
        assert_eq!(receipt["size"], size);
        receipt["stored_bytes"].as_u64().unwrap()
    };
    assert!(stored(run(&format!("put fast a {} --json", source.display()))) < 1 << 20);
    // To a file, whose holes are its filesystem's, from there to Ceph, and to where zeros are kept.
    let location = |store: &str, id: &str| {
        let head = daemon.ask("HEAD", &format!("/v1/stores/{store}/images/{id}"));
        head.headers["content-location"].clone()
    };
    let from = location("fast", "a");
    assert!(stored(run(&format!("copy dir b --from {from} --mode stream --json"))) < 1 << 20);
    assert!(daemon.path("fast/b").metadata().unwrap().blocks() * 512 < 1 << 20);
    let from = location("dir", "b");
    assert!(stored(run(&format!("copy fast c --from {from} --json"))) < 1 << 20);
    assert_eq!(stored(run(&format!("copy thick d --from {from} --json"))), size);
    for (store, id) in [("fast", "a"), ("dir", "b"), ("fast", "c"), ("thick", "d")] {
        assert!(daemon.get(store, id).body == image, "{store} {id}");
        let back = daemon.path("back");
        for words in ["", "--no-verify", "--range 5-"] {
            let told = run(&format!("get {store} {id} {} {words}", back.display()));
            assert!(told.contains("verified") == (words != "--range 5-"), "{told}");
            let from = if words == "--range 5-" { 5 } else { 0 };
            assert!(std::fs::read(&back).unwrap() == image[from..], "{store} {id} {words}");
            assert!(back.metadata().unwrap().blocks() * 512 < 2 << 20, "{store} {id} {words}");
        }
        let mut raw = Raw::connect(&daemon.socket);
        let path = format!("/v1/stores/{store}/images/{id}");
        raw.head("GET", &path, ACCEPT);
        let answer = raw.answer("GET");
        assert!(answer.whole && answer.status == 200);
        // Objects of 8 MiB have something or have nothing.
        let most = if store == "thick" { image.len() } else { 17 << 20 };
        assert!(answer.body.len() <= most, "{store} {id}: {}", answer.body.len());
        assert_eq!(daemon.ask("DELETE", &path).status, 204);
    }
    ceph.assert_empty();
}

/// An id may be the name of somebody else's image.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_ours_is_never_cleared_away() {
    let f = stores::rbd().await;
    let ceph = f.ceph.as_ref().unwrap();
    let (full, empty) = (f.id(), f.id());
    let file = f.home().join("file");
    std::fs::write(&file, noise(100_000, 96)).unwrap();
    ceph.rbd(&["import", &file.display().to_string(), &format!("{POOL}/{full}")]);
    ceph.rbd(&["create", "--size", "10M", &format!("{POOL}/{empty}")]);
    assert_eq!(f.driver.recover(&claim(&full), None).await.unwrap(), Recovered::Nothing);
    // A daemon that died between making an image and marking it leaves just this.
    assert!(matches!(f.driver.recover(&claim(&empty), None).await.unwrap(), Recovered::Removed(_)));
    assert_eq!(ceph.images(), [full.as_str()]);
    ceph.rbd(&["rm", &format!("{POOL}/{full}")]);
    f.assert_empty().await;
}

/// Without an object map Ceph is asked about each object, so not about all of a large image at once.
#[test]
fn a_large_image_without_an_object_map_is_read_as_what_it_holds() {
    const OBJECT: u64 = 8 << 20;
    const SIZE: u64 = 2560 * OBJECT + (4 << 20);
    let ceph = Ceph::up();
    let text = ceph.options();
    let daemon = Daemon::start(&format!(
        "[DEFAULT]\nenabled_backends = fast:rbd\n[glance_store]\ndefault_backend = fast\n[fast]\n{text}\n"
    ));
    let (named, size) = (format!("{POOL}/large"), format!("{}M", SIZE >> 20));
    let how = ["--object-size", "8M", "--image-feature", "layering"];
    ceph.rbd_must(&[&["create", "--size", &size], &how[..], &[&named]].concat());
    let info = ceph.info("large");
    let some = noise(5000, 96);
    let some_file = daemon.path("some");
    std::fs::write(&some_file, &some).unwrap();
    // At the first and the last, and on both sides of where the next part is asked about.
    let objects = [0, 1023, 1024, 2560];
    for number in objects {
        let object = format!("{}.{number:016x}", info["block_name_prefix"].as_str().unwrap());
        ceph.rados(&["put", &object, some_file.to_str().unwrap()]);
    }
    ceph.rbd_must(&["snap", "create", "--no-progress", &format!("{named}@snap")]);
    ceph.rbd_must(&["snap", "protect", &format!("{named}@snap")]);
    let mut raw = Raw::connect(&daemon.socket);
    let path = "/v1/stores/fast/images/large";
    for (from, to) in [(0, SIZE), (1024 * OBJECT - 7, 1024 * OBJECT + 7), (OBJECT, SIZE - 1)] {
        raw.head("GET", path, &format!("{ACCEPT}range: bytes={from}-{}\r\n", to - 1));
        let answer = raw.answer("GET");
        assert!(answer.whole && answer.status == 206, "{from}");
        if answer.headers["content-type"] == "application/octet-stream" {
            // A part that is not worth asking about.
            assert_eq!(answer.body.len() as u64, to - from);
            assert!(answer.body.ends_with(&some[..7]), "{from}");
            continue;
        }
        let mut decoder = Decoder::new(from..to);
        let (mut came, mut at, mut held) = (Bytes::from(answer.body), from, 0);
        while let Some(extent) = decoder.next(&mut came).unwrap() {
            if let Extent::Data(bytes) = &extent {
                for (n, byte) in bytes.iter().enumerate() {
                    let within = usize::try_from((at + n as u64) % OBJECT).unwrap();
                    assert_eq!(*byte, some.get(within).copied().unwrap_or(0), "{at} {n}");
                }
                held += extent.len();
            }
            at += extent.len();
        }
        assert!(decoder.is_over() && at == to, "{from}");
        assert!(held <= 4 * OBJECT, "{from}: {held}");
    }
    let file = daemon.path("got");
    let got = Command::new(IMAGED)
        .args(["get", "fast", "large"])
        .arg(&file)
        .env("IMAGED_SOCKET", &daemon.socket)
        .output()
        .unwrap();
    assert!(got.status.success(), "{got:?}");
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.size(), SIZE);
    assert!(metadata.blocks() * 512 < OBJECT, "{}", metadata.blocks());
    let file = std::fs::File::open(file).unwrap();
    for number in objects {
        let mut found = vec![0; some.len() + 1];
        file.read_exact_at(&mut found, number * OBJECT).unwrap();
        assert!(found[..some.len()] == some && found[some.len()] == 0, "{number}");
    }
    assert_eq!(daemon.ask("DELETE", path).status, 204);
    ceph.assert_empty();
}
