//! A location from outside: read or refused, and what is read is written the same again, but for secrets,
//! which are masked once and for all.
#![no_main]

use imaged_drivers::{Kind, Location};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match text.parse::<Location>() {
        Ok(at) => {
            let shown = at.to_string();
            let again = shown.parse::<Location>().ok();
            if shown.contains("***") {
                assert_eq!(again.map(|at| at.to_string()), Some(shown));
            } else {
                assert_eq!(again, Some(at), "written as {shown:?}");
            }
        }
        Err(error) => assert_eq!(error.kind(), Kind::Invalid, "{error:?}"),
    }
});
