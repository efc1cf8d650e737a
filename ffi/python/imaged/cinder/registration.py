"""How Glance is told where an image's bytes are, by its Location API.

Glance answers before it has done it: a task of its own adds the location and makes the image
active. A task that fails takes the location back, and deletes the bytes that it leads to.

# Decisions
* Chose: the user's token first, with Cinder's own beside it. Because: the user sees the image,
  whoever owns it, and the role `service` comes from the token beside. The user in `[glance]` sees
  another project's private image only if it is an administrator. Instead of: that user alone, as
  Cinder itself does.
* Chose: no location by the old API, which is a change of the image's `locations`. Because: a Glance
  that takes those from users lets users set locations. Instead of: another way in.
* Chose: a registration of which nobody can tell how it ended is an error. Because: to undo the
  clone could take the bytes of an image that is active. Instead of: a guess.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import glanceclient.exc

LOG = logging.getLogger(__name__)

# Seconds that a task may take which only writes into the database, and that one may which also
# reads the image.
SHORT, LONG = 300.0, 6 * 3600.0

# A method of glanceclient's, with its arguments; `controller` and `privileged_user` as in Cinder.
Call = Callable[..., Any]

REMEDY = (
    "Cinder's user needs the role service: give it in Keystone, set send_service_user_token in "
    "[service_user], and a login in [glance]"
)


class Refused(Exception):
    """The location was not registered, and will not be."""


class Unclear(Exception):
    """It may have been registered, or may be yet."""


def register(call: Call, image: str, url: str, digests: Mapping[str, str]) -> None:
    """Add a location to a queued image, and wait until the image is active.

    `digests` are Glance's validation data: `os_hash_algo` and `os_hash_value`, or nothing.
    """
    _ask(call, image, url, digests)
    deadline = time.monotonic() + (LONG if digests else SHORT)
    pause = 0.05
    while True:
        try:
            status, tasks = _progress(call, image)
        except Exception as error:
            # Glance may be there again in a moment.
            status, tasks = f"not known, {error}", []
        else:
            if status == "active":
                return
            if status == "gone":
                raise Refused(f"the image {image} was deleted meanwhile")
            if status not in ("queued", "importing"):
                # Another has it, who deletes it or has uploaded to it.
                raise Unclear(f"the image {image} is {status} while its location is registered")
            if "failure" in tasks:
                raise Refused("Glance's task failed; its log says why")
        if time.monotonic() > deadline:
            raise Unclear(f"the state of the image {image} is still {status}; its tasks: {tasks}")
        time.sleep(pause)
        pause = min(2 * pause, 2.0)


def _ask(call: Call, image: str, url: str, digests: Mapping[str, str]) -> None:
    refusals = []
    for privileged in (False, True):
        try:
            # Nothing but digests may be in its last argument, not Cinder's metadata.
            call("add_image_location", image, url, dict(digests), privileged_user=privileged)
            return
        except glanceclient.exc.HTTPNotImplemented as error:
            raise Refused(f"Glance has no Location API: {error}") from error
        except (
            glanceclient.exc.HTTPUnauthorized,
            glanceclient.exc.HTTPForbidden,
            glanceclient.exc.HTTPNotFound,
        ) as error:
            who = "Cinder's user" if privileged else "the user"
            refusals.append(f"to {who} it said {error}")
        except glanceclient.exc.HTTPConflict:
            # As after a first try whose answer was lost. What it was is seen next.
            LOG.debug("Glance already registers a location of image %s", image)
            return
        except Exception as error:
            code = getattr(error, "code", None)
            if isinstance(code, int) and 400 <= code < 500:
                raise Refused(f"Glance refused: {error}") from error
            # It was sent, perhaps whole.
            LOG.warning("Whether Glance registers a location is looked for: %s", error)
            return
    raise Refused(f"Glance refused: {'; '.join(refusals)}. {REMEDY}")


def _progress(call: Call, image: str) -> tuple[str, list[str]]:
    """The image's status, and those of the tasks that concern it."""
    try:
        # The tasks first: one that is over has written the status before.
        tasks = call("get_associated_image_tasks", image).get("tasks", ())
        status = call("get", image)["status"]
    except glanceclient.exc.HTTPNotFound:
        return "gone", []
    return status, [task["status"] for task in tasks]
