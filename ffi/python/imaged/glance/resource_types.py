"""Resource types of metadata definitions, created and deleted by themselves.

Glance makes a resource type when a namespace is associated with it, and never deletes one. Its
database layer has a function for either; nothing calls them, and the one that deletes fails, in
Glance 33, on every type (`metadef_api.resource_type.delete` asks a dict for `.protected`).

# Decisions
* Chose: a type that is created here has a name and nothing else. Because: `protected`, which the
  table has, could never be taken off again, for a type cannot be changed. Instead of: accepting it.
* Chose: to delete by Glance's model and session. Because: of that fault. Instead of: the function.
* Chose: a type is locked before its associations are counted. Because: an association takes a
  share of the same lock for its foreign key, so it is either seen or waits until the type is gone,
  and is then made with a new type. Instead of: leaving it to the foreign key alone, of which
  Glance makes an error 500.
"""

from __future__ import annotations

import http.client
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import glance.db
import glance.notifier
import glance.schema
import webob
import webob.exc
from glance.api.v2 import metadef_resource_types as upstream
from glance.api.v2 import policy as api_policy
from glance.api.v2.model.metadef_resource_type import ResourceType
from glance.common import exception, timeutils, utils, wsgi
from glance.db.sqlalchemy import api as db
from glance.db.sqlalchemy import models_metadef as models
from oslo_db import api as db_api
from oslo_db import exception as db_exception
from oslo_serialization import jsonutils
from wsme.rest import json

# How often an association is made anew because its type was deleted meanwhile.
TRIES = 5
# Parts of a path that clients and servers leave out: a type with such a name could not be deleted.
LOST = {"", ".", ".."}


class Policy(api_policy.MetadefAPIPolicy):  # type: ignore[misc]
    """The policies of metadata definitions, with ours."""

    def add_metadef_resource_type(self) -> None:
        """Refuse who may not."""
        self._enforce("add_metadef_resource_type")

    def delete_metadef_resource_type(self) -> None:
        """Refuse who may not."""
        self._enforce("delete_metadef_resource_type")


class Payload(glance.notifier.NotificationBase):  # type: ignore[misc]
    """Tells of a type as Glance tells of one that belongs to a namespace."""

    def __init__(self, notifier: Any) -> None:
        """Tell this one."""
        self.notifier = notifier

    def get_payload(self, row: dict[str, Any]) -> Any:
        """The event's payload."""
        return glance.notifier.format_metadef_resource_type_notification(
            SimpleNamespace(namespace=None, prefix=None, properties_target=None, **row)
        )


# Of several that create and delete one type at a time, InnoDB has some begin again. Glance does so
# for images, and not for types.
begun_again = db_api.wrap_db_retry(
    max_retries=50, retry_interval=0.1, inc_retry_interval=False, retry_on_deadlock=True
)


@begun_again  # type: ignore[untyped-decorator]
@utils.no_4byte_params  # type: ignore[untyped-decorator]
def create_type(context: Any, values: dict[str, Any]) -> Any:
    """Create a type, whose name MySQL can hold."""
    return glance.db.get_api().metadef_resource_type_create(context, values)


@begun_again  # type: ignore[untyped-decorator]
def delete_type(context: Any, name: str) -> Any:
    """Delete a type with which no namespace is associated."""
    refused = exception.MetadefIntegrityError(record_type="resource-type", record_name=name)
    try:
        with db.session_for_write() as session:
            types = session.query(models.MetadefResourceType).filter_by(name=name)
            row = types.with_for_update().one_or_none()
            if row is None:
                raise exception.MetadefResourceTypeNotFound(resource_type_name=name)
            if row.protected:
                raise exception.ProtectedMetadefResourceTypeSystemDelete(resource_type_name=name)
            held = session.query(models.MetadefNamespaceResourceType)
            if held.filter_by(resource_type_id=row.id).first() is not None:
                raise refused
            found = row.to_dict()
            if not types.filter_by(id=row.id).delete(synchronize_session=False):
                raise exception.MetadefResourceTypeNotFound(resource_type_name=name)
            return found
    except db_exception.DBReferenceError as error:
        # Of a database without locks of rows, such as SQLite: it came in between.
        raise refused from error


class Controller(upstream.ResourceTypeController):  # type: ignore[misc]
    """Glance's, with the two actions that it lacks."""

    def add(self, req: Any, name: str) -> Any:
        """Create a type."""
        Policy(req.context, enforcer=self.policy).add_metadef_resource_type()
        try:
            row = create_type(req.context, {"name": name, "protected": False})
        except exception.Invalid as error:
            raise webob.exc.HTTPBadRequest(explanation=error.msg) from error
        except exception.Duplicate as error:
            raise webob.exc.HTTPConflict(explanation=error.msg) from error
        self._tell("metadef_resource_type.create", row)
        return ResourceType(
            name=row["name"],
            **{moment: timeutils.isotime(row[moment]) for moment in ("created_at", "updated_at")},
        )

    def remove(self, req: Any, name: str) -> None:
        """Delete a type."""
        Policy(req.context, enforcer=self.policy).delete_metadef_resource_type()
        try:
            row = delete_type(req.context, name)
        except exception.NotFound as error:
            raise webob.exc.HTTPNotFound(explanation=error.msg) from error
        except exception.MetadefIntegrityError as error:
            raise webob.exc.HTTPConflict(explanation=error.msg) from error
        except exception.Forbidden as error:
            raise webob.exc.HTTPForbidden(explanation=error.msg) from error
        gone = {"deleted": True, "deleted_at": timeutils.isotime()}
        self._tell("metadef_resource_type.delete", row, gone)

    def create(self, req: Any, resource_type: Any, namespace: str) -> Any:
        """Associate a type with a namespace; Glance makes the type if there is none."""
        for _ in range(TRIES):
            try:
                return begun_again(super().create)(req, resource_type, namespace)
            except db_exception.DBReferenceError:
                # It was there and has been deleted, which Glance itself never does.
                continue
        raise webob.exc.HTTPConflict(
            explanation=f"the resource type {resource_type.name} is being deleted: try again"
        )

    def _tell(self, event: str, row: Any, more: dict[str, Any] | None = None) -> None:
        Payload(self.notifier).send_notification(event, row, more)


class Deserializer(upstream.RequestDeserializer):  # type: ignore[misc]
    """Reads what is sent."""

    def add(self, request: Any) -> dict[str, Any]:
        """Read what a type is created from."""
        body = self._get_request_body(request)
        if not isinstance(body, dict):
            # Glance's schemas do not say so.
            raise webob.exc.HTTPBadRequest(explanation="expected a JSON object")
        self._check_allowed(body)
        try:
            get_schema().validate(body)
            # JSON has escapes for halves of characters, which no database can hold.
            body["name"].encode()
        except exception.InvalidObject as error:
            raise webob.exc.HTTPBadRequest(explanation=error.msg) from error
        except UnicodeEncodeError as error:
            raise webob.exc.HTTPBadRequest(explanation="the name is not Unicode text") from error
        if not LOST.isdisjoint(body["name"].split("/")):
            told = (
                "the name, or what is between slashes in it, is empty, . or .., which no path tells"
            )
            raise webob.exc.HTTPBadRequest(explanation=told)
        return {"name": body["name"]}

    def remove(self, request: Any) -> dict[str, Any]:
        """Read which type is meant: a path comes as bytes in ISO 8859-1, which Routes leaves so."""
        _, named = request.environ["wsgiorg.routing_args"]
        return {"name": named["name"].encode("iso-8859-1").decode()}


class Serializer(upstream.ResponseSerializer):  # type: ignore[misc]
    """Writes what is answered."""

    def add(self, response: webob.Response, created: Any) -> None:
        """Tell of a new type."""
        response.status_int = http.client.CREATED
        response.location = f"/v2/metadefs/resource_types/{quote(created.name, safe='')}"
        response.unicode_body = jsonutils.dumps(
            json.tojson(ResourceType, created), ensure_ascii=False
        )
        response.content_type = "application/json"

    def remove(self, response: webob.Response, _: None) -> None:
        """Tell that a type is gone."""
        response.status_int = http.client.NO_CONTENT


def get_schema() -> Any:
    """What a type is created from."""
    about = upstream.get_schema().properties
    properties = {
        "name": {**about["name"], "minLength": 1},
        **{moment: about[moment] for moment in ("created_at", "updated_at")},
    }
    return glance.schema.Schema("resource_type", properties, required=["name"])


def create_resource(enforcer: Any) -> Any:
    """The application behind the routes."""
    schema = upstream.get_schema()
    return wsgi.Resource(
        Controller(policy_enforcer=enforcer), Deserializer(schema), Serializer(schema)
    )
