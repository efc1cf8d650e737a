"""Images as extents: what they hold, and nothing of their holes, as they come from the daemon.

The body is records, each a head of two unsigned numbers of 64 bits, an offset in the image and a
length, and so many bytes. What lies between records reads as zeros. The last one has no bytes, and
the offset at which what was asked for ends: a body without it is not whole.
"""

from __future__ import annotations

import struct

from .errors import Internal
from .wire import READ, Connection, Head

#: The media type of such a body.
MEDIA_TYPE = "application/vnd.imaged.extents"
_HEAD = struct.Struct(">QQ")
# What holes are read from. A piece of a whole hole is this very object, and costs no copy.
_ZEROS = bytes(READ)


def zeros(count: int) -> bytes:
    """So many zeros, or as many as a piece has."""
    return _ZEROS if count >= READ else _ZEROS[:count]


def are_in(head: Head) -> bool:
    """Whether extents follow this head."""
    return head.headers.get("content-type") == MEDIA_TYPE


class Extents:
    """The bytes of an image, or of a part of it, that come as extents."""

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
            piece = self._some(min(most, self._left))
            self._left -= len(piece)
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
        while len(head) < _HEAD.size:
            head += self._some(_HEAD.size - len(head))
        offset, count = _HEAD.unpack(head)
        if offset < self._at or offset + count > self._end or not (count or offset == self._end):
            raise Internal(
                f"the answer has a record where none can be: offset={offset} length={count} "
                f"at={self._at} end={self._end}"
            )
        self._hole, self._left = offset - self._at, count
        if not count:
            if self._connection.read_chunked():
                raise Internal("the answer goes on after its last record")
            self._ended = True
        self.over = self._ended and not self._hole

    def _some(self, most: int) -> bytes:
        piece = self._connection.read_chunked(most)
        if not piece:
            raise Internal("the answer ends before its last record")
        return piece
