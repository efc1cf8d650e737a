//! Requests that say of what they speak: `If-Match` and `If-None-Match`, for every method.

use std::thread;

use imaged_drivers::{Digests, Error, Hold, Kind};

use crate::harness::{
    daemon::{Daemon, STORES},
    raw::{Answer, Raw},
    stores::{
        self, assert_free,
        content::{Look, image},
        order, put,
    },
};

const IMAGE: &str = "/v1/stores/fast/images/x";

/// The answer to a request with these headers and this body.
fn ask(daemon: &Daemon, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    let mut raw = Raw::connect(&daemon.socket);
    raw.head(method, path, &format!("{headers}content-length: {}\r\n", body.len()));
    raw.send(body);
    raw.answer(method)
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
