//! A `Range` header: read or refused, and what is read stays within an image of any size.
#![no_main]

use imaged::wire::range;
use imaged_drivers::Kind;
use libfuzzer_sys::fuzz_target;

const SIZES: [u64; 5] = [0, 1, 7, 1 << 40, u64::MAX];

fuzz_target!(|text: &str| {
    let span = match range::read(text) {
        Ok(span) => span,
        Err(error) => return assert_eq!(error.kind(), Kind::Invalid, "{error:?}"),
    };
    for size in SIZES {
        match span.of(size) {
            Ok(range) => assert!(range.start <= range.end && range.end <= size, "{range:?}"),
            Err(error) => assert_eq!(error.kind(), Kind::Range, "{error:?}"),
        }
    }
});
