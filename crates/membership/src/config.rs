//! Settings, and every limit of this crate.

use std::net::SocketAddr;
use std::time::Duration;

/// Maximum number of links (addresses with which datagrams are exchanged). Beyond it the link that
/// was silent longest is dropped, and its peer must prove itself again.
pub const LINKS_MAX: usize = 4096;
/// Maximum number of proven addresses of one node. Beyond it the one that was silent longest is
/// dropped.
pub(crate) const ROUTES_MAX: usize = 8;
/// Maximum number of frames that wait for one link's proof. Beyond it the oldest is dropped.
pub(crate) const WAITING_FRAMES_MAX: usize = 8;
/// Maximum number of addresses that wait for the owner to identify their nodes. Further ones are
/// ignored.
pub(crate) const STRANGERS_MAX: usize = 64;
/// Rate at which the owner is asked to identify the node at an address. It bounds how often a
/// forged address can make the owner dial there.
pub(crate) const KNOCKS_PER_S: u32 = 5;
/// Burst limit for [`KNOCKS_PER_S`].
pub(crate) const KNOCKS_AT_ONCE: u32 = 20;
/// Maximum number of membership statements that are spread at one time. Further ones reach members
/// only when these ask for statements.
pub(crate) const STATEMENTS_SPREAD_MAX: usize = 256;
/// Maximum number of datagrams that wait for the owner. Beyond it the oldest is dropped.
pub(crate) const TRANSMITS_MAX: usize = 16_384;
/// Maximum number of events that wait for the owner. Beyond it, events that a peer can cause at
/// will are dropped: messages, heads, statements, strangers and offences. Changes of members are
/// never dropped, because [`MEMBERS_MAX`] bounds them.
pub(crate) const EVENTS_MAX: usize = 8192;
/// Maximum number of members, living and remembered. News about further ones is ignored.
pub const MEMBERS_MAX: usize = 4096;
/// Maximum size of an exported member list in bytes. A longer one is refused.
pub const MEMBER_LIST_MAX_BYTES: usize = 512 * 1024;
/// Maximum number of remembered seeds, and of lost members that are greeted. Further ones are
/// ignored.
pub const SEEDS_MAX: usize = 1024;
/// Maximum number of seeds and lost members that are greeted at once while no member is known.
pub(crate) const GREETINGS_MAX: usize = 16;
/// Maximum number of authors with a stored head. Beyond it the one that changed longest ago is
/// forgotten, which costs one repeated event.
pub const HEADS_MAX: usize = 4096;
/// Maximum number of remembered departures. The oldest is forgotten first.
pub(crate) const DEPARTURES_MAX: usize = 4096;
/// Answers per second to unproven addresses, and the burst limit.
pub(crate) const UNPROVEN_ANSWERS_PER_S: u32 = 2000;
/// Proofs per second that are verified. Each costs two signatures and a key exchange.
pub(crate) const PROOFS_PER_S: u32 = 500;
/// Burst limit for [`PROOFS_PER_S`]: all of a large cluster at a node that starts.
pub(crate) const PROOFS_AT_ONCE: u32 = 2000;
/// Application messages and frames of rumors per second that are accepted from one session, and the
/// burst limit.
pub(crate) const MESSAGES_PER_S: u32 = 1000;
/// Broadcast datagrams per second that this node sends, and the burst limit.
pub(crate) const BROADCAST_DATAGRAMS_PER_S: u32 = 2000;
/// Hints per second that are followed.
pub(crate) const HINTS_PER_S: u32 = 5;
/// Maximum number of members of a small cluster, in which heads and broadcasts go to each member
/// directly.
pub(crate) const SMALL_CLUSTER: usize = 64;
/// Distance to [`SMALL_CLUSTER`] at which a growing small cluster becomes large, and a shrinking
/// large one small.
pub(crate) const SMALL_CLUSTER_SLACK: usize = 8;
/// Number of random members that a broadcast reaches in a large cluster.
pub(crate) const BROADCAST_SUBSET: usize = 16;

/// Default time between probes.
pub const PROBE_PERIOD: Duration = Duration::from_millis(700);
/// Default time for which other members keep the entries of a cleanly stopped node.
pub const AWAY_GRACE: Duration = Duration::from_secs(30);

/// Settings of the membership. The defaults suit a LAN.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Time between probes of one random member each; at least 10 ms.
    pub probe_period: Duration,
    /// Time for which a probe waits before other members are asked to try; well below
    /// `probe_period`.
    pub probe_round_trip: Duration,
    /// Time for which a suspect can contradict in a cluster of up to ten members. It grows with the
    /// logarithm of the cluster's size.
    pub suspicion: Duration,
    /// Time for which a node that announced its return stays a member.
    pub away_grace: Duration,
    /// Time for which a node that is down is remembered and occasionally greeted.
    pub remember_down: Duration,
    /// Time between greetings while a member is known. Each time, one seed that is not a member and
    /// one lost member are greeted.
    pub announce_period: Duration,
    /// Time between exchanges of member lists over TCP.
    pub push_pull_period: Duration,
    /// Addresses to join through.
    pub seeds: Vec<SocketAddr>,
}

impl ClusterConfig {
    /// Returns the defaults for this probe period (10 ms or more). All times that determine how
    /// soon a dead node is noticed scale with it.
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
    fn a_longer_probe_period_slows_every_judgement_in_proportion() {
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
