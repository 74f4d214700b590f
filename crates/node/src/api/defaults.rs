//! Defaults of the settings that both the daemon and an embedding program can set.

use p2pfs_transfer::net::peer;
use std::time::Duration;

/// Budget of the cache: 10 GiB.
pub const CACHE_BYTES: u64 = 10 << 30;
/// Space that the cache and the inbox leave free on their filesystems: 1 GiB.
pub const FLOOR_BYTES: u64 = 1 << 30;
/// Budget of an inbox: 10 GiB.
pub const INBOX_BYTES: u64 = 10 << 30;
/// Maximum number of connected foreign peers.
pub const FOREIGN_PEERS: u32 = 20;
/// Interval between probes of other nodes.
pub const PROBE_PERIOD: Duration = p2pfs_membership::PROBE_PERIOD;
/// Maximum number of accepted connections.
pub const PEER_CONNECTIONS: u32 = peer::ACCEPTED_CONNECTIONS;
/// DSCP code point of bulk packets: Lower Effort (RFC 8622).
pub const BULK_CODE_POINT: Option<u8> = Some(1);
/// How long other nodes keep a node's entries after it stopped cleanly.
pub const AWAY_GRACE: Duration = p2pfs_membership::AWAY_GRACE;
/// How long a read waits while no byte of its file arrives.
/// [`NodeBuilder::read_deadline`](super::NodeBuilder::read_deadline) says when it waits longer.
pub const READ_DEADLINE: Duration = Duration::from_secs(10);
