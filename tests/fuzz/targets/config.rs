//! A configuration file: read or refused, and a refusal says something.
#![no_main]

use imaged::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(found) = Config::parse(text, "fuzz.conf") {
        assert!(!found.problems.is_empty());
        assert!(found.problems.iter().all(|problem| !problem.to_string().contains('\n')));
    }
});
