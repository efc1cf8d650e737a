"""The `openstack` command, as users type it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

OPENSTACK = Path(sys.executable).with_name("openstack")


@pytest.fixture
def openstack(rig, tmp_path):
    """Runs it as an administrator, who alone may copy; returns what it prints."""
    user = {f"OS_{name.upper()}": value for name, value in rig["users"]["admin"].items()}
    surroundings = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "OS_AUTH_URL": rig["keystone"],
        "OS_REGION_NAME": rig["region"],
        **user,
    }

    def run(*words):
        done = subprocess.run(
            [OPENSTACK, "image", *words],
            env=surroundings,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_create_show_save_delete(glance, rig, openstack, bodies, tmp_path, disk_format):
    body = bodies[disk_format]
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(body)
    words = ("--disk-format", disk_format, "--file", source, "-f", "json", "mine")
    image = json.loads(openstack("create", *words))["id"]
    shown = json.loads(openstack("show", "-f", "json", "mine"))
    assert (shown["id"], shown["status"], shown["size"]) == (image, "active", len(body))
    assert rig.held("fast") == {image: len(body)}
    openstack("save", "--file", target, "mine")
    assert target.read_bytes() == body
    openstack("delete", "mine")
    assert rig.held("fast") == {}


def test_import_and_copy(glance, rig, openstack, raw, tmp_path):
    listed = json.loads(openstack("stores", "list", "-f", "json"))
    assert {"ceph", "fast"} <= {one["ID"] for one in listed}
    source = tmp_path / "source"
    source.write_bytes(raw)
    words = ("--import", "--file", source, "-f", "json", "mine")
    image = json.loads(openstack("create", *words))["id"]
    glance.imported(image, ["fast"])
    openstack("import", "mine", "--method", "copy-image", "--store", "ceph")
    glance.imported(image, ["ceph", "fast"])
    assert rig.held("ceph") == rig.held("fast") == {image: len(raw)}
    openstack("delete", "mine")
    assert rig.held("ceph") == rig.held("fast") == {}
