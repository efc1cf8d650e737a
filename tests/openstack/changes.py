"""Changes of an image that several tests ask for; most answer with the status."""


class Fault(AssertionError):
    """What Glance does wrong, and is known to."""


def patch(glance, image, op, path, value=None):
    change = {"op": op, "path": path} | ({} if value is None else {"value": value})
    kind = "application/openstack-images-v2.1-json-patch"
    return glance.ask(
        "PATCH", f"/images/{image}", json=[change], headers={"Content-Type": kind}
    ).status_code


def deactivate(user, image):
    return user.ask("POST", f"/images/{image}/actions/deactivate").status_code


def reactivate(user, image):
    return user.ask("POST", f"/images/{image}/actions/reactivate").status_code


def delete(user, image):
    return user.ask("DELETE", f"/images/{image}").status_code


def rename(user, image):
    return patch(user, image, "replace", "/name", "other")


def put_tag(user, image):
    return user.ask("PUT", f"/images/{image}/tags/one").status_code


def tag(glance, image):
    assert put_tag(glance, image) == 204
