//! Volumes of a Cinder in this process: sparse files in a directory of the test.

use imaged_drivers::ImageId;
use tempfile::TempDir;

use crate::harness::cinder::{Cinder, TYPE};

/// Such a Cinder.
pub(crate) struct Volumes {
    pub(crate) cinder: Cinder,
    folder: TempDir,
}

impl Volumes {
    /// The files are in an export that is mounted.
    pub(crate) fn in_export() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { cinder: Cinder::nfs(folder.path()), folder }
    }

    /// Cinder shows where they are.
    pub(crate) fn local() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { cinder: Cinder::local(folder.path()), folder }
    }

    /// The options of a store in them.
    pub(crate) fn options(&self) -> String {
        let (login, folder) = (self.cinder.login(), self.folder.path().display());
        format!(
            "{login}cinder_volume_type = {TYPE}\nimaged_cinder_mounts = 127.0.0.1:/exports/rig={folder}\n"
        )
    }

    /// What is there beside the volumes of these images.
    pub(crate) fn left(&self, beside: &[&ImageId]) -> Vec<String> {
        let volume =
            |id: &&ImageId| self.cinder.volume(&format!("image-{id}")).map(|found| found.id);
        let ids: Vec<_> = beside.iter().filter_map(volume).collect();
        self.cinder.left(&ids.iter().map(String::as_str).collect::<Vec<_>>())
    }
}
