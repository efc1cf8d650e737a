//! What the processes of one user have of this daemon: connections, and threads for the descriptors
//! that they pass.
//!
//! One user's descriptors can stop only that user: whoever passes files that cannot be closed, or
//! keeps every connection that there is, uses up a share of their own.

use std::{collections::HashMap, sync::Arc, time::Duration};

use imaged_drivers::lane::Lane;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::wire::stream::Lanes;

/// Calls at a time that look at and read the descriptors of one user.
const PLACES: usize = 16;
/// How long such a call may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// As many descriptors of one user may wait to be closed before no more are taken of that user.
const UNCLOSED: usize = 64;

/// Everybody who is connected.
#[derive(Debug)]
pub(crate) struct Users {
    places: Arc<Semaphore>,
    each: usize,
    users: Mutex<HashMap<u32, Arc<User>>>,
}

/// One user.
#[derive(Debug)]
struct User {
    places: Arc<Semaphore>,
    lanes: Lanes,
}

/// A connection's place among those that there may be, until its socket is closed.
#[derive(Debug)]
pub(crate) struct Place {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

/// Which limit keeps a caller out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// `connection_limit`
    All,
    /// `connection_limit_per_user`
    User,
}

impl Users {
    /// No connections yet; `all` connections are the most at a time, and `each` of one user.
    pub(crate) fn new(all: usize, each: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(all)), each, users: Mutex::default() }
    }

    /// The lanes of `uid`, and a place for one more connection, if there is one.
    pub(crate) fn admit(&self, uid: u32) -> (Lanes, Result<Place, Full>) {
        let user = self.user(uid);
        let place = Arc::clone(&user.places)
            .try_acquire_owned()
            .map_err(|_full| Full::User)
            .and_then(|own| {
                let all = Arc::clone(&self.places).try_acquire_owned();
                Ok(Place { _all: all.map_err(|_full| Full::All)?, _own: own })
            });
        (user.lanes.clone(), place)
    }

    fn user(&self, uid: u32) -> Arc<User> {
        let mut users = self.users.lock();
        // Whoever is gone, with all that they left, is forgotten.
        users.retain(|other, user| {
            let connected = user.places.available_permits() < self.each;
            let Lanes { descriptors, sockets } = &user.lanes;
            *other == uid || connected || !descriptors.is_idle() || !sockets.is_idle()
        });
        let user = users.entry(uid).or_insert_with(|| {
            let lane = |what| Lane::new(&format!("{what} of uid {uid}"), PLACES, PATIENCE);
            let descriptors = lane("descriptors").with_drops(UNCLOSED);
            Arc::new(User {
                places: Arc::new(Semaphore::new(self.each)),
                lanes: Lanes { descriptors, sockets: lane("sockets") },
            })
        });
        Arc::clone(user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_take_the_places_of_others() {
        let users = Users::new(3, 2);
        let admit = |uid| users.admit(uid).1;
        let mine = [admit(1).unwrap(), admit(1).unwrap()];
        assert_eq!(admit(1).unwrap_err(), Full::User);
        let other = admit(2).unwrap();
        assert_eq!(admit(2).unwrap_err(), Full::All);
        drop(mine);
        let more = [admit(2).unwrap(), admit(1).unwrap()];
        assert_eq!(admit(1).unwrap_err(), Full::All);
        drop((other, more));
        for uid in 3..100 {
            admit(uid).unwrap();
        }
        assert_eq!(users.users.lock().len(), 1, "those who are gone are forgotten");
    }
}
