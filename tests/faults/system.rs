//! One level down: every call of the file driver into its filesystem that changes something,
//! failed in its turn.

use std::sync::Arc;

use bytes::Bytes;
use imaged::{transfer::Frame, wire::records::Mode};
use imaged_drivers::{Hold, Kind, Location, Result, window::PAGE};
use nix::errno::Errno;

use crate::harness::stores::{
    self, Fixture, assert_free, assert_reads, begin,
    content::{Look, image, pieces},
    order,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scenario {
    Put,
    PutShort,
    Copy,
    Delete,
}

async fn run(f: &Fixture, scenario: Scenario, at: &Location, bytes: &Bytes) -> Result<()> {
    let id = "made".parse().unwrap();
    match scenario {
        Scenario::Put | Scenario::PutShort => {
            let running = begin(&f.store, order(&id, Some(bytes.len() as u64)));
            let mut chunks = pieces(bytes, 2 * PAGE);
            if scenario == Scenario::PutShort {
                chunks.pop();
            }
            running.give(&chunks).await;
            running.end(Frame::End).await.map(drop)
        }
        Scenario::Copy => {
            let store = Arc::clone(&f.store);
            Arc::clone(&store).copy(order(&id, None), store, at.clone(), Mode::Auto).await.map(drop)
        }
        Scenario::Delete => f.store.delete(at, "r").await,
    }
}

/// Fails each call of a scenario with each error; what is there then is whole, or it is not there.
async fn exhaust(f: &Fixture, scenario: Scenario) {
    let bytes = image(Look::Random, 5 * PAGE + 9, 31);
    let plain = f.plain.as_ref().unwrap();
    let id = "made".parse().unwrap();
    let at = f.place(&f.id(), &bytes).await;
    plain.plan(0, 0);
    let ended = run(f, scenario, &at, &bytes).await;
    assert_eq!(ended.is_err(), scenario == Scenario::PutShort, "{ended:?}");
    let calls = plain.plan(0, 0);
    assert!(!calls.is_empty());
    for listed in f.list().await {
        f.driver.delete(&listed.at, Hold::default()).await.unwrap();
    }
    f.assert_empty().await;
    for (errno, kind) in [
        (Errno::EIO, Kind::Unavailable),
        (Errno::ENOSPC, Kind::Full),
        (Errno::EROFS, Kind::BackendDenied),
    ] {
        for (nth, call) in (1..).zip(&calls) {
            let what = format!("{scenario:?}: {errno} from call {nth} of {calls:?}");
            let at = f.place(&f.id(), &bytes).await;
            plain.plan(nth, errno as i32);
            let ended = run(f, scenario, &at, &bytes).await;
            assert!(plain.plan(0, 0).len() >= nth, "{what}: it never came to that");
            if scenario == Scenario::Copy && kind == Kind::BackendDenied {
                // What may not be made inside the backend is streamed, and the call fails only once.
                ended.expect(&what);
                let made = f.driver.locate(&id).await.expect(&what);
                f.settle().await;
                for at in [made, at] {
                    assert_reads(&*f.driver, &at, &bytes, &what).await;
                    f.driver.delete(&at, Hold::default()).await.expect(&what);
                }
                f.assert_empty().await;
                assert_free(f, &id, &what).await;
                continue;
            }
            let error = ended.expect_err(&what);
            if scenario == Scenario::Delete {
                assert_eq!(error.kind(), kind, "{what}: {error:?}");
                // The name may be gone already, and only that not yet be durable.
                match f.driver.delete(&at, Hold::default()).await {
                    Ok(()) => assert_eq!(call, "unlink", "{what}"),
                    Err(error) => assert_eq!((error.kind(), &**call), (Kind::NotFound, "fsyncdir")),
                }
                f.assert_empty().await;
                continue;
            }
            let aborting = scenario == Scenario::PutShort && call == "unlink";
            let kind = if aborting { Kind::Mismatch } else { kind };
            assert_eq!(error.kind(), kind, "{what}: {error:?}");
            assert_eq!(error.left().is_some(), aborting, "{what}: {error:?}");
            let there = f.driver.locate(&id).await;
            assert_eq!(there.expect_err(&what).kind(), Kind::NotFound, "{what}");
            f.settle().await;
            assert_reads(&*f.driver, &at, &bytes, &what).await;
            f.driver.delete(&at, Hold::default()).await.expect(&what);
            f.assert_empty().await;
            assert_free(f, &id, &what).await;
        }
    }
}

macro_rules! exhaustive {
    ($($test:ident: $scenario:ident;)*) => { $(
        mod $test {
            use super::*;
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn with_links() {
                exhaust(&stores::file_staged().await, Scenario::$scenario).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn without_links() {
                exhaust(&stores::file_renamed().await, Scenario::$scenario).await;
            }
        }
    )* };
}

exhaustive! {
    each_system_call_of_a_put_fails: Put;
    each_system_call_of_a_short_put_fails: PutShort;
    each_system_call_of_a_copy_fails: Copy;
    each_system_call_of_a_delete_fails: Delete;
}
