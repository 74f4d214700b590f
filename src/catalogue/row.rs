//! A record as it is kept in memory: one allocation, shared by its author's log and by the merge.
//!
//! A row knows its directory by number and its author by number; all indexes are ordered sets of
//! pointers to rows (see `orders`), so a name, a hash and a time are held once for everything.

use std::fmt;
use std::ops::Deref;

use triomphe::ThinArc;

use crate::digest::ContentHash;
use crate::wire::native::record::{Entry, Kind, Sender, ShareIndex, Timestamp};

/// Which node, in this catalogue only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeIndex(pub u16);

/// Which directory, in this catalogue only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct DirId(pub u32);

impl DirId {
    pub const ROOT: Self = Self(0);
}

/// What a row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Class {
    File,
    Have,
    HaveNot,
    Symlink,
    Directory,
    Removed,
}

/// The fixed part of a row; kept to 72 bytes, since there may be millions.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub sequence: u64,
    pub size_bytes: u64,
    pub mtime_seconds: i64,
    pub mtime_nanoseconds: u32,
    pub dir: DirId,
    pub author: NodeIndex,
    pub share: ShareIndex,
    pub class: Class,
    pub executable: bool,
    pub name_bytes: u8,
    /// Whether the version time is not the mtime, as it is of hardly any.
    pub has_version_time: bool,
    pub hash: [u8; 32],
}

/// How long a version time is in a row that has one of its own.
const VERSION_TIME_BYTES: usize = 12;

/// A row; the slice is the name, then the version time where it has one of its own, then (for a
/// link) the target or (for a file) who sent it, encoded.
#[derive(Clone)]
pub(super) struct Row(ThinArc<Facts, u8>);

/// Where a row stands: whose it is, and its place in that log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    pub author: NodeIndex,
    pub sequence: u64,
}

impl Row {
    fn blank(stamp: Stamp, class: Class) -> Facts {
        Facts {
            sequence: stamp.sequence,
            size_bytes: 0,
            mtime_seconds: 0,
            mtime_nanoseconds: 0,
            dir: DirId::ROOT,
            author: stamp.author,
            share: ShareIndex(0),
            class,
            executable: false,
            name_bytes: 0,
            has_version_time: false,
            hash: [0; 32],
        }
    }

    /// A name with what it stands for.
    pub fn entry(stamp: Stamp, share: ShareIndex, dir: DirId, name: &[u8], entry: &Entry) -> Self {
        let mut facts = Self::blank(stamp, Class::Directory);
        facts.share = share;
        facts.dir = dir;
        facts.name_bytes = name.len() as u8;
        facts.mtime_seconds = entry.mtime.seconds;
        facts.mtime_nanoseconds = entry.mtime.nanoseconds;
        facts.has_version_time = entry.version_time != entry.mtime;
        let mut behind = Vec::new();
        if facts.has_version_time {
            behind.extend(entry.version_time.seconds.to_le_bytes());
            behind.extend(entry.version_time.nanoseconds.to_le_bytes());
        }
        match &entry.kind {
            Kind::File {
                hash,
                size_bytes,
                executable,
            } => {
                facts.class = Class::File;
                facts.hash = *hash.as_bytes();
                facts.size_bytes = *size_bytes;
                facts.executable = *executable;
                if let Some(sender) = &entry.sent_by {
                    behind.extend(postcard::to_stdvec(sender).expect("a sender always encodes"));
                }
            }
            Kind::Directory => {}
            Kind::Symlink { target } => {
                facts.class = Class::Symlink;
                behind.extend_from_slice(target);
            }
        }
        if behind.is_empty() {
            return Self(ThinArc::from_header_and_slice(facts, name));
        }
        Self(ThinArc::from_header_and_slice(
            facts,
            &[name, &behind].concat(),
        ))
    }

    /// The tombstone of a name.
    pub fn removed(stamp: Stamp, share: ShareIndex, dir: DirId, name: &[u8]) -> Self {
        let mut facts = Self::blank(stamp, Class::Removed);
        facts.share = share;
        facts.dir = dir;
        facts.name_bytes = name.len() as u8;
        Self(ThinArc::from_header_and_slice(facts, name))
    }

    /// A complete content in the author's cache.
    pub fn have(stamp: Stamp, hash: &ContentHash, size_bytes: u64) -> Self {
        let mut facts = Self::blank(stamp, Class::Have);
        facts.hash = *hash.as_bytes();
        facts.size_bytes = size_bytes;
        Self(ThinArc::from_header_and_slice(facts, &[]))
    }

    /// The tombstone of a cached content.
    pub fn have_not(stamp: Stamp, hash: &ContentHash) -> Self {
        let mut facts = Self::blank(stamp, Class::HaveNot);
        facts.hash = *hash.as_bytes();
        Self(ThinArc::from_header_and_slice(facts, &[]))
    }

    pub fn name(&self) -> &[u8] {
        &self.0.slice[..usize::from(self.name_bytes)]
    }

    /// How long its name is with what is behind it.
    pub fn text_bytes(&self) -> usize {
        usize::from(self.name_bytes) + self.behind_name().len()
    }

    /// Where a link points; empty for all else.
    pub fn target(&self) -> &[u8] {
        match self.class {
            Class::Symlink => self.behind_name(),
            _ => &[],
        }
    }

    /// Who sent it to its author, of a file that somebody did.
    pub fn sent_by(&self) -> Option<Sender> {
        match self.class {
            Class::File if !self.behind_name().is_empty() => {
                postcard::from_bytes(self.behind_name()).ok()
            }
            _ => None,
        }
    }

    fn behind_name(&self) -> &[u8] {
        let time_bytes = match self.has_version_time {
            true => VERSION_TIME_BYTES,
            false => 0,
        };
        &self.0.slice[usize::from(self.name_bytes) + time_bytes..]
    }

    pub fn hash(&self) -> ContentHash {
        ContentHash::new(self.hash)
    }

    pub fn mtime(&self) -> Timestamp {
        Timestamp {
            seconds: self.mtime_seconds,
            nanoseconds: self.mtime_nanoseconds,
        }
    }

    pub fn version_time(&self) -> Timestamp {
        let own = self.0.slice[usize::from(self.name_bytes)..].first_chunk();
        match own {
            Some([a, b, c, d, e, f, g, h, i, j, k, l]) if self.has_version_time => Timestamp {
                seconds: i64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]),
                nanoseconds: u32::from_le_bytes([*i, *j, *k, *l]),
            },
            _ => self.mtime(),
        }
    }

    /// Whether it counts in the author's head.
    pub fn is_live_fact(&self) -> bool {
        !self.is_tombstone()
    }

    pub fn is_tombstone(&self) -> bool {
        matches!(self.class, Class::Removed | Class::HaveNot)
    }

    /// Whether it is about a name (and so lies in a directory), not about a cached content.
    pub fn has_name(&self) -> bool {
        !matches!(self.class, Class::Have | Class::HaveNot)
    }

    /// Whether its author offers the bytes of a hash by it.
    pub fn gives_content(&self) -> bool {
        matches!(self.class, Class::File | Class::Have)
    }

    /// Whether both stand for the same thing: the same bytes, or the same link.
    pub fn same_content(&self, other: &Self) -> bool {
        self.class == other.class
            && self.hash == other.hash
            && self.size_bytes == other.size_bytes
            && self.target() == other.target()
    }

    pub fn is(&self, other: &Self) -> bool {
        std::ptr::eq::<Facts>(&**self, &**other)
    }

    /// The entry that was recorded; none for a tombstone or a cached content.
    pub fn to_entry(&self) -> Option<Entry> {
        Some(Entry {
            kind: self.kind()?,
            mtime: self.mtime(),
            version_time: self.version_time(),
            sent_by: self.sent_by(),
        })
    }

    pub fn kind(&self) -> Option<Kind> {
        Some(match self.class {
            Class::File => Kind::File {
                hash: self.hash(),
                size_bytes: self.size_bytes,
                executable: self.executable,
            },
            Class::Directory => Kind::Directory,
            Class::Symlink => Kind::Symlink {
                target: bytes::Bytes::copy_from_slice(self.target()),
            },
            Class::Removed | Class::Have | Class::HaveNot => return None,
        })
    }
}

impl Deref for Row {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.0.header.header
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (class, name) = (self.class, self.name().escape_ascii());
        write!(
            f,
            "{class:?} {name} of {:?} at {}",
            self.author, self.sequence
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_one_allocation_and_its_pointer_is_thin() {
        assert!(size_of::<Facts>() <= 72, "{}", size_of::<Facts>());
        assert_eq!(size_of::<Row>(), 8);
    }

    #[test]
    fn an_entry_survives_being_a_row() {
        let stamp = Stamp {
            author: NodeIndex(3),
            sequence: 7,
        };
        let time = Timestamp {
            seconds: -5,
            nanoseconds: 999_999_999,
        };
        for kind in [
            Kind::File {
                hash: ContentHash::of(b"x"),
                size_bytes: 1,
                executable: true,
            },
            Kind::Directory,
            Kind::Symlink {
                target: bytes::Bytes::from_static(b"../there"),
            },
        ] {
            let sent_by = match kind {
                Kind::File { .. } => Some(Sender::Peer("bob".to_owned())),
                _ => None,
            };
            for version_time in [time, Timestamp::default()] {
                let entry = Entry {
                    kind: kind.clone(),
                    mtime: time,
                    version_time,
                    sent_by: sent_by.clone(),
                };
                let row = Row::entry(stamp, ShareIndex(2), DirId(9), &[0xff; 255], &entry);
                assert_eq!(row.to_entry(), Some(entry));
                assert_eq!(row.name(), [0xff; 255]);
            }
        }
    }
}
