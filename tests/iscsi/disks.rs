//! What is done with a disk: bytes come back as they went, and nothing else is touched.

use std::{fs, os::unix::fs::MetadataExt as _, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use imaged_ffi_iscsi::{Error, SLOTS, Session};

use super::{MIB, bytes, connect, settings, way};
use crate::harness::rigs::Disks;

#[tokio::test]
async fn what_was_written_to_a_disk_is_read_whatever_its_length() {
    let disks = Disks::new(&["64M"]);
    let session = connect(&disks, 1).await;
    let (mut at, mut whole) = (0, Vec::new());
    // From one block to more than one command takes, at places that are no multiples of anything.
    for len in [512, 4096, 65536, 65536 + 512, MIB - 512, MIB, MIB + 512, 5 * MIB, 17 * MIB + 4096]
    {
        let part = bytes(at, len);
        session.write(at, part.clone()).await.unwrap();
        assert!(session.read(at, part.len()).await.unwrap() == part, "{len} bytes at {at}");
        whole.extend_from_slice(&part);
        at += len;
    }
    session.flush().await.unwrap();
    let room = session.read_into(0, vec![1_u8; whole.len()]).await.unwrap();
    assert!(room == whole);
    let file = fs::read(disks.file(1)).unwrap();
    let (written, rest) = file.split_at(whole.len());
    assert!(written == whole && rest.iter().all(|byte| *byte == 0));
    assert_eq!(session.read(0, 0).await.unwrap(), Bytes::new());
    session.close().await.unwrap();
}

#[tokio::test]
async fn what_is_unmapped_or_zeroed_reads_as_zeros_and_takes_no_room() {
    let disks = Disks::new(&["64M"]);
    let session = connect(&disks, 1).await;
    let capacity = session.capacity();
    assert!(capacity.thin && capacity.zeros && session.limits().has_unmap);
    let whole = bytes(3, 32 * MIB);
    session.write(0, whole.clone()).await.unwrap();
    session.flush().await.unwrap();
    let full = fs::metadata(disks.file(1)).unwrap().blocks();
    session.unmap(4 * MIB..12 * MIB).await.unwrap();
    session.write_zeros(16 * MIB..24 * MIB + 512).await.unwrap();
    session.unmap(MIB..MIB).await.unwrap();
    session.flush().await.unwrap();
    let mut expected = BytesMut::from(whole);
    for range in [4 * MIB..12 * MIB, 16 * MIB..24 * MIB + 512] {
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        expected[range].fill(0);
    }
    assert!(session.read(0, expected.len()).await.unwrap() == expected);
    let now = fs::metadata(disks.file(1)).unwrap().blocks();
    assert!(now + 16 * MIB / 512 <= full, "{now} of {full} blocks");
    session.close().await.unwrap();
}

#[tokio::test]
async fn more_commands_than_there_are_slots_all_come_home() {
    let disks = Disks::new(&["64M"]);
    let session = Arc::new(connect(&disks, 1).await);
    let count = 8 * SLOTS as u64;
    let len = 64 * MIB / count;
    let tasks = (0..count).map(|n| {
        let session = Arc::clone(&session);
        tokio::spawn(async move { session.write(n * len, bytes(n, len)).await })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap().unwrap();
    }
    let reads = (0..count).rev().map(|n| {
        let session = &session;
        async move { Ok::<_, Error>(session.read(n * len, 1 << 17).await? == bytes(n, len)) }
    });
    let same = stream::iter(reads).buffer_unordered(usize::MAX);
    assert!(same.try_all(|same| async move { same }).await.unwrap());
    session.close().await.unwrap();
}

#[tokio::test]
async fn a_future_that_is_dropped_forgets_the_answer_alone() {
    let disks = Disks::new(&["64M"]);
    let session = connect(&disks, 1).await;
    for n in 0..2 * SLOTS as u64 {
        let (at, len) = (n % 32 * 2 * MIB, 2 * MIB);
        // Sent, if there is a slot, and given up at once; where the disk was quicker than this
        // thread there is nothing to give up.
        let _ = session.write(at, bytes(n, len)).now_or_never();
        let _ = session.read_into(at, vec![0_u8; 2 << 20]).now_or_never();
    }
    session.write(0, bytes(9, MIB)).await.unwrap();
    assert!(session.read(0, 1 << 20).await.unwrap() == bytes(9, MIB));
    session.close().await.unwrap();
}

#[tokio::test]
async fn what_makes_no_sense_for_a_disk_is_refused_before_it_is_sent() {
    let disks = Disks::new(&["1M"]);
    let session = connect(&disks, 1).await;
    assert_eq!(session.capacity().bytes(), MIB);
    for (at, len) in [(MIB, 512), (MIB - 512, 1024), (u64::MAX - 511, 512), (1, 512), (0, 511)] {
        let room = vec![0; usize::try_from(len).unwrap()];
        let told = [
            session.read(at, room.len()).await.map(drop),
            session.write(at, Bytes::from(room)).await,
            session.unmap(at..at.saturating_add(len)).await,
            session.write_zeros(at..at.saturating_add(len)).await,
        ];
        let invalid = |told: &Result<_, Error>| matches!(told, Err(Error::Invalid(_)));
        assert!(told.iter().all(invalid), "{len} at {at}: {told:?}");
    }
    session.close().await.unwrap();

    let reader = super::Settings { writable: false, ..settings(&disks) };
    let session = Session::connect(&[way(&disks, 1)], &reader).await.unwrap();
    let told = [
        session.write(0, bytes(1, 512)).await,
        session.unmap(0..512).await,
        session.write_zeros(0..512).await,
    ];
    assert!(told.iter().all(|told| matches!(told, Err(Error::Invalid(_)))), "{told:?}");
    assert!(session.read(0, 1 << 20).await.unwrap().iter().all(|byte| *byte == 0));
    session.flush().await.unwrap();
    session.close().await.unwrap();
}

#[tokio::test]
async fn a_disk_that_refuses_to_be_written_says_why_and_is_read_on() {
    let disks = Disks::new(&["64M"]);
    let session = connect(&disks, 1).await;
    session.write(0, bytes(1, MIB)).await.unwrap();
    disks.tell("protect", &["1"]);
    let writes = (0..2 * SLOTS as u64).map(|n| session.write(n % 64 * MIB, bytes(n, MIB)));
    let told: Vec<_> = stream::iter(writes).buffer_unordered(usize::MAX).collect().await;
    let protected =
        |told: &Result<_, Error>| matches!(told, Err(Error::Sense(sense)) if sense.key == 7);
    assert!(told.iter().all(protected), "{told:?}");
    let shown = told[0].as_ref().unwrap_err().to_string();
    assert!(shown.contains("write") && shown.contains("protect"), "{shown}");
    assert!(session.write_zeros(0..MIB).await.is_err());
    assert!(session.read(0, 1 << 20).await.unwrap() == bytes(1, MIB));
    session.close().await.unwrap();
}

#[tokio::test]
async fn disks_are_told_apart_and_known_again() {
    let disks = Disks::new(&["1M", "1M"]);
    let (one, other) = (connect(&disks, 1).await, connect(&disks, 2).await);
    assert!(one.identity().is_known() && other.identity().is_known());
    assert_ne!(one.identity(), other.identity());
    assert_ne!(one.identity().serial, other.identity().serial);
    let again = connect(&disks, 1).await;
    assert_eq!(one.identity(), again.identity());
    for session in [one, other, again] {
        session.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_disk_that_has_grown_is_used_on() {
    let disks = Disks::new(&["8M", "1M"]);
    let session = connect(&disks, 1).await;
    session.write(0, bytes(1, MIB)).await.unwrap();
    disks.tell("disk", &["1", "16M", "same"]);
    assert!(session.read(0, 1 << 20).await.unwrap() == bytes(1, MIB));
    assert_eq!(session.capacity().bytes(), 8 * MIB);
    assert_eq!(session.look().await.unwrap().bytes(), 16 * MIB);
    // Now its target says that its disks have changed: this one is the same.
    disks.tell("disk", &["2", "2M", "other"]);
    session.write(15 * MIB, bytes(2, MIB)).await.unwrap();
    assert!(session.read(15 * MIB, 1 << 20).await.unwrap() == bytes(2, MIB));
    session.close().await.unwrap();
}

#[tokio::test]
async fn another_disk_in_its_place_is_neither_read_nor_written_once_that_is_known() {
    for word_of_it in [true, false] {
        let disks = Disks::new(&["8M", "1M"]);
        let session = connect(&disks, 1).await;
        session.write(0, bytes(1, MIB)).await.unwrap();
        disks.tell("disk", &["1", "8M", "other"]);
        let told = if word_of_it {
            // This is what has the target say it to the sessions of its other disks.
            disks.tell("disk", &["2", "2M", "same"]);
            session.write(0, bytes(2, MIB)).await
        } else {
            let (looked, written) = tokio::join!(session.look(), session.write(0, bytes(2, MIB)));
            assert!(matches!(looked, Err(Error::Lost { .. })), "{looked:?}");
            written
        };
        let other = |told: &Result<_, _>| matches!(told, Err(Error::Lost { why }) if why.contains("another disk"));
        assert!(other(&told), "{told:?}");
        assert!(other(&session.read(0, 512).await.map(drop)));
        assert!(fs::read(disks.file(1)).unwrap()[..1 << 20] == bytes(1, MIB));
    }
}
