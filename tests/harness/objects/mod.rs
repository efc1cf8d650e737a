//! An object server whose every exchange can be made to fail, which no real one can be asked for: it keeps
//! images in memory, and speaks S3 or Swift on loopback.
//!
//! It keeps the rules that drivers lean on: exact lengths, ETags, conditions, the order and the least size of
//! parts, pages of listings. Signatures it does not verify, but it knows whose access keys are good.
//!
//! ```ignore
//! let objects = Objects::s3();
//! objects.fail(Rule::new(Fault::Later(503, 1)).on(Call::UploadPart).every(3));
//! ```

mod call;
mod checksums;
mod large;
mod parts;
mod s3;
mod space;
mod swift;
mod tests;

use super::service::{self, Fake};
pub(crate) use super::service::{Fault, REGION};
pub(crate) use call::Call;
use space::{Bucket, Space, Ways};

/// The bucket, or container, that is there from the beginning.
pub(crate) const BUCKET: &str = "images";

/// The access key, or the user, that is good from the beginning.
pub(crate) const USER: &str = "glance";

/// The secret of that user.
pub(crate) const SECRET: &str = "a-secret-that-nobody-may-see";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Dialect {
    #[default]
    S3,
    Swift,
}

/// When something goes wrong.
pub(crate) type Rule = service::Rule<Call>;

/// A server, until this is dropped.
pub(crate) type Objects = Fake<Space>;

impl Objects {
    pub(crate) fn s3() -> Self {
        let space = Space::default();
        Self::start_as(Dialect::S3, space, "")
    }

    /// `TempAuth` at `/auth/v1.0`, and a Keystone at `/v3`, of which [`USER`] is admitted to the project of
    /// that name.
    pub(crate) fn swift() -> Self {
        let space = Space::default();
        Self::start_as(Dialect::Swift, space, &format!("AUTH_{USER}"))
    }

    fn start_as(dialect: Dialect, mut space: Space, account: &str) -> Self {
        space.buckets.insert((account.to_owned(), BUCKET.to_owned()), Bucket::default());
        let credential = match dialect {
            Dialect::S3 => USER.to_owned(),
            Dialect::Swift => format!("{USER} {SECRET}"),
        };
        space.identity.admitted.insert(credential, account.to_owned());
        space.dialect = dialect;
        Self::start(space)
    }

    /// Everything that is there, a line each: objects, segments, and uploads that have not ended.
    pub(crate) fn left(&self) -> Vec<String> {
        self.service().left()
    }

    /// The names of all buckets, or containers of all accounts.
    pub(crate) fn buckets(&self) -> Vec<String> {
        self.service().buckets.keys().map(|(_, name)| name.clone()).collect()
    }

    /// The bytes of all that is there.
    pub(crate) fn bytes_held(&self) -> u64 {
        self.service().bytes_held()
    }

    /// The bytes of an object, or of all that it stands for.
    pub(crate) fn bytes_of(&self, key: &str) -> Option<Vec<u8>> {
        let mut space = self.service();
        let found = space.buckets.iter().find_map(|((account, _), bucket)| {
            Some((account.clone(), bucket.objects.get(key)?.clone()))
        });
        let (account, object) = found?;
        Some(large::whole(&mut space, &account, &object).0.0.concat())
    }

    /// What is kept with an object, and its tags.
    pub(crate) fn kept_with(&self, key: &str) -> Vec<(String, String)> {
        let space = self.service();
        let object = space.buckets.values().find_map(|bucket| bucket.objects.get(key)).unwrap();
        let headers = object.headers.iter().map(|(name, value)| (name.clone(), value.clone()));
        headers.chain(object.tags.iter().cloned()).collect()
    }

    /// Puts an object there, past everybody.
    pub(crate) fn place(&self, key: &str, bytes: &[u8]) {
        let mut space = self.service();
        let object = space::Object::new(
            bytes::Bytes::copy_from_slice(bytes).into(),
            std::collections::BTreeMap::new(),
        );
        let bucket = space.buckets.values_mut().next().unwrap();
        bucket.objects.insert(key.to_owned(), object);
    }

    /// Removes a bucket with all that is in it.
    pub(crate) fn remove_bucket(&self, name: &str) {
        self.service().buckets.retain(|(_, own), _| own != name);
    }

    /// It has other ways from now on.
    fn ways(&self, change: impl FnOnce(&mut Ways)) {
        change(&mut self.service().ways);
    }

    /// As radosgw has it: `If-None-Match` counts for `Put` alone, and `Complete` tells no ETag.
    pub(crate) fn like_radosgw(&self) {
        self.ways(|ways| (ways.conditional_complete, ways.complete_tells_etag) = (false, false));
    }

    /// `If-None-Match` counts for nothing.
    pub(crate) fn ignore_conditions(&self) {
        self.ways(|ways| (ways.conditional_put, ways.conditional_complete) = (false, false));
    }

    /// A page of a listing has at most so many lines.
    pub(crate) fn list_by(&self, page: usize) {
        self.ways(|ways| ways.page = page);
    }

    /// One request takes at most so many bytes, and a part that is not the last has at least so many.
    pub(crate) fn take_between(&self, least_part: u64, largest: u64) {
        self.ways(|ways| (ways.least_part, ways.largest) = (least_part, largest));
    }

    /// So many of the newest objects are not in a listing yet.
    pub(crate) fn leave_unlisted(&self, newest: usize) {
        self.ways(|ways| ways.unlisted = newest);
    }

    /// Swift: a container takes at most so many objects.
    pub(crate) fn hold_at_most(&self, objects: u64) {
        self.ways(|ways| ways.quota = Some(objects));
    }
}
