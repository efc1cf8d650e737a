"""The image cache, which a read fills, and which can be told to fetch."""

import os
import shutil
import time
from pathlib import Path

import pytest
from changes import patch
from cloud import Glance, until


@pytest.fixture
def empty_cache(glance):
    glance.ask("DELETE", "/cache", 204)
    yield
    glance.ask("DELETE", "/cache", 204)


def cached(glance):
    return {one["image_id"]: one["size"] for one in glance.cached()["cached_images"]}


def is_read_from_the_cache(rig, glance, image):
    """Whether a download is what the cache has: for as long as that is something else."""
    there = Path(rig["glance_conf"]).parent / "cache" / image
    before = there.read_bytes()
    other = before[::-1]
    assert other != before
    there.write_bytes(other)
    try:
        return glance.download(image).content == other
    finally:
        there.write_bytes(before)


@pytest.mark.parametrize("store", ["ceph", "fast"])
def test_a_read_fills_the_cache(glance, empty_cache, rig, raw, store):
    image = glance.active(raw, store)
    assert glance.download(image).content == raw
    until("the cache to have it", lambda: cached(glance) == {image: len(raw)}, 10)
    assert glance.download(image).content == raw
    assert is_read_from_the_cache(rig, glance, image)
    glance.ask("DELETE", f"/cache/{image}", 204)
    assert cached(glance) == {}
    assert glance.download(image).content == raw


@pytest.mark.parametrize("store", ["ceph", "fast"])
def test_prefetch(glance, empty_cache, rig, raw, store):
    image = glance.active(raw, store)
    glance.ask("PUT", f"/cache/{image}", 202)
    until("the cache to have it", lambda: cached(glance) == {image: len(raw)}, 60)
    until("it to be no longer queued", lambda: glance.cached()["queued_images"] == [])
    assert glance.download(image).content == raw
    assert is_read_from_the_cache(rig, glance, image)


@pytest.mark.imaged
@pytest.mark.parametrize("store", ["ceph", "fast"])
def test_what_is_in_the_cache_needs_no_daemon(imaged, empty_cache, rig, raw, store):
    image = imaged.active(raw, store)
    imaged.download(image)
    until("the cache to have it", lambda: cached(imaged) == {image: len(raw)}, 10)
    with rig.daemon_down():
        assert imaged.download(image).content == raw
        imaged.ask("DELETE", f"/cache/{image}", 204)
        imaged.download(image, 503)
    assert imaged.download(image).content == raw


def test_taken_out_of_the_cache(glance, empty_cache, raw):
    """One, and all; the image stays, and what is read next is as it was."""
    images = [glance.active(raw, "ceph") for _ in range(2)]
    for image in images:
        assert glance.download(image).content == raw
    until("the cache to have them", lambda: cached(glance).keys() == set(images), 10)
    glance.ask("DELETE", f"/cache/{images[0]}", 204)
    assert cached(glance) == {images[1]: len(raw)}
    queue = {"x-image-cache-clear-target": "queue"}
    glance.ask("DELETE", "/cache", 204, headers=queue)
    assert cached(glance) == {images[1]: len(raw)}
    glance.ask("DELETE", "/cache", 204, headers={"x-image-cache-clear-target": "cache"})
    assert cached(glance) == {}
    for image in images:
        assert glance.download(image).content == raw


def test_clean_and_prune(glance, empty_cache, rig, raw):
    """What is whole and within the size is kept, and with it what is read."""
    image = glance.active(raw, "ceph")
    assert glance.download(image).content == raw
    until("the cache to have it", lambda: cached(glance) == {image: len(raw)}, 10)
    folder = Path(rig["glance_conf"]).parent / "cache"
    broken, stalled, fresh = (
        folder / name for name in ("invalid/1", "incomplete/2", "incomplete/3")
    )
    for path in (broken, stalled, fresh):
        path.write_bytes(b"bytes")
    # Longer ago than image_cache_stall_time.
    os.utime(stalled, (time.time() - 100_000,) * 2)
    glance.ask("POST", "/cache/clean", 200)
    assert [path.exists() for path in (broken, stalled, fresh)] == [False, False, True]
    fresh.unlink()
    told = glance.ask("POST", "/cache/prune", 200).json()
    assert told == {"total_files_pruned": 0, "total_bytes_pruned": 0}
    assert cached(glance) == {image: len(raw)}
    assert glance.download(image).content == raw
    nodes = glance.ask("GET", f"/cache/nodes/{image}", 200).json()
    assert rig["glance"] in str(nodes)


@pytest.mark.imaged
def test_a_cache_that_is_too_large_is_pruned(imaged, rig, raw):
    """Of what was read longest ago."""
    folder = Path(rig["glance_conf"]).parent / "cache-beside"
    folder.mkdir()
    shutil.chown(folder, rig["glance_user"])
    conf = (
        f"[DEFAULT]\nimage_cache_dir = {folder}\nimage_cache_max_size = {len(raw)}\n"
        "[paste_deploy]\nflavor = keystone+cachemanagement\n"
    )
    images = [imaged.active(raw, store) for store in ("ceph", "fast")]
    try:
        with rig.beside(conf) as url:
            small = Glance(rig, url=url)
            for image in images:
                assert small.download(image).content == raw
                until("the cache to have it", lambda image=image: image in cached(small), 10)
            told = small.ask("POST", "/cache/prune", 200).json()
            assert told == {"total_files_pruned": 1, "total_bytes_pruned": len(raw)}
            assert cached(small) == {images[1]: len(raw)}
            assert small.download(images[0]).content == raw
            small.ask("DELETE", "/cache", 204)
    finally:
        shutil.rmtree(folder)


@pytest.mark.imaged
def test_what_the_cache_refuses(imaged, empty_cache, rig, raw):
    image = imaged.active(raw, "fast")
    queued = imaged.create()
    missing = "00000000-0000-0000-0000-000000000000"
    imaged.ask("PUT", f"/cache/{queued}", 400)
    imaged.ask("POST", f"/images/{image}/actions/deactivate", 204)
    imaged.ask("PUT", f"/cache/{image}", 400)
    imaged.ask("POST", f"/images/{image}/actions/reactivate", 204)
    for method in ("PUT", "DELETE"):
        imaged.ask(method, f"/cache/{missing}", 404)
    imaged.ask("DELETE", "/cache", 400, headers={"x-image-cache-clear-target": "both"})
    assert patch(imaged, image, "replace", "/visibility", "public") == 200
    for name in ("reader", "demo", "manager"):
        user = Glance(rig, name)
        for method, path in (
            ("GET", "/cache"),
            ("DELETE", "/cache"),
            ("PUT", f"/cache/{image}"),
            ("DELETE", f"/cache/{image}"),
            ("GET", f"/cache/nodes/{image}"),
            ("POST", "/cache/clean"),
            ("POST", "/cache/prune"),
        ):
            user.ask(method, path, 403)
    assert imaged.cached() == {"cached_images": [], "queued_images": []}


@pytest.mark.imaged
def test_no_cache(imaged, rig, raw):
    """Every request about it is answered 404."""
    image = imaged.active(raw, "fast")
    with rig.beside("[DEFAULT]\nimage_cache_dir =\n") as url:
        without = Glance(rig, url=url)
        without.ask("GET", "/cache", 404)
        without.ask("DELETE", "/cache", 404)
        without.ask("PUT", f"/cache/{image}", 404)
        without.ask("DELETE", f"/cache/{image}", 404)
        without.ask("POST", "/cache/clean", 404)
        without.ask("POST", "/cache/prune", 404)
        assert without.download(image).content == raw
