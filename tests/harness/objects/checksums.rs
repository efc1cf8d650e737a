//! Bodies as Amazon's clients send them: in signed chunks, with checksums before or behind them.

use data_encoding::BASE64;
use sha2::{Digest as _, Sha256};

use super::s3::error;
use crate::harness::service::{Answer, Blob, Head, hex};

/// What a client says of a body, by names in small letters.
type Said = Vec<(String, String)>;

/// The bytes of a body, and the checksums that came with it, if all that is said of it is true.
pub(super) fn unwrapped(head: &Head, body: Blob) -> Result<(Blob, Said), Answer> {
    let told = head.header("x-amz-content-sha256").unwrap_or_default().to_owned();
    let said = head.beginning(&["x-amz-checksum-"]).into_iter();
    let mut said: Said = said.filter(|(name, _)| sum(name).is_some()).collect();
    let body = if told.starts_with("STREAMING-") {
        let (body, trailers) = without_chunks(&body)
            .ok_or_else(|| error(400, "IncompleteBody", "the chunks do not fit together"))?;
        let length = head.header("x-amz-decoded-content-length");
        if length != Some(&body.len().to_string()) {
            return Err(error(400, "IncompleteBody", "it has another length"));
        }
        said.extend(trailers);
        body
    } else {
        if told.len() == 64 {
            let mut sha256 = Sha256::new();
            body.0.iter().for_each(|piece| sha256.update(piece));
            if hex(&sha256.finalize()) != told {
                let message = "what was signed is not what came";
                return Err(error(400, "XAmzContentSHA256Mismatch", message));
            }
        }
        body
    };
    if let Some(md5) = head.header("content-md5")
        && md5 != BASE64.encode(&body.md5())
    {
        return Err(error(400, "BadDigest", "it has another MD5"));
    }
    for (name, value) in &said {
        let Some(sum) = sum(name) else { continue };
        if *value != sum(&body) {
            return Err(error(400, "BadDigest", &format!("it has another {name}")));
        }
    }
    Ok((body, said))
}

/// The body that is in chunks, and the lines that follow them.
fn without_chunks(body: &Blob) -> Option<(Blob, Said)> {
    let whole = bytes::Bytes::from(body.0.concat());
    let mut pieces = Vec::new();
    let mut at = 0;
    let line = |at: usize| {
        let rest = whole.get(at..)?;
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        Some((String::from_utf8_lossy(rest.get(..end)?).into_owned(), at + end + 2))
    };
    loop {
        let (size, from) = line(at)?;
        let size = size.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).ok()?;
        at = from;
        if size == 0 {
            break;
        }
        whole.get(at..at + size)?;
        pieces.push(whole.slice(at..at + size));
        at += size + 2;
    }
    let mut trailers = Vec::new();
    while let Some((text, next)) = line(at) {
        if let Some((name, value)) = text.split_once(':') {
            trailers.push((name.trim().to_lowercase(), value.trim().to_owned()));
        }
        at = next;
    }
    Some((Blob(pieces), trailers))
}

/// How the checksum of this header is computed.
fn sum(name: &str) -> Option<fn(&Blob) -> String> {
    match name.strip_prefix("x-amz-checksum-")? {
        "crc32" => Some(|body| {
            let sum = crc(body, 0xEDB8_8320, 32);
            BASE64.encode(sum.to_be_bytes().get(4..).unwrap())
        }),
        "crc32c" => Some(|body| {
            let sum = crc(body, 0x82F6_3B78, 32);
            BASE64.encode(sum.to_be_bytes().get(4..).unwrap())
        }),
        "crc64nvme" => {
            Some(|body| BASE64.encode(&crc(body, 0x9A6C_9329_AC4B_C9B5, 64).to_be_bytes()))
        }
        "sha256" => Some(|body| {
            let mut sha256 = Sha256::new();
            body.0.iter().for_each(|piece| sha256.update(piece));
            BASE64.encode(&sha256.finalize())
        }),
        _ => None,
    }
}

/// A CRC of this width, by its polynomial in reversed order of bits.
fn crc(body: &Blob, polynomial: u64, bits: u32) -> u64 {
    let ones = u64::MAX >> (64 - bits);
    let table: Vec<u64> = (0..256_u64)
        .map(|byte| {
            (0..8).fold(byte, |sum, _| (sum >> 1) ^ if sum & 1 == 1 { polynomial } else { 0 })
        })
        .collect();
    let mut sum = ones;
    for byte in body.0.iter().flatten() {
        let low = usize::try_from((sum ^ u64::from(*byte)) & 0xFF).unwrap();
        sum = (sum >> 8) ^ table[low];
    }
    sum ^ ones
}

#[test]
fn the_checksums_are_those_of_the_catalogue() {
    let check = Blob::from("123456789".to_owned());
    assert_eq!(crc(&check, 0xEDB8_8320, 32), 0xCBF4_3926);
    assert_eq!(crc(&check, 0x82F6_3B78, 32), 0xE306_9283);
    assert_eq!(crc(&check, 0x9A6C_9329_AC4B_C9B5, 64), 0xAE8B_1486_0A79_9888);
}

#[test]
fn a_body_in_chunks_is_what_is_in_them() {
    let text = "3;chunk-signature=0\r\nabc\r\n2\r\nde\r\n0\r\nx-amz-checksum-crc32:abc=\r\n\r\n";
    let (body, said) = without_chunks(&Blob::from(text.to_owned())).unwrap();
    assert_eq!(body.text(), "abcde");
    assert_eq!(said, [("x-amz-checksum-crc32".to_owned(), "abc=".to_owned())]);
    assert!(without_chunks(&Blob::from("9\r\nabc".to_owned())).is_none());
}
