"""The bytes of an image as a file of Python's own kind: `io.RawIOBase`."""

from __future__ import annotations

import array
import io
import os
import shutil
import uuid

import pytest

import imaged
from imaged import wire

BYTES = os.urandom(3_000_001)


def new() -> str:
    return str(uuid.uuid4())


@pytest.fixture(params=[True, False], ids=["by-descriptor", "through-the-socket"])
def body(request, client):
    id = client.put("fast", new(), BYTES).id

    def get(**part):
        return client.get("fast", id, by_descriptor=request.param, **part)

    return get


def test_it_is_a_raw_file(body):
    raw = body()
    assert isinstance(raw, io.RawIOBase)
    assert raw.readable() and not raw.writable() and not raw.seekable() and not raw.closed
    for call in (raw.fileno, raw.tell, lambda: raw.seek(0), raw.truncate):
        with pytest.raises(io.UnsupportedOperation):
            call()
    raw.close()
    assert raw.closed


@pytest.mark.parametrize("everything", [(), (-1,), (None,), (-5,)], ids=repr)
def test_a_read_without_a_number_reads_to_the_end(body, everything):
    raw = body()
    assert raw.read(3) == BYTES[:3]
    assert raw.read(*everything) == BYTES[3:]
    assert raw.read(*everything) == b"" and raw.read(10) == b"" and not raw.closed
    assert body().readall() == BYTES
    assert body(offset=7, length=1_500_000).read() == BYTES[7:1_500_007]


def test_a_read_with_a_number_reads_some(body):
    raw = body()
    assert raw.read(0) == b""
    got = bytearray()
    while piece := raw.read(1 << 40):
        got += piece
    assert got == BYTES
    assert raw.read(0) == b""


def test_reads_into_buffers(body):
    raw, room = body(), bytearray(100)
    assert raw.readinto(room) == 100 and room == BYTES[:100]
    assert raw.readinto(bytearray()) == 0
    numbers = array.array("I", [0] * 10)
    assert raw.readinto(numbers) == 40 and numbers.tobytes() == BYTES[100:140]
    for unfit in (b"bytes", "text", None, memoryview(bytearray(10))[::2]):
        with pytest.raises(TypeError):
            raw.readinto(unfit)
    large = bytearray(len(BYTES) * 2)
    at = 0
    while count := raw.readinto(memoryview(large)[at:]):
        at += count
    assert large[:at] == BYTES[140:]


def test_a_buffered_reader_over_it(body):
    with io.BufferedReader(body(), 10_000) as reader:
        assert reader.peek(1)[:1] == BYTES[:1]
        assert reader.read(123_456) == BYTES[:123_456]
        assert reader.read1(5) == BYTES[123_456:123_461]
        assert reader.read() == BYTES[123_461:] and reader.read() == b""
        raw = reader.raw
    assert raw.closed
    target = io.BytesIO()
    shutil.copyfileobj(body(), target)
    assert target.getvalue() == BYTES


def test_lines_come_through_what_is_made_for_them(client):
    id = client.put("fast", new(), b"one\ntwo\nthree").id
    with io.TextIOWrapper(io.BufferedReader(client.get("fast", id))) as text:
        assert list(text) == ["one\n", "two\n", "three"]
    # By itself it goes in pieces: an image has no lines.
    assert list(client.get("fast", id)) == [b"one\ntwo\nthree"]
    assert client.get("fast", id).readline() == b"one\n"


def test_an_empty_image_is_at_its_end_and_open(client):
    id = client.put("fast", new(), b"").id
    with client.get("fast", id) as raw:
        assert raw.read() == raw.read(5) == b"" and list(raw) == [] and not raw.closed
        assert raw.readinto(bytearray(5)) == 0


def test_one_that_was_closed_is_not_at_its_end(body):
    raw = body()
    raw.read(5)
    raw.close()
    raw.close()
    for call in (
        raw.read,
        lambda: raw.read(5),
        lambda: raw.read(0),
        lambda: raw.readinto(bytearray(5)),
        raw.readall,
        lambda: next(raw),
        lambda: list(raw),
        raw.readable,
    ):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_one_that_failed_is_not_at_its_end(daemon):
    client = imaged.Client(daemon.socket)
    id = client.put("fast", new(), os.urandom(16 << 20)).id
    body = client.get("fast", id, by_descriptor=False)
    body.read(5)
    daemon.kill()
    with pytest.raises(imaged.Lost):
        body.read()
    for call in (body.read, lambda: body.read(5), lambda: next(body), body.readall):
        with pytest.raises(imaged.Lost):
            call()


def rewritten(path: str) -> None:
    file = os.open(path, os.O_WRONLY)
    os.pwrite(file, b"other", 2_000_000)
    os.close(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.truncate(path, 1000),
        lambda path: os.truncate(path, 0),
        lambda path: os.truncate(path, len(BYTES) + 1),
        rewritten,
    ],
    ids=["cut", "emptied", "grown", "rewritten"],
)
def test_one_that_is_changed_under_its_reader_is_an_error(client, shared, change):
    """Where the bytes are read here, as where the daemon reads them."""
    id = client.put("fast", new(), BYTES).id
    body = client.get("fast", id)
    assert body.read(500) == BYTES[:500]
    change(f"{shared.dir}/fast/{id}")
    for call in (lambda: body.read(500), body.read, lambda: list(body), body.readall):
        with pytest.raises(imaged.Mismatch, match="changed"):
            call()


def test_one_that_is_changed_as_it_is_handed_over_is_an_error(client, shared, monkeypatch):
    id = client.put("fast", new(), BYTES).id
    descriptors = wire.Connection.descriptors

    def changed(self, count):
        os.truncate(f"{shared.dir}/fast/{id}", 1000)
        return descriptors(self, count)

    monkeypatch.setattr(wire.Connection, "descriptors", changed)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(imaged.Mismatch, match="changed"):
        client.get("fast", id)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_one_that_is_only_removed_or_renamed_is_read_to_its_end(client, shared):
    id = client.put("fast", new(), BYTES).id
    path = f"{shared.dir}/fast/{id}"
    body = client.get("fast", id)
    assert body.read(500) == BYTES[:500]
    os.rename(path, f"{path}-renamed")
    assert body.read(500) == BYTES[500:1000]
    os.unlink(f"{path}-renamed")
    assert body.read() == BYTES[1000:]


def test_one_image_is_the_source_of_another(body, client):
    raw = body()
    assert client.put("fast", new(), raw, size=raw.size).size == len(BYTES)
    assert client.put("fast", new(), io.BufferedReader(body())).size == len(BYTES)
