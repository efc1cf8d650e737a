"""Uploads, downloads and deletes, in every store."""

import random
from urllib.parse import quote

import openstack
import pytest
from cloud import PIECE, digest, until

STORES = ("ceph", "cloud", "fast", "plain-ceph", "plain-cloud", "plain-file", "swift")
SWITCHED = ("ceph", "cloud", "fast", "swift")


def location(rig, store, image):
    """The URI that an image has, whoever wrote it."""
    facts = rig["stores"][store]
    if facts["type"] == "file":
        return f"file://{facts['path']}/{image}"
    if facts["type"] == "s3":
        return f"s3://{facts['url'].removeprefix('http://')}/{facts['bucket']}/{image}"
    if facts["type"] == "swift":
        address = facts["auth"].removeprefix("http://")
        login = f"service%3A{facts['user']}:{quote(facts['key'])}"
        return f"swift+http://{login}@{address}/{facts['container']}/{image}"
    return f"rbd://{rig.fsid(store)}/{facts['pool']}/{image}/snap"


@pytest.mark.parametrize("known", [True, False], ids=["size-known", "size-unknown"])
@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
@pytest.mark.parametrize("store", STORES)
def test_upload_download_delete(glance, rig, bodies, store, disk_format, known):
    body = bodies[disk_format]
    image = glance.create(disk_format=disk_format)
    assert glance.show(image)["status"] == "queued"
    glance.upload(image, body, store, len(body) if known else None)

    facts = glance.show(image)
    assert facts["status"] == "active"
    assert facts["size"] == len(body)
    assert facts["checksum"] == digest(body, "md5")
    assert facts["os_hash_algo"] == "sha512"
    assert facts["os_hash_value"] == digest(body, "sha512")
    assert facts["stores"] == store
    url = location(rig, store, image)
    assert facts["direct_url"] == url
    assert facts["locations"] == [{"url": url, "metadata": {"store": store}}]
    assert rig.held(store) == {image: len(body)}

    answer = glance.download(image)
    assert answer.content == body
    assert answer.headers["Content-MD5"] == facts["checksum"]

    glance.delete(image)
    assert rig.held(store) == {}
    glance.ask("GET", f"/images/{image}", 404)


@pytest.mark.parametrize("size", [1, 511, 8 << 20, (8 << 20) + 1])
@pytest.mark.parametrize("store", SWITCHED)
def test_sizes_around_the_edges(glance, rig, store, size):
    body = random.Random(size).randbytes(size)
    for known in (size, None):
        image = glance.active(body, store, known)
        assert glance.show(image)["checksum"] == digest(body, "md5")
        assert glance.download(image).content == body
        assert rig.held(store)[image] == size


@pytest.mark.parametrize("store", SWITCHED)
def test_nothing_but_zeros(glance, store):
    body = bytes(20 << 20)
    image = glance.active(body, store)
    assert glance.show(image)["os_hash_value"] == digest(body, "sha512")
    assert glance.download(image).content == body


@pytest.mark.parametrize("store", SWITCHED)
def test_ranges(glance, mode, raw, store):
    image = glance.active(raw, store)
    # glance_store has no ranges for these.
    if store in ("ceph", "cloud", "swift") and mode == "in-process":
        glance.download(image, 400, Range="bytes=5-9")
        return
    size = len(raw)
    for first, last in ((0, 0), (5, 9), (5 << 20, (5 << 20) + 9999), (size - 1, size - 1)):
        answer = glance.download(image, 206, Range=f"bytes={first}-{last}")
        assert answer.content == raw[first : last + 1]
        assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{size}"
    assert glance.download(image, 206, Range="bytes=-7").content == raw[-7:]
    assert glance.download(image, 206, Range=f"bytes={size - 3}-").content == raw[-3:]
    glance.download(image, 416, Range=f"bytes={size}-")


@pytest.mark.parametrize("store", SWITCHED)
def test_second_upload_is_refused(glance, raw, store):
    """By Glance, which knows that the image has its data."""
    image = glance.active(raw, store)
    glance.upload(image, b"other bytes", store, expect=409)
    assert glance.download(image).content == raw


@pytest.mark.imaged
@pytest.mark.parametrize("store", SWITCHED)
def test_an_id_that_is_taken_in_the_store_is_refused(imaged, rig, raw, tmp_path, store):
    """By the daemon: of this one Glance knows nothing, and takes what comes."""
    image = imaged.create()
    there = tmp_path / "there"
    there.write_bytes(raw)
    rig.imaged("put", store, image, str(there))
    try:
        answer = imaged.upload(image, b"other bytes", store, expect=409)
        assert "has an image of this id" in answer.text
        assert imaged.show(image)["status"] == "queued"
        assert rig.held(store) == {image: len(raw)}
        assert rig.imaged("stat", store, image)["digests"]["sha512"] == digest(raw, "sha512")
    finally:
        rig.imaged("delete", store, image)
    imaged.upload(image, b"other bytes", store)
    assert imaged.download(image).content == b"other bytes"


@pytest.mark.parametrize("store", SWITCHED)
def test_deactivate_and_reactivate(glance, raw, store):
    image = glance.active(raw, store)
    glance.ask("POST", f"/images/{image}/actions/deactivate", 204)
    assert glance.show(image)["status"] == "deactivated"
    glance.ask("POST", f"/images/{image}/actions/reactivate", 204)
    assert glance.download(image).content == raw


@pytest.mark.parametrize("store", SWITCHED)
def test_a_body_cut_short(glance, rig, raw, store):
    """Fewer bytes than announced: no image, and another try works."""
    image = glance.create()
    answer = glance.upload(image, raw, store, len(raw) + 1, expect=None)
    assert answer.status_code >= 400, answer
    assert glance.show(image)["status"] == "queued"
    assert rig.held(store) == {}
    glance.upload(image, raw, store, len(raw))
    assert glance.download(image).content == raw


class Gone(Exception):
    """The client gives up."""


@pytest.mark.parametrize("store", SWITCHED)
def test_client_gone_during_an_upload(glance, rig, raw, store):
    def body():
        for at in range(0, len(raw) // 2, PIECE):
            yield raw[at : at + PIECE]
        raise Gone

    image = glance.create()
    with pytest.raises(Gone):
        glance.upload(image, body(), store)
    glance.await_queued(image)
    until("nothing to be left", lambda: rig.held(store) == {})
    rig.until_free(image)
    glance.upload(image, raw, store)
    assert glance.download(image).content == raw


def test_the_default_store(glance, rig, raw):
    image = glance.active(raw)
    assert glance.show(image)["stores"] == rig["default_store"]


def test_openstacksdk_as_a_user(glance, rig, raw, tmp_path):
    user = rig["users"]["demo"]
    cloud = openstack.connect(auth_url=rig["keystone"], region_name=rig["region"], **user)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(raw)
    formats = {"disk_format": "raw", "container_format": "bare"}
    uploaded = cloud.image.create_image("uploaded", filename=str(source), **formats)
    glance.made.append(uploaded.id)
    imported = cloud.image.create_image("imported", **formats)
    glance.made.append(imported.id)
    cloud.image.stage_image(imported, filename=str(source))
    cloud.image.import_image(imported, method="glance-direct", stores=["ceph"])
    glance.imported(imported.id, ["ceph"])
    for image, store in ((uploaded, "fast"), (imported, "ceph")):
        assert rig.held(store) == {image.id: len(raw)}
        cloud.image.download_image(image.id, output=str(target))
        assert target.read_bytes() == raw
        cloud.image.delete_image(image.id)
        assert rig.held(store) == {}
