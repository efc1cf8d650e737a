"""The routes that Glance's API gets, in a Glance in this process."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import glance.db
import pytest
import sqlalchemy
from glance.context import RequestContext
from glance.db.sqlalchemy import api as db
from glance.db.sqlalchemy import models_metadef as models
from keystoneauth1 import exceptions as auth_exceptions
from openstack import exceptions as sdk_exceptions
from oslo_limit import limit
from oslo_messaging.notify import _impl_test as told

from imaged.glance import api as routes
from imaged.glance import rules, usage

SECTIONS = """\
[paste_deploy]
flavor = extended
[oslo_messaging_notifications]
driver = test
[DEFAULT]
transport_url = fake:/
"""
LIMITED = "[DEFAULT]\nuse_keystone_limits = true\n[oslo_limit]\nendpoint_id = endpoint\n"
MEMBER = {"X_Roles": "member,reader"}
TYPES = "/metadefs/resource_types"
MIB = 1 << 20


@pytest.fixture
def extended(api, tmp_path):
    """A Glance with the routes; what it is started with beside is its argument."""
    (tmp_path / "local").mkdir()

    def start(*sections):
        local = f"[local]\nfilesystem_store_datadir = {tmp_path}/local\n"
        api.start("local:file", local, SECTIONS, *sections)
        return api

    told.reset()
    return start


@pytest.fixture
def plain(extended):
    return extended()


def send(api, method, path, body, **headers):
    return api.ask(method, path, json.dumps(body).encode(), **headers)


def new(prefix="OS::Test::"):
    return prefix + uuid.uuid4().hex


def names(api):
    return {one["name"] for one in api.ask("GET", TYPES).json["resource_types"]}


def namespace(api):
    made = new("namespace-")
    assert send(api, "POST", "/metadefs/namespaces", {"namespace": made}).status_int == 201
    return made


def events():
    return [(event["event_type"], event["payload"]) for _, event, *_ in told.NOTIFICATIONS]


# Resource types


def test_a_type_is_created_listed_and_deleted(plain):
    name = new()
    answer = send(plain, "POST", TYPES, {"name": name})
    assert answer.status_int == 201
    assert answer.location.endswith(f"/v2{TYPES}/{name.replace(':', '%3A')}")
    assert answer.json.keys() == {"name", "created_at", "updated_at"}
    assert answer.json["name"] == name
    assert name in names(plain)
    assert plain.ask("DELETE", f"{TYPES}/{name}").status_int == 204
    assert name not in names(plain)
    assert plain.ask("DELETE", f"{TYPES}/{name}").status_int == 404


def test_its_events_are_those_that_glance_has(plain):
    name = new()
    send(plain, "POST", TYPES, {"name": name})
    plain.ask("DELETE", f"{TYPES}/{name}")
    (created, what), (deleted, gone) = events()
    assert created == "metadef_resource_type.create"
    assert (what["name"], what["namespace"], what["deleted"]) == (name, None, False)
    assert deleted == "metadef_resource_type.delete"
    assert (gone["name"], gone["deleted"]) == (name, True)
    assert gone["deleted_at"]


def test_a_type_of_the_same_name_is_refused(plain):
    name = new()
    assert send(plain, "POST", TYPES, {"name": name}).status_int == 201
    answer = send(plain, "POST", TYPES, {"name": name})
    assert answer.status_int == 409
    assert name in answer.text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ([], 400),
        ("text", 400),
        ({"name": ""}, 400),
        ({"name": 1}, 400),
        ({"name": "n" * 81}, 400),
        ({"name": "n", "protected": True}, 400),
        ({"name": "n", "prefix": "hw_"}, 400),
        ({"name": "four bytes \N{GRINNING FACE}"}, 400),
        # Half of a character, which no database can hold.
        ({"name": "n\ud800"}, 400),
        ({"name": "n", "n\ud800": 1}, 400),
        # A path would name another, or none.
        ({"name": "n/"}, 400),
        ({"name": "/n"}, 400),
        ({"name": "n//n"}, 400),
        ({"name": "."}, 400),
        ({"name": "n/../n"}, 400),
        # As Glance answers it everywhere.
        ({"name": "n", "created_at": "2026-01-01T00:00:00Z"}, 403),
    ],
)
def test_what_is_no_type_is_refused(plain, body, status):
    assert send(plain, "POST", TYPES, body).status_int == status
    assert names(plain).isdisjoint({"", "n", "n" * 81})
    assert not events()


def test_no_body_and_no_json_are_refused(plain):
    assert plain.ask("POST", TYPES).status_int == 400
    assert plain.ask("POST", TYPES, b"{").status_int == 400
    assert plain.ask("DELETE", f"{TYPES}/any", b"{}").status_int == 400
    assert not events()


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "application/x-www-form-urlencoded; charset=none"]
)
def test_a_form_that_cannot_be_read_is_refused(plain, kind):
    assert plain.ask("POST", TYPES, b"--", Content_Type=kind).status_int == 400


def test_members_may_not_unless_a_policy_lets_them(extended, tmp_path):
    policies = tmp_path / "policy.yaml"
    policies.write_text("{}")
    api = extended(f"[oslo_policy]\npolicy_file = {policies}\n")
    name = new()
    assert send(api, "POST", TYPES, {"name": name}, **MEMBER).status_int == 403
    assert name not in names(api)
    send(api, "POST", TYPES, {"name": name})
    assert api.ask("DELETE", f"{TYPES}/{name}", **MEMBER).status_int == 403
    assert name in names(api)
    policies.write_text("delete_metadef_resource_type: role:member\n")
    api = extended(f"[oslo_policy]\npolicy_file = {policies}\n")
    assert api.ask("DELETE", f"{TYPES}/{name}", **MEMBER).status_int == 204
    assert send(api, "POST", TYPES, {"name": name}, **MEMBER).status_int == 403


def test_their_policies_are_known_to_the_generator_of_samples():
    generator = Path(sys.prefix) / "bin" / "oslopolicy-sample-generator"
    told = subprocess.run(
        [generator, "--namespace", "imaged"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert all(f'"{rule.name}": "{rule.check_str}"' in told for rule in rules.list_rules())


def test_a_protected_type_stays(plain):
    name = new()
    context = RequestContext(is_admin=True, roles=["admin"])
    glance.db.get_api().metadef_resource_type_create(context, {"name": name, "protected": True})
    assert plain.ask("DELETE", f"{TYPES}/{name}").status_int == 403
    assert name in names(plain)


def test_a_type_goes_once_no_namespace_holds_it(plain):
    spaces, name = [namespace(plain), namespace(plain)], new()
    for space in spaces:
        path = f"/metadefs/namespaces/{space}/resource_types"
        assert send(plain, "POST", path, {"name": name}).status_int == 201
    assert plain.ask("DELETE", f"{TYPES}/{name}").status_int == 409
    path = f"/metadefs/namespaces/{spaces[0]}/resource_types/{name}"
    assert plain.ask("DELETE", path).status_int == 204
    assert plain.ask("DELETE", f"{TYPES}/{name}").status_int == 409
    assert plain.ask("DELETE", f"/metadefs/namespaces/{spaces[1]}").status_int == 204
    assert plain.ask("DELETE", f"{TYPES}/{name}").status_int == 204
    assert name not in names(plain)


def test_a_created_type_can_be_associated(plain):
    space, name = namespace(plain), new()
    send(plain, "POST", TYPES, {"name": name})
    path = f"/metadefs/namespaces/{space}/resource_types"
    assert send(plain, "POST", path, {"name": name, "prefix": "hw_"}).status_int == 201
    assert send(plain, "POST", path, {"name": name}).status_int == 409
    listed = plain.ask("GET", path).json["resource_type_associations"]
    assert [(one["name"], one["prefix"]) for one in listed] == [(name, "hw_")]


@pytest.mark.parametrize(
    "name",
    [
        "n" * 80,
        "\N{LATIN SMALL LETTER U WITH DIAERESIS}\N{CJK UNIFIED IDEOGRAPH-65E5}" * 40,
        "a b",
        "100%41?b#c&_method=DELETE",
        "a/b.c/d",
        ".a/.../a.",
        # A route's pattern may end before the last line break.
        "a\n",
        "a\nb",
        " ",
        "\x00",
    ],
)
def test_any_name_can_be_created_associated_and_deleted(plain, name):
    space = namespace(plain)
    path = f"/metadefs/namespaces/{space}/resource_types"
    send(plain, "POST", TYPES, {"name": "a"})
    assert send(plain, "POST", path, {"name": name}).status_int == 201
    assert plain.ask("DELETE", f"/metadefs/namespaces/{space}").status_int == 204
    at = f"{TYPES}/{quote(name, safe='')}"
    assert plain.ask("DELETE", at).status_int == 204
    answer = send(plain, "POST", TYPES, {"name": name})
    assert (answer.status_int, answer.json["name"]) == (201, name)
    assert answer.location.endswith(f"/v2{at}")
    assert plain.ask("DELETE", at).status_int == 204
    assert name not in names(plain)
    # No other went with it.
    assert "a" in names(plain)


def test_a_name_that_none_can_have_is_not_found(plain):
    for name in ("n" * 1000, quote("\N{GRINNING FACE}")):
        assert plain.ask("DELETE", f"{TYPES}/{name}").status_int == 404
    # It is no text.
    assert plain.ask("DELETE", f"{TYPES}/%FF").status_int == 400


def test_a_type_that_goes_while_it_is_associated_is_made_anew(plain, monkeypatch):
    space, name = namespace(plain), new()
    send(plain, "POST", TYPES, {"name": name})
    ask = db.metadef_association_api._create_association

    def deleted_meanwhile(context, session, *more):
        monkeypatch.setattr(db.metadef_association_api, "_create_association", ask)
        session.execute(
            sqlalchemy.delete(models.MetadefResourceType).where(
                models.MetadefResourceType.name == name
            )
        )
        return ask(context, session, *more)

    monkeypatch.setattr(db.metadef_association_api, "_create_association", deleted_meanwhile)
    path = f"/metadefs/namespaces/{space}/resource_types"
    assert send(plain, "POST", path, {"name": name}).status_int == 201
    assert name in names(plain)


# The router


def test_other_methods_are_told_what_there_is(plain):
    answer = plain.ask("PUT", TYPES)
    assert (answer.status_int, answer.headers["Allow"]) == (405, "GET, POST")
    answer = plain.ask("GET", f"{TYPES}/any")
    assert (answer.status_int, answer.headers["Allow"]) == (405, "DELETE")


def test_a_method_override_is_refused(plain):
    name = new()
    send(plain, "POST", TYPES, {"name": name})
    assert plain.ask("GET", f"{TYPES}/{name}?_method=DELETE").status_int == 400
    assert plain.ask("GET", "/images?_method=").status_int == 400
    for query in ("x=_method&%5Fmethod=DELETE", "x=%FF&_method=DELETE", "_method=%FF"):
        assert plain.ask("GET", f"{TYPES}/{name}?{query}").status_int == 400
    assert plain.ask("PUT", f"{TYPES}/{name}?_method=DELETE").status_int == 400
    # Such a name is none for Routes.
    assert plain.ask("GET", f"{TYPES}/{name}?%5Fmethod=DELETE").status_int == 405
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    answer = plain.ask("POST", f"{TYPES}/{name}", b"_method=DELETE", **form)
    assert answer.status_int == 400
    assert name in names(plain)
    # What curl sends if it is not told what it sends.
    assert send(plain, "POST", TYPES, {"name": new()}, **form).status_int == 201
    assert plain.ask("GET", "/images?name=_method").status_int == 200


@pytest.mark.parametrize("version", ["32.1.0", "34.0.0", "34.0.0.0rc1", "330.0.0", "3.3", ""])
def test_an_unknown_glance_is_refused(extended, monkeypatch, version):
    monkeypatch.setattr(routes.importlib.metadata, "version", lambda _: version)
    told = rf"finds {version.replace('.', '[.]')}: .*paste\.app_factory back"
    with pytest.raises(RuntimeError, match=told):
        extended()


@pytest.mark.parametrize("version", ["33.0.0", "33.1.2", "33.0.0.0rc1", "33.0.1.dev7"])
def test_a_known_glance_is_not_refused(version):
    assert routes.version_refused(version) is None


# Usage


class Keystone:
    """What oslo.limit asks of Keystone, with these limits."""

    def __init__(self, registered, of_projects=()):
        self.registered, self.of_projects = registered, dict(of_projects)

    def get(self, _):
        return SimpleNamespace(json=lambda: {"model": {"name": "flat"}})

    def get_endpoint(self, _):
        return SimpleNamespace(service_id="service", region_id="region")

    def registered_limits(self, **_):
        return [
            SimpleNamespace(resource_name=name, default_limit=bound)
            for name, bound in self.registered.items()
        ]

    def limits(self, project_id, **_):
        return [
            SimpleNamespace(resource_name=name, resource_limit=bound)
            for name, bound in self.of_projects.get(project_id, {}).items()
        ]


@pytest.fixture
def limited(extended, monkeypatch):
    def start(registered, **of_projects):
        monkeypatch.setattr(limit, "_SDK_CONNECTION", Keystone(registered, of_projects))
        return extended(LIMITED)

    return start


def of(project):
    return {"X_Project_Id": project}


def insert(owner, status="active", size=0, locations=(), copying=None):
    """An image in this state."""
    context = RequestContext(is_admin=True, roles=["admin"])
    properties = {} if copying is None else {"os_glance_importing_to_stores": copying}
    return db.image_create(
        context,
        {
            "id": str(uuid.uuid4()),
            "owner": owner,
            "status": status,
            "size": size,
            "disk_format": "raw",
            "container_format": "bare",
            "locations": [
                {"url": f"file:///{n}", "metadata": {}, "status": one}
                for n, one in enumerate(locations)
            ],
            "properties": properties,
        },
    )["id"]


def test_usage_tells_what_remains(limited):
    project = new("project-")
    api = limited(
        {
            "image_size_total": 10,
            "image_stage_total": -1,
            "image_count_total": 2,
        },
        **{project: {"image_count_total": 1}},
    )
    insert(project, size=3 * MIB, locations=["active", "active"])
    insert(project, status="importing", size=2 * MIB)
    answer = api.ask("GET", "/info/usage", **of(project))
    assert answer.status_int == 200
    assert answer.json == {
        "usage": {
            "image_size_total": {"limit": 10, "usage": 6, "remaining": 4, "registered": True},
            "image_stage_total": {"limit": -1, "usage": 2, "remaining": -1, "registered": True},
            # More than there may be, for the limit was lowered.
            "image_count_total": {"limit": 1, "usage": 2, "remaining": 0, "registered": True},
            "image_count_uploading": {
                "limit": 0,
                "usage": 1,
                "remaining": 0,
                "registered": False,
            },
        }
    }


def test_usage_is_what_glance_counts(limited):
    project = new("project-")
    limited(dict.fromkeys(usage.QUOTAS, 100))
    for status in (*usage.ARRIVING, *usage.GONE, "active", "queued", "deactivated"):
        for copying in (None, "", "fast,slow"):
            for size in (0, MIB, 5 * MIB // 3):
                places = ["active", "deleted", "pending_delete"]
                for count in range(3):
                    insert(project, status, size, places[:count], copying)
    insert(new("project-"), "active", 7 * MIB, ["active"])
    context = RequestContext(is_admin=True, roles=["admin"], project_id=project)
    stock = usage.quota.get_usage(context)
    assert usage.used(project) == {name: one.usage for name, one in stock.items()}
    assert min(usage.used(project).values()) > 0


def test_usage_is_counted_in_one_statement(limited):
    project = new("project-")
    limited({})
    for _ in range(20):
        insert(project, size=MIB, locations=["active"])
    statements = []

    def note(_connection, _cursor, statement, *_):
        statements.append(statement)

    engine = db.get_engine()
    sqlalchemy.event.listen(engine, "before_cursor_execute", note)
    try:
        assert usage.used(project)["image_size_total"] == 20
    finally:
        sqlalchemy.event.remove(engine, "before_cursor_execute", note)
    assert [one for one in statements if one != "BEGIN"] == statements[-1:]


def test_usage_of_nothing_is_nothing(limited):
    limited({})
    assert usage.used(new()) == dict.fromkeys(usage.QUOTAS, 0)


def test_administrators_see_any_project_and_others_their_own(limited):
    mine, other = new("project-"), new("project-")
    api = limited({"image_count_total": 5}, **{other: {"image_count_total": 7}})
    insert(other)

    def count(answer):
        assert answer.status_int == 200
        return answer.json["usage"]["image_count_total"]

    asked = f"/info/usage?project_id={other}"
    assert count(api.ask("GET", asked))["limit"] == 7
    assert count(api.ask("GET", asked))["usage"] == 1
    assert api.ask("GET", asked, **MEMBER, **of(mine)).status_int == 403
    assert count(api.ask("GET", asked, **MEMBER, **of(other)))["usage"] == 1
    assert count(api.ask("GET", "/info/usage", **MEMBER, **of(mine)))["limit"] == 5
    assert api.ask("GET", f"{asked}&project_id={mine}").status_int == 400
    # None that there is: the limits of all, and no usage.
    unknown = count(api.ask("GET", "/info/usage?project_id=unknown"))
    assert (unknown["limit"], unknown["usage"]) == (5, 0)
    # With a token of no project.
    assert count(api.ask("GET", "/info/usage", **of("")))["limit"] == 5


@pytest.mark.parametrize(
    "project", ["", " ", "a b", "..", "a%0A", "%FF", "%00", "%C3%BC", "p" * 65]
)
def test_what_is_no_id_of_a_project_is_refused(limited, project):
    """As Keystone refuses it, which is no fault of Keystone's."""
    api = limited({"image_count_total": 5})
    assert api.ask("GET", f"/info/usage?project_id={quote(project, '%')}").status_int == 400


def test_without_limits_in_keystone_there_is_no_usage(plain):
    answer = plain.ask("GET", "/info/usage")
    assert (answer.status_int, answer.json) == (200, {"usage": {}})
    assert plain.ask("GET", "/info/usage?project_id=x", **MEMBER).status_int == 403


@pytest.mark.parametrize(
    "error",
    [
        auth_exceptions.ConnectFailure("it is down"),
        auth_exceptions.Unauthorized("the password is wrong"),
        sdk_exceptions.ForbiddenException("no role of the system"),
        # What oslo.limit makes of an endpoint that it does not find.
        ValueError("Service not found"),
        # And of an answer that is an error.
        KeyError("model"),
    ],
)
def test_a_keystone_that_fails_is_said(extended, monkeypatch, error):
    def fail(*_, **__):
        raise error

    connection = Keystone({})
    connection.registered_limits = fail
    monkeypatch.setattr(limit, "_SDK_CONNECTION", connection)
    answer = extended(LIMITED).ask("GET", "/info/usage")
    assert answer.status_int == 503
    assert "Keystone" in answer.text


def test_another_model_of_limits_is_said(extended, monkeypatch):
    """oslo.limit has no code for it."""
    connection = Keystone({})
    model = {"model": {"name": "strict-two-level"}}
    connection.get = lambda _: SimpleNamespace(json=lambda: model)
    monkeypatch.setattr(limit, "_SDK_CONNECTION", connection)
    assert extended(LIMITED).ask("GET", "/info/usage").status_int == 503


def test_a_keystone_that_cannot_be_asked_is_said(extended, monkeypatch):
    monkeypatch.setattr(limit, "_SDK_CONNECTION", None)
    # Nobody is named who may ask.
    answer = extended(LIMITED).ask("GET", "/info/usage")
    assert answer.status_int == 503
    assert "Keystone" in answer.text
