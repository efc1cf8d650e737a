//! Copies in a real cluster are made of what was opened, whatever else has its name.

use imaged_drivers::{Digests, Hold, Location, Span, window::CHUNK};
use serde_json::json;

use crate::harness::{
    daemon::{Daemon, noise},
    raw::Raw,
    stores::{
        self, assert_free, assert_reads,
        ceph::{Ceph, POOL},
        claim,
        content::{Look, digests, image},
        window,
    },
};

const OTHER: &str = "small";

/// Two stores in two pools of one cluster, `other` twice, as two users may see it.
fn daemon(ceph: &Ceph) -> Daemon {
    Daemon::start(&format!(
        "[DEFAULT]\nenabled_backends = fast:rbd, other:rbd, second:rbd, cheap:file\n\
         [glance_store]\ndefault_backend = fast\n\
         [fast]\n{}[other]\n{}[second]\n{}[cheap]\nfilesystem_store_datadir = {{dir}}/cheap\n",
        ceph.options(),
        ceph.options_of("glance", OTHER, 20),
        ceph.options_of("admin", OTHER, 20),
    ))
}

#[test]
fn a_location_that_names_no_pool_is_of_the_store_that_it_was_named_with() {
    let ceph = Ceph::up();
    let daemon = daemon(&ceph);
    // Of one name and one length, so that nothing but the bytes tells them apart.
    let (ours, theirs) = (noise(9_000_001, 71), noise(9_000_001, 72));
    assert_eq!(daemon.put("fast", "x", &ours).status, 201);
    assert_eq!(daemon.put("other", "x", &theirs).status, 201);
    let fsid = ceph.fsid();
    let full = format!("rbd://{fsid}/{OTHER}/x/snap");
    for (store, at) in [("other", "rbd://x"), ("second", "rbd://x"), ("other", full.as_str())] {
        for mode in ["auto", "clone", "copy", "stream"] {
            for target in ["fast", "other", "cheap"] {
                let what = format!("{at} of {store} to {target} by {mode}");
                if target == "cheap" && matches!(mode, "clone" | "copy") {
                    continue;
                }
                let source = json!({"source": {"location": at, "store": store}, "mode": mode});
                let path = format!("/v1/stores/{target}/images/y");
                let made = Raw::ask(&daemon.socket, "POST", &path, source.to_string().as_bytes());
                assert_eq!(made.status, 201, "{what}: {}", String::from_utf8_lossy(&made.body));
                daemon.wait_until_idle();
                assert!(daemon.get(target, "y").body == theirs, "{what}: other bytes");
                let wanted = digests(&theirs, imaged::digest::Algo::Sha512).checksum.unwrap();
                let told = daemon.ask("HEAD", &path).headers["etag"].clone();
                assert_eq!(told, format!("\"{wanted}\""), "{what}");
                assert_eq!(daemon.ask("DELETE", &path).status, 204, "{what}");
            }
        }
    }
    for store in ["fast", "other"] {
        let path = format!("/v1/stores/{store}/images/x");
        assert_eq!(daemon.ask("DELETE", &path).status, 204, "{store}");
    }
    ceph.assert_empty();
    ceph.assert_empty_pool(OTHER);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_has_come_to_be_another_images_is_not_cloned() {
    let f = stores::rbd().await;
    let ceph = f.ceph.as_ref().unwrap();
    let (first, second) = (image(Look::Random, 9_000_001, 73), image(Look::Random, 9_000_001, 74));
    let id = f.id();
    let at = f.place(&id, &first).await;
    for old in [false, true] {
        let asked: Location = match old {
            false => at.clone(),
            true => format!("rbd://{id}").parse().unwrap(),
        };
        let reader = f.driver.open(&asked, Span::All, window(CHUNK)).await.unwrap();
        let source = reader.source();
        assert_eq!(source.at, at, "in full, whatever it was asked for by");
        // The image that is open goes by another name now, and its own has become another's.
        let (here, aside) = (format!("{POOL}/{id}"), format!("{POOL}/aside"));
        ceph.rbd_must(&["mv", &here, &aside]);
        let other = f.place(&id, &second).await;
        let copy = f.id();
        assert_eq!(
            f.driver.copies().unwrap().copy(source, &claim(&copy)).await.unwrap(),
            None,
            "to be streamed instead"
        );
        assert_free(&f, &copy, "nothing is left").await;
        drop(reader);
        f.driver.delete(&other, Hold::default()).await.unwrap();
        ceph.rbd_must(&["mv", &aside, &here]);
        assert_reads(&*f.driver, &at, &first, "the first").await;
    }
    let kept: Option<Digests> = f.driver.stat(&at).await.unwrap().digests;
    assert!(kept.is_some(), "its digests are its own still");
    f.driver.delete(&at, Hold::default()).await.unwrap();
    ceph.assert_empty();
    f.assert_empty().await;
}
