//! Reading, looking at and listing images.

use futures_util::stream::BoxStream;
use imaged_drivers::{
    Access, Driver, Error, Kind, Listed, Location, Pieces, Reader, Result, Span, Stat,
    memory::Share, window::Window,
};

use super::Store;

impl Store {
    /// Opens an image for reading. Unless the backend has a liking of its own, pieces of `chunk` bytes
    /// are read, two at a time, into memory of `share`.
    ///
    /// # Errors
    /// See [`Driver::open`]; `Unsupported` if the store can only read whole images.
    pub async fn open(
        &self,
        at: &Location,
        span: Span,
        chunk: usize,
        share: Share,
    ) -> Result<Reader> {
        self.open_with_window(at, span, chunk, share).await.map(|(reader, _)| reader)
    }

    /// The same, with the window that it is read into.
    ///
    /// # Errors
    /// As those of [`Self::open`].
    pub async fn open_with_window(
        &self,
        at: &Location,
        span: Span,
        chunk: usize,
        share: Share,
    ) -> Result<(Reader, Window)> {
        let driver = self.able(|caps| caps.seek || span == Span::All, "read a part of an image")?;
        let window = self.window(driver.as_ref(), chunk, share);
        Ok((driver.open(at, span, window.clone()).await?, window))
    }

    /// Memory for reading, as the backend likes it, or two of `chunk` bytes. None is taken before the
    /// first byte is read.
    pub(super) fn window(&self, driver: &dyn Driver, chunk: usize, share: Share) -> Window {
        let Pieces { chunk, in_flight } = driver.reads().unwrap_or(Pieces { chunk, in_flight: 2 });
        self.shared.memory.window(share, chunk, in_flight)
    }

    /// Whose memory an image is read into that goes to `target`.
    pub(super) fn share_to(&self, target: &Self) -> Share {
        Share::Copy(self.name().into(), target.name().into())
    }

    /// Looks at an image.
    ///
    /// # Errors
    /// See [`Driver::stat`].
    pub async fn stat(&self, at: &Location) -> Result<Stat> {
        self.driver()?.stat(at).await
    }

    /// Refuses unless the store has a way to let others reach an image.
    ///
    /// # Errors
    /// `Unsupported` if it has none.
    pub fn can_share(&self) -> Result<()> {
        let driver = self.able(|caps| caps.write, "change who reaches an image")?;
        driver.shares().map(drop).ok_or_else(|| self.knows_no_owners())
    }

    /// Lets others reach an image at its backend.
    ///
    /// # Errors
    /// See [`Shares::share`](imaged_drivers::Shares::share); `Unsupported` as [`Store::can_share`].
    pub async fn share(&self, at: &Location, access: &Access) -> Result<()> {
        let driver = self.able(|caps| caps.write, "change who reaches an image")?;
        match driver.shares() {
            Some(shares) => shares.share(at, access).await,
            None => Err(self.knows_no_owners()),
        }
    }

    fn knows_no_owners(&self) -> Error {
        let what = "this store's images have no owners who could let others reach one, as those of type \
                    swift with swift_store_multi_tenant have";
        Error::new(Kind::Unsupported, format!("{what}: store=`{}`", self.name()))
    }

    /// Every image in the store, in no order.
    ///
    /// # Errors
    /// `Unsupported` if the store cannot tell.
    pub fn list(&self) -> Result<BoxStream<'static, Result<Listed>>> {
        Ok(self.able(|caps| caps.list, "list images")?.list())
    }
}
