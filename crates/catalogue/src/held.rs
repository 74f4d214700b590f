//! Records and names that are held: for who keeps long lists of them, such as a mount.

use std::fmt;

use super::row::{Class, Row};
use p2pfs_proto::wire::native::record::{Kind, Timestamp};
use p2pfs_types::digest::ContentHash;

/// What somebody said of a file or link, held: it costs a pointer, and stays as it is when the
/// namespace has moved on.
#[derive(Clone)]
pub struct Held(pub(super) Row);

impl Held {
    /// The name under which it was said, which is not the name that it is listed by where it has a
    /// conflict name.
    pub fn name(&self) -> &[u8] {
        self.0.name()
    }

    /// A file or a link.
    pub fn kind(&self) -> Option<Kind> {
        self.0.kind()
    }

    /// Of a file; of a link it says nothing.
    pub fn hash(&self) -> ContentHash {
        self.0.hash()
    }

    /// Whether it is a file.
    pub fn is_file(&self) -> bool {
        self.0.class == Class::File
    }

    /// Its modification time.
    pub fn mtime(&self) -> Timestamp {
        self.0.mtime()
    }
}

/// A name of a directory, held: costs no more than its own bytes, and of a file or link hardly
/// anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldName {
    /// A file or link that is listed under the name by which it was said.
    Said(Held),
    /// A directory, or a version under a conflict name.
    Other(Box<[u8]>),
}

impl HeldName {
    /// As it is listed.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Said(said) => said.name(),
            Self::Other(name) => name,
        }
    }
}

impl From<Box<[u8]>> for HeldName {
    fn from(name: Box<[u8]>) -> Self {
        Self::Other(name)
    }
}

/// Two are the same where they say the same.
impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.0.is(&other.0)
            || (self.0.name() == other.0.name() && self.0.to_entry() == other.0.to_entry())
    }
}

impl Eq for Held {}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.name().escape_ascii(), self.0.to_entry())
    }
}
