//! Settings, and every limit of this crate.

use std::net::SocketAddr;
use std::time::Duration;

/// Maximum number of links (addresses with which datagrams are exchanged). Beyond it the unproven
/// link that was silent longest is dropped. If all are proven, it is the longest silent one of the
/// host with the most links.
pub const LINKS_MAX: usize = 4096;
/// Maximum number of proven addresses of one node. Beyond it the one that was silent longest is
/// dropped.
pub(crate) const ROUTES_MAX: usize = 8;
/// Maximum number of frames that wait for one link's proof. Beyond it the oldest is dropped.
pub(crate) const WAITING_FRAMES_MAX: usize = 8;
/// Maximum number of addresses that wait to be reported as [`super::Event::Stranger`]. Further ones
/// are ignored.
pub(crate) const STRANGERS_MAX: usize = 64;
/// Maximum number of times per second that the owner is asked to identify the node at an address.
/// It bounds how often forged addresses can make the owner dial.
pub(crate) const KNOCKS_PER_S: u32 = 5;
/// Burst limit for [`KNOCKS_PER_S`].
pub(crate) const KNOCKS_AT_ONCE: u32 = 20;
/// Maximum number of membership statements that are spread at one time. Further ones are not
/// spread. Members receive them when they ask for statements.
pub(crate) const STATEMENTS_SPREAD_MAX: usize = 256;
/// Maximum number of datagrams that wait for the owner. Beyond it the oldest is dropped.
pub(crate) const TRANSMITS_MAX: usize = 16_384;
/// Maximum number of events that wait for the owner. Beyond it, messages, heads, statements,
/// strangers and offences are dropped, because a peer can cause them at will. Changes of members
/// are never dropped.
pub(crate) const EVENTS_MAX: usize = 8192;
/// Maximum number of members, living and remembered. Beyond it, a node that speaks displaces a
/// member that never did, or one of the host with the most members.
pub const MEMBERS_MAX: usize = 4096;
/// Maximum number of nodes that members told of and that wait to be greeted. Beyond it, the oldest
/// that the same member told of is forgotten.
pub(crate) const CANDIDATES_MAX: usize = 4096;
/// Maximum number of such nodes that are greeted at once.
pub(crate) const GREETED_MAX: usize = 32;
/// Maximum number of them that one member told of.
pub(crate) const GREETED_PER_TELLER_MAX: usize = 8;
/// Maximum number of members that never answered this node: other members may reach them.
pub(crate) const UNMET_MAX: usize = 64;
/// Maximum number of them that one member told of.
pub(crate) const UNMET_PER_TELLER_MAX: usize = 8;
/// Maximum size in bytes of the list that another member exported. A longer one is refused.
pub const MEMBER_LIST_MAX_BYTES: usize = 512 * 1024;
/// Maximum number of remembered seeds, and also of remembered lost members. Further ones are
/// ignored.
pub const SEEDS_MAX: usize = 1024;
/// Maximum number of addresses that are greeted at once while no member is known.
pub(crate) const GREETINGS_MAX: usize = 16;
/// Maximum number of authors with a stored head, and of reported heads that are not confirmed.
/// Beyond it, the oldest head that the same member sent is forgotten. If it arrives again, it is
/// reported again.
pub const HEADS_MAX: usize = 4096;
/// Maximum number of remembered departures. Beyond it, the oldest that the same member sent is
/// forgotten.
pub(crate) const DEPARTURES_MAX: usize = 4096;
/// Maximum number of hellos and unproven datagrams that are answered per second, and the burst
/// limit.
pub(crate) const UNPROVEN_ANSWERS_PER_S: u32 = 2000;
/// Maximum number of proofs per second that are verified. Each usually costs two signature checks
/// and a key exchange.
pub(crate) const PROOFS_PER_S: u32 = 500;
/// Burst limit for [`PROOFS_PER_S`]. The members of a large cluster prove themselves at once to a
/// node that starts.
pub(crate) const PROOFS_AT_ONCE: u32 = 2000;
/// Application messages and frames of rumors per second that are accepted from one session, and the
/// burst limit.
pub(crate) const MESSAGES_PER_S: u32 = 1000;
/// Maximum number of broadcast datagrams that this node sends per second, and in one burst.
pub(crate) const BROADCAST_DATAGRAMS_PER_S: u32 = 2000;
/// Maximum number of hints that are followed per second, and of attempts at further addresses of
/// members. The burst limit is four times that.
pub(crate) const HINTS_PER_S: u32 = 5;
/// Approximate maximum number of nodes of a small cluster ([`SMALL_CLUSTER_SLACK`]). There a node
/// sends its head and its broadcasts to each member directly.
pub(crate) const SMALL_CLUSTER: usize = 64;
/// A small cluster becomes large above [`SMALL_CLUSTER`] plus this number of nodes. A large one
/// becomes small below [`SMALL_CLUSTER`] minus this number.
pub(crate) const SMALL_CLUSTER_SLACK: usize = 8;
/// Number of random members that a broadcast reaches in a large cluster.
pub(crate) const BROADCAST_SUBSET: usize = 16;

/// Default time between probes.
pub const PROBE_PERIOD: Duration = Duration::from_millis(700);
/// Default of [`ClusterConfig::away_grace`].
pub const AWAY_GRACE: Duration = Duration::from_secs(30);

/// Settings of the membership. The defaults suit a LAN.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Time between two probes, each of one member. Less than 10 ms counts as 10 ms.
    pub probe_period: Duration,
    /// Time for which a probe waits before other members are asked to try; well below
    /// `probe_period`.
    pub probe_round_trip: Duration,
    /// Time for which a suspect can contradict in a cluster of up to eight nodes. In a larger one
    /// the time grows with the logarithm of the number of nodes.
    pub suspicion: Duration,
    /// Time from [`super::Event::Away`] to [`super::Event::Down`], if the node does not return.
    pub away_grace: Duration,
    /// Time for which a node that is down is remembered and occasionally greeted.
    pub remember_down: Duration,
    /// Time between greetings while a member is known. Each time, at most one seed that is not a
    /// member's address and one address of a lost member are greeted.
    pub announce_period: Duration,
    /// Average time between two exchanges of member lists over TCP, after the first exchanges.
    pub push_pull_period: Duration,
    /// Addresses to join through.
    pub seeds: Vec<SocketAddr>,
}

impl ClusterConfig {
    /// Returns the defaults for this probe period. `probe_round_trip` and `suspicion` scale with
    /// it.
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
