"""Images without md5, as the daemon makes them with `checksum = none`, and those who read them."""

from pathlib import Path

import glanceclient
import openstack
import pytest
from cloud import digest, until

pytestmark = pytest.mark.imaged


def without_md5(text):
    return text.replace("[imaged]\n", "[imaged]\nchecksum = none\n", 1)


@pytest.fixture
def without(imaged, rig):
    with rig.configured(without_md5):
        yield imaged


@pytest.fixture
def cloud(rig):
    """As the `openstack` command reads, and with the session that other clients want."""
    return openstack.connect(
        auth_url=rig["keystone"], region_name=rig["region"], **rig["users"]["admin"]
    )


@pytest.fixture
def client(rig, cloud):
    """The client that Nova and Cinder read images by."""
    return glanceclient.Client("2", session=cloud.session, endpoint_override=rig["glance"])


@pytest.mark.parametrize("store", ["ceph", "cloud", "fast", "swift", "volumes"])
def test_stored_shown_and_read(without, client, cloud, raw, store):
    image = without.active(raw, store, len(raw))
    facts = without.show(image)
    assert facts["checksum"] is None
    assert facts["os_hash_value"] == digest(raw, "sha512")
    # From the store, and then from Glance's cache.
    for _ in range(2):
        answer = without.download(image)
        assert answer.content == raw and "Content-MD5" not in answer.headers
    assert without.download(image, 206, Range="bytes=9-4321").content == raw[9:4322]
    assert b"".join(client.images.data(image)) == raw
    assert cloud.image.download_image(image).content == raw


def test_what_is_damaged_is_known_by_its_multihash(without, client, cloud, rig, raw):
    image = without.active(raw, "fast", len(raw))
    there = Path(rig["stores"]["fast"]["path"]) / image
    with there.open("r+b") as file:
        file.write(bytes([raw[0] ^ 1]))
    with pytest.raises(OSError, match="Corrupt image download"):
        b"".join(client.images.data(image))
    # What Glance's cache keeps it compares by the md5 alone.
    without.ask("DELETE", f"/cache/{image}", (204, 404))
    with pytest.raises(openstack.exceptions.SDKException, match="checksum mismatch"):
        cloud.image.download_image(image)


def test_an_import_into_several_stores(without, raw):
    image = without.create()
    without.stage(image, raw)
    stores = ["ceph", "cloud", "fast"]
    without.fetch(image, "glance-direct", stores)
    without.imported(image, stores)
    facts = without.show(image)
    assert (facts["checksum"], facts["os_hash_value"]) == (None, digest(raw, "sha512"))
    without.fetch(image, "copy-image", ["swift"])
    without.imported(image, [*stores, "swift"])


@pytest.mark.parametrize("store", ["ceph", "fast"])
def test_cinder_makes_a_volume_of_one(without, cinder, raw, whole, store):
    """From Ceph by a clone, and else by a download."""
    image = without.active(raw, store, len(raw))
    volume = cinder.volume("plain", image_id=image)
    assert digest(cinder.read(volume), "sha512") == whole
    # As a clone it keeps the image.
    cinder.delete(volume)


@pytest.mark.parametrize("kind", ["stream", "clone", "copy-to-cloud", "plain"])
def test_cinder_makes_one_of_a_volume(without, cinder, client, raw, whole, kind):
    image = cinder.uploaded(cinder.volume(kind, content=raw))
    # Glance reads what was cloned by itself, and then has an md5 of its own.
    until("the digest", lambda: without.show(image).get("os_hash_value"))
    assert without.show(image)["os_hash_value"] == whole
    if kind in ("stream", "plain"):
        assert without.show(image)["checksum"] is None
    assert without.download_digest(image) == whole
    assert sum(map(len, client.images.data(image))) == without.show(image)["size"]


def test_images_of_before_and_after_a_change_of_the_option(imaged, client, rig, raw):
    md5 = digest(raw, "md5")
    before = imaged.active(raw, "fast", len(raw))
    with rig.configured(without_md5):
        answer = imaged.download(before)
        assert (answer.content, answer.headers["Content-MD5"]) == (raw, md5)
        assert b"".join(client.images.data(before)) == raw
        # Who stores it once more must compute what it has: Glance compares, when the store has it already,
        # and leaves it there.
        imaged.fetch(before, "copy-image", ["ceph"])
        until(
            "the copy to fail",
            lambda: imaged.show(before).get("os_glance_failed_import") == "ceph",
        )
        imaged.settled(before)
        facts = imaged.show(before)
        assert (facts["status"], facts["stores"], facts["checksum"]) == ("active", "fast", md5)
        assert list(rig.held("ceph")) == [before]
        rig.imaged("delete", "ceph", before)
        after = imaged.active(raw, "fast", len(raw))
    assert imaged.show(after)["checksum"] is None
    answer = imaged.download(after)
    assert answer.content == raw and "Content-MD5" not in answer.headers
    assert b"".join(client.images.data(after)) == raw
    for image in (before, after):
        imaged.fetch(image, "copy-image", ["ceph"])
        # What has failed before stays told until then.
        until("the copy", lambda image=image: imaged.show(image)["stores"] == "ceph,fast")
        imaged.settled(image)
        assert imaged.show(image)["checksum"] == md5
