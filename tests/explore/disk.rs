//! What lies under a simulated backend: it outlives drivers and daemons, and it decides how each call
//! to it goes.
//!
//! A call runs on a task of its own, as a closure on a lane does: it goes on when its caller has given
//! up, and holds the claim that it was made under until it has ended.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use imaged::digest::Algo;
use imaged_drivers::{Claim, Digests, Error, ImageId, Kind, Result};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{oneshot, watch};

use super::random::Random;

/// How long a backend waits for an answer before it says `Timeout`.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How the calls to a disk go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Temper {
    /// The least and the most milliseconds that a call takes.
    pub(super) takes: (u64, u64),
    /// Of a thousand calls so many fail, and as many again time out in each of three ways.
    pub(super) faults: u64,
    /// How many pieces are read at a time.
    pub(super) in_flight: usize,
    /// Whether copies share their bytes with the source until they are flattened.
    pub(super) shares: bool,
}

/// How one call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    Fails(Kind),
    /// Its caller is told `Timeout`, and it happens afterwards.
    Late,
    /// Its caller is told `Timeout`, and it never happens.
    Lost,
    /// It happens, and its caller is told `Timeout`.
    Unheard,
}

/// The images of one store, and what became of them.
pub(super) struct Disk {
    pub(super) name: &'static str,
    pub(super) temper: Temper,
    seed: u64,
    calls: AtomicU64,
    content: Mutex<Content>,
    hangs: watch::Sender<bool>,
    /// No call fails any more.
    calm: AtomicBool,
    granted: Granted,
    /// What should never have happened.
    found: Found,
}

/// What should never have happened, a sentence each.
pub(super) type Found = Arc<Mutex<Vec<String>>>;

/// Bytes of the windows of all transfers whose backends have answered.
pub(super) type Granted = Arc<AtomicUsize>;

#[derive(Default)]
pub(super) struct Content {
    pub(super) images: BTreeMap<ImageId, Image>,
    /// What uploads have written that have not ended, by the nonces of their claims.
    pub(super) staged: BTreeMap<String, Vec<u8>>,
    /// Calls that have not ended, by the id of the claim that they were made under.
    out: BTreeMap<ImageId, usize>,
}

/// A whole image.
#[derive(Clone)]
pub(super) struct Image {
    pub(super) bytes: Bytes,
    pub(super) digests: Option<Digests>,
    /// Whether it needs its source.
    pub(super) shared: bool,
}

/// The right of a transfer to hold the memory of one window. Whatever holds bytes of it holds a clone.
#[derive(Clone)]
pub(super) struct Grant(#[expect(dead_code, reason = "only its end matters")] Arc<Held>);

struct Held {
    granted: Granted,
    bytes: usize,
}

impl Grant {
    pub(super) fn new(granted: &Granted, bytes: usize) -> Self {
        granted.fetch_add(bytes, Ordering::SeqCst);
        Self(Arc::new(Held { granted: Arc::clone(granted), bytes }))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.granted.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

/// A call that is out under a claim. The claim is let go after the call is no longer counted.
struct Out {
    disk: Arc<Disk>,
    claim: Claim,
}

impl Out {
    fn new(disk: &Arc<Disk>, claim: &Claim) -> Self {
        *disk.content().out.entry(claim.id().clone()).or_default() += 1;
        Self { disk: Arc::clone(disk), claim: claim.clone() }
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        if let Some(out) = self.disk.content().out.get_mut(self.claim.id()) {
            *out -= 1;
        }
    }
}

/// One call to a disk.
#[derive(Default)]
pub(super) struct Call<'a> {
    pub(super) what: &'static str,
    /// The claim that it is made under.
    pub(super) claim: Option<&'a Claim>,
    /// The memory that it holds.
    pub(super) grant: Option<Grant>,
    /// Whether what is staged under its claim is gone when it fails.
    pub(super) failing_clears: bool,
}

impl Disk {
    pub(super) fn new(
        name: &'static str,
        temper: Temper,
        seed: u64,
        granted: &Granted,
        found: &Found,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            temper,
            seed,
            calls: AtomicU64::new(0),
            content: Mutex::default(),
            hangs: watch::Sender::new(false),
            calm: AtomicBool::new(false),
            granted: Arc::clone(granted),
            found: Arc::clone(found),
        })
    }

    pub(super) fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock()
    }

    pub(super) fn grant(&self, bytes: usize) -> Grant {
        Grant::new(&self.granted, bytes)
    }

    /// Something that should never have happened.
    pub(super) fn report(&self, what: String) {
        self.found.lock().push(format!("store {}: {what}", self.name));
    }

    /// From now on calls hang, or those that hang go on.
    pub(super) fn hang(&self, hangs: bool) {
        self.hangs.send_replace(hangs);
    }

    /// From now on calls neither hang nor fail.
    pub(super) fn calm_down(&self) {
        self.calm.store(true, Ordering::SeqCst);
        self.hang(false);
    }

    /// Reports calls that are still out under a claim on `id`: another owner begins with it.
    pub(super) fn nothing_is_out(&self, id: &ImageId, before: &str) {
        let out = self.content().out.get(id).copied().unwrap_or_default();
        if out > 0 {
            self.report(format!("{before} of {id} while {out} calls of an earlier owner are out"));
        }
    }

    /// A row of numbers for the next call.
    pub(super) fn random(&self) -> Random {
        Random::of(self.seed, self.calls.fetch_add(1, Ordering::SeqCst))
    }

    fn fate(&self, random: &mut Random) -> Fate {
        if self.calm.load(Ordering::SeqCst) {
            return Fate::Done;
        }
        let odds = self.temper.faults;
        // No backend that can be trusted says that an image is missing which is there.
        let kinds =
            || Kind::ALL.into_iter().filter(|kind| !matches!(kind, Kind::Timeout | Kind::NotFound));
        match random.below(1000) {
            n if n < odds => Fate::Fails(random.pick(&kinds().collect::<Vec<_>>())),
            n if n < 2 * odds => Fate::Late,
            n if n < 3 * odds => Fate::Lost,
            n if n < 4 * odds => Fate::Unheard,
            _ => Fate::Done,
        }
    }

    /// Does `work`, sometime and perhaps.
    pub(super) async fn call<T: Send + 'static>(
        self: &Arc<Self>,
        call: Call<'_>,
        work: impl FnOnce(&mut Content) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut random = self.random();
        let fate = self.fate(&mut random);
        let (least, most) = self.temper.takes;
        let mut takes = Duration::from_millis(random.between(least, most));
        if matches!(fate, Fate::Late | Fate::Lost) {
            takes += PATIENCE + Duration::from_secs(random.between(1, 60));
        }
        let (answer, answered) = oneshot::channel();
        let out = call.claim.map(|claim| Out::new(self, claim));
        let clears =
            call.claim.filter(|_| call.failing_clears).map(|claim| claim.nonce().to_owned());
        let (this, mut hangs) = (Arc::clone(self), self.hangs.subscribe());
        let (what, grant) = (call.what, call.grant);
        let goes_on = async move {
            tokio::time::sleep(takes).await;
            let _never_closed = hangs.wait_for(|hangs| !hangs).await.is_ok();
            let result = match fate {
                Fate::Done | Fate::Late => work(&mut this.content()),
                Fate::Unheard => match work(&mut this.content()) {
                    Ok(_) => Err(this.late(what)),
                    Err(error) => Err(error),
                },
                Fate::Lost => {
                    drop(work);
                    Err(this.late(what))
                }
                Fate::Fails(kind) => {
                    drop(work);
                    if let Some(nonce) = clears {
                        this.content().staged.remove(&nonce);
                    }
                    Err(Error::new(kind, format!("planted in {what}: store=`{}`", this.name)))
                }
            };
            drop((out, grant));
            drop(answer.send(result));
        };
        drop(tokio::spawn(goes_on));
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(answered) => answered.unwrap_or_else(|_| Err(self.late(what))),
            Err(_) => Err(self.late(what)),
        }
    }

    fn late(&self, what: &str) -> Error {
        Error::new(Kind::Timeout, format!("no answer in time to {what}: store=`{}`", self.name))
    }
}

impl Content {
    /// Makes what is staged under `claim` an image, and says what is wrong with that.
    pub(super) fn publish(
        &mut self,
        claim: &Claim,
        digests: &Digests,
        wrong: &mut Vec<String>,
    ) -> Result<u64> {
        let id = claim.id();
        let Some(bytes) = self.staged.remove(claim.nonce()) else {
            wrong.push(format!("a commit of {id} finds nothing of its own upload"));
            return Err(Error::new(Kind::Internal, "nothing is staged"));
        };
        if Some(md5(&bytes)) != digests.checksum {
            wrong.push(format!("an image {id} of {} bytes is torn", bytes.len()));
        }
        if self.images.contains_key(id) {
            return Err(Error::new(Kind::Exists, format!("there is one: id=`{id}`")));
        }
        let size = bytes.len() as u64;
        let digests = Some(digests.clone());
        self.images.insert(id.clone(), Image { bytes: bytes.into(), digests, shared: false });
        Ok(size)
    }
}

pub(super) fn md5(bytes: &[u8]) -> String {
    let mut md5 = Algo::Md5.hasher();
    md5.update(bytes);
    md5.finish()
}
