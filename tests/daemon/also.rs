//! Images outside the directories that a store writes into: at old locations, and behind symbolic
//! links.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use crate::harness::{
    daemon::{Daemon, noise},
    raw::{Answer, Raw},
};

const CONFIG: &str = "\
[DEFAULT]
enabled_backends = fast:file, plain:file
[glance_store]
default_backend = fast
[fast]
filesystem_store_datadir = {dir}/fast
imaged_also_directories = {dir}/old, {dir}/disk2/images
[plain]
filesystem_store_datadir = {dir}/cheap
";

fn start() -> Daemon {
    let home = Daemon::home();
    for dir in ["old", "disk2/images/sub", "outside"] {
        fs::create_dir_all(home.path().join(dir)).unwrap();
    }
    Daemon::start_in(home, CONFIG, &[])
}

fn at(daemon: &Daemon, method: &str, store: &str, path: &Path) -> Answer {
    daemon.ask(method, &format!("/v1/stores/{store}/images?at=file://{}", path.display()))
}

fn listed(daemon: &Daemon) -> Vec<String> {
    let list = daemon.ask("GET", "/v1/stores/fast/images");
    assert!(list.whole);
    let mut ids: Vec<String> = list
        .body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice::<serde_json::Value>(line).unwrap())
        .map(|line| line["id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    ids
}

#[test]
fn an_image_at_an_old_location_is_read_copied_and_deleted_and_nothing_is_written_there() {
    let daemon = start();
    let image = noise(200_000, 1);
    for dir in ["old", "disk2/images", "disk2/images/sub"] {
        let path = daemon.path(dir).join("x");
        fs::write(&path, &image).unwrap();
        assert!(at(&daemon, "GET", "fast", &path).body == image, "{dir}");
        assert_eq!(at(&daemon, "HEAD", "fast", &path).headers["content-length"], "200000");
        assert_eq!(at(&daemon, "GET", "plain", &path).code(), "Invalid", "it is not that store's");
        let source =
            serde_json::json!({"source": {"location": format!("file://{}", path.display())}});
        let copy = Raw::ask(
            &daemon.socket,
            "POST",
            "/v1/stores/fast/images/copy",
            source.to_string().as_bytes(),
        );
        assert_eq!(copy.status, 201, "{dir}: {copy:?}");
        daemon.wait_until_idle();
        assert!(daemon.get("fast", "copy").body == image, "{dir}");
        assert_eq!(daemon.ask("DELETE", "/v1/stores/fast/images/copy").status, 204);
        assert_eq!(at(&daemon, "DELETE", "fast", &path).status, 204, "{dir}");
        assert_eq!(at(&daemon, "DELETE", "fast", &path).code(), "NotFound", "{dir}");
        assert!(!path.exists(), "{dir}");
    }
    assert_eq!(daemon.put("fast", "y", &image).status, 201);
    assert_eq!(daemon.files("fast"), ["y"]);
    assert_eq!((daemon.files("old"), daemon.files("disk2/images")), (vec![], vec!["sub".into()]));
}

#[test]
fn a_link_into_an_also_directory_is_an_image() {
    let daemon = start();
    let image = noise(200_000, 2);
    let file = daemon.path("disk2/images/file");
    let links: [(&str, PathBuf); 4] = [
        ("absolute", file.clone()),
        ("relative", "../disk2/images/file".into()),
        ("through", daemon.path("disk2/images/inner")),
        ("beside", "y".into()),
    ];
    symlink("sub/../file", daemon.path("disk2/images/inner")).unwrap();
    for (id, target) in &links {
        fs::write(&file, &image).unwrap();
        fs::write(daemon.path("fast/y"), &image).unwrap();
        let link = daemon.path("fast").join(id);
        symlink(target, &link).unwrap();
        assert!(daemon.get("fast", id).body == image, "{id}");
        assert!(at(&daemon, "GET", "fast", &link).body == image, "{id}");
        assert_eq!(listed(&daemon), [*id, "y"], "{id}");
        assert_eq!(daemon.put("fast", id, b"other").code(), "Exists", "{id}");
        let path = format!("/v1/stores/fast/images/{id}");
        assert_eq!(daemon.ask("DELETE", &path).status, 204, "{id}");
        assert_eq!(daemon.ask("DELETE", &path).code(), "NotFound", "{id}");
        assert!(!link.is_symlink(), "{id}");
        assert!(fs::read(&file).unwrap() == image, "{id}: the file stays, others may lead to it");
        // One that leads to nothing is no image, and can be removed.
        symlink(target, &link).unwrap();
        fs::remove_file(&file).unwrap();
        fs::remove_file(daemon.path("fast/y")).unwrap();
        assert_eq!(daemon.get("fast", id).code(), "NotFound", "{id}");
        assert_eq!(listed(&daemon), [""; 0], "{id}");
        assert_eq!(daemon.ask("DELETE", &path).status, 204, "{id}");
        assert!(!link.is_symlink(), "{id}");
    }
    // So is a file in a directory that a link leads to.
    symlink(daemon.path("disk2/images/sub"), daemon.path("fast/dir")).unwrap();
    fs::write(daemon.path("disk2/images/sub/z"), &image).unwrap();
    let path = daemon.path("fast/dir/z");
    assert!(at(&daemon, "GET", "fast", &path).body == image);
    assert_eq!(at(&daemon, "DELETE", "fast", &path).status, 204);
    assert!(!path.exists());
}

#[test]
fn no_link_leads_anywhere_else() {
    let daemon = start();
    let secret = daemon.path("outside/secret");
    fs::write(&secret, "secret").unwrap();
    symlink(&secret, daemon.path("old/out")).unwrap();
    symlink(daemon.path("outside"), daemon.path("old/dir")).unwrap();
    symlink(daemon.path("disk2/images/file"), daemon.path("old/on")).unwrap();
    fs::write(daemon.path("disk2/images/file"), "an image").unwrap();
    nix::unistd::mkfifo(&daemon.path("old/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let old = daemon.path("old").display().to_string();
    for (id, target) in [
        ("plain", secret.display().to_string()),
        ("passwd", "/etc/passwd".into()),
        ("proc", "/proc/self/environ".into()),
        ("dots", format!("{old}/../outside/secret")),
        ("relative-dots", "../old/../outside/secret".into()),
        ("near", format!("{old}er/x")),
        ("itself", old.clone()),
        ("fifo", format!("{old}/fifo")),
        // By a link that lies in an also-directory.
        ("out", format!("{old}/out")),
        ("out-dir", format!("{old}/dir/secret")),
        ("on", format!("{old}/on")),
        ("loop", "loop".into()),
    ] {
        let link = daemon.path("fast").join(id);
        symlink(target, &link).unwrap();
        let path = format!("/v1/stores/fast/images/{id}");
        for method in ["GET", "DELETE"] {
            let answer = daemon.ask(method, &path);
            assert_eq!((answer.status, answer.code().as_str()), (400, "Invalid"), "{method} {id}");
        }
        assert!(link.is_symlink(), "{id}");
    }
    for path in ["old/out", "old/dir/secret", "old/on", "old/fifo", "old", "outside/secret", "fast"]
    {
        for method in ["GET", "DELETE"] {
            let answer = at(&daemon, method, "fast", &daemon.path(path));
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (400, "Invalid"),
                "{method} {path}"
            );
        }
    }
    assert_eq!(listed(&daemon), [""; 0]);
    assert!(secret.exists() && daemon.path("old/out").is_symlink());
}

#[test]
fn an_also_directory_that_is_not_there_holds_up_its_own_images_alone() {
    let daemon = start();
    fs::write(daemon.path("disk2/images/file"), "an image").unwrap();
    symlink(daemon.path("disk2/images/file"), daemon.path("fast/link")).unwrap();
    assert_eq!(daemon.get("fast", "link").body, b"an image");
    fs::rename(daemon.path("disk2"), daemon.path("disk3")).unwrap();
    let path = daemon.path("disk2/images/file");
    for method in ["GET", "DELETE"] {
        for answer in
            [daemon.ask(method, "/v1/stores/fast/images/link"), at(&daemon, method, "fast", &path)]
        {
            assert_eq!((answer.status, answer.code().as_str()), (503, "Unavailable"), "{answer:?}");
        }
    }
    assert_eq!(daemon.put("fast", "x", b"x").status, 201);
    let shown = daemon.ask("GET", "/v1/stores/fast").json();
    assert_eq!((&shown["state"], &shown["reason"]), (&"up".into(), &serde_json::Value::Null));
    assert_eq!(shown["properties"]["directories"][2]["state"], "down", "{shown}");
    fs::rename(daemon.path("disk3"), daemon.path("disk2")).unwrap();
    assert_eq!(daemon.get("fast", "link").body, b"an image");
}
