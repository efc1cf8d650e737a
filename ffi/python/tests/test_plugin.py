"""How Glance's plugin asks the daemon: under which id, how often, and with what of the image."""

from __future__ import annotations

import io
import os
from types import SimpleNamespace

import pytest
from glance_store import capabilities, exceptions, multi_backend
from servers import Told
from stores import CONF, get_store, new

import imaged
from imaged.glance import errors, store

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
