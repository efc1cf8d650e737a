"""Images in volumes: imaged beside glance_store's cinder driver and qemu-img, for tests/bench/cinder.py.

The groups, each on ci/cinder with a daemon of its own:

    put        an image whose length nobody tells, into volumes in Ceph: imaged, glance_store
    iscsi-put  one of known length, into a volume behind iSCSI, and flushed: imaged,
               qemu-img convert -t writeback -W -m 8
    iscsi-get  the same, read into a file: imaged get --no-verify, for qemu-img looks at no digest

imaged makes and attaches its volume, digests what it writes, and lets go of it; qemu-img is given one
that is made and attached already. What that costs is told by a put and a get of an image of one byte,
and is taken from imaged's seconds: the last column but one has them whole.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from beside import (
    GIB,
    HOME,
    MIB,
    RIGS,
    Daemon,
    Peer,
    in_turn,
    middle,
    ratio,
    run,
    show,
    table,
    timed,
    write_source,
)
from wire import Client

CLUSTER, CINDER = RIGS / "ceph-bench", RIGS / "cinder-bench"
GROUPS = {"put": "glance_store", "iscsi-put": "qemu-img", "iscsi-get": "qemu-img"}
# How many times faster than the other it is to be.
GOALS = {"put": "2", "iscsi-put": "1", "iscsi-get": "1"}
INITIATOR = "iqn.2026-01.test.imaged:initiator"
# What Cinder logs of each.
EXTENDED = "Extend volume request issued successfully"
PAUSE = 0.1


def size_of(args, name):
    """Of a group's image, in MiB."""
    return args.unknown if name == "put" else args.disk


def nothing():
    """What there is to do after a group that leaves nothing."""


class Volumes:
    """Cinder's API, as the daemon's user."""

    def __init__(self, facts):
        # Proxies of the surroundings have nothing to do here.
        self.open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        domain = {"name": facts["domain"]}
        user = {"name": facts["user"], "password": facts["password"], "domain": domain}
        auth = {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"name": facts["project"], "domain": domain}},
        }
        with self._send("POST", f"{facts['auth']}/auth/tokens", {"auth": auth}) as answer:
            self.token = answer.headers["X-Subject-Token"]
            project = json.loads(answer.read())["token"]["project"]["id"]
        self.url = f"{facts['url']}/v3/{project}"

    def _send(self, method, url, body=None, **headers):
        headers |= {"Content-Type": "application/json", "OpenStack-API-Version": "volume 3.54"}
        text = None if body is None else json.dumps(body).encode()
        return self.open(urllib.request.Request(url, text, headers, method=method), timeout=300)

    def ask(self, method, path, body=None):
        sent = self._send(method, self.url + path, body, **{"X-Auth-Token": self.token})
        with sent as answer:
            return json.loads(answer.read() or "null")

    def disk(self, gib):
        """A volume behind iSCSI, attached: its id, its attachment's, and where qemu-img finds it."""
        body = {"volume": {"name": "bench", "size": gib, "volume_type": "iscsi"}}
        volume = self.ask("POST", "/volumes", body)["volume"]["id"]
        while (status := self.ask("GET", f"/volumes/{volume}")["volume"]["status"]) != "available":
            if status.startswith("error"):
                sys.exit(f"the volume is {status}")
            time.sleep(PAUSE)
        connector = {"initiator": INITIATOR, "host": "bench", "ip": "127.0.0.1", "multipath": False}
        body = {"attachment": {"volume_uuid": volume, "connector": connector}}
        attachment = self.ask("POST", "/attachments", body)["attachment"]
        told = attachment["connection_info"]
        login = (
            f"{told['auth_username']}%{told['auth_password']}@" if told.get("auth_method") else ""
        )
        where = f"iscsi://{login}{told['target_portal']}/{told['target_iqn']}/{told['target_lun']}"
        return volume, attachment["id"], where

    def removed(self, volume, attachment=None):
        if attachment:
            self.ask("DELETE", f"/attachments/{attachment}")
        with contextlib.suppress(urllib.error.HTTPError):
            while True:
                if self.ask("GET", f"/volumes/{volume}")["volume"]["status"] == "available":
                    self.ask("DELETE", f"/volumes/{volume}")
                time.sleep(PAUSE)


class Bench:
    def __init__(self, args, directory):
        self.args, self.dir = args, directory
        self.facts = dict(
            line.split("=", 1) for line in (CINDER / "cinder.env").read_text().splitlines()
        )
        self.volumes = Volumes(self.facts)
        self.log = CINDER / "log/cinder.log"
        disks = self.options("iscsi") | {"imaged_cinder_initiator": INITIATOR}
        more = "[disks]\n" + "".join(f"{name} = {value}\n" for name, value in disks.items())
        ceph = self.options("ceph") | {"imaged_cinder_ceph_conf": self.facts["ceph_conf"]}
        self.daemon = Daemon(args.imaged, directory, "cinder", ceph, more, ["disks:cinder"])
        self.client = Client(self.daemon.socket)
        mounts = {"cinder_mount_point_base": directory / "mounts"}
        self.peer = Peer("cinder", self.options("ceph") | mounts)
        # os-brick attaches as root, and finds its keys there.
        within = [self.facts[name] for name in ("directory", "ceph_conf", "ceph_user")]
        self.peer.command = [HOME / "tests/parity/attach.sh", *within, *self.peer.command]
        self.full, self.one, self.out = (directory / name for name in ("full", "one", "out"))
        write_source(self.one, 1)

    def options(self, kind):
        facts = self.facts
        return {
            "cinder_store_auth_address": facts["auth"],
            "cinder_store_user_name": facts["user"],
            "cinder_store_password": facts["password"],
            "cinder_store_project_name": facts["project"],
            "cinder_os_region_name": facts["region"],
            "cinder_volume_type": kind,
        }

    def extends(self):
        return self.log.read_text().count(EXTENDED)

    def gone(self, store, name):
        """Its readers may be about to leave."""
        while True:
            words = [self.daemon.program, "delete", store, name, "--socket", self.daemon.socket]
            if subprocess.run(words, capture_output=True, check=False).returncode == 0:
                return
            time.sleep(PAUSE)

    def put_by_socket(self, source, known):
        size = source.stat().st_size
        with open(source, "rb", buffering=0) as file:
            self.client.put("/v1/stores/fast/images/ours", file, size if known else None)

    def cli(self, *words):
        return timed(self.daemon.program, *words, "--socket", self.daemon.socket)

    def put(self):
        """Into volumes in Ceph, nobody tells how much."""

        def ours():
            before, since = self.extends(), time.perf_counter()
            self.put_by_socket(self.full, False)
            took = {"seconds": time.perf_counter() - since, "extends": self.extends() - before}
            self.gone("fast", "ours")
            return took

        def theirs():
            before = self.extends()
            put = self.peer("put", "theirs", self.full, "--unknown-size")
            took = {"seconds": put["seconds"], "extends": self.extends() - before}
            self.peer("delete", put["uri"])
            return took

        return {"imaged": ours, "glance_store": theirs}, nothing

    def qemu(self, *words):
        return timed("qemu-img", "convert", "-f", "raw", "-O", "raw", "-W", "-m", "8", *words)

    def without(self, whole, of_one):
        # Nothing, if the image is too small to be told from one byte.
        return {"seconds": max(whole - of_one, 0), "whole": whole}

    def iscsi_put(self):
        def ours():
            of_one = self.cli("put", "disks", "one", self.one)
            self.gone("disks", "one")
            whole = self.cli("put", "disks", "ours", self.full)
            self.gone("disks", "ours")
            return self.without(whole, of_one)

        def theirs():
            volume, attachment, where = self.volumes.disk(-(-self.full.stat().st_size // GIB))
            try:
                seconds = self.qemu("-n", "-t", "writeback", self.full, where)
            finally:
                self.volumes.removed(volume, attachment)
            return {"seconds": seconds, "whole": seconds}

        return {"imaged": ours, "qemu-img": theirs}, nothing

    def iscsi_get(self):
        self.cli("put", "disks", "kept", self.full)
        self.cli("put", "disks", "one", self.one)
        volume, attachment, where = self.volumes.disk(-(-self.full.stat().st_size // GIB))
        self.qemu("-n", self.full, where)

        def ours():
            of_one = self.cli("get", "--no-verify", "disks", "one", self.out)
            whole = self.cli("get", "--no-verify", "disks", "kept", self.out)
            self.out.unlink()
            return self.without(whole, of_one)

        def theirs():
            seconds = self.qemu(where, self.out)
            self.out.unlink()
            return {"seconds": seconds, "whole": seconds}

        def after():
            self.gone("disks", "kept")
            self.gone("disks", "one")
            self.volumes.removed(volume, attachment)

        return {"imaged": ours, "qemu-img": theirs}, after

    def group(self, name):
        write_source(self.full, size_of(self.args, name) * MIB)
        subjects, after = {
            "put": self.put,
            "iscsi-put": self.iscsi_put,
            "iscsi-get": self.iscsi_get,
        }[name]()
        found = {subject: [] for subject in subjects}
        try:
            # The first bytes into new memory are many times slower.
            subjects["imaged"]()
            for turn in range(self.args.runs):
                for subject in in_turn(list(subjects), turn):
                    found[subject].append(subjects[subject]())
                    print(f"{name}, {subject}: {found[subject][-1]}", file=sys.stderr)
        finally:
            after()
        return found


def measure(args, names):
    """By group and subject, what each run has found."""
    size = 2 * max(args.unknown, args.disk) + 2048
    try:
        run(HOME / "ci/ceph", "up", CLUSTER, "--size", size)
        run(HOME / "ci/cinder", "up", CINDER, CLUSTER)
        with tempfile.TemporaryDirectory(dir=args.dir.resolve(), prefix="bench-") as directory:
            bench = Bench(args, Path(directory))
            try:
                return {name: bench.group(name) for name in names}
            finally:
                bench.daemon.stop()
    finally:
        run(HOME / "ci/cinder", "down", CINDER)
        run(HOME / "ci/ceph", "down", CLUSTER)


def report(args, found):
    titles = {
        "put": "put, size unknown, in Ceph",
        "iscsi-put": "put, iSCSI",
        "iscsi-get": "get, iSCSI",
    }
    for name, subjects in found.items():
        other = GROUPS[name]

        def rows():
            for subject, runs in subjects.items():
                seconds = middle(runs, lambda one: one["seconds"])
                yield (
                    subject,
                    show(seconds),
                    f"{size_of(args, name) * MIB / seconds / 1e6:.0f}" if seconds else "-",
                    show(ratio(subjects, subject, other)) if subject != other else "",
                    show(middle(runs, lambda one: one.get("whole", one["seconds"]))),
                    show(middle(runs, lambda one: one["extends"]), "{:.0f}")
                    if name == "put"
                    else "",
                )

        print()
        head = f"{titles[name]}: {size_of(args, name)} MiB"
        table((head, "s", "MB/s", f"times {other}", "s with Cinder's part", "extends"), rows())


def goals(args, found):
    """What, found, wanted."""
    for name, subjects in found.items():
        times = show(ratio(subjects, "imaged", GROUPS[name]))
        yield (f"`{name}`, times {GROUPS[name]}", times, GOALS[name])
        if name == "put":
            most = (-(-args.unknown * MIB // GIB) - 1).bit_length()
            extends = max(one["extends"] for one in subjects["imaged"])
            yield ("extends of an image whose size nobody tells", str(extends), f"at most {most}")
