//! Volumes that another program reaches: one that knows Fibre Channel, NVMe over fabrics, or a vendor's own way.
//!
//! The program of `imaged_cinder_connector` is started for each step, is given one line of JSON on its standard
//! input, and answers with one line on its standard output:
//!
//! | asked | answered |
//! |---|---|
//! | `{"v":1,"do":"properties","multipath":false,"enforce_multipath":false}` | `{"connector":{...}}`: what Cinder is to know of this machine |
//! | `{"v":1,"do":"connect","volume":UUID,"mode":"rw","connection":{...}}` | `{"path":"/dev/..."}`: a block device or a file |
//! | `{"v":1,"do":"extend","volume":UUID,"connection":{...}}` | `{}`, once the device has its new length |
//! | `{"v":1,"do":"disconnect","volume":UUID,"connection":{...},"path":"/dev/..."}` | `{}`; the path is left out when it is not known |
//!
//! A failure is `{"error":"what went wrong"}`, whatever the exit status. `connection` is Cinder's
//! `connection_info`: it may hold passwords, and so is never an argument. No shell is between.

use std::{
    io::{Read as _, Write as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{api::Mode, location};
use crate::{
    contract::{Error, Kind, Result},
    kit::lane::Lane,
};

/// Bytes of an answer, at most.
const ANSWER: u64 = 64 << 10;

/// Steps at a time, of all volumes.
const PLACES: usize = 8;

/// How much longer the lane waits than a step may take: it is ended then.
const GRACE: Duration = Duration::from_secs(10);

/// The program, and how long a step may take.
#[derive(Clone, Debug)]
pub(super) struct Program {
    command: Vec<String>,
    patience: Duration,
    lane: Lane,
}

/// A step that is under way. Dropped, it is ended.
#[derive(Clone, Debug, Default)]
struct Running(Arc<Mutex<Option<Child>>>);

impl Running {
    fn end(&self) {
        if let Some(child) = &mut *self.0.lock() {
            let _ended = child.kill();
        }
    }
}

/// Ends a step that nobody waits for any more.
struct EndOnDrop(Running);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    connector: Option<Value>,
    path: Option<PathBuf>,
    error: Option<String>,
}

impl Program {
    /// For the store `name`.
    pub(super) fn new(name: &str, command: &[String], patience: Duration) -> Self {
        let lane = Lane::new(name, PLACES, patience.saturating_add(GRACE));
        Self { command: command.to_vec(), patience, lane }
    }

    /// What Cinder is to know of this machine.
    pub(super) async fn properties(&self, multipath: bool, enforced: bool) -> Result<Value> {
        let asked = json!({
            "v": 1, "do": "properties", "multipath": multipath, "enforce_multipath": enforced
        });
        self.ask(&asked).await?.connector.ok_or_else(|| self.failed("it told no connector"))
    }

    /// Connects a volume; it is at that path then.
    pub(super) async fn connect(
        &self,
        volume: &location::Volume,
        mode: Mode,
        connection: &Value,
    ) -> Result<PathBuf> {
        let asked = json!({
            "v": 1, "do": "connect", "volume": volume.as_str(), "mode": mode.name(),
            "connection": connection
        });
        let path = self.ask(&asked).await?.path.filter(|path| path.is_absolute());
        path.ok_or_else(|| self.failed("it told no path"))
    }

    /// The volume has grown.
    pub(super) async fn extend(&self, volume: &location::Volume, connection: &Value) -> Result<()> {
        let asked = json!({
            "v": 1, "do": "extend", "volume": volume.as_str(), "connection": connection
        });
        self.ask(&asked).await.map(drop)
    }

    /// The volume is not used any more.
    pub(super) async fn disconnect(
        &self,
        volume: &location::Volume,
        connection: &Value,
        path: Option<&PathBuf>,
    ) -> Result<()> {
        let mut asked = json!({
            "v": 1, "do": "disconnect", "volume": volume.as_str(), "connection": connection
        });
        if let (Some(path), Some(fields)) = (path, asked.as_object_mut()) {
            fields.insert("path".into(), json!(path));
        }
        self.ask(&asked).await.map(drop)
    }

    async fn ask(&self, asked: &Value) -> Result<Answer> {
        let (this, running) = (self.clone(), Running::default());
        let _ends = EndOnDrop(running.clone());
        let mut line = asked.to_string();
        line.push('\n');
        let run = self.lane.run("connect a volume", move || this.run(&line, &running));
        let told = tokio::time::timeout(self.patience, run).await;
        told.unwrap_or_else(|_late| {
            Err(Error::new(Kind::Timeout, format!("{}: it does not answer", self.named())))
        })
    }

    /// Blocks.
    fn run(&self, line: &str, running: &Running) -> Result<Answer> {
        let Some((program, args)) = self.command.split_first() else {
            return Err(self.failed("it is not named"));
        };
        let fail = |error: std::io::Error| self.failed(&error.to_string()).because(error);
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(fail)?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        *running.0.lock() = Some(child);
        if let Some(mut input) = input {
            // One that answers without reading may have ended.
            let _written = input.write_all(line.as_bytes());
        }
        let mut told = Vec::new();
        if let Some(output) = output {
            output.take(ANSWER).read_to_end(&mut told).map_err(fail)?;
        }
        let child = running.0.lock().take();
        let status = child.map(|mut child| child.wait()).transpose().map_err(fail)?;
        let line = told.split(|byte| *byte == b'\n').next().unwrap_or_default();
        match serde_json::from_slice::<Answer>(line) {
            Ok(Answer { error: Some(error), .. }) => Err(self.failed(&error)),
            Ok(answer) if status.is_some_and(|status| status.success()) => Ok(answer),
            // What it has said may hold a password.
            Ok(_) | Err(_) => {
                let status = status.map(|status| status.to_string()).unwrap_or_default();
                Err(self.failed(&format!("no answer of one line of JSON, {status}")))
            }
        }
    }

    fn named(&self) -> String {
        let program = self.command.first().map_or("", String::as_str);
        format!("the program that connects volumes failed: imaged_cinder_connector=`{program}`")
    }

    fn failed(&self, why: &str) -> Error {
        let why: String = why.chars().take(400).collect();
        Error::new(Kind::Unavailable, format!("{} why=`{why}`", self.named()))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    const ID: &str = "1b2c3d4e-0000-4111-8222-abcdef012345";

    fn script(text: &str) -> (tempfile::TempDir, Program) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("connector");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let command = [path.to_str().unwrap().to_owned()];
        (home, Program::new("volumes", &command, Duration::from_secs(20)))
    }

    #[tokio::test]
    async fn each_step_is_one_line_each_way() {
        let (home, program) = script(
            "read line; echo \"$line\" >> $(dirname $0)/asked; echo '{\"path\":\"/dev/x\",\"connector\":{\"host\":\"h\"}}'",
        );
        let volume = ID.parse().unwrap();
        let connection = json!({"auth_password": "s3cret"});
        let path = program.connect(&volume, Mode::Read, &connection).await.unwrap();
        assert_eq!(path, PathBuf::from("/dev/x"));
        program.extend(&volume, &connection).await.unwrap();
        program.disconnect(&volume, &connection, Some(&path)).await.unwrap();
        assert_eq!(program.properties(true, false).await.unwrap(), json!({"host": "h"}));
        let asked = fs::read_to_string(home.path().join("asked")).unwrap();
        let steps: Vec<Value> =
            asked.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let does: Vec<_> = steps.iter().map(|step| step["do"].as_str().unwrap()).collect();
        assert_eq!(does, ["connect", "extend", "disconnect", "properties"]);
        assert_eq!(steps[2]["path"], "/dev/x");
    }

    #[tokio::test]
    async fn whatever_goes_wrong_is_said_and_no_password_is() {
        let volume = ID.parse().unwrap();
        let connection = json!({"auth_password": "s3cret"});
        for (text, says) in [
            ("echo '{\"error\":\"no path to the target\"}'; exit 3", "no path to the target"),
            ("cat", "it told no path"),
            ("cat >&2; exit 1", "exit status: 1"),
            ("echo '{\"path\":\"relative\"}'", "it told no path"),
            ("echo '{\"path\":\"/dev/x\"}'; exit 1", "exit status: 1"),
            ("exec sleep 600", "does not answer"),
        ] {
            let (_home, mut program) = script(text);
            if says == "does not answer" {
                program.patience = Duration::from_millis(200);
            }
            let error = program.connect(&volume, Mode::Write, &connection).await.unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
            assert!(!error.chain().to_string().contains("s3cret"), "{}", error.chain());
        }
        let missing =
            Program::new("volumes", &["/nowhere/connector".to_owned()], Duration::from_secs(9));
        let error = missing.properties(false, false).await.unwrap_err();
        assert!(error.to_string().contains("imaged_cinder_connector=`/nowhere/connector`"));
    }
}
