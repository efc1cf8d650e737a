#!/usr/bin/env python3
"""Images of volumes and images in volumes, with imaged and without: one run.

    tests/bench/cinder.py [--size GIB] [--written MIB] [--unknown MIB] [--disk MIB] [--runs N]
                          [--only plain,stream,copy,clone,put,iscsi-put,iscsi-get]
                          [--rig DIR] [--dir DIR] [--imaged PROGRAM] [--keep] [--json]

Brings up ci/openstack in --rig, and takes it down at the end unless it was up before or --keep is
given; builds imaged, unless --imaged names a program. A volume in Ceph of --size, of which --written
has data, becomes an image in these ways, in each run beginning with another one:

    plain   Cinder's own driver, to a store in Ceph that Glance serves itself
    stream  imaged.cinder.RBDDriver that only streams, to the same type of store through the daemon
    copy    the daemon copies, to a store of type cinder, which is in Ceph too
    clone   the daemon clones, to a store in Ceph

Figures are medians of the runs, ratios medians of the ratios within each run. The seconds of each
step are from the request until Cinder answered, until the image was active, and until the volume was
available again. CPU seconds are of Cinder, of Glance, of the daemon and of the OSD until then, but
where digests follow (clone), Glance and the daemon read the image afterwards. What was made is
removed after its turn, untimed. The cluster holds all of it in memory.

Then, on ci/cinder, images in volumes: tests/bench/cinder_store.py tells what put, iscsi-put and
iscsi-get are. It needs glance_store, root, and Debian's qemu-block-extra.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
from pathlib import Path

import cinder_store
from beside import (
    GIB,
    MIB,
    cpu,
    in_turn,
    middle,
    ratio,
    release_build,
    show,
    table,
    tell,
)
from glance import Rig, family, with_rig

# What the cluster is to hold beside the volume and its image, of which not even zeros are left out.
SPARE_MIB = 2048
# The types of volumes of ci/openstack.
TYPES = {
    "plain": "plain-to-plain",
    "stream": "stream",
    "copy": "copy-to-volumes",
    "clone": "clone",
}
STEPS = ("answer", "active", "available")
PROCESSES = ("cinder", "glance", "daemon", "OSD")
# How many times faster than `plain` it is to be.
GOALS = {"stream": "2", "copy": "2", "clone": "20"}
# Seconds: each question costs Cinder and Glance some of the CPU that is counted.
PAUSE = 0.1
# Seconds that an upload may take: where the cluster is full it waits for ever.
LIMIT = 900
# Questions about the image before one about the volume, which tells that an upload has failed.
ROUNDS = 20


class Volumes(Rig):
    """Cinder's API beside Glance's."""

    def __init__(self, facts):
        super().__init__(facts)
        self.cinder, self.conf = facts["pids"]["cinder"], facts["volumes"]["conf"]
        self.pool, self.program = facts["volumes"]["pool"], facts["program"]
        self.socket = facts["socket"]
        endpoints = next(one["endpoints"] for one in self.catalog if one["type"] == "block-storage")
        self.volumes = next(one["url"] for one in endpoints if one["interface"] == "public")

    def ask_cinder(self, method, path, body=None):
        return self.ask(method, path, body, self.volumes)

    def status(self, volume):
        return self.ask_cinder("GET", f"/volumes/{volume}")["volume"]["status"]

    def available(self, volume):
        while (status := self.status(volume)) != "available":
            if status.startswith("error"):
                sys.exit(f"the volume is {status}")
            time.sleep(PAUSE)

    def made(self, kind, size, written):
        body = {"volume": {"name": "bench", "size": size, "volume_type": kind}}
        volume = self.ask_cinder("POST", "/volumes", body)["volume"]["id"]
        self.available(volume)
        write = f"rbd -c {self.conf} --id admin bench --io-type write --io-size 4M --io-pattern seq"
        subprocess.run(
            [*write.split(), "--io-total", f"{written}M", f"{self.pool}/volume-{volume}"],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return volume

    def removed(self, path, ask):
        try:
            ask("DELETE", path)
            while True:
                ask("GET", path)
                time.sleep(PAUSE)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise

    def settled(self, image):
        """The daemon, and Glance, have no more to do with it."""
        while not self.ask("GET", f"/v2/images/{image}").get("os_hash_value"):
            time.sleep(PAUSE)
        while True:
            done = subprocess.run(
                [self.program, "jobs", "--json", "--socket", self.socket],
                check=True,
                capture_output=True,
            )
            jobs = json.loads(done.stdout)["jobs"]
            if all(one["state"] in ("done", "failed", "cancelled") for one in jobs):
                return
            time.sleep(PAUSE)

    def spent(self):
        cinder = sum(cpu(pid) for pid in family(self.cinder))
        glance = sum(cpu(pid) for pid in family(self.glance))
        return dict(zip(PROCESSES, (cinder, glance, cpu(self.daemon), cpu(self.osd))))

    def uploaded(self, volume):
        """The image, and what it took."""
        body = {"image_name": "bench", "disk_format": "raw", "container_format": "bare"}
        before, since = self.spent(), time.perf_counter()
        took = {}
        answer = self.ask_cinder(
            "POST", f"/volumes/{volume}/action", {"os-volume_upload_image": body}
        )
        took["answer"] = time.perf_counter() - since
        image = answer["os-volume_upload_image"]["image_id"]
        rounds = 0
        while self.ask("GET", f"/v2/images/{image}")["status"] != "active":
            rounds += 1
            if time.perf_counter() - since > LIMIT:
                sys.exit(
                    "the upload does not end; see the rig's cinder.log, and whether Ceph is full"
                )
            if rounds % ROUNDS == 0 and self.status(volume) == "available":
                # It may have become active between the two questions.
                if self.ask("GET", f"/v2/images/{image}")["status"] != "active":
                    sys.exit("the upload has failed; see the rig's cinder.log")
            time.sleep(PAUSE)
        took["active"] = time.perf_counter() - since
        self.available(volume)
        took["available"] = took["seconds"] = time.perf_counter() - since
        after = self.spent()
        return image, took | {name: after[name] - before[name] for name in PROCESSES}


def one_turn(args, rig, name):
    volume = rig.made(TYPES[name], args.size, args.written)
    image, took = rig.uploaded(volume)
    rig.settled(image)
    rig.removed(f"/v2/images/{image}", rig.ask)
    rig.removed(f"/volumes/{volume}", rig.ask_cinder)
    print(f"{name}: {took}", file=sys.stderr)
    return took


def measure(args, rig):
    names = [name for name in args.only if name in TYPES]
    # The first bytes into new memory are many times slower, and processes load more as they go.
    for name in names:
        one_turn(args, rig, name)
    found = {name: [] for name in names}
    for turn in range(args.runs):
        for name in in_turn(names, turn):
            found[name].append(one_turn(args, rig, name))
    return found


def report(args, found):
    of_volumes, in_volumes = found["of volumes"], found["in volumes"]
    if of_volumes:
        report_volumes(args, of_volumes)
    cinder_store.report(args, in_volumes)
    print()
    goals = [
        (f"`{name}`, times `plain`", show(ratio(of_volumes, name, "plain")), wanted)
        for name, wanted in GOALS.items()
        if name in of_volumes and "plain" in of_volumes
    ]
    goals += cinder_store.goals(args, in_volumes)
    table(("figure", "found", "wanted"), goals)


def report_volumes(args, found):
    print(
        f"A volume of {args.size} GiB with {args.written * MIB / GIB:.2f} GiB of data; Ceph in "
        f"memory on loopback; medians of {args.runs}; seconds.\n"
    )

    def rows():
        for name, runs in found.items():
            times = show(ratio(found, name, "plain")) if name != "plain" else ""
            cells = [show(middle(runs, lambda one, of=of: one[of])) for of in (*STEPS, *PROCESSES)]
            yield (name, *cells, times)

    heads = (*STEPS, *(f"CPU {name}" for name in PROCESSES), "times plain")
    table(("volume to image", *heads), rows())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", type=int, default=5, metavar="GIB", help="of the volume")
    parser.add_argument("--written", type=int, default=1024, metavar="MIB", help="of it")
    parser.add_argument(
        "--unknown", type=int, default=4096, metavar="MIB", help="of the image of group put"
    )
    parser.add_argument(
        "--disk", type=int, default=1024, metavar="MIB", help="of the images behind iSCSI"
    )
    parser.add_argument("--runs", type=int, default=3, metavar="N")
    names = [*TYPES, *cinder_store.GROUPS]
    parser.add_argument("--only", default=",".join(names), help=f"of {', '.join(names)}")
    parser.add_argument("--rig", type=Path, default="/tmp/imaged-openstack", metavar="DIR")
    parser.add_argument("--dir", type=Path, default="/dev/shm", help="for the files, not on a disk")
    parser.add_argument("--imaged", type=Path, metavar="PROGRAM", help="instead of a release build")
    parser.add_argument("--keep", action="store_true", help="the rig, for another run")
    parser.add_argument("--json", action="store_true", help="all that was measured")
    args = parser.parse_args()
    args.only = args.only.split(",")
    if (
        not 1 <= args.written <= args.size * 1024
        or min(args.runs, args.unknown, args.disk) < 1
        or not set(args.only) <= set(names)
    ):
        parser.error(f"what is written fits, numbers are at least 1, --only of {', '.join(names)}")
    # Asked to end, it still takes the rigs down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    args.imaged = (args.imaged or release_build()).resolve()
    found = {"of volumes": {}, "in volumes": {}}
    if set(args.only) & set(TYPES):
        os.environ["CEPH_MIB"] = str(args.size * 1024 + args.written + SPARE_MIB)
        found["of volumes"] = with_rig(args, lambda rig: measure(args, rig), Volumes)
    groups = [name for name in args.only if name in cinder_store.GROUPS]
    if groups:
        found["in volumes"] = cinder_store.measure(args, groups)
    tell(args, found, report)


if __name__ == "__main__":
    main()
