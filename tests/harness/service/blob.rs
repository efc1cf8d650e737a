//! Bytes of requests and answers.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use data_encoding::HEXLOWER;
use imaged_digest::{Md5, Stream};

/// Bytes in pieces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Blob(pub(crate) Vec<Bytes>);

impl Blob {
    pub(crate) fn len(&self) -> u64 {
        self.0.iter().map(|piece| piece.len() as u64).sum()
    }

    pub(crate) fn slice(&self, range: Range<u64>) -> Self {
        let mut at = 0;
        let mut pieces = Vec::new();
        for piece in &self.0 {
            let end = at + piece.len() as u64;
            let (from, to) = (range.start.max(at), range.end.min(end));
            if from < to {
                let within = |offset: u64| usize::try_from(offset - at).unwrap();
                pieces.push(piece.slice(within(from)..within(to)));
            }
            at = end;
        }
        Self(pieces)
    }

    /// With another byte in its middle.
    pub(crate) fn with_a_wrong_byte(&self) -> Self {
        let mut whole = BytesMut::new();
        self.0.iter().for_each(|piece| whole.extend_from_slice(piece));
        let middle = whole.len() / 2;
        if let Some(byte) = whole.get_mut(middle) {
            *byte ^= 0x20;
        }
        Self(vec![whole.freeze()])
    }

    pub(crate) fn md5(&self) -> Vec<u8> {
        let mut md5 = Stream::<Md5>::default();
        self.0.iter().for_each(|piece| md5.update(piece));
        md5.finish()
    }

    pub(crate) fn text(&self) -> String {
        let whole: Vec<u8> = self.0.iter().flatten().copied().collect();
        String::from_utf8_lossy(&whole).into_owned()
    }
}

impl From<Bytes> for Blob {
    fn from(bytes: Bytes) -> Self {
        Self(vec![bytes])
    }
}

impl From<String> for Blob {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

pub(crate) fn md5_of(text: &[u8]) -> Vec<u8> {
    Blob::from(Bytes::copy_from_slice(text)).md5()
}
