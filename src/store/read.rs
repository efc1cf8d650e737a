//! Reading, looking at and listing images.

use futures_util::stream::BoxStream;
use imaged_drivers::{Driver, Listed, Location, Reader, Result, Span, Stat, window::Window};

use super::Store;

impl Store {
    /// Opens an image for reading. `chunk` is what the reader is given at a time; two are in
    /// memory.
    ///
    /// # Errors
    /// See [`Driver::open`]; `Unsupported` if the store can only read whole images.
    pub async fn open(&self, at: &Location, span: Span, chunk: usize) -> Result<Reader> {
        let driver = self.able(|caps| caps.seek || span == Span::All, "read a part of an image")?;
        let window = self.window(driver.as_ref(), chunk).await?;
        driver.open(at, span, window).await
    }

    /// Memory for reading, as the backend likes it, or two of `chunk` bytes.
    pub(super) async fn window(&self, driver: &dyn Driver, chunk: usize) -> Result<Window> {
        let (chunk, chunks) = driver.reads().unwrap_or((chunk, 2));
        self.shared.budget.window(chunk, chunks).await
    }

    /// Looks at an image.
    ///
    /// # Errors
    /// See [`Driver::stat`].
    pub async fn stat(&self, at: &Location) -> Result<Stat> {
        self.driver()?.stat(at).await
    }

    /// Every image in the store, in no order.
    ///
    /// # Errors
    /// `Unsupported` if the store cannot tell.
    pub fn list(&self) -> Result<BoxStream<'static, Result<Listed>>> {
        Ok(self.able(|caps| caps.list, "list images")?.list())
    }
}
