"""Glance's stores in this process, as the real glance_store makes them."""

from __future__ import annotations

import uuid
from pathlib import Path

from glance_store import location as locations
from glance_store import multi_backend
from oslo_config import cfg

from imaged.glance import store

CONF = cfg.CONF
try:
    from glance.common import config
except ImportError:
    # glance_store alone, which leaves it to Glance to have this option.
    CONF.register_opts([cfg.DictOpt("enabled_backends")])
else:
    config.set_config_defaults()
RESERVED = {"os_glance_staging_store": "file", "os_glance_tasks_store": "file"}


def new() -> str:
    return str(uuid.uuid4())


class Glance:
    """A process of Glance, as far as glance_store can tell."""

    def __init__(self, directory: Path, more: str = "") -> None:
        self.dir = directory
        #: Sections beside those of stores.
        self.more = more

    def start(self, enabled: str, *sections: str) -> None:
        """Start with these stores; Glance does these steps in this order."""
        locations.SCHEME_TO_CLS_BACKEND_MAP.clear()
        multi_backend._RESERVED_STORES.clear()
        store.client.cache_clear()
        for name in RESERVED:
            (self.dir / name).mkdir(exist_ok=True)
        reserved = [
            f"[{name}]\nfilesystem_store_datadir = {self.dir / name}\n" for name in RESERVED
        ]
        default = enabled.partition(":")[0]
        path = self.dir / f"glance-api-{new()}.conf"
        path.write_text(
            f"[DEFAULT]\nenabled_backends = {enabled}\nshow_multiple_locations = true\n"
            f"[glance_store]\n"
            f"default_backend = {default}\n" + "\n".join([*reserved, *sections, self.more])
        )
        CONF.reset()
        CONF([], project="glance", default_config_files=[str(path)])
        multi_backend.register_store_opts(CONF, reserved_stores=dict(RESERVED))
        multi_backend.create_multi_stores(CONF, reserved_stores=dict(RESERVED))

    def add(self, image, size=0, id=None, backend="fast", algo="sha512", verifier=None):
        return multi_backend.add_with_multihash(
            CONF, id or new(), image, size, backend, algo, context=None, verifier=verifier
        )


def fast(daemon, *lines: str, socket: str | None = None) -> str:
    return "\n".join(
        (
            "[fast]",
            f"filesystem_store_datadir = {daemon.dir}/fast",
            "store_description = Quick",
            "weight = 7",
            f"imaged_socket = {daemon.socket if socket is None else socket}",
            *lines,
            "",
        )
    )


def local(daemon) -> str:
    return f"[local]\nfilesystem_store_datadir = {daemon.dir}/fast\n"


def get_store(name="fast"):
    return multi_backend.get_store_from_store_identifier(name)
