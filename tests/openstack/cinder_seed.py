"""Makes the volume types of a fresh Cinder, once its backends and Glance are up.

cinder_seed.py KEYSTONE_URL ADMIN_PASSWORD
"""

import sys
import time

from seed import connect

# By name: the backend that has its volumes, and the store that images of them go to.
TYPES = {
    "plain": ("plain", "ceph"),
    "plain-to-plain": ("plain", "plain-ceph"),
    "clone": ("clone", "ceph"),
    "clone-to-files": ("clone", "fast"),
    "clone-to-default": ("clone", None),
    "clone-to-plain": ("clone", "plain-ceph"),
    "clone-beside": ("clone", "also-ceph"),
    "copy-to-cloud": ("clone", "cloud"),
    "copy-to-volumes": ("clone", "volumes"),
    "backed": ("backed", None),
    "backed-to-volumes": ("backed", "volumes"),
    "stream": ("stream", "ceph"),
} | {
    name: told
    for kind in ("disks", "files")
    for name, told in {
        kind: (kind, "ceph"),
        f"{kind}-to-volumes": (kind, f"volumes-{kind}"),
        f"{kind}-backed": (f"{kind}-backed", None),
        f"{kind}-backed-to-ceph": (f"{kind}-backed", "ceph"),
    }.items()
}


def main(keystone, password):
    volumes = connect(keystone, password).block_storage
    for name, (backend, store) in TYPES.items():
        specs = {"volume_backend_name": backend}
        if store:
            specs["image_service:store_id"] = store
        volumes.create_type(name=name, extra_specs=specs)
    deadline = time.monotonic() + 60
    while True:
        # Without details: Cinder stumbles over them where all of it is in one process.
        answer = volumes.get("/scheduler-stats/get_pools").json()
        pools = {pool["name"] for pool in answer["pools"]}
        if len(pools) == len({backend for backend, _ in TYPES.values()}):
            return
        if time.monotonic() > deadline:
            sys.exit(f"the scheduler knows these backends only: {pools}")
        time.sleep(0.2)


if __name__ == "__main__":
    main(*sys.argv[1:])
