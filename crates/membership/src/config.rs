//! What can be tuned, and every limit of this module.

use std::net::SocketAddr;
use std::time::Duration;

/// Links (addresses with whom datagrams pass) that are kept; beyond it the one that was silent
/// longest goes, and must prove itself again.
pub const LINKS_MAX: usize = 4096;
/// Frames that wait for one link's proof; beyond it the oldest is dropped.
pub(crate) const WAITING_FRAMES_MAX: usize = 8;
/// Addresses that wait for the owner to find out who is there; a further one is not noted.
pub(crate) const STRANGERS_MAX: usize = 64;
/// How often the owner is asked to find out who is at an address, and how many times at once;
/// whoever forges an address can make it dial there so often and no more.
pub(crate) const KNOCKS_PER_S: u32 = 5;
/// See [`KNOCKS_PER_S`].
pub(crate) const KNOCKS_AT_ONCE: u32 = 20;
/// Statements about who is in that are spread at one time; what is beyond is asked for.
pub(crate) const STATEMENTS_SPREAD_MAX: usize = 256;
/// Datagrams that wait for the owner to take them; beyond it the oldest is dropped.
pub(crate) const TRANSMITS_MAX: usize = 16_384;
/// Events that wait for the owner to take them; beyond it application messages and heads are
/// dropped (members' comings and goings never are: those are bounded by [`MEMBERS_MAX`]).
pub(crate) const EVENTS_MAX: usize = 8192;
/// Members, living and remembered; what is told of a new one beyond it is passed over.
pub const MEMBERS_MAX: usize = 4096;
/// The longest exported member list in bytes; a longer one is refused.
pub const MEMBER_LIST_MAX_BYTES: usize = 512 * 1024;
/// Seeds that are remembered, and lost members that are looked for; a further one is ignored.
pub const SEEDS_MAX: usize = 1024;
/// Seeds and lost members that are greeted at once while nobody is known.
pub(crate) const GREETINGS_MAX: usize = 16;
/// Authors whose heads are held; beyond it the one that changed longest ago is forgotten, which
/// costs one repeated event.
pub const HEADS_MAX: usize = 4096;
/// Departures that are remembered, oldest forgotten first.
pub(crate) const DEPARTURES_MAX: usize = 4096;
/// Answers a second to addresses that have proven nothing, and how many may come at once.
pub(crate) const UNPROVEN_ANSWERS_PER_S: u32 = 2000;
/// Proofs a second that are checked, each of which costs two signatures and a key exchange, and how
/// many may come at once: all of a large cluster to one that starts.
pub(crate) const PROOFS_PER_S: u32 = 500;
/// See [`PROOFS_PER_S`].
pub(crate) const PROOFS_AT_ONCE: u32 = 2000;
/// Application messages a second that are taken from one session.
pub(crate) const MESSAGES_PER_S: u32 = 1000;
/// Broadcast datagrams a second that this node sends, and how many may go at once.
pub(crate) const BROADCAST_DATAGRAMS_PER_S: u32 = 2000;
/// Hints a second that are followed.
pub(crate) const HINTS_PER_S: u32 = 5;
/// A cluster of at most this many members is small: heads and broadcasts go to each directly.
pub(crate) const SMALL_CLUSTER: usize = 64;
/// How far above [`SMALL_CLUSTER`] a small cluster grows, and below it a large one shrinks, before
/// it changes over.
pub(crate) const SMALL_CLUSTER_SLACK: usize = 8;
/// How many random members a broadcast reaches in a large cluster.
pub(crate) const BROADCAST_SUBSET: usize = 16;

/// How often another node is probed, unless told otherwise.
pub const PROBE_PERIOD: Duration = Duration::from_millis(700);
/// How long a clean stop keeps a node's entries with the others, unless told otherwise.
pub const AWAY_GRACE: Duration = Duration::from_secs(30);

/// What can be tuned. The defaults suit a LAN.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// One random member is probed in each; at least 10 ms.
    pub probe_period: Duration,
    /// How long a probe waits before others are asked to try; well below `probe_period`.
    pub probe_round_trip: Duration,
    /// How long a suspect of a cluster of up to ten may contradict; grows with the logarithm of
    /// the cluster's size.
    pub suspicion: Duration,
    /// How long a node that said "away, back soon" stays a member.
    pub away_grace: Duration,
    /// How long a node that is down is remembered, and now and then looked for.
    pub remember_down: Duration,
    /// How often one seed that is no member is greeted, and one lost member, for ever.
    pub announce_period: Duration,
    /// How often member lists are exchanged over TCP.
    pub push_pull_period: Duration,
    /// Addresses to join through.
    pub seeds: Vec<SocketAddr>,
}

impl ClusterConfig {
    /// The defaults for probes of this period (10 ms or more): all that decides how soon a dead
    /// node is noticed grows and shrinks with it.
    pub fn probing_every(period: Duration) -> Self {
        let usual = Self::default();
        let scaled = |time: Duration| time.mul_f64(period.div_duration_f64(usual.probe_period));
        Self {
            probe_period: period,
            probe_round_trip: scaled(usual.probe_round_trip),
            suspicion: scaled(usual.suspicion),
            ..usual
        }
    }
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            probe_period: PROBE_PERIOD,
            probe_round_trip: Duration::from_millis(250),
            suspicion: Duration::from_millis(1200),
            away_grace: AWAY_GRACE,
            remember_down: Duration::from_secs(24 * 3600),
            announce_period: Duration::from_secs(30),
            push_pull_period: Duration::from_secs(30),
            seeds: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_probe_period_makes_every_judgement_slower_in_proportion() {
        let (usual, slow) = (
            ClusterConfig::default(),
            ClusterConfig::probing_every(Duration::from_millis(1400)),
        );
        assert_eq!(slow.probe_period, 2 * usual.probe_period);
        assert_eq!(slow.probe_round_trip, 2 * usual.probe_round_trip);
        assert_eq!(slow.suspicion, 2 * usual.suspicion);
        assert_eq!(slow.away_grace, usual.away_grace);
    }
}
