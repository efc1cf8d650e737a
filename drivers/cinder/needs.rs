//! What images of volumes need of Cinder, looked at.

use super::{api::Limits, store::Store};
use crate::contract::{Asker, Need, Result, Standing};

/// The needs of the store's section, with what Cinder says of them.
pub(super) async fn needs(store: &Store, asker: &Asker<'_>) -> Vec<Need> {
    let mut needs = store.config.needs(asker);
    let limits = store.api.limits().await;
    let (login, quota) = match limits {
        // Keystone gives a token to whom Cinder may refuse.
        Ok(limits) => (login(store).await, Ok(quota(limits))),
        Err(error) => {
            let unasked = || Ok(Standing::NotChecked(error.to_string()));
            (unasked(), unasked())
        }
    };
    for (need, found) in needs.iter_mut().zip([login, volume_type(store).await, quota]) {
        need.standing = found.unwrap_or_else(|error| Standing::NotChecked(error.to_string()));
    }
    needs
}

/// To which project the login is let in.
async fn login(store: &Store) -> Result<Standing> {
    Ok(Standing::Given(match store.api.project().await? {
        Some(project) => format!("the login is let in, and the project's id is {project}"),
        None => "the login is let in; Keystone does not tell the project's id".to_owned(),
    }))
}

async fn volume_type(store: &Store) -> Result<Standing> {
    let Some(named) = &store.config.volume_type else {
        return Ok(Standing::NotChecked("Cinder chooses it for each volume".to_owned()));
    };
    Ok(match store.api.has_type(named).await? {
        true => Standing::Given(format!("Cinder has the type {named}")),
        false => Standing::Missing(format!(
            "Cinder has no volume type {named}, or does not show it to this project; `openstack volume type \
             list` names them"
        )),
    })
}

fn quota(Limits { volumes, gib }: Limits) -> Standing {
    let used = format!("{} and {} are used", volumes.words("volumes"), gib.words("GiB"));
    match volumes.has_room() && gib.has_room() {
        true => Standing::Given(used),
        false => Standing::Missing(format!("there is no room for another: {used}")),
    }
}
