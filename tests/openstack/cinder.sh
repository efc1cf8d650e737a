# shellcheck shell=bash
# Cinder, for ci/openstack, which reads this and whose names it uses.
# shellcheck disable=SC2154

# Neither Glance's user nor the daemon's: what it may do is what `roles` and its caps in Ceph give it.
cinder_user=backup
as_cinder=(setpriv --reuid "$cinder_user" --regid "$(id -g "$cinder_user")" --clear-groups)

# os-brick looks for keys in /etc/ceph alone, by the name of the cluster: each rig's is another.
cinder_key() { echo "/etc/ceph/imaged-rig-$(<"$dir/ports").client.cinder.keyring"; }

make_cinder() {
    local conf=$dir/cinder/cinder.conf key name
    mkdir -p "$dir"/cinder/{state,conversion,lock,coordination,tmp} /etc/ceph
    key=$(cinder_key)
    install -m 600 -o "$cinder_user" "$dir/ceph/ceph.client.cinder.keyring" "$key"
    chown "$cinder_user" "$dir/ceph/ceph.client.cinder.keyring"
    key=${key##*/}
    make_backends "$dir" unshare --map-root-user
    chown -R "$cinder_user:" "$dir"/{disks,mounts,tgtd}
    render cinder.conf "$conf" "keystone=$keystone" "glance=$glance" "password=$password" \
        "port=${cinder##*:}" "socket=$socket" "cluster=${key%%.*}"
    for name in files files-backed; do files_section "$dir" "$name"; done >>"$conf"
    for name in disks disks-backed; do disks_section "$dir" "$name" "$portal"; done >>"$conf"
    sed -i '/^\[.*-backed\]$/a image_upload_use_cinder_backend = true' "$conf"
    "$bin/cinder-manage" --config-file "$conf" db sync
    chown -R "$cinder_user:" "$dir/cinder" "$dir/log/cinder.log"
}

# Of Cinder's user, who is root for it: it obeys nobody else, and Cinder has to stop it for a moment.
start_tgtd() {
    until_free "http://$portal"
    start tgtd "${as_cinder[@]}" unshare --map-root-user \
        tgtd --foreground --iscsi "portal=$portal,nop_interval=0"
    await tgtd "$dir/log/tgtd.out"
}

start_cinder() {
    until_free "$cinder"
    # It goes to the daemon's socket by Glance's group.
    start cinder env TMPDIR="$dir/cinder/tmp" HOME="$dir/cinder" PATH="$dir/bin:$PATH" \
        PYTHONPATH="$here/ci" CI_CINDER_DISKS="$dir/disks" \
        setpriv --reuid "$cinder_user" --regid "$(id -g "$cinder_user")" \
        --groups "$(id -g "$glance_user")" \
        "$bin/python" "$tests/cinder_server.py" --config-file "$dir/cinder/cinder.conf"
    await cinder "$dir/log/cinder.out"
}

forget_cinder() { # what it has outside DIR
    [[ ! -e $dir/ports ]] || rm -f "$(cinder_key)"
}
