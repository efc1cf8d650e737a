//! A context of libiscsi, and the commands that it has. All calls of C are here.
//!
//! C is given two things of a command: its memory, and where to note its status. Both belong to its
//! flight, which ends when the status is there; or with the context, after which C has nothing any more.

use std::{
    cell::Cell,
    ffi::{CStr, CString, c_char, c_int, c_void},
    hash::{BuildHasher as _, RandomState},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    ptr::NonNull,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::sockopt::set_tcp_cork,
};

use crate::{
    command::{Command, What},
    error::{Error, Result, Sense},
    sys,
};

/// Where C notes how something has ended.
type Mark = Cell<Option<c_int>>;

/// Something has not ended in time.
pub(crate) struct TooLate;

/// How a command has ended.
pub(crate) enum Outcome {
    /// Done; so many bytes are missing of those that there is room for.
    Good(usize),
    /// CHECK CONDITION
    Check(Sense),
    /// Another status.
    Status(c_int),
}

/// Context and connection; the last thing that C hears of it is its destruction.
struct Raw(NonNull<sys::iscsi_context>);

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: made by `iscsi_create_context`, and destroyed once. Marks and memory of everything that
        // is in flight still live: they come after this in `Context`.
        unsafe { sys::iscsi_destroy_context(self.0.as_ptr()) };
    }
}

/// C's part of a command.
struct Task(NonNull<sys::scsi_task>);

impl Drop for Task {
    fn drop(&mut self) {
        // SAFETY: made by C for this command and freed once, when its context is done with it.
        unsafe { sys::scsi_free_scsi_task(self.0.as_ptr()) };
    }
}

struct Flight {
    task: Task,
    command: Command,
    mark: Rc<Mark>,
}

/// A context. It stays on one thread: what it holds can be sent to no other.
pub(crate) struct Context {
    // In this order: what C has must outlive it.
    raw: Raw,
    flights: Vec<Flight>,
    /// What failed before C has sent all of it.
    unsent: Vec<(Task, Bytes)>,
    /// Of connection, login and logout: C may call these more than once.
    marks: Vec<Rc<Mark>>,
    lun: c_int,
    /// Bytes of a block, once that is known.
    pub(crate) block: u32,
}

/// C's report that something has ended. It may be called in any of C's functions, by this thread.
///
/// # Safety
/// `mark` is a `Mark` that lives.
unsafe extern "C" fn ended(
    _context: *mut sys::iscsi_context,
    status: c_int,
    _data: *mut c_void,
    mark: *mut c_void,
) {
    // SAFETY: as the caller says; it is only ever shared, and on this thread.
    let mark = unsafe { &*mark.cast_const().cast::<Mark>() };
    mark.set(Some(status));
}

const CALL: sys::iscsi_command_cb = Some(ended);

/// A mark as C takes it.
fn as_arg(mark: &Rc<Mark>) -> *mut c_void {
    Rc::as_ptr(mark).cast_mut().cast()
}

/// Text for C, which would cut what is too long.
fn c(what: &str, text: &str) -> Result<CString> {
    let made = CString::new(text).ok().filter(|text| text.count_bytes() <= sys::MAX_STRING_SIZE);
    made.ok_or_else(|| {
        Error::Invalid(format!("{what}: it has more than 255 bytes, or a zero byte"))
    })
}

/// A copy of C's text.
///
/// # Safety
/// `text` is NULL or ends in NUL, and lives for the call.
unsafe fn owned(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not NULL, and the caller vouches for the rest.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

impl Context {
    /// A context that is not connected.
    pub(crate) fn new(
        initiator: &str,
        iqn: &str,
        lun: u16,
        chap: Option<(&str, &str)>,
    ) -> Result<Self> {
        let initiator = c("the initiator's name", initiator)?;
        let iqn = c("the target's name", iqn)?;
        if initiator.is_empty() || iqn.is_empty() {
            return Err(Error::Invalid("initiator and target need names".to_owned()));
        }
        // SAFETY: the name is valid for the call, and C copies it.
        let raw = unsafe { sys::iscsi_create_context(initiator.as_ptr()) };
        let raw = Raw(NonNull::new(raw).ok_or_else(|| Error::lost("out of memory"))?);
        let this = Self {
            raw,
            flights: Vec::new(),
            unsent: Vec::new(),
            marks: Vec::new(),
            lun: c_int::from(lun),
            block: 512,
        };
        let raw = this.raw();
        // SAFETY: the context is this thread's alone.
        unsafe { sys::iscsi_set_log_level(raw, 0) };
        // SAFETY: as above.
        unsafe { sys::iscsi_set_noautoreconnect(raw, 1) };
        // A target ends an older session of the same name and number: no two are the same. C's own
        // numbers come from a generator that others may have seeded.
        let [a, b, c0, d, e, ..] = RandomState::new().hash_one(0).to_ne_bytes();
        let (number, qualifier) =
            (u32::from_be_bytes([0, a, b, c0]), u32::from_be_bytes([0, 0, d, e]));
        // SAFETY: as above.
        unsafe { sys::iscsi_set_isid_random(raw, number, qualifier) };
        // SAFETY: as above.
        unsafe { sys::iscsi_set_session_type(raw, sys::ISCSI_SESSION_NORMAL) };
        // SAFETY: as above; C copies the name.
        unsafe { sys::iscsi_set_targetname(raw, iqn.as_ptr()) };
        if let Some((user, password)) = chap {
            let (user, password) = (c("the CHAP user", user)?, c("the CHAP password", password)?);
            // SAFETY: as above; C copies both.
            unsafe { sys::iscsi_set_initiator_username_pwd(raw, user.as_ptr(), password.as_ptr()) };
        }
        Ok(this)
    }

    fn raw(&self) -> *mut sys::iscsi_context {
        self.raw.0.as_ptr()
    }

    /// What C says of its last failure.
    pub(crate) fn complaint(&self) -> String {
        // SAFETY: the context is this thread's alone.
        let text = unsafe { sys::iscsi_get_error(self.raw()) };
        // SAFETY: C's own string, which changes only in its next call.
        let text = unsafe { owned(text) };
        let text = text.trim();
        if text.is_empty() { "the connection is closed".to_owned() } else { text.to_owned() }
    }

    /// That the connection is lost, and why.
    pub(crate) fn lost(&self) -> Error {
        let why = self.complaint();
        // What it said last may be of a command, long ago.
        let told = if why.starts_with("SENSE KEY") { "the connection was lost" } else { &why };
        Error::lost(told)
    }

    /// Where the target says that it has moved to.
    pub(crate) fn moved_to(&self) -> String {
        // SAFETY: the context is this thread's alone.
        let address = unsafe { sys::iscsi_get_target_address(self.raw()) };
        // SAFETY: C's own string, which changes only in its next call.
        unsafe { owned(address) }
    }

    /// Begins something whose end C notes in a mark, and waits for its status. `None` is that the
    /// connection was lost.
    fn wait(
        &mut self,
        until: Instant,
        start: impl FnOnce(*mut sys::iscsi_context, *mut c_void) -> c_int,
    ) -> Result<Option<c_int>, TooLate> {
        let mark = Rc::new(Mark::default());
        self.marks.push(Rc::clone(&mark));
        if start(self.raw(), as_arg(&mark)) != 0 {
            return Ok(None);
        }
        loop {
            if Instant::now() >= until {
                return Err(TooLate);
            }
            let alive = self.turn(None, until).is_ok();
            if mark.get().is_some() || !alive {
                return Ok(mark.get());
            }
        }
    }

    /// Connects to `address:port`.
    pub(crate) fn connect(
        &mut self,
        portal: &str,
        until: Instant,
    ) -> Result<Option<c_int>, TooLate> {
        let Ok(portal) = c("the portal", portal) else { return Ok(None) };
        self.wait(until, |raw, arg| {
            // SAFETY: the portal is valid for the call; the mark lives as long as the context.
            unsafe { sys::iscsi_connect_async(raw, portal.as_ptr(), CALL, arg) }
        })
    }

    /// Logs in.
    pub(crate) fn login(&mut self, until: Instant) -> Result<Option<c_int>, TooLate> {
        self.wait(until, |raw, arg| {
            // SAFETY: the mark lives as long as the context.
            unsafe { sys::iscsi_login_async(raw, CALL, arg) }
        })
    }

    /// Logs out.
    pub(crate) fn logout(&mut self, until: Instant) -> Result<Option<c_int>, TooLate> {
        self.wait(until, |raw, arg| {
            // SAFETY: the mark lives as long as the context.
            unsafe { sys::iscsi_logout_async(raw, CALL, arg) }
        })
    }

    /// Waits for the connection, or for `wake` if it is given, until then at most; has C send and receive.
    /// Tells whether it was woken.
    ///
    /// # Errors
    /// The connection is lost.
    pub(crate) fn turn(&mut self, wake: Option<&OwnedFd>, until: Instant) -> Result<bool> {
        let lost = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL | PollFlags::RDHUP;
        // SAFETY: the context is this thread's alone.
        let fd = unsafe { sys::iscsi_get_fd(self.raw()) };
        // SAFETY: as above.
        let wanted = unsafe { sys::iscsi_which_events(self.raw()) };
        if fd < 0 {
            return Err(self.lost());
        }
        // SAFETY: it is open, for C closes it only in calls, of which there are none meanwhile.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let wanted = u16::try_from(wanted).map_or(PollFlags::IN, PollFlags::from_bits_retain);
        // Without anything to wake it, the connection stands there twice, and wakes it by nothing.
        let (wake, woken) =
            wake.map_or((fd, PollFlags::empty()), |wake| (wake.as_fd(), PollFlags::IN));
        let mut fds = [
            PollFd::from_borrowed_fd(fd, wanted | PollFlags::RDHUP),
            PollFd::from_borrowed_fd(wake, woken),
        ];
        let left = until.saturating_duration_since(Instant::now());
        // Rounded up, so that it is not woken a moment too early.
        let left = Timespec::try_from(left + Duration::from_millis(1)).ok();
        let polled = poll(&mut fds, left.as_ref());
        let [seen, woken] = fds.map(|fd| fd.revents());
        match polled {
            Ok(0) | Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return Ok(false),
            Err(errno) => return Err(Error::lost(errno.to_string())),
            Ok(_) => {}
        }
        if !seen.is_empty() {
            // C sends each of its small messages, a few KiB, by two calls: they are to leave together. That
            // it cannot be had costs time, and nothing else.
            let sends = seen.contains(PollFlags::OUT) && set_tcp_cork(fd, true).is_ok();
            // What has arrived before the end still counts.
            let seen = c_int::from((seen & !PollFlags::RDHUP).bits());
            // SAFETY: the context is this thread's alone, and this is no callback.
            let said = unsafe { sys::iscsi_service(self.raw(), seen) };
            if said != 0 {
                return Err(self.lost());
            }
            if sends {
                self.push();
            }
            self.let_go();
        }
        if seen.intersects(lost) {
            return Err(Error::lost("the target has closed the connection"));
        }
        Ok(woken.contains(PollFlags::IN))
    }

    /// Lets what was sent leave.
    fn push(&self) {
        // SAFETY: the context is this thread's alone.
        let fd = unsafe { sys::iscsi_get_fd(self.raw()) };
        if fd >= 0 {
            // SAFETY: it is open, for C closes it only in calls, of which there are none meanwhile.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            // It only fails for what is no such socket, and then nothing was held back.
            let _pushed = set_tcp_cork(fd, false);
        }
    }

    /// Frees what failed and is not being sent any more.
    fn let_go(&mut self) {
        if self.unsent.is_empty() {
            return;
        }
        // SAFETY: the context is this thread's alone.
        let waiting = unsafe { sys::iscsi_out_queue_length(self.raw()) };
        // SAFETY: as above.
        let wanted = unsafe { sys::iscsi_which_events(self.raw()) };
        // The queue is without what is being sent, for which there is room to be waited.
        if waiting == 0 && wanted & c_int::from(PollFlags::OUT.bits()) == 0 {
            self.unsent.clear();
        }
    }

    /// Hands a command to C.
    ///
    /// # Errors
    /// C could not take it, and the session is to end: out of memory, or not logged in.
    pub(crate) fn submit(&mut self, mut command: Command) -> Result<()> {
        let mark = Rc::new(Mark::default());
        let task = self.start(&mut command.what, as_arg(&mark));
        let Some(task) = NonNull::new(task).map(Task) else {
            let why = Error::lost(self.complaint());
            command.end_with(&why);
            return Err(why);
        };
        let raw = task.0.as_ptr();
        let room = match &mut command.what {
            What::Inquiry(_, part) | What::Capacity(part) | What::Read(_, part) => {
                Some(part.memory())
            }
            What::Ready | What::Write(..) | What::Unmap(..) | What::Same(..) | What::Flush => None,
        };
        self.flights.push(Flight { task, command, mark });
        let added = room.is_none_or(|(memory, len)| {
            // SAFETY: the memory is `len` long and the command's alone, which C has until its flight
            // ends; nothing is sent or received before the next `turn`.
            let added = unsafe { sys::scsi_task_add_data_in_buffer(raw, length(len), memory) };
            added == 0
        });
        if added { Ok(()) } else { Err(Error::lost("out of memory")) }
    }

    fn start(&self, what: &mut What, arg: *mut c_void) -> *mut sys::scsi_task {
        let (raw, lun, block) = (self.raw(), self.lun, length(self.block));
        match what {
            // SAFETY: the mark behind `arg` lives until the flight ends. So it does in all that follow.
            What::Ready => unsafe { sys::iscsi_testunitready_task(raw, lun, CALL, arg) },
            What::Inquiry(page, part) => {
                let (page, len) = (c_int::from(*page), length(part.len()));
                // SAFETY: as above.
                unsafe { sys::iscsi_inquiry_task(raw, lun, 1, page, len, CALL, arg) }
            }
            // SAFETY: as above.
            What::Capacity(_) => unsafe { sys::iscsi_readcapacity16_task(raw, lun, CALL, arg) },
            What::Read(at, part) => {
                let len = part.len();
                // SAFETY: as above; the memory is added by the caller.
                unsafe {
                    sys::iscsi_read16_task(raw, lun, *at, len, block, 0, 0, 0, 0, 0, CALL, arg)
                }
            }
            What::Write(at, bytes) => {
                let data = bytes.as_ptr().cast_mut();
                let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                // SAFETY: as above; C only reads the bytes, which are `len` long and neither move nor
                // change until they are let go of.
                unsafe {
                    sys::iscsi_write16_task(
                        raw, lun, *at, data, len, block, 0, 0, 0, 0, 0, CALL, arg,
                    )
                }
            }
            What::Unmap(at, blocks) => {
                let mut list = [sys::unmap_list { lba: *at, num: *blocks }];
                // SAFETY: as above; C copies the list.
                unsafe { sys::iscsi_unmap_task(raw, lun, 0, 0, list.as_mut_ptr(), 1, CALL, arg) }
            }
            What::Same(at, blocks, bytes, unmap) => {
                let data = bytes.as_ptr().cast_mut();
                let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                let unmap = c_int::from(*unmap);
                // SAFETY: as for a write.
                unsafe {
                    sys::iscsi_writesame16_task(
                        raw, lun, *at, data, len, *blocks, 0, unmap, 0, 0, CALL, arg,
                    )
                }
            }
            // SAFETY: as above; no blocks are all of them.
            What::Flush => unsafe {
                sys::iscsi_synchronizecache16_task(raw, lun, 0, 0, 0, 0, CALL, arg)
            },
        }
    }

    /// The commands that have ended.
    pub(crate) fn landed(&mut self) -> Vec<(Command, Outcome)> {
        // Most turns move bytes, and end nothing.
        if self.flights.iter().all(|flight| flight.mark.get().is_none()) {
            return Vec::new();
        }
        let flights = std::mem::take(&mut self.flights);
        let (landed, flying): (Vec<_>, _) =
            flights.into_iter().partition(|flight| flight.mark.get().is_some());
        self.flights = flying;
        landed.into_iter().map(|flight| self.outcome(flight)).collect()
    }

    fn outcome(&mut self, flight: Flight) -> (Command, Outcome) {
        let Flight { task, command, mark } = flight;
        // SAFETY: C is done with the task, and only reads it if at all.
        let seen = unsafe { task.0.read() };
        let outcome = match mark.get().unwrap_or(sys::SCSI_STATUS_ERROR) {
            sys::SCSI_STATUS_GOOD | sys::SCSI_STATUS_CONDITION_MET => Outcome::Good(missing(&seen)),
            sys::SCSI_STATUS_CHECK_CONDITION => {
                Outcome::Check(sense(command.what.name(), &seen.sense))
            }
            status => Outcome::Status(status),
        };
        if let (Outcome::Check(_) | Outcome::Status(_), Some(bytes)) =
            (&outcome, command.what.sent())
        {
            self.unsent.push((task, bytes));
        }
        (command, outcome)
    }

    /// Whether nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.flights.is_empty()
    }

    /// When the first of the commands in flight is late.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.flights.iter().map(|flight| flight.command.deadline()).min()
    }

    /// The error of a command that was not answered in time.
    pub(crate) fn late(&self) -> Option<Error> {
        let now = Instant::now();
        let late = self.flights.iter().find(|flight| flight.command.deadline() <= now);
        late.map(|flight| flight.command.late())
    }

    /// Destroys it. What was in flight has not ended, and never will.
    pub(crate) fn end(self) -> Vec<Command> {
        let Self { raw, flights, .. } = self;
        drop(raw);
        flights.into_iter().map(|flight| flight.command).collect()
    }
}

/// A length or number as C takes it. What is longer than C can say is never asked for.
fn length(len: u32) -> c_int {
    c_int::try_from(len).unwrap_or(c_int::MAX)
}

/// How many bytes fewer than asked for there were. More are as wrong as all of them missing.
fn missing(task: &sys::scsi_task) -> usize {
    match task.residual_status {
        sys::SCSI_RESIDUAL_NO_RESIDUAL => 0,
        sys::SCSI_RESIDUAL_UNDERFLOW => task.residual,
        _ => usize::MAX,
    }
}

fn sense(what: &'static str, sense: &sys::scsi_sense) -> Sense {
    let (key, ascq) = (sense.key, sense.ascq);
    // SAFETY: it looks into a table.
    let kind = unsafe { sys::scsi_sense_key_str(c_int::try_from(key).unwrap_or(0)) };
    // SAFETY: as above.
    let more = unsafe { sys::scsi_sense_ascq_str(ascq) };
    // SAFETY: both are constants of C's.
    let [kind, more] = [kind, more].map(|text| unsafe { owned(text) });
    let text = format!("{kind}, {more}").to_lowercase().replace('_', " ");
    Sense { what, key, ascq: u32::try_from(ascq).unwrap_or(0), text }
}
