"""How Glance's plugin asks the daemon: under which id, how often, and with what of the image."""

from __future__ import annotations

import io
import os
from types import SimpleNamespace

import pytest
from glance.common import exception, utils
from glance_store import capabilities, exceptions, multi_backend
from servers import Told
from stores import CONF, get_store, new

import imaged
from imaged import source
from imaged.glance import body, errors, store

BYTES = os.urandom(300_000)


# Request ids


@pytest.fixture
def told(api, tmp_path):
    """Glance on two stores of a daemon that refuses everything else."""
    daemon = Told(str(tmp_path / "socket"), "Unavailable")
    sections = [
        f"[{name}]\nfilesystem_store_datadir = {tmp_path}/{name}\n"
        f"imaged_socket = {tmp_path}/socket\n"
        for name in ("first", "second")
    ]
    api.start("first:file, second:file", *sections)
    assert daemon.asked == 2 and not daemon.heads
    yield daemon
    daemon.close()


def calls(heads: list[bytes]) -> list[bytes]:
    """Without the question, before each, whether the daemon is there."""
    return [head for head in heads if not head.startswith(b"GET /healthz ")]


def ids(heads: list[bytes]) -> set[str | None]:
    found = set()
    for head in calls(heads):
        lines = head.decode().split("\r\n")
        named = [line.partition(": ")[2] for line in lines if line.startswith("X-Request-Id: ")]
        assert len(named) <= 1
        found.add(named[0] if named else None)
    return found


def test_a_request_has_one_id_in_glance_and_in_the_daemon(api, told, tmp_path):
    at = [(f"file://{tmp_path}/{name}/{new()}", name) for name in ("first", "second")]
    image, queued = api.active(*at), api.create()
    for ask, method in (
        (lambda: api.upload(queued, b"bytes", "second"), b"PUT"),
        (lambda: api.ask("GET", f"/images/{image}/file"), b"GET"),
        (lambda: api.ask("GET", f"/images/{image}/file", Range="bytes=1-2"), b"GET"),
        (lambda: api.ask("DELETE", f"/stores/second/{image}"), b"DELETE"),
        (lambda: api.ask("DELETE", f"/images/{image}"), b"DELETE"),
    ):
        told.heads.clear()
        answer = ask()
        given = answer.headers["X-Openstack-Request-Id"]
        assert given.startswith("req-")
        made = calls(told.heads)
        assert made and all(head.startswith(method) for head in made)
        assert ids(told.heads) == {given}, answer.text


@pytest.mark.parametrize("asked", ["req-mine", "a b", "ü", "a" * 60, None, 5, b"req-1"])
def test_every_call_of_glance_store_passes_the_id_on(told, tmp_path, asked):
    context = SimpleNamespace(request_id=asked)
    uri = f"file://{tmp_path}/first/{new()}"
    for call in (
        lambda: multi_backend.add_with_multihash(
            CONF, new(), io.BytesIO(b""), 0, "first", "sha512", context=context
        ),
        lambda: multi_backend.get(uri, "first", context=context),
        lambda: multi_backend.get_size_from_uri_and_backend(uri, "first", context=context),
        lambda: multi_backend.delete(uri, "first", context=context),
    ):
        told.heads.clear()
        with pytest.raises(errors.Unavailable):
            call()
        assert ids(told.heads) == {asked if asked in ("req-mine", "a" * 60) else None}
    # Where nobody asks, as in the background, there is none.
    told.heads.clear()
    with pytest.raises(errors.Unavailable):
        multi_backend.delete(uri, "first")
    assert ids(told.heads) == {None}


# One driver for all requests


def test_no_request_makes_a_driver_or_asks_for_the_stores_again(served, monkeypatch):
    one = get_store()
    made, asked = [], []
    begin, stores = store.Served.__init__, imaged.Client.stores
    monkeypatch.setattr(
        store.Served, "__init__", lambda *args, **more: made.append(1) or begin(*args, **more)
    )
    monkeypatch.setattr(imaged.Client, "stores", lambda self: asked.append(1) or stores(self))
    for _ in range(3):
        uri = served.add(io.BytesIO(BYTES))[0]
        assert b"".join(multi_backend.get(uri, "fast")[0]) == BYTES
        assert multi_backend.get_size_from_uri_and_backend(uri, "fast") == len(BYTES)
        multi_backend.delete(uri, "fast")
        assert get_store() is one
    assert (made, asked) == ([], [])
    assert one.is_capable(capabilities.BitMasks.DRIVER_REUSABLE)
    assert one.is_capable(capabilities.BitMasks.READ_RANDOM, capabilities.BitMasks.WRITE_ACCESS)


def test_all_stores_of_a_socket_share_a_client(glance, shared):
    sections = [
        f"[{name}]\nfilesystem_store_datadir = {shared.dir}/{name}\n"
        f"imaged_socket = {shared.socket}\n"
        for name in ("fast", "other")
    ]
    glance.start("fast:file, other:file", *sections)
    of = {name: get_store(name) for name in ("fast", "other")}
    assert store.client(of["fast"].socket) is store.client(of["other"].socket)
    assert store.client("/another") is not store.client(shared.socket)


def test_a_download_costs_glance_no_digest(served, monkeypatch):
    uri = served.add(io.BytesIO(BYTES))[0]
    download, _ = multi_backend.get(uri, "fast")
    assert b"".join(download) == BYTES and download._body.verified is None


# What is handed over


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(BYTES)
    with path.open("rb") as file:
        yield file


def limited(image, most: int) -> utils.LimitingReader:
    return utils.LimitingReader(image, most, exception.StorageQuotaFull)


def opened() -> int:
    return len(os.listdir("/proc/self/fd"))


def handed(image, size: int | None = None) -> bool:
    """Whether it goes by descriptor; if not, it is handed over as it is, and nothing stays open."""
    before = opened()
    found = body.unwrapped(image, size)
    if isinstance(found, source.Descriptor):
        assert os.pread(found.fd, found.size, found.offset) == BYTES[found.offset :]
        assert found.size == len(BYTES) - found.offset
        found.close()
    else:
        assert found is image
    assert opened() == before
    return isinstance(found, source.Descriptor)


def test_a_plain_file_under_readers_that_change_no_byte_is_handed_over(file):
    pausing = utils.CooperativeReader
    for image in (
        file,
        pausing(file),
        limited(file, len(BYTES)),
        pausing(limited(pausing(file), len(BYTES) + 5)),
        limited(limited(file, len(BYTES)), len(BYTES) + 1),
    ):
        assert handed(image) and handed(image, len(BYTES))
        assert not handed(image, len(BYTES) - 1)
    for image in (io.BytesIO(BYTES), pausing(io.BytesIO(BYTES)), iter([BYTES]), None):
        assert not handed(image)


def test_a_reader_that_does_more_is_left_in_place(file):
    class More(utils.LimitingReader):
        pass

    class LimitingReader:
        """Of the same name, and another's."""

        data, limit, bytes_read = file, 1 << 40, 0

    assert not handed(More(file, 1 << 40))
    assert not handed(utils.CooperativeReader(More(file, 1 << 40)))
    assert not handed(LimitingReader())


def test_each_limit_holds_for_what_is_left_of_it(file):
    # What a limit has let through counts: it was read already.
    for most, already, fits in (
        (len(BYTES), 0, True),
        (len(BYTES) - 1, 0, False),
        (len(BYTES), 1000, True),
        (len(BYTES) - 1, 1000, False),
    ):
        file.seek(0)
        reader = limited(file, most)
        assert len(reader.read(already)) == already
        assert handed(reader) is fits, (most, already)
        # As it would be if all of it were read through the reader.
        if fits:
            assert len(reader.read(len(BYTES))) == len(BYTES) - already
        else:
            with pytest.raises(exception.StorageQuotaFull):
                reader.read(len(BYTES))
    # One of several that does not hold is enough.
    for first, second in ((1 << 40, 10), (10, 1 << 40)):
        file.seek(0)
        assert not handed(limited(limited(file, first), second))


def test_a_file_under_a_limit_is_stored_or_refused_as_it_would_be_if_it_were_read(served, file):
    reader = limited(file, len(BYTES))
    reader.read(1000)
    assert served.add(reader)[1] == len(BYTES) - 1000
    file.seek(0)
    reader = limited(file, len(BYTES) - 1)
    reader.read(1000)
    id = new()
    with pytest.raises(exception.StorageQuotaFull):
        served.add(reader, id=id)
    with pytest.raises(exceptions.NotFound):
        multi_backend.get(f"{get_store().url_prefix}/{id}", "fast")


# The daemon's errors


def test_each_error_of_the_daemon_is_the_one_that_is_documented():
    """As the table at the head of the module has them."""
    served = {
        "Invalid": (exceptions.Invalid, errors.Unreadable, "Forbidden"),
        "NotFound": (errors.NotReached, exceptions.NotFound, exceptions.NotFound),
        "Exists": ("Duplicate", errors.NotReached, exceptions.InUseByStore),
        "InUse": ("Duplicate", errors.NotReached, exceptions.InUseByStore),
        "Precondition": ("Duplicate", errors.NotReached, exceptions.InUseByStore),
        "Unsupported": (
            exceptions.StoreAddDisabled,
            exceptions.StoreGetNotSupported,
            "Forbidden",
        ),
        "Denied": (exceptions.StorageWriteDenied, errors.NotReached, "Forbidden"),
        "BackendDenied": (exceptions.StorageWriteDenied, errors.NotReached, "Forbidden"),
        "Full": (exceptions.StorageFull, errors.NotReached, errors.Failed),
        "TooLarge": (exceptions.StorageFull, errors.Failed, errors.Failed),
        "Range": (exceptions.Invalid, exceptions.StoreRandomGetNotSupported, errors.Failed),
        "Mismatch": (exceptions.Invalid, errors.NotReached, errors.NotDeletedNow),
        "Internal": (errors.Failed, errors.Failed, errors.Failed),
        **{
            name: (errors.NotReached, errors.NotReached, errors.NotDeletedNow)
            for name in ("Unavailable", "Timeout", "Unreachable", "Lost")
        },
    }
    assert served.keys() == {*imaged.errors.CODES, "Unreachable", "Lost"}
    for name, wanted in served.items():
        for table, kind in zip((errors.ADD, errors.GET, errors.DELETE), wanted, strict=True):
            found = type(errors.told(table, getattr(imaged, name)("why"), "sha512"))
            assert found is (errors.both(kind) if isinstance(kind, str) else kind), name
