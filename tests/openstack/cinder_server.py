"""All of Cinder in one process: the API, the scheduler and a volume service for each backend.

cinder_server.py --config-file FILE

What passes between them stays in the process, so there is no message broker.
"""

from cinder import monkey_patch

# Before anything that would be patched is imported.
monkey_patch.patch()

import shlex
import sys

import cinder.privsep
import os_brick
from cinder import coordination, objects, rpc, service, utils, version
from cinder.common import config
from oslo_config import cfg
from oslo_log import log
from oslo_privsep import priv_context
from oslo_service import service as launching

CONF = cfg.CONF


def main():
    # It may do what it has to: it needs no helper that may do more.
    cinder.privsep.sys_admin_pctxt.set_client_mode(False)
    utils.get_root_helper = lambda: "env"
    objects.register_all()
    CONF(sys.argv[1:], project="cinder", version=version.version_string())
    config.set_middleware_defaults()
    log.setup(CONF, "cinder")
    priv_context.init(root_helper=shlex.split(utils.get_root_helper()))
    os_brick.setup(CONF)
    rpc.init(CONF)
    coordination.COORDINATOR.start()
    launcher = launching.ServiceLauncher(CONF)
    launcher.launch_service(service.Service.create(binary="cinder-scheduler"))
    for backend in CONF.enabled_backends:
        launcher.launch_service(
            service.Service.create(
                host=f"{CONF.host}@{backend}",
                service_name=backend,
                binary="cinder-volume",
                coordination=True,
            )
        )
    launcher.launch_service(service.WSGIService("osapi_volume"))
    launcher.wait()


if __name__ == "__main__":
    main()
