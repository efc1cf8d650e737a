//! A client that knows nothing: one request on a connection of its own, byte for byte.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use serde_json::Value;

/// One answer; `None` instead where the connection ended before its head did.
pub(crate) struct Told {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
    /// Whether the body was as long as its length.
    pub(crate) whole: bool,
}

impl Told {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// One request on a connection of its own, and its answer.
pub(crate) fn ask(url: &str, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Told> {
    let (mut stream, method) = send(url, line, headers, body, body.len());
    // The connection may have ended in the middle.
    let _sent = stream.write_all(body);
    read(&stream, method == "HEAD")
}

/// Sends the head alone.
pub(crate) fn send(
    url: &str,
    line: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    length: usize,
) -> (TcpStream, String) {
    let address = url.trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut head = format!("{line} HTTP/1.1\r\nhost: {address}\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() || line.starts_with('P') {
        head += &format!("content-length: {length}\r\n");
    }
    let _sent = stream.write_all(format!("{head}\r\n").as_bytes());
    (stream, line.split(' ').next().unwrap().to_owned())
}

pub(crate) fn read(stream: &TcpStream, headless: bool) -> Option<Told> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let status = line.split(' ').nth(1)?.parse().ok()?;
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").map_or(0, |text| text.parse().unwrap());
    let mut body = vec![0; if headless { 0 } else { length }];
    let mut read = 0;
    while read < body.len() {
        match reader.read(&mut body[read..]) {
            Ok(0) | Err(_) => break,
            Ok(count) => read += count,
        }
    }
    let whole = read == body.len();
    body.truncate(read);
    Some(Told { status, headers, body, whole })
}
