"""The routes of imaged.glance.api in a real Glance, with MariaDB and Keystone's limits."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

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


@pytest.fixture
def limits(rig):
    """Sets limits of the project demo; they are gone afterwards."""
    keystone = identity(rig)
    project = keystone.find_project("demo").id
    service = next(keystone.services(name="glance")).id
    made = []

    def limit(**values):
        for name, value in values.items():
            made.append(
                keystone.create_limit(
                    project_id=project,
                    service_id=service,
                    region_id=rig["region"],
                    resource_name=name,
                    resource_limit=value,
                )
            )
        return project

    yield limit
    for one in made:
        keystone.delete_limit(one)


def test_resource_types(imaged, rig):
    made = imaged.ask("POST", TYPES, 201, json={"name": "OS::Test::Alone"})
    assert made.headers["Location"].endswith(f"{TYPES}/OS%3A%3ATest%3A%3AAlone")
    # MariaDB does not tell these apart.
    imaged.ask("POST", TYPES, 409, json={"name": "os::test::alone"})
    imaged.ask("POST", TYPES, 400, json={"name": "\N{GRINNING FACE}"})
    user = Glance(rig, "demo")
    user.ask("POST", TYPES, 403, json={"name": "OS::Test::Other"})
    user.ask("DELETE", f"{TYPES}/OS::Test::Alone", 403)
    imaged.ask("DELETE", f"{TYPES}/OS::Test::Alone", 204)
    imaged.ask("DELETE", f"{TYPES}/OS::Test::Alone", 404)


def test_what_glance_was_installed_with_is_held(imaged):
    """As db_load_metadefs made it: protected, and namespaces are associated with it."""
    imaged.ask("DELETE", f"{TYPES}/OS::Nova::Server", (403, 409))


def test_associations_and_deletions_at_a_time(imaged, rig):
    """Each is done or refused, none fails, and no association is left without its type."""
    name = "OS::Test::Parallel"
    spaces = [f"OS::Test::Space{n}" for n in range(4)]
    for space in spaces:
        imaged.ask("POST", SPACES, 201, json={"namespace": space})
    token = imaged.session.headers["X-Auth-Token"]

    def client():
        one = Glance.__new__(Glance)
        one.rig, one.url, one.session = rig, imaged.url, type(imaged.session)()
        one.session.trust_env = False
        one.session.headers["X-Auth-Token"] = token
        return one

    def associate(space):
        one = client()
        found = []
        for _ in range(25):
            path = f"{SPACES}/{space}/resource_types"
            found.append(one.ask("POST", path, json={"name": name}).status_code)
            found.append(one.ask("DELETE", f"{path}/{name}").status_code)
        return found

    def delete(_):
        one = client()
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


def test_a_quota_is_enforced_as_it_is_told(imaged, rig, limits, raw):
    limits(image_count_total=1)
    user = Glance(rig, "demo")
    imaged.made.append(user.active(raw[:1000], "fast"))
    assert user.ask("GET", "/info/usage").json()["usage"]["image_count_total"]["remaining"] == 0
    user.ask("POST", "/images", 413, json={"name": "one too many"})


def test_the_command_tells_it(imaged, rig, limits):
    limits(image_count_total=-1)
    environment = rig.login("demo")

    def run(*arguments):
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
    environment["OS_PASSWORD"] = "wrong"
    refused = run()
    assert refused.returncode == 1
    assert "login" in refused.stderr
