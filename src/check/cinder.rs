//! What has to be given, beyond the daemon's own configuration, so that Cinder's volumes become images by
//! clones: at Ceph, in cinder.conf, at Keystone and at Glance.

use imaged_drivers::{Asker, Need, Standing};
use serde::Serialize;

use super::{Checked, Opened};
use crate::config::{self, Role};

/// What is needed, and what of it is missing.
#[derive(Clone, Debug, Serialize)]
pub struct ForCinder {
    /// The pools of the volumes in Ceph.
    pub pools: Vec<String>,
    /// What each store needs.
    pub stores: Vec<InStore>,
    /// What is needed once.
    pub needs: Vec<Need>,
    /// What it costs to give that.
    pub costs: Vec<String>,
}

/// How images of volumes come to be in one store, and what that needs.
#[derive(Clone, Debug, Serialize)]
pub struct InStore {
    /// Its name.
    pub store: String,
    /// Its type.
    pub kind: String,
    /// Whether they are cloned inside the backend; else they are streamed.
    pub cloned: bool,
    /// What it needs.
    pub needs: Vec<Need>,
}

impl ForCinder {
    /// Whether something was found to be missing.
    #[must_use]
    pub fn lacks(&self) -> bool {
        let of_stores = self.stores.iter().flat_map(|store| &store.needs);
        let mut all = of_stores.chain(&self.needs);
        all.any(|need| matches!(need.standing, Standing::Missing(_)))
    }

    /// Lines for people.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for InStore { store, kind, cloned, needs } in &self.stores {
            lines.push(match cloned {
                true => format!("store `{store}` ({kind}): raw images of volumes are clones inside it"),
                false => format!(
                    "store `{store}` ({kind}): images of volumes are streamed into it, with their size told"
                ),
            });
            tell(&mut lines, needs);
        }
        if !self.needs.is_empty() {
            lines.push("for all stores".to_owned());
            tell(&mut lines, &self.needs);
        }
        if !self.costs.is_empty() {
            lines.push("what that costs".to_owned());
            lines.extend(self.costs.iter().map(|cost| format!("  {cost}")));
        }
        lines
    }
}

fn tell(lines: &mut Vec<String>, needs: &[Need]) {
    for Need { what, lines: given, standing } in needs {
        lines.push(format!("  {what}"));
        lines.extend(given.iter().map(|line| format!("      {line}")));
        lines.push(match standing {
            Standing::Given(why) => format!("    given: {why}"),
            Standing::Missing(why) => format!("    MISSING: {why}"),
            Standing::NotChecked(why) => format!("    not checked: {why}"),
        });
    }
}

impl Checked {
    /// What images of Cinder's volumes need, whose pools in Ceph are `pools`. Changes nothing.
    ///
    /// # Errors
    /// There is nothing to say of this configuration, with the remedy.
    pub async fn for_cinder(&self, pools: &[String]) -> Result<ForCinder, String> {
        let Some(settings) = &self.settings else {
            return Err("the configuration cannot be read; mend that first".to_owned());
        };
        let mut each_once: Vec<String> = Vec::new();
        for pool in pools {
            if !each_once.contains(pool) {
                each_once.push(pool.clone());
            }
        }
        let mut stores = Vec::new();
        for store in &self.stores {
            stores.push(store.for_cinder(settings, &each_once).await);
        }
        if !stores.iter().any(|store| store.cloned) {
            return Err(
                "no store of this configuration is of type rbd or cinder, so images of volumes are streamed \
                 whatever is given: add a store of the type that has the volumes to enabled_backends, or \
                 read Glance's configuration by --config-file"
                    .to_owned(),
            );
        }
        let needs = vec![roles(settings), keystone(), glance()];
        Ok(ForCinder { pools: each_once, stores, needs, costs: costs() })
    }
}

impl Opened {
    async fn for_cinder(&self, settings: &config::Daemon, pools: &[String]) -> InStore {
        let asker = Asker { store: &self.name, socket: &settings.socket, pools };
        let volumes = self.driver.as_ref().and_then(|driver| driver.volumes());
        let needs = match volumes {
            Some(volumes) => Some(volumes.needs(&asker).await),
            // Down, or of a type that reaches no volumes.
            None => self.section.as_ref().and_then(|section| section.needs(&asker)),
        };
        let (store, kind, cloned) = (self.name.clone(), self.kind.clone(), needs.is_some());
        InStore { store, kind, cloned, needs: needs.unwrap_or_default() }
    }
}

/// The role of the user that Cinder runs as.
fn roles(settings: &config::Daemon) -> Need {
    let mut grants: Vec<_> = settings.roles.iter().map(ToString::to_string).collect();
    let services: Vec<_> =
        settings.roles.iter().filter(|grant| grant.role == Role::Service).collect();
    let standing = match services.as_slice() {
        [] => {
            grants.push("cinder:service".to_owned());
            Standing::Missing("no user has the role service".to_owned())
        }
        some => {
            let who: Vec<_> = some.iter().map(|grant| grant.who.to_string()).collect();
            Standing::Given(format!(
                "{} has it; whether cinder-volume runs as that user is not known here",
                who.join(", ")
            ))
        }
    };
    Need {
        what: "imaged.conf: the user that cinder-volume runs as has the role service, and may write to the socket \
               (socket_group, socket_mode). It makes images of volumes, and for an hour may take back those that \
               it made, and no others"
            .to_owned(),
        lines: vec!["[imaged]".to_owned(), format!("roles = {}", grants.join(", "))],
        standing,
    }
}

fn keystone() -> Need {
    Need::not_checked(
        "Keystone and cinder.conf: Cinder's user has the role service, and sends its own token beside the one of \
         the user whose image it is. The same login in [glance] is tried when that is refused",
        [
            "openstack role add --user cinder --project service service",
            "[service_user]",
            "send_service_user_token = true",
            "auth_type = password",
            "auth_url = KEYSTONE",
            "username = cinder",
            "password = PASSWORD",
            "project_name = service",
            "user_domain_name = Default",
            "project_domain_name = Default",
        ],
        "Keystone is not asked, and cinder.conf not read",
    )
}

fn glance() -> Need {
    Need::not_checked(
        "Glance, from 2024.2 on (version 2.17 of its API): the Location API is open to the role service, as it is by \
         default, and locations stay hidden from users. With do_secure_hash = false set imaged_send_digests = \
         true in cinder.conf, or images are without a digest",
        [
            "[DEFAULT]",
            "show_multiple_locations = false",
            "show_image_direct_url = false",
            "do_secure_hash = true",
            "# policy.yaml: leave out add_image_location (by default rule:service_api or a member of the image's",
            "# project) and fetch_image_location (by default rule:service_api)",
        ],
        "Glance is not asked",
    )
}

fn costs() -> Vec<String> {
    [
        "Who has the role service at Glance can give a queued image any location, also that of another project's \
         image in the same pool.",
        "Users without it can add locations of http alone, to queued images of their own, and only where Glance has \
         an http store; they see none as long as show_multiple_locations and show_image_direct_url are off.",
        "The user that cinder-volume runs as can have images made of every volume that the daemon's user in Ceph \
         or in Cinder reaches.",
        "The daemon's user in Ceph writes to the volumes' pools: a snapshot takes that. Who has its keyring can \
         change every volume.",
    ]
    .map(str::to_owned)
    .to_vec()
}
