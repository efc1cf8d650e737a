//! Requests that say of what they speak: `If-Match` and `If-None-Match`, for every method.

use std::{
    fs,
    sync::{Arc, Mutex},
    thread,
};

use async_trait::async_trait;
use bytes::Bytes;
use imaged::{api::connection, socket::Socket};
use imaged_drivers::{Digests, Error, Hold, Kind, Location, Reader, Result, Span, window::Window};

use crate::harness::{
    daemon::{Daemon, STORES},
    raw::{Answer, Raw},
    stores::{
        self, Fixture, aligned_chunks,
        altered::{Alter, Altered, Inner},
        assert_free,
        content::{Look, image},
        order, put, write_image,
    },
};

const IMAGE: &str = "/v1/stores/fast/images/x";

/// The answer to a request with these headers and this body.
fn ask(daemon: &Daemon, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    Raw::ask_with(&daemon.socket, method, path, headers, body)
}

#[test]
fn a_delete_whose_condition_does_not_hold_deletes_nothing() {
    let daemon = Daemon::start(STORES);
    let etag = {
        daemon.put("fast", "x", b"image");
        daemon.ask("HEAD", IMAGE).headers["etag"].clone()
    };
    let location = format!(
        "/v1/stores/fast/images?at=file%3A%2F%2F{}",
        daemon.path("fast/x").display().to_string().replace('/', "%2F")
    );
    for path in [IMAGE, &location] {
        for headers in [
            "if-match: \"other\"\r\n".to_owned(),
            format!("if-match: W/{etag}\r\n"),
            "if-none-match: *\r\n".to_owned(),
            format!("if-none-match: {etag}\r\n"),
            format!("if-match: {etag}\r\nif-none-match: \"a\", {etag}\r\n"),
        ] {
            let refused = ask(&daemon, "DELETE", path, &headers, b"");
            let got = (refused.status, refused.code());
            assert_eq!(got, (412, "Precondition".to_owned()), "{headers}");
            assert_eq!(daemon.get("fast", "x").body, b"image", "{headers}");
        }
        let unread = ask(&daemon, "DELETE", path, "if-match: other\r\n", b"");
        assert_eq!((unread.status, unread.code()), (400, "Invalid".to_owned()));
        assert_eq!(daemon.get("fast", "x").status, 200);
    }
    let twice = format!("if-match: \"other\"\r\nif-match: {etag}\r\n");
    assert_eq!(ask(&daemon, "DELETE", IMAGE, &twice, b"").status, 204);
    let gone = ask(&daemon, "DELETE", IMAGE, "if-match: \"other\"\r\n", b"");
    assert_eq!(gone.status, 404, "what is not there has no condition to meet");
}

#[test]
fn a_reader_is_given_what_its_conditions_allow_and_before_its_range_is_looked_at() {
    let daemon = Daemon::start(STORES);
    daemon.put("fast", "x", b"image");
    let etag = daemon.ask("HEAD", IMAGE).headers["etag"].clone();
    for (headers, status) in [
        (format!("if-match: {etag}\r\n"), 200),
        ("if-match: *\r\n".to_owned(), 200),
        ("if-match: \"other\"\r\n".to_owned(), 412),
        (format!("if-none-match: W/{etag}\r\n"), 304),
        ("if-none-match: *\r\n".to_owned(), 304),
        ("if-none-match: \"other\"\r\n".to_owned(), 200),
        (format!("if-match: \"other\"\r\nif-none-match: {etag}\r\n"), 412),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = ask(&daemon, method, IMAGE, &headers, b"");
            assert_eq!(answer.status, status, "{method} {headers}");
            if status == 304 {
                assert_eq!(answer.headers["etag"], etag);
            }
        }
    }
    let past = "range: bytes=9-\r\n";
    let known = format!("{past}if-none-match: {etag}\r\n");
    assert_eq!(ask(&daemon, "GET", IMAGE, &known, b"").status, 304);
    let other = format!("{past}if-match: \"other\"\r\n");
    assert_eq!(ask(&daemon, "GET", IMAGE, &other, b"").status, 412);
    assert_eq!(ask(&daemon, "GET", IMAGE, past, b"").status, 416);
    // By descriptor too.
    let by_descriptor = "imaged-accept: fd\r\nif-match: \"other\"\r\n";
    assert_eq!(ask(&daemon, "GET", IMAGE, by_descriptor, b"").status, 412);
}

#[test]
fn an_image_that_is_to_be_made_cannot_match_one_that_is_there() {
    let daemon = Daemon::start(STORES);
    let copy = format!(
        "{{\"source\":{{\"location\":\"file://{}\",\"store\":\"fast\"}}}}",
        daemon.path("fast/x").display()
    );
    for headers in ["if-match: *\r\n", "if-match: \"other\"\r\n"] {
        let refused = ask(&daemon, "PUT", IMAGE, headers, b"image");
        assert_eq!((refused.status, refused.code()), (412, "Precondition".to_owned()));
    }
    daemon.assert_empty();
    assert_eq!(ask(&daemon, "PUT", IMAGE, "if-none-match: *\r\n", b"image").status, 201);
    let made = "/v1/stores/cheap/images/x";
    assert_eq!(ask(&daemon, "POST", made, "if-match: *\r\n", copy.as_bytes()).status, 412);
    assert_eq!(daemon.files("cheap"), [""; 0]);
    assert_eq!(ask(&daemon, "POST", made, "if-none-match: *\r\n", copy.as_bytes()).status, 201);
    // That the id is taken comes before any condition.
    for headers in ["", "if-match: *\r\n", "if-match: \"other\"\r\n", "if-none-match: *\r\n"] {
        let taken = ask(&daemon, "PUT", IMAGE, headers, b"other");
        assert_eq!((taken.status, taken.code()), (409, "Exists".to_owned()), "{headers}");
        assert_eq!(ask(&daemon, "POST", made, headers, copy.as_bytes()).status, 409);
    }
    assert_eq!(daemon.get("fast", "x").body, b"image");
}

#[test]
fn what_has_no_etag_matches_nothing_but_a_star() {
    let daemon = Daemon::start(STORES);
    for path in ["/v1/stores", "/v1/stores/fast", "/v1/stores/fast/images", "/v1/jobs", "/healthz"]
    {
        for (headers, status) in [
            ("if-match: \"a\"\r\n", 412),
            ("if-match: *\r\n", 200),
            ("if-none-match: \"a\"\r\n", 200),
            ("if-none-match: *\r\n", 304),
            ("if-match: a\r\n", 400),
        ] {
            assert_eq!(ask(&daemon, "GET", path, headers, b"").status, status, "{path} {headers}");
        }
    }
    let none = ask(&daemon, "DELETE", "/v1/jobs/none", "if-match: \"a\"\r\n", b"");
    assert_eq!(none.status, 404);
}

/// Another image of that name cannot take the place of the one that is judged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_judged_is_what_is_deleted() {
    let f = stores::file().await;
    let bytes = image(Look::Random, 100_000, 7);
    let (id, size) = (f.id(), Some(bytes.len() as u64));
    let at = f.place(&id, &bytes).await;
    let runtime = tokio::runtime::Handle::current();
    let (store, driver) = (&f.store, &f.driver);
    let another = |digests: Option<&Digests>| {
        assert!(digests.is_some());
        let come = async {
            driver.delete(&at, Hold::default()).await.unwrap();
            put(store, order(&id, size), &bytes).await.unwrap_err()
        };
        let refused = thread::scope(|scope| scope.spawn(|| runtime.block_on(come)).join().unwrap());
        assert_eq!(refused.kind(), Kind::Unavailable, "{refused:?}");
        Err(Error::new(Kind::Precondition, "another"))
    };
    let error = store.delete_if(&at, "r", None, Some(&another)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Precondition, "{error:?}");
    assert_free(&f, &id, "judged").await;
    f.assert_empty().await;
}

/// An image that gives way to another, once, when it is opened: to these bytes, and whether anybody knows
/// their digests.
#[derive(Debug, Default)]
struct GivesWay(Mutex<Option<(Bytes, bool)>>);

#[async_trait]
impl Alter for GivesWay {
    async fn open(
        &self,
        inner: &Inner,
        at: &Location,
        span: Span,
        window: Window,
    ) -> Result<Reader> {
        let other = self.0.lock().unwrap().take();
        if let Some((bytes, known)) = other {
            inner.delete(at, Hold::default()).await?;
            if known {
                let id = at.image().parse().unwrap();
                write_image(&**inner, &id, None, aligned_chunks(&bytes)).await?;
            } else {
                fs::write(at.to_string().strip_prefix("file://").unwrap(), &bytes).unwrap();
            }
        }
        inner.open(at, span, window).await
    }
}

/// Nor of the one that is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_judged_is_what_is_read() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("main");
    fs::create_dir(&dir).unwrap();
    let gives_way = Arc::new(GivesWay::default());
    let alter = Arc::clone(&gives_way);
    let wrap = Arc::new(move |inner: Inner| {
        Arc::new(Altered { inner, alter: Arc::clone(&alter) }) as Inner
    });
    let f = Fixture::wrapped("file", &[(dir, 1)], "", None, home, wrap).await;
    let settings = f.daemon.settings();
    let (socket, daemon) = (Socket::open(&settings).unwrap(), Arc::clone(&f.daemon));
    let serving = tokio::spawn(async move { connection::serve(socket, &daemon).await });
    let (id, one, other) = (f.id(), image(Look::Random, 70_000, 8), image(Look::Random, 70_000, 9));
    let path = format!("/v1/stores/main/images/{id}");
    let mut etags = Vec::new();
    for bytes in [&one, &other] {
        let at = f.place(&id, bytes).await;
        etags.push(Raw::ask(&settings.socket, "HEAD", &path, b"").headers["etag"].clone());
        f.remove(&at).await;
    }
    let [first, second] = [&etags[0], &etags[1]];
    let range = "range: bytes=1-\r\n";
    for known in [true, false] {
        for (headers, status) in [
            (format!("if-match: {first}\r\n"), 412),
            (format!("if-match: {first}\r\n{range}"), 412),
            (format!("if-match: {first}, {second}\r\n"), if known { 200 } else { 412 }),
            ("if-match: *\r\n".to_owned(), 200),
            (format!("if-none-match: {second}\r\n"), if known { 304 } else { 200 }),
            (format!("{range}if-range: {first}\r\n"), 503),
            // What is no part is whole, whichever image it is.
            (format!("{range}if-range: {second}\r\n"), 200),
            (range.to_owned(), 206),
        ] {
            let at = f.place(&id, &one).await;
            *gives_way.0.lock().unwrap() = Some((other.clone(), known));
            let answer = Raw::ask_with(&settings.socket, "GET", &path, &headers, b"");
            assert_eq!(answer.status, status, "{headers}{known}");
            match status {
                200 => assert!(answer.body == other, "{headers}{known}"),
                206 => assert!(answer.body == other[1..], "{headers}{known}"),
                304 => assert_eq!(&answer.headers["etag"], second),
                _ => {}
            }
            f.remove(&at).await;
        }
    }
    f.daemon.shared.closing.cancel();
    serving.await.unwrap();
}
