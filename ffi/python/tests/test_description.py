"""The description of Glance's API is of the Glance that runs, and Glance keeps to it."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict

import pytest
import schemathesis
from conftest import beside
from glance_api import ADMIN
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from imaged.glance import description

COMMITTED = "conf/glance-openapi.json"
EXTENDED = "[paste_deploy]\nflavor = extended\n"
# Examples of each operation; 1000 take an hour.
EXAMPLES = int(os.environ.get("IMAGED_EXAMPLES", "50"))
# Operations, by a regular expression that their ids begin with.
OPERATIONS = re.compile(os.environ.get("IMAGED_OPERATIONS", ""))
# What Glance 33 answers 500 though it should not, where the fault is its own: in which operations,
# what its log says, and why. None is in the routes here.
FAULTS = (
    (
        r"metadef_(namespaces|objects|properties)\.(create|update)",
        r"wsme\.exc\.",
        "what is in namespaces and the like is read by WSME, whose errors nobody catches",
    ),
    (
        r"metadef_namespaces\.create",
        "'Namespace' object is not callable",
        "a name with a line break cannot be told by a Location header",
    ),
    (
        r"metadef_(namespaces|tags)\.index",
        r"oslo_db\.exception\.InvalidSortKey",
        "a sort key that they do not have is not refused",
    ),
    (
        r"metadef_(objects|properties)\.update",
        r"sqlalchemy\.exc\.PendingRollbackError",
        "that a name is taken is told from a transaction that has failed",
    ),
    (
        r"metadef_tags\.index",
        "Python int too large to convert to SQLite INTEGER",
        "a limit that the database cannot hold is not refused",
    ),
    (
        r"metadef_tags\.create_tags",
        "'UnsetType' object is not iterable",
        "a body without tags is not refused",
    ),
    (
        r"tasks\.create",
        "'NoneType' object has no attribute 'get'",
        "a task whose input is null is not refused",
    ),
)

# JSON too.
for media_type in description.PATCHES:
    schemathesis.serializer.alias(media_type, "application/json")


@pytest.fixture
def extended(api, tmp_path):
    (tmp_path / "local").mkdir()
    (tmp_path / "cache").mkdir()
    api.start(
        "local:file",
        f"[local]\nfilesystem_store_datadir = {tmp_path}/local\n",
        EXTENDED,
        f"[DEFAULT]\nimage_cache_dir = {tmp_path}/cache\nimage_cache_driver = centralized_db\n"
        "worker_self_reference_url = http://127.0.0.1:9292\n",
    )
    return api


def test_the_committed_description(extended):
    """IMAGED_REWRITE=1 writes it anew."""
    found = description.text(description.description())
    if os.environ.get("IMAGED_REWRITE"):
        beside(COMMITTED).write_text(found)
    assert found == beside(COMMITTED).read_text(), (
        "IMAGED_REWRITE=1 rewrites conf/glance-openapi.json"
    )


def test_it_has_every_operation(extended):
    document = json.loads(beside(COMMITTED).read_text())
    operations = [one for path in document["paths"].values() for one in path.values()]
    # Glance's own 81 at 51 paths, and two more of ours, one at a path of its own.
    assert (len(document["paths"]), len(operations)) == (52, 83)
    assert len({one["operationId"] for one in operations}) == 83


def seeds(api):
    """Values of parameters that lead somewhere."""
    image = api.create()
    assert api.upload(image, b"bytes", "local").status_int == 204
    kind = {"Content-Type": "application/json"}

    def send(path, body):
        return api.ask("POST", path, json.dumps(body).encode(), **kind)

    space = "/metadefs/namespaces/space"
    send("/metadefs/namespaces", {"namespace": "space"})
    send(f"{space}/objects", {"name": "object"})
    send(f"{space}/properties", {"name": "property", "title": "Title", "type": "string"})
    send(f"{space}/tags/tag", {})
    send(f"{space}/resource_types", {"name": "type"})
    send(f"/images/{image}/members", {"member": "other"})
    return {
        "image_id": image,
        "namespace": "space",
        "object_name": "object",
        "property_name": "property",
        "tag_name": "tag",
        "resource_type": "type",
        "name": "type",
        "member_id": "other",
        "store_id": "local",
    }


def exercise(operation, there, unexpected, log):
    """Send examples of an operation; what is not described goes to `unexpected`."""
    told = operation.definition.raw

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(), known=st.booleans())
    def run(case, known):
        if known:
            for name in case.path_parameters:
                case.path_parameters[name] = there.get(name, case.path_parameters[name])
        case.headers.update(ADMIN)
        log.clear()
        try:
            answer = case.call()
        except Exception as error:
            # What Glance does not catch is answered by its server.
            status, said = 500, repr(error)
        else:
            status, said = answer.status_code, log.text or answer.text
        known_fault = status == 500 and any(
            re.fullmatch(operations, told["operationId"]) and re.search(words, said)
            for operations, words, _ in FAULTS
        )
        if not known_fault and (str(status) not in told["responses"] or status >= 500):
            said = " ".join(said.split())[-300:]
            unexpected[told["operationId"], status].append(f"{said} {case.as_curl_command()}")

    run()


def test_glance_answers_as_described(extended, caplog):
    schema = schemathesis.openapi.from_dict(json.loads(beside(COMMITTED).read_text()))
    schema.app = extended.application
    unexpected = defaultdict(list)
    for found in schema.get_all_operations():
        operation = found.ok()
        if OPERATIONS.match(operation.definition.raw["operationId"]):
            exercise(operation, seeds(extended), unexpected, caplog)
    new = [(at, shown[:2]) for at, shown in unexpected.items()]
    assert not new, json.dumps(new, indent=1)
