//! Cheap handles to records and names, for callers that keep long lists of them, such as a mount.

use std::fmt;

use super::row::{Class, Row};
use p2pfs_proto::wire::native::record::{Kind, Timestamp};
use p2pfs_types::digest::ContentHash;

/// A file or link record. It costs one pointer, and does not change when the namespace changes.
#[derive(Clone)]
pub struct RecordHandle(pub(super) Row);

impl RecordHandle {
    /// Returns the recorded name. It differs from the listed name if that is a conflict name.
    pub fn name(&self) -> &[u8] {
        self.0.name()
    }

    /// Returns the kind: a file or a link.
    pub fn kind(&self) -> Option<Kind> {
        self.0.kind()
    }

    /// Returns the hash of a file. For a link the value has no meaning.
    pub fn hash(&self) -> ContentHash {
        self.0.hash()
    }

    /// Returns whether it is a file.
    pub fn is_file(&self) -> bool {
        self.0.class == Class::File
    }

    /// Returns the modification time.
    pub fn mtime(&self) -> Timestamp {
        self.0.mtime()
    }
}

/// A name in a directory. A file or link under its recorded name costs one pointer, every other
/// name its own bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameHandle {
    /// A file or link that is listed under its recorded name.
    Said(RecordHandle),
    /// A directory, or a version under a conflict name.
    Other(Box<[u8]>),
}

impl NameHandle {
    /// Returns the listed name.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Said(said) => said.name(),
            Self::Other(name) => name,
        }
    }
}

impl From<Box<[u8]>> for NameHandle {
    fn from(name: Box<[u8]>) -> Self {
        Self::Other(name)
    }
}

/// Two records are equal if they have the same name and the same entry.
impl PartialEq for RecordHandle {
    fn eq(&self, other: &Self) -> bool {
        self.0.is(&other.0)
            || (self.0.name() == other.0.name() && self.0.to_entry() == other.0.to_entry())
    }
}

impl Eq for RecordHandle {}

impl fmt::Debug for RecordHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.name().escape_ascii(), self.0.to_entry())
    }
}
