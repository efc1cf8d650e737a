"""Cinder's own drivers where there is neither an NFS server nor a device mapper: over directories.

`ci/cinder` puts this on Cinder's path. What is between the API and what a volume's bytes lie in is
Cinder's, and so is what an attachment is answered with.
"""

import contextlib
import glob
import os
import signal
import time

from cinder import interface
from cinder.volume.drivers import lvm, nfs
from cinder.volume.targets import tgt

GIB = 1 << 30


@interface.volumedriver
class Files(nfs.NfsDriver):
    """NFS, whose exports are directories where they would be mounted."""

    def _ensure_share_mounted(self, nfs_share):
        os.makedirs(self._get_mount_point_for_share(nfs_share), exist_ok=True)


class Group:
    """What the driver uses of a volume group: each logical volume is a sparse file."""

    vg_name = "rig"
    vg_size = vg_free_space = vg_thin_pool_size = vg_thin_pool_free_space = 1024.0

    def __init__(self, folder, execute):
        self.folder = folder
        self.execute = execute

    def path(self, name):
        return os.path.join(self.folder, name)

    @property
    def vg_provisioned_capacity(self):
        return float(sum(int(volume["size"]) for volume in self.get_volumes()))

    def update_volume_group_info(self):
        """Everything is looked up when it is asked for."""

    def get_volumes(self, lv_name=None):
        names = os.listdir(self.folder) if lv_name is None else [lv_name]
        found = []
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size = os.path.getsize(self.path(name)) // GIB
                found.append({"name": name, "size": str(size), "vg": self.vg_name})
        return found

    def get_volume(self, name):
        return next(iter(self.get_volumes(name)), None)

    def create_volume(self, name, size_str, lv_type="default", mirror_count=0):
        with open(self.path(name), "xb") as file:
            file.truncate(_bytes(size_str))

    def extend_volume(self, lv_name, new_size):
        os.truncate(self.path(lv_name), _bytes(new_size))

    def create_lv_snapshot(self, name, source_lv_name, lv_type="default"):
        source = self.path(source_lv_name)
        # It is of one moment: nobody writes meanwhile.
        with _still(source):
            self.execute("cp", "--sparse=always", "--reflink=auto", source, self.path(name))

    def rename_volume(self, lv_name, new_name):
        os.rename(self.path(lv_name), self.path(new_name))

    def delete(self, name):
        os.unlink(self.path(name))

    def activate_lv(self, name, is_snapshot=False, permanent=False):
        """A file is always there."""

    def deactivate_lv(self, name):
        """A file is always there."""

    def lv_has_snapshot(self, name):
        # They are copies.
        return False

    def lv_is_snapshot(self, name):
        return name.startswith("_snapshot")

    def lv_is_open(self, name):
        return _server_of(self.path(name)) is not None


def _bytes(size):
    return int(size.removesuffix("g")) * GIB


def _server_of(path):
    """The pid of the tgtd that has this file open."""
    for link in glob.glob("/proc/[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            pid = link.split("/")[2]
            if os.readlink(link) == path and _status(f"/proc/{pid}")[0] == "tgtd":
                return int(pid)
    return None


def _status(task):
    """The name and the state of a process, or of a thread."""
    with open(f"{task}/stat") as file:
        before, _, after = file.read().rpartition(")")
    return before.partition("(")[2], after.split()[0]


@contextlib.contextmanager
def _still(path):
    """While this lasts, the server that has the file open does nothing."""
    server = _server_of(path)
    if server is None:
        yield
        return
    os.kill(server, signal.SIGSTOP)
    try:
        while any(_status(task)[1] != "T" for task in glob.glob(f"/proc/{server}/task/*")):
            time.sleep(0.001)
        yield
    finally:
        os.kill(server, signal.SIGCONT)


class Target(tgt.TgtAdm):
    """tgtd, told that its disks are thin: what is unmapped reads as zeros."""

    VOLUME_CONF = tgt.TgtAdm.VOLUME_CONF.replace(
        "write-cache", "params thin_provisioning=1\n        write-cache"
    )


@interface.volumedriver
class Disks(lvm.LVMVolumeDriver):
    """LVM without its devices."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.target_driver = Target(configuration=self.configuration, executor=self._execute)

    def check_for_setup_error(self):
        self.vg = Group(os.environ["CI_CINDER_DISKS"], self._execute)
        self._sparse_copy_volume = True

    def local_path(self, volume, vg=None):
        return self.vg.path(self._escape_snapshot(volume["name"]))

    def create_export(self, context, volume, connector, vg=None):
        made = self.target_driver.create_export(context, volume, self.local_path(volume))
        return {"provider_location": made["location"], "provider_auth": made["auth"]}

    def ensure_export(self, context, volume):
        return self.target_driver.ensure_export(context, volume, self.local_path(volume))
