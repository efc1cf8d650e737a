"""Where the bytes of an upload come from.

# Decisions
* Chose: read 256 KiB at a time, and send that as it is. Because: Glance looks at the format of
  every read in a dozen ways, which costs more than all else if reads are small; and a WSGI body
  joins a read out of the caller's chunks, in time that grows with the square of its size. CPU
  seconds a GiB of both, for chunks of 4, 16 and 64 KiB: 0.87, 0.71, 0.63 with reads of 64 KiB;
  1.19, 0.47, 0.27 with 256 KiB; 3.44, 2.23, 1.26 with 1 MiB.
* Chose: 64 KiB at first and from slow sources. Because: a WSGI body waits until it has all that it
  is asked for, and the daemon gives up an upload that is silent for a minute.
* Chose: only plain files of this interpreter's own `open` go by descriptor. Because: other objects
  have a `fileno` too that leads to other bytes, as in gzip. Instead of: asking for `fileno`.
* Chose: only no bytes are the end; None is waited for, and all else is an error. Because: a source
  that does not block answers None while it has nothing, one that is read as text answers "" at once
  for an empty file. Instead of: what counts as false is the end, and half an image is stored.
"""

from __future__ import annotations

import array
import contextlib
import io
import mmap
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any, Protocol, TypeAlias

from . import wire
from .errors import Mismatch

# One read of the source.
READ = 256 << 10
# The first, and those after one that took longer than SLOW seconds.
SMALL = 64 << 10
SLOW = 1.0
# One send of what came in smaller pieces.
SEND = 1 << 20
# What is at least that long is sent as it is.
LARGE = 256 << 10
# Seconds that bytes wait for more. The daemon gives up an upload that is silent for a minute, and a
# slow caller may need longer for what one send takes.
LATEST = 5.0
# How often a source is asked again that has nothing although its descriptor is ready.
AGAIN = 500


class Readable(Protocol):
    """What can be read: a file, a pipe, a `Body`, or an object that has nothing but `read`."""

    def read(self, size: int, /) -> Any:
        """Some bytes, about `size`; none at the end; None while there are none yet."""


#: Called with every piece of an image, for progress or a digest of the caller's own.
Watch: TypeAlias = Callable[[bytes], object]
#: Bytes in memory.
Buffer: TypeAlias = bytes | bytearray | memoryview | mmap.mmap | array.array  # type: ignore[type-arg]


def check(source: Any) -> None:
    """Raise TypeError for what can be no image, before anybody is asked to store it."""
    if isinstance(source, str):
        raise TypeError("an image is bytes, not str")
    if isinstance(source, os.PathLike):
        raise TypeError(f"an image is bytes or an open file: open({str(source)!r}, 'rb')")
    if isinstance(source, (Mapping, Set)):
        raise TypeError(f"an image is bytes in their order, not {type(source).__name__}")
    if not (_is_buffer(source) or hasattr(source, "read") or isinstance(source, Iterable)):
        raise TypeError(
            f"an image is bytes, a file or an iterable of bytes, not {type(source).__name__}"
        )


def _is_buffer(source: Any) -> bool:
    try:
        memoryview(source)
    except TypeError:
        return False
    return True


def _part(part: Any) -> memoryview:
    """A part of an image, byte by byte; a source that gives anything else is at fault."""
    try:
        view = memoryview(part)
    except TypeError:
        hint = ": open the file in binary mode" if isinstance(part, str) else ""
        raise TypeError(f"an image is bytes, not {type(part).__name__}{hint}") from None
    # Of other buffers `len` tells the items, which may be larger than a byte.
    with contextlib.suppress(TypeError, ValueError):
        return view.cast("B")
    # Not in one piece, or of items that only its maker knows.
    return memoryview(view.tobytes())


def _read(source: Any, most: int) -> Any:
    """What a source reads, once it has something.

    None is what a source that does not block answers while it has nothing: not the end.
    """
    asked = 0
    while (part := source.read(most)) is None:
        try:
            number = source.fileno()
        except (AttributeError, OSError, ValueError):
            number = None
        if number is None or asked > AGAIN:
            raise BlockingIOError(
                "the source has nothing now, and no descriptor that tells when it has"
            )
        wire.wait(number, writing=False, timeout=None)
        if asked:
            # Its descriptor was ready, and yet it gave nothing.
            time.sleep(0.01)
        asked += 1
    return part


def _parts(source: Any) -> Iterator[memoryview]:
    if hasattr(source, "read"):
        most = SMALL
        while True:
            since = time.monotonic()
            part = _part(_read(source, most))
            if not len(part):
                return
            most = READ if time.monotonic() - since < SLOW else SMALL
            yield part
            # A buffer that its source uses again cannot change its length while this is there.
            part.release()
    elif _is_buffer(source):
        view = _part(source)
        for at in range(0, len(view), SEND):
            yield view[at : at + SEND]
    else:
        for item in source:
            part = _part(item)
            yield part
            part.release()


def pieces(source: Any, size: int | None, watch: Watch | None) -> Iterator[memoryview]:
    """All bytes of a source, in pieces to be sent before the next is asked for.

    `watch` sees every byte. Raises Mismatch if there are not `size` of them.
    """
    buffer = bytearray(SEND)
    view = memoryview(buffer)
    filled = total = 0
    sent = time.monotonic()
    for part in _parts(source):
        count = len(part)
        total += count
        if size is not None and total > size:
            raise Mismatch(f"the image is longer than was said: said={size}")
        if watch is not None:
            whole = part.obj
            watch(whole if type(whole) is bytes and len(whole) == count else bytes(part))
        if count > SEND - filled and filled:
            yield view[:filled]
            filled, sent = 0, time.monotonic()
        if count >= LARGE and not filled:
            yield part
        elif count:
            view[filled : filled + count] = part
            filled += count
        if filled and time.monotonic() - sent > LATEST:
            yield view[:filled]
            filled = 0
        if not filled:
            sent = time.monotonic()
    if size is not None and total < size:
        raise Mismatch(f"the image is shorter than was said: came={total} said={size}")
    if filled:
        yield view[:filled]


class Descriptor:
    """A file of its own for the daemon, at the place where the caller's file stands."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        """Take over `fd`, from which `size` bytes are to be read."""
        self.fd = fd
        self.offset = offset
        self.size = size

    def close(self) -> None:
        """Close it here; the daemon has its own."""
        os.close(self.fd)


def _is_plain(source: Any) -> bool:
    if type(source) in (io.BufferedReader, io.BufferedRandom):
        source = source.raw
    return type(source) is io.FileIO and not source.closed and source.readable()


def descriptor(source: Any, size: int | None) -> Descriptor | None:
    """A descriptor of the source's bytes; None unless it is certain to be the same ones."""
    if not _is_plain(source):
        return None
    try:
        if type(source) is io.BufferedRandom:
            source.flush()
        found = os.fstat(source.fileno())
        offset = source.tell()
        left = found.st_size - offset
        # In /proc and its like, files have no length and yet bytes.
        if not stat.S_ISREG(found.st_mode) or left <= 0 or size not in (None, left):
            return None
        # Opened anew, for an offset of its own. A copy would share the caller's, which stands
        # further on than the caller has read.
        fd = os.open(f"/proc/self/fd/{source.fileno()}", os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        same = os.fstat(fd)
        if (same.st_dev, same.st_ino) != (found.st_dev, found.st_ino):
            os.close(fd)
            return None
        os.lseek(fd, offset, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return Descriptor(fd, offset, left)


#: Bytes, a file, anything with `read`, or an iterable of bytes.
Source: TypeAlias = Buffer | Readable | Iterable[Buffer] | Descriptor
