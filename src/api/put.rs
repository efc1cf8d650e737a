//! Storing an image: may it start, then its bytes, in chunks, to the task that stores it.

mod descriptor;
mod supply;

use std::{sync::Arc, time::Duration};

use bytes::Buf as _;
use http_body_util::BodyExt as _;
use hyper::{
    HeaderMap, Response, StatusCode,
    body::{Body as _, Incoming},
};
use imaged_drivers::{
    Error, ImageId, Kind, Result,
    memory::Share,
    window::{Buffer, CHUNK, PAGE, Window},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinError,
};
use tokio_util::sync::CancellationToken;

use self::supply::Supply;
use super::{
    answer::json,
    body::Body,
    call::{self, Call},
};
use crate::{
    digest::Algo,
    jobs::Ticket,
    store::Store,
    transfer::{self, Frame, Put, Taking},
    wire::{
        digests::Promise,
        headers::{BODY, DIGEST, IMAGE_SIZE, REPR_DIGEST},
    },
};

/// Chunks between the caller's side and the store's.
const BETWEEN: usize = 2;

/// Stores an image in one store.
pub(super) async fn put(
    call: &Call,
    store: &str,
    id: ImageId,
    algo: Option<Algo>,
    body: &mut Option<Incoming>,
) -> Result<Response<Body>> {
    let store = call.store(store)?;
    let stores = [store];
    let order = Order::read(call, &stores, id, algo, body.as_ref()).await?;
    let [store] = stores;
    let stored = order.carry(call, body, |put, from, ready| store.put(put, from, ready)).await??;
    json(StatusCode::CREATED, &stored)
}

/// What is to be put, and where its bytes come from.
pub(super) struct Order {
    put: Put,
    /// The file that was passed; without one, they come as the body.
    descriptor: Option<descriptor::Source>,
    /// Who shares its memory.
    share: Share,
    /// Bytes of memory that it may hold: what the store wants that wants most.
    window: usize,
}

impl Order {
    /// What the request's head says of an image that is to go to `stores`. Reads nothing of its body.
    pub(super) async fn read(
        call: &Call,
        stores: &[Arc<Store>],
        id: ImageId,
        algo: Option<Algo>,
        body: Option<&Incoming>,
    ) -> Result<Self> {
        let names = stores.iter().map(|store| store.name()).collect::<Vec<_>>().join("+");
        if call.daemon.shared.closing.is_cancelled() {
            return Err(Error::new(Kind::Unavailable, "the daemon is stopping; try again"));
        }
        let choice = call.choice(algo)?;
        let promises = promises(&call.headers, choice.algo, call.headers.contains_key(BODY))?;
        let inline = body.and_then(|body| body.size_hint().exact());
        let descriptor = passed(call, inline).await?;
        let known = descriptor.as_ref().map(descriptor::Source::size).or(inline);
        let size = agree(known, call.header(&IMAGE_SIZE)?)?;
        let context = call.context()?;
        let job = descriptor.is_some().then(|| {
            call.daemon.shared.jobs.begin("put", &call.request, &names, id.as_str(), size)
        });
        let cancel = job.as_ref().map_or_else(CancellationToken::new, Ticket::cancelled);
        let request = call.request.clone();
        let put = Put { id, size, choice, promises, context, request, job, cancel, maker: None };
        let most = call.daemon.settings().put_window;
        let window = stores.iter().map(|store| store.put_window(size, most)).max().unwrap_or(most);
        Ok(Self { put, descriptor, share: Share::Put(names.into()), window })
    }

    /// Has the image stored by a task of its own, which `begin` begins, and sends it the bytes.
    pub(super) async fn carry<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        self,
        call: &Call,
        body: &mut Option<Incoming>,
        begin: impl FnOnce(Put, transfer::ImageBody, oneshot::Sender<Taking>) -> F,
    ) -> Result<T> {
        let Self { put, descriptor, share, window } = self;
        let (size, cancel, late) = (put.size, put.cancel.clone(), Late::of(&put));
        // Fires too if this call is dropped with its connection.
        let _gone = cancel.clone().drop_guard();
        let (frames, incoming) = mpsc::channel(BETWEEN);
        let (ready, readied) = oneshot::channel();
        let stored = begin(put, transfer::ImageBody::Caller(incoming), ready);
        let mut task = call.daemon.shared.tasks.spawn(stored);
        // A put that is refused drops `ready`; not a byte is asked for then.
        if let Ok(taking) = readied.await
            && let Some(body) = body.take()
        {
            let gone = frames.clone();
            let sent = async {
                let mut supply = Supply::new(for_image(call, share, size, window), taking);
                let stall = call.daemon.settings().stall_timeout;
                match descriptor {
                    Some(source) => source.send(&frames, &mut supply).await,
                    None => send(body, &frames, &mut supply, stall, late).await,
                }
            };
            let sent: Result<()> = tokio::select! {
                sent = sent => sent,
                () = gone.closed() => Ok(()),
                () = call.wire.gone() => Err(left()),
            };
            let end = match sent {
                Ok(()) => Frame::End,
                Err(error) => Frame::Failed(error),
            };
            let _heard = gone.send(end).await;
        }
        let stored = tokio::select! {
            stored = &mut task => stored,
            () = call.wire.gone() => {
                cancel.cancel();
                task.await
            }
        };
        stored.map_err(lost)
    }
}

/// The file that was passed in place of a body of `inline` bytes, if one was.
async fn passed(call: &Call, inline: Option<u64>) -> Result<Option<descriptor::Source>> {
    match call.header(&BODY)? {
        None => Ok(None),
        Some("fd") if inline == Some(0) => {
            descriptor::Source::new(call.descriptor()?, call.wire.lane()).await.map(Some)
        }
        Some("fd") => Err(Error::new(Kind::Invalid, "with `Imaged-Body: fd` the body is empty")),
        Some(other) => Err(Error::new(
            Kind::Invalid,
            format!("the only form of a body beside the bytes is fd: Imaged-Body=`{other}`"),
        )),
    }
}

fn left() -> Error {
    Error::new(Kind::Mismatch, "the caller left before the end of the image")
}

/// What a task came to.
pub(super) fn joined<T>(joined: Result<Result<T>, JoinError>) -> Result<T> {
    joined.map_err(lost)?
}

fn lost(broken: JoinError) -> Error {
    Error::new(Kind::Internal, "the task of this request was lost").because(broken)
}

/// The size, from what the body says and what the caller says beside it.
fn agree(known: Option<u64>, said: Option<&str>) -> Result<Option<u64>> {
    let said = said.map(said_size).transpose()?;
    let size = match (known, said) {
        (Some(known), Some(said)) if known != said => {
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "the body has another size than the header says: body=`{known}` said=`{said}`"
                ),
            ));
        }
        _ => said.or(known),
    };
    // Offsets in files, objects and images are signed everywhere.
    match size {
        Some(size) if i64::try_from(size).is_err() => Err(too_large(&size.to_string())),
        _ => Ok(size),
    }
}

/// A number of bytes in a header; one with too many digits is too large, and no nonsense.
fn said_size(said: &str) -> Result<u64> {
    said.parse::<u64>().map_err(|error| {
        if *error.kind() == std::num::IntErrorKind::PosOverflow {
            return too_large(said);
        }
        Error::new(Kind::Invalid, format!("no number of bytes: {IMAGE_SIZE}=`{said}`"))
            .because(error)
    })
}

fn too_large(size: &str) -> Error {
    Error::new(Kind::TooLarge, format!("no store takes an image as large as that: size=`{size}`"))
}

/// The digests that the caller promises of the image.
fn promises(headers: &HeaderMap, algo: Algo, by_descriptor: bool) -> Result<Vec<Promise>> {
    let promised = call::promises(headers)?;
    for (header, promise) in &promised {
        if by_descriptor && ![REPR_DIGEST, DIGEST].contains(header) {
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "with `Imaged-Body: fd` the content is empty: promise by Repr-Digest, not {header}"
                ),
            ));
        }
        if ![Algo::Md5, algo].contains(&promise.algo) {
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "a digest is promised by md5 or the image's hash_algo: header=`{header}` \
                     promised=`{}` hash_algo=`{algo}`",
                    promise.algo
                ),
            ));
        }
    }
    Ok(promised.into_iter().map(|(_, promise)| promise).collect())
}

/// What may still be promised of an image when its bytes have come, in the trailers of a body in chunks.
#[derive(Clone, Copy)]
struct Late {
    algo: Algo,
    /// Whether an md5 is computed.
    md5: bool,
}

impl Late {
    fn of(put: &Put) -> Self {
        let promised = put.promises.iter().any(|promise| promise.algo == Algo::Md5);
        Self { algo: put.choice.algo, md5: put.choice.checksum || promised }
    }

    fn promises(self, trailers: &HeaderMap) -> Result<Vec<Promise>> {
        let promised = promises(trailers, self.algo, false)?;
        let known = |promise: &Promise| promise.algo == self.algo || self.md5;
        match promised.iter().all(known) {
            true => Ok(promised),
            false => Err(Error::new(
                Kind::Invalid,
                "no md5 was computed: promise one in the head of the request, not in a trailer",
            )),
        }
    }
}

/// The memory for an image of `size`, at most `window` bytes: a small one takes little.
fn for_image(call: &Call, share: Share, size: Option<u64>, window: usize) -> Window {
    let most = window / CHUNK;
    let size = size.map_or(usize::MAX, |size| usize::try_from(size).unwrap_or(usize::MAX));
    let chunk = size.clamp(1, CHUNK).next_multiple_of(PAGE);
    let chunks = size.div_ceil(chunk).clamp(1, most.max(1));
    call.daemon.shared.memory.window(share, chunk, chunks)
}

/// Moves a body into chunks. The caller of this sends the message of its end.
async fn send(
    mut body: Incoming,
    frames: &mpsc::Sender<Frame>,
    supply: &mut Supply,
    stall: Duration,
    late: Late,
) -> Result<()> {
    // A full buffer is handed over before the next is asked for: a small image has only one.
    let mut filling: Option<Buffer> = None;
    let mut at = 0_u64;
    loop {
        let Ok(next) = tokio::time::timeout(stall, body.frame()).await else {
            return Err(Error::new(
                Kind::Timeout,
                format!("no byte of the body came for {} s", stall.as_secs()),
            ));
        };
        let frame = match next {
            None => break,
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                return Err(
                    Error::new(Kind::Mismatch, "the body ended before it was whole").because(error)
                );
            }
        };
        let mut bytes = match frame.into_data() {
            Ok(bytes) => bytes,
            Err(other) => {
                if let Some(trailers) = other.trailers_ref() {
                    for promise in late.promises(trailers)? {
                        Frame::Promised(promise).send(frames).await?;
                    }
                }
                continue;
            }
        };
        while bytes.has_remaining() {
            let mut buffer = match filling.take() {
                Some(buffer) => buffer,
                None => supply.buffer(at, CHUNK).await?,
            };
            let copied = buffer.push(&bytes);
            bytes.advance(copied);
            at = at.saturating_add(copied as u64);
            if buffer.is_full() {
                Frame::Data(buffer.freeze()).send(frames).await?;
            } else {
                filling = Some(buffer);
            }
        }
    }
    if let Some(rest) = filling {
        Frame::Data(rest.freeze()).send(frames).await?;
    }
    Ok(())
}
