"""Client of imaged, the storage data plane for OpenStack images.

    with imaged.Client() as client:
        with open("disk.raw", "rb") as disk:
            receipt = client.put("fast", "my-image", disk)
        with client.get("fast", "my-image") as body:
            for piece in body:
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
    NotModified,
    Precondition,
    Range,
    Timeout,
    TooLarge,
    Unavailable,
    Unreachable,
    Unsupported,
)
from .listing import Images
from .records import Health, Image, Job, Receipt, Stat, Store
from .source import Source, Watch

__version__ = "0.1.0"

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
    "Health",
    "Image",
    "Images",
    "InUse",
    "Internal",
    "Invalid",
    "Job",
    "Lost",
    "Mismatch",
    "NotFound",
    "NotModified",
    "Precondition",
    "Range",
    "Receipt",
    "Source",
    "Stat",
    "Store",
    "Timeout",
    "TooLarge",
    "Unavailable",
    "Unreachable",
    "Unsupported",
    "Watch",
    "__version__",
]
