"""The images of a store, as the daemon lists them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from . import errors, records
from .records import Image
from .wire import Connection

# A line that is longer is none of ours.
LONGEST_LINE = 1 << 20


class Images(Iterator[Image]):
    """The images of a store, one after the other.

    Dropped or closed before its end, it ends its connection, and with it the daemon's work.
    """

    # Of one whose constructor failed, too.
    _connection: Connection | None = None

    def __init__(self, connection: Connection, give_back: Callable[[Connection], None]) -> None:
        """Begin to read; `give_back` takes a connection that is done with."""
        self._connection = connection
        self._give_back = give_back
        self._came = bytearray()
        # What is no end is never taken for one.
        self._failed: Exception | None = None

    def __iter__(self) -> Iterator[Image]:
        return self

    def __next__(self) -> Image:
        if self._failed is not None:
            raise self._failed
        try:
            line = self._line()
            image = None if line is None else _image(line)
        except errors.Error as error:
            self._failed = error
            self._let_go()
            raise
        except BaseException:
            self.close()
            raise
        if image is None:
            raise StopIteration
        return image

    def _line(self) -> bytes | None:
        at = 0
        while (end := self._came.find(b"\n", at)) < 0:
            if self._connection is None:
                return None
            at = len(self._came)
            if at > LONGEST_LINE:
                raise errors.Internal("the daemon's answer has a line without an end")
            piece = self._connection.read_chunked()
            if not piece:
                if self._came:
                    raise errors.Internal("the daemon's answer ends in the middle of a line")
                connection, self._connection = self._connection, None
                self._give_back(connection)
            self._came += piece
        line = bytes(self._came[:end])
        del self._came[: end + 1]
        return line

    def __enter__(self) -> Images:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._let_go()

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Stop reading."""
        if self._failed is None and (self._connection is not None or self._came):
            self._failed = ValueError("this list is closed; it may not have been read to its end")
        self._let_go()


def _image(line: bytes) -> Image:
    try:
        listed = json.loads(line)
    except ValueError:
        listed = None
    return records.read(Image, listed)
