"""One connection to the daemon: HTTP/1.1 over a unix socket, with descriptors.

# Decisions
* Chose: sockets that never block, and one place that waits. Because: under eventlet a socket has no
  green `sendmsg`, and with one place that waits the same code serves threads, uWSGI and green
  threads. Instead of: http.client, which also cannot send a descriptor beside its head.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .errors import Internal, Lost, Timeout, Unreachable

Buffer = bytes | bytearray | memoryview

# A head that is longer than that is none of ours.
LONGEST_HEAD = 64 << 10
# The most that one read asks for. Glance sends each piece on by itself: of a file in memory, pieces
# of 256 KiB cost it a fourth more CPU seconds than these, pieces of 128 KiB two thirds more. Those
# of 2 MiB cost no less, and would not fit the cache of a core.
READ = 1 << 20
# For what the system lets a socket hold: an upload then goes on while the daemon is at work.
HOLD = 1 << 20
# The most seconds that one call waits, for the system counts milliseconds in 31 bits: 23 days.
LONGEST_WAIT = 2_000_000.0
# Room for the two descriptors that an answer has at most, and for what is none of ours.
BESIDE = socket.CMSG_SPACE(4 * array.array("i").itemsize)


def wait(number: int, writing: bool, timeout: float | None) -> None:
    """Wait until the descriptor is ready; in a green thread, let the others run.

    Raises TimeoutError.
    """
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and patcher.is_monkey_patched("socket"):
        sys.modules["eventlet.hubs"].trampoline(
            number,
            read=not writing,
            write=writing,
            timeout=timeout,
            timeout_exc=TimeoutError,
        )
        return
    if timeout is not None:
        timeout = min(timeout, LONGEST_WAIT)
    poll = select.poll()
    poll.register(number, select.POLLOUT if writing else select.POLLIN)
    if not poll.poll(None if timeout is None else timeout * 1000):
        raise TimeoutError


@dataclass(frozen=True)
class Head:
    """The head of an answer; the names of headers are in lower case."""

    status: int
    headers: dict[str, str]

    def number(self, name: str, text: str | None = None) -> int:
        """The number in a header, or in a part of it; one that is not there is not 0."""
        text = self.headers.get(name, "") if text is None else text
        if not text.isdecimal():
            raise Internal(f"the answer has no number where one has to be: {name}={text!r}")
        return int(text)


class NotPassed(Internal):
    """What an answer should come with did not come, or is of no use.

    So it is where something keeps this process and the daemon apart: SELinux, AppArmor.
    """


class Connection:
    """A connection, used by one caller at a time."""

    def __init__(self, path: str, timeout: float) -> None:
        """Connect; `timeout` is in seconds, without a single byte moving."""
        self.pid = os.getpid()
        self.timeout = timeout
        #: Bytes of the current answer's body that have not been read.
        self.left = 0
        # Whether more chunks follow it.
        self._chunks = False
        self._came = bytearray()
        self._descriptors: list[int] = []
        self._keep = True
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.setblocking(False)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, HOLD)
        try:
            self._connect(path)
        except BaseException:
            self._sock.close()
            raise
        _open.add(self)

    def _connect(self, path: str) -> None:
        until = time.monotonic() + self.timeout
        while True:
            try:
                self._sock.connect(path)
                return
            except BlockingIOError as full:
                # So many are waiting to be accepted that there is no room; none to wait for either.
                if time.monotonic() > until:
                    raise Unreachable(f"the daemon accepts nobody: socket={path}") from full
                time.sleep(0.01)
            except OSError as error:
                raise Unreachable(f"no daemon answers: {error}: socket={path}") from error

    def send(self, *parts: Buffer, descriptors: Sequence[int] = ()) -> None:
        """Send all of it; the descriptors go with the first byte.

        If the daemon has left, the next read tells: it may have said why.
        """
        views = [memoryview(part).cast("B") for part in parts if len(part)]
        beside = []
        if descriptors:
            beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        while views:
            try:
                sent = self._sock.sendmsg(views, beside, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                try:
                    wait(self._sock.fileno(), True, self.timeout)
                except TimeoutError as error:
                    raise Timeout(f"the daemon took no byte for {self.timeout:g} s") from error
                continue
            except OSError:
                self._keep = False
                return
            beside = []
            while views and sent >= len(views[0]):
                sent -= len(views.pop(0))
            if views:
                views[0] = views[0][sent:]

    def _receive(self, most: int, timeout: float | None) -> bytes:
        return self._waited(lambda: self._sock.recv(most), timeout)

    def _receive_beside(self, timeout: float | None) -> bytes:
        """As `_receive`, with descriptors: they come with the first byte of a head."""
        return self._waited(self._recvmsg, timeout)

    def _recvmsg(self) -> bytes:
        came, beside, _, _ = self._sock.recvmsg(LONGEST_HEAD, BESIDE, socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in beside:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                found = array.array("i")
                found.frombytes(content[: len(content) - len(content) % found.itemsize])
                self._descriptors += found
        return came

    def _waited(self, receive: Callable[[], bytes], timeout: float | None) -> bytes:
        """What `receive` gives, once there is something; raises Lost at the end."""
        while True:
            try:
                came = receive()
            except BlockingIOError:
                wait(self._sock.fileno(), False, timeout)
                continue
            except OSError as error:
                raise Lost(f"the daemon left: {error}") from error
            if not came:
                raise Lost("the daemon left before its answer was whole")
            return came

    def descriptors(self, count: int) -> list[int]:
        """The descriptors that came with the last head; the caller's from now on.

        Raises NotPassed.
        """
        if len(self._descriptors) != count:
            raise NotPassed(
                f"the answer should have another number of descriptors: {len(self._descriptors)} "
                f"of {count}"
            )
        came, self._descriptors = self._descriptors, []
        return came

    def has_something(self) -> bool:
        """Whether an answer, or the end of the connection, has come."""
        if self._came:
            return True
        try:
            return self._sock.recv(1, socket.MSG_PEEK) is not None
        except BlockingIOError:
            return False
        except OSError:
            return True

    @property
    def silent(self) -> bool:
        """Whether not one byte of the answer has come."""
        return not self._came

    def head(self, timeout: float | None = None) -> Head:
        """The next head. After a TimeoutError it can be asked for again."""
        while (end := self._came.find(b"\r\n\r\n")) < 0:
            if len(self._came) > LONGEST_HEAD:
                raise Internal("the answer's head has no end; is this socket imaged's?")
            self._came += self._receive_beside(self.timeout if timeout is None else timeout)
        lines = self._came[:end].decode("latin-1").split("\r\n")
        del self._came[: end + 4]
        first = lines[0].split(" ", 2)
        if len(first) < 2 or not first[0].startswith("HTTP/1.") or not first[1].isdecimal():
            raise Internal("the answer is not HTTP; is this socket imaged's?")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        return Head(int(first[1]), headers)

    def begin_body(self, head: Head, method: str, *, chunked: bool = False) -> None:
        """Make ready to read the body that follows a head; `chunked`, it may come in chunks."""
        none = method == "HEAD" or head.status in (204, 304)
        told = "content-length" in head.headers
        if chunked and head.headers.get("transfer-encoding", "").lower() == "chunked":
            self._chunks = True
            self._end_by(head)
            return
        # A failure is known by its status; of anything else, no length could mean any.
        if "transfer-encoding" in head.headers or not (none or told or head.status >= 400):
            raise Internal("the answer has no length")
        self.left = head.number("content-length") if told and not none else 0
        self._end_by(head)

    def _end_by(self, head: Head) -> None:
        if head.headers.get("connection", "").lower() == "close":
            self._keep = False

    def read(self, most: int = READ) -> bytes:
        """Some bytes of the body; none at its end, and only there."""
        if not self.left:
            return b""
        most = min(most, self.left)
        if self._came:
            piece = bytes(self._came[:most])
            del self._came[:most]
        else:
            try:
                piece = self._receive(most, self.timeout)
            except TimeoutError as error:
                raise self._silence() from error
        self.left -= len(piece)
        return piece

    def read_chunked(self, most: int = READ) -> bytes:
        """Some bytes of a body that may come in chunks; none at its end, and only there."""
        if not self._chunks:
            return self.read(most)
        if not self.left:
            size = self._line().partition(b";")[0].strip()
            if not size or size.strip(b"0123456789abcdefABCDEF"):
                raise Internal(f"the answer has no chunk where one has to be: {size!r}")
            self.left = int(size, 16)
            if not self.left:
                while self._line():
                    pass
                self._chunks = False
                return b""
        piece = self.read(most)
        if not self.left and self._line():
            raise Internal("the answer has a chunk that is longer than it says")
        return piece

    def _line(self) -> bytes:
        while (end := self._came.find(b"\r\n")) < 0:
            if len(self._came) > LONGEST_HEAD:
                raise Internal("the answer has a chunk without a length")
            try:
                self._came += self._receive(LONGEST_HEAD, self.timeout)
            except TimeoutError as error:
                raise self._silence() from error
        line = bytes(self._came[:end])
        del self._came[: end + 2]
        return line

    def _silence(self) -> Timeout:
        return Timeout(f"no byte came for {self.timeout:g} s")

    @property
    def reusable(self) -> bool:
        """Whether another request may follow: this answer is over, and the process is the same."""
        over = not (self.left or self._chunks or self._came or self._descriptors)
        return self._keep and over and self.pid == os.getpid()

    def give_up(self, timeout: float) -> None:
        """Send no more, and wait until the daemon has cleaned up, which it shows by its answer."""
        with contextlib.suppress(OSError, Lost, TimeoutError):
            self._sock.shutdown(socket.SHUT_WR)
            self._receive(READ, timeout)
        self.close()

    def close(self) -> None:
        """End it at once. The daemon notices even if a child process still holds a copy."""
        _open.discard(self)
        self._keep = False
        if self.pid == os.getpid():
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._sock.close()
        while self._descriptors:
            with contextlib.suppress(OSError):
                os.close(self._descriptors.pop())


_open: weakref.WeakSet[Connection] = weakref.WeakSet()


def _forget() -> None:
    # The parent goes on with them. A copy here would keep them open after the parent has closed.
    for connection in list(_open):
        connection.close()


os.register_at_fork(after_in_child=_forget)
