//! Warnings about two machines that use the same key.

use std::net::SocketAddr;

use super::Node;
use p2pfs_types::id::NodeId;

/// Beginning of the warning that this node's key was copied.
const OWN: &str = "another machine runs with this node's key";
/// Beginning of the warning that another node's key was copied. The key follows it.
const OTHER: &str = "two machines run with the key of node";
/// The remedy.
const REMEDY: &str = "one is a copy of the other: on one of them stop p2pfs, remove its state \
                      directory and start it again, which makes it a node of its own";

/// The key that two machines use.
pub(super) enum CopiedKey {
    Own,
    Other(NodeId),
}

impl CopiedKey {
    pub(super) fn of(node: &NodeId, me: &NodeId) -> Self {
        if node == me {
            Self::Own
        } else {
            Self::Other(*node)
        }
    }

    /// Returns the beginning of the warning, which identifies it without the details.
    pub(super) fn beginning(&self) -> String {
        match self {
            Self::Own => OWN.to_owned(),
            Self::Other(node) => format!("{OTHER} {}", node.short(8)),
        }
    }

    /// Returns the warning and, after a semicolon, the remedy.
    pub(super) fn warning(&self, name: Option<String>, addresses: &[SocketAddr]) -> String {
        let name = match (self, name) {
            (Self::Other(_), Some(name)) => format!(" ({name})"),
            _ => String::new(),
        };
        let at: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
        let at = match at[..] {
            [] => String::new(),
            _ => format!(", at {}", at.join(" and ")),
        };
        format!("{}{name}{at}; {REMEDY}", self.beginning())
    }
}

impl Node {
    /// Returns whether another machine is known to use this node's key. If so, reports about
    /// connections between nodes may be about either machine.
    pub fn is_copied(&self) -> bool {
        self.running.events.standing(OWN).is_some()
    }

    /// Returns the warnings about keys that two machines use, this node's key first.
    pub fn copied_keys(&self) -> Vec<String> {
        let all = self.running.events.warnings().into_iter();
        let mut told: Vec<_> = all
            .filter(|it| it.starts_with(OWN) || it.starts_with(OTHER))
            .collect();
        told.sort_by_key(|it| !it.starts_with(OWN));
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copied_key_is_named_with_the_addresses_and_the_remedy() {
        let (me, other) = (NodeId::new([1; 32]), NodeId::new([2; 32]));
        let at = ["10.0.0.1:1378", "10.0.0.2:1378"].map(|it| it.parse().unwrap());
        let own = CopiedKey::of(&me, &me).warning(Some("me".into()), &at[..1]);
        assert!(own.starts_with("another machine runs with this node's key, at 10.0.0.1:1378; "));
        let of_other = CopiedKey::of(&other, &me).warning(Some("two".into()), &at);
        let said = "two machines run with the key of node 02020202 (two), at 10.0.0.1:1378 and \
                    10.0.0.2:1378; ";
        assert!(of_other.starts_with(said), "{of_other}");
        assert!(own.contains("state directory") && of_other.contains("state directory"));
        let unknown = CopiedKey::of(&me, &me).warning(None, &[]);
        assert!(unknown.starts_with("another machine runs with this node's key; "));
    }
}
