#!/usr/bin/env bash
# Puts imaged under devstack's Glance. In local.conf, with a repository whose folder devstack/ is this one:
#
#   enable_plugin imaged https://...
#
# Or copy settings to lib/imaged-settings, source it in local.conf, and link this file as extras.d/80-imaged.sh.
# Called by stack.sh, unstack.sh and clean.sh with the phase.

IMAGED_CONF=$IMAGED_CONF_DIR/imaged.conf
IMAGED_SOCKET=$IMAGED_RUN_DIR/imaged.sock

# In Glance's Python: there its plugin has to be, and the daemon's program is put beside it.
function install_imaged {
    # shellcheck disable=SC2086 # several words
    pip_install $IMAGED_PIP_INSTALL
}

# The daemon reads Glance's own file for the stores.
function configure_imaged {
    sudo install -d -o "$STACK_USER" "$IMAGED_CONF_DIR" "$IMAGED_RUN_DIR" "$IMAGED_RUN_DIR/state"
    iniset "$IMAGED_CONF" imaged socket "$IMAGED_SOCKET"
    iniset "$IMAGED_CONF" imaged state_dir "$IMAGED_RUN_DIR/state"
    iniset "$IMAGED_CONF" imaged roles "$STACK_USER:admin"
    iniset "$GLANCE_API_CONF" backend_defaults imaged_socket "$IMAGED_SOCKET"
    local store
    for store in ${GLANCE_MULTIPLE_FILE_STORES//,/ }; do
        sudo install -d -o "$STACK_USER" "$GLANCE_MULTISTORE_FILE_IMAGE_DIR/$store"
        iniset "$GLANCE_API_CONF" "$store" filesystem_store_datadir "$GLANCE_MULTISTORE_FILE_IMAGE_DIR/$store/"
    done
}

# Before glance-api, which asks at its start whether the daemon is there.
function start_imaged {
    run_process imaged "$GLANCE_BIN_DIR/imaged serve --config-file $GLANCE_API_CONF --config-file $IMAGED_CONF"
}

function stop_imaged {
    stop_process imaged
}

function cleanup_imaged {
    sudo rm -rf "$IMAGED_CONF_DIR" "$IMAGED_RUN_DIR"
}

if is_service_enabled imaged && is_service_enabled g-api; then
    case "$1 ${2:-}" in
    "stack install") install_imaged ;;
    "stack post-config")
        configure_imaged
        start_imaged
        ;;
    "unstack ") stop_imaged ;;
    "clean ") cleanup_imaged ;;
    esac
fi
