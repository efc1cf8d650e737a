//! The instructions that digests use: a daemon says which, and its digests are the same by all of them.

use std::{fs, process::Command};

use imaged_digest::Kernel;

use crate::harness::daemon::{Daemon, STORES, noise};

/// The digest of a file, by a program of the system's.
fn judged(program: &str, path: &std::path::Path) -> String {
    let output = Command::new(program).arg(path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.split(' ').next().unwrap().to_owned()
}

#[test]
fn a_daemon_uses_the_kernel_that_it_is_told_to_and_says_so() {
    // With zeros at its end, as most images have.
    let mut image = noise((5 << 20) + 77, 8);
    image.resize(9 << 20, 0);
    let kernels = Kernel::all();
    let names = kernels.iter().map(|kernel| kernel.name()).chain(["auto"]);
    // On one thread both digests are computed in one pass, where the kernel has that.
    for (name, threads) in names.flat_map(|name| [(name, 1), (name, 2)]) {
        let options = format!("digest_kernel = {name}\ndigest_threads = {threads}\n");
        let daemon = Daemon::start(&format!("{STORES}[imaged]\n{options}"));
        let used = if name == "auto" { Kernel::best().name() } else { name };
        daemon.wait_for_log(&format!("digest_kernel=\"{used}\""));
        let path = daemon.path("judged");
        fs::write(&path, &image).unwrap();
        let receipt = daemon.put("fast", "x", &image).json();
        assert_eq!(receipt["checksum"], judged("md5sum", &path), "{name}, {threads}");
        assert_eq!(receipt["hash_value"], judged("sha512sum", &path), "{name}, {threads}");
    }
}
