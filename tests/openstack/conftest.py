"""Tests of Glance on the rig that `ci/openstack up` made; `ci/openstack test` runs them.

A test that takes `glance` runs in both modes: with every store in-process, and with the daemon
behind `ceph` and `fast`. After each test every byte is accounted for.
"""

import hashlib
import os
import random
import subprocess

import pytest
from cloud import MODES, Glance, Rig, check_accounts
from volumes import GIB, Cinder


def pytest_addoption(parser):
    parser.addoption("--mode", choices=MODES, help="only in this mode")


def pytest_generate_tests(metafunc):
    if "mode" in metafunc.fixturenames:
        only = metafunc.config.getoption("--mode")
        metafunc.parametrize("mode", [only] if only else MODES, scope="session")


def pytest_collection_modifyitems(config, items):
    """With --mode in-process, tests that need the daemon are not there."""
    if config.getoption("--mode") != "in-process":
        return
    out = [item for item in items if item.get_closest_marker("imaged")]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]


def pytest_configure(config):
    config.addinivalue_line("markers", "imaged: needs Glance to use the daemon")
    # Nothing here takes as long, unless it hangs.
    config.option.timeout = config.option.timeout or 300


@pytest.fixture(scope="session")
def rig():
    return Rig(os.environ["IMAGED_RIG"])


@pytest.fixture
def both(rig):
    """Glance in whichever mode the test chooses."""
    glance = Glance(rig)
    assert glance.images() == [], "these tests want Glance for themselves"
    yield glance
    # Also after a test that failed, whatever it left: the next one is not to fail with it.
    rig.ensure_daemon()
    glance.delete_all()
    check_accounts(rig, glance)


@pytest.fixture
def glance(both, rig, mode):
    """Glance in the mode that the test runs in."""
    rig.use(mode)
    return both


@pytest.fixture
def imaged(both, rig):
    """Glance with the daemon."""
    rig.use("imaged")
    return both


@pytest.fixture(scope="session")
def raw():
    """Bytes that nobody takes for another format, with a hole; no multiple of anything."""
    source = random.Random(1)
    return source.randbytes((5 << 20) + 4321) + bytes(9 << 20) + source.randbytes(1 << 20)


@pytest.fixture
def cinder(imaged, rig):
    """Cinder, and Glance with the daemon."""
    cinder = Cinder(rig)
    yield cinder
    rig.ensure_daemon()
    # What becomes of their clones is tested; here they are only to go.
    imaged.delete_all()
    cinder.delete_made()


@pytest.fixture(scope="session")
def whole(raw):
    """The SHA-512 of a volume of a GiB that begins with `raw`."""
    found = hashlib.sha512(raw)
    left = GIB - len(raw)
    while left:
        found.update(bytes(min(left, 16 << 20)))
        left -= min(left, 16 << 20)
    return found.hexdigest()


@pytest.fixture(scope="session")
def qcow2(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("qcow2")
    (folder / "raw").write_bytes(raw)
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", folder / "raw", folder / "qcow2"],
        check=True,
        timeout=60,
    )
    return (folder / "qcow2").read_bytes()


@pytest.fixture(scope="session")
def bodies(raw, qcow2):
    return {"raw": raw, "qcow2": qcow2}
