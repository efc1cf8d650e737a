"""Locations that are another store's, or nobody's."""

from __future__ import annotations

import io
import os
from pathlib import Path

import glance_store
import pytest
from glance_store import exceptions, multi_backend
from stores import CONF, Glance, fast, get_store, local, new

import imaged
from imaged.glance import search
from imaged.glance.store import Served

BYTES = os.urandom(100_001)


def section(daemon, name: str, *lines: str) -> str:
    path = f"filesystem_store_datadir = {daemon.dir}/{name}"
    return "\n".join((f"[{name}]", path, f"imaged_socket = {daemon.socket}", *lines, ""))


@pytest.fixture
def two(glance, shared):
    """Glance with two stores of one type, served both; images are in the second."""
    glance.start("other:file, fast:file", section(shared, "other"), fast(shared))
    return glance


def test_without_a_store_the_one_that_has_the_image_is_found(two):
    for module in (glance_store, multi_backend):
        uri = two.add(io.BytesIO(BYTES), backend="fast")[0]
        data, size = module.get(uri, None)
        assert size == len(BYTES) and b"".join(data) == BYTES
        assert b"".join(module.get(uri, None, offset=5, chunk_size=7)[0]) == BYTES[5:12]
        assert module.get_size_from_uri_and_backend(uri, None) == len(BYTES)
        assert module.get_size_from_uri_and_backend(uri, "") == len(BYTES)
        module.delete(uri, None)
        with pytest.raises(exceptions.NotFound):
            module.get(uri, "fast")


def test_with_a_store_the_location_of_another_is_an_error(two):
    uri = two.add(io.BytesIO(BYTES), backend="fast")[0]
    with pytest.raises(exceptions.BadStoreUri):
        glance_store.get(uri, "other")
    with pytest.raises(exceptions.BadStoreUri):
        glance_store.get_size_from_uri_and_backend(uri, "other")
    with pytest.raises(exceptions.Forbidden):
        glance_store.delete(uri, "other")
    assert glance_store.get_size_from_uri_and_backend(uri, "fast") == len(BYTES)


def test_without_a_store_what_nobody_has_is_an_error(two, shared):
    for uri in (f"file://{shared.dir}/fast/{new()}", f"file://{shared.dir}/other/{new()}"):
        with pytest.raises(exceptions.BadStoreUri):
            glance_store.get(uri, None)
        with pytest.raises(exceptions.Forbidden):
            glance_store.delete(uri, None)
    with pytest.raises(exceptions.BadStoreUri):
        glance_store.get_size_from_uri_and_backend("file:///nowhere/x", None)
    for scheme in ("rbd", "nonsense"):
        with pytest.raises((exceptions.NotFound, exceptions.UnknownScheme)):
            glance_store.get(f"{scheme}://x", None)


def test_what_is_staged_is_removed_although_a_served_store_is_first(two, glance):
    """As Glance does after a download into its staging that failed."""
    path = glance.dir / "os_glance_staging_store" / new()
    path.write_bytes(BYTES)
    assert b"".join(glance_store.get(f"file://{path}", None)[0]) == BYTES
    glance_store.delete(f"file://{path}", None)
    assert not path.exists()


def test_a_store_that_is_down_hides_no_other(glance, shared):
    glance.start("broken:file, fast:file", section(shared, "broken"), fast(shared))
    uri = glance.add(io.BytesIO(BYTES), backend="fast")[0]
    assert b"".join(glance_store.get(uri, None)[0]) == BYTES
    glance_store.delete(uri, None)
    # It may have what no other has.
    elsewhere = f"file://{shared.dir}/elsewhere/{new()}"
    with pytest.raises(exceptions.RemoteServiceUnavailable):
        glance_store.get(elsewhere, None)
    with pytest.raises(exceptions.RemoteServiceUnavailable):
        glance_store.delete(elsewhere, None)


def test_a_store_that_may_not_be_written_hides_no_image(glance, shared):
    """It is asked only for its own; what it may not delete is told, and asked of nobody else."""
    glance.start("frozen:file, fast:file", section(shared, "frozen"), fast(shared))
    there = Path(shared.dir) / "frozen" / new()
    there.write_bytes(BYTES)
    with pytest.raises(exceptions.Forbidden, match="read_only"):
        glance_store.delete(f"file://{there}", None)
    assert there.read_bytes() == BYTES
    assert b"".join(glance_store.get(f"file://{there}", None)[0]) == BYTES


def test_without_a_served_store_nothing_is_changed(glance, shared, monkeypatch):
    glance.start("local:file", f"[local]\nfilesystem_store_datadir = {shared.dir}/fast\n")
    asked = []
    plain = glance_store.get.__wrapped__
    monkeypatch.setattr(search, "PASSED", ())
    uri = glance.add(io.BytesIO(BYTES), backend="local")[0]
    for call in (plain, glance_store.get):
        asked.append(b"".join(call(uri, None)[0]))
        with pytest.raises(exceptions.NotFound):
            call(f"{uri}-not", None)
    assert asked == [BYTES, BYTES]
    with pytest.raises(exceptions.UnknownScheme):
        glance_store.get_size_from_uri_and_backend(uri, None)
    glance_store.delete(uri, None)


def test_the_functions_are_wrapped_once():
    before = [getattr(glance_store, name) for name in search.NAMES]
    search.install()
    assert [getattr(multi_backend, name) for name in search.NAMES] == before
    assert not any(hasattr(function.__wrapped__, "by_imaged") for function in before)


def test_options_of_the_daemons_own_are_nothing_to_glance(glance, shared):
    """Its sections are read by both."""
    lines = (
        f"imaged_also_directories = {shared.dir}/old,/srv/older",
        "imaged_also_pools = old-images",
        "imaged_read_only = false",
        "imaged_no_such_option = 1",
    )
    glance.start("fast:file", fast(shared, *lines))
    assert isinstance(get_store(), Served)
    uri = glance.add(io.BytesIO(BYTES))[0]
    assert b"".join(glance_store.get(uri, "fast")[0]) == BYTES


@pytest.fixture
def unreadable(api, shared, tmp_path):
    """An image of a served store whose bytes are where the daemon does not look."""
    api.start("other:file, fast:file", section(shared, "other"), fast(shared))
    path = tmp_path / "old" / new()
    path.parent.mkdir()
    path.write_bytes(BYTES)
    return path


def test_a_location_that_no_store_serves_loses_nothing(api, unreadable):
    """As with a file that Glance itself may not read: its bytes may be there."""
    image = api.active((f"file://{unreadable}", "fast"), size=len(BYTES))
    answer = api.ask("GET", f"/images/{image}/file")
    assert answer.status_int == 500, answer.text
    assert str(unreadable) in answer.text
    assert api.ask("GET", f"/images/{image}/file", Range="bytes=1-2").status_int == 500
    answer = api.ask("DELETE", f"/images/{image}")
    assert answer.status_int == 403, answer.text
    assert api.show(image)["status"] == "active" and unreadable.read_bytes() == BYTES


def test_a_location_without_a_store_is_for_glance_itself_as_ever(api, unreadable):
    """Its own store for staging, which is never served, takes any file that it may read."""
    image = api.active((f"file://{unreadable}", None), size=len(BYTES))
    assert api.ask("GET", f"/images/{image}/file").body == BYTES
    assert api.ask("DELETE", f"/images/{image}").status_int == 204
    assert not unreadable.exists() and not api.is_there(image)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_file_that_glance_may_not_read_is_answered_so_in_process(api, shared, tmp_path):
    """What the codes for locations that no store serves are taken from."""
    api.start("local:file", f"[local]\nfilesystem_store_datadir = {tmp_path}/local\n")
    path = tmp_path / "old" / new()
    path.parent.mkdir()
    path.write_bytes(BYTES)
    path.chmod(0)
    image = api.active((f"file://{path}", "local"), size=len(BYTES))
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    store = get_store("local")
    location = glance_store.location.get_location_from_uri_and_backend(
        f"file://{path}", "local", conf=CONF
    )
    os.seteuid(65534)
    try:
        # Glance has no answer to it.
        with pytest.raises(PermissionError):
            store.get(location)
        with pytest.raises(exceptions.Forbidden):
            store.delete(location)
    finally:
        os.seteuid(0)
    assert path.exists() and api.is_there(image)


def test_an_image_in_two_stores_is_read_from_the_one_that_serves_it(api, unreadable):
    uri = Glance.add(api, io.BytesIO(BYTES), backend="fast")[0]
    image = api.active((f"file://{unreadable}", "other"), (uri, "fast"), size=len(BYTES))
    assert api.ask("GET", f"/images/{image}/file").body == BYTES
    assert api.ask("DELETE", f"/stores/other/{image}").status_int == 403
    assert len(api.show(image)["locations"]) == 2
    assert api.ask("DELETE", f"/stores/fast/{image}").status_int == 204
    assert [one["metadata"] for one in api.show(image)["locations"]] == [{"store": "other"}]


def test_an_image_is_not_deleted_from_a_store_that_may_not_be_written(api, shared):
    """Neither from it alone nor with all of it: Glance would forget where its bytes are."""
    api.start("fast:file, frozen:file", fast(shared), section(shared, "frozen"))
    there = Path(shared.dir) / "frozen" / new()
    there.write_bytes(BYTES)
    image = api.active((f"file://{there}", "frozen"), size=len(BYTES))
    assert api.ask("DELETE", f"/images/{image}").status_int == 403
    assert api.show(image)["status"] == "active"
    uri = api.add(io.BytesIO(BYTES), backend="fast")[0]
    image = api.active((uri, "fast"), (f"file://{there}", "frozen"), size=len(BYTES))
    assert api.ask("DELETE", f"/stores/frozen/{image}").status_int == 403
    assert len(api.show(image)["locations"]) == 2
    assert there.read_bytes() == BYTES


def test_a_store_of_another_type_in_the_daemon_loses_no_image(api, shared):
    """Glance leaves such a store out for uploads; a delete is refused and not passed over."""
    api.start("small:file, fast:file", section(shared, "small"), fast(shared))
    image = api.active((f"file://{shared.dir}/small/{new()}", "small"))
    assert api.ask("DELETE", f"/images/{image}").status_int == 403
    assert api.is_there(image)
    assert api.upload(api.create(), BYTES, "small").status_int == 410


def test_the_daemon_says_what_is_wrong_with_such_a_location(client):
    with pytest.raises(imaged.Invalid):
        client.stat("fast", at="file:///elsewhere/x")


def test_what_is_the_daemons_is_not_read_or_deleted_here(glance, daemon):
    """Also where no store is named, and while the daemon is down."""
    glance.start("fast:file, local:file", fast(daemon), local(daemon))
    uri = glance.add(io.BytesIO(BYTES))[0]
    daemon.kill()
    for call in (glance_store.get, glance_store.delete, glance_store.get_size_from_uri_and_backend):
        with pytest.raises(exceptions.RemoteServiceUnavailable):
            call(uri, None)
    daemon.start()
    assert b"".join(glance_store.get(uri, None)[0]) == BYTES
    # What is here stays here.
    staged = get_store("os_glance_staging_store").add(new(), io.BytesIO(BYTES), 0)[0]
    daemon.kill()
    assert b"".join(glance_store.get(staged, None)[0]) == BYTES
    glance_store.delete(staged, None)
