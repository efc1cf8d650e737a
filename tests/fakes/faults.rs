//! Every call that the driver makes of C, failed in each way: the image is whole or absent, or
//! the error says that this is not known, and then a look clears it up.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use imaged::{transfer::Frame, wire::records::Mode};
use imaged_drivers::{Error, Hold, ImageId, Kind, Location, Result, Span, window::PAGE};
use imaged_fake_librbd::{Cluster, How, Plan};

use crate::harness::stores::{
    self, Fixture, aligned_chunks, assert_free, assert_reads, begin,
    content::{Look, image},
    order, put, read, soon,
};

const IO: i32 = 5;
const TIMEDOUT: i32 = 110;
const DQUOT: i32 = 122;

/// What may fail without a word: the work is done, and only a handle or a connection is given up.
const SILENT: [&str; 3] = ["rbd_close", "rados_shutdown", "rados_ioctx_destroy"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scenario {
    PutKnown,
    PutUnknown,
    /// A put whose body is short, so that it is aborted.
    PutShort,
    /// A copy inside the cluster.
    Clone,
    Get,
    Stat,
    Delete,
}

fn fake(f: &Fixture) -> &Cluster {
    &f.ceph.as_ref().unwrap().fake
}

/// Does it once, with an image at `at` for those that need one.
async fn run(
    f: &Fixture,
    scenario: Scenario,
    id: &ImageId,
    at: &Location,
    bytes: &Bytes,
) -> Result<()> {
    match scenario {
        Scenario::PutKnown => {
            put(&f.store, order(id, Some(bytes.len() as u64)), bytes).await.map(drop)
        }
        Scenario::PutUnknown => put(&f.store, order(id, None), bytes).await.map(drop),
        Scenario::PutShort => {
            let running = begin(&f.store, order(id, Some(bytes.len() as u64 + 1)));
            running.give(&aligned_chunks(bytes)).await;
            running.end(Frame::End).await.map(drop)
        }
        Scenario::Clone => {
            let store = Arc::clone(&f.store);
            let copied = Arc::clone(&store).copy(order(id, None), store, at.clone(), Mode::Clone);
            let receipt = copied.await?;
            if let Some(job) = receipt.digest_job {
                f.shared().jobs.get(&job, Duration::from_secs(60)).await?;
            }
            Ok(())
        }
        Scenario::Get => {
            let found = read(&*f.driver, at, Span::All).await?;
            assert!(found == *bytes, "what is told to be whole is whole");
            Ok(())
        }
        Scenario::Stat => f.driver.stat(at).await.map(drop),
        Scenario::Delete => f.driver.delete(at, Hold::default()).await,
    }
}

/// Waits until what follows a copy is done, and handles that nobody holds any more are closed.
async fn idle(f: &Fixture) {
    let is_busy = || {
        let jobs = f.shared().jobs.running();
        jobs > 0 || f.driver.busy() > 0 || !f.ceph.as_ref().unwrap().is_idle()
    };
    soon("all handles to be closed", async {
        while is_busy() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn kinds(errno: i32) -> &'static [Kind] {
    match errno {
        DQUOT => &[Kind::Full],
        IO => &[Kind::Unavailable],
        _ => &[Kind::Unavailable, Kind::Timeout],
    }
}

/// Runs the scenario with the `nth` call of `call` failing, and looks at what is there then.
async fn fail(f: &Fixture, scenario: Scenario, bytes: &Bytes, plan: Plan, doomed: bool) {
    let mut what = format!(
        "{scenario:?}, call {} of {} fails by {} ({:?})",
        plan.nth, plan.call, plan.errno, plan.how
    );
    if doomed {
        what += ", and nothing can be removed";
    }
    let (id, source) = (f.id(), f.id());
    let at = f.place(&source, bytes).await;
    idle(f).await;
    fake(f).forget();
    let silent = SILENT.contains(&plan.call);
    let errno = plan.errno;
    fake(f).plan(plan);
    if doomed {
        fake(f).plan(Plan::always("rbd_remove_with_progress", IO, How::Fail));
    }
    let ended = run(f, scenario, &id, &at, bytes).await;
    idle(f).await;
    let unmet = fake(f).forget();
    assert!(!unmet || doomed, "{what}: it did not come to that call");
    let short = scenario == Scenario::PutShort;
    let puts =
        short || matches!(scenario, Scenario::PutKnown | Scenario::PutUnknown | Scenario::Clone);
    match &ended {
        // There are several ways to remove an image, and what is in the trash is gone for its users.
        Ok(()) => assert!(silent || scenario == Scenario::Delete, "{what}: a fault went unnoticed"),
        Err(error) => {
            let expected =
                kinds(errno).contains(&error.kind()) || doomed && error.kind() == Kind::Unavailable;
            assert!(expected || short && error.kind() == Kind::Mismatch, "{what}: {error:?}");
            if puts {
                judge(f, &id, error, &what).await;
            }
        }
    }
    // Whatever is kept in the journal is looked at.
    soon(&what, async {
        while !f.shared().ids.is_empty() {
            f.settle().await;
            tokio::task::yield_now().await;
        }
    })
    .await;
    if puts {
        let there = f.driver.locate(&id).await.ok();
        assert!(there.is_some() || ended.is_err(), "{what}");
        if let Some(at) = there {
            assert_reads(&*f.driver, &at, bytes, &what).await;
            f.driver.delete(&at, Hold::default()).await.expect(&what);
        }
        assert_free(f, &id, &what).await;
    }
    if scenario == Scenario::Delete {
        // Tried again it is gone, if it was not already.
        match f.driver.delete(&at, Hold::default()).await {
            Ok(()) => assert!(ended.is_err(), "{what}"),
            Err(error) => assert_eq!(error.kind(), Kind::NotFound, "{what}: {error:?}"),
        }
        // What is left in the trash goes with the next purge.
        f.driver.purge().await.expect(&what);
        assert_free(f, &source, &what).await;
    } else {
        assert_reads(&*f.driver, &at, bytes, &what).await;
        f.driver.delete(&at, Hold::default()).await.expect(&what);
    }
    idle(f).await;
    f.assert_empty().await;
}

/// Nothing is there, unless the error says so.
async fn judge(f: &Fixture, id: &ImageId, error: &Error, what: &str) {
    let there = f.ceph.as_ref().unwrap().images().contains(&id.as_str().to_owned());
    let unsure = error.kind() == Kind::Timeout;
    assert_eq!(error.location().is_some(), unsure, "{what}: {error:?}");
    assert!(!there || unsure || error.left().is_some(), "{what}: something is left: {error:?}");
    assert_eq!(
        !f.shared().ids.is_empty(),
        unsure || error.left().is_some(),
        "{what}: the journal keeps what is not known, and nothing else: {error:?}"
    );
}

/// Counts the calls of a scenario, then fails each of them in each way.
async fn exhaust(scenario: Scenario) {
    let f = stores::rbd().await;
    let bytes = image(Look::Random, 5 * PAGE + 9, 21);
    let (id, source) = (f.id(), f.id());
    let at = f.place(&source, &bytes).await;
    idle(&f).await;
    fake(&f).forget();
    let whole = run(&f, scenario, &id, &at, &bytes).await;
    assert_eq!(whole.is_err(), scenario == Scenario::PutShort, "{scenario:?}: {whole:?}");
    idle(&f).await;
    let mut trace = fake(&f).trace();
    if scenario == Scenario::Clone {
        // What follows is tried until it succeeds.
        let last = trace.iter().position(|call| *call == "rbd_snap_protect").unwrap();
        trace.truncate(last + 1);
    }
    assert!(!trace.is_empty());
    for id in [id, source] {
        if let Ok(at) = f.driver.locate(&id).await {
            f.driver.delete(&at, Hold::default()).await.unwrap();
        }
    }
    let mut seen = BTreeMap::new();
    for call in trace {
        let nth: &mut usize = seen.entry(call).or_default();
        *nth += 1;
        for errno in [TIMEDOUT, DQUOT, IO] {
            for how in [How::Fail, How::Lose, How::Refuse] {
                let skipped = match how {
                    How::Fail => false,
                    // What was done can be told as failed only where no answer came.
                    How::Lose => errno != TIMEDOUT,
                    // What does not call back is refused by its failing.
                    How::Refuse => !call.starts_with("rbd_aio"),
                };
                if skipped {
                    continue;
                }
                for doomed in [false, true] {
                    let plan = Plan::once(call, *nth, errno, how);
                    Box::pin(fail(&f, scenario, &bytes, plan, doomed)).await;
                }
            }
        }
    }
}

macro_rules! exhaustive {
    ($($test:ident: $scenario:ident;)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            Box::pin(exhaust(Scenario::$scenario)).await;
        }
    )* };
}

exhaustive! {
    each_call_of_a_put_of_known_size_fails: PutKnown;
    each_call_of_a_put_of_unknown_size_fails: PutUnknown;
    each_call_of_a_short_put_fails: PutShort;
    each_call_of_a_clone_fails: Clone;
    each_call_of_a_get_fails: Get;
    each_call_of_a_stat_fails: Stat;
    each_call_of_a_delete_fails: Delete;
}
