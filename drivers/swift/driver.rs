//! The contract, kept by a Swift.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use parking_lot::Mutex;

use super::{
    account::Call,
    config::{Config, MB},
    delete, failure, list, names,
    object::{Object, look},
    read,
    segments::Segments,
    share,
    store::{Place, Store, changed, is_there, no_container},
    upload::{self, remove_container},
};
use crate::{
    Location,
    contract::{
        Access, Body, Capacity, Caps, Claim, Digests, Driver, Hold, Host, ImageId, Listed,
        NewImage, Pieces, Properties, Reader, Recovered, Result, Shares, Span, Stat, Upload,
    },
    kit::{
        http::{Answer, HeaderName, Method, StatusCode},
        refusals::missing,
        see_through::see_through,
        stretches::READS,
        window::Window,
    },
};

/// Opens the store `name`; see [`crate::open`]. Its server is not asked yet.
///
/// # Errors
/// `Invalid` if `swift_store_config_file` or the file of certificates cannot be used.
pub async fn open(config: &Config, name: &str, _host: &Host) -> Result<Arc<dyn Driver>> {
    let store = Arc::new(Store::open(config, name).await?);
    Ok(Arc::new(Swift { store, reading_only: Mutex::default() }))
}

/// One store in a Swift.
#[derive(Debug)]
pub struct Swift {
    store: Arc<Store>,
    /// Why nothing can be written.
    reading_only: Mutex<Option<String>>,
}

impl Swift {
    /// The image at a place.
    async fn look(&self, place: &Place) -> Result<Object> {
        let found = look(&place.account, place.container(), place.object()).await?;
        let image = found.filter(|found| !found.segment);
        image.ok_or_else(|| missing(place.object(), &self.store.name))
    }

    /// Where an upload of `claim` was to put its image.
    async fn began_at(&self, claim: &Claim, token: Option<&str>) -> Result<Place> {
        // In which Swift an account of another tenant may lie is known from then on.
        let account = self.store.account()?;
        account.url().await?;
        let told = token.and_then(|token| token.parse::<super::Location>().ok());
        let Some(at) = told else {
            return self
                .store
                .place(claim.id())
                .ok_or_else(|| missing(claim.id(), &self.store.name));
        };
        let location = Location::Swift(at.clone());
        match self.store.find(&location) {
            // Its container was another one then.
            Err(_) if !self.store.config.multi_tenant => Ok(Place { account: account.clone(), at }),
            found => found,
        }
    }
}

#[async_trait]
impl Driver for Swift {
    fn caps(&self) -> Caps {
        Caps {
            write: true,
            delete: true,
            seek: true,
            // The accounts of all tenants are not known.
            list: !self.store.config.multi_tenant,
            copy: false,
            descriptor: false,
            volumes: false,
            flatten: false,
        }
    }

    fn serves(&self, at: &Location) -> bool {
        matches!(at, Location::Swift(at) if self.store.serves(at))
    }

    fn properties(&self) -> Properties {
        let Config { container, large, segment, .. } = &self.store.config;
        let segment = segment.unwrap_or(200 * MB);
        Properties::from([
            ("container".to_owned(), container.as_str().into()),
            ("large_object_size".to_owned(), (*large).into()),
            ("large_object_chunk_size".to_owned(), segment.into()),
        ])
    }

    fn busy(&self) -> usize {
        self.store.lane.busy()
    }

    fn reads(&self) -> Option<Pieces> {
        Some(READS)
    }

    fn shares(&self) -> Option<&dyn Shares> {
        self.store.config.multi_tenant.then_some(self as &dyn Shares)
    }

    async fn probe(&self) -> Result<Capacity> {
        let Config { multi_tenant, seed, create_container, container, .. } = &self.store.config;
        let account = match self.store.account() {
            Ok(account) => account,
            // Only callers can ask.
            Err(_) if *multi_tenant => return Ok(Capacity::default()),
            Err(error) => return Err(error),
        };
        let answer = account.send(&Call::account(Method::HEAD)).await?;
        if !answer.status.is_success() && answer.status != StatusCode::NOT_FOUND {
            return Err(failure::of(answer, "tell of the account").await);
        }
        let capacity = capacity(&answer);
        answer.finish().await;
        let one = !multi_tenant && *seed == 0 && !create_container;
        let reason = if one && !is_there(account, container).await? {
            Some(no_container(container, &self.store.name).to_string())
        } else {
            None
        };
        *self.reading_only.lock() = reason;
        Ok(capacity)
    }

    fn reading_only(&self) -> Option<String> {
        self.reading_only.lock().clone()
    }

    fn place(&self, id: &ImageId) -> Option<Location> {
        self.store.place(id).map(|place| place.location())
    }

    async fn locate(&self, id: &ImageId) -> Result<Location> {
        let place = match self.store.place(id) {
            Some(place) => place,
            None => self.store.new_place(id, &crate::contract::Context::default()).await?,
        };
        self.look(&place).await?;
        Ok(place.location())
    }

    async fn create(&self, image: &NewImage) -> Result<Box<dyn Upload>> {
        upload::create(&self.store, image).await
    }

    async fn open(&self, at: &Location, span: Span, window: Window) -> Result<Reader> {
        let place = self.store.find(at)?;
        let found = self.look(&place).await?;
        let layout = read::layout(&place, &found).await?;
        let (size, version) = (layout.size, Some(found.version()));
        let range = span.of(size)?;
        let body = read::body(&self.store, &place.account, layout, range.clone(), window);
        let (digests, body) = (found.digests, Body::Stream(body));
        Ok(Reader { at: at.clone(), version, size, range, digests, body })
    }

    async fn stat(&self, at: &Location) -> Result<Stat> {
        let place = self.store.find(at)?;
        let found = self.look(&place).await?;
        let size = found.whole(&place.account, place.object()).await?;
        Ok(Stat { size, version: Some(found.version()), digests: found.digests })
    }

    async fn delete(&self, at: &Location, hold: Hold) -> Result<()> {
        delete::delete(&self.store, self.store.find(at)?, hold).await
    }

    async fn record(&self, at: &Location, claim: &Claim, digests: &Digests) -> Result<()> {
        let place = self.store.find(at)?;
        let found = self.look(&place).await?;
        let call = Call::object(Method::POST, place.container(), place.object());
        let call = call.headers(found.with(digests));
        let store = self.store.name.clone();
        let post = async move {
            let answer = place.account.send(&call).await?;
            changed(answer, &place, &store, "keep digests").await
        };
        see_through(claim.clone(), post).await
    }

    async fn recover(&self, claim: &Claim, token: Option<&str>) -> Result<Recovered> {
        let place = self.began_at(claim, token).await?;
        let Place { account, .. } = &place;
        let found = look(account, place.container(), place.object()).await?;
        if found.is_some_and(|found| found.upload.as_deref() == Some(claim.nonce())) {
            return Ok(Recovered::Whole);
        }
        let segments = Segments {
            account: account.clone(),
            container: place.container().to_owned(),
            prefix: names::prefix(claim),
            delete_at: None,
            unwanted: Arc::default(),
        };
        let removed = segments.remove_unknown().await?;
        if self.store.config.multi_tenant {
            remove_container(&place).await;
        }
        if !removed.is_empty() {
            return Ok(Recovered::Removed(removed));
        }
        let whole = look(account, place.container(), place.object()).await?.is_some();
        Ok(if whole { Recovered::Whole } else { Recovered::Nothing })
    }

    fn list(&self) -> BoxStream<'static, Result<Listed>> {
        list::list(&self.store)
    }
}

#[async_trait]
impl Shares for Swift {
    async fn share(&self, at: &Location, access: &Access) -> Result<()> {
        let place = self.store.find(at)?;
        self.look(&place).await?;
        share::share(&self.store, &place, access).await
    }
}

/// The space of an account, where it has a quota.
fn capacity(answer: &Answer) -> Capacity {
    let number = |name: &'static str| -> Option<u64> {
        answer.header(&HeaderName::from_static(name))?.parse().ok()
    };
    let used = number("x-account-bytes-used");
    let total = number("x-account-meta-quota-bytes");
    let available = total.zip(used).map(|(total, used)| total.saturating_sub(used));
    Capacity { total, used, available, trash: None }
}
