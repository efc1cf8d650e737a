//! Attachments: one for each volume that is read or written here, however many read it.
//!
//! **Rule: an attachment is noted before it is asked for, and forgotten when Cinder has it no more.** So what a
//! process that was killed has left is ended by the next one, and so is what an answer that was lost has made.
//!
//! **Rule: attaching and detaching a volume take turns.** So a reader that comes while the last one leaves finds
//! the attachment there, or none.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, LazyLock},
    time::Duration,
};

use imaged_digest::{Md5, Stream};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use super::{
    api::{Attachment, Mode, Reserved},
    connect::Connected,
    connection::{Connection, encrypted},
    device::Device,
    failure, location,
    note::{Note, may_come},
    store::Store,
    volume::{GIB, Volume},
};
use crate::{
    contract::{Error, Kind, Result},
    kit::{
        clock::unix_seconds,
        pause::{Tries, jittered},
        point,
        see_through::see_through,
        turns::Turns,
        window::Buffer,
    },
};

/// How long an attachment stays when nobody reads any more: the next range of the same image may be asked for.
const LINGER: Duration = Duration::from_secs(3);

/// The first and the longest pause between tries to attach a volume that is reserved.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];

/// How long an attachment that is only reserved may be one that another daemon is making; less if Cinder is waited
/// for less.
const UNDER_WAY: Duration = Duration::from_secs(10);

/// Bytes at the beginning of an image by which its device is known again.
pub(super) const HEAD: usize = 64 << 10;

/// A volume that is attached and connected. It is given back by [`let_go`], and not when it is dropped.
pub(super) struct Attached {
    store: Arc<Store>,
    volume: location::Volume,
    attachment: location::Volume,
    note: Arc<Note>,
    connection: Connection,
    connected: Connected,
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Attached");
        shown
            .field("volume", &self.volume)
            .field("attachment", &self.attachment)
            .finish_non_exhaustive()
    }
}

impl Attached {
    /// Its bytes.
    pub(super) fn device(&self) -> &Arc<dyn Device> {
        &self.connected.device
    }

    /// Whether its volume is known to grow while it is attached: in Ceph each does, and is seen to.
    pub(super) fn grows_attached(&self) -> bool {
        cfg!(feature = "ceph") && self.connection.protocol() == "rbd"
    }

    /// Waits until the device shows that its volume has at least so many bytes: it may be late.
    pub(super) async fn until_grown(&self, bytes: u64) -> Result<()> {
        let Self { store, volume, connection, connected, .. } = self;
        store.connections.grown(connected, connection, volume).await?;
        let mut tries = Tries::new(store.config.timeout);
        while self.device().size().await? < bytes {
            if !tries.another().await {
                return Err(Error::new(
                    Kind::Unavailable,
                    format!(
                        "the device does not show that its volume has grown: volume=`{volume}`"
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// What is noted of an attachment.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Held {
    volume: location::Volume,
    /// `None` until Cinder has told it.
    attachment: Option<location::Volume>,
    /// Attachments that the volume had before.
    #[serde(default)]
    before: BTreeSet<location::Volume>,
    /// When it was asked for, in seconds of the Unix clock.
    #[serde(default)]
    since: u64,
}

/// Attaches a volume and connects it. `new`: nobody has ever written to it, and so nothing tells it from others but
/// its name.
pub(super) async fn attach(
    store: &Arc<Store>,
    volume: &Volume,
    mode: Mode,
    new: bool,
) -> Result<Attached> {
    if volume.encrypted {
        return Err(encrypted(&volume.id));
    }
    let connector = store.connections.connector().await?;
    let (attachment, note) = reserve(store, &volume.id, mode).await?;
    let attached = async {
        let told = store.api.export(&attachment, &connector).await?;
        let connection = Connection::read(told)?;
        connection.check(&volume.id)?;
        if new {
            connection.check_new(&volume.id)?;
        }
        let connected = store.connections.connect(&connection, volume, mode, new).await?;
        let attached = Attached {
            store: Arc::clone(store),
            volume: volume.id.clone(),
            attachment: attachment.clone(),
            note: Arc::clone(&note),
            connection,
            connected,
        };
        let checked = async {
            check_size(&attached, volume, mode).await?;
            store.api.complete(&attachment).await
        };
        match checked.await {
            Ok(()) => {
                point::pass("cinder-attached");
                Ok(attached)
            }
            Err(error) => {
                // What it is attached by ends below.
                let Attached { connected, connection, volume, .. } = &attached;
                let closed = store.connections.disconnect(connected, connection, volume).await;
                Err(match closed {
                    Ok(()) => error,
                    Err(left) => error.because(left.chain()),
                })
            }
        }
    };
    match attached.await {
        Ok(attached) => Ok(attached),
        Err(error) => {
            store.connections.forget_connector().await;
            end(store, &attachment, &note).await;
            Err(error)
        }
    }
}

/// Reserves a volume: its attachment, and the note of it.
async fn reserve(
    store: &Arc<Store>,
    volume: &location::Volume,
    mode: Mode,
) -> Result<(location::Volume, Arc<Note>)> {
    let before = store.api.attachments(volume).await?;
    let before = before.into_iter().map(|found| found.id).collect();
    let mut held = Held { volume: volume.clone(), attachment: None, before, since: unix_seconds() };
    let name = format!("{volume}-{:016x}", fastrand::u64(..));
    let note = Arc::new(Note::new(store.ledger(), &store.name, name));
    note.keep(&held).await?;
    let attachment = match try_to_reserve(store, volume, mode).await {
        Ok(Reserved::Attachment(attachment)) => attachment.id,
        Ok(Reserved::Busy(error)) => {
            note.forget().await;
            return Err(attached_elsewhere(store, volume, error).await);
        }
        Err(error) => {
            // Otherwise it may be there all the same, or come to be.
            if !failure::is_unsure(&error) {
                note.forget().await;
            }
            return Err(error);
        }
    };
    point::pass("cinder-reserved");
    held.attachment = Some(attachment.clone());
    if let Err(error) = note.keep(&held).await {
        end(store, &attachment, &note).await;
        return Err(error);
    }
    point::pass("cinder-noted");
    Ok((attachment, note))
}

/// Asks for an attachment of a volume, which something may hold for another moment.
async fn try_to_reserve(store: &Store, volume: &location::Volume, mode: Mode) -> Result<Reserved> {
    let [mut pause, longest] = PAUSES;
    let mut tries = store.config.attach_tries;
    loop {
        tries = tries.saturating_sub(1);
        match store.api.reserve(volume, mode).await? {
            Reserved::Busy(_) if tries > 0 => {
                tokio::time::sleep(jittered(pause)).await;
                pause = (pause * 2).min(longest);
            }
            reserved @ (Reserved::Attachment(_) | Reserved::Busy(_)) => return Ok(reserved),
        }
    }
}

/// The refusal of a volume that stays attached elsewhere.
async fn attached_elsewhere(store: &Store, volume: &location::Volume, refused: Error) -> Error {
    // It serves the text alone.
    let found = store.api.volume(volume).await.ok().flatten();
    let by = found.map(|found| found.attached_by()).unwrap_or_default();
    let what = format!(
        "the volume is in use{by}: try again later, or use a volume type with multiattach, whose \
         volumes can be read in several places: volume=`{volume}`"
    );
    Error::new(Kind::Unavailable, what).because(refused)
}

/// Ends an attachment; what cannot be ended now is left to [`super::left`].
async fn end(store: &Store, attachment: &location::Volume, note: &Note) {
    match store.api.detach(attachment).await {
        Ok(_) => note.forget().await,
        Err(error) => tracing::warn!(
            store = store.name, attachment = %attachment, error = %error.chain(),
            "an attachment cannot be ended yet"
        ),
    }
}

/// Whether the device is as large as its volume: another one may have come to be where it was. A file that
/// another program has written holds at least its image.
async fn check_size(attached: &Attached, volume: &Volume, mode: Mode) -> Result<()> {
    let device = attached.device();
    let (bytes, size) = (volume.bytes(), device.size().await?);
    let least = match mode {
        Mode::Read if device.may_be_cut() && volume.head().is_none() => volume.image_size()?,
        Mode::Read | Mode::Write => bytes,
    };
    // Backends round up, but by less than Cinder counts in.
    if size >= least && size.saturating_sub(bytes) < GIB {
        return Ok(());
    }
    Err(Error::new(
        Kind::Unavailable,
        format!(
            "the device behind the attachment is not as large as its volume, and is left alone: \
             volume=`{}` bytes=`{bytes}` device=`{size}`",
            volume.id
        ),
    ))
}

/// What the first bytes of an image are known by; they are those of the image, at most [`HEAD`].
pub(super) fn known_by(first: &[u8]) -> String {
    let mut digest = Stream::<Md5>::default();
    digest.update(first);
    data_encoding::HEXLOWER.encode(&digest.finish())
}

/// Whether an image of `size` bytes on the device begins as `head` says.
pub(super) async fn check_head(attached: &Attached, size: u64, head: &str) -> Result<()> {
    let len = usize::try_from(size.min(HEAD as u64)).unwrap_or(HEAD);
    if len == 0 {
        return Ok(());
    }
    let buffer = Buffer::uncounted(len)?;
    let bytes = attached.device().read(0, buffer).await?;
    let first = bytes.get(..len).unwrap_or_default();
    if known_by(first) == head {
        return Ok(());
    }
    Err(Error::new(
        Kind::Unavailable,
        format!(
            "the device behind the attachment does not begin as the image did when it was written, so it \
             is another one, or was written to: volume=`{}`",
            attached.volume
        ),
    ))
}

/// Gives back what was attached.
///
/// # Errors
/// The device cannot be let go of here, or Cinder does not end the attachment now: the next round does.
pub(super) async fn let_go(attached: &Attached) -> Result<()> {
    let Attached { store, volume, attachment, note, connection, connected } = attached;
    let closed = store.connections.disconnect(connected, connection, volume).await;
    let detached = store.api.detach(attachment).await;
    match (closed, detached) {
        (Ok(()), Ok(_)) => {
            note.forget().await;
            Ok(())
        }
        (Err(error), _) | (Ok(()), Err(error)) => {
            note.hand_over();
            Err(error.leaving(format!("attachment {attachment} of volume {volume}")))
        }
    }
}

/// Ends what is noted; whether there is nothing to come of it any more.
pub(super) async fn end_held(store: &Store, held: &Held) -> Result<bool> {
    let volume = &held.volume;
    let found = match &held.attachment {
        Some(attachment) => store.api.attachment(attachment).await?.into_iter().collect(),
        None => unanswered(store, held).await?,
    };
    for Attachment { id, connection_info, .. } in &found {
        store.connections.disconnect_left(connection_info.clone(), volume).await?;
        store.api.detach(id).await?;
        tracing::info!(
            store = store.name, attachment = %id, volume = %volume,
            "an attachment that was left is ended"
        );
    }
    let over = held.attachment.is_some() || !found.is_empty();
    // A volume that is gone has none, nor one whose attachment does not come any more.
    let awaited = may_come(held.since, store.config.transition);
    Ok(over || !awaited || store.api.volume(volume).await?.is_none())
}

/// The attachments that may be the one whose request was not answered: those that came since, were never connected,
/// and stay so for longer than another daemon's would.
async fn unanswered(store: &Store, held: &Held) -> Result<Vec<Attachment>> {
    let reserved = async || {
        let mut found = store.api.attachments(&held.volume).await?;
        found.retain(|one| one.is_reserved() && !held.before.contains(&one.id));
        Ok::<_, Error>(found)
    };
    let first = reserved().await?;
    if first.is_empty() {
        return Ok(first);
    }
    tokio::time::sleep(UNDER_WAY.min(store.config.timeout)).await;
    let mut still = reserved().await?;
    still.retain(|one| first.iter().any(|before| before.id == one.id));
    Ok(still)
}

/// The volumes that this process has attached for reading, whichever store asked first.
static READ: LazyLock<Registry> = LazyLock::new(Registry::default);

#[derive(Default)]
struct Registry {
    volumes: Mutex<HashMap<location::Volume, Shared>>,
    turns: Turns,
}

/// A volume that is attached for reading.
struct Shared {
    attached: Arc<Attached>,
    readers: usize,
    /// How often it was leased.
    leases: u64,
}

/// The right to read a volume. The last one that is dropped ends the attachment, a moment later.
pub(super) struct Lease {
    attached: Arc<Attached>,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.attached.fmt(f)
    }
}

impl Lease {
    /// Its bytes.
    pub(super) fn device(&self) -> &Arc<dyn Device> {
        self.attached.device()
    }
}

impl Registry {
    /// One more reader of what is attached.
    fn share(&self, volume: &location::Volume) -> Option<Lease> {
        let mut volumes = self.volumes.lock();
        let shared = volumes.get_mut(volume)?;
        shared.readers = shared.readers.saturating_add(1);
        shared.leases = shared.leases.wrapping_add(1);
        Some(Lease { attached: Arc::clone(&shared.attached) })
    }

    fn insert(&self, volume: &location::Volume, attached: Attached) -> Lease {
        let attached = Arc::new(attached);
        let shared = Shared { attached: Arc::clone(&attached), readers: 1, leases: 0 };
        self.volumes.lock().insert(volume.clone(), shared);
        Lease { attached }
    }

    /// One reader less; how often it was leased, if that was the last.
    fn leave(&self, volume: &location::Volume) -> Option<u64> {
        let mut volumes = self.volumes.lock();
        let shared = volumes.get_mut(volume)?;
        shared.readers = shared.readers.saturating_sub(1);
        (shared.readers == 0).then_some(shared.leases)
    }

    /// What nobody reads, if nobody has since it was leased so often.
    fn take(&self, volume: &location::Volume, leases: Option<u64>) -> Option<Arc<Attached>> {
        let mut volumes = self.volumes.lock();
        let shared = volumes.get(volume)?;
        if shared.readers > 0 || leases.is_some_and(|leases| leases != shared.leases) {
            return None;
        }
        volumes.remove(volume).map(|shared| shared.attached)
    }
}

/// Attaches a volume for reading, or shares the attachment that there is.
pub(super) async fn lease(store: &Arc<Store>, volume: Volume) -> Result<Lease> {
    let store = Arc::clone(store);
    // Whoever asked may be gone: what was attached is then let go of by the lease that nobody has.
    see_through((), async move {
        let _turn = READ.turns.of(&volume.id).await;
        if let Some(lease) = READ.share(&volume.id) {
            return Ok(lease);
        }
        let attached = attach(&store, &volume, Mode::Read, false).await?;
        if let Some(head) = volume.head()
            && let Err(error) = check_head(&attached, volume.image_size()?, head).await
        {
            return Err(match let_go(&attached).await {
                Ok(()) => error,
                Err(left) => error.because(left.chain()),
            });
        }
        Ok(READ.insert(&volume.id, attached))
    })
    .await
}

impl Drop for Lease {
    fn drop(&mut self) {
        let volume = self.attached.volume.clone();
        let Some(leases) = READ.leave(&volume) else { return };
        // At the very end of the process the note of it remains, for the next one.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            tokio::time::sleep(LINGER).await;
            let _turn = READ.turns.of(&volume).await;
            give_back(READ.take(&volume, Some(leases))).await;
        });
    }
}

async fn give_back(attached: Option<Arc<Attached>>) {
    let Some(attached) = attached else { return };
    if let Err(error) = let_go(&attached).await {
        tracing::warn!(error = %error.chain(), "a volume that was read cannot be detached yet");
    }
}

/// Detaches a volume that nobody reads, and keeps others from attaching it as long as what comes back is held.
///
/// # Errors
/// `InUse` if somebody reads it.
pub(super) async fn evict(volume: &location::Volume) -> Result<OwnedMutexGuard<()>> {
    let turn = READ.turns.of(volume).await;
    if READ.volumes.lock().get(volume).is_some_and(|shared| shared.readers > 0) {
        return Err(Error::new(
            Kind::InUse,
            format!("the image is being read, try again later: volume=`{volume}`"),
        ));
    }
    give_back(READ.take(volume, None)).await;
    Ok(turn)
}

/// Detaches what nobody reads any more, at once: the process is about to end.
pub(super) async fn let_go_of_all() {
    let volumes: Vec<_> = READ.volumes.lock().keys().cloned().collect();
    for volume in volumes {
        let _turn = READ.turns.of(&volume).await;
        give_back(READ.take(&volume, None)).await;
    }
}
