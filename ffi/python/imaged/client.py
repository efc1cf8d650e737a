"""The client.

# Decisions
* Chose: every change goes over a new connection, reads over kept ones. Because: a kept connection
  may have been closed by the daemon in this very moment; a read is simply done again, a change must
  not be. To connect takes some 50 microseconds. Instead of: a change that fails for no reason, or
  is done twice.
* Chose: bytes are sent only after the daemon has said `100 Continue`. Because: a refusal then costs
  the caller none of its source. Instead of: finding out after a megabyte.
* Chose: no limit for a change as long as the daemon lives, which is asked after each silent
  `timeout`. Because: a large image by descriptor takes minutes without a byte to us. Instead of: a
  number that is too small for some and too large for the others.
"""

from __future__ import annotations

import collections
import contextlib
import io
import json
import operator
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn
from urllib.parse import unquote

from . import errors, extents, records, request, source
from .body import Body
from .listing import Images
from .records import Health, Job, Receipt, Stat, Store
from .wire import Connection, Head, NotPassed

DEFAULT_SOCKET = "/run/imaged/imaged.sock"
# The algorithms of today's daemon, by hashlib's names. A newer one may have more; it is asked.
HASH_ALGOS = frozenset(("sha512", "sha384", "sha256", "sha224", "sha1", "blake2b", "md5"))
# Seconds that the daemon has to clean up after an upload that was given up.
CLEAN_UP = 10.0
# Seconds in which a daemon that lives says so: it asks no backend for that.
ALIVE = 5.0
# The largest answer that is no image.
LONGEST_ANSWER = 64 << 20


class Client:
    """The daemon behind a socket. May be used by many threads, and after a fork.

    Nothing is opened before the first call. At the end of a `with`, or by `close`, the connections
    that it keeps are closed.

    Whatever is wrong is an `Error` with the name of the daemon's code for it. A value that cannot
    be is `Invalid`, most of the time before the daemon hears of it; something of a wrong type is a
    TypeError. All sizes and offsets are in bytes, all times in seconds. `request_id` is found again
    in the daemon's log; one that has other than letters, digits and hyphens, or more than 128 of
    them, is left out. An image is named by its id, or with `at` by its location.
    """

    def __init__(
        self,
        socket: str | os.PathLike[str] | None = None,
        *,
        timeout: float = 75.0,
        longest: float | None = None,
        connections: int = 16,
    ) -> None:
        """Open nothing yet.

        Without `socket` it is $IMAGED_SOCKET, else /run/imaged/imaged.sock. `timeout` is of
        silence: a transfer that moves may take longer. `longest` is how long the answer to a change
        is waited for; without it, as long as the daemon lives. `connections` is how many are kept
        for later.
        """
        named = "" if socket is None else os.fspath(socket)
        request.check_text("a socket's path", named)
        #: The path of the daemon's socket.
        self.socket = named or os.environ.get("IMAGED_SOCKET") or DEFAULT_SOCKET
        #: Seconds of silence.
        self.timeout = request.seconds("timeout", timeout)
        self._longest = None if longest is None else request.seconds("longest", longest)
        self._most = operator.index(connections)
        if self._most < 0:
            raise errors.Invalid(f"no number of connections: {connections}")
        # Its ends are safe to use by many threads, with no lock that a fork could leave locked.
        self._idle: collections.deque[Connection] = collections.deque()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        # A copy, also one in another process, has connections of its own.
        return {**self.__dict__, "_idle": collections.deque()}

    def __repr__(self) -> str:
        return f"imaged.Client({self.socket!r})"

    # Images

    def put(
        self,
        store: str,
        id: str,
        image: source.Source,
        *,
        size: int | None = None,
        hash_algo: str | None = None,
        digests: Mapping[str, str] | None = None,
        watch: source.Watch | None = None,
        by_descriptor: bool = True,
        request_id: str | None = None,
        token: str | None = None,
        project: str | None = None,
    ) -> Receipt:
        """Store an image: bytes, a file, anything with `read`, or an iterable of bytes.

        Without `size` it is as long as its source is. `hash_algo` is the algorithm of the digest
        that is kept beside the md5: one of `HASH_ALGOS`, and sha512 if none is named. `digests`
        promises what the image has, in hexadecimal: its `md5`, and its digest by `hash_algo`, which
        need then not be named (sha512, sha256 or sha1). `watch` is called with every piece. A plain
        file goes by descriptor unless someone watches or `by_descriptor` is false. `token` is the
        caller's own for the cloud, for stores that keep images in their owners' accounts;
        `project` is whose image it is, for stores that write that down.

        When it returns, the image is durable. What raises leaves nothing, unless the error is
        `in_doubt`. Raises `Exists` if the id is taken, `Mismatch` if `size` or `digests` are other
        than was promised, and what the source raises.
        """
        hash_algo, promised = request.promised(hash_algo, digests)
        path = f"{request.image_path(store, id)}{request.query(hash_algo=hash_algo)}"
        head = {**request.token_header(token), **request.project_header(project), **promised}
        size = request.size_of(size)
        request.check_watch(watch)
        if isinstance(image, source.Descriptor):
            return self._put_descriptor(path, image, request_id, head)
        source.check(image)
        if by_descriptor and watch is None and (own := source.descriptor(image, size)):
            receipt = self._put_descriptor(path, own, request_id, head)
            # As if it had been read here.
            assert isinstance(image, io.IOBase)
            image.seek(own.offset + own.size)
            return receipt
        return self._put_bytes(path, image, size, watch, request_id, head)

    def _put_descriptor(
        self, path: str, own: source.Descriptor, request_id: str | None, head: dict[str, str]
    ) -> Receipt:
        # A file that has another length by the time that it is opened there is refused.
        head = {
            **head,
            "Imaged-Body": "fd",
            "Content-Length": "0",
            "X-OpenStack-Image-Size": str(own.size),
        }
        try:
            connection = self._connect()
            try:
                connection.send(self._head("PUT", path, request_id, head), descriptors=[own.fd])
                with errors.in_doubt():
                    answer = self._settled(connection)
                    return records.read(Receipt, self._json(connection, answer, "PUT"))
            except BaseException:
                connection.close()
                raise
        finally:
            own.close()

    def _put_bytes(
        self,
        path: str,
        image: source.Source,
        size: int | None,
        watch: source.Watch | None,
        request_id: str | None,
        head: dict[str, str],
    ) -> Receipt:
        # With chunks, the end is a message: a source that fails half-way can never pass as whole.
        head = {**head, "Transfer-Encoding": "chunked", "Expect": "100-continue"}
        if size is not None:
            head["X-OpenStack-Image-Size"] = str(size)
        connection = self._connect()
        try:
            connection.send(self._head("PUT", path, request_id, head))
            answer = self._settled(connection)
            if answer.status != 100:
                # A refusal is told by what it raises.
                self._json(connection, answer, "PUT")
                raise errors.Internal(f"the daemon answered {answer.status} to no bytes at all")
            try:
                whole = self._send(connection, source.pieces(image, size, watch))
            except Exception:
                # The caller may want to try again at once: by then the id is free.
                connection.give_up(min(CLEAN_UP, self.timeout))
                raise
            # What has not been sent to its end is not stored, whatever becomes of the connection.
            with errors.in_doubt() if whole else contextlib.nullcontext():
                while answer.status == 100:
                    answer = self._settled(connection)
                receipt = records.read(Receipt, self._json(connection, answer, "PUT"))
        except BaseException:
            connection.close()
            raise
        if not whole:
            raise errors.Internal("the daemon stored an image that it had not been sent whole")
        return receipt

    def _send(self, connection: Connection, pieces: Iterator[memoryview]) -> bool:
        """Whether all of it, with its end, was sent; if not, an answer has come before."""
        for piece in pieces:
            # An answer before the end, or the end itself: the rest would be for nothing.
            if connection.has_something():
                return False
            connection.send(b"%x\r\n" % len(piece), piece, b"\r\n")
        connection.send(b"0\r\n\r\n")
        return True

    def get(
        self,
        store: str,
        id: str | None = None,
        *,
        at: str | None = None,
        offset: int = 0,
        length: int | None = None,
        verify: bool = True,
        watch: source.Watch | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        by_descriptor: bool = True,
        request_id: str | None = None,
    ) -> Body:
        """Read an image by its id or its location, whole or `length` bytes from `offset`.

        If the whole image is read and the daemon knows a digest of it, the last piece is given only
        if the bytes have that digest, and else raises `Mismatch`; `verify=False` saves the time of
        that. `watch` is called with every piece that is read. With `if_match` an image of another
        `etag` is not read (`Precondition`); with `if_none_match` one of the same is not
        (`NotModified`). Bytes of a plain file pass through the daemon only if `by_descriptor` is
        false. Raises `NotFound`, and `Range` if the image ends before `offset`.
        """
        request.check_watch(watch)
        headers = request.conditions(if_match, if_none_match)
        offset = operator.index(offset)
        length = None if length is None else operator.index(length)
        if offset or length is not None:
            if offset < 0 or (length is not None and length <= 0):
                raise errors.Invalid(f"no such part of an image: offset={offset} length={length}")
            last = "" if length is None else str(offset + length - 1)
            headers["Range"] = f"bytes={offset}-{last}"
        path = request.image_path(store, id, at)
        headers["Imaged-Accept"] = "fd, memory, extents" if by_descriptor else "memory, extents"
        try:
            return self._body(path, request_id, headers, verify=verify, watch=watch)
        except NotPassed:
            headers["Imaged-Accept"] = "extents"
            return self._body(path, request_id, headers, verify=verify, watch=watch)

    def _body(
        self,
        path: str,
        request_id: str | None,
        headers: dict[str, str],
        *,
        verify: bool,
        watch: source.Watch | None,
    ) -> Body:
        connection, head = self._read("GET", path, request_id, headers)
        if head.status not in (200, 206):
            self._refused(connection, head, "GET")
        try:
            if "Range" in headers and head.status != 206:
                raise errors.Internal("the daemon answered with the whole image, not with a part")
            return Body(connection, head, self._give, verify=verify, watch=watch)
        except BaseException:
            connection.close()
            raise

    def stat(
        self,
        store: str,
        id: str | None = None,
        *,
        at: str | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        request_id: str | None = None,
    ) -> Stat:
        """The size, location and digests of an image. Conditions are as for `get`."""
        headers = request.conditions(if_match, if_none_match)
        connection, head = self._read(
            "HEAD", request.image_path(store, id, at), request_id, headers
        )
        if head.status != 200:
            self._refused(connection, head, "HEAD")
        self._give(connection)
        location = head.headers.get("content-location")
        return Stat(
            size=head.number("content-length"),
            location=unquote(location) if location else None,
            digests=records.digests(head.headers.get("repr-digest", "")),
            etag=head.headers.get("etag"),
        )

    def images(self, store: str, *, request_id: str | None = None) -> Images:
        """All images of a store, one after the other, as the daemon finds them.

        They come as they are read and are not held: a store may have any number. A list is no
        snapshot: images that come or go meanwhile may be in it or not. One that is cut short raises
        in the loop, and is never taken for the whole.
        """
        path = f"/v1/stores/{request.name('store', store)}/images"
        connection, head = self._read("GET", path, request_id, listed=True)
        if head.status != 200:
            self._refused(connection, head, "GET")
        return Images(connection, self._give)

    def delete(
        self,
        store: str,
        id: str | None = None,
        *,
        at: str | None = None,
        if_match: str | None = None,
        request_id: str | None = None,
    ) -> None:
        """Remove an image; with `if_match`, only one of that `etag` (else `Precondition`).

        Raises `NotFound` if there is none, and `InUse` if something needs it.
        """
        headers = request.conditions(if_match, None)
        self._change("DELETE", request.image_path(store, id, at), request_id, more=headers)

    def share(
        self,
        store: str,
        id: str | None = None,
        *,
        at: str | None = None,
        public: bool = False,
        read: Iterable[str] = (),
        write: Iterable[str] = (),
        request_id: str | None = None,
    ) -> None:
        """Let everybody, or these projects, and nobody else reach an image beside its owner.

        Only stores that know owners can: swift with `swift_store_multi_tenant`.
        """
        path = request.image_path(store, id, at)
        path = f"{path}/acl" if at is None else path.replace("/images?", "/acl?", 1)
        for projects in (read, write):
            if isinstance(projects, str):
                raise TypeError("projects are a list of ids, not one text")
        body = json.dumps({"public": public, "read": list(read), "write": list(write)})
        self._change("PUT", path, request_id, body.encode())

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
        project: str | None = None,
    ) -> Receipt:
        """Make an image of another one or of a volume, by the daemon alone.

        The source is exactly one of `location`, of an image; `rbd_volume`, `pool/name` or
        `pool/name@snapshot`; and `cinder_volume`, a UUID. `from_store` is the store that it is in,
        or that reaches the volume. `mode` is auto, clone, copy or stream. If the receipt has a
        `digest_job`, digests follow: `job` waits for them. `project` is as for `put`.
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
        body = json.dumps(wanted).encode()
        answer = self._change(
            "POST", request.image_path(store, id), request_id, body, request.project_header(project)
        )
        return records.read(Receipt, answer)

    # Stores and jobs

    def stores(self) -> list[Store]:
        """All stores of the daemon."""
        return records.read_all(Store, self._asked("/v1/stores"), "stores")

    def store(self, store: str) -> Store:
        """One store, with its capacity."""
        return records.read(Store, self._asked(f"/v1/stores/{request.name('store', store)}"))

    def jobs(self) -> list[Job]:
        """Work of the daemon, the oldest first."""
        return records.read_all(Job, self._asked("/v1/jobs"), "jobs")

    def job(self, job: str, *, wait: int = 0) -> Job:
        """One job, at the latest after `wait` seconds, at once if it is over. 60 is the most."""
        wait = operator.index(wait)
        path = (
            f"/v1/jobs/{request.name('job', job)}{request.query(wait=str(wait) if wait else None)}"
        )
        return records.read(Job, self._asked(path, self.timeout + wait))

    def cancel(self, job: str) -> None:
        """End a job. Raises `InUse` if it is over, or cannot be ended any more."""
        self._change("DELETE", f"/v1/jobs/{request.name('job', job)}", None)

    # The daemon

    def health(self) -> Health:
        """Whether the daemon answers and its default store is up; anybody may ask.

        Raises `Unreachable` if no daemon listens, and `Timeout` if it does not answer.
        """
        try:
            self._asked("/readyz")
        except errors.Unavailable as error:
            if error.status is None:
                raise
            return Health(ready=False, reason=error.message)
        return Health(ready=True)

    def metrics(self) -> str:
        """What the daemon has counted and measured, in the text that Prometheus reads."""
        connection, head = self._read("GET", "/metrics", None)
        if head.status != 200:
            self._refused(connection, head, "GET")
        try:
            text = self._text(connection)
        except BaseException:
            connection.close()
            raise
        self._give(connection)
        return text.decode(errors="replace")

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
        if request_id and request.is_plain("a request's id", request_id):
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
        *,
        listed: bool = False,
    ) -> tuple[Connection, Head]:
        """The answer to a request that changes nothing; its body is still to be read."""
        said = self._head(method, path, request_id, headers or {})
        again = True
        while True:
            kept = self._kept()
            connection = kept or self._connect()
            try:
                connection.send(said)
                head = connection.head(timeout)
                connection.begin_body(head, method, chunked=listed or extents.are_in(head))
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
        self,
        method: str,
        path: str,
        request_id: str | None,
        body: bytes | None = None,
        more: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        headers = dict(more or {})
        if body is not None:
            headers["Content-Type"] = "application/json"
        headers["Content-Length"] = str(len(body or b""))
        connection = self._connect()
        try:
            connection.send(self._head(method, path, request_id, headers), body or b"")
            with errors.in_doubt():
                answer = self._settled(connection)
                return self._json(connection, answer, method)
        except BaseException:
            connection.close()
            raise

    def _settled(self, connection: Connection) -> Head:
        """The answer to a change, however long it takes a daemon that lives."""
        since = time.monotonic()
        while True:
            try:
                return connection.head()
            except TimeoutError as error:
                try:
                    self._asked("/healthz", min(ALIVE, self.timeout))
                    lives = True
                except errors.Error:
                    lives = False
                late = self._longest is not None and time.monotonic() - since > self._longest
                if late or not lives:
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
        try:
            answer = json.loads(text) if text else {}
        except ValueError:
            answer = None
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
