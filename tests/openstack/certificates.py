"""Where the rig's Glance finds the certificates of signed images: a folder of DER files.

Castellan takes any class by its path, so no Barbican is needed.
"""

import os
from pathlib import Path

from castellan.common.objects import x_509


class Folder:
    """A key store to read from; `get` is all that Glance asks of one."""

    def __init__(self, configuration=None):
        self.path = Path(os.environ["CERTIFICATES"])

    def get(self, context, managed_object_id):
        return x_509.X509((self.path / f"{managed_object_id}.der").read_bytes())
