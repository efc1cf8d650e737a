"""What makes Glance's stores the daemon's, or its start fail.

glance_store imports every module in the entry point group `glance_store.drivers` when it registers
its options, before the first store is loaded. This module is in that group; `loading` does what is
to be done, and this one sees to it that nothing is left undone without a word.

# Decisions
* Chose: to stop the start of Glance where a section asks for what cannot be, with a line of level
  CRITICAL. Because: a Glance that goes on serves such a store in its own process, with its own
  keys, beside the daemon, and nobody sees it: images come and go as they should. To have this
  package installed never stops a Glance that does not ask.
* Chose: to say so twice, when this module is imported and when glance_store asks its entry point
  for options. Because: the import comes too early where the configuration has not been read yet,
  and a later glance_store may not ask. Instead of: an ImportError, which stevedore logs and passes
  over.
"""

from __future__ import annotations

from typing import NoReturn

from . import asked
from .asked import Refused

try:
    from . import loading
    from .loading import KNOWN, install, version_refused

    install()
except Exception as error:
    # Whatever it is: a glance_store with other names, or one of its parts that is missing.
    BROKEN: Exception | None = error
else:
    BROKEN = None

__all__ = ["BROKEN", "KNOWN", "NotAStore", "Refused", "check", "install", "version_refused"]


def check() -> None:
    """Refuse to go on where a store asks for the daemon and cannot have it."""
    stores = asked.stores()
    if not stores:
        return
    broken = BROKEN
    if broken is None:
        try:
            loading.check()
        except ImportError as error:
            broken = error
    if broken is not None:
        names = ", ".join(stores)
        asked.refuse(
            f"imaged_socket is set for {names}, but the Python package imaged cannot take part in "
            f"how this glance_store loads its stores ({type(broken).__name__}: {broken}): install "
            f"versions of the two that know each other, or take imaged_socket out of the "
            f"configuration"
        )


class _Asked(type):
    """glance_store asks each type of store for its options before it loads any."""

    @property
    def OPTIONS(cls) -> None:
        """None; asked for at every start of Glance."""
        asked.warn()
        check()


class NotAStore(metaclass=_Asked):
    """What the entry point names: it is there to be imported, and no type of store."""

    def __init__(self, *args: object, **more: object) -> NoReturn:
        """Refuse."""
        from glance_store import exceptions

        raise exceptions.BackendException(
            "imaged-hook is no type of store: keep the store's own type, such as file or rbd, in "
            "enabled_backends and set imaged_socket in the store's section"
        )


check()
