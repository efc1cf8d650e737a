"""Tags of a metadata namespace, which replace those that are there, or come to them."""

import pytest
from changes import Fault
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


def test_tags_replace_those_before(namespace):
    for append in (None, "False", "0", "no", "perhaps"):
        put(namespace, "one", "two")
        put(namespace, "three", append=append)
        assert tags(namespace) == {"three"}, append


def test_tags_come_to_those_before(namespace):
    for append in ("True", "true", "1", "yes"):
        put(namespace, "one", "two")
        answer = put(namespace, "three", append=append)
        # Only what came is told.
        assert answer.json()["tags"] == [{"name": "three"}]
        assert tags(namespace) == {"one", "two", "three"}, append


def test_what_is_refused_changes_nothing(namespace, rig):
    put(namespace, "one")
    put(namespace, "two", "one", append="True", expect=409)
    assert tags(namespace) == {"one"}
    put(Glance(rig, "demo"), "three", append="True", expect=403)
    assert tags(namespace) == {"one"}
    path = "/metadefs/namespaces/OS::Test::None/tags"
    namespace.ask("POST", path, 404, json={"tags": [{"name": "one"}]})


@pytest.mark.xfail(raises=Fault, strict=True, reason="Glance asks the database, and not its schema")
def test_a_name_that_is_too_long(namespace):
    put(namespace, "one")
    answer = put(namespace, "a" * 81, append="True", expect=(400, 500))
    assert tags(namespace) == {"one"}
    if answer.status_code == 500:
        raise Fault("it is taken for an error of the server's")


@pytest.mark.xfail(raises=Fault, strict=True, reason="Glance reads paths as ISO 8859-1")
def test_a_tag_of_an_image_that_is_not_ascii(imaged):
    image = imaged.create()
    imaged.ask("PUT", f"/images/{image}/tags/%C3%BC", 204)
    (tag,) = imaged.show(image)["tags"]
    if tag == "\N{LATIN SMALL LETTER U WITH DIAERESIS}".encode().decode("iso-8859-1"):
        raise Fault("it is two others")
    assert tag == "\N{LATIN SMALL LETTER U WITH DIAERESIS}"
