"""Images that a store may not touch: none is lost, and who asks is told why."""

import contextlib
from pathlib import Path

import pytest
import requests


@contextlib.contextmanager
def unreadable(rig, mode, image):
    """The image's file is where it was, and whoever serves the store may not read it."""
    folder = Path(rig["stores"]["fast"]["path"])
    if mode == "imaged":
        moved = folder.with_name("moved")
        moved.mkdir(exist_ok=True)
        line = f"[fast]\nfilesystem_store_datadir = {moved}\n"
        with rig.configured(lambda text: text + line):
            yield
        moved.rmdir()
        return
    before = folder.stat().st_mode
    (folder / image).chmod(0)
    folder.chmod(0o555)
    try:
        yield
    finally:
        folder.chmod(before)
        (folder / image).chmod(0o640)


def test_a_location_that_cannot_be_read(glance, rig, mode, raw):
    """It is an error of the server's, told if the daemon serves it; nothing is forgotten."""
    image = glance.active(raw, "fast")
    with unreadable(rig, mode, image):
        if mode == "imaged":
            answer = glance.download(image, 500)
            assert image in answer.text, answer.text
        else:
            # Glance does not catch what its driver raises, and uWSGI has no answer of its own.
            with pytest.raises(requests.ConnectionError):
                glance.download(image)
        glance.delete(image, 403)
        assert glance.show(image)["status"] == "active"
    assert rig.held("fast") == {image: len(raw)}
    assert glance.download(image).content == raw


@pytest.mark.imaged
def test_an_image_of_another_pool(imaged, rig, raw):
    """Of one that was the store's, before it got another."""
    image = imaged.active(raw, "ceph")
    with rig.configured(lambda text: f"{text}[ceph]\nrbd_store_pool = small\n"):
        answer = imaged.download(image, 500)
        assert image in answer.text, answer.text
        imaged.delete(image, 403)
        assert imaged.show(image)["status"] == "active"
        # What is uploaded now goes where the store is now.
        other = imaged.active(raw, "ceph")
        assert imaged.download(other).content == raw
        imaged.delete(other)
    assert rig.held("ceph") == {image: len(raw)}
    assert imaged.download(image).content == raw


@pytest.mark.imaged
@pytest.mark.parametrize("store", ["ceph", "fast"])
def test_a_store_that_may_not_be_written(imaged, rig, raw, store):
    image = imaged.create()
    imaged.stage(image, raw)
    imaged.fetch(image, "glance-direct", [store, "plain-file"])
    imaged.imported(image, [store, "plain-file"])
    with rig.configured(lambda text: f"{text}[{store}]\nimaged_read_only = true\n"):
        imaged.ask("DELETE", f"/stores/{store}/{image}", 403)
        imaged.delete(image, 403)
        facts = imaged.show(image)
        assert facts["status"] == "active"
        assert store in facts["stores"].split(",")
        assert imaged.download(image).content == raw
        other = imaged.create()
        imaged.upload(other, raw, store, expect=410)
    assert rig.held(store) == {image: len(raw)}
    imaged.delete(image)
    assert rig.held(store) == {}
