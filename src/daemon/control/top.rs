//! The reply about current activity: transfers and readers.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::described::described;
use super::names::Named;
use super::types::{CacheUsage, PeerInfo, Traffic};

/// Maximum transfers in the reply; the fastest come first.
pub const TRANSFERS_TOLD_MAX: usize = 64;
/// Maximum readers in the reply: waiting readers come first, then the fastest.
pub const READERS_TOLD_MAX: usize = 64;
/// Maximum files listed for one reader, the most recently read first.
pub const FILES_TOLD_MAX: usize = 16;

described! {
    /// The reply to [`super::Call::Top`].
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    pub struct Top as "Top" {
        /// The time of this snapshot.
        pub time: Timestamp,
        /// The name of this node.
        pub name: String,
        /// The local cache.
        pub cache: CacheUsage,
        /// Bytes moved between nodes.
        pub traffic: Traffic,
        /// Files in transfer from other nodes. Root, the daemon's user and the group `p2pfs` see all;
        /// another caller sees those that its user reads or gets.
        pub transfers: Vec<TransferInfo>,
        /// Number of further transfers that the caller may not see.
        #[serde(default)]
        pub other_transfers: u64,
        /// Every other known node, best responder first.
        pub peers: Vec<PeerInfo>,
        /// Processes that have files of the mount open or have read one within the last minute. A
        /// caller sees its own; root and the daemon's user see all.
        pub readers: Vec<ReaderInfo>,
        /// Number of readers of other users. Only root and the daemon's user see their details.
        #[serde(default)]
        pub other_readers: u64,
    }
}

described! {
    /// A file in transfer from other nodes, within [`Top`].
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct TransferInfo as "Transfer" {
        /// One of its names, or its path by hash if it has no name.
        #[serde(flatten)]
        pub path: Named,
        /// Its BLAKE3 hash, 64 hexadecimal digits.
        pub hash: String,
        /// Its length.
        pub size_bytes: u64,
        /// Bytes that are present on this node.
        pub ready_bytes: u64,
        /// Bytes received since the transfer began.
        pub received_bytes: u64,
        /// Bytes of it received over the last 5 seconds, per second.
        pub receive_bytes_per_s: u64,
        /// Number of reads that wait for the file.
        pub waiting_reads: u64,
        /// Whether the whole file is fetched, rather than only the ranges that are read.
        pub whole: bool,
        /// The sources; the one that gave most first.
        pub sources: Vec<TransferSource>,
    }
}

described! {
    /// A node that gives a file, within [`TransferInfo`].
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct TransferSource as "TransferSource" {
        /// The name of the node.
        pub name: String,
        /// Bytes received from it.
        pub received_bytes: u64,
        /// Bytes requested from it and not received yet.
        pub asked_bytes: u64,
    }
}

described! {
    /// A process that reads in the mount, within [`Top`].
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct ReaderInfo as "Reader" {
        /// Its process ID; 0 for a process in a namespace that the daemon cannot see.
        pub pid: u32,
        /// Its user ID.
        pub uid: u32,
        /// Its name, truncated by the kernel to 15 bytes.
        pub program: String,
        /// The service manager's unit that it belongs to.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub unit: Option<String>,
        /// Whether it may read cached bytes only.
        pub cached_only: bool,
        /// Fetch budget of its program in bytes per second, if it is limited.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub budget_bytes_per_s: Option<u64>,
        /// Number of files that it has opened.
        pub opens: u64,
        /// Bytes and reads that the daemon served to it.
        #[serde(flatten)]
        pub given: GivenInfo,
        /// Bytes that it read over the last 5 seconds, per second.
        pub read_bytes_per_s: u64,
        /// Its waiting reads.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub waiting: Option<WaitInfo>,
        /// The files that it reads.
        pub files: Vec<ReadFileInfo>,
    }
}

described! {
    /// A file that a process has open or has read lately, within [`ReaderInfo`].
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct ReadFileInfo as "ReadFile" {
        /// Path from the root of the mount.
        #[serde(flatten)]
        pub path: Named,
        /// How many times the process has the file open.
        pub open: u64,
        /// Whether the kernel reads the file without the daemon; such reads are not counted.
        pub by_kernel: bool,
        /// Bytes and reads of this file that the daemon served.
        #[serde(flatten)]
        pub given: GivenInfo,
        /// The reads that wait for this file.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub waiting: Option<WaitInfo>,
    }
}

described! {
    /// Reads and bytes that the daemon served to a reader.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct GivenInfo as "Given" {
        /// Number of reads.
        pub reads: u64,
        /// Bytes that were local when the file was opened.
        pub from_cache_bytes: u64,
        /// Bytes that arrived from other nodes afterwards.
        pub from_peers_bytes: u64,
    }
}

described! {
    /// Waiting reads.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    pub struct WaitInfo as "Waiting" {
        /// Number of waiting reads.
        pub waiting_reads: u64,
        /// How long the first of them has waited.
        pub waiting_ms: u64,
        /// The cause of the wait.
        pub waiting_for: WaitingFor,
    }
}

described! {
    /// The cause of a wait.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum WaitingFor {
        /// Other nodes have not sent the bytes.
        Peers,
        /// The budget of the program is used up.
        Budget,
    }
}
