//! Writes the test of the declarations, and compares their types at once.

mod types;

use std::{env, fs, path::Path, path::PathBuf, process::Command};

const CEPH: [&str; 2] = ["rbd/librbd.h", "rados/librados.h"];
const ISCSI: [&str; 2] = ["iscsi/iscsi.h", "iscsi/scsi-lowlevel.h"];

fn main() {
    for path in ["types.rs", "build.rs"] {
        println!("cargo::rerun-if-changed={path}");
    }
    for header in CEPH.iter().chain(&ISCSI) {
        println!("cargo::rerun-if-changed={}", Path::new("/usr/include").join(header).display());
    }
    ceph();
    iscsi();
}

fn ceph() {
    let ffi = Path::new("../../ffi/ceph");
    let sys = ffi.join("sys.rs");
    let rados = ceph_source().join("src/rados.rs");
    for path in [ffi, &rados] {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    let ours = types::Declared::read(&sys);
    let theirs = types::Declared::read(&rados);
    let called = types::called_of("rados", ffi);
    assert!(!called.is_empty(), "nothing of `ceph::rados` is called in {}", ffi.display());
    compile("ceph", &CEPH, &(ours.checks(None) + &theirs.checks(Some(&called))));

    let mut test = ctest::TestGenerator::new();
    for header in CEPH {
        test.header(header);
    }
    // librados has plain structures, librbd types.
    test.edition(2024).rename_struct_ty(|name| name.starts_with("rbd_").then(|| name.to_owned()));
    ctest::generate_test(&mut test, &sys, "abi.rs").expect("the declarations can be tested");
}

fn iscsi() {
    let sys = Path::new("../../ffi/iscsi/sys.rs");
    println!("cargo::rerun-if-changed={}", sys.display());
    compile("iscsi", &ISCSI, &types::Declared::read(sys).checks(None));

    let mut test = ctest::TestGenerator::new();
    for header in ISCSI {
        test.header(header);
    }
    // What C alone knows has no size. Not `iscsi.rs`: it would be linked in the place of libiscsi.
    test.edition(2024)
        .skip_struct(|item| ["iscsi_context", "scsi_allocated_memory"].contains(&item.ident()))
        .skip_struct_field(|_, field| field.ident().starts_with('_'));
    ctest::generate_test(&mut test, sys, "iscsi_abi.rs").expect("the declarations can be tested");
}

/// Has the C compiler look at assertions.
fn compile(name: &str, headers: &[&str], checks: &str) {
    let mut text = "#include <stdbool.h>\n#include <stddef.h>\n#include <stdint.h>\n".to_owned();
    for header in headers {
        text += &format!("#include <{header}>\n");
    }
    text += checks;
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let file = out.join(format!("{name}-types.c"));
    fs::write(&file, text).expect("the output directory takes files");
    // Not by cc's own `compile`, which would bury what the compiler says.
    let compiler = cc::Build::new().get_compiler();
    let mut command = compiler.to_command();
    command.arg("-Wno-deprecated-declarations").arg("-fsyntax-only").arg(&file);
    let said = command.output().expect("there is a C compiler");
    let errors = String::from_utf8_lossy(&said.stderr);
    let asserted: Vec<_> = errors.lines().filter(|line| line.contains("error: ")).collect();
    assert!(
        said.status.success(),
        "{name}: declarations differ from C's:\n{}",
        asserted.join("\n")
    );
}

/// Where cargo keeps the source of the `ceph` crate that is linked.
fn ceph_source() -> PathBuf {
    let cargo = env::var_os("CARGO").expect("cargo sets it");
    let mut metadata = Command::new(cargo);
    metadata.args(["metadata", "--format-version", "1", "--offline"]);
    let said = metadata.output().expect("cargo runs");
    let said = String::from_utf8(said.stdout).expect("metadata is UTF-8");
    // Of the paths of all manifests, the one of this package.
    let manifest = said
        .split(r#""manifest_path":""#)
        .filter_map(|rest| rest.split_once('"'))
        .map(|(path, _)| Path::new(path))
        .filter_map(Path::parent)
        .find(|dir| {
            let name = dir.file_name().unwrap_or_default().to_string_lossy();
            name.strip_prefix("ceph-").is_some_and(|rest| rest.starts_with(char::is_numeric))
        });
    manifest.expect("the `ceph` crate is a dependency").to_owned()
}
