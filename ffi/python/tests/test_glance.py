"""Glance's stores through the daemon: the real glance_store, the real hook, a real daemon."""

from __future__ import annotations

import collections
import functools
import gc
import hashlib
import importlib
import io
import logging
import os
import subprocess
import sys
import textwrap
import types

import pytest
from conftest import until
from glance.api.v2 import discovery
from glance.common import exception, utils
from glance.common.scripts import utils as scripts
from glance.context import RequestContext
from glance_store import exceptions, multi_backend
from glance_store import location as locations
from oslo_utils.imageutils import format_inspector
from stores import CONF, RESERVED, fast, get_store, local, new

import imaged
from imaged.glance import errors, hook, store

BYTES = os.urandom(2_500_001)
MD5 = hashlib.md5(BYTES).hexdigest()
SHA512 = hashlib.sha512(BYTES).hexdigest()


def through_the_socket(monkeypatch) -> None:
    """Downloads, also of plain files; those of other stores always do."""
    get = functools.partialmethod(imaged.Client.get, by_descriptor=False)
    monkeypatch.setattr(imaged.Client, "get", get)


def test_staging_stays_in_process_even_if_all_stores_are_served(glance, shared):
    everywhere = f"[backend_defaults]\nimaged_socket = {shared.socket}\n"
    plain = fast(shared).replace(f"imaged_socket = {shared.socket}\n", "")
    own = local(shared) + "imaged_socket =\n"
    glance.start("fast:file, local:file", everywhere, plain, own)
    assert type(get_store()).__name__ == "ServedFile"
    # An empty line of its own keeps a store here.
    for name in ("local", *RESERVED):
        assert type(get_store(name)).__module__ == "glance_store._drivers.filesystem"
    staged = get_store("os_glance_staging_store").add(new(), io.BytesIO(BYTES), 0)
    assert staged[0].startswith(f"file://{glance.dir}/os_glance_staging_store/")


def test_what_glance_shows_of_a_store_stays(glance, shared):
    seen = []
    request = types.SimpleNamespace(context=RequestContext(roles=["admin"], is_admin=True))
    for section in (fast(shared), fast(shared, socket="")):
        glance.start("fast:file", section)
        one = get_store()
        seen.append(
            (
                CONF.fast.store_description,
                multi_backend.get_store_weight("fast"),
                one.weight,
                one.datadir,
                one.chunk_size,
                one.thin_provisioning,
                one.url_prefix,
                one.get_schemes(),
                sorted(multi_backend.get_known_schemes_for_multi_store()),
                one.get_store_location_class(),
                discovery.InfoController().get_stores(request),
                discovery.InfoController().get_stores_detail(request),
            )
        )
    assert seen[0] == seen[1]
    assert seen[0][-1]["stores"][0]["properties"]["data_dir"] == f"{shared.dir}/fast"
    several = f"filesystem_store_datadirs = {shared.dir}/slow:1"
    best = f"filesystem_store_datadirs = {shared.dir}/fast:200"
    more = f"[many]\n{several}\n{best}\nimaged_socket = {shared.socket}\n"
    glance.start("many:file", more)
    assert get_store("many").datadir == f"{shared.dir}/fast"


def test_a_store_of_type_rbd_shows_what_it_showed(glance, monkeypatch):
    known = imaged.Store(
        id="ceph", type="rbd", state="up", properties={"fsid": "f-1", "pool": "my pool"}
    )
    section = (
        "[ceph]\nrbd_store_pool = my pool\nrbd_store_chunk_size = 4\nrbd_thin_provisioning = yes\n"
        "imaged_socket = {socket}\n"
    ).format(socket=glance.dir / "nothing")
    glance.start("ceph:rbd", section)
    one = get_store("ceph")
    assert (one.chunk_size, one.pool, one.thin_provisioning) == (4 << 20, "my pool", True)
    # Nobody can tell yet; a guess would give locations to the wrong store.
    assert one.url_prefix is None
    assert one.get_schemes() == ("rbd",)
    uri = "rbd://f-1/my%20pool/one/snap"
    at = locations.get_location_from_uri_and_backend(uri, "ceph", conf=CONF)
    assert at.get_store_uri() == uri and at.store_location.pool == "my pool"
    monkeypatch.setattr(imaged.Client, "stores", lambda self: [known])
    assert one.url_prefix == "rbd://f-1/my%20pool/"
    with pytest.raises(exceptions.RemoteServiceUnavailable):
        multi_backend.get(uri, "ceph")


def test_a_type_that_is_not_served_is_refused(glance, shared, monkeypatch):
    monkeypatch.setattr(multi_backend, "_list_driver_opts", dict)
    section = f"[other]\nimaged_socket = {shared.socket}\n"
    only = "stores of type vmware yet, only cinder, file, http, rbd, s3, swift"
    with pytest.raises(RuntimeError, match=rf"other.* {only}"):
        glance.start("fast:file, other:vmware", fast(shared), section)


def test_an_image_that_is_there_is_a_duplicate_for_both(served, monkeypatch):
    id = new()
    served.add(io.BytesIO(BYTES), 0, id)
    with pytest.raises(exceptions.Duplicate):
        served.add(io.BytesIO(BYTES), 0, id)
    # Glance answers 409 to its own Duplicate alone.
    with pytest.raises(exception.Duplicate) as both:
        served.add(io.BytesIO(BYTES), 0, id)
    assert isinstance(both.value, exceptions.Duplicate) and id in both.value.msg
    assert errors.both("Duplicate") is type(both.value)
    monkeypatch.delitem(sys.modules, "glance.common.exception")
    assert errors.both("Duplicate") is exceptions.Duplicate


def test_an_algorithm_that_is_not_known_is_told_so(served):
    assert served.add(io.BytesIO(BYTES), algo="sha256")[3] == hashlib.sha256(BYTES).hexdigest()
    assert served.add(io.BytesIO(BYTES), algo="md5")[3] == MD5
    for algo in ("sha3_256", "crc32"):
        with pytest.raises(exceptions.UnknownHashingAlgo):
            served.add(io.BytesIO(BYTES), algo=algo)


def test_a_store_that_the_daemon_does_not_write_adds_nothing(glance, shared):
    section = f"[frozen]\nimaged_socket = {shared.socket}\n"
    glance.start("frozen:file", section)
    with pytest.raises(exceptions.StoreAddDisabled):
        glance.add(io.BytesIO(BYTES), backend="frozen")


def test_a_store_that_the_daemon_does_not_have_loses_no_image(glance, shared, caplog):
    section = f"[slow]\nimaged_socket = {shared.socket}\n"
    glance.start("slow:file", section)
    assert "has no store slow, only fast, other, frozen, broken" in caplog.text
    uri = f"file://{shared.dir}/fast/{new()}"
    for call in (
        lambda: glance.add(io.BytesIO(BYTES), backend="slow"),
        lambda: multi_backend.get(uri, "slow"),
        lambda: multi_backend.get_size_from_uri_and_backend(uri, "slow"),
        lambda: multi_backend.delete(uri, "slow"),
    ):
        with pytest.raises(errors.Unavailable, match="has no store slow"):
            call()


def test_a_store_that_is_down_is_unavailable(glance, shared):
    glance.start("broken:file", f"[broken]\nimaged_socket = {shared.socket}\n")
    uri = f"file://{shared.dir}/not-there/{new()}"
    for call in (
        lambda: glance.add(io.BytesIO(BYTES), backend="broken"),
        lambda: multi_backend.get(uri, "broken"),
        lambda: multi_backend.get_size_from_uri_and_backend(uri, "broken"),
        lambda: multi_backend.delete(uri, "broken"),
    ):
        with pytest.raises(errors.Unavailable):
            call()


def test_a_store_of_another_type_in_the_daemon_is_not_written(glance, shared, caplog):
    section = f"[fast]\nimaged_socket = {shared.socket}\n"
    glance.start("fast:rbd", section)
    assert "of type rbd for Glance and of type file for imaged" in caplog.text
    with pytest.raises(exceptions.StoreAddDisabled):
        glance.add(io.BytesIO(BYTES))


def test_a_daemon_that_comes_later_is_used_then(glance, daemon, caplog, monkeypatch):
    daemon.kill()
    glance.start("fast:file", fast(daemon))
    assert "not available until imaged is" in caplog.text
    uri = f"file://{daemon.dir}/fast/one"
    for call in (
        lambda: glance.add(io.BytesIO(BYTES)),
        lambda: multi_backend.get(uri, "fast"),
        lambda: multi_backend.get_size_from_uri_and_backend(uri, "fast"),
        lambda: multi_backend.delete(uri, "fast"),
    ):
        with pytest.raises(exceptions.RemoteServiceUnavailable) as down:
            call()
        assert down.value.msg
    daemon.start()
    uri = glance.add(io.BytesIO(BYTES))[0]
    assert b"".join(multi_backend.get(uri, "fast")[0]) == BYTES
    # And again, with connections kept from before.
    daemon.kill()
    with pytest.raises(exceptions.RemoteServiceUnavailable):
        multi_backend.get(uri, "fast")
    daemon.start()
    assert b"".join(multi_backend.get(uri, "fast")[0]) == BYTES
    uri = glance.add(io.BytesIO(BYTES * 8))[0]
    iterator, _ = multi_backend.get(uri, "fast")
    through_the_socket(monkeypatch)
    through, _ = multi_backend.get(uri, "fast")
    begun = next(iterator)
    next(through)
    daemon.kill()
    # A plain file needs nobody any more.
    assert begun + b"".join(iterator) == BYTES * 8
    with pytest.raises(exceptions.RemoteServiceUnavailable):
        b"".join(through)


def test_a_download_that_is_dropped_ends_its_connection(served, shared, monkeypatch):
    through_the_socket(monkeypatch)
    uri = served.add(io.BytesIO(BYTES * 4))[0]
    store.client(shared.socket).close()
    before = shared.settled()
    for drop in (lambda iterator: iterator.close(), lambda iterator: None):
        iterator = iter(multi_backend.get(uri, "fast")[0])
        next(iterator)
        assert shared.connections() == before + 1
        drop(iterator)
        del iterator
        gc.collect()
        until(lambda: shared.connections() == before)

    def wrapped():
        # As Glance does to tell its listeners of the end.
        yield from multi_backend.get(uri, "fast")[0]

    generator = wrapped()
    next(generator)
    assert shared.connections() == before + 1
    generator.close()
    until(lambda: shared.connections() == before)


class Verifier:
    def __init__(self) -> None:
        self.seen = hashlib.md5()

    def update(self, piece: bytes) -> None:
        assert isinstance(piece, bytes)
        self.seen.update(piece)


def test_a_verifier_sees_every_byte(served, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(BYTES)
    with path.open("rb") as file:
        for image in (io.BytesIO(BYTES), file):
            verifier = Verifier()
            assert served.add(image, len(BYTES), verifier=verifier)[2] == MD5
            assert verifier.seen.hexdigest() == MD5


def test_a_plain_file_under_glances_readers_is_stored(served, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(BYTES)
    wrap = utils.wrap_data_for_store_upload
    for size in (0, len(BYTES)):
        data, _ = scripts.get_image_data_iter(f"file://{path}")
        assert served.add(wrap(data), size)[1:4] == (len(BYTES), MD5, SHA512)
    # Past a limit, it is for its reader to say so.
    data, _ = scripts.get_image_data_iter(f"file://{path}")
    quota = utils.LimitingReader(data, len(BYTES) - 1, exception.StorageQuotaFull)
    with pytest.raises(exception.StorageQuotaFull):
        served.add(wrap(quota))


def test_who_wants_to_see_the_bytes_sees_them(served, tmp_path):
    path = tmp_path / "image.qcow2"
    image = b"QFI\xfb\0\0\0\x03" + bytes(16) + (1 << 30).to_bytes(8, "big") + BYTES
    path.write_bytes(image)
    told = []
    data, size = scripts.get_image_data_iter(f"file://{path}")
    data = scripts.CallbackIterator(data, lambda *counts: told.append(counts))
    data = format_inspector.InspectWrapper(data)
    assert served.add(utils.wrap_data_for_store_upload(data), size)[1] == len(image)
    data.close()
    assert str(data.format) == "qcow2" and data.format.virtual_size == 1 << 30
    assert told[-1][1] == len(image)


def test_an_upload_whose_body_fails_leaves_nothing(served):
    class Body:
        def __init__(self):
            self.turns = collections.deque([BYTES[:60_000]] * 30)

        def read(self, count):
            if self.turns:
                return self.turns.popleft()
            raise OSError("the caller left")

    id = new()
    with pytest.raises(OSError, match="the caller left"):
        served.add(Body(), 0, id)
    assert served.add(io.BytesIO(BYTES), 0, id)[1] == len(BYTES)


def test_every_error_of_the_daemon_has_an_exception_of_glance_stores():
    for table in (errors.ADD, errors.GET, errors.DELETE):
        for code, kind in imaged.errors.CODES.items():
            raised = errors.told(table, kind("100 % of it"), "sha512")
            assert isinstance(raised, exceptions.GlanceStoreException | exceptions.BackendException)
            assert str(raised) == "100 % of it", code
        for kind in (imaged.Unreachable, imaged.Lost, imaged.Unavailable, imaged.Timeout):
            assert isinstance(errors.told(table, kind("x")), errors.Unavailable)
        assert type(errors.told(table, imaged.Internal("x"))) is errors.Failed
    # Glance would delete the image.
    assert not isinstance(errors.told(errors.ADD, imaged.NotFound("x")), exceptions.NotFound)


@pytest.mark.parametrize("missing", ["webob", "glance_store.exceptions.TimeoutError"])
def test_the_exceptions_need_neither_glance_nor_the_newest_glance_store(missing):
    """Without Glance there is no webob; glance_store 5.3 has no TimeoutError."""
    program = f"""
        import sys
        import glance_store.exceptions as theirs
        if {missing!r} == "webob":
            sys.modules["webob"] = None
        else:
            del theirs.TimeoutError
        import imaged
        from imaged.glance import errors
        for table in (errors.ADD, errors.GET, errors.DELETE):
            for kind in imaged.errors.CODES.values():
                told = errors.told(table, kind("100 % of it"), "sha512")
                assert isinstance(told, (theirs.GlanceStoreException, theirs.BackendException))
                assert str(told) == "100 % of it"
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_hook_is_there_once_however_often_it_is_made(served):
    wrapped = multi_backend._load_multi_store
    assert wrapped.by_imaged
    hook.install()
    importlib.reload(hook)
    assert multi_backend._load_multi_store is wrapped


def test_the_hook_comes_by_itself_and_is_no_store(glance, shared, caplog):
    caplog.set_level(logging.WARNING)
    drivers = {one.name for one in importlib.metadata.entry_points(group="glance_store.drivers")}
    assert "imaged-hook" in drivers and "file" in drivers
    with pytest.raises(exceptions.BackendException, match="no type of store"):
        glance.start("fast:file, hook:imaged-hook", fast(shared))


def test_a_glance_store_that_is_not_known_is_refused_only_if_asked(glance, shared, monkeypatch):
    for version in ("5.0.0", "5.7.0", "5.7.3"):
        assert hook.version_refused(version) is None
    for version in ("4.11.0", "5.8.0", "6.0.0", "unknown"):
        assert version in hook.version_refused(version)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "5.8.0")
    with pytest.raises(RuntimeError, match=r"knows glance_store 5\.0 to 5\.7 and finds 5\.8\.0"):
        glance.start("fast:file", fast(shared))
    glance.start("local:file", local(shared))
    assert glance.add(io.BytesIO(BYTES), backend="local")[1] == len(BYTES)


def test_a_glance_store_that_loads_in_another_way_is_left_alone(monkeypatch):
    def other(conf, name):
        return None

    monkeypatch.setattr(multi_backend, "_load_multi_store", other)
    with pytest.raises(ImportError, match="imaged_socket has no effect"):
        hook.install()
    assert multi_backend._load_multi_store is other


def test_this_is_the_glance_store_that_was_measured():
    assert importlib.metadata.version("glance_store") == "5.7.0"
    assert importlib.metadata.version("glance") == "33.0.0"
