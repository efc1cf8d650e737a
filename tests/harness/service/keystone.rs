//! Who may ask a service: Keystone's tokens with their catalogue, and Swift's `TempAuth`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hyper::Method;
use serde_json::{Value, json};

use super::{
    blob::{Blob, hex, md5_of},
    exchange::{Answer, Head},
};

/// The region of the endpoints that answer.
pub(crate) const REGION: &str = "RegionOne";

/// A token.
#[derive(Clone, Debug)]
struct Token {
    account: String,
    until: Instant,
}

/// Who is known, and the tokens that were given.
#[derive(Debug)]
pub(crate) struct Identity {
    /// By what proves it: `USER KEY`, `ID SECRET`, `trust ID` and what else a service takes; with the account
    /// that each is for: a project, which may have `AUTH_` before it.
    pub(crate) admitted: BTreeMap<String, String>,
    /// How long a token is good that is given from now on.
    pub(crate) token_life: Duration,
    tokens: BTreeMap<String, Token>,
    made: u64,
}

impl Default for Identity {
    fn default() -> Self {
        let token_life = Duration::from_secs(3600);
        Self { admitted: BTreeMap::new(), token_life, tokens: BTreeMap::new(), made: 0 }
    }
}

impl Identity {
    /// A name that was not given before.
    pub(crate) fn name(&mut self, what: &str) -> String {
        self.made += 1;
        format!("{what}-{}-{}", self.made, hex(&md5_of(&self.made.to_le_bytes())))
    }

    /// A token for an account.
    pub(crate) fn token(&mut self, account: &str) -> String {
        let name = self.name("token");
        let until = Instant::now() + self.token_life;
        self.tokens.insert(name.clone(), Token { account: account.to_owned(), until });
        name
    }

    /// The account that a token is for, while it is good.
    pub(crate) fn account_of(&self, token: &str) -> Option<&str> {
        let token = self.tokens.get(token).filter(|token| token.until > Instant::now())?;
        Some(&token.account)
    }

    /// No token that was given is good any more.
    pub(crate) fn expire(&mut self) {
        self.tokens.clear();
    }
}

/// What a service is: its type, and where it is for an account, at `HOST:PORT`.
pub(crate) type Catalogue = [(&'static str, fn(at: &str, account: &str) -> String)];

pub(crate) fn answer(
    identity: &mut Identity,
    head: &Head,
    body: &Blob,
    address: &str,
    catalogue: &Catalogue,
) -> Answer {
    match (head.path.first().map(String::as_str), head.rest(1).as_str()) {
        (Some("auth"), "v1.0") => tempauth(identity, head, address),
        (Some("v3"), "auth/tokens") if head.method == Method::POST => {
            keystone(identity, body, address, catalogue)
        }
        (Some("v3"), "auth/tokens") => subject(identity, head, address, catalogue),
        (Some("v3"), "") => {
            let links = json!([{"rel": "self", "href": format!("http://{address}/v3/")}]);
            let version = json!({"id": "v3.14", "status": "stable", "links": links});
            Answer::new(200).json(&json!({"version": version}))
        }
        _ => refusal(404),
    }
}

/// A refusal as Keystone words it, and what stands before services to ask it.
pub(crate) fn refusal(status: u16) -> Answer {
    let (title, message) = match status {
        401 => ("Unauthorized", "The request you have made requires authentication."),
        404 => ("Not Found", "This is not a recognized Fernet token."),
        _ => ("Error", "It was refused."),
    };
    let told = json!({"code": status, "title": title, "message": message});
    Answer::new(status).json(&json!({"error": told}))
}

fn tempauth(identity: &mut Identity, head: &Head, address: &str) -> Answer {
    let sent = |name, old| head.header(name).or_else(|| head.header(old)).unwrap_or_default();
    let user = sent("x-auth-user", "x-storage-user");
    let key = sent("x-auth-key", "x-storage-pass");
    let Some(account) = identity.admitted.get(&format!("{user} {key}")).cloned() else {
        return refusal(401);
    };
    let life = identity.token_life.as_secs();
    let token = identity.token(&account);
    Answer::new(200)
        .with("x-auth-token", &token)
        .with("x-storage-token", &token)
        .with("x-auth-token-expires", life)
        .with("x-storage-url", format!("http://{address}/v1/{account}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Its name, or else its id.
fn called(value: &Value) -> &str {
    value["name"].as_str().or_else(|| value["id"].as_str()).unwrap_or_default()
}

/// The account that an authentication is for, if it is admitted.
fn admitted(known: &Identity, asked: &Value) -> Option<String> {
    let identity = &asked["auth"]["identity"];
    let scope = &asked["auth"]["scope"];
    let account = match text(&identity["methods"][0]) {
        "password" => {
            let user = &identity["password"]["user"];
            let with = format!("{} {}", called(user), text(&user["password"]));
            known.admitted.get(&with)?.clone()
        }
        "application_credential" => {
            let given = &identity["application_credential"];
            let with = format!("{} {}", called(given), text(&given["secret"]));
            // Its scope is its own.
            return scope.is_null().then(|| known.admitted.get(&with).cloned())?;
        }
        "token" => known.account_of(text(&identity["token"]["id"]))?.to_owned(),
        _ => return None,
    };
    if let Some(trust) = scope["OS-TRUST:trust"]["id"].as_str() {
        return known.admitted.get(&format!("trust {trust}")).cloned();
    }
    let project = called(&scope["project"]);
    (account.trim_start_matches("AUTH_") == project).then_some(account)
}

fn keystone(identity: &mut Identity, body: &Blob, address: &str, catalogue: &Catalogue) -> Answer {
    let asked: Value = serde_json::from_str(&body.text()).unwrap_or_default();
    let Some(account) = admitted(identity, &asked) else {
        return refusal(401);
    };
    let token = identity.token(&account);
    let told = token_of(identity, &account, address, catalogue);
    Answer::new(201).json(&told).with("x-subject-token", token)
}

/// What is told of a token that was just given.
fn token_of(identity: &Identity, account: &str, address: &str, catalogue: &Catalogue) -> Value {
    let project = account.trim_start_matches("AUTH_");
    let life = chrono::Duration::from_std(identity.token_life).unwrap();
    let expires = (chrono::Utc::now() + life).format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    // Whoever takes another than the asked region meets nobody.
    let endpoints = |place: fn(&str, &str) -> String| {
        let regions = [(address, REGION), ("127.0.0.1:9", "Elsewhere")];
        Value::from_iter(regions.into_iter().flat_map(|(at, region)| {
            let url = place(at, account);
            ["public", "internal", "admin"].map(|interface| {
                json!({"interface": interface, "region": region, "region_id": region, "url": url})
            })
        }))
    };
    let keystone = json!({"type": "identity", "name": "keystone", "id": "1", "endpoints": []});
    let services = catalogue.iter().zip(2..).map(|((service, place), id)| {
        let id = id.to_string();
        json!({"type": service, "name": service, "id": id, "endpoints": endpoints(*place)})
    });
    json!({"token": {
        "methods": ["password"],
        "expires_at": expires,
        "project": {"id": project, "name": project, "domain": {"id": "default"}},
        "user": {"id": "user", "name": "user", "domain": {"id": "default"}},
        "roles": [{"id": "member", "name": "member"}],
        "catalog": Value::from_iter(std::iter::once(keystone).chain(services)),
    }})
}

/// What is asked of a token: what it is for, or its end.
fn subject(identity: &mut Identity, head: &Head, address: &str, catalogue: &Catalogue) -> Answer {
    let named = head.header("x-subject-token").unwrap_or_default();
    let Some(account) = identity.account_of(named) else {
        return refusal(404);
    };
    if head.method == Method::DELETE {
        identity.tokens.remove(named);
        return Answer::new(204);
    }
    let told = token_of(identity, account, address, catalogue);
    Answer::new(200).json(&told).with("x-subject-token", named)
}
