"""Tags of a metadata namespace, which replace those that are there, or come to them."""

import pytest
from cloud import Glance

pytestmark = pytest.mark.imaged
NAMESPACE = "OS::Test::Tags"
PATH = f"/metadefs/namespaces/{NAMESPACE}/tags"


@pytest.fixture
def namespace(imaged):
    imaged.ask(
        "POST", "/metadefs/namespaces", 201, json={"namespace": NAMESPACE, "visibility": "public"}
    )
    yield imaged
    imaged.ask("DELETE", f"/metadefs/namespaces/{NAMESPACE}", 204)


def put(glance, *names, append=None, expect=201):
    headers = {} if append is None else {"X-Openstack-Append": append}
    body = {"tags": [{"name": name} for name in names]}
    return glance.ask("POST", PATH, expect, json=body, headers=headers)


def tags(glance):
    return {one["name"] for one in glance.ask("GET", PATH, 200).json()["tags"]}


@pytest.mark.parametrize("append", [None, "False", "0", "no", "perhaps"])
def test_tags_replace_those_before(namespace, append):
    put(namespace, "one", "two")
    put(namespace, "three", append=append)
    assert tags(namespace) == {"three"}


@pytest.mark.parametrize("append", ["True", "true", "1", "yes"])
def test_tags_come_to_those_before(namespace, append):
    put(namespace, "one", "two")
    answer = put(namespace, "three", append=append)
    # Only what came is told.
    assert answer.json()["tags"] == [{"name": "three"}]
    assert tags(namespace) == {"one", "two", "three"}


def test_what_is_refused_changes_nothing(namespace, rig):
    put(namespace, "one")
    put(namespace, "two", "one", append="True", expect=409)
    assert tags(namespace) == {"one"}
    put(namespace, "a" * 81, append="True", expect=400)
    put(Glance(rig, "demo"), "three", append="True", expect=403)
    assert tags(namespace) == {"one"}
    path = "/metadefs/namespaces/OS::Test::None/tags"
    namespace.ask("POST", path, 404, json={"tags": [{"name": "one"}]})
