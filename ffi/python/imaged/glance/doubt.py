"""Whether an image is there after an upload whose answer was lost.

If it is, and nobody says so, Glance has an image without data whose id is taken for ever: each try
is refused, and a delete of the image leaves the bytes. So it is looked for, and what is found is
either the answer, or removed if the answer cannot be told from it.

What makes this safe:
* An id is given to one upload at a time. Who is let in knows that no other is under way, and that
  none of before can still come to be.
* An image is there whole or not at all, so one of another length is another's.
* Only what is known to be this upload is taken for it or removed: by having been let in for it, and
  by samples of the bytes.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator

from .. import errors as ours
from ..client import Client
from ..records import Stat

# Seconds that Glance's caller waits for it. A daemon that is started again is there in a few, and
# has cleared up after itself.
PATIENCE = 60.0
# Bytes a second that it takes more where all of an image has to be read: on a disk that is slow.
SLOWEST = 100 << 20
# Seconds between two looks: at first, and at most.
SOON, LATER = 0.05, 1.0
# Samples of what was sent, and bytes of each.
SAMPLES, SAMPLE = 64, 1024


class Unknown(Exception):
    """It could not be found out in time."""


class Sent:
    """What was sent, to be known again: `see` is told all of it."""

    def __init__(self) -> None:
        """Nothing has been sent yet."""
        self.size = 0
        self._samples: list[tuple[int, bytes]] = []
        self._pieces = 0

    def see(self, piece: bytes) -> None:
        """Take a sample of the next bytes, or not: each piece has the same chance."""
        if not piece:
            return
        self._pieces += 1
        place = len(self._samples)
        if place >= SAMPLES:
            place = random.randrange(self._pieces)
        if place < SAMPLES:
            at = random.randrange(max(1, len(piece) - SAMPLE + 1))
            self._samples[place : place + 1] = [(self.size + at, piece[at : at + SAMPLE])]
        self.size += len(piece)

    def is_image(self, client: Client, store: str, id: str, stat: Stat) -> bool:
        """Whether an image is this one. Raises the daemon's errors."""
        if stat.size != self.size:
            return False
        for at, sample in self._samples:
            with client.get(store, id, offset=at, length=len(sample)) as body:
                if body.read() != sample:
                    return False
        return True


def look(
    client: Client, store: str, id: str, algo: str, sent: Sent, *, enough: bool = True
) -> Stat | None:
    """What was sent, with its location, its md5 and its `algo`, if it is there.

    None if it is not, and cannot come any more: it never was, it is another's, or it was removed,
    because not all of that can be told or would not be `enough`. Raises Unknown.
    """
    until = time.monotonic() + PATIENCE
    latest = until + sent.size / SLOWEST
    pause = SOON
    while time.monotonic() < until:
        try:
            stat = client.stat(store, id)
            if not sent.is_image(client, store, id, stat):
                return None
            told = _told(client, store, id, algo, stat, latest) if enough else None
            if told is None:
                client.delete(store, id)
            return told
        except ours.NotFound:
            if _is_free(client, store, id):
                return None
        except (ours.Unavailable, ours.Timeout):
            # It is being started, or cannot reach its backend.
            pass
        except ours.Error as error:
            raise Unknown(error.message) from error
        time.sleep(pause)
        pause = min(2 * pause, LATER)
    raise Unknown(f"not within {PATIENCE:g} s")


def _told(client: Client, store: str, id: str, algo: str, stat: Stat, until: float) -> Stat | None:
    """The image with all that Glance wants to know of it, if that can be had."""
    if stat.location is not None:
        # Without its md5, if the daemon computes none (`checksum = none`).
        if algo in stat.digests:
            return stat
        try:
            digests = _digests(client, store, id, sorted({"md5", algo}), until)
        except (Unknown, ValueError):
            # Not in time, or of an algorithm that is not known here.
            pass
        else:
            return Stat(stat.size, stat.location, digests)
    return None


class _LetIn(Exception):
    """The daemon would have an upload of this id."""


def _is_free(client: Client, store: str, id: str) -> bool:
    """Whether the id is free. Found out by asking to upload, and leaving when that is granted."""

    def nothing() -> Iterator[bytes]:
        raise _LetIn
        yield b""

    try:
        client.put(store, id, nothing())
    except _LetIn:
        return True
    except (ours.Exists, ours.InUse, ours.Unavailable, ours.Timeout):
        # Another upload has it, or what is left of one is being removed.
        return False
    return False


def _digests(client: Client, store: str, id: str, algos: list[str], until: float) -> dict[str, str]:
    """Digests of an image that nobody knows them of."""
    hashes = [hashlib.new(algo, usedforsecurity=False) for algo in algos]
    with client.get(store, id, verify=False) as body:
        for piece in body:
            for one in hashes:
                one.update(piece)
            _in_time(until)
    return {algo: one.hexdigest() for algo, one in zip(algos, hashes, strict=True)}


def _in_time(until: float) -> None:
    if time.monotonic() > until:
        raise Unknown("the image is too long to be looked through in time")
