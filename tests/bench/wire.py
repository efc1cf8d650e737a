"""The least client of imaged: HTTP over its socket, bodies as bytes or as a descriptor."""

import json
import socket
from array import array

PIECE = 1 << 20


class Refused(Exception):
    """An answer that is none of success."""


class Client:
    """One connection that is kept."""

    def __init__(self, path):
        self.wire = socket.socket(socket.AF_UNIX)
        self.wire.connect(str(path))
        self.room = bytearray(PIECE)

    def ask(self, method, path, body=b"", headers=(), descriptor=None):
        """Sends a small body, or a descriptor; the JSON that comes back."""
        self.head(method, path, [*headers, f"content-length: {len(body)}"], body, descriptor)
        return self.answer(method)

    def head(self, method, path, headers, body=b"", descriptor=None):
        lines = "\r\n".join([f"{method} {path} HTTP/1.1", "host: imaged", *headers])
        text = lines.encode() + b"\r\n\r\n" + body
        if descriptor is None:
            self.wire.sendall(text)
        else:
            passed = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [descriptor]))
            self.wire.sendmsg([text], [passed])

    def answer(self, method):
        status, length, bytes_, _ = self.opened()
        while method != "HEAD" and len(bytes_) < length:
            bytes_ += self.some()
        if status >= 400:
            raise Refused(f"{status} {bytes_.decode(errors='replace')}")
        return json.loads(bytes_) if method != "HEAD" and bytes_ else None

    def opened(self):
        """Reads an answer's head: status, length of the body, what came of it already, fields."""
        ahead = b""
        while b"\r\n\r\n" not in ahead:
            ahead += self.some()
        head, _, rest = ahead.partition(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines[1:])
        return int(lines[0].split()[1]), int(fields.get("content-length", 0)), rest, fields

    def some(self):
        got = self.wire.recv(64 << 10)
        if not got:
            raise Refused("the connection ended")
        return got

    def put(self, path, source, size=None):
        """Sends all of a file as bytes; in chunks if no size is given."""
        length = "transfer-encoding: chunked" if size is None else f"content-length: {size}"
        self.head("PUT", path, [length])
        room = memoryview(self.room)
        while got := source.readinto(room):
            if size is None:
                self.all([b"%x\r\n" % got, room[:got], b"\r\n"])
            else:
                self.wire.sendall(room[:got])
        if size is None:
            self.wire.sendall(b"0\r\n\r\n")
        return self.answer("PUT")

    def all(self, parts):
        """Sends parts in one call, as clients that can do."""
        if self.wire.sendmsg(parts) != sum(map(len, parts)):
            raise Refused("the connection took only a part")

    def get(self, path, extents=False):
        """Reads an image, without its holes if it is to come as extents, and forgets it."""
        self.head("GET", path, ["imaged-accept: extents"] if extents else [])
        status, length, ahead, fields = self.opened()
        if status >= 400:
            raise Refused(f"{path}: {status}")
        if fields.get("transfer-encoding") != "chunked":
            self.forget(path, length - len(ahead))
            return
        while True:
            while b"\r\n" not in ahead:
                ahead += self.some()
            size, _, ahead = ahead.partition(b"\r\n")
            # With the end of its line.
            chunk = int(size, 16) + 2
            self.forget(path, chunk - len(ahead))
            ahead = ahead[chunk:]
            if chunk == 2:
                return

    def forget(self, path, left):
        """Reads so many bytes."""
        while left > 0:
            got = self.wire.recv_into(self.room, min(left, PIECE))
            if not got:
                raise Refused(f"{path}: {left} bytes short")
            left -= got
