"""Images as extents: what they hold, and nothing of their holes, as they come from the daemon.

The body is records, each a head of two unsigned numbers of 64 bits, an offset in the image and a
length, and so many bytes. What lies between records reads as zeros. The last one has no bytes, and
the offset at which what was asked for ends: a body without it is not whole.

Through memory that is shared with the daemon the records come without their bytes. A third number
says where in that memory they are, within a slot. They are given back, by its number in a pipe,
when they have been read. The last record comes when all have been given back.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct

from .errors import Internal
from .wire import READ, Connection, Head, NotPassed

#: The media types of such bodies.
MEDIA_TYPE = "application/vnd.imaged.extents"
THROUGH_MEMORY = "application/vnd.imaged.memory"
# Bytes of a slot.
SLOT = 4 << 20
# What holes are read from. A piece of a whole hole is this very object, and costs no copy.
_ZEROS = bytes(READ)


def zeros(count: int) -> bytes:
    """So many zeros, or as many as a piece has."""
    return _ZEROS if count >= READ else _ZEROS[:count]


def are_in(head: Head) -> bool:
    """Whether extents follow this head."""
    return head.headers.get("content-type") in (MEDIA_TYPE, THROUGH_MEMORY)


def begin(connection: Connection, head: Head, start: int, end: int) -> Extents:
    """Begin to read what follows this head and holds the bytes from `start` to `end`."""
    through = head.headers.get("content-type") == THROUGH_MEMORY
    return (ThroughMemory if through else Extents)(connection, start, end)


class Extents:
    """The bytes of an image, or of a part of it, that come as extents."""

    _HEAD = struct.Struct(">QQ")

    def __init__(self, connection: Connection, start: int, end: int) -> None:
        """Begin to read what holds the bytes from `start` to `end`."""
        self._connection = connection
        self._at, self._end = start, end
        # Bytes of the hole, and then of the record, that come next.
        self._hole = self._left = 0
        #: Whether the last record has been read, and there is no hole before it any more.
        self.over = False
        self._ended = False
        if start == end:
            self._look()

    def read(self, most: int) -> bytes:
        """Some bytes, `most` at most; none at the end, and only there.

        When the last of them are given, the end has been seen.
        """
        if not (self._hole or self._left or self._ended):
            self._look()
        if self._hole:
            piece = zeros(min(most, self._hole))
            self._hole -= len(piece)
        elif self._left:
            piece = self._data(min(most, self._left))
            self._left -= len(piece)
            if not self._left:
                self._record_ends()
        else:
            piece = b""
        self._at += len(piece)
        if self._at == self._end and not self._ended:
            self._look()
        self.over = self._ended and not self._hole
        return piece

    def _look(self) -> None:
        """Read the next head."""
        head = b""
        while len(head) < self._HEAD.size:
            head += self._some(self._HEAD.size - len(head))
        offset, count, *place = self._HEAD.unpack(head)
        if offset < self._at or offset + count > self._end or not (count or offset == self._end):
            raise Internal(
                f"the answer has a record where none can be: offset={offset} length={count} "
                f"at={self._at} end={self._end}"
            )
        self._hole, self._left = offset - self._at, count
        if count:
            self._record_begins(count, *place)
        else:
            if self._connection.read_chunked():
                raise Internal("the answer goes on after its last record")
            self._ended = True
        self.over = self._ended and not self._hole

    def _record_begins(self, count: int) -> None:
        """Make ready to read so many bytes."""

    def _data(self, most: int) -> bytes:
        """Some bytes of the record, `most` at most."""
        return self._some(most)

    def _record_ends(self) -> None:
        """All its bytes have been read."""

    def close(self) -> None:
        """Let go of what was needed."""

    def _some(self, most: int) -> bytes:
        piece = self._connection.read_chunked(most)
        if not piece:
            raise Internal("the answer ends before its last record")
        return piece


class ThroughMemory(Extents):
    """The same, whose bytes come through memory."""

    _HEAD = struct.Struct(">QQQ")

    def __init__(self, connection: Connection, start: int, end: int) -> None:
        """Begin to read what holds the bytes from `start` to `end`."""
        self._at_memory = 0
        memory, self._returned = connection.descriptors(2)
        try:
            self._memory = _mapped(memory)
        except BaseException:
            os.close(self._returned)
            raise
        finally:
            os.close(memory)
        try:
            super().__init__(connection, start, end)
        except BaseException:
            self.close()
            raise

    def _record_begins(self, count: int, at: int = 0) -> None:
        if at % SLOT + count > SLOT or at + count > len(self._memory):
            raise Internal(f"the answer has a record that is in no slot: at={at} length={count}")
        self._at_memory = at

    def _data(self, most: int) -> bytes:
        piece = self._memory[self._at_memory : self._at_memory + most]
        self._at_memory += len(piece)
        return piece

    def _record_ends(self) -> None:
        # A daemon that does not hear of it sends no last record.
        with contextlib.suppress(OSError):
            os.write(self._returned, bytes([(self._at_memory - 1) // SLOT]))

    def close(self) -> None:
        """Let go of the memory."""
        if self._returned >= 0:
            os.close(self._returned)
            self._returned = -1
            self._memory.close()


def _mapped(memory: int) -> mmap.mmap:
    try:
        if not fcntl.fcntl(memory, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            raise NotPassed("the answer's memory could be taken away under its reader")
        return mmap.mmap(memory, os.fstat(memory).st_size, prot=mmap.PROT_READ)
    except OSError as error:
        raise NotPassed(f"the answer's memory is of no use: {error}") from error
