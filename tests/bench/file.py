#!/usr/bin/env python3
"""imaged's file store beside glance_store's filesystem driver: same file, same directory, one run.

    tests/bench/file.py [--size MIB] [--rounds N] [--dir DIR] [--imaged PROGRAM] [--json]

Builds imaged, unless --imaged names a program, and gets glance_store. In each round every subject
has its turn, so that a noisy minute harms all alike; figures are medians of the rounds. Between two
turns everything is synced, untimed. Prints a table in Markdown. A figure that is missed fails
nothing: this measures, tests judge.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from beside import GIB, HOME, Daemon, Peer, release_build, table, tell, timed, write_source

WINDOWS_MIB = 256


def one_round(args, daemon, peer, directory):
    image, copy = directory / "image", directory / "copy"
    load = ["--size", f"{args.size}MiB", "--count", 1]
    os.sync()
    put = peer("put", "peer", image)
    peer("delete", put["uri"])
    plain = daemon.bench(*load, "--stats", 2000)
    passed = daemon.bench(*load, "--ops", "put,get", "--descriptor", "--scratch", directory)
    os.sync()
    cp = timed("cp", "--reflink=never", image, copy)
    copy.unlink()
    return {"peer": put, "plain": plain, "passed": passed, "cp": cp}


def measure(args, directory):
    (directory / "images").mkdir()
    options = {"filesystem_store_datadir": directory / "images"}
    peer = Peer("file", options)
    write_source(directory / "image", args.size << 20)
    program = args.imaged or release_build()
    daemon = Daemon(program, directory, "file", options, f"total_window_mib = {WINDOWS_MIB}")
    try:
        memory = {"idle": daemon.memory("VmRSS")}
        rounds = [one_round(args, daemon, peer, directory) for _ in range(args.rounds)]
        memory["peak"] = daemon.memory("VmHWM")
        crowd = daemon.bench("--size", "1MiB", "--count", 500, "--jobs", 500, "--ops", "get")
        memory["crowd"] = daemon.memory("VmHWM")
    finally:
        daemon.stop()
    return {"rounds": rounds, "crowd": crowd, "memory": memory}


def figures(args, found):
    """Rows of the table: what, imaged, peer, the ratio in imaged's favour, what is wanted."""
    gib = (args.size << 20) / GIB
    rounds, memory, crowd = found["rounds"], found["memory"], found["crowd"]["of"]["get"]

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
        ours = middle(lambda one: op(how, name)(one)["seconds"])
        peer = middle(seconds)
        ratio = middle(lambda one: seconds(one) / op(how, name)(one)["seconds"])
        return f"{ours:.2f} s", f"{peer:.2f} s", f"{ratio:.2f}"

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
        (
            "500 gets of 1 MiB at once",
            f"{crowd['errors']} errors, p99 {crowd['latency_ms']['p99']:.0f} ms",
            "",
            "",
            "all served",
        ),
        ("resident memory, idle", f"{memory['idle']:.1f} MiB", "", "", "under 30 MiB"),
        (
            "resident memory, at most",
            f"{memory['crowd']:.0f} MiB",
            "",
            "",
            f"under {30 + WINDOWS_MIB} MiB",
        ),
    ]


def report(args, found):
    machine = found["rounds"][0]["plain"]["machine"]
    print(
        f"{args.size} MiB that cannot be compressed, md5 and sha512, medians of {args.rounds}; "
        f"{machine['cores']} cores of {machine['model']}, Linux {machine['kernel']}, "
        f"{machine['filesystem']}.\n"
    )
    table(("figure", "imaged", "beside", "times", "wanted"), figures(args, found))
    first = found["rounds"][0]["plain"]["of"]["put"]
    print(f"\nThe stage that limits a put: {first['limit']}.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", type=int, default=1024, metavar="MIB")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--dir", type=Path, default=HOME / "target", help="on the disk to measure")
    parser.add_argument("--imaged", type=Path, metavar="PROGRAM", help="instead of a release build")
    parser.add_argument("--json", action="store_true", help="all that was measured")
    args = parser.parse_args()
    if args.size < 1 or args.rounds < 1:
        parser.error("--size and --rounds are at least 1")
    args.dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.dir.resolve(), prefix="bench-") as directory:
        found = measure(args, Path(directory))
    tell(args, found, report)


if __name__ == "__main__":
    main()
