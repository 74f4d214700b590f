//! Translates the configuration for the node.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::seeds;
use crate::daemon::config::{ALL_NODES, Config, Group, ShareSettings, readers_of};
use p2pfs_node::api::{CacheConfig, KeepSettings, ShareSpec};
use p2pfs_node::inbox::{Accept, InboxSettings};
use p2pfs_node::{ForeignPeers, GivingSettings, NetworkConfig, NodeConfig, WriteLimits};
use p2pfs_types::path::SharedPath;

/// Returns the settings that the node starts with. `foreign` are the peers of other protocols.
/// Seeds with host names are resolved and added after the start.
pub(super) fn node_config(config: &Config, foreign: Option<Arc<dyn ForeignPeers>>) -> NodeConfig {
    NodeConfig {
        name: config.name.clone(),
        network: NetworkConfig {
            listen: config.listen,
            advertise: None,
            seeds: seeds::addresses(&config.seeds),
            mdns: config.lan.mdns,
            peer_connections: config.limits.peer_connections as usize,
            bulk_code_point: config.limits.dscp.0,
        },
        secret_file: config.secret_file.clone(),
        state_dir: config.state_dir.clone(),
        cache: CacheConfig {
            dir: config.cache_dir.clone(),
            budget_bytes: config.cache.size_bytes,
            floor_bytes: config.cache.floor_bytes,
        },
        probe_period: config.membership.period,
        away_grace: config.membership.away_grace,
        keep: keep_settings(config),
        read_deadline: config.mount.read_deadline,
        foreign,
        writing: WriteLimits {
            budget_bytes: config.write.budget_bytes,
            floor_bytes: config.write.floor_bytes,
            copy_max_bytes: config.write.copy_up_max_bytes,
            kept_time: config.write.keep_replaced,
        },
        giving: giving_settings(config),
        refuse_beneath: vec![config.mount.dir.clone()],
        allow_beneath: vec![config.files_dir()],
    }
}

fn keep_settings(config: &Config) -> KeepSettings {
    let keep = &config.keep;
    let paths: BTreeSet<SharedPath> = keep.paths.iter().map(|path| path.0.clone()).collect();
    KeepSettings {
        paths: paths.into_iter().collect(),
        budget_bytes: keep.budget_bytes,
        copies: keep.copies.map(|copies| copies.get() as usize),
        takeover: keep.takeover,
    }
}

/// Returns a share for each inbox of `config` that is not in one of the folders of `shares`.
/// Through these shares, the files that are pushed to this node appear on every other node.
pub(super) fn inbox_shares(config: &Config, shares: &[ShareSettings]) -> Vec<ShareSettings> {
    let is_shared = |dir: &Path| shares.iter().any(|share| dir.starts_with(&share.dir));
    let open = config.inboxes().into_iter();
    let missing = open.filter(|(_, dir)| !is_shared(dir));
    missing
        .map(|(_, dir)| ShareSettings::new(dir.to_owned()))
        .collect()
}

fn giving_settings(config: &Config) -> GivingSettings {
    let from = &config.inbox.from;
    let accept = if from.is_empty() {
        Accept::Nobody
    } else if from.iter().any(|name| name == ALL_NODES) {
        Accept::Members
    } else {
        Accept::Listed(from.clone())
    };
    let inbox = |dir: &Path| InboxSettings {
        dir: dir.to_owned(),
        budget_bytes: config.inbox.budget_bytes,
        floor_bytes: config.inbox.floor_bytes,
    };
    GivingSettings {
        inbox: (accept != Accept::Nobody).then(|| inbox(&config.inbox.dir)),
        accept,
        foreign_inbox: (config.mesh.listen).map(|_| inbox(config.mesh_inbox())),
    }
}

/// Converts a configured share for the node.
pub(super) fn share_spec(settings: &ShareSettings, groups: &[Group]) -> ShareSpec {
    ShareSpec {
        is_resolved: false,
        is_by_command: false,
        dir: settings.dir.clone(),
        place: settings.place.clone(),
        include_private: settings.include_private,
        foreign: settings.legacy,
        readers: readers_of(settings.readers.as_deref(), groups),
        exclude: settings.exclude.clone(),
        default_excludes: settings.default_excludes,
        writable: settings.writable,
        open: settings.is_open(),
    }
}
