//! The replies about files and messages that are sent to other nodes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::described::described;

described! {
    /// The replies to [`super::Call::Send`] before the last.
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct SendProgress as "SendProgress" {
        /// The length of the file.
        pub size_bytes: u64,
        /// The progress at each receiver.
        pub peers: Vec<SendingTo>,
    }
}

described! {
    /// One receiver of a transfer in progress.
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct SendingTo as "SendingTo" {
        /// The name of the receiver.
        pub peer: String,
        /// Bytes that it was sent or already had.
        pub sent_bytes: u64,
    }
}

described! {
    /// The last reply to [`super::Call::Send`].
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct SendDone as "SendDone" {
        /// The length of the file.
        pub size_bytes: u64,
        /// The receivers that have the file.
        pub taken: Vec<TakenBy>,
        /// The receivers that do not have it.
        pub failed: Vec<NotTakenBy>,
    }
}

described! {
    /// A receiver that has the sent file.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct TakenBy as "TakenBy" {
        /// The name of the receiver.
        pub peer: String,
        /// Whether the receiver confirmed it. Mesh peers cannot; they were sent the whole file.
        pub confirmed: bool,
        /// The name under which the receiver keeps the file, if it is another one than that of the
        /// sent file. Bytes that are not UTF-8 are replaced. Some receivers cannot tell it.
        pub kept_as: Option<String>,
    }
}

described! {
    /// A receiver that does not have the sent file.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct NotTakenBy as "NotTakenBy" {
        /// The name of the receiver.
        pub peer: String,
        /// The reason.
        pub why: String,
    }
}

described! {
    /// The reply to [`super::Call::Say`].
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Said as "Said" {
        /// The names of the peers that received the line.
        pub peers: Vec<String>,
    }
}

described! {
    /// The reply to [`super::Call::Mesh`].
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct MeshInfo as "MeshInfo" {
        /// The address that mesh peers connect to.
        pub address: String,
        /// Maximum number of peers.
        pub max_peers: u32,
        /// The connected peers.
        pub peers: Vec<MeshPeerSeen>,
        /// Known addresses that are not connected.
        pub known: Vec<String>,
    }
}

described! {
    /// A connected peer of the mesh.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct MeshPeerSeen as "MeshPeerSeen" {
        /// The name that it gives itself.
        pub name: String,
        /// The ID that it gives itself.
        pub id: String,
        /// The address that it listens on, or its connection's address.
        pub address: String,
        /// When its last message arrived.
        pub last_heard: Timestamp,
    }
}
