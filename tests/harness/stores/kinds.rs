//! The kinds of stores that have to keep the contract: each is a line of `every_store!` in the suite.

use std::{fs, path::PathBuf, sync::Arc};

use imaged_drivers::Caps;
use tempfile::TempDir;

use super::{
    Fixture, Lasting, Modest,
    buckets::Bucket,
    ceph::{self, Ceph},
    plain::Plain,
    project::Project,
    swift::{Server, Swift},
    volumes::Volumes,
    web::Web,
};
use crate::harness::objects::{BUCKET, Objects, SECRET, USER};

/// A store in memory.
pub(crate) async fn mem() -> Fixture {
    Fixture::new("mem", &[], "", None, tempfile::tempdir().unwrap()).await
}

/// Stores in memory whose driver can do less, each as callers meet them.
macro_rules! modest {
    ($($(#[$doc:meta])* $name:ident: $($lacks:ident)*;)*) => {$(
        $(#[$doc])*
        pub(crate) async fn $name() -> Fixture {
            less(|all| Caps { $($lacks: false,)* ..all }).await
        }
    )*};
}

modest! {
    /// As an object store without server-side copies.
    mem_that_cannot_copy: copy;
    /// As one that keeps what it is given: callers delete nothing.
    mem_that_cannot_delete: delete;
    /// As one whose index cannot be asked for.
    mem_that_cannot_list: list;
    /// As one that gives only whole images.
    mem_that_cannot_seek: seek;
    /// As a server that others fill.
    mem_that_only_reads: write delete list copy;
    /// As one that others fill and that gives whole images only.
    mem_that_gives_whole_images_only: write delete seek list copy;
}

async fn less(caps: fn(Caps) -> Caps) -> Fixture {
    let modest = Arc::new(move |inner: Arc<dyn imaged_drivers::Driver>| {
        let caps = caps(inner.caps());
        Arc::new(Modest { inner, caps }) as Arc<dyn imaged_drivers::Driver>
    });
    Fixture::wrapped("mem", &[], "", None, tempfile::tempdir().unwrap(), modest).await
}

/// A store in a pool of a real cluster.
pub(crate) async fn rbd() -> Fixture {
    in_ceph("").await
}

/// The same, which writes zeros as zeros, into objects of 1 MiB.
pub(crate) async fn rbd_thick() -> Fixture {
    in_ceph("rbd_thin_provisioning = false\nrbd_store_chunk_size = 1\n").await
}

async fn in_ceph(more: &str) -> Fixture {
    let ceph = Ceph::up();
    let options = ceph.options() + more;
    let home = tempfile::tempdir().unwrap();
    let fixture = Fixture::new("rbd", &[], &options, None, home).await;
    let lasting = if ceph::IN_THIS_PROCESS { Lasting::InThisProcess } else { Lasting::Lasts };
    Fixture { ceph: Some(ceph), lasting, ..fixture }
}

/// A store in a bucket of SeaweedFS, which heeds the conditions of its writes.
pub(crate) async fn s3_seaweed() -> Fixture {
    in_bucket(Bucket::seaweed().await).await
}

/// A store in a bucket of Ceph's gateway, which ignores some.
pub(crate) async fn s3_radosgw() -> Fixture {
    in_bucket(Bucket::radosgw().await).await
}

/// A store in a bucket of a server in this process, which keeps all that S3 promises.
pub(crate) async fn s3() -> Fixture {
    in_memory(Objects::s3(), "").await
}

/// The same, which sends every image in parts.
pub(crate) async fn s3_in_parts() -> Fixture {
    in_memory(Objects::s3(), IN_PARTS).await
}

/// The same of a server that judges no condition when an upload is completed, and does not say what it has
/// made.
pub(crate) async fn s3_without_conditions() -> Fixture {
    let objects = Objects::s3();
    objects.like_radosgw();
    in_memory(objects, IN_PARTS).await
}

/// Nothing in one piece, and the smallest parts that there may be.
pub(crate) const IN_PARTS: &str =
    "s3_store_large_object_size = 0\ns3_store_large_object_chunk_size = 5\n";

/// A store of type s3 in a server in this process, with more options.
pub(crate) async fn in_memory(objects: Objects, more: &str) -> Fixture {
    let options = format!(
        "s3_store_host = {}\ns3_store_bucket = {BUCKET}\ns3_store_access_key = {USER}\n\
         s3_store_secret_key = {SECRET}\ns3_store_region_name = us-east-1\n{more}",
        objects.url()
    );
    let fixture = Fixture::new("s3", &[], &options, None, tempfile::tempdir().unwrap()).await;
    Fixture { objects: Some(objects), ..fixture }
}

async fn in_bucket(bucket: Bucket) -> Fixture {
    let home = tempfile::tempdir().unwrap();
    let fixture = Fixture::new("s3", &[], &bucket.options(), None, home).await;
    Fixture { bucket: Some(bucket), ..fixture }
}

/// A store of what a small server on this machine has.
pub(crate) async fn http() -> Fixture {
    on_the_web(Web::here().await).await
}

/// The same of nginx.
pub(crate) async fn http_nginx() -> Fixture {
    on_the_web(Web::in_nginx()).await
}

async fn on_the_web(web: Web) -> Fixture {
    let home = tempfile::tempdir().unwrap();
    let fixture = Fixture::new("http", &[], &web.options(), None, home).await;
    Fixture { web: Some(web), ..fixture }
}

/// A store of volumes that are files in a mounted export, of a Cinder in this process.
pub(crate) async fn cinder() -> Fixture {
    in_volumes(Volumes::in_export(), "").await
}

/// The same of files that Cinder shows where they are, whose backend grows what is attached.
pub(crate) async fn cinder_local() -> Fixture {
    in_volumes(Volumes::local(), "cinder_do_extend_attached = true\n").await
}

async fn in_volumes(volumes: Volumes, more: &str) -> Fixture {
    let options = volumes.options() + more;
    let fixture = Fixture::new("cinder", &[], &options, None, tempfile::tempdir().unwrap()).await;
    Fixture { volumes: Some(volumes), ..fixture }
}

/// A store of volumes in a project of a real Cinder, with more options.
pub(crate) async fn in_project(project: Project, more: &str) -> Fixture {
    let options = project.options() + more;
    let fixture = Fixture::new("cinder", &[], &options, None, tempfile::tempdir().unwrap()).await;
    Fixture { project: Some(project), ..fixture }
}

/// A store in a container of OpenStack's Swift.
pub(crate) async fn swift() -> Fixture {
    in_swift(Server::OpenStack, "").await
}

/// The same, in which images are made of segments of 1,024,000 bytes.
pub(crate) async fn swift_in_segments() -> Fixture {
    in_swift(Server::OpenStack, SEGMENTS).await
}

/// The same, in which a list tells the segments.
pub(crate) async fn swift_by_lists() -> Fixture {
    let options = format!("{SEGMENTS}imaged_swift_large_object = slo\n");
    in_swift(Server::OpenStack, &options).await
}

/// A store in a container of Ceph's gateway, in which images are made of segments.
pub(crate) async fn swift_of_ceph() -> Fixture {
    in_swift(Server::Gateway, SEGMENTS).await
}

const SEGMENTS: &str =
    "swift_store_large_object_size = 1\nswift_store_large_object_chunk_size = 1\n";

async fn in_swift(server: Server, more: &str) -> Fixture {
    let swift = Swift::up(server);
    let options = swift.options() + more;
    let fixture = Fixture::new("swift", &[], &options, None, tempfile::tempdir().unwrap()).await;
    Fixture { swift: Some(swift), ..fixture }
}

/// A store in one directory.
pub(crate) async fn file() -> Fixture {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("images");
    fs::create_dir(&dir).unwrap();
    Fixture::new("file", &[(dir, 0)], "", None, home).await
}

/// A store in one directory that writes zeros as zeros, and everything past the page cache.
pub(crate) async fn file_thick() -> Fixture {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("images");
    fs::create_dir(&dir).unwrap();
    Fixture::new("file", &[(dir, 0)], THICK, None, home).await
}

const THICK: &str = "filesystem_thin_provisioning = false\nimaged_page_cache = never\n";

/// A store in two directories of one filesystem, of which the second is filled first, past the page
/// cache.
pub(crate) async fn file_two_dirs() -> Fixture {
    let home = tempfile::tempdir().unwrap();
    let dirs = two(&home);
    Fixture::new("file", &dirs, "imaged_page_cache = never\n", None, home).await
}

/// A store in two directories: the second is filled first, and is a filesystem of 256 MiB without
/// unnamed files. What is larger goes into the first.
pub(crate) async fn file_two_filesystems() -> Fixture {
    let home = tempfile::tempdir().unwrap();
    let dirs = two(&home);
    let plain = Plain::mount(&dirs[1].0, "links");
    Fixture::new("file", &dirs, "", Some(plain), home).await
}

fn two(home: &TempDir) -> [(PathBuf, u32); 2] {
    let dirs = [(home.path().join("first"), 1), (home.path().join("second"), 2)];
    for (dir, _) in &dirs {
        fs::create_dir(dir).unwrap();
    }
    dirs
}

/// A store on a filesystem without unnamed files: they are staged, and get their name by a link.
pub(crate) async fn file_staged() -> Fixture {
    plain("links", "").await
}

/// A store on a filesystem with unnamed files that knows what it has made last.
pub(crate) async fn file_unnamed() -> Fixture {
    plain("unnamed", "").await
}

/// A store on a filesystem without links too: staged files are renamed.
pub(crate) async fn file_renamed() -> Fixture {
    plain("no-links", "").await
}

/// A store on a filesystem of this kind, with more options.
pub(crate) async fn plain(kind: &str, more: &str) -> Fixture {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("images");
    fs::create_dir(&dir).unwrap();
    let plain = Plain::mount(&dir, kind);
    Fixture::new("file", &[(dir, 0)], more, Some(plain), home).await
}
