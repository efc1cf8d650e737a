//! Those who ask something of the daemon: as its front does, a call at a time, without a socket.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use imaged::{
    daemon::Daemon,
    digest::{Algo, Choice},
    store::Store,
    transfer::{Frame, ImageBody, Put},
    wire::{
        digests::Promise,
        records::{Mode, Receipt},
    },
};
use imaged_drivers::{Context, Error, Kind, Result, Span, memory::Share, window::PAGE};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    backend::{LARGEST_WINDOW, place},
    disk::{Grant, md5},
    random::Random,
    schedule::{Download, Manner, NAMES, Name, Upload},
    world::World,
};

/// How long a caller waits who tries once more.
pub(super) const AGAIN: Duration = Duration::from_secs(3);

fn store(daemon: &Daemon, name: Name) -> Result<Arc<Store>> {
    daemon.stores().get(NAMES[name.store])
}

async fn joined<T>(task: JoinHandle<Result<T>>) -> Result<T> {
    task.await.unwrap_or_else(|lost| Err(Error::new(Kind::Internal, format!("lost: {lost}"))))
}

fn order(name: Name, request: String) -> Put {
    Put {
        id: name.id.parse().unwrap(),
        size: None,
        choice: Choice { algo: Algo::Sha256, checksum: true },
        promises: Vec::new(),
        context: Context::default(),
        request,
        job: None,
        cancel: CancellationToken::new(),
        maker: None,
    }
}

impl Upload {
    /// Whether there is nothing wrong with it.
    fn is_sound(&self) -> bool {
        match self.manner {
            Manner::Ordinary => true,
            Manner::Short => self.size == 0,
            Manner::Long
            | Manner::Fails
            | Manner::Leaves
            | Manner::Cancels
            | Manner::PromisesOthers => false,
        }
    }

    /// What its caller sends.
    fn body(&self, image: &Bytes) -> Bytes {
        match self.manner {
            Manner::Short => image.slice(..image.len().saturating_sub(1)),
            Manner::Long => [&image[..], b"."].concat().into(),
            Manner::Fails | Manner::Leaves | Manner::Cancels => image.slice(..image.len() / 2),
            Manner::Ordinary | Manner::PromisesOthers => image.clone(),
        }
    }

    fn promises(&self, image: &Bytes) -> Vec<Promise> {
        if self.manner == Manner::PromisesOthers {
            return vec![Promise { algo: Algo::Md5, value: md5(b"others") }];
        }
        if !self.promises {
            return Vec::new();
        }
        let mut sha256 = Algo::Sha256.hasher();
        sha256.update(image);
        vec![
            Promise { algo: Algo::Md5, value: md5(image) },
            Promise { algo: Algo::Sha256, value: sha256.finish() },
        ]
    }
}

impl World {
    /// A caller who tries once more, if it is one who does.
    pub(super) async fn put_again(&self, daemon: &Daemon, upload: &Upload) -> Result<()> {
        let first = self.put(daemon, upload).await;
        if first.is_ok() || !upload.again {
            return first;
        }
        tokio::time::sleep(AGAIN).await;
        self.put(daemon, upload).await
    }

    /// A caller who deletes an image, until it is known to be gone, and puts another of the same id.
    pub(super) async fn replace(&self, daemon: &Daemon, upload: &Upload) -> Result<()> {
        for _ in 0..3 {
            match self.delete(daemon, upload.name).await {
                Err(error) if error.kind() == Kind::Timeout => {}
                _ => break,
            }
        }
        self.put(daemon, upload).await
    }

    pub(super) async fn put(&self, daemon: &Daemon, upload: &Upload) -> Result<()> {
        let store = store(daemon, upload.name)?;
        let nth = self.number.fetch_add(1, Ordering::SeqCst);
        let image = bytes(&mut Random::of(self.schedule.seed.wrapping_add(1), nth), upload.size);
        let make = self.history.lock().makes(upload.name, Some(image.clone()));
        let mut put = order(upload.name, format!("put-{nth}"));
        put.size = upload.known.then_some(upload.size as u64);
        put.promises = upload.promises(&image);
        let cancel = put.cancel.clone();
        let (frames, incoming) = mpsc::channel(2);
        let (ready, readied) = oneshot::channel();
        let stored = store.put(put, ImageBody::Caller(incoming), ready);
        let task = daemon.shared.tasks.spawn(stored);
        let mut grant = None;
        if readied.await.is_ok() {
            grant = Some(Grant::new(&self.granted, LARGEST_WINDOW));
            let body = upload.body(&image);
            let sent = tokio::select! {
                sent = send(daemon, upload, body, &frames) => sent,
                () = frames.closed() => Ok(()),
            };
            let end = match (sent, upload.manner) {
                (Err(error), _) => Some(Frame::Failed(error)),
                (Ok(()), Manner::Leaves | Manner::Cancels) => None,
                (Ok(()), Manner::Fails) => {
                    Some(Frame::Failed(Error::new(Kind::Mismatch, "the body failed")))
                }
                (Ok(()), _) => Some(Frame::End),
            };
            match end {
                Some(end) => drop(frames.send(end).await),
                None if upload.manner == Manner::Cancels => cancel.cancel(),
                None => {}
            }
        }
        drop(frames);
        let result = joined(task).await;
        drop(grant);
        let mut history = self.history.lock();
        history.made(make, &result);
        if let Some(wrong) = history.is_false_refusal(make, &self.disks[upload.name.store]) {
            self.report(wrong);
        }
        drop(history);
        if result.is_ok() && !upload.is_sound() {
            self.report(format!("stored although something was wrong with it: {upload:?}"));
        }
        result.map(drop)
    }

    pub(super) async fn get(&self, daemon: &Daemon, download: &Download) -> Result<()> {
        let store = store(daemon, download.name)?;
        let id = download.name.id.parse().unwrap();
        let at = store.driver()?.locate(&id).await?;
        let span = download.part.clone().map_or(Span::All, |part| Span::Part(part.start, part.end));
        let share = Share::Get(store.name().into());
        let reader = store.open(&at, span, PAGE, share).await?;
        let (size, range) = (reader.size, reader.range);
        let mut stream = reader.body.into_stream();
        let (mut read, mut pieces) = (Vec::new(), 0);
        let result = loop {
            if download.leaves == Some(pieces) {
                break Ok(false);
            }
            match stream.next().await {
                None => break Ok(true),
                Some(Err(error)) => break Err(error),
                Some(Ok(piece)) => {
                    // It is held until it has been sent.
                    tokio::time::sleep(download.pause).await;
                    read.extend_from_slice(&piece);
                    pieces += 1;
                }
            }
        };
        drop(stream);
        if !self.history.lock().knows(&read, range.start, size) {
            self.report(format!("a reader was given bytes of no image: {download:?}"));
        }
        let whole = read.len() as u64 == range.end - range.start;
        match result {
            Ok(true) if !whole => {
                self.report(format!("a reader was given too little and no error: {download:?}"));
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn copy(
        &self,
        daemon: &Daemon,
        from: Name,
        to: Name,
        mode: Mode,
    ) -> Result<()> {
        let (source, target) = (store(daemon, from)?, store(daemon, to)?);
        let nth = self.number.fetch_add(1, Ordering::SeqCst);
        let make = self.history.lock().makes(to, None);
        let mut put = order(to, format!("copy-{nth}"));
        let jobs = &daemon.shared.jobs;
        let job = jobs.begin("copy", &put.request, target.name(), to.id, None);
        put.cancel = job.cancelled();
        put.job = Some(job);
        let at = place(NAMES[from.store], from.id);
        let task = daemon.shared.tasks.spawn(target.copy(put, source, at, mode));
        let result: Result<Receipt> = joined(task).await;
        self.history.lock().made(make, &result);
        if mode == Mode::Copy && result.as_ref().is_ok_and(|receipt| receipt.checksum.is_none()) {
            self.report(format!("a copy of mode=copy was answered without digests: {to:?}"));
        }
        result.map(drop)
    }

    pub(super) async fn delete(&self, daemon: &Daemon, name: Name) -> Result<()> {
        let delete = self.history.lock().deletes(name);
        let deleted = async {
            let store = store(daemon, name)?;
            let at = store.driver()?.locate(&name.id.parse().unwrap()).await?;
            store.delete(&at, "delete").await
        };
        let result = deleted.await;
        self.history.lock().deleted(delete, &result);
        result
    }

    /// Cancels one of the jobs that run.
    pub(super) fn cancel(&self, daemon: &Daemon) {
        let jobs = daemon.shared.jobs.list();
        let running: Vec<_> = jobs.iter().filter(|job| !job.state.over()).collect();
        let nth = self.number.fetch_add(1, Ordering::SeqCst);
        if !running.is_empty() {
            let job = Random::of(self.schedule.seed.wrapping_add(2), nth).pick(&running);
            // It may just have ended.
            let _over = daemon.shared.jobs.cancel(&job.id);
        }
    }
}

/// Sends a body in pieces, with pauses. A piece's memory is held while its bytes come.
async fn send(
    daemon: &Daemon,
    upload: &Upload,
    body: Bytes,
    frames: &mpsc::Sender<Frame>,
) -> Result<()> {
    let most = if upload.known { upload.size.div_ceil(PAGE).clamp(1, 4) } else { 4 };
    let share = Share::Put(NAMES[upload.name.store].into());
    let window = daemon.shared.memory.window(share, PAGE, most);
    let mut rest = &body[..];
    while !rest.is_empty() {
        let mut buffer = window.buffer((body.len() - rest.len()) as u64, rest.len()).await?;
        tokio::time::sleep(upload.pause).await;
        let taken = buffer.push(rest);
        rest = &rest[taken..];
        Frame::Data(buffer.freeze()).send(frames).await?;
    }
    Ok(())
}

pub(super) fn bytes(random: &mut Random, size: usize) -> Bytes {
    let words = std::iter::repeat_with(|| random.next().to_le_bytes()).flatten();
    words.take(size).collect::<Vec<_>>().into()
}
