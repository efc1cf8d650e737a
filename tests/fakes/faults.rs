//! Every call that the driver makes of C, failed in each way: the image is whole or absent, or
//! the error says that this is not known, and then a look clears it up.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use imaged::{digest::Algo, transfer::Frame, wire::records::Mode};
use imaged_drivers::{Error, Hold, ImageId, Kind, Location, Result, Span, Volume, window::PAGE};
use imaged_fake_librbd::{How, Plan, Told};

use crate::{
    ceph::{POOL, another, closed, fake},
    harness::stores::{
        self, Fixture, aligned_chunks, assert_free, assert_reads, begin, claim,
        content::{Look, digests, image},
        order, put, read, soon,
    },
};

const PERM: i32 = 1;
const IO: i32 = 5;
const ACCES: i32 = 13;
const ROFS: i32 = 30;
const SHUTDOWN: i32 = 108;
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
    /// A copy of a volume, byte by byte.
    Volume,
    Get,
    Stat,
    Delete,
    List,
    Probe,
    Purge,
    Record,
    Recover,
    Flatten,
}

/// Those that make an image.
const PUTS: [Scenario; 5] = [
    Scenario::PutKnown,
    Scenario::PutUnknown,
    Scenario::PutShort,
    Scenario::Clone,
    Scenario::Volume,
];
/// Those that leave for another time, or out, what fails of one image.
const LENIENT: [Scenario; 3] = [Scenario::Delete, Scenario::List, Scenario::Purge];

/// The id of the image there.
fn id_at(at: &Location) -> ImageId {
    let at = at.to_string();
    at.split('/').rev().nth(1).unwrap().parse().unwrap()
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
        Scenario::Volume => {
            let (store, via) = (Arc::clone(&f.store), Arc::clone(&f.store));
            let volume = Volume::Rbd(format!("{POOL}/{}", id_at(at)).parse().unwrap());
            store.copy_volume(order(id, None), via, volume, Mode::Stream).await.map(drop)
        }
        Scenario::List => f.driver.list().try_collect::<Vec<_>>().await.map(drop),
        Scenario::Probe => f.driver.probe().await.map(drop),
        Scenario::Purge => f.driver.purge().await,
        Scenario::Record => f.driver.record(at, &claim(id), &digests(bytes, Algo::Sha256)).await,
        Scenario::Recover => f.driver.recover(&claim(&id_at(at)), None).await.map(drop),
        Scenario::Flatten => {
            f.driver.copies().unwrap().flatten(at, &claim(id), Arc::new(|_, _| true)).await
        }
    }
}

/// Waits until what follows a copy is done, and handles that nobody holds any more are closed.
async fn idle(f: &Fixture) {
    soon("all jobs to end", async {
        while f.shared().jobs.running() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    closed(f).await;
}

fn kinds(errno: i32) -> &'static [Kind] {
    match errno {
        DQUOT => &[Kind::Full],
        PERM | ACCES => &[Kind::BackendDenied],
        ROFS => &[Kind::InUse],
        IO | SHUTDOWN => &[Kind::Unavailable],
        _ => &[Kind::Unavailable, Kind::Timeout],
    }
}

/// What an operator must be told of it.
fn says(errno: i32) -> &'static str {
    match errno {
        PERM | ACCES => "caps",
        ROFS => "rbd lock ls",
        SHUTDOWN => "osd blocklist ls",
        TIMEDOUT => "does not answer",
        DQUOT => "the pool is full",
        _ => "",
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
    // What an earlier failure has made suspect is connected anew.
    f.driver.probe().await.unwrap();
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
    let puts = PUTS.contains(&scenario);
    // Who may not write opens what he reads for reading.
    // Of an image that is no clone, and of an object that is not there, this is the answer.
    let flat = matches!(scenario, Scenario::Flatten | Scenario::Probe) && what.contains("(Lose)");
    let unwatched = what.contains("of rbd_open fails") && matches!(errno, PERM | ACCES | ROFS);
    match &ended {
        // There are several ways to remove an image, and what is in the trash is gone for its users.
        Ok(()) => assert!(
            silent || LENIENT.contains(&scenario) || unwatched || flat,
            "{what}: a fault went unnoticed"
        ),
        Err(error) => {
            // Its bytes can be copied.
            let unclonable = what.contains("of rbd_clone3 fails by 30");
            let expected = unclonable && error.kind() == Kind::Unsupported
                || kinds(errno).contains(&error.kind())
                || doomed && error.kind() == Kind::Unavailable;
            assert!(expected || short && error.kind() == Kind::Mismatch, "{what}: {error:?}");
            let told = format!("{error:?}");
            let by_this = error.kind() != Kind::Mismatch && !doomed;
            assert!(told.contains(says(errno)) || !by_this, "{what}: {told}");
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

/// How many of these calls a caller is told of. What follows is tried until it succeeds, or does no harm.
fn told_of(scenario: Scenario, trace: &[&str]) -> usize {
    let last = if matches!(scenario, Scenario::Clone | Scenario::Volume) {
        "rbd_snap_protect"
    } else if scenario == Scenario::Flatten {
        "rbd_flatten_with_progress"
    } else {
        return trace.len();
    };
    trace.iter().position(|call| *call == last).map_or(trace.len(), |at| at + 1)
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
    trace.truncate(told_of(scenario, &trace));
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
        for errno in [TIMEDOUT, DQUOT, IO, SHUTDOWN, PERM, ACCES, ROFS] {
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
    each_call_of_a_copy_of_a_volume_fails: Volume;
    each_call_of_a_list_fails: List;
    each_call_of_a_look_at_the_store_fails: Probe;
    each_call_of_a_purge_fails: Purge;
    each_call_that_keeps_digests_fails: Record;
    each_call_of_a_recovery_fails: Recover;
    each_call_of_a_flatten_fails: Flatten;
}

/// Runs the scenario with the client shut out after each number of calls.
async fn exhaust_shut_out(scenario: Scenario) {
    let bytes = image(Look::Random, 5 * PAGE + 9, 22);
    for told in [Told::Plainly, Told::NotLocked] {
        for calls in 0.. {
            let what = format!("{scenario:?}, shut out after {calls} calls, {told:?}");
            let f = stores::rbd().await;
            let other = another(&f).await;
            let (id, source) = (f.id(), f.id());
            let at = f.place(&source, &bytes).await;
            idle(&f).await;
            fake(&f).forget();
            fake(&f).shut_out(calls, told);
            let ended = soon(&what, Box::pin(run(&f, scenario, &id, &at, &bytes))).await;
            idle(&f).await;
            let trace = fake(&f).trace();
            let told_of = told_of(scenario, &trace);
            let is_over =
                trace.len() <= calls || told_of < trace.len() && told_of <= calls.saturating_add(1);
            if trace.len() <= calls {
                fake(&f).forget();
            }
            if let Err(error) = &ended
                && error.kind() != Kind::Mismatch
            {
                let kind = error.kind();
                assert!(matches!(kind, Kind::Unavailable | Kind::Timeout), "{what}: {error:?}");
                assert!(error.to_string().contains(says(SHUTDOWN)), "{what}: {error:?}");
                // All stores that share the connection go on over another, and nobody else fails.
                f.driver.probe().await.expect(&what);
                other.driver.probe().await.expect(&what);
            }
            // What has failed unnoticed is noticed by the next.
            for f in [&f, &other] {
                let _first = f.driver.probe().await;
                f.driver.probe().await.expect(&what);
            }
            soon(&what, async {
                while !f.shared().ids.is_empty() {
                    f.settle().await;
                    tokio::task::yield_now().await;
                }
            })
            .await;
            if let Ok(at) = f.driver.locate(&id).await {
                assert_reads(&*f.driver, &at, &bytes, &what).await;
                idle(&f).await;
                f.driver.delete(&at, Hold::default()).await.expect(&what);
            } else {
                assert!(ended.is_err() || !PUTS.contains(&scenario), "{what}");
            }
            if scenario == Scenario::Delete {
                match f.driver.delete(&at, Hold::default()).await {
                    Ok(()) => {}
                    Err(error) => assert_eq!(error.kind(), Kind::NotFound, "{what}: {error:?}"),
                }
                f.driver.purge().await.expect(&what);
            } else {
                assert_reads(&*other.driver, &at, &bytes, &what).await;
                closed(&other).await;
                f.driver.delete(&at, Hold::default()).await.expect(&what);
            }
            assert_free(&f, &id, &what).await;
            idle(&f).await;
            f.assert_empty().await;
            if is_over {
                break;
            }
        }
    }
}

macro_rules! shut_out {
    ($($test:ident: $scenario:ident;)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            Box::pin(exhaust_shut_out(Scenario::$scenario)).await;
        }
    )* };
}

shut_out! {
    a_client_is_shut_out_at_each_call_of_a_put: PutKnown;
    a_client_is_shut_out_at_each_call_of_a_put_of_unknown_size: PutUnknown;
    a_client_is_shut_out_at_each_call_of_a_short_put: PutShort;
    a_client_is_shut_out_at_each_call_of_a_clone: Clone;
    a_client_is_shut_out_at_each_call_of_a_copy_of_a_volume: Volume;
    a_client_is_shut_out_at_each_call_of_a_get: Get;
    a_client_is_shut_out_at_each_call_of_a_stat: Stat;
    a_client_is_shut_out_at_each_call_of_a_delete: Delete;
    a_client_is_shut_out_at_each_call_of_a_list: List;
    a_client_is_shut_out_at_each_call_of_a_look: Probe;
    a_client_is_shut_out_at_each_call_that_keeps_digests: Record;
    a_client_is_shut_out_at_each_call_of_a_recovery: Recover;
    a_client_is_shut_out_at_each_call_of_a_flatten: Flatten;
}
