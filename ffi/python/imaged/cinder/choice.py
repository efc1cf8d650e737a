"""Whether the daemon can make the image of a volume by a clone; knows neither Cinder nor Glance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..records import Store


class Unsuited(Exception):
    """It cannot; the message says why, in words for the log."""


def suited(image: Mapping[str, Any], *, encrypted: bool) -> None:
    """Refuse an image that is not to hold the volume's bytes as they are."""
    disk, container = image.get("disk_format"), image.get("container_format")
    if disk != "raw":
        raise Unsuited(f"the image is to be {disk}, and a clone is raw")
    if container != "bare":
        raise Unsuited(
            f"the image is to be in a container of type {container}, and a clone is bare"
        )
    if encrypted:
        raise Unsuited("the volume is encrypted")


def store_for(stores: Iterable[Store], named: str | None, fsid: str) -> Store:
    """The daemon's store that the image goes to, if a volume of this cluster can be cloned there.

    That is the store with this name, else the default one, which Glance takes too.
    """
    stores = list(stores)
    found = [one for one in stores if (one.default if named is None else one.id == named)]
    if not found:
        known = ", ".join(sorted(one.id for one in stores)) or "none"
        which = "default store" if named is None else f"store {named}"
        raise Unsuited(f"the daemon has no {which}; it has: {known}")
    store = found[0]
    if store.type != "rbd":
        raise Unsuited(f"the store {store.id} is of type {store.type}, and a clone is of type rbd")
    if store.state != "up":
        raise Unsuited(f"the store {store.id} is {store.state}: {store.reason}")
    if store.read_only:
        raise Unsuited(f"the store {store.id} may only be read")
    if store.properties.get("fsid") != fsid:
        raise Unsuited(
            f"the store {store.id} is in the cluster {store.properties.get('fsid')}, and the "
            f"volume in {fsid}"
        )
    return store
