//! Cinder's API, version 3, as far as images need it.

use std::{fmt, time::Duration};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    config::fill,
    failure, location,
    volume::{Metadata, Volume},
};
use crate::{
    contract::{Capacity, Error, Kind, Result},
    kit::{
        http::{Answer, HeaderName, Method, Request, StatusCode, Url, beneath},
        keystone::{Service, TOKEN, Token},
    },
};

/// The version of the API that attaches volumes for reading alone.
const VERSION: (HeaderName, &str) =
    (HeaderName::from_static("openstack-api-version"), "volume 3.54");

/// Bytes of an answer, at most: a page of a listing.
const ANSWER: usize = 16 << 20;

/// Volumes in a page of a listing.
const PAGE: usize = 500;

/// One Cinder, as one login reaches it.
pub(super) struct Api {
    service: Service,
    /// Where it is, if the catalog is not asked.
    template: Option<String>,
    /// How long the answer to a request may take, other tries included.
    patience: Duration,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.service.fmt(f)
    }
}

/// What is asked.
#[derive(Debug)]
struct Call<'a> {
    method: Method,
    path: Vec<&'a str>,
    query: Vec<(&'static str, String)>,
    body: Option<Value>,
    idempotent: bool,
}

impl<'a> Call<'a> {
    fn new(method: Method, path: impl Into<Vec<&'a str>>) -> Self {
        let idempotent = method.is_idempotent();
        Self { method, path: path.into(), query: Vec::new(), body: None, idempotent }
    }

    /// What is to be done with a volume.
    fn action(id: &'a location::Volume, action: Value) -> Self {
        Self::new(Method::POST, ["volumes", id.as_str(), "action"]).body(action)
    }

    fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    /// Doing it twice is doing it once.
    fn again(mut self) -> Self {
        self.idempotent = true;
        self
    }
}

/// The way in which a volume is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Read,
    Write,
}

impl Mode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Read => "ro",
            Self::Write => "rw",
        }
    }
}

/// An attachment of a volume.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Attachment {
    pub(super) id: location::Volume,
    #[serde(default)]
    pub(super) connection_info: Value,
    #[serde(default)]
    status: Option<String>,
    /// The server that it is for.
    #[serde(default)]
    instance: Option<String>,
}

impl Attachment {
    /// Whether it was asked for, for no server, and no more.
    pub(super) fn is_reserved(&self) -> bool {
        self.status.as_deref() == Some("reserved") && self.instance.is_none()
    }
}

/// A project's quota.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) volumes: Limit,
    pub(super) gib: Limit,
}

/// What is used of something, and the most that may be; `None` where there is no limit, or it is not told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) used: Option<u64>,
    pub(super) most: Option<u64>,
}

impl Limit {
    /// Whether there is room for one more.
    pub(super) fn has_room(self) -> bool {
        self.used.zip(self.most).is_none_or(|(used, most)| used < most)
    }

    /// In words.
    pub(super) fn words(self, of: &str) -> String {
        let number = |number: Option<u64>, none: &str| {
            number.map_or_else(|| none.to_owned(), |number| number.to_string())
        };
        format!("{} of {} {of}", number(self.used, "some"), number(self.most, "any number of"))
    }
}

/// A volume that is to be.
#[derive(Debug)]
pub(super) struct NewVolume<'a> {
    pub(super) name: &'a str,
    pub(super) gib: u64,
    pub(super) volume_type: Option<&'a str>,
    pub(super) source: Option<&'a location::Volume>,
    pub(super) metadata: &'a Metadata,
}

/// What became of a request to make a volume.
#[derive(Debug)]
pub(super) enum Made {
    /// It is being made.
    Volume(Volume),
    /// There is none, and none will come.
    Refused(Error),
}

/// What became of a request to remove a volume.
#[derive(Debug)]
pub(super) enum Removal {
    /// It goes.
    Begun,
    /// There is none.
    Gone,
    /// Its status does not allow that, or something depends on it.
    Refused(Error),
}

/// What became of a request to make an attachment.
#[derive(Debug)]
pub(super) enum Reserved {
    /// It is there.
    Attachment(Attachment),
    /// Another attachment is in the way.
    Busy(Error),
}

impl Api {
    pub(super) fn new(service: Service, template: Option<String>, patience: Duration) -> Self {
        Self { service, template, patience }
    }

    /// The project that the login is in.
    pub(super) async fn project(&self) -> Result<Option<String>> {
        Ok(self.service.tokens().token().await?.project().map(str::to_owned))
    }

    fn request(&self, call: &Call<'_>, token: &Token) -> Result<Request> {
        let base = match &self.template {
            Some(template) => {
                let url = fill(template, token.project().unwrap_or_default());
                url.parse::<Url>().map_err(|error| {
                    let what = "cinder_endpoint_template makes no URL";
                    Error::new(Kind::BackendDenied, what).because(error)
                })?
            }
            None => token.endpoint().clone(),
        };
        let mut url = beneath(&base, &call.path);
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        let (name, value) = VERSION;
        let mut request = Request::new(call.method.clone(), url)
            .secret(TOKEN, token.value())?
            .header(name, value)?
            .idempotent(call.idempotent)
            .whole(ANSWER);
        if let Some(body) = &call.body {
            request = request.json(body)?;
        }
        Ok(request)
    }

    async fn send(&self, call: Call<'_>) -> Result<Answer> {
        let sent = self.service.send(|token| self.request(&call, token));
        let late = |_elapsed| Err(Error::new(Kind::Timeout, "Cinder does not answer"));
        tokio::time::timeout(self.patience, sent).await.unwrap_or_else(late)
    }

    /// The answer to what is done, if there is such a thing.
    async fn answer(&self, call: Call<'_>, doing: &str) -> Result<Option<Answer>> {
        let answer = self.send(call).await?;
        match answer.status {
            StatusCode::NOT_FOUND => {
                answer.finish().await;
                Ok(None)
            }
            status if status.is_success() => Ok(Some(answer)),
            _ => Err(failure::of(answer, doing).await),
        }
    }

    /// What comes back under `key`.
    async fn ask<T: DeserializeOwned>(
        &self,
        call: Call<'_>,
        key: &str,
        doing: &str,
    ) -> Result<Option<T>> {
        let Some(answer) = self.answer(call, doing).await? else { return Ok(None) };
        told(answer, key, doing).await.map(Some)
    }

    /// The same of what every Cinder has, such as a listing: that there is none is no answer.
    async fn must_ask<T: DeserializeOwned>(
        &self,
        call: Call<'_>,
        key: &str,
        doing: &str,
    ) -> Result<T> {
        self.ask(call, key, doing).await?.ok_or_else(|| {
            let what = "the endpoint is not found, or is no Cinder's, trying to";
            Error::new(Kind::Unavailable, format!("{what} {doing}"))
        })
    }

    /// Does what has no answer to look at; false if there is no such thing.
    async fn tell(&self, call: Call<'_>, doing: &str) -> Result<bool> {
        let Some(answer) = self.answer(call, doing).await? else { return Ok(false) };
        answer.finish().await;
        Ok(true)
    }

    /// Does so to a volume that there must be.
    async fn change(&self, id: &location::Volume, call: Call<'_>, doing: &str) -> Result<()> {
        if self.tell(call, doing).await? { Ok(()) } else { Err(gone(id)) }
    }

    /// The volume, if there is one.
    pub(super) async fn volume(&self, id: &location::Volume) -> Result<Option<Volume>> {
        let call = Call::new(Method::GET, ["volumes", id.as_str()]);
        self.ask(call, "volume", "tell of a volume").await
    }

    /// The volumes of this name in the project.
    pub(super) async fn volumes_named(&self, name: &str) -> Result<Vec<Volume>> {
        let call = Call::new(Method::GET, ["volumes", "detail"]).query("name", name);
        let mut found: Vec<Volume> = self.must_ask(call, "volumes", "list volumes").await?;
        // A server that does not filter lists all of them.
        found.retain(|found| found.name.as_deref() == Some(name));
        Ok(found)
    }

    /// The volumes of the project after `marker`, a page of them.
    pub(super) async fn page(&self, marker: Option<&location::Volume>) -> Result<Vec<Volume>> {
        let mut call =
            Call::new(Method::GET, ["volumes", "detail"]).query("limit", PAGE.to_string());
        if let Some(marker) = marker {
            call = call.query("marker", marker.as_str());
        }
        self.must_ask(call, "volumes", "list volumes").await
    }

    /// Begins to make a volume. After a failure it may have begun, or may yet.
    pub(super) async fn create(&self, new: &NewVolume<'_>) -> Result<Made> {
        let NewVolume { name, gib, volume_type, source, metadata } = new;
        let mut volume = json!({"name": name, "size": gib, "metadata": metadata});
        if let Some(fields) = volume.as_object_mut() {
            if let Some(volume_type) = volume_type {
                fields.insert("volume_type".into(), json!(volume_type));
            }
            if let Some(source) = source {
                fields.insert("source_volid".into(), json!(source.as_str()));
            }
        }
        let call = Call::new(Method::POST, ["volumes"]).body(json!({"volume": volume}));
        let doing = "make a volume";
        let answer = self.send(call).await?;
        match answer.status {
            StatusCode::NOT_FOUND => {
                answer.finish().await;
                let what = "the endpoint makes no volumes: it is no Cinder's";
                let missing = || Error::new(Kind::Unavailable, what);
                Ok(Made::Refused(source.map_or_else(missing, gone)))
            }
            status if status.is_success() => told(answer, "volume", doing).await.map(Made::Volume),
            StatusCode::REQUEST_TIMEOUT => Err(failure::of(answer, doing).await),
            status if status.is_client_error() => {
                Ok(Made::Refused(failure::of(answer, doing).await))
            }
            _ => Err(failure::of(answer, doing).await),
        }
    }

    /// Begins to remove a volume.
    pub(super) async fn delete(&self, id: &location::Volume) -> Result<Removal> {
        let answer = self.send(Call::new(Method::DELETE, ["volumes", id.as_str()])).await?;
        match answer.status {
            StatusCode::NOT_FOUND => {
                answer.finish().await;
                Ok(Removal::Gone)
            }
            StatusCode::BAD_REQUEST | StatusCode::CONFLICT => {
                Ok(Removal::Refused(failure::of(answer, "remove a volume").await))
            }
            status if status.is_success() => {
                answer.finish().await;
                Ok(Removal::Begun)
            }
            _ => Err(failure::of(answer, "remove a volume").await),
        }
    }

    /// Begins to remove a volume whatever its status; only admins may.
    pub(super) async fn force_delete(&self, id: &location::Volume) -> Result<bool> {
        self.tell(Call::action(id, json!({"os-force_delete": {}})), "remove a volume").await
    }

    /// Begins to make a volume larger.
    pub(super) async fn extend(&self, id: &location::Volume, gib: u64) -> Result<()> {
        let call = Call::action(id, json!({"os-extend": {"new_size": gib}}));
        self.change(id, call, "extend a volume").await
    }

    /// Nobody writes to it any more.
    pub(super) async fn set_read_only(&self, id: &location::Volume) -> Result<()> {
        let call = Call::action(id, json!({"os-update_readonly_flag": {"readonly": true}}));
        self.change(id, call.again(), "make a volume read-only").await
    }

    /// Gives a volume these metadata and no others; false if there is none.
    pub(super) async fn set_metadata(
        &self,
        id: &location::Volume,
        metadata: &Metadata,
    ) -> Result<bool> {
        let call = Call::new(Method::PUT, ["volumes", id.as_str(), "metadata"]);
        let call = call.body(json!({"metadata": metadata}));
        self.tell(call, "keep metadata of a volume").await
    }

    /// Gives a volume these metadata beside its others; false if there is none.
    pub(super) async fn add_metadata(
        &self,
        id: &location::Volume,
        metadata: &Metadata,
    ) -> Result<bool> {
        let call = Call::new(Method::POST, ["volumes", id.as_str(), "metadata"]);
        let call = call.body(json!({"metadata": metadata})).again();
        self.tell(call, "keep metadata of a volume").await
    }

    /// Gives a volume another name.
    pub(super) async fn rename(&self, id: &location::Volume, name: &str) -> Result<()> {
        let call = Call::new(Method::PUT, ["volumes", id.as_str()]);
        let call = call.body(json!({"volume": {"name": name}}));
        self.change(id, call, "name a volume").await
    }

    /// Reserves a volume for an attachment.
    pub(super) async fn reserve(&self, volume: &location::Volume, mode: Mode) -> Result<Reserved> {
        let wanted = json!({"volume_uuid": volume.as_str(), "mode": mode.name()});
        let call = Call::new(Method::POST, ["attachments"]).body(json!({"attachment": wanted}));
        let answer = self.send(call).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Err(gone(volume)),
            // Whatever Cinder says of the status that it is in: something else has it, or lets go of it.
            StatusCode::BAD_REQUEST => {
                let error = failure::of(answer, "attach a volume").await;
                let busy = error.to_string().contains(" to reserve");
                if busy { Ok(Reserved::Busy(error)) } else { Err(error) }
            }
            status if status.is_success() => {
                let made = told(answer, "attachment", "attach a volume").await;
                made.map(Reserved::Attachment)
            }
            _ => Err(failure::of(answer, "attach a volume").await),
        }
    }

    /// Has the backend lead to a volume from the machine that `connector` describes; the way there comes back.
    pub(super) async fn export(
        &self,
        attachment: &location::Volume,
        connector: &Value,
    ) -> Result<Value> {
        let call = Call::new(Method::PUT, ["attachments", attachment.as_str()]);
        let call = call.body(json!({"attachment": {"connector": connector}}));
        let found: Option<Attachment> = self.ask(call, "attachment", "attach a volume").await?;
        found.map(|found| found.connection_info).ok_or_else(|| {
            Error::new(Kind::Unavailable, "the attachment was removed while it was made")
        })
    }

    /// The attachment is in use from now on.
    pub(super) async fn complete(&self, attachment: &location::Volume) -> Result<()> {
        let path = ["attachments", attachment.as_str(), "action"];
        let call = Call::new(Method::POST, path).body(json!({"os-complete": {}})).again();
        self.tell(call, "attach a volume").await.map(drop)
    }

    /// An attachment, if it is there.
    pub(super) async fn attachment(&self, id: &location::Volume) -> Result<Option<Attachment>> {
        let call = Call::new(Method::GET, ["attachments", id.as_str()]);
        self.ask(call, "attachment", "tell of an attachment").await
    }

    /// The attachments of a volume.
    pub(super) async fn attachments(&self, volume: &location::Volume) -> Result<Vec<Attachment>> {
        let call = Call::new(Method::GET, ["attachments", "detail"]);
        let call = call.query("volume_id", volume.as_str());
        self.must_ask(call, "attachments", "list attachments").await
    }

    /// Ends an attachment; false if there is none.
    pub(super) async fn detach(&self, attachment: &location::Volume) -> Result<bool> {
        let call = Call::new(Method::DELETE, ["attachments", attachment.as_str()]);
        self.tell(call, "end an attachment").await
    }

    /// Whether there is such a volume type.
    pub(super) async fn has_type(&self, name: &str) -> Result<bool> {
        let call = Call::new(Method::GET, ["types"]);
        let types: Vec<Value> = self.must_ask(call, "volume_types", "list volume types").await?;
        let is_it = |found: &Value| {
            [found.get("name"), found.get("id")]
                .iter()
                .any(|text| text.and_then(Value::as_str) == Some(name))
        };
        Ok(types.into_iter().any(|found| is_it(&found)))
    }

    /// The name of the type that volumes of the project have when none is asked for; `None` if there is none, or
    /// the login may not know.
    pub(super) async fn default_type(&self) -> Result<Option<String>> {
        let call = Call::new(Method::GET, ["types", "default"]);
        let found: Result<Option<Value>> =
            self.ask(call, "volume_type", "tell of the default volume type").await;
        match found {
            Ok(found) => Ok(found.and_then(|found| found.get("name")?.as_str().map(str::to_owned))),
            Err(error) if error.kind() == Kind::BackendDenied => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The space that the project may use.
    pub(super) async fn capacity(&self) -> Result<Capacity> {
        let Limit { used, most: total } = self.limits().await?.gib;
        let bytes = |gib: u64| gib.saturating_mul(super::volume::GIB);
        let (used, total) = (used.map(bytes), total.map(bytes));
        let available = total.zip(used).map(|(total, used)| total.saturating_sub(used));
        Ok(Capacity { total, used, available, trash: None })
    }

    /// The project's quota.
    pub(super) async fn limits(&self) -> Result<Limits> {
        let call = Call::new(Method::GET, ["limits"]);
        let limits: Option<Value> = self.ask(call, "limits", "tell of its limits").await?;
        let limits = limits.unwrap_or_default();
        let number = |name: &str| limits.pointer(&format!("/absolute/{name}"))?.as_u64();
        let limit = |used, most| Limit { used: number(used), most: number(most) };
        Ok(Limits {
            volumes: limit("totalVolumesUsed", "maxTotalVolumes"),
            gib: limit("totalGigabytesUsed", "maxTotalVolumeGigabytes"),
        })
    }
}

/// What an answer has under `key`.
async fn told<T: DeserializeOwned>(answer: Answer, key: &str, doing: &str) -> Result<T> {
    let mut body: Value = answer.json(ANSWER).await?;
    let found = body.get_mut(key).map(Value::take).unwrap_or_default();
    serde_json::from_value(found).map_err(|error| {
        let what = format!("Cinder's answer is not what it should be, trying to {doing}");
        Error::new(Kind::Unavailable, what).because(error)
    })
}

/// What a volume is that was there.
pub(super) fn gone(id: &location::Volume) -> Error {
    Error::new(Kind::Unavailable, format!("the volume was removed meanwhile: volume=`{id}`"))
}
