"""Images of Cinder's volumes: by Cinder's own driver and by that of the Python package."""

import contextlib
import random
import subprocess
import uuid
from pathlib import Path

import pytest
import rbd
from cloud import Glance, digest, until
from glance import policies
from volumes import GIB, Cinder

pytestmark = pytest.mark.imaged


def check(rig, glance, image, sha512, store="ceph", size=GIB):
    """Glance has these bytes in this store, and knows their digest."""
    shown = glance.show(image)
    assert (shown["status"], shown["size"], shown["stores"]) == ("active", size, store)
    # Of a location that was registered Glance finds it out afterwards.
    until("the digest", lambda: glance.show(image)["os_hash_value"])
    assert glance.show(image)["os_hash_value"] == sha512
    assert rig.held(store) == {image: size}
    if rig["stores"][store]["type"] == "rbd":
        assert rig.digest(store, image) == sha512


def kinds(rig, image):
    """Of what kinds the daemon's work on it was."""
    return {job["kind"] for job in rig.imaged("jobs")["jobs"] if job["image"] == image}


def was_cloned(rig, image):
    """Whether the daemon made it by a clone, whose digest follows."""
    return "digest" in kinds(rig, image)


def was_copied(rig, image):
    """Whether the daemon read the volume for it."""
    return kinds(rig, image) == {"copy"}


@contextlib.contextmanager
def policy(rig, **rules):
    """Glance with other rules; it reads them with the next request."""
    path = Path(rig["glance_conf"]).with_name("policy.yaml")
    own = {rule.name: rule.check_str for rule in policies.list_rules()}

    def write(rules):
        path.write_text("".join(f'{name}: "{rule}"\n' for name, rule in rules.items()))

    write(rules)
    try:
        yield
    finally:
        # Rules that are no longer in the file would stay.
        write({name: own[name] for name in rules})


@pytest.mark.parametrize("kind", ["plain", "stream", "clone"])
def test_its_bytes_are_the_volume_s(cinder, imaged, rig, raw, whole, kind):
    volume = cinder.volume(kind, content=raw)
    image = cinder.uploaded(volume)
    check(rig, imaged, image, whole)
    assert was_cloned(rig, image) == (kind == "clone")
    assert imaged.download_digest(image) == whole


@pytest.mark.parametrize("kind", ["clone-to-files", "clone-to-default"])
def test_streamed_to_a_store_of_another_type(cinder, imaged, rig, raw, whole, kind):
    image = cinder.uploaded(cinder.volume(kind, content=raw))
    check(rig, imaged, image, whole, "fast")
    assert not was_cloned(rig, image)


def test_cloned_for_a_store_that_glance_serves_itself(cinder, imaged, rig, raw, whole):
    image = cinder.uploaded(cinder.volume("clone-to-plain", content=raw))
    check(rig, imaged, image, whole, "plain-ceph")
    assert was_cloned(rig, image)


@pytest.mark.parametrize("store, first", [("cloud", "image"), ("volumes", "volume")])
def test_copied_to_a_store_elsewhere(cinder, imaged, rig, raw, whole, store, first):
    volume = cinder.volume(f"copy-to-{store}", content=raw)
    image = cinder.uploaded(volume)
    check(rig, imaged, image, whole, store)
    assert was_copied(rig, image)
    assert cinder.snapshots(volume) == []
    if first == "volume":
        cinder.delete(volume)
        assert digest(imaged.download(image).content, "sha512") == whole
    imaged.delete(image)
    assert rig.held(store) == {}


@pytest.mark.parametrize(
    "kind, store",
    [
        ("disks", "ceph"),
        ("disks-to-volumes", "volumes-disks"),
        ("disks-backed", "volumes-disks"),
        # Glance refuses where a clone is in a store that is named, and Cinder streams.
        ("disks-backed-to-ceph", "ceph"),
        ("files", "ceph"),
        ("files-to-volumes", "volumes-files"),
        # Cinder's NFS driver does not clone a volume that is being uploaded, and streams.
        ("files-backed", "fast"),
        ("files-backed-to-ceph", "ceph"),
    ],
)
def test_of_volumes_behind_iscsi_and_in_files(cinder, imaged, rig, raw, whole, kind, store):
    """By Cinder's own drivers, without its clones and with them."""
    volume = cinder.volume(kind, content=raw)
    image = cinder.uploaded(volume)
    # What is written afterwards is not in it.
    cinder.write(volume, b"later")
    # Cinder does not wait for Glance, which reads a clone for its digest.
    until("the digest", lambda: imaged.show(image).get("os_hash_value"))
    check(rig, imaged, image, whole, store)
    cinder.delete(volume)
    made = cinder.volume(kind, image_id=image)
    imaged.delete(image)
    assert rig.held(store) == {}
    assert digest(cinder.read(made), "sha512") == whole


def test_an_image_of_another_format_is_cinder_s_own(cinder, imaged, rig, whole, raw, tmp_path):
    image = cinder.uploaded(cinder.volume("clone", content=raw), disk_format="qcow2")
    assert imaged.show(image)["disk_format"] == "qcow2"
    assert kinds(rig, image) == set()
    (tmp_path / "qcow2").write_bytes(imaged.download(image).content)
    convert = ["qemu-img", "convert", "-O", "raw", tmp_path / "qcow2", tmp_path / "raw"]
    subprocess.run(convert, check=True, timeout=60)
    assert digest((tmp_path / "raw").read_bytes(), "sha512") == whole


def test_a_user_who_is_no_administrator(cinder, imaged, rig, raw, whole):
    """Their image is private, and they may not add locations: Cinder may, for them."""
    mine = Cinder(rig, "demo")
    volume = mine.volume("clone", content=raw)
    try:
        image = mine.uploaded(volume)
        assert Glance(rig, "demo").show(image)["visibility"] == "private"
        check(rig, imaged, image, whole)
        assert was_cloned(rig, image)
    finally:
        mine.delete_made()


@pytest.mark.parametrize("kind", ["stream", "clone"])
@pytest.mark.parametrize("first", ["image", "volume"])
def test_deleted_in_both_orders_right_after_the_upload(
    cinder, imaged, rig, raw, whole, kind, first
):
    volume = cinder.volume(kind, content=raw)
    image = cinder.uploaded(volume)
    if first == "image":
        imaged.delete(image)
        assert rig.held("ceph") == {}
        cinder.delete(volume)
    else:
        cinder.delete(volume)
        check(rig, imaged, image, whole)
        imaged.delete(image)
    assert rig.held("ceph") == rig.held("also-ceph") == {}


def test_an_image_in_the_volume_s_own_pool(cinder, imaged, rig, raw, whole):
    volume = cinder.volume("clone-beside", content=raw)
    image = cinder.uploaded(volume)
    assert was_cloned(rig, image)
    cinder.delete(volume)
    check(rig, imaged, image, whole, "also-ceph")


def test_a_volume_stays_while_images_are_clones_for_ever(cinder, imaged, rig, raw, whole):
    """Cinder's user may not write to their pool, so it cannot copy into them."""
    volume = cinder.volume("clone", content=raw)
    with rig.configured(lambda text: f"{text}[ceph]\nimaged_flatten = false\n"):
        image = cinder.uploaded(volume)
        cinder.cloud.delete_volume(volume)
        cinder.available(volume)
        check(rig, imaged, image, whole)
        log = (Path(rig["log"]) / "cinder.log").read_text()
        assert f"Volume volume-{volume} is needed by images, ['{image}']" in log
        imaged.delete(image)
        cinder.delete(volume)


def test_a_volume_of_the_image_again(cinder, imaged, rig, raw):
    first = cinder.volume("clone", content=raw)
    image = cinder.uploaded(first)
    second = cinder.volume("clone", image_id=image)
    cinder.delete(first)
    assert digest(cinder.read(second), "sha256") == digest(raw + bytes(GIB - len(raw)), "sha256")
    again = cinder.uploaded(second)
    cinder.delete(second)
    assert rig.digest("ceph", again) == rig.digest("ceph", image)


def test_the_image_is_of_one_moment(cinder, imaged, rig, raw, whole):
    """It is as it was when it was cloned, whatever is written to the volume afterwards."""
    volume = cinder.volume("clone", content=raw)
    image = cinder.upload(volume)
    until("the clone", lambda: was_cloned(rig, image))
    source = random.Random(2)
    for _ in range(30):
        cinder.write(volume, source.randbytes(1 << 20), source.randrange(900) << 20)
    cinder.available(volume)
    until("its independence", lambda: not cinder.snapshots(volume))
    check(rig, imaged, image, whole)


def test_a_volume_that_was_migrated(cinder, imaged, rig, raw, whole):
    """Its bytes are under another id than its own."""
    volume, other = cinder.volume("clone", content=raw), str(uuid.uuid4())
    pool = rig.cluster("ceph").open_ioctx(rig["volumes"]["pool"])

    def move(name, new, name_id):
        rbd.RBD().rename(pool, f"volume-{name}", f"volume-{new}")
        rig.sql("cinder", f"UPDATE volumes SET _name_id = {name_id} WHERE id = '{volume}'")

    move(volume, other, f"'{other}'")
    try:
        image = cinder.uploaded(volume)
        check(rig, imaged, image, whole)
        assert was_cloned(rig, image)
    finally:
        move(other, volume, "NULL")


@pytest.mark.parametrize("kind, store", [("clone", "ceph"), ("copy-to-volumes", "volumes")])
def test_glance_refuses_the_location(cinder, imaged, rig, raw, whole, kind, store):
    """What the daemon made is taken back, and the image streamed."""
    volume = cinder.volume(kind, content=raw)
    with policy(rig, add_image_location="!"):
        image = cinder.uploaded(volume)
        check(rig, imaged, image, whole, store)
    assert cinder.snapshots(volume) == []
    log = (Path(rig["log"]) / "cinder.log").read_text()
    assert f"Image {image} is streamed, not made by imaged: Glance refused" in log
    assert "needs the role service" in log


def test_a_failed_upload_leaves_nothing(cinder, imaged, rig, raw):
    volume = cinder.volume("clone", content=raw)
    temporary = Path(rig["dir"]) / "cinder/tmp"
    before = set(temporary.iterdir())
    with policy(rig, add_image_location="!", upload_image="!"):
        image = cinder.uploaded(volume)
    assert set(temporary.iterdir()) <= before
    assert imaged.ask("GET", f"/images/{image}").status_code == 404
    assert rig.held("ceph") == {}
    until("no snapshot to be left", lambda: cinder.snapshots(volume) == [])
    assert cinder.messages(volume)
    # Nor is it still open.
    cinder.delete(volume)


def test_without_the_daemon_it_is_streamed_or_fails(cinder, imaged, rig, raw, whole):
    lost, kept = cinder.volume("clone", content=raw), cinder.volume("clone-to-plain", content=raw)
    with rig.daemon_down():
        image = cinder.uploaded(lost)
        assert imaged.ask("GET", f"/images/{image}").status_code == 404
        assert cinder.messages(lost)
        # A store that Glance serves itself.
        image = cinder.uploaded(kept)
    check(rig, imaged, image, whole, "plain-ceph")
    assert rig.held("ceph") == {}
    assert cinder.snapshots(lost) == cinder.snapshots(kept) == []
