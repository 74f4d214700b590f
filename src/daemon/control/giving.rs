//! The replies about what is given to others.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The replies to [`super::Call::Send`] before the last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendProgress {
    /// The length of the file.
    pub size_bytes: u64,
    /// How much of it each has been sent.
    pub peers: Vec<SendingTo>,
}

/// One recipient on the way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendingTo {
    pub peer: String,
    /// What it was sent, or had already.
    pub sent_bytes: u64,
}

/// The last reply to [`super::Call::Send`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendDone {
    /// The length of the file.
    pub size_bytes: u64,
    /// Who has it.
    pub taken: Vec<TakenBy>,
    /// Who has not.
    pub failed: Vec<NotTakenBy>,
}

/// Who has a file that was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenBy {
    pub peer: String,
    /// Whether it said so: mesh peers cannot, and were sent all of it.
    pub confirmed: bool,
}

/// Who has a file that was sent not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotTakenBy {
    pub peer: String,
    pub why: String,
}

/// The reply to [`super::Call::Say`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The names of those who heard it.
    pub peers: Vec<String>,
}

/// The reply to [`super::Call::Mesh`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshInfo {
    /// Where its peers connect.
    pub address: String,
    /// How many peers there may be.
    pub max_peers: u32,
    /// Those that are connected.
    pub peers: Vec<MeshPeerSeen>,
    /// Addresses that are known and not connected.
    pub known: Vec<String>,
}

/// A peer of the mesh that is connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshPeerSeen {
    /// What it calls itself.
    pub name: String,
    /// Its ID, as it says.
    pub id: String,
    /// Where it listens, or is connected from.
    pub address: String,
    /// When it said something last.
    pub last_heard: Timestamp,
}
