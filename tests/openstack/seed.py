"""Fills a fresh Keystone: projects, users, roles, services and endpoints.

seed.py KEYSTONE_URL ADMIN_PASSWORD GLANCE_URL GATEWAY_URL CINDER_URL

One process, because each call of the openstack command takes more than a second.
"""

import sys

import openstack

# What a project may have in Glance; sizes in MiB. More than any test makes, but for those of quotas.
LIMITS = {
    "image_size_total": 100_000,
    "image_stage_total": 100_000,
    "image_count_total": 1000,
    "image_count_uploading": 1000,
}


def connect(keystone, password):
    """The cloud, as its admin."""
    return openstack.connect(
        auth_url=f"{keystone}/v3",
        username="admin",
        password=password,
        project_name="admin",
        user_domain_id="default",
        project_domain_id="default",
        region_name="rig",
    )


def main(keystone, password, glance, gateway, cinder):
    identity = connect(keystone, password).identity
    roles = {role.name: role for role in identity.roles()}
    for name in ("service", "manager", "member", "reader"):
        roles.setdefault(name, None)
        roles[name] = roles[name] or identity.create_role(name=name)
    for project_name, users in (
        ("service", {"glance": ("admin", "service"), "cinder": ("admin", "service")}),
        (
            "demo",
            {
                "demo": ("member", "reader"),
                "manager": ("manager", "member", "reader"),
                "reader": ("reader",),
            },
        ),
        (
            "other",
            {"other": ("member", "reader"), "other-manager": ("manager", "member", "reader")},
        ),
    ):
        project = identity.create_project(name=project_name, domain_id="default")
        for name, granted in users.items():
            user = identity.create_user(
                name=name, password=password, domain_id="default", default_project_id=project.id
            )
            for role in granted:
                identity.assign_project_role_to_user(project, user, roles[role])
    # Glance asks for the limits of all projects.
    identity.assign_system_role_to_user(identity.find_user("glance"), roles["reader"], "all")
    for name, kind, url in (
        ("glance", "image", glance),
        ("cinder", "block-storage", f"{cinder}/v3"),
        ("swift", "object-store", f"{gateway}/swift/v1/AUTH_%(project_id)s"),
    ):
        service = identity.create_service(name=name, type=kind)
        for interface in ("public", "internal", "admin"):
            identity.create_endpoint(
                service_id=service.id, interface=interface, url=url, region_id="rig"
            )
        if name == "glance":
            for quota, limit in LIMITS.items():
                identity.create_registered_limit(
                    service_id=service.id,
                    region_id="rig",
                    resource_name=quota,
                    default_limit=limit,
                )


if __name__ == "__main__":
    main(*sys.argv[1:])
