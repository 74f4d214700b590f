//! The replies about the members of the cluster.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::described::described;
use super::names::Named;

described! {
    /// The reply to [`super::Call::Trust`].
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Trust as "Trust" {
        /// The epoch of the secret in use, 16 hexadecimal digits.
        pub epoch: String,
        /// Whether members have certificates, rather than a shared secret file.
        pub certificates: bool,
        /// Whether this node may invite and expel.
        pub admin: bool,
        /// The members, the first to join first; empty without certificates.
        pub members: Vec<TrustedNode>,
        /// The owned paths; empty without certificates.
        #[serde(default)]
        pub owners: Vec<OwnedPath>,
        /// The signed statements about members and paths, oldest first; empty without certificates.
        pub history: Vec<TrustStep>,
        /// The former members, the first to leave first; empty without certificates.
        #[serde(default)]
        pub gone: Vec<GoneNode>,
    }
}

described! {
    /// A former member.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct GoneNode as "GoneNode" {
        /// Its name, as in its last certificate.
        pub name: String,
        /// Its key, 64 hexadecimal digits.
        pub node: String,
        /// When its membership ended, by the clock of the node that signed the statement.
        pub time: Timestamp,
        /// `left` or `expelled`.
        pub what: String as ["left", "expelled"],
        /// The name of the node that signed the statement; its own name if it left.
        pub by: String,
        /// That node's key.
        pub by_node: String,
        /// The name of the node that had admitted it, if it was expelled together with that node.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub with: Option<String>,
        /// That node's key.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub with_node: Option<String>,
    }
}

described! {
    /// A member.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct TrustedNode as "TrustedNode" {
        /// Its name, as in its certificate. If another node has the same name, a part of the key is
        /// appended.
        pub name: String,
        /// Its key, 64 hexadecimal digits.
        pub node: String,
        /// Whether it may invite and expel.
        pub admin: bool,
        /// When it was admitted.
        pub since: Timestamp,
        /// When its membership ends, if a limit was set.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub until: Option<Timestamp>,
        /// The name of the node that admitted it; its own name for the founder.
        pub by: String,
        /// That node's key.
        pub by_node: String,
    }
}

described! {
    /// A path at and below which only the files of one node are listed.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct OwnedPath as "OwnedPath" {
        /// Path from the root of the mount.
        #[serde(flatten)]
        pub path: Named,
        /// The name of the owner.
        pub name: String,
        /// The owner's key, 64 hexadecimal digits.
        pub node: String,
    }
}

described! {
    /// A signed statement about members, the secret or an owned path.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct TrustStep as "TrustStep" {
        /// When it was signed, by the clock of the signing node.
        pub time: Timestamp,
        /// `founded`, `admitted`, `expelled`, `left`, `rotated`, `owns` or `disowned`.
        pub what: String,
        /// The name of the node that the statement is about.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub name: Option<String>,
        /// That node's key.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub node: Option<String>,
        /// The path that changes its owner, if the statement is about a path.
        #[serde(flatten)]
        pub path: Option<Named>,
        /// The name of the node that signed it.
        pub by: String,
        /// That node's key.
        pub by_node: String,
        /// Whether the statement counts. Statements that a node signed after its expulsion do not.
        pub counts: bool,
    }
}

described! {
    /// The reply to [`super::Call::Admitted`].
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Admitted as "Admitted" {
        /// The members that would lose their membership if no statement of the node counted, the first
        /// to join first.
        pub admitted: Vec<TrustedNode>,
    }
}

described! {
    /// The reply to [`super::Call::Expel`].
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Expelled as "Expelled" {
        /// The epoch of the new secret, 16 hexadecimal digits.
        pub epoch: String,
        /// The members that depended on the node's statements alone. They were expelled, too, if the
        /// call asked for it.
        pub admitted: Vec<TrustedNode>,
        /// Number of unused invitations of the node that answers the call. They cannot admit the
        /// expelled node, but any other node that has one can use it.
        pub invitations: u64,
    }
}

described! {
    /// The reply to [`super::Call::Rotate`].
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Rotated as "Rotated" {
        /// The epoch of the new secret, 16 hexadecimal digits.
        pub epoch: String,
    }
}

described! {
    /// The reply to [`super::Call::Leave`].
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Left as "Left" {
        /// Whether no other node received the statement by which this node left. The others take it
        /// for a member until one of them expels it.
        #[serde(default)]
        pub unreceived: bool,
    }
}
