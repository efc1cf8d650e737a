//! oslo.config on the same files.

use std::{collections::BTreeMap, fs};

use imaged::config::ini;

use super::{python, text};

#[test]
fn configuration_files_are_read_as_oslo_config_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let sample = fs::read_to_string("conf/imaged.conf").unwrap();
    for (n, file) in [
        sample.as_str(),
        "[a]\nx = 1\nx = 2\ny: two\n  words\n; note\n# note\n[a]\nz=\n",
        "[s]\npassword = p#a;s$s%s\nquoted = \"a b\"\nsingle = 'a'\nlist = a, b\n",
        "[DEFAULT]\nenabled_backends = fast:rbd, cheap:file\n\n[fast]\nrbd_store_pool=images\n",
        "[long]\nvalue = one\n\ttwo\n    three\nnext = \n",
    ]
    .iter()
    .enumerate()
    {
        let path = dir.path().join(format!("{n}.conf"));
        fs::write(&path, file).unwrap();
        let theirs: BTreeMap<String, BTreeMap<String, Vec<String>>> =
            serde_json::from_value(python("tests/parity/oslo.py", &[text(&path)])).unwrap();
        let ours = ini::raw(file).unwrap_or_else(|faults| panic!("{n}: {faults:?}"));
        assert_eq!(ours, theirs, "{file}");
    }
}
