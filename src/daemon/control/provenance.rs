//! The replies about history: why a name shows its content, and which events happened.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::described::{Described, Field, FieldType, ObjectType, described, field};
use super::names::{EntryKind, Named};

described! {
    /// The reply to [`super::Call::Why`].
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Provenance as "Provenance" {
        /// The requested path.
        #[serde(flatten)]
        pub path: Named,
        /// Whether the mount lists it.
        pub listed: bool,
        /// The rule that decided, in a sentence.
        pub rule: String,
        /// Every version that a live node gives; the winner first.
        pub versions: Vec<VersionInfo>,
        /// The effect of a read now, in a sentence.
        pub next_read: String,
        /// The peer that pushed the winning version to this node, if one did.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub sent_by: Option<String>,
        /// Why this node does not share its own file of that name. Shown only to root and the daemon's
        /// user.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub left_out: Option<String>,
        /// The name of the node that owns the path, if any. Only the owner's version is listed.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub owner: Option<String>,
    }
}

described! {
    /// One version of a path.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct VersionInfo as "Version" {
        /// The path that shows this version; absent if no name fits.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub shown_as: Option<Named>,
        /// Whether the plain name shows this version.
        pub won: bool,
        /// Whether its time is ahead of this node's clock. It is not ranked before that time.
        #[serde(default)]
        pub waits: bool,
        /// The name of the node that wrote it into its log.
        pub author: String,
        /// The key of that node, 64 hexadecimal digits.
        pub author_node: String,
        /// The type of the entry.
        pub kind: EntryKind,
        /// The BLAKE3 hash; only files have one.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub hash: Option<String>,
        /// The length.
        pub size_bytes: u64,
        /// The mtime.
        pub modified: Timestamp,
        /// The time that versions are ranked by: the earlier of the mtime and the time when the author
        /// first saw the file.
        pub version_time: Timestamp,
        /// The names of the live nodes that have this content.
        pub holders: Vec<String>,
        /// Bytes in the local cache, or the whole length if this node shares the content.
        pub cached_bytes: u64,
        /// Whether its bytes can be verified (`blake3`) or not (`none`, from legacy peers).
        pub verified: String,
    }
}

described! {
    /// A reply to [`super::Call::Events`].
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Event as "Event" {
        /// When it happened.
        pub time: Timestamp,
        /// The event.
        #[serde(flatten)]
        pub what: EventKind,
    }
}

/// Declares the kinds of events: the enum as it is written, and the fields of each kind.
macro_rules! events {
    (
        $(#[doc = $about:literal])* $(#[derive $derive:tt])* $(#[serde $container:tt])*
        pub enum $Name:ident {
            $(
                $(#[doc = $doc:literal])*
                $Kind:ident
                $({ $( $(#[doc = $field_doc:literal])* $field:ident: $Type:ty, )* })?
                $(($Inner:ty))?,
            )*
        }
    ) => {
        $(#[doc = $about])* $(#[derive $derive])* $(#[serde $container])*
        pub enum $Name {
            $(
                $(#[doc = $doc])*
                $Kind $({ $( $(#[doc = $field_doc])* $field: $Type, )* })? $(($Inner))?,
            )*
        }

        impl $Name {
            /// Returns the name, the documentation and the fields of each kind.
            pub fn kinds() -> Vec<ObjectType> {
                vec![$(
                    ObjectType {
                        name: stringify!($Kind),
                        about: &[$($doc),*],
                        fields: [
                            $($( field::<$Type>(
                                stringify!($field), &[$($field_doc),*], &[], "",
                            ), )*)?
                            $( <$Inner>::fields(), )?
                        ].concat(),
                    }
                ),*]
            }
        }
    };
}

events! {
    /// The kinds of events; in JSON, `event` names the kind.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(tag = "event", rename_all = "kebab-case")]
    pub enum EventKind {
        /// Another node answers.
        PeerUp {
            /// The name of the peer.
            peer: String,
            /// Its key, 64 hexadecimal digits.
            node: String,
        },
        /// Another node is gone.
        PeerDown {
            /// The name of the peer.
            peer: String,
            /// Its key, 64 hexadecimal digits.
            node: String,
            /// Why it counts as gone.
            why: String,
        },
        /// A peer sent wrong bytes, and nothing is requested from it.
        PeerShunned {
            /// The name of the peer.
            peer: String,
            /// Its key, 64 hexadecimal digits.
            node: String,
            /// The peer's violation.
            why: String,
        },
        /// A name was added to the listing.
        FileAdded(Named),
        /// A name was removed from the listing.
        FileRemoved(FileChange),
        /// A name shows another content.
        FileChanged(FileChange),
        /// A fetch began.
        FetchStarted(FetchInfo),
        /// A fetch has received all requested bytes.
        FetchDone(FetchInfo),
        /// A fetch failed.
        FetchFailed(FetchInfo),
        /// A transfer to a legacy peer began.
        GiveStarted(GiveInfo),
        /// A legacy peer has received a whole file.
        GiveDone(GiveInfo),
        /// A mesh peer connected.
        MeshUp(MeshPeerInfo),
        /// A mesh peer disconnected, or does not accept a connection.
        MeshDown(MeshPeerInfo),
        /// A mesh peer announced addresses.
        MeshLearned {
            /// The name of the peer.
            peer: String,
            /// Number of addresses that were unknown before.
            count: u64,
        },
        /// A peer sent a line of text.
        Chat {
            /// The name of the peer.
            peer: String,
            /// The text; it may contain any character.
            text: String,
        },
        /// A peer sent bytes that belong to no file; a program that embeds a node reads them.
        Bytes {
            /// The name of the peer.
            peer: String,
            /// Number of bytes.
            size_bytes: u64,
        },
        /// A peer began to push a file to this node.
        ReceiveStarted(PushInfo),
        /// The file is in the inbox.
        ReceiveDone(PushInfo),
        /// The transfer failed and left no file.
        ReceiveFailed(PushInfo),
        /// This node began to push a file to a peer.
        SendStarted(PushInfo),
        /// The whole file was sent, and the peer confirmed it if its protocol can.
        SendDone(PushInfo),
        /// The peer did not take the file.
        SendFailed(PushInfo),
        /// A node was admitted, refused or removed, or the members have a new secret.
        Membership {
            /// The change and the node that signed it, or the reason of the refusal.
            message: String,
        },
        /// A happening that the user should know, or a condition that begins.
        Warning {
            /// The happening or condition, and what to do about it.
            message: String,
            /// Name of the condition (p2pfs(8), CONDITIONS); empty for a happening.
            condition: String,
        },
        /// A condition is over.
        WarningOver {
            /// The condition that is over.
            message: String,
            /// Name of the condition.
            condition: String,
        },
        /// Events about files that the caller may not see were left out: reads and transfers of other
        /// users, and names that the caller may not list in the mount.
        LeftOut {
            /// Number of events.
            count: u64,
        },
        /// Events were lost because the caller read too slowly.
        Lost {
            /// Number of events.
            count: u64,
        },
    }
}

impl Described for EventKind {
    /// Describes the fields of all kinds. Each may be absent, because it belongs to some kinds only.
    fn kind() -> FieldType {
        let mut fields = vec![Field {
            name: "event",
            about: &[" The kind of the event."],
            kind: FieldType::Text,
        }];
        for field in Self::kinds().into_iter().flat_map(|kind| kind.fields) {
            if fields.iter().all(|known| known.name != field.name) {
                let kind = field.kind.optional();
                fields.push(Field { kind, ..field });
            }
        }
        FieldType::Object(ObjectType {
            name: "EventKind",
            about: &[],
            fields,
        })
    }
}

described! {
    /// A peer of the mesh.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct MeshPeerInfo as "MeshPeerInfo" {
        /// The name that it gives itself, or its address if it gave none.
        pub peer: String,
        /// The address that it listens on, or its connection's address.
        pub address: String,
        /// Whether this node dialled it, for a peer that is up or was never reached.
        #[serde(default)]
        pub dialled: bool,
        /// Why the peer is gone or was never reached.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub why: Option<String>,
    }
}

described! {
    /// A file that one peer pushes to another.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct PushInfo as "PushInfo" {
        /// The name that the other peer gives itself.
        pub peer: String,
        /// The name of the file.
        pub name: Named,
        /// Its length.
        pub size_bytes: u64,
        /// Why the transfer failed, if it did.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub why: Option<String>,
    }
}

described! {
    /// A name that was changed or removed.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct FileChange as "FileChange" {
        /// The name.
        #[serde(flatten)]
        pub path: Named,
        /// The name of the node that changed it or deleted it for all nodes; absent if the nodes
        /// that shared it removed it or are gone.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub peer: Option<String>,
        /// The key of that node, 64 hexadecimal digits.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub node: Option<String>,
    }
}

described! {
    /// A transfer to a legacy peer.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct GiveInfo as "GiveInfo" {
        /// The address that its connection comes from.
        pub peer: String,
        /// The requested name.
        pub name: Named,
        /// The length of the file.
        pub size_bytes: u64,
    }
}

described! {
    /// A fetch of a file.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct FetchInfo as "FetchInfo" {
        /// The BLAKE3 hash, 64 hexadecimal digits.
        pub hash: String,
        /// The length of the whole file.
        pub size_bytes: u64,
        /// A name of the file, if one is known.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub name: Option<Named>,
        /// The error, if the fetch failed.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub why: Option<String>,
    }
}
