"""Writes rig.json, what tests and benchmarks need to know of the rig.

facts.py DIR MODE KEYSTONE GLANCE FILES PASSWORD SCRIPT GLANCE_USER CINDER_USER DEFAULT_STORE STORES

STORES, as in `enabled_backends`, are those that are there; none are all.
"""

import json
import os
import sys
from pathlib import Path


def main(
    folder,
    mode,
    keystone,
    glance,
    files,
    password,
    script,
    glance_user,
    cinder_user,
    default,
    stores,
):
    folder = Path(folder)

    def pid(name):
        path = folder / "run" / f"{name}.pid"
        return int(path.read_text()) if path.exists() else None

    def user(name, project):
        return {
            "username": name,
            "password": password,
            "project_name": project,
            "user_domain_id": "default",
            "project_domain_id": "default",
        }

    rgw = dict(line.split("=", 1) for line in (folder / "ceph/rgw.env").read_text().splitlines())
    cloud = {"type": "s3", **{name: rgw[name] for name in ("url", "access_key", "secret_key")}}
    swift = {"type": "swift", "auth": f"{keystone}/v3", "user": "glance", "key": password}
    cinder = {"type": "cinder", "auth": f"{keystone}/v3", "user": "glance", "key": password}
    ceph = {"type": "rbd", "user": "glance", "conf": str(folder / "ceph/ceph.conf")}
    rig = {
        "mode": mode,
        "keystone": f"{keystone}/v3",
        "glance": glance,
        "files": files,
        "region": "rig",
        "users": {
            "admin": user("admin", "admin"),
            "demo": user("demo", "demo"),
            "manager": user("manager", "demo"),
            "reader": user("reader", "demo"),
            "other": user("other", "other"),
            "other-manager": user("other-manager", "other"),
        },
        "socket": str(folder / "imaged/socket"),
        "program": str(folder / "imaged/program"),
        "script": script,
        "dir": str(folder),
        "log": str(folder / "log"),
        "www": str(folder / "www"),
        "certificates": str(folder / "certificates"),
        "staging": str(folder / "glance/staging"),
        "cache": str(folder / "glance/cache"),
        "state": str(folder / "imaged/state"),
        "glance_conf": str(folder / "glance/glance-api.conf"),
        "imaged_conf": str(folder / "imaged/imaged.conf"),
        "glance_user": glance_user,
        "cinder_user": cinder_user,
        "cinder_conf": str(folder / "cinder/cinder.conf"),
        "volumes": {"pool": "volumes", "conf": str(folder / "ceph/ceph.conf")},
        "stores": {
            "also-ceph": {**ceph, "pool": "volumes"},
            "also-cloud": {**cloud, "bucket": "also"},
            "also-fast": {"type": "file", "path": str(folder / "stores/also-fast")},
            "also-swift": {**swift, "container": "also-swift"},
            "ceph": {**ceph, "pool": "images"},
            "cloud": {**cloud, "bucket": "images"},
            "fast": {"type": "file", "path": str(folder / "stores/fast")},
            "plain-ceph": {**ceph, "pool": "small"},
            "plain-cloud": {**cloud, "bucket": "plain"},
            "plain-file": {"type": "file", "path": str(folder / "stores/plain-file")},
            "swift": {**swift, "container": "swift"},
        },
        "switched": [
            "also-ceph",
            "also-cloud",
            "also-fast",
            "also-swift",
            "ceph",
            "cloud",
            "fast",
            "swift",
        ],
        "default_store": default,
        "pids": {name: pid(name) for name in ("keystone", "glance", "cinder", "imaged", "files")},
    }
    if mode == "imaged":
        for name, volume_type in (
            ("volumes", "backed"),
            ("volumes-disks", "disks-backed"),
            ("volumes-files", "files-backed"),
        ):
            rig["stores"][name] = {**cinder, "volume_type": volume_type}
            rig["switched"].append(name)
    if stores:
        there = {one.strip().partition(":")[0] for one in stores.split(",")}
        rig["stores"] = {name: facts for name, facts in rig["stores"].items() if name in there}
        rig["switched"] = [name for name in rig["switched"] if name in there]
    (folder / "rig.json.new").write_text(json.dumps(rig, indent=2) + "\n")
    os.replace(folder / "rig.json.new", folder / "rig.json")


if __name__ == "__main__":
    main(*sys.argv[1:])
