//! The types of the replies of the control socket. The daemon fills them; the command line renders
//! them, or prints them as JSON.
//!
//! The field names are an interface for scripts (`p2pfs-json(5)`). Fields may be added, but
//! not renamed or given another meaning. Sizes are bytes, times RFC 3339.

use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::described::described;
use super::failure::{Failure, FailureKind};
use super::names::{EntryKind, Named, Problem};
use super::shares::ShareInfo;
pub use p2pfs_node::api::MemberState as PeerState;
use p2pfs_proto::trust::{InviteToken, TrustError};

described! {
    /// The reply to [`super::Call::Status`].
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    pub struct Status as "Status" {
        /// The name of this node.
        pub name: String,
        /// Its key, 64 hexadecimal digits.
        pub node: String,
        /// The version of the daemon.
        pub version: String,
        /// Its process id.
        pub pid: u32,
        /// When the daemon started.
        pub started: Timestamp,
        /// The phase of the daemon.
        pub state: ServiceState,
        /// The address that it announces to other nodes, `ADDR:PORT`.
        pub address: String,
        /// The epoch of the cluster's secret, 16 hexadecimal digits; never the secret.
        pub epoch: String,
        /// The mount.
        pub mount: MountStatus,
        /// The number of other nodes in each state.
        pub peers: PeerCounts,
        /// The nodes that are suspect, away or down, the latest first; at most 5 of them.
        #[serde(default)]
        pub absent: Vec<AbsentPeer>,
        /// The size of the namespace.
        pub namespace: NamespaceStatus,
        /// The local cache.
        pub cache: CacheUsage,
        /// The files that this node keeps for others, and those that exist only here.
        #[serde(default)]
        pub keep: KeptFiles,
        /// What programs wrote into the mount; absent without a writable share.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub written: Option<WrittenUsage>,
        /// Bytes moved between nodes.
        pub traffic: Traffic,
        /// Number of reads that wait for other nodes now.
        pub waiting_reads: u64,
        /// Number of file versions that are open through the mount.
        pub open_versions: u64,
        /// Refused datagrams and connections.
        pub dropped: Dropped,
        /// The shares of this node.
        pub shares: Vec<ShareInfo>,
        /// Whether the node communicates with legacy peers.
        pub legacy: bool,
        /// The address for legacy peers of the mesh, if the mesh is enabled.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub mesh: Option<String>,
        /// Warnings that the user can act on, one line each. Warnings with the names of local files are
        /// shown only to root and the daemon's user.
        pub warnings: Vec<String>,
        /// The lines of `warnings` that are errors: a part of the node does not work, and
        /// `p2pfs doctor` fails.
        #[serde(default)]
        pub errors: Vec<String>,
    }
}

described! {
    /// The listed files of the writable shares, within [`Status`].
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    pub struct WrittenUsage as "Written" {
        /// Their total size in bytes.
        pub used_bytes: u64,
        /// The budget for them in bytes; absent if there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub budget_bytes: Option<u64>,
    }
}

described! {
    /// Refused datagrams and connections since the start, within [`Status`].
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Dropped as "Dropped" {
        /// Datagrams that were foreign, forged, replayed, or over the limit.
        pub datagrams: u64,
        /// Connections that were foreign, unauthenticated, garbled, or over the limit.
        pub connections: u64,
    }
}

described! {
    /// The phase of the daemon.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum ServiceState {
        /// The daemon opens its state and joins the gossip, and has not mounted yet.
        Starting,
        /// The start is complete: the daemon gossips and has mounted, if it is to mount.
        Serving,
        /// The daemon is ending: it announces its departure and unmounts.
        Stopping,
    }
}

described! {
    /// The mount, within [`Status`].
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct MountStatus as "Mount" {
        /// Whether the configuration asks for one.
        pub enabled: bool,
        /// Whether it is mounted.
        pub mounted: bool,
        /// Whether programs can write in it.
        #[serde(default)]
        pub writable: bool,
        /// The directory of the mount.
        #[serde(flatten)]
        pub dir: Named,
        /// Why it is enabled but not mounted.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub problem: Option<String>,
        /// Counters of the mount's work since it began.
        #[serde(default)]
        pub activity: MountActivity,
    }
}

described! {
    /// Counters of the mount's work since it began, within [`MountStatus`].
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct MountActivity as "MountActivity" {
        /// Number of kernel requests that the daemon answered.
        pub requests: u64,
        /// Number of these requests that read a file.
        pub reads: u64,
        /// Bytes that these reads returned.
        pub read_bytes: u64,
        /// Whether the kernel reads complete files without the daemon.
        pub passthrough: bool,
    }
}

described! {
    /// A node that is suspect, away or down.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct AbsentPeer as "AbsentPeer" {
        /// Its name, as in the list of peers.
        pub name: String,
        /// Its key, 64 hexadecimal digits.
        pub node: String,
        /// Its membership state.
        pub state: PeerState,
        /// When this node learned of the state.
        pub since: Timestamp,
    }
}

described! {
    /// How many other nodes there are in each state, within [`Status`].
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct PeerCounts as "PeerCounts" {
        /// Nodes that answer.
        pub alive: u64,
        /// Nodes that do not answer and are not given up yet.
        pub suspect: u64,
        /// Nodes that stopped cleanly a short time ago.
        pub away: u64,
        /// Nodes that are gone.
        pub down: u64,
    }
}

described! {
    /// The size of the namespace, within [`Status`].
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct NamespaceStatus as "Namespace" {
        /// Number of listed files, links and directories.
        pub entries: u64,
        /// Total bytes of all different contents.
        pub unique_bytes: u64,
    }
}

described! {
    /// The cache as a whole: within [`Status`], and the reply to [`super::Call::CacheResize`].
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct CacheUsage as "CacheUsage" {
        /// Bytes in use.
        pub used_bytes: u64,
        /// Maximum bytes that it may use.
        pub budget_bytes: u64,
        /// Bytes that it leaves free on its filesystem.
        pub floor_bytes: u64,
        /// Bytes of pinned contents, whether present or still to be fetched.
        pub pinned_bytes: u64,
        /// Number of files, complete or partial.
        pub files: u64,
        /// Number of complete files.
        pub complete_files: u64,
    }
}

described! {
    /// The files that a node keeps for others, within [`Status`]. Files of equal content count once.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct KeptFiles as "KeptFiles" {
        /// Whether the node keeps files (`keep.paths`).
        pub enabled: bool,
        /// Number of kept files that are complete.
        pub files: u64,
        /// Their size.
        pub bytes: u64,
        /// Number of files that are to be kept and are not complete yet.
        pub missing_files: u64,
        /// Their size.
        pub missing_bytes: u64,
        /// Number of files that are not kept because there is no room for them.
        pub left_out_files: u64,
        /// Their size.
        pub left_out_bytes: u64,
        /// Number of files in the writable shares of this node of which no other live node has a
        /// complete copy. Files for some readers alone do not count.
        pub only_here_files: u64,
        /// Their size.
        pub only_here_bytes: u64,
    }
}

described! {
    /// Bytes moved between nodes, within [`Status`].
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Traffic as "Traffic" {
        /// File bytes received since the start. Bytes of native nodes count once they are verified;
        /// bytes of legacy peers count as received.
        pub received_bytes: u64,
        /// File bytes sent since the start.
        pub sent_bytes: u64,
        /// Receive rate over the last 5 seconds.
        pub receive_bytes_per_s: u64,
        /// Send rate over the last 5 seconds.
        pub send_bytes_per_s: u64,
        /// Whether the network is metered, so that only data that a user requested is fetched.
        #[serde(default)]
        pub metered: bool,
    }
}

described! {
    /// The reply to [`super::Call::Peers`].
    #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
    pub struct Peers as "Peers" {
        /// Every other known node, best responder first.
        pub peers: Vec<PeerInfo>,
    }
}

described! {
    /// One other node.
    #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
    pub struct PeerInfo as "Peer" {
        /// Its name: the one in its certificate, otherwise the one that it gives itself.
        pub name: String,
        /// Its key, 64 hexadecimal digits.
        pub node: String,
        /// Its address, `ADDR:PORT`.
        pub address: String,
        /// Its membership state.
        pub state: PeerState,
        /// When this node learned of the state; absent for older protocols.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub since: Option<Timestamp>,
        /// The protocol that it speaks.
        pub plane: Plane,
        /// Usual round trip; absent before the first measurement.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub round_trip_ms: Option<f64>,
        /// Receive rate from it over the last 5 seconds; absent for older protocols.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub receive_bytes_per_s: Option<u64>,
        /// Its speed: the receive rate while requests to it were open; absent before the first
        /// answer.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub rate_bytes_per_s: Option<u64>,
        /// Usual time to a small answer; absent before the first that this node remembers.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub latency_ms: Option<f64>,
        /// Number of requests that it failed to answer.
        #[serde(default)]
        pub failures: u64,
        /// Number of consecutive unanswered requests up to now.
        #[serde(default)]
        pub unanswered: u32,
        /// How many times it was shunned for wrong bytes within the last 30 days.
        #[serde(default)]
        pub lies: u64,
        /// Its rank among the responders, from 1; absent if it never answered.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub priority: Option<u32>,
        /// File bytes received from it.
        pub received_bytes: u64,
        /// File bytes sent to it.
        pub sent_bytes: u64,
        /// Entries in its log.
        pub entries: u64,
        /// Why nothing is requested from it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub shunned: Option<String>,
        /// How many times it violated the rules of its protocol.
        #[serde(default)]
        pub offences: u64,
        /// Its most recent violation.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub last_offence: Option<String>,
        /// When it was; absent for older protocols.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub last_offence_time: Option<Timestamp>,
    }
}

described! {
    /// The protocol of a peer.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum Plane {
        /// The native protocol.
        #[default]
        Native,
        /// The legacy text protocol.
        Legacy,
        /// The mesh of the legacy peers.
        Mesh,
    }
}

described! {
    /// The reply to [`super::Call::Ls`]: one page.
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Listing as "Listing" {
        /// The entries in byte order of their names, up to 1000 a page.
        pub entries: Vec<LsEntry>,
        /// Files of this node's own shares that belong into this listing and wait to be hashed. Only on
        /// the first page.
        #[serde(default)]
        pub being_read: Vec<Named>,
        /// Whether more entries follow; the caller continues after the last name.
        pub more: bool,
    }
}

described! {
    /// One name of the namespace.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct LsEntry as "Entry" {
        /// Its path from the root of the mount.
        #[serde(flatten)]
        pub path: Named,
        /// The type of the entry.
        pub kind: EntryKind,
        /// The length of a file; 0 for a directory.
        pub size_bytes: u64,
        /// The mtime.
        pub modified: Timestamp,
        /// The executable bit.
        pub executable: bool,
        /// The BLAKE3 hash of a file, 64 hexadecimal digits.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub hash: Option<String>,
        /// The names of the live nodes that have it; a legacy peer's address.
        pub holders: Vec<String>,
        /// Bytes in the local cache, or the whole length if this node shares the file.
        pub cached_bytes: u64,
        /// Whether it is pinned in the cache.
        pub pinned: bool,
        /// The protocol that gives it. Files of legacy peers have no hash.
        pub plane: Plane as ["native", "legacy"],
    }
}

/// Text in place of the hash of a legacy peer's file, which has none.
pub const NO_HASH: &str = "none";

described! {
    /// The first reply to [`super::Call::Get`], sent with a descriptor: a file opened for reading, or a
    /// pipe. The caller can read `size_bytes` bytes from the start to the end.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct GetStarted as "GetStarted" {
        /// The BLAKE3 hash, 64 hexadecimal digits; `none` for a file of a legacy peer.
        pub hash: String,
        /// The length of the file.
        pub size_bytes: u64,
        /// Bytes that are already on this machine, in a share or in the cache.
        pub cached_bytes: u64,
        /// The executable bit; false for a file of a legacy peer.
        pub executable: bool,
    }
}

described! {
    /// The last reply to [`super::Call::Get`]. With a pipe it is sent once all bytes were written to
    /// it, verified unless they are of a legacy peer. With a file it follows at once.
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct GetDone as "GetDone" {
        /// The bytes that each node gave to this one during the call, for other readers too; empty if
        /// there were none. For a file of a legacy peer, that peer and the bytes of the file that it
        /// gave, now or before.
        pub sources: Vec<SourceShare>,
    }
}

described! {
    /// Bytes that one node gave.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct SourceShare as "Source" {
        /// The name of the node.
        pub name: String,
        /// Bytes received from it.
        pub received_bytes: u64,
    }
}

described! {
    /// The replies to [`super::Call::Prefetch`] and [`super::Call::CacheVerify`] before the last.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Progress as "Progress" {
        /// Number of finished files.
        pub done_files: u64,
        /// Number of all files.
        pub total_files: u64,
        /// Number of finished bytes.
        pub done_bytes: u64,
        /// Number of all bytes.
        pub total_bytes: u64,
    }
}

described! {
    /// The last reply to [`super::Call::Prefetch`], and the one to [`super::Call::Pin`] and
    /// [`super::Call::Unpin`].
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Touched as "Touched" {
        /// Number of files that the names stood for, with directories expanded.
        pub files: u64,
        /// Total bytes of these files.
        pub bytes: u64,
        /// The names that failed, with the reason.
        pub failed: Vec<Problem>,
    }
}

impl Touched {
    /// Subtracts a file that failed from the totals, and records its problem.
    pub fn without(&mut self, problem: Problem, size_bytes: u64) {
        self.files -= 1;
        self.bytes -= size_bytes;
        self.failed.push(problem);
    }
}

described! {
    /// The reply to [`super::Call::Invite`].
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Invitation as "Invitation" {
        /// The token for `p2pfs join`.
        pub token: String,
        /// When the token expires.
        pub expires: Timestamp,
    }
}

impl Invitation {
    /// Returns the key of the node that issued a token, as in [`Status::node`]; `None` if the text
    /// is not a token.
    pub fn issuer_of(token: &str) -> Option<String> {
        let token = InviteToken::parse(token).ok()?;
        Some(token.issuer.to_string())
    }

    /// Returns the address at which the new node must reach the issuer, if that is possible on the
    /// issuer's machine only. Returns `None` for any other token, and for any other text.
    pub fn local_address(&self) -> Option<SocketAddr> {
        let seeds = InviteToken::parse(&self.token).ok()?.seeds;
        let is_local = seeds.iter().all(|it| it.ip().to_canonical().is_loopback());
        seeds.first().copied().filter(|_| is_local)
    }

    /// Checks that a text is a whole token.
    ///
    /// # Errors
    /// The refusal that a daemon gives such a text.
    pub fn check_token(token: &str) -> Result<(), Failure> {
        let refused = |error: TrustError| Failure::new(FailureKind::Invalid, error.to_string());
        InviteToken::parse(token).map(drop).map_err(refused)
    }
}

described! {
    /// The reply to [`super::Call::Join`].
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Joined as "Joined" {
        /// The epoch of the cluster's secret, 16 hexadecimal digits.
        pub epoch: String,
        /// The node that created the token, 64 hexadecimal digits.
        pub issuer: String,
    }
}

described! {
    /// The reply to a call without a result: [`super::Call::Wait`], [`super::Call::Events`],
    /// [`super::Call::Own`], [`super::Call::Forget`].
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Nothing as "Nothing" {}
}

described! {
    /// The reply to [`super::Call::CacheLs`]: one page.
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct CacheListing as "CacheListing" {
        /// The entries in order of their hashes, up to 1000 a page.
        pub entries: Vec<CacheEntry>,
        /// Whether more entries follow; the caller continues after the last hash.
        pub more: bool,
    }
}

described! {
    /// One content in the cache.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct CacheEntry as "CacheEntry" {
        /// Its BLAKE3 hash, 64 hexadecimal digits.
        pub hash: String,
        /// The length of the whole content.
        pub size_bytes: u64,
        /// Bytes that are cached.
        pub cached_bytes: u64,
        /// Whether it is pinned.
        pub pinned: bool,
        /// Whether a reader has it open.
        pub open: bool,
        /// When it was last read or fetched; absent if that is not known.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub last_used: Option<Timestamp>,
        /// Its current names in the namespace; empty if it has none.
        pub names: Vec<Named>,
        /// The name that it was pinned by; absent if it still has a name.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub pinned_as: Option<Named>,
    }
}

described! {
    /// The reply to [`super::Call::CacheClear`].
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct CacheCleared as "CacheCleared" {
        /// Number of removed files.
        pub removed_files: u64,
        /// Number of freed bytes.
        pub removed_bytes: u64,
        /// Number of files that stay because they are pinned or open.
        pub kept_files: u64,
    }
}

described! {
    /// The last reply to [`super::Call::CacheVerify`].
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct CacheVerified as "CacheVerified" {
        /// Number of checked files, including files that could not be opened.
        pub files: u64,
        /// Number of cached bytes that were read and hashed. Bytes of incomplete chunks are not.
        pub bytes: u64,
        /// Number of wrong bytes, which were dropped and will be fetched again.
        pub dropped_bytes: u64,
        /// Number of the `files` that could not be opened, so that none of their bytes were verified.
        pub unopened_files: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2pfs_types::id::NodeId;

    fn local_address(seeds: &[&str]) -> Option<String> {
        let token = InviteToken {
            issuer: NodeId::new([1; 32]),
            seeds: seeds.iter().map(|seed| seed.parse().unwrap()).collect(),
            key: [3; 32].into(),
            expires_unix_s: 1_800_000_000,
        };
        let invitation = Invitation {
            token: token.encode(),
            expires: Timestamp::UNIX_EPOCH,
        };
        invitation.local_address().map(|it| it.to_string())
    }

    #[test]
    fn a_token_is_local_if_all_its_addresses_are_of_the_loopback() {
        let local = |seeds: &[&str]| local_address(seeds).is_some();
        assert_eq!(
            local_address(&["127.0.0.1:9", "[::1]:9"]).unwrap(),
            "127.0.0.1:9"
        );
        assert!(local(&["[::1]:9"]) && local(&["[::ffff:127.0.0.1]:9"]));
        assert!(!local(&["192.0.2.7:9"]) && !local(&["[::ffff:192.0.2.7]:9"]));
        assert!(!local(&["127.0.0.1:9", "192.0.2.7:9"]));
        assert!(!local(&["192.0.2.7:9", "127.0.0.1:9"]));
        let invitation = Invitation {
            token: "p2pfs1-no-token".to_owned(),
            expires: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(invitation.local_address(), None);
    }
}
