//! A configuration file: read or refused, and a refusal says something.
#![no_main]

use imaged::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(problems) = Config::parse(text, "fuzz.conf") {
        assert!(!problems.is_empty());
        assert!(problems.iter().all(|problem| !problem.to_string().contains('\n')));
    }
});
