//! An image as extents, in pieces of any length: it is read to the end that was told, or refused, and as
//! much comes of it in whatever pieces it comes. The same of the records of one that comes through memory.
#![no_main]

use std::ops::Range;

use imaged::wire::{
    extents::{Decoder, Malformed},
    memory,
};
use imaged_drivers::Extent;
use libfuzzer_sys::fuzz_target;

/// How far a body is read, whether its end came, and how many of the bytes were no hole.
fn read(body: &[u8], range: &Range<u64>, piece: usize) -> Result<(u64, bool, usize), Malformed> {
    let mut decoder = Decoder::new(range.clone());
    let (mut at, mut data) = (range.start, 0);
    for piece in body.chunks(piece) {
        let mut came = piece.to_vec().into();
        while let Some(extent) = decoder.next(&mut came)? {
            at += match extent {
                Extent::Data(bytes) => {
                    assert!(!bytes.is_empty());
                    data += bytes.len();
                    bytes.len() as u64
                }
                Extent::Hole(len) => {
                    assert!(len > 0);
                    len
                }
            };
            assert!(at <= range.end);
        }
        assert!(came.is_empty());
    }
    assert!(!decoder.is_over() || at == range.end);
    assert!(data <= body.len());
    Ok((at, decoder.is_over(), data))
}

/// How far records tell of bytes in memory, and whether their end came.
fn told(body: &[u8], range: &Range<u64>, piece: usize) -> Result<(u64, bool), Malformed> {
    let (mut decoder, mut at) = (memory::Decoder::new(range.clone()), range.start);
    for piece in body.chunks(piece) {
        let mut came = piece.to_vec().into();
        while let Some(told) = decoder.next(&mut came)? {
            at += told.hole;
            if let Some((start, len)) = told.bytes {
                assert!(len > 0 && memory::slot(start) == memory::slot(start + len - 1));
                assert!(memory::slot(start) < memory::SLOTS);
                at += len as u64;
            }
            assert!(at <= range.end);
        }
        assert!(came.is_empty());
    }
    assert!(!decoder.is_over() || at == range.end);
    Ok((at, decoder.is_over()))
}

fuzz_target!(|input: (u64, u64, u8, &[u8])| {
    let (one, other, piece, body) = input;
    let range = one.min(other)..one.max(other);
    let whole = read(body, &range, body.len().max(1));
    assert_eq!(read(body, &range, usize::from(piece).max(1)), whole);
    let whole = told(body, &range, body.len().max(1));
    assert_eq!(told(body, &range, usize::from(piece).max(1)), whole);
});
