//! The reply that tells what goes on at this moment: what is fetched, and who reads what.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::names::Named;
use super::types::{CacheUsage, PeerInfo, Traffic};

/// Transfers told of at most; those that move most come first.
pub const TRANSFERS_TOLD_MAX: usize = 64;
/// Readers told of at most: those that wait come first, then those that read fastest.
pub const READERS_TOLD_MAX: usize = 64;
/// Files told of one reader at most, the one read last first.
pub const FILES_TOLD_MAX: usize = 16;

/// The reply to [`super::Call::Top`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Top {
    /// When it was so.
    pub time: Timestamp,
    /// The name of this node.
    pub name: String,
    /// The local cache.
    pub cache: CacheUsage,
    /// Bytes moved between nodes.
    pub traffic: Traffic,
    /// Files on their way from other nodes: for root, the daemon's user and the group `p2pfs`
    /// all, for others those that the caller's user reads or gets.
    pub transfers: Vec<TransferInfo>,
    /// How many more there are, of which the caller is not told.
    #[serde(default)]
    pub other_transfers: u64,
    /// Every other node that is known, best responder first.
    pub peers: Vec<PeerInfo>,
    /// The processes that have files of the mount open, or read one within the last minute; the
    /// caller's own, and for root and the daemon's user all.
    pub readers: Vec<ReaderInfo>,
    /// How many more there are, of other users; only root and the daemon's user are told who.
    #[serde(default)]
    pub other_readers: u64,
}

/// A file on its way from other nodes, within [`Top`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferInfo {
    /// One of its names, or the one by its hash where it has no other.
    #[serde(flatten)]
    pub path: Named,
    /// Its BLAKE3 hash, 64 hexadecimal digits.
    pub hash: String,
    /// Its length.
    pub size_bytes: u64,
    /// How much of it is here.
    pub ready_bytes: u64,
    /// How much came of it since it began.
    pub received_bytes: u64,
    /// The same a second, over the last seconds.
    pub receive_bytes_per_s: u64,
    /// Reads that wait for it.
    pub waiting_reads: u64,
    /// Whether all of it is wanted, not just what is read.
    pub whole: bool,
    /// Who gives it, the one that gave most first.
    pub sources: Vec<TransferSource>,
}

/// A node that gives a file, within [`TransferInfo`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferSource {
    pub name: String,
    /// What it gave.
    pub received_bytes: u64,
    /// What it was asked for and has not given yet.
    pub asked_bytes: u64,
}

/// A process that reads in the mount, within [`Top`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaderInfo {
    /// Its number; 0 for those in namespaces that the daemon cannot see.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Its name, of which the kernel keeps 15 bytes.
    pub program: String,
    /// The service manager's unit that it lives in.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unit: Option<String>,
    /// Whether it is given cached bytes only.
    pub cached_only: bool,
    /// What its program may have fetched a second, where that is limited.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub budget_bytes_per_s: Option<u64>,
    /// How many files it opened.
    pub opens: u64,
    /// What the daemon gave it.
    #[serde(flatten)]
    pub given: GivenInfo,
    /// The same a second, over the last seconds.
    pub read_bytes_per_s: u64,
    /// What it waits for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub waiting: Option<WaitInfo>,
    /// What it reads.
    pub files: Vec<ReadFileInfo>,
}

/// A file that a process has open or read lately, within [`ReaderInfo`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadFileInfo {
    /// From the root of the mount.
    #[serde(flatten)]
    pub path: Named,
    /// How often it has it open.
    pub open: u64,
    /// Whether the kernel reads it by itself; what it reads so is not counted.
    pub by_kernel: bool,
    /// What the daemon gave of it.
    #[serde(flatten)]
    pub given: GivenInfo,
    /// What it waits for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub waiting: Option<WaitInfo>,
}

/// What the daemon gave to a reader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenInfo {
    /// In how many reads.
    pub reads: u64,
    /// Bytes that were here when the file was opened.
    pub from_cache_bytes: u64,
    /// Bytes that came from other nodes since.
    pub from_peers_bytes: u64,
}

/// Reads that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitInfo {
    /// How many.
    pub waiting_reads: u64,
    /// Since when the first of them does.
    pub waiting_ms: u64,
    /// For what.
    pub waiting_for: WaitingFor,
}

/// What reads wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitingFor {
    /// Other nodes.
    Peers,
    /// Their program's budget.
    Budget,
}
