"""Runs OpenStack's own tests of images against the rig, and prints the counts.

run_tempest.py DIR MODE [REGEX]
run_tempest.py DIR MODE interop
run_tempest.py DIR MODE volumes
run_tempest.py DIR rbac

The exit code is 0 if nothing failed, and each test of tempest.txt that matches has passed. Of
interop.txt each must pass. `volumes` runs what of tempest.api.volume makes images, or volumes of
them, by the driver that has the daemon clone: nothing may fail, and each of volumes.txt must pass.
`rbac` runs the tests of glance-tempest-plugin in-process and with the daemon: what passes without it
must with it.
"""

import contextlib
import os
import random
import re
import subprocess
import sys
from pathlib import Path

from cloud import Glance, Rig, check_accounts
from kept import lacking
from seed import connect

# Glance checks formats, has no second Glance to import from, and no Nova beside it. For volumes tempest is
# told of a Neutron, without which it skips whole classes, and is not to make networks.
CONF = """\
[DEFAULT]
log_dir = {work}/logs
log_file = tempest.log
[oslo_concurrency]
lock_path = {work}/lock
[auth]
admin_username = {username}
admin_password = {password}
admin_project_name = {project_name}
admin_domain_name = Default
use_dynamic_credentials = true
create_isolated_networks = false
[identity]
uri_v3 = {keystone}
region = {region}
auth_version = v3
[service_available]
glance = true
cinder = true
nova = false
neutron = {neutron}
swift = false
horizon = false
[image]
catalog_type = {service}
region = {region}
http_image = {files}/tempest.img
http_qcow2_image = {files}/tempest.qcow2
image_caching_enabled = true
hashing_algorithm = sha512
build_timeout = 60
[image-feature-enabled]
image_format_enforcement = {formats}
import_image = true
manage_locations = true
http_store_enabled = true
store_weight_enabled = true
do_secure_hash = true
[compute]
image_ref = {image}
[volume]
volume_type = clone
storage_protocol = ceph
[volume-feature-enabled]
backup = false
[enforce_scope]
glance = {scope}
"""
# Tests of what each persona may do, which are skipped without enforce_scope.
RBAC = r"glance_tempest_plugin\.tests\.rbac"
INTEROP = Path(__file__).with_name("interop.txt")
# Those that make images, or volumes of them.
VOLUMES = (
    r"tempest\.api\.volume\.test_(image_metadata|volume_delete_cascade"
    r"|volumes_(actions|clone|extend|get|negative|snapshots))\."
)

# Tests that race with Glance whatever its stores are: one that fails is run once more.
RACES = {
    # Looks for the algorithm of the hash once the image is active; Glance saves it right afterwards.
    "tempest.api.image.v2.test_images.HashCalculationRemoteDeletionTest"
    ".test_hash_calculation_cancelled",
}


@contextlib.contextmanager
def catalogued(rig, kind, url):
    """A service of this type in the catalog."""
    password = rig["users"]["admin"]["password"]
    identity = connect(rig["keystone"].removesuffix("/v3"), password).identity
    service = identity.create_service(name=kind, type=kind)
    for interface in ("public", "internal", "admin"):
        identity.create_endpoint(
            service_id=service.id, interface=interface, url=url, region_id=rig["region"]
        )
    try:
        yield
    finally:
        identity.delete_service(service)


@contextlib.contextmanager
def lenient(rig):
    """The type of a service in the catalog: a Glance beside the rig's that takes any bytes.

    Tests upload bytes that are none, and are skipped where Glance looks at them.
    """
    conf = "[image_format]\nrequire_image_format_match = false\n"
    with rig.beside(conf) as url, catalogued(rig, "image-lenient", url):
        yield "image-lenient"


@contextlib.contextmanager
def network(rig):
    """What tempest asks a Neutron for at the end of a class of tests: there are no security groups."""
    folder = Path(rig["www"]) / "network" / "v2.0"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "security-groups").write_text('{"security_groups": []}')
    with catalogued(rig, "network", f"{rig['files']}/network"):
        yield


def tempest(rig, mode, regex, service="image", image=""):
    """Runs these tests, `image` for volumes; the exit code, and the names of those that passed."""
    rig.use(mode)
    glance = Glance(rig)
    before = {image["id"] for image in glance.images()}
    work = rig.folder / "tempest"
    program = Path(sys.executable).parent / "tempest"
    # Else it notes its workspaces in the user's own home.
    environment = os.environ | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "HOME": str(rig.folder / "run"),
    }

    www = Path(rig["www"])
    raw, qcow2 = www / "tempest.img", www / "tempest.qcow2"
    raw.write_bytes(random.Random(2).randbytes(3 << 20))
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2], check=True, timeout=60
    )
    if not (work / ".stestr.conf").exists():
        subprocess.run(
            [program, "init", work], check=True, env=environment, stdout=subprocess.DEVNULL
        )
    (work / "etc" / "tempest.conf").write_text(
        CONF.format(
            work=work,
            scope=regex == RBAC,
            service=service,
            formats=service == "image",
            image=image,
            neutron=bool(image),
            **rig["users"]["admin"],
            **rig.facts,
        )
    )
    log = rig.folder / "log" / f"tempest-{mode}.out"

    def run(regex):
        """The exit code, and the names of what failed and what passed."""
        # One worker: its tests of quotas and of the cache count what others would change.
        with log.open("w") as out:
            done = subprocess.run(
                [program, "run", "--regex", regex, "--concurrency", "1"],
                cwd=work,
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=1800,
                check=False,
            )
        text = log.read_text()
        counts = dict(re.findall(r"^ - (\w[\w ]*): +(\d+)$", text, re.MULTILINE))
        if not counts:
            sys.exit(f"tempest did not run:\n{text[-2000:]}")
        print(
            f"tempest {regex[:80]}, {mode}:", ", ".join(f"{n} {what}" for what, n in counts.items())
        )
        failed = re.findall(r"^\{\d+\} (\S+).* \.\.\. FAILED$", text, re.MULTILINE)
        for name in failed:
            print(f"failed: {name}")
        if failed:
            print(text[text.find("output below") :][:6000])
        passed = re.findall(r"^\{\d+\} (\S+?)(?:\[.*)? .* ok$", text, re.MULTILINE)
        return done.returncode, failed, passed

    code, failed, passed = run(regex)
    if failed and all(name in RACES for name in failed):
        print("once more, for these race with Glance itself:")
        code, _, more = run("|".join(map(re.escape, failed)))
        passed += more
    check_accounts(rig, glance)
    # Some of tempest's tests leave their images.
    for image in glance.images():
        if image["id"] not in before:
            glance.delete(image["id"])
    check_accounts(rig, glance)
    print("every byte in the stores is accounted for")
    return code, set(passed)


def main(folder, mode, regex="tempest.api.image"):
    rig = Rig(folder)
    if mode == "rbac":
        _, without = tempest(rig, "in-process", RBAC)
        _, passed = tempest(rig, "imaged", RBAC)
        for name in sorted(without - passed):
            print(f"passes in-process only: {name}")
        return not without or not without <= passed
    if regex == "interop":
        names = INTEROP.read_text().split()
        rig.use(mode)
        with lenient(rig) as service:
            _, passed = tempest(rig, mode, "|".join(map(re.escape, names)), service)
        return bool(lacking(INTEROP.name, passed))
    if regex == "volumes":
        rig.use(mode)
        glance = Glance(rig)
        # In Ceph it would be held by what Cinder leaves of its clones.
        raw = random.Random(3).randbytes(3 << 20)
        image = glance.active(raw, "fast", visibility="public", min_disk=1)
        try:
            with lenient(rig) as service, network(rig):
                code, passed = tempest(rig, mode, VOLUMES, service, image)
        finally:
            glance.delete(image)
        return code or bool(lacking("volumes.txt", passed))
    code, passed = tempest(rig, mode, regex)
    lost = lacking("tempest.txt", passed, regex)
    return code or bool(lost) or not passed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
