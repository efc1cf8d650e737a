"""OpenStack's Swift in one process: the proxy and the servers for accounts, containers and objects.
Its proxy also answers as the part of Keystone's API, version 3, by which clients get their tokens.

    swift_server.py DIR/ proxy=PORT account=PORT container=PORT object=PORT

DIR has their configuration and rings, as `ci/objects` writes them. All listen on loopback alone.
"""

import json
import os
import sys
import time
from datetime import UTC, datetime

from swift.common import storage_policy, utils, wsgi
from swift.common.swob import Request, Response

utils.monkey_patch()

import eventlet  # noqa: E402
import eventlet.wsgi  # noqa: E402


class Tokens:
    """What memcached is to Swift, in this process: TempAuth keeps its tokens there."""

    def __init__(self):
        self.kept = {}

    def get(self, key, raise_on_error=False):
        value, until = self.kept.get(key, (None, 0))
        return value if not until or time.time() < until else None

    def set(self, key, value, serialize=True, time=0, min_compress_len=0, raise_on_error=False):
        self.kept[key] = (value, now() + time if time else 0)

    def set_multi(self, values, server_key, serialize=True, time=0, min_compress_len=0):
        for key, value in values.items():
            self.set(key, value, time=time)

    def get_multi(self, keys, server_key):
        return [self.get(key) for key in keys]

    def incr(self, key, delta=1, time=0):
        count = max(0, int(self.get(key) or 0) + delta)
        self.set(key, count, time=time)
        return count

    def decr(self, key, delta=1, time=0):
        return self.incr(key, -delta, time)

    def delete(self, key, server_key=None):
        self.kept.pop(key, None)


now = time.time


def tokens_in_memory(conf, **more):
    """A paste filter."""
    tokens = Tokens()

    def around(app):
        def call(environ, start_response):
            environ["swift.cache"] = tokens
            return app(environ, start_response)

        return call

    return around


def keystone(conf, **more):
    """A paste filter: whom TempAuth knows gets its tokens at /v3 too, with a catalog.

    Some clients know no other way in. A project is an account, and its users are those of that.
    """

    def around(app):
        def call(environ, start_response):
            request = Request(environ)
            if request.path.startswith("/v3"):
                return _tokens(request, app)(environ, start_response)
            return app(environ, start_response)

        return call

    return around


def _tokens(request, app):
    if request.path.rstrip("/") == "/v3":
        links = [{"rel": "self", "href": f"{request.host_url}/v3/"}]
        version = {"id": "v3.14", "status": "stable", "links": links}
        return _json(200, {"version": version})
    if (request.method, request.path) == ("GET", "/v3/auth/tokens"):
        return _known(request)
    if (request.method, request.path) != ("POST", "/v3/auth/tokens"):
        return _json(404, {})
    try:
        asked = json.loads(request.body)["auth"]
        user = asked["identity"]["password"]["user"]
        project = asked["scope"]["project"]
        project = project.get("name") or project["id"]
        who = {
            "X-Auth-User": f"{project}:{user.get('name') or user['id']}",
            "X-Auth-Key": user["password"],
        }
    except (KeyError, TypeError, ValueError):
        return _json(400, {"error": {"code": 400, "message": "by password, and for a project"}})
    inner = Request.blank("/auth/v1.0", headers=who, environ={"HTTP_HOST": request.host})
    inner.environ["swift.cache"] = request.environ["swift.cache"]
    told = inner.get_response(app)
    if told.status_int != 200:
        return _json(401, {"error": {"code": 401, "message": "The request needs authentication."}})
    expires = time.time() + int(told.headers["X-Auth-Token-Expires"])
    token = _token(who["X-Auth-User"], told.headers["X-Storage-Url"], expires)
    return _json(201, {"token": token}, {"X-Subject-Token": told.headers["X-Auth-Token"]})


def _known(request):
    """What is known of a token, to whoever has it."""
    name = request.headers.get("X-Subject-Token", "")
    kept = request.environ["swift.cache"].get(f"AUTH_/token/{name}")
    if not kept or name != request.headers.get("X-Auth-Token"):
        return _json(401, {"error": {"code": 401, "message": "The request needs authentication."}})
    expires, groups = kept
    groups = groups.split(",")
    user = next(group for group in groups if ":" in group)
    account = next(group for group in groups if group.startswith("AUTH_"))
    return _json(200, {"token": _token(user, f"{request.host_url}/v1/{account}", expires)})


def _token(user, url, expires):
    project = user.partition(":")[0]
    endpoints = [
        {"interface": kind, "region": "RegionOne", "region_id": "RegionOne", "url": url, "id": kind}
        for kind in ("public", "internal", "admin")
    ]
    domain = {"id": "default", "name": "Default"}
    return {
        "methods": ["password"],
        "expires_at": datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "issued_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "user": {"id": user, "name": user, "domain": domain},
        "project": {"id": project, "name": project, "domain": domain},
        "roles": [{"id": "member", "name": "member"}],
        "catalog": [
            {"type": "object-store", "name": "swift", "id": "swift", "endpoints": endpoints}
        ],
    }


def _json(status, body, headers=None):
    text = json.dumps(body).encode()
    return Response(
        status=status, body=text, content_type="application/json", headers=headers or {}
    )


def main():
    folder = sys.argv[1].rstrip("/")
    # Paste finds the filter above by the name of this file.
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    os.environ["TZ"] = "UTC+0"
    time.tzset()
    utils.set_swift_dir(folder)
    storage_policy.reload_storage_policies()
    utils.validate_configuration()
    eventlet.hubs.use_hub(utils.get_hub())
    servers = eventlet.GreenPool()
    # The proxy last: when it answers, all do.
    for server in reversed(sys.argv[2:]):
        name, _, port = server.partition("=")
        listener = eventlet.listen(("127.0.0.1", int(port)), backlog=4096)
        app = wsgi.loadapp(f"{folder}/{name}.conf", global_conf={"log_name": name})
        servers.spawn(
            eventlet.wsgi.server,
            listener,
            app,
            wsgi.NullLogger(),
            protocol=wsgi.SwiftHttpProtocol,
            custom_pool=wsgi.RestrictedGreenPool(size=1024),
            socket_timeout=60,
            capitalize_response_headers=False,
            url_length_limit=8192,
            log_output=False,
        )
    servers.waitall()


if __name__ == "__main__":
    main()
