"""Glance's calls while the daemon hangs: it is stopped, so it accepts and does nothing."""

from __future__ import annotations

import io
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from conftest import until
from glance_store import multi_backend
from stores import fast, get_store, new

import imaged
from imaged.glance import errors, store

BYTES = os.urandom(300_000)


class Stopped:
    """A daemon that does nothing for a while, and then all that it was asked for."""

    def __init__(self, daemon) -> None:
        self.process = daemon.process

    def __enter__(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.process.pid}/task")

        def stopped(task: Path) -> bool:
            return (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"

        until(lambda: all(map(stopped, tasks.iterdir())))

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGCONT)


def timed(call) -> float:
    began = time.monotonic()
    with pytest.raises(errors.Unavailable) as told:
        call()
    assert "does not answer" in str(told.value)
    return time.monotonic() - began


@pytest.mark.parametrize("where", ["its own section", "backend_defaults"])
def test_no_call_waits_for_long_and_none_is_carried_out_later(glance, daemon, where):
    line = "imaged_timeout = 1"
    if where == "backend_defaults":
        glance.start("fast:file", fast(daemon), f"[backend_defaults]\n{line}\n")
    else:
        glance.start("fast:file", fast(daemon, line))
    uri = glance.add(io.BytesIO(BYTES))[0]
    sent, unsized = new(), new()
    one = get_store()
    with Stopped(daemon):
        for call in (
            lambda: glance.add(io.BytesIO(BYTES), len(BYTES), sent),
            lambda: glance.add(io.BytesIO(BYTES), 0, unsized),
            lambda: multi_backend.get(uri, "fast"),
            lambda: multi_backend.get(uri, "fast", offset=1, chunk_size=2),
            lambda: multi_backend.get_size_from_uri_and_backend(uri, "fast"),
            lambda: multi_backend.delete(uri, "fast"),
        ):
            assert timed(call) < 1.8
        assert one.is_image_associated_with_store(None, new()) is False
    client = imaged.Client(daemon.socket)
    # Whatever it had been sent before, it does before this.
    assert client.stores()
    assert b"".join(multi_backend.get(uri, "fast")[0]) == BYTES
    for id in (sent, unsized):
        with pytest.raises(imaged.NotFound):
            client.stat("fast", id)
    # And no id is taken.
    assert glance.add(io.BytesIO(BYTES), 0, unsized)[1] == len(BYTES)


def test_without_a_limit_of_its_own_a_call_finds_out_within_seconds(glance, daemon):
    glance.start("fast:file", fast(daemon))
    uri = glance.add(io.BytesIO(BYTES))[0]
    with Stopped(daemon):
        assert timed(lambda: multi_backend.delete(uri, "fast")) < store.BRIEFLY + 1


def test_a_call_that_names_no_store_asks_a_daemon_that_hangs_once(glance, daemon):
    names = ("fast", "other", "frozen")
    sections = [
        f"[{name}]\nfilesystem_store_datadir = {daemon.dir}/{name}\n"
        f"imaged_socket = {daemon.socket}\nimaged_timeout = 1\n"
        for name in names
    ]
    glance.start(", ".join(f"{name}:file" for name in names), *sections)
    uri = glance.add(io.BytesIO(BYTES))[0]
    with Stopped(daemon):
        assert timed(lambda: multi_backend.get(uri, None)) < 1.8
        assert timed(lambda: multi_backend.delete(uri, None)) < 1.8
    assert b"".join(multi_backend.get(uri, None)[0]) == BYTES


def test_a_delete_whose_caller_has_left_is_not_begun(daemon):
    """Of any client, also of one that does not ask first whether the daemon hangs."""
    client = imaged.Client(daemon.socket)
    client.put("fast", id := new(), BYTES)
    with Stopped(daemon), pytest.raises(imaged.Timeout):
        imaged.Client(daemon.socket, timeout=0.5).delete("fast", id)
    assert client.stores()
    assert client.stat("fast", id).size == len(BYTES)
    client.delete("fast", id)


class Half:
    """Answers what is asked of it and says that it lives, until it is told to say nothing more."""

    def __init__(self, path: str) -> None:
        self.heads: list[bytes] = []
        self.asked_to_live = 0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.held: list[socket.socket] = []
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        stores = b'{"stores": [{"id": "fast", "type": "file", "state": "up"}]}'
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            head = peer.recv(65536)
            self.heads.append(head)
            body = b"{}" if b" /healthz " in head else stores if b" /v1/stores " in head else None
            first = body is not None and (b" /healthz " not in head or self.asked_to_live == 0)
            self.asked_to_live += b" /healthz " in head
            if not first:
                self.held.append(peer)
                continue
            peer.sendall(
                b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
                % (len(body or b""), body)
            )
            peer.close()


def test_a_daemon_that_hangs_in_the_middle_of_a_delete_is_left_after_one_wait(
    glance, tmp_path, monkeypatch
):
    monkeypatch.setattr(imaged.client, "ALIVE", 0.5)
    daemon = Half(path := str(tmp_path / "half"))
    section = f"[fast]\nfilesystem_store_datadir = {tmp_path}\nimaged_socket = {path}\n"
    glance.start("fast:file", section + "imaged_timeout = 3\n")
    began = time.monotonic()
    with pytest.raises(errors.Unavailable, match="not known"):
        multi_backend.delete(f"file://{tmp_path}/x", "fast")
    # Its silence, and seconds to find out whether it lives.
    # Two silences would be six.
    assert 3 <= time.monotonic() - began < 6
    assert [head.split()[0] for head in daemon.heads] == [b"GET", b"GET", b"DELETE", b"GET"]
    daemon.listener.close()


def test_a_listing_asks_a_daemon_that_hangs_only_once(glance, daemon, monkeypatch):
    monkeypatch.setattr(store, "BRIEFLY", 1.2)
    with Stopped(daemon):
        glance.start("ceph:rbd", f"[ceph]\nimaged_socket = {daemon.socket}\n")
        began = time.monotonic()
        # As for each image whose location names no store.
        assert [get_store("ceph").url_prefix for _ in range(50)] == [None] * 50
        assert time.monotonic() - began < 1


@pytest.mark.parametrize("value", ["0", "-1", "soon", "100000"])
def test_a_limit_that_is_none_is_refused_at_the_start(glance, shared, value):
    with pytest.raises(ValueError, match="imaged_timeout"):
        glance.start("fast:file", fast(shared, f"imaged_timeout = {value}"))


@pytest.fixture
def busy(tmp_path):
    """A daemon that has its stores, and for everything else says when to come again."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path := str(tmp_path / "busy"))
    listener.listen()

    def said(status: str, *more: str, body: str) -> bytes:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *more]
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()

    def run() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            head = peer.recv(65536)
            if b" /v1/stores " in head:
                stores = '{"stores": [{"id": "fast", "type": "file", "state": "up"}]}'
                peer.sendall(said("200 OK", body=stores))
            else:
                problem = '{"code": "Unavailable", "detail": "later"}'
                kind = "Content-Type: application/problem+json"
                peer.sendall(said("503 No", kind, "Retry-After: 17", body=problem))
            peer.close()

    threading.Thread(target=run, daemon=True).start()
    yield path
    listener.close()


def test_when_to_come_again_is_handed_on(api, busy, tmp_path):
    api.start(
        "fast:file", f"[fast]\nfilesystem_store_datadir = {tmp_path}\nimaged_socket = {busy}\n"
    )
    answer = api.upload(api.create(), b"bytes", "fast")
    assert (answer.status_int, answer.headers["Retry-After"]) == (503, "17")
    image = api.active((f"file://{tmp_path}/{new()}", "fast"))
    for more in ({}, {"Range": "bytes=1-2"}):
        answer = api.ask("GET", f"/images/{image}/file", **more)
        assert (answer.status_int, answer.headers["Retry-After"]) == (503, "17")
        assert "later" in answer.text
    # Glance takes only the words of the exceptions that it knows here.
    assert api.ask("DELETE", f"/images/{image}").status_int == 503
    assert api.is_there(image)


def test_the_error_has_when_to_come_again(busy):
    with pytest.raises(imaged.Unavailable) as told:
        imaged.Client(busy).stat("fast", "x")
    assert told.value.retry_after == 17
    assert imaged.Unavailable("x").retry_after is None
    for text in ("", "soon", "-1", "Fri, 31 Dec 1999 23:59:59 GMT"):
        error = imaged.errors.from_answer(503, {"retry-after": text}, b"")
        assert error.retry_after is None
    assert Path(busy).exists()
