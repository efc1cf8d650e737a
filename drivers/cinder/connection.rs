//! What Cinder tells of the way to a volume, and what of it is refused.

use std::fmt;

use serde_json::Value;

use super::location;
use crate::contract::{Error, Kind, Result};

/// What Cinder tells of the way to a volume. It may hold passwords: none of it is shown.
#[derive(Clone)]
pub(super) struct Connection {
    protocol: String,
    fields: Value,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("protocol", &self.protocol).finish_non_exhaustive()
    }
}

impl Connection {
    /// Reads what came with an attachment.
    pub(super) fn read(mut told: Value) -> Result<Self> {
        // Flat since attachments have versions; nested before, and by some backends.
        let nested = told.get_mut("data").map(Value::take);
        if let (Some(Value::Object(nested)), Some(fields)) = (nested, told.as_object_mut()) {
            fields.remove("data");
            for (name, value) in nested {
                fields.entry(name).or_insert(value);
            }
        }
        let protocol = told.get("driver_volume_type").and_then(Value::as_str).map(str::to_owned);
        let protocol = protocol.ok_or_else(|| {
            Error::new(Kind::Unavailable, "Cinder tells no way to the volume it has attached")
        })?;
        Ok(Self { protocol, fields: told })
    }

    pub(super) fn protocol(&self) -> &str {
        &self.protocol
    }

    /// Whether the volume is a file in something that is mounted.
    pub(super) fn is_in_export(&self) -> bool {
        matches!(self.protocol.as_str(), "nfs" | "glusterfs" | "quobyte" | "vzstorage")
    }

    pub(super) fn fields(&self) -> &Value {
        &self.fields
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.as_str()
    }

    /// A text that there must be.
    pub(super) fn needed(&self, name: &str) -> Result<&str> {
        self.text(name).filter(|text| !text.is_empty()).ok_or_else(|| {
            Error::new(
                Kind::Unavailable,
                format!("Cinder's way to the volume lacks `{name}`: protocol=`{}`", self.protocol),
            )
        })
    }

    fn flag(&self, name: &str) -> bool {
        self.fields.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// Refuses what has no plain bytes.
    pub(super) fn check(&self, volume: &location::Volume) -> Result<()> {
        if self.flag("encrypted") {
            return Err(encrypted(volume));
        }
        match self.text("format") {
            None | Some("raw" | "") => Ok(()),
            Some(format) => Err(Error::new(
                Kind::Unsupported,
                format!(
                    "the volume is a file of format {format}, which images cannot be in; use a volume \
                     type of raw volumes (and volumes of it without snapshots): volume=`{volume}`"
                ),
            )),
        }
    }

    /// Refuses a way that names another volume than the new one it should lead to.
    pub(super) fn check_new(&self, volume: &location::Volume) -> Result<()> {
        for text in ["name", "target_iqn", "device_path"].iter().filter_map(|name| self.text(name))
        {
            let named = text.match_indices("volume-").filter_map(|(at, begins)| {
                let from = at.saturating_add(begins.len());
                text.get(from..from.saturating_add(36))?.parse::<location::Volume>().ok()
            });
            if let Some(other) = named.last().filter(|other| other != volume) {
                return Err(Error::new(
                    Kind::Unavailable,
                    format!(
                        "Cinder's attachment leads to another volume, nothing is written to it: \
                         volume=`{volume}` leads to=`{other}`"
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// The refusal of a volume whose bytes are encrypted.
pub(super) fn encrypted(volume: &location::Volume) -> Error {
    Error::new(
        Kind::Unsupported,
        format!(
            "the volume is encrypted, images cannot be in it; use a volume type without encryption: \
             volume=`{volume}`"
        ),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: &str = "1b2c3d4e-0000-4111-8222-abcdef012345";
    const OTHER: &str = "aaaaaaaa-0000-4111-8222-abcdef012345";

    fn told(more: Value) -> Connection {
        let mut told = json!({"driver_volume_type": "nfs"});
        told.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Connection::read(told).unwrap()
    }

    #[test]
    fn nested_and_flat_ways_are_read_alike() {
        let nested = told(json!({"data": {"name": "volume-x", "export": "h:/e"}}));
        let flat = told(json!({"name": "volume-x", "export": "h:/e"}));
        assert_eq!(nested.fields(), flat.fields());
        assert!(Connection::read(json!({"data": {}})).is_err());
        assert!(!format!("{:?}", told(json!({"auth_password": "s3cret"}))).contains("s3cret"));
    }

    #[test]
    fn what_is_encrypted_or_not_raw_is_refused() {
        let volume = ID.parse().unwrap();
        assert!(told(json!({"format": "raw", "encrypted": false})).check(&volume).is_ok());
        assert!(told(json!({"format": null})).check(&volume).is_ok());
        for (more, says) in [
            (json!({"format": "qcow2"}), "of format qcow2"),
            (json!({"encrypted": true}), "is encrypted"),
        ] {
            let error = told(more).check(&volume).unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported);
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn a_way_to_another_volume_is_refused_before_anything_is_written() {
        let volume = ID.parse().unwrap();
        for (more, good) in [
            (json!({"name": format!("volume-{ID}")}), true),
            (json!({"name": format!("volumes/volume-{ID}")}), true),
            (json!({"name": "lun-17"}), true),
            (json!({"target_iqn": format!("iqn.2010-10.org.openstack:volume-{ID}")}), true),
            (json!({"name": format!("volume-{OTHER}")}), false),
            (json!({"target_iqn": format!("iqn.2010-10.org.openstack:volume-{OTHER}")}), false),
        ] {
            assert_eq!(told(more.clone()).check_new(&volume).is_ok(), good, "{more}");
        }
    }
}
