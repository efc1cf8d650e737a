//! What images of volumes need of Cinder, looked at.

use super::{api::Limits, store::Store};
use crate::contract::{Asker, Need, Result, Standing};

/// The needs of the store's section, with what Cinder says of them.
pub(super) async fn needs(store: &Store, asker: &Asker<'_>) -> Vec<Need> {
    let mut needs = store.config.needs(asker);
    let found = [login(store).await, volume_type(store).await, quota(store).await];
    for (need, found) in needs.iter_mut().zip(found) {
        need.standing = found.unwrap_or_else(|error| Standing::NotChecked(error.to_string()));
    }
    needs
}

/// Whether the login is let in, and to which project.
async fn login(store: &Store) -> Result<Standing> {
    // Keystone gives a token to whom Cinder may refuse.
    let _answers = store.api.limits().await?;
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

async fn quota(store: &Store) -> Result<Standing> {
    let Limits { volumes, gib } = store.api.limits().await?;
    let used = format!("{} and {} are used", volumes.words("volumes"), gib.words("GiB"));
    Ok(match volumes.has_room() && gib.has_room() {
        true => Standing::Given(used),
        false => Standing::Missing(format!("there is no room for another: {used}")),
    })
}
