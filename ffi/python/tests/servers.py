"""What stands in for a daemon, or before one, where a real one cannot be made to do it."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import ClassVar

import imaged

# In an answer: only after all of the caller's body has come.
END = object()


class Server:
    """What answers at a socket, in a thread of its own."""

    def __init__(self, path: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        raise NotImplementedError

    def callers(self) -> Iterator[socket.socket]:
        """One connection after the other, until this is closed."""
        with contextlib.suppress(OSError):
            while True:
                yield self.listener.accept()[0]

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Scripted(Server):
    """A server that does as it is told: what no daemon does on demand."""

    def __init__(self, path: str, *turns) -> None:
        self.heads: list[bytes] = []
        self.turns = turns
        super().__init__(path)

    def run(self) -> None:
        for answer in self.turns:
            peer, _ = self.listener.accept()
            self.heads.append(came := peer.recv(65536))
            # Whoever has heard enough may leave.
            with contextlib.suppress(OSError):
                for part in answer:
                    if isinstance(part, bytes):
                        peer.sendall(part)
                    elif part is END:
                        while not came.endswith(b"0\r\n\r\n"):
                            came += peer.recv(65536)
                    else:
                        time.sleep(part)
            peer.close()
        self.listener.close()


class Answers(Server):
    """Keeps its connections, and answers each request with the next of its answers."""

    def __init__(self, path: str) -> None:
        self.path = path
        #: Bytes, or bytes and the descriptors that go with them.
        self.answers: list[bytes | tuple[bytes, list[int]]] = []
        self.heads: list[bytes] = []
        self.accepted = 0
        self.peers: list[socket.socket] = []
        super().__init__(path)

    def run(self) -> None:
        for peer in self.callers():
            self.accepted += 1
            self.peers.append(peer)
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while head := peer.recv(65536):
                if not self.answers:
                    continue
                self.heads.append(head)
                answer = self.answers.pop(0)
                said, descriptors = answer if isinstance(answer, tuple) else (answer, [])
                socket.send_fds(peer, [said], descriptors)

    def close(self) -> None:
        for one in (self.listener, *self.peers):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class Mute(Server):
    """A server that accepts everybody, hears what they say, and never answers."""

    def __init__(self, path: str) -> None:
        self.heads: list[bytes] = []
        self.peers: list[socket.socket] = []
        super().__init__(path)

    def run(self) -> None:
        with contextlib.suppress(OSError):
            for peer in self.callers():
                self.peers.append(peer)
                self.heads.append(peer.recv(65536))

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        for one in (self.listener, *self.peers):
            one.close()


class Proxy(Server):
    """Stands between callers and a daemon, and cuts a connection where a test wants it cut."""

    def __init__(self, path: str, daemon: str) -> None:
        self.path, self.daemon = path, daemon
        #: Whether a connection ends before this is passed on, of what callers and the daemon say.
        self.cuts: Callable[[bytes], bool] = lambda said: False
        #: What happens in that moment.
        self.meanwhile: Callable[[], object] = lambda: None
        self.cut = 0
        super().__init__(path)

    def run(self) -> None:
        for caller in self.callers():
            daemon = socket.socket(socket.AF_UNIX)
            try:
                daemon.connect(self.daemon)
            except OSError:
                caller.close()
                continue
            for ends in ((caller, daemon), (daemon, caller)):
                threading.Thread(target=self.pass_on, args=ends, daemon=True).start()

    def pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                said, descriptors, _, _ = socket.recv_fds(source, 1 << 20, 4)
                try:
                    if not said:
                        break
                    if self.cuts(said):
                        self.cuts = lambda said: False
                        self.cut += 1
                        # The daemon is not to learn first that its caller has left.
                        self.meanwhile()
                        break
                    if descriptors:
                        sent = socket.send_fds(target, [said], descriptors)
                        said = said[sent:]
                    target.sendall(said)
                finally:
                    for one in descriptors:
                        socket.close(one)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Told(Server):
    """A daemon that has two stores, and one answer to everything else: an error of this code."""

    WHY = "because it is told to, 100 %"
    STATUS: ClassVar = {kind: status for status, kind in imaged.errors.STATUSES.items()}

    def __init__(self, path: str, code: str) -> None:
        self.code = code
        #: Of the requests that came, but for those that ask for the stores.
        self.heads: list[bytes] = []
        #: How often the stores were asked for.
        self.asked = 0
        super().__init__(path)

    def run(self) -> None:
        for peer in self.callers():
            with peer:
                head = b""
                while not head.endswith(b"\r\n\r\n") and (came := peer.recv(65536)):
                    head += came
                peer.sendall(self.answer(head))

    def answer(self, head: bytes) -> bytes:
        if b" /v1/stores HTTP" in head:
            self.asked += 1
            stores = [{"id": name, "type": "file", "state": "up"} for name in ("first", "second")]
            return self.said(200, "application/json", {"stores": stores})
        self.heads.append(head)
        if self.code == "Lost":
            return b""
        problem = {"code": self.code, "detail": self.WHY}
        status = self.STATUS.get(imaged.errors.CODES[self.code], 500)
        return self.said(status, "application/problem+json", problem)

    @staticmethod
    def said(status: int, kind: str, body: object) -> bytes:
        text = json.dumps(body).encode()
        return (
            f"HTTP/1.1 {status} Said\r\nContent-Type: {kind}\r\nContent-Length: {len(text)}\r\n"
            f"Connection: close\r\n\r\n"
        ).encode() + text
