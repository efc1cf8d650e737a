//! Against the real peers from PyPI: glance_store's drivers on the same directory, pool, bucket, container
//! and volumes, and oslo.config on the same files.

mod cinder;
mod file;
mod http;
mod oslo;
mod rbd;
mod s3;
mod swift;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{LazyLock, Mutex},
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::harness::{
    daemon::Daemon,
    raw::{Answer, Raw},
    rigs::{rigs, run},
};

/// A Python that has the peers, made once by the script that people use too.
static PYTHON: LazyLock<PathBuf> = LazyLock::new(|| {
    let made = run(Command::new("ci/glance-store").arg(rigs().join("glance-store")));
    String::from_utf8(made.stdout).unwrap().trim().into()
});

fn python<S: AsRef<str>>(script: &str, args: &[S]) -> Value {
    let mut command = Command::new(&*PYTHON);
    command.arg(script).args(args.iter().map(AsRef::as_ref));
    answer_of(command)
}

/// Without what would count more than what the peer is told.
fn without_bundles(command: &mut Command) -> &mut Command {
    command.env_remove("REQUESTS_CA_BUNDLE").env_remove("CURL_CA_BUNDLE")
}

/// The line of JSON that a peer prints.
fn answer_of(mut command: Command) -> Value {
    let ran = without_bundles(&mut command).output().unwrap();
    let said = String::from_utf8(ran.stdout).unwrap();
    serde_json::from_str(said.trim())
        .unwrap_or_else(|error| panic!("{error}: {said}{}", String::from_utf8_lossy(&ran.stderr)))
}

/// A store of glance_store's.
struct Peer {
    kind: &'static str,
    /// Its options, one a line.
    options: String,
    /// A program that runs it, with the arguments that come first.
    within: Vec<String>,
    /// From the first question on: to start takes it seconds.
    running: Mutex<Option<Running>>,
}

/// A peer that answers questions, a line each, until this is dropped.
struct Running {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = without_bundles(pipes).spawn().unwrap();
        let (to, from) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, to, from }
    }

    fn ask(&mut self, words: &[&str]) -> Value {
        // If it cannot even start it says why, and reads nothing.
        let _gone = writeln!(self.to.as_mut().unwrap(), "{}", serde_json::json!(words));
        let mut said = String::new();
        self.from.read_line(&mut said).unwrap();
        serde_json::from_str(said.trim()).unwrap_or_else(|error| panic!("{error}: {said}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The end of its input is its end.
        drop(self.to.take());
        let _ended = self.child.wait();
    }
}

impl Peer {
    fn new(kind: &'static str, options: String) -> Self {
        Self { kind, options, within: Vec::new(), running: Mutex::default() }
    }

    fn ask(&self, words: &[&str]) -> Value {
        let mut args = self.within.clone();
        args.extend([text(&PYTHON), "tests/parity/peer.py", self.kind].map(str::to_owned));
        args.extend(self.options.lines().flat_map(|option| ["-o", option]).map(str::to_owned));
        args.push("serve".to_owned());
        let mut running = self.running.lock().unwrap();
        let running = running.get_or_insert_with(|| {
            let mut command = Command::new(&args[0]);
            command.args(&args[1..]);
            Running::start(command)
        });
        running.ask(words)
    }

    /// What Glance gets to know of an image that was put.
    fn put(&self, id: &str, source: &Path, more: &[&str]) -> Value {
        self.ask(&[&["put", id, text(source)], more].concat())
    }

    /// The bytes of an image, by way of the file `out`.
    fn get(&self, uri: &str, out: &Path) -> Vec<u8> {
        let said = self.ask(&["get", uri, text(out)]);
        let bytes = std::fs::read(out).unwrap();
        assert_eq!(said["size"], bytes.len(), "{said}");
        bytes
    }

    /// The size of an image, or the name of an error.
    fn size(&self, uri: &str) -> Value {
        let said = self.ask(&["size", uri]);
        said.get("error").unwrap_or(&said["size"]).clone()
    }

    /// The name of an error, or null.
    fn delete(&self, uri: &str) -> Value {
        self.ask(&["delete", uri])["error"].clone()
    }
}

/// A daemon and its peer on one backend.
struct Pair<B> {
    daemon: Daemon,
    peer: Peer,
    // Last: the next test begins when this is dropped.
    backend: B,
}

impl<B> Pair<B> {
    /// What Glance gets to know of the image that the peer stores.
    fn theirs(&self, id: &str, image: &[u8], more: &[&str]) -> Value {
        let source = self.daemon.path("source");
        std::fs::write(&source, image).unwrap();
        self.peer.put(id, &source, more)
    }

    /// The same of the image that the daemon stores, for the same project.
    fn ours(&self, id: &str, image: &[u8], known: bool) -> Value {
        let path = format!("/v1/stores/fast/images/{id}");
        let mut raw = Raw::connect(&self.daemon.socket);
        if known {
            let length = image.len();
            raw.head("PUT", &path, &format!("x-project-id: p-1\r\ncontent-length: {length}\r\n"));
            raw.send(image);
        } else {
            raw.head("PUT", &path, "x-project-id: p-1\r\ntransfer-encoding: chunked\r\n");
            for piece in image.chunks(1 << 20) {
                raw.chunk(piece);
            }
            raw.send(b"0\r\n\r\n");
        }
        raw.answer("PUT").json()
    }

    /// Asks the daemon for the image at a location.
    fn at(&self, method: &str, uri: &str) -> Answer {
        let at = utf8_percent_encode(uri, NON_ALPHANUMERIC);
        self.daemon.ask(method, &format!("/v1/stores/fast/images?at={at}"))
    }

    fn read_by_peer(&self, uri: &str) -> Vec<u8> {
        self.peer.get(uri, &self.daemon.path("out"))
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
