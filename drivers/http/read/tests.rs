use std::sync::Arc;

use futures_util::TryStreamExt as _;

use super::*;
use crate::{
    contract::Driver,
    http::{self, Config},
    kit::{
        http::tests::server::{Reply, Seen, Server, answer},
        memory::{Memory, Share},
        options::Options,
    },
};

const ETAG: &str = "ETag: \"one\"\r\n";
const MODIFIED: &str =
    "Last-Modified: Thu, 26 Nov 2026 10:00:00 GMT\r\nDate: Thu, 26 Nov 2026 11:00:00 GMT\r\n";

async fn store(more: &[(&str, &str)]) -> Arc<dyn Driver> {
    let mut options = vec![("imaged_http_allow", "127.0.0.1"), ("imaged_http_timeout_s", "1")];
    options.extend(more);
    let config = Config::read(&mut Options::of("web", &options)).unwrap();
    http::open(&config, "web", &crate::Host::named("here")).await.unwrap()
}

fn window() -> Window {
    Memory::new(1 << 20, 1, std::time::Duration::from_secs(1)).window(
        Share::Get("x".into()),
        8192,
        2,
    )
}

fn at(server: &Server, path: &str) -> crate::Location {
    server.url(path).as_str().parse().unwrap()
}

async fn read(store: &dyn Driver, at: &crate::Location, span: Span) -> Result<Vec<u8>> {
    let reader = store.open(at, span, window()).await?;
    let count = reader.range.end - reader.range.start;
    let mut stream = reader.body.into_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.try_next().await? {
        bytes.extend_from_slice(&chunk);
    }
    assert_eq!(bytes.len() as u64, count, "what ends without an error is whole");
    Ok(bytes)
}

fn image(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 31 + seed) % 251).unwrap()).collect()
}

/// The range that a request asks for of an image of `len` bytes.
fn asked(seen: &Seen, len: usize) -> Option<Range<usize>> {
    let (from, to) = seen.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
    Some(match (from.parse::<usize>(), to.parse::<usize>()) {
        (Ok(from), Ok(to)) => from..(to + 1).min(len),
        (Ok(from), Err(_)) => from..len,
        (Err(_), Ok(count)) => len.saturating_sub(count)..len,
        _ => panic!("{}", seen.head),
    })
}

/// What a server answers that has `image`, with this in its head.
fn file(seen: &Seen, image: &[u8], head: &str) -> Vec<u8> {
    let is_head = seen.head.starts_with("HEAD ");
    let total = image.len();
    let (status, range) = match asked(seen, total) {
        None => ("200 OK".to_owned(), 0..total),
        Some(range) if range.is_empty() => {
            let head = format!("HTTP/1.1 416 No\r\nContent-Range: bytes */{total}\r\n");
            return format!("{head}Content-Length: 0\r\n\r\n").into();
        }
        Some(range) => {
            let told = format!("bytes {}-{}/{total}", range.start, range.end - 1);
            (format!("206 Partial Content\r\nContent-Range: {told}"), range)
        }
    };
    let length = range.len();
    let mut all =
        format!("HTTP/1.1 {status}\r\n{head}Content-Length: {length}\r\n\r\n").into_bytes();
    if !is_head {
        all.extend_from_slice(&image[range]);
    }
    all
}

/// The same, cut `short` bytes before its end.
fn cut(seen: &Seen, image: &[u8], head: &str, short: usize) -> Vec<u8> {
    let mut all = file(seen, image, head);
    all.truncate(all.len() - short);
    all
}

/// What a server does about a request.
type Then = Box<dyn Fn(&Seen) -> Reply + Send + Sync>;

/// A server that has `image` and nothing to tell.
async fn serving(len: usize, head: &'static str) -> (Vec<u8>, Server) {
    let bytes = image(1, len);
    let served = bytes.clone();
    (bytes, Server::start(move |_, seen| Reply::Send(file(seen, &served, head))).await)
}

#[tokio::test]
async fn spans_are_slices_also_where_a_server_knows_no_ranges() {
    let len = 20_000;
    let (bytes, server) = serving(len, "").await;
    let whole = bytes.clone();
    let ignoring = Server::start(move |_, seen| {
        let all = Seen { head: seen.head.replace("range:", "x:"), ..Seen::default() };
        Reply::Send(file(&all, &whole, ""))
    });
    let ignoring = ignoring.await;
    let store = store(&[]).await;
    for server in [server, ignoring] {
        let at = at(&server, "/a");
        assert_eq!(store.stat(&at).await.unwrap().size, len as u64);
        for (span, range) in [
            (Span::All, 0..len),
            (Span::From(0), 0..len),
            (Span::From(19_999), 19_999..len),
            (Span::Part(1, 2), 1..2),
            (Span::Part(9000, 18_001), 9000..18_001),
            (Span::Part(5, u64::MAX), 5..len),
            (Span::Last(7), len - 7..len),
            (Span::Last(u64::MAX), 0..len),
        ] {
            assert!(read(&*store, &at, span).await.unwrap() == bytes[range], "{span:?}");
        }
        for span in [Span::From(20_000), Span::From(u64::MAX), Span::Part(7, 7), Span::Last(0)] {
            let error = read(&*store, &at, span).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Range, "{span:?}: {error:?}");
        }
    }
}

#[tokio::test]
async fn an_image_without_bytes_is_one() {
    let (_, server) = serving(0, ETAG).await;
    let (store, at) = (store(&[]).await, at(&server, "/a"));
    assert_eq!(store.stat(&at).await.unwrap().size, 0);
    assert_eq!(read(&*store, &at, Span::All).await.unwrap(), b"");
    for span in [Span::From(0), Span::Last(5), Span::Part(0, 1)] {
        assert_eq!(read(&*store, &at, span).await.unwrap_err().kind(), Kind::Range, "{span:?}");
    }
}

#[tokio::test]
async fn a_download_that_breaks_goes_on_from_the_byte_that_was_reached() {
    let bytes = image(1, 50_000);
    for (head, validator) in [(ETAG, "\"one\""), (MODIFIED, "Thu, 26 Nov 2026 10:00:00 GMT")] {
        for how in [Reply::Close as fn(Vec<u8>) -> Reply, Reply::Stall] {
            for span in [Span::All, Span::Part(100, 49_000), Span::Last(40_000)] {
                let image = bytes.clone();
                let server = Server::start(move |nth, seen| match nth {
                    0 => how(cut(seen, &image, head, 33_000)),
                    1 => how(cut(seen, &image, head, 33_000)),
                    2 => how(cut(seen, &image, head, 20_000)),
                    _ => Reply::Send(file(seen, &image, head)),
                });
                let server = server.await;
                let found = read(&*store(&[]).await, &at(&server, "/a"), span).await.unwrap();
                let range = span.of(50_000).unwrap();
                let [from, to] = [range.start, range.end].map(|at| usize::try_from(at).unwrap());
                assert!(found == bytes[from..to], "{span:?}");
                let seen = server.seen();
                assert!(seen.len() >= 3, "{}", seen.len());
                for later in &seen[1..] {
                    assert_eq!(later.header("if-range"), Some(validator));
                    assert!(asked(later, 50_000).unwrap().start > from, "{}", later.head);
                }
            }
        }
    }
}

#[tokio::test]
async fn what_breaks_again_and_again_without_a_byte_is_given_up() {
    let bytes = image(1, 50_000);
    let server = Server::start(move |nth, seen| match nth {
        0 => Reply::Close(cut(seen, &bytes, ETAG, 10_000)),
        _ => Reply::Close(cut(seen, &bytes, ETAG, 10_000.min(asked(seen, 50_000).unwrap().len()))),
    });
    let server = server.await;
    let error = read(&*store(&[]).await, &at(&server, "/a"), Span::All).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn an_image_that_was_changed_is_never_mixed() {
    let (old, new) = (image(1, 50_000), image(2, 50_000));
    let other = "ETag: \"two\"\r\n";
    let whole = Seen { head: "GET / HTTP/1.1\r\n\r\n".to_owned(), ..Seen::default() };
    let then: [(&str, Then); 9] = [
        (
            "all of the new one",
            Box::new({
                let (new, whole) = (new.clone(), whole.clone());
                move |_| Reply::Send(file(&whole, &new, other))
            }),
        ),
        (
            "a part of the new one",
            Box::new({
                let new = new.clone();
                move |seen| Reply::Send(file(seen, &new, other))
            }),
        ),
        (
            "a part of one that has no name",
            Box::new({
                let new = new.clone();
                move |seen| Reply::Send(file(seen, &new, ""))
            }),
        ),
        (
            "all of one that has no name",
            Box::new({
                let new = new.clone();
                move |_| Reply::Send(file(&whole, &new, ""))
            }),
        ),
        (
            "one that is longer and has the same name",
            Box::new(|seen| Reply::Send(file(seen, &image(2, 50_001), ETAG))),
        ),
        (
            "one whose name is weak now",
            Box::new({
                let new = new.clone();
                move |seen| Reply::Send(file(seen, &new, "ETag: W/\"one\"\r\n"))
            }),
        ),
        ("a shorter one", Box::new(|_| answer("416 No", "Content-Range: bytes */10\r\n", ""))),
        ("a refusal", Box::new(|_| answer("412 No", "", ""))),
        ("nothing", Box::new(|_| answer("404 No", "", ""))),
    ];
    for (what, reply) in then {
        let first = old.clone();
        let server = Server::start(move |nth, seen| match nth {
            0 => Reply::Close(cut(seen, &first, ETAG, 20_000)),
            _ => reply(seen),
        });
        let server = server.await;
        let store = store(&[]).await;
        let mut stream = store.open(&at(&server, "/a"), Span::All, window()).await.unwrap();
        let mut found = Vec::new();
        let mut body = std::mem::replace(
            &mut stream.body,
            crate::contract::Body::Stream(stream::empty().boxed()),
        )
        .into_stream();
        let error = loop {
            match body.next().await {
                Some(Ok(bytes)) => found.extend_from_slice(&bytes),
                Some(Err(error)) => break error,
                None => panic!("{what}: the end after {} bytes", found.len()),
            }
        };
        let kind = if what == "nothing" { Kind::NotFound } else { Kind::Mismatch };
        assert_eq!(error.kind(), kind, "{what}: {error:?}");
        assert!(found == old[..found.len()], "{what}");
        assert_eq!(server.seen().len(), 2, "{what}");
    }
}

#[tokio::test]
async fn where_nothing_tells_an_image_from_another_a_break_is_the_end() {
    let fresh =
        "Last-Modified: Thu, 26 Nov 2026 10:00:00 GMT\r\nDate: Thu, 26 Nov 2026 10:00:00 GMT\r\n";
    for head in
        ["", "ETag: W/\"one\"\r\n", "ETag: one\r\n", "ETag: \"a\"\r\nETag: \"b\"\r\n", fresh]
    {
        let bytes = image(1, 50_000);
        let server =
            Server::start(move |_, seen| Reply::Close(cut(seen, &bytes, head, 20_000))).await;
        let error = read(&*store(&[]).await, &at(&server, "/a"), Span::All).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{head}: {error:?}");
        assert_eq!(server.seen().len(), 1, "{head}");
    }
}

#[tokio::test]
async fn a_server_that_sends_less_than_it_is_asked_for_is_asked_for_the_rest() {
    let bytes = image(1, 20_000);
    let whole = bytes.clone();
    let server = Server::start(move |_, seen| {
        let Some(range) = asked(seen, whole.len()) else {
            return Reply::Send(file(seen, &whole, ETAG));
        };
        let end = range.end.min(range.start + 6000);
        let head = format!("GET / HTTP/1.1\r\nrange: bytes={}-{}\r\n\r\n", range.start, end - 1);
        Reply::Send(file(&Seen { head, ..Seen::default() }, &whole, ETAG))
    });
    let server = server.await;
    let found = read(&*store(&[]).await, &at(&server, "/a"), Span::From(1)).await.unwrap();
    assert!(found == bytes[1..]);
    assert_eq!(server.seen().len(), 4);
}

/// An answer in chunks, which says no length.
fn chunked(body: &str) -> Reply {
    let length = body.len();
    let all = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
    );
    Reply::Send(all.into())
}

#[tokio::test]
async fn a_length_that_is_not_said_is_found_by_a_range() {
    let bytes = image(1, 20_000);
    for refusal in ["405 No", "403 No", "501 No", "400 No", "200 OK"] {
        let whole = bytes.clone();
        let server = Server::start(move |_, seen| match asked(seen, whole.len()) {
            _ if seen.head.starts_with("HEAD ") => {
                Reply::Send(format!("HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n").into())
            }
            Some(_) => Reply::Send(file(seen, &whole, ETAG)),
            None => chunked("no length"),
        });
        let server = server.await;
        let (store, at) = (store(&[]).await, at(&server, "/a"));
        let stat = store.stat(&at).await.unwrap();
        assert_eq!((stat.size, stat.version.as_deref()), (20_000, Some("\"one\"")), "{refusal}");
        for span in [Span::All, Span::From(3)] {
            let from = usize::try_from(span.of(20_000).unwrap().start).unwrap();
            assert!(read(&*store, &at, span).await.unwrap() == bytes[from..], "{refusal} {span:?}");
        }
    }
    let server = Server::start(|_, _| chunked("no length")).await;
    let (store, at) = (store(&[]).await, at(&server, "/a"));
    assert_eq!(store.stat(&at).await.unwrap_err().kind(), Kind::Unsupported);
    for span in [Span::All, Span::Last(1)] {
        assert_eq!(
            read(&*store, &at, span).await.unwrap_err().kind(),
            Kind::Unsupported,
            "{span:?}"
        );
    }
}

#[tokio::test]
async fn what_is_packed_or_contradicts_itself_is_no_image() {
    for (kind, head) in [
        (Kind::Unsupported, "200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4"),
        (
            Kind::Unsupported,
            "206 P\r\nContent-Encoding: br\r\nContent-Range: bytes 2-5/9\r\nContent-Length: 4",
        ),
        (Kind::Unsupported, "200 OK\r\nTransfer-Encoding: gzip, chunked"),
        (Kind::Unavailable, "200 OK\r\nContent-Length: 4\r\nContent-Length: 5"),
        (Kind::Unavailable, "200 OK\r\nContent-Length: -4"),
        (Kind::Unavailable, "200 OK\r\nContent-Length: 18446744073709551615"),
        (Kind::Unavailable, "200 OK\r\nContent-Length: 99999999999999999999999"),
        (Kind::Unavailable, "206 P\r\nContent-Length: 4"),
        (Kind::Unavailable, "206 P\r\nContent-Range: bytes 2-4/9\r\nContent-Length: 4"),
        (Kind::Unavailable, "206 P\r\nContent-Range: bytes 2-5/4\r\nContent-Length: 4"),
        (Kind::Unavailable, "206 P\r\nContent-Range: bytes 0-3/9\r\nContent-Length: 4"),
        (Kind::Unavailable, "206 P\r\nContent-Range: bytes 3-6/9\r\nContent-Length: 4"),
        (
            Kind::Unavailable,
            "206 P\r\nContent-Type: multipart/byteranges; boundary=x\r\nContent-Length: 4",
        ),
        (Kind::Unsupported, "206 P\r\nContent-Range: bytes 2-5/*\r\nContent-Length: 4"),
        (Kind::Unavailable, "204 Nothing"),
        (Kind::Unavailable, "203 Other\r\nContent-Length: 4"),
        (Kind::Unavailable, "304 Same"),
    ] {
        let server =
            Server::start(move |_, _| Reply::Close(format!("HTTP/1.1 {head}\r\n\r\nabcd").into()))
                .await;
        let store = store(&[("imaged_http_retries", "0")]).await;
        let error = read(&*store, &at(&server, "/a"), Span::Part(2, 6)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{head}: {error:?}");
    }
}

#[tokio::test]
async fn refusals_are_told_by_kind() {
    for (status, kind) in [
        ("404", Kind::NotFound),
        ("410", Kind::NotFound),
        ("401", Kind::BackendDenied),
        ("403", Kind::BackendDenied),
        ("400", Kind::BackendDenied),
        ("405", Kind::BackendDenied),
        ("429", Kind::Unavailable),
        ("500", Kind::Unavailable),
        ("503", Kind::Unavailable),
    ] {
        let server =
            Server::start(move |_, _| answer(&format!("{status} No"), "", "no such thing")).await;
        let (store, at) = (store(&[("imaged_http_retries", "0")]).await, at(&server, "/a"));
        assert_eq!(store.stat(&at).await.unwrap_err().kind(), kind, "{status}");
        let error = read(&*store, &at, Span::All).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{status}: {error:?}");
    }
}

#[tokio::test]
async fn five_redirects_are_followed_with_their_queries_and_no_more() {
    for status in ["301", "302", "303", "307", "308"] {
        let bytes = image(1, 10_000);
        let whole = bytes.clone();
        let server = Server::start(move |_, seen| {
            let left = seen.head.split("left=").nth(1).unwrap().split(' ').next().unwrap();
            match left.parse::<u32>().unwrap() {
                0 => Reply::Send(file(seen, &whole, ETAG)),
                left => {
                    let to = format!("Location: b?x=%26&left={}\r\n", left - 1);
                    answer(&format!("{status} There"), &to, "this way")
                }
            }
        });
        let server = server.await;
        let store = store(&[]).await;
        let five = at(&server, "/a?left=5");
        assert_eq!(store.stat(&five).await.unwrap().size, 10_000, "{status}");
        assert!(read(&*store, &five, Span::From(9)).await.unwrap() == bytes[9..], "{status}");
        assert!(server.seen().last().unwrap().head.starts_with("GET /b?x=%26&left=0 "), "{status}");
        let six = at(&server, "/a?left=6");
        assert_eq!(store.stat(&six).await.unwrap_err().kind(), Kind::Invalid, "{status}");
    }
}

#[tokio::test]
async fn each_redirect_is_judged_as_the_first_url_is() {
    for target in [
        "http://169.254.169.254/latest/meta-data",
        "http://2852039166/",
        "http://[::1]/",
        "http://10.0.0.1/",
        "//0x7f.0.0.2/",
        "http://[::ffff:127.0.0.1]/",
        "http://localhost6.localdomain6/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "http://[",
        "http://127.0.0.3:1/",
    ] {
        let server =
            Server::start(move |_, _| answer("302 There", &format!("Location: {target}\r\n"), ""))
                .await;
        let (store, at) = (store(&[("imaged_http_retries", "0")]).await, at(&server, "/a"));
        for error in
            [store.stat(&at).await.unwrap_err(), read(&*store, &at, Span::All).await.unwrap_err()]
        {
            let unknown = target.contains("localdomain6") && error.kind() == Kind::Unavailable;
            assert!(error.kind() == Kind::Invalid || unknown, "{target}: {error:?}");
        }
    }
    let server = Server::start(|_, _| answer("302 There", "", "")).await;
    let error = read(&*store(&[]).await, &at(&server, "/a"), Span::All).await.unwrap_err();
    assert!(error.to_string().contains("redirects to nowhere"), "{error}");
}

#[tokio::test]
async fn a_password_is_sent_to_its_server_alone_and_shown_to_nobody() {
    let other = Server::start(|_, seen| {
        let said = seen.header("authorization").unwrap_or("nothing");
        answer("403 No", "", &format!("you said {said}"))
    });
    let other = other.await;
    let elsewhere = other.url("/there");
    let server = Server::start(move |_, seen| match seen.header("authorization") {
        Some("Basic bWU6czNjcmV0QA==") if seen.head.contains(" /away ") => {
            answer("302 There", &format!("Location: {elsewhere}\r\n"), "")
        }
        said => answer("403 No", "", &format!("you said {said:?} me:s3cret@")),
    });
    let server = server.await;
    let store = store(&[]).await;
    for path in ["/away", "/here"] {
        let url = server.url(path).as_str().replace("http://", "http://me:s3cret%40@");
        let at: crate::Location = url.parse().unwrap();
        let error = read(&*store, &at, Span::All).await.unwrap_err();
        let shown = format!("{error} {error:?} {}", error.chain());
        assert_eq!(error.kind(), Kind::BackendDenied, "{shown}");
        assert!(!shown.contains("s3cret") && !shown.contains("bWU6"), "{shown}");
        assert!(!shown.contains("you said Basic") && shown.contains("you said"), "{shown}");
    }
    assert_eq!(other.seen()[0].header("authorization"), None);
}

#[tokio::test]
async fn what_signs_a_url_is_shown_to_nobody() {
    let server =
        Server::start(|_, seen| answer("403 No", "", &format!("wrong: {} s3cret+", seen.head)));
    let server = server.await;
    let at = at(&server, "/a?X-Amz-Date=7&X-Amz-Signature=s3cret%2B&partNumber=1");
    let error = read(&*store(&[]).await, &at, Span::All).await.unwrap_err();
    let shown = format!("{error:?} {at} {at:?}");
    assert!(!shown.contains("s3cret") && shown.contains("X-Amz-Signature=..."), "{shown}");
    let path = "/a?X-Amz-Date=7&X-Amz-Signature=s3cret%2B&partNumber=1";
    assert!(server.seen()[0].head.starts_with(&format!("GET {path} ")));
}

#[tokio::test]
async fn a_redirect_to_a_path_in_utf_8_is_followed() {
    let bytes = image(1, 100);
    let whole = bytes.clone();
    let server = Server::start(move |nth, seen| match nth {
        0 => answer("302 There", "Location: /é\r\n", ""),
        _ => Reply::Send(file(seen, &whole, ETAG)),
    });
    let server = server.await;
    assert!(read(&*store(&[]).await, &at(&server, "/a"), Span::All).await.unwrap() == bytes);
    assert!(server.seen()[1].head.starts_with("GET /%C3%A9 "), "{:?}", server.seen());
}

#[tokio::test]
async fn a_download_goes_on_where_its_redirects_led_and_else_where_they_began() {
    let bytes = image(1, 50_000);
    for gone in [false, true] {
        let whole = bytes.clone();
        let server = Server::start(move |nth, seen| match (nth, seen.head.contains(" /a ")) {
            (0, true) => answer("302 There", "Location: /signed?1\r\n", ""),
            (1, false) => Reply::Close(cut(seen, &whole, ETAG, 20_000)),
            (2, false) if gone => answer("403 Expired", "", ""),
            (3, true) => answer("302 There", "Location: /signed?2\r\n", ""),
            (2 | 4, false) => Reply::Send(file(seen, &whole, ETAG)),
            _ => answer("500 Wrong", "", &seen.head),
        });
        let server = server.await;
        let found = read(&*store(&[]).await, &at(&server, "/a"), Span::All).await.unwrap();
        assert!(found == bytes, "{gone}");
        assert_eq!(server.seen().len(), if gone { 5 } else { 3 });
    }
}

#[tokio::test]
async fn images_have_ids_only_below_a_base() {
    let (_, server) = serving(10, ETAG).await;
    let url = server.url("/images").as_str().to_owned();
    let (id, plain) = ("x-1".parse().unwrap(), store(&[]).await);
    assert_eq!(plain.locate(&id).await.unwrap_err().kind(), Kind::NotFound);
    assert!(plain.place(&id).is_none());
    let based = store(&[("imaged_http_base_url", url.as_str())]).await;
    let found = based.locate(&id).await.unwrap();
    assert_eq!(found.to_string(), format!("{url}/x-1"));
    assert_eq!(based.place(&id), Some(found));
    assert!(server.seen()[0].head.starts_with("HEAD /images/x-1 "));
}
