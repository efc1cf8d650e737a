"""The client as its users first meet it, with input of every kind."""

from __future__ import annotations

import copy
import datetime
import hashlib
import io
import os
import pickle
import re
import subprocess
import sys
import textwrap
import types
import typing
import uuid
from pathlib import Path

import pytest
from conftest import beside
from servers import Scripted

import imaged

BYTES = os.urandom(2_500_001)
SHA512 = hashlib.sha512(BYTES).hexdigest()
MD5 = hashlib.md5(BYTES).hexdigest()


def new() -> str:
    return str(uuid.uuid4())


@pytest.fixture(params=[True, False], ids=["by-descriptor", "through-the-socket"])
def by_descriptor(request):
    return request.param


def test_a_client_closes_what_it_keeps_at_the_end_of_a_with(shared):
    with imaged.Client(shared.socket) as client:
        client.stores()
        assert len(client._idle) == 1
    assert not client._idle
    with pytest.raises(RuntimeError, match="mine"), imaged.Client(shared.socket) as client:
        client.stores()
        raise RuntimeError("mine")
    assert not client._idle
    # It can be used again.
    assert client.stores()
    client.close()


def test_a_copy_of_a_client_has_connections_of_its_own(shared):
    with imaged.Client(shared.socket, timeout=7, connections=3) as client:
        client.stores()
        for made in (copy.copy(client), copy.deepcopy(client), pickle.loads(pickle.dumps(client))):
            assert not made._idle and (made.socket, made.timeout) == (client.socket, 7)
            assert made.stores()
            made.close()
        assert len(client._idle) == 1
    error = pickle.loads(pickle.dumps(imaged.NotFound("why", status=404, location="a")))
    assert (str(error), error.status, error.location) == ("why", 404, "a")


def test_no_patience_is_too_long(tmp_path):
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    for number, seconds in enumerate((1e300, 3e6)):
        Scripted(path := str(tmp_path / str(number)), [0.1, whole])
        assert imaged.Client(path, timeout=seconds)._asked("/") == {}


def test_a_socket_is_a_path_of_any_kind(shared, monkeypatch):
    monkeypatch.setenv("IMAGED_SOCKET", "/from-the-environment")
    for none in (None, ""):
        assert imaged.Client(none).socket == "/from-the-environment"
    with imaged.Client(Path(shared.socket)) as client:
        assert client.socket == shared.socket and client.stores()
        assert repr(client) == f"imaged.Client({shared.socket!r})"
    for wrong in (5, b"/bytes", object(), ["/a"]):
        with pytest.raises(TypeError):
            imaged.Client(wrong)
    for nowhere in ("/nowhere", "/" + "long" * 100, "\0nobody"):
        with pytest.raises(imaged.Unreachable):
            imaged.Client(nowhere).stores()


@pytest.mark.parametrize("name", ["timeout", "longest"])
def test_seconds_are_seconds(name):
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(imaged.Invalid, match=name):
            imaged.Client("/a", **{name: wrong})
    for wrong in ("5", True, datetime.timedelta(seconds=5), [5]):
        with pytest.raises(TypeError, match=name):
            imaged.Client("/a", **{name: wrong})
    assert imaged.Client("/a", timeout=1, longest=2.5).timeout == 1.0


def test_the_version_is_that_of_the_package_and_of_the_daemon():
    from importlib import metadata

    assert imaged.__version__ == metadata.version("imaged")
    found = re.search(r'^version = "(.*)"', beside("Cargo.toml").read_text(), re.MULTILINE)
    assert found and found[1] == imaged.__version__


def test_all_that_is_public_is_named_and_documented():
    for name in imaged.__all__:
        one = getattr(imaged, name)
        if isinstance(one, type):
            assert one.__doc__, name
            for own, member in vars(one).items():
                if own.startswith("_") or not callable(member):
                    continue
                assert member.__doc__, f"{name}.{own}"
                # As programs read them that check calls, or write a reference.
                if isinstance(member, types.FunctionType):
                    assert "return" in typing.get_type_hints(member), f"{name}.{own}"


# Digests


def test_a_whole_image_is_verified_as_it_is_read(client, by_descriptor):
    id = client.put("fast", new(), BYTES).id
    for read in (
        lambda body: body.read(),
        b"".join,
        lambda body: b"".join(iter(lambda: body.read(1000), b"")),
        lambda body: io.BufferedReader(body).read(len(BYTES)),
    ):
        body = client.get("fast", id, by_descriptor=by_descriptor)
        assert body.verified is None
        assert read(body) == BYTES
        assert body.verified == "sha512" and body.done == body.size
    same = client.get("fast", id, length=len(BYTES), by_descriptor=by_descriptor)
    assert same.read() == BYTES and same.verified == "sha512"
    for part in ({"offset": 1}, {"length": 5}, {"verify": False}):
        body = client.get("fast", id, by_descriptor=by_descriptor, **part)
        body.read()
        assert body.verified is None and body.digests["sha512"] == SHA512
    half = client.get("fast", id, by_descriptor=by_descriptor)
    half.read(10)
    half.close()
    assert half.verified is None
    empty = client.get("fast", client.put("fast", new(), b"").id, by_descriptor=by_descriptor)
    assert empty.read() == b"" and empty.verified == "sha512"


@pytest.mark.parametrize(
    ("algo", "verified"), [("sha256", "sha256"), ("sha1", "sha1"), ("blake2b", "md5")]
)
def test_the_strongest_digest_that_is_known_decides(client, algo, verified):
    body = client.get("fast", client.put("fast", new(), BYTES, hash_algo=algo).id)
    assert body.read() == BYTES and body.verified == verified


def damaged(shared, client) -> str:
    """An image of which a byte is another than was stored, with the times that it had."""
    id = client.put("fast", new(), BYTES).id
    path = shared.dir / "fast" / id
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(1_000_000)
        file.write(bytes([BYTES[1_000_000] ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return id


def test_an_image_that_is_not_what_was_stored_is_never_read_to_its_end(
    client, shared, by_descriptor
):
    id = damaged(shared, client)

    def exactly(body):
        left = len(BYTES)
        while left:
            left -= len(body.read(left))

    for read in (
        lambda body: body.read(),
        list,
        exactly,
        lambda body: io.BufferedReader(body).read(),
        lambda body: body.readinto(bytearray(len(BYTES))) and exactly(body),
    ):
        body = client.get("fast", id, by_descriptor=by_descriptor)
        with pytest.raises(imaged.Mismatch, match=rf"sha512 known={SHA512}"):
            read(body)
        assert body.verified is None
        # The error stays; a buffer that is gone has closed it.
        with pytest.raises(ValueError if body.closed else imaged.Mismatch):
            body.read()
    assert len(client.get("fast", id, verify=False).read()) == len(BYTES)


def answered(tmp_path, *answers) -> imaged.Client:
    server = Scripted(path := str(tmp_path / new()), *answers)
    client = imaged.Client(path, timeout=5)
    client.server = server
    return client


@pytest.mark.parametrize(
    "digest", ["sha-512=:AAAA:", "md5=::", "md5", "sha-512=::, ,=", "crc32=:AAAA:", "md5=:no:"]
)
def test_a_digest_that_is_none_fails_no_image(tmp_path, digest):
    head = f"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nRepr-Digest: {digest}\r\n\r\nabc".encode()
    body = answered(tmp_path, [head]).get("a", "b")
    assert body.read() == b"abc" and body.verified is None


def test_an_empty_image_that_should_not_be_empty_is_refused(tmp_path):
    field = imaged.records.repr_digest({"md5": MD5})
    head = f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nRepr-Digest: {field}\r\n\r\n".encode()
    with pytest.raises(imaged.Mismatch):
        answered(tmp_path, [head]).get("a", "b")


def test_what_is_promised_of_an_image_holds_or_it_is_not_stored(client, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(BYTES)
    for algo in ("sha512", "sha256", "sha1"):
        right = {"md5": MD5, algo: hashlib.new(algo, BYTES).hexdigest().upper()}
        with path.open("rb") as file:
            for image in (BYTES, file):
                receipt = client.put("fast", new(), image, digests=right)
                assert receipt.hash_algo == algo
        wrong = {algo: hashlib.new(algo, b"other").hexdigest()}
        with path.open("rb") as file:
            for image in (BYTES, file):
                id = new()
                with pytest.raises(imaged.Mismatch, match="promised"):
                    client.put("fast", id, image, digests=wrong)
                with pytest.raises(imaged.NotFound):
                    client.stat("fast", id)
    assert client.put("fast", new(), BYTES, digests={"md5": MD5}).hash_algo == "sha512"
    assert client.put("fast", new(), BYTES, digests={}, hash_algo="md5").hash_algo == "md5"
    only = client.put("fast", new(), BYTES, digests={"md5": MD5}, hash_algo="blake2b")
    assert only.hash_algo == "blake2b"


@pytest.mark.parametrize(
    ("digests", "algo"),
    [
        ({"md5": "no hex"}, None),
        ({"md5": MD5[:-1]}, None),
        ({"md5": MD5 + "00"}, None),
        ({"md5": ""}, None),
        ({"md5": f" {MD5}"}, None),
        ({"md5": f"{MD5[:2]} {MD5[2:]}"}, None),
        ({"md5": "é" * 32}, None),
        ({"sha512": MD5}, None),
        ({"blake2b": SHA512}, None),
        ({"nothing": "00"}, None),
        ({"sha512": SHA512, "sha256": SHA512[:64]}, None),
        ({"sha512": SHA512}, "sha256"),
    ],
    ids=repr,
)
def test_what_can_be_no_promise_is_refused_before_the_daemon_hears_of_it(digests, algo):
    with pytest.raises(imaged.Invalid):
        imaged.Client("/no-daemon").put("fast", "id", b"", digests=digests, hash_algo=algo)


@pytest.mark.parametrize("digests", ["md5", ["md5"], 5, {"md5": None}, {"md5": b"a"}], ids=repr)
def test_digests_are_named_texts(digests):
    with pytest.raises(TypeError, match="digest"):
        imaged.Client("/no-daemon").put("fast", "id", b"", digests=digests)


# Conditions


def test_conditions_are_judged_before_anything_is_done(client):
    id = client.put("fast", new(), BYTES).id
    etag = client.stat("fast", id).etag
    assert etag == f'"{MD5}"' == client.get("fast", id).etag
    for same in (etag, MD5, "*", f'"other", {etag}'):
        assert client.stat("fast", id, if_match=same).size == len(BYTES)
        assert client.get("fast", id, if_match=same).read() == BYTES
        for ask in (client.stat, client.get):
            with pytest.raises(imaged.NotModified) as told:
                ask("fast", id, if_none_match=same)
            assert told.value.status == 304 and "if_none_match" in told.value.message
    for other in ('"other"', "other", SHA512):
        assert client.stat("fast", id, if_none_match=other).size == len(BYTES)
        assert client.get("fast", id, if_none_match=other).read() == BYTES
        for ask in (client.stat, client.get, client.delete):
            with pytest.raises(imaged.Precondition):
                ask("fast", id, if_match=other)
    # What is refused is read in full: the connection is used again.
    assert len(client._idle) == 1
    client.delete("fast", id, if_match=etag)
    with pytest.raises(imaged.NotFound):
        client.stat("fast", id, if_match="*")
    unknown = client.put("fast", new(), BYTES)
    os.removexattr(unknown.location.removeprefix("file://"), "user.imaged.digests")
    assert client.stat("fast", unknown.id).etag is None


@pytest.mark.parametrize("etag", ["a\r\nX-Other: b", "ü", "", 5, b"etag", "a\0"], ids=repr)
def test_what_is_no_etag_is_refused_before_the_daemon_hears_of_it(etag):
    client = imaged.Client("/no-daemon")
    for ask in (
        lambda: client.get("fast", "id", if_match=etag),
        lambda: client.stat("fast", "id", if_none_match=etag),
        lambda: client.delete("fast", "id", if_match=etag),
    ):
        with pytest.raises((imaged.Invalid, TypeError)):
            ask()


# Lists


def test_the_images_of_a_store_are_listed(daemon):
    with imaged.Client(daemon.socket) as client:
        assert list(client.images("fast")) == []
        # More than come in one chunk of the answer.
        wanted = {}
        for number in range(1300):
            (daemon.dir / "fast" / f"image-{number}").write_bytes(b"x" * number)
            wanted[f"image-{number}"] = number
        listed = list(client.images("fast"))
        assert {one.id: one.size for one in listed} == wanted
        assert listed[0].location == f"file://{daemon.dir}/fast/{listed[0].id}"
        assert len(client._idle) == 1
        with pytest.raises(imaged.NotFound):
            client.images("nowhere")
        with pytest.raises(imaged.Unavailable):
            client.images("broken")
        for end in (lambda images: images.close(), lambda images: None):
            images = client.images("fast")
            next(images)
            end(images)
            del images
        with client.images("fast") as images:
            next(images)
        with pytest.raises(ValueError, match="closed"):
            next(images)
        assert list(client.images("other")) == []


LINES = b'{"id": "a", "location": "file:///a", "size": 1, "new": {}}\n' * 2
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def in_chunks(content: bytes, size: int) -> bytes:
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    return b"".join(b"%X;name=value\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


@pytest.mark.parametrize("size", [1, 7, 58, 59, 1000])
def test_a_list_in_chunks_of_every_size_is_read(tmp_path, size):
    whole = CHUNKED + in_chunks(LINES, size) + b"0\r\nTrailer: x\r\n\r\n"
    kept = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    for sent in ([whole + kept], [whole[at : at + 1] for at in range(len(whole))]):
        client = answered(tmp_path, sent)
        assert [one.id for one in client.images("a")] == ["a", "a"]
    length = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(LINES)
    assert len(list(answered(tmp_path, [length + LINES]).images("a"))) == 2


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b"0",
        b"0\r\n",
        b"5\r\n{}",
        b"3\r\n{}\n",
        b"3\r\n{}\n\r",
        b"3\r\n{}\nxx\r\n0\r\n\r\n",
        b"-1\r\n\r\n",
        b"+1\r\n\n\r\n",
        b"0x1\r\n\n\r\n",
        b"1_0\r\n",
        b"\r\n",
        b"x" * 70_000,
        b"3\r\n{}\n\r\n0\r\n\r\n",
        b"2\r\n{}\r\n0\r\n\r\n",
        b"5\r\nnull\n\r\n0\r\n\r\n",
        b"3\r\n[]\n\r\n0\r\n\r\n",
        b"5\r\n\xff\xff\xff\xff\n\r\n0\r\n\r\n",
        in_chunks(b"x" * (3 << 20), 1 << 20),
    ],
    ids=lambda rest: str(rest[:20]),
)
def test_a_list_that_is_cut_or_none_is_never_taken_for_the_whole(tmp_path, rest):
    images = answered(tmp_path, [CHUNKED + in_chunks(LINES, 10) + rest]).images("a")
    found = []
    for _ in range(2):
        with pytest.raises((imaged.Lost, imaged.Internal)):
            found += images
    assert len(found) <= 2


def test_a_list_that_stops_is_not_waited_for_for_ever(tmp_path):
    client = imaged.Client(str(tmp_path / "socket"), timeout=0.1)
    Scripted(client.socket, [CHUNKED + b"3", 1.0])
    with pytest.raises(imaged.Timeout):
        list(client.images("a"))


def test_a_list_that_was_interrupted_is_not_at_its_end(client, monkeypatch):
    client.put("other", new(), b"x")
    images = client.images("other")

    def interrupted(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(imaged.wire.Connection, "read_chunked", interrupted)
        next(images)
    with pytest.raises(ValueError, match="closed"):
        next(images)
    assert list(client.images("other"))


def test_an_image_in_chunks_has_no_length(tmp_path):
    with pytest.raises(imaged.Internal, match="no length"):
        answered(tmp_path, [CHUNKED + in_chunks(b"abc", 1) + b"0\r\n\r\n"]).get("a", "b")


# The daemon


def test_the_health_of_the_daemon_is_told(client, daemon, tmp_path):
    assert client.health() == imaged.Health(ready=True)
    with imaged.Client(daemon.socket) as other:
        daemon.kill()
        with pytest.raises(imaged.Unreachable):
            other.health()
    problem = b'{"code": "Unavailable", "detail": "the default store is down"}'
    refused = (
        b"HTTP/1.1 503 No\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\n\r\n%s"
        % (len(problem), problem)
    )
    told = answered(tmp_path, [refused]).health()
    assert told == imaged.Health(ready=False, reason="the default store is down")
    with pytest.raises(imaged.Lost):
        answered(tmp_path, [], []).health()


def test_metrics_are_the_text_that_prometheus_reads(client):
    text = client.metrics()
    assert "\nimaged_journal_entries " in text and text.endswith("# EOF\n")
    assert client.metrics() and len(client._idle) == 1


# Progress


def test_a_reader_is_told_of_every_byte(client, by_descriptor):
    id = client.put("fast", new(), BYTES).id
    seen = []
    body = client.get("fast", id, watch=seen.append, by_descriptor=by_descriptor)
    first = body.read(1000)
    assert seen == [first] and body.done == len(first)
    body.read()
    assert b"".join(seen) == BYTES and body.done == body.total == len(BYTES)
    part = client.get("fast", id, offset=5, length=10, watch=seen.append)
    part.read()
    assert seen[-1] == BYTES[5:15] and part.done == 10

    def tired(piece):
        raise RuntimeError("enough")

    body = client.get("fast", id, watch=tired, by_descriptor=by_descriptor)
    with pytest.raises(RuntimeError, match="enough"):
        body.read()
    assert body.closed


# Names and types


@pytest.mark.parametrize("wrong", [5, None, b"bytes", uuid.uuid4(), ["a"], Path("a")], ids=repr)
def test_names_are_text(wrong):
    client = imaged.Client("/no-daemon")
    calls = [
        lambda: client.put(wrong, "id", b""),
        lambda: client.put("store", wrong, b""),
        lambda: client.get(wrong, "id"),
        lambda: client.stat("store", wrong),
        lambda: client.delete("store", wrong),
        lambda: client.copy("store", wrong, location="a"),
        lambda: client.store(wrong),
        lambda: client.images(wrong),
        lambda: client.job(wrong),
        lambda: client.cancel(wrong),
        lambda: client.share(wrong, "id"),
        lambda: client.get("store", at=wrong),
    ]
    if wrong is not None:
        calls.append(lambda: client.put("store", "id", b"", hash_algo=wrong))
    for call in calls:
        with pytest.raises(TypeError):
            call()


def test_an_empty_name_is_no_name_of_something_else():
    client = imaged.Client("/no-daemon")
    for call in (
        lambda: client.put("", "id", b""),
        lambda: client.put("store", "", b""),
        lambda: client.get("store", ""),
        lambda: client.stat("", "id"),
        lambda: client.delete("store", ""),
        lambda: client.store(""),
        lambda: client.images(""),
        lambda: client.job(""),
        lambda: client.cancel(""),
        lambda: client.share("store", ""),
    ):
        with pytest.raises(imaged.Invalid, match="empty"):
            call()


@pytest.mark.parametrize("name", ["../fast", "a/b", "a?b", "a#b", "a b", "%2e", "ü", "\r\n", "."])
def test_a_name_leads_nowhere_else(client, name):
    for call in (
        lambda: client.stat("fast", name),
        lambda: client.stat(name, "id"),
        lambda: client.store(name),
        lambda: client.job(name),
        lambda: client.delete("fast", name),
    ):
        with pytest.raises((imaged.NotFound, imaged.Invalid)):
            call()


@pytest.mark.parametrize(
    ("call", "raised"),
    [
        (lambda client: client.put("a", "b", b"", size=-1), imaged.Invalid),
        (lambda client: client.put("a", "b", b"", size="5"), TypeError),
        (lambda client: client.put("a", "b", b"", size=5.0), TypeError),
        (lambda client: client.put("a", "b", b"", watch=5), TypeError),
        (lambda client: client.put("a", "b", Path("c")), TypeError),
        (lambda client: client.put("a", "b", b"", token="a b"), imaged.Invalid),
        (lambda client: client.put("a", "b", b"", token="a\r\nb"), imaged.Invalid),
        (lambda client: client.put("a", "b", b"", project="a b"), imaged.Invalid),
        (lambda client: client.put("a", "b", b"", project="a" * 65), imaged.Invalid),
        (lambda client: client.put("a", "b", b"", token=5), TypeError),
        (lambda client: client.put("a", "b", b"", project=5), TypeError),
        (lambda client: client.stat("a", "b", request_id=b"req-1"), TypeError),
        (lambda client: imaged.Client("/a", connections=-1), imaged.Invalid),
        (lambda client: imaged.Client("/a", connections=1.5), TypeError),
        (lambda client: client.get("a", "b", watch="c"), TypeError),
        (lambda client: client.get("a", "b", offset="5"), TypeError),
        (lambda client: client.get("a", "b", offset=1.5), TypeError),
        (lambda client: client.get("a", "b", length="5"), TypeError),
        (lambda client: client.get("a", "b", length=0), imaged.Invalid),
        (lambda client: client.get("a", "b", length=-1), imaged.Invalid),
        (lambda client: client.get("a", "b", at="c"), TypeError),
        (lambda client: client.get("a"), TypeError),
        (lambda client: client.job("a", wait="5"), TypeError),
        (lambda client: client.share("a", "b", read="project"), TypeError),
        (lambda client: client.share("a", "b", write="project"), TypeError),
    ],
)
def test_wrong_input_is_refused_before_the_daemon_hears_of_it(call, raised):
    with pytest.raises(raised):
        call(imaged.Client("/no-daemon"))


def test_a_path_is_told_to_be_opened():
    with pytest.raises(TypeError, match=r"open\('disk.raw', 'rb'\)"):
        imaged.Client("/no-daemon").put("a", "b", Path("disk.raw"))


def test_what_the_daemon_cannot_do_is_told_by_it(client):
    for call in (
        lambda: client.copy("fast", new()),
        lambda: client.copy("fast", new(), location="a", rbd_volume="b"),
        lambda: client.copy("fast", new(), location="a", mode="other"),
        lambda: client.job("a", wait=-1),
    ):
        with pytest.raises((imaged.Invalid, imaged.NotFound)):
            call()


def test_what_a_newer_daemon_says_beside_is_passed_over(tmp_path):
    store = b'{"id": "a", "type": "file", "state": "up", "newer": {"b": [1]}}'
    text = b'{"stores": [%s], "newer": 1}' % store
    told = answered(tmp_path, [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text])
    assert told.stores() == [imaged.Store(id="a", type="file", state="up")]
    for kind, text in (
        (imaged.Receipt, {"store": "a", "id": "b", "location": "c", "size": 1, "hash_algo": "d"}),
        (imaged.Job, {"id": "a", "kind": "b", "store": "c", "image": "d", "state": "done"}),
        (imaged.Image, {"id": "a", "location": "b", "size": 1}),
    ):
        assert imaged.records.read(kind, {**text, "newer": 1}) == kind(**text)


TYPED = """
    import array, io, mmap, pathlib, tempfile
    import imaged

    def pieces() -> "list[bytes]":
        return [b"a"]

    class Reads:
        def read(self, size: int, /) -> "bytes | None":
            return None

    client = imaged.Client(pathlib.Path("/a"))
    for image in (b"a", bytearray(), memoryview(b""), array.array("I"), mmap.mmap(-1, 1)):
        client.put("a", "b", image)
    with open("a", "rb") as file, tempfile.TemporaryFile() as temporary:
        client.put("a", "b", file)
        client.put("a", "b", temporary)
    client.put("a", "b", io.BytesIO())
    client.put("a", "b", iter(pieces()))
    client.put("a", "b", (piece for piece in pieces()))
    client.put("a", "b", Reads())
    client.put("a", "b", client.get("a", "b"))
    source: imaged.Source = b"a"
    size: int = next(client.images("a")).size
    with imaged.Client() as other:
        version: str = imaged.__version__ + other.metrics()
"""
WRONG = """
    import imaged
    imaged.Client().put("a", "b", 5)
    imaged.Client().put("a", "b", "text")
    imaged.Client().put("a", "b", None)
    imaged.Client(5)
    imaged.Client().put("a", 5, b"")
    imaged.Client().get("a", "b", watch=5)
"""


def test_the_types_help_who_checks_them(tmp_path):
    pytest.importorskip("mypy")

    def checked(program: str) -> list[str]:
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(program))
        command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", str(path)]
        done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=300)
        assert not done.stderr, done.stderr
        return [line for line in done.stdout.splitlines() if ": error:" in line]

    assert checked(TYPED) == []
    assert len({line.split(":")[1] for line in checked(WRONG)}) == 6
