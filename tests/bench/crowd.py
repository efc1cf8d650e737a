#!/usr/bin/env python3
"""Ordinary callers alone, beside a slow crowd, and beside a store that hangs.

    tests/bench/crowd.py [--seconds N] [--size MIB] [--callers N] [--slow N] [--dir DIR]
                         [--imaged PROGRAM] [--json]

Builds imaged, unless --imaged names a program, and starts it with its own defaults on two stores of
type file: `fast`, and `hung`, a filesystem in memory that stops to answer when it is told to (FUSE:
needs root and /dev/fuse; without them that part is left out). Every ordinary caller puts an image
into `fast`, gets it, deletes it, and begins again, for so many seconds in each part:

    alone            nobody else is there
    slow crowd       --slow uploads send a byte a second, and as many readers take 1 KiB a second
    alone again      the crowd has gone
    hung store       as many readers and uploads as there are ordinary callers wait for `hung`

Prints a table in Markdown: rates, latencies, what was refused, what the daemon holds of memory, and
the ratios to being alone. What has not ended with its part counts with the time it has waited, and
not for the rate. A figure that is missed fails nothing: this measures, tests judge.
"""

import argparse
import contextlib
import itertools
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from beside import HOME, MIB, Daemon, release_build, table, tell, write_source
from wire import Client, Refused

IMAGES = "/v1/stores/{}/images/{}"
WINDOWS_MIB = 1024  # total_window_mib, as it is by default
ARRIVED = 2  # seconds until the others have what they get
SETTLED = 120  # seconds until the daemon has cleaned up after those who have gone, at most
PLAIN = HOME / "tests/harness/stores/plain.py"


class Ordinary(threading.Thread):
    """Puts an image, gets it and deletes it, again and again."""

    def __init__(self, daemon, number, source, until):
        super().__init__(daemon=True)
        self.path, self.number, self.source, self.until = daemon.socket, number, source, until
        self.client = None
        self.done = {"put": [], "get": [], "delete": []}
        self.refused, self.begun, self.over = [], None, False

    def run(self):
        for turn in itertools.count():
            path = IMAGES.format("fast", f"ordinary-{self.number}-{turn}")
            for op in ("put", "get", "delete"):
                if time.monotonic() >= self.until or self.over:
                    return
                try:
                    self.once(op, path)
                except (Refused, OSError) as error:
                    if self.over:
                        return
                    self.refused.append(f"{op}: {error}"[:200])
                    self.client = None
                    # As a caller that tries again does.
                    time.sleep(0.2)
                    break

    def once(self, op, path):
        since = time.monotonic()
        self.begun = (op, since)
        if self.client is None:
            self.client = Client(self.path)
        if op == "put":
            self.put(path)
        elif op == "get":
            self.client.get(path)
        else:
            self.client.ask("DELETE", path)
        self.done[op].append(time.monotonic() - since)
        self.begun = None

    def put(self, path):
        size = self.source.stat().st_size
        with open(self.source, "rb", buffering=0) as source:
            try:
                self.client.put(path, source, size)
            except OSError:
                # The answer came before the end of the body.
                self.client.answer("PUT")
                raise

    def end(self):
        """Cuts off what has not ended, and counts how long it has taken up to now."""
        begun, self.over = self.begun, True
        if begun is not None:
            op, since = begun
            self.unfinished = (op, time.monotonic() - since)
        if self.client is not None:
            with contextlib.suppress(OSError):
                self.client.wire.shutdown(socket.SHUT_RDWR)

    unfinished = None


class Crowd:
    """Connections that move a little each second."""

    def __init__(self):
        self.uploads, self.readers, self.over = [], [], False
        self.thread = threading.Thread(target=self.drip, daemon=True)

    def upload(self, daemon, store, name, size):
        client = Client(daemon.socket)
        client.head("PUT", IMAGES.format(store, name), [f"content-length: {size}"], b"x")
        self.uploads.append(client.wire)

    def reader(self, daemon, store, name):
        client = Client(daemon.socket)
        client.head("GET", IMAGES.format(store, name), [])
        self.readers.append(client.wire)

    def begin(self):
        for wire in self.uploads + self.readers:
            wire.setblocking(False)
        self.thread.start()

    def drip(self):
        while not self.over:
            for wire in self.uploads:
                with contextlib.suppress(OSError):
                    wire.send(b"x")
            for wire in self.readers:
                with contextlib.suppress(OSError):
                    wire.recv(1 << 10)
            time.sleep(1)

    def end(self):
        self.over = True
        self.thread.join()
        for wire in self.uploads + self.readers:
            wire.close()


class Waiting(threading.Thread):
    """Puts an image, or gets it, once; as long as that takes."""

    def __init__(self, daemon, path, source=None):
        super().__init__(daemon=True)
        self.client, self.path, self.source = Client(daemon.socket), path, source

    def run(self):
        with contextlib.suppress(Refused, OSError):
            if self.source is None:
                self.client.get(self.path)
                return
            with open(self.source, "rb", buffering=0) as source:
                self.client.put(self.path, source, self.source.stat().st_size)


class Hanging:
    """A filesystem that can be told to stop answering, mounted in a directory."""

    def __init__(self, directory):
        directory.mkdir()
        command = [sys.executable, PLAIN, directory, "unnamed"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self.process.stdout.readline().strip() != "ready":
            raise OSError("FUSE cannot be mounted here")

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def stop(self):
        """Its end unmounts it."""
        self.process.stdin.close()
        self.process.wait()


def forget(path):
    """What the kernel remembers of a file would be read without its filesystem."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def percentile(values, part):
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def ordinary(args, daemon, source):
    """One part: what the ordinary callers got done in it, and the daemon's memory meanwhile."""
    until = time.monotonic() + args.seconds
    callers = [Ordinary(daemon, n, source, until) for n in range(args.callers)]
    since, most = time.monotonic(), 0
    for caller in callers:
        caller.start()
    while time.monotonic() < until:
        most = max(most, daemon.memory("VmRSS"))
        time.sleep(0.1)
    seconds = time.monotonic() - since
    counts = {op: sum(len(one.done[op]) for one in callers) for op in ("put", "get")}
    for caller in callers:
        caller.end()
    for caller in callers:
        caller.join()
    found = {"rss_mib": most, "refused": [line for one in callers for line in one.refused]}
    for op, count in counts.items():
        times = [took for one in callers for took in one.done[op]]
        waiting = [
            one.unfinished[1] for one in callers if one.unfinished and one.unfinished[0] == op
        ]
        found[op] = {
            "count": count,
            "mb_per_s": count * args.size * MIB / seconds / 1e6,
            "p50_s": percentile(times + waiting, 0.5),
            "p99_s": percentile(times + waiting, 0.99),
            "unfinished": len(waiting),
        }
    return found


def clean_up(daemon):
    """Waits until the daemon holds nothing of those who have gone, and deletes what they left."""
    until = time.monotonic() + SETTLED
    while time.monotonic() < until:
        client = Client(daemon.socket)
        client.head("GET", "/metrics", [])
        _, length, text, _ = client.opened()
        while len(text) < length:
            text += client.some()
        client.wire.close()
        if b"imaged_windows_bytes 0\n" in text:
            break
        time.sleep(0.2)
    images = daemon.socket.parent / "fast"
    client = Client(daemon.socket)
    for image in images.glob("ordinary-*"):
        with contextlib.suppress(Refused):
            client.ask("DELETE", IMAGES.format("fast", image.name))
    client.wire.close()


def store_one(daemon, store, name, source):
    client = Client(daemon.socket)
    with open(source, "rb", buffering=0) as image:
        client.put(IMAGES.format(store, name), image, source.stat().st_size)
    client.wire.close()


def beside_slow(args, daemon, source):
    crowd = Crowd()
    for n in range(args.slow):
        crowd.upload(daemon, "fast", f"slow-{n}", source.stat().st_size)
        crowd.reader(daemon, "fast", "source")
    crowd.begin()
    time.sleep(ARRIVED)
    try:
        return ordinary(args, daemon, source)
    finally:
        crowd.end()


def beside_hung(args, daemon, source, hanging):
    hanging.tell("hang read write")
    names = [IMAGES.format("hung", f"waits-{n}") for n in range(args.callers)]
    waiting = [Waiting(daemon, name, source) for name in names]
    waiting += [Waiting(daemon, IMAGES.format("hung", "source")) for _ in names]
    for one in waiting:
        one.start()
    time.sleep(ARRIVED)
    try:
        found = ordinary(args, daemon, source)
        found["calls_that_hang"] = int(hanging.tell("held").split()[1])
        found["others_that_wait"] = sum(one.is_alive() for one in waiting)
        return found
    finally:
        hanging.tell("free")
        for one in waiting:
            one.client.wire.close()


def measure(args, directory):
    (directory / "fast").mkdir()
    source = directory / "source"
    write_source(source, args.size * MIB)
    hanging = None
    with contextlib.suppress(OSError):
        hanging = Hanging(directory / "hung")
    more = f"[hung]\nfilesystem_store_datadir = {directory}/hung\n" if hanging else ""
    program = args.imaged or release_build()
    options = {"filesystem_store_datadir": directory / "fast"}
    others = ["hung:file"] if hanging else []
    daemon = Daemon(program, directory, "file", options, more, others)
    try:
        found = {"base_mib": daemon.memory("VmRSS"), "parts": {}}
        store_one(daemon, "fast", "source", source)
        parts = found["parts"]
        parts["alone"] = ordinary(args, daemon, source)
        clean_up(daemon)
        parts["slow crowd"] = beside_slow(args, daemon, source)
        clean_up(daemon)
        parts["alone again"] = ordinary(args, daemon, source)
        clean_up(daemon)
        if hanging:
            store_one(daemon, "hung", "source", source)
            forget(directory / "hung/source")
            parts["hung store"] = beside_hung(args, daemon, source, hanging)
        return found
    finally:
        daemon.stop()
        if hanging:
            hanging.stop()


def report(args, found):
    print(
        f"{args.callers} ordinary callers, {args.size} MiB each, {args.seconds} s a part; "
        f"{args.slow} slow uploads and {args.slow} slow readers; {os.cpu_count()} cores. "
        f"The daemon at rest: {found['base_mib']:.0f} MiB.\n"
    )
    rows = []
    for part, one in found["parts"].items():
        for op in ("put", "get"):
            did = one[op]
            rows.append(
                (
                    part,
                    op,
                    str(did["count"]),
                    f"{did['mb_per_s']:.0f}",
                    seconds(did["p50_s"]),
                    seconds(did["p99_s"]),
                    str(did["unfinished"]),
                    str(len(one["refused"])),
                    f"{one['rss_mib']:.0f}",
                )
            )
    heads = ("part", "op", "done", "MB/s", "p50", "p99", "unfinished", "refused", "RSS, MiB")
    table(heads, rows)
    print()
    table(("goal", "measured", "wanted"), goals(found))
    for part, one in found["parts"].items():
        if "calls_that_hang" in one:
            print(
                f"\n{part}: {one['others_that_wait']} callers wait for it at the end, "
                f"{one['calls_that_hang']} calls to it hang."
            )
        for line in sorted(set(one["refused"]))[:3]:
            print(f"\n{part}, refused: {line}")


def goals(found):
    parts, base = found["parts"], found["base_mib"]
    rows = []
    for part, before in (("slow crowd", "alone"), ("hung store", "alone again")):
        if part not in parts:
            continue
        for op in ("put", "get"):
            now, then = parts[part][op], parts[before][op]
            rate = ratio(now["mb_per_s"], then["mb_per_s"])
            rows.append((f"{part}: rate of {op}s, of that alone", rate, "at least 0.80"))
            slower = ratio(now["p99_s"], then["p99_s"])
            rows.append((f"{part}: p99 of {op}s, of that alone", slower, "at most 2.00"))
        refused = str(len(parts[part]["refused"]))
        rows.append((f"{part}: ordinary callers refused", refused, "0"))
    most = max(one["rss_mib"] for one in parts.values())
    wanted = f"at most {base + WINDOWS_MIB:.0f} MiB"
    rows.append(("memory of the daemon, at most", f"{most:.0f} MiB", wanted))
    return rows


def ratio(now, then):
    return f"{now / then:.2f}" if now is not None and then else "-"


def seconds(value):
    return "-" if value is None else f"{value:.2f} s"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=int, default=20, metavar="N", help="of each part")
    parser.add_argument("--size", type=int, default=32, metavar="MIB")
    parser.add_argument("--callers", type=int, default=20, metavar="N")
    parser.add_argument("--slow", type=int, default=100, metavar="N", help="of either kind")
    parser.add_argument("--dir", type=Path, default=HOME / "target", help="on the disk to measure")
    parser.add_argument("--imaged", type=Path, metavar="PROGRAM", help="instead of a release build")
    parser.add_argument("--json", action="store_true", help="all that was measured")
    args = parser.parse_args()
    if min(args.seconds, args.size, args.callers) < 1 or args.slow < 0:
        parser.error("--seconds, --size and --callers are at least 1")
    args.dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.dir.resolve(), prefix="bench-") as directory:
        found = measure(args, Path(directory))
    tell(args, found, report)


if __name__ == "__main__":
    main()
