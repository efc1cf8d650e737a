//! Tests of how a section is read.

use super::*;

fn lines(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}

#[test]
fn own_section_wins_then_backend_defaults_then_the_default() {
    let section = |pairs: &[(&str, &str)]| Options::of("x", pairs).own;
    let mut options = Options::new(
        "fast",
        section(&[("a", "own"), ("b", ""), ("n", "")]),
        section(&[("a", "all"), ("b", "all"), ("c", "all"), ("n", "7"), ("other", "1")]),
    );
    assert_eq!(options.text("a", "default"), "own");
    assert_eq!(options.text("b", "default"), "default", "blank hides [backend_defaults]");
    assert_eq!(options.text("c", "default"), "all");
    assert_eq!(options.text("d", "default"), "default");
    assert_eq!(options.int("n", 0..=9), Some(7), "a blank number does not");
    assert_eq!(options.finish(), Findings::default());
}

#[test]
fn every_spelling_of_a_number_and_a_truth_is_read() {
    let int = |text: &str| Options::of("x", &[("n", text)]).int("n", 0..=1_000_000);
    for (text, number) in [("7", 7), (" 7 ", 7), ("+7", 7), ("007", 7), ("1_000", 1000)] {
        assert_eq!(int(text), Some(number), "{text:?}");
    }
    for text in ["-1", "7.0", "0x7", "1__0", "_1", "1_", "seven", "1 0", "9999999", "+", "٣"] {
        assert_eq!(int(text), None, "{text:?}");
    }
    let bool = |text: &str| Options::of("x", &[("b", text)]).bool("b");
    for text in ["true", "True", "1", "on", "YES"] {
        assert_eq!(bool(text), Some(true), "{text:?}");
    }
    for text in ["false", "False", "0", "off", "No"] {
        assert_eq!(bool(text), Some(false), "{text:?}");
    }
    for text in ["t", "y", "enabled", "", "2"] {
        assert_eq!(bool(text), None, "{text:?}");
    }
    let mode = |text: &str| Options::of("x", &[("m", text)]).mode("m");
    for (text, mode_bits) in
        [("640", 0o640), ("0640", 0o640), ("7777", 0o7777), ("0", 0), ("-1", 0)]
    {
        assert_eq!(mode(text), Some(mode_bits), "{text:?}");
    }
    for text in ["648", "0o640", "rw-r-----", "17777"] {
        assert_eq!(mode(text), None, "{text:?}");
    }
    let signed = |text: &str| Options::of("x", &[("n", text)]).signed("n");
    assert_eq!((signed("-5"), signed("5"), signed("five")), (Some(-5), Some(5), None));
}

#[test]
fn the_last_of_repeated_values_counts_and_multi_has_them_all() {
    let mut options = Options::of("x", &[("a", "1"), ("a", ""), ("a", "3")]);
    assert_eq!(options.str("a").as_deref(), Some("3"));
    assert_eq!(options.multi("a"), ["1", "3"]);
    let mut options = Options::of("x", &[("l", " a, b ,,c, ")]);
    assert_eq!(options.list("l"), ["a", "b", "c"]);
}

#[test]
fn unasked_options_are_refused_with_the_nearest_name() {
    let mut options = Options::of("fast", &[("mem_capacty", "1"), ("capacity", "1"), ("z", "")]);
    assert_eq!(options.int("mem_capacity", 1..=9), None);
    assert_eq!(
        lines(&options.finish().problems),
        [
            "[fast] capacity: no such option; did you mean `mem_capacity`?",
            "[fast] mem_capacty: no such option; did you mean `mem_capacity`?",
            "[fast] z: no such option here: remove it, or move it to the section it belongs to",
        ]
    );
}

#[test]
fn messages_show_numbers_and_choices_but_no_secret() {
    let mut options = Options::of("x", &[("n", "a\nb"), ("b", "maybe"), ("c", "md6")]);
    let broken = |name: &str| {
        Value::new(
            "hunter$2$word".into(),
            Err(Unresolved::Unknown(name.into())),
            "/etc/a.conf:3".into(),
        )
    };
    options.own.insert("password".into(), vec![broken("word")]);
    options.own.insert("pool".into(), vec![broken("word")]);
    options.own.insert(
        "leak".into(),
        vec![Value::new("$password".into(), Ok("hunter2".into()), "/etc/a.conf:4".into())],
    );
    options.int("n", 1..=u64::MAX);
    options.bool("b");
    options.choice("c", &["md5", "sha512"]);
    options.int("leak", 1..=5);
    assert_eq!(options.secret("password"), None);
    assert_eq!(options.str("pool"), None);
    let debug = format!("{options:?}");
    assert!(!debug.contains("hunter"), "{debug}");
    assert_eq!(
        lines(&options.finish().problems),
        [
            "[x] n: must be a whole number, at least 1: value=`a\\nb`: the indented line behind it is part \
             of the value: begin that line in the first column",
            "[x] b: must be true or false: value=`maybe`",
            "[x] c: must be one of md5, sha512: value=`md6`",
            "/etc/a.conf:4: [x] leak: must be a whole number from 1 to 5: value=`$password`",
            "/etc/a.conf:3: [x] password: a `$` in it refers to an option that has no value: \
             write `$$` for a dollar sign",
            "/etc/a.conf:3: [x] pool: `$word` is set neither in this section nor in \
             [DEFAULT]: set it, or write `$$` for a dollar sign",
        ]
    );
    assert_eq!(format!("{:?}", Secret::from("hunter2".to_owned())), "...");
}

#[test]
fn an_option_that_no_longer_matters_is_explained_only_if_it_is_set() {
    let mut options = Options::of("x", &[("old", "1")]);
    options.no_longer_matters("old", "it was a bad idea");
    options.no_longer_matters("older", "it was a worse idea");
    let findings = options.finish();
    assert_eq!(lines(&findings.notes), ["[x] old: changes nothing: it was a bad idea"]);
    assert_eq!(findings.problems, []);
}

#[test]
fn an_indented_comment_in_a_value_is_told() {
    let mut options = Options::of("x", &[("pool", "images\n# the pool"), ("ok", "a\nb#c")]);
    assert_eq!(options.str("pool"), None);
    assert_eq!(options.str("ok").as_deref(), Some("a\nb#c"));
    assert_eq!(options.finish().problems.len(), 1);
}

#[test]
fn near_names_are_near_and_far_ones_are_not() {
    let known = ["rbd", "s3", "file", "enabled_backends", "put_window_mib"];
    for (name, near) in [
        ("rdb", Some("rbd")),
        ("s4", Some("s3")),
        ("File", Some("file")),
        ("enabled_backend", Some("enabled_backends")),
        ("put-window-mib", Some("put_window_mib")),
        ("put_window", Some("put_window_mib")),
        ("nfs", None),
        ("transport_url", None),
        ("", None),
    ] {
        assert_eq!(nearest(name, known), near, "{name:?}");
    }
}

#[test]
fn a_path_is_absolute() {
    let mut options = Options::of("x", &[("a", "/a b"), ("r", "a/b"), ("e", "")]);
    assert_eq!(options.path("a"), Some("/a b".into()));
    assert_eq!(options.path("e"), None);
    assert_eq!(options.path("r"), None);
    assert_eq!(lines(&options.finish().problems), ["[x] r: must be an absolute path: value=`a/b`"]);
}
