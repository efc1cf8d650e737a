//! How a session ends: nothing waits for ever, and what was not answered is an error.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, future::join_all, stream};
use imaged_ffi_iscsi::{Error, SLOTS, Session, Settings};

use super::{MIB, bytes, connect, settings, way};
use crate::harness::rigs::Disks;

#[tokio::test]
async fn a_target_that_dies_in_the_middle_of_writes_fails_them_all() {
    let disks = Disks::alone(&["128M"]);
    let session = Arc::new(connect(&disks, 1).await);
    session.write(0, bytes(1, MIB)).await.unwrap();
    disks.signal("stop");
    // More than the sockets hold: some is being sent, some waits for its turn.
    let mut writes: Vec<_> = (0..2 * SLOTS as u64)
        .map(|n| {
            let session = Arc::clone(&session);
            Box::pin(async move { session.write(n % 64 * 2 * MIB, bytes(n, 2 * MIB)).await })
        })
        .collect();
    let mut reads: Vec<_> = (0..8).map(|_| Box::pin(session.read(0, 8 << 20))).collect();
    // All are begun.
    assert!(join_all(writes.iter_mut()).now_or_never().is_none());
    assert!(join_all(reads.iter_mut()).now_or_never().is_none());
    disks.signal("kill");
    for told in join_all(writes).await {
        assert!(matches!(told, Err(Error::Lost { .. })), "{told:?}");
    }
    for told in join_all(reads).await {
        assert!(matches!(told, Err(Error::Lost { .. })), "{told:?}");
    }
    assert!(session.is_over());
    assert!(session.read(0, 512).await.unwrap_err().ends_the_session());
    assert!(session.close().await.is_err());

    disks.signal("restart");
    let session = connect(&disks, 1).await;
    session.write(0, bytes(5, MIB)).await.unwrap();
    session.close().await.unwrap();
}

#[tokio::test]
async fn a_target_that_says_nothing_more_is_waited_for_until_the_deadline() {
    let disks = Disks::alone(&["64M"]);
    let brief = Settings { command: Duration::from_secs(1), ..settings(&disks) };
    let session = Session::connect(&[way(&disks, 1)], &brief).await.unwrap();
    disks.signal("stop");
    let writes = (0..4 * SLOTS as u64).map(|n| session.write(n % 32 * MIB, bytes(n, MIB)));
    let told: Vec<_> = stream::iter(writes).buffer_unordered(usize::MAX).collect().await;
    assert!(told.iter().all(|told| told.as_ref().is_err_and(Error::ends_the_session)), "{told:?}");
    assert!(told.iter().any(|told| matches!(told, Err(Error::TimedOut { .. }))), "{told:?}");
    assert!(session.flush().await.unwrap_err().ends_the_session());

    // Login does not wait for ever either.
    let brief = Settings { connect: Duration::from_secs(1), ..brief };
    let told = Session::connect(&[way(&disks, 1)], &brief).await.unwrap_err();
    assert!(matches!(told, Error::Unreachable { .. }), "{told}");
    disks.signal("cont");
    let session = connect(&disks, 1).await;
    session.write(0, bytes(1, MIB)).await.unwrap();
    session.close().await.unwrap();
}

#[tokio::test]
async fn a_session_that_nobody_uses_hears_of_its_end_too() {
    let disks = Disks::alone(&["1M"]);
    let session = connect(&disks, 1).await;
    disks.signal("kill");
    while !session.is_over() {
        tokio::task::yield_now().await;
    }
    // It is not connected again behind our back.
    disks.signal("restart");
    assert!(matches!(session.read(0, 512).await, Err(Error::Lost { .. })));
    assert_eq!(disks.tell("sessions", &[]), "0");
}

#[tokio::test]
async fn closing_waits_for_what_was_begun_and_lets_nothing_begin() {
    let disks = Disks::new(&["64M"]);
    let session = connect(&disks, 1).await;
    let mut write = Box::pin(session.write(0, bytes(4, 16 * MIB)));
    // Begun; where the disk was quicker than this thread it has ended too.
    let ended = (&mut write).now_or_never();
    session.close().await.unwrap();
    match ended {
        Some(told) => told,
        None => write.await,
    }
    .unwrap();
    assert_eq!(disks.tell("sessions", &[]), "0");
    assert!(session.read(0, 512).await.unwrap_err().ends_the_session());
    assert!(session.close().await.is_err());

    let session = connect(&disks, 1).await;
    assert!(session.read(0, 16 << 20).await.unwrap() == bytes(4, 16 * MIB));
    assert_eq!(disks.tell("sessions", &[]), "1");
    drop(session);
    while disks.tell("sessions", &[]) != "0" {
        tokio::task::yield_now().await;
    }
}
