"""The plugin under the real glance_store, with a real daemon; it needs no Glance."""

from __future__ import annotations

import hashlib
import io
import os

import pytest
from glance_store import exceptions, multi_backend
from stores import CONF, RESERVED, get_store, new

import imaged
from imaged.glance import errors

BYTES = os.urandom(2_500_001)
MD5 = hashlib.md5(BYTES).hexdigest()
SHA512 = hashlib.sha512(BYTES).hexdigest()


def test_an_image_is_added_read_and_deleted(served, shared):
    id = new()
    uri, size, checksum, multihash, metadata = served.add(io.BytesIO(BYTES), len(BYTES), id)
    assert uri == f"file://{shared.dir}/fast/{id}"
    assert (size, checksum, multihash) == (len(BYTES), MD5, SHA512)
    assert metadata == {"store": "fast"}
    iterator, size = multi_backend.get(uri, "fast")
    assert size == len(BYTES) and b"".join(iterator) == BYTES
    assert multi_backend.get_size_from_uri_and_backend(uri, "fast") == len(BYTES)
    multi_backend.delete(uri, "fast")
    with pytest.raises(exceptions.NotFound):
        multi_backend.get(uri, "fast")
    with pytest.raises(exceptions.NotFound):
        multi_backend.get_size_from_uri_and_backend(uri, "fast")
    with pytest.raises(exceptions.NotFound):
        multi_backend.delete(uri, "fast")


def test_the_old_form_of_add_gives_four(served):
    assert len(get_store().add(new(), io.BytesIO(BYTES), len(BYTES))) == 4
    assert multi_backend.add(CONF, new(), io.BytesIO(BYTES), 0, "fast")[1:3] == (len(BYTES), MD5)


def test_a_size_of_zero_is_an_unknown_one(served):
    assert served.add(io.BytesIO(BYTES), 0)[1] == len(BYTES)
    assert served.add(io.BytesIO(b""), 0)[1:3] == (0, hashlib.md5().hexdigest())
    for said in (1, len(BYTES) + 1):
        with pytest.raises(exceptions.Invalid):
            served.add(io.BytesIO(BYTES), said)


def test_a_part_is_read_from_any_place(served):
    uri = served.add(io.BytesIO(BYTES))[0]
    iterator, size = multi_backend.get(uri, "fast", offset=7, chunk_size=100_000)
    assert size == 100_000 and b"".join(iterator) == BYTES[7:100_007]
    iterator, size = multi_backend.get(uri, "fast", offset=2_500_000)
    assert size == len(BYTES) and b"".join(iterator) == BYTES[-1:]
    assert b"".join(multi_backend.get(uri, "fast", chunk_size=3)[0]) == BYTES[:3]
    with pytest.raises(exceptions.StoreRandomGetNotSupported):
        multi_backend.get(uri, "fast", offset=len(BYTES) + 1)


def test_without_a_store_the_type_finds_the_image(served):
    # As Glance's cache prefetcher asks.
    uri = served.add(io.BytesIO(BYTES))[0]
    assert b"".join(multi_backend.get(uri, None)[0]) == BYTES


def test_images_are_the_same_in_process_and_through_the_daemon(served):
    by_daemon, by_driver = new(), new()
    ours = served.add(io.BytesIO(BYTES), len(BYTES), by_daemon, "fast")
    theirs = served.add(io.BytesIO(BYTES), len(BYTES), by_driver, "local")
    assert ours[0].replace(by_daemon, by_driver) == theirs[0]
    assert ours[1:4] == theirs[1:4] and theirs[4] == {"store": "local"}
    for uri, other in ((ours[0], "local"), (theirs[0], "fast")):
        iterator, size = multi_backend.get(uri, other)
        assert size == len(BYTES) and b"".join(iterator) == BYTES
        assert multi_backend.get_size_from_uri_and_backend(uri, other) == len(BYTES)
        multi_backend.delete(uri, other)
        with pytest.raises(exceptions.NotFound):
            multi_backend.get(uri, "fast")


def test_the_other_stores_stay_in_process(served):
    assert type(get_store()).__name__ == "ServedFile"
    assert isinstance(get_store(), type(get_store("local")))
    for name in ("local", *RESERVED):
        assert type(get_store(name)).__module__ == "glance_store._drivers.filesystem"


def test_an_image_that_is_there_and_a_daemon_that_is_not_are_told(glance, daemon):
    from stores import fast

    glance.start("fast:file", fast(daemon))
    id = new()
    uri = glance.add(io.BytesIO(BYTES), 0, id)[0]
    with pytest.raises(exceptions.Duplicate):
        glance.add(io.BytesIO(BYTES), 0, id)
    daemon.kill()
    for call in (
        lambda: glance.add(io.BytesIO(BYTES)),
        lambda: multi_backend.get(uri, "fast"),
        lambda: multi_backend.get_size_from_uri_and_backend(uri, "fast"),
        lambda: multi_backend.delete(uri, "fast"),
    ):
        with pytest.raises(errors.Unavailable):
            call()
    for kind in imaged.errors.CODES.values():
        for table in (errors.ADD, errors.GET, errors.DELETE):
            told = errors.told(table, kind("100 %"), "sha512")
            assert isinstance(told, exceptions.GlanceStoreException | exceptions.BackendException)
