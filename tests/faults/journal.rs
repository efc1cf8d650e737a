//! What a daemon that died has left, and the next one finds.

use std::{fs, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use imaged::{
    config::Config,
    daemon::Daemon,
    digest::{Algo, Choice},
    ids::{Begun, Ids},
    journal::{Intent, Work},
    store::Store,
    transfer::Frame,
    wire::records::State,
};
use imaged_drivers::{Hold, ImageId, Kind, Location, Recovered, Upload};
use tempfile::TempDir;

use crate::harness::stores::{
    self, Fixture, assert_free, assert_reads, begin, claim,
    content::{Look, digests, image},
    image_of, names, order, put, soon, text, write_image,
};

fn intent(work: Work, store: &str, image: &ImageId) -> Intent {
    Intent {
        work,
        store: store.to_owned(),
        image: image.clone(),
        hash_algo: Algo::Blake2b,
        checksum: true,
        volume: None,
        token: None,
    }
}

/// The state directory as a death at this moment would leave it.
fn dead(f: &Fixture) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    let (from, to) = (f.home().join("state"), copy.path().join("state"));
    fs::create_dir_all(to.join("journal")).unwrap();
    fs::copy(from.join("instance"), to.join("instance")).unwrap();
    for name in names(&from.join("journal")) {
        fs::copy(from.join("journal").join(&name), to.join("journal").join(&name)).unwrap();
    }
    copy
}

/// The next daemon: on that state directory, with the same images.
async fn next(f: &Fixture, state: &Path) -> Arc<Daemon> {
    fs::create_dir_all(state.join("beside")).unwrap();
    let dirs: Vec<_> = f.dirs.iter().map(|dir| (dir.clone(), 0)).collect();
    let (config, _) = Config::parse(&text("file", &dirs, "", state), "test").unwrap();
    Daemon::new(&config).unwrap()
}

fn journal_of(home: &Path) -> Vec<String> {
    names(&home.join("state/journal"))
}

/// Begins an upload under what has begun.
async fn create(f: &Fixture, begun: &Begun) -> Box<dyn Upload> {
    f.driver.create(&image_of(begun.claim().clone(), None)).await.unwrap()
}

/// An upload that nobody will ever end, and the intent of it.
async fn orphan(f: &Fixture, id: &ImageId) {
    let begun = f.shared().ids.begin(intent(Work::Put, "main", id)).await.unwrap();
    let mut upload = create(f, &begun).await;
    upload.write(image(Look::Random, 5000, 1)).await.unwrap();
    // Dropping it would clear it away.
    std::mem::forget(upload);
    std::mem::forget(begun);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replaying_twice_is_replaying_once() {
    let f = stores::file_staged().await;
    let (half, whole) = (f.id(), f.id());
    let bytes = image(Look::Mixed, 100_000, 61);
    orphan(&f, &half).await;
    assert_eq!(names(&f.dirs[0]).len(), 1, "a part");
    // This one died between its commit and the clearing of its intent.
    let claim = f.shared().ids.begin(intent(Work::Put, "main", &whole)).await.unwrap();
    std::mem::forget(claim);
    let at = f.place(&whole, &bytes).await;
    for death in ["the first", "the second"] {
        let state = dead(&f);
        assert_eq!(journal_of(state.path()).len(), 2);
        let next = next(&f, state.path()).await;
        let busy = next.shared.ids.begin(intent(Work::Put, "main", &half)).await;
        assert_eq!(busy.unwrap_err().kind(), Kind::Unavailable, "{death}: until it is resolved");
        for _ in 0..2 {
            next.round().await;
            assert!(next.shared.ids.is_empty(), "{death}");
            assert_eq!(journal_of(state.path()), [""; 0], "{death}");
            assert_eq!(names(&f.dirs[0]), [whole.as_str()], "{death}");
            assert_reads(&*f.driver, &at, &bytes, death).await;
        }
    }
    // And once more, when another image has that id by now.
    let other = f.place(&half, &bytes).await;
    let state = dead(&f);
    next(&f, state.path()).await.round().await;
    assert_reads(&*f.driver, &other, &bytes, "a later image").await;
    f.driver.delete(&other, Hold::default()).await.unwrap();
    f.driver.delete(&at, Hold::default()).await.unwrap();
    assert_eq!(names(&f.dirs[0]), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_written_intent_is_dropped_and_the_others_are_kept() {
    let f = stores::file_staged().await;
    let half = f.id();
    orphan(&f, &half).await;
    let state = dead(&f);
    let whole = fs::read(state.path().join("state/journal").join(&journal_of(state.path())[0]));
    let whole = whole.unwrap();
    // A crash while it was written leaves any beginning of it, whole blocks of zeros, or all of it.
    let mut torn: Vec<Vec<u8>> = (0..=whole.len()).map(|len| whole[..len].to_vec()).collect();
    torn.push(vec![0; 512]);
    for (n, torn) in torn.iter().enumerate() {
        fs::write(state.path().join(format!("state/journal/{n}.new")), torn).unwrap();
    }
    let next = next(&f, state.path()).await;
    assert_eq!(next.shared.ids.len(), 1);
    assert_eq!(journal_of(state.path()).len(), 1, "the torn ones are gone");
    next.round().await;
    assert!(next.shared.ids.is_empty());
    assert_eq!(names(&f.dirs[0]), [""; 0]);
}

/// Lines that this version cannot read, with the store and the image that they tell of.
const UNREADABLE: [(&str, Option<(&str, &str)>); 9] = [
    // Of later versions: another form, other work, more fields.
    (r#"{"v":2,"work":"put","store":"main","image":"a","hash_algo":"md5"}"#, Some(("main", "a"))),
    (r#"{"v":1,"work":"upload","store":"main","image":"b","parts":[1,2]}"#, Some(("main", "b"))),
    (
        r#"{"v":1,"work":"put","store":"main","image":"c","hash_algo":"md5","spool":7}"#,
        Some(("main", "c")),
    ),
    (r#"{"work":"attach","store":"gone","image":"d"}"#, Some(("gone", "d"))),
    (
        r#"{"v":1,"work":"put","store":"main","image":"e","hash_algo":"blake3"}"#,
        Some(("main", "e")),
    ),
    // Of nobody that we know.
    (r#"{"work":"put","store":"main","image":"../x","hash_algo":"md5"}"#, Some(("main", "../x"))),
    ("", None),
    ("[1, 2]", None),
    ("\u{0}\u{0}\u{0}", None),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_kept_and_its_id_stays_taken() {
    let f = stores::file_staged().await;
    let half = f.id();
    orphan(&f, &half).await;
    let state = dead(&f);
    let journal = state.path().join("state/journal");
    for (n, (text, _)) in UNREADABLE.iter().enumerate() {
        fs::write(journal.join(format!("{n}.json")), text).unwrap();
    }
    fs::create_dir(journal.join("a directory")).unwrap();
    fs::create_dir(journal.join("another.json")).unwrap();
    fs::create_dir(journal.join("half.new")).unwrap();
    let kept = journal_of(state.path()).len() - 1;
    for _ in 0..2 {
        let next = next(&f, state.path()).await;
        for _ in 0..2 {
            next.round().await;
            assert!(next.shared.ids.is_empty(), "what could be read is resolved");
            assert_eq!(journal_of(state.path()).len(), kept, "the rest is there");
        }
        let unread = next.shared.ids.unread("main");
        assert_eq!(unread.len(), kept - 1, "all but the one of another store: {unread:?}");
        let store = next.stores().get("main").unwrap();
        for (_, told) in UNREADABLE {
            let Some(("main", id)) = told else { continue };
            let Ok(id) = id.parse::<ImageId>() else { continue };
            let refused = begin(&store, order(&id, None)).leave().await.unwrap_err();
            assert_eq!(refused.kind(), Kind::Unavailable, "{refused:?}");
            assert!(refused.to_string().contains(".json"), "it names the file: {refused}");
        }
    }
    // Once the file is looked after, the id is free.
    fs::remove_file(journal.join("0.json")).unwrap();
    let next = next(&f, state.path()).await;
    let store = next.stores().get("main").unwrap();
    next.round().await;
    let left = begin(&store, order(&"a".parse().unwrap(), None)).leave().await.unwrap_err();
    assert_eq!(left.kind(), Kind::Mismatch, "it was begun: {left:?}");
    assert_eq!(names(&f.dirs[0]), [""; 0]);
}

#[test]
fn lines_of_every_version_are_read() {
    let lines = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/journal");
    for version in names(&lines) {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir(state.path().join("journal")).unwrap();
        let files = names(&lines.join(&version));
        for file in &files {
            fs::copy(lines.join(&version).join(file), state.path().join("journal").join(file))
                .unwrap();
        }
        let ids = Ids::open(state.path()).unwrap();
        assert_eq!(ids.unread("main"), [], "{version}");
        let left = ids.left_over();
        assert_eq!(left.len(), files.len(), "{version}");
        for (intent, begun) in &left {
            assert_eq!(begun.claim().id(), &intent.image, "{version}");
            assert!(!begun.claim().nonce().is_empty(), "{version}");
            assert_eq!(intent.volume.is_some(), intent.work == Work::Seal, "{version}");
            assert_eq!(intent.token.is_some(), intent.image.as_str() == "image-token", "{version}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_intent_waits_for_a_store_that_is_not_configured() {
    let f = stores::file_staged().await;
    let half = f.id();
    let begun = f.shared().ids.begin(intent(Work::Put, "gone", &half)).await.unwrap();
    let part = create(&f, &begun).await;
    std::mem::forget((begun, part));
    let state = dead(&f);
    for _ in 0..2 {
        let next = next(&f, state.path()).await;
        for _ in 0..2 {
            next.round().await;
            assert_eq!(next.shared.ids.len(), 1);
            assert_eq!(journal_of(state.path()).len(), 1);
        }
        assert_eq!(names(&f.dirs[0]).len(), 1, "what it left stays too");
    }
    // The store comes back under its name.
    let images = f.dirs[0].display();
    let home = state.path().display();
    let text = format!(
        "[DEFAULT]\nenabled_backends = gone:file\n[imaged]\nstate_dir = {home}/state\n\
         [gone]\nfilesystem_store_datadir = {images}\n"
    );
    let (config, _) = Config::parse(&text, "test").unwrap();
    let back = Daemon::new(&config).unwrap();
    back.round().await;
    assert!(back.shared.ids.is_empty());
    assert_eq!(names(&f.dirs[0]), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn digests_that_were_under_way_are_computed_by_the_next_daemon() {
    let f = stores::file().await;
    let bytes = image(Look::Mixed, 300_000, 62);
    // The second one died while its intent was turned from the one into the other.
    for works in [&[Work::Digest][..], &[Work::Put, Work::Digest], &[Work::Digest, Work::Put]] {
        let id = f.id();
        let at = f.place(&id, &bytes).await;
        let state = dead(&f);
        for (n, work) in works.iter().enumerate() {
            let text = serde_json::to_vec(&intent(*work, "main", &id)).unwrap();
            fs::write(state.path().join(format!("state/journal/{n}.json")), text).unwrap();
        }
        let next = next(&f, state.path()).await;
        next.round().await;
        soon("the digests", async {
            while !next.shared.ids.is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let kept = f.driver.stat(&at).await.unwrap().digests;
        assert_eq!(kept, Some(digests(&bytes, Algo::Blake2b)), "{works:?}");
        assert_eq!(journal_of(state.path()), [""; 0], "{works:?}");
        let jobs = next.shared.jobs.list();
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        let job = next.shared.jobs.get(&jobs[0].id, Duration::from_secs(60)).await.unwrap();
        assert_eq!((job.state, job.kind.as_str()), (State::Done, "digest"));
        // Of an image that is gone there is nothing to compute.
        f.driver.delete(&at, Hold::default()).await.unwrap();
        let text = serde_json::to_vec(&intent(Work::Digest, "main", &id)).unwrap();
        drop(next);
        let state = dead(&f);
        fs::write(state.path().join("state/journal/x.json"), text).unwrap();
        let next = self::next(&f, state.path()).await;
        next.round().await;
        soon("the digests", async {
            while !next.shared.ids.is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    f.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_digest_that_a_stop_interrupts_stays_in_the_journal() {
    let f = stores::file().await;
    let bytes = image(Look::Random, 1000, 63);
    let id = f.id();
    let at = f.place(&id, &bytes).await;
    f.shared().stop.cancel();
    let claim = f.shared().ids.begin(intent(Work::Digest, "main", &id)).await.unwrap();
    let digested =
        f.store.digest(claim, Choice { algo: Algo::Blake2b, checksum: true }, "job").await;
    match digested {
        // It may have been done before it looked.
        Ok(found) => assert_eq!(found, digests(&bytes, Algo::Blake2b)),
        Err(error) => {
            assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
            assert_eq!(journal_of(f.home()).len(), 1, "the next start goes on");
        }
    }
    assert_reads(&*f.driver, &at, &bytes, "the image").await;
    f.driver.delete(&at, Hold::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_cannot_be_written_lets_nothing_begin() {
    let f = stores::file_staged().await;
    let bytes = image(Look::Random, 1000, 64);
    let (journal, away) = (f.home().join("state/journal"), f.home().join("state/away"));
    fs::rename(&journal, &away).unwrap();
    let id = f.id();
    f.plain.as_ref().unwrap().plan(0, 0);
    let error = put(&f.store, order(&id, None), &bytes).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    assert_eq!(f.plain.as_ref().unwrap().plan(0, 0), [""; 0], "the store was not touched");
    fs::rename(&away, &journal).unwrap();
    assert_free(&f, &id, "refused").await;
    f.assert_empty().await;
}

/// Two daemons that share the directory of a store, each with its own journal.
async fn two() -> (Fixture, Arc<Daemon>, Arc<Store>, TempDir) {
    let f = stores::file_staged().await;
    let home = tempfile::tempdir().unwrap();
    let other = next(&f, home.path()).await;
    other.round().await;
    let store = other.stores().get("main").unwrap();
    (f, other, store, home)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_daemons_on_one_directory_neither_clears_away_the_others_part() {
    let (f, other, store, _home) = two().await;
    assert_ne!(f.shared().ids.instance(), other.shared.ids.instance());
    let bytes = image(Look::Mixed, 200_000, 65);
    let id = f.id();
    let mut running = begin(&f.store, order(&id, None));
    soon("a put to begin", &mut running.ready).await.unwrap();
    running.give(&[bytes.slice(..100_000)]).await;
    let parts = names(&f.dirs[0]);
    assert_eq!(parts.len(), 1);
    // By recovering, by a put that fails, and by one that is refused.
    let theirs = store.driver().unwrap();
    assert_eq!(theirs.recover(&claim(&id), None).await.unwrap(), Recovered::Nothing);
    assert_eq!(names(&f.dirs[0]), parts);
    let failed = begin(&store, order(&id, None)).leave().await.unwrap_err();
    assert_eq!(failed.kind(), Kind::Mismatch, "{failed:?}");
    let claim = other.shared.ids.begin(intent(Work::Put, "main", &id)).await.unwrap();
    drop(claim);
    other.round().await;
    assert!(other.shared.ids.is_empty());
    assert_eq!(names(&f.dirs[0]), parts);
    running.give(&[bytes.slice(100_000..)]).await;
    let receipt = running.end(Frame::End).await.unwrap();
    let at: Location = receipt.location.parse().unwrap();
    assert_reads(&*theirs, &at, &bytes, "as the other sees it").await;
    store.delete(&at, "r").await.unwrap();
    f.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_daemons_on_one_directory_one_wins_an_id() {
    let (f, _other, store, _home) = two().await;
    for turn in 0..4 {
        let id = f.id();
        let images: Vec<Bytes> =
            (0..2).map(|n| image(Look::Random, 50_000, turn * 2 + n)).collect();
        let (ours, theirs) = tokio::join!(
            put(&f.store, order(&id, None), &images[0]),
            put(&store, order(&id, None), &images[1]),
        );
        let (won, lost) = match (ours, theirs) {
            (Ok(_), Err(error)) => (0, error),
            (Err(error), Ok(_)) => (1, error),
            both => panic!("{both:?}"),
        };
        assert_eq!(lost.kind(), Kind::Exists, "{lost:?}");
        let at = f.driver.locate(&id).await.unwrap();
        assert_reads(&*f.driver, &at, &images[won], "the winner").await;
        f.driver.delete(&at, Hold::default()).await.unwrap();
    }
    f.assert_empty().await;
}

#[test]
fn one_journal_has_one_daemon() {
    let home = tempfile::tempdir().unwrap();
    let journal = Ids::open(home.path()).unwrap();
    assert_eq!(Ids::open(home.path()).unwrap_err().kind(), Kind::InUse);
    let instance = journal.instance().to_owned();
    drop(journal);
    assert_eq!(Ids::open(home.path()).unwrap().instance(), instance, "and keeps its name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_of_any_length_is_put_or_refused_and_can_be_recovered() {
    for f in [stores::file().await, stores::file_staged().await, stores::mem().await] {
        for len in [1, 200, 233, 234, 255] {
            let id: ImageId = "x".repeat(len).parse().unwrap();
            let bytes = image(Look::Random, 100, 66);
            match write_image(&*f.driver, &id, None, vec![bytes.clone()]).await {
                Ok((at, _)) => {
                    assert_reads(&*f.driver, &at, &bytes, "by a long name").await;
                    f.driver.delete(&at, Hold::default()).await.unwrap();
                }
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Invalid, "{len}: {error:?}");
                    assert!(len > 233, "{len}");
                }
            }
            assert_eq!(f.driver.recover(&claim(&id), None).await.unwrap(), Recovered::Nothing);
        }
        f.assert_empty().await;
    }
}
