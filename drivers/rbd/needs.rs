//! What images of volumes need of Ceph, looked at.

use std::sync::Arc;

use imaged_ffi::{DIRECTORY, Errno, Pool};

use super::{
    copy::open_pool,
    store::{Store, on_lane},
};
use crate::contract::{Asker, Kind, Need, Standing};

/// An object that nobody has: to remove it changes nothing, and tells whether that would be allowed.
const NOBODYS: &str = "imaged-check-5f0c2b4e-nothing-has-this-name";

/// The needs of the store's section, with what is found out about the caps of its user.
pub(super) async fn needs(store: &Arc<Store>, asker: &Asker<'_>) -> Vec<Need> {
    let mut needs = store.config.needs(asker);
    let pools = store.config.written(asker.pools).into_iter().map(str::to_owned).collect();
    if let Some(caps) = needs.first_mut() {
        caps.standing = caps_of(store, pools).await;
    }
    needs
}

/// Whether the user may write to all of these pools.
async fn caps_of(store: &Arc<Store>, pools: Vec<String>) -> Standing {
    let (live, pool) = match store.connected().await {
        Ok(connected) => connected,
        Err(error) => return Standing::NotChecked(error.to_string()),
    };
    let looked = on_lane(store, &pool, "look at the pools of volumes", move |_, _| {
        let mut lacking = Vec::new();
        for name in &pools {
            match open_pool(&live, name) {
                Ok(pool) => lacking.extend(lacks(&pool).map_err(|errno| {
                    super::failure::failed("look at the pool", name, errno)
                })?),
                Err(error) if error.kind() == Kind::NotFound => lacking.push(format!(
                    "the cluster has no pool `{name}`: name those of Cinder's backends, `rbd_pool` in \
                     cinder.conf, by --for-cinder=POOL,...; `ceph osd pool ls` lists all"
                )),
                Err(error) => return Err(error),
            }
        }
        Ok((lacking, pools))
    });
    match looked.await {
        Ok((lacking, pools)) if lacking.is_empty() => Standing::Given(format!(
            "it may read and write {}; whether it has `mgr` and `mon` caps for all of it is not looked at",
            pools.join(", ")
        )),
        Ok((lacking, _)) => Standing::Missing(lacking.join("; ")),
        Err(error) => Standing::NotChecked(error.to_string()),
    }
}

/// What the user may not do in a pool. Blocks.
fn lacks(pool: &Pool) -> imaged_ffi::Result<Option<String>> {
    let name = pool.name();
    match pool.read(DIRECTORY, 1) {
        Ok(_) | Err(Errno::NOENT) => {}
        Err(Errno::PERM | Errno::ACCES) => {
            return Ok(Some(format!("it may not read the pool `{name}`")));
        }
        Err(errno) => return Err(errno),
    }
    match pool.remove_object(NOBODYS) {
        Ok(()) | Err(Errno::NOENT) => Ok(None),
        Err(Errno::PERM | Errno::ACCES) => Ok(Some(format!(
            "it may read the pool `{name}` and not write to it, so only snapshots that a caller names can be \
             cloned from there, and Cinder's driver names none"
        ))),
        Err(errno) => Err(errno),
    }
}
