"""The bytes of an image on their way here.

# Decisions
* Chose: a plain file is read here, by the descriptor that the daemon gives. Because: through the
  socket its bytes pass one process more, which for a file in memory is half the speed. Instead of:
  one way for all stores. It has a price: a file on a mount that hangs holds its reader.
* Chose: an error stays, and a body that was closed is not at its end. Because: whoever reads on
  would be told that there is no more, and take what he has for the image. Instead of: no bytes for
  everything that is over.
* Chose: the digest is compared before the last piece is given. Because: whoever knows the length
  stops there, and would never ask for an end that says no.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from typing import Any

from . import errors, records
from .extents import Extents, are_in, begin, zeros
from .source import Watch
from .wire import READ, Connection, Head


class Body(io.RawIOBase):
    """The bytes of an image, or of a part of it, as they come: a raw file that can only be read.

    `read` and `readinto` give some of the bytes, `read()` all that are left, a loop over it pieces
    as they come. An error stays: after it no read can be taken for the end. If all of the image is
    read and a digest of it is known, the bytes have that digest, or the last read raises
    `Mismatch`: `verified` says by which.

    Holes of an image, where its store knows of them, are not sent, and are read as the same zeros.

    Dropped or closed before its end, it ends its connection, and with it the daemon's work. Where
    the daemon has a plain file, it gives a descriptor of it, and the bytes are read here.
    """

    # Of one whose constructor failed, too: it is closed as it is dropped.
    _connection: Connection | None = None
    _file: int | None = None

    def __init__(
        self,
        connection: Connection,
        head: Head,
        give_back: Callable[[Connection], None],
        *,
        verify: bool = True,
        watch: Watch | None = None,
    ) -> None:
        """Begin to read what follows `head`; `give_back` takes a connection that is done with."""
        self._give_back = give_back
        self._connection = connection
        self._failed: errors.Error | None = None
        self._at = self._end = 0
        self._version = (0, 0)
        self._extents: Extents | None = None
        # Up to where a file need not be asked for holes: behind its data, or all of a hole.
        self._data = self._hole = 0
        #: How many bytes come in all.
        self.size = connection.left
        #: How many the whole image has.
        self.total = self.size
        span, _, whole = head.headers.get("content-range", "").rpartition("/")
        if whole.isdecimal():
            self.total = int(whole)
        if head.headers.get("imaged-body") == "fd":
            self._open(connection, head, span)
        elif are_in(head):
            self._span(head, span)
            self._extents = begin(connection, head, self._at, self._end)
        #: Hexadecimal digests of the whole image by hashlib's names, where they are known.
        self.digests = records.digests(head.headers.get("repr-digest", ""))
        #: What `if_match` and `if_none_match` take; None while no digest is known.
        self.etag = head.headers.get("etag")
        #: How many bytes have been read.
        self.done = 0
        #: The algorithm by which the whole image was found to be as it should; None until then.
        self.verified: str | None = None
        self._watch = watch
        self._algo = records.strongest(self.digests) if verify and self.size == self.total else None
        self._hash = hashlib.new(self._algo, usedforsecurity=False) if self._algo else None
        if not self.size:
            self._let_go()
            self._verify()

    def _span(self, head: Head, span: str) -> None:
        self.total = head.number("imaged-size")
        self._end = self.total
        if span:
            first, _, last = span.rpartition(" ")[2].partition("-")
            self._at = head.number("content-range", first)
            self._end = head.number("content-range", last) + 1
        self.size = self._end - self._at

    def _open(self, connection: Connection, head: Head, span: str) -> None:
        self._span(head, span)
        (self._file,) = connection.descriptors(1)
        self._connection = None
        self._give_back(connection)
        self._version = _version(self._file)
        if self._version[0] != self.total:
            self._let_go()
            raise _changed()
        if os.fstat(self._file).st_blocks * 512 >= self.total:
            # All of it is data.
            self._data = self.total

    def _piece(self, most: int) -> bytes:
        """Some bytes, `most` at most; none at the end, and only there."""
        if self.closed:
            raise ValueError("this image is closed; its bytes may not have been read to their end")
        if self._failed is not None:
            raise self._failed
        if not most:
            return b""
        if self._file is None and self._connection is None:
            return b""
        try:
            piece = self._next(min(most, READ))
            if self._hash is not None:
                self._hash.update(piece)
            self.done += len(piece)
            if self.done == self.size:
                self._verify()
            if self._watch is not None:
                self._watch(piece)
            return piece
        except errors.Error as error:
            self._failed = error
            self._let_go()
            raise
        except BaseException:
            self.close()
            raise

    def _next(self, most: int) -> bytes:
        if self._file is not None:
            return self._read_file(self._file, most)
        assert self._connection is not None
        return self._read_connection(self._connection, most)

    def _verify(self) -> None:
        """Raise Mismatch if what was read is not the image."""
        if self._hash is None or self._algo is None:
            return
        found, known = self._hash.hexdigest(), self.digests[self._algo]
        self._hash = None
        if found != known:
            raise errors.Mismatch(
                f"the bytes are not those that were stored: algorithm={self._algo} known={known} "
                f"found={found}"
            )
        self.verified = self._algo

    def _read_file(self, file: int, most: int) -> bytes:
        try:
            most = min(most, self._end - self._at)
            hole = self._hole_of(file)
            piece = zeros(min(most, hole)) if hole else os.pread(file, most, self._at)
            # Before a byte is passed on: what is still like it was then has not been changed.
            same = _version(file) == self._version
        except OSError as error:
            raise errors.Unavailable(f"the image cannot be read: {error}") from error
        if not (piece and same):
            raise _changed()
        self._at += len(piece)
        if self._at >= self._end:
            self._let_go()
        return piece

    def _hole_of(self, file: int) -> int:
        """How many bytes of a hole come next, of one that is worth it."""
        if self._at >= max(self._data, self._hole):
            try:
                found = min(os.lseek(file, self._at, os.SEEK_DATA), self._end)
            except OSError as error:
                # No data up to the end, or a filesystem that cannot tell.
                found = self._end if error.errno == errno.ENXIO else self._at
            if found - self._at >= READ:
                self._hole = found
            elif found < self._end:
                with contextlib.suppress(OSError):
                    found = os.lseek(file, found, os.SEEK_HOLE)
                # Where nothing can be told, as far as one piece goes.
                self._data = max(found, self._at + READ)
            else:
                self._data = self._end
        return max(self._hole - self._at, 0)

    def _read_connection(self, connection: Connection, most: int) -> bytes:
        if self._extents is None:
            piece = connection.read(most)
            over = not connection.left
        else:
            piece = self._extents.read(most)
            over = self._extents.over
        if over:
            self._let_go()
        return piece

    def readable(self) -> bool:
        """Whether it can be read: as long as it is open."""
        if self.closed:
            raise ValueError("this image is closed")
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """Some bytes, `size` at most and a MiB; all that are left if it is negative or None.

        None are the end.
        """
        if size is None or size < 0:
            return self.readall()
        return self._piece(size)

    def readall(self) -> bytes:
        """All bytes that are left."""
        return b"".join(iter(functools.partial(self._piece, READ), b""))

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer, or a part of it; returns how many bytes. 0 are the end."""
        with memoryview(buffer) as view, view.cast("B") as room:
            # Before anything is read that would be lost.
            if room.readonly:
                raise TypeError("a buffer that cannot be written")
            piece = self._piece(len(room))
            room[: len(piece)] = piece
            return len(piece)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece = self._piece(READ)
        if not piece:
            raise StopIteration
        return piece

    def _let_go(self) -> None:
        if self._extents is not None:
            self._extents.close()
        connection, self._connection = self._connection, None
        if connection is not None:
            # Kept if its answer is over.
            self._give_back(connection)
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def close(self) -> None:
        """Stop reading."""
        self._let_go()
        super().close()


def _version(file: int) -> tuple[int, int]:
    """What differs once the bytes of a file are changed, and not if it is only removed."""
    found = os.fstat(file)
    return found.st_size, found.st_mtime_ns


def _changed() -> errors.Error:
    return errors.Mismatch(
        "the image was changed while it was read; what was read of it is not whole"
    )
