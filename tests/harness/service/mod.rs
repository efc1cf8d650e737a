//! A server of an API whose every exchange can be made to fail, which no real one can be asked for: on
//! loopback, on a thread of its own.
//!
//! What it serves is a [`Service`]; where requests and answers go wrong is one for all of them.

mod blob;
mod exchange;
pub(crate) mod keystone;
pub(crate) mod plain;
mod plan;
mod server;

use std::{fmt, sync::Arc, thread::JoinHandle, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{oneshot, watch};

pub(crate) use blob::{Blob, hex, md5_of};
pub(crate) use exchange::{Answer, Head};
pub(crate) use keystone::{Identity, REGION};
pub(crate) use plan::{Fault, Rule, Seen};
use server::Shared;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is served.
pub(crate) trait Service: fmt::Debug + Send + 'static {
    /// The kinds of its requests.
    type Call: Copy + fmt::Debug + Ord + Send + Sync;

    /// Whether what is asked stands in bodies, which are small: then they are read before it is known what
    /// goes wrong.
    const ASKS_IN_BODIES: bool = false;

    /// What a request asks for, and the name of what it is about. The body is empty unless what is asked
    /// stands in it.
    fn call(&self, head: &Head, body: &Blob) -> (Self::Call, String);

    /// Does what is asked, at a server whose address, `HOST:PORT`, may be in the answer.
    fn answer(&mut self, call: Self::Call, head: &Head, body: Blob, address: &str) -> Answer;

    /// An answer of this status that says that it failed.
    fn refusal(&self, call: Self::Call, status: u16) -> Answer;

    /// Who may ask.
    fn identity(&mut self) -> &mut Identity;
}

/// A server of `S`, until this is dropped.
#[derive(Debug)]
pub(crate) struct Fake<S: Service> {
    shared: Arc<Shared<S>>,
    up: watch::Sender<bool>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl<S: Service> Fake<S> {
    pub(crate) fn start(service: S) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::new(Shared {
            service: Mutex::new(service),
            plan: Mutex::default(),
            healed: watch::Sender::new(0),
            held: watch::Sender::new(0),
            listens: watch::Sender::new(true),
            came: watch::Sender::new(0),
            over: watch::Sender::new(0),
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

    /// What it serves. No request is answered while this is held.
    pub(crate) fn service(&self) -> MutexGuard<'_, S> {
        self.shared.service.lock()
    }

    /// `http://HOST:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    /// Something goes wrong from now on.
    pub(crate) fn fail(&self, rule: Rule<S::Call>) {
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
    pub(crate) fn seen(&self) -> Vec<Seen<S::Call>> {
        self.shared.plan.lock().seen.clone()
    }

    /// How many of this kind came.
    pub(crate) fn count(&self, call: S::Call) -> usize {
        self.shared.plan.lock().seen.iter().filter(|seen| seen.call == call).count()
    }

    /// The most of this kind that were under way at a time.
    pub(crate) fn most_at_once(&self, call: S::Call) -> usize {
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
    pub(crate) async fn until_came(&self, call: S::Call, count: usize) {
        let mut came = self.shared.came.subscribe();
        let waited = tokio::time::timeout(PATIENCE, came.wait_for(|_| self.count(call) >= count));
        assert!(waited.await.is_ok(), "waited in vain for {count} requests of the kind {call:?}");
    }

    /// Waits until something is so, which only what was asked can make so.
    pub(crate) async fn until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        let mut over = self.shared.over.subscribe();
        let waited = tokio::time::timeout(PATIENCE, over.wait_for(|_| so(self))).await;
        assert!(waited.is_ok(), "waited in vain for {what}");
    }

    /// From now on this is good: `USER KEY`, `ID SECRET` of an application credential, `trust ID`, and the
    /// account that it is for. S3: an access key, and nothing.
    pub(crate) fn admit(&self, credential: &str, account: &str) {
        self.service().identity().admitted.insert(credential.to_owned(), account.to_owned());
    }

    /// And from now on not, with all tokens: those that were good are no more.
    pub(crate) fn refuse(&self, credential: &str) {
        self.service().identity().admitted.remove(credential);
        self.expire_tokens();
    }

    /// No token that was given is good any more.
    pub(crate) fn expire_tokens(&self) {
        self.service().identity().expire();
    }

    /// A token for an account, as a caller brings it along.
    pub(crate) fn token(&self, account: &str) -> String {
        self.service().identity().token(account)
    }

    /// Tokens that are given from now on are good for so long.
    pub(crate) fn let_tokens_live(&self, life: Duration) {
        self.service().identity().token_life = life;
    }
}

impl<S: Service> Drop for Fake<S> {
    fn drop(&mut self) {
        drop(self.end.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(ended.is_some_and(|ended| ended.is_ok()), "the server failed");
        }
    }
}
