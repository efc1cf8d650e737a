"""Runs tests of Glance's own, as they are installed, in a process that is for nothing else.

functional.py FOLDER MODE REGEX NAME...

Each test makes a Glance and a database of its own, in this process, with three stores of type file
in a folder of its own. With MODE imaged it gets a daemon of its own too, for these three stores.
"""

import contextlib
import faulthandler
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import unittest
from pathlib import Path

# The tests expect the database's options, which come with this, to be there.
import glance.db.migration
import glance_store
import imaged
from imaged.glance.store import Served

# Seconds after which a test hangs; one of Glance's own waits takes up to 300.
PATIENCE = 400
# Names that the tests want resolved: not every resolver knows the first, and not every machine has a
# resolver. Nothing connects to the second, whose address is one for documentation.
NAMES = {"localhost.": "127.0.0.1", "example.com.": "192.0.2.1"}


class Daemon:
    """The daemon of one test, with stores of type file by their names and folders."""

    def __init__(self, folder, stores, log):
        self.folder = folder
        folder.mkdir()
        address = str(folder / "socket")
        lines = [
            "[DEFAULT]",
            f"enabled_backends = {', '.join(f'{name}:file' for name in stores)}",
            "[glance_store]",
            f"default_backend = {next(iter(stores))}",
            "[imaged]",
            f"socket = {address}",
            f"state_dir = {folder}",
        ]
        for name, path in stores.items():
            # The driver in Glance makes its folder; the daemon wants it to be there.
            Path(path).mkdir(exist_ok=True)
            lines += [f"[{name}]", f"filesystem_store_datadir = {path}"]
        conf = folder / "imaged.conf"
        conf.write_text("\n".join(lines) + "\n")
        # As options in the environment they are there for the scrubber too, which a test starts.
        self.options = [f"OS_{name.upper()}__IMAGED_SOCKET" for name in stores]
        os.environ.update(dict.fromkeys(self.options, address))
        command = [os.environ["IMAGED_BIN"], "serve", "--config-file", conf]
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        with contextlib.closing(imaged.Client(address)) as client:
            deadline = time.monotonic() + 20
            while not self._serves(client):
                assert self.process.poll() is None, "the daemon does not start"
                assert time.monotonic() < deadline, "the daemon does not come up"
                time.sleep(0.01)

    @staticmethod
    def _serves(client):
        try:
            return all(store.state == "up" for store in client.stores())
        except imaged.Unreachable:
            return False

    def stop(self):
        for option in self.options:
            del os.environ[option]
        self.process.terminate()
        assert self.process.wait(timeout=60) == 0, "the daemon failed"
        shutil.rmtree(self.folder)


class Result(unittest.TextTestResult):
    """Of each test the outcome; at its end its daemon ends."""

    daemon = None

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.passed = []

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed.append(test.id())

    def startTest(self, test):
        super().startTest(test)
        faulthandler.dump_traceback_later(PATIENCE, exit=True)

    def stopTest(self, test):
        if Result.daemon:
            Result.daemon.stop()
            Result.daemon = None
        faulthandler.cancel_dump_traceback_later()
        super().stopTest(test)


def serve(folder, log):
    """From now on, stores of type file that a test creates are a daemon's."""
    create = glance_store.create_multi_stores

    def create_served(conf, *more, **others):
        kinds = dict(conf.enabled_backends)
        files = [name for name, kind in kinds.items() if kind == "file"]
        if files:
            assert Result.daemon is None, "this test creates its stores twice"
            stores = {name: conf[name].filesystem_store_datadir for name in files}
            Result.daemon = Daemon(folder, stores, log)
        created = create(conf, *more, **others)
        for name in files:
            store = glance_store.get_store_from_store_identifier(name)
            assert isinstance(store, Served), f"{name} is not served by the daemon"
        return created

    glance_store.create_multi_stores = create_served


def matching(suite, regex):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from matching(test, regex)
        elif re.search(regex, test.id()):
            yield test


def main(folder, mode, regex, *names):
    folder = Path(folder)
    # The tests look for their data from here.
    os.chdir(Path(glance.__file__).parents[1])
    resolve = socket.getaddrinfo
    socket.getaddrinfo = lambda host, *more, **others: resolve(
        NAMES.get(host, host), *more, **others
    )
    tests = unittest.TestSuite(
        matching(unittest.defaultTestLoader.loadTestsFromNames(names), regex)
    )
    with (folder / "imaged.log").open("w") as log:
        if mode == "imaged":
            serve(folder / "daemon", log)
        result = unittest.TextTestRunner(verbosity=2, resultclass=Result).run(tests)
    failed = {test.id() for test, _ in result.failures + result.errors}
    told = {
        "counts": {"skipped": len(result.skipped)},
        "passed": sorted(set(result.passed) - failed),
        "failed": sorted(failed),
    }
    (folder / "result.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
