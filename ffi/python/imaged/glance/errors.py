"""The daemon's errors as glance_store's, chosen for the answer that Glance makes of them.

| the daemon's | add | get, size | delete |
|---|---|---|---|
| Invalid | Invalid 400, an algorithm UnknownHashingAlgo | BadStoreUri | BadStoreUri |
| NotFound | Unavailable 503: no such store | NotFound 204 | NotFound, passed over |
| Exists, InUse | Duplicate 409 | Unavailable 503 | InUseByStore 409 |
| Unsupported | StoreAddDisabled 410 | StoreGetNotSupported 400 | StoreDeleteNotSupported |
| Denied, BackendDenied | StorageWriteDenied 503 | Unavailable 503 | Forbidden 403 |
| Full, TooLarge | StorageFull 413 | BackendException 500 | StorageFull |
| Range | Invalid 400 | StoreRandomGetNotSupported 400 | Invalid |
| Mismatch | Invalid 400 | Unavailable 503 | Unavailable 503 |
| Unavailable, Timeout, Unreachable, Lost | Unavailable 503 | Unavailable 503 | Unavailable 503 |
| Internal | BackendException 500 | BackendException 500 | BackendException 500 |
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from glance_store import exceptions

from .. import client
from .. import errors as ours

# Glance answers 503 to the first on a download, to the second on an upload and a delete. Before
# 5.4 there is no TimeoutError, and StorageWriteDenied does for an upload.
_ALSO: Any = getattr(exceptions, "TimeoutError", exceptions.StorageWriteDenied)


class Unavailable(exceptions.RemoteServiceUnavailable, _ALSO):  # type: ignore[misc]
    """The daemon or its store cannot be used now."""


@functools.cache
def _both(theirs: type[Exception]) -> type[Exception]:
    return type("Duplicate", (exceptions.Duplicate, theirs), {})


def duplicate() -> type[Exception]:
    """glance_store's Duplicate, and Glance's too where Glance runs: it catches only its own."""
    glance = sys.modules.get("glance.common.exception")
    return exceptions.Duplicate if glance is None else _both(glance.Duplicate)


ADD: dict[type[ours.Error], Any] = {
    ours.Invalid: exceptions.Invalid,
    ours.NotFound: Unavailable,
    ours.Unsupported: exceptions.StoreAddDisabled,
    ours.Denied: exceptions.StorageWriteDenied,
    ours.BackendDenied: exceptions.StorageWriteDenied,
    ours.Full: exceptions.StorageFull,
    ours.TooLarge: exceptions.StorageFull,
    ours.Range: exceptions.Invalid,
    ours.Mismatch: exceptions.Invalid,
}
GET: dict[type[ours.Error], Any] = {
    ours.Invalid: exceptions.BadStoreUri,
    ours.NotFound: exceptions.NotFound,
    ours.Exists: Unavailable,
    ours.InUse: Unavailable,
    ours.Unsupported: exceptions.StoreGetNotSupported,
    ours.Denied: Unavailable,
    ours.BackendDenied: Unavailable,
    ours.Range: exceptions.StoreRandomGetNotSupported,
    ours.Mismatch: Unavailable,
}
DELETE: dict[type[ours.Error], Any] = {
    ours.Invalid: exceptions.BadStoreUri,
    ours.NotFound: exceptions.NotFound,
    ours.Exists: exceptions.InUseByStore,
    ours.InUse: exceptions.InUseByStore,
    ours.Unsupported: exceptions.StoreDeleteNotSupported,
    ours.Denied: exceptions.Forbidden,
    ours.BackendDenied: exceptions.Forbidden,
    ours.Full: exceptions.StorageFull,
    ours.TooLarge: exceptions.StorageFull,
    ours.Range: exceptions.Invalid,
    ours.Mismatch: Unavailable,
}


def told(table: dict[type[ours.Error], Any], error: ours.Error, algo: str = "") -> Exception:
    """The exception to raise for an error of the daemon."""
    if table is ADD and isinstance(error, ours.Exists | ours.InUse):
        return duplicate()(error.message)
    if table is ADD and isinstance(error, ours.Invalid) and algo not in client.HASH_ALGOS:
        unknown: Exception = exceptions.UnknownHashingAlgo(algo=algo)
        return unknown
    kind = table.get(type(error))
    if kind is None:
        passing = isinstance(error, ours.Unavailable | ours.Timeout)
        kind = Unavailable if passing else exceptions.BackendException
    # Their texts are formats: a percent sign is safe only without arguments, so none are given.
    told: Exception = kind(error.message)
    return told
