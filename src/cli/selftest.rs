//! `imaged selftest --glance`: whether a Glance with this daemon under it does what it should, found
//! out as a user of it would: by images that are made, read and deleted again.
//!
//! # Decisions
//! * Chose: the daemon's own count of uploads tells whether Glance sends them to it. Because: images,
//!   locations and answers are the same without it. Instead of: what Glance says of its stores.
//! * Chose: a store that Glance keeps to itself is noted, and wrong only if all are. Because: it is a
//!   choice, by an empty `imaged_socket`.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use bytes::Bytes;
use imaged::{
    client::{Client, default_socket},
    digest::Algo,
};
use imaged_drivers::kit::{
    http::{Answer, HeaderName, Method, Payload, Request, StatusCode, header},
    keystone::{Service, TOKEN},
};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{
    args::SelfTest,
    cloud,
    output::{Done, Failure, Output, table},
    talk::{interrupted, runtime},
};

/// Bytes of each image: several chunks, and no multiple of anything.
const SIZE: usize = (5 << 20) + 4321;
/// The part that is read.
const PART: std::ops::Range<usize> = (3 << 20) + 17..(3 << 20) + 10_017;
/// Bytes of an answer that is no image, at most.
const ANSWER: usize = 4 << 20;
/// How long an import may take.
const IMPORT: Duration = Duration::from_secs(120);
/// How often is looked whether it is done.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the images may take to go when the command is interrupted.
const LAST_WORDS: Duration = Duration::from_secs(30);
/// Which store an upload goes to.
const STORE: HeaderName = HeaderName::from_static("x-image-meta-store");
/// How long an image is.
const LENGTH: HeaderName = HeaderName::from_static("x-openstack-image-size");

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Right,
    Wrong,
    /// It is neither, or could not be found out.
    Note,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Wrong => "WRONG",
            Self::Note => "note",
        }
    }
}

/// One check.
#[derive(Debug, Serialize)]
struct Check {
    /// Of the store or the method that it is about.
    about: String,
    check: &'static str,
    verdict: Verdict,
    told: String,
}

/// Runs the checks; the exit code is 1 if anything is wrong.
pub(crate) fn run(args: &SelfTest) -> ExitCode {
    let output = Output { json: args.daemon.json };
    output.end(runtime().and_then(|runtime| {
        let done = runtime.block_on(walk(args, output));
        runtime.shutdown_background();
        done
    }))
}

async fn walk(args: &SelfTest, output: Output) -> Done {
    let socket = args.daemon.socket.clone().unwrap_or_else(default_socket);
    let test = Test {
        glance: cloud::glance(args.glance.first().cloned())?,
        daemon: Client::new(socket),
        stores: args.store.clone(),
        from: args.web_download.clone(),
        bytes: noise(SIZE),
        found: Mutex::default(),
        made: Mutex::default(),
    };
    let stopped = tokio::select! {
        done = test.all() => done.err(),
        stopped = interrupted() => Some(stopped),
    };
    // Whatever came in between, nothing is left.
    let cleared = tokio::time::timeout(LAST_WORDS, test.clear()).await;
    if cleared.is_err() {
        let left = test.made.lock().join(", ");
        test.tell("glance", "nothing is left", Verdict::Wrong, format!("delete by hand: {left}"));
    }
    let checks = test.found.into_inner();
    let rows: Vec<_> = checks.iter().map(row).collect();
    let wrong = checks.iter().filter(|check| check.verdict == Verdict::Wrong).count();
    if let Some(stopped) = stopped {
        if !output.json {
            output.answer(&(), |out| table(out, &HEAD, &rows))?;
        }
        return Err(stopped);
    }
    output.answer(&json!({"checks": checks, "wrong": wrong}), |out| table(out, &HEAD, &rows))?;
    if wrong > 0 { Err(Failure::Told) } else { Ok(()) }
}

const HEAD: [&str; 4] = ["ABOUT", "CHECK", "VERDICT", "WHAT"];

fn row(check: &Check) -> Vec<String> {
    let verdict = check.verdict.word().to_owned();
    vec![check.about.clone(), check.check.to_owned(), verdict, check.told.clone()]
}

/// Bytes that cannot be compressed and are nobody's else.
fn noise(size: usize) -> Bytes {
    let (mut state, _) = Uuid::new_v4().as_u64_pair();
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

/// A member of what Glance tells; null if it is not there.
fn part<'a>(told: &'a Value, name: &str) -> &'a Value {
    static NULL: Value = Value::Null;
    told.get(name).unwrap_or(&NULL)
}

fn digest(algo: Algo, bytes: &[u8]) -> String {
    let mut hasher = algo.hasher();
    hasher.update(bytes);
    hasher.finish()
}

/// A check that is wrong, and why.
type Wrong = String;

struct Test {
    glance: Service,
    daemon: Client,
    /// The stores to try; all that can be written if there are none.
    stores: Vec<String>,
    /// What web-download is to fetch.
    from: Option<String>,
    bytes: Bytes,
    found: Mutex<Vec<Check>>,
    /// Images that are to go.
    made: Mutex<Vec<String>>,
}

impl Test {
    async fn all(&self) -> Result<(), Failure> {
        let stores = self.writable().await?;
        let mut through = BTreeMap::new();
        for store in &stores {
            if let Some(served) = self.store(store).await {
                through.insert(store.clone(), served);
            }
        }
        self.under(&through);
        self.imports(&stores).await;
        self.usage().await;
        Ok(())
    }

    fn tell(&self, about: &str, check: &'static str, verdict: Verdict, told: impl Into<String>) {
        let told = told.into();
        self.found.lock().push(Check { about: about.to_owned(), check, verdict, told });
    }

    /// Notes what a check came to, and gives what it found if it is right.
    fn judge<T>(
        &self,
        about: &str,
        check: &'static str,
        done: Result<(T, String), Wrong>,
    ) -> Option<T> {
        match done {
            Ok((found, told)) => {
                self.tell(about, check, Verdict::Right, told);
                Some(found)
            }
            Err(why) => {
                self.tell(about, check, Verdict::Wrong, why);
                None
            }
        }
    }

    /// Asks Glance; an answer of another status than these is wrong.
    async fn ask(
        &self,
        method: Method,
        path: &[&str],
        wanted: &[StatusCode],
        with: impl Fn(Request) -> imaged_drivers::Result<Request>,
    ) -> Result<Answer, Wrong> {
        let doing = format!("{method} /v2/{}", path.join("/"));
        let send = |request: Request| with(request.idempotent(method == Method::GET));
        let answer = self
            .glance
            .send(|token| {
                let url = cloud::at(token, path);
                send(Request::new(method.clone(), url).secret(TOKEN, token.value())?)
            })
            .await
            .map_err(|error| error.to_string())?;
        if wanted.contains(&answer.status) {
            return Ok(answer);
        }
        Err(answer.failure(&doing).await.to_string())
    }

    async fn document(&self, path: &[&str]) -> Result<Value, Wrong> {
        let answer = self.ask(Method::GET, path, &[StatusCode::OK], Ok).await?;
        answer.json(ANSWER).await.map_err(|error| error.to_string())
    }

    /// The stores that are to be tried.
    async fn writable(&self) -> Result<Vec<String>, Failure> {
        let told = self.document(&["info", "stores"]).await.map_err(|why| {
            Failure::here(
                "Glance",
                format!("{why}; imaged serves stores that Glance has in enabled_backends"),
            )
        })?;
        let listed = part(&told, "stores").as_array().cloned().unwrap_or_default();
        let name = |store: &Value| part(store, "id").as_str().unwrap_or_default().to_owned();
        let (fixed, writable): (Vec<_>, Vec<_>) =
            listed.iter().partition(|store| !part(store, "read-only").is_null());
        let names: Vec<_> = writable.into_iter().map(name).collect();
        for asked in &self.stores {
            if !names.contains(asked) {
                let all = names.join(", ");
                let what = format!("Glance has no store `{asked}` to put images in, only {all}");
                return Err(Failure::here("NotFound", what));
            }
        }
        let all = names.join(", ");
        self.tell("glance", "stores", Verdict::Right, format!("images can be put into {all}"));
        for store in fixed {
            self.tell(&name(store), "stores", Verdict::Note, "read-only: not tried");
        }
        Ok(if self.stores.is_empty() { names } else { self.stores.clone() })
    }

    async fn create(&self) -> Result<String, Wrong> {
        let name = format!("imaged-selftest-{}", Uuid::new_v4());
        let facts = json!({"name": name, "disk_format": "raw", "container_format": "bare"});
        let answer = self
            .ask(Method::POST, &["images"], &[StatusCode::CREATED], |request| request.json(&facts))
            .await?;
        let told: Value = answer.json(ANSWER).await.map_err(|error| error.to_string())?;
        let id =
            part(&told, "id").as_str().ok_or("Glance tells no id of the image that it has made")?;
        self.made.lock().push(id.to_owned());
        Ok(id.to_owned())
    }

    async fn send(&self, image: &str, what: &str, store: Option<&str>) -> Result<(), Wrong> {
        let length = self.bytes.len().to_string();
        let path = ["images", image, what];
        let sent = self.ask(Method::PUT, &path, &[StatusCode::NO_CONTENT], |request| {
            let request = request
                .header(header::CONTENT_TYPE, "application/octet-stream")?
                .header(LENGTH, &length)?
                .payload(Payload::Bytes(self.bytes.clone()));
            match store {
                Some(store) => request.header(STORE, store),
                None => Ok(request),
            }
        });
        sent.await.map(drop)
    }

    /// All checks of one store. Whether Glance sends uploads to the daemon, if that is known.
    async fn store(&self, store: &str) -> Option<bool> {
        let before = self.uploads(store).await;
        let began = Instant::now();
        let put = async {
            let image = self.create().await?;
            self.send(&image, "file", Some(store)).await?;
            let told = format!("{SIZE} bytes in {:.2} s", began.elapsed().as_secs_f64());
            Ok((image, told))
        };
        let image = self.judge(store, "upload", put.await)?;
        let served = self.served(store, before).await;
        self.judge(store, "facts and digests", self.facts(&image, &[store]).await);
        self.judge(store, "download", self.download(&image).await);
        match self.part(&image).await {
            Err(why) if served == Some(false) => {
                self.tell(store, "range", Verdict::Note, format!("in Glance itself: {why}"));
            }
            done => {
                self.judge(store, "range", done);
            }
        }
        self.judge(store, "delete", self.delete(&image, Some((store, served))).await);
        served
    }

    /// Uploads that the daemon has done for a store; why that is not known.
    async fn uploads(&self, store: &str) -> Result<u64, Wrong> {
        let empty = imaged::client::Body::empty();
        let answer = self
            .daemon
            .request(Method::GET, "/metrics", header::HeaderMap::new(), empty)
            .await
            .map_err(|error| error.to_string())?;
        let answer = answer.accepted().await.map_err(|error| error.to_string())?;
        let text = answer.bytes().await.map_err(|error| error.to_string())?;
        let counter = format!(
            "imaged_request_seconds_count{{op=\"put\",store=\"{store}\",outcome=\"done\"}} "
        );
        let text = String::from_utf8_lossy(&text);
        let told = text.lines().find_map(|line| line.strip_prefix(&counter));
        Ok(told.and_then(|count| count.trim().parse().ok()).unwrap_or(0))
    }

    async fn served(&self, store: &str, before: Result<u64, Wrong>) -> Option<bool> {
        const CHECK: &str = "through imaged";
        let both = match (before, self.uploads(store).await) {
            (Ok(before), Ok(after)) => Ok(after > before),
            (Err(why), _) | (_, Err(why)) => Err(why),
        };
        match both {
            Ok(true) => {
                let socket = self.daemon.socket().display();
                self.tell(store, CHECK, Verdict::Right, format!("by the daemon at {socket}"));
                Some(true)
            }
            Ok(false) => {
                let what = "Glance has put it there itself: imaged_socket is not set for it, or is \
                            empty, or it was another node's Glance";
                self.tell(store, CHECK, Verdict::Note, what);
                Some(false)
            }
            Err(why) => {
                let what = format!("not known, for this daemon does not tell: {why}");
                self.tell(store, CHECK, Verdict::Note, what);
                None
            }
        }
    }

    /// Whether any store is the daemon's.
    fn under(&self, through: &BTreeMap<String, bool>) {
        if through.is_empty() || through.values().any(|served| *served) {
            return;
        }
        self.tell(
            "glance",
            "through imaged",
            Verdict::Wrong,
            "no store is: is the Python package `imaged` in the Python of glance-api, imaged_socket \
             in the stores' sections, and glance-api restarted since? Is this the node's own Glance?",
        );
    }

    async fn facts(&self, image: &str, stores: &[&str]) -> Result<((), String), Wrong> {
        let facts = self.document(&["images", image]).await?;
        let text = |name: &str| part(&facts, name).as_str().unwrap_or_default().to_owned();
        let algo = text("os_hash_algo");
        let known = Algo::ALL.into_iter().find(|one| one.name() == algo);
        let hash = known.map(|algo| digest(algo, &self.bytes));
        let mut told: Vec<_> =
            text("stores").split(',').filter(|one| !one.is_empty()).map(str::to_owned).collect();
        told.sort();
        let mut wanted: Vec<_> = stores.iter().map(|store| (*store).to_owned()).collect();
        wanted.sort();
        let size = part(&facts, "size").as_u64().unwrap_or_default().to_string();
        // The daemon computes none with `checksum = none`.
        let has_md5 = !part(&facts, "checksum").is_null();
        let md5 = if has_md5 { digest(Algo::Md5, &self.bytes) } else { String::new() };
        let wrong: Vec<_> = [
            ("status", text("status"), "active".to_owned()),
            ("size", size, self.bytes.len().to_string()),
            ("checksum", text("checksum"), md5),
            ("os_hash_value", text("os_hash_value"), hash.unwrap_or_else(|| "unknown".to_owned())),
            ("stores", told.join(","), wanted.join(",")),
        ]
        .into_iter()
        .filter(|(_, is, ought)| is != ought)
        .map(|(name, is, ought)| format!("{name} is `{is}` and not `{ought}`"))
        .collect();
        if wrong.is_empty() {
            let digests = if has_md5 {
                format!("md5 and {algo} are those of the bytes")
            } else {
                format!("{algo} is that of the bytes, and there is no md5")
            };
            Ok(((), format!("active, of the right size; {digests}")))
        } else {
            Err(wrong.join("; "))
        }
    }

    async fn read(&self, image: &str, part: Option<&str>) -> Result<Bytes, Wrong> {
        let wanted = if part.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        let answer = self
            .ask(Method::GET, &["images", image, "file"], &[wanted], |request| match part {
                Some(part) => request.header(header::RANGE, part),
                None => Ok(request),
            })
            .await?;
        let mut body = answer.body;
        let mut all = Vec::new();
        while let Some(bytes) = body.next().await.map_err(|error| error.to_string())? {
            all.extend_from_slice(&bytes);
            if all.len() > SIZE {
                return Err("more bytes come than were sent".to_owned());
            }
        }
        Ok(all.into())
    }

    async fn download(&self, image: &str) -> Result<((), String), Wrong> {
        let began = Instant::now();
        if self.read(image, None).await? == self.bytes {
            Ok(((), format!("the same bytes in {:.2} s", began.elapsed().as_secs_f64())))
        } else {
            Err("other bytes come than were sent".to_owned())
        }
    }

    async fn part(&self, image: &str) -> Result<((), String), Wrong> {
        let range = format!("bytes={}-{}", PART.start, PART.end - 1);
        if self.read(image, Some(&range)).await? == self.bytes.slice(PART) {
            Ok(((), format!("206 and the right {} bytes", PART.len())))
        } else {
            Err(format!("other bytes come than were sent: {range}"))
        }
    }

    async fn delete(
        &self,
        image: &str,
        of: Option<(&str, Option<bool>)>,
    ) -> Result<((), String), Wrong> {
        self.ask(Method::DELETE, &["images", image], &[StatusCode::NO_CONTENT], Ok).await?;
        self.made.lock().retain(|one| one != image);
        self.ask(Method::GET, &["images", image], &[StatusCode::NOT_FOUND], Ok).await?;
        let Some((store, Some(true))) = of else {
            return Ok(((), "Glance has it no more".to_owned()));
        };
        match self.daemon.stat(store, image).await {
            Ok(_) => Err("Glance has it no more, and imaged still has its bytes".to_owned()),
            Err(error) if error.is(imaged_drivers::Kind::NotFound) => {
                Ok(((), "neither Glance nor imaged has it any more".to_owned()))
            }
            Err(error) => Err(format!("Glance has it no more; imaged cannot tell: {error}")),
        }
    }

    /// Every import method that is enabled.
    async fn imports(&self, stores: &[String]) {
        let told = match self.document(&["info", "import"]).await {
            Ok(told) => told,
            Err(why) => return self.tell("glance", "import methods", Verdict::Wrong, why),
        };
        let methods =
            part(part(&told, "import-methods"), "value").as_array().cloned().unwrap_or_default();
        for method in methods.iter().filter_map(Value::as_str) {
            let Some(first) = stores.first() else { return };
            let done = match (method, stores.get(1), &self.from) {
                ("glance-direct", ..) => self.import(method, first, None).await,
                ("copy-image", Some(second), _) => self.import(method, first, Some(second)).await,
                ("copy-image", None, _) => Err(None),
                ("web-download", _, Some(from)) => self.fetch(first, from).await,
                _ => Err(None),
            };
            match done {
                Ok(told) => self.tell(method, "import", Verdict::Right, told),
                Err(Some(why)) => self.tell(method, "import", Verdict::Wrong, why),
                Err(None) => {
                    let what = match method {
                        "copy-image" => {
                            "not tried: it takes two stores, and a login that may copy_image, as an \
                             administrator may"
                        }
                        "web-download" => "not tried: name what to fetch by --web-download URL",
                        "glance-direct" => "not tried: this login may not",
                        _ => "not tried: it takes another Glance, or what only you know",
                    };
                    self.tell(method, "import", Verdict::Note, what);
                }
            }
        }
    }

    /// An import of these bytes into a store, or a copy of them to a second one.
    async fn import(
        &self,
        method: &str,
        first: &str,
        second: Option<&str>,
    ) -> Result<String, Option<Wrong>> {
        let image = self.create().await?;
        let target = match second {
            None => {
                self.send(&image, "stage", None).await?;
                first
            }
            Some(second) => {
                self.send(&image, "file", Some(first)).await?;
                second
            }
        };
        self.begin(&image, json!({"method": {"name": method}, "stores": [target]})).await?;
        self.until_in(&image, target).await?;
        let all: Vec<_> = [Some(first), second].into_iter().flatten().collect();
        self.facts(&image, &all).await?;
        self.download(&image).await?;
        self.delete(&image, None).await?;
        Ok(format!("into {}; the digests and the bytes are right", all.join(" and ")))
    }

    /// An import of what a server has.
    async fn fetch(&self, store: &str, from: &str) -> Result<String, Option<Wrong>> {
        let image = self.create().await?;
        let method = json!({"name": "web-download", "uri": from});
        self.begin(&image, json!({"method": method, "stores": [store]})).await?;
        self.until_in(&image, store).await?;
        self.delete(&image, None).await?;
        Ok(format!("{from} into {store}"))
    }

    /// Begins an import; no reason why not is there where this login may not do it.
    async fn begin(&self, image: &str, wanted: Value) -> Result<(), Option<Wrong>> {
        let path = ["images", image, "import"];
        let known = [StatusCode::ACCEPTED, StatusCode::FORBIDDEN];
        let answer = self.ask(Method::POST, &path, &known, |request| request.json(&wanted)).await?;
        if answer.status == StatusCode::FORBIDDEN { Err(None) } else { Ok(()) }
    }

    /// Waits until an import has put an image into a store.
    async fn until_in(&self, image: &str, store: &str) -> Result<(), Wrong> {
        let until = Instant::now() + IMPORT;
        loop {
            let facts = self.document(&["images", image]).await?;
            let text = |name: &str| part(&facts, name).as_str().unwrap_or_default();
            if !text("os_glance_failed_import").is_empty() {
                return Err(format!("Glance says that it failed into {store}: see Glance's log"));
            }
            let there = text("stores").split(',').any(|one| one == store);
            let ended = text("os_glance_importing_to_stores").is_empty();
            if there && ended && text("status") == "active" {
                return Ok(());
            }
            if Instant::now() > until {
                let status = text("status");
                return Err(format!("still `{status}` after {} s", IMPORT.as_secs()));
            }
            sleep(PAUSE).await;
        }
    }

    async fn usage(&self) {
        const CHECK: &str = "usage";
        let told = match self.document(&["info", "usage"]).await {
            Ok(told) => told,
            Err(why) => return self.tell("glance", CHECK, Verdict::Wrong, why),
        };
        let quotas = part(&told, "usage").as_object().cloned().unwrap_or_default();
        if quotas.is_empty() {
            self.tell("glance", CHECK, Verdict::Note, "no quotas: use_keystone_limits is false");
        } else if quotas.values().any(|quota| part(quota, "remaining").is_null()) {
            let what = "Glance's own, without what remains: imaged.glance.api is not in its paste \
                        configuration";
            self.tell("glance", CHECK, Verdict::Note, what);
        } else if let Some((name, _)) =
            quotas.iter().find(|(_, quota)| *part(quota, "registered") == Value::Bool(false))
        {
            let what = format!("{name} has no registered limit in Keystone, so Glance enforces 0");
            self.tell("glance", CHECK, Verdict::Wrong, what);
        } else {
            self.tell("glance", CHECK, Verdict::Right, "limits, usage and what remains are told");
        }
    }

    /// Waits until Glance is done with what was sent to it. What is deleted before, it puts into the
    /// store all the same, and forgets.
    async fn settle(&self, image: &str) {
        while let Ok(facts) = self.document(&["images", image]).await {
            let text = |name: &str| part(&facts, name).as_str().unwrap_or_default();
            // An import that has failed into all its stores stays `importing`.
            let failed = !text("os_glance_failed_import").is_empty();
            let busy = match text("status") {
                "saving" => true,
                "importing" => !failed,
                _ => false,
            };
            if !busy && text("os_glance_importing_to_stores").is_empty() {
                return;
            }
            sleep(PAUSE).await;
        }
    }

    /// Deletes what is still there.
    async fn clear(&self) {
        let made = self.made.lock().clone();
        let mut left = Vec::new();
        for image in made {
            self.settle(&image).await;
            let gone = [StatusCode::NO_CONTENT, StatusCode::NOT_FOUND];
            match self.ask(Method::DELETE, &["images", &image], &gone, Ok).await {
                Ok(_) => self.made.lock().retain(|one| *one != image),
                Err(why) => left.push(format!("{image}: {why}")),
            }
        }
        if left.is_empty() {
            self.tell("glance", "nothing is left", Verdict::Right, "all images are deleted");
        } else {
            let what = format!("delete by hand: {}", left.join("; "));
            self.tell("glance", "nothing is left", Verdict::Wrong, what);
        }
    }
}
