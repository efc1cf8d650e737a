"""Where a store's images are, for Glance and for the daemon.

Each has a configuration of its own, or both have one; a store that is in two places by them works,
and its older images are out of reach.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ..records import Store


def path_and_priority(line: str) -> tuple[str, int]:
    """A directory with its priority, of a line of `filesystem_store_datadirs`: `path:200`."""
    path, colon, number = line.rpartition(":")
    return (path, int(number)) if colon and number.isdigit() else (line, 0)


def _directories(paths: Any) -> str:
    return ", ".join(sorted({os.path.normpath(path) for path in paths}))


def _server(url: str) -> str:
    """A server as it can be compared: Glance has no scheme where none is needed."""
    return url.rpartition("://")[2].rstrip("/").lower()


def _file(conf: Any) -> dict[str, Any]:
    several = [path_and_priority(line)[0] for line in conf.filesystem_store_datadirs or ()]
    one = conf.filesystem_store_datadir
    return {"directories": _directories(several or ([one] if one else []))}


def _file_of_imaged(told: dict[str, Any]) -> dict[str, Any]:
    listed = told.get("directories") or []
    return {"directories": _directories(one["path"] for one in listed if not one.get("also"))}


def _s3(conf: Any) -> dict[str, Any]:
    host = conf.s3_store_host
    return {"server": _server(host) if host else None, "bucket": conf.s3_store_bucket}


def _s3_of_imaged(told: dict[str, Any]) -> dict[str, Any]:
    host = told.get("s3_store_host")
    return {"server": _server(host) if host else None, "bucket": told.get("s3_store_bucket")}


# For each type, where its images are by Glance's options, and by what the daemon tells.
PLACES: dict[
    str,
    tuple[Callable[[Any], dict[str, Any]], Callable[[dict[str, Any]], dict[str, Any]]],
] = {
    "cinder": (
        lambda conf: {"volume type": conf.cinder_volume_type},
        lambda told: {"volume type": told.get("volume_type")},
    ),
    "file": (_file, _file_of_imaged),
    "rbd": (
        lambda conf: {"pool": conf.rbd_store_pool},
        lambda told: {"pool": told.get("pool")},
    ),
    "s3": (_s3, _s3_of_imaged),
    "swift": (
        lambda conf: {"container": conf.swift_store_container},
        lambda told: {"container": told.get("container")},
    ),
}


def differences(kind: str, conf: Any, store: Store) -> list[str]:
    """What differs, each with both values. What one of the two does not say is no difference."""
    if kind not in PLACES:
        return []
    of_glance, of_imaged = PLACES[kind]
    here, there = of_glance(conf), of_imaged(store.properties)
    return [
        f"its {what} is {here[what]} for Glance and {there[what]} for imaged"
        for what in here
        if here[what] and there[what] and here[what] != there[what]
    ]
