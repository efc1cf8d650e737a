"""`imaged selftest --glance`, which tries a Glance as a user of it would."""

import json
import signal
import subprocess

import pytest
from cloud import until

pytestmark = pytest.mark.imaged
SERVED = ("also-ceph", "also-fast", "ceph", "cloud", "fast", "swift", "volumes")
CHECKS = ["upload", "through imaged", "facts and digests", "download", "range", "delete"]


def command(rig, *arguments, user="demo"):
    words = [rig["program"], "selftest", "--socket", rig["socket"], *arguments]
    return {"args": words, "env": rig.login(user), "text": True}


def run(rig, *arguments, user="demo"):
    """Its exit code, and the verdict and the words of each check."""
    done = subprocess.run(
        **command(rig, *arguments, "--json", user=user),
        capture_output=True,
        timeout=240,
        check=False,
    )
    told = json.loads(done.stdout)
    checks = {(one["about"], one["check"]): (one["verdict"], one["told"]) for one in told["checks"]}
    wrong = [one for one, (verdict, _) in checks.items() if verdict == "wrong"]
    assert len(wrong) == told["wrong"] and done.returncode == bool(wrong), done.stderr
    assert checks["glance", "nothing is left"][0] == "right", checks
    return done.returncode, checks


def test_a_glance_that_is_well(imaged, rig):
    www = f"{rig['files']}/selftest.img"
    (rig.folder / "www" / "selftest.img").write_bytes(b"an image" * 1000)
    code, checks = run(rig, "--glance", rig["glance"], "--web-download", www)
    assert code == 0, checks
    for store in SERVED:
        assert [checks[store, check][0] for check in CHECKS] == ["right"] * 6
    for store in ("plain-ceph", "plain-cloud", "plain-file"):
        assert checks[store, "through imaged"][0] == "note"
        assert checks[store, "download"][0] == "right"
    for method in ("glance-direct", "web-download"):
        assert checks[method, "import"][0] == "right"
    # Its user is no administrator.
    for method in ("copy-image", "glance-download"):
        assert checks[method, "import"][0] == "note"
    assert "use_keystone_limits" in checks["glance", "usage"][1]
    assert imaged.images() == []


def test_one_store_of_the_glance_that_the_catalog_names(imaged, rig):
    code, checks = run(rig, "--glance", "--store", "fast")
    assert code == 0, checks
    assert {about for about, check in checks if check == "upload"} == {"fast"}
    assert checks["copy-image", "import"][0] == "note"


def test_images_that_have_no_md5(imaged, rig):
    none = "[imaged]\nchecksum = none\n"
    with rig.configured(lambda text: text.replace("[imaged]\n", none, 1)):
        code, checks = run(rig, "--glance", "--store", "fast")
    assert code == 0, checks
    verdict, told = checks["fast", "facts and digests"]
    assert verdict == "right" and "there is no md5" in told


def test_an_administrator_copies_too(imaged, rig):
    code, checks = run(rig, "--glance", "--store", "fast", "--store", "ceph", user="admin")
    assert code == 0, checks
    verdict, told = checks["copy-image", "import"]
    assert verdict == "right" and "fast and ceph" in told


def test_a_glance_that_does_not_use_the_daemon(both, rig):
    rig.use("in-process")
    code, checks = run(rig, "--glance", "--store", "ceph", "--store", "fast")
    assert code == 1
    assert checks["glance", "through imaged"][0] == "wrong"
    assert checks["ceph", "range"][0] == "note"
    assert checks["fast", "download"][0] == "right"


def test_a_daemon_that_is_down(imaged, rig):
    with rig.daemon_down():
        code, checks = run(rig, "--glance", "--store", "fast")
    assert code == 1
    verdict, told = checks["fast", "upload"]
    assert verdict == "wrong" and "503" in told
    assert imaged.images() == []


def test_who_stops_it_finds_nothing_left(imaged, rig):
    process = subprocess.Popen(
        **command(rig, "--glance"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    until("an image to be made", imaged.images)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "interrupted" in err, (out, err)
    until("nothing to be left", lambda: imaged.images() == [])
    rig.ensure_daemon()
    until("the stores to be empty", lambda: rig.journal() == 0)


def test_what_cannot_be_tried_is_told(imaged, rig):
    done = subprocess.run(
        **command(rig, "--glance", "--store", "nowhere"),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1 and "no store `nowhere`" in done.stderr
    environment = rig.login("demo") | {"OS_PASSWORD": "wrong"}
    done = subprocess.run(
        **command(rig, "--glance") | {"env": environment},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1 and "login" in done.stderr
