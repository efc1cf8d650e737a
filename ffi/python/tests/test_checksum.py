"""A daemon that computes no md5: Glance's images have a multihash, and no checksum."""

from __future__ import annotations

import hashlib
import io
import os

import pytest
from servers import Proxy
from stores import fast, new

import imaged

BYTES = os.urandom(2_500_001)
SHA512 = hashlib.sha512(BYTES).hexdigest()


@pytest.fixture
def without(daemon):
    """Started again, to compute no md5."""
    daemon.stop()
    daemon.config.write_text(daemon.config.read_text() + "checksum = none\n")
    return daemon.start()


def test_a_receipt_and_an_image_have_no_checksum(without):
    client = imaged.Client(without.socket)
    receipt = client.put("fast", new(), BYTES)
    assert (receipt.checksum, receipt.hash_value) == (None, SHA512)
    assert client.stat("fast", receipt.id).digests == {"sha512": SHA512}
    with client.get("fast", receipt.id) as body:
        assert body.read() == BYTES
    client.close()


def test_glances_store_answers_none(glance, without):
    glance.start("fast:file", fast(without))
    added = glance.add(io.BytesIO(BYTES), len(BYTES), new())
    assert added[1:4] == (len(BYTES), None, SHA512)


def test_a_lost_answer_has_no_checksum_either(glance, without):
    proxy = Proxy(f"{without.open.name}/proxy", without.socket)
    glance.start("fast:file", fast(without, socket=proxy.path))
    proxy.cuts = lambda said: said.startswith(b"HTTP/1.1 201")
    added = glance.add(io.BytesIO(BYTES), len(BYTES), new())
    assert (proxy.cut, added[1:4]) == (1, (len(BYTES), None, SHA512))
    proxy.close()


def test_glances_api_shows_and_serves_such_an_image(api, without):
    api.start("fast:file", fast(without))
    image = api.create()
    assert api.upload(image, BYTES, "fast").status_int == 204
    facts = api.show(image)
    assert (facts["status"], facts["size"]) == ("active", len(BYTES))
    assert (facts["checksum"], facts["os_hash_value"]) == (None, SHA512)
    assert (facts["os_hash_algo"], facts["stores"]) == ("sha512", "fast")
    answer = api.ask("GET", f"/images/{image}/file")
    # What glanceclient and Nova hold it against.
    assert hashlib.sha512(answer.body).hexdigest() == facts["os_hash_value"]
    assert "Content-MD5" not in answer.headers
    assert api.ask("DELETE", f"/images/{image}").status_int == 204
