"""What Glance's users see when the daemon dies, and that nothing of it remains."""

import contextlib
import random
import threading

import pytest
import requests
from cloud import PIECE, until

pytestmark = pytest.mark.imaged
STORES = ("ceph", "fast")
# More than all windows and buffers on the way hold.
LARGE = 192 << 20


@pytest.fixture(scope="module")
def large():
    return random.Random(3).randbytes(LARGE)


class Slow:
    """A body whose second half comes when it is told."""

    def __init__(self, body):
        self.body = body
        self.half_sent = threading.Event()
        self.go_on = threading.Event()

    def __iter__(self):
        for at in range(0, len(self.body), PIECE):
            if at == len(self.body) // 2 // PIECE * PIECE:
                self.half_sent.set()
                assert self.go_on.wait(120)
            yield self.body[at : at + PIECE]


def upload_and(between, glance, image, body, store):
    """An upload in the middle of which something happens; its answer, or None if it was cut."""
    slow, answers = Slow(body), []

    def upload():
        # That it is cut is as good an answer as any.
        with contextlib.suppress(requests.RequestException):
            answers.append(glance.upload(image, slow, store, expect=None))

    thread = threading.Thread(target=upload)
    thread.start()
    try:
        assert slow.half_sent.wait(120)
        until("Glance to be saving it", lambda: glance.show(image)["status"] == "saving")
        between()
    finally:
        slow.go_on.set()
        thread.join(120)
    assert not thread.is_alive()
    return answers[0] if answers else None


@pytest.mark.parametrize("store", STORES)
def test_killed_during_an_upload(imaged, rig, large, store):
    image = imaged.create()
    answer = upload_and(rig.kill_daemon, imaged, image, large, store)
    try:
        assert answer is None or answer.status_code >= 500, answer
        imaged.await_queued(image)
    finally:
        rig.start_daemon()
    rig.until_free(image)
    assert rig.held(store) == {}
    imaged.upload(image, large, store)
    assert imaged.download(image).content == large


@pytest.mark.parametrize("store", STORES)
def test_killed_and_started_during_an_upload(imaged, rig, large, store):
    """The new daemon does not take up the rest of it."""
    image = imaged.create()

    def between():
        rig.kill_daemon()
        rig.start_daemon()

    answer = upload_and(between, imaged, image, large, store)
    assert answer is None or answer.status_code >= 500, answer
    # Nothing of Glance's own words about other stores.
    assert answer is None or "ilesystem" not in answer.text, answer.text
    imaged.await_queued(image)
    rig.until_free(image)
    assert rig.held(store) == {}
    imaged.upload(image, large, store)
    assert imaged.download(image).content == large


@pytest.mark.parametrize("store", STORES)
def test_glance_killed_during_an_upload(imaged, rig, large, store):
    """Glance leaves such an image in `saving`; the daemon leaves nothing."""
    image = imaged.create()
    assert upload_and(rig.kill_glance, imaged, image, large, store) is None
    assert imaged.show(image)["status"] == "saving"
    rig.until_free(image)
    assert rig.held(store) == {}
    imaged.delete(image)


def begin_download(glance, image):
    answer = glance.ask("GET", f"/images/{image}/file", 200, stream=True)
    return answer, answer.raw.read(PIECE)


def test_killed_during_a_download_from_ceph(imaged, rig, large):
    """The client sees that it is cut, and reads it all once the daemon is there again."""
    image = imaged.active(large, "ceph")
    answer, first = begin_download(imaged, image)
    assert first == large[: len(first)]
    rig.kill_daemon()
    try:
        got = len(first)
        with contextlib.suppress(requests.RequestException):
            for piece in answer.iter_content(PIECE):
                assert piece == large[got : got + len(piece)]
                got += len(piece)
        assert got < len(large), "all of it was buffered on the way"
    finally:
        answer.close()
        rig.start_daemon()
    assert imaged.download(image).content == large


def test_killed_during_a_download_from_a_file(imaged, rig, large):
    """It goes on: Glance reads the file by its descriptor."""
    image = imaged.active(large, "fast")
    answer, first = begin_download(imaged, image)
    rig.kill_daemon()
    try:
        got = bytearray(first)
        for piece in answer.iter_content(PIECE):
            got += piece
        assert got == large
    finally:
        answer.close()
        rig.start_daemon()
    assert imaged.download(image).content == large


@pytest.mark.parametrize("store", STORES)
def test_daemon_down(imaged, rig, raw, store):
    """503, the other stores go on, and it is well again without a restart of Glance."""
    there = imaged.active(raw, store)
    plain = imaged.active(raw, "plain-file")
    image = imaged.create()
    pid = rig["pids"]["glance"]
    with rig.daemon_down():
        answer = imaged.upload(image, raw, store, expect=503)
        assert "ilesystem" not in answer.text, answer.text
        assert imaged.show(image)["status"] == "queued"
        imaged.download(there, 503)
        assert imaged.download(plain).content == raw
        assert imaged.delete(there, expect=(409, 500, 503)).status_code == 503
        assert imaged.show(there)["status"] == "active"
        imaged.ask("GET", "/info/stores", 200)
    assert rig["pids"]["glance"] == pid
    assert imaged.download(there).content == raw
    imaged.upload(image, raw, store)
    assert imaged.download(image).content == raw
    imaged.delete(there)
    assert list(rig.held(store)) == [image]


def test_import_while_the_daemon_is_down(imaged, rig, raw):
    """All or nothing, as Glance has it for any store that fails."""
    image = imaged.create()
    imaged.stage(image, raw)
    with rig.daemon_down():
        imaged.fetch(image, "glance-direct", ["plain-file", "ceph"])
        until("the import to fail", lambda: imaged.tasks(image) == ["failure"])
    assert imaged.show(image)["os_glance_failed_import"] == "ceph"
    assert rig.held("ceph") == rig.held("plain-file") == {}
    # Glance leaves it in this state; what was staged goes with it.
    assert imaged.show(image)["status"] == "importing"
    imaged.delete(image)


def test_import_to_what_is_there(imaged, rig, raw):
    """Where not all must succeed, the others get it, and the store that was down gets it later."""
    image = imaged.create()
    imaged.stage(image, raw)
    with rig.daemon_down():
        imaged.fetch(image, "glance-direct", ["plain-file", "ceph"], all_must_succeed=False)
        until("the import to end", lambda: imaged.tasks(image) == ["success"])
        facts = imaged.show(image)
        assert (facts["status"], facts["stores"]) == ("active", "plain-file")
        assert facts["os_glance_failed_import"] == "ceph"
        assert imaged.download(image).content == raw
    imaged.fetch(image, "copy-image", ["ceph"])
    until("the copy", lambda: imaged.tasks(image) == ["success", "success"])
    assert set(imaged.show(image)["stores"].split(",")) == {"ceph", "plain-file"}
    assert rig.held("ceph") == {image: len(raw)}
    assert imaged.download(image).content == raw
