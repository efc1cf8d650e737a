"""The client against a real daemon."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import tempfile
import threading
import time
import uuid

import pytest
from conftest import until

import imaged
from imaged import source, wire

BYTES = os.urandom(3_000_001)


def new() -> str:
    return str(uuid.uuid4())


def descriptors() -> int:
    """Of plain files, that this process has open."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{name}").partition("/fast/")[1] != ""
    return found


class Reader:
    """Something that can only be read, in pieces of its own choice."""

    def __init__(self, content: bytes, most: int = 1 << 30) -> None:
        self.content, self.at, self.most, self.asked = content, 0, most, 0

    def read(self, count: int) -> bytes:
        self.asked = max(self.asked, count)
        piece = self.content[self.at : self.at + min(count, self.most)]
        self.at += len(piece)
        return piece


def test_an_image_is_put_read_and_deleted(client):
    id = new()
    receipt = client.put("fast", id, BYTES)
    assert receipt.size == len(BYTES) and receipt.id == id and receipt.store == "fast"
    assert receipt.checksum == hashlib.md5(BYTES).hexdigest()
    assert receipt.hash_algo == "sha512"
    assert receipt.hash_value == hashlib.sha512(BYTES).hexdigest()
    assert receipt.metadata == {"store": "fast"} and receipt.location.startswith("file:///")
    body = client.get("fast", id)
    assert body.size == body.total == len(BYTES)
    assert b"".join(body) == BYTES
    assert b"".join(client.get("fast", at=receipt.location)) == BYTES
    stat = client.stat("fast", id)
    assert stat.size == len(BYTES) and stat.location == receipt.location
    assert client.stat("fast", at=receipt.location).size == len(BYTES)
    client.delete("fast", id)
    with pytest.raises(imaged.NotFound) as none:
        client.stat("fast", id)
    assert none.value.status == 404 and id in none.value.message
    with pytest.raises(imaged.NotFound):
        client.get("fast", id)
    with pytest.raises(imaged.NotFound):
        client.delete("fast", at=receipt.location)


def test_a_part_is_read(client):
    id = new()
    client.put("fast", id, BYTES)
    body = client.get("fast", id, offset=5, length=1_000_000)
    assert body.size == 1_000_000 and body.total == len(BYTES)
    assert b"".join(body) == BYTES[5:1_000_005]
    assert b"".join(client.get("fast", id, offset=2_999_990)) == BYTES[2_999_990:]
    assert client.get("fast", id, length=3).read() == BYTES[:3]
    with pytest.raises(imaged.Range) as past:
        client.get("fast", id, offset=3_000_001)
    assert past.value.status == 416
    with pytest.raises(imaged.Invalid):
        client.get("fast", id, offset=-1)


@pytest.mark.parametrize("size", [0, 1, 65536, 1 << 20, (1 << 20) + 1])
def test_images_of_every_size_are_whole(client, size):
    content = os.urandom(size)
    for said in (None, size):
        id = new()
        assert client.put("fast", id, Reader(content, 1000), size=said).size == size
        assert b"".join(client.get("fast", id)) == content


def test_every_form_of_a_source_is_taken(client):
    forms = (
        bytearray(BYTES),
        memoryview(BYTES),
        Reader(BYTES),
        Reader(BYTES, 70_001),
        io.BytesIO(BYTES),
        iter([BYTES[:10], b"", BYTES[10:2_000_000], BYTES[2_000_000:]]),
    )
    for form in forms:
        id = new()
        assert client.put("fast", id, form).checksum == hashlib.md5(BYTES).hexdigest()
        client.delete("fast", id)
    with pytest.raises(TypeError):
        client.put("fast", new(), "text")


def test_a_source_is_asked_for_little_at_a_time(client):
    reader = Reader(BYTES)
    client.put("fast", new(), reader)
    assert reader.asked == 256 << 10
    sent = [len(piece) for piece in source.pieces(Reader(BYTES, 8000), None, None)]
    assert len(sent) == 3 and sum(sent) == len(BYTES)


def test_a_slow_source_is_asked_for_less(monkeypatch):
    asked = []

    class Slow(Reader):
        def read(self, count: int) -> bytes:
            asked.append(count)
            if len(asked) == 3:
                time.sleep(0.1)
            return super().read(count)

    monkeypatch.setattr(source, "SLOW", 0.05)
    assert sum(len(piece) for piece in source.pieces(Slow(BYTES), None, None)) == len(BYTES)
    assert [count >> 10 for count in asked[:5]] == [64, 256, 256, 64, 256]


def test_the_bytes_of_a_slow_source_do_not_wait(monkeypatch):
    monkeypatch.setattr(source, "LATEST", 0.05)

    def slow():
        for _ in range(8):
            yield b"x" * 10
            time.sleep(0.02)

    sent = [len(piece) for piece in source.pieces(slow(), None, None)]
    assert sum(sent) == 80 and 1 < len(sent) < 8


def test_a_plain_file_goes_by_descriptor_from_where_it_stands(client, tmp_path, monkeypatch):
    monkeypatch.setattr(source, "pieces", None)
    path = tmp_path / "image"
    path.write_bytes(BYTES)
    with path.open("rb") as file:
        file.read(10)
        id = new()
        assert client.put("fast", id, file, hash_algo="sha256").size == len(BYTES) - 10
        assert file.read() == b""
    assert b"".join(client.get("fast", id)) == BYTES[10:]
    with path.open("rb", buffering=0) as file:
        assert client.put("fast", new(), file, size=len(BYTES)).size == len(BYTES)
    with tempfile.TemporaryFile() as file:
        file.write(BYTES[:100])
        file.seek(1)
        assert client.put("fast", new(), file).checksum == hashlib.md5(BYTES[1:100]).hexdigest()


def test_what_is_not_certainly_the_same_bytes_is_sent(client, tmp_path):
    path = tmp_path / "image.gz"
    with gzip.open(path, "wb") as file:
        file.write(BYTES)
    with gzip.open(path, "rb") as file:
        assert source.descriptor(file, None) is None
        assert client.put("fast", new(), file).checksum == hashlib.md5(BYTES).hexdigest()
    with path.open("rb") as file:
        # Said to be of another size: found out by reading.
        assert source.descriptor(file, 5) is None
        with pytest.raises(imaged.Mismatch):
            client.put("fast", new(), file, size=5)
    with path.open("ab") as file:
        assert source.descriptor(file, None) is None
    ours, theirs = os.pipe()
    with os.fdopen(ours, "rb") as pipe, os.fdopen(theirs, "wb") as end:
        end.write(b"piped")
        end.close()
        assert source.descriptor(pipe, None) is None
        assert client.put("fast", new(), pipe).size == 5
    with open("/proc/self/status", "rb") as file:
        assert client.put("fast", new(), file).size > 0


def test_a_watcher_sees_every_byte(client, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(BYTES)
    seen = hashlib.md5()
    with path.open("rb") as file:
        receipt = client.put("fast", new(), file, watch=seen.update)
    assert receipt.checksum == seen.hexdigest()


def test_an_image_of_the_wrong_size_is_refused_and_leaves_nothing(client, shared):
    for said in (len(BYTES) - 1, len(BYTES) + 1):
        id = new()
        with pytest.raises(imaged.Mismatch):
            client.put("fast", id, Reader(BYTES), size=said)
        assert not (shared.dir / "fast" / id).exists()
        assert client.put("fast", id, BYTES).size == len(BYTES)


def test_a_source_that_fails_leaves_nothing_and_its_error_is_the_callers(client):
    def failing():
        yield BYTES
        raise RuntimeError("the source")

    id = new()
    with pytest.raises(RuntimeError, match="the source"):
        client.put("fast", id, failing())
    with pytest.raises(imaged.NotFound):
        client.get("fast", id)
    client.put("fast", id, BYTES)


def test_a_refused_put_takes_nothing_of_its_source(client):
    id = new()
    client.put("fast", id, b"first")
    reader = Reader(BYTES)
    with pytest.raises(imaged.Exists) as taken:
        client.put("fast", id, reader)
    assert taken.value.status == 409 and taken.value.code == "Exists" and reader.asked == 0
    assert b"".join(client.get("fast", id)) == b"first"


def test_errors_are_told_as_they_are(client):
    with pytest.raises(imaged.NotFound):
        client.put("nowhere", new(), b"x")
    with pytest.raises(imaged.Invalid):
        client.put("fast", new(), b"x", hash_algo="crc32")
    with pytest.raises(imaged.Unsupported):
        client.put("frozen", new(), b"x")
    with pytest.raises(imaged.Invalid):
        client.stat("fast", at="no location")
    with pytest.raises(imaged.Invalid):
        client.stat("fast", at="file:///\udcff")
    with pytest.raises(imaged.NotFound):
        client.job("no-job")
    with pytest.raises(TypeError):
        client.get("fast")
    for code, kind in imaged.errors.CODES.items():
        body = b'{"code": "%s", "detail": "why", "left": "that"}' % code.encode()
        error = imaged.errors.from_answer(500, {"content-type": "application/problem+json"}, body)
        assert type(error) is kind and str(error) == "why" and error.left == "that"
        assert kind.code == code and getattr(imaged, code) is kind
    plain = imaged.errors.from_answer(503, {"imaged-problem": "down"}, b"")
    assert type(plain) is imaged.Unavailable and str(plain) == "down"


@contextlib.contextmanager
def user(number: int):
    os.seteuid(number)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_who_may_not_is_told_what_would_let_him(shared):
    client = imaged.Client(shared.socket)
    with user(60000), pytest.raises(imaged.Denied, match="60000:") as denied:
        client.stores()
    assert denied.value.status == 403
    client.close()
    with user(60001):
        assert client.stores()
        reader = Reader(b"x")
        with pytest.raises(imaged.Denied):
            client.put("fast", new(), reader)
        assert not reader.asked
    client.close()
    with user(60002):
        id = new()
        client.put("fast", id, b"x")
        with pytest.raises(imaged.Denied):
            client.delete("fast", id)
    client.close()


def test_what_a_store_cannot_take_is_told_so(client):
    with pytest.raises(imaged.Full):
        client.put("small", new(), BYTES)
    with pytest.raises(imaged.TooLarge):
        client.put("fast", new(), Reader(b"x"), size=1 << 63)
    for call in (
        lambda: client.put("broken", new(), b"x"),
        lambda: client.get("broken", new()),
        lambda: client.stat("broken", new()),
        lambda: client.delete("broken", new()),
    ):
        with pytest.raises(imaged.Unavailable) as down:
            call()
        assert type(down.value) is imaged.Unavailable and down.value.status == 503
    assert client.store("broken").state == "down"


def test_the_stores_are_told(client):
    stores = {store.id: store for store in client.stores()}
    assert stores["fast"].default and stores["fast"].type == "file"
    assert stores["frozen"].read_only
    one = client.store("fast")
    assert one.state == "up" and one.capacity and one.capacity["total"] > 0
    assert one.properties["chunk_size"] == 65536


def test_an_image_is_copied_and_its_job_told(client):
    id, copied = new(), new()
    first = client.put("fast", id, BYTES)
    receipt = client.copy("fast", copied, location=first.location, from_store="fast")
    if receipt.digest_job:
        assert client.job(receipt.digest_job, wait=10).over
    assert b"".join(client.get("fast", copied)) == BYTES
    asked = f"req-{new()}"
    stream = client.copy("fast", new(), location=first.location, mode="stream", request_id=asked)
    assert stream.checksum == first.checksum
    jobs = {job.id: job for job in client.jobs()}
    assert jobs[asked].kind == "copy" and jobs[asked].state == "done"
    with pytest.raises(imaged.InUse):
        client.cancel(asked)
    with pytest.raises(imaged.Unsupported):
        client.copy("fast", new(), rbd_volume="volumes/one")


def test_connections_are_kept_and_used_again(shared, monkeypatch):
    made = []
    begin = wire.Connection.__init__

    def count(self, *args):
        made.append(self)
        begin(self, *args)

    monkeypatch.setattr(wire.Connection, "__init__", count)
    client = imaged.Client(shared.socket)
    id = new()
    client.put("fast", id, BYTES)
    for _ in range(5):
        assert len(b"".join(client.get("fast", id))) == len(BYTES)
        client.stat("fast", id)
        with pytest.raises(imaged.NotFound):
            client.stat("fast", new())
        with pytest.raises(imaged.NotFound):
            client.get("fast", new())
        client.stores()
    assert len(made) == 1
    # A change has a connection of its own, which is not kept beside another.
    client.delete("fast", id)
    assert len(made) == 2 and len(client._idle) == 1
    for _ in range(5):
        client.delete("fast", client.put("fast", new(), b"x").id)
    assert len(client._idle) == 1
    client.close()


def test_a_read_that_is_given_up_ends_its_connection(shared):
    client = imaged.Client(shared.socket)
    id = new()
    client.put("fast", id, os.urandom(8 << 20))
    client.close()
    before = shared.settled()
    for end in (lambda body: body.close(), lambda body: None):
        body = client.get("fast", id, by_descriptor=False)
        assert body.read(10)
        assert shared.connections() == before + 1
        end(body)
        del body
        until(lambda: shared.connections() == before)
    with client.get("fast", id, by_descriptor=False) as body:
        body.read(1)
    assert body.closed and not client._idle


def test_a_plain_file_is_read_by_descriptor(daemon):
    client = imaged.Client(daemon.socket)
    id, empty = new(), new()
    client.put("fast", id, BYTES)
    client.put("fast", empty, b"")
    small = client.put("small", new(), b"in memory").id
    before = descriptors()
    for offset, length in ((0, None), (5, None), (0, 7), (100, 300_000), (len(BYTES) - 1, 1)):
        with client.get("fast", id, offset=offset, length=length) as body:
            wanted = BYTES[offset:] if length is None else BYTES[offset : offset + length]
            assert (body.size, body.total) == (len(wanted), len(BYTES))
            # The connection serves the next one while this one is read.
            assert len(client._idle) == 1 and descriptors() == before + 1
            assert b"".join(body) == wanted and body.read() == b""
        assert descriptors() == before
    assert b"".join(client.get("fast", empty)) == b"" and descriptors() == before
    with pytest.raises(imaged.NotFound):
        client.get("fast", new())
    # Where there is no plain file, the bytes come as ever.
    assert b"".join(client.get("small", small)) == b"in memory"
    for end in (lambda body: body.close(), lambda body: None):
        body = client.get("fast", id)
        assert body.read(10) == BYTES[:10]
        end(body)
        del body
        assert descriptors() == before
    # It needs the daemon no more, and is the image that it was.
    body = client.get("fast", id)
    client.delete("fast", id)
    daemon.kill()
    assert b"".join(body) == BYTES


def test_a_plain_file_that_is_cut_short_is_an_error(client, shared):
    id = new()
    client.put("fast", id, BYTES)
    before = descriptors()
    body = client.get("fast", id)
    os.truncate(f"{shared.dir}/fast/{id}", 1000)
    with pytest.raises(imaged.Mismatch, match="changed"):
        body.read()
    assert descriptors() == before


def test_many_threads_use_one_client(client):
    failures = []

    def work(number: int) -> None:
        try:
            for turn in range(8):
                content = os.urandom(200_000 + number)
                id = new()
                client.put("fast", id, content if turn % 2 else Reader(content, 7000))
                assert b"".join(client.get("fast", id)) == content
                client.delete("fast", id)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_the_default_socket(monkeypatch):
    monkeypatch.delenv("IMAGED_SOCKET", raising=False)
    assert imaged.Client().socket == "/run/imaged/imaged.sock"
    with pytest.raises(imaged.Unreachable, match="nothing-here"):
        imaged.Client("/nothing-here").stores()
