"""Answers that could mean two things are errors, and never an image, a part or a list."""

from __future__ import annotations

import os
import re
import socket
import threading
from http import HTTPStatus
from pathlib import Path

import pytest
from servers import END, Scripted

import imaged

OK = b"HTTP/1.1 200 OK\r\n"
CREATED = b"HTTP/1.1 201 Created\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def get(client: imaged.Client) -> bytes:
    return client.get("a", "b").read()


def answered(tmp_path, *answer) -> imaged.Client:
    Scripted(path := str(tmp_path / "socket"), list(answer))
    return imaged.Client(path, timeout=5)


@pytest.mark.parametrize("length", [None, b"", b"x", b"-5", b"+5", b"1e3", "²".encode("latin-1")])
@pytest.mark.parametrize(
    "ask",
    [
        get,
        lambda client: client.stat("a", "b"),
        lambda client: client.stores(),
        lambda client: client.delete("a", "b"),
    ],
    ids=["get", "stat", "stores", "delete"],
)
def test_no_length_is_not_a_length_of_zero(tmp_path, ask, length):
    line = b"" if length is None else b"Content-Length: %s\r\n" % length
    with pytest.raises(imaged.Internal):
        ask(answered(tmp_path, OK + line + b"\r\n"))


def test_a_receipt_without_a_length_is_none(tmp_path):
    with pytest.raises(imaged.Internal) as told:
        answered(tmp_path, CONTINUE, END, CREATED + b"\r\n").put("a", "b", b"x")
    assert told.value.in_doubt


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b"null", b"no JSON", b'{"stores": {}}', b"\xff"]
)
@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.stores(),
        lambda client: client.jobs(),
        lambda client: client.store("a"),
        lambda client: client.job("a"),
        lambda client: client.copy("a", "b", location="c"),
    ],
    ids=["stores", "jobs", "store", "job", "copy"],
)
def test_what_is_missing_in_an_answer_is_not_made_up(tmp_path, ask, text):
    with pytest.raises(imaged.Internal):
        ask(answered(tmp_path, OK + b"Content-Length: %d\r\n\r\n%s" % (len(text), text)))


def test_the_whole_image_is_no_part_of_it(tmp_path):
    client = answered(tmp_path, OK + b"Content-Length: 9\r\n\r\n123456789")
    with pytest.raises(imaged.Internal, match="whole image"):
        client.get("a", "b", offset=3, length=2)


@pytest.mark.parametrize("size", [b"", b"Imaged-Size: \r\n", b"Imaged-Size: -1\r\n"])
def test_a_descriptor_without_a_size_is_no_empty_image(tmp_path, size):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path := str(tmp_path / "socket"))
    listener.listen()
    head = OK + b"Imaged-Body: fd\r\nContent-Length: 0\r\n" + size + b"\r\n"

    def serve() -> None:
        peer, _ = listener.accept()
        peer.recv(65536)
        with open(__file__, "rb") as file:
            socket.send_fds(peer, [head], [file.fileno()])
        peer.close()

    thread = threading.Thread(target=serve)
    thread.start()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(imaged.Internal):
        imaged.Client(path).get("a", "b")
    thread.join()
    listener.close()
    assert len(os.listdir("/proc/self/fd")) <= before


RECEIPT = (
    b'{"store": "a", "id": "b", "location": "c", "size": 1, "hash_algo": "sha512",'
    b' "checksum": "d", "hash_value": "e"}'
)


def test_an_image_that_was_not_sent_whole_is_not_stored_whatever_is_answered(tmp_path):
    whole = CREATED + b"Content-Length: %d\r\n\r\n%s" % (len(RECEIPT), RECEIPT)
    client = answered(tmp_path, CONTINUE + whole)
    with pytest.raises(imaged.Internal, match="not been sent whole"):
        client.put("a", "b", iter([b"x"] * (1 << 20)))


def test_an_interim_answer_is_not_the_last(tmp_path):
    whole = CREATED + b"Content-Length: %d\r\n\r\n%s" % (len(RECEIPT), RECEIPT)
    client = answered(tmp_path, CONTINUE, END, CONTINUE, whole)
    assert client.put("a", "b", b"x").location == "c"


@pytest.mark.parametrize(
    ("answer", "in_doubt"),
    [
        ([], False),
        ([CONTINUE], False),
        ([CONTINUE, END], True),
        ([CONTINUE, END, CREATED], True),
        ([CONTINUE, END, CREATED + b"Content-Length: 9\r\n\r\n{"], True),
        ([CONTINUE, END, b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n"], False),
        ([CONTINUE, END, b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"], False),
        ([CONTINUE, END, b"HTTP/1.1 504 Late\r\nContent-Length: 0\r\n\r\n"], True),
    ],
    ids=lambda value: None if isinstance(value, bool) else str(len(value)),
)
def test_an_upload_is_in_doubt_once_its_end_was_sent(tmp_path, answer, in_doubt):
    client = answered(tmp_path, *answer)
    pieces = iter([b"x"]) if in_doubt or len(answer) > 1 else iter([b"x"] * (1 << 20))
    with pytest.raises(imaged.Error) as told:
        client.put("a", "b", pieces)
    assert told.value.in_doubt is in_doubt


def of_daemon(name: str) -> str:
    path = Path(__file__).parents[3] / name
    if not path.exists():
        pytest.skip("the daemon's source is not beside this package")
    return path.read_text()


def test_every_code_of_the_daemon_has_a_class_and_its_status():
    codes = dict(re.findall(r'Self::(\w+) => "(\w+)"', of_daemon("drivers/error.rs")))
    assert len(codes) > 10 and all(kind == code for kind, code in codes.items())
    assert codes.keys() <= imaged.errors.CODES.keys()
    table = re.search(r"fn status\(.*?\n}", of_daemon("src/api/status.rs"), re.DOTALL)
    assert table
    told = re.findall(r"((?:Kind::\w+[ |]*)+)=> StatusCode::(\w+)", table[0])
    names = {one.name: one.value for one in HTTPStatus} | {
        # Python has other names for these, and other ones in each version.
        "PAYLOAD_TOO_LARGE": 413,
        "RANGE_NOT_SATISFIABLE": 416,
        "UNPROCESSABLE_ENTITY": 422,
    }
    statuses = {kind: names[name] for kinds, name in told for kind in re.findall(r"::(\w+)", kinds)}
    assert statuses.keys() == codes.keys()
    # Two codes may have one status; an answer without a body then stands for the first of them.
    for status, kind in imaged.errors.STATUSES.items():
        assert statuses.get(kind.code, status) == status, kind
    assert set(statuses.values()) <= {*imaged.errors.STATUSES, 500}


def test_what_a_header_cannot_hold_is_decoded(tmp_path):
    location = b"Content-Location: file:///srv/100%2541%20Bilder-%C3%BC/x\r\n"
    told = answered(tmp_path, OK + b"Content-Length: 5\r\n" + location + b"\r\n").stat("a", "b")
    assert told.location == "file:///srv/100%41 Bilder-ü/x"
