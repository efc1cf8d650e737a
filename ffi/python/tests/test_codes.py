"""What Glance's API answers for every answer of the daemon, which here does as it is told."""

from __future__ import annotations

import pytest
from servers import Told
from stores import get_store, new

import imaged
from imaged.glance.store import Served

# For each code of the daemon, what Glance answers to an upload, a download, a delete of an image,
# and of its data in one of two stores. 204 on a delete says that the image is gone.
ANSWERS = {
    "Invalid": (400, 500, 403, 403),
    "Denied": (503, 503, 403, 403),
    "NotFound": (503, 204, 204, 204),
    "Unsupported": (410, 400, 403, 403),
    "Exists": (409, 503, 409, 409),
    "InUse": (409, 503, 409, 409),
    "Precondition": (409, 503, 409, 409),
    "TooLarge": (413, 500, 500, 500),
    "Range": (400, 400, 500, 500),
    "Mismatch": (400, 503, 503, 503),
    "Internal": (500, 500, 500, 500),
    "BackendDenied": (503, 503, 403, 403),
    "Unavailable": (503, 503, 503, 503),
    "Timeout": (503, 503, 503, 503),
    "Full": (413, 503, 500, 500),
    # No answer at all.
    "Lost": (503, 503, 503, 503),
    "Unreachable": (503, 503, 503, 503),
}
WHY = Told.WHY


@pytest.fixture(params=ANSWERS)
def code(request, api, tmp_path):
    """Glance on two stores of a daemon that answers with this code."""
    path = tmp_path / "socket"
    daemon = Told(str(path), request.param)
    sections = [
        f"[{name}]\nfilesystem_store_datadir = {tmp_path}/{name}\nimaged_socket = {path}\n"
        for name in ("first", "second")
    ]
    api.start("first:file, second:file", *sections)
    assert isinstance(get_store("second"), Served)
    if request.param == "Unreachable":
        daemon.close()
        path.unlink()
    yield request.param
    if request.param != "Unreachable":
        daemon.close()


def location(tmp_path, store: str) -> tuple[str, str]:
    return f"file://{tmp_path}/{store}/{new()}", store


def test_every_code_is_here():
    assert imaged.errors.CODES.keys() | {"Lost", "Unreachable"} == ANSWERS.keys()


def test_an_upload(api, code):
    image = api.create()
    answer = api.upload(image, b"bytes", "second")
    assert answer.status_int == ANSWERS[code][0], answer.text
    assert api.show(image)["status"] == "queued"
    if code not in ("Lost", "Unreachable", "Internal", "NotFound", "Exists", "InUse"):
        assert WHY in answer.text or answer.status_int == 410
    assert "ilesystem" not in answer.text


def test_a_download(api, code, tmp_path):
    image = api.active(location(tmp_path, "second"))
    answer = api.ask("GET", f"/images/{image}/file")
    assert answer.status_int == ANSWERS[code][1], answer.text
    if code not in ("Lost", "Unreachable", "NotFound"):
        assert WHY in answer.text


def test_a_part_of_a_download(api, code, tmp_path):
    image = api.active(location(tmp_path, "second"))
    answer = api.ask("GET", f"/images/{image}/file", Range="bytes=1-2")
    assert answer.status_int == ANSWERS[code][1], answer.text


def test_a_delete(api, code, tmp_path):
    image = api.active(location(tmp_path, "second"))
    answer = api.ask("DELETE", f"/images/{image}")
    assert answer.status_int == ANSWERS[code][2], answer.text
    assert api.is_there(image) is (answer.status_int != 204)
    if api.is_there(image):
        assert api.show(image)["status"] == "active"
        assert len(api.show(image)["locations"]) == 1


def test_a_delete_from_one_store(api, code, tmp_path):
    image = api.active(location(tmp_path, "first"), location(tmp_path, "second"))
    answer = api.ask("DELETE", f"/stores/second/{image}")
    assert answer.status_int == ANSWERS[code][3], answer.text
    assert len(api.show(image)["locations"]) == (1 if answer.status_int == 204 else 2)
