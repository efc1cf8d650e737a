//! Requests: which call each is, who may ask, by which microversion, and how it is refused.

use serde_json::{Value, json};

use super::{
    attachments,
    call::{self, Call},
    cloud::{Cloud, Step},
    snapshots, types, volumes,
};
use crate::harness::service::{Answer, Blob, Head, Identity, Service, keystone};

/// What Keystone tells of it.
const CATALOGUE: &keystone::Catalogue = &[("block-storage", place), ("volumev3", place)];

fn place(at: &str, project: &str) -> String {
    format!("http://{at}/v3/{project}")
}

/// Why something is not done: a status, and what is said.
#[derive(Debug)]
pub(super) struct Refused(pub(super) u16, pub(super) String);

pub(super) type Done = Result<Answer, Refused>;

/// What a request says, and where it came to.
pub(super) struct Asked<'a> {
    pub(super) head: &'a Head,
    pub(super) body: Value,
    pub(super) project: &'a str,
    /// The microversion, as N in 3.N.
    pub(super) minor: u32,
    /// `HOST:PORT`.
    pub(super) address: &'a str,
}

impl Asked<'_> {
    /// The id that follows the kind of thing in the path.
    pub(super) fn id(&self) -> &str {
        self.head.path.get(3).map_or("", String::as_str)
    }

    /// A query that is true.
    pub(super) fn wants(&self, name: &str) -> bool {
        matches!(self.head.value(name).to_lowercase().as_str(), "1" | "t" | "true" | "on" | "yes")
    }
}

/// A request's `Invalid` as Cinder words it.
pub(super) fn invalid(what: &str) -> Refused {
    Refused(400, what.to_owned())
}

pub(super) fn invalid_volume(why: &str) -> Refused {
    Refused(400, format!("Invalid volume: {why}"))
}

pub(super) fn no_volume(id: &str) -> Refused {
    Refused(404, format!("Volume {id} could not be found."))
}

/// A body with an element that Cinder's schema does not know.
pub(super) fn unknown_element(within: &str, name: &str) -> Refused {
    Refused(
        400,
        format!(
            "Invalid input for field/attribute {within}. Additional properties are not allowed \
             ('{name}' was unexpected)"
        ),
    )
}

/// A boolean as text or as such.
pub(super) fn truth(value: &Value) -> Option<bool> {
    match value.as_str() {
        Some(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Some(text) if text.eq_ignore_ascii_case("false") => Some(false),
        Some(_) => None,
        None => value.as_bool(),
    }
}

/// The error body that goes with a status.
fn refusal(status: u16, message: &str) -> Answer {
    let name = match status {
        400 => "badRequest",
        401 => return keystone::refusal(401),
        403 => "forbidden",
        404 => "itemNotFound",
        405 => "badMethod",
        409 => "conflictingRequest",
        413 => "overLimit",
        501 => "notImplemented",
        503 => "serviceUnavailable",
        _ => "computeFault",
    };
    let answer = Answer::new(status);
    if status == 413 {
        let told = json!({"code": status, "message": message, "retryAfter": "0"});
        return answer.json(&json!({name: told})).with("retry-after", 0);
    }
    answer.json(&json!({name: {"code": status, "message": message}}))
}

impl Service for Cloud {
    type Call = Call;

    const ASKS_IN_BODIES: bool = true;

    fn call(&self, head: &Head, body: &Blob) -> (Call, String) {
        call::of(head, body)
    }

    fn answer(&mut self, call: Call, head: &Head, body: Blob, address: &str) -> Answer {
        self.sweep();
        if call == Call::Token {
            return keystone::answer(&mut self.identity, head, &body, address, CATALOGUE);
        }
        if call == Call::Versions {
            return self.versions(head, address);
        }
        let token = head.header("x-auth-token").unwrap_or_default();
        let Some(project) = self.identity.account_of(token).map(str::to_owned) else {
            return keystone::refusal(401);
        };
        if head.path.get(1) != Some(&project) {
            return refusal(400, "Malformed request url");
        }
        let Some(minor) = self.minor(head) else {
            let asked = head.header("openstack-api-version").unwrap_or_default();
            let most = self.ways.minor;
            let why = format!(
                "Version {asked} is not supported by the API. Minimum is 3.0 and maximum is 3.{most}."
            );
            return refusal(406, &why);
        };
        let body = serde_json::from_str(&body.text()).unwrap_or_default();
        let asked = Asked { head, body, project: &project, minor, address };
        let done = self.perform(call, &asked);
        let answer = done.unwrap_or_else(|Refused(status, why)| refusal(status, &why));
        answer
            .with("openstack-api-version", format!("volume 3.{minor}"))
            .with("x-compute-request-id", format!("req-{}", super::cloud::new_id()))
    }

    fn refusal(&self, call: Call, status: u16) -> Answer {
        let why = match status {
            _ if call == Call::Token => return keystone::refusal(status),
            413 => {
                "VolumeLimitExceeded: Maximum number of volumes allowed (10) exceeded for quota \
                 'volumes'."
            }
            _ => "It was planned so.",
        };
        refusal(status, why)
    }

    fn identity(&mut self) -> &mut Identity {
        &mut self.identity
    }
}

impl Cloud {
    fn perform(&mut self, call: Call, asked: &Asked<'_>) -> Done {
        match call {
            Call::Limits => types::limits(self),
            Call::Types => types::types(self, asked),
            Call::CreateVolume => volumes::create(self, asked),
            Call::ListVolumes => volumes::list(self, asked),
            Call::ShowVolume => volumes::show(self, asked),
            Call::UpdateVolume => volumes::update(self, asked),
            Call::DeleteVolume => volumes::delete(self, asked),
            Call::Extend => volumes::extend(self, asked),
            Call::SetReadonly => volumes::set_readonly(self, asked),
            Call::ResetStatus => volumes::reset_status(self, asked),
            Call::ForceDelete => volumes::force_delete(self, asked),
            Call::SetBootable => volumes::set_bootable(self, asked),
            Call::GetMetadata => volumes::get_metadata(self, asked),
            Call::PutMetadata => volumes::put_metadata(self, asked),
            Call::DeleteMetadata => volumes::delete_metadata(self, asked),
            Call::Encryption => volumes::encryption(self, asked),
            Call::CreateSnapshot => snapshots::create(self, asked),
            Call::ListSnapshots => snapshots::list(self, asked),
            Call::ShowSnapshot => snapshots::show(self, asked),
            Call::DeleteSnapshot => snapshots::delete(self, asked),
            Call::CreateAttachment
            | Call::UpdateAttachment
            | Call::ShowAttachment
            | Call::ListAttachments
            | Call::DeleteAttachment
                if asked.minor < 27 =>
            {
                no_such_version(asked)
            }
            Call::CompleteAttachment if asked.minor < 44 => no_such_version(asked),
            Call::CreateAttachment => attachments::create(self, asked),
            Call::UpdateAttachment => attachments::update(self, asked),
            Call::CompleteAttachment => attachments::complete(self, asked),
            Call::ShowAttachment => attachments::show(self, asked),
            Call::ListAttachments => Ok(attachments::list(self, asked)),
            Call::DeleteAttachment => attachments::delete(self, asked),
            Call::Other | Call::Token | Call::Versions => {
                Err(Refused(404, "The resource could not be found.".into()))
            }
        }
    }

    /// The microversion that a request asks for, if there is such a one.
    fn minor(&self, head: &Head) -> Option<u32> {
        let Some(told) = head.header("openstack-api-version") else { return Some(0) };
        let version = told.split(',').find_map(|one| one.trim().strip_prefix("volume "))?;
        if version == "latest" {
            return Some(self.ways.minor);
        }
        let minor = version.strip_prefix("3.")?.parse().ok()?;
        (minor <= self.ways.minor).then_some(minor)
    }

    fn versions(&self, head: &Head, address: &str) -> Answer {
        let self_link = json!({"rel": "self", "href": format!("http://{address}/v3/")});
        let version = json!({
            "id": "v3.0",
            "status": "CURRENT",
            "version": format!("3.{}", self.ways.minor),
            "min_version": "3.0",
            "updated": "2023-08-31T00:00:00Z",
            "links": [self_link],
            "media-types": [],
        });
        let status = if head.path.first().is_some_and(|first| first == "v3") { 200 } else { 300 };
        Answer::new(status).json(&json!({"versions": [version]}))
    }

    /// Whether a step fails now: then what the backend says.
    pub(super) fn backend(&mut self, step: Step, doing: &str) -> Result<(), Refused> {
        if self.fails(step) {
            let why = format!(
                "{doing} (Bad or unexpected response from the storage volume backend API: it was \
                 planned so)."
            );
            return Err(Refused(500, why));
        }
        Ok(())
    }
}

fn no_such_version(asked: &Asked<'_>) -> Done {
    let minor = asked.minor;
    Err(Refused(404, format!("API version 3.{minor} is not supported on this method.")))
}
