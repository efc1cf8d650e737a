"""Images that are volumes of Cinder's, in a store of type cinder."""

import pytest
from cloud import digest, until
from volumes import GIB

pytestmark = pytest.mark.imaged


@pytest.mark.parametrize("known", [True, False])
def test_stored_read_and_deleted(cinder, imaged, rig, raw, known):
    image = imaged.active(raw, "volumes", len(raw) if known else None)
    assert imaged.show(image)["os_hash_value"] == digest(raw, "sha512")
    assert rig.held("volumes") == {image: len(raw)}
    assert imaged.download(image).content == raw
    assert imaged.download(image, 206, Range="bytes=9-4321").content == raw[9:4322]
    imaged.delete(image)
    assert rig.held("volumes") == {}


def test_a_volume_of_an_image(cinder, imaged, rig, raw, whole):
    image = imaged.active(raw, "volumes", len(raw))
    volume = cinder.volume("plain", image_id=image)
    imaged.delete(image)
    assert digest(cinder.read(volume), "sha512") == whole


@pytest.mark.parametrize("first", ["image", "volume"])
def test_cinder_s_own_clone_of_a_volume(cinder, imaged, rig, raw, whole, first):
    """Cinder registers it by the volume alone; which store that is in the daemon tells by its type."""
    volume = cinder.volume("backed", content=raw)
    image = cinder.uploaded(volume)
    # Cinder does not wait for Glance, which then reads it for its digest.
    until("the digest", lambda: imaged.show(image).get("os_hash_value"))
    shown = imaged.show(image)
    assert (shown["status"], shown["size"], shown["stores"]) == ("active", GIB, "volumes")
    assert rig.held("volumes") == {image: GIB}
    assert [job for job in rig.imaged("jobs")["jobs"] if job["image"] == image] == []
    if first == "volume":
        cinder.delete(volume)
    assert imaged.download_digest(image) == whole
    imaged.delete(image)
    assert rig.held("volumes") == {}


def test_cinder_s_own_clone_that_glance_refuses(cinder, imaged, rig, raw, whole):
    """Cinder sends the store's name where Glance takes digests alone; then it streams."""
    image = cinder.uploaded(cinder.volume("backed-to-volumes", content=raw))
    shown = imaged.show(image)
    assert (shown["status"], shown["os_hash_value"]) == ("active", whole)
    assert rig.held("volumes") == {image: GIB}
