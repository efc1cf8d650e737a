//! The digests of an image as `Repr-Digest` tells them (RFC 9530): `md5=:BASE64:, sha-512=:BASE64:`.

use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use imaged_drivers::{Digests, Error, Kind, Result};

use crate::digest::Algo;

/// A digest that is told beside an image, or promised of it, in lowercase hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Its algorithm.
    pub algo: Algo,
    /// Its value.
    pub value: String,
}

impl Promise {
    /// Refuses bytes whose digest is `found`, if that is another.
    ///
    /// # Errors
    /// `Mismatch`.
    pub fn holds(&self, found: &str) -> Result<()> {
        if *found == self.value {
            return Ok(());
        }
        Err(Error::new(
            Kind::Mismatch,
            format!(
                "the bytes have another digest than promised: algorithm=`{}` promised=`{}` \
                 found=`{found}`",
                self.algo, self.value
            ),
        ))
    }

    /// Refuses `bytes` that have another digest.
    ///
    /// # Errors
    /// `Mismatch`.
    pub fn holds_of(&self, bytes: &[u8]) -> Result<()> {
        let mut hasher = self.algo.hasher();
        hasher.update(bytes);
        self.holds(&hasher.finish())
    }
}

/// Each member of the field as it is written, and the digest that it tells, unless it cannot be
/// read or its algorithm is not one of ours.
pub fn read(field: &str) -> impl Iterator<Item = (&str, Option<Promise>)> {
    members(field).map(|member| {
        let told = || {
            let (name, value) = member.split_once('=')?;
            told(name, value.strip_prefix(':')?.strip_suffix(':')?)
        };
        (member, told())
    })
}

/// The same of a `Digest`, as it was before (RFC 3230): `MD5=BASE64,SHA-512=BASE64`.
pub fn read_old(field: &str) -> impl Iterator<Item = (&str, Option<Promise>)> {
    members(field).map(|member| {
        let told = member
            .split_once('=')
            .and_then(|(name, value)| told(&name.to_ascii_lowercase(), value));
        (member, told)
    })
}

fn members(field: &str) -> impl Iterator<Item = &str> {
    field.split(',').map(str::trim).filter(|member| !member.is_empty())
}

fn told(name: &str, base64: &str) -> Option<Promise> {
    let algo = Algo::ALL.into_iter().find(|algo| algo.field_name() == Some(name))?;
    let bytes = BASE64.decode(base64.as_bytes()).ok().filter(|bytes| !bytes.is_empty())?;
    Some(Promise { algo, value: HEXLOWER.encode(&bytes) })
}

/// The digest that a `Content-MD5` tells.
pub fn read_md5(field: &str) -> Option<Promise> {
    let bytes = BASE64.decode(field.as_bytes()).ok().filter(|bytes| bytes.len() == 16)?;
    Some(Promise { algo: Algo::Md5, value: HEXLOWER.encode(&bytes) })
}

/// The field that tells `digests`, as far as their algorithms have a name in it.
#[must_use]
pub fn write(digests: &Digests) -> String {
    let mut members = Vec::new();
    let md5 = digests.checksum.iter().map(|md5| ("md5", md5));
    for (algo, value) in md5.chain([(digests.hash_algo.as_str(), &digests.hash_value)]) {
        let name = algo.parse::<Algo>().ok().and_then(Algo::field_name);
        if let (Some(name), Ok(bytes)) = (name, HEXLOWER_PERMISSIVE.decode(value.as_bytes())) {
            let member = format!("{name}=:{}:", BASE64.encode(&bytes));
            if !members.contains(&member) {
                members.push(member);
            }
        }
    }
    members.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let digests = |algo: Algo| Digests {
            checksum: Some("900150983cd24fb0d6963f7d28e17f72".into()),
            hash_algo: algo.name().into(),
            hash_value: "A9993E36".into(),
        };
        let found =
            |algo| read(&write(&digests(algo))).map(|(_, promise)| promise).collect::<Vec<_>>();
        let promise = |algo, value: &str| Some(Promise { algo, value: value.to_owned() });
        let md5 = promise(Algo::Md5, "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(found(Algo::Sha512), [md5.clone(), promise(Algo::Sha512, "a9993e36")]);
        assert_eq!(found(Algo::Blake2b), [md5], "an algorithm without a name there is left out");
        let without = Digests { checksum: None, ..digests(Algo::Sha512) };
        assert_eq!(read(&write(&without)).count(), 1, "no md5 is told where there is none");
        let md5 = digests(Algo::Md5).checksum.unwrap();
        let same = Digests { hash_value: md5, ..digests(Algo::Md5) };
        assert_eq!(read(&write(&same)).count(), 1, "md5 is given once");
    }

    #[test]
    fn each_member_is_told_with_what_it_says() {
        let field = "md5=:kAFQmDzST7DWlj99KOF/cg==:, crc32=:AAAA:,,\tsha-256=AAAA , sha-512=:QQ=:";
        let found: Vec<_> = read(field).map(|(text, promise)| (text, promise.is_some())).collect();
        assert_eq!(
            found,
            [
                ("md5=:kAFQmDzST7DWlj99KOF/cg==:", true),
                ("crc32=:AAAA:", false),
                ("sha-256=AAAA", false),
                ("sha-512=:QQ=:", false)
            ]
        );
        for bad in ["", " , ", "md5", "md5=", "md5=:", "md5=::", "md5=:QR==:", "MD5=:QQ==:"] {
            assert!(read(bad).all(|(_, promise)| promise.is_none()), "{bad:?}");
        }
        let old = "MD5=kAFQmDzST7DWlj99KOF/cg==, sha-512=QQ==,unixsum=30637,md5=:QQ==:";
        let found: Vec<_> = read_old(old).map(|(_, promise)| promise.is_some()).collect();
        assert_eq!(found, [true, true, false, false]);
    }
}
