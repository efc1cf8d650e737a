"""Images with holes: by extents through the socket, and by descriptor."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import struct
import uuid
from collections.abc import Iterator

import pytest

import imaged
from imaged import extents, wire

MIB = 1 << 20
SIZE = 12 * MIB + 7
SOME = os.urandom(100_000)

#: What an image holds, by offsets.
SPARSE = {
    "start": {SIZE - len(SOME): SOME},
    "middle": {0: SOME, 9 * MIB + 5: SOME},
    "end": {0: SOME},
    "empty": {},
    "many": {n * MIB // 2 + 3: SOME[:999] for n in range(24)},
}


def image(parts: dict[int, bytes], size: int = SIZE) -> bytes:
    whole = bytearray(size)
    for at, some in parts.items():
        whole[at : at + len(some)] = some
    return bytes(whole)


@pytest.fixture(params=SPARSE)
def sparse(request, client) -> Iterator[tuple[str, bytes]]:
    id, whole = str(uuid.uuid4()), image(SPARSE[request.param])
    client.put("fast", id, whole)
    yield id, whole
    client.delete("fast", id)


@pytest.mark.parametrize("by_descriptor", [True, False])
def test_holes_read_as_zeros_and_the_digest_is_of_all(client, sparse, by_descriptor):
    id, whole = sparse
    with client.get("fast", id, by_descriptor=by_descriptor) as body:
        pieces = list(body)
    assert b"".join(pieces) == whole and body.size == body.total == body.done == SIZE
    assert body.verified == "sha512"
    # Of a long hole one object is given again and again.
    long = bytes(3 * MIB) in whole
    assert (sum(piece is extents.zeros(wire.READ) for piece in pieces) > 1) == long
    for most in (4096, 999_999):
        with client.get("fast", id, by_descriptor=by_descriptor, verify=False) as body:
            room, found = bytearray(most), b""
            while got := body.readinto(room):
                found += room[:got]
        assert found == whole
    for offset, length in ((0, 1), (5, 3 * MIB), (SIZE - 1, None), (MIB, 1), (9 * MIB, 3 * MIB)):
        part = client.get("fast", id, offset=offset, length=length, by_descriptor=by_descriptor)
        end = SIZE if length is None else offset + length
        assert part.read() == whole[offset:end] and part.total == SIZE
        assert part.size == end - offset


def test_a_hole_is_not_sent(client, sparse, monkeypatch):
    id, _ = sparse
    came = 0
    receive = wire.Connection._receive

    def counting(self, most, timeout):
        nonlocal came
        piece = receive(self, most, timeout)
        came += len(piece)
        return piece

    monkeypatch.setattr(wire.Connection, "_receive", counting)
    with client.get("fast", id, by_descriptor=False) as body:
        assert len(body.read()) == SIZE
    assert came < 3 * MIB


def test_a_connection_serves_again_after_extents(client, sparse):
    id, whole = sparse
    for _ in range(3):
        assert client.get("fast", id, by_descriptor=False).read() == whole
        assert len(client._idle) == 1


def test_a_hole_that_is_filled_meanwhile_is_no_hole(shared, client):
    id = str(uuid.uuid4())
    client.put("fast", id, image(SPARSE["end"]))
    body = client.get("fast", id, verify=False)
    assert body.read(1) == SOME[:1]
    with open(shared.dir / "fast" / id, "r+b") as file:
        file.seek(10 * MIB)
        file.write(b"x")
    with pytest.raises(imaged.Mismatch):
        body.read()
    client.delete("fast", id)


def records(*parts: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack(">QQ", at, len(some)) + some for at, some in parts)


def answer(body: bytes, size: int = 20, last: bytes = b"0\r\n\r\n", more: str = "") -> bytes:
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.imaged.extents\r\n"
        f"Imaged-Size: {size}\r\nTransfer-Encoding: chunked\r\n{more}\r\n"
    )
    # In chunks of any length.
    pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
    return head.encode() + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + last


WHOLE = records((3, b"abc"), (6, b"d"), (9, b"efg"), (20, b""))


def test_what_comes_in_pieces_of_any_length_is_read(server):
    known = b"\0\0\0abcd\0\0efg" + bytes(8)
    digest = hashlib.md5(known).digest()
    more = f"Repr-Digest: md5=:{base64.b64encode(digest).decode()}:\r\n"
    with imaged.Client(server.path, timeout=5) as client:
        server.answers = [answer(WHOLE, more=more), answer(records((0, b"")), size=0)]
        body = client.get("a", "b")
        assert body.read() == known and body.verified == "md5"
        assert client.get("a", "b").read() == b""
        assert server.accepted == 1
        assert b"\r\nImaged-Accept: fd, memory, extents\r\n" in server.heads[0]


@pytest.mark.parametrize(
    "body",
    [
        records((3, b"abc"), (2, b"d"), (20, b"")),
        records((3, b"abc"), (19, b"")),
        records((0, b"")),
        records((19, b"ab"), (20, b"")),
        records((20, b"a"), (20, b"")),
        struct.pack(">QQ", (1 << 64) - 1, 5),
        struct.pack(">QQ", 1, (1 << 64) - 1),
        WHOLE + b"x",
        records((3, b"abc")),
        WHOLE[:-1],
        WHOLE[:-16],
        b"",
    ],
)
def test_what_is_no_image_of_its_length_is_refused(server, body):
    with imaged.Client(server.path, timeout=5) as client:
        server.answers = [answer(body)]
        with pytest.raises(imaged.Internal):
            client.get("a", "b").read()


@pytest.mark.parametrize("left", range(1, len(WHOLE) - 16, 5))
def test_a_connection_that_ends_early_is_never_the_end_of_an_image(server, left):
    with imaged.Client(server.path, timeout=5) as client:
        server.answers = [answer(WHOLE[:-left], last=b"")]
        body = client.get("a", "b", verify=False)
        found = body.read(1)
        server.peers[0].shutdown(socket.SHUT_RDWR)
        with pytest.raises(imaged.Error):
            while piece := body.read(7):
                found += piece
        assert len(found) < 20


def test_plain_bytes_have_a_length(server):
    plain = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    with imaged.Client(server.path, timeout=5) as client:
        server.answers = [plain]
        with pytest.raises(imaged.Internal):
            client.get("a", "b")
