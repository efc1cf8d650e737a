//! The first line of a request, `METHOD PATH?QUERY`: it has a route, or a refusal that is not
//! blamed on the daemon.
#![no_main]

use imaged_drivers::Kind;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &str| {
    let Some((method, target)) = line.split_once(' ') else { return };
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let Ok(method) = method.parse() else { return };
    if let Err(error) = imaged::api::route::route(&method, path, query) {
        assert_ne!(error.kind(), Kind::Internal, "{error:?}");
    }
});
