//! The s3 driver over an object server that fails as it is told: whatever becomes of a request, the image is
//! whole afterwards, or nothing is left of it and its id is free.

use bytes::Bytes;
use futures_util::future::{join, join_all};
use imaged::wire::records::Receipt;
use imaged_drivers::{Kind, Location, Result, Span};

use crate::harness::{
    again,
    objects::{Call, Fault, Objects, Rule, SECRET},
    stores::{
        Fixture, IN_PARTS, aligned_chunks, assert_free, assert_reads, assert_same, begin,
        content::{Look, image},
        in_memory, order, put, read, soon,
    },
};

const MIB: usize = 1 << 20;

/// What is over as soon as it is tried again.
const PASSING: [Fault; 9] = [
    Fault::Status(429),
    Fault::Status(500),
    Fault::Status(503),
    Fault::Later(503, 0),
    Fault::Early(503),
    Fault::CutBefore,
    Fault::CutMiddle,
    Fault::CutAfter,
    Fault::ErrorIn200,
];

/// What a server means as it says it.
const MEANT: [Fault; 7] = [
    Fault::Status(401),
    Fault::Status(403),
    Fault::Status(404),
    Fault::Status(409),
    Fault::Status(412),
    Fault::Status(413),
    Fault::Status(507),
];

/// What only patience tells from slowness.
const SILENT: [Fault; 5] =
    [Fault::Hang, Fault::Silent, Fault::Late, Fault::StallReading, Fault::Stall];

/// All requests that a put may make.
const OF_A_PUT: [Call; 10] = [
    Call::HeadBucket,
    Call::Head,
    Call::Put,
    Call::CreateUpload,
    Call::UploadPart,
    Call::Complete,
    Call::Abort,
    Call::PutTags,
    Call::GetTags,
    Call::Delete,
];

/// What a server does long after nobody waits for it any more.
#[tokio::test]
async fn a_put_that_is_carried_out_after_it_was_given_up_leaves_nothing() {
    let pair = Pair::new("imaged_s3_timeout_s = 1\n").await;
    let (bytes, id) = (one_piece(), pair.f.id());
    pair.objects().fail(Rule::new(Fault::Late).on(Call::Put));
    let error = put(&pair.f.store, order(&id, Some(bytes.len() as u64)), &bytes).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Timeout | Kind::Unavailable), "{error:?}");
    // All that is known of it is cleared away.
    pair.f.settled().await;
    pair.objects().heal();
    soon("it to appear", async {
        while pair.objects().left().is_empty() {
            again().await;
        }
    })
    .await;
    pair.until_empty("what came late").await;
    // The next image of that name stays.
    let at = pair.f.place(&id, &bytes).await;
    pair.f.settle().await;
    assert_reads(&*pair.f.driver, &at, &bytes, "the next").await;
    pair.f.remove(&at).await;
}

/// A store over a server that fails as it is told.
struct Pair {
    f: Fixture,
}

impl Pair {
    async fn new(more: &str) -> Self {
        Self { f: in_memory(Objects::s3(), more).await }
    }

    fn objects(&self) -> &Objects {
        self.f.objects.as_ref().unwrap()
    }

    /// Nothing is left, as soon as what has failed is cleared away.
    async fn until_empty(&self, what: &str) {
        soon(what, async {
            while !self.objects().left().is_empty() || !self.f.shared().ids.is_empty() {
                self.f.settle().await;
                again().await;
            }
        })
        .await;
    }

    /// Puts an image while this goes wrong, and sees that it is whole, or nothing.
    async fn put_despite(&self, rule: Rule, bytes: &Bytes, what: &str) -> Result<Receipt> {
        let id = self.f.id();
        self.objects().fail(rule);
        let ended = put(&self.f.store, order(&id, Some(bytes.len() as u64)), bytes).await;
        self.objects().heal();
        if let Ok(receipt) = &ended {
            let at: Location = receipt.location.parse().unwrap();
            assert_reads(&*self.f.driver, &at, bytes, what).await;
            self.f.remove(&at).await;
        }
        self.until_empty(what).await;
        assert_free(&self.f, &id, what).await;
        ended
    }
}

/// Two full parts of 5 MiB, and a short one.
fn three_parts() -> Bytes {
    image(Look::Mixed, 11 * MIB + 1, 3)
}

fn one_piece() -> Bytes {
    image(Look::Mixed, 100_003, 4)
}

/// Each request of a put goes wrong once, in each of these ways.
async fn each_request_goes_wrong_once(more: &str, bytes: Bytes, faults: &[Fault]) {
    // What waits for time limits waits side by side.
    join_all(OF_A_PUT.map(|call| goes_wrong_once(more, &bytes, call, faults))).await;
}

/// One request of a put goes wrong once, in each of these ways.
async fn goes_wrong_once(more: &str, bytes: &Bytes, call: Call, faults: &[Fault]) {
    let pair = Pair::new(more).await;
    for fault in faults {
        let what = format!("{call:?} {fault:?}");
        let rule = Rule::new(*fault).on(call).times(1);
        let _ended = pair.put_despite(rule, bytes, &what).await;
    }
}

#[tokio::test]
async fn an_image_in_one_piece_is_whole_or_nothing_whatever_a_server_answers() {
    each_request_goes_wrong_once("", one_piece(), &[&PASSING[..], &MEANT].concat()).await;
}

#[tokio::test]
async fn an_image_in_parts_is_whole_or_nothing_whatever_a_server_answers() {
    each_request_goes_wrong_once(IN_PARTS, three_parts(), &[&PASSING[..], &MEANT].concat()).await;
}

#[tokio::test]
async fn an_image_is_whole_or_nothing_when_a_server_goes_silent() {
    let (more, bytes) = (format!("{IN_PARTS}imaged_s3_timeout_s = 1\n"), three_parts());
    // A part has as long as its bytes take by a slow line, whatever the option says: those wait abreast too.
    let parts = SILENT.each_ref().map(std::slice::from_ref);
    let parts = parts.map(|fault| goes_wrong_once(&more, &bytes, Call::UploadPart, fault));
    let others = OF_A_PUT.into_iter().filter(|call| *call != Call::UploadPart);
    let others = others.map(|call| goes_wrong_once(&more, &bytes, call, &SILENT));
    join(join_all(parts), join_all(others)).await;
}

#[tokio::test]
async fn a_part_that_fails_is_sent_again_alone() {
    let pair = Pair::new(IN_PARTS).await;
    let bytes = three_parts();
    for fault in PASSING.into_iter().filter(|fault| *fault != Fault::ErrorIn200) {
        let what = format!("{fault:?}");
        let before = pair.objects().count(Call::UploadPart);
        let rule = Rule::new(fault).on(Call::UploadPart).after(1).times(1);
        pair.put_despite(rule, &bytes, &what).await.expect(&what);
        assert_eq!(pair.objects().count(Call::UploadPart) - before, 3 + 1, "{what}");
    }
}

#[tokio::test]
async fn a_server_that_fails_every_third_request_is_borne_with() {
    for (more, bytes) in [("", one_piece()), (IN_PARTS, image(Look::Mixed, 41 * MIB, 5))] {
        let pair = Pair::new(more).await;
        for fault in [Fault::Later(503, 0), Fault::CutBefore, Fault::CutAfter, Fault::Status(500)] {
            let what = format!("{fault:?}");
            let rule = Rule::new(fault).every(3);
            pair.put_despite(rule, &bytes, &what).await.expect(&what);
        }
    }
}

#[tokio::test]
async fn an_image_whose_last_answer_is_lost_is_there() {
    let (all, bytes) = (three_parts(), one_piece());
    for (more, call, bytes) in [(IN_PARTS, Call::Complete, all), ("", Call::Put, bytes)] {
        let pair = Pair::new(more).await;
        let rule = Rule::new(Fault::CutAfter).on(call).times(1);
        pair.put_despite(rule, &bytes, "the answer").await.expect("the image is there");
    }
}

#[tokio::test]
async fn what_a_server_refuses_says_why() {
    let pair = Pair::new(IN_PARTS).await;
    for (fault, kind) in [
        (Fault::Status(403), Kind::BackendDenied),
        (Fault::Status(507), Kind::Full),
        (Fault::Status(503), Kind::Unavailable),
    ] {
        let rule = Rule::new(fault).on(Call::UploadPart);
        let error = pair.put_despite(rule, &three_parts(), "refused").await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(!format!("{error:?}").contains(SECRET), "{error:?}");
    }
}

#[tokio::test]
async fn a_download_goes_on_from_where_it_broke_off() {
    let pair = Pair::new("imaged_s3_timeout_s = 1\n").await;
    let bytes = image(Look::Mixed, 23 * MIB + 7, 6);
    let id = pair.f.id();
    let at = pair.f.place(&id, &bytes).await;
    for fault in [
        Fault::Short,
        Fault::CutMiddle,
        Fault::CutBefore,
        Fault::Later(503, 0),
        Fault::Status(500),
        Fault::Stall,
    ] {
        let what = format!("{fault:?}");
        pair.objects().fail(Rule::new(fault).on(Call::Get).every(2).times(3));
        assert_reads(&*pair.f.driver, &at, &bytes, &what).await;
        pair.objects().heal();
        pair.objects().fail(Rule::new(fault).on(Call::Get).times(1));
        let span = Span::Part(1_000_003, 9 * MIB as u64);
        let found = read(&*pair.f.driver, &at, span).await.expect(&what);
        assert_same(&found, &bytes[1_000_003..9 * MIB], &what);
        pair.objects().heal();
    }
    pair.f.remove(&at).await;
}

#[tokio::test]
async fn two_images_are_never_mixed() {
    let pair = Pair::new("").await;
    let bytes = image(Look::Mixed, 23 * MIB, 7);
    let id = pair.f.id();
    let at = pair.f.place(&id, &bytes).await;
    // Whatever is asked for after the first answer meets another object of the same length.
    pair.objects().fail(Rule::new(Fault::Late).on(Call::Get).after(1));
    let reading = {
        let (driver, at) = (std::sync::Arc::clone(&pair.f.driver), at.clone());
        tokio::spawn(async move { read(&*driver, &at, Span::All).await })
    };
    pair.objects().until_held(1).await;
    pair.objects().place(id.as_str(), &vec![7; bytes.len()]);
    pair.objects().heal();
    let error = soon("the read to end", reading).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("change"), "{error}");
    pair.f.remove(&at).await;
}

#[tokio::test]
async fn a_server_that_goes_down_and_comes_back_is_waited_for() {
    let pair = Pair::new(IN_PARTS).await;
    let bytes = image(Look::Mixed, 41 * MIB, 8);
    let id = pair.f.id();
    pair.objects().fail(Rule::new(Fault::Silent).on(Call::UploadPart).after(3));
    let running = begin(&pair.f.store, order(&id, Some(bytes.len() as u64)));
    let chunks = aligned_chunks(&bytes);
    let given = tokio::spawn(async move {
        running.give(&chunks).await;
        running.end(imaged::transfer::Frame::End).await
    });
    pair.objects().until_held(1).await;
    pair.objects().go_down();
    pair.objects().until_down().await;
    pair.objects().heal();
    pair.objects().come_up();
    let receipt = soon("the put to end", given).await.unwrap().expect("the server is back");
    let at: Location = receipt.location.parse().unwrap();
    assert_reads(&*pair.f.driver, &at, &bytes, "after it was down").await;
    pair.f.remove(&at).await;
    pair.until_empty("all").await;
}

#[tokio::test]
async fn a_server_has_no_more_parts_at_a_time_than_it_was_said_to_take() {
    let pair = Pair::new(&format!("{IN_PARTS}s3_store_thread_pools = 3\n")).await;
    let bytes = image(Look::Mixed, 61 * MIB, 9);
    let rule = Rule::new(Fault::CutBefore).on(Call::UploadPart).every(5);
    pair.put_despite(rule, &bytes, "in flight").await.expect("parts are sent again");
    let most = pair.objects().most_at_once(Call::UploadPart);
    assert!((2..=3).contains(&most), "{most} parts at a time");
}
