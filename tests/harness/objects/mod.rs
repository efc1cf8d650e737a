//! An object server whose every exchange can be made to fail, which no real one can be asked for: it keeps
//! images in memory, and speaks S3 or Swift on loopback.
//!
//! It keeps the rules that drivers lean on: exact lengths, ETags, conditions, the order and the least size of
//! parts, pages of listings. Signatures it does not verify, but it knows whose access keys are good.
//!
//! ```ignore
//! let objects = Objects::s3();
//! objects.fail(Rule::new(Fault::Later(503, 1)).on(Call::UploadPart).every(3));
//! ```

mod checksums;
mod exchange;
mod keystone;
mod large;
mod parts;
mod plan;
mod s3;
mod server;
mod space;
mod swift;
mod tests;

use std::{
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

pub(crate) use keystone::REGION;
pub(crate) use plan::{Call, Fault, Rule, Seen};
use server::Shared;
use space::{Bucket, Space, Token, Ways};

/// The bucket, or container, that is there from the beginning.
pub(crate) const BUCKET: &str = "images";

/// The access key, or the user, that is good from the beginning.
pub(crate) const USER: &str = "glance";

/// The secret of that user.
pub(crate) const SECRET: &str = "a-secret-that-nobody-may-see";

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    S3,
    Swift,
}

/// A server, until this is dropped.
#[derive(Debug)]
pub(crate) struct Objects {
    shared: Arc<Shared>,
    up: watch::Sender<bool>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Objects {
    pub(crate) fn s3() -> Self {
        let space = Space::default();
        Self::start(Dialect::S3, space, "")
    }

    /// `TempAuth` at `/auth/v1.0`, and a Keystone at `/v3`, of which [`USER`] is admitted to the project of
    /// that name.
    pub(crate) fn swift() -> Self {
        let space = Space::default();
        Self::start(Dialect::Swift, space, &format!("AUTH_{USER}"))
    }

    fn start(dialect: Dialect, mut space: Space, account: &str) -> Self {
        space.buckets.insert((account.to_owned(), BUCKET.to_owned()), Bucket::default());
        let credential = match dialect {
            Dialect::S3 => USER.to_owned(),
            Dialect::Swift => format!("{USER} {SECRET}"),
        };
        space.admitted.insert(credential, account.to_owned());
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::new(Shared {
            dialect,
            space: Mutex::new(space),
            plan: Mutex::default(),
            healed: watch::Sender::new(0),
            held: watch::Sender::new(0),
            listens: watch::Sender::new(true),
            came: watch::Sender::new(0),
            address: listener.local_addr().unwrap().to_string(),
        });
        let (up, is_up) = watch::channel(true);
        let (end, ended) = oneshot::channel();
        let serving = Arc::clone(&shared);
        // A thread of its own: tests have a runtime, or none.
        let thread = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build().unwrap().block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = server::serve(listener, serving, is_up) => {}
                    _ = ended => {}
                }
            });
        });
        Self { shared, up, end: Some(end), thread: Some(thread) }
    }

    /// `http://HOST:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    /// Something goes wrong from now on.
    pub(crate) fn fail(&self, rule: Rule) {
        self.shared.plan.lock().rules.push(rule);
    }

    /// Nothing goes wrong any more, and what hangs goes on.
    pub(crate) fn heal(&self) {
        self.shared.plan.lock().rules.clear();
        self.shared.healed.send_modify(|count| *count += 1);
    }

    /// Ends all connections, and takes no new ones; what is stored stays.
    pub(crate) fn go_down(&self) {
        self.up.send_replace(false);
    }

    /// Waits until it takes no connection any more.
    pub(crate) async fn until_down(&self) {
        self.shared.listens.subscribe().wait_for(|listens| !listens).await.unwrap();
    }

    /// Is there again, under the same address.
    pub(crate) fn come_up(&self) {
        self.up.send_replace(true);
    }

    /// All requests that came.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.plan.lock().seen.clone()
    }

    /// How many of this kind came.
    pub(crate) fn count(&self, call: Call) -> usize {
        self.shared.plan.lock().seen.iter().filter(|seen| seen.call == call).count()
    }

    /// The most of this kind that were under way at a time.
    pub(crate) fn most_at_once(&self, call: Call) -> usize {
        self.shared.plan.lock().most_at_once(call)
    }

    /// Requests that hang now.
    pub(crate) fn held(&self) -> usize {
        *self.shared.held.borrow()
    }

    /// Waits until so many requests hang.
    pub(crate) async fn until_held(&self, count: usize) {
        let mut held = self.shared.held.subscribe();
        let waited = tokio::time::timeout(PATIENCE, held.wait_for(|held| *held >= count)).await;
        assert!(waited.is_ok(), "waited in vain for {count} requests to hang");
    }

    /// Waits until so many requests of this kind have come.
    pub(crate) async fn until_came(&self, call: Call, count: usize) {
        let mut came = self.shared.came.subscribe();
        let waited = tokio::time::timeout(PATIENCE, came.wait_for(|_| self.count(call) >= count));
        assert!(waited.await.is_ok(), "waited in vain for {count} requests of the kind {call:?}");
    }

    /// Everything that is there, a line each: objects, segments, and uploads that have not ended.
    pub(crate) fn left(&self) -> Vec<String> {
        self.shared.space.lock().left()
    }

    /// The names of all buckets, or containers of all accounts.
    pub(crate) fn buckets(&self) -> Vec<String> {
        self.shared.space.lock().buckets.keys().map(|(_, name)| name.clone()).collect()
    }

    /// The bytes of all that is there.
    pub(crate) fn bytes_held(&self) -> u64 {
        self.shared.space.lock().bytes_held()
    }

    /// The bytes of an object, or of all that it stands for.
    pub(crate) fn bytes_of(&self, key: &str) -> Option<Vec<u8>> {
        let mut space = self.shared.space.lock();
        let found = space.buckets.iter().find_map(|((account, _), bucket)| {
            Some((account.clone(), bucket.objects.get(key)?.clone()))
        });
        let (account, object) = found?;
        Some(large::whole(&mut space, &account, &object).0.0.concat())
    }

    /// What is kept with an object, and its tags.
    pub(crate) fn kept_with(&self, key: &str) -> Vec<(String, String)> {
        let space = self.shared.space.lock();
        let object = space.buckets.values().find_map(|bucket| bucket.objects.get(key)).unwrap();
        let headers = object.headers.iter().map(|(name, value)| (name.clone(), value.clone()));
        headers.chain(object.tags.iter().cloned()).collect()
    }

    /// Puts an object there, past everybody.
    pub(crate) fn place(&self, key: &str, bytes: &[u8]) {
        let mut space = self.shared.space.lock();
        let object = space::Object::new(
            bytes::Bytes::copy_from_slice(bytes).into(),
            std::collections::BTreeMap::new(),
        );
        let bucket = space.buckets.values_mut().next().unwrap();
        bucket.objects.insert(key.to_owned(), object);
    }

    /// Removes a bucket with all that is in it.
    pub(crate) fn remove_bucket(&self, name: &str) {
        self.shared.space.lock().buckets.retain(|(_, own), _| own != name);
    }

    /// From now on this is good: S3: an access key, and nothing; Swift: `USER KEY`, `ID SECRET` of an
    /// application credential, `trust ID`, and the account that it is for.
    pub(crate) fn admit(&self, credential: &str, account: &str) {
        self.shared.space.lock().admitted.insert(credential.to_owned(), account.to_owned());
    }

    /// And from now on not, with all tokens: those that were good are no more.
    pub(crate) fn refuse(&self, credential: &str) {
        self.shared.space.lock().admitted.remove(credential);
        self.expire_tokens();
    }

    /// No token that was given is good any more.
    pub(crate) fn expire_tokens(&self) {
        self.shared.space.lock().tokens.clear();
    }

    /// A token for an account, as a caller brings it along.
    pub(crate) fn token(&self, account: &str) -> String {
        let mut space = self.shared.space.lock();
        let name = space.name("token");
        let until = Instant::now() + space.ways.token_life;
        space.tokens.insert(name.clone(), Token { account: account.to_owned(), until });
        name
    }

    /// It has other ways from now on.
    fn ways(&self, change: impl FnOnce(&mut Ways)) {
        change(&mut self.shared.space.lock().ways);
    }

    /// As radosgw has it: `If-None-Match` counts for `Put` alone, and `Complete` tells no ETag.
    pub(crate) fn like_radosgw(&self) {
        self.ways(|ways| (ways.conditional_complete, ways.complete_tells_etag) = (false, false));
    }

    /// `If-None-Match` counts for nothing.
    pub(crate) fn ignore_conditions(&self) {
        self.ways(|ways| (ways.conditional_put, ways.conditional_complete) = (false, false));
    }

    /// A page of a listing has at most so many lines.
    pub(crate) fn list_by(&self, page: usize) {
        self.ways(|ways| ways.page = page);
    }

    /// One request takes at most so many bytes, and a part that is not the last has at least so many.
    pub(crate) fn take_between(&self, least_part: u64, largest: u64) {
        self.ways(|ways| (ways.least_part, ways.largest) = (least_part, largest));
    }

    /// Tokens that are given from now on are good for so long.
    pub(crate) fn let_tokens_live(&self, life: Duration) {
        self.ways(|ways| ways.token_life = life);
    }

    /// So many of the newest objects are not in a listing yet.
    pub(crate) fn leave_unlisted(&self, newest: usize) {
        self.ways(|ways| ways.unlisted = newest);
    }

    /// Swift: a container takes at most so many objects.
    pub(crate) fn hold_at_most(&self, objects: u64) {
        self.ways(|ways| ways.quota = Some(objects));
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        drop(self.end.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(ended.is_some_and(|ended| ended.is_ok()), "the object server failed");
        }
    }
}
