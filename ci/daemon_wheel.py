"""Packs the daemon as a wheel: PROGRAM, and what lies beside it in SHARE, into OUT.

daemon_wheel.py PROGRAM SHARE OUT

The program needs nothing but the C library, of whose versions the wheel's name tells the oldest.
The same files give the same bytes; $SOURCE_DATE_EPOCH is the time of all.
"""

import base64
import hashlib
import os
import platform
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

# What every Linux with that C library has: PEP 600 lets wheels rely on these and few others.
THERE = re.compile(r"lib(c|m|dl|pthread|rt|util|gcc_s)\.so\.\d+|ld-linux.*\.so\.\d+")
ROOT = Path(__file__).resolve().parents[1]

METADATA = """\
Metadata-Version: 2.4
Name: imaged-daemon
Version: {version}
Summary: The daemon and the command of imaged, the storage data plane for OpenStack images
License-Expression: Apache-2.0
License-File: LICENSE
Project-URL: Source, {source}
Keywords: openstack,glance,cinder,images,storage
Classifier: Development Status :: 4 - Beta
Classifier: Environment :: OpenStack
Classifier: Intended Audience :: System Administrators
Classifier: Operating System :: POSIX :: Linux
Classifier: Programming Language :: Rust
Requires-Python: >=3.10
Description-Content-Type: text/markdown

The program `imaged`, for stores of type file, http, swift and cinder. One that also serves rbd and
s3, and reaches volumes over iSCSI, is built from source, for it needs Ceph's libraries.

    pip install imaged imaged-daemon
    imaged serve &
    imaged put local my-image disk.raw

`share/doc/imaged/imaged.conf` explains every option, and `imaged man` prints the manual. The Python
client, and the parts for Glance and Cinder, are the package `imaged`.
"""


def said(pattern: str, path: Path) -> str:
    found = re.search(pattern, path.read_text(), re.MULTILINE)
    if not found:
        sys.exit(f"daemon_wheel: {path}: nothing like {pattern}")
    return found[1]


def tag(program: Path) -> str:
    """The platform that the program runs on."""
    told = subprocess.run(
        ["readelf", "--wide", "--dynamic", "--version-info", program],
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
    ).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", told)
    if others := [name for name in needed if not THERE.fullmatch(name)]:
        sys.exit(f"daemon_wheel: {program} needs {', '.join(others)}, which not every machine has")
    oldest = max(tuple(map(int, one.split("."))) for one in re.findall(r"GLIBC_(2\.\d+)", told))
    return f"py3-none-manylinux_{oldest[0]}_{oldest[1]}_{platform.machine()}"


def main(program: Path, share: Path, out: Path) -> None:
    version = said(r'^version = "(.*)"', ROOT / "Cargo.toml")
    name = f"imaged_daemon-{version}"
    known = f"{name}.dist-info"
    platforms = tag(program)
    source = said(r'^repository = "(.*)"', ROOT / "Cargo.toml")
    files = {f"{name}.data/scripts/imaged": (program.read_bytes(), 0o755)}
    for path in sorted(share.rglob("*")):
        if path.is_file():
            inside = f"{name}.data/data/share/{path.relative_to(share)}"
            files[inside] = (path.read_bytes(), 0o644)
    wheel = f"Wheel-Version: 1.0\nGenerator: imaged\nRoot-Is-Purelib: false\nTag: {platforms}\n"
    metadata = METADATA.format(version=version, source=source)
    files[f"{known}/METADATA"] = (metadata.encode(), 0o644)
    files[f"{known}/WHEEL"] = (wheel.encode(), 0o644)
    files[f"{known}/licenses/LICENSE"] = ((ROOT / "LICENSE").read_bytes(), 0o644)
    record = []
    for inside, (content, _) in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record.append(f"{inside},sha256={digest},{len(content)}\n")
    record.append(f"{known}/RECORD,,\n")
    files[f"{known}/RECORD"] = ("".join(record).encode(), 0o644)
    when = time.gmtime(int(os.environ["SOURCE_DATE_EPOCH"]))[:6]
    made = out / f"{name}-{platforms}.whl"
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for inside, (content, mode) in files.items():
            entry = zipfile.ZipInfo(inside, when)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100000 | mode) << 16
            entry.create_system = 3
            archive.writestr(entry, content)
    print(made)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
