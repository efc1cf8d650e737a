//! A Swift whose exchanges fail as no real one can be asked to: the driver alone, over a server in memory.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use imaged::digest::Algo;
use imaged_drivers::{
    Config, Driver, Error, Hold, ImageId, Kind, Location, Recovered, Result, Span, options::Options,
};

use crate::harness::{
    objects::{BUCKET, Call, Fault, Objects, REGION, Rule, SECRET, USER},
    stores::{
        Held, aligned_chunks, assert_reads,
        content::{Look, digests, image},
        read, soon,
    },
};

const SEGMENT: usize = 1_024_000;

/// The options of a store whose images are made of small segments, and which has a second's patience.
fn options(objects: &Objects) -> Vec<(&'static str, String)> {
    vec![
        ("swift_store_auth_address", format!("{}/v3", objects.url())),
        ("swift_store_user", format!("{USER}:{USER}")),
        ("swift_store_key", SECRET.to_owned()),
        ("swift_store_region", REGION.to_owned()),
        ("swift_store_container", BUCKET.to_owned()),
        ("swift_store_large_object_size", "1".to_owned()),
        ("swift_store_large_object_chunk_size", "1".to_owned()),
        ("imaged_swift_timeout_s", "1".to_owned()),
    ]
}

async fn open(options: &[(&'static str, String)]) -> Arc<dyn Driver> {
    let pairs: Vec<_> = options.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut options = Options::of("objects", &pairs);
    let config = Config::read("swift", &mut options).unwrap();
    assert_eq!(options.finish().problems, []);
    imaged_drivers::open(&config, "objects", &imaged_drivers::Host::named("test")).await.unwrap()
}

fn id() -> ImageId {
    "image".parse().unwrap()
}

/// Puts an image; on failure it is aborted, and what is left is cleared away once the server is well.
async fn put(driver: &dyn Driver, held: &Held, bytes: &Bytes) -> Result<Location> {
    let mut upload = held.create(driver, None).await?;
    let at = upload.at().clone();
    for chunk in aligned_chunks(bytes) {
        if let Err(error) = upload.write(chunk).await {
            return match upload.abort().await {
                Ok(()) => Err(error),
                Err(left) => Err(error.leaving(left.left().unwrap_or_default())),
            };
        }
    }
    upload.commit(&digests(bytes, Algo::Sha256)).await.map(|_| at)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_now_and_then_is_done_all_the_same() {
    for fault in [
        Fault::Status(500),
        Fault::Status(503),
        Fault::Later(503, 0),
        Fault::Later(429, 0),
        Fault::Status(408),
        Fault::Status(401),
        Fault::Early(503),
        Fault::CutBefore,
        Fault::CutMiddle,
        Fault::CutAfter,
        Fault::StallReading,
    ] {
        for large_object in ["dlo", "slo"] {
            let what = format!("{fault:?} {large_object}");
            let objects = Objects::swift();
            let mut options = options(&objects);
            options.push(("imaged_swift_large_object", large_object.to_owned()));
            let driver = open(&options).await;
            let bytes = image(Look::Random, 6 * SEGMENT + 7, 1);
            let held = Held::new(&id());
            let rule = Rule::new(fault).every(4);
            // Whoever gives tokens means it.
            let passing = fault != Fault::Status(401);
            objects.fail(if passing { rule } else { rule.on(Call::Put).times(1) });
            let at = soon(&what, put(&*driver, &held, &bytes)).await;
            let at = at.unwrap_or_else(|error| panic!("{what}: {error:?}"));
            soon(&what, assert_reads(&*driver, &at, &bytes, &what)).await;
            assert_eq!(driver.stat(&at).await.unwrap().size, bytes.len() as u64, "{what}");
            soon(&what, driver.delete(&at, Hold::default())).await.unwrap();
            objects.heal();
            assert_eq!(objects.left(), [""; 0], "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_for_good_leaves_nothing_and_says_why() {
    for (fault, call, kind) in [
        (Fault::Status(413), Call::Put, Kind::Full),
        (Fault::Status(507), Call::Put, Kind::Full),
        (Fault::Status(403), Call::Put, Kind::BackendDenied),
        (Fault::Status(503), Call::Put, Kind::Unavailable),
        (Fault::WrongByte, Call::Put, Kind::Unavailable),
        (Fault::Status(413), Call::PutManifest, Kind::Full),
        (Fault::Status(403), Call::PutManifest, Kind::BackendDenied),
        (Fault::Status(401), Call::Put, Kind::BackendDenied),
    ] {
        let what = format!("{fault:?} of {call:?}");
        let objects = Objects::swift();
        let driver = open(&options(&objects)).await;
        let held = Held::new(&id());
        objects.fail(Rule::new(fault).on(call));
        let bytes = image(Look::Random, 3 * SEGMENT + 7, 2);
        let error: Error = soon(&what, put(&*driver, &held, &bytes)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error:?}");
        objects.heal();
        held.recovered(&*driver).await;
        assert_eq!(objects.left(), [""; 0], "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_whose_answer_is_lost_is_looked_up() {
    for fault in [Fault::CutAfter, Fault::Silent] {
        let objects = Objects::swift();
        let driver = open(&options(&objects)).await;
        let held = Held::new(&id());
        let bytes = image(Look::Random, 3 * SEGMENT + 7, 3);
        objects.fail(Rule::new(fault).on(Call::PutManifest));
        let at = soon("a put", put(&*driver, &held, &bytes)).await.unwrap();
        objects.heal();
        assert_reads(&*driver, &at, &bytes, "it was put").await;
        assert_eq!(held.recovered(&*driver).await, Recovered::Whole);
    }
    // One of which nobody knows whether it is there keeps its segments.
    let objects = Objects::swift();
    let driver = open(&options(&objects)).await;
    let held = Held::new(&id());
    let bytes = image(Look::Random, 3 * SEGMENT + 7, 3);
    objects.fail(Rule::new(Fault::Late).on(Call::PutManifest));
    let error = soon("a put", put(&*driver, &held, &bytes)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout, "{error:?}");
    objects.heal();
    let at: Location = error.location().unwrap().parse().unwrap();
    soon("what was late", async {
        while driver.stat(&at).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_reads(&*driver, &at, &bytes, "it came late").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_renewed_in_the_middle_and_only_once_for_all() {
    let objects = Objects::swift();
    let driver = open(&options(&objects)).await;
    let held = Held::new(&id());
    let bytes = image(Look::Random, 8 * SEGMENT + 7, 4);
    let mut upload = held.create(&*driver, None).await.unwrap();
    let at = upload.at().clone();
    assert_eq!(objects.count(Call::Token), 1);
    for chunk in aligned_chunks(&bytes) {
        objects.expire_tokens();
        upload.write(chunk).await.unwrap();
    }
    upload.commit(&digests(&bytes, Algo::Sha256)).await.unwrap();
    let asked = objects.count(Call::Token);
    assert!((2..=5).contains(&asked), "asked {asked} times");
    assert_reads(&*driver, &at, &bytes, "after renewals").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_goes_on_when_the_password_is_changed() {
    let objects = Objects::swift();
    let mut options = options(&objects);
    let driver = open(&options).await;
    let held = Held::new(&id());
    let bytes = image(Look::Random, 8 * SEGMENT + 7, 5);
    let mut upload = held.create(&*driver, None).await.unwrap();
    let at = upload.at().clone();
    let mut chunks = aligned_chunks(&bytes).into_iter();
    upload.write(chunks.next().unwrap()).await.unwrap();
    // A reload opens the store anew.
    objects.admit(&format!("{USER} another-secret"), &format!("AUTH_{USER}"));
    options.retain(|(name, _)| *name != "swift_store_key");
    options.push(("swift_store_key", "another-secret".to_owned()));
    let reopened = open(&options).await;
    objects.refuse(&format!("{USER} {SECRET}"));
    for chunk in chunks {
        upload.write(chunk).await.unwrap();
    }
    upload.commit(&digests(&bytes, Algo::Sha256)).await.unwrap();
    assert_reads(&*reopened, &at, &bytes, "after the change").await;
    assert_reads(&*driver, &at, &bytes, "by the one opened before").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_is_replaced_while_it_is_read_is_never_mixed() {
    let objects = Objects::swift();
    let driver = open(&options(&objects)).await;
    let (old, new) = (vec![1_u8; 60 << 20], vec![2_u8; 60 << 20]);
    objects.place("image", &old);
    let at = driver.locate(&id()).await.unwrap();
    let window = crate::harness::stores::window(1 << 20);
    let reader = driver.open(&at, Span::All, window).await.unwrap();
    let mut stream = reader.body.into_stream();
    let mut found = futures_util::StreamExt::next(&mut stream).await.unwrap().unwrap().to_vec();
    objects.place("image", &new);
    let ended = loop {
        match futures_util::StreamExt::next(&mut stream).await {
            Some(Ok(bytes)) => found.extend_from_slice(&bytes),
            Some(Err(error)) => break Some(error),
            None => break None,
        }
    };
    assert!(found.iter().all(|byte| *byte == 1), "bytes of another image");
    assert_eq!(ended.map(|error| error.kind()), Some(Kind::Mismatch));
    assert_eq!(read(&*driver, &at, Span::Part(0, 9)).await.unwrap(), vec![2; 9]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_does_not_end_a_transfer() {
    let objects = Objects::swift();
    let mut options = options(&objects);
    options.retain(|(name, _)| *name != "imaged_swift_timeout_s");
    let driver = open(&options).await;
    let held = Held::new(&id());
    let bytes = image(Look::Random, 8 * SEGMENT + 7, 6);
    let mut upload = held.create(&*driver, None).await.unwrap();
    let at = upload.at().clone();
    objects.go_down();
    let away = tokio::time::sleep(Duration::from_millis(300));
    let writes = async {
        for chunk in aligned_chunks(&bytes) {
            upload.write(chunk).await.unwrap();
        }
        upload.commit(&digests(&bytes, Algo::Sha256)).await.unwrap();
    };
    let back = async {
        away.await;
        objects.come_up();
    };
    soon("an upload", async { tokio::join!(writes, back) }).await;
    let reading = assert_reads(&*driver, &at, &bytes, "after it was away");
    let blink = async {
        objects.until_came(Call::Get, 2).await;
        objects.go_down();
        objects.come_up();
    };
    soon("a download", async { tokio::join!(reading, blink) }).await;
}
