"""What a request says: paths, queries and headers, of what a caller gives.

What can be none is refused here, before the daemon hears of it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from urllib.parse import quote

from . import errors, records
from .source import Watch


def is_plain(name: str, text: str) -> bool:
    check_text(name, text)
    return len(text) <= 128 and text.isascii() and text.replace("-", "a").isalnum()


def token_header(token: str | None) -> dict[str, str]:
    if token is None:
        return {}
    check_text("a token", token)
    # What is in it is shown to nobody. A blank could begin another header.
    if not token.isascii() or not token.isprintable() or " " in token:
        raise errors.Invalid("the caller's token is no token: it has blanks or is no plain text")
    return {"X-Auth-Token": token}


def project_header(project: str | None) -> dict[str, str]:
    if project is None:
        return {}
    if not is_plain("a project's id", project) or len(project) > 64:
        raise errors.Invalid("the caller's project is no id of one")
    return {"X-Project-Id": project}


def promised(
    hash_algo: str | None, digests: Mapping[str, str] | None
) -> tuple[str | None, dict[str, str]]:
    """The algorithm that is kept beside the md5, and the header that promises `digests`."""
    if not digests:
        return hash_algo, {}
    header = {"Repr-Digest": records.repr_digest(digests)}
    kept = [algo for algo in digests if algo != "md5"]
    if len(kept) > 1 or (kept and hash_algo not in (None, *kept)):
        raise errors.Invalid(
            "a digest is promised by md5 and by the image's hash_algo: "
            f"promised={', '.join(digests)} hash_algo={hash_algo}"
        )
    return (kept[0] if kept else hash_algo), header


def conditions(if_match: str | None, if_none_match: str | None) -> dict[str, str]:
    found = {}
    for name, etag in (("If-Match", if_match), ("If-None-Match", if_none_match)):
        if etag is None:
            continue
        check_text("an etag", etag)
        if not etag or not etag.isascii() or not etag.isprintable():
            raise errors.Invalid(f"no etag: {etag!r}")
        # An md5 as it is in a receipt is meant as the etag that it makes.
        plain = etag != "*" and '"' not in etag
        found[name] = f'"{etag}"' if plain else etag
    return found


def check_text(name: str, text: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{name} is text, not {type(text).__name__}")


def seconds(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is a number of seconds, not {type(value).__name__}")
    if not (value > 0 and math.isfinite(value)):
        raise errors.Invalid(f"{name} is a number of seconds above 0, not {value}")
    return float(value)


def size_of(size: int | None) -> int | None:
    if size is None:
        return None
    size = operator.index(size)
    if size < 0:
        raise errors.Invalid(f"no size of an image: {size}")
    return size


def check_watch(watch: Watch | None) -> None:
    if not (watch is None or callable(watch)):
        raise TypeError(f"watch is called with each piece, and {type(watch).__name__} cannot be")


def quoted(text: str) -> str:
    check_text("a name", text)
    try:
        return quote(text, safe="")
    except UnicodeEncodeError as error:
        raise errors.Invalid(f"a name that is no text: {text!r}") from error


def name(of: str, text: str) -> str:
    """A name in a path, which without it would lead to something else."""
    found = quoted(text)
    if not found:
        raise errors.Invalid(f"the name of the {of} is empty")
    return found


def query(**parameters: str | None) -> str:
    told = [f"{name}={quoted(value)}" for name, value in parameters.items() if value is not None]
    return "?" + "&".join(told) if told else ""


def image_path(store: str, id: str | None = None, at: str | None = None) -> str:
    if (id is None) == (at is None):
        raise TypeError("name the image by its id or by its location")
    path = f"/v1/stores/{name('store', store)}/images"
    return f"{path}/{name('image', id)}" if id is not None else f"{path}{query(at=at)}"
