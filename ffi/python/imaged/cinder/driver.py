"""The driver.

# Decisions
* Chose: to extend Cinder's driver, under the same name. Because: all that is not said here stays
  as it is, and the name is the default of `volume_backend_name`, which volumes carry. Instead of: a
  driver of our own, or a changed Cinder.
* Chose: the daemon copies a volume that it cannot clone, and one option is for both. Because: both
  need the same rights and register a location. Instead of: another option.
* Chose: whatever goes wrong before Glance has the location, the image is streamed to Glance.
  Because: that is what the user would have got. Instead of: a failure of what is meant to be only
  faster.
* Chose: a volume waits, when it is deleted, until images that were cloned from it need it no more.
  Because: Cinder would copy into the images itself, for which its user would have to write to
  Glance's pool, and the daemon does it already. Instead of: those rights, or volumes left behind in
  Ceph's trash.
"""

from __future__ import annotations

import logging
import time
import uuid
from typing import Any

from cinder import exception
from cinder.volume import configuration
from cinder.volume.drivers import rbd
from oslo_config import cfg

from .. import errors as ours
from ..client import Client
from ..records import Receipt, Store
from .choice import Unsuited, stores_for, suited
from .registration import Refused, Unclear, register
from .sized import with_size

LOG = logging.getLogger(__name__)

OPTIONS = [
    cfg.BoolOpt(
        "enable_clone_optimization",
        default=False,
        help="""
Have imaged make a raw image of a volume: by a clone where Glance's store is in its cluster, else by
a copy if the store is of type rbd, s3 or cinder.

The image's bytes then never pass Cinder. Cinder's user registers the image's location at
Glance, for which it needs the role service, and the user that Cinder runs as needs the role service
of imaged. Whoever has the role service at Glance can give an image any location.
""",
    ),
    cfg.StrOpt(
        "imaged_store",
        help="""
The store that images of this backend's volumes go to.

The volume type's extra spec image_service:store_id goes before it; without both it is the default
store of Glance and of imaged.
""",
    ),
    cfg.StrOpt(
        "imaged_socket",
        default="/run/imaged/imaged.sock",
        help="The socket of imaged.",
    ),
    cfg.BoolOpt(
        "imaged_send_digests",
        default=False,
        help="""
Wait until imaged knows the digest of an image that it made, and tell it to Glance.

It is for a Glance with do_secure_hash = false, which would have no digests of these images
otherwise. One with do_secure_hash = true, the default, reads the image again to compare, and the
upload takes as long as that.
""",
    ),
]
cfg.CONF.register_opts(OPTIONS, group=configuration.SHARED_CONF_GROUP)

STORE_SPEC = "image_service:store_id"
# Glance's own default.
HASH_ALGO = "sha512"
# Seconds to take back an image of which nobody knows whether it was made.
PATIENCE = 60.0
# Seconds without a sign of work on its clones until a volume no longer waits for them.
STUCK = 30.0


class RBDDriver(rbd.RBDDriver):  # type: ignore[misc]
    """Cinder's RBD driver, with the upload of volumes as images by imaged."""

    def __init__(self, *args: Any, **more: Any) -> None:
        """Nothing is asked of the daemon yet."""
        super().__init__(*args, **more)
        self.configuration.append_config_values(OPTIONS)
        self._imaged = Client(self.configuration.imaged_socket)

    @classmethod
    def get_driver_options(cls) -> list[Any]:
        """What can be set for a backend."""
        return [*super().get_driver_options(), *OPTIONS]

    # Images of volumes

    def copy_volume_to_image(
        self, context: Any, volume: Any, image_service: Any, image_meta: dict[str, Any]
    ) -> None:
        """Make an image of a volume."""
        store = _named_store(volume) or self.configuration.imaged_store
        if self.configuration.enable_clone_optimization:
            try:
                self._have_image_made(context, volume, image_meta, store)
                return
            except Unsuited as reason:
                LOG.info("Image %s is streamed: %s", image_meta["id"], reason)
            except Unclear:
                raise
            except (Refused, ours.Error) as reason:
                LOG.warning(
                    "Image %s is streamed, not made by imaged: %s", image_meta["id"], reason
                )
            except Exception:
                LOG.exception("Image %s is streamed, not made by imaged", image_meta["id"])
        super().copy_volume_to_image(context, volume, with_size(image_service, store), image_meta)

    def _have_image_made(
        self, context: Any, volume: Any, image_meta: dict[str, Any], named: str | None
    ) -> None:
        image = image_meta["id"]
        suited(image_meta, encrypted=bool(volume.encryption_key_id))
        store, via = stores_for(self._imaged.stores(), named, self._get_fsid())
        call = _glance(context)
        began = time.monotonic()
        receipt = self._made_once(call, store, via, image, volume, context)
        made = time.monotonic()
        try:
            digests = self._digests(receipt) if self.configuration.imaged_send_digests else {}
            register(call, image, receipt.location, digests)
        except Unclear:
            LOG.error(
                "Image %s in the store %s may have to be deleted: nobody can tell whether Glance "
                "has it",
                image,
                store.id,
            )
            raise
        except BaseException:
            self._undo(store, image)
            raise
        LOG.info(
            "Image %s is a %s of volume %s: made in %.2f s, registered in %.2f s",
            image,
            "clone" if receipt.digest_job else "copy",
            volume.id,
            made - began,
            time.monotonic() - made,
        )

    def _made_once(
        self, call: Any, store: Store, via: Store, image: str, volume: Any, context: Any
    ) -> Receipt:
        """Make the image, whose name is its id, so there can be but one."""

        def make() -> Receipt:
            return self._imaged.copy(
                store.id,
                image,
                # Of a volume that was migrated it follows another id than the volume's.
                rbd_volume=f"{self.configuration.rbd_pool}/{volume.name}",
                from_store=via.id,
                hash_algo=HASH_ALGO,
                request_id=context.request_id,
                project=context.project_id,
            )

        try:
            return make()
        except ours.Exists:
            # A try before this one has left it, perhaps of what the volume was then. While the
            # image is queued it has no location, so nobody has seen this.
            if call("get", image)["status"] != "queued":
                raise
            self._imaged.delete(store.id, image, request_id=context.request_id)
            return make()
        except ours.Error as error:
            if error.in_doubt:
                self._undo(store, image)
            raise

    def _digests(self, receipt: Receipt) -> dict[str, str]:
        """What Glance compares or believes: its validation data."""
        if (value := receipt.hash_value) is None:
            value = self._digest_to_come(receipt)
        return {"os_hash_algo": HASH_ALGO, "os_hash_value": value}

    def _digest_to_come(self, receipt: Receipt) -> str:
        if receipt.digest_job:
            while not (job := self._imaged.job(receipt.digest_job, wait=30)).over:
                pass
            if job.state != "done":
                raise Refused(f"the image has no digests, the job is {job.state}: {job.error}")
        return self._imaged.stat(receipt.store, at=receipt.location).digests[HASH_ALGO]

    def _undo(self, store: Store, image: str) -> None:
        """Take an image back that Glance does not have."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self._imaged.delete(store.id, image)
                return
            except ours.NotFound:
                # Glance deletes it too when it fails to register it.
                return
            except (ours.Unavailable, ours.Timeout, ours.InUse) as error:
                if time.monotonic() > deadline:
                    self._left(store, image, error)
                    return
                time.sleep(1)
            except ours.Error as error:
                self._left(store, image, error)
                return

    def _left(self, store: Store, image: str, error: ours.Error) -> None:
        LOG.error(
            "Image %s is left in the store %s although Glance does not have it; delete it with "
            "`imaged delete %s %s`: %s",
            image,
            store.id,
            store.id,
            image,
            error,
        )

    # Volumes that images were made from

    def delete_volume(self, volume: Any) -> None:
        """Delete a volume, once no image is a clone of it."""
        self._await_independence(volume.name)
        try:
            super().delete_volume(volume)
        except (self.rbd.Error, exception.VolumeBackendAPIException) as error:
            # Images that stay clones, and a user who may not write to their pool.
            if not (clones := self._clones(volume.name)):
                raise
            LOG.error("Volume %s is needed by images, %s: %s", volume.name, clones, error)
            raise exception.VolumeIsBusy(volume_name=volume.name) from error

    def _await_independence(self, name: str) -> None:
        """Wait while the daemon is about to copy into clones of a volume what they lack."""
        since, before, pause = time.monotonic(), None, 0.1
        while clones := self._clones(name):
            try:
                jobs = [one for one in self._imaged.jobs() if one.image in clones and not one.over]
            except ours.Error as error:
                LOG.warning("Volume %s has clones, and imaged does not answer: %s", name, error)
                return
            seen = [(one.id, one.state, one.done) for one in jobs]
            if seen != before:
                since, before = time.monotonic(), seen
            # Between two jobs of an image there is a moment without.
            if time.monotonic() - since > (STUCK if jobs else 1):
                return
            # Once there is work it can take hours.
            pause = min(2 * pause, 2.0) if jobs else 0.1
            time.sleep(pause)

    def _clones(self, name: str) -> list[str]:
        """The images of Glance's that are clones of a volume."""
        try:
            with rbd.RBDVolumeProxy(self, name, read_only=True) as image:
                return [child for _, child in image.list_children() if _is_image(child)]
        except self.rbd.ImageNotFound:
            return []
        except self.rbd.Error as error:
            # As for a user who may not look into all pools: what can be deleted is, even so.
            LOG.warning("Whether images are clones of volume %s is not known: %s", name, error)
            return []


def _is_image(name: str) -> bool:
    """Whether it is an id, as images of Glance's are named; Cinder puts a word before its own."""
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False


def _named_store(volume: Any) -> str | None:
    """The store that the volume's type names."""
    kind = volume.volume_type
    named: str | None = kind.extra_specs.get(STORE_SPEC) if kind and kind.extra_specs else None
    return named


def _glance(context: Any) -> Any:
    """Calls methods of glanceclient's as Cinder does."""
    # Cinder's own modules cannot be imported in the order of their names.
    from cinder.image import glance

    client = glance.GlanceClientWrapper()

    def call(method: str, *args: Any, **more: Any) -> Any:
        return client.call(context, method, *args, **more)

    return call
