//! One store: its volumes, looked for and watched.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::{
    api::{Api, Made, NewVolume, Removal, gone},
    config::Config,
    connect::Connections,
    failure::is_unsure,
    location::{self, Location},
    note::{Making, Note},
    volume::{Metadata, Volume, name},
};
use crate::{
    contract::{Claim, Error, Host, ImageId, Kind, Result},
    kit::{
        clock::unix_seconds,
        http::{Client, Settings},
        keystone::{Service, Tokens},
        ledger::Ledger,
        pause::Tries,
        point,
        refusals::{foreign, missing},
    },
};

/// A token that expires within this time is renewed.
const SOON: Duration = Duration::from_mins(1);
/// So many times as long as a server may be silent an answer may take: there is time for another try.
const TRIES: u32 = 2;

/// One store.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) name: String,
    pub(super) config: Config,
    pub(super) api: Api,
    pub(super) connections: Connections,
    host: Host,
    /// The type of the store's volumes, once it is known: `None` within if every type is.
    volume_type: OnceCell<Option<String>>,
    /// Why nothing can be written.
    pub(super) reading_only: Mutex<Option<String>>,
}

impl Store {
    /// Asks no server.
    pub(super) fn new(config: &Config, name: &str, host: &Host) -> Result<Self> {
        let client = Client::new(Settings {
            ca: config.ca.clone(),
            insecure: config.insecure,
            connect: config.timeout.min(Settings::new(name).connect),
            progress: config.timeout,
            retries: config.retries,
            ..Settings::new(name)
        })?;
        let mut wanted = (*config.wanted).clone();
        if let Some(template) = &config.template {
            // Any place will do: requests go to the template's.
            wanted.instead = super::config::fill(template, "project").parse().ok();
        }
        let tokens = Tokens::new(client.clone(), (*config.login).clone(), wanted, SOON);
        let service = Service::new(client, tokens.latest_of(name));
        let patience = config.timeout.saturating_mul(TRIES);
        Ok(Self {
            name: name.to_owned(),
            config: config.clone(),
            api: Api::new(service, config.template.clone(), patience),
            connections: Connections::new(name, config),
            host: host.clone(),
            volume_type: OnceCell::new_with(config.volume_type.clone().map(Some)),
            reading_only: Mutex::default(),
        })
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.host.ledger
    }

    /// Where the image in a volume is.
    pub(super) fn location(&self, volume: &location::Volume) -> crate::Location {
        crate::Location::Cinder(Location::new(&self.name, volume))
    }

    /// Whether a location is of this store.
    pub(super) fn serves(&self, at: &Location) -> bool {
        at.store().is_none_or(|store| store == self.name)
    }

    /// The volume that a location names.
    pub(super) fn volume_at<'a>(&self, at: &'a crate::Location) -> Result<&'a location::Volume> {
        let crate::Location::Cinder(cinder) = at else { return Err(foreign(at, &self.name)) };
        if self.serves(cinder) { Ok(cinder.volume()) } else { Err(foreign(at, &self.name)) }
    }

    /// The whole image at a location.
    pub(super) async fn look(&self, at: &crate::Location) -> Result<Volume> {
        let id = self.volume_at(at)?;
        let found = self.api.volume(id).await?.filter(Volume::is_whole);
        let found = found.ok_or_else(|| missing(id, &self.name))?;
        // A location that names no store may mean another one.
        let named = matches!(at, crate::Location::Cinder(at) if at.store().is_some());
        if named || found.is_in(&self.name, self.volume_type().await?) {
            return Ok(found);
        }
        Err(missing(id, &self.name))
    }

    /// The type by which volumes that name no store are of this one, and not of another one in the same project;
    /// `None` if Cinder does not say which one the store's have.
    pub(super) async fn volume_type(&self) -> Result<Option<&str>> {
        let asked = self.volume_type.get_or_try_init(async || {
            let found = self.api.default_type().await?;
            if found.is_none() {
                tracing::warn!(
                    store = self.name,
                    "Cinder does not tell its default volume type: volumes of every type that name no \
                     store are taken for this store's; set cinder_volume_type"
                );
            }
            Ok::<_, Error>(found)
        });
        Ok(asked.await?.as_deref())
    }

    /// The volumes that have, or are to have, the image of an id.
    pub(super) async fn volumes_of(&self, id: &ImageId) -> Result<Vec<Volume>> {
        let mut found = self.api.volumes_named(&name(id)).await?;
        found.retain(|volume| volume.image().as_ref() == Some(id));
        if !found.is_empty() {
            let volume_type = self.volume_type().await?;
            found.retain(|volume| volume.is_in(&self.name, volume_type));
        }
        Ok(found)
    }

    /// The whole image of an id, the oldest if there are several.
    pub(super) async fn find(&self, id: &ImageId) -> Result<Option<Volume>> {
        let whole = self.volumes_of(id).await?.into_iter().filter(Volume::is_whole);
        Ok(whole.min_by(|one, other| one.age().cmp(&other.age())))
    }

    /// Makes a volume of an image, and waits for it; one that does not come to be is removed.
    pub(super) async fn make(&self, new: &NewVolume<'_>, claim: &Claim) -> Result<Volume> {
        let making = Making {
            name: new.name.to_owned(),
            nonce: claim.nonce().to_owned(),
            since: unix_seconds(),
        };
        let note = Note::new(self.ledger(), &self.name, format!("volume-{}", claim.nonce()));
        note.keep(&making).await?;
        let made = match self.asked_for(new, claim).await? {
            Made::Volume(made) => made,
            Made::Refused(error) => {
                note.forget().await;
                return Err(error);
            }
        };
        // From here on the nonce in the journal finds it.
        note.forget().await;
        point::pass("cinder-made");
        let ready =
            self.until(&made.id, &["creating", "downloading"], &["available"], "make").await;
        match ready {
            Ok(volume) => Ok(volume),
            Err(error) => Err(self.undone(&made.id, error).await),
        }
    }

    /// Asks for a volume. What became of a request whose answer was lost is looked for by the nonce that the
    /// metadata have; after a failure it may come to be yet.
    async fn asked_for(&self, new: &NewVolume<'_>, claim: &Claim) -> Result<Made> {
        let error = match self.api.create(new).await {
            Ok(answered) => return Ok(answered),
            Err(error) if is_unsure(&error) => error,
            Err(error) => return Ok(Made::Refused(error)),
        };
        let found = match self.api.volumes_named(new.name).await {
            Ok(found) => found,
            Err(unknown) => {
                return Err(error.because(unknown.chain()).leaving(new.name.to_owned()));
            }
        };
        let made = found.into_iter().find(|volume| volume.is_of(claim.nonce()));
        made.map(Made::Volume).ok_or(error)
    }

    /// A failure, after which the volume that was begun is removed.
    pub(super) async fn undone(&self, id: &location::Volume, error: Error) -> Error {
        error.after_clearing(self.remove(id).await)
    }

    /// Waits until a volume that is in one of the statuses `from` is in one of `to`.
    pub(super) async fn until(
        &self,
        id: &location::Volume,
        from: &[&str],
        to: &[&str],
        doing: &str,
    ) -> Result<Volume> {
        let mut tries = Tries::new(self.config.transition);
        loop {
            let volume = self.api.volume(id).await?.ok_or_else(|| gone(id))?;
            let status = volume.status.as_str();
            if to.contains(&status) {
                return Ok(volume);
            }
            let said = format!("volume=`{id}` status=`{status}` store=`{}`", self.name);
            if !from.contains(&status) {
                let what = format!("Cinder could not {doing} the volume, its log says why: {said}");
                return Err(Error::new(Kind::Unavailable, what));
            }
            if !tries.another().await {
                let what = format!(
                    "Cinder did not {doing} the volume within cinder_state_transition_timeout: {said}"
                );
                return Err(Error::new(Kind::Unavailable, what));
            }
        }
    }

    /// Removes a volume, whatever it is doing, and waits until it is gone.
    pub(super) async fn remove(&self, id: &location::Volume) -> Result<()> {
        let left = |error: Error| error.leaving(format!("volume {id}"));
        let mut tries = Tries::new(self.config.transition);
        let (mut asked, mut refused) = (false, None);
        loop {
            let Some(volume) = self.api.volume(id).await.map_err(left)? else { return Ok(()) };
            match volume.status.as_str() {
                "creating" | "downloading" | "extending" | "deleting" | "detaching" => {}
                "error_deleting" if asked => {
                    let what = format!("Cinder could not remove the volume: volume=`{id}`");
                    return Err(left(Error::new(Kind::Unavailable, what)));
                }
                status => {
                    if matches!(status, "in-use" | "attaching" | "reserved") {
                        // Nobody else attaches what is no image yet.
                        for attachment in self.api.attachments(id).await.map_err(left)? {
                            self.api.detach(&attachment.id).await.map_err(left)?;
                        }
                    }
                    let force = status.starts_with("error") && refused.is_some();
                    if force {
                        self.api.force_delete(id).await.map_err(left)?;
                        asked = true;
                    } else {
                        match self.api.delete(id).await.map_err(left)? {
                            Removal::Begun | Removal::Gone => asked = true,
                            // It may come to be in a status that allows it.
                            Removal::Refused(error) => refused = Some(error),
                        }
                    }
                }
            }
            if !tries.another().await {
                let what = format!("Cinder does not remove the volume: volume=`{id}`");
                let error = Error::new(Kind::Unavailable, what);
                return Err(left(match refused {
                    Some(refused) => error.because(refused),
                    None => error,
                }));
            }
        }
    }

    /// Removes a whole image. One that others hold stays as it is.
    pub(super) async fn remove_image(&self, found: &Volume) -> Result<()> {
        let id = &found.id;
        let in_use = |why: &str| {
            Error::new(
                Kind::InUse,
                format!("the image's volume {why}: volume=`{id}` store=`{}`", self.name),
            )
        };
        let mut tries = Tries::new(self.config.transition);
        let mut asked = false;
        loop {
            let Some(volume) = self.api.volume(id).await? else { return Ok(()) };
            match volume.status.as_str() {
                "deleting" => {}
                "error_deleting" => {
                    let what = format!(
                        "Cinder could not remove the volume, its log says why: volume=`{id}`"
                    );
                    return Err(Error::new(Kind::Unavailable, what));
                }
                "in-use" | "attaching" | "reserved" => {
                    let by = volume.attached_by();
                    return Err(in_use(&format!("is in use{by}: detach it, or try again later")));
                }
                _ if asked => {
                    // Cinder puts it back when its backend says that it is busy.
                    return Err(in_use("cannot be removed now: something in its backend needs it"));
                }
                _ => match self.api.delete(id).await? {
                    Removal::Begun => asked = true,
                    Removal::Gone => return Ok(()),
                    // In the wrong status, or with snapshots.
                    Removal::Refused(error) => {
                        return Err(in_use(&format!("cannot be removed now: {error}")));
                    }
                },
            }
            if !tries.another().await {
                let what = format!(
                    "Cinder did not remove the volume within cinder_state_transition_timeout: volume=`{id}`"
                );
                return Err(Error::new(Kind::Timeout, what));
            }
        }
    }

    /// Gives a volume these metadata and no others: the point from which on it is an image, or is none. An
    /// answer that was lost is looked for.
    pub(super) async fn publish(&self, id: &location::Volume, metadata: &Metadata) -> Result<()> {
        match self.api.set_metadata(id, metadata).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(gone(id)),
            Err(error) if is_unsure(&error) => match self.api.volume(id).await {
                Ok(Some(found))
                    if metadata.iter().all(|pair| found.metadata.get(pair.0) == Some(pair.1)) =>
                {
                    Ok(())
                }
                Ok(_) => Err(error),
                Err(unknown) => {
                    let what = "Cinder does not say whether the image is whole; look again";
                    Err(Error::new(Kind::Timeout, format!("{what}: volume=`{id}`"))
                        .because(unknown.chain()))
                }
            },
            Err(error) => Err(error),
        }
    }

    /// Every volume of the project that is this store's.
    pub(super) fn all(self: &Arc<Self>) -> BoxStream<'static, Result<Volume>> {
        let first = (Arc::clone(self), None, false);
        let pages = stream::try_unfold(first, |(store, marker, ended)| async move {
            if ended {
                return Ok(None);
            }
            let volume_type = store.volume_type().await?;
            let mut page = store.api.page(marker.as_ref()).await?;
            let marker = page.last().map(|volume| volume.id.clone());
            page.retain(|volume| volume.is_in(&store.name, volume_type));
            let ended = marker.is_none();
            Ok::<_, Error>(Some((page, (store, marker, ended))))
        });
        pages.map_ok(|page| stream::iter(page.into_iter().map(Ok))).try_flatten().boxed()
    }
}
