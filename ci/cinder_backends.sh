# shellcheck shell=bash
# Cinder's volumes in files and behind iSCSI, where there is neither an NFS server nor a device mapper: what
# cinder_backends.py needs, for ci/cinder and ci/openstack, which read this.
# shellcheck disable=SC2034

# Debian has tgtadm where only root looks.
export PATH=$PATH:/usr/sbin:/sbin

backends_names() { # DIR: export_path, directory
    export_path=127.0.0.1:/volumes
    # As os-brick has it.
    directory=$1/mounts/$(printf %s "$export_path" | md5sum | cut -d ' ' -f 1)
}

make_backends() { # DIR [COMMAND...]: by which tgt-admin is run
    mkdir -p "$1"/{bin,disks,tgtd/targets} "$directory"
    # What the NFS driver has to find, and does not call.
    ln -s /bin/true "$1/bin/mount.nfs"
    echo "$export_path" >"$1/exports"
    echo "include $1/tgtd/targets/*" >"$1/tgtd/targets.conf"
    # The system's looks into /etc.
    cat >"$1/bin/tgt-admin" <<PROGRAM
#!/bin/sh
exec ${*:2} /usr/sbin/tgt-admin "\$@" --conf $1/tgtd/targets.conf
PROGRAM
    chmod +x "$1/bin/tgt-admin"
}

files_section() { # DIR NAME
    cat <<CONF
[$2]
volume_driver = cinder_backends.Files
volume_backend_name = $2
nfs_shares_config = $1/exports
nfs_mount_point_base = $1/mounts
nfs_snapshot_support = true
nas_secure_file_operations = false
nas_secure_file_permissions = false
CONF
}

disks_section() { # DIR NAME PORTAL
    cat <<CONF
[$2]
volume_driver = cinder_backends.Disks
volume_backend_name = $2
target_helper = tgtadm
target_protocol = iscsi
target_ip_address = ${3%:*}
target_port = ${3##*:}
volumes_dir = $1/tgtd/targets
volume_group = rig
lvm_type = thin
CONF
}

# One that could not bind its port runs all the same.
tgtd_is_healthy() { # PORTAL [COMMAND...]: by which it is asked
    "${@:2}" tgtadm --lld iscsi --mode target --op show >/dev/null 2>&1 &&
        (: <>"/dev/tcp/${1/:/\/}") 2>/dev/null
}
