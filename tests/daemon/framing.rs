//! What of a request's framing the daemon cannot take as it is meant is refused, and nothing is
//! stored of it; and every caller who is refused can read why.

use std::{io::Write as _, process::Command, sync::Arc, time::Duration};

use imaged::{api::connection, config::Config, daemon, socket::Socket};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::{Instant, timeout},
};

use crate::harness::{
    daemon::{Daemon, STORES, noise},
    raw::{Answer, Raw},
};

const IMAGE: &str = "/v1/stores/fast/images/x";

/// The answer to exactly these bytes.
fn say(daemon: &Daemon, text: &str) -> Answer {
    let mut raw = Raw::connect(&daemon.socket);
    raw.send(text.as_bytes());
    raw.answer("PUT")
}

#[test]
fn a_body_whose_length_nobody_says_is_no_empty_image() {
    let daemon = Daemon::start(STORES);
    for path in [IMAGE, "/v1/images/x?stores=fast,cheap"] {
        for (version, host) in [("1.0", ""), ("1.1", "host: imaged\r\n")] {
            let text = format!("PUT {path} HTTP/{version}\r\n{host}\r\nimage");
            let refused = say(&daemon, &text);
            let got = (refused.status, refused.code());
            assert_eq!(got, (411, "Invalid".to_owned()), "{text}");
        }
    }
    daemon.assert_empty();
    let text = format!("PUT {IMAGE} HTTP/1.0\r\ncontent-length: 5\r\n\r\nimage");
    assert_eq!(say(&daemon, &text).status, 201, "an old client that says it is served");
    let text = "PUT /v1/stores/fast/images/y HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(say(&daemon, text).status, 201, "an image may be empty");
}

#[test]
fn a_coding_that_is_not_undone_is_refused() {
    let daemon = Daemon::start(STORES);
    for coding in
        ["gzip, chunked", "GZIP,chunked", "chunked, chunked", "gzip\r\ntransfer-encoding: chunked"]
    {
        let head =
            format!("PUT {IMAGE} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: {coding}\r\n\r\n");
        let refused = say(&daemon, &format!("{head}5\r\nimage\r\n0\r\n\r\n"));
        assert_eq!((refused.status, refused.code()), (501, "Unsupported".to_owned()), "{coding}");
    }
    let refused = say(
        &daemon,
        &format!(
            "PUT {IMAGE} HTTP/1.1\r\nhost: a\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\nimage"
        ),
    );
    assert_eq!((refused.status, refused.code()), (415, "Invalid".to_owned()));
    daemon.assert_empty();
    let head = format!("PUT {IMAGE} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n");
    assert_eq!(say(&daemon, &format!("{head}5\r\nimage\r\n0\r\n\r\n")).status, 201);
}

#[test]
fn a_form_is_no_image() {
    let daemon = Daemon::start(STORES);
    let put = |kind: &str| {
        say(
            &daemon,
            &format!(
                "PUT {IMAGE} HTTP/1.1\r\nhost: a\r\ncontent-type: {kind}\r\ncontent-length: 5\r\n\r\nimage"
            ),
        )
    };
    for kind in [
        "multipart/form-data; boundary=x",
        "Multipart/Mixed; boundary=x",
        "multipart/byteranges; boundary=x",
        "message/http",
        "application/http",
        // As `GET` has given it to who takes extents.
        "application/vnd.imaged.extents",
    ] {
        let refused = put(kind);
        assert_eq!((refused.status, refused.code()), (415, "Invalid".to_owned()), "{kind}");
        assert!(refused.detail().contains("application/octet-stream"), "{}", refused.detail());
    }
    daemon.assert_empty();
    // As `curl --data-binary` calls it, which sends the bytes as they are.
    assert_eq!(put("application/x-www-form-urlencoded").status, 201);
}

#[test]
fn a_request_names_its_host_once() {
    let daemon = Daemon::start(STORES);
    for hosts in ["", "host: a\r\nhost: b\r\n", "host: a\r\nhost: a\r\n", "host: a b\r\n"] {
        for line in [format!("PUT {IMAGE}"), "GET /healthz".to_owned()] {
            let refused =
                say(&daemon, &format!("{line} HTTP/1.1\r\n{hosts}content-length: 0\r\n\r\n"));
            assert_eq!((refused.status, refused.code()), (400, "Invalid".to_owned()), "{hosts}");
        }
    }
    daemon.assert_empty();
    assert_eq!(say(&daemon, "GET /healthz HTTP/1.1\r\nhost:\r\n\r\n").status, 200);
    assert_eq!(say(&daemon, "GET /healthz HTTP/1.0\r\n\r\n").status, 200);
}

#[test]
fn what_has_no_length_ends_a_connection_of_http_1_0_and_says_so() {
    let daemon = Daemon::start(STORES);
    daemon.put("fast", "x", b"image");
    let keep = "connection: keep-alive\r\n";
    for (path, connection) in [("/v1/stores/fast/images", "close"), (IMAGE, "keep-alive")] {
        let mut raw = Raw::connect(&daemon.socket);
        raw.send(format!("GET {path} HTTP/1.0\r\n{keep}\r\n").as_bytes());
        let (status, headers) = raw.read_head().unwrap();
        assert_eq!((status, headers["connection"].as_str()), (200, connection), "{path}");
        assert_eq!(headers.contains_key("content-length"), connection == "keep-alive", "{path}");
        if connection == "close" {
            let body = raw.rest(usize::MAX);
            assert!(body.starts_with(b"{") && body.ends_with(b"}\n"), "{path}");
        }
    }
}

#[test]
fn a_digest_of_the_content_is_a_promise_whatever_its_header() {
    let daemon = Daemon::start(STORES);
    let put = |id: &str, headers: &str| {
        let path = format!("/v1/stores/fast/images/{id}");
        let text = format!("PUT {path} HTTP/1.1\r\nhost: a\r\n{headers}content-length: 1\r\n\r\nx");
        say(&daemon, &text)
    };
    let (right, wrong) = ("ndTkYSaMgDT1yFZOFVxnpg==", "ndTkYSaMgDT1yFZOFVxnpA==");
    for headers in [
        format!("content-md5: {wrong}\r\n"),
        format!("content-digest: md5=:{wrong}:\r\n"),
        format!("repr-digest: md5=:{wrong}:\r\n"),
        format!("repr-digest: md5=:{right}:\r\ncontent-md5: {wrong}\r\n"),
        format!("content-digest: md5=:{right}:\r\nrepr-digest: md5=:{wrong}:\r\n"),
    ] {
        let refused = put("x", &headers);
        assert_eq!((refused.status, refused.code()), (422, "Mismatch".to_owned()), "{headers}");
    }
    for headers in [
        "content-md5: nonsense\r\n".to_owned(),
        "content-digest: crc32=:AAAA:\r\n".to_owned(),
        format!("content-md5: {right}\r\ncontent-md5: {right}\r\n"),
    ] {
        let refused = put("x", &headers);
        assert_eq!((refused.status, refused.code()), (400, "Invalid".to_owned()), "{headers}");
    }
    daemon.assert_empty();
    let all = format!(
        "content-md5: {right}\r\ncontent-digest: md5=:{right}:\r\nrepr-digest: md5=:{right}:\r\n"
    );
    assert_eq!(put("x", &all).status, 201);
    // A body of JSON too.
    let body = r#"{"from": {"store": "fast", "id": "x"}}"#;
    let copy = |headers: &str| {
        let head = format!("POST /v1/stores/cheap/images/y HTTP/1.1\r\nhost: a\r\n{headers}");
        say(&daemon, &format!("{head}content-length: {}\r\n\r\n{body}", body.len()))
    };
    let refused = copy(&format!("content-md5: {right}\r\n"));
    assert_eq!((refused.status, refused.code()), (422, "Mismatch".to_owned()));
    let refused = copy(&format!("content-digest: md5=:{right}:\r\n"));
    assert_eq!((refused.status, refused.code()), (422, "Mismatch".to_owned()));
    assert_eq!(daemon.files("cheap"), Vec::<String>::new());
}

#[test]
fn a_digest_by_its_old_name_or_after_the_body_is_a_promise_too() {
    let daemon = Daemon::start(&format!("{STORES}[imaged]\nchecksum = none\n"));
    let put = |line: &str, headers: &str, trailers: &str| {
        let head = format!("{line} HTTP/1.1\r\nhost: a\r\n{headers}transfer-encoding: chunked\r\n");
        let answer = say(&daemon, &format!("{head}\r\n1\r\nx\r\n0\r\n{trailers}\r\n"));
        (answer.status, (answer.status >= 400).then(|| answer.code()))
    };
    let image = format!("PUT {IMAGE}?hash_algo=sha256");
    let all = "PUT /v1/images/x?stores=fast,cheap&hash_algo=sha256";
    let right = "LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5IaSIE=";
    let wrong = "ofzkNjhU/4iM/0uOeHXWAMJoI5BBKoz3mzfQsRFIsPo=";
    let repr = |value: &str| format!("repr-digest: sha-256=:{value}:\r\n");
    let md5 = |value: &str| format!("content-md5: {value}\r\n");
    let of_another = [
        (String::new(), repr(wrong)),
        (String::new(), format!("Content-Digest: sha-256=:{wrong}:\r\n")),
        ("trailer: digest\r\n".to_owned(), format!("digest: SHA-256={wrong}\r\n")),
        (format!("digest: sha-256={wrong}\r\n"), String::new()),
        (repr(right), repr(wrong)),
        (md5("ndTkYSaMgDT1yFZOFVxnpg=="), md5("AAAAAAAAAAAAAAAAAAAAAA==")),
    ];
    for line in [image.as_str(), all] {
        for (headers, trailers) in &of_another {
            let refused = put(line, headers, trailers);
            assert_eq!(refused, (422, Some("Mismatch".to_owned())), "{line} {headers}{trailers}");
        }
        for trailers in [
            "repr-digest: sha-256=nonsense\r\n",
            "digest: unixsum=30637\r\n",
            "repr-digest: crc32=:AAAA:\r\n",
            // Of no md5 is anything known here, when the bytes have gone by.
            "content-md5: ndTkYSaMgDT1yFZOFVxnpg==\r\n",
        ] {
            let refused = put(line, "", trailers);
            assert_eq!(refused, (400, Some("Invalid".to_owned())), "{line} {trailers}");
        }
    }
    daemon.assert_empty();
    let trailers = format!("x-any: thing\r\n{}", repr(right));
    let stored = put(&image, &format!("digest: SHA-256={right}\r\n"), &trailers);
    assert_eq!(stored, (201, None));
    // A body of JSON too.
    let copy = |trailers: &str| {
        let body = format!(
            "{{\"source\": {{\"location\": \"file://{}\"}}}}",
            daemon.path("fast/x").display()
        );
        let head =
            "POST /v1/stores/cheap/images/y HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked";
        let text = format!("{head}\r\n\r\n{:x}\r\n{body}\r\n0\r\n{trailers}\r\n", body.len());
        say(&daemon, &text).status
    };
    assert_eq!(copy(&format!("content-digest: sha-256=:{right}:\r\n")), 422);
    assert_eq!(copy(""), 201);
}

#[test]
fn whoever_sends_a_whole_body_before_reading_reads_the_refusal() {
    let daemon = Daemon::start(STORES);
    daemon.put("fast", "taken", b"x");
    let image = noise(24 << 20, 1);
    for path in ["/v1/stores/fast/images/taken", "/v1/stores/none/images/x", "/v1/nothing"] {
        let mut raw = Raw::connect(&daemon.socket);
        raw.head("PUT", path, &format!("content-length: {}\r\n", image.len()));
        raw.stream.write_all(&image).expect("all of a body that is refused can be written");
        let refused = raw.answer("PUT");
        assert!([404, 409].contains(&refused.status), "{refused:?}");
        // The connection goes on.
        raw.head("GET", "/healthz", "");
        assert_eq!(raw.answer("GET").status, 200, "{path}");
    }
    // Who reads at once need not send the rest.
    let mut raw = Raw::connect(&daemon.socket);
    raw.head("PUT", "/v1/stores/fast/images/taken", "content-length: 1000000000\r\n");
    raw.send(b"only this");
    assert_eq!(raw.answer("PUT").status, 409, "and the answer does not wait for it");
    assert_eq!(daemon.files("fast"), ["taken"]);
}

/// Python's own client, which reads nothing before all is sent: of a known length, and in chunks.
const HTTP_CLIENT: &str = r#"
import http.client, json, socket, sys

class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(sys.argv[1])

connection, piece = Connection("imaged"), b"x" * (1 << 20)
for body in (piece * 24, (piece for _ in range(24))):
    connection.request("PUT", "/v1/stores/fast/images/x", body)
    answer = connection.getresponse()
    print(answer.status, json.loads(answer.read())["code"])
"#;

#[test]
fn clients_that_everybody_has_read_the_refusal() {
    let daemon = Daemon::start(STORES);
    daemon.put("fast", "x", b"x");
    let mut python = Command::new("python3");
    python.args(["-c", HTTP_CLIENT]).arg(&daemon.socket);
    let image = daemon.path("image");
    std::fs::write(&image, noise(24 << 20, 1)).unwrap();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--header", "Expect:", "--output", "/dev/null"]);
    curl.args(["--write-out", "%{http_code} %{content_type}", "--unix-socket"]).arg(&daemon.socket);
    curl.arg("--upload-file").arg(image).arg(format!("http://imaged{IMAGE}"));
    for (mut client, read) in
        [(python, "409 Exists\n409 Exists\n"), (curl, "409 application/problem+json")]
    {
        let ran = client.output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
        assert_eq!(String::from_utf8(ran.stdout).unwrap(), read);
    }
    assert_eq!(daemon.files("fast"), ["x"]);
}

/// The daemon is in this process, whose clock goes on when all wait for it.
#[tokio::test(start_paused = true)]
async fn what_trickles_in_of_a_refused_body_is_cut_off_after_a_minute() {
    let home = Daemon::home();
    let text = STORES.replace("{dir}", &home.path().display().to_string());
    let (mut config, _) = Config::parse(&text, "test").unwrap();
    config.daemon.state_dir = home.path().join("state");
    config.daemon.socket = home.path().join("socket");
    let daemon = daemon::Daemon::new(&config).unwrap();
    let socket = Socket::open(&config.daemon).unwrap();
    let serving = Arc::clone(&daemon);
    let serving = tokio::spawn(async move { connection::serve(socket, &serving).await });
    let head = format!("PUT {IMAGE} HTTP/1.1\r\nhost: a\r\n").replace("fast", "none");
    // A byte each so many seconds: it comes for a minute, or has paused for too long.
    for (each, limit) in [(2, 60), (4, 60), (7, 5)] {
        for (framing, byte) in
            [("content-length: 1000", "x"), ("transfer-encoding: chunked", "1\r\nx\r\n")]
        {
            let mut caller = UnixStream::connect(&config.daemon.socket).await.unwrap();
            caller.write_all(format!("{head}{framing}\r\n\r\n").as_bytes()).await.unwrap();
            let (since, mut answer) = (Instant::now(), Vec::new());
            while since.elapsed() < Duration::from_secs(300) {
                match timeout(Duration::from_secs(each), caller.read_buf(&mut answer)).await {
                    Ok(Ok(0) | Err(_)) => break,
                    Ok(Ok(_)) => {}
                    // What is cut off meanwhile shows at the next reading.
                    Err(_elapsed) => drop(caller.write_all(byte.as_bytes()).await),
                }
            }
            let took = since.elapsed().as_secs();
            // Each exchange of bytes may bring the clock to its next timer.
            assert!((limit..=limit + 3 * each).contains(&took), "{each} {framing}: {took}");
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 404 ") && answer.ends_with('}'), "{answer}");
        }
    }
    daemon.shared.closing.cancel();
    serving.await.unwrap();
}

#[test]
fn what_a_header_cannot_hold_is_encoded_in_it() {
    let text = STORES.replace("{dir}/fast", "{dir}/100%41 Bilder-ü");
    let home = Daemon::home();
    let datadir = home.path().join("100%41 Bilder-ü");
    std::fs::create_dir(&datadir).unwrap();
    let daemon = Daemon::start_in(home, &text, &[]);
    let location = daemon.put("fast", "x", b"image").json()["location"].clone();
    assert_eq!(location, format!("file://{}/x", datadir.display()));
    let told = daemon.ask("HEAD", IMAGE).headers["content-location"].clone();
    assert!(told.ends_with("/100%2541%20Bilder-%C3%BC/x"), "{told}");
    // A client of ours gives it as it is.
    let seen = Command::new(crate::harness::daemon::IMAGED)
        .args(["stat", "--json", "--socket"])
        .arg(&daemon.socket)
        .args(["fast", "x"])
        .output()
        .unwrap();
    let seen: serde_json::Value = serde_json::from_slice(&seen.stdout).unwrap();
    assert_eq!(seen["location"], location);
    std::fs::remove_dir_all(&datadir).unwrap();
    std::fs::write(&datadir, b"").unwrap();
    let refused = daemon.ask("HEAD", IMAGE);
    let why = &refused.headers["imaged-problem"];
    assert!(
        refused.status >= 500 && why.is_ascii() && why.contains("Bilder-%C3%BC"),
        "{refused:?}"
    );
}

#[test]
fn a_listing_of_any_length_takes_little_memory() {
    let daemon = Daemon::start(STORES);
    let images = 20_000;
    for number in 0..images {
        std::fs::write(daemon.path(&format!("fast/{number:064}")), b"").unwrap();
    }
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    daemon.ask("GET", "/v1/stores/fast/images");
    let before = resident();
    let slow: Vec<Raw> = (0..10)
        .map(|_| {
            let mut raw = Raw::connect(&daemon.socket);
            raw.head("GET", "/v1/stores/fast/images", "");
            assert_eq!(raw.read_head().unwrap().0, 200);
            raw
        })
        .collect();
    let all = daemon.ask("GET", "/v1/stores/fast/images");
    assert_eq!(all.body.split(|byte| *byte == b'\n').count(), images + 1);
    assert!(all.whole);
    // Each listing of all names at once would take 5 MiB.
    let grown = resident().saturating_sub(before) >> 10;
    assert!(grown < 20, "{grown} MiB");
    drop(slow);
}
