"""Fills a fresh Keystone and the Cinder beside it, and prints the ids that tests need, NAME=VALUE.

    cinder_seed.py AUTH_URL PASSWORD CINDER_URL [ceph]

One process, because each call of the openstack command takes more than a second.
"""

import sys
import time

import openstack

# By name: the backend that has its volumes, and what else is told of it.
TYPES = {"files": ("files", {}), "iscsi": ("iscsi", {})}
CEPH_TYPES = {"ceph": ("ceph", {}), "shared": ("ceph", {"multiattach": "<is> True"})}
USERS = {
    ("service", "glance"): ("admin", "service"),
    ("service", "cinder"): ("admin", "service"),
    ("demo", "demo"): ("member",),
}


def connect(auth, password):
    return openstack.connect(
        auth_url=auth,
        username="admin",
        password=password,
        project_name="admin",
        user_domain_id="default",
        project_domain_id="default",
        region_name="rig",
    )


def seed_keystone(identity, password, cinder):
    roles = {role.name: role for role in identity.roles()}
    for name in ("service", "member"):
        if name not in roles:
            roles[name] = identity.create_role(name=name)
    projects = {}
    for (project_name, name), granted in USERS.items():
        if project_name not in projects:
            projects[project_name] = identity.create_project(name=project_name, domain_id="default")
        user = identity.create_user(name=name, password=password, domain_id="default")
        for role in granted:
            identity.assign_project_role_to_user(projects[project_name], user, roles[role])
        if name == "glance":
            print(f"user_id={user.id}")
            print(f"roles={','.join(roles[role].id for role in granted)}")
    # The older name is what glance_store asks for unless it is told otherwise.
    for kind in ("volumev3", "block-storage"):
        service = identity.create_service(name="cinder", type=kind)
        for interface in ("public", "internal", "admin"):
            identity.create_endpoint(
                service_id=service.id,
                interface=interface,
                url=f"{cinder}/v3/%(project_id)s",
                region_id="rig",
            )


def seed_cinder(volumes, types):
    for name, (backend, more) in types.items():
        volumes.create_type(name=name, extra_specs={"volume_backend_name": backend} | more)
    wanted = {backend for backend, _ in types.values()}
    deadline = time.monotonic() + 60
    while True:
        # Without details: Cinder stumbles over them where all of it is in one process.
        answer = volumes.get("/scheduler-stats/get_pools").json()
        pools = {pool["name"] for pool in answer["pools"]}
        if len(pools) == len(wanted):
            return
        if time.monotonic() > deadline:
            sys.exit(f"the scheduler knows these backends only: {pools}")
        time.sleep(0.1)


def main(auth, password, cinder, *more):
    seed_keystone(connect(auth, password).identity, password, cinder)
    # With the catalog as it is now.
    types = TYPES | CEPH_TYPES if "ceph" in more else TYPES
    seed_cinder(connect(auth, password).block_storage, types)


if __name__ == "__main__":
    main(*sys.argv[1:])
