"""Glance's API in this process: its own application, with a database and real stores."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import glance.async_
import glance.db
import webob
from glance.common import config
from glance.context import RequestContext
from stores import Glance

# Who asks is told by headers, as Keystone's middleware would.
# The flavor "extended" has the routes of imaged.glance.api.
PASTE = """
[pipeline:glance-api]
pipeline = context root
[pipeline:glance-api-extended]
pipeline = context extended
[filter:context]
paste.filter_factory = glance.api.middleware.context:ContextMiddleware.factory
[composite:root]
paste.composite_factory = glance.api:root_app_factory
/v2: api
[composite:extended]
paste.composite_factory = glance.api:root_app_factory
/v2: extended-api
[app:extended-api]
paste.app_factory = imaged.glance.api:API.factory
[app:api]
paste.app_factory = glance.api.v2.router:API.factory
"""
ADMIN = {
    "X-Identity-Status": "Confirmed",
    "X-User-Id": "user",
    "X-Project-Id": "project",
    "X-Roles": "admin,member,reader",
}


def make_database(directory: Path) -> str:
    """The sections that name a database which is made now."""
    paste = directory / "paste.ini"
    paste.write_text(PASTE)
    sections = (
        # Threads of Glance write too, and on a busy machine one of them may have it for a while.
        f"[database]\nconnection = sqlite:///{directory}/db?timeout=60\n"
        "sqlite_synchronous = false\n"
        f"[paste_deploy]\nconfig_file = {paste}\n[oslo_concurrency]\nlock_path = {directory}\n"
    )
    (directory / "manage.conf").write_text(sections)
    manage = [Path(sys.prefix) / "bin/glance-manage", "--config-file", directory / "manage.conf"]
    subprocess.run([*manage, "db_sync"], check=True, capture_output=True, timeout=120)
    return sections


class Api(Glance):
    """Glance's API as an administrator sees it."""

    def start(self, enabled: str, *sections: str) -> None:
        super().start(enabled, *sections)
        glance.async_.set_threadpool_model("native")
        self.application = config.load_paste_app("glance-api")

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> webob.Response:
        """An answer. What Glance does not turn into one is raised here."""
        told = {**ADMIN, **{name.replace("_", "-"): value for name, value in headers.items()}}
        request = webob.Request.blank(f"/v2{path}", method=method, headers=told)
        if body:
            request.body = body
        answer = request.get_response(self.application)
        # All of it, for an error may come as late as that.
        answer.body  # noqa: B018
        return answer

    def create(self, **properties: Any) -> str:
        """A queued image; its id."""
        facts = {"name": "test", "disk_format": "raw", "container_format": "bare", **properties}
        kind = {"Content-Type": "application/json"}
        answer = self.ask("POST", "/images", json.dumps(facts).encode(), **kind)
        assert answer.status_int == 201, answer.text
        return str(answer.json["id"])

    def upload(self, image: str, body: bytes, store: str) -> webob.Response:
        headers = {"Content-Type": "application/octet-stream", "X-Image-Meta-Store": store}
        return self.ask("PUT", f"/images/{image}/file", body, **headers)

    def active(self, *locations: tuple[str, str | None], size: int = 5) -> str:
        """An image whose data is said to be at these locations in these stores; its id."""
        image = self.create()
        listed = [
            {"url": url, "metadata": {"store": store} if store else {}, "status": "active"}
            for url, store in locations
        ]
        context = RequestContext(is_admin=True, roles=["admin"])
        changes = {"status": "active", "size": size, "locations": listed}
        glance.db.get_api().image_update(context, image, changes)
        return image

    def show(self, image: str) -> Any:
        return self.ask("GET", f"/images/{image}").json

    def is_there(self, image: str) -> bool:
        return self.ask("GET", f"/images/{image}").status_int == 200
