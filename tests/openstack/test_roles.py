"""Glance's user is not the daemon's: what it may do is what `roles` gives it."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.imaged


def roles(rig, given):
    """The daemon with another line of roles; as with any option, SIGHUP is enough."""
    user = rig["glance_user"]
    line = f"roles = {user}:admin, {rig['cinder_user']}:service\n"

    def change(text):
        assert line in text
        return text.replace(line, f"roles = {given.format(user=user)}\n" if given else "")

    return rig.configured(change)


def test_no_role(imaged, rig, raw):
    """Nothing is moved, the log names the line that is missing, and with it all is well."""
    there = imaged.active(raw, "fast")
    image = imaged.create()
    with roles(rig, None):
        imaged.upload(image, raw, "fast", expect=503)
        assert imaged.show(image)["status"] == "queued"
        imaged.download(there, 503)
        imaged.delete(there, 403)
        assert imaged.show(there)["status"] == "active"
        # Stores that Glance serves itself ask nobody.
        imaged.active(raw, "plain-file")
    log = (Path(rig["log"]) / "glance.log").read_text()
    assert "to admit it, add to roles in [imaged]" in log
    imaged.upload(image, raw, "fast")
    assert imaged.download(there).content == raw


def test_a_member_may_not_delete(imaged, rig, raw):
    with roles(rig, "{user}:member"):
        image = imaged.active(raw, "fast")
        assert imaged.download(image).content == raw
        imaged.delete(image, 403)
        assert imaged.show(image)["status"] == "active"
    imaged.delete(image)
