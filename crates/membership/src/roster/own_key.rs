//! Other lives of this node, which members reported, and how often they may force this node into
//! its next one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use p2pfs_proto::wire::native::udp::Contact;
use p2pfs_types::bucket::TokenBucket;

/// Interval at which members may force this node into one more new generation. A restart after a
/// crash needs some at once, so a burst of [`RENEWALS_AT_ONCE`] is allowed. The limit keeps two
/// processes with one key from flooding the network with contradictions.
const RENEWAL_PERIOD: Duration = Duration::from_secs(5);
pub(super) const RENEWALS_AT_ONCE: u32 = 6;
/// Minimum time between two forced new generations while another process is known to use this
/// node's key. Each of the two processes is then heard for a while.
const QUARREL_PERIOD: Duration = Duration::from_secs(30);
/// Maximum number of other lives of this node that wait to be examined. Further ones are dropped,
/// because members report them again.
const OTHER_LIVES_MAX: usize = 8;

/// A later life of this node that a member reported, and whether this node continues after it.
pub(crate) type OtherLife = (Contact, bool);

/// The use of this node's key by this and by other processes.
pub(crate) struct OwnKeyUse {
    renewals: TokenBucket,
    other_lives: VecDeque<OtherLife>,
}

impl OwnKeyUse {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            renewals: TokenBucket::one_in(RENEWAL_PERIOD, RENEWALS_AT_ONCE, now),
            other_lives: VecDeque::new(),
        }
    }

    /// Returns whether a contradiction is allowed now, and consumes the allowance.
    pub(crate) fn take_renewal(&mut self, now: Instant) -> bool {
        self.renewals.take(1, now)
    }

    /// Limits contradictions more strictly if another process has begun to use this node's key
    /// (`begins`), and as usual once no other process uses it any longer. Only [`Roster::quarrel`]
    /// calls this, together with [`EngineTuning::set_quarrel`].
    ///
    /// [`Roster::quarrel`]: super::Roster::quarrel
    /// [`EngineTuning::set_quarrel`]: super::tuning::EngineTuning::set_quarrel
    pub(super) fn limit_renewals(&mut self, now: Instant, begins: bool) {
        self.renewals = if begins {
            TokenBucket::one_in(QUARREL_PERIOD, 1, now)
        } else {
            TokenBucket::one_in(RENEWAL_PERIOD, RENEWALS_AT_ONCE, now)
        };
    }

    /// Queues a reported life, unless [`OTHER_LIVES_MAX`] are queued already.
    pub(super) fn report(&mut self, life: OtherLife) {
        if self.other_lives.len() < OTHER_LIVES_MAX {
            self.other_lives.push_back(life);
        }
    }

    /// Returns the next later life of this node that members reported.
    pub(crate) fn poll_other_life(&mut self) -> Option<OtherLife> {
        self.other_lives.pop_front()
    }
}
