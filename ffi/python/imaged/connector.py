"""`imaged-connector`: connects Cinder's volumes by os-brick, for the daemon.

The daemon starts it for each step (`imaged_cinder_connector`). It reads one line of JSON and writes
one: see drivers/cinder/program.rs. os-brick needs root for most protocols; nothing else does.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

# How often os-brick looks for a device, with growing pauses between.
SCANS = 5


def _os_brick() -> Any:
    from os_brick import privileged
    from os_brick.initiator import connector
    from oslo_concurrency import lockutils

    if os.geteuid() == 0:
        # What needs root is done here, and not in another process.
        privileged.default.set_client_mode(False)

    # Threads and processes that connect at a time take turns.
    folder = os.environ.get("IMAGED_CONNECTOR_LOCKS", "/run/lock/imaged")
    os.makedirs(folder, exist_ok=True)
    lockutils.set_defaults(folder)
    return connector


def _connector(asked: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    connection = asked["connection"]
    protocol = connection["driver_volume_type"]
    factory = _os_brick().InitiatorConnector.factory
    base = os.environ.get("IMAGED_CONNECTOR_MOUNTS", "/var/lib/glance/mnt")
    made = factory(
        protocol,
        "sudo" if os.geteuid() else "",
        use_multipath=bool(connection.get("enforce_multipath")),
        device_scan_attempts=SCANS,
        conn=connection,
        nfs_mount_point_base=base,
    )
    return made, connection


def _properties(asked: dict[str, Any]) -> dict[str, Any]:
    found = _os_brick().get_connector_properties(
        "sudo" if os.geteuid() else "",
        os.environ.get("IMAGED_CONNECTOR_IP", "127.0.0.1"),
        bool(asked.get("multipath")),
        bool(asked.get("enforce_multipath")),
    )
    return {"connector": found}


def _connect(asked: dict[str, Any]) -> dict[str, Any]:
    made, connection = _connector(asked)
    path = made.connect_volume(connection)["path"]
    if not isinstance(path, str):
        # What is no path, such as a handle of librbd, ends with this process.
        raise RuntimeError(f"volumes of {connection['driver_volume_type']} have no path here")
    return {"path": path}


def _extend(asked: dict[str, Any]) -> dict[str, Any]:
    made, connection = _connector(asked)
    made.extend_volume(connection)
    return {}


def _disconnect(asked: dict[str, Any]) -> dict[str, Any]:
    made, connection = _connector(asked)
    path = asked.get("path")
    made.disconnect_volume(connection, {"path": path} if path else None, force=True)
    return {}


STEPS = {
    "properties": _properties,
    "connect": _connect,
    "extend": _extend,
    "disconnect": _disconnect,
}


def answer(line: str) -> dict[str, Any]:
    """Do what a line asks for; a failure is an answer too."""
    try:
        asked = json.loads(line)
        if asked.get("v") != 1 or asked.get("do") not in STEPS:
            raise RuntimeError("another version of imaged is needed for what was asked")
        return STEPS[asked["do"]](asked)
    except Exception as error:
        # What a library says may show what it was given: only its kind and its first line.
        said = str(error).splitlines()
        return {"error": f"{type(error).__name__}: {said[0] if said else ''}"[:400]}


def main() -> int:
    """Answer one line."""
    # Libraries write to standard output: that is for the answer alone.
    out = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    told = answer(sys.stdin.readline())
    with os.fdopen(out, "w") as stream:
        stream.write(json.dumps(told) + "\n")
    return 1 if "error" in told else 0


if __name__ == "__main__":
    sys.exit(main())
