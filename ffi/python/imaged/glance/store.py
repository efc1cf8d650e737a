"""A store of Glance whose images the daemon moves.

# Decisions
* Chose: what Glance hands over is sent as bytes. Because: by whatever flow it comes, Glance sees
  them: an import tells of its progress with each, and the format of a bare image is looked at.
  Instead of: a descriptor of the plain file under Glance's readers. Only a task of type `import`,
  which interoperable imports have replaced, hands that over, and only of an image in a container.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

from glance_store import capabilities, driver, exceptions

from .. import errors as ours
from ..body import Body
from ..client import ALIVE, Client
from ..records import Store
from .doubt import Sent, Unknown, look
from .errors import ADD, DELETE, GET, Unavailable, told, unavailable
from .places import differences, path_and_priority

LOG = logging.getLogger(__name__)

# Seconds to find out about the daemon where nobody can wait for long.
BRIEFLY = ALIVE
# Seconds of a look that was slow, and for which what it has shown is then taken for true.
SLOW, REMEMBERED = 1.0, 30.0


def _file(store: Any) -> None:
    """What Glance asks a store of type file for, besides its images."""
    conf = store.store_conf
    store.chunk_size = conf.filesystem_store_chunk_size
    store.READ_CHUNKSIZE = store.WRITE_CHUNKSIZE = store.chunk_size
    store.thin_provisioning = conf.filesystem_thin_provisioning
    several = conf.filesystem_store_datadirs
    # The driver in Glance has no datadir where there are several, and stores/detail fails then.
    store.datadir = conf.filesystem_store_datadir
    if several:
        store.datadir, _ = max(map(path_and_priority, several), key=lambda one: one[1])
    store._url_prefix = f"file://{store.datadir}"
    store.directories = [path_and_priority(line)[0] for line in several or ()] or [store.datadir]
    store.has_metadata = bool(conf.filesystem_store_metadata_file)


def _rbd(store: Any) -> None:
    """What Glance asks a store of type rbd for, besides its images."""
    conf = store.store_conf
    store.chunk_size = conf.rbd_store_chunk_size << 20
    store.READ_CHUNKSIZE = store.WRITE_CHUNKSIZE = store.chunk_size
    store.thin_provisioning = conf.rbd_thin_provisioning
    store.pool = str(conf.rbd_store_pool)
    # It has the cluster's fsid, which the daemon knows.
    store._url_prefix = None


def _s3(store: Any) -> None:
    """What Glance asks a store of type s3 for, besides its images. It needs no keys for that."""
    conf = store.store_conf
    store.s3_store_large_object_size = conf.s3_store_large_object_size << 20
    store.s3_store_large_object_chunk_size = conf.s3_store_large_object_chunk_size << 20
    store.s3_store_thread_pools = conf.s3_store_thread_pools
    scheme, colon, host = (conf.s3_store_host or "").rpartition("://")
    scheme = "s3+https" if (scheme, colon) == ("https", "://") else "s3"
    # The driver in Glance compares without the slash at the end too.
    store._url_prefix = f"{scheme}://{host.rstrip('/')}/{conf.s3_store_bucket}"


# glance_store's "MB" of its swift driver, in bytes.
SWIFT_MB = 1000 * 1024


def _swift(store: Any) -> None:
    """What Glance asks a store of type swift for, besides its images. No login is needed for it."""
    conf = store.store_conf
    store.large_object_size = conf.swift_store_large_object_size * SWIFT_MB
    store.large_object_chunk_size = conf.swift_store_large_object_chunk_size * SWIFT_MB
    store.container = conf.swift_store_container or "glance"
    store._url_prefix = _swift_prefix(conf, store.container)


def _swift_prefix(conf: Any, container: str) -> str | None:
    """What locations in a single account begin with; in those of callers nobody can tell."""
    if conf.swift_store_multi_tenant:
        return None
    if conf.swift_store_config_file:
        return f"swift+config://{conf.default_swift_reference or 'ref1'}/{container}/"
    address = conf.swift_store_auth_address
    if not address:
        return None
    scheme = "swift+http" if address.startswith("http://") else "swift+https"
    host = address.rpartition("://")[2].strip("/")
    user = f"{quote(conf.swift_store_user)}:{_swift_key(conf)}@" if conf.swift_store_user else ""
    return f"{scheme}://{user}{host}/{container}/"


# What the daemon writes in place of a key.
MASK = "***"


def _swift_key(conf: Any) -> str:
    """The key in locations, where glance_store has it and looks for it after a switch back."""
    return quote(conf.swift_store_key) if conf.swift_store_key else MASK


def _http(store: Any) -> None:
    """What Glance asks a store of type http for, besides its images."""
    store._url_prefix = "http"


def _cinder(store: Any) -> None:
    """What Glance asks a store of type cinder for, besides its images."""
    store._url_prefix = f"cinder://{store.backend_group}"


# The types that the daemon serves, with what Glance reads off a store of each.
SERVED: dict[str, Callable[[Any], None]] = {
    "cinder": _cinder,
    "file": _file,
    "http": _http,
    "rbd": _rbd,
    "s3": _s3,
    "swift": _swift,
}
# Those that Glance's drivers only read from.
READ_ONLY = frozenset({"http"})


@functools.cache
def client(socket: str, timeout: float | None = None) -> Client:
    """One client a socket, so that all stores share its connections."""
    return Client(socket) if timeout is None else Client(socket, timeout=timeout)


class _Look:
    """What a daemon says of its stores, asked by one at a time.

    A daemon that hangs is so found out once, and not by each store at the start of Glance, nor for
    each image of a listing.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._until = 0.0
        self._said: list[Store] | ours.Error = []

    def stores(self, socket: str) -> list[Store]:
        with self._turn:
            began = time.monotonic()
            if began >= self._until:
                briefly = Client(socket, timeout=BRIEFLY)
                try:
                    self._said = briefly.stores()
                except ours.Error as error:
                    self._said = error
                finally:
                    briefly.close()
                ended = time.monotonic()
                self._until = ended + REMEMBERED if ended - began > SLOW else 0.0
            if isinstance(self._said, ours.Error):
                raise self._said
            return self._said


_looks: dict[str, _Look] = {}


def look_at(socket: str) -> list[Store]:
    """The daemon's stores, where nobody can wait for long."""
    return _looks.setdefault(socket, _Look()).stores(socket)


def look_at_all(sockets: set[str]) -> None:
    """Look at several daemons side by side, so that those that hang hold up nobody in turn."""

    def look(socket: str) -> None:
        with contextlib.suppress(ours.Error):
            look_at(socket)

    if len(sockets) > 1:
        with ThreadPoolExecutor(len(sockets)) as side_by_side:
            list(side_by_side.map(look, sockets))


class Download:
    """The bytes of an image on their way to Glance.

    Glance drops the iterator when its own caller leaves, sometimes without `close`; then `Body`
    ends its connection when it is finalised.
    """

    def __init__(self, body: Body) -> None:
        """Wrap a body, for errors of glance_store's kind."""
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._body)
        except ours.Error as error:
            raise told(GET, error) from error

    def close(self) -> None:
        """Stop reading."""
        self._body.close()


class Served:
    """What a store does through the daemon; the rest is its driver's in glance_store."""

    # Reads of a part work for every type. One object can serve all threads, for it keeps nothing
    # of a transfer: so the library does not make a new one for every request.
    _CAPABILITIES = (
        capabilities.BitMasks.READ_RANDOM
        | capabilities.BitMasks.WRITE_ACCESS
        | capabilities.BitMasks.DRIVER_REUSABLE
    )

    kind: str
    in_tree: Any
    backend_group: str
    _url_prefix: str | None
    # Of a store of type file.
    directories: Sequence[str] = ()
    # Whether a location has metadata of its own, which only the receipt of an upload tells.
    has_metadata = False

    def __init__(self, conf: Any, backend: str, socket: str, timeout: float | None = None) -> None:
        """Open nothing: the daemon may come later. `timeout` is as a `Client` has it."""
        self.socket = socket
        self._patience = () if timeout is None else (timeout,)
        self._store: Store | None = None
        self._compared = False
        super().__init__(conf, backend)  # type: ignore[call-arg]
        self.store_conf = _options(self, conf, backend)

    def configure(self, re_raise_bsc: bool = False) -> None:
        """Nothing but `configure_add`: some drivers look here for what only they would need."""
        driver.Store.configure(self, re_raise_bsc=re_raise_bsc)

    def get_store_location_class(self) -> Any:
        """The driver's own: it is looked for in the module of the class, and this is not it."""
        theirs = importlib.import_module(self.in_tree.__module__).StoreLocation
        return _as_written(theirs) if self.kind == "swift" else theirs

    def configure_add(self) -> None:
        """Take over what Glance shows; neither directories nor clusters are touched from here."""
        SERVED[self.kind](self)
        try:
            self._known(functools.partial(look_at, self.socket))
        except ours.Error as error:
            LOG.warning(
                "The store %s is not available until imaged is: %s", self.backend_group, error
            )
        except Unavailable as error:
            LOG.error("%s", error)

    def _known(self, look: Callable[[], list[Store]]) -> Store:
        """The store as the daemon has it.

        A store of another type would take images whose locations this one cannot read.
        """
        if self._store is not None:
            return self._store
        stores = {one.id: one for one in look()}
        store = stores.get(self.backend_group)
        if store is None:
            raise Unavailable(self._unknown(list(stores)))
        if store.type != self.kind:
            raise exceptions.BadStoreConfiguration(
                store_name=self.backend_group,
                reason=f"it is of type {self.kind} for Glance and of type {store.type} for imaged",
            )
        self._compare(store)
        if self.kind == "rbd":
            fsid, pool = store.properties.get("fsid"), store.properties.get("pool")
            if not (isinstance(fsid, str) and isinstance(pool, str)):
                # Not opened yet; the next time it may be.
                return store
            self._url_prefix = f"rbd://{quote(fsid, '')}/{quote(pool, '')}/"
        self._store = store
        return store

    def _compare(self, store: Store) -> None:
        """Warn once of what the daemon has otherwise than Glance, or cannot do now."""
        if self._compared:
            return
        self._compared = True
        found = differences(self.kind, self.store_conf, store)
        if found:
            LOG.warning(
                "The store %s is not in the same place for Glance and for imaged: %s. Images are "
                "put where imaged has it, and those in the other place are out of reach; give both "
                "the same, or name the other place in imaged's configuration "
                "(imaged_also_directories, imaged_also_pools)",
                self.backend_group,
                "; ".join(found),
            )
        if store.state != "up":
            LOG.warning("The store %s is down for imaged: %s", self.backend_group, store.reason)
        elif store.read_only and self.kind not in READ_ONLY:
            LOG.warning(
                "The store %s can only be read through imaged: %s",
                self.backend_group,
                store.reason or "imaged_read_only is set in its configuration",
            )

    def _unknown(self, stores: list[str]) -> str:
        return (
            f"imaged at {self.socket} has no store {self.backend_group}, only "
            f"{', '.join(stores)}: add it to enabled_backends in its configuration"
        )

    def is_place_of(self, uri: str) -> bool:
        """Whether a location is in this store, as far as Glance can tell."""
        places = [f"file://{path}" for path in self.directories] or [self.url_prefix or ""]
        return any(place and uri.startswith(place.rstrip("/") + "/") for place in places)

    @property
    def url_prefix(self) -> str | None:
        """What locations in this store begin with; None while nobody can tell."""
        if self._url_prefix is None:
            with contextlib.suppress(ours.Error, exceptions.GlanceStoreException):
                self._known(functools.partial(look_at, self.socket))
        return self._url_prefix

    def _daemon(self) -> Client:
        """The daemon, once it has shown that it does not hang.

        Whoever waits for an answer waits for long, and one that hangs has by then got the request,
        and carries it out when it is well again: a delete too, long after the caller has been told
        that it failed.
        """
        daemon = client(self.socket, *self._patience)
        try:
            daemon._asked("/healthz", min(ALIVE, daemon.timeout))
        except ours.Timeout:
            raise
        except ours.Error:
            # It is not well, and will say so, or it is not there.
            pass
        return daemon

    @driver.back_compat_add  # type: ignore[untyped-decorator]
    @capabilities.check  # type: ignore[untyped-decorator]
    def add(
        self,
        image_id: str,
        image_file: Any,
        image_size: int,
        hashing_algo: str,
        context: Any = None,
        verifier: Any = None,
    ) -> tuple[str, int, str | None, str, dict[str, Any]]:
        """Store an image. A size of 0 means that nobody knows it."""
        size = image_size or None
        try:
            daemon = self._daemon()
            self._known(daemon.stores)
        except ours.Error as error:
            raise told(ADD, error, hashing_algo) from error
        sent = Sent()

        def watch(piece: bytes) -> None:
            sent.see(piece)
            if verifier is not None:
                verifier.update(piece)

        try:
            receipt = daemon.put(
                self.backend_group,
                str(image_id),
                image_file,
                size=size,
                hash_algo=hashing_algo,
                watch=watch,
                request_id=_request_id(context),
                token=self._token(context),
                project=self._project(context),
            )
        except ours.Error as error:
            found = self._in_doubt(str(image_id), hashing_algo, sent, error)
            if found is None:
                raise told(ADD, error, hashing_algo) from error
            return found
        metadata = {**receipt.metadata, "store": self.backend_group}
        return (
            self._location(receipt.location),
            receipt.size,
            receipt.checksum,
            receipt.hash_value or "",
            metadata,
        )

    def _in_doubt(
        self, id: str, algo: str, sent: Sent, error: ours.Error
    ) -> tuple[str, int, str | None, str, dict[str, Any]] | None:
        """What `add` answers, if what was sent is there although the upload failed."""
        if not error.in_doubt:
            return None
        LOG.warning("Whether image %s was stored is looked for: %s", id, error)
        # Of its own, with an end to its patience: Glance's caller waits.
        briefly = Client(self.socket, timeout=BRIEFLY, longest=BRIEFLY)
        try:
            enough = not self.has_metadata
            stat = look(briefly, self.backend_group, id, algo, sent, enough=enough)
        except (Unknown, ours.Error, OSError) as reason:
            LOG.error(
                "Image %s may be in the store %s although its upload failed; if it is, no other "
                "upload of it is taken. Look with `imaged stat`: %s",
                id,
                self.backend_group,
                reason,
            )
            return None
        finally:
            briefly.close()
        if stat is None:
            return None
        LOG.info("Image %s was stored", id)
        metadata = {"store": self.backend_group}
        location = self._location(stat.location or "")
        return location, stat.size, stat.digests.get("md5"), stat.digests[algo], metadata

    @capabilities.check  # type: ignore[untyped-decorator]
    def get(
        self, location: Any, offset: int = 0, chunk_size: int | None = None, context: Any = None
    ) -> tuple[Download, int]:
        """Read an image, or `chunk_size` bytes of it from `offset`."""
        try:
            body = self._daemon().get(
                self.backend_group,
                at=location.get_store_uri(),
                offset=offset,
                length=chunk_size or None,
                # Whoever downloads from Glance compares, and Glance's workers have no time for it.
                verify=False,
                request_id=_request_id(context),
            )
        except ours.Error as error:
            raise self._told(GET, error) from error
        return Download(body), chunk_size or body.total

    def get_size(self, location: Any, context: Any = None) -> int:
        """The length of an image in bytes."""
        try:
            at = location.get_store_uri()
            stat = self._daemon().stat(self.backend_group, at=at, request_id=_request_id(context))
        except ours.Error as error:
            raise self._told(GET, error) from error
        return stat.size

    # Whether it can be deleted the daemon knows. `capabilities.check` would refuse it where nothing
    # can be added, with an exception after which Glance forgets the image.
    def delete(self, location: Any, context: Any = None) -> None:
        """Remove an image."""
        if self.kind in READ_ONLY:
            # What lies there is not Glance's: it forgets the location, and is right.
            raise exceptions.StoreDeleteNotSupported
        try:
            at = location.get_store_uri()
            self._daemon().delete(self.backend_group, at=at, request_id=_request_id(context))
        except ours.Error as error:
            raise self._told(DELETE, error) from error

    def set_acls(
        self,
        location: Any,
        public: bool = False,
        read_tenants: Sequence[str] | None = None,
        write_tenants: Sequence[str] | None = None,
        context: Any = None,
    ) -> None:
        """Let others than its owner reach an image, in stores that know owners."""
        if not self._has_owners():
            # Glance passes over this.
            raise NotImplementedError
        try:
            self._daemon().share(
                self.backend_group,
                at=location.get_store_uri(),
                public=public,
                read=read_tenants or (),
                write=write_tenants or (),
                request_id=_request_id(context),
            )
        except ours.Error as error:
            raise self._told(GET, error) from error

    def _location(self, location: str) -> str:
        """A location as glance_store writes it: the daemon tells no key, also not its own."""
        if self.kind != "swift":
            return location
        return location.replace(f":{MASK}@", f":{_swift_key(self.store_conf)}@", 1)

    def _has_owners(self) -> bool:
        return self.kind == "swift" and bool(self.store_conf.swift_store_multi_tenant)

    def _token(self, context: Any) -> str | None:
        """The caller's token, for stores that keep an image in its owner's account."""
        if not self._has_owners():
            return None
        token = getattr(context, "auth_token", None)
        return token if isinstance(token, str) and token else None

    def _project(self, context: Any) -> str | None:
        """The caller's project, for stores that write into their volumes whose image it is."""
        if self.kind != "cinder":
            return None
        project = getattr(context, "project_id", None)
        return project if isinstance(project, str) and project else None

    def is_image_associated_with_store(self, context: Any, volume_id: str) -> bool:
        """Whether an image that Glance knows by its volume alone is in this store."""
        try:
            at = f"cinder://{volume_id}"
            self._daemon().stat(self.backend_group, at=at, request_id=_request_id(context))
        except ours.Error:
            return False
        return True

    def _told(self, table: Any, error: ours.Error) -> Exception:
        """As `told`, but a store that is missing is not taken for an image that is.

        Glance forgets an image whose data it is told is gone.
        """
        if isinstance(error, ours.NotFound):
            try:
                stores = [one.id for one in self._daemon().stores()]
            except ours.Error as another:
                return told(table, another)
            if self.backend_group not in stores:
                return unavailable(table)(self._unknown(stores))
        return told(table, error)


def _request_id(context: Any) -> str | None:
    """Glance's id of the request, so that one id finds it in both logs."""
    asked = getattr(context, "request_id", None)
    return asked if isinstance(asked, str) else None


def _options(of: Any, conf: Any, backend: str) -> Any:
    """A store's options: those of its section, else of the shared one."""
    return driver.BackendGroupConfiguration(of.OPTIONS, backend, conf=conf)


@functools.cache
def _as_written(theirs: Any) -> type:
    """Locations of type swift that stay as they are.

    The driver in Glance puts the login in the place of a reference, if it knows that.
    """

    class AsWritten(theirs):  # type: ignore[misc]
        written: str | None = None

        def parse_uri(self, uri: str) -> None:
            self.written = uri
            if not uri.startswith("swift+config://"):
                super().parse_uri(uri)

        def get_uri(self) -> Any:
            return self.written or super().get_uri()

    return AsWritten


def class_of(in_tree: Any) -> type:
    """The class of a store: of type swift glance_store has two, which a function chooses from.

    What they have in common reads nothing of a login.
    """
    if isinstance(in_tree, type):
        return in_tree
    both: type = importlib.import_module(in_tree.__module__).BaseStore
    return both


@functools.cache
def served(in_tree: type, kind: str) -> Callable[..., Any]:
    """The class for a store of this kind, made of the one that glance_store has for it."""
    name = f"Served{kind.title()}"
    more: dict[str, Any] = {"kind": kind, "in_tree": in_tree}
    if kind in READ_ONLY:
        more["_CAPABILITIES"] = Served._CAPABILITIES & ~capabilities.BitMasks.WRITE_ACCESS
    made: Callable[..., Any] = type(name, (Served, in_tree), more)
    return made
