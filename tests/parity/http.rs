//! glance_store's http driver on the same server, nginx.

use std::{fs, os::unix::fs::PermissionsExt as _};

use super::{Pair, Peer};
use crate::harness::{
    daemon::{Daemon, noise},
    rigs::NGINX,
    stores::web::Web,
};

impl Pair<Web> {
    /// Both trust the server's certificate.
    fn start() -> Self {
        let ca = format!("https_ca_certificates_file = {}\n", NGINX["ca"]);
        let config = format!(
            "[DEFAULT]\nenabled_backends = fast:http\n\
             [fast]\nimaged_http_allow = 127.0.0.1, localhost\nimaged_http_retries = 0\n{ca}"
        );
        Self {
            daemon: Daemon::start(&config),
            peer: Peer::new("http", ca),
            backend: Web::in_nginx(),
        }
    }

    /// The URL of what has this name, written as in a URL, below one of nginx's paths.
    fn url(&self, place: &str, name: &str) -> String {
        format!("{}{name}", self.backend.url.replace("/f/", place))
    }

    /// Both read and size the same.
    fn both_read(&self, url: &str, image: &[u8]) {
        let head = self.at("HEAD", url);
        assert_eq!(head.status, 200, "{url}");
        assert_eq!(head.headers["content-length"], image.len().to_string(), "{url}");
        assert_eq!(self.peer.size(url), image.len(), "{url}");
        let ours = self.at("GET", url);
        assert!(ours.whole && ours.body == image, "{url}: {}", ours.status);
        assert!(self.read_by_peer(url) == image, "{url}");
    }

    /// The error of the peer when it reads, that when it sizes, and ours.
    fn both_refuse(&self, url: &str) -> [String; 3] {
        let out = self.daemon.path("out");
        let read = self.peer.ask(&["get", url, out.to_str().unwrap()]);
        let [read, sized] = [read["error"].clone(), self.peer.size(url)];
        let [read, sized] = [read, sized].map(|error| error.as_str().unwrap().to_owned());
        let ours = self.at("GET", url).code();
        assert_ne!(self.at("HEAD", url).status, 200, "{url}");
        [read, sized, ours]
    }
}

/// `URL`, with a user and a password.
fn as_user(url: &str, user: &str, password: &str) -> String {
    url.replace("://", &format!("://{user}:{password}@"))
}

#[test]
fn both_read_and_size_images_of_all_sizes() {
    let pair = Pair::<Web>::start();
    for image in [Vec::new(), b"x".to_vec(), noise((5 << 20) + 3, 1)] {
        pair.backend.put("image", &image);
        for place in ["/f/", "/redir/"] {
            pair.both_read(&pair.url(place, "image"), &image);
        }
    }
}

#[test]
fn both_read_what_a_url_names() {
    let pair = Pair::<Web>::start();
    let image = noise(70_001, 2);
    pair.backend.put("image", &image);
    let plain = pair.url("/f/", "image");
    let auth = pair.url("/auth/", "image");
    let secure = plain.replace(&NGINX["url"], &NGINX["https"]);
    for url in [
        format!("{plain}?versionId=3&name=a%20b%26c+d"),
        format!("{plain}?"),
        secure.replace("127.0.0.1", "localhost"),
        secure,
        format!("{}?x=1", pair.url("/redir/", "image")),
        pair.url("/norange/", "image"),
        as_user(&auth, &NGINX["user"], &NGINX["password"]),
    ] {
        pair.both_read(&url, &image);
    }
}

#[test]
fn both_read_names_as_urls_write_them() {
    let pair = Pair::<Web>::start();
    for (name, written) in [
        ("a b", "a%20b"),
        ("a+b", "a+b"),
        ("a%b", "a%25b"),
        ("ä", "%C3%A4"),
        ("a=b,c&d", "a=b,c&d"),
        ("x:y@z", "x:y@z"),
        ("a?b#c", "a%3Fb%23c"),
    ] {
        fs::write(pair.backend.dir.path().join(name), name).unwrap();
        let url = pair.url("/f/", written);
        assert_eq!(pair.at("GET", &url).body, name.as_bytes(), "{url}");
        assert_eq!(pair.read_by_peer(&url), name.as_bytes(), "{url}");
    }
}

#[test]
fn a_semicolon_is_of_the_name_although_the_peer_drops_what_follows_it() {
    let pair = Pair::<Web>::start();
    fs::write(pair.backend.dir.path().join("a;b"), "ours").unwrap();
    let url = pair.url("/f/", "a;b");
    assert_eq!(pair.at("GET", &url).body, b"ours");
    assert_eq!(pair.peer.size(&url), "NotFound");
}

#[test]
fn both_say_what_is_not_there() {
    let pair = Pair::<Web>::start();
    for url in [
        pair.url("/f/", "no-such-image"),
        pair.url("/f/", "no-such-image?versionId=3"),
        pair.url("/redir/", "no-such-image"),
        format!("{}/nowhere", NGINX["url"]),
    ] {
        assert_eq!(pair.both_refuse(&url), ["NotFound"; 3], "{url}");
    }
}

#[test]
fn both_refuse_what_a_server_refuses() {
    let pair = Pair::<Web>::start();
    pair.backend.put("image", b"image");
    pair.backend.put("closed", b"image");
    let closed = pair.backend.dir.path().join("closed");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let auth = pair.url("/auth/", "image");
    for (url, ours) in [
        (auth.clone(), "BackendDenied"),
        (as_user(&auth, &NGINX["user"], "wrong"), "BackendDenied"),
        // A directory, which nginx does not list.
        (pair.backend.url.clone(), "BackendDenied"),
        (pair.url("/err/", "image"), "Unavailable"),
    ] {
        assert_eq!(pair.both_refuse(&url), ["BadStoreUri", "BadStoreUri", ours], "{url}");
    }
    let url = pair.url("/loop/", "image");
    let many = "MaxRedirectsExceeded";
    assert_eq!(pair.both_refuse(&url), [many, many, "Invalid"]);
    for url in ["http://127.0.0.1:1/x".to_owned(), pair.url("/cut/", "image")] {
        let away = ["RemoteServiceUnavailable", "BadStoreUri", "Unavailable"];
        assert_eq!(pair.both_refuse(&url), away, "{url}");
    }
}

#[test]
fn both_refuse_what_is_no_url_of_an_image() {
    let pair = Pair::<Web>::start();
    for url in ["http://", "http:///x", "http://127.0.0.1:port/x", "http://user@127.0.0.1:port/x"] {
        assert_eq!(pair.both_refuse(url), ["BadStoreUri", "BadStoreUri", "Invalid"], "{url}");
    }
}

#[test]
fn neither_puts_nor_deletes() {
    let pair = Pair::<Web>::start();
    let at = pair.backend.put("image", b"image");
    let url = pair.url("/f/", "image");
    assert_eq!(pair.theirs("new", b"new", &[])["error"], "StoreAddDisabled");
    assert_eq!(pair.daemon.put("fast", "new", b"new").code(), "Unsupported");
    assert_eq!(pair.peer.delete(&url), "StoreDeleteNotSupported");
    assert_eq!(pair.at("DELETE", &url).code(), "Unsupported");
    assert_eq!(pair.backend.list().len(), 1);
    pair.both_read(&at.to_string(), b"image");
}
