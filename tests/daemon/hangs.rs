//! Files whose closing does not return: on a filesystem that is told to answer it no more.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use crate::harness::{
    daemon::{Daemon, HANGING, noise},
    raw::Raw,
    stores::plain::Plain,
};

/// Of two threads.
const THREADS: [(&str, &str); 1] = [("TOKIO_WORKER_THREADS", "2")];

/// More than the daemon has threads.
const TIMES: usize = 6;

/// What has nothing to do with the filesystem that hangs goes on.
fn assert_others_go_on(daemon: &Daemon, what: &str) {
    let image = noise(100_000, 81);
    for _ in 0..TIMES {
        assert_eq!(daemon.ask("GET", "/healthz").status, 200, "{what}");
        assert_eq!(daemon.put("cheap", "other", &image).status, 201, "{what}");
        assert!(daemon.get("cheap", "other").body == image, "{what}");
        let deleted = daemon.ask("DELETE", "/v1/stores/cheap/images/other");
        assert_eq!(deleted.status, 204, "{what}");
    }
}

/// A caller in a process of its own, with an open file on the filesystem that hangs. It must not be
/// in this one: each process that another test begins would have to close it too.
struct Caller {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

const CALLER: &str = r#"
import array, json, os, socket, sys
_, path, image = sys.argv
file = os.open(image, os.O_RDONLY)
print("open", flush=True)
for line in sys.stdin:
    count, text = json.loads(line)
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(60)
    one.connect(path)
    files = array.array("i", [file] * count)
    one.sendmsg([text.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
    whole = text.count("\r\n\r\n") == 1
    try:
        answer = one.recv(1 << 16) if whole or count > 4 else b""
    except ConnectionResetError:
        answer = b""
    print(answer.decode()[9:12], flush=True)
    one.close()
"#;

impl Caller {
    fn start(daemon: &Daemon, image: &Path) -> Self {
        Self::run(Command::new("python3").args(["-c", CALLER]).args([&daemon.socket, image]))
    }

    /// One of a user without rights, which lets go of the files that it passes.
    fn lets_go(daemon: &Daemon, image: &Path) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", LETS_GO]).args([&daemon.socket, image]);
        Self::run(command.uid(NOBODY).gid(NOBODY))
    }

    fn run(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut caller = Self { child, to, from: BufReader::new(from) };
        assert_eq!(caller.hear(), "open");
        caller
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// The status of the answer to a head that comes with the file so many times; none to half a
    /// head, and if the connection ended.
    fn ask(&mut self, count: usize, head: &str) -> String {
        writeln!(self.to, "{}", serde_json::json!([count, head])).unwrap();
        self.hear()
    }

    fn end(self) {
        let Self { mut child, to, .. } = self;
        drop(to);
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn a_descriptor_that_cannot_be_closed_stops_nobody() {
    let daemon = Daemon::start_in(Daemon::home(), HANGING, &THREADS);
    let mount = tempfile::tempdir().unwrap();
    let image = mount.path().join("image");
    let plain = Plain::mount(mount.path(), "links");
    std::fs::write(&image, b"image").unwrap();
    let mut caller = Caller::start(&daemon, &image);
    plain.hang("flush");
    let put = |n: usize, headers: &str| {
        format!("PUT /v1/stores/cheap/images/{n} HTTP/1.1\r\nhost: x\r\n{headers}\r\n")
    };
    for n in 0..TIMES {
        assert_eq!(caller.ask(1, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"), "400");
        let inline = put(n, "content-length: 5\r\n") + "bytes";
        assert_eq!(caller.ask(1, &inline), "201");
    }
    assert_others_go_on(&daemon, "with a request that has no use for it");
    for _ in 0..TIMES {
        assert_eq!(caller.ask(9, "P"), "", "more than a request can claim");
        assert_eq!(caller.ask(1, "P"), "");
    }
    assert_others_go_on(&daemon, "without a whole request");
    for n in TIMES..2 * TIMES {
        let body = put(n, "imaged-body: fd\r\ncontent-length: 0\r\n");
        assert_eq!(caller.ask(1, &body), "201");
        assert_eq!(caller.ask(2, &body), "400");
    }
    assert_others_go_on(&daemon, "with a body");
    assert!(plain.held() > 0, "nothing was closed");
    plain.free();
    caller.end();
    daemon.wait_until("all are closed", |daemon| {
        let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
        let mut to = open.filter_map(|one| std::fs::read_link(one.unwrap().path()).ok());
        !to.any(|to| to.starts_with(mount.path()))
    });
}

#[test]
fn descriptors_are_taken_as_long_as_those_before_can_be_closed() {
    let daemon = Daemon::start_in(Daemon::home(), HANGING, &THREADS);
    let mount = tempfile::tempdir().unwrap();
    let image = mount.path().join("image");
    let plain = Plain::mount(mount.path(), "links");
    std::fs::write(&image, b"image").unwrap();
    let mut caller = Caller::start(&daemon, &image);
    plain.hang("flush");
    let head = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let taken = (0..2000).take_while(|_| caller.ask(1, head) == "400").count();
    assert!((32..200).contains(&taken), "{taken}");
    assert_eq!(caller.ask(1, head), "", "the connection ends");
    assert_eq!(caller.ask(0, head), "200", "and only such a one");
    assert_others_go_on(&daemon, "when no more are taken");
    plain.free();
    daemon.wait_until("descriptors are taken again", |_| caller.ask(1, head) == "400");
    caller.end();
}

/// A user without rights, as Debian numbers it.
const NOBODY: u32 = 65534;

/// A caller that passes files and lets go of them, so that the daemon, or the kernel for it, is the
/// last to hold them. It reads a line and opens a connection for each, and prints what came of it.
const LETS_GO: &str = r#"
import array, os, socket, sys
_, path, image = sys.argv
kept = []
def connect():
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(60)
    one.connect(path)
    kept.append(one)
    return one
def send(one, text, file):
    try:
        one.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))])
    except PermissionError:
        return "refused"
    except BrokenPipeError:
        return "cut"
    finally:
        os.close(file)
    return "sent"
PUT = b"PUT /v1/stores/cheap/images/%d HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
GET = b"GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n"
files = [os.open(image, os.O_RDONLY) for _ in range(64)]
print("open", flush=True)
for number, how in enumerate(sys.stdin):
    how, file = how.strip(), files.pop()
    one = connect()
    if how == "at once":
        said = send(one, b"P", file)
    elif how == "in a body":
        one.sendall(PUT % (number, 5))
        said = send(one, b"bytes", file)
    elif how == "behind a body":
        one.sendall(PUT % (number, 5) + b"bytes")
        said = send(one, b"G", file)
    elif how == "in a body that nobody reads":
        one.sendall(GET)
        one.recv(1 << 16)
        said = send(one, b"bytes", file)
    elif how == "after an answer":
        one.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        one.recv(1 << 16)
        said = send(one, b"GET", file)
    elif how == "and goes":
        said = send(one, b"GET /healthz HT", file)
        one.close()
    print(said, flush=True)
kept.clear()
"#;

/// Where in a conversation a descriptor may come.
const WHERE: [&str; 6] = [
    "at once",
    "in a body",
    "behind a body",
    "in a body that nobody reads",
    "after an answer",
    "and goes",
];

#[test]
fn a_descriptor_whose_last_holder_is_the_daemon_stops_nobody_wherever_it_came() {
    for role in ["", "roles = 65534:member\n"] {
        let config = format!("{HANGING}[imaged]\nsocket_mode = 0666\n{role}");
        let daemon = Daemon::start_in(Daemon::home(), &config, &THREADS);
        let mount = tempfile::tempdir().unwrap();
        std::fs::set_permissions(mount.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let image = mount.path().join("image");
        let plain = Plain::mount(mount.path(), "on-a-device");
        std::fs::write(&image, b"image").unwrap();
        let mut caller = Caller::lets_go(&daemon, &image);
        plain.hang("release");
        for how in WHERE {
            for _ in 0..TIMES {
                writeln!(caller.to, "{how}").unwrap();
                caller.hear();
            }
            assert_others_go_on(&daemon, &format!("{how}, {role:?}"));
        }
        assert!(role.is_empty() || plain.held() > 0, "nothing was let go of");
        // It ends, and its connections with it, while all of them hang.
        let Caller { mut child, to, .. } = caller;
        drop(to);
        child.wait().unwrap();
        assert_others_go_on(&daemon, "when the caller has gone");
        plain.free();
    }
}

#[test]
fn a_peer_below_member_cannot_pass_descriptors() {
    let config = format!("{HANGING}[imaged]\nsocket_mode = 0666\nroles = 65534:service\n");
    let daemon = Daemon::start_in(Daemon::home(), &config, &THREADS);
    std::fs::write(daemon.path("image"), b"image").unwrap();
    let mut caller = Caller::lets_go(&daemon, &daemon.path("image"));
    // Once it has been answered, its role is known.
    writeln!(caller.to, "after an answer").unwrap();
    let said = caller.hear();
    // Linux refuses it since 6.16; before, what comes is closed.
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = kernel.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap(), numbers.next().unwrap());
    assert_eq!(said == "refused", version >= (6, 16), "{said}, {kernel}");
    caller.end();
}

#[test]
fn a_store_whose_files_cannot_be_closed_stops_no_other() {
    let home = Daemon::home();
    let fast = home.path().join("fast");
    // The filesystem ends first: the daemon cannot, while it closes a file.
    let daemon;
    let plain = Plain::mount(&fast, "links");
    daemon = Daemon::start_in(home, HANGING, &THREADS);
    let image = noise(3 << 20, 82);
    daemon.put("fast", "x", &image);
    plain.hang("flush");
    for _ in 0..TIMES {
        assert!(daemon.get("fast", "x").body == image);
        let mut raw = Raw::connect(&daemon.socket);
        raw.head("GET", "/v1/stores/fast/images/x", "range: bytes=7-9\r\n");
        assert_eq!(raw.answer("GET").body, image[7..10]);
        raw.head("GET", "/v1/stores/fast/images/x", "");
        assert_eq!(raw.read_head().unwrap().0, 200, "and not to the end");
        // A descriptor is sent; it is not taken here, so that it need not be closed here.
        let mut raw = Raw::connect(&daemon.socket);
        raw.head("GET", "/v1/stores/fast/images/x", "imaged-accept: fd\r\n");
        let mut status = [0; 12];
        raw.stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
    }
    assert_others_go_on(&daemon, "while it is read");
    for n in 0..TIMES {
        let mut raw = Raw::connect(&daemon.socket);
        raw.head("PUT", &format!("/v1/stores/fast/images/half-{n}"), "content-length: 9\r\n");
        raw.send(b"half");
    }
    assert_others_go_on(&daemon, "while uploads to it are aborted");
    assert!(plain.held() > 0, "nothing was closed");
    plain.free();
    daemon.wait_until_idle();
    assert_eq!(daemon.files("fast"), ["x"]);
}
