"""The image that Glance hands over, and when it is a plain file.

Glance wraps what it uploads: to let others run, to keep limits, to tell of progress, to look at the
format. A plain file under the first two may go by descriptor, for they change no byte. The others
want to see every byte, so then the bytes are sent.
"""

from __future__ import annotations

from typing import Any

from .. import source

LIMITING = ("glance.common.utils", "LimitingReader")
PAUSING = ("glance.common.utils", "CooperativeReader")


def unwrapped(image: Any, size: int | None) -> Any:
    """A descriptor of the plain file under Glance's wrappers, or the image if that is unsure."""
    inner, most = image, []
    # By name and not by class: Glance need not be there. Not subclasses: they may do more.
    while (kind := (type(inner).__module__, type(inner).__qualname__)) in (LIMITING, PAUSING):
        if kind == LIMITING:
            most.append(inner.limit - inner.bytes_read)
            inner = inner.data
        else:
            inner = inner.fd
    found = source.descriptor(inner, size)
    if found is None:
        return image
    if any(found.size > limit for limit in most):
        found.close()
        return image
    return found
