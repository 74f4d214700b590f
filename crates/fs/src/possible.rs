//! Names of the root that the kernel looked up because a foreign peer may have them.
//!
//! Such a name is an inode before any foreign peer is queried, and the kernel keeps an inode that
//! no program uses until it is short of memory. A program that tries names at random would fill the
//! memory of the kernel and of this process. A name therefore has a slot here for a short time.
//! The kernel is made to forget the name when the last query for it ends, or when its slot ends
//! without one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::error::FsError;
use super::inode::Name;
use super::names::ResolvedName;
use super::namespace::{MountNamespace, in_root};
use super::queries::Waiting;
use super::staleness::KernelCaches;
use super::traits::{LaterReply, Stale};

/// Maximum number of slots. A user gets a further slot only while it has fewer than are free: half
/// of all if no other user has any. One user therefore always leaves room for the next.
const SLOTS_MAX: usize = 4096;
/// Lifetime of a slot. An older slot ends at the next lookup of a name that a foreign peer may have.
const SLOT_LIFETIME: Duration = Duration::from_secs(1);

/// The names that only foreign peers may have and that the kernel looked up lately.
pub(super) struct PossibleNames {
    pub(super) namespace: Arc<MountNamespace>,
    pub(super) caches: Arc<KernelCaches>,
    pub(super) slots: Mutex<NameSlots>,
}

impl PossibleNames {
    /// Looks up a name that no native node shares, for the user `uid`. It is a file if a foreign
    /// peer has it or may have it.
    ///
    /// # Errors
    /// [`FsError::NotFound`] if no foreign peer has the name or is to be queried for it.
    /// [`FsError::Busy`] if the user looked up too many such names within [`SLOT_LIFETIME`].
    pub(super) fn look_up(&self, name: &Name, uid: u32) -> Result<ResolvedName, FsError> {
        let name = in_root(name).ok_or(FsError::NotFound)?;
        let foreign = self.namespace.content.foreign();
        let foreign = foreign.ok_or(FsError::NotFound)?;
        if foreign.known(name).is_none() {
            if !foreign.may_have(name) {
                return Err(FsError::NotFound);
            }
            let (ended, entered) = self.slots.lock().enter(name, uid, Instant::now());
            let queries = &self.namespace.queries;
            let unasked = ended.into_iter().filter(|it| !queries.is_running(it));
            unasked.for_each(|name| self.forget(name));
            entered?;
        }
        Ok(self.namespace.foreign_listed())
    }

    /// Keeps a name known to the kernel while a query for it runs, because a program is about to
    /// open it. The query ends when the returned value is dropped. If a node of the cluster shares
    /// the name before that, the request ends with [`FsError::Gone`].
    pub(super) fn begin_query<T: 'static>(
        self: &Arc<Self>,
        name: &[u8],
        reply: LaterReply<T>,
    ) -> RunningQuery<T> {
        let waiting = self.namespace.queries.begin(name, reply);
        // The name may have been shared since its lookup.
        if self.namespace.is_shared(name) {
            waiting.reply(|| Err(FsError::Gone));
        }
        RunningQuery {
            possible: self.clone(),
            name: name.into(),
            waiting,
        }
    }

    /// Makes the kernel forget a name, unless it stands for something by then.
    fn forget(&self, name: Box<[u8]>) {
        self.caches.invalidate(Stale::PossibleName { name });
    }
}

/// A query for a name that runs.
pub(super) struct RunningQuery<T: 'static> {
    possible: Arc<PossibleNames>,
    name: Box<[u8]>,
    /// The request that waits for the query.
    pub(super) waiting: Arc<Waiting<T>>,
}

impl<T: 'static> Drop for RunningQuery<T> {
    fn drop(&mut self) {
        let queries = &self.possible.namespace.queries;
        if queries.end(&self.name, &self.waiting) {
            self.possible.forget(std::mem::take(&mut self.name));
        }
    }
}

/// The slots, in the order in which they began.
#[derive(Default)]
pub(super) struct NameSlots {
    order: VecDeque<(Instant, Box<[u8]>)>,
    /// User that has the slot of each name.
    user_of: HashMap<Box<[u8]>, u32>,
    /// Number of slots of each user.
    slots_of: HashMap<u32, usize>,
}

impl NameSlots {
    /// Gives a name a slot if it has none. Also returns the names that the kernel is to forget,
    /// because their slots ended.
    fn enter(
        &mut self,
        name: &[u8],
        uid: u32,
        now: Instant,
    ) -> (Vec<Box<[u8]>>, Result<(), FsError>) {
        let mut ended = self.end_old(now);
        if self.user_of.contains_key(name) {
            return (ended, Ok(()));
        }
        let own = self.slots_of.get(&uid).copied().unwrap_or(0);
        if own >= SLOTS_MAX - self.order.len() {
            return (ended, Err(FsError::Busy));
        }
        ended.retain(|it| **it != *name);
        self.order.push_back((now, name.into()));
        self.user_of.insert(name.into(), uid);
        self.slots_of.insert(uid, own + 1);
        (ended, Ok(()))
    }

    fn end_old(&mut self, now: Instant) -> Vec<Box<[u8]>> {
        let mut ended = Vec::new();
        let is_old = |since: Instant| now.saturating_duration_since(since) >= SLOT_LIFETIME;
        while let Some((_, name)) = self.order.pop_front_if(|(since, _)| is_old(*since)) {
            let uid = self.user_of.remove(&name);
            if let Some(slots) = uid.and_then(|uid| self.slots_of.get_mut(&uid)) {
                *slots -= 1;
            }
            ended.push(name);
        }
        self.slots_of.retain(|_, slots| *slots > 0);
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
    fn one_user_gets_half_of_the_slots_and_leaves_room_for_another() {
        let (mut slots, now) = (NameSlots::default(), Instant::now());
        for number in 0..SLOTS_MAX / 2 {
            assert_eq!(slots.enter(&name(number), 7, now), (vec![], Ok(())));
        }
        let further = name(SLOTS_MAX);
        assert_eq!(slots.enter(&further, 7, now).1, Err(FsError::Busy));
        assert_eq!(slots.enter(&name(0), 7, now).1, Ok(()), "it has a slot");
        assert_eq!(slots.enter(&further, 8, now).1, Ok(()));
    }

    #[test]
    fn old_slots_end_at_the_next_lookup() {
        let (mut slots, begun) = (NameSlots::default(), Instant::now());
        for number in 0..SLOTS_MAX / 2 {
            slots.enter(&name(number), 7, begun).1.unwrap();
        }
        let young = begun + SLOT_LIFETIME / 2;
        slots.enter(b"young", 8, young).1.unwrap();
        let (ended, entered) = slots.enter(b"new", 7, begun + SLOT_LIFETIME);
        assert_eq!(entered, Ok(()));
        assert_eq!(ended.len(), SLOTS_MAX / 2);
        assert_eq!(*ended[0], *name(0));
        assert_eq!((slots.order.len(), slots.user_of.len()), (2, 2));
        assert_eq!(slots.slots_of, HashMap::from([(7, 1), (8, 1)]));
    }

    #[test]
    fn a_name_that_is_looked_up_again_gets_a_new_slot_and_is_kept() {
        let (mut slots, begun) = (NameSlots::default(), Instant::now());
        slots.enter(b"again", 7, begun).1.unwrap();
        let (ended, entered) = slots.enter(b"again", 7, begun + SLOT_LIFETIME);
        assert_eq!((ended, entered), (vec![], Ok(())));
        assert_eq!(slots.slots_of, HashMap::from([(7, 1)]));
    }
}
