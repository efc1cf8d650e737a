"""Uploads whose answer is lost on the way from the daemon to Glance."""

import contextlib
import os
import shutil
import sys
from pathlib import Path

import pytest
from cloud import digest

sys.path.append(str(Path(__file__).parents[2] / "ffi/python/tests"))
from servers import Proxy

pytestmark = pytest.mark.imaged
STORES = ("ceph", "fast")


@contextlib.contextmanager
def between(rig):
    """A proxy where Glance looks for the daemon."""
    socket = Path(rig["socket"])
    behind = socket.with_name("behind")
    socket.rename(behind)
    proxy = Proxy(str(socket), str(behind))
    shutil.copymode(behind, socket)
    os.chown(socket, behind.stat().st_uid, behind.stat().st_gid)
    try:
        yield proxy
    finally:
        proxy.close()
        behind.rename(socket)


@pytest.mark.parametrize("known", [True, False], ids=["size-known", "size-unknown"])
@pytest.mark.parametrize("store", STORES)
def test_an_answer_that_is_lost(imaged, rig, raw, store, known):
    """The image is stored, and Glance is told so by what is there."""
    with between(rig) as proxy:
        proxy.cuts = lambda said: said.startswith(b"HTTP/1.1 201")
        image = imaged.active(raw, store, len(raw) if known else None)
        assert proxy.cut == 1
    facts = imaged.show(image)
    assert (facts["size"], facts["checksum"]) == (len(raw), digest(raw, "md5"))
    assert facts["os_hash_value"] == digest(raw, "sha512")
    assert imaged.download(image).content == raw
    imaged.delete(image)
    assert rig.held(store) == {}


@pytest.mark.parametrize("store", STORES)
def test_an_answer_that_is_lost_to_an_import(imaged, rig, raw, store):
    """What was staged goes to the daemon by descriptor."""
    image = imaged.create()
    imaged.stage(image, raw)
    with between(rig) as proxy:
        proxy.cuts = lambda said: said.startswith(b"HTTP/1.1 201")
        imaged.fetch(image, "glance-direct", [store])
        imaged.imported(image, [store])
        assert proxy.cut == 1
    assert rig.held(store) == {image: len(raw)}
    assert imaged.download(image).content == raw


@pytest.mark.parametrize("store", STORES)
def test_an_image_of_others_is_left_alone(imaged, rig, raw, store, tmp_path):
    """Glance does not hear that its id is taken, and does not take what is there for its own."""
    image = imaged.create()
    other = tmp_path / "other"
    other.write_bytes(raw[::-1])
    rig.imaged("put", store, image, str(other))
    with between(rig) as proxy:
        proxy.cuts = lambda said: said.startswith(b"HTTP/1.1 409")
        imaged.upload(image, raw, store, expect=503)
        assert proxy.cut == 1
    assert imaged.show(image)["status"] == "queued"
    assert rig.held(store) == {image: len(raw)}
    target = tmp_path / "target"
    rig.imaged("get", store, image, str(target))
    assert target.read_bytes() == raw[::-1]
    rig.imaged("delete", store, image)
