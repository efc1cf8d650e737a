//! Locks on images in the [`World`]: those that somebody has put there, and librbd's own, which a handle
//! takes to write.

use crate::world::{At, Image, Watcher, World};

impl World {
    /// Whether somebody has put a lock on the image.
    pub(crate) fn is_locked(&self, at: &At) -> bool {
        self.image(at).is_ok_and(|image| image.locker.is_some())
    }

    /// The same of the image of this name, or with this internal id.
    pub(crate) fn is_name_locked(&self, pool: &str, image: &str) -> bool {
        self.named(pool, image).is_some_and(|image| image.locker.is_some())
    }

    /// Whether a handle of this client has librbd's own lock of the image of this name.
    pub(crate) fn is_owned(&self, pool: &str, name: &str, client: i64) -> bool {
        self.named(pool, name).is_some_and(|image| {
            let owns =
                |watcher: &Watcher| image.owner == Some(watcher.cookie) && watcher.client == client;
            image.watchers.iter().any(owns)
        })
    }

    /// Gives librbd's own lock to the handle of this cookie, whoever has it.
    pub(crate) fn own(&mut self, at: &At, cookie: u64) {
        if let Ok(image) = self.image_mut(at) {
            image.owner = Some(cookie);
        }
    }

    /// Takes it from that handle; whether it had it.
    pub(crate) fn disown(&mut self, at: &At, cookie: u64) -> bool {
        let image = self.image_mut(at).ok();
        image.is_some_and(|image| image.owner.take_if(|owner| *owner == cookie).is_some())
    }

    fn named(&self, pool: &str, image: &str) -> Option<&Image> {
        let pool = self.pool(pool).ok()?;
        pool.images.get(pool.names.get(image).map_or(image, String::as_str))
    }
}
