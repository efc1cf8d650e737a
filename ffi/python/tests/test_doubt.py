"""Uploads whose answer is lost: Glance is told what became of them, and nothing is left behind."""

from __future__ import annotations

import hashlib
import io
import os

import glance_store
import pytest
from glance_store import exceptions
from servers import Proxy
from stores import fast, new

import imaged
from imaged.glance import doubt, store

BYTES = os.urandom(3_000_001)
OTHER = os.urandom(3_000_001)
ALMOST = BYTES[:-1] + bytes([BYTES[-1] ^ 1])
DIGESTS = (hashlib.md5(BYTES).hexdigest(), hashlib.sha512(BYTES).hexdigest())


class Rig:
    """Glance, a proxy, and a daemon behind it that may be killed."""

    def __init__(self, glance, daemon, proxy, form) -> None:
        self.glance, self.daemon, self.proxy, self.form = glance, daemon, proxy, form
        self.client = imaged.Client(daemon.socket)

    def add(self, id: str):
        size = len(BYTES) if self.form == "size-known" else 0
        return self.glance.add(io.BytesIO(BYTES), size, id)

    def lose(self, answer: bytes) -> None:
        """The daemon's next answer of this kind does not come."""
        self.proxy.cuts = lambda said: said.startswith(b"HTTP/1.1 " + answer)

    def restart(self) -> None:
        self.daemon.kill()
        self.daemon.start()

    def path(self, id: str):
        return self.daemon.dir / "fast" / id

    def check_stored(self, added, id: str) -> None:
        uri = f"file://{self.path(id)}"
        assert added == (uri, len(BYTES), *DIGESTS, {"store": "fast"})
        assert b"".join(glance_store.get(uri, "fast")[0]) == BYTES
        assert self.proxy.cut == 1

    def check_again(self, id: str) -> None:
        """Nothing is left, and another try is taken."""
        self.daemon.until_ids_are_free()
        assert not self.path(id).exists()
        assert self.add(id)[1] == len(BYTES)


@pytest.fixture(params=["size-known", "size-unknown"])
def rig(request, glance, daemon):
    proxy = Proxy(f"{daemon.open.name}/proxy", daemon.socket)
    glance.start("fast:file", fast(daemon, socket=proxy.path))
    yield Rig(glance, daemon, proxy, request.param)
    proxy.close()
    store.client.cache_clear()


def test_an_image_whose_answer_was_lost_is_stored(rig):
    id = new()
    rig.lose(b"201")
    rig.check_stored(rig.add(id), id)
    with pytest.raises(exceptions.Duplicate):
        rig.add(id)


def test_the_daemon_may_be_started_again_meanwhile(rig):
    id = new()
    rig.lose(b"201")
    rig.proxy.meanwhile = rig.restart
    rig.check_stored(rig.add(id), id)


def test_a_daemon_that_comes_later_is_waited_for(rig):
    id = new()
    rig.lose(b"201")
    rig.proxy.meanwhile = rig.daemon.kill
    asked = []
    look = imaged.Client.stat

    def stat(self, *arguments, **more):
        # It is down while it is looked for, and up the third time.
        asked.append(1)
        if len(asked) == 3:
            rig.daemon.start()
        return look(self, *arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imaged.Client, "stat", stat)
        added = rig.add(id)
    assert len(asked) >= 3
    rig.check_stored(added, id)


def test_a_daemon_that_does_not_come_is_not_waited_for_for_ever(rig, monkeypatch, caplog):
    id = new()
    rig.lose(b"201")
    rig.proxy.meanwhile = rig.daemon.kill
    monkeypatch.setattr(doubt, "PATIENCE", 0.3)
    with pytest.raises(exceptions.RemoteServiceUnavailable):
        rig.add(id)
    assert f"Image {id} may be in the store fast" in caplog.text
    rig.daemon.start()
    # It was stored; nobody who did not know that has touched it.
    assert rig.path(id).read_bytes() == BYTES


def test_what_was_cut_before_its_end_is_not_looked_for(rig, monkeypatch):
    id = new()
    monkeypatch.setattr(doubt, "look", None)
    seen = []

    def half(said: bytes) -> bool:
        seen.append(len(said))
        return sum(seen) > len(BYTES) // 2

    rig.proxy.cuts = half
    with pytest.raises(exceptions.RemoteServiceUnavailable):
        rig.add(id)
    monkeypatch.undo()
    rig.check_again(id)


def test_what_the_daemon_did_not_get_to_store_leaves_nothing(rig):
    """It dies with all of the image on its way, and clears up after itself when it is back."""
    id = new()
    rig.proxy.cuts = lambda said: b"0\r\n\r\n" in said[-200:]
    rig.proxy.meanwhile = rig.restart
    with pytest.raises(exceptions.RemoteServiceUnavailable):
        rig.add(id)
    assert rig.proxy.cut == 1
    rig.check_again(id)


def test_an_id_that_is_still_cleared_up_is_not_taken_for_free(rig, monkeypatch):
    id, tries = new(), []
    rig.lose(b"201")
    rig.proxy.meanwhile = lambda: rig.client.delete("fast", id)
    put = imaged.Client.put

    def busy(self, *arguments, **more):
        tries.append(1)
        if 1 < len(tries) < 4:
            raise imaged.Unavailable("what an earlier upload of this id left is being cleared up")
        return put(self, *arguments, **more)

    monkeypatch.setattr(imaged.Client, "put", busy)
    with pytest.raises(exceptions.RemoteServiceUnavailable):
        rig.add(id)
    assert len(tries) == 4
    rig.check_again(id)


@pytest.mark.parametrize(
    "others",
    [OTHER, OTHER[:-1], ALMOST, b""],
    ids=["same-length", "other-length", "other-byte", "empty"],
)
def test_an_image_of_others_that_was_there_before_stays(rig, others):
    id = new()
    rig.client.put("fast", id, others)
    rig.lose(b"409")
    with pytest.raises(exceptions.RemoteServiceUnavailable):
        rig.add(id)
    assert rig.proxy.cut == 1
    assert rig.path(id).read_bytes() == others


@pytest.mark.parametrize("others", [OTHER, OTHER[:-1]], ids=["same-length", "other-length"])
def test_an_image_of_others_that_came_meanwhile_stays(rig, others):
    id = new()
    rig.lose(b"201")

    def exchange() -> None:
        rig.client.delete("fast", id)
        rig.client.put("fast", id, others)

    rig.proxy.meanwhile = exchange
    with pytest.raises(exceptions.RemoteServiceUnavailable):
        rig.add(id)
    assert rig.path(id).read_bytes() == others


def test_digests_that_nobody_kept_are_computed(rig):
    id = new()
    rig.lose(b"201")
    rig.proxy.meanwhile = lambda: os.removexattr(rig.path(id), "user.imaged.digests")
    rig.check_stored(rig.add(id), id)


def test_an_image_that_is_too_long_to_be_looked_through_is_removed(rig, monkeypatch):
    id = new()
    rig.lose(b"201")
    rig.proxy.meanwhile = lambda: os.removexattr(rig.path(id), "user.imaged.digests")

    def late(*arguments) -> None:
        raise doubt.Unknown("too long")

    monkeypatch.setattr(doubt, "_in_time", late)
    with pytest.raises(exceptions.RemoteServiceUnavailable):
        rig.add(id)
    monkeypatch.undo()
    rig.check_again(id)


def test_an_image_whose_metadata_only_its_receipt_tells_is_removed(rig, tmp_path):
    id = new()
    metadata = tmp_path / "metadata.json"
    metadata.write_text('{"id": "b9d69795", "mountpoint": "/srv"}')
    line = f"filesystem_store_metadata_file = {metadata}"
    rig.glance.start("fast:file", fast(rig.daemon, line, socket=rig.proxy.path))
    rig.lose(b"201")
    with pytest.raises(exceptions.RemoteServiceUnavailable):
        rig.add(id)
    rig.check_again(id)


def test_an_empty_image_is_found(rig, monkeypatch):
    if rig.form != "size-unknown":
        pytest.skip("0 stands for a size that nobody knows")
    id = new()
    rig.lose(b"201")
    added = rig.glance.add(io.BytesIO(b""), 0, id)
    assert added[1] == 0 and added[2] == hashlib.md5(b"").hexdigest()


def test_any_source_is_known_again(rig, tmp_path):
    """In pieces of every length, also of none."""
    if rig.form != "size-unknown":
        pytest.skip("its size is not told")
    client = imaged.Client(rig.daemon.socket)
    for pieces in (
        [b"", b"x", b"", BYTES[:1023], BYTES[:1024], BYTES[:1025], b""],
        [bytes([count % 256]) for count in range(500)],
        [BYTES],
        [b""],
        [],
    ):
        id, sent = new(), doubt.Sent()
        client.put("fast", id, iter(pieces), watch=sent.see)
        found = doubt.look(client, "fast", id, "sha512", sent)
        assert found and found.size == sum(map(len, pieces))
        other = doubt.Sent()
        for piece in pieces:
            other.see(bytes(byte ^ 1 for byte in piece))
        if found.size:
            assert doubt.look(client, "fast", id, "sha512", other) is None
            assert client.stat("fast", id).size == found.size


def test_glances_user_does_not_notice(api, daemon):
    proxy = Proxy(f"{daemon.open.name}/proxy", daemon.socket)
    api.start("fast:file", fast(daemon, socket=proxy.path))
    image = api.create()
    proxy.cuts = lambda said: said.startswith(b"HTTP/1.1 201")
    assert api.upload(image, BYTES, "fast").status_int == 204
    assert proxy.cut == 1
    facts = api.show(image)
    assert (facts["status"], facts["checksum"], facts["os_hash_value"]) == ("active", *DIGESTS)
    assert api.ask("GET", f"/images/{image}/file").body == BYTES
    assert api.ask("DELETE", f"/images/{image}").status_int == 204
    assert not (daemon.dir / "fast" / image).exists()
    proxy.close()
