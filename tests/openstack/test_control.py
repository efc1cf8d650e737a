"""The routes of imaged.glance.api in a real Glance, with MariaDB and Keystone's limits."""

import contextlib
import json
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import openstack
import pytest
from cloud import Glance

TYPES = "/metadefs/resource_types"
SPACES = "/metadefs/namespaces"
pytestmark = pytest.mark.imaged


@pytest.fixture(scope="module", autouse=True)
def extended(rig):
    with rig.extended():
        yield


def identity(rig):
    facts = rig["users"]["admin"]
    return openstack.connect(auth_url=rig["keystone"], region_name=rig["region"], **facts).identity


def glance_s(rig, keystone):
    """What a limit of Glance's has."""
    service = next(keystone.services(name="glance")).id
    return {"service_id": service, "region_id": rig["region"]}


@pytest.fixture
def limits(rig):
    """Sets limits of the project demo; they are gone afterwards."""
    keystone = identity(rig)
    project = keystone.find_project("demo").id
    made = []

    def limit(**values):
        for name, value in values.items():
            facts = {"project_id": project, "resource_name": name, "resource_limit": value}
            made.append(keystone.create_limit(**facts, **glance_s(rig, keystone)))
        return project

    yield limit
    for one in made:
        keystone.delete_limit(one)


@contextlib.contextmanager
def unregistered(rig, name):
    """Keystone knows nothing of this quota."""
    keystone = identity(rig)
    of_glance = glance_s(rig, keystone)
    (known,) = keystone.registered_limits(resource_name=name, **of_glance)
    keystone.delete_registered_limit(known)
    try:
        yield
    finally:
        keystone.create_registered_limit(
            resource_name=name, default_limit=known.default_limit, **of_glance
        )


def clone(glance):
    """Another client with the same token, for another thread."""
    one = Glance.__new__(Glance)
    one.rig, one.url, one.session = glance.rig, glance.url, type(glance.session)()
    one.session.trust_env = False
    one.session.headers["X-Auth-Token"] = glance.session.headers["X-Auth-Token"]
    return one


def test_resource_types(imaged, rig):
    made = imaged.ask("POST", TYPES, 201, json={"name": "OS::Test::Alone"})
    assert made.headers["Location"].endswith(f"{TYPES}/OS%3A%3ATest%3A%3AAlone")
    # MariaDB does not tell these apart.
    imaged.ask("POST", TYPES, 409, json={"name": "os::test::alone"})
    imaged.ask("POST", TYPES, 400, json={"name": "\N{GRINNING FACE}"})
    for name in ("reader", "demo", "manager"):
        user = Glance(rig, name)
        user.ask("POST", TYPES, 403, json={"name": "OS::Test::Other"})
        user.ask("DELETE", f"{TYPES}/OS::Test::Alone", 403)
    imaged.ask("DELETE", f"{TYPES}/OS::Test::Alone", 204)
    imaged.ask("DELETE", f"{TYPES}/OS::Test::Alone", 404)


def test_names_of_any_kind(imaged):
    """As long as the column, or longer; of other alphabets; what a path or a pattern has a use for."""
    for name in ("n" * 80, "\N{CJK UNIFIED IDEOGRAPH-65E5}" * 80, "a/b?c#d%", "a\nb", "a\n"):
        made = imaged.ask("POST", TYPES, 201, json={"name": name})
        at = f"{TYPES}/{quote(name, safe='')}"
        assert made.headers["Location"].endswith(at)
        listed = imaged.ask("GET", TYPES, 200).json()["resource_types"]
        assert name in [one["name"] for one in listed]
        imaged.ask("DELETE", at, 204)
    imaged.ask("POST", TYPES, 400, json={"name": "n" * 81})
    # Half of a character.
    imaged.ask("POST", TYPES, 400, json={"name": "\ud800"})
    imaged.ask("DELETE", f"{TYPES}/{'n' * 1000}", 404)
    imaged.ask("DELETE", f"{TYPES}/{quote(chr(0x1F600))}", 404)


def test_who_has_no_token(imaged, rig):
    """None, a wrong one, and one that is over."""
    over = Glance(rig, "demo")
    token = over.session.headers["X-Auth-Token"]
    imaged.session.delete(f"{rig['keystone']}/auth/tokens", headers={"X-Subject-Token": token})
    none, wrong = clone(over), clone(over)
    del none.session.headers["X-Auth-Token"]
    wrong.session.headers["X-Auth-Token"] = "wrong"
    for user in (none, wrong, over):
        user.ask("POST", TYPES, 401, json={"name": "OS::Test::Alone"})
        user.ask("DELETE", f"{TYPES}/OS::Nova::Server", 401)
        user.ask("GET", "/info/usage", 401)


def test_what_glance_was_installed_with_is_held(imaged):
    """As db_load_metadefs made it: protected, and namespaces are associated with it."""
    imaged.ask("DELETE", f"{TYPES}/OS::Nova::Server", 403)


def test_a_type_that_a_namespace_of_another_project_has_is_held(imaged, rig):
    space, name = "OS::Test::Private", "OS::Test::Held"
    body = {"namespace": space, "owner": Glance(rig, "other").project, "visibility": "private"}
    imaged.ask("POST", SPACES, 201, json=body)
    path = f"{SPACES}/{space}/resource_types"
    imaged.ask("POST", path, 201, json={"name": name})
    imaged.ask("DELETE", f"{TYPES}/{name}", 409)
    imaged.ask("DELETE", f"{path}/{name}", 204)
    imaged.ask("DELETE", f"{TYPES}/{name}", 204)
    imaged.ask("DELETE", f"{SPACES}/{space}", 204)


def test_a_type_made_and_deleted_at_a_time(imaged):
    """One of those who ask at a time is the first, and nobody is told of an error."""
    name, start = "OS::Test::Twins", threading.Barrier(4)

    def change(method, path, **more):
        one = clone(imaged)
        found = []
        for _ in range(25):
            start.wait(60)
            found.append(one.ask(method, path, **more).status_code)
        return found

    with ThreadPoolExecutor(4) as pool:
        made = [pool.submit(change, "POST", TYPES, json={"name": name}) for _ in range(2)]
        gone = [pool.submit(change, "DELETE", f"{TYPES}/{name}") for _ in range(2)]
        created = [status for one in made for status in one.result()]
        deleted = [status for one in gone for status in one.result()]
    left = imaged.ask("DELETE", f"{TYPES}/{name}", (204, 404)).status_code
    assert set(created) <= {201, 409}, created
    assert set(deleted) <= {204, 404}, deleted
    assert created.count(201) == [*deleted, left].count(204) > 0


def test_associations_and_deletions_at_a_time(imaged, rig):
    """Each is done or refused, none fails, and no association is left without its type."""
    name = "OS::Test::Parallel"
    spaces = [f"OS::Test::Space{n}" for n in range(4)]
    for space in spaces:
        imaged.ask("POST", SPACES, 201, json={"namespace": space})

    def associate(space):
        one = clone(imaged)
        found = []
        for _ in range(25):
            path = f"{SPACES}/{space}/resource_types"
            found.append(one.ask("POST", path, json={"name": name}).status_code)
            found.append(one.ask("DELETE", f"{path}/{name}").status_code)
        return found

    def delete(_):
        one = clone(imaged)
        return [one.ask("DELETE", f"{TYPES}/{name}").status_code for _ in range(50)]

    with ThreadPoolExecutor(6) as pool:
        made = [pool.submit(associate, space) for space in spaces]
        gone = [pool.submit(delete, n) for n in range(2)]
        associated = [status for one in made for status in one.result()]
        deleted = [status for one in gone for status in one.result()]
    assert set(associated) <= {201, 204, 404, 409}, associated
    assert set(deleted) <= {204, 404, 409}, deleted
    assert 201 in associated
    assert 204 in deleted
    database = ["mariadb", "--no-defaults", "--socket", f"{rig['dir']}/database/socket", "-NB"]
    lost = subprocess.run(
        [
            *(*database, "glance", "-e"),
            "SELECT COUNT(*) FROM metadef_namespace_resource_types WHERE resource_type_id"
            " NOT IN (SELECT id FROM metadef_resource_types)",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert lost.stdout.strip() == "0"
    for space in spaces:
        imaged.ask("DELETE", f"{SPACES}/{space}", 204)
    imaged.ask("DELETE", f"{TYPES}/{name}", (204, 404))


def test_what_remains_of_a_quota(imaged, rig, limits, raw):
    project = limits(image_size_total=20, image_count_total=-1)
    user = Glance(rig, "demo")
    image = user.active(raw, "ceph")
    imaged.made.append(image)
    told = user.ask("GET", "/info/usage", 200).json()["usage"]
    size = len(raw) >> 20
    assert told["image_size_total"] == {
        "limit": 20,
        "usage": size,
        "remaining": 20 - size,
        "registered": True,
    }
    assert (told["image_count_total"]["limit"], told["image_count_total"]["remaining"]) == (-1, -1)
    assert told["image_count_total"]["usage"] == 1
    assert told["image_stage_total"]["limit"] > told["image_stage_total"]["usage"] == 0
    assert imaged.ask("GET", f"/info/usage?project_id={project}", 200).json()["usage"] == told
    assert imaged.ask("GET", "/info/usage", 200).json()["usage"] != told
    other = identity(rig).find_project("admin").id
    user.ask("GET", f"/info/usage?project_id={other}", 403)
    reader = Glance(rig, "reader")
    assert reader.ask("GET", "/info/usage", 200).json()["usage"] == told
    assert reader.ask("GET", f"/info/usage?project_id={project}", 200).json()["usage"] == told
    reader.ask("GET", f"/info/usage?project_id={other}", 403)


def test_whose_usage_may_be_asked_for(imaged):
    unknown = imaged.ask("GET", "/info/usage?project_id=unknown", 200).json()["usage"]
    assert {one["usage"] for one in unknown.values()} == {0}
    for bad in ("", "%20", "a/b", "..", "%00", "%FF", "%F0%9F%98%80", "p" * 65, "p" * 2000):
        imaged.ask("GET", f"/info/usage?project_id={bad}", 400)
    imaged.ask("GET", "/info/usage?project_id=one&project_id=two", 400)


def test_a_quota_that_keystone_does_not_know(imaged, rig):
    """It is told as such, and as what Glance makes of it: nothing is allowed."""
    user = Glance(rig, "demo")
    with unregistered(rig, "image_count_total"):
        told = user.ask("GET", "/info/usage", 200).json()["usage"]
        assert told["image_count_total"] == {
            "limit": 0,
            "usage": 0,
            "remaining": 0,
            "registered": False,
        }
        assert told["image_size_total"]["registered"]
        user.ask("POST", "/images", 413, json={"name": "one too many"})
        command = [rig["program"], "usage"]
        shown = subprocess.run(
            command, capture_output=True, text=True, env=rig.login("demo"), timeout=60, check=True
        )
        lines = [line.split() for line in shown.stdout.splitlines()]
        assert ["image_count_total", "not-registered", "0", "0"] in lines


def test_a_quota_is_enforced_as_it_is_told(imaged, rig, limits, raw):
    limits(image_count_total=1)
    user = Glance(rig, "demo")
    imaged.made.append(user.active(raw[:1000], "fast"))
    assert user.ask("GET", "/info/usage").json()["usage"]["image_count_total"]["remaining"] == 0
    user.ask("POST", "/images", 413, json={"name": "one too many"})


def test_the_command_tells_it(imaged, rig, limits):
    limits(image_count_total=-1)
    environment = rig.login("demo")

    def run(*arguments, environment=environment):
        return subprocess.run(
            [rig["program"], "usage", *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
            check=False,
        )

    told = Glance(rig, "demo").ask("GET", "/info/usage", 200).json()
    assert json.loads(run("--json").stdout) == told
    lines = run().stdout.splitlines()
    assert lines[0].split() == ["QUOTA", "LIMIT", "USED", "REMAINING"]
    assert ["image_count_total", "unlimited", "0", "unlimited"] in [line.split() for line in lines]
    refused = run("--project", "another")
    assert refused.returncode == 1
    assert "administrator" in refused.stderr
    project = Glance(rig, "demo").project
    asked = run("--json", "--project", project, environment=rig.login("admin"))
    assert json.loads(asked.stdout) == told
    environment["OS_PASSWORD"] = "wrong"
    refused = run()
    assert refused.returncode == 1
    assert "login" in refused.stderr
