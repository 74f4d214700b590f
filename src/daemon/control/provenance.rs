//! The two replies that tell a story: why a name shows this content, and what happened when.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::names::{EntryKind, Named};

/// The reply to [`super::Call::Why`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The path that was asked about.
    #[serde(flatten)]
    pub path: Named,
    /// Whether the mount lists it.
    pub listed: bool,
    /// The rule that decided, in a sentence.
    pub rule: String,
    /// Every version that a live node gives, the one that won first.
    pub versions: Vec<VersionInfo>,
    /// What a read would do now, in a sentence.
    pub next_read: String,
    /// Who pushed the version that won to this node, where somebody did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sent_by: Option<String>,
    /// Why this node does not share what it has under that name itself, where it does not; told to
    /// root and the daemon's user alone.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub left_out: Option<String>,
    /// The name of the node that owns the path, where one does: nobody else's version is listed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub owner: Option<String>,
}

/// One version of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// The path that this version is shown under; absent where no name fits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub shown_as: Option<Named>,
    /// Whether the plain name shows this one.
    pub won: bool,
    /// Whether its time is ahead of this node's clock: it is not ranked before that.
    #[serde(default)]
    pub waits: bool,
    /// The name of the node that wrote it into its log.
    pub author: String,
    /// The key of that node, 64 hexadecimal digits.
    pub author_node: String,
    /// What it is.
    pub kind: EntryKind,
    /// The BLAKE3 hash; absent for all but files.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hash: Option<String>,
    /// The length.
    pub size_bytes: u64,
    /// The mtime.
    pub modified: Timestamp,
    /// The earlier of the mtime and when its author first saw it: what versions are ranked by.
    pub version_time: Timestamp,
    /// The names of the live nodes that have this content.
    pub holders: Vec<String>,
    /// How much of it is in the local cache, or all where this node shares it.
    pub cached_bytes: u64,
    /// Whether its bytes are proven (`blake3`) or cannot be (`none`, from legacy peers).
    pub verified: String,
}

/// A reply to [`super::Call::Events`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When it happened.
    pub time: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub what: EventKind,
}

/// What happened; `event` tells which in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventKind {
    /// Another node answers.
    PeerUp {
        peer: String,
        /// Its key, 64 hexadecimal digits.
        node: String,
    },
    /// Another node is gone.
    PeerDown {
        peer: String,
        /// Its key, 64 hexadecimal digits.
        node: String,
        /// Why it counts as gone.
        why: String,
    },
    /// A peer sent wrong bytes and is asked no more.
    PeerShunned {
        peer: String,
        /// Its key, 64 hexadecimal digits.
        node: String,
        /// What it did.
        why: String,
    },
    /// A name is listed that was not.
    FileAdded(Named),
    /// A name is listed no more.
    FileRemoved(Named),
    /// A name shows another content.
    FileChanged(Named),
    /// A fetch began.
    FetchStarted(FetchInfo),
    /// A fetch has all that was wanted.
    FetchDone(FetchInfo),
    /// A fetch gave up.
    FetchFailed(FetchInfo),
    /// A legacy peer begins to get a file.
    GiveStarted(GiveInfo),
    /// A legacy peer has got all of a file.
    GiveDone(GiveInfo),
    /// A peer of the mesh is there.
    MeshUp(MeshPeerInfo),
    /// A peer of the mesh is gone, or takes no connection.
    MeshDown(MeshPeerInfo),
    /// A peer of the mesh told of others.
    MeshLearned {
        peer: String,
        /// Of how many that were not known.
        count: u64,
    },
    /// Somebody says something.
    Chat {
        peer: String,
        /// What; it may hold any character.
        text: String,
    },
    /// Somebody sends bytes of no file; a program that embeds a node reads them.
    Bytes {
        peer: String,
        /// How many.
        size_bytes: u64,
    },
    /// A file that another pushes to this node begins.
    ReceiveStarted(PushInfo),
    /// It is in the inbox.
    ReceiveDone(PushInfo),
    /// Nothing of it is there.
    ReceiveFailed(PushInfo),
    /// A file that this node pushes begins.
    SendStarted(PushInfo),
    /// All of it was sent, and taken where the other one can say so.
    SendDone(PushInfo),
    /// It was not taken.
    SendFailed(PushInfo),
    /// Somebody was admitted or put out, or the members have a fresh secret.
    Membership {
        /// Who, by whom.
        message: String,
    },
    /// Something that the user should know.
    Warning {
        /// What, and what to do.
        message: String,
    },
    /// Events in between name files that the caller is not told of: other users' reads and
    /// transfers, and names that the mount does not let it list.
    LeftOut {
        /// How many.
        count: u64,
    },
    /// The reader was too slow, and events in between are lost.
    Lost {
        /// How many.
        count: u64,
    },
}

/// A peer of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshPeerInfo {
    /// What it calls itself; its address where it said nothing.
    pub peer: String,
    /// Where it listens, or is connected from.
    pub address: String,
    /// Whether this node dialled it, where it is up or was never there.
    #[serde(default)]
    pub dialled: bool,
    /// Why it is gone, or was never there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
}

/// A file that one peer pushes to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushInfo {
    /// What the other one calls itself.
    pub peer: String,
    /// The name of the file.
    pub name: Named,
    /// Its length.
    pub size_bytes: u64,
    /// Why it failed, where it did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
}

/// What is given to a legacy peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GiveInfo {
    /// Where its connection comes from.
    pub peer: String,
    /// The name that it asked for.
    pub name: Named,
    /// The length of the file.
    pub size_bytes: u64,
}

/// What is fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchInfo {
    /// The BLAKE3 hash, 64 hexadecimal digits.
    pub hash: String,
    /// The length of the whole file.
    pub size_bytes: u64,
    /// A name of it, where one is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<Named>,
    /// What went wrong, where something did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
}
