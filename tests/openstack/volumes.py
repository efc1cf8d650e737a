"""Cinder's API as tests see it, and what its volumes hold."""

from pathlib import Path

import openstack
import rbd
from cloud import until

GIB = 1 << 30


class Cinder:
    """Its API as one user sees it."""

    def __init__(self, rig, user="admin"):
        self.rig = rig
        facts = rig["users"][user]
        self.cloud = openstack.connect(
            auth_url=rig["keystone"], region_name=rig["region"], **facts
        ).block_storage
        self.made = []

    def volume(self, kind, size=1, content=None, **more):
        """A volume of this type, of so many GiB, that begins with this; its id."""
        made = self.cloud.create_volume(name="test", size=size, volume_type=kind, **more).id
        self.made.append(made)
        self.available(made)
        if content is not None:
            self.write(made, content)
        return made

    def show(self, volume):
        return self.cloud.get_volume(volume)

    def available(self, volume, seconds=120):
        """Waits until nothing is under way with it."""

        def ended():
            status = self.show(volume).status
            assert not status.startswith("error"), status
            return status == "available"

        until(f"volume {volume} to be available", ended, seconds)

    def image(self, volume):
        """The name of the image in Ceph that has its bytes."""
        return f"volume-{volume}"

    def open(self, volume):
        """The volume in Ceph; it is to be closed."""
        # What was opened keeps the pool open.
        ioctx = self.rig.cluster("ceph").open_ioctx(self.rig["volumes"]["pool"])
        return rbd.Image(ioctx, self.image(volume))

    def file(self, volume):
        """The file that has its bytes, if it is not in Ceph."""
        folder = Path(self.rig["dir"])
        found = [*folder.glob(f"disks/volume-{volume}"), *folder.glob(f"mounts/*/volume-{volume}")]
        return found[0] if found else None

    def write(self, volume, content, offset=0):
        if file := self.file(volume):
            with file.open("r+b") as out:
                out.seek(offset)
                out.write(content)
            return
        with self.open(volume) as image:
            image.write(content, offset)
            image.flush()

    def read(self, volume):
        if file := self.file(volume):
            return file.read_bytes()
        with self.open(volume) as image:
            return image.read(0, image.size())

    def snapshots(self, volume):
        """All that there are of it in Ceph, also those in the trash."""
        with self.open(volume) as image:
            return [one["name"] for one in image.list_snaps()]

    def upload(self, volume, disk_format="raw", container_format="bare", **more):
        """Begins to make an image of it; the image's id."""
        return self.cloud.upload_volume_to_image(
            volume,
            "test",
            disk_format=disk_format,
            container_format=container_format,
            **more,
        )["image_id"]

    def uploaded(self, volume, **more):
        """An image of it, when Cinder is done with it."""
        image = self.upload(volume, **more)
        self.available(volume)
        return image

    def delete(self, volume, seconds=120):
        """Waits until it is gone, or has another status than that of a volume on its way."""
        self.cloud.delete_volume(volume, ignore_missing=True)

        def gone():
            found = self.cloud.find_volume(volume, ignore_missing=True)
            assert found is None or found.status == "deleting", found.status
            return found is None

        until(f"volume {volume} to be deleted", gone, seconds)

    def delete_made(self):
        for volume in self.made:
            self.delete(volume)
        self.made = []

    def messages(self, volume):
        """What Cinder tells the user about it."""
        found = self.cloud.get(f"/messages?resource_uuid={volume}", microversion="3.3").json()
        return [one["user_message"] for one in found["messages"]]
