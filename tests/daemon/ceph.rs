//! Stores of type rbd, as the cluster shows them.

use imaged_drivers::Recovered;
use serde_json::Value;

use crate::harness::{
    daemon::{Daemon, noise},
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
