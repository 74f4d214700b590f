//! Members that break the rules: the offences that were reported, and the members that are ignored
//! for a while.
//!
//! Refusing a claim that its subject did not sign costs the verification of a signature, which is
//! far more than sending the claim. A member that makes such claims repeatedly is therefore ignored
//! until some time has passed.

use std::time::{Duration, Instant};

use super::config::MEMBERS_MAX;
use super::event::Offence;
use p2pfs_types::id::NodeId;
use p2pfs_types::keyed_buckets::KeyedBuckets;
use p2pfs_types::offences::{OffenceLog, Offending};

/// Number of forged claims of one member that are verified in a burst, before its frames are
/// ignored.
const FORGERIES_AT_ONCE: u32 = 16;
/// Time after which an ignored member may send one more forged claim.
const FORGERY_PERIOD: Duration = Duration::from_secs(1);

impl Offending for Offence {}

/// Members that broke the rules.
pub(super) struct Offenders {
    log: OffenceLog<(NodeId, Offence), Offence>,
    /// Number of forged claims that each member may still send.
    forgers: KeyedBuckets<NodeId>,
}

impl Default for Offenders {
    fn default() -> Self {
        Self {
            log: OffenceLog::reporting_once(MEMBERS_MAX),
            forgers: KeyedBuckets::one_in(FORGERY_PERIOD, FORGERIES_AT_ONCE, MEMBERS_MAX),
        }
    }
}

impl Offenders {
    /// Records an offence. Returns whether to report it.
    pub(super) fn record(&mut self, now: Instant, who: NodeId, what: Offence) -> bool {
        if what == Offence::SpeaksForOthers {
            self.forgers.take(who, 1, now);
        }
        self.log.record(now, &(who, what), what)
    }

    /// Returns whether frames of this member are handled.
    pub(super) fn is_heard(&self, now: Instant, who: &NodeId) -> bool {
        self.forgers.has_token(who, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_forger_is_ignored_for_a_while_and_reported_once() {
        let (mut offenders, start) = (Offenders::default(), Instant::now());
        let (liar, honest) = (NodeId::new([1; 32]), NodeId::new([2; 32]));
        let what = Offence::SpeaksForOthers;
        let mut told = 0;
        for _ in 0..FORGERIES_AT_ONCE {
            assert!(offenders.is_heard(start, &liar));
            told += u32::from(offenders.record(start, liar, what));
        }
        assert_eq!(told, 1);
        assert!(!offenders.is_heard(start, &liar));
        assert!(offenders.is_heard(start, &honest));
        let later = start + FORGERY_PERIOD;
        assert!(offenders.is_heard(later, &liar));
        offenders.record(later, liar, what);
        assert!(!offenders.is_heard(later, &liar));
    }

    #[test]
    fn a_wrong_clock_blocks_no_sender() {
        let (mut offenders, now) = (Offenders::default(), Instant::now());
        let who = NodeId::new([1; 32]);
        for _ in 0..2 * FORGERIES_AT_ONCE {
            offenders.record(now, who, Offence::AheadOfClock);
        }
        assert!(offenders.is_heard(now, &who));
    }
}
