//! A location from outside: read or refused, and what is read is written the same again.
#![no_main]

use imaged_drivers::{Kind, Location};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match text.parse::<Location>() {
        Ok(at) => {
            let shown = at.to_string();
            let again = shown.parse::<Location>();
            assert_eq!(again.ok(), Some(at), "written as {shown:?}");
        }
        Err(error) => assert_eq!(error.kind(), Kind::Invalid, "{error:?}"),
    }
});
