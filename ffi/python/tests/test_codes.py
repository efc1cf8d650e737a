"""What Glance's API answers for every answer of the daemon, which here does as it is told."""

from __future__ import annotations

import json
import socket
import threading

import pytest
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
STATUS = {kind: status for status, kind in imaged.errors.STATUSES.items()}
WHY = "because it is told to, 100 %"


class Told:
    """A daemon that has the stores it should, and one answer to everything else."""

    def __init__(self, path: str, code: str) -> None:
        self.code = code
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            with peer:
                head = b""
                while not head.endswith(b"\r\n\r\n") and (came := peer.recv(65536)):
                    head += came
                peer.sendall(self.answer(head))

    def answer(self, head: bytes) -> bytes:
        if b" /v1/stores HTTP" in head:
            stores = [{"id": name, "type": "file", "state": "up"} for name in ("first", "second")]
            return self.said(200, "application/json", {"stores": stores})
        if self.code == "Lost":
            return b""
        problem = {"code": self.code, "detail": WHY}
        status = STATUS.get(imaged.errors.CODES[self.code], 500)
        return self.said(status, "application/problem+json", problem)

    @staticmethod
    def said(status: int, kind: str, body: object) -> bytes:
        text = json.dumps(body).encode()
        return (
            f"HTTP/1.1 {status} Said\r\nContent-Type: {kind}\r\nContent-Length: {len(text)}\r\n"
            f"Connection: close\r\n\r\n"
        ).encode() + text

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


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
