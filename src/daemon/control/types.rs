//! What the replies of the control socket hold: plain types that the daemon fills and the
//! command line renders, or prints as JSON as they are.
//!
//! The field names are an interface that scripts rely on (`p2pfs(1)`, JSON OUTPUT): a field may be
//! added, none may be renamed or change its meaning. Sizes are bytes, times RFC 3339.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::names::{EntryKind, Named, Problem};
use super::shares::ShareInfo;
pub use p2pfs_node::door::MemberState as PeerState;
use p2pfs_proto::trust::InviteToken;

/// The reply to [`super::Call::Status`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
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
    /// What the daemon is at.
    pub state: ServiceState,
    /// The address that it tells the others, `ADDR:PORT`.
    pub address: String,
    /// The epoch of the cluster's secret, 16 hexadecimal digits; never the secret.
    pub epoch: String,
    /// The mount.
    pub mount: MountStatus,
    /// The other nodes, by state.
    pub peers: PeerCounts,
    /// What the namespace holds.
    pub namespace: NamespaceStatus,
    /// The local cache.
    pub cache: CacheUsage,
    /// Bytes moved between nodes.
    pub traffic: Traffic,
    /// Reads that wait for other nodes right now.
    pub waiting_reads: u64,
    /// File versions that are open through the mount.
    pub open_versions: u64,
    /// What came from outside and was not taken.
    pub dropped: Dropped,
    /// What this node shares.
    pub shares: Vec<ShareInfo>,
    /// Whether legacy peers are spoken to.
    pub legacy: bool,
    /// Where legacy peers of the mesh connect, where it is on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mesh: Option<String>,
    /// What the user should know and can do about it, one line each; what names local files is
    /// told to root and the daemon's user alone.
    pub warnings: Vec<String>,
}

/// What came from outside and was not taken, since the start; within [`Status`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Datagrams: strange, forged, repeated, or too many.
    pub datagrams: u64,
    /// Connections: strange, unproven, garbled, or too many.
    pub connections: u64,
}

/// What the daemon is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    /// Opening its state; not mounted yet.
    Starting,
    /// Mounted (where it is to mount) and gossiping.
    Serving,
    /// Said "away" and is on its way out.
    Stopping,
}

/// The mount, within [`Status`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountStatus {
    /// Whether the configuration asks for one.
    pub enabled: bool,
    /// Whether it is there.
    pub mounted: bool,
    #[serde(flatten)]
    pub dir: Named,
    /// Why it is not there though it should be.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub problem: Option<String>,
    /// What it does.
    #[serde(default)]
    pub activity: MountActivity,
}

/// What the mount has done since it began, within [`MountStatus`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountActivity {
    /// How many requests of the kernel the daemon answered.
    pub requests: u64,
    /// How many of them read a file.
    pub reads: u64,
    /// How many bytes those gave.
    pub read_bytes: u64,
    /// Whether the kernel reads complete files by itself.
    pub passthrough: bool,
}

/// How many other nodes there are in each state, within [`Status`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerCounts {
    /// Answering.
    pub alive: u64,
    /// Not answering, not given up yet.
    pub suspect: u64,
    /// Stopped cleanly a moment ago.
    pub away: u64,
    /// Gone.
    pub down: u64,
}

/// The namespace, within [`Status`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceStatus {
    /// Files, links and directories listed.
    pub entries: u64,
    /// The bytes of all different contents.
    pub unique_bytes: u64,
}

/// The cache as a whole: within [`Status`], and the reply to [`super::Call::CacheResize`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheUsage {
    /// Bytes in use.
    pub used_bytes: u64,
    /// The most it may use.
    pub budget_bytes: u64,
    /// What it leaves free on its filesystem.
    pub floor_bytes: u64,
    /// What is pinned, here or still to come.
    pub pinned_bytes: u64,
    /// Files, whole or in part.
    pub files: u64,
    /// Of those, whole ones.
    pub complete_files: u64,
}

/// Bytes between nodes, within [`Status`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// File bytes received since the start: those of nodes once they are proven, and those of
    /// legacy peers.
    pub received_bytes: u64,
    /// File bytes sent since the start.
    pub sent_bytes: u64,
    /// Received a second, over the last seconds.
    pub receive_bytes_per_s: u64,
    /// Sent a second, over the last seconds.
    pub send_bytes_per_s: u64,
    /// Whether nothing is fetched that nobody asked for.
    #[serde(default)]
    pub metered: bool,
}

/// The reply to [`super::Call::Peers`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Peers {
    /// Every other node that is known, best responder first.
    pub peers: Vec<PeerInfo>,
}

/// One other node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// What it calls itself.
    pub name: String,
    /// Its key, 64 hexadecimal digits.
    pub node: String,
    /// Where it answers, `ADDR:PORT`.
    pub address: String,
    /// How it is.
    pub state: PeerState,
    /// Which protocol it speaks.
    pub plane: Plane,
    /// The usual round trip; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub round_trip_ms: Option<f64>,
    /// What it gave us a second while it was asked; absent before the first answer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rate_bytes_per_s: Option<u64>,
    /// Its usual time to a small answer; absent before the first that this node remembers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub latency_ms: Option<f64>,
    /// How often it failed to answer.
    #[serde(default)]
    pub failures: u64,
    /// How often in a row until now.
    #[serde(default)]
    pub unanswered: u32,
    /// How often it was shunned for wrong bytes, within the last 30 days.
    #[serde(default)]
    pub lies: u64,
    /// Its place among our responders, from 1; absent where it never answered.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub priority: Option<u32>,
    /// File bytes that it gave us.
    pub received_bytes: u64,
    /// File bytes that we gave it.
    pub sent_bytes: u64,
    /// Entries in its log.
    pub entries: u64,
    /// Why it is not asked for anything any more.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub shunned: Option<String>,
    /// How often a legacy peer broke the rules of its protocol.
    #[serde(default)]
    pub offences: u64,
    /// In which way the last time.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_offence: Option<String>,
}

/// Which protocol a peer speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plane {
    /// This one.
    #[default]
    Native,
    /// The legacy text protocol.
    Legacy,
    /// The legacy peers' mesh.
    Mesh,
}

/// The reply to [`super::Call::Ls`]: one page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// In byte order of their names; at most [`super::LS_PAGE_MAX_ENTRIES`].
    pub entries: Vec<LsEntry>,
    /// Files of this node's own shares that are to be listed here and wait to be hashed; on the
    /// first page.
    #[serde(default)]
    pub being_read: Vec<Named>,
    /// Whether more follow: ask again after the last name.
    pub more: bool,
}

/// One name of the namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LsEntry {
    /// Its path from the root of the mount.
    #[serde(flatten)]
    pub path: Named,
    /// What it is.
    pub kind: EntryKind,
    /// Of a file, its length; of a directory, 0.
    pub size_bytes: u64,
    /// The mtime.
    pub modified: Timestamp,
    /// The executable bit.
    pub executable: bool,
    /// The BLAKE3 hash of a file, 64 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hash: Option<String>,
    /// The names of the live nodes that have it; of a legacy peer its address.
    pub holders: Vec<String>,
    /// How much of it is in the local cache, or all of it where this node shares it.
    pub cached_bytes: u64,
    /// Whether it is kept in the cache.
    pub pinned: bool,
    /// By which protocol it comes: a legacy peer's has no hash.
    pub plane: Plane,
}

/// In the place of a hash: what legacy peers give has none.
pub const NO_HASH: &str = "none";

/// The first reply to [`super::Call::Get`]; a descriptor comes with it, of which `size_bytes` bytes
/// can be read from the start to the end: a file opened for reading, or a pipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetStarted {
    /// The BLAKE3 hash, 64 hexadecimal digits.
    pub hash: String,
    /// The length of the file.
    pub size_bytes: u64,
    /// How much of it the cache holds already.
    pub cached_bytes: u64,
    /// The executable bit.
    pub executable: bool,
}

/// The last reply to [`super::Call::Get`], once all bytes were proven and written to the
/// descriptor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetDone {
    /// Who gave how much of it this time; empty where all was local.
    pub sources: Vec<SourceShare>,
}

/// How much one node gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceShare {
    pub name: String,
    /// What it gave.
    pub received_bytes: u64,
}

/// The replies to [`super::Call::Prefetch`] and [`super::Call::CacheVerify`] before the last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Files finished.
    pub done_files: u64,
    /// Files in all.
    pub total_files: u64,
    /// Bytes finished.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// The last reply to [`super::Call::Prefetch`], and the one to [`super::Call::Pin`] and
/// [`super::Call::Unpin`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touched {
    /// Files that the names stood for, directories taken apart.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What could not be done, and why.
    pub failed: Vec<Problem>,
}

/// The reply to [`super::Call::Invite`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// The token, to be given to `p2pfs join`.
    pub token: String,
    /// Until when it serves.
    pub expires: Timestamp,
}

impl Invitation {
    /// Whose a token is, as [`Status::node`] tells of a node; nothing of what is none.
    pub fn issuer_of(token: &str) -> Option<String> {
        let token = InviteToken::parse(token).ok()?;
        Some(token.issuer.to_string())
    }
}

/// The reply to [`super::Call::Join`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The epoch of the cluster's secret, 16 hexadecimal digits.
    pub epoch: String,
    /// The node that made the token, 64 hexadecimal digits.
    pub issuer: String,
}

/// The reply to a call that has nothing to tell: [`super::Call::Wait`], [`super::Call::Leave`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nothing {}

/// The reply to [`super::Call::CacheLs`]: one page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheListing {
    /// In order of their hashes; at most [`super::LS_PAGE_MAX_ENTRIES`].
    pub entries: Vec<CacheEntry>,
    /// Whether more follow: ask again after the last hash.
    pub more: bool,
}

/// One content in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheEntry {
    /// Its BLAKE3 hash, 64 hexadecimal digits.
    pub hash: String,
    /// The length of the whole.
    pub size_bytes: u64,
    /// How much of it is here.
    pub cached_bytes: u64,
    /// Whether it is kept.
    pub pinned: bool,
    /// Whether a reader has it open.
    pub open: bool,
    /// When it was last read or fetched; absent where that is not known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_used: Option<Timestamp>,
    /// Names that it has in the namespace now; empty where none.
    pub names: Vec<Named>,
    /// The name that it was pinned by; absent where it still has a name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pinned_as: Option<Named>,
}

/// The reply to [`super::Call::CacheClear`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheCleared {
    /// Files removed.
    pub removed_files: u64,
    /// Bytes given back.
    pub removed_bytes: u64,
    /// Files that stay, pinned or open.
    pub kept_files: u64,
}

/// The last reply to [`super::Call::CacheVerify`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheVerified {
    /// Files read and hashed.
    pub files: u64,
    /// Bytes of them that are cached, and were read and hashed.
    pub bytes: u64,
    /// Bytes that were wrong: they were dropped and will be fetched again.
    pub dropped_bytes: u64,
    /// Those of `files` that could not be opened, so that nothing of them was checked.
    pub unopened_files: u64,
}
