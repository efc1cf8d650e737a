"""The client while daemons die, processes fork and threads are green."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import uuid

import pytest
from conftest import until
from servers import Mute, Scripted

import imaged

BYTES = os.urandom(2_000_000)


def new() -> str:
    return str(uuid.uuid4())


def test_a_daemon_that_was_killed_between_two_calls_goes_unnoticed(daemon):
    client = imaged.Client(daemon.socket)
    id = new()
    client.put("fast", id, BYTES)
    # Several are kept, and all of them are stale.
    open_ones = [client.get("fast", id, by_descriptor=False) for _ in range(3)]
    for body in open_ones:
        assert len(b"".join(body)) == len(BYTES)
    assert len(client._idle) == 3
    daemon.kill()
    with pytest.raises(imaged.Unreachable):
        client.stat("fast", id)
    with pytest.raises(imaged.Unreachable):
        client.put("fast", new(), BYTES)
    daemon.start()
    assert b"".join(client.get("fast", id)) == BYTES
    assert client.stat("fast", id).size == len(BYTES)
    client.put("fast", new(), BYTES)
    client.delete("fast", id)


def test_a_read_whose_daemon_is_killed_is_an_error_and_never_a_short_image(daemon):
    client = imaged.Client(daemon.socket)
    id = new()
    client.put("fast", id, os.urandom(16 << 20))
    body = client.get("fast", id, by_descriptor=False)
    got = len(body.read(1 << 20))
    daemon.kill()
    with pytest.raises(imaged.Lost):
        while piece := body.read(1 << 20):
            got += len(piece)
    assert got < 16 << 20


def test_a_put_whose_daemon_is_killed_is_not_repeated(daemon):
    client = imaged.Client(daemon.socket)
    id, taken = new(), []

    def source():
        for _ in range(8):
            taken.append(1)
            yield BYTES
        daemon.kill()
        daemon.start()
        taken.append(1)
        yield BYTES

    with pytest.raises(imaged.Lost):
        client.put("fast", id, source())
    assert len(taken) == 9
    daemon.until_ids_are_free()
    with pytest.raises(imaged.NotFound):
        client.stat("fast", id)
    client.put("fast", id, BYTES)


WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def test_a_read_is_repeated_once_and_only_before_any_byte(tmp_path):
    Scripted(path := str(tmp_path / "a"), [], [WHOLE])
    assert imaged.Client(path)._asked("/") == {}
    server = Scripted(path := str(tmp_path / "b"), [], [], [WHOLE])
    with pytest.raises(imaged.Lost):
        imaged.Client(path)._asked("/")
    assert len(server.heads) == 2
    server = Scripted(path := str(tmp_path / "c"), [b"HTTP/1.1 2"], [WHOLE])
    with pytest.raises(imaged.Lost):
        imaged.Client(path)._asked("/")
    assert len(server.heads) == 1


def test_who_is_turned_away_hears_why(tmp_path):
    refusal = b'{"code": "Unavailable", "detail": "too many connections"}'
    answer = (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n"
        b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(refusal), refusal)
    )
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path := str(tmp_path / "a"))
    listener.listen()
    client = imaged.Client(path)
    for call in (client.stores, lambda: client.put("a", "b", BYTES)):
        connection = client._connect()
        peer, _ = listener.accept()
        peer.sendall(answer)
        peer.close()
        # Connected and refused before the first byte of the request.
        client._connect = lambda connection=connection: connection
        with pytest.raises(imaged.Unavailable, match="too many"):
            call()
        del client._connect
    listener.close()


def test_a_change_is_never_repeated(tmp_path):
    for number, change in enumerate(
        (
            lambda client: client.put("a", "b", b"c"),
            lambda client: client.delete("a", "b"),
            lambda client: client.copy("a", "b", location="file:///c"),
        )
    ):
        server = Scripted(path := str(tmp_path / str(number)), [], [WHOLE])
        with pytest.raises(imaged.Lost):
            change(imaged.Client(path))
        assert len(server.heads) == 1


def test_what_is_no_daemon_is_told_so(tmp_path):
    for number, answer in enumerate(
        (b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 OK\r\n\r\n", b"x" * 70_000, b"HTTP/1.1 200 OK\r\n" * 9000)
    ):
        Scripted(path := str(tmp_path / str(number)), [answer])
        with pytest.raises(imaged.Internal):
            imaged.Client(path).stores()


def test_silence_is_waited_for_only_so_long(tmp_path):
    Scripted(path := str(tmp_path / "a"), [1.0])
    with pytest.raises(imaged.Timeout):
        imaged.Client(path, timeout=0.1).stores()
    # Who waits for a change asks once whether the daemon lives, and not for the change again.
    mute = Mute(path := str(tmp_path / "b"))
    with pytest.raises(imaged.Timeout, match="not known") as told:
        imaged.Client(path, timeout=0.1).delete("a", "b")
    assert told.value.in_doubt
    until(lambda: len(mute.heads) == 2)
    assert [head.split()[:2] for head in mute.heads] == [
        [b"DELETE", b"/v1/stores/a/images/b"],
        [b"GET", b"/healthz"],
    ]
    mute.close()


def test_a_change_may_take_long_while_the_daemon_lives(tmp_path):
    path = str(tmp_path / "a")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def serve() -> None:
        waiting, _ = listener.accept()
        waiting.recv(65536)
        for _ in range(2):
            asked, _ = listener.accept()
            assert b"/healthz" in asked.recv(65536)
            asked.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
            asked.close()
        waiting.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    imaged.Client(path, timeout=0.2).delete("a", "b")


def test_a_child_process_has_connections_of_its_own(shared):
    client = imaged.Client(shared.socket)
    id = new()
    client.put("fast", id, os.urandom(8 << 20))
    client.stat("fast", id)
    body = client.get("fast", id, by_descriptor=False)
    body.read(10)
    before = shared.settled()
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            kept = [connection.pid == os.getpid() for connection in client._idle]
            # Some bytes may have come with the head.
            with pytest.raises(imaged.Lost):
                while body.read(READ_ALL):
                    pass
            for _ in range(3):
                assert len(b"".join(client.get("fast", id))) == 8 << 20
            os.write(theirs, b"whole" if not any(kept) else b"kept")
            signal.pause()
        finally:
            os._exit(0)
    os.close(theirs)
    assert os.read(ours, 10) == b"whole"
    # The parent's are as they were, and it can still end them although the child lives.
    assert shared.connections() == before + 1
    body.close()
    until(lambda: shared.connections() == before)
    assert len(b"".join(client.get("fast", id))) == 8 << 20
    os.kill(child, 9)
    os.waitpid(child, 0)
    client.close()


READ_ALL = 1 << 20

GREEN = """
    import os, sys, tempfile, time
    early = sys.argv[3] == "early"
    if early:
        import imaged
    import eventlet
    eventlet.monkey_patch(**({"all": False, "socket": True} if sys.argv[3] == "socket" else {}))
    import imaged

    client = imaged.Client(sys.argv[1])
    ticks = []

    def tick():
        while True:
            ticks.append(1)
            eventlet.sleep(0.001)

    eventlet.spawn(tick)

    def slow(content):
        for at in range(0, len(content), 100_000):
            eventlet.sleep(0.002)
            yield content[at:at + 100_000]

    def work(number):
        content = os.urandom(1_500_000 + number)
        id = f"green-{os.getpid()}-{number}"
        if number % 3 == 0:
            with tempfile.TemporaryFile() as file:
                file.write(content)
                file.seek(0)
                client.put("fast", id, open(f"/proc/self/fd/{file.fileno()}", "rb"))
        else:
            client.put("fast", id, slow(content) if number % 3 == 1 else content)
        assert b"".join(client.get("fast", id)) == content
        client.delete("fast", id)

    pool = eventlet.GreenPool()
    list(pool.imap(work, range(12)))
    # While a green thread waits for the daemon, the others run.
    id = f"green-{os.getpid()}"
    job = client.put("fast", id, b"x" * 100, request_id=id)
    before = len(ticks)
    try:
        client.job("none")
    except imaged.NotFound:
        pass
    began = time.monotonic()
    blocked = eventlet.spawn(lambda: imaged.Client(sys.argv[2], timeout=0.3).stores())
    try:
        blocked.wait()
    except imaged.Timeout:
        pass
    assert time.monotonic() - began < 5
    assert len(ticks) - before > 50, len(ticks)
    client.delete("fast", id)
    print("green")
"""


@pytest.mark.parametrize("how", ["late", "early", "socket"])
def test_green_threads_run_while_one_waits(shared, tmp_path, how):
    mute = socket.socket(socket.AF_UNIX)
    mute.bind(path := str(tmp_path / "mute"))
    mute.listen()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(GREEN), shared.socket, path, how],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.stdout == "green\n", done.stderr
    mute.close()
