"""Describes Glance's API in OpenAPI 3.1.

Of a Glance as it would run: with its routes, its schemas, custom properties of images among them,
and the defaults of its policies.

    python -m imaged.glance.description [--config-file FILE] > glance-openapi.json

What routes, schemas and policies do not say is in `operations`.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

with warnings.catch_warnings():
    # Of eventlet, by its libraries.
    warnings.simplefilter("ignore")
    import glance.async_
    from glance import policies
    from glance.api.v2 import (
        image_members,
        images,
        metadef_namespaces,
        metadef_objects,
        metadef_properties,
        metadef_resource_types,
        metadef_tags,
        tasks,
    )
    from glance.common import config, wsgi
    from oslo_config import cfg

    from . import api, resource_types, rules, usage

from .operations import HEADERS, OPERATIONS, QUERIES, Operation

VERSION = "2.18"
PATCHES = [f"application/openstack-images-v2.{n}-json-patch" for n in (0, 1)]
JSON, BINARY = "application/json", "application/octet-stream"
TEXT = {"type": "string"}
ERRORS = {
    400: "What was sent makes no sense",
    401: "There is no token, or a bad one",
    403: "The caller may not",
    404: "There is no such thing, or the caller may not know of it",
    405: "This cannot be done",
    409: "It is taken, in use, or in another state",
    410: "It was deleted meanwhile",
    413: "It is more than is allowed",
    415: "The media type is not understood",
    416: "The range is outside of the image",
    503: "A store, or Keystone, does not answer",
}


def plain_object(**properties: Any) -> dict[str, Any]:
    """An object with at least these properties."""
    schema: dict[str, Any] = {"type": "object"}
    if properties:
        schema |= {"properties": properties, "required": sorted(properties)}
    return schema


def schemas() -> dict[str, Any]:
    """What is sent and answered; Glance's own schemas where it has them."""
    strings = {"type": "array", "items": TEXT}
    custom = images.load_custom_properties()
    own = {
        "image": images.get_schema(custom),
        "images": images.get_collection_schema(custom),
        "member": image_members.get_schema(),
        "members": image_members.get_collection_schema(),
        "task": tasks.get_task_schema(),
        "tasks": tasks.get_collection_schema(),
        "location": images.get_location_schema(),
        "namespace": metadef_namespaces.get_schema(),
        "namespaces": metadef_namespaces.get_collection_schema(),
        "association": metadef_resource_types.get_schema(),
        "associations": metadef_resource_types.get_collection_schema(),
        "metadef-object": metadef_objects.get_schema(),
        "objects": metadef_objects.get_collection_schema(),
        "property": metadef_properties.get_schema(),
        "properties": metadef_properties.get_collection_schema(),
        "tag": metadef_tags.get_schema(),
        "tags": metadef_tags.get_collection_schema(),
        "type": resource_types.get_schema(),
        "usage": usage.get_schema(),
    }
    found = {name: translated(name, schema.raw()) for name, schema in own.items()}
    change = plain_object(op={"enum": ["add", "remove", "replace"]}, path=TEXT)
    change["properties"]["value"] = {}
    place = plain_object(url=TEXT, metadata={"type": "object"})
    method = plain_object(name={"enum": cfg.CONF.enabled_import_methods})
    return found | {
        "object": plain_object(),
        "patch": {"type": "array", "items": change},
        "new-member": plain_object(member=TEXT),
        "member-status": plain_object(status={"enum": ["pending", "accepted", "rejected"]}),
        "locations": {"type": "array", "items": place},
        "image-tasks": plain_object(tasks={"type": "array", "items": {"type": "object"}}),
        "import": {
            **plain_object(method=method),
            "properties": {
                "method": method,
                "stores": strings,
                "all_stores": {"type": "boolean"},
                "all_stores_must_succeed": {"type": "boolean"},
            },
        },
        "stores": plain_object(stores={"type": "array", "items": plain_object(id=TEXT)}),
        "cache": plain_object(
            cached_images={"type": "array", "items": plain_object(image_id=TEXT)},
            queued_images=strings,
        ),
        "types": plain_object(
            resource_types={"type": "array", "items": plain_object(name=TEXT)},
        ),
    }


def translated(name: str, schema: Any) -> Any:
    """A schema of Glance's as OpenAPI has it."""
    schema = {word: value for word, value in schema.items() if word not in ("name", "links")}

    def pointed(value: Any) -> Any:
        if isinstance(value, dict):
            return {word: pointed(one) for word, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [pointed(one) for one in value]
        if isinstance(value, str):
            return re.sub(r"^#/definitions/", f"#/components/schemas/{name}/definitions/", value)
        return value

    return {"type": "object", **pointed(schema)}


def anonymous(path: str) -> str:
    """A path whatever its parameters are called: routes and policies differ."""
    return re.sub(r"\{[^}]*\}", "{}", path)


def policies_of() -> dict[tuple[str, str], dict[str, str]]:
    """The policies of each operation, with their defaults."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for rule in (*policies.list_rules(), *rules.list_rules()):
        for one in getattr(rule, "operations", ()):
            key = (one["method"], anonymous(one["path"].removeprefix("/v2")))
            found.setdefault(key, {})[rule.name] = rule.check_str
    return found


def routes() -> Iterator[tuple[str, str, Any]]:
    """Method, path and route of each operation, as the router has them; of two the first."""
    mapper = wsgi.APIMapper()
    api.API(mapper)
    seen = set()
    for route in mapper.matchlist:
        if route.defaults.get("action") in (None, "reject"):
            continue
        path = re.sub(r"\{(\w+):[^}]*\}", r"{\1}", route.routepath)
        for method in route.conditions["method"]:
            if (method, path) not in seen:
                seen.add((method, path))
                yield method, path, route


def parameter(place: str, told: str) -> dict[str, Any]:
    """A parameter, of NAME, NAME:TYPE or NAME:VALUE|VALUE."""
    name, _, kind = told.partition(":")
    schema: dict[str, Any] = {"type": kind or "string"}
    if "|" in kind:
        schema = {"enum": kind.split("|")}
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


def content(name: str) -> dict[str, Any]:
    """What a body is."""
    if name == "binary":
        return {BINARY: {}}
    schema = {"schema": {"$ref": f"#/components/schemas/{name}"}}
    return dict.fromkeys(PATCHES if name == "patch" else [JSON], schema)


def described(method: str, path: str, operation: Operation) -> dict[str, Any]:
    """An operation, but for what its route and its policies say."""
    key = (method, path)
    answer: dict[str, Any] = {"description": "It is done"}
    if operation.answers:
        answer["content"] = content(operation.answers)
    errors = {400, 401, 403, 404, *operation.errors} - {operation.status}
    told: dict[str, Any] = {
        "summary": operation.summary,
        "parameters": [
            *(parameter("path", name) for name in re.findall(r"\{(\w+)\}", path)),
            *(parameter("query", one) for one in QUERIES.get(key, ())),
            *(parameter("header", one) for one in HEADERS.get(key, ())),
        ],
        "responses": {
            str(operation.status): answer,
            **{str(code): {"$ref": f"#/components/responses/{code}"} for code in sorted(errors)},
        },
    }
    if operation.answers == "binary":
        told["responses"]["204"] = {"description": "There are no bytes yet"}
        told["responses"]["206"] = {"description": "A range", "content": content("binary")}
    if operation.takes:
        told["requestBody"] = {"required": True, "content": content(operation.takes)}
    return told


def description() -> dict[str, Any]:
    """The whole document.

    # Errors
    LookupError if routes and `operations` differ.
    """
    allowed, left = policies_of(), dict(OPERATIONS)
    paths: dict[str, dict[str, Any]] = {}
    for method, path, route in routes():
        try:
            operation = left.pop((method, path))
        except KeyError:
            raise LookupError(f"imaged.glance.operations lacks {method} {path}") from None
        where = type(route.defaults["controller"].controller).__module__.rpartition(".")[2]
        told = described(method, path, operation)
        told["operationId"] = f"{where}.{route.defaults['action']}"
        told["tags"] = [path.split("/")[1]]
        if rules := allowed.get((method, anonymous(path))):
            told["x-openstack-policies"] = rules
        paths.setdefault(path, {})[method.lower()] = told
    if left:
        raise LookupError(f"this Glance lacks {left.popitem()[0]} of imaged.glance.operations")
    body: dict[str, Any] = {kind: {} for kind in (JSON, "text/html", "text/plain")}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "OpenStack Image service, with the routes of imaged.glance.api",
            "version": VERSION,
        },
        "servers": [{"url": "/v2"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "responses": {
                str(code): {"description": what, "content": body} for code, what in ERRORS.items()
            },
            "securitySchemes": {
                "token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"}
            },
        },
    }


def text(document: dict[str, Any]) -> str:
    """A document as it is kept: in an order that does not depend on the day."""
    return json.dumps(document, indent=1, sort_keys=True, default=str) + "\n"


def main() -> None:
    """Print the description of the Glance that is configured."""
    config.set_config_defaults()
    cfg.CONF(sys.argv[1:], project="glance")
    glance.async_.set_threadpool_model("native")
    sys.stdout.write(text(description()))


if __name__ == "__main__":
    main()
