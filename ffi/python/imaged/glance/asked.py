"""What Glance's configuration asks of the daemon.

Read from oslo.config alone: it has to be known also where nothing else is as it should be.
"""

from __future__ import annotations

import logging
import os
from typing import Any, NoReturn

from oslo_config import cfg

LOG = logging.getLogger(__name__)

SHARED = "backend_defaults"
# Glance's own stores for staging and tasks; Glance reads and writes their files itself.
RESERVED = "os_glance_"
# Of a single store, which Glance has without `enabled_backends`.
SINGLE = "glance_store"
# Bytes of a socket's path, of which the system takes no more.
LONGEST_PATH = 107

SOCKET = cfg.StrOpt(
    "imaged_socket",
    help="""
The socket of imaged, which then moves the images of this store.

In `[backend_defaults]` it is for all stores; an empty value in a store's own section keeps that
store in this process.
""",
)
TIMEOUT = cfg.FloatOpt(
    "imaged_timeout",
    min=0.1,
    max=86400,
    help="""
Seconds that imaged may be silent before a call is given up, and answered with 503.

By default 75. A transfer that moves may take longer, and so may a change that imaged, asked
whether it is there, is still at work on. In `[backend_defaults]` it is for all stores.
""",
)


class Refused(RuntimeError, AssertionError):
    """Glance is not to start.

    A RuntimeError, of which Glance tells the reason, and also of the one kind that stevedore does
    not pass over while it imports.
    """


def refuse(why: str) -> NoReturn:
    """Stop the start of Glance."""
    LOG.critical("%s", why)
    raise Refused(why)


def enabled(conf: Any) -> dict[str, str]:
    """The stores in Glance's configuration, with their types."""
    try:
        return dict(conf.enabled_backends or {})
    except cfg.NoSuchOptError:
        return {}


def own(conf: Any, option: Any, group: str) -> Any:
    """An option as a section has it."""
    conf.register_opt(option, group=group)
    return conf[group][option.dest]


def asked(conf: Any, option: Any, backend: str) -> Any:
    """An option as a store's section has it, or else the shared one."""
    value, shared = own(conf, option, backend), own(conf, option, SHARED)
    return shared if value is None else value


def socket(conf: Any, backend: str) -> str | None:
    """The socket that a store is to be reached by, if it is not to be served in this process."""
    if backend.startswith(RESERVED):
        return None
    path: str | None = asked(conf, SOCKET, backend)
    if not path:
        return None
    # What follows a # in a line is no comment for oslo.config.
    if not os.path.isabs(path) or len(os.fsencode(path)) > LONGEST_PATH or " #" in path:
        refuse(
            f"imaged_socket of the store {backend} is `{path}`, which is not the path of a socket: "
            f"it has to begin with /, has nothing behind it in its line, and may have "
            f"{LONGEST_PATH} bytes, such as /run/imaged/imaged.sock"
        )
    return path


def timeout(conf: Any, backend: str) -> float | None:
    """Seconds of silence after which a store's calls are given up, if they are told."""
    seconds: float | None = asked(conf, TIMEOUT, backend)
    return seconds


def stores(conf: Any = cfg.CONF) -> dict[str, str]:
    """The stores that ask for the daemon, with the sockets that they ask for."""
    found = ((name, socket(conf, name)) for name in enabled(conf))
    return {name: path for name, path in found if path}


_warned: object = None


def warn(conf: Any = cfg.CONF) -> None:
    """Name what is set and has no effect, once for each time that the configuration was read."""
    global _warned  # noqa: PLW0603
    read = getattr(conf, "_namespace", None)
    if read is None or read is _warned:
        return
    _warned = read
    several = enabled(conf)
    sections = conf.list_all_sections()
    if "DEFAULT" in sections:
        conf.register_opt(SOCKET)
        conf.register_opt(TIMEOUT)
    for section in sections:
        values = conf if section == "DEFAULT" else None
        for option in (SOCKET, TIMEOUT):
            value = own(conf, option, section) if values is None else values[option.dest]
            if value in (None, ""):
                continue
            why = without_effect(section, several, option, conf)
            if why:
                LOG.warning(
                    "%s in [%s] of Glance's configuration has no effect: %s",
                    option.name,
                    section,
                    why,
                )


def without_effect(section: str, several: dict[str, str], option: Any, conf: Any) -> str | None:
    """Why an option in a section has no effect, if it has none."""
    if section.startswith(RESERVED):
        return "Glance itself reads and writes the files of its staging and its tasks"
    if not several:
        return (
            "imaged serves the stores of enabled_backends only, and there are none; a single store "
            f"in [{SINGLE}] stays in this process. Name it in enabled_backends, give it a section "
            "of its own, and set imaged_socket there"
        )
    if section not in (*several, SHARED):
        return f"there is no store of that name in enabled_backends, only {', '.join(several)}"
    if option is TIMEOUT and not any(stores(conf).values()):
        return "no store has imaged_socket"
    return None
