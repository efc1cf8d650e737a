"""Uploads to Glance with their size told, read ahead of what is sent.

Glance's store then takes the whole size at once; else it grows the image as bytes come, or keeps
them until it knows. Cinder knows the size and does not say it.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import queue
import threading
from collections.abc import Iterator
from typing import Any

LOG = logging.getLogger(__name__)

# Bytes of a read, and how many of them wait to be sent.
PIECE = 4 << 20
AHEAD = 4


def with_size(image_service: Any, store: str | None) -> Any:
    """The same image service, but its uploads have a size, and this store unless they name one."""
    same = copy.copy(image_service)
    same._client = _Client(image_service._client, store)
    return same


class _Client:
    """Cinder's client of Glance."""

    def __init__(self, client: Any, store: str | None) -> None:
        self._client = client
        self._more = {"store_id": store} if store else {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def call(self, context: Any, method: str, *args: Any, **more: Any) -> Any:
        if method != "upload":
            return self._client.call(context, method, *args, **more)
        image, source, *rest = args
        with closed_after(source):
            size = length(source)
            more = {**self._more, **more, "image_size": size}
            with Ahead(source, size) as body:
                return self._client.call(context, method, image, body, *rest, **more)


@contextlib.contextmanager
def closed_after(source: Any) -> Iterator[None]:
    """Close what Cinder leaves open until Python finds nobody has it.

    After an upload that failed that can be minutes, in which the volume cannot be deleted.
    """
    try:
        yield
    finally:
        # A ceph.conf that was made for this volume alone.
        conf = getattr(source, "rbd_conf", None)
        try:
            source.close()
            if conf:
                os.unlink(conf)
        except Exception as error:
            LOG.warning("The volume that was uploaded is not closed: %s", error)


def length(source: Any) -> int:
    """How many bytes there are to read."""
    here: int = source.tell()
    source.seek(0, 2)
    end: int = source.tell()
    source.seek(here)
    return end - here


class Ahead:
    """Reads a source by large pieces in a thread of its own; a file to read from, no more.

    An error of the source is raised by the read that would have had its bytes: the upload ends
    short, and nothing of it is stored.
    """

    def __init__(self, source: Any, size: int) -> None:
        self._source = source
        # A volume may grow meanwhile.
        self._left = size
        self._pieces: queue.Queue[bytes | BaseException] = queue.Queue(AHEAD)
        self._stopped = False
        self._piece: memoryview = memoryview(b"")
        self._error: BaseException | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._fetch, daemon=True)

    def __enter__(self) -> Ahead:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread: after this nobody reads the source."""
        self._stopped = True
        while self._thread.is_alive():
            # It may wait for room.
            try:
                self._pieces.get(timeout=0.05)
            except queue.Empty:
                continue
        self._thread.join()

    def _fetch(self) -> None:
        try:
            while self._left and not self._stopped:
                piece = self._source.read(min(PIECE, self._left))
                if not piece:
                    raise EOFError(f"the volume ended {self._left} bytes before its end")
                self._left -= len(piece)
                self._pieces.put(piece)
            self._pieces.put(b"")
        except BaseException as error:
            self._pieces.put(error)

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, as they come; none at the end."""
        if self._error:
            raise self._error
        if not len(self._piece) and not self._ended:
            piece = self._pieces.get()
            if isinstance(piece, BaseException):
                self._error = piece
                raise piece
            self._piece = memoryview(piece)
            self._ended = not piece
        size = len(self._piece) if size < 0 else size
        given, self._piece = self._piece[:size], self._piece[size:]
        return bytes(given)
