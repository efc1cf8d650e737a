//! A server that does what its script says, exchange by exchange.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::super::Url;

/// What the server does about one request.
pub(crate) enum Reply {
    /// Sends this, and waits for the next request.
    Send(Vec<u8>),
    /// Sends this, and closes the connection.
    Close(Vec<u8>),
    /// Sends this, and resets the connection.
    Reset(Vec<u8>),
    /// Sends this, and nothing more.
    Stall(Vec<u8>),
}

/// An answer with this status line, these lines of the head and this body.
pub(crate) fn answer(status: &str, head: &str, body: &str) -> Reply {
    let length = body.len();
    Reply::Send(format!("HTTP/1.1 {status}\r\n{head}Content-Length: {length}\r\n\r\n{body}").into())
}

/// One request as it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

type Script = dyn Fn(usize, &Seen) -> Reply + Send + Sync;

pub(crate) struct Server {
    port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Server {
    /// A server on a port of loopback; `script` is told how many requests there were before, and the request.
    pub(crate) async fn start(
        script: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (script, all): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&seen));
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&script), Arc::clone(&all)));
            }
        });
        Self { port, seen, serving }
    }

    pub(crate) fn url(&self, path: &str) -> Url {
        format!("http://127.0.0.1:{}{path}", self.port).parse().unwrap()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn forget(&self) {
        self.seen.lock().clear();
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Script>, all: Arc<Mutex<Vec<Seen>>>) {
    while let Some(seen) = receive(&mut stream).await {
        let nth = {
            let mut all = all.lock();
            all.push(seen.clone());
            all.len() - 1
        };
        let (bytes, after) = match script(nth, &seen) {
            Reply::Send(bytes) => (bytes, 0),
            Reply::Close(bytes) => (bytes, 1),
            Reply::Reset(bytes) => (bytes, 2),
            Reply::Stall(bytes) => (bytes, 3),
        };
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
        match after {
            0 => {}
            1 => return,
            2 => return stream.set_zero_linger().unwrap(),
            _ => std::future::pending().await,
        }
    }
}

async fn receive(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut seen = Seen { head, body: bytes[end..].to_vec() };
    let length: usize = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
    while seen.body.len() < length {
        if stream.read_buf(&mut seen.body).await.ok()? == 0 {
            return None;
        }
    }
    Some(seen)
}
