"""The package as it is installed and as it is handed on."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from conftest import beside

SOURCE = Path(__file__).parents[1]


def test_the_licence_goes_along():
    ours = (SOURCE / "LICENSE").read_bytes()
    assert b"Apache License" in ours
    installed = [one for one in metadata.files("imaged") or () if one.name == "LICENSE"]
    assert installed and all(one.read_binary() == ours for one in installed)
    told = metadata.metadata("imaged")
    assert (told["License-Expression"], told["License-File"]) == ("Apache-2.0", "LICENSE")
    # A copy, for a package may be made of this directory alone.
    assert beside("LICENSE").read_bytes() == ours


def test_the_package_tells_what_it_is_and_for_whom():
    told = metadata.metadata("imaged")
    urls = dict(one.split(", ") for one in told.get_all("Project-URL"))
    assert urls.keys() == {"Source", "Documentation", "Changelog"}
    kinds = told.get_all("Classifier")
    assert "Typing :: Typed" in kinds and "Programming Language :: Python :: 3.13" in kinds
    assert told["Requires-Python"] == ">=3.10" and "client" in str(told["Summary"]).lower()
    # The client needs nothing else.
    assert all("extra ==" in one for one in metadata.requires("imaged") or ())


def test_the_package_adds_what_glance_and_operators_call():
    found = {
        (one.group, one.name): one.load()
        for one in metadata.distribution("imaged").entry_points
        if one.group == "console_scripts"
    }
    assert callable(found["console_scripts", "imaged-connector"])
    assert ("glance_store.drivers", "imaged-hook") in {
        (one.group, one.name) for one in metadata.distribution("imaged").entry_points
    }
