//! What holds where nobody says otherwise and both the daemon's settings and a program that embeds
//! a node may say so. What only one of them can set, or nobody, is beside what it sets, and so are
//! limits.

use p2pfs_transfer::net::peer;
use std::time::Duration;

/// What the cache may take: 10 GiB.
pub const CACHE_BYTES: u64 = 10 << 30;
/// What cache and inbox leave free on their filesystems: 1 GiB.
pub const FLOOR_BYTES: u64 = 1 << 30;
/// What an inbox may take: 10 GiB.
pub const INBOX_BYTES: u64 = 10 << 30;
/// Peers of the mesh at one time.
pub const MESH_PEERS: u32 = 20;
/// How often another node is probed.
pub const PROBE_PERIOD: Duration = p2pfs_membership::PROBE_PERIOD;
/// Connections of others at one time.
pub const PEER_CONNECTIONS: u32 = peer::ACCEPTED_CONNECTIONS;
/// How packets in bulk are marked: Lower Effort (RFC 8622).
pub const BULK_CODE_POINT: Option<u8> = Some(1);
/// How long a clean stop keeps a node's entries with the others.
pub const AWAY_GRACE: Duration = p2pfs_membership::AWAY_GRACE;
/// How long a read waits without a byte of its file coming from anybody; up to six times as long
/// where somebody that has the file is at work for other reads of this node.
pub const READ_DEADLINE: Duration = Duration::from_secs(10);
