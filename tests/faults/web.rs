//! Servers of the web that end in the midst of a download, and what has become of the image when they are
//! there again.

use crate::harness::{
    daemon::{Daemon, noise},
    raw::{Answer, Raw},
    rigs::Own,
    stores::web::Web,
};

/// More than lies in buffers on its way.
const LONG: usize = (80 << 20) + 7;

/// What has come for sure when the server ends.
const BEGUN: usize = 5 << 20;

/// A daemon whose store `web` tries so often, with an nginx of the test's own that has an image `x`.
struct Pair {
    daemon: Daemon,
    web: Web,
    image: Vec<u8>,
    own: Own,
}

impl Pair {
    fn start(retries: usize, size: usize) -> Self {
        let own = Own::start("nginx", &[]);
        let (web, image) = (Web::served_by(&own.facts()), noise(size, 1));
        web.put("x", &image);
        let daemon = Daemon::start(&format!(
            "[DEFAULT]\nenabled_backends = fast:file, web:http\n\
             [glance_store]\ndefault_backend = fast\n\
             [fast]\nfilesystem_store_datadir = {{dir}}/fast\n\
             [web]\nimaged_http_allow = 127.0.0.1\nimaged_http_retries = {retries}\n"
        ));
        Self { daemon, web, image, own }
    }

    /// The URL of the image below one of nginx's paths.
    fn url(&self, place: &str) -> String {
        self.web.at("x").to_string().replace("/f/", place)
    }

    /// Reads the image, with what happens when some of it has come.
    fn read(&self, place: &str, meanwhile: impl FnOnce()) -> Answer {
        let mut raw = Raw::connect(&self.daemon.socket);
        raw.head("GET", &format!("/v1/stores/web/images?at={}", self.url(place)), "");
        raw.wait_for(BEGUN);
        meanwhile();
        let answer = raw.answer("GET");
        assert_eq!(answer.status, 200, "{place}");
        assert_eq!(answer.headers["content-length"], self.image.len().to_string(), "{place}");
        let (come, all) = (answer.body.len(), self.image.len());
        assert!(
            answer.body == self.image[..come],
            "{place}: {come} of {all} bytes, and wrong ones"
        );
        answer
    }

    /// The download is seen to be broken, and the store serves whoever asks next.
    fn is_broken(&self, answer: &Answer, why: &str) {
        assert!(!answer.whole && answer.body.len() < self.image.len(), "{}", answer.body.len());
        self.daemon.wait_for_log(why);
        self.daemon.wait_until("no memory to be held", |daemon| daemon.held_memory() == 0);
    }
}

#[test]
fn a_download_goes_on_when_nginx_is_started_again() {
    let pair = Pair::start(10, LONG);
    // One that knows ranges, one that sends all of it again, and one by way of a redirect.
    for place in ["/f/", "/norange/", "/redir/"] {
        let answer = pair.read(place, || {
            pair.own.kill();
            pair.own.restart();
        });
        assert!(answer.whole, "{place}: {} of {LONG}", answer.body.len());
    }
}

#[test]
fn a_download_breaks_when_nginx_does_not_come_back() {
    let pair = Pair::start(1, LONG);
    let answer = pair.read("/f/", || pair.own.kill());
    pair.is_broken(&answer, "cannot connect to the server");
    pair.own.restart();
    assert!(pair.read("/f/", || {}).whole);
}

#[test]
fn a_download_breaks_when_nginx_comes_back_with_another_image() {
    let pair = Pair::start(10, LONG);
    for place in ["/f/", "/norange/"] {
        let answer = pair.read(place, || {
            pair.own.kill();
            // Of the same length.
            pair.web.put("x", &noise(LONG, 2));
            pair.own.restart();
        });
        pair.is_broken(&answer, "the image was changed while it was read");
        pair.web.put("x", &pair.image);
    }
    let gone = pair.read("/f/", || {
        pair.own.kill();
        pair.web.remove(&pair.web.at("x"));
        pair.own.restart();
    });
    pair.is_broken(&gone, "NotFound");
}

#[test]
fn a_copy_from_an_nginx_that_does_not_come_back_leaves_nothing() {
    let pair = Pair::start(1, LONG);
    let copy = |place| {
        let source = serde_json::json!({ "location": pair.url(place), "store": "web" });
        let body = serde_json::json!({ "source": source }).to_string();
        let mut raw = Raw::connect(&pair.daemon.socket);
        let length = format!("content-length: {}\r\n", body.len());
        raw.head("POST", "/v1/stores/fast/images/x", &length);
        raw.send(body.as_bytes());
        raw
    };
    // At 1 MiB a second, so it is on its way for long.
    let mut raw = copy("/slow/");
    pair.daemon.wait_until("the image to be on its way", |daemon| daemon.held_memory() > 0);
    pair.own.kill();
    let answer = raw.answer("POST");
    assert_eq!((answer.status, answer.code()), (503, "Unavailable".to_owned()), "{answer:?}");
    pair.daemon.wait_until_idle();
    pair.daemon.assert_empty();
    // The id is free.
    pair.own.restart();
    assert_eq!(copy("/f/").answer("POST").status, 201);
    assert!(pair.daemon.get("fast", "x").body == pair.image);
}
