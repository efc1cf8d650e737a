use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::*;

fn rules(allow: &[&str], deny: &[&str], only_allowed: bool) -> Rules {
    let places = |list: &[&str]| list.iter().map(|place| place.parse().unwrap()).collect();
    Rules { allow: places(allow), deny: places(deny), only_allowed }
}

fn judge(rules: Rules, url: &str) -> bool {
    let guard = Guard::new(rules);
    let url: Url = url.parse().unwrap_or_else(|error| panic!("{url}: {error}"));
    match url.host().unwrap() {
        url::Host::Domain(name) => panic!("{name} is a name"),
        url::Host::Ipv4(_) | url::Host::Ipv6(_) => guard.judge(&url).is_ok(),
    }
}

/// How an address can be written in a URL, and what it is.
const DENIED: [&str; 84] = [
    // Loopback, and every spelling of it.
    "127.0.0.1",
    "127.255.255.254",
    "127.1",
    "127.0.1",
    "0177.0.0.1",
    "0x7f.0.0.1",
    "0x7f000001",
    "0X7F.1",
    "2130706433",
    "017700000001",
    "127.0.0.1.",
    "127.0.0.0x1",
    "%31%32%37.0.0.1",
    "１２７.0.0.1",
    "127。0。0。1",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    // This host.
    "0.0.0.0",
    "0",
    "0x0",
    "0.1.2.3",
    "[::]",
    // Private and shared networks.
    "10.0.0.1",
    "10.255.255.255",
    "167772161",
    "012.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "0xc0a80001",
    "100.64.0.1",
    "100.127.255.255",
    "100.100.100.200",
    // Link-local: what tells instances their secrets.
    "169.254.169.254",
    "169.254.0.1",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "169.16689662",
    "168.63.129.16",
    "[fe80::1]",
    "[febf::1]",
    "[fd00:ec2::254]",
    // Protocols', documentation's, benchmarks' own.
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "[2001:db8::1]",
    "[3fff::1]",
    "[2001:2::1]",
    "[100::1]",
    "[5f00::1]",
    // Multicast, reserved, broadcast.
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "4294967295",
    "[ff02::1]",
    // Local IPv6.
    "[fc00::1]",
    "[fdff::1]",
    "[fec0::1]",
    "[4000::1]",
    // IPv4 inside of IPv6: mapped, compatible, translated, NAT64, 6to4, Teredo, ISATAP; public ones as well.
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:169.254.169.254]",
    "[::ffff:8.8.8.8]",
    "[::127.0.0.1]",
    "[::8.8.8.8]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::8.8.8.8]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::127.0.0.1]",
    "[64:ff9b:1:ffff:ffff:ffff:7f00:1]",
    "[2002:7f00:1::]",
    "[2002:808:808::1]",
    "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
    "[2001:4860::5efe:7f00:1]",
    "[fe80::5efe:127.0.0.1]",
    "[::2]",
];

const PUBLIC: [&str; 18] = [
    "8.8.8.8",
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.1",
    "100.63.255.255",
    "100.128.0.1",
    "126.255.255.255",
    "128.0.0.1",
    "169.253.0.1",
    "169.255.0.1",
    "172.15.0.1",
    "172.32.0.1",
    "192.167.0.1",
    "223.255.255.255",
    "134744072",
    "[2001:4860:4860::8888]",
    "[2606:4700::1111]",
    "[2a00:1450::1]",
];

#[test]
fn only_addresses_of_the_public_internet_are_admitted() {
    for host in DENIED {
        assert!(!judge(Rules::default(), &format!("http://{host}/x")), "{host}");
        assert!(!judge(Rules::default(), &format!("https://user:word@{host}:8443/x")), "{host}");
    }
    for host in PUBLIC {
        assert!(judge(Rules::default(), &format!("http://{host}/x")), "{host}");
    }
}

#[test]
fn the_same_holds_for_what_a_name_is_found_to_be() {
    let address = |host: &str| {
        let url: Url = format!("http://{host}/").parse().unwrap();
        match url.host().unwrap() {
            url::Host::Ipv4(address) => IpAddr::from(address),
            url::Host::Ipv6(address) => address.into(),
            url::Host::Domain(name) => panic!("{name} is a name"),
        }
    };
    let guard = Guard::new(Rules::default());
    let public = PUBLIC.map(address);
    for host in DENIED {
        let inside = address(host);
        assert!(guard.admitted("images.example.org", &[inside]).is_err(), "{host}");
        // What is admitted of several is what is connected to.
        let mixed = guard.admitted("images.example.org", &[inside, public[0], inside]).unwrap();
        assert_eq!(mixed, [public[0]], "{host}");
    }
    assert_eq!(guard.admitted("images.example.org", &public).unwrap(), public);
}

#[test]
fn lists_of_places_are_kept() {
    let v4 = "http://10.1.2.3/";
    for (allow, deny, only, url, admitted) in [
        (&["10.0.0.0/8"][..], &[][..], false, v4, true),
        (&["10.1.2.3"], &[], false, v4, true),
        (&["10.1.2.4"], &[], false, v4, false),
        (&["0.0.0.0/0"], &[], false, v4, true),
        (&["10.0.0.0/8"], &["10.1.0.0/16"], false, v4, false),
        (&["10.0.0.0/8"], &["10.1.0.0/16"], false, "http://10.2.0.1/", true),
        (&["10.0.0.0/8"], &["0.0.0.0/0"], false, v4, false),
        (&[], &["8.8.0.0/16"], false, "http://8.8.8.8/", false),
        (&[], &["8.8.0.0/16"], false, "http://134744072/", false),
        (&[], &["2600::/16"], false, "http://[2600::1]/", false),
        (&["10.0.0.0/8"], &[], true, v4, true),
        (&["10.0.0.0/8"], &[], true, "http://8.8.8.8/", false),
        (&["10.0.0.0/7"], &[], false, "http://11.0.0.1/", true),
        (&["fd00::/8"], &[], false, "http://[fd00::1]/", true),
        // What an address carries has to be allowed too.
        (&["64:ff9b::/96"], &[], false, "http://[64:ff9b::8.8.8.8]/", true),
        (&["64:ff9b::/96"], &[], true, "http://[64:ff9b::8.8.8.8]/", false),
        (&["64:ff9b::/96", "8.8.8.8"], &[], true, "http://[64:ff9b::8.8.8.8]/", true),
        (&["64:ff9b::/96"], &[], false, "http://[64:ff9b::127.0.0.1]/", false),
        (&["::/0"], &[], false, "http://[::ffff:127.0.0.1]/", false),
        (&["::/0", "0.0.0.0/0"], &[], false, "http://[::ffff:127.0.0.1]/", true),
        (&["::/0", "0.0.0.0/0"], &["127.0.0.0/8"], false, "http://[::ffff:127.0.0.1]/", false),
        (&["::1"], &[], false, "http://[::1]/", true),
    ] {
        let rules = rules(allow, deny, only);
        assert_eq!(judge(rules, url), admitted, "{allow:?} {deny:?} {only} {url}");
    }
}

#[test]
fn names_are_places_too() {
    let (inside, outside): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [8, 8, 8, 8].into());
    let own: IpAddr = [127, 0, 0, 1].into();
    for (allow, deny, only, name, address, admitted) in [
        (&["images.internal"][..], &[][..], false, "images.internal", inside, true),
        (&["images.internal"], &[], false, "IMAGES.Internal.", inside, true),
        (&["Images.INTERNAL."], &[], false, "images.internal", inside, true),
        (&["images.internal"], &[], false, "other.internal", inside, false),
        (&["images.internal"], &[], false, "evil-images.internal", inside, false),
        (&["*.internal"], &[], false, "images.internal", inside, true),
        (&["*.internal"], &[], false, "internal", inside, false),
        (&["*.internal"], &[], false, "evilinternal", inside, false),
        (&["images.internal"], &["127.0.0.0/8"], false, "images.internal", own, false),
        (&["images.internal"], &["*.internal"], false, "images.internal", inside, false),
        (&["10.0.0.0/8"], &["*.internal"], false, "images.internal", inside, false),
        (&["10.0.0.0/8"], &[], false, "images.internal", inside, true),
        (&[], &["example.org"], false, "example.org", outside, false),
        (&[], &["example.org"], false, "www.example.org", outside, true),
        (&["example.org"], &[], true, "example.org", outside, true),
        (&["example.org"], &[], true, "example.com", outside, false),
        (&["8.0.0.0/8"], &[], true, "example.com", outside, true),
    ] {
        let guard = Guard::new(rules(allow, deny, only));
        let found = guard.admitted(name, &[address]);
        assert_eq!(found.is_ok(), admitted, "{allow:?} {deny:?} {only} {name} {address}");
    }
}

#[test]
fn what_is_no_place_is_refused() {
    for wrong in [
        "",
        "*",
        "*.",
        "10.0.0.0/33",
        "10.0.0.0/",
        "10.0.0.0/-1",
        "/8",
        "::/129",
        "a b",
        "http://x",
        "x:80",
        "a.*.b",
        "**.x",
        "[::1]",
        "10.0.0.0/8/8",
        "127.1",
        "0x7f.1",
        "exa_mple/24",
    ] {
        assert!(wrong.parse::<Place>().is_err(), "{wrong}");
    }
    assert_eq!("::ffff:0:0/96".parse(), Ok(Place::Network("::ffff:0:0".parse().unwrap(), 96)));
    assert_eq!("bücher.example".parse(), Ok(Place::Host("xn--bcher-kva.example".to_owned())));
}

#[test]
fn a_refusal_tells_the_caller_nothing_that_it_did_not_know() {
    let guard = Guard::new(Rules::default());
    let refused = guard.admitted("db.internal", &[[10, 9, 8, 7].into()]).unwrap_err();
    assert!(refused.to_string().contains("db.internal"), "{refused}");
    assert!(!refused.to_string().contains("10.9.8.7"), "{refused}");
}

/// A name that has another address each time that somebody looks.
#[tokio::test]
async fn a_name_that_changes_between_two_looks_is_connected_to_where_it_was_judged() {
    use crate::kit::http::{Client, Method, Request, Settings, tests::server};

    let inside = server::Server::start(|_, _| server::answer("200 OK", "", "inside")).await;
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looks);
    // 127.0.0.2 stands for the public Internet; nobody listens there on this port.
    let lookup: Lookup = Arc::new(move |_| {
        let last = if counted.fetch_add(1, SeqCst).is_multiple_of(2) { 2 } else { 1 };
        Box::pin(async move { Ok(vec![IpAddr::from([127, 0, 0, last])]) })
    });
    let guard = Guard::looking_up(rules(&["127.0.0.2"], &[], false), lookup);
    let settings = Settings { guard: Some(guard), retries: 0, ..Settings::new("x") };
    let client = Client::new(settings).unwrap();
    let url: Url = format!("http://rebinding.example:{}/", inside.port()).parse().unwrap();
    for look in 1..=4 {
        client.send(Request::new(Method::GET, url.clone())).await.unwrap_err();
        assert_eq!(looks.load(SeqCst), look, "one look for one connection");
    }
    assert!(inside.seen().is_empty());
}
