//! The peers of the older protocols, by the configuration.

use std::sync::Arc;

use super::fd_store::Kept;
use crate::daemon::config::{Config, Seed};
use p2pfs_legacy::discovery_plane::LegacySettings;
use p2pfs_legacy::mesh::{MemberName, MeshSettings};
use p2pfs_legacy::{LegacyPeers, LegacyPeersSettings};
use p2pfs_node::ForeignPeers;

/// Returns the peers that the configuration turns on. Takes over or opens the socket of the mesh.
/// Needs a running tokio runtime.
pub(super) fn legacy_peers(config: &Config, kept: &mut Kept) -> Option<Arc<dyn ForeignPeers>> {
    let settings = LegacyPeersSettings {
        discovery: discovery_settings(config),
        mesh: mesh_settings(config),
    };
    if settings.discovery.is_none() && settings.mesh.is_none() {
        return None;
    }
    let peers = LegacyPeers::new(settings);
    if let Some(at) = config.mesh.listen {
        kept.open_mesh(&peers, at);
    }
    Some(Arc::new(peers))
}

fn mesh_settings(config: &Config) -> Option<MeshSettings> {
    config.mesh.listen.map(|listen| MeshSettings {
        listen,
        peers: member_names(&config.mesh.peers),
        max_peers: config.mesh.max_peers as usize,
    })
}

fn member_names(seeds: &[Seed]) -> Vec<MemberName> {
    seeds
        .iter()
        .filter_map(|seed| MemberName::parse(seed.to_string().as_bytes()))
        .collect()
}

fn discovery_settings(config: &Config) -> Option<LegacySettings> {
    let legacy = &config.legacy;
    legacy.enabled.then(|| LegacySettings {
        members: member_names(&legacy.members),
        period: legacy.period,
        waiting: legacy.waiting,
        lookup: legacy.lookup,
        responder_delay: legacy.responder_delay,
        bridge: legacy.bridge,
    })
}
