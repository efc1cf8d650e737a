#!/usr/bin/env python3
"""Glance with imaged beside Glance without: one rig, the same workers, one run.

    tests/bench/glance.py [--size MIB] [--each MIB] [--runs N] [--only upload,at-once,download]
                          [--rig DIR] [--dir DIR] [--imaged PROGRAM] [--keep] [--json]

Brings up ci/openstack in --rig, and takes it down at the end unless it was up before or --keep is
given; builds imaged, unless --imaged names a program. The stores `fast` and `ceph` go through the
daemon, `plain-file` and `plain-ceph` are of the same types and stay in Glance. In each run every
store has its turn, beginning with another one each time, so that a noisy minute harms all alike;
figures are medians of the runs, ratios medians of the ratios within each run. What was stored is
removed after its turn, untimed.

The client is curl, which sends chunks as Glance's own client does, and the image's size beside
them. CPU seconds are of Glance (uWSGI's master and workers), of the daemon, of the OSD and of curl,
each for a GiB. There is no image cache: with it each first read would also be written to it. The
first download comes right after its upload: from memory, or from the disk if what was written is
not there any more. All others find the image where the one before left it.

The cluster holds in memory up to two images at once.
"""

import argparse
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from beside import (
    GIB,
    HOME,
    MIB,
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

AT_ONCE = 4
# Who is beside whom.
PLAIN = {"fast": "plain-file", "ceph": "plain-ceph"}
STORES = [store for pair in PLAIN.items() for store in pair]
GROUPS = ("upload", "at-once", "download")
PROCESSES = ("glance", "daemon", "OSD", "client")


def family(pid):
    """A process and all that it has started."""
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        # The thread may have ended just now.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in path.read_text().split():
                found += family(int(child))
    return found


class Rig:
    """Glance's API, and whose CPU seconds are counted."""

    def __init__(self, facts):
        self.url = facts["glance"]
        self.glance, self.daemon = facts["pids"]["glance"], facts["pids"]["imaged"]
        self.osd = int(Path(facts["dir"], "ceph/run/osd.0.pid").read_text())
        # Proxies of the surroundings have nothing to do here.
        self.open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        user = dict(facts["users"]["admin"])
        domain = {"id": user["user_domain_id"]}
        scope = {"project": {"name": user["project_name"], "domain": domain}}
        person = {"name": user["username"], "password": user["password"], "domain": domain}
        identity = {"methods": ["password"], "password": {"user": person}}
        body = {"auth": {"identity": identity, "scope": scope}}
        request = self._request("POST", f"{facts['keystone']}/auth/tokens", body)
        with self.open(request, timeout=60) as answer:
            self.token = answer.headers["X-Subject-Token"]
            self.catalog = json.loads(answer.read())["token"]["catalog"]

    @staticmethod
    def _request(method, url, body=None, **headers):
        if body is not None:
            headers["Content-Type"] = "application/json"
        text = None if body is None else json.dumps(body).encode()
        return urllib.request.Request(url, text, headers, method=method)

    def ask(self, method, path, body=None, url=None):
        headers = {"X-Auth-Token": self.token}
        with self.open(
            self._request(method, (url or self.url) + path, body, **headers), timeout=300
        ) as answer:
            return json.loads(answer.read() or "null")

    def new(self):
        body = {"name": "bench", "disk_format": "raw", "container_format": "bare"}
        return self.ask("POST", "/v2/images", body)["id"]

    def _curl(self, image, *words):
        command = ["curl", "--silent", "--show-error", "--fail", "--noproxy", "*"]
        command += ["-H", f"X-Auth-Token: {self.token}", *words]
        return subprocess.Popen(
            [*command, f"{self.url}/v2/images/{image}/file"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def upload(self, store, source, image):
        headers = {
            "Transfer-Encoding": "chunked",
            "Expect": "",
            "Content-Type": "application/octet-stream",
            "X-Image-Meta-Store": store,
            "X-OpenStack-Image-Size": source.stat().st_size,
        }
        words = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
        return self._curl(image, "-X", "PUT", "-T", source, *words)

    def download(self, image):
        return self._curl(image, "-o", "/dev/null")

    @staticmethod
    def whole(one):
        said = one.communicate()[1]
        if one.returncode:
            sys.exit(f"Glance refuses: {said}")

    def spent(self):
        glance = sum(cpu(pid) for pid in family(self.glance))
        return dict(zip(PROCESSES, (glance, cpu(self.daemon), cpu(self.osd), own_cpu())))

    def measured(self, begin):
        """What it took from `begin`, which returns processes, until the last of them ended."""
        os.sync()
        before, since = self.spent(), time.perf_counter()
        failed = []
        for one in begin():
            said = one.communicate()[1]
            if one.returncode:
                failed.append(said.strip() or f"curl ended with {one.returncode}")
        seconds = time.perf_counter() - since
        if failed:
            return {"error": failed[0].splitlines()[-1]}
        after = self.spent()
        return {"seconds": seconds, **{name: after[name] - before[name] for name in PROCESSES}}


def in_turns(args, one):
    """Of each title that ONE gives figures of: STORE: [figures of a run]."""
    found = {}
    for turn in range(args.runs):
        for store in in_turn(STORES, turn):
            for title, figures in one(store).items():
                found.setdefault(title, {name: [] for name in STORES})[store].append(figures)
                print(f"{title}, {store}: {figures}", file=sys.stderr)
    return found


def removed(rig, images):
    for image in images:
        rig.ask("DELETE", f"/v2/images/{image}")


def uploaded(rig, store, source):
    image = rig.new()
    try:
        found = {"upload": rig.measured(lambda: [rig.upload(store, source, image)])}
        found["first"] = rig.measured(lambda: [rig.download(image)])
        return found
    finally:
        removed(rig, [image])


def at_once(rig, store, source):
    images = [rig.new() for _ in range(AT_ONCE)]
    try:
        begin = functools.partial(rig.upload, store, source)
        return {"at-once": rig.measured(lambda: [begin(image) for image in images])}
    finally:
        removed(rig, images)


def downloads(args, rig, source):
    kept = {store: rig.new() for store in STORES}
    try:
        for store, image in kept.items():
            rig.whole(rig.upload(store, source, image))
            # All are in memory then.
            rig.whole(rig.download(image))
        return in_turns(
            args, lambda store: {"download": rig.measured(lambda: [rig.download(kept[store])])}
        )
    finally:
        removed(rig, kept.values())


def measure(args, rig, directory):
    full, each = directory / "full", directory / "each"
    write_source(full, args.size * MIB)
    write_source(each, args.each * MIB)
    # The first bytes into new memory are many times slower, and workers load more as they go.
    for store in STORES:
        uploaded(rig, store, full)
    found = {}
    if "upload" in args.only:
        found |= in_turns(args, lambda store: uploaded(rig, store, full))
    if "at-once" in args.only:
        found |= in_turns(args, lambda store: at_once(rig, store, each))
    if "download" in args.only:
        found |= downloads(args, rig, full)
    return found


def rows(found, size):
    for store, runs in found.items():
        whole = [one for one in runs if "error" not in one]
        if not whole:
            yield (store, runs[0]["error"], *[""] * (2 + len(PROCESSES)))
            continue
        seconds = sorted(one["seconds"] for one in whole)
        middling = middle(whole, lambda one: one["seconds"])
        yield (
            store + (f" ({len(whole)} of {len(runs)})" if len(whole) < len(runs) else ""),
            f"{middling:.2f} ({seconds[0]:.2f}-{seconds[-1]:.2f})",
            f"{size / middling / 1e6:.0f}",
            show(ratio(found, store, PLAIN[store])) if store in PLAIN else "",
            *(
                show(middle(whole, lambda one, name=name: one[name]) / size * GIB)
                for name in PROCESSES
            ),
        )


def goals(found):
    """What, found, wanted."""
    what = {
        "upload": "upload",
        "at-once": f"{AT_ONCE} uploads at once",
        "download": "download",
    }
    for group, title in what.items():
        runs = found.get(group, {})
        for store, plain in PLAIN.items():
            yield (
                f"{title}, `{store}`, times `{plain}`",
                show(ratio(runs, store, plain)),
                "1" if group == "download" else "1.8",
            )
        for store, plain in PLAIN.items():
            # The other way round: the share of it that is left.
            yield (
                f"{title}, `{store}`, CPU of Glance, times `{plain}`'s",
                show(ratio(runs, plain, store, "glance")),
                "under 1" if group == "download" else "at most 0.5",
            )


def report(args, found):
    print(
        f"Glance under uWSGI, 2 workers; Ceph in memory on loopback; {os.cpu_count()} cores for "
        f"all; medians of {args.runs}. CPU seconds a GiB.\n"
    )
    sizes = {
        "upload": (args.size, f"upload: {args.size} MiB"),
        "first": (args.size, f"first download: {args.size} MiB"),
        "at-once": (AT_ONCE * args.each, f"{AT_ONCE} at once: {args.each} MiB each"),
        "download": (args.size, f"download: {args.size} MiB"),
    }
    for group, runs in found.items():
        mib, title = sizes[group]
        heads = (title, "s (range)", "MB/s", "times in Glance", *PROCESSES)
        table(heads, rows(runs, mib * MIB))
        print()
    table(("figure", "found", "wanted"), [row for row in goals(found) if row[1] != "-"])


def with_rig(args, work, kind=Rig):
    os.environ["GLANCE_FLAVOR"] = "keystone"
    os.environ["IMAGED_BIN"] = str((args.imaged or release_build()).resolve())
    script = HOME / "ci/openstack"
    was_up = "is up already" in run(script, "up", args.rig)
    try:
        if was_up:
            # It may have been for something else.
            run(script, "glance", "imaged", args.rig)
        facts = json.loads((args.rig / "rig.json").read_text())
        # One that was up before has its own program.
        print(f"imaged: {Path(facts['program']).resolve()}", file=sys.stderr)
        return work(kind(facts))
    finally:
        if not was_up and not args.keep:
            run(script, "down", args.rig)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="of an image")
    parser.add_argument(
        "--each", type=int, default=256, metavar="MIB", help=f"of one of {AT_ONCE} at once"
    )
    parser.add_argument("--runs", type=int, default=5, metavar="N")
    parser.add_argument("--only", default=",".join(GROUPS), help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--rig", type=Path, default="/tmp/imaged-openstack", metavar="DIR")
    parser.add_argument("--dir", type=Path, default="/dev/shm", help="for the files, not on a disk")
    parser.add_argument("--imaged", type=Path, metavar="PROGRAM", help="instead of a release build")
    parser.add_argument("--keep", action="store_true", help="the rig, for another run")
    parser.add_argument("--json", action="store_true", help="all that was measured")
    args = parser.parse_args()
    args.only = args.only.split(",")
    if min(args.size, args.each, args.runs) < 1 or not set(args.only) <= set(GROUPS):
        parser.error(f"sizes and --runs are at least 1, --only names some of {', '.join(GROUPS)}")
    # Asked to end, it still takes the rig down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(dir=args.dir.resolve(), prefix="bench-") as directory:
        found = with_rig(args, lambda rig: measure(args, rig, Path(directory)))
    tell(args, found, report)


if __name__ == "__main__":
    main()
