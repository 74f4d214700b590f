//! A record as it is kept in memory: one allocation, shared by its author's log and by the merge.
//!
//! A row knows its directory by number and its author by number; all indexes are ordered sets of
//! pointers to rows (see `orders`), so a name, a hash and a time are held once for everything.

use std::fmt;
use std::ops::Deref;

use triomphe::ThinArc;

use p2pfs_proto::wire::native::record::{Entry, Kind, Sender, ShareIndex, Timestamp};
use p2pfs_types::digest::ContentHash;

/// Which node, in this catalogue only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeIndex(pub u16);

/// Which directory, in this catalogue only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct DirId(pub u32);

impl DirId {
    pub(crate) const ROOT: Self = Self(0);
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
    /// Who reads what is sealed under a number.
    Readers,
    /// An entry that this node cannot open.
    Sealed,
    /// The tombstone of one, or of a list of readers.
    SealedRemoved,
}

/// The fixed part of a row; kept to 64 bytes, since there may be millions.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub sequence: u64,
    /// Seconds and nanoseconds; [`OWN_MTIME`] where it is behind the name.
    mtime: u64,
    pub hash: [u8; 32],
    pub dir: DirId,
    pub author: NodeIndex,
    pub share: ShareIndex,
    pub class: Class,
    name_bytes: u8,
    /// The low 44 bits are the size, the others the marks below.
    size_and_marks: [u8; 6],
}

const SIZE_BITS: u32 = 44;
/// It is executable.
const EXECUTABLE: u64 = 1 << SIZE_BITS;
/// The version time is not the mtime, as it is of hardly any: it is behind the name.
const OWN_VERSION: u64 = 1 << (SIZE_BITS + 1);
/// The mtime is before 1970 or after 2513: it is behind the name.
const OWN_MTIME: u64 = 1 << (SIZE_BITS + 2);
/// The size is of more bits: it is behind the name.
const OWN_SIZE: u64 = 1 << (SIZE_BITS + 3);
/// What may be behind the name, in this order, and how long it is there.
const BEHIND: [(u64, usize); 3] = [
    (OWN_VERSION, TIME_BYTES),
    (OWN_MTIME, TIME_BYTES),
    (OWN_SIZE, SIZE_BYTES),
];

const TIME_BYTES: usize = 12;
const SIZE_BYTES: usize = 8;
/// How long the lengths are of what a name was sealed as.
const SEAL_LENGTHS_BYTES: usize = 4;

/// A row; the slice is the name, then what [`BEHIND`] says, then (for a link) the target or (for a
/// file) who sent it, encoded, then what it was sealed as, if it was.
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
            mtime: 0,
            hash: [0; 32],
            dir: DirId::ROOT,
            author: stamp.author,
            share: ShareIndex(0),
            class,
            name_bytes: 0,
            size_and_marks: [0; 6],
        }
    }

    /// A name with what it stands for.
    pub(crate) fn entry(
        stamp: Stamp,
        share: ShareIndex,
        dir: DirId,
        name: &[u8],
        entry: &Entry,
    ) -> Self {
        Self::entry_sealed(stamp, share, (dir, name), entry, &[])
    }

    /// The same, which came sealed: with the [`seal`] of it.
    pub(crate) fn entry_sealed(
        stamp: Stamp,
        share: ShareIndex,
        (dir, name): (DirId, &[u8]),
        entry: &Entry,
        seal: &[u8],
    ) -> Self {
        let mut facts = Self::blank(stamp, Class::Directory);
        facts.share = share;
        facts.dir = dir;
        facts.name_bytes = name.len() as u8;
        let mut behind = Vec::new();
        if entry.version_time != entry.mtime {
            facts.mark(OWN_VERSION);
            behind.extend(time_bytes(entry.version_time));
        }
        match entry.mtime.packed() {
            Some(mtime) => facts.mtime = mtime,
            None => {
                facts.mark(OWN_MTIME);
                behind.extend(time_bytes(entry.mtime));
            }
        }
        match &entry.kind {
            Kind::File {
                hash,
                size_bytes,
                executable,
            } => {
                facts.class = Class::File;
                facts.hash = *hash.as_bytes();
                facts.mark(u64::from(*executable) * EXECUTABLE);
                behind.extend(facts.set_size(*size_bytes).into_iter().flatten());
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
        behind.extend_from_slice(seal);
        if behind.is_empty() {
            return Self(ThinArc::from_header_and_slice(facts, name));
        }
        Self(ThinArc::from_header_and_slice(
            facts,
            &[name, &behind].concat(),
        ))
    }

    /// The tombstone of a name.
    pub(crate) fn removed(stamp: Stamp, share: ShareIndex, dir: DirId, name: &[u8]) -> Self {
        Self::removed_sealed(stamp, share, (dir, name), &[])
    }

    /// The same, which came sealed: with the [`seal`] of it.
    pub(crate) fn removed_sealed(
        stamp: Stamp,
        share: ShareIndex,
        (dir, name): (DirId, &[u8]),
        seal: &[u8],
    ) -> Self {
        let mut facts = Self::blank(stamp, Class::Removed);
        facts.share = share;
        facts.dir = dir;
        facts.name_bytes = name.len() as u8;
        Self(ThinArc::from_header_and_slice(
            facts,
            &[name, seal].concat(),
        ))
    }

    /// What is sealed for others, a tombstone of it, or a list of readers, as it came.
    pub(crate) fn opaque(
        stamp: Stamp,
        class: Class,
        number: ShareIndex,
        path: &[u8],
        rest: &[u8],
    ) -> Self {
        let mut facts = Self::blank(stamp, class);
        facts.share = number;
        facts.mark(path.len() as u64);
        let text = [path, rest].concat();
        Self(ThinArc::from_header_and_slice(facts, &text))
    }

    /// A complete content in the author's cache.
    pub(crate) fn have(stamp: Stamp, hash: &ContentHash, size_bytes: u64) -> Self {
        let mut facts = Self::blank(stamp, Class::Have);
        facts.hash = *hash.as_bytes();
        let behind = facts.set_size(size_bytes);
        let behind = behind.as_ref().map_or(&[][..], |bytes| bytes);
        Self(ThinArc::from_header_and_slice(facts, behind))
    }

    /// The tombstone of a cached content.
    pub(crate) fn have_not(stamp: Stamp, hash: &ContentHash) -> Self {
        let mut facts = Self::blank(stamp, Class::HaveNot);
        facts.hash = *hash.as_bytes();
        Self(ThinArc::from_header_and_slice(facts, &[]))
    }

    pub(crate) fn name(&self) -> &[u8] {
        &self.0.slice[..usize::from(self.name_bytes)]
    }

    /// How long its name is with what is behind it.
    pub(crate) fn text_bytes(&self) -> usize {
        usize::from(self.name_bytes) + self.behind(0).len()
    }

    /// Where a link points; empty for all else.
    pub(crate) fn target(&self) -> &[u8] {
        match self.class {
            Class::Symlink => self.behind_name(),
            _ => &[],
        }
    }

    /// Who sent it to its author, of a file that somebody did.
    pub(crate) fn sent_by(&self) -> Option<Sender> {
        match self.class {
            Class::File if !self.behind_name().is_empty() => {
                postcard::from_bytes(self.behind_name()).ok()
            }
            _ => None,
        }
    }

    fn behind_name(&self) -> &[u8] {
        let seal_bytes = self.seal().map_or(0, |(path, entry)| {
            path.len() + entry.len() + SEAL_LENGTHS_BYTES
        });
        let behind = self.behind(0);
        &behind[..behind.len() - seal_bytes]
    }

    /// The path and entry that a name was sealed as, if it was; of a tombstone the entry is empty.
    /// Of what is opaque, how it came.
    pub(crate) fn seal(&self) -> Option<(&[u8], &[u8])> {
        if self.is_opaque() {
            return Some(self.0.slice.split_at(self.size_bytes() as usize));
        }
        if !self.has_name() || !self.share.is_sealed() {
            return None;
        }
        let (text, lengths) = self.0.slice.split_last_chunk::<SEAL_LENGTHS_BYTES>()?;
        let [a, b, c, d] = *lengths;
        let (path, entry) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        let (text, entry) = text.split_at(text.len() - usize::from(entry));
        let (_, path) = text.split_at(text.len() - usize::from(path));
        Some((path, entry))
    }

    /// What is behind the name from what a mark stands for on; from the last of it on for none.
    fn behind(&self, mark: u64) -> &[u8] {
        let before = BEHIND.iter().take_while(|(other, _)| *other != mark);
        let there = before.filter(|(other, _)| self.has(*other));
        let skipped: usize = there.map(|(_, length)| length).sum();
        &self.0.slice[usize::from(self.name_bytes) + skipped..]
    }

    fn time_behind(&self, mark: u64) -> Timestamp {
        let bytes = self.behind(mark).first_chunk().copied();
        time_of(bytes.expect("its mark says that it is there"))
    }

    /// Of what is opaque, how long its path is.
    pub(crate) fn size_bytes(&self) -> u64 {
        match self.behind(OWN_SIZE).first_chunk() {
            Some(bytes) if self.has(OWN_SIZE) => u64::from_le_bytes(*bytes),
            _ => self.marks() & (EXECUTABLE - 1),
        }
    }

    pub(crate) fn hash(&self) -> ContentHash {
        ContentHash::new(self.hash)
    }

    pub(crate) fn mtime(&self) -> Timestamp {
        if self.has(OWN_MTIME) {
            return self.time_behind(OWN_MTIME);
        }
        Timestamp::unpacked(self.mtime)
    }

    pub(crate) fn version_time(&self) -> Timestamp {
        if self.has(OWN_VERSION) {
            self.time_behind(OWN_VERSION)
        } else {
            self.mtime()
        }
    }

    /// Whether it says that something is gone, and so does not count in its author's head.
    pub(crate) fn is_tombstone(&self) -> bool {
        matches!(
            self.class,
            Class::Removed | Class::HaveNot | Class::SealedRemoved
        )
    }

    /// Whether it is kept as it came: a list of readers, or what this node cannot open.
    pub(crate) fn is_opaque(&self) -> bool {
        matches!(
            self.class,
            Class::Readers | Class::Sealed | Class::SealedRemoved
        )
    }

    /// Whether it is about a name (and so lies in a directory), not about a cached content.
    pub(crate) fn has_name(&self) -> bool {
        !matches!(self.class, Class::Have | Class::HaveNot) && !self.is_opaque()
    }

    /// Whether its author offers the bytes of a hash by it.
    pub(crate) fn gives_content(&self) -> bool {
        matches!(self.class, Class::File | Class::Have)
    }

    /// Whether both stand for the same thing: the same bytes, or the same link.
    pub(crate) fn same_content(&self, other: &Self) -> bool {
        self.class == other.class
            && self.hash == other.hash
            && self.size_bytes() == other.size_bytes()
            && self.target() == other.target()
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        std::ptr::eq::<Facts>(&**self, &**other)
    }

    /// The entry that was recorded; none for a tombstone or a cached content.
    pub(crate) fn to_entry(&self) -> Option<Entry> {
        Some(Entry {
            kind: self.kind()?,
            mtime: self.mtime(),
            version_time: self.version_time(),
            sent_by: self.sent_by(),
        })
    }

    pub(crate) fn kind(&self) -> Option<Kind> {
        Some(match self.class {
            Class::File => Kind::File {
                hash: self.hash(),
                size_bytes: self.size_bytes(),
                executable: self.executable(),
            },
            Class::Directory => Kind::Directory,
            Class::Symlink => Kind::Symlink {
                target: bytes::Bytes::copy_from_slice(self.target()),
            },
            Class::Removed | Class::Have | Class::HaveNot => return None,
            Class::Readers | Class::Sealed | Class::SealedRemoved => return None,
        })
    }
}

impl Facts {
    pub(crate) fn executable(&self) -> bool {
        self.has(EXECUTABLE)
    }

    fn has(&self, mark: u64) -> bool {
        self.marks() & mark != 0
    }

    fn marks(&self) -> u64 {
        let [a, b, c, d, e, f] = self.size_and_marks;
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }

    /// Sets the size of what has none yet, or gives what is to be behind the name for it.
    #[must_use]
    fn set_size(&mut self, size_bytes: u64) -> Option<[u8; SIZE_BYTES]> {
        if size_bytes < EXECUTABLE {
            self.mark(size_bytes);
            return None;
        }
        self.mark(OWN_SIZE);
        Some(size_bytes.to_le_bytes())
    }

    fn mark(&mut self, marks: u64) {
        let [a, b, c, d, e, f, ..] = (self.marks() | marks).to_le_bytes();
        self.size_and_marks = [a, b, c, d, e, f];
    }
}

fn time_bytes(time: Timestamp) -> [u8; TIME_BYTES] {
    let mut bytes = [0; TIME_BYTES];
    bytes[..8].copy_from_slice(&time.seconds.to_le_bytes());
    bytes[8..].copy_from_slice(&time.nanoseconds.to_le_bytes());
    bytes
}

fn time_of([a, b, c, d, e, f, g, h, i, j, k, l]: [u8; TIME_BYTES]) -> Timestamp {
    Timestamp {
        seconds: i64::from_le_bytes([a, b, c, d, e, f, g, h]),
        nanoseconds: u32::from_le_bytes([i, j, k, l]),
    }
}

/// What a row keeps of how it came; both are shorter than 64 KiB, see `SEALED_MAX_BYTES`.
pub(super) fn seal(path: &[u8], entry: &[u8]) -> Vec<u8> {
    let mut seal = [path, entry].concat();
    seal.extend((path.len() as u16).to_le_bytes());
    seal.extend((entry.len() as u16).to_le_bytes());
    seal
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
mod tests;
