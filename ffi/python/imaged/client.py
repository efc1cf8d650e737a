"""The client.

# Decisions
* Chose: every change goes over a new connection, reads over kept ones. Because: a kept connection
  may have been closed by the daemon in this very moment; a read is simply done again, a change must
  not be. To connect takes some 50 microseconds. Instead of: a change that fails for no reason, or
  is done twice.
* Chose: bytes are sent only after the daemon has said `100 Continue`. Because: a refusal then costs
  the caller none of its source. Instead of: finding out after a megabyte.
* Chose: a plain file is read here, by the descriptor that the daemon gives. Because: through the
  socket its bytes pass one process more, which for a file in memory is half the speed. Instead of:
  one way for all stores. It has a price: a file on a mount that hangs holds its reader.
* Chose: no limit for a change as long as the daemon lives, which is asked after each silent
  `timeout`. Because: a large image by descriptor takes minutes without a byte to us. Instead of: a
  number that is too small for some and too large for the others.
"""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NoReturn
from urllib.parse import quote

from . import errors, records, source
from .records import Job, Receipt, Stat, Store
from .wire import READ, Connection, Head

DEFAULT_SOCKET = "/run/imaged/imaged.sock"
# The algorithms of today's daemon, by hashlib's names. A newer one may have more; it is asked.
HASH_ALGOS = frozenset(("sha512", "sha384", "sha256", "sha224", "sha1", "blake2b", "md5"))
# Seconds that the daemon has to clean up after an upload that was given up.
CLEAN_UP = 10.0
# The largest answer that is no image.
LONGEST_ANSWER = 64 << 20


class Body:
    """The bytes of an image, or of a part of it, as they come.

    Dropped or closed before its end, it ends its connection, and with it the daemon's work. Where
    the daemon has a plain file, it gives a descriptor of it, and the bytes are read here.
    """

    def __init__(self, client: Client, connection: Connection, head: Head) -> None:
        """Begin to read what follows `head`."""
        self._client = client
        self._connection: Connection | None = connection
        self._file: int | None = None
        self._at = self._end = 0
        #: How many bytes come in all.
        self.size = connection.left
        #: How many the whole image has.
        self.total = self.size
        span, _, whole = head.headers.get("content-range", "").rpartition("/")
        if whole.isdigit():
            self.total = int(whole)
        if head.headers.get("imaged-body") == "fd":
            self._open(connection, head, span)
        #: Hexadecimal digests of the whole image by hashlib's names, where they are known.
        self.digests = records.digests(head.headers.get("repr-digest", ""))

    def _open(self, connection: Connection, head: Head, span: str) -> None:
        self.total = int(head.headers.get("imaged-size", "0"))
        self._end = self.total
        if span:
            first, _, last = span.rpartition(" ")[2].partition("-")
            self._at, self._end = int(first), int(last) + 1
        self.size = self._end - self._at
        self._file = connection.descriptor()
        self._connection = None
        self._client._give(connection)

    def _read_file(self, file: int, most: int) -> bytes:
        try:
            piece = os.pread(file, min(most, self._end - self._at), self._at)
        except OSError as error:
            self.close()
            raise errors.Unavailable(f"the image cannot be read: {error}") from error
        self._at += len(piece)
        if not piece and self._at < self._end:
            self.close()
            raise errors.Unavailable("the image has become shorter")
        if self._at >= self._end:
            self.close()
        return piece

    def read(self, most: int = READ) -> bytes:
        """Some bytes, `most` at most; none at the end, and only there."""
        if self._file is not None and most > 0:
            return self._read_file(self._file, most)
        connection = self._connection
        if connection is None or most <= 0:
            return b""
        try:
            piece = connection.read(most)
        except BaseException:
            self.close()
            raise
        if not connection.left:
            self._connection = None
            self._client._give(connection)
        return piece

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece = self.read()
        if not piece:
            raise StopIteration
        return piece

    def close(self) -> None:
        """Stop reading."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def __enter__(self) -> Body:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # A constructor that failed has none.
        if getattr(self, "_connection", None) is not None or (
            getattr(self, "_file", None) is not None
        ):
            self.close()


class Client:
    """The daemon behind a socket. May be used by many threads, and after a fork."""

    def __init__(
        self, socket: str | None = None, *, timeout: float = 75.0, connections: int = 16
    ) -> None:
        """Nothing is opened yet.

        `timeout` is in seconds, of silence: a transfer that moves may take longer. `connections` is
        how many are kept for later.
        """
        self.socket = socket or os.environ.get("IMAGED_SOCKET") or DEFAULT_SOCKET
        self.timeout = timeout
        self._most = connections
        # Its ends are safe to use by many threads, with no lock that a fork could leave locked.
        self._idle: collections.deque[Connection] = collections.deque()

    # Images

    def put(
        self,
        store: str,
        id: str,
        image: source.Source,
        *,
        size: int | None = None,
        hash_algo: str | None = None,
        watch: source.Watch | None = None,
        by_descriptor: bool = True,
        request_id: str | None = None,
    ) -> Receipt:
        """Store an image: bytes, a file, anything with `read`, or an iterable of bytes.

        Without `size` it is as long as its source is. `watch` is called with every piece. A plain
        file goes by descriptor unless someone watches or `by_descriptor` is false.
        """
        path = f"{_image(store, id)}{_query(hash_algo=hash_algo)}"
        if isinstance(image, source.Descriptor):
            return self._put_descriptor(path, image, request_id)
        if by_descriptor and watch is None and (own := source.descriptor(image, size)):
            receipt = self._put_descriptor(path, own, request_id)
            # As if it had been read here.
            image.seek(own.offset + own.size)
            return receipt
        return self._put_bytes(path, image, size, watch, request_id)

    def _put_descriptor(self, path: str, own: source.Descriptor, request_id: str | None) -> Receipt:
        head = {"Imaged-Body": "fd", "Content-Length": "0"}
        try:
            connection = self._connect()
            try:
                connection.send(self._head("PUT", path, request_id, head), descriptors=[own.fd])
                answer = self._settled(connection)
            except BaseException:
                connection.close()
                raise
        finally:
            own.close()
        return records.read(Receipt, self._json(connection, answer, "PUT"))

    def _put_bytes(
        self,
        path: str,
        image: source.Source,
        size: int | None,
        watch: source.Watch | None,
        request_id: str | None,
    ) -> Receipt:
        # With chunks, the end is a message: a source that fails half-way can never pass as whole.
        head = {"Transfer-Encoding": "chunked", "Expect": "100-continue"}
        if size is not None:
            head["X-OpenStack-Image-Size"] = str(size)
        connection = self._connect()
        try:
            connection.send(self._head("PUT", path, request_id, head))
            answer = self._settled(connection)
            if answer.status == 100:
                try:
                    self._send(connection, source.pieces(image, size, watch))
                except Exception:
                    # The caller may want to try again at once: by then the id is free.
                    connection.give_up(CLEAN_UP)
                    raise
                answer = self._settled(connection)
            elif answer.status < 400:
                raise errors.Internal(f"the daemon answered {answer.status} to no bytes at all")
        except BaseException:
            connection.close()
            raise
        return records.read(Receipt, self._json(connection, answer, "PUT"))

    def _send(self, connection: Connection, pieces: Iterator[bytes | memoryview]) -> None:
        for piece in pieces:
            # An answer before the end, or the end itself: the rest would be for nothing.
            if connection.has_something():
                return
            connection.send(b"%x\r\n" % len(piece), piece, b"\r\n")
        connection.send(b"0\r\n\r\n")

    def get(
        self,
        store: str,
        id: str | None = None,
        *,
        at: str | None = None,
        offset: int = 0,
        length: int | None = None,
        by_descriptor: bool = True,
        request_id: str | None = None,
    ) -> Body:
        """Read an image by its id or its location, whole or `length` bytes from `offset`.

        Bytes of a plain file pass through the daemon only if `by_descriptor` is false.
        """
        headers = {"Imaged-Accept": "fd"} if by_descriptor else {}
        if offset or length is not None:
            if offset < 0 or (length is not None and length <= 0):
                raise errors.Invalid(f"no such part of an image: offset={offset} length={length}")
            last = "" if length is None else str(offset + length - 1)
            headers["Range"] = f"bytes={offset}-{last}"
        connection, head = self._read("GET", _image(store, id, at), request_id, headers)
        if head.status not in (200, 206):
            self._refused(connection, head, "GET")
        try:
            body = Body(self, connection, head)
        except BaseException:
            connection.close()
            raise
        if not body.size:
            body.close()
        return body

    def stat(
        self,
        store: str,
        id: str | None = None,
        *,
        at: str | None = None,
        request_id: str | None = None,
    ) -> Stat:
        """The size and digests of an image."""
        connection, head = self._read("HEAD", _image(store, id, at), request_id)
        if head.status != 200:
            self._refused(connection, head, "HEAD")
        self._give(connection)
        return Stat(
            size=int(head.headers["content-length"]),
            location=head.headers.get("content-location"),
            digests=records.digests(head.headers.get("repr-digest", "")),
        )

    def delete(
        self,
        store: str,
        id: str | None = None,
        *,
        at: str | None = None,
        request_id: str | None = None,
    ) -> None:
        """Remove an image."""
        self._change("DELETE", _image(store, id, at), request_id)

    def copy(
        self,
        store: str,
        id: str,
        *,
        location: str | None = None,
        from_store: str | None = None,
        rbd_volume: str | None = None,
        cinder_volume: str | None = None,
        mode: str = "auto",
        hash_algo: str | None = None,
        request_id: str | None = None,
    ) -> Receipt:
        """Make an image of another one or of a volume, by the daemon alone.

        `mode` is auto, clone, copy or stream. If the receipt has a `digest_job`, digests follow.
        """
        origin = {
            "location": location,
            "store": from_store,
            "rbd_volume": rbd_volume,
            "cinder_volume": cinder_volume,
        }
        wanted: dict[str, Any] = {
            "source": {name: value for name, value in origin.items() if value is not None},
            "mode": mode,
        }
        if hash_algo is not None:
            wanted["hash_algo"] = hash_algo
        answer = self._change("POST", _image(store, id), request_id, json.dumps(wanted).encode())
        return records.read(Receipt, answer)

    # Stores and jobs

    def stores(self) -> list[Store]:
        """All stores of the daemon."""
        answer = self._asked("/v1/stores")
        return [records.read(Store, one) for one in answer["stores"]]

    def store(self, store: str) -> Store:
        """One store, with its capacity."""
        return records.read(Store, self._asked(f"/v1/stores/{_quote(store)}"))

    def jobs(self) -> list[Job]:
        """Work of the daemon, the oldest first."""
        return [records.read(Job, one) for one in self._asked("/v1/jobs")["jobs"]]

    def job(self, job: str, *, wait: int = 0) -> Job:
        """One job, at the latest after `wait` seconds, at once if it is over. 60 is the most."""
        path = f"/v1/jobs/{_quote(job)}{_query(wait=str(wait) if wait else None)}"
        return records.read(Job, self._asked(path, self.timeout + wait))

    def cancel(self, job: str) -> None:
        """End a job."""
        self._change("DELETE", f"/v1/jobs/{_quote(job)}", None)

    def close(self) -> None:
        """Close the kept connections. The client can still be used."""
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:
                return

    # Requests

    def _head(
        self, method: str, path: str, request_id: str | None, headers: dict[str, str]
    ) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", "Host: imaged"]
        if request_id and _is_plain(request_id):
            lines.append(f"X-Request-Id: {request_id}")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")

    def _connect(self) -> Connection:
        return Connection(self.socket, self.timeout)

    def _kept(self) -> Connection | None:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            # What came unasked is the end.
            if connection.reusable and not connection.has_something():
                return connection
            connection.close()

    def _give(self, connection: Connection, most: int | None = None) -> None:
        if connection.reusable and len(self._idle) < (self._most if most is None else most):
            self._idle.append(connection)
        else:
            connection.close()

    def _read(
        self,
        method: str,
        path: str,
        request_id: str | None,
        headers: dict[str, str] | None = None,
        timeout: float | None = None,
    ) -> tuple[Connection, Head]:
        """The answer to a request that changes nothing; its body is still to be read."""
        request = self._head(method, path, request_id, headers or {})
        again = True
        while True:
            kept = self._kept()
            connection = kept or self._connect()
            try:
                connection.send(request)
                head = connection.head(timeout)
                connection.begin_body(head, method)
                return connection, head
            except TimeoutError as error:
                connection.close()
                raise errors.Timeout("the daemon does not answer") from error
            except errors.Lost:
                silent = connection.silent
                connection.close()
                # Nothing of an answer has come, so nothing of it has been used.
                if not silent or not (kept or again):
                    raise
                again = again and kept is not None
            except BaseException:
                connection.close()
                raise

    def _change(
        self, method: str, path: str, request_id: str | None, body: bytes | None = None
    ) -> dict[str, Any]:
        headers = {} if body is None else {"Content-Type": "application/json"}
        headers["Content-Length"] = str(len(body or b""))
        connection = self._connect()
        try:
            connection.send(self._head(method, path, request_id, headers), body or b"")
            answer = self._settled(connection)
        except BaseException:
            connection.close()
            raise
        return self._json(connection, answer, method)

    def _settled(self, connection: Connection) -> Head:
        """The answer to a change, however long it takes a daemon that lives."""
        while True:
            try:
                return connection.head()
            except TimeoutError as error:
                try:
                    self._asked("/healthz")
                except errors.Error:
                    raise errors.Timeout(
                        "the daemon does not answer; whether it did what was asked is not known"
                    ) from error

    def _asked(self, path: str, timeout: float | None = None) -> dict[str, Any]:
        connection, head = self._read("GET", path, None, timeout=timeout)
        return self._json(connection, head, "GET", begun=True)

    def _json(
        self, connection: Connection, head: Head, method: str, *, begun: bool = False
    ) -> dict[str, Any]:
        try:
            if not begun:
                connection.begin_body(head, method)
            if head.status >= 300:
                self._refused(connection, head, method)
            text = self._text(connection)
        except BaseException:
            connection.close()
            raise
        # Changes bring a new one each: they are kept only where there is none.
        self._give(connection, None if method == "GET" else 1)
        answer = json.loads(text) if text else {}
        if not isinstance(answer, dict):
            raise errors.Internal("the daemon's answer is no JSON object")
        return answer

    def _text(self, connection: Connection) -> bytes:
        if connection.left > LONGEST_ANSWER:
            raise errors.Internal("the daemon's answer is too long")
        parts = []
        while part := connection.read():
            parts.append(part)
        return b"".join(parts)

    def _refused(self, connection: Connection, head: Head, method: str) -> NoReturn:
        """Raise what an answer tells, whose body has not been read yet."""
        try:
            text = self._text(connection)
        except BaseException:
            connection.close()
            raise
        # A body that was not taken whole may still be on its way.
        if method == "PUT":
            connection.close()
        else:
            self._give(connection, 1 if method in ("POST", "DELETE") else None)
        raise errors.from_answer(head.status, head.headers, text)


def _is_plain(text: str) -> bool:
    return len(text) <= 128 and text.isascii() and text.replace("-", "a").isalnum()


def _quote(text: str) -> str:
    return quote(text, safe="")


def _query(**parameters: str | None) -> str:
    told = [f"{name}={_quote(value)}" for name, value in parameters.items() if value is not None]
    return "?" + "&".join(told) if told else ""


def _image(store: str, id: str | None = None, at: str | None = None) -> str:
    if (id is None) == (at is None):
        raise TypeError("name the image by its id or by its location")
    path = f"/v1/stores/{_quote(store)}/images"
    try:
        return f"{path}/{_quote(id)}" if id is not None else f"{path}{_query(at=at)}"
    except UnicodeEncodeError as error:
        raise errors.Invalid(f"a name that is no text: {id or at!r}") from error
