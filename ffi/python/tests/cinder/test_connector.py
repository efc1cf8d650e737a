"""`imaged-connector`, with the real os-brick."""

from __future__ import annotations

import json
import os
import subprocess
import sys

VOLUME = "1b2c3d4e-0000-4111-8222-abcdef012345"


def ask(tmp_path, asked):
    """What one run of the program answers, and its exit status."""
    line = asked if isinstance(asked, str) else json.dumps(asked)
    ran = subprocess.run(
        [sys.executable, "-m", "imaged.connector"],
        input=line + "\n",
        env={**os.environ, "IMAGED_CONNECTOR_LOCKS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    lines = ran.stdout.splitlines()
    assert len(lines) == 1, ran
    return json.loads(lines[0]), ran.returncode


def step(do, **more):
    """A step with a volume that is a file here."""
    return {"v": 1, "do": do, "volume": VOLUME, **more}


def test_a_local_volume_is_connected_and_let_go_of(tmp_path):
    device = tmp_path / "volume"
    device.write_bytes(b"x" * 512)
    connection = {"driver_volume_type": "LOCAL", "device_path": str(device)}
    answer, code = ask(tmp_path, step("connect", mode="ro", connection=connection))
    assert (answer, code) == ({"path": str(device)}, 0)
    answer, code = ask(tmp_path, step("disconnect", connection=connection, path=str(device)))
    assert (answer, code) == ({}, 0)


def test_what_cinder_is_told_of_this_machine_is_told(tmp_path):
    asked = {"v": 1, "do": "properties", "multipath": False, "enforce_multipath": False}
    answer, code = ask(tmp_path, asked)
    assert code == 0 and answer["connector"]["host"]


def test_whatever_goes_wrong_is_an_answer(tmp_path):
    unknown = {"driver_volume_type": "CARRIER-PIGEON"}
    for asked in (
        "no JSON",
        "{}",
        {"v": 2, "do": "connect"},
        {"v": 1, "do": "sing"},
        step("connect", mode="rw", connection=unknown),
        step("connect", mode="rw"),
    ):
        answer, code = ask(tmp_path, asked)
        assert code == 1 and answer["error"], asked
