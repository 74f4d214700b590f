//! Identities: node keys, node names, and the numbers that distinguish the lives of a node.
//!
//! This module owns the identifiers that every other module uses as keys. How a key is made or
//! proven belongs to `trust`. Addresses do not occur here.

use std::fmt;
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Deserializer, Serialize};

/// An Ed25519 public key (RFC 8032, 32 bytes): the identity of a node for the lifetime of its key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId([u8; 32]);

/// Minimum number of hexadecimal digits of a key that identify its node.
const KEY_MIN_DIGITS: usize = 4;

impl NodeId {
    /// Wraps the 32 bytes of an Ed25519 public key. Does not check that they are a point of the
    /// curve; the first verification of a signature does.
    pub const fn new(public_key: [u8; 32]) -> Self {
        Self(public_key)
    }

    /// Returns the bytes of the public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the first `digits` hexadecimal digits (at most 64), as in the names of conflicting
    /// versions.
    pub fn short(&self, digits: usize) -> String {
        let mut hex = to_hex(&self.0);
        hex.truncate(digits);
        hex
    }

    /// Returns whether the key begins with these lower-case hexadecimal digits. Returns false for
    /// fewer than four digits, because they may match by accident.
    pub fn begins_with(&self, digits: &str) -> bool {
        digits.len() >= KEY_MIN_DIGITS && to_hex(&self.0).starts_with(digits)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({})", self.short(8))
    }
}

impl FromStr for NodeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        from_hex(text).map(Self).ok_or_else(|| IdError::BadHex {
            text: text.to_owned(),
        })
    }
}

/// Name that a node gives itself: 1 to 63 bytes of ASCII letters, digits, `-`, `_` and `.`, not
/// starting with `-` or `.`. It needs no escaping in a file name, a path or a table.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct NodeName(String);

/// Maximum length of a node name in bytes: a DNS label (RFC 1035, section 2.3.4).
pub const NODE_NAME_MAX_BYTES: usize = 63;

impl NodeName {
    /// Checks and wraps a name.
    ///
    /// # Errors
    /// [`IdError::BadName`] if the text is not a node name.
    pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
        let text = text.into();
        let letters = text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        let fits = (1..=NODE_NAME_MAX_BYTES).contains(&text.len());
        if !letters || !fits || text.starts_with(['-', '.']) {
            return Err(IdError::BadName { text });
        }
        Ok(Self(text))
    }

    /// Makes a name from the first label of a host name: replaces invalid characters by `-`,
    /// truncates, and removes `-` at the start. An empty name becomes `node`.
    pub fn from_host(host: &str) -> Self {
        let label = host.split('.').next().unwrap_or_default();
        let clean: String = label
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '-' || c == '_' {
                    c
                } else {
                    '-'
                }
            })
            .take(NODE_NAME_MAX_BYTES)
            .collect();
        let clean = clean.trim_start_matches('-');
        Self(if clean.is_empty() {
            "node".to_owned()
        } else {
            clean.to_owned()
        })
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeName({})", self.0)
    }
}

impl FromStr for NodeName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for NodeName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Id of the epoch secret that seals a datagram or makes a proof. It is derived one way from the
/// secret, so it may travel in clear.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EpochId(pub [u8; 8]);

impl fmt::Display for EpochId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for EpochId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EpochId({self})")
    }
}

/// Number of a node's life in the membership protocol. A higher generation of the same [`NodeId`]
/// replaces a lower one, so a restarted node supersedes its previous life.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Generation(pub u64);

/// The reason why a text is not an identifier, with the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is not a node name.
    #[error(
        "{text:?} is not a node name: 1 to 63 letters, digits, '-', '_' or '.', not starting \
         with '-' or '.'"
    )]
    BadName {
        /// The invalid text.
        text: String,
    },
    /// The text does not have 64 hexadecimal digits.
    #[error("{text:?} is not 64 hexadecimal digits")]
    BadHex {
        /// The invalid text.
        text: String,
    },
}

/// Encodes bytes in lower-case hexadecimal.
pub fn to_hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

/// Decodes exactly `2 * N` hexadecimal digits of either case. Returns none for any other text.
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips() {
        let bytes: [u8; 32] = std::array::from_fn(|i| (i * 37) as u8);
        assert_eq!(from_hex::<32>(&to_hex(&bytes)), Some(bytes));
        assert_eq!(
            NodeId::new(bytes).to_string().parse(),
            Ok(NodeId::new(bytes))
        );
    }

    #[test]
    fn a_key_is_named_by_a_prefix_that_is_long_enough() {
        let node = NodeId::new([0xab; 32]);
        for digits in ["abab", &node.to_string()] {
            assert!(node.begins_with(digits), "{digits}");
        }
        for digits in ["", "aba", "abac", &format!("{node}a")] {
            assert!(!node.begins_with(digits), "{digits}");
        }
    }

    #[test]
    fn hex_of_another_length_or_alphabet_is_refused() {
        assert_eq!(from_hex::<2>("abc"), None);
        assert_eq!(from_hex::<2>("abcde"), None);
        assert_eq!(from_hex::<2>("abcg"), None);
        assert_eq!(from_hex::<1>("é"), None);
    }

    #[test]
    fn a_node_name_is_valid_in_a_file_name() {
        for good in ["a", "node-1", "Lab_3.example", &"x".repeat(63)] {
            assert!(NodeName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            ".a",
            "a/b",
            "a b",
            "a~b",
            "é",
            "a\n",
            &"x".repeat(64),
        ] {
            assert!(NodeName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn any_host_name_yields_a_node_name() {
        for host in ["", "lab-3.example.org", "--", "münchen", &"h".repeat(200)] {
            let name = NodeName::from_host(host);
            assert!(
                NodeName::new(name.as_str()).is_ok(),
                "{host:?} gave {name:?}"
            );
        }
        assert_eq!(NodeName::from_host("lab-3.example.org").as_str(), "lab-3");
    }

    #[test]
    fn a_node_name_is_validated_when_decoded() {
        let bytes = postcard::to_stdvec(&String::from("../x")).unwrap();
        assert!(postcard::from_bytes::<NodeName>(&bytes).is_err());
    }
}
