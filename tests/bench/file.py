#!/usr/bin/env python3
"""imaged's file store beside glance_store's filesystem driver: same file, same directory, one run.

    tests/bench/file.py [--size MIB] [--sparse MIB] [--rounds N] [--only full,sparse,sha256,crowd]
                        [--page-cache auto|always|never] [--dir DIR] [--imaged PROGRAM] [--json]

Builds imaged, unless --imaged names a program, and gets glance_store. In each round every subject
has its turn, so that a noisy minute harms all alike; figures are medians of the rounds. Between two
turns everything is synced, untimed. Prints a table in Markdown. A figure that is missed fails
nothing: this measures, tests judge.

`sparse` reads images of which one MiB in twenty is no hole; `sha256` puts images that get no other
digest, into a second daemon's store with `checksum = none` and `hash_algo = sha256`.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from beside import (
    GIB,
    HOME,
    Daemon,
    Peer,
    release_build,
    table,
    tell,
    timed,
    write_source,
    write_sparse,
)

WINDOWS_MIB = 256
# One MiB of a sparse image in so many.
EVERY = 20
GROUPS = ("full", "sparse", "sha256", "crowd")


class Rig:
    """The daemon, the one without md5, the peer, and the images to put."""

    def __init__(self, args, directory, daemons, peer):
        self.args, self.dir, self.peer = args, directory, peer
        self.daemon, self.sha256 = daemons
        self.load = ["--size", f"{args.size}MiB", "--count", 1]
        self.image, self.copy = directory / "image", directory / "copy"

    def theirs(self):
        os.sync()
        put = self.peer("put", "peer", self.image)
        self.peer("delete", put["uri"])
        return put

    def copied(self, *command):
        os.sync()
        seconds = timed(*command, self.copy)
        self.copy.unlink()
        return seconds


def full(rig):
    passed = ["--ops", "put,get", "--descriptor", "--scratch", rig.dir]
    return {
        "peer": rig.theirs(),
        "plain": rig.daemon.bench(*rig.load, "--stats", 2000),
        "passed": rig.daemon.bench(*rig.load, *passed),
        "cp": rig.copied("cp", "--reflink=never", rig.image),
    }


def sparse(rig):
    load = ["--size", f"{rig.args.sparse}MiB", "--count", 1, "--ops", "get"]
    load += ["--zeros", 1 - 1 / EVERY, "--block", "1MiB"]
    talk = ["--socket", rig.daemon.socket, "fast", "sparse"]
    get = [rig.daemon.program, "get", *talk]
    timed(rig.daemon.program, "put", *talk, rig.dir / "sparse")
    try:
        return {
            "plain": rig.daemon.bench(*load),
            "extents": rig.daemon.bench(*load, "--extents"),
            "get": rig.copied(*get),
            "unverified": rig.copied(*get, "--no-verify"),
            "peer": rig.peer("get", f"file://{rig.dir}/images/sparse", "/dev/null")["seconds"],
            "cp": rig.copied("cp", "--reflink=never", "--sparse=auto", rig.dir / "sparse"),
        }
    finally:
        timed(rig.daemon.program, "delete", *talk)


def sha256(rig):
    passed = ["--descriptor", "--scratch", rig.dir]
    return {
        "peer": rig.theirs(),
        "plain": rig.sha256.bench(*rig.load, "--ops", "put"),
        "passed": rig.sha256.bench(*rig.load, "--ops", "put", *passed),
    }


def measure(args, directory):
    (directory / "images").mkdir()
    options = {"filesystem_store_datadir": directory / "images"}
    peer = Peer("file", options)
    options = {**options, "imaged_page_cache": args.page_cache}
    write_source(directory / "image", args.size << 20)
    if "sparse" in args.only:
        write_sparse(directory / "sparse", args.sparse, EVERY)
    program = args.imaged or release_build()
    daemons, found = [], {}
    try:
        windows = f"total_window_mib = {WINDOWS_MIB}"
        for name, more in (("default", ""), ("sha256", "checksum = none\nhash_algo = sha256")):
            (directory / name).mkdir()
            text = f"{windows}\n{more}"
            daemons.append(Daemon(program, directory / name, "file", options, text))
        rig, memory = Rig(args, directory, daemons, peer), {"idle": daemons[0].memory("VmRSS")}
        doing = [group for group in (full, sparse, sha256) if group.__name__ in args.only]
        for _ in range(args.rounds):
            for group in doing:
                found.setdefault(group.__name__, []).append(group(rig))
        if "crowd" in args.only:
            crowd = ["--size", "1MiB", "--count", 500, "--jobs", 500, "--ops", "get"]
            found["crowd"] = daemons[0].bench(*crowd)
        memory["most"] = daemons[0].memory("VmHWM")
    finally:
        for daemon in daemons:
            daemon.stop()
    return {**found, "memory": memory}


def figures(args, found):
    """Rows of the table: what, imaged, peer, the ratio in imaged's favour, what is wanted."""
    rows = []
    for group, of in (
        ("full", full_figures),
        ("sparse", sparse_figures),
        ("sha256", sha256_figures),
    ):
        if group in found:
            rows += of(args, found[group])
    if "crowd" in found:
        crowd = found["crowd"]["of"]["get"]
        rows.append(
            (
                "500 gets of 1 MiB at once",
                f"{crowd['errors']} errors, p99 {crowd['latency_ms']['p99']:.0f} ms",
                "",
                "",
                "all served",
            )
        )
    memory = found["memory"]
    rows.append(("resident memory, idle", f"{memory['idle']:.1f} MiB", "", "", "under 30 MiB"))
    most = f"under {30 + WINDOWS_MIB} MiB"
    rows.append(("resident memory, at most", f"{memory['most']:.0f} MiB", "", "", most))
    return rows


def times(rounds, seconds, peer):
    """Seconds of a round beside the peer's, and how many times they go into those."""

    def middle(of):
        return statistics.median(of(one) for one in rounds)

    ratio = middle(lambda one: peer(one) / seconds(one))
    return f"{middle(seconds):.2f} s", f"{middle(peer):.2f} s", f"{ratio:.2f}"


def seconds_of(how, name):
    return lambda one: one[how]["of"][name]["seconds"]


def sparse_figures(args, rounds):
    peer, cp = (lambda one: one["peer"]), (lambda one: one["cp"])
    get, plain = (lambda one: one["get"]), seconds_of("plain", "get")
    extents, unverified = seconds_of("extents", "get"), (lambda one: one["unverified"])
    what = f"get of a sparse image of {args.sparse} MiB"
    return [
        (f"{what}, its zeros too, beside glance_store", *times(rounds, plain, peer), ""),
        (f"{what}, as extents, beside glance_store", *times(rounds, extents, peer), "1"),
        (f"{what}, `imaged get`, beside glance_store", *times(rounds, get, peer), ""),
        (
            f"{what}, `imaged get --no-verify`, beside `cp --sparse=auto`",
            *times(rounds, unverified, cp),
            "1",
        ),
    ]


def sha256_figures(_args, rounds):
    peer = lambda one: one["peer"]["seconds"]
    what = "with sha256 alone, beside glance_store"
    return [
        (f"put through the socket {what}", *times(rounds, seconds_of("plain", "put"), peer), "3"),
        (f"put by descriptor {what}", *times(rounds, seconds_of("passed", "put"), peer), "3"),
    ]


def full_figures(args, rounds):
    gib = (args.size << 20) / GIB

    def middle(of):
        return statistics.median(of(one) for one in rounds)

    def op(how, name):
        return lambda one: one[how]["of"][name]

    def slower_digest(one):
        return max(
            digest["seconds"] / digest["bytes"] for digest in one["plain"]["ceilings"]["digests"]
        )

    def digest_limit(one):
        """MB/s of the slower digest alone, or of both on all cores, whichever is less."""
        cpu = sum(one["cpu_seconds_per_gib"] for one in one["plain"]["ceilings"]["digests"])
        cores = one["plain"]["machine"]["cores"]
        return min(1e-6 / slower_digest(one), cores / cpu * GIB / 1e6)

    def cp_and_digest(one):
        return one["cp"] + slower_digest(one) * (args.size << 20)

    def against(how, name, seconds):
        return times(rounds, seconds_of(how, name), seconds)

    def cpu(how, name):
        ours = middle(lambda one: op(how, name)(one)["cpu"]["daemon_seconds_per_gib"])
        client = middle(lambda one: op(how, name)(one)["cpu"]["client_seconds_per_gib"])
        return f"{ours:.2f} + {client:.2f}"

    def share(one):
        return op("plain", "put")(one)["mb_per_s"] / digest_limit(one)

    peer_cpu = middle(lambda one: one["peer"]["cpu_seconds"] / gib)
    p50 = middle(lambda one: op("plain", "stat")(one)["latency_ms"]["p50"])
    by_peer = against("plain", "put", lambda one: one["peer"]["seconds"])
    limit = middle(digest_limit)
    rate = middle(lambda one: op("plain", "put")(one)["mb_per_s"])
    return [
        ("put through the socket, beside glance_store", *by_peer, "2 times"),
        (
            "put through the socket, MB/s, beside what the digests allow",
            f"{rate:.0f}",
            f"{limit:.0f}",
            f"{middle(share):.2f}",
            "0.85",
        ),
        (
            "put, CPU s/GiB, daemon + client, beside glance_store",
            cpu("plain", "put"),
            f"{peer_cpu:.2f}",
            "",
            "",
        ),
        (
            "put by descriptor, beside `cp` and the slower digest",
            *against("passed", "put", cp_and_digest),
            "1",
        ),
        (
            "get through the socket, beside `cp` and the slower digest",
            *against("plain", "get", cp_and_digest),
            "1",
        ),
        ("get through the socket, CPU s/GiB, daemon + client", cpu("plain", "get"), "", "", ""),
        (
            "get by descriptor, CPU s/GiB, daemon + client",
            cpu("passed", "get"),
            "",
            "",
            "0 of the daemon",
        ),
        ("stat, p50 over a kept connection", f"{p50:.3f} ms", "", "", "under 0.3 ms"),
    ]


def report(args, found):
    rounds = next((found[group] for group in GROUPS if group in found), None)
    machine = rounds["machine"] if isinstance(rounds, dict) else rounds[0]["plain"]["machine"]
    print(
        f"{args.size} MiB that cannot be compressed, md5 and sha512, medians of {args.rounds}; "
        f"{machine['cores']} cores of {machine['model']}, Linux {machine['kernel']}, "
        f"{machine['filesystem']}.\n"
    )
    table(("figure", "imaged", "beside", "times", "wanted"), figures(args, found))
    if "full" in found:
        first = found["full"][0]["plain"]["of"]["put"]
        print(f"\nThe stage that limits a put: {first['limit']}.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", type=int, default=1024, metavar="MIB")
    parser.add_argument("--sparse", type=int, default=10240, metavar="MIB", help="of a sparse one")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--only", default=",".join(GROUPS), help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--page-cache", default="auto", help="imaged_page_cache of the store")
    parser.add_argument("--dir", type=Path, default=HOME / "target", help="on the disk to measure")
    parser.add_argument("--imaged", type=Path, metavar="PROGRAM", help="instead of a release build")
    parser.add_argument("--json", action="store_true", help="all that was measured")
    args = parser.parse_args()
    args.only = args.only.split(",")
    if min(args.size, args.sparse, args.rounds) < 1 or not set(args.only) <= set(GROUPS):
        parser.error(f"sizes and --rounds are at least 1, --only names some of {', '.join(GROUPS)}")
    args.dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.dir.resolve(), prefix="bench-") as directory:
        found = measure(args, Path(directory))
    tell(args, found, report)


if __name__ == "__main__":
    main()
