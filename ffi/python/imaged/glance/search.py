"""Finding the store of a location when Glance does not say which.

Glance asks so where it cleans up after a download into its staging, where it fetches into its
cache, and for images that have a location without a store. glance_store then asks every store whose
type the location begins with, and goes on while a store has no such image. A store that is served
says more: that the location is another's, which is no reason either to ask no further.

Only such calls are wrapped. Where Glance names the store, a location of another one is an error.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import glance_store
from glance_store import exceptions, location, multi_backend
from oslo_config import cfg

from .. import errors as ours
from .errors import NotReached, Unavailable
from .store import Served

# The functions of glance_store that may be called without a store.
NAMES = ("get", "get_size_from_uri_and_backend", "delete")
# After these another store is asked, and if none has the image, the first of them is told.
PASSED = (
    exceptions.NotFound,
    exceptions.UnknownScheme,
    exceptions.BadStoreUri,
    exceptions.BadStoreConfiguration,
    exceptions.RemoteServiceUnavailable,
    Unavailable,
)


def install() -> None:
    """Wrap the functions; once, however often it is called."""
    for name in NAMES:
        original = getattr(multi_backend, name, None)
        if original is None or getattr(original, "by_imaged", False):
            continue
        wrapped = _wrapped(original)
        setattr(multi_backend, name, wrapped)
        # It has them under its own name too, which is where Glance takes them from.
        if getattr(glance_store, name, None) is original:
            setattr(glance_store, name, wrapped)


def _wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(uri: str, backend: str | None, *args: Any, **more: Any) -> Any:
        stores = {} if backend else _stores(uri)
        if not any(isinstance(store, Served) for store in stores.values()):
            return original(uri, backend, *args, **more)
        first: Exception | None = None
        hang: set[str] = set()
        for name, store in stores.items():
            socket = store.socket if isinstance(store, Served) else None
            if socket in hang:
                # It would say nothing again, for as long.
                continue
            try:
                return original(uri, name, *args, **more)
            except PASSED as refused:
                passed: Exception = refused
            except exceptions.Forbidden as refused:
                if not isinstance(refused.__cause__, ours.Invalid):
                    raise
                passed = refused
            cause = passed.__cause__
            if socket and isinstance(cause, ours.Timeout) and cause.status is None:
                hang.add(socket)
            # That a store has no such image says less than any other reason.
            if first is None or isinstance(first, exceptions.NotFound):
                first = passed
        if isinstance(first, Unavailable) and not isinstance(first, NotReached):
            # Who names no store knows glance_store's exceptions alone.
            raise NotReached(first.msg) from first
        raise first or exceptions.NotFound("no configured store has a type that fits this location")

    call.by_imaged = True  # type: ignore[attr-defined]
    return call


def _stores(uri: str) -> dict[str, Any]:
    """The stores whose type a location begins with, in the order of the configuration.

    Of a location in the place of a store that is served, none in this process: they would take any
    path, or any pool, and serve or delete what is the daemon's.
    """
    backends = {**cfg.CONF.enabled_backends, **multi_backend._RESERVED_STORES}
    loaded = location.SCHEME_TO_CLS_BACKEND_MAP
    fitting = {
        name: loaded[kind][name]["store"]
        for name, kind in backends.items()
        if uri.startswith(kind) and name in loaded.get(kind, {})
    }
    served = {name: store for name, store in fitting.items() if isinstance(store, Served)}
    return served if any(store.is_place_of(uri) for store in served.values()) else fitting
