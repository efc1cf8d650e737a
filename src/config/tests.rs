use std::{fs, time::Duration};

use proptest::prelude::*;

use super::*;

/// What is wrong with `text`, as lines.
fn problems(text: &str) -> Vec<String> {
    match Config::parse(text, "a.conf") {
        Ok((config, _)) => panic!("nothing is wrong: {config:?}"),
        Err(found) => found.problems.iter().map(ToString::to_string).collect(),
    }
}

fn parsed(text: &str) -> (Config, Vec<String>) {
    match Config::parse(text, "a.conf") {
        Ok((config, notes)) => (config, notes.iter().map(ToString::to_string).collect()),
        Err(found) => {
            let lines: Vec<_> = found.problems.iter().map(ToString::to_string).collect();
            panic!("{}", lines.join("\n"))
        }
    }
}

fn file(store: Option<&Store>) -> &imaged_drivers::file::Config {
    match store.and_then(|store| store.driver.as_ref()) {
        Some(imaged_drivers::Config::File(file)) => file,
        other => panic!("no file store: {other:?}"),
    }
}

const GLANCE: &str = r#"
[DEFAULT]
#
# From glance.api
#
debug = False
use_stderr: True
bind_host = 0.0.0.0
bind_port=9292
workers = 4
transport_url = rabbit://openstack:p$ss#w;rd@10.0.0.1:5672//
log_file = /var/log/glance/glance-api.log
image_size_cap = 1099511627776
node_staging_uri = file:///var/lib/glance/staging
show_multiple_locations = True
enabled_import_methods = [glance-direct,web-download,copy-image]
enabled_backends =
    fast:rbd,
    cheap : file,
    Archive:file,
    os_glance_tasks_store:file
data_root = /srv

[database]
connection = mysql+pymysql://glance:$ecret%pw@controller/glance?charset=utf8
max_retries = -1

[keystone_authtoken]
www_authenticate_uri = http://controller:5000
password = "it's $$ecret
memcached_servers = controller:11211

[paste_deploy]
flavor = keystone

[oslo_concurrency]
lock_path = /var/lib/glance/tmp

[image_format]
disk_formats = ami,ari,aki,vhd,vhdx,vmdk,raw,qcow2,vdi,iso,ploop

[glance_store]
default_backend = cheap
filesystem_store_datadir = /left/over

[fast]
rbd_store_pool = images
rbd_store_user = glance
rbd_store_ceph_conf = /etc/ceph/ceph.conf
store_description = "Fast, on Ceph"
weight = 200

[cheap]
filesystem_store_datadir = ${DEFAULT.data_root}/cheap
filesystem_store_file_perm = 640
filesystem_store_threadpool_threshold = 80
imaged_socket = /run/imaged/imaged.sock
imaged_timeout = 20
imaged_read_only = Yes

[archive]
filesystem_store_datadirs = $data_root/archive/a:200
filesystem_store_datadirs = $data_root/archive/b:100

[backend_defaults]
filesystem_store_timeout = 7
rados_connect_timeout = 5
https_insecure = true

[os_glance_tasks_store]
filesystem_store_datadir = /var/lib/glance/tasks
[os_glance_staging_store]
filesystem_store_datadir = /var/lib/glance/staging
[wsgi]
python_interpreter = /usr/bin/python3
"#;

#[test]
fn the_stores_of_a_glance_api_conf_work_as_they_are() {
    let (config, notes) = parsed(GLANCE);
    assert_eq!(config.default, "cheap");
    let named: Vec<_> =
        config.stores.iter().map(|store| (store.name.as_str(), store.kind.as_str())).collect();
    assert_eq!(named, [("fast", "rbd"), ("cheap", "file"), ("Archive", "file")]);

    let fast = config.store("fast").unwrap();
    assert_eq!(fast.description.as_deref(), Some("Fast, on Ceph"));
    assert_eq!((fast.weight, &fast.problem), (200, &None));
    let Some(imaged_drivers::Config::Rbd(rbd)) = &fast.driver else { panic!("{fast:?}") };
    assert_eq!((rbd.pool.as_str(), rbd.user.as_str(), rbd.order), ("images", "glance", 23));
    let limit = imaged_drivers::rbd::Timeout::Fixed(Duration::from_secs(5));
    assert_eq!((rbd.timeout, rbd.thin), (limit, true), "from [backend_defaults], and by default");

    let cheap = file(config.store("cheap"));
    assert!(config.store("cheap").unwrap().read_only);
    assert_eq!(cheap.datadirs[0].path, PathBuf::from("/srv/cheap"));
    assert_eq!(cheap.file_perm, Some(0o640));
    assert_eq!(cheap.timeout.as_secs(), 7, "from [backend_defaults]");

    let archive = file(config.store("Archive"));
    let dirs: Vec<_> =
        archive.datadirs.iter().map(|dir| (dir.path.to_str().unwrap(), dir.priority)).collect();
    assert_eq!(dirs, [("/srv/archive/a", 200), ("/srv/archive/b", 100)]);
    assert!(!config.store("Archive").unwrap().read_only);

    assert_eq!(config.daemon, Daemon::default());
    assert_eq!(
        notes,
        [
            "a.conf:17: [DEFAULT] enabled_backends: this store stays with Glance: \
             entry=`os_glance_tasks_store:file`",
            "a.conf:56: [cheap] filesystem_store_threadpool_threshold: changes nothing: the \
             threads of a store are counted, and their use is in the metrics",
            "a.conf:44: [glance_store] filesystem_store_datadir: changes nothing: enabled_backends is \
             set: write it in the section of the store that it is for, or in [backend_defaults]",
        ]
    );
}

#[test]
fn everything_that_is_wrong_is_told_at_once_with_its_place() {
    let text = "\
[DEFAULT]
enabled_backends = a:file, b:fil, c, a:mem, d:nfs, imaged:file, e:mem, /:mem
no separator
[glance_store]
default_backend = aa
[a]
filesystem_store_datadr = /x
filesystem_store_chunk_size = 0
weight = heavy
[e]
mem_capacity = $cap
imaged_read_only = perhaps
[imaged]
put_window_mb = 5
[backend_defaults]
filesystem_store_timeot = 1
filesystem_store_thread_pool_size = many
nonsense = 1
swift_store_auth_insecure = 1
";
    assert_eq!(
        problems(text),
        [
            "a.conf:3: no `=` in the line: write `name = value`, or `#` before a comment",
            "a.conf:14: [imaged] put_window_mb: no such option; did you mean `put_window_mib`?",
            "a.conf:2: [DEFAULT] enabled_backends: no such type of store; did you mean `file`?: \
             entry=`b:fil`",
            "a.conf:2: [DEFAULT] enabled_backends: write name:type, such as fast:file, between \
             commas: entry=`c`",
            "a.conf:2: [DEFAULT] enabled_backends: two stores have this name: rename one: \
             entry=`a:mem`",
            "a.conf:2: [DEFAULT] enabled_backends: no such type of store; this build has cinder, file, \
             http, mem, rbd, s3, swift: entry=`d:nfs`",
            "a.conf:2: [DEFAULT] enabled_backends: the section of this name has another meaning: \
             rename the store: entry=`imaged:file`",
            "a.conf:2: [DEFAULT] enabled_backends: a store needs a name, without slash and line \
             break: entry=`/:mem`",
            "a.conf:9: [a] weight: must be a whole number: value=`heavy`",
            "a.conf:8: [a] filesystem_store_chunk_size: must be a whole number, at least 1: \
             value=`0`",
            "a.conf:17: [backend_defaults] filesystem_store_thread_pool_size: must be a whole \
             number from 1 to 1024: value=`many`",
            "a.conf:7: [a] filesystem_store_datadr: no such option; did you mean \
             `filesystem_store_datadir`?",
            "a.conf:12: [e] imaged_read_only: must be true or false: value=`perhaps`",
            "a.conf:11: [e] mem_capacity: `$cap` is set neither in this section nor in [DEFAULT]: \
             set it, or write `$$` for a dollar sign",
            "a.conf:16: [backend_defaults] filesystem_store_timeot: no such option; did you mean \
             `filesystem_store_timeout`?",
            "a.conf:18: [backend_defaults] nonsense: no such option here: remove it, or move it \
             to the section it belongs to",
            "a.conf:5: [glance_store] default_backend: no such store; did you mean `a`? \
             value=`aa`",
        ]
    );
}

#[test]
fn a_mistake_that_two_stores_share_is_told_once() {
    let text = "[DEFAULT]\nenabled_backends = a:file, b:file\n[glance_store]\ndefault_backend = a\n\
                [a]\n[b]\n[backend_defaults]\nfilesystem_store_timeout = soon\n";
    assert_eq!(problems(text).len(), 1);
}

#[test]
fn without_enabled_backends_the_likely_reason_is_told() {
    for (text, expected) in [
        (
            "",
            "[DEFAULT] enabled_backends: not set: name the stores and their types, such as \
             `enabled_backends = local:file`",
        ),
        (
            "[DEFAULT]\nenabled_backends =\n",
            "a.conf:2: [DEFAULT] enabled_backends: not set: name the stores and their types, such \
             as `enabled_backends = local:file`",
        ),
        (
            "[DEFAULT]\nenabled_backend = a:mem\n",
            "a.conf:2: [DEFAULT] enabled_backend: no such option; did you mean \
             `enabled_backends`?",
        ),
        (
            "[glance_store]\nenabled_backends = a:mem\n",
            "a.conf:2: [glance_store] enabled_backends: belongs to [DEFAULT]: move it there",
        ),
        (
            "[default]\nenabled_backends = a:mem\n",
            "a.conf:2: [default] enabled_backends: belongs to [DEFAULT]: move it there",
        ),
        (
            "[DEFAULT]\ndebug=1\n[glance_store]\nstores = file,http,rbd\ndefault_store = rbd\n\
             rbd_store_pool = images\n",
            "a.conf:5: [glance_store] default_store: a single store is no longer set so: write \
             `enabled_backends = rbd:rbd, file:file, http:http` in [DEFAULT] and `default_backend \
             = rbd` here, and move the options of each store to a section of its name, such as \
             [rbd]",
        ),
        (
            "[glance_store]\nstores = filesystem\n",
            "a.conf:2: [glance_store] stores: a single store is no longer set so: write \
             `enabled_backends = file:file` in [DEFAULT] and `default_backend = file` here, and \
             move the options of each store to a section of its name, such as [file]",
        ),
    ] {
        assert_eq!(problems(text), [expected], "{text}");
    }
}

#[test]
fn the_default_store_is_the_only_one_or_must_be_named() {
    let stores = |backends: &str, rest: &str| {
        format!("[DEFAULT]\nenabled_backends = {backends}\n[a]\n[b]\n{rest}")
    };
    assert_eq!(parsed(&stores("a:mem", "")).0.default, "a");
    assert_eq!(
        problems(&stores("a:mem, b:mem", "")),
        ["[glance_store] default_backend: not set, and there are several stores: write \
          `default_backend = a`"]
    );
    let (config, notes) =
        parsed(&stores("a:mem,b:mem", "[glance_store]\ndefault_backend=b\nstores = file\n"));
    assert_eq!(config.default, "b");
    assert_eq!(
        notes,
        ["a.conf:7: [glance_store] stores: changes nothing: enabled_backends is set, and \
          default_backend goes with it"]
    );
    assert_eq!(
        problems(&stores("a:mem, b:fiel", "[glance_store]\ndefault_backend=b\n")).len(),
        1,
        "a store that is wrong is not missing as well"
    );
    let lines = problems(&stores("a\n b:mem, c\u{1}:mem", "[glance_store]\ndefault_backend=x\n"));
    assert!(!lines.is_empty());
    assert!(lines.iter().all(|problem| !problem.contains(char::is_control)), "{lines:?}");
}

#[test]
fn a_store_without_a_section_has_defaults_unless_a_misspelt_one_is_there() {
    let base = "[DEFAULT]\nenabled_backends = fast:file\n";
    let (config, notes) = parsed(base);
    assert_eq!(
        file(config.store("fast")).datadirs[0].path,
        PathBuf::from("/var/lib/glance/images")
    );
    assert_eq!(notes, ["[fast]: the store has no section, so its options have their defaults"]);
    assert_eq!(
        problems(&format!("{base}[fats]\nfilesystem_store_datadir = /x\n")),
        ["[fats]: no such section; did you mean [fast]? That one is missing"]
    );
    assert_eq!(parsed(&format!("{base}[fats]\nother = /x\n")).1.len(), 1, "not a store's section");
    assert_eq!(
        problems(&format!("{base}[fast]\n[Backend_default]\nfilesystem_store_timeout = 1\n")),
        ["[Backend_default]: no such section; did you mean [backend_defaults]? That one is \
          missing"]
    );
    assert_eq!(
        problems(&format!("{base}[fast]\n[image]\nsocket = /x\n")),
        ["[image]: no such section; did you mean [imaged]? That one is missing"]
    );
}

#[test]
fn options_where_nobody_reads_them_are_told() {
    let base = "[DEFAULT]\nenabled_backends = a:file\nrbd_store_pool = x\nsocket = /x\ndebug = true\n\
                [a]\n[glance_store]\ndefault_backnd = a\nstores = file\nvmware_server_host = x\n\
                [b]\nrbd_store_pool = x\nweight = 1\n[c]\nweight = 1\n[default]\nx = 1\n\
                [os_glance_tasks_store]\nfilesystem_store_datadir = /x\n";
    let (_, notes) = parsed(base);
    let place = "write it in the section of the store that it is for, or in [backend_defaults]";
    assert_eq!(
        notes,
        [
            format!(
                "a.conf:3: [DEFAULT] rbd_store_pool: changes nothing: no store reads it here: {place}"
            ),
            "a.conf:4: [DEFAULT] socket: changes nothing: the daemon does not read it here: write it in \
             [imaged]"
                .to_owned(),
            "[b]: holds options of a store, and no store of enabled_backends has this name: nobody \
             reads them"
                .to_owned(),
            "[default]: is another section than [DEFAULT], which has capital letters, and nobody reads \
             it"
                .to_owned(),
            "a.conf:8: [glance_store] default_backnd: changes nothing: did you mean `default_backend`?"
                .to_owned(),
            "a.conf:9: [glance_store] stores: changes nothing: enabled_backends is set, and \
             default_backend goes with it"
                .to_owned(),
            format!(
                "a.conf:10: [glance_store] vmware_server_host: changes nothing: enabled_backends is \
                 set: {place}"
            ),
        ]
    );
}

#[test]
fn a_value_that_another_one_takes_the_place_of_is_told() {
    let base = "[DEFAULT]\nenabled_backends = a:file\nconfig_source = elsewhere\n[a]\n\
                filesystem_store_datadir = /one\nweight = 1\nweight = 1\n[A]\n\
                filesystem_store_datadir = /two\n[backend_defaults]\nimaged_read_only = yes\n\
                imaged_read_only = no\n[imaged]\nlog_level = info\nlog_level = debug\n";
    let (config, notes) = parsed(base);
    assert_eq!(file(config.store("a")).datadirs[0].path, Path::new("/two"));
    let not_counted = |line: u8| {
        format!(
            "has another value in line {line} of the same file, which does not count: remove one"
        )
    };
    assert_eq!(
        notes,
        [
            format!("a.conf:15: [imaged] log_level: {}", not_counted(14)),
            "a.conf:3: [DEFAULT] config_source: changes nothing: what Glance reads from there is not \
             read here: write it in a file"
                .to_owned(),
            format!("a.conf:9: [a] filesystem_store_datadir: {}", not_counted(5)),
            format!("a.conf:12: [backend_defaults] imaged_read_only: {}", not_counted(11)),
        ]
    );
    // What may be repeated is no such thing, nor is a file over another.
    let (_, notes) = parsed(
        "[DEFAULT]\nenabled_backends = a:file\n[a]\nfilesystem_store_datadirs = /a:1\n\
         filesystem_store_datadirs = /b:2\n",
    );
    assert_eq!(notes, [""; 0]);
    let mut layers = Layers::default();
    for name in ["a.conf", "b.conf"] {
        let text = "[DEFAULT]\nenabled_backends = a:file\n[a]\nfilesystem_store_datadir = ";
        assert_eq!(layers.lay(name, &format!("{text}/{name}\n")), []);
    }
    assert_eq!(Config::read(&layers, Findings::default()).unwrap().1, []);
}

#[test]
fn comments_and_lines_that_became_part_of_a_value_are_named() {
    let store = |lines: &str| format!("[DEFAULT]\nenabled_backends = a:file\n[a]\n{lines}");
    let behind = "what seems to be a comment behind the value is part of it";
    let indented = "an indented comment became part of the value";
    let line = "the indented line behind it is part of the value";
    for (text, cause) in [
        (store("weight = 3 # three\n"), behind),
        (store("imaged_read_only = yes ; for now\n"), behind),
        (store("filesystem_store_datadir = /srv/images\t# main\n"), behind),
        (store("filesystem_store_datadirs = /srv/images:1 # main\n"), behind),
        (store("filesystem_store_file_perm = 640 # rw-r\n"), behind),
        (store("").replace("a:file", "a:file # first"), behind),
        (store("[imaged]\nroles = glance:admin # Glance\n"), behind),
        (store("[imaged]\nsocket = run # here\n"), behind),
        (store("[glance_store]\ndefault_backend = a # the first\n"), behind),
        (store("weight = 3\n  # three\n"), indented),
        (store("imaged_read_only = yes\n ; for now\n"), indented),
        (store("filesystem_store_datadirs = /a:1\n  # /b:2\n"), indented),
        (store("weight = 3\n  imaged_read_only = yes\n"), line),
        (store("[imaged]\nlog_level = info\n  log_format = json\n"), line),
    ] {
        let told = problems(&text);
        assert!(told.iter().any(|told| told.contains(cause)), "{text}{told:?}");
    }
    // What is taken as it is.
    let (_, notes) = parsed(&store("[imaged]\nsocket = /run/x # here\n"));
    assert!(notes.iter().any(|note| note.contains(behind)), "{notes:?}");
    let (config, notes) = parsed(&store("store_description = x\n  imaged_read_only = yes\n"));
    assert!(!config.stores[0].read_only);
    assert!(notes.iter().any(|note| note.contains("no option `imaged_read_only`")), "{notes:?}");
    // Of a secret nothing is told.
    let (_, notes) = parsed(
        "[DEFAULT]\nenabled_backends = a:s3\n[a]\ns3_store_host = https://s3\ns3_store_bucket = b\n\
         s3_store_access_key = k\ns3_store_secret_key = p #w\n",
    );
    assert_eq!(notes, [""; 0]);
}

#[test]
fn options_of_types_that_are_not_served_are_not_judged() {
    let (config, _) = parsed(
        "[DEFAULT]\nenabled_backends = a:vmware\n[a]\nwhatever = 1\nweight = 3\n[backend_defaults]\n\
         anything = 1\n",
    );
    assert_eq!(config.stores[0].weight, 3);
    assert_eq!(config.stores[0].driver, None);
}

#[test]
fn sections_are_found_whatever_their_case() {
    let (config, notes) = parsed(
        "[DEFAULT]\nenabled_backends = Fast:mem\n[FAST]\nmem_capacity = 5\n[Imaged]\n\
         connection_limit = 7\n",
    );
    assert_eq!(notes, [""; 0]);
    assert_eq!(config.default, "Fast");
    assert_eq!(config.daemon.connection_limit, 7);
    let want = imaged_drivers::Config::Mem(imaged_drivers::mem::Config { capacity: 5 });
    assert_eq!(config.stores[0].driver, Some(want));
}

#[test]
fn files_come_in_order_and_directories_after_them_sorted() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("d")).unwrap();
    for (name, text) in [
        ("one", "[DEFAULT]\nenabled_backends = a:mem, b:mem\n[a]\nmem_capacity = 1\n[b]\n"),
        ("two", "[a]\nmem_capacity = 2\nweight = 2\n[imaged]\nconnection_limit = 2\n"),
        ("d/20.conf", "[a]\nweight = 20\n"),
        ("d/10.conf", "[a]\nweight = 10\n[glance_store]\ndefault_backend = b\n"),
        ("d/.hidden.conf", "[a]\nweight = 99\n"),
        ("d/note.txt", "no configuration"),
    ] {
        fs::write(path(name), text).unwrap();
    }
    let (config, _) = Config::load(&[path("one"), path("two")], &[path("d")]).unwrap();
    assert_eq!(config.default, "b");
    assert_eq!(config.stores[0].weight, 20);
    assert_eq!(config.daemon.connection_limit, 2);
    let want = imaged_drivers::Config::Mem(imaged_drivers::mem::Config { capacity: 2 });
    assert_eq!(config.stores[0].driver, Some(want));

    fs::create_dir(path("empty")).unwrap();
    let (_, notes) =
        Config::load(&[path("one"), path("two")], &[path("d"), path("empty")]).unwrap();
    let told = "no file in it has a name that ends in .conf, so nothing was read there";
    assert_eq!(notes.last().unwrap().to_string(), format!("{}: {told}", path("empty").display()));
    for (name, bytes) in [
        (
            "utf16",
            [0xff_u8, 0xfe]
                .into_iter()
                .chain("[a]\n".encode_utf16().flat_map(u16::to_le_bytes))
                .collect(),
        ),
        ("unmarked", "[a]\n".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()),
    ] {
        fs::write(path(name), bytes).unwrap();
        let told = Config::load(&[path(name)], &[]).unwrap_err().problems;
        assert!(
            told[0].to_string().ends_with("is no UTF-8 text: save the file as UTF-8"),
            "{told:?}"
        );
    }

    fs::write(path("latin"), b"[a]\nstore_description = caf\xe9\n").unwrap();
    let missing = path("missing");
    let lines: Vec<_> =
        Config::load(&[path("latin"), missing.clone()], std::slice::from_ref(&missing))
            .unwrap_err()
            .problems
            .iter()
            .map(ToString::to_string)
            .collect();
    let missing = missing.display();
    assert_eq!(
        lines,
        [
            format!(
                "{missing}: cannot be read: No such file or directory (os error 2): make it, or \
                 correct its path"
            ),
            format!("{}:2: is no UTF-8 text: save the file as UTF-8", path("latin").display()),
            format!(
                "{missing}: cannot be read: No such file or directory (os error 2): make it, or \
                 correct its path"
            ),
        ]
    );
}

#[test]
fn nothing_at_all_is_one_file_store_of_the_user() {
    let (config, notes) = Config::load(&[], &[]).unwrap();
    assert_eq!(config, Config::embedded());
    assert_eq!(notes, []);
    assert_eq!(config.default, "local");
    let datadirs = &file(config.store("local")).datadirs;
    assert!(datadirs[0].path.ends_with("imaged/images"), "{datadirs:?}");
}

#[test]
fn stores_that_did_not_change_are_equal_after_a_reload() {
    let text = "[DEFAULT]\nenabled_backends = a:mem, b:file\n[a]\n[b]\nweight = 1\n[glance_store]\n\
                default_backend = a\n";
    let (before, _) = parsed(text);
    let (after, _) = parsed(&text.replace("weight = 1", "weight = 2"));
    assert_eq!(before.store("a"), after.store("a"));
    assert_ne!(before.store("b"), after.store("b"));
}

proptest! {
    #[test]
    fn no_text_breaks_the_reading_and_each_problem_is_one_line(
        lines in proptest::collection::vec(
            prop_oneof![
                "\\PC{0,20}",
                "[ \t]{0,2}[a-z_$=:,.{}#\"'\\\\\\[\\]\r]{0,12}",
                "(enabled_backends|default_backend|stores|roles|weight|filesystem_store_datadirs|\
                 filesystem_store_file_perm|socket_mode|a|b) ?[=:] ?[a-z0-9:,/$%{}. \t-]{0,16}",
                Just("[DEFAULT]".to_owned()),
                Just("[glance_store]".to_owned()),
                Just("[imaged]".to_owned()),
                Just("[backend_defaults]".to_owned()),
                Just("[a]".to_owned()),
                Just("enabled_backends = a:file,b:mem,c:rbd".to_owned()),
                Just("a = $b$b".to_owned()),
                Just("b = ${a.a}$a".to_owned()),
            ],
            0..24,
        )
    ) {
        match Config::parse(&lines.join("\n"), "a.conf") {
            Ok((config, _)) => prop_assert!(config.store(&config.default).is_some()),
            Err(Findings { problems, notes }) => {
                prop_assert!(!problems.is_empty());
                for problem in problems.iter().chain(&notes) {
                    prop_assert!(!problem.to_string().contains('\n'), "{problem}");
                }
            }
        }
    }
}

mod sample {
    use std::collections::BTreeSet;

    use super::*;

    const SAMPLE: &str = include_str!("../../conf/imaged.conf");

    /// The sample with every option in force. A comment has a blank after its `#`.
    fn uncommented() -> String {
        let line = |line: &str| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => {
                format!("{rest}\n")
            }
            _ => format!("{line}\n"),
        };
        SAMPLE.lines().map(line).collect()
    }

    #[test]
    fn the_sample_is_the_default_and_has_no_fault() {
        let (config, notes) = parsed(SAMPLE);
        assert_eq!(notes, [""; 0]);
        assert_eq!(config.daemon, Daemon::default());
        let want = imaged_drivers::file::Config::at("/var/lib/glance/images");
        assert_eq!(*file(config.store("local")), want);
    }

    #[test]
    fn every_option_in_the_sample_has_its_default() {
        let (config, _) = parsed(&uncommented());
        let root = Places::of(true, |_| None);
        let examples = config.daemon.clone();
        let want = Daemon {
            socket_group: examples.socket_group,
            roles: examples.roles,
            ..Daemon::at(root)
        };
        assert_eq!(config.daemon, want);
        assert_eq!(config.daemon.roles.len(), 3);
        let local = config.store("local").unwrap();
        assert_eq!((local.weight, local.read_only), (0, false));
        let mut want = imaged_drivers::file::Config::at("/var/lib/glance/images");
        want.metadata_file = file(Some(local)).metadata_file.clone();
        want.also_directories = vec!["/var/lib/glance/old-images".into()];
        assert_eq!(*file(Some(local)), want);
        assert_eq!(file(config.store("archive")).datadirs.len(), 2);
        let mut default = Options::default();
        let want = imaged_drivers::Config::read("rbd", &mut default);
        let Some(imaged_drivers::Config::Rbd(mut want)) = want else { panic!("{want:?}") };
        want.also_pools = vec!["old-images".to_owned()];
        let want = Some(imaged_drivers::Config::Rbd(want));
        assert_eq!(config.store("ceph").unwrap().driver, want);
        let needed = [
            ("s3_store_host", "https://s3.example.org"),
            ("s3_store_bucket", "glance"),
            ("s3_store_access_key", "GLANCE"),
            ("s3_store_secret_key", "..."),
        ];
        let want = imaged_drivers::Config::read("s3", &mut Options::of("cloud", &needed));
        let Some(imaged_drivers::Config::S3(mut want)) = want else { panic!("{want:?}") };
        let Some(imaged_drivers::Config::S3(found)) = &config.store("cloud").unwrap().driver else {
            panic!("{config:?}")
        };
        // What has no default is an example.
        want.ca = Some("/etc/ssl/certs/s3-ca.pem".into());
        want.profile.clone_from(&found.profile);
        want.region.clone_from(&found.region);
        want.keys.clone_from(&found.keys);
        assert_eq!(*found, want);
        let want = imaged_drivers::Config::read("http", &mut Options::default());
        let Some(imaged_drivers::Config::Http(mut want)) = want else { panic!("{want:?}") };
        let Some(imaged_drivers::Config::Http(found)) = &config.store("web").unwrap().driver else {
            panic!("{config:?}")
        };
        assert_eq!((found.proxy.len(), found.rules.allow.len(), found.rules.deny.len()), (2, 2, 1));
        // What has no default is an example.
        want.ca = Some("/etc/ssl/certs/images-ca.pem".into());
        want.proxy.clone_from(&found.proxy);
        want.rules = found.rules.clone();
        want.base.clone_from(&found.base);
        assert_eq!(*found, want);
        assert!(!found.rules.only_allowed && found.base.is_some());
    }

    #[test]
    fn every_option_of_the_code_is_in_the_sample() {
        let raw = ini::raw(&uncommented()).unwrap();
        let (config, _) = parsed(&uncommented());
        let shown = |kind: &str| -> BTreeSet<&str> {
            let of_kind = config.stores.iter().filter(|store| store.kind == kind);
            of_kind
                .map(|store| store.name.as_str())
                .chain(["backend_defaults"])
                .filter_map(|section| raw.get(section))
                .flat_map(|options| options.keys().map(String::as_str))
                .collect()
        };
        for kind in imaged_drivers::TYPES.into_iter().filter(|kind| *kind != "mem") {
            for name in stores::names(kind) {
                // What stores of any type have is shown once.
                let here = shown(kind).contains(name.as_str());
                let there =
                    stores::names("mem").contains(&name) && shown("file").contains(name.as_str());
                assert!(here || there, "{kind} has an option {name}");
            }
        }
        for name in daemon::names() {
            assert!(raw["imaged"].contains_key(&name), "[imaged] has an option {name}");
        }
        for name in stores::names("mem") {
            assert!(
                SAMPLE.contains(&format!("`{name}`")) || shown("file").contains(name.as_str()),
                "mem has an option {name}"
            );
        }
    }
}
