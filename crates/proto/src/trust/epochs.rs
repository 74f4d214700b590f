//! The secrets of a cluster and their succession.
//!
//! A node opens messages under a new secret at once. It seals with the new secret
//! [`EPOCH_SWITCH_S`] later, when the announcement under the old secret should have reached the
//! others. It drops the old secret [`EPOCH_OVERLAP_S`] after that.

use std::sync::Arc;

use super::EpochSecret;
use p2pfs_types::id::EpochId;

/// Seconds before a node seals with a new secret. The announcement of the new secret is sealed with
/// the old one.
pub const EPOCH_SWITCH_S: u64 = 3;
/// Seconds after the switch for which a node still opens messages under the previous secret. Until
/// then an expelled node can read messages that other nodes still seal with it. Without the
/// overlap, datagrams in flight would be lost.
pub const EPOCH_OVERLAP_S: u64 = 60;
/// Maximum number of previous secrets. The one that ends first is dropped for another.
const OLD_MAX: usize = 4;

/// The secrets of a cluster that a node knows.
#[derive(Clone, Debug)]
pub struct Epochs {
    sealing: Arc<EpochSecret>,
    /// The next secret, and the time from which it seals.
    next: Option<(Arc<EpochSecret>, u64)>,
    /// At most [`OLD_MAX`] previous secrets, and the time when each ends.
    old: Vec<(Arc<EpochSecret>, u64)>,
}

impl Epochs {
    pub(super) fn new(secret: EpochSecret) -> Self {
        Self {
            sealing: Arc::new(secret),
            next: None,
            old: Vec::new(),
        }
    }

    /// Returns the secret that this node proves and seals with.
    pub fn sealing(&self) -> Arc<EpochSecret> {
        Arc::clone(&self.sealing)
    }

    /// Returns the newest secret, which a joining node receives: the next one, or the sealing one
    /// if there is no next one.
    pub fn newest(&self) -> Arc<EpochSecret> {
        Arc::clone(self.next.as_ref().map_or(&self.sealing, |(next, _)| next))
    }

    /// Returns the secret of an epoch, if it is known here.
    pub fn by_id(&self, id: EpochId) -> Option<&Arc<EpochSecret>> {
        self.all().find(|secret| secret.id() == id)
    }

    /// Returns all secrets, the sealing one first.
    pub fn all(&self) -> impl Iterator<Item = &Arc<EpochSecret>> {
        let next = self.next.iter().map(|(secret, _)| secret);
        let old = self.old.iter().map(|(secret, _)| secret);
        std::iter::once(&self.sealing).chain(next).chain(old)
    }

    pub(super) fn is_due(&self, now_s: u64) -> bool {
        let (latest_switch, latest_end) = latest(now_s);
        let is_due = |at: u64, latest: u64| at <= now_s || at > latest;
        let next = self.next.iter().any(|(_, at)| is_due(*at, latest_switch));
        next || self.old.iter().any(|(_, end)| is_due(*end, latest_end))
    }

    pub(super) fn tick(&mut self, now_s: u64) {
        // If the clock is set back, this node must not keep a secret that the others have dropped.
        let (latest_switch, latest_end) = latest(now_s);
        if let Some((_, from)) = &mut self.next {
            *from = latest_switch.min(*from);
        }
        for (_, end) in &mut self.old {
            *end = latest_end.min(*end);
        }
        if let Some((next, _)) = self.next.take_if(|(_, from)| *from <= now_s) {
            let before = std::mem::replace(&mut self.sealing, next);
            self.retire(before, now_s.saturating_add(EPOCH_OVERLAP_S));
        }
        self.old.retain(|(_, end)| *end > now_s);
    }

    /// Makes `secret` the newest one.
    pub(super) fn adopt(&mut self, secret: EpochSecret, now_s: u64) {
        if *self.newest() != secret {
            self.follow(Arc::new(secret), now_s);
        }
    }

    /// Makes the secret of `epoch` the newest one, if that secret is known. The ledger names the
    /// epoch, so all nodes choose the same secret of two concurrent rotations.
    pub(super) fn prefer(&mut self, epoch: EpochId, now_s: u64) {
        let known = self.by_id(epoch).cloned();
        if let Some(secret) = known
            && *self.newest() != *secret
        {
            self.follow(secret, now_s);
        }
    }

    fn follow(&mut self, secret: Arc<EpochSecret>, now_s: u64) {
        self.old.retain(|(old, _)| *old != secret);
        if let Some((unused, _)) = self.next.take()
            && unused != secret
        {
            self.retire(unused, latest(now_s).1);
        }
        if secret != self.sealing {
            self.next = Some((secret, latest(now_s).0));
        }
    }

    /// Adds a previous secret. Beyond [`OLD_MAX`], drops the one that ends first; of several, the
    /// one added first.
    fn retire(&mut self, secret: Arc<EpochSecret>, end_s: u64) {
        self.old.push((secret, end_s));
        if self.old.len() > OLD_MAX {
            // the sort is stable
            self.old.sort_by_key(|(_, end)| *end);
            self.old.remove(0);
        }
    }
}

/// Returns the latest times that a rotation now can lead to: of the switch to the next secret, and
/// of the end of the previous one.
fn latest(now_s: u64) -> (u64, u64) {
    let switch = now_s.saturating_add(EPOCH_SWITCH_S);
    (switch, switch.saturating_add(EPOCH_OVERLAP_S))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(byte: u8) -> EpochSecret {
        EpochSecret::new([byte; 32])
    }

    fn opens(epochs: &Epochs, byte: u8) -> bool {
        epochs.all().any(|known| **known == secret(byte))
    }

    #[test]
    fn a_new_secret_decrypts_at_once_encrypts_soon_and_retires_the_old_one() {
        let mut epochs = Epochs::new(secret(1));
        epochs.adopt(secret(2), 100);
        assert!(opens(&epochs, 2) && *epochs.sealing() == secret(1));
        let switch = 100 + EPOCH_SWITCH_S;
        assert!(!epochs.is_due(switch - 1) && epochs.is_due(switch));
        epochs.tick(switch);
        assert!(opens(&epochs, 1) && *epochs.sealing() == secret(2));
        epochs.tick(switch + EPOCH_OVERLAP_S - 1);
        assert!(opens(&epochs, 1));
        epochs.tick(switch + EPOCH_OVERLAP_S);
        assert!(!opens(&epochs, 1));
    }

    #[test]
    fn a_clock_set_back_delays_neither_the_switch_nor_the_end_of_the_old_secret() {
        let mut epochs = Epochs::new(secret(1));
        let tick = |epochs: &mut Epochs, now_s| {
            // As in the keyring, which changes nothing before something is due.
            if epochs.is_due(now_s) {
                epochs.tick(now_s);
            }
        };
        epochs.adopt(secret(2), 10_000);
        tick(&mut epochs, 10_001);
        tick(&mut epochs, 100);
        assert_eq!(*epochs.sealing(), secret(1));
        tick(&mut epochs, 100 + EPOCH_SWITCH_S);
        assert_eq!(*epochs.sealing(), secret(2));
        tick(&mut epochs, 10);
        assert!(opens(&epochs, 1));
        tick(&mut epochs, 10 + EPOCH_SWITCH_S + EPOCH_OVERLAP_S);
        assert!(!opens(&epochs, 1));
    }

    #[test]
    fn beyond_the_bound_the_oldest_secret_is_dropped() {
        let mut epochs = Epochs::new(secret(1));
        // each is replaced before its switch, except the last
        for number in 2..=6 {
            epochs.adopt(secret(number), u64::from(number));
        }
        epochs.tick(6 + EPOCH_SWITCH_S);
        assert_eq!(*epochs.sealing(), secret(6));
        assert!(!opens(&epochs, 2), "it is the oldest");
        assert!([1, 3, 4, 5].iter().all(|number| opens(&epochs, *number)));
        for number in 7..20 {
            epochs.adopt(secret(number), 10);
        }
        assert_eq!(epochs.all().count(), OLD_MAX + 2);
    }

    #[test]
    fn of_two_concurrent_rotations_the_preferred_is_used_and_the_other_still_decrypts() {
        let mut epochs = Epochs::new(secret(1));
        epochs.adopt(secret(2), 0);
        epochs.adopt(secret(3), 1);
        epochs.prefer(secret(2).id(), 2);
        assert_eq!(*epochs.newest(), secret(2));
        assert!(opens(&epochs, 3));
        epochs.tick(2 + EPOCH_SWITCH_S);
        assert_eq!(*epochs.sealing(), secret(2));
        epochs.tick(200);
        assert_eq!(epochs.all().count(), 1);
    }
}
