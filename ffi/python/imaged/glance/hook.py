"""How a store comes to be served by the daemon.

glance_store imports every module in the entry point group `glance_store.drivers` when it registers
its options, before the first store is loaded. This module is in that group, and wraps the function
that loads a store: sections with `imaged_socket` get a subclass of the driver that glance_store has
for their type, all others get what they always got. `search` wraps those that look for the store of
a location.

# Decisions
* Chose: to wrap functions. Because: a type of our own would need another `enabled_backends`, and
  Glance answers 500 to stores/detail for a type that it does not know. Instead of: a driver type
  `imaged`, or a changed copy of glance_store.
* Chose: glance_store 5.0 to 5.7. Because: `[backend_defaults]` came with 5.0, and in all of these
  the wrapped function and its callers are the same. It is not public, so of later ones nothing is
  known until somebody has looked. A version that is not known is refused only if a section asks
  for the daemon: to have this package installed never stops Glance. Instead of: trying.
* Chose: to stop the start of Glance where a section asks for what cannot be. Because: glance_store
  leaves out a store whose configuration is bad, and who only reads the API does not see why.

What upstream could change so that this is no longer needed: `_load_multi_store` taking the driver's
entry point from an option of the store's section (a line in glance_store), or Glance's
`InfoController.get_stores_detail` having an answer for types that it does not know, and its cache
prefetcher passing the store of the location that it reads (a line each), which would do for a
driver of our own.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import logging
from typing import Any, NoReturn

from glance_store import exceptions, multi_backend
from oslo_config import cfg

from . import search, store

LOG = logging.getLogger(__name__)

KNOWN = ((5, 0), (5, 7))
SHARED = "backend_defaults"
# Glance's own stores for staging and tasks; Glance reads and writes their files itself.
RESERVED = "os_glance_"

OPTION = cfg.StrOpt(
    "imaged_socket",
    help="""
The socket of imaged, which then moves the images of this store.

In `[backend_defaults]` it is for all stores; an empty value in a store's own section keeps that
store in this process.
""",
)


class NotAStore:
    """What the entry point names: it is there to be imported, and no type of store."""

    def __init__(self, *args: object, **more: object) -> NoReturn:
        """Refuse."""
        raise exceptions.BackendException(
            "imaged-hook is no type of store: keep the store's own type, such as file or rbd, in "
            "enabled_backends and set imaged_socket in the store's section"
        )


def version_refused(version: str) -> str | None:
    """Why this version of glance_store is refused, if it is."""
    first, last = KNOWN
    try:
        major, minor = (int(part) for part in version.split(".")[:2])
    except ValueError:
        major, minor = 0, 0
    if first <= (major, minor) <= last:
        return None
    return (
        f"imaged_socket is set, but this version of the Python package imaged knows glance_store "
        f"{first[0]}.{first[1]} to {last[0]}.{last[1]} and finds {version}: install a version that "
        f"knows it, or take imaged_socket out of the configuration"
    )


def asked_socket(conf: Any, backend: str) -> str | None:
    """The socket in a store's section, or else in the shared one."""
    for group in (backend, SHARED):
        conf.register_opt(OPTION, group=group)
    own = conf[backend].imaged_socket
    socket: str | None = conf[SHARED].imaged_socket if own is None else own
    return socket


def install() -> None:
    """Wrap the function that loads a store; once, however often it is called."""
    original = multi_backend._load_multi_store
    if getattr(original, "by_imaged", False):
        return
    signature = inspect.signature(original)
    if not {"conf", "store_entry", "invoke_load", "backend"} <= signature.parameters.keys():
        raise ImportError(
            "glance_store loads its stores in a way that the Python package imaged does not know; "
            "imaged_socket has no effect"
        )

    @functools.wraps(original)
    def load(*args: Any, **more: Any) -> Any:
        call = signature.bind(*args, **more)
        call.apply_defaults()
        conf, backend = call.arguments["conf"], call.arguments["backend"]
        kind = call.arguments["store_entry"]
        if not backend or not call.arguments["invoke_load"] or backend.startswith(RESERVED):
            return original(*args, **more)
        socket = asked_socket(conf, backend)
        if not socket:
            return original(*args, **more)
        refused = version_refused(importlib.metadata.version("glance_store"))
        if refused:
            raise RuntimeError(refused)
        if kind not in store.SERVED:
            raise RuntimeError(
                f"imaged_socket is set for the store {backend}, but imaged does not serve stores "
                f"of type {kind} yet, only {', '.join(sorted(store.SERVED))}: take it out of "
                f"[{backend}], or if it comes from [{SHARED}] set it to nothing in [{backend}]"
            )
        in_tree = original(None, kind, False)
        if in_tree is None:
            # It has been logged.
            return None
        LOG.info("The store %s is served by imaged at %s", backend, socket)
        return store.served(store.class_of(in_tree), kind)(conf, backend, socket)

    load.by_imaged = True  # type: ignore[attr-defined]
    multi_backend._load_multi_store = load
    search.install()


install()
