"""Runs Glance's own functional tests that store images, and prints the counts.

run_functional.py DIR MODE [REGEX]

With MODE imaged each test has a daemon, $IMAGED_BIN. The exit code is 0 if nothing failed, each test
of functional.txt that matches has passed and, with the daemon, images went through it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kept import lacking

# Every class with several stores, of type file, of which at least one test stores an image. The
# scrubber's mostly sleep, so they have a process of their own beside the others.
PARTS = {
    "scrubber": ["serial.test_scrubber"],
    "images": [
        "image_cache.drivers.test_centralized_db",
        "test_cache_middleware.TestImageCacheSqlite",
        "v2.test_cache_api",
        "v2.test_cache_api_policy",
        "v2.test_discovery",
        "v2.test_download_from_store",
        "v2.test_images.TestCopyImagePermissions",
        "v2.test_images.TestKeystoneQuotas",
        "v2.test_images.TestQuotas",
        "v2.test_images.TestStoreWeight",
        "v2.test_images_api_policy",
        "v2.test_images_import_locking",
        "v2.test_multi_store_images",
        "v2.test_parallel_store_import",
    ],
}
# The scrubber's tests end every scrubber that they see, so they see none but their own. What a test
# leaves running ends with its part.
ALONE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def run_part(part, work, mode, regex, log):
    """What came of one part."""
    environment = os.environ | {"TMPDIR": str(work / "tmp")}
    script = Path(__file__).with_name("functional.py")
    names = [f"glance.tests.functional.{name}" for name in PARTS[part]]
    with log.open("w") as out:
        subprocess.run(
            [*ALONE, sys.executable, "-W", "ignore", script, work / part, mode, regex, *names],
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=900,
            check=False,
        )
    told = work / part / "result.json"
    if not told.exists():
        sys.exit(f"Glance's tests did not run to their end:\n{log.read_text()[-2000:]}")
    return json.loads(told.read_text())


def main(folder, mode, regex="."):
    folder = Path(folder).resolve()
    work = folder / "functional"
    shutil.rmtree(work, ignore_errors=True)
    for name in (*PARTS, "tmp"):
        (work / name).mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        results = list(
            pool.map(
                lambda part: run_part(
                    part, work, mode, regex, folder / "log" / f"functional-{mode}-{part}.out"
                ),
                PARTS,
            )
        )
    counts, passed, failed, done, size = Counter(), [], [], Counter(), 0
    for part, result in zip(PARTS, results, strict=True):
        counts += Counter(result["counts"])
        passed += result["passed"]
        failed += result["failed"]
        log = work / part / "imaged.log"
        for operation, length in re.findall(r'done op="(\w+)"(?:.* bytes=(\d+))?', log.read_text()):
            done[operation] += 1
            size += int(length) if operation == "put" else 0
    print(
        f"functional, {mode}: {len(passed)} passed, {counts['skipped']} skipped, "
        f"{len(failed)} failed"
    )
    for name in failed:
        print(f"failed: {name}")
    if not passed:
        sys.exit("no test passed")
    lost = lacking("functional.txt", passed, regex)
    if mode == "imaged":
        told = ", ".join(f"{count} {operation}" for operation, count in sorted(done.items()))
        print(f"through the daemon: {told or 'nothing'}; {size} bytes put")
        if not size:
            sys.exit("no image went through the daemon")
    return bool(failed or lost)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
