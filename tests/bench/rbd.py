#!/usr/bin/env python3
"""imaged's rbd store beside glance_store's rbd driver and Ceph's tools: one cluster, one run.

    tests/bench/rbd.py [--size MIB] [--sparse MIB] [--runs N] [--only put,sparse,get,...]
                       [--osds 1|2|3] [--dir DIR] [--imaged PROGRAM] [--json]

Starts a cluster of its own, in memory and on loopback, and takes it down at the end; builds imaged,
unless --imaged names a program, and gets glance_store and a qemu-img that knows rbd. In each run
every subject of a group has its turn, beginning with another one each time, so that a noisy minute
harms all alike; figures are medians of the runs, ratios medians of the ratios within each run. What
was stored is removed after its turn, untimed.

CPU seconds are of the daemon, of the client (what sends or reads, all of its processes; for
glance_store, `rbd` and qemu-img that is everything but the cluster) and of the OSD, each for a GiB
of the image. What the digests cost shows in the rows with md5 alone, and with sha256 alone: that
one is of a second daemon on the same pool, with `checksum = none` and `hash_algo = sha256`.

`rbd bench` reads the whole image and keeps nothing, so its rate is what librbd gives at most; its
time is by its own count, without its start.

The cluster holds in memory up to twice what is stored: 10 GiB for the default sizes. All of its OSDs
(one, if not told otherwise) take their time from the same cores.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from beside import (
    GIB,
    HOME,
    MIB,
    PYTHON,
    RIGS,
    Daemon,
    Peer,
    cpu,
    in_turn,
    middle,
    own_cpu,
    ratio,
    release_build,
    run,
    show,
    table,
    tell,
    write_source,
    write_sparse,
)
from wire import Client, Refused

CLUSTER = RIGS / "ceph-bench"
CONF = CLUSTER / "ceph.conf"
# Glance's chunk: the size of an object, in MiB.
CHUNK = 8
# One MiB of a sparse image in so many.
EVERY = 20
VOLUME_EVERY = 10
STATS = 50
SHA256 = "imaged, by descriptor, sha256 alone"
RBD_BENCH = "rbd bench, 16 reads of 4 MiB at once"
# What it says last.
BENCH = re.compile(r"ops: (\d+) +ops/sec: ([\d.]+)")
GROUPS = ("put", "sparse", "get", "sparse-get", "stat", "volume")


def image(name, more=""):
    return f"/v1/stores/fast/images/{name}{more}"


class Rig:
    """All that takes part, and the images to put."""

    def __init__(self, args, directory, daemons, peer, qemu):
        self.args, self.dir, self.peer, self.qemu = args, directory, peer, qemu
        self.daemons, self.daemon = daemons, daemons[0]
        self.client, self.sha256 = (Client(daemon.socket) for daemon in daemons)
        self.osds = [int(pid.read_text()) for pid in CLUSTER.glob("run/osd.*.pid")]
        self.fsid = self.rbd_tool("ceph", "fsid", user="admin").strip()
        self.full, self.sparse = directory / "full", directory / "sparse"

    def rbd_tool(self, *words, user="glance"):
        return run(words[0], "-c", CONF, "-n", f"client.{user}", *words[1:], stderr=subprocess.PIPE)

    def rbd(self, *words, **more):
        return self.rbd_tool("rbd", "--no-progress", *words, **more)

    def uri(self, name):
        return f"rbd://{self.fsid}/images/{name}/snap"

    def target(self, name):
        return f"rbd:images/{name}:conf={CONF}:id=glance"

    def cpus(self):
        daemons = sum(cpu(one.process.pid) for one in self.daemons)
        return daemons, own_cpu(), sum(map(cpu, self.osds))

    def measured(self, work):
        before = self.cpus()
        since = time.perf_counter()
        said = work()
        seconds = time.perf_counter() - since
        after = self.cpus()
        daemon, client, osd = (now - then for now, then in zip(after, before))
        if isinstance(said, dict):
            # Who counts for himself leaves out his start.
            seconds, client = said.get("seconds", seconds), said.get("cpu_seconds", client)
        return {"seconds": seconds, "daemon": daemon, "client": client, "osd": osd}

    def compare(self, subjects):
        """Subjects are name: (before, what is measured, after); gives name: [figures of a run]."""
        names = [name for name in subjects if self.qemu or not name.startswith("qemu")]
        found = {name: [] for name in names}
        for turn in range(self.args.runs):
            for name in in_turn(names, turn):
                before, work, after = subjects[name]
                try:
                    before()
                    found[name].append(self.measured(work))
                except (Refused, subprocess.CalledProcessError) as error:
                    why = getattr(error, "stderr", None) or str(error)
                    found[name].append({"error": why.strip().splitlines()[-1]})
                with contextlib.suppress(Refused, subprocess.CalledProcessError):
                    after()
                print(f"{name}: {found[name][-1]}", file=sys.stderr)
        return found

    # What removes an image that was put, by whoever put it.

    def gone(self, name):
        return lambda: self.client.ask("DELETE", image(name))

    def removed(self, name):
        return lambda: self.rbd("rm", f"images/{name}")


def nothing():
    pass


def putting(rig, source):
    """The subjects that put a file, beside those of one kind of file alone."""
    size = source.stat().st_size

    def socket(path, known=True):
        def put():
            with open(source, "rb", buffering=0) as file:
                rig.client.put(path, file, size if known else None)

        return put

    def descriptor(path, client=rig.client):
        def put():
            with open(source, "rb") as file:
                client.ask("PUT", path, headers=["imaged-body: fd"], descriptor=file.fileno())

        return put

    def peer(*words, thin=False):
        return lambda: rig.peer(
            "put", "theirs", source, *words, options=[f"rbd_thin_provisioning={thin}"]
        )

    def made():
        rig.rbd("create", "--size", f"{size}B", "--object-size", f"{CHUNK}M", "images/qemu")

    def qemu(*words):
        convert = ["convert", "-n", "-W", "-m", "16", "-t", "none", "-f", "raw", "-O", "raw"]
        return lambda: run(rig.qemu, *convert, *words, source, rig.target("qemu"))

    def imported():
        rig.rbd("import", "--object-size", f"{CHUNK}M", source, "images/tool")

    unpeered = lambda: rig.peer("delete", rig.uri("theirs"))
    gone, uris = rig.gone("ours"), image("ours")
    return {
        "imaged, by descriptor": (nothing, descriptor(uris), gone),
        "imaged, through the socket": (nothing, socket(uris), gone),
        "imaged, through the socket, size unknown": (nothing, socket(uris, False), gone),
        "imaged, by descriptor, md5 alone": (
            nothing,
            descriptor(image("ours", "?hash_algo=md5")),
            gone,
        ),
        SHA256: (nothing, descriptor(uris, rig.sha256), gone),
        "glance_store": (nothing, peer(), unpeered),
        "glance_store, size unknown": (nothing, peer("--unknown-size"), unpeered),
        "glance_store, thin": (nothing, peer(thin=True), unpeered),
        "rbd import": (nothing, imported, rig.removed("tool")),
        "qemu-img convert -n -W -m 16": (made, qemu(), rig.removed("qemu")),
        "qemu-img convert --target-is-zero": (
            made,
            qemu("--target-is-zero"),
            rig.removed("qemu"),
        ),
    }


def put(rig):
    without = ("glance_store, thin", "qemu-img convert --target-is-zero")
    subjects = putting(rig, rig.full)
    return rig.compare({name: of for name, of in subjects.items() if name not in without})


def sparse(rig):
    names = (
        "imaged, by descriptor",
        "imaged, through the socket",
        SHA256,
        "glance_store, thin",
        "rbd import",
        "qemu-img convert --target-is-zero",
    )
    subjects = putting(rig, rig.sparse)
    return rig.compare({name: subjects[name] for name in names})


@contextlib.contextmanager
def stored(rig, source):
    with open(source, "rb") as file:
        rig.client.ask("PUT", image("kept"), headers=["imaged-body: fd"], descriptor=file.fileno())
    try:
        yield "kept"
    finally:
        rig.gone("kept")()


def getting(rig, name, size):
    out = rig.dir / "out"
    unlink = lambda: out.unlink(missing_ok=True)
    get = [rig.daemon.program, "get", "--socket", rig.daemon.socket, "fast", name]
    export = f"rbd --no-progress -c {CONF} -n client.glance export images/{name}@snap"

    def piped(command):
        command = f"set -o pipefail; {command} - | cat >/dev/null"
        return lambda: run("bash", "-c", command, stderr=subprocess.PIPE)

    def qemu():
        source = f"rbd:images/{name}@snap:conf={CONF}:id=glance"
        run(rig.qemu, "convert", "-m", "16", "-W", "-f", "raw", "-O", "raw", source, out)

    def bench():
        options = ["--io-size", "4M", "--io-total", size, "--io-pattern", "seq"]
        words = ["bench", "--io-type", "read", *options, f"images/{name}@snap"]
        last = rig.rbd_tool("rbd", *words)
        found = BENCH.search(last.splitlines()[-1])
        return {"seconds": int(found[1]) / float(found[2])}

    return {
        "imaged, through the socket": (nothing, lambda: rig.client.get(image(name)), nothing),
        "imaged, as extents": (nothing, lambda: rig.client.get(image(name), extents=True), nothing),
        PYTHON: (nothing, lambda: rig.daemon.read("fast", name), nothing),
        "imaged get, to a file": (nothing, lambda: run(*get, out, stderr=subprocess.PIPE), unlink),
        "imaged get --no-verify, to a file": (
            nothing,
            lambda: run(*get, "--no-verify", out, stderr=subprocess.PIPE),
            unlink,
        ),
        "imaged get - | cat": (nothing, piped(" ".join(map(str, get))), nothing),
        "glance_store": (nothing, lambda: rig.peer("get", rig.uri(name), "/dev/null"), nothing),
        RBD_BENCH: (nothing, bench, nothing),
        "rbd export - | cat": (nothing, piped(export), nothing),
        "rbd export, to a file": (nothing, lambda: run(*export.split(), out), unlink),
        "qemu-img convert, to a file": (nothing, qemu, unlink),
    }


def get(rig):
    with stored(rig, rig.full) as name:
        return rig.compare(getting(rig, name, rig.args.size * MIB))


def sparse_get(rig):
    with stored(rig, rig.sparse) as name:
        return rig.compare(getting(rig, name, rig.args.sparse * MIB))


def stat(rig):
    """In each run new images, which nobody has looked at."""
    found = {"imaged, not seen before": [], "imaged, seen before": [], "glance_store": []}

    def looked(name):
        since = time.perf_counter()
        rig.client.ask("HEAD", image(name))
        return time.perf_counter() - since

    for _ in range(rig.args.runs):
        names = [f"stat-{n}" for n in range(STATS)]
        for name in names:
            rig.client.ask("PUT", image(name), os.urandom(4096))
        for kind in ("imaged, not seen before", "imaged, seen before"):
            found[kind].append({"seconds": statistics.median(map(looked, names))})
        theirs = rig.peer("size", rig.uri(names[0]), "--times", STATS)["seconds"]
        found["glance_store"].append({"seconds": statistics.median(theirs)})
        for name in names:
            rig.gone(name)()
    return found


def volume(rig):
    """An image of a volume: until the answer, and until its digests are there."""
    found = {}
    source = rig.dir / "volume"
    write_sparse(source, rig.args.sparse, VOLUME_EVERY)
    rig.rbd("import", "--object-size", "4M", source, "volumes/bench", user="admin")
    source.unlink()
    try:
        for _ in range(rig.args.runs):
            for mode in ("clone", "stream"):
                runs = found.setdefault(mode, [])
                body = {"source": {"rbd_volume": "volumes/bench"}, "mode": mode}
                try:
                    runs.append(one_volume(rig, json.dumps(body).encode()))
                except Refused as error:
                    print(f"volume, {mode}: {error}", file=sys.stderr)
                    return {mode: [{"error": f"refused: {error}"}]}
                print(f"volume, {mode}: {runs[-1]}", file=sys.stderr)
                rig.gone("of-volume")()
    finally:
        rig.rbd("rm", "volumes/bench", user="admin")
    return found


def one_volume(rig, body):
    said = {}

    def answered():
        said.update(
            rig.client.ask("POST", image("of-volume"), body, ["content-type: application/json"])
        )

    one = rig.measured(answered)

    def digested():
        job = said.get("digest_job")
        while job and rig.client.ask("GET", f"/v1/jobs/{job}?wait=30")["state"] in (
            "running",
            "waiting",
        ):
            pass

    return {**one, "digests": one["seconds"] + rig.measured(digested)["seconds"]}


def rows(found, size, beside):
    """A row a subject; MB/s for what is full, seconds for what is not."""
    for name, runs in found.items():
        whole = [one for one in runs if "error" not in one]
        if not whole:
            yield (name, runs[0]["error"], "", "", "", "", "")
            continue
        seconds = sorted(one["seconds"] for one in whole)
        rates = [size / second / 1e6 for second in reversed(seconds)]
        one = whole[0]
        cpus = [
            show(middle(whole, lambda one, key=key: one[key]) / size * GIB) if key in one else ""
            for key in ("daemon", "client", "osd")
        ]
        yield (
            name,
            f"{statistics.median(seconds):.3f} ({seconds[0]:.3f}-{seconds[-1]:.3f})",
            f"{statistics.median(rates):.0f}",
            show(ratio(found, name, beside)),
            *cpus,
        )


BESIDE = {
    "put": "glance_store",
    "sparse": "glance_store, thin",
    "get": "glance_store",
    "sparse-get": "qemu-img convert, to a file",
}


def goals(found):
    """What, found, wanted."""

    def of(group, name, other, key="seconds"):
        return show(ratio(found.get(group, {}), name, other, key))

    def milliseconds(name):
        runs = found.get("stat", {}).get(name)
        return show(middle(runs, lambda one: one["seconds"]) * 1e3, "{:.2f} ms") if runs else "-"

    socket, descriptor = "imaged, through the socket", "imaged, by descriptor"
    peer, unknown = "glance_store", "imaged, through the socket, size unknown"

    def daemon_cpu():
        runs = found.get("put", {})
        pairs = zip(runs.get(socket, []), runs.get(peer, []))
        shares = [ours["daemon"] / theirs["client"] for ours, theirs in pairs]
        return show(statistics.median(shares) if shares else None)

    return [
        ("put, size known, times glance_store: socket", of("put", socket, peer), "1.8"),
        ("put, size known, times glance_store: descriptor", of("put", descriptor, peer), "2"),
        ("put, CPU of the daemon, times all of glance_store's", daemon_cpu(), "at most 0.75"),
        ("put with sha256 alone, times glance_store", of("put", SHA256, peer), "3"),
        ("put with sha256 alone, times rbd import", of("put", SHA256, "rbd import"), "0.8"),
        ("put, size unknown, times size known", of("put", unknown, socket), "0.95"),
        (
            "put of a sparse image, times glance_store, thin: descriptor",
            of("sparse", descriptor, "glance_store, thin"),
            "4",
        ),
        (
            "put of a sparse image, times glance_store, thin: socket",
            of("sparse", socket, "glance_store, thin"),
            "4",
        ),
        ("get through the socket, times glance_store", of("get", socket, peer), "1.2"),
        ("get by Python's client, times glance_store", of("get", PYTHON, peer), "1.2"),
        ("get by Python's client, times rbd bench", of("get", PYTHON, RBD_BENCH), "0.85"),
        ("glance_store's get, times rbd bench", of("get", peer, RBD_BENCH), "-"),
        (
            "imaged get - | cat, times rbd export - | cat",
            of("get", "imaged get - | cat", "rbd export - | cat"),
            "1",
        ),
        (
            "get of a sparse image to a file, --no-verify, times qemu-img",
            of("sparse-get", "imaged get --no-verify, to a file", BESIDE["sparse-get"]),
            "1",
        ),
        (
            "get of a sparse image as extents, times glance_store",
            of("sparse-get", "imaged, as extents", peer),
            "1",
        ),
        (
            "get of a sparse image by Python's client, times glance_store",
            of("sparse-get", PYTHON, peer),
            "1",
        ),
        ("stat, p50, not seen before", milliseconds("imaged, not seen before"), "under 5 ms"),
        ("stat, p50, seen before", milliseconds("imaged, seen before"), "under 1 ms"),
    ]


def report(args, found):
    print(
        f"Ceph in memory on loopback, OSDs: {args.osds}; {os.cpu_count()} cores; md5 and sha512; "
        f"medians of {args.runs}.\n"
    )
    sizes = {
        "put": (args.size, "that cannot be compressed"),
        "get": (args.size, "that cannot be compressed"),
        "sparse": (args.sparse, f"of which one in {EVERY} is not zeros"),
        "sparse-get": (args.sparse, f"of which one in {EVERY} is not zeros"),
    }
    for group, (mib, what) in sizes.items():
        if group not in found:
            continue
        heads = ("s (range)", "MB/s", f"times `{BESIDE[group]}`")
        print(f"{group}: {mib} MiB {what}; CPU seconds a GiB\n")
        table(
            (group, *heads, "daemon", "client", "OSD"),
            rows(found[group], mib * MIB, BESIDE[group]),
        )
        print()
    if "stat" in found:
        lines = []
        for name, runs in found["stat"].items():
            lines.append((name, show(middle(runs, lambda one: one["seconds"]) * 1e3)))
        table((f"stat of {STATS} images", "p50, ms"), lines)
        print()
    if "volume" in found:
        lines = []
        for mode, runs in found["volume"].items():
            if "error" in runs[0]:
                lines.append((mode, runs[0]["error"], ""))
                continue
            both = [show(middle(runs, lambda one, k=key: one[k])) for key in ("seconds", "digests")]
            lines.append((mode, *both))
        what = f"image of a volume, {args.sparse} MiB, one in {VOLUME_EVERY} not zeros"
        table((what, "answer, s", "digests, s"), lines)
        print()
    measured = [row for row in goals(found) if row[1] != "-"]
    table(("figure", "found", "wanted"), measured)


def find_qemu():
    try:
        return run(HOME / "ci/qemu-rbd", RIGS / "qemu").strip()
    except subprocess.CalledProcessError:
        print("there is no qemu-img that knows rbd: its rows are left out", file=sys.stderr)
        return None


def measure(args, directory):
    program = args.imaged or release_build()
    qemu = find_qemu()
    write_source(directory / "full", args.size * MIB)
    write_sparse(directory / "sparse", args.sparse, EVERY)
    # glance_store stores whole chunks of sparse images, and flattening whole objects; what is deleted
    # takes its time to go.
    stored_mib = max(2 * args.size, args.sparse) + 1024
    run(HOME / "ci/ceph", "up", CLUSTER, "--size", stored_mib, "--osds", args.osds)
    daemons = []
    try:
        options = {
            "rbd_store_ceph_conf": CONF,
            "rbd_store_user": "glance",
            "rbd_store_pool": "images",
            "rbd_store_chunk_size": CHUNK,
        }
        for name, more in (("default", ""), ("sha256", "checksum = none\nhash_algo = sha256")):
            (directory / name).mkdir()
            daemons.append(Daemon(program, directory / name, "rbd", options, more))
        rig = Rig(args, directory, daemons, Peer("rbd", options), qemu)
        # The first bytes into new memory are many times slower.
        for name in ("warm", "warmer"):
            rig.rbd("import", "--object-size", f"{CHUNK}M", rig.full, f"images/{name}")
        for name in ("warm", "warmer"):
            rig.removed(name)()
        doing = {group: globals()[group.replace("-", "_")] for group in GROUPS}
        return {group: doing[group](rig) for group in GROUPS if group in args.only}
    finally:
        for daemon in daemons:
            daemon.stop()
        run(HOME / "ci/ceph", "down", CLUSTER)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="of a full image")
    parser.add_argument("--sparse", type=int, default=10240, metavar="MIB", help="of a sparse one")
    parser.add_argument("--runs", type=int, default=5, metavar="N")
    parser.add_argument("--only", default=",".join(GROUPS), help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--osds", type=int, default=1, choices=(1, 2, 3), help="of the cluster")
    parser.add_argument("--dir", type=Path, default="/dev/shm", help="for the files, not on a disk")
    parser.add_argument("--imaged", type=Path, metavar="PROGRAM", help="instead of a release build")
    parser.add_argument("--json", action="store_true", help="all that was measured")
    args = parser.parse_args()
    args.only = args.only.split(",")
    if min(args.size, args.sparse, args.runs) < 1 or not set(args.only) <= set(GROUPS):
        parser.error(f"sizes and --runs are at least 1, --only names some of {', '.join(GROUPS)}")
    # Asked to end, it still takes the cluster down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(dir=args.dir.resolve(), prefix="bench-") as directory:
        found = measure(args, Path(directory))
    tell(args, found, report)


if __name__ == "__main__":
    main()
