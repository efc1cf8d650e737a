"""The daemon's errors as glance_store's, chosen for the answer that Glance makes of them.

| the daemon's | add | get | size | delete |
|---|---|---|---|---|
| Invalid | 400, of an algorithm 500 | Unreadable 500 | BadStoreUri | Forbidden 403 |
| NotFound | Unavailable 503: no such store | NotFound 204 | NotFound | NotFound, passed over |
| Exists, InUse, Precondition | Duplicate 409 | Unavailable 503 | 503 | InUseByStore 409 |
| Unsupported | StoreAddDisabled 410 | StoreGetNotSupported 400 | 400 | Forbidden 403 |
| Denied, BackendDenied | StorageWriteDenied 503 | Unavailable 503 | 503 | Forbidden 403 |
| Full | StorageFull 413 | Unavailable 503 | 503 | Failed 500 |
| TooLarge | StorageFull 413 | Failed 500 | 500 | Failed 500 |
| Range | Invalid 400 | StoreRandomGetNotSupported 400 | 400 | Failed 500 |
| Mismatch | Invalid 400 | Unavailable 503 | 503 | Unavailable 503 |
| Unavailable, Timeout, Unreachable, Lost | Unavailable 503 | 503 | 503 | 503 |
| Internal | Failed 500 | 500 | 500 | 500 |

# Decisions
* Chose: exceptions that are webob's too, where there is none of glance_store's for the answer.
  Because: on a download Glance knows three of glance_store's and lets all others end its request
  without an answer, and on an upload the one that it answers with 503 it calls a timeout of a
  filesystem or a lack of permissions. Those of webob it passes on, with their own words and
  headers. Instead of: an error that says something else.
* Chose: of a download that the daemon says to try again later, an exception that is webob's only.
  Because: of glance_store's RemoteServiceUnavailable Glance takes the words, and leaves out when. A
  delete has to be told by one whose words alone it takes, so its answer has no Retry-After.
* Chose: Invalid, which is a location of no directory or pool of the store, is answered as what is
  there and may not be read is in Glance itself: 403 on a delete, and on a download an error of the
  server's, for which its drivers have no exception: 500. Because: the image may well be there.
  Instead of: NotFound, after which a download looks like an empty image, and a delete forgets one
  whose bytes stay.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from glance_store import exceptions

from .. import client
from .. import errors as ours

try:
    from webob import exc as answers
except ImportError:
    # Glance has it. Without Glance there is nobody to be answered.
    class answers:  # type: ignore[no-redef]
        """Stands in for webob's module."""

        HTTPServiceUnavailable = HTTPInternalServerError = Exception


# Glance answers 503 to it on a delete. Before glance_store 5.4 there is none.
_LATE: Any = getattr(exceptions, "TimeoutError", exceptions.GlanceStoreException)


class Unavailable(exceptions.GlanceStoreException, answers.HTTPServiceUnavailable):  # type: ignore[misc]
    """The daemon or its store cannot be used now."""


class NotReached(Unavailable, exceptions.RemoteServiceUnavailable):  # type: ignore[misc]
    """The same, and nobody can tell until when."""


class NotDeletedNow(NotReached, _LATE):  # type: ignore[misc]
    """The same, of a delete."""


class Failed(exceptions.BackendException, answers.HTTPInternalServerError):  # type: ignore[misc]
    """The daemon or its backend is at fault, and to try again would not help."""


class Unreadable(exceptions.BadStoreUri, answers.HTTPInternalServerError):  # type: ignore[misc]
    """A location that is in no place of the store."""


@functools.cache
def _both(name: str, theirs: type[Exception]) -> type[Exception]:
    return type(name, (getattr(exceptions, name), theirs), {})


def both(name: str) -> Any:
    """glance_store's exception of that name, and Glance's too where Glance runs.

    Of some it catches only its own: of Duplicate on an upload, of Forbidden where an image is
    deleted from one of its stores.
    """
    glance = sys.modules.get("glance.common.exception")
    return getattr(exceptions, name) if glance is None else _both(name, getattr(glance, name))


def _forbidden(message: str) -> Exception:
    return both("Forbidden")(message)  # type: ignore[no-any-return]


def _duplicate(message: str) -> Exception:
    return both("Duplicate")(message)  # type: ignore[no-any-return]


ADD: dict[type[ours.Error], Any] = {
    ours.Invalid: exceptions.Invalid,
    ours.NotFound: NotReached,
    ours.Exists: _duplicate,
    ours.InUse: _duplicate,
    ours.Precondition: _duplicate,
    ours.Unsupported: exceptions.StoreAddDisabled,
    ours.Denied: exceptions.StorageWriteDenied,
    ours.BackendDenied: exceptions.StorageWriteDenied,
    ours.Full: exceptions.StorageFull,
    ours.TooLarge: exceptions.StorageFull,
    ours.Range: exceptions.Invalid,
    ours.Mismatch: exceptions.Invalid,
}
GET: dict[type[ours.Error], Any] = {
    ours.Invalid: Unreadable,
    ours.NotFound: exceptions.NotFound,
    ours.Exists: NotReached,
    ours.InUse: NotReached,
    ours.Precondition: NotReached,
    ours.Unsupported: exceptions.StoreGetNotSupported,
    ours.Denied: NotReached,
    ours.BackendDenied: NotReached,
    ours.Full: NotReached,
    ours.Range: exceptions.StoreRandomGetNotSupported,
    ours.Mismatch: NotReached,
}
DELETE: dict[type[ours.Error], Any] = {
    ours.Invalid: _forbidden,
    ours.NotFound: exceptions.NotFound,
    ours.Exists: exceptions.InUseByStore,
    ours.InUse: exceptions.InUseByStore,
    ours.Precondition: exceptions.InUseByStore,
    # glance_store has a StoreDeleteNotSupported; after it Glance forgets the image.
    ours.Unsupported: _forbidden,
    ours.Denied: _forbidden,
    ours.BackendDenied: _forbidden,
    ours.Mismatch: NotDeletedNow,
}


def told(table: dict[type[ours.Error], Any], error: ours.Error, algo: str = "") -> Exception:
    """The exception to raise for an error of the daemon."""
    if table is ADD and isinstance(error, ours.Invalid) and algo not in client.HASH_ALGOS:
        unknown: Exception = exceptions.UnknownHashingAlgo(algo=algo)
        return unknown
    kind = table.get(type(error))
    if kind is None:
        passing = isinstance(error, ours.Unavailable | ours.Timeout)
        kind = unavailable(table) if passing else Failed
    later = error.retry_after
    if later is not None and kind is NotReached:
        kind = Unavailable
    # Their texts are formats: a percent sign is safe only without arguments, so none are given.
    told: Exception = kind(error.message)
    if later is not None and kind is Unavailable and hasattr(told, "headers"):
        told.headers["Retry-After"] = str(later)
    return told


def unavailable(table: dict[type[ours.Error], Any]) -> type[Unavailable]:
    """What to raise in such a call while the daemon or the store cannot be used."""
    return NotDeletedNow if table is DELETE else NotReached
