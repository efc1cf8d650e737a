//! The way to a disk, and what is said when there is none.

use std::{net::TcpListener, time::Duration};

use futures_util::FutureExt as _;
use imaged_ffi_iscsi::{Chap, Error, Session, Settings, Target};

use super::{settings, way};
use crate::harness::rigs::Disks;

/// Nobody listens there.
fn closed() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn portals_that_are_dead_or_silent_are_passed_over() {
    let disks = Disks::new(&["1M"]);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let good = way(&disks, 1);
    let at = |portal: String| Target { portal, ..good.clone() };
    let bad = [at(closed()), at(silent.local_addr().unwrap().to_string())];
    let brief = Settings { connect: Duration::from_secs(2), ..settings(&disks) };

    let told = Session::connect(&bad, &brief).await.unwrap_err();
    assert!(
        matches!(&told, Error::Unreachable { portal, .. } if *portal == bad[0].portal),
        "{told}"
    );

    let ways = [&bad[..], std::slice::from_ref(&good)].concat();
    let session = Session::connect(&ways, &brief).await.unwrap();
    assert_eq!(*session.target(), good);
    session.close().await.unwrap();

    let told = Session::connect(&[], &brief).await;
    assert!(matches!(told, Err(Error::Invalid(_))), "{told:?}");
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_never_shown() {
    let disks = Disks::new(&["1M"]);
    let right = settings(&disks);
    let chap = |user: &str, password: &str| {
        Some(Chap { user: user.to_owned(), password: password.to_owned() })
    };
    let user = &disks.facts["user"];
    for chap in [chap(user, "wrong-password"), chap("nobody", "wrong-password"), None] {
        let wrong = Settings { chap, ..right.clone() };
        let told = Session::connect(&[way(&disks, 1)], &wrong).await.unwrap_err();
        assert!(matches!(told, Error::LoginRefused { .. }), "{told:?}");
        let shown = format!("{told} {told:?} {wrong:?}");
        assert!(!shown.contains("wrong-password"), "{shown}");
    }
    let long = Settings { chap: chap(user, &"x".repeat(256)), ..right };
    let told = Session::connect(&[way(&disks, 1)], &long).await;
    assert!(matches!(told, Err(Error::Invalid(_))), "{told:?}");
}

#[tokio::test]
async fn a_target_or_disk_that_is_not_there_is_named() {
    let disks = Disks::new(&["1M"]);
    let mut target = way(&disks, 1);
    target.iqn += "-not";
    let told = Session::connect(&[target.clone()], &settings(&disks)).await;
    assert!(
        matches!(&told, Err(Error::NoSuchTarget { iqn, .. }) if *iqn == target.iqn),
        "{told:?}"
    );

    let told = Session::connect(&[way(&disks, 7)], &settings(&disks)).await;
    let Err(Error::Sense(sense)) = &told else { panic!("{told:?}") };
    assert_eq!((sense.key, sense.ascq), (5, 0x2500), "{sense}");
    assert_eq!(disks.tell("sessions", &[]), "0");
}

#[tokio::test]
async fn a_connection_that_nobody_waits_for_is_given_up() {
    let disks = Disks::new(&["1M"]);
    let (ways, settings) = ([way(&disks, 1)], settings(&disks));
    for _ in 0..8 {
        // A session that was there before this thread could ask is dropped, which ends it too.
        let _ = Session::connect(&ways, &settings).now_or_never();
    }
    // Each thread sees for itself that it is not needed.
    while disks.tell("sessions", &[]) != "0" {
        tokio::task::yield_now().await;
    }
    Session::connect(&ways, &settings).await.unwrap().close().await.unwrap();
}
