"""What a project may use, what it uses, and what remains, of each quota in Keystone.

# Decisions
* Chose: one statement, grouped by what decides which quota an image counts for. Because: Glance
  asks four times, and once more for every image, which for thousands takes seconds. The rules are
  those that Glance enforces (`glance.db.sqlalchemy.api._image_get_*_by_owner`).
* Chose: `registered` beside the limit. Because: for a quota that Keystone does not know Glance
  answers 0, and enforces it, and an operator who forgot to register it could not tell. Instead of:
  leaving it out, or a limit that is not a number, which clients do not expect.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import glance.db
import webob
import webob.exc
from glance.api.v2 import discovery as upstream
from glance.common import wsgi
from glance.db.sqlalchemy import api as db
from glance.db.sqlalchemy import models
from glance.quota import keystone as quota
from keystoneauth1 import exceptions as auth_exceptions
from openstack import exceptions as sdk_exceptions
from oslo_config import cfg
from oslo_limit import exception as limit_exception
from oslo_limit import limit
from oslo_log import log
from oslo_serialization import jsonutils
from oslo_utils import units
from sqlalchemy import case, exists, func, select

CONF = cfg.CONF
LOG = log.getLogger(__name__)

QUOTAS = (
    quota.QUOTA_IMAGE_SIZE_TOTAL,
    quota.QUOTA_IMAGE_STAGING_TOTAL,
    quota.QUOTA_IMAGE_COUNT_TOTAL,
    quota.QUOTA_IMAGE_COUNT_UPLOADING,
)
UNLIMITED = -1
GONE = ("killed", "deleted", "pending_delete")
STAGED = ("uploading", "importing")
ARRIVING = ("saving", *STAGED)
# What Keystone takes for one. Others it refuses, and it would seem to be out of reach.
PROJECT = re.compile(r"[a-zA-Z0-9-]{1,64}")


def used(project: str | None) -> dict[str, int]:
    """What a project uses of each quota; sizes in MiB, as the limits are."""
    image, place, fact = models.Image, models.ImageLocation, models.ImageProperty
    here = (place.image_id == image.id) & (place.status != "deleted")
    copied = (
        (fact.image_id == image.id)
        & (fact.name == "os_glance_importing_to_stores")
        & (fact.value != "")
    )
    each = (
        select(
            image.status.label("status"),
            case((exists().where(copied), 1), else_=0).label("copying"),
            case((image.size > 0, image.size), else_=0).label("size"),
            select(func.count()).where(here).correlate(image).scalar_subquery().label("places"),
        )
        .where(image.owner == project, image.status.not_in(GONE))
        .subquery()
    )
    grouped = select(
        each.c.status,
        each.c.copying,
        func.count(),
        func.sum(each.c.size),
        func.sum(each.c.size * each.c.places),
    ).group_by(each.c.status, each.c.copying)
    stored = staged = count = arriving = 0
    with db.session_for_read() as session:
        for status, copying, images, size, size_of_all in session.execute(grouped):
            stored += int(size_of_all)
            count += images
            if copying or status in STAGED:
                staged += int(size)
            if copying or status in ARRIVING:
                arriving += images
    sums = (stored // units.Mi, staged // units.Mi, count, arriving)
    return dict(zip(QUOTAS, sums, strict=True))


def limits(project: str | None) -> dict[str, int]:
    """The limits that Keystone has for a project, by their names; no others."""

    def unused(_: str | None, names: Collection[str]) -> dict[str, int]:
        return dict.fromkeys(names, 0)

    enforcer = limit.Enforcer(unused)
    # None is for all that there are.
    known = dict(enforcer.get_registered_limits(None))  # type: ignore[arg-type]
    if project is not None:
        known.update(enforcer.get_project_limits(project, None))  # type: ignore[arg-type]
    return known


def remaining(bound: int, usage: int) -> int:
    """What is left; -1 if there is no limit."""
    return UNLIMITED if bound == UNLIMITED else max(0, bound - usage)


class Controller(upstream.InfoController):  # type: ignore[misc]
    """Glance's, which tells what remains."""

    def get_usage(self, req: Any, project: str | None = None) -> Any:
        """Tell the usage of a project, by default the caller's own."""
        if project is None:
            project = req.context.project_id
        elif project != req.context.project_id and not self.policy.check_is_admin(req.context):
            raise webob.exc.HTTPForbidden(
                explanation="only an administrator may see the usage of another project"
            )
        if not CONF.use_keystone_limits:
            # As Glance answers it.
            return {"usage": {}}
        try:
            known = limits(project)
        except (
            limit_exception.SessionInitError,
            auth_exceptions.ClientException,
            sdk_exceptions.SDKException,
            # What oslo.limit raises where Keystone has no such endpoint, an error for an answer, or
            # a model of limits that it has no code for.
            ValueError,
            LookupError,
            NotImplementedError,
        ) as error:
            LOG.error("The limits cannot be read from Keystone; check [oslo_limit]: %r", error)
            raise webob.exc.HTTPServiceUnavailable(
                explanation="the limits cannot be read from Keystone; Glance's log says why"
            ) from error
        now = used(project)
        return {
            "usage": {
                name: {
                    "limit": known.get(name, 0),
                    "usage": now[name],
                    "remaining": remaining(known.get(name, 0), now[name]),
                    "registered": name in known,
                }
                for name in QUOTAS
            }
        }


class Deserializer(wsgi.JSONRequestDeserializer):  # type: ignore[misc]
    """Reads what is asked for."""

    def get_usage(self, request: Any) -> dict[str, Any]:
        """Read whose usage is asked for."""
        asked = request.GET.getall("project_id")
        if not asked:
            return {}
        if len(asked) > 1 or not PROJECT.fullmatch(asked[0]):
            raise webob.exc.HTTPBadRequest(explanation="project_id is the id of one project")
        return {"project": asked[0]}


def get_schema() -> Any:
    """What is answered."""
    bound = {"type": "integer", "minimum": UNLIMITED, "description": "-1 is without limit"}
    one = {
        "type": "object",
        "properties": {
            "limit": {**bound, "description": "what the project may use; -1 is without limit"},
            "usage": {"type": "integer", "minimum": 0},
            "remaining": {**bound, "description": "what is left; -1 is without limit"},
            "registered": {
                "type": "boolean",
                "description": "whether Keystone knows this quota; the limit is 0 if it does not",
            },
        },
        "required": ["limit", "usage", "remaining", "registered"],
    }
    about = "sizes in MiB; nothing at all where use_keystone_limits is false"
    usage = {"type": "object", "description": about, "properties": dict.fromkeys(QUOTAS, one)}
    return glance.schema.Schema("usage", {"usage": usage}, required=["usage"])


class Serializer(wsgi.JSONResponseSerializer):  # type: ignore[misc]
    """Writes what is answered."""

    def get_usage(self, response: webob.Response, told: Any) -> None:
        """Tell the usage."""
        response.unicode_body = jsonutils.dumps(told, ensure_ascii=False)
        response.content_type = "application/json"


def create_resource(enforcer: Any) -> Any:
    """The application behind the route."""
    return wsgi.Resource(Controller(enforcer), Deserializer(), Serializer())
