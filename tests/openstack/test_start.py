"""How a Glance under uWSGI starts that asks for the daemon: with it, or not at all."""

import shutil
from pathlib import Path

import glance_store
import pytest

pytestmark = pytest.mark.imaged


def refused(rig, conf="", python=None):
    """What the log says, at level CRITICAL, of a Glance that does not start."""
    with pytest.raises(AssertionError, match="it does not start"), rig.beside(conf, python=python):
        pass
    log = (Path(rig["log"]) / "glance-beside.log").read_text()
    return [line for line in log.splitlines() if " CRITICAL " in line][-1]


@pytest.mark.parametrize(
    ("conf", "why"),
    [
        ("[DEFAULT]\nhashing_algorithm = sha3_256\n", "hashing_algorithm is sha3_256"),
        ("[fast]\nimaged_socket = imaged.sock\n", "imaged_socket of the store fast is"),
    ],
    ids=["algorithm", "socket"],
)
def test_what_cannot_be_is_refused(imaged, rig, conf, why):
    assert why in refused(rig, conf)


@pytest.fixture
def other(rig):
    """A glance_store that loads its stores by a function of another name."""
    folder = rig.folder / "glance-store-other"
    there = folder / "glance_store"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(
        Path(glance_store.__file__).parent, there, ignore=shutil.ignore_patterns("__pycache__")
    )
    module = there / "multi_backend.py"
    text = module.read_text()
    assert "_load_multi_store(" in text
    module.write_text(text.replace("_load_multi_store(", "_load_one_store("))
    yield folder
    shutil.rmtree(folder)


def test_a_glance_store_that_loads_in_another_way(imaged, rig, other):
    """Stevedore passes over what a module raises when it is imported; not over this."""
    told = refused(rig, python=other)
    assert "imaged_socket is set for" in told and "fast" in told


def test_a_single_store_is_told(imaged, rig):
    conf = f"[DEFAULT]\nenabled_backends =\n[glance_store]\nimaged_socket = {rig['socket']}\n"
    conf += f"stores = file\ndefault_store = file\nfilesystem_store_datadir = {rig['dir']}/www\n"
    with rig.beside(conf):
        log = (Path(rig["log"]) / "glance-beside.log").read_text()
    assert "imaged_socket in [glance_store] of Glance's configuration has no effect" in log


def test_a_directory_that_differs_is_told(imaged, rig):
    with rig.beside(f"[fast]\nfilesystem_store_datadir = {rig['dir']}/www\n"):
        log = (Path(rig["log"]) / "glance-beside.log").read_text()
    fast = rig["stores"]["fast"]["path"]
    assert f"directories is {rig['dir']}/www for Glance and {fast} for imaged" in log
