"""Whether the daemon can make the image of a volume by itself; knows neither Cinder nor Glance.

The rule: the daemon makes an image that is to hold the volume's bytes as they are, if one of its
stores reaches the volume's cluster and Glance takes a location in the image's store from Cinder; it
clones the volume where the image's store is in that cluster too, and else copies it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..records import Store

# Types of stores whose locations Glance takes from Cinder. It takes one of a file from nobody, and
# one of Swift with the key of its account, which the daemon tells nobody.
REGISTERED = ("cinder", "rbd", "s3")


class Unsuited(Exception):
    """It cannot; the message says why, in words for the log."""


def suited(image: Mapping[str, Any], *, encrypted: bool) -> None:
    """Refuse an image that is not to hold the volume's bytes as they are."""
    disk, container = image.get("disk_format"), image.get("container_format")
    if disk != "raw":
        raise Unsuited(f"the image is to be {disk}, and a volume's bytes are raw")
    if container != "bare":
        raise Unsuited(
            f"the image is to be in a container of type {container}, and a volume's bytes are bare"
        )
    if encrypted:
        raise Unsuited("the volume is encrypted")


def stores_for(stores: Iterable[Store], named: str | None, fsid: str) -> tuple[Store, Store]:
    """The daemon's store that the image goes to, and the one that reaches a volume of this cluster.

    The first is the store with this name, else the default one, which Glance takes too.
    """
    stores = list(stores)
    to = _target(stores, named)
    # The image's own store goes first: by it the volume is cloned.
    for store in [to, *stores]:
        if store.type == "rbd" and store.state == "up" and store.properties.get("fsid") == fsid:
            return to, store
    raise Unsuited(f"no store of the daemon's reaches the volume's cluster, {fsid}")


def _target(stores: list[Store], named: str | None) -> Store:
    found = [one for one in stores if (one.default if named is None else one.id == named)]
    if not found:
        known = ", ".join(sorted(one.id for one in stores)) or "none"
        which = "default store" if named is None else f"store {named}"
        raise Unsuited(f"the daemon has no {which}; it has: {known}")
    store = found[0]
    if store.type not in REGISTERED:
        raise Unsuited(
            f"store {store.id}: its type is {store.type}, and Glance adds no such location"
        )
    if store.state != "up":
        raise Unsuited(f"the store {store.id} is {store.state}: {store.reason}")
    if store.read_only:
        raise Unsuited(f"the store {store.id} may only be read")
    return store
