//! Bytes of a Unix socket and the descriptors that come with them, into memory that nobody has cleared.

use std::{
    io,
    mem::zeroed,
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

use tokio::io::ReadBuf;

/// As many descriptors as Linux sends with one message.
const DESCRIPTORS: usize = 253;

/// Bytes of the room for them: a head and the descriptors, in words.
const CONTROL: usize = size_of::<libc::cmsghdr>() + DESCRIPTORS * size_of::<RawFd>();

/// What came with bytes.
#[derive(Debug)]
pub struct Came {
    /// In the order in which they were sent.
    pub descriptors: Vec<OwnedFd>,
    /// Whether there were more: this process has as many open files as it may have.
    pub lost: bool,
}

/// Receives up to `most` bytes of a Unix socket into the rest of `buf`, and the descriptors that come
/// with them, which close when another program is executed. No bytes are the end.
///
/// Implements: `recvmsg` with `MSG_CMSG_CLOEXEC`
///
/// # Errors
/// Those of `recvmsg`; where the socket does not block and has nothing, `WouldBlock`.
pub fn receive(socket: impl AsFd, buf: &mut ReadBuf<'_>, most: usize) -> io::Result<Came> {
    // Words, so that the heads in it are aligned.
    let mut control = [0_u64; CONTROL.div_ceil(size_of::<u64>())];
    let most = most.min(buf.remaining());
    // SAFETY: nothing but the call below writes to it, which writes bytes and never makes them uninitialised.
    let room = unsafe { buf.unfilled_mut() };
    let mut into = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: most };
    // SAFETY: it has pointers and integers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut into;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the socket is borrowed, so it is open; `message` leads to `room`, which has `most` bytes, and to
    // `control` with its size, and all live until the call is over.
    let got = unsafe {
        libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC)
    };
    let Ok(bytes) = usize::try_from(got) else { return Err(io::Error::last_os_error()) };
    let mut descriptors = Vec::new();
    // SAFETY: `message` is as the call left it, which wrote whole heads into `control`.
    let mut head = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !head.is_null() {
        // SAFETY: it is a head within `control`, aligned and written by the call.
        let told = unsafe { *head };
        if (told.cmsg_level, told.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: the data of a head, within `control`, follows it.
            let data = unsafe { libc::CMSG_DATA(head) }.cast::<RawFd>();
            // SAFETY: this is arithmetic alone.
            let empty = unsafe { libc::CMSG_LEN(0) };
            let count = (told.cmsg_len - empty as usize) / size_of::<RawFd>();
            for number in 0..count {
                // SAFETY: so many descriptors were written there; they need not be aligned.
                let descriptor = unsafe { data.wrapping_add(number).read_unaligned() };
                // SAFETY: the call opened it for this process, and nobody else knows of it.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(descriptor) });
            }
        }
        // SAFETY: `head` is one of `message`, which is as the call left it.
        head = unsafe { libc::CMSG_NXTHDR(&raw const message, head) };
    }
    // SAFETY: the call has written so many bytes, at most `most`, into what was unfilled.
    unsafe { buf.assume_init(bytes) };
    buf.advance(bytes);
    Ok(Came { descriptors, lost: message.msg_flags & libc::MSG_CTRUNC != 0 })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{IoSlice, Read as _, Write as _},
        mem::MaybeUninit,
        os::unix::net::UnixStream,
    };

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    use super::*;

    fn got(socket: &UnixStream, room: usize, most: usize) -> io::Result<(Vec<u8>, Came)> {
        let mut room = vec![MaybeUninit::uninit(); room];
        let mut buf = ReadBuf::uninit(&mut room);
        let came = receive(socket, &mut buf, most)?;
        assert_eq!(buf.filled().len(), buf.initialized().len());
        Ok((buf.filled().to_vec(), came))
    }

    fn send(socket: &UnixStream, bytes: &[u8], descriptors: &[&UnixStream]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<_> = descriptors.iter().map(|one| one.as_fd()).collect();
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        }
        let sent = sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::empty());
        assert_eq!(sent.unwrap(), bytes.len());
    }

    #[test]
    fn no_more_is_read_than_there_is_room_and_than_was_asked_for() {
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(b"abcdefgh").unwrap();
        for (room, most, expected) in [(3, 9, "abc"), (9, 2, "de"), (9, 9, "fgh")] {
            let (bytes, came) = got(&there, room, most).unwrap();
            assert_eq!(bytes, expected.as_bytes());
            assert!(came.descriptors.is_empty() && !came.lost);
        }
        there.set_nonblocking(true).unwrap();
        let error = got(&there, 1, 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(here);
        assert_eq!(got(&there, 1, 1).unwrap().0, b"");
    }

    #[test]
    fn what_was_filled_before_stays() {
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(b"new").unwrap();
        let mut room = [MaybeUninit::uninit(); 8];
        let mut buf = ReadBuf::uninit(&mut room);
        buf.put_slice(b"old");
        receive(&there, &mut buf, 8).unwrap();
        assert_eq!(buf.filled(), b"oldnew");
    }

    #[test]
    fn descriptors_come_with_the_bytes_they_were_sent_with_and_are_open() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut mine, theirs) = UnixStream::pair().unwrap();
        for count in [1, 2, DESCRIPTORS] {
            send(&here, b"x", &vec![&theirs; count]);
            send(&here, b"y", &[]);
            let (bytes, came) = got(&there, 8, 8).unwrap();
            assert_eq!((bytes.as_slice(), came.descriptors.len()), (&b"x"[..], count));
            assert!(!came.lost);
            for descriptor in came.descriptors {
                let flags = rustix::io::fcntl_getfd(&descriptor).unwrap();
                assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
                UnixStream::from(descriptor).write_all(b"z").unwrap();
                mine.read_exact(&mut [0]).unwrap();
            }
            assert_eq!(got(&there, 8, 8).unwrap().0, b"y");
        }
    }
}
