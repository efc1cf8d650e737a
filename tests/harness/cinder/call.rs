//! What is asked of Cinder.

use serde_json::Value;

use crate::harness::service::{Blob, Head};

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Call {
    /// Whoever asks for a token.
    Token,
    /// What is served.
    Versions,
    CreateVolume,
    ShowVolume,
    /// Its name.
    UpdateVolume,
    ListVolumes,
    /// The forced one too, by its query.
    DeleteVolume,
    Extend,
    SetReadonly,
    ResetStatus,
    ForceDelete,
    SetBootable,
    /// All of a volume, or one.
    PutMetadata,
    GetMetadata,
    DeleteMetadata,
    CreateSnapshot,
    ShowSnapshot,
    ListSnapshots,
    DeleteSnapshot,
    CreateAttachment,
    UpdateAttachment,
    CompleteAttachment,
    ShowAttachment,
    ListAttachments,
    DeleteAttachment,
    Limits,
    /// One, or all.
    Types,
    /// How a volume is encrypted.
    Encryption,
    /// What is not among these.
    Other,
}

impl Call {
    /// Those that images take which are put, read and deleted.
    pub(crate) const OF_IMAGES: [Self; 11] = [
        Self::Token,
        Self::ListVolumes,
        Self::CreateVolume,
        Self::ShowVolume,
        Self::CreateAttachment,
        Self::UpdateAttachment,
        Self::CompleteAttachment,
        Self::DeleteAttachment,
        Self::SetReadonly,
        Self::PutMetadata,
        Self::DeleteVolume,
    ];
}

/// The action that a body asks for.
fn action(body: &Value) -> &str {
    body.as_object().and_then(|body| body.keys().next()).map_or("", String::as_str)
}

/// The kind of a request, and the id or the name in it.
pub(super) fn of(head: &Head, body: &Blob) -> (Call, String) {
    let part = |nth: usize| head.path.get(nth).map_or("", String::as_str);
    let body: Value = serde_json::from_str(&body.text()).unwrap_or_default();
    let (id, method) = (part(3), head.method.as_str());
    let call = match (method, part(2), id, part(4)) {
        _ if part(0) == "v3" && part(1) == "auth" => Call::Token,
        ("GET", "", ..) => Call::Versions,
        ("GET", "limits", ..) => Call::Limits,
        ("GET", "types", ..) => Call::Types,
        ("POST", "volumes", "", _) => Call::CreateVolume,
        ("GET", "volumes", "" | "detail", _) => Call::ListVolumes,
        ("GET", "volumes", _, "") => Call::ShowVolume,
        ("PUT", "volumes", _, "") => Call::UpdateVolume,
        ("DELETE", "volumes", _, "") => Call::DeleteVolume,
        ("GET", "volumes", _, "metadata") => Call::GetMetadata,
        ("POST" | "PUT", "volumes", _, "metadata") => Call::PutMetadata,
        ("DELETE", "volumes", _, "metadata") => Call::DeleteMetadata,
        ("GET", "volumes", _, "encryption") => Call::Encryption,
        ("POST", "volumes", _, "action") => match action(&body) {
            "os-extend" => Call::Extend,
            "os-update_readonly_flag" => Call::SetReadonly,
            "os-reset_status" => Call::ResetStatus,
            "os-force_delete" => Call::ForceDelete,
            "os-set_bootable" => Call::SetBootable,
            _ => Call::Other,
        },
        ("POST", "snapshots", "", _) => Call::CreateSnapshot,
        ("GET", "snapshots", "" | "detail", _) => Call::ListSnapshots,
        ("GET", "snapshots", _, "") => Call::ShowSnapshot,
        ("DELETE", "snapshots", _, "") => Call::DeleteSnapshot,
        ("POST", "attachments", "", _) => Call::CreateAttachment,
        ("GET", "attachments", "" | "detail", _) => Call::ListAttachments,
        ("GET", "attachments", _, "") => Call::ShowAttachment,
        ("PUT", "attachments", _, "") => Call::UpdateAttachment,
        ("DELETE", "attachments", _, "") => Call::DeleteAttachment,
        ("POST", "attachments", _, "action") if action(&body) == "os-complete" => {
            Call::CompleteAttachment
        }
        _ => Call::Other,
    };
    let named = match (method, part(2), id) {
        ("POST", "volumes", "") => &body["volume"]["name"],
        ("POST", "snapshots", "") => &body["snapshot"]["volume_id"],
        ("POST", "attachments", "") => &body["attachment"]["volume_uuid"],
        _ => &Value::Null,
    };
    (call, named.as_str().unwrap_or(id).to_owned())
}
