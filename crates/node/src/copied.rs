//! Warnings about two machines that use the same key.

use std::net::SocketAddr;

use p2pfs_types::id::NodeId;

/// Beginning of the warning that this node's key was copied.
const OWN: &str = "another machine runs with this node's key";
/// Beginning of the warning that another node's key was copied. The key follows it.
const OTHER: &str = "two machines run with the key of node";

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

    /// Returns the subject of the condition `KeyCopied`. That of the own key is empty, so that it
    /// sorts before all others.
    pub(super) fn subject(&self) -> String {
        match self {
            Self::Own => String::new(),
            Self::Other(node) => node.to_string(),
        }
    }

    /// Returns the beginning of the sentence, which identifies it without the details.
    fn beginning(&self) -> String {
        match self {
            Self::Own => OWN.to_owned(),
            Self::Other(node) => format!("{OTHER} {}", node.short(8)),
        }
    }

    /// Returns the sentence. That of the own key names this machine, `host`, because a copy has the
    /// name of the original node.
    pub(super) fn warning(
        &self,
        name: Option<String>,
        host: &str,
        addresses: &[SocketAddr],
    ) -> String {
        let (name, here) = match (self, name) {
            (Self::Other(_), Some(name)) => (format!(" ({name})"), String::new()),
            (Self::Own, Some(name)) => {
                let here = format!(" (this node is {name}, and this machine {host})");
                (String::new(), here)
            }
            (_, None) => Default::default(),
        };
        let at: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
        let at = match at[..] {
            [] => String::new(),
            _ => format!(", at {}", at.join(" and ")),
        };
        format!("{}{name}{at}{here}", self.beginning())
    }
}

/// Returns the name of this machine (uname(2)).
pub fn hostname() -> String {
    let system = rustix::system::uname();
    system.nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copied_key_is_named_with_the_addresses() {
        let (me, other) = (NodeId::new([1; 32]), NodeId::new([2; 32]));
        let at = ["10.0.0.1:1378", "10.0.0.2:1378"].map(|it| it.parse().unwrap());
        let own = CopiedKey::of(&me, &me).warning(Some("me".into()), "nas", &at[..1]);
        assert_eq!(
            own,
            "another machine runs with this node's key, at 10.0.0.1:1378 (this node is me, and \
             this machine nas)"
        );
        let of_other = CopiedKey::of(&other, &me).warning(Some("two".into()), "nas", &at);
        let said = "two machines run with the key of node 02020202 (two), at 10.0.0.1:1378 and \
                    10.0.0.2:1378";
        assert_eq!(of_other, said);
        let unknown = CopiedKey::of(&me, &me).warning(None, "nas", &[]);
        assert_eq!(unknown, "another machine runs with this node's key");
    }
}
