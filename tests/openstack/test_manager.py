"""conf/policy/manager.yaml: what a manager of images may do, and others may not."""

from pathlib import Path

import pytest
from changes import deactivate, delete, patch, put_tag, reactivate, rename, tag
from cloud import Glance, until

pytestmark = pytest.mark.imaged
POLICY = Path(__file__).parents[2] / "conf/policy/manager.yaml"
USERS = ("admin", "manager", "demo", "reader", "other", "other-manager")


@pytest.fixture(scope="module")
def users(rig):
    """By name, in a Glance with the policy."""
    rig.use("imaged")
    with rig.beside(policy=POLICY.read_text()) as url:
        yield {name: Glance(rig, name, url) for name in USERS}


@pytest.fixture
def image(imaged, users):
    """Makes an active image of the project demo."""

    def make(**properties):
        return imaged.active(b"bytes", "fast", owner=users["demo"].project, **properties)

    return make


# What may be done with an image that is prepared: each answers with its status.


def communitize(user, image):
    return patch(user, image, "replace", "/visibility", "community")


def publicize(user, image):
    return patch(user, image, "replace", "/visibility", "public")


def add_member(user, image):
    return user.ask("POST", f"/images/{image}/members", json={"member": "another"}).status_code


def delete_member(user, image):
    return user.ask("DELETE", f"/images/{image}/members/another").status_code


def copy(user, image):
    return user.fetch(image, "copy-image", ["plain-file"], expect=None).status_code


def download(user, image):
    return user.ask("GET", f"/images/{image}/file").status_code


def read_deactivated(user, image):
    """As an administrator has deactivated it."""
    assert deactivate(Glance(user.rig), image) == 204
    return download(user, image)


def take_out_of_a_store(user, image):
    return user.ask("DELETE", f"/stores/fast/{image}").status_code


MANAGED = {
    deactivate: 204,
    reactivate: 204,
    communitize: 200,
    delete: 204,
    add_member: 200,
    delete_member: 204,
    copy: 202,
}


def prepared(imaged, make, operation, **properties):
    made = make(**properties)
    if operation is reactivate:
        assert deactivate(imaged, made) == 204
    if operation is delete_member:
        assert add_member(imaged, made) == 200
    return made


def state(imaged, image):
    """What an operation would change."""
    answer = imaged.ask("GET", f"/images/{image}", (200, 404))
    if answer.status_code == 404:
        return None
    members = imaged.ask("GET", f"/images/{image}/members", (200, 403)).text
    return {**answer.json(), "updated_at": None}, members


def attempt(imaged, user, operation, made):
    """The status, and whether anything has changed."""
    before = state(imaged, made)
    status = operation(user, made)
    if operation is copy and status == 202:
        imaged.settled(made)
    return status, state(imaged, made) != before


@pytest.mark.parametrize("operation", MANAGED)
def test_what_a_manager_may(imaged, users, image, operation):
    """In the own project, as an administrator; a member and a reader may not."""
    done = (MANAGED[operation], True)
    expected = {
        "reader": (403, False),
        "demo": (403, False),
        # Who does not see an image is not told that it is there.
        "other": (404, False),
        "other-manager": (404, False),
        "manager": done,
        "admin": done,
    }
    found = {}
    for name in expected:
        made = prepared(imaged, image, operation, visibility="shared")
        found[name] = attempt(imaged, users[name], operation, made)
    assert found == expected


# Only images that are shared have members.
@pytest.mark.parametrize("operation", [deactivate, reactivate, delete, copy])
def test_a_community_image_is_its_project_s(imaged, users, image, operation):
    """All see it; a manager of another project may do no more with it than a member."""
    found = {}
    for name in ("demo", "other", "other-manager", "manager"):
        made = prepared(imaged, image, operation, visibility="community")
        found[name] = attempt(imaged, users[name], operation, made)
    refused = (403, False)
    assert found == {
        "demo": refused,
        "other": refused,
        "other-manager": refused,
        "manager": (MANAGED[operation], True),
    }


@pytest.mark.parametrize("operation", [publicize, take_out_of_a_store, read_deactivated])
def test_what_is_an_administrator_s(imaged, users, image, operation):
    found = {}
    for name in ("reader", "demo", "manager", "admin"):
        made = image()
        if operation is take_out_of_a_store:
            # The last location cannot go.
            imaged.fetch(made, "copy-image", ["plain-file"])
            imaged.imported(made, ["plain-file"])
        found[name] = operation(users[name], made)
    done = {publicize: 200, take_out_of_a_store: 204, read_deactivated: 200}[operation]
    assert found == {"reader": 403, "demo": 403, "manager": 403, "admin": done}


@pytest.mark.parametrize("name", ["demo", "manager"])
def test_images_are_made_as_before(imaged, users, raw, name):
    """By a member, and by a manager, who is one too."""
    user = users[name]
    made = user.create()
    imaged.made.append(made)
    user.upload(made, raw, "ceph")
    assert user.download(made).content == raw
    assert made in [one["id"] for one in user.images()]
    assert rename(user, made) == 200
    tag(user, made)
    assert patch(user, made, "replace", "/visibility", "private") == 200
    user.ask("POST", "/images", 403, json={"name": "test", "visibility": "public"})
    imported = user.create()
    imaged.made.append(imported)
    user.stage(imported, raw)
    user.fetch(imported, "glance-direct", ["fast"])
    user.imported(imported, ["fast"])
    assert user.download(imported).content == raw


def test_a_member_makes_no_community_image(users):
    body = {"name": "test", "visibility": "community"}
    users["demo"].ask("POST", "/images", 403, json=body)


def test_a_manager_makes_a_community_image(imaged, users):
    body = {"name": "test", "visibility": "community"}
    users["manager"].ask("POST", "/images", 201, json=body)


def test_a_reader_only_reads(imaged, users, image):
    """And no bytes."""
    made, user = image(), users["reader"]
    found = [operation(user, made) for operation in (rename, put_tag, download)]
    assert found == [403, 403, 403]
    user.ask("POST", "/images", 403, json={"name": "test"})
    assert user.upload(imaged.create(owner=user.project), b"bytes", expect=None).status_code == 403
    assert user.show(made)["id"] == made
    assert made in [one["id"] for one in user.images()]


def test_a_shared_image_is_its_member_s_to_accept(imaged, users, image):
    """As by default: who got an image decides, not who gave it."""
    made = image(visibility="shared")
    users["manager"].ask(
        "POST", f"/images/{made}/members", 200, json={"member": users["other"].project}
    )
    accept = {"status": "accepted"}
    path = f"/images/{made}/members/{users['other'].project}"
    users["manager"].ask("PUT", path, 403, json=accept)
    users["other"].ask("PUT", path, 200, json=accept)
    assert delete(users["other-manager"], made) == 403


def test_an_image_that_nobody_owns(imaged, rig, users):
    made = imaged.active(b"bytes", "fast", visibility="community")
    rig.sql("glance", f"UPDATE images SET owner = NULL WHERE id = '{made}'")
    for operation in (deactivate, delete, copy):
        assert attempt(imaged, users["manager"], operation, made) == (403, False), operation
    assert delete(users["admin"], made) == 204


def test_a_protected_image(imaged, users, image):
    made = image(protected=True)
    assert delete(users["manager"], made) == 403
    assert patch(users["manager"], made, "replace", "/protected", False) == 200
    assert delete(users["manager"], made) == 204


def test_a_copy_has_the_bytes(imaged, rig, users, image):
    made = image()
    assert copy(users["manager"], made) == 202
    until("the copy", lambda: imaged.show(made)["stores"] == "fast,plain-file")
    imaged.settled(made)
    assert rig.held("plain-file") == {made: len(b"bytes")}
