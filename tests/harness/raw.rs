//! A caller that sees every byte: plain blocking sockets, and descriptors by SCM_RIGHTS.

use std::{
    collections::BTreeMap,
    io::{IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// The status that a request by the user `uid` gets, and its body; 0 if there is no answer.
pub(crate) fn ask_as(
    socket: &Path,
    uid: u32,
    method: &str,
    path: &str,
    body: &[u8],
) -> (u16, String) {
    let mut curl = Command::new("curl");
    curl.args(["-s", "-w", "%{http_code}", "-X", method, "--unix-socket"])
        .arg(socket)
        .arg(format!("http://imaged{path}"))
        .uid(uid)
        .gid(uid)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    if method == "HEAD" {
        curl.arg("-I");
    }
    if !body.is_empty() {
        curl.args(["--data-binary", "@-"]);
    }
    let mut curl = curl.spawn().unwrap();
    curl.stdin.take().unwrap().write_all(body).unwrap();
    let text = String::from_utf8(curl.wait_with_output().unwrap().stdout).unwrap();
    let (body, status) = text.split_at(text.len() - 3);
    (status.parse().unwrap(), body.to_owned())
}

/// One connection.
pub(crate) struct Raw {
    pub(crate) stream: UnixStream,
    ahead: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// One answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
    /// Whether the body was as long as the head promised.
    pub(crate) whole: bool,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The stable code of a refusal.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["request_id"], self.headers["x-request-id"].as_str());
        problem["code"].as_str().unwrap().to_owned()
    }

    pub(crate) fn detail(&self) -> String {
        self.json()["detail"].as_str().unwrap().to_owned()
    }
}

impl Raw {
    pub(crate) fn connect(socket: &Path) -> Self {
        Self::over(UnixStream::connect(socket).unwrap())
    }

    /// A connection that is there already.
    pub(crate) fn over(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { stream, ahead: Vec::new(), descriptors: Vec::new() }
    }

    /// One request on a connection of its own.
    pub(crate) fn ask(socket: &Path, method: &str, path: &str, body: &[u8]) -> Answer {
        Self::ask_with(socket, method, path, "", body)
    }

    /// The same with these headers, which are whole lines.
    pub(crate) fn ask_with(
        socket: &Path,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> Answer {
        let mut raw = Self::connect(socket);
        raw.head(method, path, &format!("{headers}content-length: {}\r\n", body.len()));
        // A refusal may come before the body is through.
        let _sent = raw.stream.write_all(body);
        raw.answer(method)
    }

    /// Sends a request's head; `headers` are whole lines.
    pub(crate) fn head(&mut self, method: &str, path: &str, headers: &str) {
        self.send(format!("{method} {path} HTTP/1.1\r\nhost: imaged\r\n{headers}\r\n").as_bytes());
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends bytes as one chunk of a chunked body.
    pub(crate) fn chunk(&mut self, bytes: &[u8]) {
        self.send(format!("{:x}\r\n", bytes.len()).as_bytes());
        self.send(bytes);
        self.send(b"\r\n");
    }

    /// Sends a head with descriptors.
    pub(crate) fn head_with(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        descriptors: &[BorrowedFd<'_>],
    ) {
        let head = format!("{method} {path} HTTP/1.1\r\nhost: imaged\r\n{headers}\r\n");
        self.send_with(head.as_bytes(), descriptors);
    }

    pub(crate) fn send_with(&mut self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        let parts = [IoSlice::new(bytes)];
        let sent = sendmsg(&self.stream, &parts, &mut control, SendFlags::NOSIGNAL).unwrap();
        assert_eq!(sent, bytes.len());
    }

    /// More bytes, and the descriptors that come with them; none at the end.
    fn more(&mut self) -> std::io::Result<usize> {
        let mut room = vec![0; 1 << 16];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = loop {
            let received = recvmsg(
                self.stream.as_fd(),
                &mut [IoSliceMut::new(&mut room)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            );
            match received {
                Err(rustix::io::Errno::INTR) => {}
                received => break received?,
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        self.ahead.extend_from_slice(&room[..got.bytes]);
        Ok(got.bytes)
    }

    /// Waits until so many bytes have come, and keeps them.
    pub(crate) fn wait_for(&mut self, count: usize) {
        while self.ahead.len() < count {
            assert!(self.more().unwrap() > 0, "the connection ended");
        }
    }

    /// Reads an answer's head; `None` if the connection ended before it.
    pub(crate) fn read_head(&mut self) -> Option<(u16, BTreeMap<String, String>)> {
        let end = loop {
            if let Some(end) = self.ahead.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            match self.more() {
                Ok(0) => return None,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                other => other.unwrap(),
            };
        };
        let head: Vec<u8> = self.ahead.drain(..end + 4).collect();
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        Some((status, headers))
    }

    /// Reads one answer to a request of `method`.
    pub(crate) fn answer(&mut self, method: &str) -> Answer {
        self.answer_if_any(method).expect("an answer")
    }

    /// The same; `None` if the connection ended before it.
    pub(crate) fn answer_if_any(&mut self, method: &str) -> Option<Answer> {
        let (status, headers) = self.read_head()?;
        let mut body = Vec::new();
        let mut whole = true;
        if method != "HEAD" && status != 204 && status != 304 {
            if headers.get("transfer-encoding").is_some_and(|how| how == "chunked") {
                whole = self.read_chunks(&mut body);
            } else {
                let length = headers.get("content-length").map_or(0, |n| n.parse().unwrap());
                whole = self.read_exact(length, &mut body);
            }
        }
        Some(Answer { status, headers, body, whole })
    }

    /// Waits until something of an answer has come.
    pub(crate) fn wait_for_a_byte(&mut self) {
        if self.ahead.is_empty() {
            assert!(self.more().unwrap() > 0);
        }
    }

    fn read_exact(&mut self, length: usize, body: &mut Vec<u8>) -> bool {
        while self.ahead.len() < length {
            if self.more().unwrap_or(0) == 0 {
                body.append(&mut self.ahead);
                return false;
            }
        }
        body.extend(self.ahead.drain(..length));
        true
    }

    fn read_chunks(&mut self, body: &mut Vec<u8>) -> bool {
        loop {
            match self.read_chunk() {
                None => return false,
                Some(chunk) if chunk.is_empty() => return true,
                Some(chunk) => body.extend(chunk),
            }
        }
    }

    /// The next chunk of a chunked body, empty at its end; `None` if the connection ended before.
    pub(crate) fn read_chunk(&mut self) -> Option<Vec<u8>> {
        let end = loop {
            if let Some(end) = self.ahead.windows(2).position(|two| two == b"\r\n") {
                break end;
            }
            if self.more().unwrap_or(0) == 0 {
                return None;
            }
        };
        let line: Vec<u8> = self.ahead.drain(..end + 2).collect();
        let length = usize::from_str_radix(str::from_utf8(&line[..end]).unwrap(), 16).unwrap();
        let mut chunk = Vec::new();
        let whole = self.read_exact(length + 2, &mut chunk);
        chunk.truncate(length);
        whole.then_some(chunk)
    }

    /// What comes of a body of `size` bytes, until its end or until it breaks.
    pub(crate) fn rest(mut self, size: usize) -> Vec<u8> {
        let mut got = std::mem::take(&mut self.ahead);
        let left = size.saturating_sub(got.len()) as u64;
        let _ended = self.stream.take(left).read_to_end(&mut got);
        got
    }

    /// The descriptors that came so far.
    pub(crate) fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    /// Waits for the other side to close; false if it sends something first.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut one = [0];
        match self.stream.read(&mut one) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}
