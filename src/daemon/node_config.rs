//! What the configuration means for the node.

use super::config::Config;
use super::seeds;
use crate::cache::CacheConfig;
use crate::node::NodeConfig;
use crate::node::legacy::LegacySettings;
use crate::wire::legacy::MemberName;

/// Everything that the node is started with; seeds that are names come later.
pub(super) fn node_config(config: &Config) -> NodeConfig {
    NodeConfig {
        name: config.name.clone(),
        listen: config.listen,
        advertise: None,
        seeds: seeds::addresses(&config.seeds),
        secret_file: config.secret_file.clone(),
        state_dir: config.state_dir.clone(),
        cache: CacheConfig {
            dir: config.cache_dir.clone(),
            budget_bytes: config.cache.size_bytes,
            floor_bytes: config.cache.floor_bytes,
        },
        mdns: config.lan.mdns,
        probe_period: config.membership.period,
        peer_connections: config.limits.peer_connections as usize,
        away_grace: config.membership.away_grace,
        read_deadline: config.mount.read_deadline,
        legacy: legacy_settings(config),
        refuse_beneath: vec![config.mount.dir.clone()],
    }
}

fn legacy_settings(config: &Config) -> Option<LegacySettings> {
    let legacy = &config.legacy;
    let members = legacy.members.iter();
    legacy.enabled.then(|| LegacySettings {
        members: members
            .filter_map(|seed| MemberName::parse(seed.to_string().as_bytes()))
            .collect(),
        period: legacy.period,
        waiting: legacy.waiting,
        lookup: legacy.lookup,
        responder_delay: legacy.responder_delay,
        bridge: legacy.bridge,
    })
}
