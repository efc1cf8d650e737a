//! The thread of a session: it alone has the context, from before the connection to after its end.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc, OnceLock,
        mpsc::{Receiver, Sender, TryRecvError},
    },
    time::{Duration, Instant},
};

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::oneshot;

use crate::{
    command::{Command, What, after},
    connect::{Settings, Target, reach, worst},
    context::{Context, Outcome},
    error::{Error, Result, Sense},
    pages::{self, Capacity, Identity, Limits},
    room::Room,
    sys,
};

/// How often a command is sent again because the disk had something else to say first.
const ATTENTIONS: u32 = 16;

/// How often because the disk has given it up.
const ABORTS: u32 = 4;

/// How long a disk that is busy, or not ready yet, is left alone.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a target may take to let us go.
const FAREWELL: Duration = Duration::from_secs(5);

/// Longest answer to an inquiry. Old targets take one byte for its length.
const PAGE: u32 = 252;
/// The same for names, which may be many.
const NAMES: u32 = 1020;

/// What the thread is asked for.
pub(crate) enum Ask {
    Command(Command),
    /// Whether it is still the same disk, and how large it is.
    Look(oneshot::Sender<Result<Capacity>>),
    /// To log out and end, when all that was asked before is done.
    Close(Option<oneshot::Sender<Result<()>>>),
}

/// The way to the thread. Dropped, it has the thread close the session.
pub(crate) struct Asker {
    asks: Sender<Ask>,
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    wake: OwnedFd,
    /// Why the session is over, if it is.
    over: OnceLock<Error>,
}

impl Shared {
    pub(crate) fn new() -> Result<Arc<Self>> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| Error::lost(format!("no session can begin: {errno}")))?;
        Ok(Arc::new(Self { wake, over: OnceLock::new() }))
    }
}

impl Asker {
    pub(crate) fn new(asks: Sender<Ask>, shared: Arc<Shared>) -> Self {
        Self { asks, shared }
    }

    pub(crate) fn ask(&self, ask: Ask) -> Result<()> {
        self.asks.send(ask).map_err(|_gone| self.over())?;
        // It only fails when it counts so many that nobody has looked for ages.
        let _woken = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
        Ok(())
    }

    /// Why nothing is answered any more.
    pub(crate) fn over(&self) -> Error {
        let over = self.shared.over.get();
        over.map_or_else(|| Error::lost("its thread has ended"), Error::for_others)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.shared.over.get().is_some()
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        // If the thread has ended there is nothing to close.
        let _closing = self.ask(Ask::Close(None));
    }
}

/// What was found behind a portal.
pub(crate) struct Found {
    pub(crate) target: Target,
    pub(crate) identity: Identity,
    pub(crate) capacity: Capacity,
    pub(crate) limits: Limits,
}

/// All that the thread does.
pub(crate) fn run(
    targets: Vec<Target>,
    settings: &Settings,
    asks: Receiver<Ask>,
    shared: &Arc<Shared>,
    found: oneshot::Sender<Result<Found>>,
) {
    let mut errors = Vec::new();
    for target in targets {
        if found.is_closed() {
            return;
        }
        match Serving::open(target, settings, shared) {
            Ok((serving, disk)) => {
                // If nobody waits any more, `asks` says so.
                drop(found.send(Ok(disk)));
                serving.serve(asks);
                return;
            }
            Err(error) => errors.push(error),
        }
    }
    drop(found.send(Err(worst(errors))));
}

struct Serving {
    context: Context,
    shared: Arc<Shared>,
    /// What is to be sent again, and when.
    waiting: Vec<(Instant, Command)>,
    /// The pages by which the disk is known again, once they were read.
    known: Option<[Option<Vec<u8>>; 2]>,
    /// Whether it may be another disk by now.
    suspect: bool,
    lookers: Vec<oneshot::Sender<Result<Capacity>>>,
    closing: bool,
    closers: Vec<oneshot::Sender<Result<()>>>,
    patience: Duration,
}

impl Serving {
    fn open(target: Target, settings: &Settings, shared: &Arc<Shared>) -> Result<(Self, Found)> {
        let until = after(settings.connect);
        let context = reach(&target, settings, until)?;
        let mut this = Self {
            context,
            shared: Arc::clone(shared),
            waiting: Vec::new(),
            known: None,
            suspect: false,
            lookers: Vec::new(),
            closing: false,
            closers: Vec::new(),
            patience: until.saturating_duration_since(Instant::now()),
        };
        this.ask(What::Ready)?;
        let known = this.names()?;
        let limits = this.page(pages::LIMITS, PAGE)?;
        let provisioning = this.page(pages::PROVISIONING, PAGE)?;
        let capacity = this.capacity()?;
        this.context.block = capacity.block;
        let [designators, serial] = &known;
        let found = Found {
            target,
            identity: Identity::read(designators.as_deref(), serial.as_deref()),
            capacity,
            limits: Limits::read(limits.as_deref(), provisioning.as_deref()),
        };
        this.known = Some(known);
        this.patience = settings.command;
        Ok((this, found))
    }

    fn names(&mut self) -> Result<[Option<Vec<u8>>; 2]> {
        Ok([self.page(pages::DESIGNATORS, NAMES)?, self.page(pages::SERIAL, PAGE)?])
    }

    fn capacity(&mut self) -> Result<Capacity> {
        let answer = self.filled(32, What::Capacity)?;
        Capacity::read(&answer).ok_or_else(|| Error::Refused {
            what: "read capacity",
            why: "no size that a disk can have".to_owned(),
        })
    }

    /// A page, if the disk has it.
    fn page(&mut self, page: u8, len: u32) -> Result<Option<Vec<u8>>> {
        const ILLEGAL_REQUEST: u32 = 5;
        match self.filled(len, |part| What::Inquiry(page, part)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::Sense(Sense { key: ILLEGAL_REQUEST, .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The bytes that a command of our own is answered with.
    fn filled(
        &mut self,
        len: u32,
        what: impl FnOnce(crate::room::Part) -> What,
    ) -> Result<Vec<u8>> {
        let (room, parts) = Room::split(vec![0; len as usize], len);
        let part = parts.into_iter().next();
        let Some(part) = part else { return Ok(Vec::new()) };
        let filled = self.ask(what(part))?;
        let mut bytes = room.whole().unwrap_or_default();
        bytes.truncate(filled as usize);
        Ok(bytes)
    }

    /// Carries out a command of our own, and meanwhile all that is under way.
    fn ask(&mut self, what: What) -> Result<u32> {
        let (command, mut answer) = Command::new(what, self.patience, None);
        self.context.submit(command)?;
        loop {
            match answer.try_recv() {
                Ok(answered) => return answered,
                Err(oneshot::error::TryRecvError::Closed) => {
                    return Err(Error::lost("a command was forgotten"));
                }
                Err(oneshot::error::TryRecvError::Empty) => self.step()?,
            }
        }
    }

    fn serve(mut self, asks: Receiver<Ask>) {
        let ended = self.work(&asks);
        let why = match &ended {
            Ok(()) => Error::lost("it was closed"),
            Err(error) => error.clone(),
        };
        // Before anybody hears of it.
        let _first = self.shared.over.set(why.clone());
        let Self { context, waiting, mut closers, .. } = self;
        let flying = context.end();
        for command in flying.into_iter().chain(waiting.into_iter().map(|(_, command)| command)) {
            command.end_with(&why);
        }
        for ask in asks.try_iter() {
            match ask {
                Ask::Command(command) => command.end_with(&why),
                // Told by the loss of its sender.
                Ask::Look(_) => {}
                Ask::Close(closer) => closers.extend(closer),
            }
        }
        // What comes now is refused where it is sent.
        drop(asks);
        for closer in closers {
            drop(closer.send(ended.clone()));
        }
    }

    fn work(&mut self, asks: &Receiver<Ask>) -> Result<()> {
        loop {
            self.take(asks)?;
            if self.suspect {
                self.look_again()?;
            } else if self.closing && self.context.is_idle() && self.waiting.is_empty() {
                return self.log_out();
            } else {
                self.step()?;
            }
        }
    }

    fn take(&mut self, asks: &Receiver<Ask>) -> Result<()> {
        loop {
            match asks.try_recv() {
                Ok(Ask::Command(command)) if self.closing => {
                    command.end_with(&Error::lost("it was closed"));
                }
                Ok(Ask::Look(_)) if self.closing => {}
                Ok(Ask::Command(command)) if self.suspect => {
                    self.waiting.push((Instant::now(), command));
                }
                Ok(Ask::Command(command)) => self.context.submit(command)?,
                Ok(Ask::Look(looker)) => {
                    self.suspect = true;
                    self.lookers.push(looker);
                }
                Ok(Ask::Close(closer)) => {
                    self.closing = true;
                    self.closers.extend(closer);
                }
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => {
                    self.closing = true;
                    return Ok(());
                }
            }
        }
    }

    /// Whether it is still the same disk: nothing is sent to it before that is known.
    fn look_again(&mut self) -> Result<()> {
        let names = self.names()?;
        if self.known.as_ref() != Some(&names) {
            return Err(Error::lost("the target has put another disk in its place"));
        }
        self.suspect = false;
        if self.lookers.is_empty() {
            return Ok(());
        }
        let capacity = self.capacity()?;
        if capacity.block != self.context.block {
            return Err(Error::lost("the blocks of the disk have another size now"));
        }
        for looker in std::mem::take(&mut self.lookers) {
            drop(looker.send(Ok(capacity)));
        }
        Ok(())
    }

    fn log_out(&mut self) -> Result<()> {
        let patience = FAREWELL.min(self.patience);
        match self.context.logout(after(patience)) {
            Ok(Some(sys::SCSI_STATUS_GOOD)) => Ok(()),
            Ok(_) => Err(Error::lost(self.context.complaint())),
            Err(_late) => Err(Error::TimedOut { what: "logout", after: patience }),
        }
    }

    /// Sends what waits, waits for the target or for somebody to ask, and takes what has landed.
    fn step(&mut self) -> Result<()> {
        self.send_again()?;
        if let Some(late) = self.context.late() {
            return Err(late);
        }
        let turned = self.context.turn(Some(&self.shared.wake), self.next());
        if let Ok(true) = turned {
            let _count = rustix::io::read(&self.shared.wake, &mut [0; 8]);
        }
        let mut ended = turned.map(drop);
        for (command, outcome) in self.context.landed() {
            let landed = self.land(command, outcome);
            ended = ended.and(landed);
        }
        ended
    }

    /// When there is something to do even if nothing happens.
    fn next(&self) -> Instant {
        let far = after(Duration::MAX);
        let waiting = self.waiting.iter().filter(|(_, command)| self.may_go(command));
        let waiting = waiting.map(|(when, _)| *when);
        let deadlines = self.waiting.iter().map(|(_, command)| command.deadline());
        waiting.chain(deadlines).chain(self.context.deadline()).min().unwrap_or(far)
    }

    /// While it may be another disk, only our own commands go there.
    fn may_go(&self, command: &Command) -> bool {
        !self.suspect || command.is_own()
    }

    fn send_again(&mut self) -> Result<()> {
        let now = Instant::now();
        for (when, command) in std::mem::take(&mut self.waiting) {
            if command.is_late() {
                let late = command.late();
                command.end(Err(late));
            } else if when <= now && self.may_go(&command) {
                self.context.submit(command)?;
            } else {
                self.waiting.push((when, command));
            }
        }
        Ok(())
    }

    /// Answers a command that has ended, or has it sent again.
    ///
    /// # Errors
    /// The session is lost.
    fn land(&mut self, command: Command, outcome: Outcome) -> Result<()> {
        let what = command.what.name();
        let refused = |why: String| Err(Error::Refused { what, why });
        match outcome {
            Outcome::Good(missing) => {
                let filled = filled(&command, missing);
                command.end(filled);
            }
            Outcome::Check(sense) => self.check(command, sense),
            Outcome::Status(sys::SCSI_STATUS_BUSY | sys::SCSI_STATUS_TASK_SET_FULL) => {
                self.later(command);
            }
            Outcome::Status(sys::SCSI_STATUS_TASK_ABORTED) if command.again < ABORTS => {
                self.again(command);
            }
            Outcome::Status(sys::SCSI_STATUS_TASK_ABORTED) => {
                command.end(refused("it was aborted by the target".to_owned()));
            }
            Outcome::Status(sys::SCSI_STATUS_RESERVATION_CONFLICT) => {
                command.end(refused("another host has reserved the disk".to_owned()));
            }
            Outcome::Status(sys::SCSI_STATUS_CANCELLED) => {
                // It ends with the session.
                self.waiting.push((Instant::now(), command));
                return Err(self.context.lost());
            }
            Outcome::Status(_) => command.end(refused(self.context.complaint())),
        }
        Ok(())
    }

    fn check(&mut self, command: Command, sense: Sense) {
        /// Becoming ready; between two states of access.
        const SOON: [u32; 2] = [0x0401, 0x040a];
        /// Power on or reset; what the target has was changed.
        const CHANGED: [u32; 2] = [0x29, 0x3f];
        match sense.key {
            sys::SCSI_SENSE_UNIT_ATTENTION if command.again < ATTENTIONS => {
                self.suspect |= self.known.is_some() && CHANGED.contains(&(sense.ascq >> 8));
                self.again(command);
            }
            sys::SCSI_SENSE_NOT_READY if SOON.contains(&sense.ascq) => self.later(command),
            sys::SCSI_SENSE_COMMAND_ABORTED if command.again < ABORTS => self.again(command),
            _ => command.end(Err(Error::Sense(sense))),
        }
    }

    /// Every command may be sent again: it has the same effect at the same place.
    fn again(&mut self, mut command: Command) {
        command.again += 1;
        self.waiting.push((Instant::now(), command));
    }

    fn later(&mut self, command: Command) {
        self.waiting.push((Instant::now() + PAUSE, command));
    }
}

/// How much of its room a command has filled. To read or write less than was asked for is a failure, and
/// not the end of a disk; of what moves no bytes of ours, targets count differently.
fn filled(command: &Command, missing: usize) -> Result<u32> {
    let what = &command.what;
    let (whole, len) = match what {
        What::Read(_, part) => (true, part.len()),
        What::Write(..) => (true, 0),
        What::Inquiry(_, part) | What::Capacity(part) => (false, part.len()),
        What::Ready | What::Unmap(..) | What::Same(..) | What::Flush => return Ok(0),
    };
    let missing = u32::try_from(missing).ok().filter(|missing| *missing <= len);
    match missing {
        Some(missing) if missing == 0 || !whole => Ok(len - missing),
        _ => Err(Error::Refused {
            what: what.name(),
            why: "another number of bytes than was asked for".to_owned(),
        }),
    }
}
