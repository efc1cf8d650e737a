"""A real daemon with one store of type file."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Answers

import imaged

CONFIG = """\
[DEFAULT]
enabled_backends = fast:file, other:file, frozen:file, broken:file, small:mem
[glance_store]
default_backend = fast
[fast]
filesystem_store_datadir = {dir}/fast
[other]
filesystem_store_datadir = {dir}/other
[frozen]
filesystem_store_datadir = {dir}/frozen
imaged_read_only = true
[broken]
filesystem_store_datadir = {dir}/not-there
[small]
mem_capacity = 1000000
[imaged]
socket_mode = 0666
roles = 60001:reader, 60002:member
state_dir = {dir}/state
drain_timeout_s = 1
"""


def beside(name: str) -> Path:
    """A file of the tree that has this package; its source archive has but the package."""
    root = Path(__file__).parents[3]
    if not (root / "Cargo.toml").exists():
        pytest.skip("the tree that has this package is not here")
    return root / name


class Daemon:
    """The daemon, its directory and its socket."""

    def __init__(self, directory: Path) -> None:
        self.program = os.environ.get("IMAGED_BIN") or shutil.which("imaged")
        if not self.program:
            pytest.fail("there is no daemon: IMAGED_BIN names none, and imaged is not in PATH")
        # Where users of every kind get to it, unlike to the rest.
        self.open = tempfile.TemporaryDirectory(prefix="imaged-")
        os.chmod(self.open.name, 0o711)
        self.dir, self.socket = directory, f"{self.open.name}/socket"
        for name in ("fast", "other", "frozen"):
            (directory / name).mkdir(exist_ok=True)
        self.config = directory / "imaged.conf"
        self.config.write_text(CONFIG.format(dir=directory))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Daemon:
        with (self.dir / "log").open("ab") as log:
            command = [self.program, "serve", "--config-file", self.config, "--socket", self.socket]
            self.process = subprocess.Popen(command, stderr=log)
        client = imaged.Client(self.socket)
        # All but the one whose directory is missing.
        wanted = {"fast", "other", "frozen", "small"}
        for _ in range(400):
            try:
                if wanted <= {one.id for one in client.stores() if one.state == "up"}:
                    client.close()
                    return self
            except imaged.Unreachable:
                pass
            time.sleep(0.025)
        raise AssertionError("imaged does not come up:\n" + (self.dir / "log").read_text())

    def kill(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
        self.open.cleanup()

    def until_ids_are_free(self) -> None:
        """Wait until nothing of earlier uploads is left to be cleared up: their ids are taken."""
        client = imaged.Client(self.socket)

        def entries() -> int:
            connection, head = client._read("GET", "/metrics", None)
            assert head.status == 200
            text = client._text(connection).decode()
            return int(text.split("\nimaged_journal_entries ")[1].split()[0])

        until(lambda: entries() == 0, 30)
        client.close()

    def connections(self) -> int:
        """How many callers the daemon has."""
        assert self.process
        listed = Path("/proc/net/unix").read_text().splitlines()
        mine = [line.split() for line in listed if line.endswith(" " + self.socket)]
        # The one that listens has the flag 00010000.
        return sum(1 for line in mine if line[3] != "00010000" and line[5] == "03")

    def settled(self) -> int:
        """How many callers it has once those that have left are gone."""
        # What earlier tests have dropped leaves now, and not in the middle of this one.
        gc.collect()
        seen = [self.connections()]
        # On a busy machine it takes the daemon a while to see that somebody has left.
        while len(seen) < 50 or len(set(seen[-50:])) > 1:
            time.sleep(0.02)
            seen.append(self.connections())
        return seen[-1]


def until(true, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it does not become true"
        time.sleep(0.01)


@pytest.fixture
def server(tmp_path) -> Iterator[Answers]:
    """What answers as a test tells it to."""
    server = Answers(str(tmp_path / "socket"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("imaged"))
    yield daemon.start()
    daemon.stop()


@pytest.fixture
def daemon(tmp_path) -> Iterator[Daemon]:
    """One that may be killed."""
    daemon = Daemon(tmp_path)
    yield daemon.start()
    daemon.stop()


@pytest.fixture
def client(shared) -> Iterator[imaged.Client]:
    client = imaged.Client(shared.socket)
    yield client
    client.close()


@pytest.fixture
def glance(tmp_path):
    from stores import CONF, Glance

    from imaged.glance import store

    yield Glance(tmp_path)
    store.client.cache_clear()
    CONF.reset()


@pytest.fixture
def served(glance, shared):
    """Glance with one store through the daemon and one, of the same directory, in-process."""
    from stores import fast, local

    glance.start("fast:file, local:file", fast(shared), local(shared))
    return glance


@pytest.fixture(scope="session")
def database(tmp_path_factory) -> str:
    pytest.importorskip("glance", reason="Glance is not here")
    from glance_api import make_database

    return make_database(tmp_path_factory.mktemp("glance"))


@pytest.fixture
def api(tmp_path, database):
    """Glance's API; a test starts it with its stores."""
    from glance_api import Api
    from stores import CONF

    from imaged.glance import store

    yield Api(tmp_path, database)
    store.client.cache_clear()
    CONF.reset()
