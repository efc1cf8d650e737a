"""Taking the daemon into use, and out again, with images in place."""

import contextlib
import functools
import itertools
from pathlib import Path

import pytest
import rbd
from cloud import until

pytestmark = pytest.mark.imaged
STORES = ("ceph", "cloud", "fast")


@pytest.mark.parametrize("store", STORES)
def test_who_serves_a_store(both, rig, raw, store):
    """The daemon sees every byte of its stores, and none where Glance keeps a store."""
    log = Path(rig["log"]) / "imaged.out"
    rig.use("imaged")
    image = both.active(raw, store)
    both.download(image)
    both.delete(image)

    def told(operation):
        lines = log.read_text().splitlines()
        return [one for one in lines if f'op="{operation}"' in one and image in one]

    for operation in ("put", "get", "delete"):
        # A download is over for its reader before it is for the daemon.
        until(f"the daemon to tell of the {operation}", functools.partial(told, operation))
        assert len(told(operation)) == 1, (operation, told(operation))
    rig.use("in-process")
    image = both.active(raw, store)
    both.download(image)
    both.delete(image)
    assert image not in log.read_text()


def test_what_glance_tells_of_stores(both, rig):
    told = {}
    for mode in ("in-process", "imaged"):
        rig.use(mode)
        told[mode] = {
            path: both.ask("GET", path, 200).json()
            for path in ("/info/stores", "/info/stores/detail", "/info/import")
        }
    assert {one["id"] for one in told["imaged"]["/info/stores"]["stores"]} >= set(STORES)
    # The rig has the stores of volumes with the daemon alone.
    for path in ("/info/stores", "/info/stores/detail"):
        stores = told["imaged"][path]["stores"]
        told["imaged"][path]["stores"] = [
            one for one in stores if not one["id"].startswith("volumes")
        ]
    assert told["imaged"] == told["in-process"]


@pytest.mark.parametrize(("before", "after"), itertools.permutations(("in-process", "imaged")))
def test_over_and_back(both, rig, bodies, before, after):
    """Every image can be read and deleted by either, before, during and after."""
    there = {}

    def put(mode):
        for store, disk_format in itertools.product(STORES, bodies):
            image = both.active(bodies[disk_format], store, disk_format=disk_format)
            there.setdefault(mode, {}).setdefault(store, []).append((image, bodies[disk_format]))

    def read_all():
        for image, body in itertools.chain(*(s for m in there.values() for s in m.values())):
            assert both.download(image).content == body
            assert both.show(image)["status"] == "active"

    def delete_one_each(mode):
        for store in STORES:
            image, _ = there[mode][store].pop()
            both.delete(image)
            assert image not in rig.held(store)

    rig.use(before)
    put("before")
    read_all()
    rig.use(after)
    read_all()
    delete_one_each("before")
    put("during")
    read_all()
    rig.use(before)
    read_all()
    delete_one_each("during")
    delete_one_each("before")
    both.delete_made()
    assert rig.held("ceph") == rig.held("fast") == {}


@pytest.mark.parametrize(("writer", "other"), itertools.permutations(("in-process", "imaged")))
def test_receipts_are_the_same(both, rig, raw, writer, other):
    """Glance's record of an image does not tell who stored it."""
    facts = {}
    for mode in (writer, other):
        rig.use(mode)
        for store in STORES:
            image = both.active(raw, store)
            one = both.show(image)
            text = {
                name: value.replace(image, "ID") if isinstance(value, str) else value
                for name, value in one.items()
                if name not in ("created_at", "updated_at", "locations", "id", "self", "file")
            }
            text["locations"] = str(one["locations"]).replace(image, "ID")
            facts.setdefault(store, []).append(text)
    for store, (first, second) in facts.items():
        assert first == second, store


@contextlib.contextmanager
def cloned(rig, image):
    """A volume that is a clone of the image, as Cinder and Nova make them."""
    with rig.pool("ceph") as source, rig.pool("plain-ceph") as target:
        rbd.RBD().clone(source, image, "snap", target, "volume", features=rbd.RBD_FEATURE_LAYERING)
        try:
            yield lambda: rbd.Image(target, "volume")
        finally:
            rbd.RBD().remove(target, "volume")


@pytest.mark.parametrize(("writer", "other"), itertools.permutations(("in-process", "imaged")))
def test_clone_of_an_rbd_image(both, rig, raw, writer, other):
    """Written by one, cloned, and deleted by the other."""
    rig.use(writer)
    image = both.active(raw, "ceph")
    with rig.pool("ceph") as ioctx, rbd.Image(ioctx, image, read_only=True) as opened:
        assert [snapshot["name"] for snapshot in opened.list_snaps()] == ["snap"]
        assert opened.is_protected_snap("snap")
    rig.use(other)
    with cloned(rig, image) as volume:
        with volume() as opened:
            assert opened.read(0, len(raw)) == raw
        # As long as the clone needs it, it stays.
        both.delete(image, 409)
        assert both.show(image)["status"] == "active"
        assert both.download(image).content == raw
        with volume() as opened:
            assert opened.read(0, len(raw)) == raw
    both.delete(image)
    assert rig.held("ceph") == {}
