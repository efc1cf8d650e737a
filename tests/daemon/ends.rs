//! The end of a daemon whose store is in a cluster: its connection is shut down meanwhile.

use std::process::Command;

use crate::harness::{
    daemon::{Daemon, IMAGED},
    stores::ceph::Ceph,
};

/// Ends that are tried: without care about one in ten goes wrong.
const ENDS: usize = 30;

#[tokio::test]
async fn a_daemon_of_a_cluster_ends_cleanly_every_time() {
    let ceph = Ceph::up();
    let options = ceph.options();
    let config = format!("[DEFAULT]\nenabled_backends = fast:rbd\n[fast]\n{options}");
    let mut daemon = Daemon::start(&config);
    let conf = daemon.path("conf");
    for n in 0..ENDS {
        let mut check = Command::new(IMAGED);
        let checked = check.args(["check-config", "--config-file"]).arg(&conf).output().unwrap();
        assert!(checked.status.success(), "check {n}: {checked:?}");
        let ended = daemon.stop();
        assert!(ended.success(), "end {n}: {ended:?}");
        daemon = daemon.restart(&[]);
    }
}
