//! A door to a real Swift for those who know version 3 of Keystone's API alone: it hands out the tokens that the
//! Swift itself gives, with a catalog that leads there.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use serde_json::{Value, json};

use super::swift::Swift;

/// What the door opens with: `project:user` and a password.
pub(crate) const USER: &str = "service:glance";
pub(crate) const PASSWORD: &str = "p@ss w+rd%";

/// The address of a door, which stands open as long as the process.
pub(crate) fn door(swift: &Swift) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/v3", listener.local_addr().unwrap());
    let (token, endpoint) = swift.login();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (token, endpoint) = (token.clone(), endpoint.clone());
            std::thread::spawn(move || serve(stream.unwrap(), &token, &endpoint));
        }
    });
    address
}

fn serve(mut stream: TcpStream, token: &str, endpoint: &str) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let Some((line, length)) = head(&mut reader) else { return };
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let (status, answer) = match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["POST", "/v3/auth/tokens", ..] if admits(&body) => (201, granted(endpoint)),
            ["POST", "/v3/auth/tokens", ..] => (401, json!({"error": {"message": "who are you"}})),
            _ => (200, json!({"version": {"id": "v3.14", "status": "stable", "links": []}})),
        };
        let answer = answer.to_string();
        let sent = write!(
            stream,
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nx-subject-token: {token}\r\n\
             content-length: {}\r\n\r\n{answer}",
            answer.len()
        );
        if sent.is_err() {
            return;
        }
    }
}

/// The first line of a request, and how long its body is.
fn head(reader: &mut impl std::io::BufRead) -> Option<(String, usize)> {
    let mut lines = reader.lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let first = lines.next()?;
    let length = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    Some((first, length.last().unwrap_or(0)))
}

fn admits(body: &[u8]) -> bool {
    let asked: Value = serde_json::from_slice(body).unwrap();
    let user = &asked["auth"]["identity"]["password"]["user"];
    let project = &asked["auth"]["scope"]["project"];
    let (project_name, name) = USER.split_once(':').unwrap();
    user["name"] == name && user["password"] == PASSWORD && project["name"] == project_name
}

fn granted(endpoint: &str) -> Value {
    let endpoint = json!({"id": "e", "interface": "public", "region": "RegionOne",
        "region_id": "RegionOne", "url": endpoint});
    json!({"token": {
        "methods": ["password"], "audit_ids": ["a"],
        "issued_at": "2026-01-01T00:00:00.000000Z", "expires_at": "2126-01-01T00:00:00.000000Z",
        "user": {"id": "u", "name": "glance", "domain": {"id": "default", "name": "Default"}},
        "project": {"id": "p", "name": "service", "domain": {"id": "default", "name": "Default"}},
        "roles": [{"id": "r", "name": "member"}],
        "catalog": [{"id": "s", "type": "object-store", "name": "swift", "endpoints": [endpoint]}]
    }})
}
