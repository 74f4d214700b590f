//! Members that break the rules: of whom it was told, and who is not heard for a while.
//!
//! What its subject did not sign costs the check of a signature, which is far more than to send it:
//! who says such things again and again is not heard until some time has passed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::config::MEMBERS_MAX;
use super::event::Offence;
use p2pfs_types::bucket::TokenBucket;
use p2pfs_types::id::NodeId;

/// How many forgeries of one member are looked at: so many at once, and one more in each period.
const FORGERIES_AT_ONCE: u32 = 16;
/// See [`FORGERIES_AT_ONCE`].
const FORGERY_PERIOD: Duration = Duration::from_secs(1);

/// Who broke the rules.
#[derive(Default)]
pub(super) struct Offenders {
    /// Of whom it was told, and how; at most [`MEMBERS_MAX`].
    told: BTreeSet<(NodeId, Offence)>,
    /// Who forged something lately; at most [`MEMBERS_MAX`].
    forgers: BTreeMap<NodeId, TokenBucket>,
}

impl Offenders {
    /// Takes note of an offence; whether it is to be told of.
    pub(super) fn note(&mut self, now: Instant, who: NodeId, what: Offence) -> bool {
        if what == Offence::SpeaksForOthers {
            self.note_forgery(now, who);
        }
        self.told.len() < MEMBERS_MAX && self.told.insert((who, what))
    }

    /// Whether what this member says is to be looked at.
    pub(super) fn is_heard(&self, now: Instant, who: &NodeId) -> bool {
        let forger = self.forgers.get(who);
        forger.is_none_or(|bucket| bucket.ready_at() <= now)
    }

    fn note_forgery(&mut self, now: Instant, who: NodeId) {
        self.forgers.retain(|_, bucket| !bucket.is_full(now));
        if self.forgers.len() >= MEMBERS_MAX && !self.forgers.contains_key(&who) {
            self.forgers.pop_first();
        }
        let fresh = || TokenBucket::one_in(FORGERY_PERIOD, FORGERIES_AT_ONCE, now);
        self.forgers.entry(who).or_insert_with(fresh).take(1, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_forges_again_and_again_is_not_heard_for_a_while_and_told_of_once() {
        let (mut offenders, start) = (Offenders::default(), Instant::now());
        let (liar, honest) = (NodeId::new([1; 32]), NodeId::new([2; 32]));
        let what = Offence::SpeaksForOthers;
        let mut told = 0;
        for _ in 0..FORGERIES_AT_ONCE {
            assert!(offenders.is_heard(start, &liar));
            told += u32::from(offenders.note(start, liar, what));
        }
        assert_eq!(told, 1);
        assert!(!offenders.is_heard(start, &liar));
        assert!(offenders.is_heard(start, &honest));
        let later = start + FORGERY_PERIOD;
        assert!(offenders.is_heard(later, &liar));
        offenders.note(later, liar, what);
        assert!(!offenders.is_heard(later, &liar));
    }

    #[test]
    fn a_wrong_clock_keeps_nobody_from_being_heard() {
        let (mut offenders, now) = (Offenders::default(), Instant::now());
        let who = NodeId::new([1; 32]);
        for _ in 0..2 * FORGERIES_AT_ONCE {
            offenders.note(now, who, Offence::AheadOfClock);
        }
        assert!(offenders.is_heard(now, &who));
    }
}
