"""Images that come through memory which the daemon shares."""

from __future__ import annotations

import fcntl
import os
import struct
import uuid
from collections.abc import Iterator

import pytest
from test_wire import opened

import imaged
from imaged import extents

MIB = 1 << 20
SLOT = extents.SLOT
SIZE = 9 * MIB + 7


@pytest.fixture
def stored(client) -> Iterator[tuple[str, bytes]]:
    id, whole = str(uuid.uuid4()), os.urandom(SIZE - 2 * MIB) + bytes(2 * MIB)
    client.put("fast", id, whole)
    yield id, whole
    client.delete("fast", id)


def test_an_image_comes_through_memory_and_nothing_stays_open(client, stored, monkeypatch):
    id, whole = stored
    begun = []
    monkeypatch.setattr(
        extents.ThroughMemory, "_record_begins", seen(begun, extents.ThroughMemory._record_begins)
    )
    client.stores()
    before = opened()
    for most in (1 << 20, 999_999, 4096):
        with client.get("fast", id, by_descriptor=False) as body:
            found = b"".join(iter(lambda body=body, most=most: body.read(most), b""))
        assert found == whole and body.verified == "sha512"
    assert begun and opened() == before
    # One that is dropped, closed or asked for in part.
    for end in ("dropped", "closed"):
        body = client.get("fast", id, by_descriptor=False)
        assert body.read(5) == whole[:5]
        if end == "closed":
            body.close()
        del body
    part = client.get("fast", id, offset=3, length=5 * MIB, by_descriptor=False)
    assert part.read() == whole[3 : 3 + 5 * MIB]
    assert client.get("fast", id, by_descriptor=False).read() == whole
    assert opened() <= before


def seen(calls: list, method):
    def called(self, *args):
        calls.append(args)
        return method(self, *args)

    return called


def test_memory_is_said_to_be_taken_and_a_descriptor_too(server):
    plain = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"
    with imaged.Client(server.path, timeout=5) as client:
        server.answers = [plain, plain]
        client.get("a", "b").read()
        client.get("a", "b", by_descriptor=False).read()
    assert b"\r\nImaged-Accept: fd, memory, extents\r\n" in server.heads[0]
    assert b"\r\nImaged-Accept: memory, extents\r\n" in server.heads[1]


def passed(bytes_: bytes, *, seals: int = fcntl.F_SEAL_SHRINK) -> tuple[int, int, int]:
    """Memory with these bytes, and both ends of a pipe."""
    memory = os.memfd_create("x", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.write(memory, bytes_.ljust(4 * SLOT, b"\0"))
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, seals)
    return memory, *os.pipe()


def answer(*records: tuple[int, int, int], size: int) -> bytes:
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.imaged.memory\r\n"
        f"Imaged-Size: {size}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    body = b"".join(struct.pack(">QQQ", *record) for record in records)
    # In chunks that end anywhere.
    pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces)
    return head.encode() + chunks + b"0\r\n\r\n"


def test_each_slot_is_given_back_when_it_was_read(server):
    memory, reader, writer = passed(b"abc".ljust(2 * SLOT - 2, b"\0") + b"de" + b"fg")
    with imaged.Client(server.path, timeout=5) as client:
        said = answer((2, 3, 0), (5, 2, 2 * SLOT - 2), (7, 2, 2 * SLOT), (20, 0, 0), size=20)
        server.answers = [(said, [memory, writer])]
        body = client.get("a", "b")
        os.close(writer)
        assert body.read(4) == b"\0\0"
        assert body.read(1) + body.read(1) == b"ab"
        os.set_blocking(reader, False)
        with pytest.raises(BlockingIOError):
            os.read(reader, 9)
        assert body.read() == b"cdefg" + bytes(11)
        assert os.read(reader, 9) == b"\0\1\2"
        assert os.read(reader, 9) == b"", "the other end is closed"
    for one in (memory, reader):
        os.close(one)


@pytest.mark.parametrize(
    "records",
    [
        [(0, 3, SLOT - 2), (20, 0, 0)],
        [(0, 3, 4 * SLOT), (20, 0, 0)],
        [(0, SLOT + 1, 0), (SLOT + 1, 0, 0)],
        [(0, 3, (1 << 64) - SLOT), (20, 0, 0)],
        [(3, 3, 0), (2, 1, 0), (20, 0, 0)],
        [(0, 3, 0), (19, 0, 0)],
        [(0, 3, 0)],
        [],
    ],
)
def test_what_is_no_image_is_refused_and_nothing_stays_open(server, records):
    memory, reader, writer = passed(b"abc")
    size = 20 if len(records) != 2 or records[0][1] != SLOT + 1 else SLOT + 1
    before = opened()
    with imaged.Client(server.path, timeout=5) as client:
        server.answers = [(answer(*records, size=size), [memory, writer])]
        with pytest.raises(imaged.Internal):
            client.get("a", "b").read()
    server.peers[0].close()
    assert opened() <= before
    for one in (memory, reader, writer):
        os.close(one)


@pytest.mark.parametrize("what", ["unsealed", "file", "none", "one"])
def test_where_memory_does_not_come_the_image_does(server, tmp_path, what):
    memory, reader, writer = passed(b"abc", seals=0 if what == "unsealed" else fcntl.F_SEAL_SHRINK)
    (tmp_path / "file").write_bytes(bytes(4 * SLOT))
    file = os.open(tmp_path / "file", os.O_RDWR)
    passed_on = {"file": [file, writer], "none": [], "one": [memory]}.get(what, [memory, writer])
    before = opened()
    with imaged.Client(server.path, timeout=5) as client:
        said = answer((0, 3, 0), (3, 0, 0), size=3)
        server.answers = [(said, passed_on), b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nxyz"]
        assert client.get("a", "b").read() == b"xyz"
        assert b"\r\nImaged-Accept: extents\r\n" in server.heads[1]
        # Once, and not for ever.
        server.answers = [(said, passed_on)] * 2
        with pytest.raises(imaged.Internal, match=r"memory|descriptors"):
            client.get("a", "b")
    for peer in server.peers:
        peer.close()
    assert opened() <= before
    for one in (memory, reader, writer, file):
        os.close(one)
