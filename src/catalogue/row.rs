//! A record as it is kept in memory: one allocation, shared by its author's log and by the merge.
//!
//! A row knows its directory by number and its author by number; all indexes are ordered sets of
//! pointers to rows, so a name, a hash and a time are held once for everything.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Deref;

use equivalent::{Comparable, Equivalent};
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

/// The fixed part of a row; kept to 88 bytes, since there may be millions.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub sequence: u64,
    pub size_bytes: u64,
    pub mtime_seconds: i64,
    pub version_seconds: i64,
    pub mtime_nanoseconds: u32,
    pub version_nanoseconds: u32,
    pub dir: DirId,
    pub author: NodeIndex,
    pub share: ShareIndex,
    pub class: Class,
    pub executable: bool,
    pub name_bytes: u8,
    pub hash: [u8; 32],
}

/// A row; the slice is the name, then (for a link) the target or (for a file) who sent it, encoded.
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
            version_seconds: 0,
            mtime_nanoseconds: 0,
            version_nanoseconds: 0,
            dir: DirId::ROOT,
            author: stamp.author,
            share: ShareIndex(0),
            class,
            executable: false,
            name_bytes: 0,
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
        facts.version_seconds = entry.version_time.seconds;
        facts.version_nanoseconds = entry.version_time.nanoseconds;
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
                    let sender = postcard::to_stdvec(sender).expect("a sender always encodes");
                    return Self(ThinArc::from_header_and_slice(
                        facts,
                        &[name, &sender].concat(),
                    ));
                }
            }
            Kind::Directory => {}
            Kind::Symlink { target } => {
                facts.class = Class::Symlink;
                return Self(ThinArc::from_header_and_slice(
                    facts,
                    &[name, target].concat(),
                ));
            }
        }
        Self(ThinArc::from_header_and_slice(facts, name))
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
        self.0.slice.len()
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
        &self.0.slice[usize::from(self.name_bytes)..]
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
        Timestamp {
            seconds: self.version_seconds,
            nanoseconds: self.version_nanoseconds,
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

/// Defines a newtype over a row (or like pointer) that is equal and ordered by one function.
macro_rules! ordered_by {
    ($type:ty, $compare:expr) => {
        impl Ord for $type {
            fn cmp(&self, other: &Self) -> Ordering {
                $compare(self, other)
            }
        }
        impl PartialOrd for $type {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }
        impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                self.cmp(other) == Ordering::Equal
            }
        }
        impl Eq for $type {}
    };
}

/// Lets a key that is no element be looked for in a set.
macro_rules! key_of {
    ($key:ty, $element:ty, $compare:expr) => {
        impl Equivalent<$element> for $key {
            fn equivalent(&self, element: &$element) -> bool {
                self.compare(element) == Ordering::Equal
            }
        }
        impl Comparable<$element> for $key {
            fn compare(&self, element: &$element) -> Ordering {
                $compare(self, element)
            }
        }
    };
}

/// A row in its directory: by name, then author, then share.
#[derive(Clone, Debug)]
pub(super) struct ByName(pub Row);

ordered_by!(ByName, |a: &ByName, b: &ByName| {
    let (a, b) = (&a.0, &b.0);
    a.name()
        .cmp(b.name())
        .then_with(|| (a.author, a.share).cmp(&(b.author, b.share)))
});

/// The row that a name shows: by name alone, as there is one of each. A tree of such rows may go
/// on guiding searches by a row that was replaced, so whose row it is must not count: a search by
/// name would be led past the row that came instead.
#[derive(Clone, Debug)]
pub(super) struct Listed(pub Row);

ordered_by!(Listed, |a: &Listed, b: &Listed| a.0.name().cmp(b.0.name()));

/// Finds one author's row of a name.
pub(super) struct OwnName<'a> {
    pub name: &'a [u8],
    pub author: NodeIndex,
    pub share: ShareIndex,
}

key_of!(OwnName<'_>, ByName, |key: &OwnName<'_>, row: &ByName| {
    let row = &row.0;
    let owner = (key.author, key.share);
    key.name
        .cmp(row.name())
        .then_with(|| owner.cmp(&(row.author, row.share)))
});

/// A place just before all elements of a name; equal to none.
pub(super) struct Before<'a>(pub &'a [u8]);
/// A place just after all elements of a name; equal to none.
pub(super) struct After<'a>(pub &'a [u8]);

key_of!(Before<'_>, ByName, |key: &Before<'_>, row: &ByName| {
    key.0.cmp(row.0.name()).then(Ordering::Less)
});
key_of!(After<'_>, ByName, |key: &After<'_>, row: &ByName| {
    key.0.cmp(row.0.name()).then(Ordering::Greater)
});
key_of!(After<'_>, Listed, |key: &After<'_>, row: &Listed| {
    key.0.cmp(row.0.name()).then(Ordering::Greater)
});

/// A directory in its parent: by name.
#[derive(Clone)]
pub(super) struct DirRef(ThinArc<DirId, u8>);

impl DirRef {
    pub fn new(id: DirId, name: &[u8]) -> Self {
        Self(ThinArc::from_header_and_slice(id, name))
    }

    pub fn id(&self) -> DirId {
        self.0.header.header
    }

    pub fn name(&self) -> &[u8] {
        &self.0.slice
    }
}

impl fmt::Debug for DirRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.name().escape_ascii(), self.id())
    }
}

ordered_by!(DirRef, |a: &DirRef, b: &DirRef| a.name().cmp(b.name()));

/// Finds by exact name where there is one element a name.
pub(super) struct Named<'a>(pub &'a [u8]);

key_of!(Named<'_>, DirRef, |key: &Named<'_>, dir: &DirRef| key
    .0
    .cmp(dir.name()));
key_of!(After<'_>, DirRef, |key: &After<'_>, dir: &DirRef| {
    key.0.cmp(dir.name()).then(Ordering::Greater)
});
key_of!(Named<'_>, Listed, |key: &Named<'_>, row: &Listed| key
    .0
    .cmp(row.0.name()));

/// A version that lost its name, under the name that it is listed by instead.
#[derive(Clone)]
pub(super) struct Alias(ThinArc<Row, u8>);

impl Alias {
    pub fn new(row: Row, name: &[u8]) -> Self {
        Self(ThinArc::from_header_and_slice(row, name))
    }

    pub fn row(&self) -> &Row {
        &self.0.header.header
    }

    pub fn name(&self) -> &[u8] {
        &self.0.slice
    }
}

impl fmt::Debug for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {:?}", self.name().escape_ascii(), self.row())
    }
}

ordered_by!(Alias, |a: &Alias, b: &Alias| a.name().cmp(b.name()));
key_of!(Named<'_>, Alias, |key: &Named<'_>, alias: &Alias| key
    .0
    .cmp(alias.name()));
key_of!(After<'_>, Alias, |key: &After<'_>, alias: &Alias| {
    key.0.cmp(alias.name()).then(Ordering::Greater)
});

/// A row among all that speak of a content: by hash, what it says, author, sequence.
#[derive(Clone, Debug)]
pub(super) struct ByHash {
    /// The hash's first bytes, beside the pointer: a search through a million rows then reads
    /// hardly any of them, which is most of what it costs.
    prefix: u64,
    pub row: Row,
}

impl ByHash {
    pub fn new(row: Row) -> Self {
        Self {
            prefix: prefix(&row.hash),
            row,
        }
    }
}

fn prefix(hash: &[u8; 32]) -> u64 {
    hash.iter()
        .take(8)
        .fold(0, |prefix, byte| prefix << 8 | u64::from(*byte))
}

ordered_by!(ByHash, |a: &ByHash, b: &ByHash| {
    a.prefix.cmp(&b.prefix).then_with(|| {
        let (a, b) = (&a.row, &b.row);
        let place = |row: &Row| (row.class, row.author, row.sequence, row.dir, row.share);
        a.hash
            .cmp(&b.hash)
            .then_with(|| place(a).cmp(&place(b)))
            .then_with(|| a.name().cmp(b.name()))
    })
});

/// A place just before the first row of (hash, class, author); equal to none.
pub(super) struct HashFrom {
    pub hash: ContentHash,
    pub class: Class,
    /// Wider than [`NodeIndex`], so that there is a place after the last author.
    pub author: u32,
}

key_of!(HashFrom, ByHash, |key: &HashFrom, element: &ByHash| {
    prefix(key.hash.as_bytes())
        .cmp(&element.prefix)
        .then_with(|| {
            let row = &element.row;
            let from = (key.hash.as_bytes(), key.class, key.author);
            from.cmp(&(&row.hash, row.class, u32::from(row.author.0)))
        })
        .then(Ordering::Less)
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_one_allocation_and_its_pointers_are_thin() {
        assert!(size_of::<Facts>() <= 88, "{}", size_of::<Facts>());
        for pointer_bytes in [size_of::<Row>(), size_of::<DirRef>(), size_of::<Alias>()] {
            assert_eq!(pointer_bytes, 8);
        }
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
            let entry = Entry {
                kind,
                mtime: time,
                version_time: Timestamp::default(),
                sent_by,
            };
            let row = Row::entry(stamp, ShareIndex(2), DirId(9), &[0xff; 255], &entry);
            assert_eq!(row.to_entry(), Some(entry));
            assert_eq!(row.name(), [0xff; 255]);
        }
    }

    #[test]
    fn a_name_is_found_whoever_showed_it_before() {
        let row = |name: u32, author| {
            let stamp = Stamp {
                author: NodeIndex(author),
                sequence: 1,
            };
            Listed(Row::removed(
                stamp,
                ShareIndex(0),
                DirId::ROOT,
                &name.to_be_bytes(),
            ))
        };
        let mut set: imbl::OrdSet<Listed> = (0..600).map(|name| row(name, 9)).collect();
        for (name, author) in (0..600u32).flat_map(|name| [(name, 3), (name, 12)]) {
            let old = set.get(&Named(&name.to_be_bytes())).cloned();
            set.remove(&old.expect("it is there before"));
            set.insert(row(name, author));
            let found = set.get(&Named(&name.to_be_bytes()));
            assert_eq!(found.map(|row| row.0.author), Some(NodeIndex(author)));
        }
        assert_eq!(set.len(), 600);
    }

    #[test]
    fn a_place_before_or_after_a_name_is_beside_every_row_of_it() {
        let row = |name: &[u8], author| {
            let stamp = Stamp {
                author: NodeIndex(author),
                sequence: 1,
            };
            ByName(Row::removed(stamp, ShareIndex(0), DirId::ROOT, name))
        };
        let set: imbl::OrdSet<ByName> = (0..50)
            .flat_map(|a| [row(b"a", a), row(b"b", a), row(b"c", a)])
            .collect();
        assert_eq!(set.range(Before(b"b")..).count(), 100);
        assert_eq!(set.range(After(b"b")..).count(), 50);
        assert_eq!(set.range(..After(b"b")).count(), 100);
    }
}
