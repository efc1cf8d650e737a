"""Imports into several stores, and taking an image out of one of them."""

import os
import random
from pathlib import Path

import pytest
from cloud import digest, until

EVERYWHERE = ["ceph", "cloud", "fast", "plain-ceph", "plain-cloud", "plain-file", "swift"]


@pytest.fixture
def served(rig, raw):
    """The URL of a file with the bytes."""
    path = rig.folder / "www" / f"image-{random.getrandbits(64):x}"
    path.write_bytes(raw)
    yield f"{rig['files']}/{path.name}"
    path.unlink()


def check_copies(glance, rig, image, body, stores):
    facts = glance.show(image)
    assert facts["status"] == "active"
    assert facts["size"] == len(body)
    assert facts["checksum"] == digest(body, "md5")
    assert facts["os_hash_value"] == digest(body, "sha512")
    assert sorted(facts["stores"].split(",")) == sorted(stores)
    for store in EVERYWHERE:
        assert rig.held(store) == ({image: len(body)} if store in stores else {}), store
    assert glance.download(image).content == body


def test_glance_direct(glance, rig, raw):
    image = glance.create()
    glance.stage(image, raw)
    assert glance.show(image)["status"] == "uploading"
    glance.fetch(image, "glance-direct", EVERYWHERE)
    glance.imported(image, EVERYWHERE)
    check_copies(glance, rig, image, raw, EVERYWHERE)


def test_web_download(glance, rig, raw, served):
    image = glance.create()
    glance.fetch(image, "web-download", ["ceph", "fast"], uri=served)
    glance.imported(image, ["ceph", "fast"])
    check_copies(glance, rig, image, raw, ["ceph", "fast"])


@pytest.mark.parametrize("first", EVERYWHERE)
def test_copy_image(glance, rig, raw, first):
    image = glance.active(raw, first)
    others = [store for store in EVERYWHERE if store != first]
    glance.fetch(image, "copy-image", others)
    glance.imported(image, EVERYWHERE)
    check_copies(glance, rig, image, raw, EVERYWHERE)


def test_delete_from_one_store(glance, rig, raw):
    image = glance.create()
    glance.stage(image, raw)
    glance.fetch(image, "glance-direct", EVERYWHERE)
    glance.imported(image, EVERYWHERE)
    left = list(EVERYWHERE)
    for store in ("ceph", "plain-cloud", "plain-file", "swift", "fast", "cloud"):
        glance.ask("DELETE", f"/stores/{store}/{image}", 204)
        left.remove(store)
        check_copies(glance, rig, image, raw, left)
    # The last copy is the image's.
    glance.ask("DELETE", f"/stores/{left[0]}/{image}", 403)
    check_copies(glance, rig, image, raw, left)
    # Into one where it was before.
    glance.fetch(image, "copy-image", ["ceph"])
    glance.imported(image, ["ceph"])
    check_copies(glance, rig, image, raw, [*left, "ceph"])


def test_import_that_cannot_fetch(glance, rig):
    image = glance.create()
    missing = f"{rig['files']}/not-there"
    glance.fetch(image, "web-download", ["ceph", "fast"], uri=missing)
    until("the import to fail", lambda: glance.tasks(image) == ["failure"])
    assert glance.show(image)["status"] == "queued"
    assert rig.held("ceph") == rig.held("fast") == {}


def test_a_download_that_broke_off_can_be_repeated(glance, rig, raw):
    """What was staged of it goes, although Glance does not say in which of its stores it is."""
    path = rig.folder / "www" / f"image-{random.getrandbits(64):x}"
    staged = Path(rig["staging"])
    with path.open("wb") as file:
        file.truncate(4 << 30)
    image = glance.create()
    glance.fetch(image, "web-download", ["fast"], uri=f"{rig['files']}/{path.name}")
    until("some of it to be staged", lambda: any(one.stat().st_size for one in staged.iterdir()))
    os.truncate(path, 0)
    until("the import to fail", lambda: glance.tasks(image) == ["failure"])
    until("nothing to be staged", lambda: list(staged.iterdir()) == [])
    path.write_bytes(raw)
    glance.fetch(image, "web-download", ["fast"], uri=f"{rig['files']}/{path.name}")
    until("the image", lambda: glance.show(image)["status"] == "active")
    glance.settled(image)
    check_copies(glance, rig, image, raw, ["fast"])
    path.unlink()


def test_location_in_the_http_store(glance, rig, raw, served):
    """An image that lies elsewhere is read in-process, and copied into the others."""
    image = glance.create()
    change = [{"op": "add", "path": "/locations/-", "value": {"url": served, "metadata": {}}}]
    media = "application/openstack-images-v2.1-json-patch"
    answer = glance.ask(
        "PATCH", f"/images/{image}", 200, json=change, headers={"Content-Type": media}
    )
    assert answer.json()["status"] == "active"
    assert glance.download(image).content == raw
    glance.delete(image)
