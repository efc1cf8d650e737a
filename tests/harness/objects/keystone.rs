//! Who may ask Swift: `TempAuth`, and Keystone's tokens with their catalogue.

use std::time::Instant;

use hyper::Method;
use serde_json::{Value, json};

use super::{
    exchange::{Answer, Head},
    space::{Blob, Space, Token},
    swift::refusal,
};

/// The region of the endpoints that answer.
pub(crate) const REGION: &str = "RegionOne";

pub(super) fn answer(space: &mut Space, head: &Head, body: &Blob, address: &str) -> Answer {
    match (head.path.first().map(String::as_str), head.rest(1).as_str()) {
        (Some("auth"), "v1.0") => tempauth(space, head, address),
        (Some("v3"), "auth/tokens") if head.method == Method::POST => {
            keystone(space, body, address)
        }
        (Some("v3"), "auth/tokens") => subject(space, head),
        (Some("v3"), "") => {
            let links = json!([{"rel": "self", "href": format!("http://{address}/v3/")}]);
            let version = json!({"id": "v3.14", "status": "stable", "links": links});
            answered(200, &json!({"version": version}))
        }
        _ => refusal(404),
    }
}

fn answered(status: u16, body: &Value) -> Answer {
    Answer::new(status).with("content-type", "application/json").body(body.to_string())
}

/// A token for an account.
fn token(space: &mut Space, account: &str) -> String {
    let name = space.name("token");
    let until = Instant::now() + space.ways.token_life;
    space.tokens.insert(name.clone(), Token { account: account.to_owned(), until });
    name
}

fn tempauth(space: &mut Space, head: &Head, address: &str) -> Answer {
    let sent = |name, old| head.header(name).or_else(|| head.header(old)).unwrap_or_default();
    let user = sent("x-auth-user", "x-storage-user");
    let key = sent("x-auth-key", "x-storage-pass");
    let Some(account) = space.admitted.get(&format!("{user} {key}")).cloned() else {
        return refusal(401);
    };
    let life = space.ways.token_life.as_secs();
    let token = token(space, &account);
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
fn admitted(space: &Space, asked: &Value) -> Option<String> {
    let identity = &asked["auth"]["identity"];
    let scope = &asked["auth"]["scope"];
    let account = match text(&identity["methods"][0]) {
        "password" => {
            let user = &identity["password"]["user"];
            let with = format!("{} {}", called(user), text(&user["password"]));
            space.admitted.get(&with)?.clone()
        }
        "application_credential" => {
            let given = &identity["application_credential"];
            let with = format!("{} {}", called(given), text(&given["secret"]));
            // Its scope is its own.
            return scope.is_null().then(|| space.admitted.get(&with).cloned())?;
        }
        "token" => {
            let given = space.tokens.get(text(&identity["token"]["id"]))?;
            (given.until > Instant::now()).then(|| given.account.clone())?
        }
        _ => return None,
    };
    if let Some(trust) = scope["OS-TRUST:trust"]["id"].as_str() {
        return space.admitted.get(&format!("trust {trust}")).cloned();
    }
    let project = called(&scope["project"]);
    (account == format!("AUTH_{project}")).then_some(account)
}

fn keystone(space: &mut Space, body: &Blob, address: &str) -> Answer {
    let asked: Value = serde_json::from_str(&body.text()).unwrap_or_default();
    let Some(account) = admitted(space, &asked) else {
        let why = "The request you have made requires authentication.";
        return answered(
            401,
            &json!({"error": {"code": 401, "title": "Unauthorized", "message": why}}),
        );
    };
    let token = token(space, &account);
    let project = account.trim_start_matches("AUTH_");
    let life = chrono::Duration::from_std(space.ways.token_life).unwrap();
    let expires = (chrono::Utc::now() + life).format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    // Whoever takes another than the asked region meets nobody.
    let endpoints =
        [(address, REGION), ("127.0.0.1:9", "Elsewhere")].into_iter().flat_map(|place| {
            let (at, region) = place;
            let url = format!("http://{at}/v1/{account}");
            ["public", "internal", "admin"].map(|interface| {
            json!({"interface": interface, "region": region, "region_id": region, "url": url})
        })
        });
    let endpoints = Value::from_iter(endpoints);
    let told = json!({"token": {
        "methods": asked["auth"]["identity"]["methods"],
        "expires_at": expires,
        "project": {"id": project, "name": project, "domain": {"id": "default"}},
        "user": {"id": "user", "name": "user", "domain": {"id": "default"}},
        "roles": [{"id": "member", "name": "member"}],
        "catalog": [
            {"type": "identity", "name": "keystone", "id": "1", "endpoints": []},
            {"type": "object-store", "name": "swift", "id": "2", "endpoints": endpoints},
        ],
    }});
    answered(201, &told).with("x-subject-token", token)
}

/// What is asked of a token: whether it is good, or its end.
fn subject(space: &mut Space, head: &Head) -> Answer {
    let named = head.header("x-subject-token").unwrap_or_default().to_owned();
    let good = space.tokens.get(&named).is_some_and(|token| token.until > Instant::now());
    if !good {
        return refusal(404);
    }
    if head.method == Method::DELETE {
        space.tokens.remove(&named);
        return Answer::new(204);
    }
    Answer::new(200)
}
