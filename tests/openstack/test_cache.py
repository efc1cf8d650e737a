"""The image cache, which a read fills, and which can be told to fetch."""

import pytest
from cloud import until


@pytest.fixture
def empty_cache(glance):
    glance.ask("DELETE", "/cache", 204)
    yield
    glance.ask("DELETE", "/cache", 204)


def cached(glance):
    return {one["image_id"]: one["size"] for one in glance.cached()["cached_images"]}


@pytest.mark.parametrize("store", ["ceph", "fast"])
def test_a_read_fills_the_cache(glance, empty_cache, raw, store):
    image = glance.active(raw, store)
    assert glance.download(image).content == raw
    until("the cache to have it", lambda: cached(glance) == {image: len(raw)}, 10)
    assert glance.download(image).content == raw
    glance.ask("DELETE", f"/cache/{image}", 204)
    assert cached(glance) == {}
    assert glance.download(image).content == raw


@pytest.mark.parametrize("store", ["ceph", "fast"])
def test_prefetch(glance, empty_cache, raw, store):
    image = glance.active(raw, store)
    glance.ask("PUT", f"/cache/{image}", 202)
    until("the cache to have it", lambda: cached(glance) == {image: len(raw)}, 60)
    until("it to be no longer queued", lambda: glance.cached()["queued_images"] == [])
    assert glance.download(image).content == raw
