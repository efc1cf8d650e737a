#!/bin/sh
# Runs a command, as root, where os-brick can attach the volumes of ci/cinder:
#
#   attach.sh DIRECTORY CEPH_CONF CEPH_USER COMMAND...
#
# * /etc/ceph is a folder in memory with the key of CEPH_USER: os-brick looks for keys nowhere else.
# * `mount -t nfs` binds DIRECTORY, where the files of the export are: no server exports them.
# * `sudo glance-rootwrap FILE COMMAND...` runs COMMAND: who calls it is root already.
#
# All of it is in a mount namespace of its own, and goes with it.
set -eu
if [ "${1:-}" != inside ]; then
    exec unshare --mount -- "$0" inside "$@"
fi
export ATTACH_DIRECTORY="$2"
conf=$3 user=$4
shift 4

# As it is here.
real=$(command -v mount)
export ATTACH_MOUNT="$real"
mount -t tmpfs attach /etc/ceph
if [ -n "$conf" ]; then
    cp "$(dirname "$conf")/keyring" "/etc/ceph/ceph.client.$user.keyring"
fi
mkdir /etc/ceph/bin
# The last of its words is where to.
cat >/etc/ceph/bin/mount <<'MOUNT'
#!/bin/sh
set -eu
[ "$1 $2" = "-t nfs" ] || exec "$ATTACH_MOUNT" "$@"
for word; do to=$word; done
exec "$ATTACH_MOUNT" --bind "$ATTACH_DIRECTORY" "$to"
MOUNT
cat >/etc/ceph/bin/sudo <<'SUDO'
#!/bin/sh
shift 2
exec "$@"
SUDO
chmod +x /etc/ceph/bin/mount /etc/ceph/bin/sudo
# The helpers of os-brick are beside its Python.
PATH=/etc/ceph/bin:$(dirname "$1"):$PATH
export PATH
exec "$@"
