//! Volumes of a real Cinder over each kind of back end: written, read, grown, cloned and removed by the daemon's own
//! ways to them.

use bytes::Bytes;
use imaged::digest::Algo;
use imaged_drivers::{Driver, Hold, Location, Span, Volume, window};

use crate::harness::stores::{
    Fixture, Held, aligned_chunks, assert_reads,
    content::{Look, digests, image},
    delete_when_free, in_project,
    project::Project,
    read, soon,
};

/// Puts an image of these chunks through the driver alone.
async fn put(driver: &dyn Driver, held: &Held, size: Option<u64>, chunks: &[Bytes]) -> Location {
    let mut upload = held.create(driver, size).await.unwrap();
    let at = upload.at().clone();
    for chunk in chunks {
        upload.write(chunk.clone()).await.unwrap();
    }
    upload.commit(&digests(b"", Algo::Sha256)).await.unwrap();
    at
}

/// What is there beside nothing.
async fn assert_nothing_is_left(f: &Fixture, what: &str) {
    assert_eq!(f.left(&[]).await, [""; 0], "{what}");
}

/// An image with data, zeros in its middle and no whole page at its end.
async fn an_image_comes_and_goes(f: &Fixture) {
    let id = f.id();
    let mut bytes = image(Look::Random, 3 * window::CHUNK, 21).to_vec();
    bytes.extend_from_slice(&vec![0; 5 * window::CHUNK]);
    bytes.extend_from_slice(&image(Look::Random, 100_001, 22));
    let bytes = Bytes::from(bytes);
    let size = Some(bytes.len() as u64);
    let at = put(&*f.driver, &Held::new(&id), size, &aligned_chunks(&bytes)).await;
    assert_reads(&*f.driver, &at, &bytes, "as it was written").await;
    let span = Span::Part(4_000_001, 4_700_003);
    assert_eq!(read(&*f.driver, &at, span).await.unwrap(), bytes.slice(4_000_001..4_700_003));
    assert_eq!(read(&*f.driver, &at, Span::Last(3)).await.unwrap(), bytes.slice(bytes.len() - 3..));
    assert_eq!(f.driver.locate(&id).await.unwrap(), at);
    delete_when_free(&*f.driver, &at).await;
    assert_nothing_is_left(f, "after an image").await;
}

/// An image of unknown size that outgrows its first volume.
async fn an_image_grows(f: &Fixture) {
    let first = image(Look::Random, window::CHUNK, 23);
    let last = image(Look::Random, 4097, 24);
    let zeros = (1 << 30) / window::CHUNK;
    let chunks: Vec<_> = std::iter::once(first.clone())
        .chain(std::iter::repeat_n(window::zeros(window::CHUNK), zeros))
        .chain([last.clone()])
        .collect();
    let at = put(&*f.driver, &Held::new(&f.id()), None, &chunks).await;
    let size = ((zeros + 1) * window::CHUNK + last.len()) as u64;
    assert_eq!(f.driver.stat(&at).await.unwrap().size, size);
    let part = async |span| read(&*f.driver, &at, span).await.unwrap();
    assert_eq!(part(Span::Part(0, window::CHUNK as u64)).await, first);
    assert_eq!(part(Span::Part(1 << 29, (1 << 29) + 8)).await, [0; 8].as_slice());
    assert_eq!(part(Span::Last(last.len() as u64)).await, last);
    delete_when_free(&*f.driver, &at).await;
    assert_nothing_is_left(f, "after an image that grew").await;
}

/// A clone of an image, and one of a volume, whose sources go first.
async fn clones_outlive_their_source(f: &Fixture) {
    let bytes = image(Look::Random, 2 * window::CHUNK + 5, 25);
    let size = Some(bytes.len() as u64);
    let at = put(&*f.driver, &Held::new(&f.id()), size, &aligned_chunks(&bytes)).await;
    let reader = f.driver.open(&at, Span::All, crate::harness::stores::window(window::CHUNK));
    let source = reader.await.unwrap().source();
    let (copy, seal) = (Held::new(&f.id()), Held::new(&f.id()));
    let copies = f.driver.copies().unwrap();
    let copied = copies.copy(source, &copy.claim).await.unwrap().unwrap();
    let Location::Cinder(named) = &at else { panic!("{at}") };
    let volume = Volume::Cinder(named.image().parse().unwrap());
    let volumes = f.driver.volumes().unwrap();
    let sealed = volumes.seal(&volume, &seal.claim).await.unwrap();
    let made = Held::new(&f.id());
    let image = copies.copy(sealed, &made.claim).await.unwrap().unwrap();
    volumes.unseal(&volume, &seal.claim).await.unwrap();
    delete_when_free(&*f.driver, &at).await;
    assert_reads(&*f.driver, &copied.at, &bytes, "the copy of an image").await;
    let span = Span::Part(0, bytes.len() as u64);
    assert_eq!(read(&*f.driver, &image.at, span).await.unwrap(), bytes, "the image of a volume");
    for at in [copied.at, image.at] {
        delete_when_free(&*f.driver, &at).await;
        assert!(f.driver.delete(&at, Hold::default()).await.is_err());
    }
    assert_nothing_is_left(f, "after clones").await;
}

async fn all_of(project: Project, more: &str) {
    let f = in_project(project, more).await;
    soon("an image", an_image_comes_and_goes(&f)).await;
    Box::pin(an_image_grows(&f)).await;
    Box::pin(clones_outlive_their_source(&f)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_in_ceph() {
    all_of(Project::in_ceph(), "cinder_do_extend_attached = true\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_in_ceph_that_several_may_attach() {
    all_of(Project::shared(), "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_in_files() {
    all_of(Project::in_files(), "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_over_iscsi() {
    all_of(Project::in_iscsi(), "").await;
}
