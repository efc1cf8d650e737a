//! Locks that somebody has put on an image.

use std::ffi::c_int;

use crate::{
    errno::{Errno, Result, check, check_len},
    image::Image,
    sys,
    text::until_nul,
};

/// What librbd calls the lock that it takes by itself, to write, and gives to the next who asks.
const OWN: &str = "internal";

/// Who has put a lock on an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locker {
    /// Its name in the cluster, such as `client.4120`.
    pub client: String,
    /// Its name for the lock.
    pub lock: String,
    /// Its network address.
    pub address: String,
}

impl Image {
    /// Who has put a lock on it, as `rbd lock add` does, which is not given away until it is taken off.
    /// The lock that librbd itself takes to write is none of these. Blocks.
    ///
    /// # Errors
    /// `TIMEDOUT`.
    pub fn lockers(&self) -> Result<Vec<Locker>> {
        let (tag, lockers) = self.all_lockers()?;
        Ok(if tag == OWN { Vec::new() } else { lockers })
    }

    /// Who has the lock that librbd itself takes to write: it gives it to the next who asks, and who is gone is
    /// shut out of the cluster before it is taken from him. Blocks.
    ///
    /// # Errors
    /// `TIMEDOUT`.
    pub fn lock_owner(&self) -> Result<Option<Locker>> {
        let (tag, lockers) = self.all_lockers()?;
        Ok(lockers.into_iter().next().filter(|_| tag == OWN))
    }

    /// Gives back the lock that librbd takes to write, if this handle has it; the next change takes it
    /// again. Blocks.
    ///
    /// Implements: `int rbd_lock_release(rbd_image_t)`
    ///
    /// # Errors
    /// `PERM` if the client may not write to the pool any more; the handle has the lock still.
    pub fn release_lock(&self) -> Result<()> {
        // SAFETY: the image is open.
        match check(unsafe { sys::rbd_lock_release(self.raw()) }) {
            // It has none.
            Err(Errno::INVAL) => Ok(()),
            released => released.map(drop),
        }
    }

    /// All of them, and what they call their locks together. Blocks.
    ///
    /// Implements: `ssize_t rbd_list_lockers(rbd_image_t, int *exclusive, char *tag, size_t *tag_len,
    /// char *clients, size_t *clients_len, char *cookies, size_t *cookies_len, char *addrs, size_t
    /// *addrs_len)`
    ///
    /// # Errors
    /// `TIMEDOUT`.
    fn all_lockers(&self) -> Result<(String, Vec<Locker>)> {
        // Of the tag, the clients, their names for the lock, and their addresses.
        let mut lengths = [256_usize, 1024, 1024, 1024];
        for _ in 0..16 {
            let mut rooms = lengths.map(|length| vec![0_u8; length]);
            let mut exclusive: c_int = 0;
            let [tag, clients, cookies, addrs] = &mut rooms;
            let [tag_len, clients_len, cookies_len, addrs_len] = &mut lengths;
            // SAFETY: C writes at most as many bytes into each buffer as it is told, which is its length,
            // and says how many it wants or has written.
            let found = check_len(unsafe {
                sys::rbd_list_lockers(
                    self.raw(),
                    &raw mut exclusive,
                    tag.as_mut_ptr().cast(),
                    tag_len,
                    clients.as_mut_ptr().cast(),
                    clients_len,
                    cookies.as_mut_ptr().cast(),
                    cookies_len,
                    addrs.as_mut_ptr().cast(),
                    addrs_len,
                )
            });
            match found {
                Ok(0) => return Ok((String::new(), Vec::new())),
                Ok(count) => {
                    let texts = each(clients).zip(each(cookies)).zip(each(addrs)).take(count);
                    let locker = |((client, lock), address)| Locker { client, lock, address };
                    return Ok((until_nul(tag), texts.map(locker).collect()));
                }
                // More may come between two tries.
                Err(Errno::RANGE) => lengths = lengths.map(|wanted| wanted.saturating_add(256)),
                Err(error) => return Err(error),
            }
        }
        Err(Errno::RANGE)
    }
}

/// Texts one after the other, each ended by a NUL.
fn each(bytes: &[u8]) -> impl Iterator<Item = String> + '_ {
    bytes.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned())
}
