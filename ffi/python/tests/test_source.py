"""What an upload takes of its source: all of it, or an error."""

from __future__ import annotations

import array
import fcntl
import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import tempfile
import termios
import textwrap
import threading
import uuid

import pytest
from conftest import until

import imaged
from imaged import source

BYTES = os.urandom(600_001)


def new() -> str:
    return str(uuid.uuid4())


def all_of(image, size: int | None = None) -> bytes:
    return b"".join(bytes(piece) for piece in source.pieces(image, size, None))


class Answers:
    """Something to read from that answers what it is told."""

    def __init__(self, *answers) -> None:
        self.answers = list(answers)

    def read(self, count: int):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def waiting(pipe: int) -> int:
    """How many bytes are in a pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def nothing_is_left(client, id: str) -> None:
    with pytest.raises(imaged.NotFound):
        client.stat("fast", id)
    assert client.put("fast", id, BYTES).size == len(BYTES)


@pytest.mark.parametrize("buffering", [0, -1], ids=["raw", "buffered"])
def test_a_source_that_does_not_block_is_waited_for(client, buffering):
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    whole = threading.Event()
    asked = threading.Event()

    def write() -> None:
        with os.fdopen(theirs, "wb", buffering=0) as end:
            assert asked.wait(30)
            for at in range(0, len(BYTES), 50_000):
                end.write(BYTES[at : at + 50_000])
                # Its reader finds nothing more for now.
                until(lambda: not waiting(ours))
        whole.set()

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(ours, "rb", buffering=buffering) as pipe:
        assert pipe.read(1) is None
        asked.set()
        receipt = client.put("fast", new(), pipe)
    thread.join()
    assert whole.is_set()
    assert (receipt.size, receipt.checksum) == (len(BYTES), hashlib.md5(BYTES).hexdigest())


def test_a_source_that_has_nothing_now_and_cannot_be_waited_for_is_an_error(client):
    id = new()
    with pytest.raises(BlockingIOError, match="nothing now"):
        client.put("fast", id, Answers(b"first", None, b"second", b""))
    nothing_is_left(client, id)


def test_a_source_that_gives_up_waiting_by_itself_is_an_error(client):
    id = new()
    with pytest.raises(BlockingIOError, match="later"):
        client.put("fast", id, Answers(b"first", BlockingIOError("later")))
    nothing_is_left(client, id)


GREEN = """
    import os, sys
    import eventlet
    eventlet.monkey_patch()
    from imaged import source

    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    ticks = []

    def write():
        for _ in range(20):
            ticks.append(1)
            eventlet.sleep(0.001)
        os.write(theirs, b"late")
        os.close(theirs)

    eventlet.spawn(write)
    with open(ours, "rb", buffering=0) as pipe:
        got = b"".join(bytes(piece) for piece in source.pieces(pipe, None, None))
    print(got, len(ticks))
"""


@pytest.mark.skipif(not importlib.util.find_spec("eventlet"), reason="there is no eventlet")
def test_green_threads_run_while_a_source_is_waited_for():
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(GREEN)]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=60)
    assert done.stdout == "b'late' 20\n", done.stderr


@pytest.mark.parametrize("answer", [None, 0, False, "", "text", [], 5, {}], ids=repr)
@pytest.mark.parametrize("first", [b"", b"first"], ids=["at-once", "later"])
def test_only_bytes_are_an_answer_and_only_none_of_them_the_end(client, answer, first):
    id = new()
    image = Answers(first, answer) if first else Answers(answer)
    with pytest.raises((TypeError, BlockingIOError)):
        client.put("fast", id, image)
    nothing_is_left(client, id)


@pytest.mark.parametrize("item", [None, 0, "", "text", 5, []], ids=repr)
def test_only_bytes_are_pieces_of_an_iterable(client, item):
    id = new()
    with pytest.raises(TypeError, match="an image is bytes"):
        client.put("fast", id, iter([b"first", item]))
    nothing_is_left(client, id)


@pytest.mark.parametrize("content", ["", "text"])
def test_a_file_opened_as_text_is_refused(client, tmp_path, content):
    path = tmp_path / "image"
    path.write_text(content)
    id = new()
    with path.open() as file, pytest.raises(TypeError, match=r"bytes.*str"):
        client.put("fast", id, file)
    with pytest.raises(TypeError, match=r"bytes.*str"):
        client.put("fast", id, io.StringIO(content))
    nothing_is_left(client, id)


@pytest.mark.parametrize("image", ["", "text", None, 5, {}, {"a": b"b"}, {b"a"}], ids=repr)
def test_what_is_no_image_is_refused_before_the_daemon_hears_of_it(image):
    with pytest.raises(TypeError):
        imaged.Client("/no-daemon").put("fast", new(), image)


def test_buffers_of_larger_items_are_counted_in_bytes(client):
    numbers = array.array("I", range(100_000))
    wanted = numbers.tobytes()
    table = memoryview(wanted).cast("B", (1000, len(wanted) // 1000))
    for image in (
        numbers,
        memoryview(numbers),
        table,
        Answers(memoryview(numbers), b""),
        Answers(numbers, bytearray()),
        iter([memoryview(numbers)[:10], numbers[10:]]),
        iter([table]),
    ):
        assert client.put("fast", new(), image).checksum == hashlib.md5(wanted).hexdigest()
    every_other = memoryview(wanted)[::2]
    assert all_of(every_other) == all_of([every_other]) == bytes(every_other)


@pytest.mark.parametrize("size", [0, 1, len(BYTES) - 1, len(BYTES) + 1, 1 << 40])
def test_more_or_less_than_was_said_is_found_out_here(size):
    """Before the end is sent: what the daemon does not take for whole it never stores."""
    wrong = "longer" if size < len(BYTES) else "shorter"
    for image in (BYTES, io.BytesIO(BYTES), iter([BYTES[:5], BYTES[5:]])):
        with pytest.raises(imaged.Mismatch, match=f"{wrong} than was said"):
            all_of(image, size)
    assert all_of(BYTES, len(BYTES)) == all_of(io.BytesIO(BYTES), len(BYTES)) == BYTES
    assert all_of(b"", 0) == b""


def test_more_than_was_asked_for_is_taken():
    many = os.urandom(5 << 20)
    assert all_of(Answers(many, b"x", many[:3], many, b"")) == many + b"x" + many[:3] + many


def test_a_buffer_that_its_source_uses_again_is_taken_in_time():
    room = bytearray(70_000)

    class Reused:
        turn = 0

        def read(self, count: int):
            self.turn += 1
            room[:] = bytes([self.turn]) * len(room)
            return memoryview(room) if self.turn < 9 else b""

    wanted = b"".join(bytes([turn]) * len(room) for turn in range(1, 9))
    assert all_of(Reused()) == wanted


def test_what_can_only_be_iterated_or_only_read_into_is_taken(client):
    class Pieces:
        def __iter__(self):
            yield from (BYTES[:7], b"", BYTES[7:])

    class Raw(io.RawIOBase):
        def __init__(self) -> None:
            self.inner = io.BytesIO(BYTES)

        def readable(self) -> bool:
            return True

        def readinto(self, room) -> int:
            return self.inner.readinto(room)

    for image in (Pieces(), Raw(), io.BufferedReader(Raw())):
        assert client.put("fast", new(), image).checksum == hashlib.md5(BYTES).hexdigest()


@pytest.mark.parametrize("change", [100, -100], ids=["longer", "shorter"])
def test_a_file_that_changes_its_length_on_the_way_is_refused(
    client, tmp_path, change, monkeypatch
):
    """Its length when it was handed over is what is promised."""
    path = tmp_path / "image"
    path.write_bytes(BYTES)
    found = source.descriptor

    def changed(*arguments):
        own = found(*arguments)
        os.truncate(path, len(BYTES) + change)
        return own

    monkeypatch.setattr(source, "descriptor", changed)
    id = new()
    with path.open("rb") as file:
        with pytest.raises((imaged.Mismatch, imaged.Invalid)):
            client.put("fast", id, file)
        assert file.tell() == 0
    nothing_is_left(client, id)


def test_a_file_that_is_read_here_is_as_long_as_was_said(client, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(BYTES)
    seen = []

    def grow(piece: bytes) -> None:
        if not seen:
            with path.open("ab") as more:
                more.write(b"more")
        seen.append(piece)

    id = new()
    with path.open("rb") as file, pytest.raises(imaged.Mismatch):
        client.put("fast", id, file, size=len(BYTES), watch=grow)
    nothing_is_left(client, id)


def test_a_pipe_that_ends_is_the_end_and_a_file_without_a_length_is_read(client):
    with tempfile.TemporaryFile() as empty:
        assert client.put("fast", new(), empty).size == 0
    with open("/proc/cpuinfo", "rb") as file:
        assert client.put("fast", new(), file).size > 0
