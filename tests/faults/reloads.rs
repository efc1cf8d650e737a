//! Work in the background while the configuration is read again.

use std::{sync::Arc, time::Duration};

use imaged::{
    config::{self, Config},
    daemon::Daemon,
    digest::{Algo, Choice, Pool},
    journal::{Intent, Work},
    shared::{Opener, Shared},
    transfer::Frame,
    wire::records::State,
};
use imaged_drivers::{Driver, Error, ImageId, Kind, mem, open};
use tempfile::TempDir;

use super::faulty::{Failure, Faulty, Script};
use crate::harness::stores::{
    begin,
    content::{Look, digests, image},
    order,
};

/// A configuration with the store `main`, in its `version`.
fn config(state: &TempDir, version: u64) -> Config {
    let main = config::Store {
        name: "main".to_owned(),
        kind: "mem".to_owned(),
        description: None,
        weight: 0,
        read_only: false,
        driver: Some(section(version)),
        problem: None,
    };
    let daemon = config::Daemon { state_dir: state.path().to_owned(), ..config::Daemon::default() };
    Config { daemon, stores: vec![main], default: "main".to_owned() }
}

fn section(version: u64) -> imaged_drivers::Config {
    imaged_drivers::Config::Mem(mem::Config { capacity: (1 << 30) + version })
}

/// A daemon in which only later versions than the first open the backend `well`; the first one opens
/// `first`, or nothing.
async fn daemon(
    state: &TempDir,
    well: Arc<dyn Driver>,
    first: Option<Arc<dyn Driver>>,
) -> Arc<Daemon> {
    let backends = Opener::new(move |asked, _name, _instance| {
        let opened = match asked == section(1) {
            true => first.clone(),
            false => Some(Arc::clone(&well)),
        };
        async { opened.ok_or_else(|| Error::new(Kind::Unavailable, "planted in opening")) }
    });
    let config = config(state, 1);
    let shared = Shared::over(&config.daemon, backends, Pool::of_runtime()).unwrap();
    let daemon = Daemon::over(&config, shared);
    daemon.stores().open_soon().await;
    daemon
}

fn intent(id: &ImageId) -> Intent {
    Intent {
        work: Work::Digest,
        store: "main".to_owned(),
        image: id.clone(),
        hash_algo: Algo::Sha1,
        checksum: true,
        volume: None,
        token: None,
    }
}

#[tokio::test(start_paused = true)]
async fn digests_go_on_with_the_store_that_a_reload_puts_in_place() {
    let (state, script) = (tempfile::tempdir().unwrap(), Arc::new(Script::default()));
    let well = open(&section(2), "main", &imaged_drivers::Host::named("x")).await.unwrap();
    let (inner, refused) = (Arc::clone(&well), Arc::clone(&script));
    let faulty = Arc::new(Faulty { inner, script: refused, streams: false });
    let daemon = daemon(&state, Arc::clone(&well), Some(faulty)).await;
    let (id, bytes) = ("x".parse::<ImageId>().unwrap(), image(Look::Mixed, 9000, 71));
    let store = daemon.stores().get("main").unwrap();
    let running = begin(&store, order(&id, None));
    running.give(std::slice::from_ref(&bytes)).await;
    running.end(Frame::End).await.unwrap();
    // As with a key that has been exchanged: what is open by the old one can never read again.
    script.always("open", Failure { kind: Kind::BackendDenied, done: false });
    let begun = daemon.shared.ids.begin(intent(&id)).await.unwrap();
    let digested =
        tokio::spawn(store.digest(begun, Choice { algo: Algo::Sha1, checksum: true }, "job"));
    while daemon.shared.jobs.get("job", Duration::from_secs(1)).await.unwrap().state
        != State::Waiting
    {}
    for version in [2, 3] {
        daemon.reload(&config(&state, version)).await;
    }
    let digested = tokio::time::timeout(Duration::from_secs(1000), digested).await;
    let digested = digested.expect("it ends").unwrap().unwrap();
    assert_eq!(digested, digests(&bytes, Algo::Sha1));
    let at = well.locate(&id).await.unwrap();
    assert_eq!(well.stat(&at).await.unwrap().digests, Some(digested));
    assert!(daemon.shared.ids.is_empty());
}

#[tokio::test(start_paused = true)]
async fn digests_are_taken_up_by_a_store_that_a_reload_opens_at_last() {
    let state = tempfile::tempdir().unwrap();
    let well = open(&section(2), "main", &imaged_drivers::Host::named("x")).await.unwrap();
    let daemon = daemon(&state, well, None).await;
    let begun = daemon.shared.ids.begin(intent(&"x".parse().unwrap())).await.unwrap();
    // As after a crash.
    drop(begun);
    daemon.round().await;
    assert_eq!(daemon.shared.ids.len(), 1);
    // The store is gone for a while, and comes back as another.
    let away = Config { stores: Vec::new(), ..config(&state, 1) };
    for next in [away, config(&state, 2)] {
        daemon.reload(&next).await;
        daemon.round().await;
    }
    tokio::time::timeout(Duration::from_secs(1000), async {
        while !daemon.shared.ids.is_empty() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await
    .expect("there is no such image, so it ends");
}
