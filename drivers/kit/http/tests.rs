use std::time::Duration;

use bytes::Bytes;

use super::{
    header::{AUTHORIZATION, CONTENT_LENGTH, RETRY_AFTER, TRANSFER_ENCODING},
    *,
};
use crate::{
    contract::{Error, Kind},
    kit::{
        addresses::{Guard, Place, Rules},
        lane::Lane,
        memory::{Memory, Share},
        options::Secret,
        parts::{Part, Parts, Spool},
    },
};

pub(crate) mod server;
use server::{Reply, Server, answer};

const SOON: Duration = Duration::from_millis(300);

fn settings() -> Settings {
    Settings {
        connect: SOON,
        progress: SOON,
        backoff: Duration::from_millis(1),
        ..Settings::new("x")
    }
}

fn client() -> Client {
    Client::new(settings()).unwrap()
}

fn get(server: &Server) -> Request {
    Request::new(Method::GET, server.url("/a/b"))
}

/// Everything that can be shown of an error.
fn shown(error: &Error) -> String {
    format!("{error} {error:?} {}", error.chain())
}

/// Every way in which an exchange fails that may go well the next time.
const FAILURES: [&str; 11] = [
    "408",
    "429",
    "500",
    "502",
    "503",
    "504",
    "closed",
    "reset",
    "cut in its head",
    "stalled",
    "stalled in its head",
];

fn failing(how: &str) -> Reply {
    let half = b"HTTP/1.1 200 OK\r\nContent-Le".to_vec();
    match how {
        "closed" => Reply::Close(Vec::new()),
        "reset" => Reply::Reset(Vec::new()),
        "cut in its head" => Reply::Close(half),
        "stalled" => Reply::Stall(Vec::new()),
        "stalled in its head" => Reply::Stall(half),
        status => answer(&format!("{status} No"), "Retry-After: 0\r\n", "not now"),
    }
}

#[tokio::test]
async fn an_exchange_that_fails_is_done_again() {
    for how in FAILURES {
        let server = Server::start(move |nth, _| match nth {
            0 | 1 => failing(how),
            _ => answer("200 OK", "", "whole"),
        });
        let server = server.await;
        let answer = client().send(get(&server)).await.unwrap();
        assert_eq!(answer.status, 200, "{how}");
        assert_eq!(answer.text(100).await.unwrap(), "whole", "{how}");
        assert_eq!(server.seen().len(), 3, "{how}");
    }
}

#[tokio::test]
async fn what_goes_on_failing_is_told_after_the_last_try() {
    for how in FAILURES {
        let server = Server::start(move |_, _| failing(how)).await;
        match client().send(get(&server)).await {
            Ok(answer) => assert_eq!(answer.status.as_str(), how),
            Err(error) => {
                let stalled = how.starts_with("stalled");
                let kind = if stalled { Kind::Timeout } else { Kind::Unavailable };
                assert_eq!(error.kind(), kind, "{how}: {error:?}");
            }
        }
        assert_eq!(server.seen().len(), 4, "{how}");
    }
}

#[tokio::test]
async fn what_is_not_idempotent_is_sent_once() {
    for how in FAILURES {
        let server = Server::start(move |_, _| failing(how)).await;
        let request = Request::new(Method::POST, server.url("/"));
        drop(client().send(request).await);
        assert_eq!(server.seen().len(), 1, "{how}");
    }
}

#[tokio::test]
async fn a_judgement_is_no_failure_that_passes() {
    for status in ["301", "400", "401", "403", "404", "409", "412", "413", "416", "501", "507"] {
        let server = Server::start(move |_, _| answer(&format!("{status} So"), "", "")).await;
        let answer = client().send(get(&server)).await.unwrap();
        assert_eq!(answer.status.as_str(), status);
        assert_eq!(server.seen().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn nobody_listening_is_unavailable() {
    let server = Server::start(|_, _| Reply::Close(Vec::new())).await;
    let request = get(&server);
    drop(server);
    tokio::task::yield_now().await;
    let error = client().send(request).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
}

#[tokio::test]
async fn a_body_that_ends_early_is_an_error_and_never_an_end() {
    let long = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    for head in [long, chunked] {
        for (kind, how) in [
            (Kind::Unavailable, Reply::Close as fn(Vec<u8>) -> Reply),
            (Kind::Unavailable, Reply::Reset),
            (Kind::Timeout, Reply::Stall),
        ] {
            let server = Server::start(move |_, _| how(head.into())).await;
            // A connection that is reset may lose what came before.
            let Ok(mut answer) = client().send(get(&server).idempotent(false)).await else {
                continue;
            };
            let mut got = Vec::new();
            let error = loop {
                match answer.body.next().await {
                    Ok(Some(bytes)) => got.extend_from_slice(&bytes),
                    Ok(None) => panic!("the end after {got:?}"),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), kind, "{error:?}");
            assert!(b"hello".starts_with(&got[..]), "{got:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_wanted_whole_is_asked_for_again_when_it_breaks_off() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello";
    for how in [Reply::Close as fn(Vec<u8>) -> Reply, Reply::Reset, Reply::Stall] {
        let server = Server::start(move |nth, _| match nth {
            0 | 1 => how(half.into()),
            _ => answer("200 OK", "", "hello you!"),
        });
        let server = server.await;
        let whole = client().send(get(&server).whole(10)).await.unwrap();
        assert_eq!(whole.text(10).await.unwrap(), "hello you!");
        assert_eq!(server.seen().len(), 3);
    }
    let server = Server::start(|_, _| answer("200 OK", "", "hello you!")).await;
    let error = client().send(get(&server).whole(9)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    // What a server says of a refusal is read by who wants to know.
    let server = Server::start(move |_, _| answer("404 No", "", "no such thing")).await;
    let refused = client().send(get(&server).whole(1)).await.unwrap();
    assert_eq!(refused.text(100).await.unwrap(), "no such thing");
}

/// The bytes `0..len` as a part in memory, and as one on disk.
async fn parts(len: usize) -> (Vec<u8>, [Part; 2], tempfile::TempDir) {
    let bytes: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::new(dir.path(), 1 << 30, Lane::new("spool", 1, SOON * 100));
    let mut made = Vec::new();
    for total in [1 << 30, 1] {
        let memory = Memory::new(total, 1, SOON);
        let parts = Parts::new(&memory, Share::Put("x".into()), &spool);
        let mut part = parts.begin(len).await.unwrap();
        part.push(&Bytes::from(bytes.clone())).await.unwrap();
        made.push(part.freeze());
    }
    assert!(matches!(made[..], [Part::Memory(_), Part::Spool(_)]));
    (bytes, made.try_into().unwrap(), dir)
}

#[tokio::test]
async fn a_part_has_its_length_and_is_sent_whole_again() {
    let (bytes, parts, _dir) = parts((1 << 20) + 7).await;
    for part in parts {
        let server = Server::start(|nth, _| match nth {
            0 => answer("503 No", "", ""),
            1 => Reply::Reset(Vec::new()),
            _ => answer("201 Created", "", ""),
        });
        let server = server.await;
        let request = Request::new(Method::PUT, server.url("/part")).payload(Payload::Part(part));
        assert_eq!(client().send(request).await.unwrap().status, 201);
        let seen = server.seen();
        assert_eq!(seen.len(), 3);
        for one in seen {
            assert!(one.body == bytes);
            assert_eq!(one.header(CONTENT_LENGTH.as_str()), Some("1048583"));
            assert_eq!(one.header(TRANSFER_ENCODING.as_str()), None);
        }
    }
}

#[tokio::test]
async fn an_empty_body_says_that_it_is_empty() {
    let server = Server::start(|_, _| answer("201 Created", "", "")).await;
    for payload in [Payload::Empty, Payload::Bytes(Bytes::new())] {
        let request = Request::new(Method::PUT, server.url("/")).payload(payload);
        client().send(request).await.unwrap();
    }
    for one in server.seen() {
        assert_eq!(one.header("content-length"), Some("0"), "{}", one.head);
    }
}

#[tokio::test]
async fn a_server_that_takes_no_more_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}/").parse().unwrap();
    let payload = Payload::Bytes(vec![0; 64 << 20].into());
    let request = Request::new(Method::PUT, url).payload(payload).idempotent(false);
    let error = client().send(request).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout, "{error:?}");
}

#[tokio::test]
async fn a_connection_is_used_again_and_counts_up_to_its_last_byte() {
    let server = Server::start(|_, _| answer("200 OK", "", "hello")).await;
    let client = Client::new(Settings { connections: 1, ..settings() }).unwrap();
    let mut first = client.send(get(&server)).await.unwrap();
    let error = client.send(get(&server).idempotent(false)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    assert!(error.to_string().contains("in use"), "{error}");
    while first.body.next().await.unwrap().is_some() {}
    let second = client.send(get(&server)).await.unwrap();
    assert_eq!(second.text(5).await.unwrap(), "hello");
    drop(first);
}

#[tokio::test]
async fn what_is_read_of_an_answer_is_bounded() {
    let server = Server::start(|_, _| answer("200 OK", "", &"[1] ".repeat(1000))).await;
    let error = client().send(get(&server)).await.unwrap().text(3999).await.unwrap_err();
    assert!(error.to_string().contains("longer than 3999 bytes"), "{error}");
    let error = client().send(get(&server)).await.unwrap().json::<u8>(3999).await.unwrap_err();
    assert!(error.to_string().contains("longer than 3999 bytes"), "{error}");
    let failure = client().send(get(&server)).await.unwrap().failure("read").await;
    assert!(failure.to_string().len() < 600, "{failure}");
}

#[tokio::test]
async fn what_a_server_says_is_one_line_of_plain_text() {
    let page = "<html><head><title>403 Forbidden</title></head>\r\n<body>no `way`\x1b[31m\n</body>";
    let server = Server::start(move |_, _| answer("403 Forbidden", "", page)).await;
    let failure = client().send(get(&server)).await.unwrap().failure("read an image").await;
    assert_eq!(failure.kind(), Kind::BackendDenied);
    let expected = format!(
        "the server refuses to read an image, with status 403 (403 Forbidden no 'way' [31m): \
         request=`GET {}` store=`x`",
        server.url("/a/b")
    );
    assert_eq!(failure.to_string(), expected);
}

#[tokio::test]
async fn a_server_that_says_its_refusal_letter_by_letter_is_not_listened_to_for_long() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let talking = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_buf(&mut Vec::new()).await.unwrap();
        let mut next: &[u8] = b"HTTP/1.1 403 No\r\nContent-Length: 99999\r\n\r\n";
        while stream.write_all(next).await.is_ok() {
            tokio::time::sleep(SOON / 3).await;
            next = b"a";
        }
    });
    let answer = client().send(Request::new(Method::GET, url)).await.unwrap();
    let failure = answer.failure("read").await;
    assert!(failure.to_string().contains("status 403 (aaa"), "{failure}");
    // It notices that nobody listens any more.
    talking.await.unwrap();
}

#[tokio::test]
async fn a_secret_is_in_no_text() {
    let server = Server::start(|_, seen| match seen.header("authorization") {
        Some(said) => {
            let body =
                format!("you said {said} and s3cret-two, {}", String::from_utf8_lossy(&seen.body));
            answer("403 Forbidden", "", &body)
        }
        None => Reply::Close(Vec::new()),
    });
    let server = server.await;
    let url = server.url("/x?sig=s3cret-url").as_str().replace("127", "u:s3cret-pw@127");
    let [one, two] = ["s3cret-one", "s3cret-two"].map(|text| Secret::from(text.to_owned()));
    let request = Request::new(Method::POST, url.parse().unwrap());
    let open = request.clone();
    let request = request.secret(AUTHORIZATION, &one).unwrap().hiding(&two);
    let request = request.json(&serde_json::json!({"password": "s3cret-two"})).unwrap();
    let debug = format!("{request:?} {:?}", client());
    let failure = client().send(request).await.unwrap().failure("read").await;
    let broken = client().send(open).await.unwrap_err();
    let wrong = Request::new(Method::GET, server.url("/"));
    let wrong = wrong.secret(AUTHORIZATION, &Secret::from("s3cret\n".to_owned())).unwrap_err();
    let proxy = [("http".to_owned(), Secret::from("http://u:s3cret@[".to_owned()))].into();
    let with_proxy = Settings { proxy, ..settings() };
    let no_proxy = format!("{with_proxy:?}") + &shown(&Client::new(with_proxy).unwrap_err());
    for text in [debug, shown(&failure), shown(&broken), shown(&wrong), no_proxy] {
        assert!(!text.contains("s3cret"), "{text}");
    }
    assert!(failure.to_string().contains("you said ... and ..."), "{failure}");
    assert!(server.seen()[0].head.starts_with("POST /x?sig=s3cret-url "), "{:?}", server.seen());
}

#[tokio::test]
async fn a_redirect_is_an_answer() {
    let server = Server::start(|_, _| answer("302 Found", "Location: /elsewhere\r\n", "")).await;
    let answer = client().send(get(&server)).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.header(&header::LOCATION)),
        (302, Some("/elsewhere"))
    );
}

#[tokio::test]
async fn a_header_given_twice_has_no_value() {
    let server =
        Server::start(|_, _| answer("200 OK", "Retry-After: 1\r\nRetry-After: 2\r\n", "")).await;
    let answer = client().send(get(&server)).await.unwrap();
    assert_eq!(answer.header(&RETRY_AFTER), None);
}

#[tokio::test]
async fn a_proxy_is_asked_in_place_of_the_server() {
    let proxy = Server::start(|_, _| answer("200 OK", "", "by the proxy")).await;
    let url = proxy.url("").as_str().replace("http://", "http://me:word@");
    let guard = Some(Guard::new(Rules::default()));
    let proxies = [("http".to_owned(), Secret::from(url))].into();
    let client = Client::new(Settings { proxy: proxies, guard, ..settings() }).unwrap();
    let request = |url: &str| Request::new(Method::GET, url.parse().unwrap());
    let answer = client.send(request("http://images.invalid/a")).await.unwrap();
    assert_eq!(answer.text(100).await.unwrap(), "by the proxy");
    let seen = proxy.seen();
    assert!(seen[0].head.starts_with("GET http://images.invalid/a HTTP/1.1"), "{seen:?}");
    assert_eq!(seen[0].header("proxy-authorization"), Some("Basic bWU6d29yZA=="));
    // What can be judged here is judged here.
    let error = client.send(request("http://169.254.169.254/latest")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
}

#[tokio::test]
async fn a_guarded_client_connects_to_nothing_that_is_not_allowed() {
    let server = Server::start(|_, _| answer("200 OK", "", "")).await;
    let port = server.port();
    let client = |allow: &[&str]| {
        let allow = allow.iter().map(|place| place.parse::<Place>().unwrap()).collect();
        let guard = Some(Guard::new(Rules { allow, ..Rules::default() }));
        Client::new(Settings { guard, ..settings() }).unwrap()
    };
    for host in ["127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "localhost", "0"] {
        let request = Request::new(Method::GET, format!("http://{host}:{port}/").parse().unwrap());
        let error = client(&[]).send(request.clone()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{host}: {error:?}");
        assert!(server.seen().is_empty(), "{host}");
        if host != "0" {
            drop(client(&["127.0.0.0/8", "localhost"]).send(request).await.unwrap());
        }
        server.forget();
    }
}

#[test]
fn a_file_without_certificates_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    let client = || Client::new(Settings { ca: Some(path.clone()), ..settings() }).unwrap_err();
    assert_eq!(client().kind(), Kind::NotFound);
    for text in ["", "not PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        std::fs::write(&path, text).unwrap();
        let error = client();
        assert_eq!(error.kind(), Kind::Invalid, "{text}: {error:?}");
        assert!(error.to_string().contains("ca.pem"), "{error}");
    }
}
