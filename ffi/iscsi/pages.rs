//! What a disk says of itself, from its pages of vital product data (SPC-4, SBC-3).

use std::fmt;

/// INQUIRY pages.
pub(crate) const SERIAL: u8 = 0x80;
pub(crate) const DESIGNATORS: u8 = 0x83;
pub(crate) const LIMITS: u8 = 0xb0;
pub(crate) const PROVISIONING: u8 = 0xb2;

/// Which disk this is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its names, as page 0x83 has them; those of the disk itself, not of its port or target.
    pub designators: Vec<Designator>,
    /// Its serial number, page 0x80, without blanks around it.
    pub serial: Option<String>,
}

/// A name of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Designator {
    /// A world-wide name, in hexadecimal: what Linux has as `wwn-0x...` and in `scsi-3...`.
    Naa(String),
    /// An EUI-64, in hexadecimal.
    Eui(String),
    /// The maker's name and whatever that one adds.
    T10(String),
    /// A name as iSCSI has them, beginning with `iqn.`, `naa.` or `eui.`.
    Name(String),
    /// Another kind, in hexadecimal.
    Other(u8, String),
}

/// How large a disk is, and what of it need not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// How many blocks it has.
    pub blocks: u64,
    /// Bytes of a block.
    pub block: u32,
    /// LBPME: blocks can be given back to the backend.
    pub thin: bool,
    /// LBPRZ: those that were read as zeros.
    pub zeros: bool,
}

/// What a disk takes in one command. `None` is that it does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Blocks of a read or write.
    pub transfer: Option<u32>,
    /// Blocks of an UNMAP.
    pub unmap: Option<u32>,
    /// Blocks of a WRITE SAME.
    pub same: Option<u64>,
    /// Blocks that it gives back at a time; what is shorter may have no effect.
    pub granularity: Option<u32>,
    /// LBPU: it has UNMAP.
    pub has_unmap: bool,
    /// LBPWS: its WRITE SAME (16) can give blocks back.
    pub same_unmaps: bool,
}

impl Capacity {
    /// All of it, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blocks.saturating_mul(u64::from(self.block))
    }

    /// Of the answer to READ CAPACITY (16).
    pub(crate) fn read(answer: &[u8]) -> Option<Self> {
        let last = u64::from_be_bytes(*answer.first_chunk()?);
        let block = u32::from_be_bytes(*answer.get(8..)?.first_chunk()?);
        let flags = *answer.get(14)?;
        let blocks = last.checked_add(1)?;
        // Larger ones could not be asked for.
        let sound = block.is_power_of_two() && (512..=65536).contains(&block);
        let known = sound && blocks.checked_mul(u64::from(block)).is_some();
        known.then_some(Self { blocks, block, thin: flags & 0x80 != 0, zeros: flags & 0x40 != 0 })
    }
}

impl Limits {
    /// Of pages 0xb0 and 0xb2, where the disk has them.
    pub(crate) fn read(limits: Option<&[u8]>, provisioning: Option<&[u8]>) -> Self {
        let limits = limits.and_then(body).unwrap_or_default();
        let flags = provisioning.and_then(body).and_then(|body| body.get(1)).copied().unwrap_or(0);
        // Offsets are those of the whole page, whose first four bytes are not in its body.
        let u32_at = |at: usize| -> Option<u32> {
            let found = u32::from_be_bytes(*limits.get(at - 4..)?.first_chunk()?);
            (found > 0 && found < u32::MAX).then_some(found)
        };
        let u64_at = |at: usize| -> Option<u64> {
            let found = u64::from_be_bytes(*limits.get(at - 4..)?.first_chunk()?);
            (found > 0 && found < u64::MAX).then_some(found)
        };
        Self {
            transfer: u32_at(8),
            unmap: u32_at(20),
            granularity: u32_at(28),
            same: u64_at(36),
            has_unmap: flags & 0x80 != 0,
            same_unmaps: flags & 0x40 != 0,
        }
    }
}

impl Identity {
    /// Of pages 0x83 and 0x80, where the disk has them.
    pub(crate) fn read(designators: Option<&[u8]>, serial: Option<&[u8]>) -> Self {
        let mut rest = designators.and_then(body).unwrap_or_default();
        let mut designators = Vec::new();
        while let Some((&[code, kind, _, len], more)) = rest.split_first_chunk() {
            let Some((name, next)) = more.split_at_checked(usize::from(len)) else { break };
            // The other associations are of a port and of the target.
            if kind & 0x30 == 0 && name.iter().any(|byte| *byte != 0) {
                designators.push(designator(code & 0xf, kind & 0xf, name));
            }
            rest = next;
        }
        let serial = serial.and_then(body).map(text).filter(|serial| !serial.is_empty());
        Self { designators, serial }
    }

    /// Whether the disk says anything of itself.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.serial.is_some() || !self.designators.is_empty()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for designator in &self.designators {
            write!(f, "{between}{designator}")?;
            between = ", ";
        }
        match &self.serial {
            Some(serial) => write!(f, "{between}serial {serial}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Designator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Naa(name) => write!(f, "naa.{name}"),
            Self::Eui(name) => write!(f, "eui.{name}"),
            Self::T10(name) => write!(f, "t10.{name}"),
            Self::Name(name) => f.write_str(name),
            Self::Other(kind, name) => write!(f, "type {kind}.{name}"),
        }
    }
}

/// What follows the head of a page, as long as the head says or as there is.
fn body(page: &[u8]) -> Option<&[u8]> {
    let (&[_, _, high, low], rest) = page.split_first_chunk()?;
    let len = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
    rest.get(..len)
}

fn designator(code: u8, kind: u8, name: &[u8]) -> Designator {
    let binary = code == 1;
    match kind {
        1 => Designator::T10(text(name)),
        2 if binary => Designator::Eui(hex(name)),
        3 if binary => Designator::Naa(hex(name)),
        8 => Designator::Name(text(name)),
        _ => Designator::Other(kind, hex(name)),
    }
}

/// Printable text without blanks around it. Whoever shows it need not think of what it may hold.
fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.replace(|c: char| c.is_control(), " ").trim().to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(code: u8, body: &[u8]) -> Vec<u8> {
        let mut page = vec![0, code, 0, u8::try_from(body.len()).unwrap()];
        page.extend(body);
        page
    }

    #[test]
    fn an_identity_has_the_names_of_the_disk_alone() {
        let mut names = vec![1, 3, 0, 8, 0x60, 1, 2, 3, 4, 5, 6, 7]; // NAA of the disk
        names.extend([1, 0x13, 0, 2, 9, 9]); // of its port
        names.extend([2, 1, 0, 6]);
        names.extend(b"IET  x");
        names.extend([3, 8, 0, 6]);
        names.extend(b"iqn.a\0");
        names.extend([1, 3, 0, 4, 0, 0, 0, 0]); // says nothing
        let page_83 = page(0x83, &names);
        let identity = Identity::read(Some(&page_83), Some(&page(0x80, b"   beaf11 ")));
        let expected = [
            Designator::Naa("6001020304050607".to_owned()),
            Designator::T10("IET  x".to_owned()),
            Designator::Name("iqn.a".to_owned()),
        ];
        assert_eq!(identity.designators, expected);
        assert_eq!(identity.serial.as_deref(), Some("beaf11"));
        assert_eq!(identity.to_string(), "naa.6001020304050607, t10.IET  x, iqn.a, serial beaf11");
    }

    #[test]
    fn what_is_cut_short_anywhere_is_read_as_far_as_it_goes() {
        let whole = page(0x83, &[1, 3, 0, 4, 1, 2, 3, 4, 2, 1, 0, 3, b'a', b'b', b'c']);
        for len in 0..whole.len() {
            let identity = Identity::read(Some(&whole[..len]), Some(&whole[..len.min(4)]));
            assert_eq!(identity.designators.len(), usize::from(len >= 12), "{len}");
            assert_eq!(identity.is_known(), len >= 12);
            let _limits = Limits::read(Some(&whole[..len]), Some(&whole[..len]));
            assert_eq!(Capacity::read(&vec![0; len.min(11)]), None);
        }
    }

    #[test]
    fn limits_that_are_none_are_none() {
        let mut body = vec![0; 60];
        body[4..8].copy_from_slice(&2048_u32.to_be_bytes()); // offset 8 of the page
        body[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
        let limits = Limits::read(Some(&page(0xb0, &body)), Some(&page(0xb2, &[0, 0xc0, 2, 0])));
        let expected = Limits {
            transfer: Some(2048),
            has_unmap: true,
            same_unmaps: true,
            ..Limits::default()
        };
        assert_eq!(limits, expected);
        assert_eq!(Limits::read(None, None), Limits::default());
    }

    #[test]
    fn a_capacity_that_cannot_be_is_none() {
        let answer = |last: u64, block: u32, flags: u8| {
            let mut answer = last.to_be_bytes().to_vec();
            answer.extend(block.to_be_bytes());
            answer.extend([0, 0, flags, 0]);
            answer.resize(32, 0);
            Capacity::read(&answer)
        };
        let expected = Capacity { blocks: 524_288, block: 512, thin: true, zeros: true };
        assert_eq!(answer(524_287, 512, 0xc0), Some(expected));
        assert_eq!(expected.bytes(), 1 << 28);
        for (last, block) in [(u64::MAX, 512), (u64::MAX - 1, 512), (7, 0), (7, 513), (7, 1 << 20)]
        {
            assert_eq!(answer(last, block, 0), None, "{last} {block}");
        }
    }
}
