//! What the control socket tells of who belongs to the cluster.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::names::Named;

/// The reply to [`super::Call::Trust`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// The epoch of the secret in use, 16 hexadecimal digits.
    pub epoch: String,
    /// Whether members have certificates, rather than a secret file in common.
    pub certificates: bool,
    /// Whether this node may invite and expel.
    pub admin: bool,
    /// Who is in, the first to join first; empty without certificates.
    pub members: Vec<TrustedNode>,
    /// Whose which path is; empty without certificates.
    #[serde(default)]
    pub owners: Vec<OwnedPath>,
    /// Who came and went by whose word, the first first; empty without certificates.
    pub history: Vec<TrustStep>,
    /// Who was let in and is in no more, the first to go first; empty without certificates.
    #[serde(default)]
    pub gone: Vec<GoneNode>,
}

/// One that was let in and is no member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoneNode {
    /// What it called itself when it last joined.
    pub name: String,
    /// Its key, 64 hexadecimal digits.
    pub node: String,
    /// Since when, by the clock of who said so.
    pub time: Timestamp,
    /// left or expelled.
    pub what: String,
    /// The name of the node by whose word; its own where it left.
    pub by: String,
    /// That node's key.
    pub by_node: String,
    /// The name of the node that had let it in, where it went with that one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub with: Option<String>,
    /// That node's key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub with_node: Option<String>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustedNode {
    /// What it called itself when it joined.
    pub name: String,
    /// Its key, 64 hexadecimal digits.
    pub node: String,
    /// Whether it may invite and expel.
    pub admin: bool,
    /// Since when.
    pub since: Timestamp,
    /// Until when, where that was said.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until: Option<Timestamp>,
    /// The name of the node by whose word; its own for the founder.
    pub by: String,
    /// That node's key.
    pub by_node: String,
}

/// A path at and below which one node's files alone are listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedPath {
    /// From the root of the mount.
    #[serde(flatten)]
    pub path: Named,
    /// The name of the node.
    pub name: String,
    /// Its key, 64 hexadecimal digits.
    pub node: String,
}

/// A signed statement about who is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustStep {
    /// When, by the clock of the node that signed it.
    pub time: Timestamp,
    /// founded, admitted, expelled, left, rotated, owns or disowned.
    pub what: String,
    /// The name of the node that it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// That node's key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<String>,
    /// Where it speaks of one, the path of the shared folder that it makes somebody's or nobody's.
    #[serde(flatten)]
    pub path: Option<Named>,
    /// The name of the node that signed it.
    pub by: String,
    /// That node's key.
    pub by_node: String,
    /// Whether it counts: what an expelled node said after that does not.
    pub counts: bool,
}

/// The reply to [`super::Call::Admitted`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// Who would be in no more if nothing that the node ever signed counted, the first to join
    /// first.
    pub admitted: Vec<TrustedNode>,
}

/// The reply to [`super::Call::Expel`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expelled {
    /// The epoch of the fresh secret, 16 hexadecimal digits.
    pub epoch: String,
    /// Who was in by the node's word alone, and went with it where that was asked for.
    pub admitted: Vec<TrustedNode>,
    /// How many invitations of the node that was asked wait to be used: they are not for that node,
    /// but for whoever else has them.
    pub invitations: u64,
}

/// The reply to [`super::Call::Rotate`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotated {
    /// The epoch of the fresh secret, 16 hexadecimal digits.
    pub epoch: String,
}
