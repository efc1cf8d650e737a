"""Routes that Glance's API lacks, in front of Glance's own.

    # glance-api-paste.ini
    [app:apiv2app]
    paste.app_factory = imaged.glance.api:API.factory

* `POST /v2/metadefs/resource_types` and `DELETE /v2/metadefs/resource_types/{name}`:
  `resource_types`
* `GET /v2/info/usage` also tells what remains, and administrators the usage of any project: `usage`

Everything else is Glance's, unchanged, and so is all of it once the line is what it was.

# Decisions
* Chose: Glance's context, policy enforcer, database functions, models and notifier. Because: who
  may do what, and what a row looks like, then has one answer. Instead of: rules and SQL of our own.
* Chose: to refuse Glance versions that nobody has looked at, when Glance starts. Because: what is
  used here is not public. Instead of: trying.
* Chose: 400 for `_method`. Because: Routes lets it name another method than the request has, which
  proxies and logs in front of Glance do not see; no client of Glance's sends it. Instead of:
  leaving new routes open to it.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

import webob
import webob.dec
import webob.exc
from glance.api import policy
from glance.api.v2 import router
from glance.common import wsgi
from routes.middleware import is_form_post

from . import resource_types, rules, usage

KNOWN = (33,)
# A name may have slashes, and line breaks: without the last one it would be another's.
TYPE = r"/metadefs/resource_types/{name:[\s\S]+}"
# For those that Glance has not at a path: it has none for these.
OTHERS = ["HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]


def version_refused(version: str) -> str | None:
    """Why this version of Glance is refused, if it is."""
    if version.partition(".")[0] in map(str, KNOWN):
        return None
    return (
        f"imaged.glance.api knows Glance {', '.join(map(str, KNOWN))} and finds {version}: install "
        f"a version of the Python package imaged that knows it, or set paste.app_factory back to "
        f"glance.api.v2.router:API.factory in glance-api-paste.ini"
    )


def overridden(request: webob.Request) -> bool:
    """Whether the request names another method than it has."""
    request.errors = "ignore"
    if "_method" in request.query_string and "_method" in request.GET:
        return True
    posts = request.method == "POST" and is_form_post(request.environ)
    return posts and "_method" in request.POST


class API(router.API):  # type: ignore[misc]
    """Glance's routes behind ours."""

    def __init__(self, mapper: Any) -> None:
        """Add the routes."""
        refused = version_refused(importlib.metadata.version("glance"))
        if refused:
            raise RuntimeError(refused)
        enforcer = policy.Enforcer()
        enforcer.register_defaults(list(rules.list_rules()))
        types = resource_types.create_resource(enforcer)
        for path, resource, method, action in (
            ("/metadefs/resource_types", types, "POST", "add"),
            (TYPE, types, "DELETE", "remove"),
            ("/metadefs/namespaces/{namespace}/resource_types", types, "POST", "create"),
            ("/info/usage", usage.create_resource(enforcer), "GET", "get_usage"),
        ):
            mapper.connect(
                path,
                controller=resource,
                action=action,
                conditions={"method": [method]},
                **({} if method == "POST" else {"body_reject": True}),
            )
        # Glance tells which methods a path has, and knows nothing of ours.
        reject = wsgi.Resource(wsgi.RejectMethodController())
        for path, allowed, others in (
            ("/metadefs/resource_types", "GET, POST", OTHERS),
            (TYPE, "DELETE", ["GET", *OTHERS]),
        ):
            mapper.connect(
                path,
                controller=reject,
                action="reject",
                conditions={"method": others},
                allowed_methods=allowed,
            )
        super().__init__(mapper)

    @webob.dec.wsgify  # type: ignore[untyped-decorator]
    def __call__(self, request: webob.Request) -> Any:
        """Route a request."""
        try:
            refused = overridden(request)
        except (ValueError, DeprecationWarning) as error:
            # No text, a form without a boundary, or a charset that WebOb does not read.
            told = f"the query, or the form, cannot be read: {error}"
            raise webob.exc.HTTPBadRequest(explanation=told) from error
        if refused:
            raise webob.exc.HTTPBadRequest(
                explanation="_method is not allowed: send the request with that method"
            )
        return self._router
