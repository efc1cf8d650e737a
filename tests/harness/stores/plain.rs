//! A mounted filesystem that is as plain as NFS, and whose calls can be made to fail.

use std::{
    fmt,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Mutex,
};

/// `plain.py`, mounted until this is dropped.
pub(crate) struct Plain {
    child: Child,
    talk: Mutex<Option<(ChildStdin, BufReader<ChildStdout>)>>,
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plain").field("child", &self.child.id()).finish_non_exhaustive()
    }
}

impl Plain {
    /// Mounts one on `directory`, with `links`, `no-links`, files that are `unnamed`, or
    /// `on-a-device`. Needs root.
    pub(crate) fn mount(directory: &Path, kind: &str) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/harness/stores/plain.py");
        let mut child = Command::new("python3")
            .args([script.as_ref(), directory.as_os_str(), kind.as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is there to serve a filesystem");
        let talk = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut plain = Self { child, talk: Mutex::new(Some(talk)) };
        let said = plain.hear();
        if said != "ready" {
            let status = plain.child.wait().unwrap();
            panic!(
                "this test mounts a filesystem on {}, which takes root and /dev/fuse: {status}",
                directory.display()
            );
        }
        plain
    }

    fn hear(&self) -> String {
        let mut line = String::new();
        let mut talk = self.talk.lock().unwrap();
        talk.as_mut().unwrap().1.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// From now on fails the `nth` call that changes something with `errno`; 0 fails none. Gives
    /// the calls since the last plan.
    pub(crate) fn plan(&self, nth: usize, errno: i32) -> Vec<String> {
        self.ask(&format!("plan {nth} {errno}"), "counted")
    }

    /// From now on calls of this name do not return.
    pub(crate) fn hang(&self, call: &str) {
        self.ask(&format!("hang {call}"), "hangs");
    }

    /// From now on calls of this name fail with `errno`; 0 fails none.
    pub(crate) fn fail(&self, call: &str, errno: i32) {
        self.ask(&format!("fail {call} {errno}"), "fails");
    }

    /// From now on calls of this name are done twice, and the second is answered.
    pub(crate) fn resend(&self, call: &str) {
        self.ask(&format!("resend {call}"), "resends");
    }

    /// From now on calls of this name, `fsync` or `fsyncdir`, are answered and do nothing.
    pub(crate) fn skip(&self, call: &str) {
        self.ask(&format!("skip {call}"), "skips");
    }

    /// Loses what no call has made last, as when the power fails.
    pub(crate) fn lose(&self) {
        self.ask("lose", "lost");
    }

    /// How many calls hang.
    pub(crate) fn held(&self) -> usize {
        self.ask("held", "held")[0].parse().unwrap()
    }

    /// Lets the calls that hang return, and those to come.
    pub(crate) fn free(&self) {
        self.ask("free", "freed");
    }

    fn ask(&self, line: &str, answer: &str) -> Vec<String> {
        {
            let mut talk = self.talk.lock().unwrap();
            let (to, _) = talk.as_mut().unwrap();
            writeln!(to, "{line}").unwrap();
        }
        let heard = self.hear();
        let mut words = heard.split(' ').map(str::to_owned);
        assert_eq!(words.next().as_deref(), Some(answer));
        words.collect()
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        // The end of its input is its end.
        drop(self.talk.get_mut().map(Option::take));
        let ended = self.child.wait();
        if !std::thread::panicking() {
            assert!(ended.is_ok_and(|status| status.success()), "the filesystem failed");
        }
    }
}
