//! Files in exports that are mounted here: by an operator, or by glance_store where it looks for them.

use std::path::{Component, Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::{config::Reach, connection::Connection};
use crate::{
    contract::{Error, Kind, Result},
    kit::lane::Lane,
};

/// Where the export of a volume is mounted, or would be.
fn mount(reach: &Reach, export: &str) -> PathBuf {
    match reach.mounts.get(export) {
        Some(path) => path.clone(),
        None => reach.mount_base.join("nfs").join(hashed(export)),
    }
}

/// What glance_store calls the mount of an export.
fn hashed(export: &str) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(export.as_bytes()))
}

/// The file of a volume, in its export.
///
/// # Errors
/// `Unavailable` if the export is not mounted, with the option that says where.
pub(super) async fn path(lane: &Lane, reach: &Reach, connection: &Connection) -> Result<PathBuf> {
    let export = connection.needed("export")?.to_owned();
    let name = connection.needed("name")?;
    let mut parts = Path::new(name).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    if !plain {
        let what = "the volume's file has no name that a file in an export can have";
        return Err(Error::new(Kind::Unavailable, format!("{what}: name=`{name}`")));
    }
    let (dir, name) = (mount(reach, &export), name.to_owned());
    lane.run("look for a volume", move || {
        let path = dir.join(&name);
        match path.symlink_metadata() {
            Ok(found) if found.file_type().is_symlink() => Err(Error::new(
                Kind::Unavailable,
                format!("the volume is a symbolic link, which is not followed: path=`{}`", path.display()),
            )),
            Ok(_) => Ok(path),
            Err(error) => Err(Error::new(
                Kind::Unavailable,
                format!(
                    "the volume is not where its export should be mounted; mount it there, or say where \
                     it is by imaged_cinder_mounts: export=`{export}` path=`{}`",
                    path.display()
                ),
            )
            .because(error)),
        }
    })
    .await
}

/// Whether the volume is where its export should be mounted.
pub(super) async fn is_mounted(
    lane: &Lane,
    reach: &Reach,
    connection: &Connection,
) -> Result<bool> {
    let (export, name) = (connection.needed("export")?, connection.needed("name")?);
    let path = mount(reach, export).join(name);
    lane.run("look for a volume", move || Ok(path.exists())).await
}
