//! The contract, as far as a store keeps it that is only read.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream, stream::BoxStream};

use super::{
    config::Config, exchange::Servers, location::Location, object, object::Validator,
    read::Download,
};
use crate::{
    contract::{
        Body, Capacity, Caps, Claim, Digests, Driver, Error, Hold, Host, ImageId, Kind, Listed,
        NewImage, Reader, Recovered, Result, Span, Stat, Upload,
    },
    kit::{
        addresses::Guard,
        http::{Answer, Client, Method, Settings, header::RANGE},
        refusals::{foreign, missing},
        window::Window,
    },
};

/// Opens the store `name`; see [`crate::open`]. No server is asked.
///
/// # Errors
/// `Invalid` if the file of certificates or a proxy cannot be used.
pub async fn open(config: &Config, name: &str, _host: &Host) -> Result<Arc<dyn Driver>> {
    let client = Client::new(Settings {
        ca: config.ca.clone(),
        insecure: config.insecure,
        proxy: config.proxy.clone(),
        connect: config.connect,
        progress: config.progress,
        connections: config.connections,
        retries: config.retries,
        guard: Some(Guard::new(config.rules.clone())),
        ..Settings::new(name)
    })?;
    let servers = Servers { client, insecure: config.insecure };
    let (base, retries) = (config.base.clone(), config.retries);
    Ok(Arc::new(Http { name: name.to_owned(), servers, base, retries }))
}

/// Images on servers of the web.
#[derive(Debug)]
struct Http {
    name: String,
    servers: Servers,
    base: Option<Location>,
    retries: usize,
}

impl Http {
    fn own<'a>(&self, at: &'a crate::Location) -> Result<&'a Location> {
        let crate::Location::Http(own) = at else { return Err(foreign(at, &self.name)) };
        Ok(own)
    }

    fn only_read(&self) -> Error {
        let what = "images on the web are only read; use another store";
        Error::new(Kind::Unsupported, format!("{what}: store=`{}`", self.name))
    }

    /// What an answer means that brings no image.
    async fn refusal(&self, answer: Answer, at: &Location) -> Error {
        match answer.status.as_u16() {
            404 | 410 => missing(at, &self.name),
            _ => answer.failure("give the image").await,
        }
    }

    /// What is known of an image without reading it.
    async fn look(&self, at: &Location) -> Result<Stat> {
        let (answer, _) = self.servers.ask(Method::HEAD, at, &[]).await?;
        if answer.status == 200 {
            let size = object::brings(&answer)?.size;
            // Servers that make up their answers know no length before, or say 0.
            if let Some(size) = size.filter(|size| *size > 0) {
                return Ok(Stat { size, digests: None, version: object::etag(&answer) });
            }
        } else if matches!(answer.status.as_u16(), 404 | 410 | 429 | 500 | 502..) {
            return Err(self.refusal(answer, at).await);
        }
        // Not every server answers HEAD, and some URLs are signed for GET alone.
        self.look_by_reading(at).await
    }

    /// The same by asking for the first byte.
    async fn look_by_reading(&self, at: &Location) -> Result<Stat> {
        let (answer, _) = self.servers.ask(Method::GET, at, &[(RANGE, "bytes=0-0")]).await?;
        let size = match answer.status.as_u16() {
            200 | 206 => object::brings(&answer)?.size,
            416 => object::size_outside(&answer),
            _ => return Err(self.refusal(answer, at).await),
        };
        let size = size.ok_or_else(|| object::lengthless(&answer))?;
        Ok(Stat { size, digests: None, version: object::etag(&answer) })
    }

    /// Asks for `span`, and reads what its answer says. `None` if it does not say how long the image is.
    async fn begin(
        &self,
        at: &Location,
        span: Span,
        range: Option<&str>,
        window: Window,
    ) -> Result<Option<Reader>> {
        let headers: Vec<_> = range.map(|range| (RANGE, range)).into_iter().collect();
        let (answer, found) = self.servers.ask(Method::GET, at, &headers).await?;
        let version = object::etag(&answer);
        let reader = |size, range, body| Reader {
            at: crate::Location::Http(at.clone()),
            version,
            size,
            range,
            digests: None,
            body: Body::Stream(body),
        };
        match answer.status.as_u16() {
            200 | 206 => {}
            416 => {
                let size = object::size_outside(&answer);
                let what = "the range is outside the image";
                let Some(size) = size else { return Err(answer.error(Kind::Range, what)) };
                // Of an image without bytes no range can be had.
                return match span.of(size)? {
                    range if range.is_empty() => {
                        Ok(Some(reader(size, range, stream::empty().boxed())))
                    }
                    _ => {
                        Err(answer
                            .error(Kind::Unavailable, "the server refuses a range of the image"))
                    }
                };
            }
            _ => return Err(self.refusal(answer, at).await),
        }
        let brings = object::brings(&answer)?;
        let Some(size) = brings.size else { return Ok(None) };
        let wanted = span.of(size)?;
        let download = Download {
            servers: self.servers.clone(),
            retries: self.retries,
            asked: at.clone(),
            found,
            validator: Validator::of(&answer),
            size,
            next: wanted.start,
            end: wanted.end,
            window,
            leg: None,
            spare: bytes::Bytes::new(),
            failures: 0,
        };
        let body = download.begin(answer, brings.range)?;
        Ok(Some(reader(size, wanted, body)))
    }
}

#[async_trait]
impl Driver for Http {
    fn caps(&self) -> Caps {
        Caps {
            write: false,
            delete: false,
            seek: true,
            list: false,
            copy: false,
            descriptor: false,
            volumes: false,
            flatten: false,
        }
    }

    fn serves(&self, at: &crate::Location) -> bool {
        matches!(at, crate::Location::Http(_))
    }

    /// There is no server that all images are on: each read finds out for itself.
    async fn probe(&self) -> Result<Capacity> {
        Ok(Capacity::default())
    }

    fn place(&self, id: &ImageId) -> Option<crate::Location> {
        self.base.as_ref().map(|base| crate::Location::Http(base.below(id)))
    }

    async fn locate(&self, id: &ImageId) -> Result<crate::Location> {
        let Some(base) = &self.base else {
            return Err(Error::new(
                Kind::NotFound,
                format!(
                    "this store knows images by their locations, and by their ids only with \
                     imaged_http_base_url: id=`{id}` store=`{}`",
                    self.name
                ),
            ));
        };
        let at = base.below(id);
        self.look(&at).await?;
        Ok(crate::Location::Http(at))
    }

    async fn create(&self, _image: &NewImage) -> Result<Box<dyn Upload>> {
        Err(self.only_read())
    }

    async fn open(&self, at: &crate::Location, span: Span, window: Window) -> Result<Reader> {
        let at = self.own(at)?;
        if object::is_nothing(span) {
            // It is refused, unless the image is missing.
            span.of(self.look(at).await?.size)?;
        }
        let range = object::range(span);
        if let Some(reader) = self.begin(at, span, range.as_deref(), window.clone()).await? {
            return Ok(reader);
        }
        // A server that makes up its answer may know the length of a range.
        let stat = self.look_by_reading(at).await?;
        let range = object::range(span)
            .unwrap_or_else(|| format!("bytes=0-{}", stat.size.saturating_sub(1)));
        let reader = self.begin(at, span, Some(&range), window).await?;
        reader.ok_or_else(|| {
            let what = "the server does not say how long the image is";
            Error::new(Kind::Unsupported, format!("{what}: location=`{at}` store=`{}`", self.name))
        })
    }

    async fn stat(&self, at: &crate::Location) -> Result<Stat> {
        self.look(self.own(at)?).await
    }

    async fn delete(&self, at: &crate::Location, _hold: Hold) -> Result<()> {
        self.own(at)?;
        Err(self.only_read())
    }

    /// There is no place for digests on servers of others.
    async fn record(&self, at: &crate::Location, _claim: &Claim, _digests: &Digests) -> Result<()> {
        self.look(self.own(at)?).await.map(drop)
    }

    async fn recover(&self, _claim: &Claim, _token: Option<&str>) -> Result<Recovered> {
        Ok(Recovered::Nothing)
    }

    fn list(&self) -> BoxStream<'static, Result<Listed>> {
        stream::iter([Err(self.only_read())]).boxed()
    }
}
