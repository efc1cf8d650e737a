"""How a store comes to be served by the daemon.

Wraps the function of glance_store that loads a store: sections with `imaged_socket` get a subclass
of the driver that glance_store has for their type, all others get what they always got. The
function that creates all stores is wrapped too, to look afterwards whether each has got what it
asks for.
`search` wraps those that look for the store of a location.

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
from typing import Any

import glance_store
from glance_store import location, multi_backend
from oslo_config import cfg

from .. import client
from . import asked, search, store

LOG = logging.getLogger(__name__)

KNOWN = ((5, 0), (5, 7))


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


def check() -> None:
    """Refuse to go on where a store asks for the daemon and this glance_store would not ask us."""
    refused = version_refused(importlib.metadata.version("glance_store"))
    if refused:
        asked.refuse(f"{', '.join(asked.stores())}: {refused}")
    # Somebody may have put another function in its place since.
    install()


def install() -> None:
    """Wrap the functions that load a store and all stores; once, however often it is called."""
    original = multi_backend._load_multi_store
    if not getattr(original, "by_imaged", False):
        multi_backend._load_multi_store = _loading(original)
    create = multi_backend.create_multi_stores
    if not getattr(create, "by_imaged", False):
        created = _creating(create)
        multi_backend.create_multi_stores = created
        # It has it under its own name too, which is where Glance takes it from.
        if glance_store.create_multi_stores is create:
            glance_store.create_multi_stores = created
    search.install()


def _loading(original: Any) -> Any:
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
        if not backend or not call.arguments["invoke_load"]:
            return original(*args, **more)
        socket = asked.socket(conf, backend)
        if not socket:
            return original(*args, **more)
        check()
        judge(conf, backend, kind)
        in_tree = original(None, kind, False)
        if in_tree is None:
            # It has been logged.
            return None
        LOG.info("The store %s is served by imaged at %s", backend, socket)
        made = store.served(store.class_of(in_tree), kind)
        return made(conf, backend, socket, asked.timeout(conf, backend))

    load.by_imaged = True  # type: ignore[attr-defined]
    return load


def judge(conf: Any, backend: str, kind: str) -> None:
    """Refuse what the daemon could not do for a store."""
    if kind not in store.SERVED:
        asked.refuse(
            f"imaged_socket is set for the store {backend}, but imaged does not serve stores "
            f"of type {kind} yet, only {', '.join(sorted(store.SERVED))}: take it out of "
            f"[{backend}], or if it comes from [{asked.SHARED}] set it to nothing in [{backend}]"
        )
    try:
        algo = conf.hashing_algorithm
    except cfg.NoSuchOptError:
        # Who has not this option uploads nothing.
        return
    if algo not in client.HASH_ALGOS and kind not in store.READ_ONLY:
        asked.refuse(
            f"hashing_algorithm is {algo} in Glance's configuration, which imaged does not have, "
            f"so that no image could be uploaded to the store {backend}: set it to one of "
            f"{', '.join(sorted(client.HASH_ALGOS))}, or keep the store in this process by taking "
            f"imaged_socket out of its configuration"
        )


def _creating(original: Any) -> Any:
    @functools.wraps(original)
    def create(conf: Any = cfg.CONF, *args: Any, **more: Any) -> Any:
        wanted = asked.stores(conf)
        if wanted:
            check()
            store.look_at_all(set(wanted.values()))
        created = original(conf, *args, **more)
        for backend in wanted:
            if not isinstance(_loaded(backend), store.Served):
                asked.refuse(
                    f"imaged_socket is set for the store {backend}, but glance_store has not made "
                    f"it one that imaged serves; the log says before what was wrong with it. Mend "
                    f"that, or take imaged_socket out of its configuration"
                )
        return created

    create.by_imaged = True  # type: ignore[attr-defined]
    return create


def _loaded(backend: str) -> Any:
    """The store that glance_store has by that name, if any."""
    kinds = location.SCHEME_TO_CLS_BACKEND_MAP.values()
    return next((kind[backend]["store"] for kind in kinds if backend in kind), None)
