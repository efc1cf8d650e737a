//! Volumes that Cinder exports over iSCSI, reached without a kernel driver.

use std::ops::Range;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use imaged_ffi_iscsi::{Chap, Error as Failure, Session, Settings, Target};
use serde_json::Value;

use super::{
    config::Config,
    connection::Connection,
    device::{Device, write_zeros},
};
use crate::{
    contract::{Error, Kind, Pieces, Result},
    kit::window::{Buffer, CHUNK, PAGE},
};

/// Writes that are under way at a time; each goes in parts of a MiB.
const IN_FLIGHT: usize = 8;

/// The sense of a disk that does not know a command.
const UNKNOWN_COMMAND: (u32, u32) = (5, 0x2000);

/// A volume over iSCSI.
#[derive(Debug)]
pub(super) struct OverIscsi {
    session: Session,
    iqn: String,
}

impl OverIscsi {
    /// Logs in at the first of the portals that lets us in.
    pub(super) async fn open(
        connection: &Connection,
        config: &Config,
        initiator: &str,
        writable: bool,
    ) -> Result<Self> {
        let targets = targets(connection)?;
        let iqn = targets.first().map(|target| target.iqn.clone()).unwrap_or_default();
        let chap = match (connection.text("auth_username"), connection.text("auth_password")) {
            (Some(user), Some(password)) if !user.is_empty() => {
                Some(Chap { user: user.to_owned(), password: password.to_owned() })
            }
            _ => None,
        };
        let settings = Settings {
            initiator: initiator.to_owned(),
            chap,
            writable,
            connect: config.timeout.min(std::time::Duration::from_secs(15)),
            command: config.timeout,
        };
        let session = Session::connect(&targets, &settings).await;
        let session = session.map_err(|failure| failed("attach", &iqn, failure))?;
        Ok(Self { session, iqn })
    }

    fn fail(&self, doing: &str, failure: Failure) -> Error {
        failed(doing, &self.iqn, failure)
    }
}

/// The ways to a volume, the first one first.
fn targets(connection: &Connection) -> Result<Vec<Target>> {
    let list = |name: &str| connection.fields().get(name).and_then(Value::as_array);
    let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
    let lun =
        |value: Option<&Value>| -> Option<u16> { u16::try_from(value.and_then(number)?).ok() };
    let mut all = Vec::new();
    if let (Some(portals), Some(iqns), Some(luns)) =
        (list("target_portals"), list("target_iqns"), list("target_luns"))
    {
        for ((portal, iqn), one) in portals.iter().zip(iqns).zip(luns) {
            if let (Some(portal), Some(iqn), Some(lun)) =
                (portal.as_str(), iqn.as_str(), lun(Some(one)))
            {
                all.push(Target { portal: portal.to_owned(), iqn: iqn.to_owned(), lun });
            }
        }
    }
    if all.is_empty() {
        let lun = lun(connection.fields().get("target_lun")).ok_or_else(|| {
            Error::new(Kind::Unavailable, "Cinder's way to the volume has no LUN: `target_lun`")
        })?;
        let portal = connection.needed("target_portal")?.to_owned();
        all.push(Target { portal, iqn: connection.needed("target_iqn")?.to_owned(), lun });
    }
    Ok(all)
}

/// What libiscsi's failures mean to a caller.
fn failed(doing: &str, iqn: &str, failure: Failure) -> Error {
    let kind = match &failure {
        Failure::LoginRefused { .. } => Kind::BackendDenied,
        Failure::Invalid(_) => Kind::Internal,
        // Space allocation failed: a thin pool is full.
        Failure::Sense(sense) if (sense.key, sense.ascq) == (7, 0x2707) => Kind::Full,
        Failure::Unreachable { .. }
        | Failure::NoSuchTarget { .. }
        | Failure::TimedOut { .. }
        | Failure::Lost { .. }
        | Failure::Sense(_)
        | Failure::Refused { .. } => Kind::Unavailable,
    };
    Error::new(kind, format!("cannot {doing} a volume over iSCSI: {failure}: target=`{iqn}`"))
}

/// The bytes up to a whole page, and those after it with zeros behind them: disks know blocks alone. What lies
/// behind an image in its volume is nobody's.
fn in_pages(bytes: &Bytes) -> (Bytes, Option<Bytes>) {
    let whole = bytes.len().saturating_sub(bytes.len() % PAGE);
    let tail = bytes.slice(whole..);
    if tail.is_empty() {
        return (bytes.clone(), None);
    }
    let mut padded = BytesMut::zeroed(PAGE);
    if let Some(room) = padded.get_mut(..tail.len()) {
        room.copy_from_slice(&tail);
    }
    (bytes.slice(..whole), Some(padded.freeze()))
}

#[async_trait]
impl Device for OverIscsi {
    fn pieces(&self) -> Pieces {
        Pieces { chunk: CHUNK, in_flight: IN_FLIGHT }
    }

    fn is_zero_when_new(&self) -> bool {
        // A disk says what unmapped blocks read as, and not that those of a new volume are unmapped.
        false
    }

    async fn size(&self) -> Result<u64> {
        // It also finds out when the disk is not the same any more.
        let looked = self.session.look().await;
        looked.map(|capacity| capacity.bytes()).map_err(|failure| self.fail("look at", failure))
    }

    async fn read(&self, at: u64, mut buffer: Buffer) -> Result<Bytes> {
        let fail = |failure| self.fail("read", failure);
        let (len, page) = (buffer.capacity(), PAGE as u64);
        let before = usize::try_from(at % page).unwrap_or(0);
        if before == 0 && len.is_multiple_of(PAGE) {
            buffer = self.session.read_into(at, buffer).await.map_err(fail)?;
            buffer.filled(len);
            return Ok(buffer.freeze());
        }
        // What is around it is read too.
        let around = Buffer::uncounted(before.saturating_add(len).next_multiple_of(PAGE))?;
        let from = at.saturating_sub(at % page);
        let mut around = self.session.read_into(from, around).await.map_err(fail)?;
        buffer.push(around.as_mut().get(before..).unwrap_or_default());
        Ok(buffer.freeze())
    }

    async fn write(&self, at: u64, bytes: Bytes) -> Result<()> {
        let (whole, tail) = in_pages(&bytes);
        let after = at.saturating_add(whole.len() as u64);
        if !whole.is_empty() {
            let written = self.session.write(at, whole).await;
            written.map_err(|failure| self.fail("write", failure))?;
        }
        match tail {
            Some(tail) => {
                let written = self.session.write(after, tail).await;
                written.map_err(|failure| self.fail("write", failure))
            }
            None => Ok(()),
        }
    }

    async fn zero(&self, range: Range<u64>) -> Result<()> {
        let range = range.start..range.end.next_multiple_of(PAGE as u64);
        match self.session.write_zeros(range.clone()).await {
            Err(Failure::Sense(sense)) if (sense.key, sense.ascq) == UNKNOWN_COMMAND => {
                write_zeros(self, range).await
            }
            written => written.map_err(|failure| self.fail("write", failure)),
        }
    }

    async fn flush(&self) -> Result<()> {
        self.session.flush().await.map_err(|failure| self.fail("flush", failure))
    }

    async fn close(&self) -> Result<()> {
        match self.session.close().await {
            // It was over before.
            Err(failure) if failure.ends_the_session() => Ok(()),
            closed => closed.map_err(|failure| self.fail("let go of", failure)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(fields: &Value) -> Result<Vec<(String, u16)>> {
        let mut told = json!({"driver_volume_type": "iscsi"});
        told.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let targets = targets(&Connection::read(told)?)?;
        Ok(targets.into_iter().map(|target| (target.portal, target.lun)).collect())
    }

    #[test]
    fn one_way_or_several_are_read() {
        let one = json!({"target_portal": "h:3260", "target_iqn": "iqn.a", "target_lun": 1});
        assert_eq!(told(&one).unwrap(), [("h:3260".to_owned(), 1)]);
        let several = json!({
            "target_portal": "h:1", "target_iqn": "iqn.a", "target_lun": 1,
            "target_portals": ["h:1", "i:1"], "target_iqns": ["iqn.a", "iqn.b"],
            "target_luns": [1, "2"],
        });
        let both = [("h:1".to_owned(), 1), ("i:1".to_owned(), 2)];
        assert_eq!(told(&several).unwrap(), both);
        assert!(told(&json!({"target_portal": "h:1", "target_iqn": "iqn.a"})).is_err());
        assert!(told(&json!({"target_portal": "h:1", "target_lun": 1})).is_err());
    }

    #[test]
    fn what_is_no_whole_page_is_filled_with_zeros() {
        let bytes = Bytes::from(vec![7; PAGE + 5]);
        let (whole, tail) = in_pages(&bytes);
        let tail = tail.unwrap();
        assert_eq!((whole.len(), tail.len()), (PAGE, PAGE));
        assert!(tail[..5].iter().all(|byte| *byte == 7) && tail[5..].iter().all(|byte| *byte == 0));
        assert_eq!(in_pages(&bytes.slice(..PAGE)), (bytes.slice(..PAGE), None));
    }
}
