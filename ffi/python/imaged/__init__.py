"""Client of imaged, the storage data plane for OpenStack images.

    client = imaged.Client()
    with open("disk.raw", "rb") as disk:
        receipt = client.put("fast", "my-image", disk)
    for piece in client.get("fast", "my-image"):
        ...

It needs nothing beyond Python, and may be used by threads, by processes that fork, and under
eventlet. `imaged.glance` is the plugin that lets Glance's stores be served by the daemon, and
`imaged.cinder` a driver of Cinder's that has it make images of volumes.
"""

from .body import Body
from .client import DEFAULT_SOCKET, HASH_ALGOS, Client
from .errors import (
    BackendDenied,
    Denied,
    Error,
    Exists,
    Full,
    Internal,
    InUse,
    Invalid,
    Lost,
    Mismatch,
    NotFound,
    Precondition,
    Range,
    Timeout,
    TooLarge,
    Unavailable,
    Unreachable,
    Unsupported,
)
from .records import Job, Receipt, Stat, Store

__all__ = [
    "DEFAULT_SOCKET",
    "HASH_ALGOS",
    "BackendDenied",
    "Body",
    "Client",
    "Denied",
    "Error",
    "Exists",
    "Full",
    "InUse",
    "Internal",
    "Invalid",
    "Job",
    "Lost",
    "Mismatch",
    "NotFound",
    "Precondition",
    "Range",
    "Receipt",
    "Stat",
    "Store",
    "Timeout",
    "TooLarge",
    "Unavailable",
    "Unreachable",
    "Unsupported",
]
