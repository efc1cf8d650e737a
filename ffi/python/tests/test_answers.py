"""Answers that could mean two things are errors, and never an image, a part or a list."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from http import HTTPStatus

import pytest
from conftest import beside
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


# What an answer without a body says, such as one to HEAD.
STATUSES = {
    304: imaged.NotModified,
    400: imaged.Invalid,
    403: imaged.Denied,
    404: imaged.NotFound,
    405: imaged.Unsupported,
    409: imaged.Exists,
    412: imaged.Precondition,
    413: imaged.TooLarge,
    416: imaged.Range,
    422: imaged.Mismatch,
    500: imaged.Internal,
    502: imaged.BackendDenied,
    503: imaged.Unavailable,
    504: imaged.Timeout,
    507: imaged.Full,
    # None of the daemon's.
    418: imaged.Internal,
    599: imaged.Internal,
}


@pytest.mark.parametrize(("status", "kind"), STATUSES.items())
def test_a_status_alone_has_its_class(tmp_path, status, kind):
    head = f"HTTP/1.1 {status} Said\r\nContent-Length: 0\r\nX-Request-Id: req-1\r\n\r\n"
    with pytest.raises(imaged.Error) as told:
        answered(tmp_path, head.encode()).stat("a", "b")
    assert type(told.value) is kind
    assert (told.value.status, told.value.request_id) == (status, "req-1")
    assert status == 304 or str(status) in told.value.message
    assert not told.value.in_doubt


def test_every_code_of_the_daemon_has_a_class_and_its_status():
    codes = dict(
        re.findall(r'Self::(\w+) => "(\w+)"', beside("drivers/contract/error.rs").read_text())
    )
    assert len(codes) > 10 and all(kind == code for kind, code in codes.items())
    assert codes.keys() == imaged.errors.CODES.keys()
    table = re.search(r"fn status\(.*?\n}", beside("src/wire/problem.rs").read_text(), re.DOTALL)
    assert table
    told = re.findall(r"((?:Kind::\w+[ |]*)+)=> StatusCode::(\w+)", table[0])
    names = {one.name: one.value for one in HTTPStatus} | {
        # Python has other names for these, and other ones in each version.
        "PAYLOAD_TOO_LARGE": 413,
        "RANGE_NOT_SATISFIABLE": 416,
        "UNPROCESSABLE_ENTITY": 422,
    }
    # Two codes may have one status; an answer without a body then stands for the first of them.
    firsts = {names[name]: re.findall(r"::(\w+)", kinds)[0] for kinds, name in told}
    assert {status: getattr(imaged, kind) for status, kind in firsts.items()} == {
        status: kind for status, kind in STATUSES.items() if status in firsts
    }
    assert {*firsts, 304, 418, 599} == STATUSES.keys()


PROBLEM = {
    "code": "Mismatch",
    "detail": "why, 100 %",
    "request_id": "req-body",
    "location": "file:///a",
    "left": "that",
    "newer": {},
}


def problem(kind: str = "application/problem+json", **told) -> imaged.Error:
    text = json.dumps({**PROBLEM, **told}).encode()
    headers = {"content-type": kind, "x-request-id": "req-head", "imaged-problem": "100%25"}
    return imaged.errors.from_answer(503, headers, text)


def test_an_error_has_all_that_was_told_of_it():
    error = problem()
    assert type(error) is imaged.Mismatch and str(error) == error.message == "why, 100 %"
    assert (error.status, error.request_id) == (503, "req-body")
    assert (error.location, error.left, error.in_doubt) == ("file:///a", "that", False)
    assert type(problem("application/problem+json; charset=utf-8")) is imaged.Mismatch
    # What is none is not believed, and a status is told of all the same.
    for none in (problem("application/json"), problem(code="Newer"), problem(code=5)):
        assert type(none) is imaged.Unavailable
    untold = problem(detail=None, request_id=5, location=[], left={})
    assert (untold.message, untold.request_id) == ("100%", "req-head")
    assert (untold.location, untold.left) == (None, None)
    for text in (b"", b"[1]", b"null", b"5", b'"text"', b"no JSON", b"\xff"):
        headers = {"content-type": "application/problem+json"}
        error = imaged.errors.from_answer(404, headers, text)
        assert type(error) is imaged.NotFound and "404" in error.message


def test_what_a_header_cannot_hold_is_decoded(tmp_path):
    location = b"Content-Location: file:///srv/100%2541%20Bilder-%C3%BC/x\r\n"
    told = answered(tmp_path, OK + b"Content-Length: 5\r\n" + location + b"\r\n").stat("a", "b")
    assert told.location == "file:///srv/100%41 Bilder-ü/x"
