//! Names of the root that the kernel looked up because a foreign peer may have them.
//!
//! Such a name is an inode before any foreign peer is queried, and the kernel keeps an inode that
//! no program uses until it is short of memory. A program that tries names at random would fill the
//! memory of the kernel and of this process. A name therefore has a place here, and once the place
//! ends, the kernel is made to forget the name.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::error::FsError;
use super::inode::{Name, ROOT_INO};
use super::names::ResolvedName;
use super::namespace::{MountNamespace, in_root};
use super::staleness::KernelCaches;
use super::traits::Stale;

/// Maximum number of names. A user may have as many as there are free places: half of all if no
/// other user has any. One user therefore always leaves room for the next.
const NAMES_MAX: usize = 4096;
/// How long a name has its place. After that it makes room at the next lookup of a new name.
const PLACE_LIFETIME: Duration = Duration::from_secs(1);

/// The names that only foreign peers may have and that the kernel looked up lately.
pub(super) struct PossibleNames {
    pub(super) namespace: Arc<MountNamespace>,
    pub(super) caches: Arc<KernelCaches>,
    pub(super) places: Mutex<Places>,
}

impl PossibleNames {
    /// Returns what a name stands for that no native node shares, for the user `uid`. It is a file
    /// if a foreign peer has it or may have it.
    ///
    /// # Errors
    /// [`FsError::NotFound`] if no foreign peer has the name or is to be queried for it.
    /// [`FsError::Busy`] if the user looked up too many such names within [`PLACE_LIFETIME`].
    pub(super) fn look_up(&self, name: &Name, uid: u32) -> Result<ResolvedName, FsError> {
        let name = in_root(name).ok_or(FsError::NotFound)?;
        let foreign = self.namespace.content.foreign();
        let foreign = foreign.ok_or(FsError::NotFound)?;
        if foreign.known(name).is_none() {
            if !foreign.may_have(name) {
                return Err(FsError::NotFound);
            }
            let (ended, entered) = self.places.lock().enter(name, uid, Instant::now());
            let ended = ended.iter().filter(|name| foreign.known(name).is_none());
            ended.for_each(|name| self.forget(name));
            entered?;
        }
        Ok(self.namespace.foreign_listed())
    }

    /// Takes the result of a query for a name. A name that no foreign peer had is absent now, and
    /// the kernel forgets it.
    pub(super) fn note<T>(&self, name: &[u8], found: &Result<T, FsError>) {
        if matches!(found, Err(FsError::NotFound)) {
            self.forget(name);
        }
    }

    /// Makes the kernel forget a name.
    fn forget(&self, name: &[u8]) {
        self.caches.invalidate(Stale::Name {
            parent: ROOT_INO,
            name: name.into(),
        });
    }
}

/// The places, in the order in which they were taken.
#[derive(Default)]
pub(super) struct Places {
    order: VecDeque<(Instant, Box<[u8]>)>,
    /// User that has the place of each name.
    user_of: HashMap<Box<[u8]>, u32>,
    /// Number of places of each user.
    places_of: HashMap<u32, usize>,
}

impl Places {
    /// Gives a name a place if it has none. Also returns the names whose place ended.
    fn enter(
        &mut self,
        name: &[u8],
        uid: u32,
        now: Instant,
    ) -> (Vec<Box<[u8]>>, Result<(), FsError>) {
        let ended = self.end_old(now);
        if self.user_of.contains_key(name) {
            return (ended, Ok(()));
        }
        let own = self.places_of.get(&uid).copied().unwrap_or(0);
        if own >= NAMES_MAX - self.order.len() {
            return (ended, Err(FsError::Busy));
        }
        self.order.push_back((now, name.into()));
        self.user_of.insert(name.into(), uid);
        self.places_of.insert(uid, own + 1);
        (ended, Ok(()))
    }

    fn end_old(&mut self, now: Instant) -> Vec<Box<[u8]>> {
        let mut ended = Vec::new();
        while let Some((since, _)) = self.order.front() {
            if now.saturating_duration_since(*since) < PLACE_LIFETIME {
                break;
            }
            let Some((_, name)) = self.order.pop_front() else {
                break;
            };
            let uid = self.user_of.remove(&name);
            if let Some(places) = uid.and_then(|uid| self.places_of.get_mut(&uid)) {
                *places -= 1;
            }
            ended.push(name);
        }
        if !ended.is_empty() {
            self.places_of.retain(|_, places| *places > 0);
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> Vec<u8> {
        format!("name-{number}").into_bytes()
    }

    #[test]
    fn one_user_gets_half_of_the_places_and_leaves_room_for_another() {
        let (mut places, now) = (Places::default(), Instant::now());
        for number in 0..NAMES_MAX / 2 {
            assert_eq!(places.enter(&name(number), 7, now), (vec![], Ok(())));
        }
        let further = name(NAMES_MAX);
        assert_eq!(places.enter(&further, 7, now).1, Err(FsError::Busy));
        assert_eq!(places.enter(&name(0), 7, now).1, Ok(()), "it has a place");
        assert_eq!(places.enter(&further, 8, now).1, Ok(()));
    }

    #[test]
    fn old_places_end_when_a_new_name_needs_one() {
        let (mut places, begun) = (Places::default(), Instant::now());
        for number in 0..NAMES_MAX / 2 {
            places.enter(&name(number), 7, begun).1.unwrap();
        }
        let young = begun + PLACE_LIFETIME / 2;
        places.enter(b"young", 8, young).1.unwrap();
        let (ended, entered) = places.enter(b"new", 7, begun + PLACE_LIFETIME);
        assert_eq!(entered, Ok(()));
        assert_eq!(ended.len(), NAMES_MAX / 2);
        assert_eq!(*ended[0], *name(0));
        assert_eq!((places.order.len(), places.user_of.len()), (2, 2));
        assert_eq!(places.places_of, HashMap::from([(7, 1), (8, 1)]));
    }
}
