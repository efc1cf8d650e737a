//! A Cinder that fails as no real one can be asked to: the driver alone, over volumes that are files.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures_util::StreamExt as _;
use imaged::digest::Algo;
use imaged_drivers::{
    Config, Digests, Driver, Error, Hold, Host, ImageId, Kind, Location, Recovered, Result, Span,
    Volume, ledger::Ledger, options::Options, window,
};
use tempfile::TempDir;

use crate::harness::{
    again,
    cinder::{Call, Cinder, Fault, Rule, SECRET, Step, TYPE, USER, Wrong},
    stores::{
        Held, aligned_chunks, assert_reads,
        content::{Look, digests, image},
        delete_when_free, read, soon,
    },
};

/// A Cinder, and where its volumes are.
struct Rig {
    cinder: Cinder,
    folder: TempDir,
    state: TempDir,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (cinder, state) = (Cinder::nfs(folder.path()), tempfile::tempdir().unwrap());
        Self { cinder, folder, state }
    }

    /// A driver as one process has it.
    async fn open(&self, more: &[(&str, &str)]) -> Arc<dyn Driver> {
        self.open_as("volumes", more).await
    }

    /// The driver of the store of this name.
    async fn open_as(&self, name: &str, more: &[(&str, &str)]) -> Arc<dyn Driver> {
        let (url, mount) = (self.cinder.url(), self.folder.path().display());
        let own = [
            ("cinder_store_auth_address", format!("{url}/v3")),
            ("cinder_store_user_name", USER.to_owned()),
            ("cinder_store_password", SECRET.to_owned()),
            ("cinder_store_project_name", USER.to_owned()),
            ("cinder_volume_type", TYPE.to_owned()),
            ("cinder_state_transition_timeout", "5".to_owned()),
            ("imaged_cinder_timeout_s", "2".to_owned()),
            ("imaged_cinder_mounts", format!("127.0.0.1:/exports/rig={mount}")),
        ];
        let own = own.iter().map(|(name, value)| (*name, value.as_str()));
        let pairs: Vec<_> = own.filter(|(name, _)| more.iter().all(|one| one.0 != *name)).collect();
        let mut options = Options::of(name, &[&pairs[..], more].concat());
        let config = Config::read("cinder", &mut options).unwrap();
        assert_eq!(options.finish().problems, []);
        let ledger = Ledger::new(self.state.path());
        let host = Host { instance: "test".to_owned(), ledger };
        imaged_drivers::open(&config, name, &host).await.unwrap()
    }

    fn held(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.state.path().join("held")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Has rounds of clearing up until nothing is noted.
    async fn until_forgotten(&self, driver: &dyn Driver) {
        soon("all to be ended and forgotten", async {
            while !self.held().is_empty() {
                driver.purge().await.unwrap();
                again().await;
            }
        })
        .await;
    }

    async fn until_detached(&self) {
        self.cinder.until("all to be detached", |cinder| cinder.attachments().is_empty()).await;
    }

    /// Waits until nothing is attached and nothing noted, and says what else there is.
    async fn left(&self) -> Vec<String> {
        imaged_drivers::let_go().await;
        self.until_detached().await;
        // What is detached is forgotten a moment later.
        soon("all to be forgotten", async {
            while !self.held().is_empty() {
                again().await;
            }
        })
        .await;
        self.cinder.left(&[])
    }
}

fn id() -> ImageId {
    "image".parse().unwrap()
}

/// Puts an image; on failure it is aborted.
async fn put(
    driver: &dyn Driver,
    held: &Held,
    size: Option<u64>,
    chunks: &[Bytes],
    digests: &Digests,
) -> Result<Location> {
    let mut upload = held.create(driver, size).await?;
    let at = upload.at().clone();
    for chunk in chunks {
        if let Err(error) = upload.write(chunk.clone()).await {
            return match upload.abort().await {
                Ok(()) => Err(error),
                Err(left) => Err(error.leaving(left.left().unwrap_or_default())),
            };
        }
    }
    upload.commit(digests).await.map(|_| at)
}

async fn put_bytes(driver: &dyn Driver, held: &Held, bytes: &Bytes) -> Result<Location> {
    let size = Some(bytes.len() as u64);
    put(driver, held, size, &aligned_chunks(bytes), &digests(bytes, Algo::Sha256)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_answered_once_the_image_is_whole_or_absent() {
    for fault in [
        Fault::Status(401),
        Fault::Status(404),
        Fault::Status(409),
        Fault::Status(413),
        Fault::Status(500),
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::CutMiddle,
    ] {
        for call in Call::OF_IMAGES {
            let what = format!("{fault:?} of {call:?}");
            let rig = Rig::new();
            let options = [("cinder_http_retries", "0"), ("cinder_state_transition_timeout", "1")];
            let driver = rig.open(&options).await;
            let bytes = image(Look::Random, 300_000, 3);
            let held = Held::new(&id());
            rig.cinder.fail(Rule::new(fault).on(call).times(1));
            let made = soon(&what, put_bytes(&*driver, &held, &bytes)).await;
            rig.cinder.heal();
            let error = match made {
                Ok(at) => {
                    assert_reads(&*driver, &at, &bytes, &what).await;
                    soon(&what, driver.delete(&at, Hold::default())).await.unwrap();
                    assert_eq!(rig.left().await, [""; 0], "{what}");
                    continue;
                }
                Err(error) => error,
            };
            assert!(!matches!(error.kind(), Kind::Internal | Kind::NotFound), "{what}: {error:?}");
            // What could not be removed then is found by its nonce.
            let found = held.recovered(&*driver).await;
            if error.left().is_none() && error.kind() != Kind::Timeout {
                assert!(!matches!(found, Recovered::Whole), "{what}: {error:?}");
            }
            rig.until_forgotten(&*driver).await;
            if found == Recovered::Whole {
                let at = driver.locate(&id()).await.unwrap();
                assert_reads(&*driver, &at, &bytes, &what).await;
                driver.delete(&at, Hold::default()).await.unwrap();
            }
            assert_eq!(rig.left().await, [""; 0], "{what}: {error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_now_and_then_is_done_all_the_same() {
    for fault in [Fault::Status(500), Fault::Later(503, 0), Fault::Status(401), Fault::CutBefore] {
        let what = format!("{fault:?}");
        let rig = Rig::new();
        let driver = rig.open(&[]).await;
        let bytes = image(Look::Random, 300_000, 4);
        let held = Held::new(&id());
        for call in [Call::ShowVolume, Call::ListVolumes, Call::PutMetadata, Call::SetReadonly] {
            rig.cinder.fail(Rule::new(fault).on(call).every(2));
        }
        let at = soon(&what, put_bytes(&*driver, &held, &bytes)).await;
        let at = at.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert_reads(&*driver, &at, &bytes, &what).await;
        soon(&what, driver.delete(&at, Hold::default())).await.unwrap();
        rig.cinder.heal();
        assert_eq!(rig.left().await, [""; 0], "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_ends_in_error_at_any_step_leaves_nothing() {
    for (step, times, kind) in [
        (Step::Create, usize::MAX, Kind::Unavailable),
        (Step::Attach, usize::MAX, Kind::Unavailable),
        (Step::Detach, 1, Kind::Unavailable),
        (Step::Extend, usize::MAX, Kind::Full),
    ] {
        let what = format!("{step:?}");
        let rig = Rig::new();
        let driver = rig.open(&[("cinder_http_retries", "0")]).await;
        let held = Held::new(&id());
        rig.cinder.let_fail(step, times);
        let chunk = window::zeros(window::CHUNK);
        let count = (1 << 30) / window::CHUNK + 1;
        let chunks = vec![chunk; if matches!(step, Step::Extend) { count } else { 1 }];
        let digests = digests(b"", Algo::Sha256);
        let made = put(&*driver, &held, None, &chunks, &digests).await;
        let error = made.expect_err(&what);
        assert_eq!(error.kind(), kind, "{what}: {error:?}");
        rig.cinder.let_fail(step, 0);
        held.recovered(&*driver).await;
        driver.purge().await.unwrap();
        assert_eq!(rig.left().await, [""; 0], "{what}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_is_said_to_be_full_and_a_missing_type_leaves_the_store_readable() {
    let rig = Rig::new();
    let driver = rig.open(&[]).await;
    rig.cinder.limit(u64::MAX, 0);
    let held = Held::new(&id());
    let bytes = image(Look::Random, 5000, 5);
    let error = put_bytes(&*driver, &held, &bytes).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Full, "{error:?}");
    rig.cinder.limit(10, 20);
    let capacity = driver.probe().await.unwrap();
    assert_eq!(capacity.total, Some(20 << 30));
    assert_eq!(driver.reading_only(), None);
    rig.cinder.remove_type(TYPE);
    driver.probe().await.unwrap();
    assert!(driver.reading_only().unwrap().contains("cinder_volume_type"));
    assert_eq!(rig.left().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_to_a_device_that_is_not_the_volume_s() {
    let rig = Rig::new();
    let other = rig.cinder.place("somebody's", 1, &[]);
    fs::write(rig.cinder.file(&other), vec![7; 100_000]).unwrap();
    for wrong in [
        Wrong::Volume(other.clone()),
        Wrong::Size(100 << 20),
        Wrong::Size(3 << 30),
        Wrong::Field("format", "qcow2".into()),
        Wrong::Field("encrypted", true.into()),
        Wrong::Field("driver_volume_type", "sheepdog".into()),
        Wrong::Field("name", "../volume".into()),
        Wrong::Lacks("export"),
    ] {
        let what = format!("{wrong:?}");
        let driver = rig.open(&[]).await;
        let held = Held::new(&id());
        rig.cinder.connect_wrongly(wrong);
        let bytes = image(Look::Random, 200_000, 6);
        let error = soon(&what, put_bytes(&*driver, &held, &bytes)).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::Unavailable | Kind::Unsupported), "{what}: {error:?}");
        rig.cinder.connect_rightly();
        assert_eq!(rig.cinder.left(&[&other]), [""; 0], "{what}: {error:?}");
        assert_eq!(fs::read(rig.cinder.file(&other)).unwrap(), vec![7; 100_000], "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_read_from_a_device_that_is_not_the_volume_s() {
    let rig = Rig::new();
    let driver = rig.open(&[]).await;
    let bytes = image(Look::Random, 200_000, 7);
    let at = put_bytes(&*driver, &Held::new(&id()), &bytes).await.unwrap();
    let other = rig.cinder.place("somebody's", 1, &[]);
    fs::OpenOptions::new()
        .write(true)
        .open(rig.cinder.file(&other))
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    for wrong in [Wrong::Volume(other.clone()), Wrong::Size(100 << 20)] {
        let what = format!("{wrong:?}");
        imaged_drivers::let_go().await;
        let size =
            wrong_size(&wrong).map(|_| fs::metadata(rig.cinder.file("image-image")).unwrap().len());
        rig.cinder.connect_wrongly(wrong);
        let error = read(&*driver, &at, Span::All).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{what}: {error:?}");
        rig.cinder.connect_rightly();
        if let Some(size) = size {
            let file = fs::OpenOptions::new().write(true).open(rig.cinder.file("image-image"));
            file.unwrap().set_len(size).unwrap();
        }
        rig.until_detached().await;
    }
    assert_reads(&*driver, &at, &bytes, "again").await;
}

fn wrong_size(wrong: &Wrong) -> Option<u64> {
    if let Wrong::Size(size) = wrong { Some(*size) } else { None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_in_one_project_have_images_of_the_same_ids() {
    let rig = Rig::new();
    rig.cinder.add_type("other", false);
    let first = rig.open(&[]).await;
    let second = rig.open_as("others", &[("cinder_volume_type", "other")]).await;
    let bytes = [image(Look::Random, 5000, 31), image(Look::Random, 6000, 32)];
    let ats = [
        put_bytes(&*first, &Held::new(&id()), &bytes[0]).await.unwrap(),
        put_bytes(&*second, &Held::new(&id()), &bytes[1]).await.unwrap(),
    ];
    for (driver, at, bytes) in [(&first, &ats[0], &bytes[0]), (&second, &ats[1], &bytes[1])] {
        assert_eq!(driver.locate(&id()).await.unwrap(), *at);
        assert_reads(&**driver, at, bytes, "its own").await;
        let listed: Vec<_> = driver.list().map(|one| one.unwrap().at).collect().await;
        assert_eq!(listed, std::slice::from_ref(at));
    }
    imaged_drivers::let_go().await;
    first.delete(&ats[0], Hold::default()).await.unwrap();
    assert_eq!(first.locate(&id()).await.unwrap_err().kind(), Kind::NotFound);
    // What glance_store made is of the store that has its type, and an image of a volume of any type is of the
    // store that it was made for.
    let glances = [("glance_image_id", "glances"), ("image_size", "10")];
    let volume = rig.cinder.place("image-glances", 1, &glances);
    let glances: ImageId = "glances".parse().unwrap();
    first.locate(&glances).await.unwrap();
    assert_eq!(second.locate(&glances).await.unwrap_err().kind(), Kind::NotFound);
    second.delete(&ats[1], Hold::default()).await.unwrap();
    let (seal, made) = (Held::new(&id()), Held::new(&id()));
    let named = Volume::Cinder(volume.parse().unwrap());
    let sealed = second.volumes().unwrap().seal(&named, &seal.claim).await.unwrap();
    let copied = second.copies().unwrap().copy(sealed, &made.claim).await.unwrap().unwrap();
    assert_eq!(second.locate(&id()).await.unwrap(), copied.at);
    assert_eq!(first.locate(&id()).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_of_unknown_size_is_doubled_and_keeps_what_was_written() {
    for (online, refused) in [("true", 0), ("false", 0), ("true", 1)] {
        let rig = Rig::new();
        let driver = rig.open(&[("cinder_do_extend_attached", online)]).await;
        // Who may not do it while the volume is attached.
        rig.cinder.fail(Rule::new(Fault::Status(403)).on(Call::Extend).times(refused));
        let held = Held::new(&id());
        let first = image(Look::Random, window::CHUNK, 8);
        let last = image(Look::Random, 4096, 9);
        let zeros = (2 << 30) / window::CHUNK;
        let chunks = std::iter::once(first.clone())
            .chain(std::iter::repeat_n(window::zeros(window::CHUNK), zeros))
            .chain([last.clone()])
            .collect::<Vec<_>>();
        let size = (chunks.len() as u64 - 1) * window::CHUNK as u64 + 4096;
        let made = put(&*driver, &held, None, &chunks, &digests(b"", Algo::Sha256)).await;
        let at = made.unwrap_or_else(|error| panic!("{online}: {error:?}"));
        assert_eq!(rig.cinder.count(Call::Extend), 2 + refused, "1 to 2 to 4 GiB");
        assert_eq!(driver.stat(&at).await.unwrap().size, size);
        let volume = rig.cinder.volume("image-image").unwrap();
        assert_eq!((volume.size, volume.metadata["image_size"].clone()), (4, size.to_string()));
        let part = async |span| read(&*driver, &at, span).await.unwrap();
        assert_eq!(part(Span::Part(0, window::CHUNK as u64)).await, first);
        assert_eq!(part(Span::Last(4096)).await, last);
        driver.delete(&at, Hold::default()).await.unwrap();
        assert_eq!(rig.left().await, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_share_an_attachment_and_the_last_one_ends_it() {
    let rig = Rig::new();
    let driver = rig.open(&[]).await;
    let bytes = image(Look::Random, 3 * window::CHUNK, 10);
    let at = put_bytes(&*driver, &Held::new(&id()), &bytes).await.unwrap();
    let before = rig.cinder.count(Call::CreateAttachment);
    let open = || driver.open(&at, Span::All, crate::harness::stores::window(window::CHUNK));
    let (first, second) = tokio::join!(open(), open());
    let mut first = first.unwrap().body.into_stream();
    let second = second.unwrap().body.into_stream();
    assert_eq!(rig.cinder.count(Call::CreateAttachment), before + 1);
    let attachment = &rig.cinder.attachments()[0];
    assert_eq!(attachment.mode, "ro");
    assert_eq!(rig.held().len(), 1);
    let busy = driver.delete(&at, Hold::default()).await.unwrap_err();
    assert_eq!(busy.kind(), Kind::InUse, "{busy:?}");
    first.next().await.unwrap().unwrap();
    drop(first);
    // What is kept of a chunk holds its window's memory.
    let rest: Vec<_> = second.map(|piece| piece.unwrap().to_vec()).collect().await;
    assert_eq!(rest.concat(), bytes);
    // It is there for another moment, and goes at once for whoever removes the image.
    soon("the readers to be gone", delete_when_free(&*driver, &at)).await;
    assert_eq!(rig.left().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_process_has_left_attached_is_ended_by_the_next() {
    let rig = Rig::new();
    let driver = rig.open(&[]).await;
    let bytes = image(Look::Random, 3 * window::CHUNK, 11);
    let at = put_bytes(&*driver, &Held::new(&id()), &bytes).await.unwrap();
    let reader = driver.open(&at, Span::All, crate::harness::stores::window(window::CHUNK));
    let reader = reader.await.unwrap();
    assert_eq!(rig.cinder.attachments().len(), 1);
    let next = rig.open(&[]).await;
    rig.cinder.fail(Rule::new(Fault::Status(500)).on(Call::DeleteAttachment).times(4));
    assert!(next.purge().await.is_err(), "and is tried again");
    next.purge().await.unwrap();
    assert_eq!((rig.cinder.attachments().len(), rig.held().len()), (0, 0));
    drop(reader);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_is_attached_elsewhere_is_waited_for_and_then_said_to_be() {
    let rig = Rig::new();
    let driver = rig.open(&[("cinder_attachment_retry_attempts", "2")]).await;
    let bytes = image(Look::Random, 50_000, 12);
    let at = put_bytes(&*driver, &Held::new(&id()), &bytes).await.unwrap();
    let volume = rig.cinder.volume("image-image").unwrap().id;
    rig.cinder.place_attachment(&volume, "glance2");
    let error = read(&*driver, &at, Span::All).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("in use by host glance2"), "{error}");
    assert!(error.to_string().contains("multiattach"), "{error}");
    let busy = driver.delete(&at, Hold::default()).await.unwrap_err();
    assert_eq!(busy.kind(), Kind::InUse, "{busy:?}");
    assert!(busy.to_string().contains("in use by host glance2"), "{busy}");
    assert!(rig.held().is_empty(), "what was not attached is not noted");
    assert!(rig.cinder.volume(&volume).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_volume_is_not_found_and_a_read_that_fails_is_no_end() {
    let rig = Rig::new();
    let driver = rig.open(&[]).await;
    let bytes = image(Look::Random, 4 * window::CHUNK, 13);
    let at = put_bytes(&*driver, &Held::new(&id()), &bytes).await.unwrap();
    let reader = driver.open(&at, Span::All, crate::harness::stores::window(window::CHUNK));
    let reader = reader.await.unwrap();
    let file = fs::OpenOptions::new().write(true).open(rig.cinder.file("image-image")).unwrap();
    file.set_len(window::CHUNK as u64).unwrap();
    let pieces = reader.body.into_stream().map(|piece| piece.map(drop));
    let pieces: Vec<Result<()>> = pieces.collect().await;
    let error = pieces.iter().find_map(|piece| piece.as_ref().err()).unwrap();
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    file.set_len(1 << 30).unwrap();
    let volume = rig.cinder.volume("image-image").unwrap().id;
    imaged_drivers::let_go().await;
    rig.cinder.remove(&volume);
    for failed in [
        driver.stat(&at).await.map(drop),
        driver.delete(&at, Hold::default()).await,
        driver.locate(&id()).await.map(drop),
        read(&*driver, &at, Span::All).await.map(drop),
    ] {
        assert_eq!(failed.unwrap_err().kind(), Kind::NotFound);
    }
    // A volume that is nobody's image is none here.
    let other = rig.cinder.place("somebody's", 1, &[]);
    let other: Location = format!("cinder://volumes/{other}").parse().unwrap();
    assert_eq!(driver.stat(&other).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(driver.delete(&other, Hold::default()).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_volume_is_one_clone_that_becomes_the_image_or_goes() {
    let rig = Rig::new();
    let driver = rig.open(&[]).await;
    let volume = rig.cinder.place("a volume", 2, &[]);
    let path = rig.cinder.file(&volume);
    let bytes = image(Look::Random, 100_000, 14);
    std::os::unix::fs::FileExt::write_all_at(
        &fs::OpenOptions::new().write(true).open(&path).unwrap(),
        &bytes,
        0,
    )
    .unwrap();
    let named = Volume::Cinder(volume.parse().unwrap());
    let (seal, made) = (Held::new(&id()), Held::new(&id()));
    let volumes = driver.volumes().unwrap();
    let copies = driver.copies().unwrap();
    let sealed = volumes.seal(&named, &seal.claim).await.unwrap();
    // What is written afterwards is not in it.
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(2 << 30).unwrap();
    assert_eq!(driver.locate(&id()).await.unwrap_err().kind(), Kind::NotFound, "no image yet");
    let copied = copies.copy(sealed, &made.claim).await.unwrap().unwrap();
    volumes.unseal(&named, &seal.claim).await.unwrap();
    assert_eq!((copied.size, copied.shared), (2 << 30, false));
    assert_eq!(rig.cinder.volumes().len(), 2, "one clone");
    let clone = rig.cinder.volume("image-image").unwrap();
    assert_eq!((clone.readonly, clone.source), (Some(true), Some(volume.clone())));
    let found = read(&*driver, &copied.at, Span::Part(0, 100_000)).await.unwrap();
    assert_eq!(found, bytes);
    driver.record(&copied.at, &made.claim, &digests(&bytes, Algo::Sha512)).await.unwrap();
    let kept = driver.stat(&copied.at).await.unwrap().digests;
    assert_eq!(kept, Some(digests(&bytes, Algo::Sha512)));
    imaged_drivers::let_go().await;
    driver.delete(&copied.at, Hold::default()).await.unwrap();
    // One that becomes nothing goes, also by another process.
    volumes.seal(&named, &seal.claim).await.unwrap();
    let next = rig.open(&[]).await;
    next.volumes().unwrap().unseal(&named, &seal.claim).await.unwrap();
    assert_eq!(rig.cinder.left(&[&volume]), [""; 0]);
    let encrypted = rig.cinder.place_encrypted("a secret", 1);
    let encrypted = Volume::Cinder(encrypted.parse().unwrap());
    let refused: Error = volumes.seal(&encrypted, &seal.claim).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported, "{refused:?}");
    let nothing = Volume::Cinder("1b2c3d4e-0000-4111-8222-abcdef012345".parse().unwrap());
    let missing = volumes.seal(&nothing, &seal.claim).await.unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound, "{missing:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_comes_to_be_when_nobody_waits_for_it_is_removed_and_no_other() {
    for fault in [Fault::Late, Fault::CutAfter, Fault::CutBefore] {
        for work in ["seal", "put", "copy"] {
            let what = format!("{fault:?} of a {work}");
            let rig = Rig::new();
            let driver = rig.open(&[("cinder_http_retries", "0")]).await;
            let volume = rig.cinder.place("a volume", 1, &[]);
            let named = Volume::Cinder(volume.parse().unwrap());
            let other = Held::new(&"other".parse().unwrap());
            let bytes = image(Look::Random, 50_000, 17);
            let there = put_bytes(&*driver, &other, &bytes).await.unwrap();
            // Another seal of the same volume, and another upload of the same id, are under way.
            let (theirs, sealing) = (Held::new(&id()), Held::new(&id()));
            let volumes = driver.volumes().unwrap();
            volumes.seal(&named, &sealing.claim).await.unwrap();
            let upload = theirs.create(&*driver, Some(5000)).await.unwrap();
            let beside = rig.cinder.volumes().len();
            imaged_drivers::let_go().await;

            rig.cinder.fail(Rule::new(fault).on(Call::CreateVolume).times(1));
            let held = Held::new(&id());
            let made = match work {
                "seal" => volumes.seal(&named, &held.claim).await.map(drop),
                "put" => put_bytes(&*driver, &held, &bytes).await.map(drop),
                _ => {
                    let stat = driver.stat(&there).await.unwrap();
                    let from = imaged_drivers::Source {
                        at: there.clone(),
                        version: stat.version,
                        size: stat.size,
                        digests: None,
                        file: None,
                    };
                    driver.copies().unwrap().copy(from, &held.claim).await.map(drop)
                }
            };
            // What is there after all is found, and taken.
            if fault == Fault::CutAfter {
                made.unwrap_or_else(|error| panic!("{what}: {error:?}"));
                rig.cinder.heal();
                upload.abort().await.unwrap();
                continue;
            }
            let error = made.expect_err(&what);
            assert!(matches!(error.kind(), Kind::Unavailable | Kind::Timeout), "{what}: {error:?}");
            // The journal has its look, finds nothing, and forgets it.
            match work {
                "seal" => volumes.unseal(&named, &held.claim).await.unwrap(),
                _ => assert_eq!(held.recovered(&*driver).await, Recovered::Nothing, "{what}"),
            }
            // Another process may be the one that removes it.
            let late = fault == Fault::Late;
            let waits = ("cinder_state_transition_timeout", if late { "60" } else { "1" });
            let next = rig.open(&[waits]).await;
            next.purge().await.unwrap();
            rig.cinder.heal();
            soon(&what, async {
                while rig.held().iter().any(|note| note.display().to_string().contains("volume-")) {
                    next.purge().await.unwrap();
                    again().await;
                }
            })
            .await;
            assert_eq!(rig.cinder.volumes().len(), beside, "{what}");
            upload.abort().await.unwrap();
            volumes.unseal(&named, &sealing.claim).await.unwrap();
            assert_reads(&*next, &there, &bytes, &what).await;
            assert_eq!(rig.left().await.len(), 2, "{what}: the volume and the other image");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attachment_that_nobody_was_told_of_is_ended_and_no_other() {
    let rig = Rig::new();
    rig.cinder.add_type("shared", true);
    let options = [("cinder_http_retries", "0"), ("cinder_volume_type", "shared")];
    let driver = rig.open(&options).await;
    let bytes = image(Look::Random, 50_000, 15);
    let at = put_bytes(&*driver, &Held::new(&id()), &bytes).await.unwrap();
    let volume = rig.cinder.volume("image-image").unwrap().id;
    // Another host reads it, and one has begun to attach it.
    let others =
        [rig.cinder.place_attachment(&volume, "glance2"), rig.cinder.place_reserved(&volume)];
    for fault in [Fault::CutAfter, Fault::CutBefore, Fault::Late] {
        let what = format!("{fault:?}");
        rig.cinder.fail(Rule::new(fault).on(Call::CreateAttachment).times(1));
        let error = read(&*driver, &at, Span::All).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::Unavailable | Kind::Timeout), "{what}: {error:?}");
        assert_eq!(rig.held().len(), 1, "{what}: it may be there, or come to be");
        // Another process may be the one that ends it.
        let next = rig.open(&options).await;
        next.purge().await.unwrap();
        rig.cinder.heal();
        rig.until_forgotten(&*next).await;
        let left: Vec<_> = rig.cinder.attachments().into_iter().map(|one| one.id).collect();
        assert_eq!(left, others, "{what}");
        assert_reads(&*driver, &at, &bytes, &what).await;
        imaged_drivers::let_go().await;
        let settled = |cinder: &Cinder| cinder.attachments().len() == others.len();
        rig.cinder.until("the reader to be gone", settled).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_a_type_has_the_volumes_of_the_default_one() {
    let rig = Rig::new();
    let glances = [("glance_image_id", "image"), ("image_size", "10")];
    rig.cinder.place("image-image", 1, &glances);
    let none = [("cinder_volume_type", "")];
    let listed = async |driver: &dyn Driver| driver.list().count().await;
    // It is of another type.
    let driver = rig.open(&none).await;
    assert_eq!(driver.locate(&id()).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(listed(&*driver).await, 0);
    let asked = rig.cinder.count(Call::Types);
    assert_eq!(asked, 1, "once for all");
    let typed = rig.open(&[("cinder_volume_type", TYPE)]).await;
    typed.locate(&id()).await.unwrap();
    assert_eq!(rig.cinder.count(Call::Types), asked, "nor where it is told");
    // Whoever may not know has all of them, and whoever cannot be told now none yet.
    for (status, kind) in [(403, None), (404, None), (500, Some(Kind::Unavailable))] {
        let driver = rig.open(&[none[0], ("cinder_http_retries", "0")]).await;
        rig.cinder.fail(Rule::new(Fault::Status(status)).on(Call::Types).times(1));
        let found = driver.locate(&id()).await;
        assert_eq!(found.err().map(|error| error.kind()), kind, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connector_program_is_asked_once_and_again_after_a_failure() {
    let rig = Rig::new();
    let program = rig.state.path().join("connector");
    let script = "#!/bin/sh\nread line; echo \"$line\" >> $0.asked\necho '{\"connector\":{}}'\n";
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let options =
        [("imaged_cinder_connector", program.to_str().unwrap()), ("cinder_http_retries", "0")];
    let driver = rig.open(&options).await;
    let asked = || {
        let asked = fs::read_to_string(program.with_extension("asked")).unwrap();
        assert!(asked.lines().all(|line| line.contains("properties")), "{asked}");
        asked.lines().count()
    };
    let bytes = image(Look::Random, 5000, 16);
    let at = put_bytes(&*driver, &Held::new(&id()), &bytes).await.unwrap();
    assert_reads(&*driver, &at, &bytes, "at first").await;
    assert_eq!(asked(), 1);
    imaged_drivers::let_go().await;
    rig.until_detached().await;
    rig.cinder.fail(Rule::new(Fault::Status(500)).on(Call::UpdateAttachment).times(1));
    read(&*driver, &at, Span::All).await.unwrap_err();
    assert_reads(&*driver, &at, &bytes, "again").await;
    assert_eq!(asked(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_not_found_does_not_say_that_an_image_is_absent() {
    let rig = Rig::new();
    let driver = rig.open(&[]).await;
    let bytes = image(Look::Random, 5000, 17);
    let at = put_bytes(&*driver, &Held::new(&id()), &bytes).await.unwrap();
    rig.cinder.fail(Rule::new(Fault::Status(404)).on(Call::ListVolumes));
    for failed in [
        driver.locate(&id()).await.map(drop),
        put_bytes(&*driver, &Held::new(&id()), &bytes).await.map(drop),
        driver.recover(&Held::new(&id()).claim, None).await.map(drop),
        driver.list().next().await.unwrap().map(drop),
    ] {
        assert_eq!(failed.unwrap_err().kind(), Kind::Unavailable);
    }
    rig.cinder.heal();
    assert_reads(&*driver, &at, &bytes, "it is there").await;
}
