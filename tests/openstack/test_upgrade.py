"""What Glance's users see while the daemon gets a new configuration or a new version, or a backend
hangs, under a load of uploads."""

import contextlib
import os
import pwd
import random
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest
import requests
from cloud import Glance, until

pytestmark = pytest.mark.imaged
STORES = ("ceph", "fast", "ceph")
SIZE = 6 << 20
# Seconds that the cluster may take for one answer, where it is to hang.
PATIENCE = 5


class Load:
    """Uploads, one after the other on each of some threads; each may be tried twice."""

    def __init__(self, rig):
        self.rig = rig
        self.over = threading.Event()
        self.bodies = [random.Random(seed).randbytes(SIZE + seed) for seed in range(len(STORES))]
        self.stored, self.again, self.wrong = {}, [], []
        self.users = [Glance(rig) for _ in STORES]
        self.threads = [
            threading.Thread(target=self.run, args=one)
            for one in zip(self.users, STORES, self.bodies, strict=True)
        ]

    def run(self, glance, store, body):
        try:
            while not self.over.is_set():
                image = glance.create()
                cut = self.upload(glance, image, store, body)
                if cut:
                    self.again.append(cut)
                    glance.await_queued(image)
                    self.rig.until_free(image)
                    cut = self.upload(glance, image, store, body)
                    assert not cut, cut
                self.stored[image] = body
        except Exception as error:
            self.wrong.append(repr(error))

    @staticmethod
    def upload(glance, image, store, body):
        """Why an upload has failed, or None."""
        try:
            answer = glance.upload(image, body, store, expect=None)
        except requests.RequestException as error:
            return repr(error)
        if answer.status_code == 204:
            return None
        assert answer.status_code >= 500, answer.text
        return answer.text

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join(120)

    def goes_on(self):
        """Waits until some more are stored."""
        there = len(self.stored)
        until("uploads to go on", lambda: self.wrong or len(self.stored) >= there + len(STORES))

    def check(self, glance):
        assert not self.wrong
        for image, body in self.stored.items():
            assert glance.show(image)["status"] == "active"
            assert glance.download(image).content == body
        for user in self.users:
            user.delete_made()


def test_a_new_configuration_under_load(imaged, rig):
    with Load(rig) as load:
        for _ in range(5):
            load.goes_on()
            os.kill(rig["pids"]["imaged"], signal.SIGHUP)
        load.goes_on()
    load.check(imaged)
    assert load.again == []


class Activated:
    """The daemon as systemd starts it: on a socket that stays while daemons come and go."""

    def __init__(self, rig):
        self.rig = rig
        Path(rig["socket"]).unlink(missing_ok=True)
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(rig["socket"])
        os.chown(rig["socket"], -1, pwd.getpwnam(rig["glance_user"]).pw_gid)
        os.chmod(rig["socket"], 0o660)
        self.listening.listen(128)

    def start(self):
        number = self.listening.fileno()
        passed = f'exec 3<&{number} && export LISTEN_PID=$$ LISTEN_FDS=1 && exec "$@"'
        files = [f"--config-file={self.rig[name]}" for name in ("glance_conf", "imaged_conf")]
        with open(Path(self.rig["log"]) / "imaged.out", "ab") as log:
            return subprocess.Popen(
                ["bash", "-c", passed, "-", self.rig["program"], "serve", *files],
                pass_fds=[number],
                stdout=log,
                stderr=log,
            )

    def close(self):
        self.listening.close()
        Path(self.rig["socket"]).unlink(missing_ok=True)


def test_a_new_version_under_load(imaged, rig):
    """With the socket kept open no caller finds it closed, and what is under way is ended first."""
    with rig.daemon_down(), contextlib.closing(Activated(rig)) as activated:
        daemon = activated.start()
        try:
            with Load(rig) as load:
                for _ in range(3):
                    load.goes_on()
                    daemon.terminate()
                    assert daemon.wait(60) == 0
                    daemon = activated.start()
                load.goes_on()
            load.check(imaged)
            until("the journal to be empty", lambda: rig.journal() == 0)
        finally:
            daemon.terminate()
            daemon.wait(60)


def impatient(rig):
    """With a configuration in which the cluster has little time."""
    return rig.configured(lambda text: f"{text}[ceph]\nrados_connect_timeout = {PATIENCE}\n")


@contextlib.contextmanager
def osd_stopped(rig):
    script = Path(rig["script"]).with_name("ceph")

    def osd(what):
        command = [script, "osd", what, Path(rig["dir"]) / "ceph"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    osd("stop")
    try:
        yield
    finally:
        osd("cont")


def test_a_cluster_that_hangs(imaged, rig, raw):
    """Its uploads and downloads fail in time, other stores go on, and then all is well again."""
    there = imaged.active(raw, "ceph")
    image = imaged.create()
    with impatient(rig):
        with osd_stopped(rig):
            answer = imaged.upload(image, raw, "ceph", expect=None)
            assert answer.status_code == 503, answer.text
            assert imaged.show(image)["status"] == "queued"
            assert imaged.download(there, expect=None).status_code == 503
            other = imaged.active(raw, "fast")
            assert imaged.download(other).content == raw
        until("the store to be up", lambda: state(rig, "ceph") == "up", 120)
        # Until what was begun is cleared away, its id is taken.
        until("the journal to be empty", lambda: rig.journal() == 0, 120)
        assert set(rig.held("ceph")) == {there}
        imaged.upload(image, raw, "ceph")
    assert imaged.download(image).content == raw
    assert imaged.download(there).content == raw


def state(rig, store):
    stores = rig.imaged("stores")["stores"]
    return next(one["state"] for one in stores if one["id"] == store)
