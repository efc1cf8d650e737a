use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::kit::http::Settings;

fn wanted(region: Option<&str>, interface: &str) -> Wanted {
    Wanted {
        service: "object-store".into(),
        region: region.map(str::to_owned),
        interface: interface.into(),
        instead: None,
    }
}

fn password(scope: Scope) -> Who {
    Who::Password {
        user: Name::In(Domain::Id("default".into()), "glance".into()),
        password: Secret::from("s3cret".to_owned()),
        scope,
    }
}

#[test]
fn moments_are_seconds() {
    assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
    assert_eq!(seconds("2026-11-26T18:08:41.000000Z"), Some(1_795_716_521));
    assert_eq!(seconds("2024-02-29T23:59:59.9Z"), Some(1_709_251_199));
    for wrong in ["", "yesterday", "2026-11-26", "T", "a-b-cT1:2:3"] {
        assert_eq!(seconds(wrong), None, "{wrong}");
    }
}

#[test]
fn every_way_to_log_in_is_written_as_keystone_reads_it() {
    let project = Name::In(Domain::Name("Default".into()), "service".into());
    assert_eq!(
        body(&password(Scope::Project(project))),
        json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": "glance", "domain": {"id": "default"}, "password": "s3cret"}}},
            "scope": {"project": {"name": "service", "domain": {"name": "Default"}}}}})
    );
    assert_eq!(
        body(&password(Scope::Trust("t1".into())))["auth"]["scope"],
        json!({"OS-TRUST:trust": {"id": "t1"}})
    );
    let secret = Secret::from("x".to_owned());
    assert_eq!(
        body(&Who::ApplicationCredential { id: "a".into(), secret }),
        json!({"auth": {"identity": {"methods": ["application_credential"],
            "application_credential": {"id": "a", "secret": "x"}}}})
    );
}

#[test]
fn no_debug_shows_a_secret() {
    let login = Login {
        url: "http://keystone:5000/v3".parse().unwrap(),
        who: password(Scope::Trust("t1".into())),
    };
    assert!(!format!("{login:?}").contains("s3cret"));
    let who = Who::V1 { user: "test:tester".into(), key: Secret::from("testing".to_owned()) };
    assert!(!format!("{who:?}").contains("testing"));
}

#[test]
fn the_address_is_taken_with_and_without_its_version() {
    for address in ["http://k:5000", "http://k:5000/", "http://k:5000/v3", "http://k:5000/v2.0/"] {
        let url = beneath(&v3(&address.parse().unwrap()), ["auth", "tokens"]);
        assert_eq!(url.as_str(), "http://k:5000/v3/auth/tokens", "{address}");
    }
    let url = beneath(&v3(&"https://k/identity/v3/".parse().unwrap()), ["auth", "tokens"]);
    assert_eq!(url.as_str(), "https://k/identity/v3/auth/tokens");
}

#[test]
fn an_endpoint_is_found_by_service_region_and_interface() {
    let endpoint_of = |interface: &str, region: &str, url: &str| json!({"interface": interface, "region_id": region, "url": url});
    let catalog = json!([
        {"type": "image", "endpoints": [endpoint_of("public", "one", "http://image")]},
        {"type": "object-store", "endpoints": [
            endpoint_of("internal", "one", "http://one-internal/v1/AUTH_p"),
            endpoint_of("public", "one", "http://one/v1/AUTH_p"),
            endpoint_of("public", "two", "http://two/v1/AUTH_p")]},
    ]);
    let found = |region, interface| {
        endpoint(Some(&catalog), &wanted(region, interface)).map(|url| url.to_string())
    };
    assert_eq!(found(None, "public").unwrap(), "http://one/v1/AUTH_p");
    assert_eq!(found(Some("two"), "public").unwrap(), "http://two/v1/AUTH_p");
    assert_eq!(found(Some("one"), "internal").unwrap(), "http://one-internal/v1/AUTH_p");
    let missing = found(Some("two"), "internal").unwrap_err();
    assert_eq!(missing.kind(), Kind::BackendDenied);
    assert!(missing.to_string().contains("public in two"), "{missing}");
    assert!(endpoint(None, &wanted(None, "public")).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_token_lives_as_long_as_one_clock_says() {
    let answer = json!({"token": {
        "issued_at": "2001-01-01T00:00:00.000000Z", "expires_at": "2001-01-01T01:00:00.000000Z",
        "project": {"id": "p"}, "user": {"id": "u"},
        "catalog": [{"type": "object-store", "endpoints": [
            {"interface": "public", "region": "r", "url": "http://s/v1/AUTH_p"}]}]}});
    let value = Secret::from("t".to_owned());
    let token = v3_token(value, &answer, &wanted(None, "public"), Instant::now()).unwrap();
    assert_eq!((token.project(), token.user()), (Some("p"), Some("u")));
    assert!(token.lasts(Duration::from_mins(59)));
    assert!(!token.lasts(Duration::from_mins(60)));
    tokio::time::advance(Duration::from_mins(30)).await;
    assert!(token.lasts(Duration::from_mins(29)));
    assert!(!token.lasts(Duration::from_mins(31)));
}

/// A server of version 1 that admits one key, and how often it was asked.
async fn server(key: &'static str) -> (Url, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                loop {
                    let Ok(length @ 1..) = stream.read(&mut request).await else { return };
                    let nth = count.fetch_add(1, Ordering::SeqCst);
                    let text = String::from_utf8_lossy(&request[..length]).to_lowercase();
                    let answer = if text.contains(&format!("x-auth-key: {key}\r\n")) {
                        format!(
                            "HTTP/1.1 200 OK\r\nx-auth-token: token-{nth}\r\n\
                             x-storage-url: http://swift/v1/a\r\ncontent-length: 0\r\n\r\n"
                        )
                    } else {
                        "HTTP/1.1 401 No\r\ncontent-length: 10\r\n\r\nkey is bad".to_owned()
                    };
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    (format!("http://{address}/auth/v1.0").parse().unwrap(), asked)
}

fn tokens(url: &Url, key: &str) -> Tokens {
    let client = Client::new(Settings::new("store")).unwrap();
    let who = Who::V1 { user: "a:b".into(), key: Secret::from(key.to_owned()) };
    let login = Login { url: url.clone(), who };
    Tokens::new(client, login, wanted(None, "public"), Duration::ZERO)
}

#[tokio::test]
async fn of_many_who_need_a_token_one_asks() {
    let (url, asked) = server("good").await;
    let tokens = tokens(&url, "good");
    let all = join_all((0..20).map(|_| tokens.token())).await;
    let first = all[0].as_ref().unwrap().clone();
    assert_eq!(first.value().expose(), "token-0");
    assert!(all.iter().all(|token| token.as_ref().unwrap().value() == first.value()));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    // A server does not take it any more: again one of them asks.
    let all = join_all((0..20).map(|_| tokens.instead_of(&first))).await;
    assert!(all.iter().all(|token| token.as_ref().unwrap().value().expose() == "token-1"));
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert_eq!(tokens.token().await.unwrap().value().expose(), "token-1");
}

#[tokio::test]
async fn a_wrong_key_is_tried_once_for_all_who_wait() {
    let (url, asked) = server("good").await;
    let tokens = tokens(&url, "s3cret");
    let all = join_all((0..20).map(|_| tokens.token())).await;
    for refused in all {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), Kind::BackendDenied);
        assert!(error.to_string().contains("the login is refused"), "{error}");
        assert!(!error.chain().contains("s3cret"), "{}", error.chain());
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    // Who comes later tries anew: the key may have been mended.
    assert!(tokens.token().await.is_err());
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_is_under_way_goes_on_with_the_latest_key() {
    let (url, _) = server("new").await;
    let old = tokens(&url, "old").latest_of("rotated");
    assert_eq!(old.token().await.unwrap_err().kind(), Kind::BackendDenied);
    let new = tokens(&url, "new").latest_of("rotated");
    assert!(old.token().await.is_ok(), "the store was opened anew");
    assert_eq!(old.token().await.unwrap().value(), new.token().await.unwrap().value());
    let other = tokens(&url, "old").latest_of("another store");
    assert_eq!(other.token().await.unwrap_err().kind(), Kind::BackendDenied);
}

#[tokio::test]
async fn a_lent_token_is_not_renewed() {
    let (url, asked) = server("good").await;
    let client = Client::new(Settings::new("store")).unwrap();
    let login = Login { url: url.clone(), who: Who::Bearer(Secret::from("t".to_owned())) };
    let lent = Tokens::new(client, login, wanted(None, "public"), Duration::ZERO);
    let refused = tokens(&url, "good").token().await.unwrap();
    let error = lent.instead_of(&refused).await.unwrap_err();
    assert_eq!((error.kind(), asked.load(Ordering::SeqCst)), (Kind::BackendDenied, 1));
}
