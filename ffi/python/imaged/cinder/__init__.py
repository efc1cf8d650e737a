"""Cinder's driver for Ceph that has the daemon make images of volumes.

In the section of a backend, `volume_driver = imaged.cinder.RBDDriver` in the place of
`cinder.volume.drivers.rbd.RBDDriver`.
"""

from .driver import RBDDriver

__all__ = ["RBDDriver"]
