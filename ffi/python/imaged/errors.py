"""What can go wrong, named as the daemon names it.

Each class has the name of a `code` in the daemon's answers. Two failures share a class if the
caller would do the same about them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from urllib.parse import unquote


class Error(Exception):
    """The daemon refused or failed; the base of everything that the client raises."""

    code = "Internal"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        location: str | None = None,
        left: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """Keep what the answer said; `status` is None if there was no answer."""
        super().__init__(message)
        self.message = message
        self.status = status
        self.request_id = request_id
        #: The location whose fate only a `stat` can tell.
        self.location = location
        #: What clean-up could not remove.
        self.left = left
        #: Seconds after which the daemon says that another try is worth while.
        self.retry_after = retry_after
        #: Whether the change that was asked for may have been made all the same.
        self.in_doubt = False


class Invalid(Error):
    """The request cannot be as it is."""

    code = "Invalid"


class Denied(Error):
    """The daemon does not let this user do that; the message says what would."""

    code = "Denied"


class NotFound(Error):
    """There is no such image, store or job."""

    code = "NotFound"


class Unsupported(Error):
    """The store cannot do that."""

    code = "Unsupported"


class Exists(Error):
    """The image's id is taken."""

    code = "Exists"


class InUse(Error):
    """Something else holds it; try again when it has let go."""

    code = "InUse"


class Precondition(Error):
    """A condition of the request does not hold."""

    code = "Precondition"


class NotModified(Error):
    """The image is the one that `if_none_match` names: the caller has it already."""

    code = "NotModified"


class TooLarge(Error):
    """It is larger than can be."""

    code = "TooLarge"


class Range(Error):
    """The bytes that were asked for are past the image's end."""

    code = "Range"


class Mismatch(Error):
    """The bytes are not those that were promised."""

    code = "Mismatch"


class Internal(Error):
    """The daemon is at fault; its log has the cause under the request's id."""

    code = "Internal"


class BackendDenied(Error):
    """The backend does not let the daemon do that."""

    code = "BackendDenied"


class Unavailable(Error):
    """Not now; try again."""

    code = "Unavailable"


class Timeout(Error):
    """It took too long."""

    code = "Timeout"


class Full(Error):
    """The store has no room."""

    code = "Full"


class Unreachable(Unavailable):
    """No daemon listens on the socket. Nothing was done."""

    code = "Unreachable"


class Lost(Unavailable):
    """The connection broke. Of a change, nobody can tell here whether it was done."""

    code = "Lost"


@contextlib.contextmanager
def in_doubt() -> Iterator[None]:
    """Mark errors after which nobody can tell whether the change was made: all of it was sent."""
    try:
        yield
    except (Lost, Timeout, Internal) as error:
        error.in_doubt = True
        raise


CODES: dict[str, type[Error]] = {
    one.code: one
    for one in (
        Invalid,
        Denied,
        NotFound,
        Unsupported,
        Exists,
        InUse,
        Precondition,
        TooLarge,
        Range,
        Mismatch,
        Internal,
        BackendDenied,
        Unavailable,
        Timeout,
        Full,
    )
}

# For answers without a body, such as those to HEAD.
STATUSES: dict[int, type[Error]] = {
    304: NotModified,
    400: Invalid,
    403: Denied,
    404: NotFound,
    405: Unsupported,
    409: Exists,
    412: Precondition,
    413: TooLarge,
    416: Range,
    422: Mismatch,
    502: BackendDenied,
    503: Unavailable,
    504: Timeout,
    507: Full,
}


def from_answer(status: int, headers: dict[str, str], body: bytes) -> Error:
    """The error that an answer tells of."""
    problem: dict[str, object] = {}
    if headers.get("content-type", "").startswith("application/problem+json"):
        try:
            parsed = json.loads(body)
        except ValueError:
            parsed = None
        if isinstance(parsed, dict):
            problem = parsed
    kind = CODES.get(str(problem.get("code"))) or STATUSES.get(status, Internal)

    def text(name: str) -> str | None:
        value = problem.get(name)
        return value if isinstance(value, str) else None

    told = unquote(headers.get("imaged-problem", ""))
    bare = f"the daemon answered {status}"
    if kind is NotModified:
        bare = "the image is the one that if_none_match names"
    message = text("detail") or told or bare
    return kind(
        message,
        status=status,
        request_id=text("request_id") or headers.get("x-request-id"),
        location=text("location"),
        left=text("left"),
        retry_after=int(after) if (after := headers.get("retry-after", "")).isdecimal() else None,
    )
