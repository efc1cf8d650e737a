"""One connection: when it is kept, what it holds, and how long it waits."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

import imaged
from imaged import client as clients
from imaged import listing, wire

OK = b"HTTP/1.1 200 OK\r\n"
EMPTY = b"Content-Length: 2\r\n\r\n{}"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.fixture
def client(server) -> Iterator[imaged.Client]:
    with imaged.Client(server.path, timeout=5) as client:
        yield client


def opened() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("said", ["close", "Close", "CLOSE"])
def test_a_connection_that_is_to_be_closed_is_not_used_again(server, client, said):
    server.answers = [OK + f"Connection: {said}\r\n".encode() + EMPTY] * 2
    for asked in (1, 2):
        client._asked("/")
        assert not client._idle and server.accepted == asked
    server.answers = [OK + b"Connection: keep-alive\r\n" + EMPTY] * 2
    for _ in range(2):
        client._asked("/")
    assert len(client._idle) == 1 and server.accepted == 3


def test_a_connection_on_which_more_came_than_was_asked_for_is_not_used_again(server, client):
    server.answers = [OK + EMPTY + b"HTTP/1.1 200 OK\r\n", OK + EMPTY]
    client._asked("/")
    assert not client._idle
    client._asked("/")
    assert server.accepted == 2
    # Nor if it comes later, as where the daemon ends one that was silent for long.
    server.peers[-1].sendall(b"HTTP/1.1 408 Late\r\nContent-Length: 0\r\n\r\n")
    server.answers = [OK + EMPTY]
    client._asked("/")
    assert server.accepted == 3


def test_only_so_many_connections_are_kept(server):
    with imaged.Client(server.path, connections=2) as client:
        server.answers = [OK + b"Content-Length: 1\r\n\r\n"] * 3
        bodies = [client.get("a", "b") for _ in range(3)]
        for peer in server.peers:
            peer.sendall(b"x")
        for body in bodies:
            body.read()
        assert len(client._idle) == 2


def test_an_answer_to_head_has_no_body_whatever_its_length(server, client):
    server.answers = [OK + b"Content-Length: 5\r\n\r\n", OK + EMPTY]
    assert client.stat("a", "b").size == 5
    assert client._asked("/") == {} and server.accepted == 1


def test_an_answer_that_has_none_has_no_body_whatever_its_length(server, client):
    server.answers = [
        b"HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 204 Gone\r\nContent-Length: 5\r\n\r\n",
        OK + EMPTY,
    ]
    with pytest.raises(imaged.NotModified):
        client.get("a", "b", if_none_match="c")
    client.delete("a", "b")
    client._asked("/")


# Descriptors


@pytest.fixture
def files(tmp_path) -> Iterator[list[int]]:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    files = [os.open(path, os.O_RDONLY) for _ in range(8)]
    yield files
    for one in files:
        os.close(one)


HANDED = OK + b"Imaged-Body: fd\r\nImaged-Size: 5\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("count", [0, 2, 3, 4, 8])
def test_an_answer_with_none_or_several_descriptors_is_none_and_they_are_closed(
    server, client, files, count
):
    # Asked for twice: what nobody asked for is no answer either.
    server.answers = [(HANDED, files[:count])] * 10
    before = opened()
    for _ in range(5):
        with pytest.raises(imaged.Internal, match="descriptor"):
            client.get("a", "b")
    client.close()
    # The server's end of each stays open.
    assert opened() - before <= server.accepted
    assert not client._idle


@pytest.mark.parametrize("count", [1, 4])
def test_a_descriptor_that_nobody_asked_for_is_closed_with_its_connection(
    server, client, files, count
):
    server.answers = [(OK + EMPTY, files[:count])] * 3
    before = opened()
    for _ in range(3):
        client._asked("/")
        # It would be taken for that of the next answer.
        assert not client._idle
    assert opened() - before <= server.accepted == 3


def test_a_descriptor_that_was_received_is_not_inherited(server, client, files):
    server.answers = [(HANDED, files[:1])]
    body = client.get("a", "b")
    assert body._file is not None and not os.get_inheritable(body._file)
    assert body.read() == b"12345"
    own = os.open("/dev/null", os.O_RDONLY)
    os.close(own)
    # The lowest that is free: none was left.
    assert own not in files


def test_a_descriptor_of_a_file_of_another_length_is_closed(server, client, files):
    server.answers = [(HANDED.replace(b"Size: 5", b"Size: 6"), files[:1])] * 3
    before = opened()
    for _ in range(3):
        with pytest.raises(imaged.Mismatch):
            client.get("a", "b")
    client.close()
    assert opened() - before <= server.accepted


def test_descriptors_of_an_upload_are_sent_once_and_closed(tmp_path, client):
    path = tmp_path / "image"
    path.write_bytes(b"12345")
    before = opened()
    imaged_down = imaged.Client(str(tmp_path / "nobody"))
    for _ in range(3):
        with path.open("rb") as file, pytest.raises(imaged.Unreachable):
            imaged_down.put("a", "b", file)
    assert opened() == before


def test_descriptors_go_with_the_first_byte_and_with_no_other():
    ours, theirs = socket.socketpair()
    connection = wire.Connection.__new__(wire.Connection)
    connection._sock, connection.timeout, connection._keep = ours, 5, True
    ours.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    content = os.urandom(300_000)
    got, received = bytearray(), 0

    def take() -> None:
        nonlocal received
        while len(got) < len(content):
            piece, descriptors, _, _ = socket.recv_fds(theirs, 65536, 8)
            received += len(descriptors)
            for one in descriptors:
                os.close(one)
            got.extend(piece)

    thread = threading.Thread(target=take)
    thread.start()
    parts = [content[:7], b"", content[7:100_000], content[100_000:]]
    connection.send(*parts, descriptors=[ours.fileno()])
    thread.join()
    assert bytes(got) == content and received == 1
    ours.close()
    theirs.close()


# Limits


def test_a_head_without_an_end_is_not_read_for_ever(server, client):
    server.answers = [OK + b"X: " + b"x" * (wire.LONGEST_HEAD + 10)]
    with pytest.raises(imaged.Internal, match="no end"):
        client._asked("/")
    long = b"X: " + b"x" * (wire.LONGEST_HEAD - 100) + b"\r\n"
    server.answers = [OK + long + EMPTY]
    assert client._asked("/") == {}


def test_a_list_is_read_no_further_than_a_length_or_a_line_can_be_long(server, client):
    chunked = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    server.answers = [chunked + b"1" * (wire.LONGEST_HEAD + 10)]
    with pytest.raises(imaged.Internal, match="without a length"):
        list(client.images("a"))
    server.answers = [chunked + b"200000\r\n" + b"x" * (listing.LONGEST_LINE + 10)]
    with pytest.raises(imaged.Internal, match="line without an end"):
        list(client.images("a"))
    assert not client._idle


def test_a_connection_is_not_used_again_before_the_end_of_a_list(server):
    server.answers = [OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"]
    connection = wire.Connection(server.path, 5)
    connection.send(b"GET")
    connection.begin_body(connection.head(), "GET", chunked=True)
    assert not connection.reusable
    assert connection.read_chunked() == b"x" and not connection.reusable
    assert connection.read_chunked() == b"" and connection.reusable
    assert connection.read_chunked() == b""
    connection.close()


def test_an_answer_that_is_no_image_has_a_longest(server, client, monkeypatch):
    assert clients.LONGEST_ANSWER == 64 << 20
    monkeypatch.setattr(clients, "LONGEST_ANSWER", 10)
    server.answers = [OK + b"Content-Length: 10\r\n\r\n" + b'{"a":1234}']
    assert client._asked("/") == {"a": 1234}
    server.answers = [OK + b"Content-Length: 11\r\n\r\n" + b'{"a":12345}']
    with pytest.raises(imaged.Internal, match="too long"):
        client._asked("/")
    # Of an error too.
    server.answers = [b"HTTP/1.1 404 No\r\nContent-Length: 11\r\n\r\n" + b"x" * 11]
    with pytest.raises(imaged.Internal, match="too long"):
        client._asked("/")
    assert not client._idle


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("req-1", True),
        ("a" * 128, True),
        ("a" * 129, False),
        ("a b", False),
        ("a\r\nX-Other: b", False),
        ("ü", False),
        ("a_b", False),
        ("", False),
        (None, False),
    ],
)
def test_a_request_id_is_sent_as_it_is_or_not_at_all(server, client, asked, sent):
    stat = OK + b"Content-Length: 5\r\n\r\n"
    gone = b"HTTP/1.1 204 Gone\r\n\r\n"
    receipt = b'{"store": "a", "id": "b", "location": "c", "size": 0, "hash_algo": "d"}'
    made = b"HTTP/1.1 201 Made\r\nContent-Length: %d\r\n\r\n%s" % (len(receipt), receipt)
    server.answers = [stat, OK + b"Content-Length: 0\r\n\r\n", gone, gone, made]
    client.stat("a", "b", request_id=asked)
    client.get("a", "b", request_id=asked)
    client.delete("a", "b", request_id=asked)
    client.share("a", "b", request_id=asked)
    client.copy("a", "b", location="c", request_id=asked)
    assert len(server.heads) == 5
    line = f"\r\nX-Request-Id: {asked}\r\n".encode()
    for head in server.heads:
        assert (line in head) is sent and b"X-Other" not in head
        assert (b"X-Request-Id" in head) is sent


def test_a_request_says_what_it_is_and_for_whom(server, client):
    receipt = b'{"store": "a", "id": "b", "location": "c", "size": 0, "hash_algo": "d"}'
    made = b"HTTP/1.1 201 Made\r\nContent-Length: %d\r\n\r\n%s" % (len(receipt), receipt)
    server.answers = [b"HTTP/1.1 204 Done\r\n\r\n", made, made]
    client.share("a", "b", read=["c"])
    client.copy("a", "b", rbd_volume="c/d", project="project-1")
    client.copy("a", "b", location="c", hash_algo="md5", mode="stream", from_store="d")
    assert [head.split(b"\r\n")[0] for head in server.heads] == [
        b"PUT /v1/stores/a/images/b/acl HTTP/1.1",
        b"POST /v1/stores/a/images/b HTTP/1.1",
        b"POST /v1/stores/a/images/b HTTP/1.1",
    ]
    for head in server.heads:
        assert b"\r\nContent-Type: application/json\r\n" in head and b"\r\nHost: imaged" in head
    for_whom = [b"\r\nX-Project-Id: project-1\r\n" in head for head in server.heads]
    assert for_whom == [False, True, False]
    sent = [json.loads(head.partition(b"\r\n\r\n")[2]) for head in server.heads]
    assert sent == [
        {"public": False, "read": ["c"], "write": []},
        {"source": {"rbd_volume": "c/d"}, "mode": "auto"},
        {"source": {"location": "c", "store": "d"}, "mode": "stream", "hash_algo": "md5"},
    ]


def test_a_job_is_over_once_nothing_more_will_happen():
    over = {"running": False, "waiting": False, "done": True, "failed": True, "cancelled": True}
    for state, wanted in over.items():
        assert imaged.Job(id="a", kind="b", store="c", image="d", state=state).over is wanted


def test_a_daemon_that_takes_no_byte_is_not_waited_for_for_ever(tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path := str(tmp_path / "socket"))
    listener.listen()
    client = imaged.Client(path, timeout=0.1)

    def serve() -> None:
        peer, _ = listener.accept()
        peer.recv(65536)
        peer.sendall(CONTINUE)
        asked.wait(30)
        peer.close()

    asked = threading.Event()
    thread = threading.Thread(target=serve)
    thread.start()
    began = time.monotonic()
    with pytest.raises(imaged.Timeout, match="took no byte"):
        client.put("a", "b", bytes(64 << 20))
    assert time.monotonic() - began < 20
    asked.set()
    thread.join()
    listener.close()


def test_a_daemon_that_accepts_nobody_is_waited_for_a_while_only(tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path := str(tmp_path / "socket"))
    listener.listen(0)
    full = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    for one in full:
        one.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            one.connect(path)
    began = time.monotonic()
    with pytest.raises(imaged.Unreachable, match="accepts nobody"):
        imaged.Client(path, timeout=0.3).stores()
    assert time.monotonic() - began >= 0.3

    # Room comes free meanwhile.
    def accept() -> None:
        peers = [listener.accept()[0] for _ in range(2)]
        # The waiting one, and whatever follows it.
        for peer in peers:
            peer.close()

    threading.Timer(0.1, accept).start()
    wire.Connection(path, 10).close()
    for one in full:
        one.close()
    listener.close()


def test_a_change_is_waited_for_as_long_as_the_caller_says(tmp_path):
    """Although the daemon lives."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path := str(tmp_path / "socket"))
    listener.listen()
    over = threading.Event()

    def serve() -> None:
        silent, _ = listener.accept()
        while not over.is_set():
            listener.settimeout(0.1)
            with contextlib.suppress(TimeoutError):
                peer, _ = listener.accept()
                with peer:
                    peer.recv(65536)
                    peer.sendall(OK + b"Connection: close\r\n" + EMPTY)
        silent.close()

    thread = threading.Thread(target=serve)
    thread.start()
    began = time.monotonic()
    with pytest.raises(imaged.Timeout, match="not known") as told:
        imaged.Client(path, timeout=0.05, longest=0.5).delete("a", "b")
    assert 0.5 <= time.monotonic() - began < 10 and told.value.in_doubt
    over.set()
    thread.join()
    listener.close()


def test_a_change_that_was_refused_for_good_leaves_its_connection(server, client):
    """All of it was read. Of an upload's, bytes may still be on their way."""
    refused = b"HTTP/1.1 409 Taken\r\nContent-Length: 0\r\n\r\n"
    server.answers = [refused] * 3
    with pytest.raises(imaged.Exists):
        client.put("a", "b", b"c")
    assert not client._idle
    with pytest.raises(imaged.Exists):
        client.delete("a", "b")
    assert len(client._idle) == 1
    with pytest.raises(imaged.Exists):
        client.copy("a", "b", location="c")
    assert len(client._idle) == 1


def test_an_upload_that_is_answered_before_it_is_sent_is_none(server, client):
    server.answers = [b"HTTP/1.1 201 Made\r\nContent-Length: 2\r\n\r\n{}"]
    taken = []

    def image() -> Iterator[bytes]:
        taken.append(1)
        yield b"x"

    with pytest.raises(imaged.Internal, match="no bytes at all"):
        client.put("a", "b", image())
    assert not taken
