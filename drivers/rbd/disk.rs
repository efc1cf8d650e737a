//! Images of any pool as volumes that others have made: read and written as they are, at their head.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use imaged_ffi::{Errno, Image};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::{
    config::{Config, Timeout},
    failure::failed,
    image::close,
    store::{Lanes, Store, on_lane},
};
use crate::{
    contract::{Error, Kind, Result},
    kit::window::Buffer,
};

/// The option that names the user, in what is said of a pool that is not there.
const OPTION: &str = "pool";

/// A pool of volumes. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Pool(Arc<Store>);

/// An image of such a pool, open at its head.
#[derive(Debug)]
pub(crate) struct Disk {
    store: Arc<Store>,
    name: String,
    /// Until it is closed.
    image: Mutex<Option<Arc<Image>>>,
}

impl Pool {
    /// The pool of this name in the cluster of `conf`, as `user` reaches it, for the store `name`. The cluster
    /// is not touched.
    pub(crate) fn new(name: &str, conf: &str, user: &str, pool: &str, patience: Duration) -> Self {
        let config = Config {
            pool: pool.to_owned(),
            also_pools: Vec::new(),
            user: user.to_owned(),
            conf: conf.to_owned(),
            order: 22,
            timeout: Timeout::Default(patience),
            thin: true,
            data_pool: None,
            features: None,
            flatten: false,
            flatten_objects: 1,
            recover_after: None,
        };
        let lanes = Lanes::new(name, patience);
        Self(Arc::new(Store::new(&config, (name, ""), (OPTION, pool), lanes)))
    }

    /// Opens an image at its head.
    ///
    /// # Errors
    /// `Unavailable` if there is none; `BackendDenied` with the caps that are needed.
    pub(crate) async fn open(&self, image: &str) -> Result<Disk> {
        let (_, pool) = self.0.connected().await?;
        let name = image.to_owned();
        let open = on_lane(&self.0, &pool, "open a volume", move |_, pool| {
            Image::open(pool, &name, None).map_err(|errno| match errno {
                Errno::NOENT => Error::new(
                    Kind::Unavailable,
                    format!("the volume is not in its pool: image=`{name}`"),
                ),
                errno => failed("open", &name, errno),
            })
        });
        let image_open = Mutex::new(Some(Arc::new(open.await?)));
        Ok(Disk { store: Arc::clone(&self.0), name: image.to_owned(), image: image_open })
    }
}

impl Disk {
    fn image(&self) -> Result<Arc<Image>> {
        let image = self.image.lock().clone();
        image.ok_or_else(|| Error::new(Kind::Internal, "a volume is used after its end"))
    }

    /// What comes of a call, in time.
    async fn landed<T>(
        &self,
        doing: &str,
        landing: impl Future<Output = imaged_ffi::Result<T>>,
    ) -> Result<T> {
        let fail = |errno| failed(doing, &self.name, errno);
        match timeout(self.store.patience, landing).await {
            Ok(landed) => landed.map_err(fail),
            Err(late) => Err(fail(Errno::TIMEDOUT).because(late)),
        }
    }

    /// Bytes that it has now.
    pub(crate) async fn size(&self) -> Result<u64> {
        let (image, name) = (self.image()?, self.name.clone());
        let pool = image.pool().clone();
        on_lane(&self.store, &pool, "look at a volume", move |_, _| {
            image.size().map_err(|errno| failed("look at", &name, errno))
        })
        .await
    }

    /// Fills `buffer` with what is at `at`.
    pub(crate) async fn read(&self, at: u64, buffer: Buffer) -> Result<Bytes> {
        let image = self.image()?;
        let wanted = buffer.capacity();
        let read = async {
            let slot = image.slot().await?;
            image.read_at(slot, buffer, at)?.await
        };
        let (got, mut buffer) = self.landed("read", read).await?;
        if got != wanted {
            return Err(Error::new(
                Kind::Unavailable,
                format!("the volume ends early: image=`{}` at=`{at}`", self.name),
            ));
        }
        buffer.filled(got);
        Ok(buffer.freeze())
    }

    /// Writes `bytes` at `at`.
    pub(crate) async fn write(&self, at: u64, bytes: Bytes) -> Result<()> {
        let image = self.image()?;
        let write = async {
            let slot = image.slot().await?;
            image.write_at(slot, bytes, at)?.await
        };
        self.landed("write", write).await.map(drop)
    }

    /// Waits until all that was written is durable.
    pub(crate) async fn flush(&self) -> Result<()> {
        let image = self.image()?;
        let flush = async {
            let slot = image.slot().await?;
            image.flush(slot)?.await
        };
        self.landed("flush", flush).await.map(drop)
    }

    /// Closes it, once nothing is in flight.
    pub(crate) async fn close(&self) -> Result<()> {
        let Some(image) = self.image.lock().take() else { return Ok(()) };
        let idle = async {
            image.idle().await;
            Ok(())
        };
        if let Err(late) = self.landed("close", idle).await {
            // What is in flight may take for ever, and no thread is to wait for that.
            close_when_idle(&self.store, image, self.name.clone());
            return Err(late);
        }
        close_now(&self.store, image, self.name.clone()).await
    }
}

async fn close_now(store: &Arc<Store>, image: Arc<Image>, name: String) -> Result<()> {
    let pool = image.pool().clone();
    on_lane(store, &pool, "close a volume", move |_, _| {
        if let Some(image) = Arc::into_inner(image) {
            close(image, &name);
        }
        Ok(())
    })
    .await
}

fn close_when_idle(store: &Arc<Store>, image: Arc<Image>, name: String) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let store = Arc::clone(store);
    runtime.spawn(async move {
        image.idle().await;
        close_now(&store, image, name).await
    });
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(image) = self.image.lock().take() {
            close_when_idle(&self.store, image, self.name.clone());
        }
    }
}
