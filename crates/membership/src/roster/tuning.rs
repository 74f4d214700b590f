//! The engine's settings, some of which depend on the number of members.

use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::PeriodicParams;

use crate::config::ClusterConfig;
use p2pfs_proto::wire::native::udp::PAYLOAD_MAX_BYTES;

/// Time between two rounds of gossip while there is news of members.
const GOSSIP_PERIOD: Duration = Duration::from_millis(200);
/// Number of members that receive gossip at once, and that are asked to try a failed probe.
const FANOUT: NonZeroUsize = NonZeroUsize::new(3).unwrap();
/// Time between two requests to a member for the members that it knows.
const ASK_PERIOD: Duration = Duration::from_secs(30);
/// Time between two rounds of greetings. Each round greets up to two members that are down, which
/// heals a partition.
const LOOK_FOR_DOWN_PERIOD: Duration = Duration::from_secs(10);
/// Minimum time between probes.
const SHORTEST_PERIOD: Duration = Duration::from_millis(10);
/// Minimum number of transmissions of each piece of news: enough for three members under heavy
/// loss.
const SENDS_MIN: NonZeroU8 = NonZeroU8::new(6).unwrap();
/// Factor by which a suspect has longer to contradict while another process is known to use this
/// node's key. A suspect that refuses this node's life contradicts by its refusal, and the refusal
/// arrives only after this node sends it something again.
const QUARREL_PATIENCE: u32 = 5;

/// The engine's settings for the present number of members.
pub(super) struct EngineTuning {
    base: foca::Config,
    /// Whether another process is known to use this node's key.
    quarrels: bool,
    /// Number of nodes, rounded up to a power of two.
    size: usize,
}

impl EngineTuning {
    /// Creates the settings of a node without members.
    pub(super) fn new(config: &ClusterConfig) -> Self {
        Self {
            base: engine_config(config),
            quarrels: false,
            size: 1,
        }
    }

    /// Returns the settings for the present number of members. Above a minimum, the time for a
    /// suspect to contradict and the number of transmissions of each piece of news grow with the
    /// logarithm of that number.
    pub(super) fn config(&self) -> foca::Config {
        let sends = NonZeroU8::new((4.0 * (self.size as f64).log10()) as u8);
        foca::Config {
            suspect_to_down_after: self.time_to_contradict(),
            max_transmissions: sends.map_or(SENDS_MIN, |sends| sends.max(SENDS_MIN)),
            ..self.base.clone()
        }
    }

    /// Updates the number of nodes, this one included. Returns whether that changes the settings.
    pub(super) fn resize(&mut self, nodes: usize) -> bool {
        let size = nodes.next_power_of_two();
        std::mem::replace(&mut self.size, size) != size
    }

    /// Updates whether another process is known to use this node's key. Only [`Roster::quarrel`]
    /// calls this, together with [`OwnKeyUse::limit_renewals`].
    ///
    /// [`Roster::quarrel`]: super::Roster::quarrel
    /// [`OwnKeyUse::limit_renewals`]: super::own_key::OwnKeyUse::limit_renewals
    pub(super) fn set_quarrel(&mut self, quarrels: bool) {
        self.quarrels = quarrels;
    }

    /// Returns the time for which a suspect of a small cluster can contradict.
    pub(super) fn patience(&self) -> Duration {
        let suspicion = self.base.suspect_to_down_after;
        if self.quarrels {
            suspicion * QUARREL_PATIENCE
        } else {
            suspicion
        }
    }

    /// Returns the time for which a suspect can contradict.
    pub(super) fn time_to_contradict(&self) -> Duration {
        let decades = (self.size as f64).log10();
        self.patience().mul_f64(decades.max(1.0))
    }
}

fn engine_config(config: &ClusterConfig) -> foca::Config {
    let periodic = |frequency, members: usize| {
        let num_members = NonZeroUsize::new(members).unwrap_or(NonZeroUsize::MIN);
        Some(PeriodicParams {
            frequency,
            num_members,
        })
    };
    foca::Config {
        // With a period of zero, time would never pass.
        probe_period: config.probe_period.max(SHORTEST_PERIOD),
        probe_rtt: config.probe_round_trip,
        num_indirect_probes: FANOUT,
        max_transmissions: SENDS_MIN,
        suspect_to_down_after: config.suspicion,
        remove_down_after: Some(config.remember_down),
        max_packet_size: NonZeroUsize::new(PAYLOAD_MAX_BYTES).unwrap_or(NonZeroUsize::MIN),
        notify_down_members: true,
        periodic_announce: periodic(ASK_PERIOD, 1),
        periodic_announce_to_down_members: periodic(LOOK_FOR_DOWN_PERIOD, 2),
        periodic_gossip: periodic(GOSSIP_PERIOD, FANOUT.get()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspect_has_longer_in_a_large_cluster_and_while_a_key_is_used_twice() {
        let config = ClusterConfig::default();
        let mut tuning = EngineTuning::new(&config);
        assert_eq!(tuning.time_to_contradict(), config.suspicion);
        assert!(tuning.resize(8), "another size");
        assert!(!tuning.resize(5), "the same power of two");
        assert_eq!(tuning.time_to_contradict(), config.suspicion);
        assert_eq!(tuning.config().max_transmissions, SENDS_MIN);
        assert!(tuning.resize(1000));
        let large = tuning.config();
        assert_eq!(
            large.suspect_to_down_after,
            config.suspicion.mul_f64(1024_f64.log10())
        );
        assert_eq!(large.max_transmissions.get(), 12);
        tuning.set_quarrel(true);
        let (all, small) = (tuning.time_to_contradict(), tuning.patience());
        assert_eq!(all, small.mul_f64(1024_f64.log10()));
        assert_eq!(small, config.suspicion * QUARREL_PATIENCE);
    }
}
