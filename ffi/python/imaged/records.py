"""What the daemon tells: receipts, images, stores, jobs, digests."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from .errors import Internal, Invalid

T = TypeVar("T")

# The algorithms that `Repr-Digest` (RFC 9530) names, by hashlib's names, with the length of
# a digest in bytes. The strongest first.
_FIELD = {
    "sha512": ("sha-512", 64),
    "sha256": ("sha-256", 32),
    "sha1": ("sha", 20),
    "md5": ("md5", 16),
}
_NAMES = {name: algo for algo, (name, _) in _FIELD.items()}


def read(kind: type[T], answer: Any) -> T:
    """A record of an answer. What is not known here is left out: a newer daemon may say more."""
    try:
        known = {one.name for one in fields(kind)}  # type: ignore[arg-type]
        return kind(**{name: value for name, value in answer.items() if name in known})
    except (AttributeError, TypeError) as error:
        raise Internal(f"the daemon's answer is no {kind.__name__.lower()}: {error}") from error


def read_all(kind: type[T], answer: Mapping[str, Any], name: str) -> list[T]:
    """All records of the list `name` in an answer."""
    listed = answer.get(name)
    if not isinstance(listed, list):
        raise Internal(f"the daemon's answer has no list of {name}")
    return [read(kind, one) for one in listed]


@dataclass(frozen=True)
class Receipt:
    """What was stored, and where."""

    store: str
    id: str
    location: str
    size: int
    hash_algo: str
    #: The md5 in hexadecimal; None while `digest_job` runs, and where the daemon computes none.
    checksum: str | None = None
    #: The multihash in hexadecimal; None while `digest_job` runs.
    hash_value: str | None = None
    #: What Glance keeps beside the location.
    metadata: dict[str, Any] = field(default_factory=dict)
    #: Bytes that take space after zeros were skipped.
    stored_bytes: int = 0
    digest_job: str | None = None


@dataclass(frozen=True)
class Stat:
    """An image that is there."""

    size: int
    location: str | None = None
    #: Hexadecimal digests by hashlib's names, where they are known.
    digests: dict[str, str] = field(default_factory=dict)
    #: What `if_match` and `if_none_match` take; None while no digest is known.
    etag: str | None = None


@dataclass(frozen=True)
class Image:
    """An image in a list of a store's."""

    id: str
    location: str
    #: In bytes.
    size: int


@dataclass(frozen=True)
class Health:
    """Whether the daemon can serve; one that says nothing at all is `Unreachable` or `Timeout`."""

    #: Whether its default store is up.
    ready: bool
    #: Why it is not ready.
    reason: str | None = None


@dataclass(frozen=True)
class Store:
    """A store of the daemon."""

    id: str
    type: str
    state: str
    default: bool = False
    weight: int = 0
    read_only: bool = False
    description: str | None = None
    reason: str | None = None
    #: What is good to know of it though it is up, a sentence each.
    notes: list[str] = field(default_factory=list)
    capabilities: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    #: In bytes; only of one store at a time.
    capacity: dict[str, int | None] | None = None


@dataclass(frozen=True)
class Job:
    """Work of the daemon that goes on by itself."""

    id: str
    kind: str
    store: str
    image: str
    #: running, waiting, done, failed or cancelled.
    state: str
    done: int = 0
    total: int | None = None
    error: str | None = None
    #: In seconds since 1970.
    begun: int = 0

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ("done", "failed", "cancelled")


def digests(text: str) -> dict[str, str]:
    """The digests that a `Repr-Digest` tells."""
    found = {}
    for one in filter(None, (one.strip() for one in text.split(","))):
        name, _, value = one.partition("=")
        try:
            digest = base64.b64decode(value.strip(":"), validate=True)
        except binascii.Error:
            continue
        algo = _NAMES.get(name, name)
        # One that is none could only fail an image that is as it should be.
        if algo not in _FIELD or len(digest) == _FIELD[algo][1]:
            found[algo] = digest.hex()
    return found


def strongest(digests: Mapping[str, str]) -> str | None:
    """The algorithm to compare an image by: one that is known here too."""
    return next((algo for algo in _FIELD if algo in digests), None)


def repr_digest(digests: Mapping[str, str]) -> str:
    """The `Repr-Digest` that promises hexadecimal `digests`. Raises Invalid."""
    members = []
    if not isinstance(digests, Mapping):
        raise TypeError(f"digests are named by their algorithms, not {type(digests).__name__}")
    for algo, value in digests.items():
        if not isinstance(value, str):
            raise TypeError(f"a digest is hexadecimal text, not {type(value).__name__}")
        if algo not in _FIELD:
            raise Invalid(
                f"no digest can be promised by {algo!r}, only by one of: {', '.join(_FIELD)}"
            )
        name, length = _FIELD[algo]
        try:
            digest = bytes.fromhex(value)
        except ValueError:
            digest = b""
        # Blanks between digits would be passed over.
        if len(digest) != length or len(value) != 2 * length:
            raise Invalid(f"no {algo} in hexadecimal, which has {2 * length} digits: {value!r}")
        members.append(f"{name}=:{base64.b64encode(digest).decode()}:")
    return ", ".join(members)
