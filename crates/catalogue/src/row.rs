//! A record in memory: one allocation, shared by its author's log and by the merge.
//!
//! A row refers to its directory and its author by number. The indexes of the merge hold pointers
//! to rows (see `orders`), so a row is stored only once.

use std::fmt;
use std::ops::Deref;

use triomphe::ThinArc;

use p2pfs_proto::wire::native::record::{
    Entry, KeepOffer, Kind, SHARES_MAX, Sender, ShareIndex, Timestamp,
};
use p2pfs_types::digest::ContentHash;

/// Number of a node, valid in this catalogue only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeIndex(pub u16);

/// Number of a directory, valid in this catalogue only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct DirId(pub u32);

impl DirId {
    pub(crate) const ROOT: Self = Self(0);
}

/// The kind of statement in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Class {
    File,
    Have,
    HaveNot,
    Symlink,
    Directory,
    Removed,
    /// The readers of the records that are sealed under a number.
    Readers,
    /// An entry that this node cannot open.
    Sealed,
    /// The tombstone of a sealed entry or of a list of readers.
    SealedRemoved,
    /// A deletion of versions of a name.
    Gone,
    /// A share in which the replacements and deletions of other nodes count.
    Open,
    /// The tombstone of [`Class::Open`].
    Closed,
    /// An offer to keep files.
    Keeps,
    /// The tombstone of [`Class::Keeps`].
    KeepsNot,
}

/// Share number of all deletions and offers to keep files, which belong to no share. No entry can
/// have it.
pub(super) const NO_SHARE: ShareIndex = ShareIndex(SHARES_MAX as u16);

/// The fixed part of a row. It is kept to 64 bytes, because there may be millions of rows.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub sequence: u64,
    /// Packed seconds and nanoseconds. With [`OWN_MTIME`] set, the time is behind the name instead.
    mtime: u64,
    pub hash: [u8; 32],
    pub dir: DirId,
    pub author: NodeIndex,
    pub share: ShareIndex,
    pub class: Class,
    name_bytes: u8,
    /// The low 43 bits are the size, the others are the marks below.
    size_and_marks: [u8; 6],
}

const SIZE_BITS: u32 = 43;
/// Mark: the file is executable.
const EXECUTABLE: u64 = 1 << SIZE_BITS;
/// Mark: the version time differs from the mtime and is behind the name. Hardly any row has it.
const OWN_VERSION: u64 = 1 << (SIZE_BITS + 1);
/// Mark: the mtime is before 1970 or after May 2514, and is behind the name.
const OWN_MTIME: u64 = 1 << (SIZE_BITS + 2);
/// Mark: the size exceeds 43 bits and is behind the name.
const OWN_SIZE: u64 = 1 << (SIZE_BITS + 3);
/// Mark: the row names contents that it replaces or deletes. Their number, in one byte, and their
/// hashes are behind the values of [`BEHIND`].
const REPLACES: u64 = 1 << (SIZE_BITS + 4);
/// The values that may be behind the name, in this order, with their lengths in bytes.
const BEHIND: [(u64, usize); 3] = [
    (OWN_VERSION, TIME_BYTES),
    (OWN_MTIME, TIME_BYTES),
    (OWN_SIZE, SIZE_BYTES),
];

const TIME_BYTES: usize = 12;
const SIZE_BYTES: usize = 8;
const HASH_BYTES: usize = 32;
/// Bytes of the two lengths at the end of a seal.
const SEAL_LENGTHS_BYTES: usize = 4;

/// A row. The slice is the name, then the values of [`BEHIND`], then the contents that the row
/// replaces or deletes. Then follows the target of a link or the encoded sender of a file. The last part is the [`seal`], if the entry is in a sealed
/// share. The slice of an opaque row has only its sealed path and the rest of its received form.
#[derive(Clone)]
pub(super) struct Row(ThinArc<Facts, u8>);

/// The author of a row, and its sequence in that log.
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

    /// Creates the row of a named entry.
    pub(crate) fn entry(
        stamp: Stamp,
        share: ShareIndex,
        dir: DirId,
        name: &[u8],
        entry: &Entry,
    ) -> Self {
        Self::entry_sealed(stamp, share, (dir, name), entry, &[])
    }

    /// Creates the row of an entry that arrived sealed, with its [`seal`].
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
        behind.extend(facts.set_mtime(entry.mtime).into_iter().flatten());
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
                facts.set_replaces(&entry.replaces, &mut behind);
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

    /// Creates the tombstone of a name.
    pub(crate) fn removed(stamp: Stamp, share: ShareIndex, dir: DirId, name: &[u8]) -> Self {
        Self::removed_sealed(stamp, share, (dir, name), &[])
    }

    /// Creates the tombstone of a name that arrived sealed, with its [`seal`].
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

    /// Creates the row of a deletion.
    pub(crate) fn gone(
        stamp: Stamp,
        (dir, name): (DirId, &[u8]),
        replaces: &[ContentHash],
        time: Timestamp,
    ) -> Self {
        let mut facts = Self::blank(stamp, Class::Gone);
        facts.share = NO_SHARE;
        facts.dir = dir;
        facts.name_bytes = name.len() as u8;
        let mut text = name.to_vec();
        text.extend(facts.set_mtime(time).into_iter().flatten());
        facts.set_replaces(replaces, &mut text);
        Self(ThinArc::from_header_and_slice(facts, &text))
    }

    /// Creates the row of the terms of a share.
    pub(crate) fn terms(stamp: Stamp, share: ShareIndex, open: bool) -> Self {
        let class = if open { Class::Open } else { Class::Closed };
        let mut facts = Self::blank(stamp, class);
        facts.share = share;
        Self(ThinArc::from_header_and_slice(facts, &[]))
    }

    /// Creates the row of an offer to keep files.
    pub(crate) fn keeps(stamp: Stamp, offer: &KeepOffer) -> Self {
        let is_offer = !offer.paths.is_empty();
        let class = if is_offer {
            Class::Keeps
        } else {
            Class::KeepsNot
        };
        let mut facts = Self::blank(stamp, class);
        facts.share = NO_SHARE;
        let text = postcard::to_stdvec(offer).expect("an offer always encodes");
        Self(ThinArc::from_header_and_slice(facts, &text))
    }

    /// Creates an opaque row: a sealed entry that this node cannot open, its tombstone, or a list
    /// of readers.
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

    /// Creates the row of a complete content in the author's cache.
    pub(crate) fn have(stamp: Stamp, hash: &ContentHash, size_bytes: u64) -> Self {
        let mut facts = Self::blank(stamp, Class::Have);
        facts.hash = *hash.as_bytes();
        let behind = facts.set_size(size_bytes);
        let behind = behind.as_ref().map_or(&[][..], |bytes| bytes);
        Self(ThinArc::from_header_and_slice(facts, behind))
    }

    /// Creates the tombstone of a cached content.
    pub(crate) fn have_not(stamp: Stamp, hash: &ContentHash) -> Self {
        let mut facts = Self::blank(stamp, Class::HaveNot);
        facts.hash = *hash.as_bytes();
        Self(ThinArc::from_header_and_slice(facts, &[]))
    }

    pub(crate) fn name(&self) -> &[u8] {
        &self.0.slice[..usize::from(self.name_bytes)]
    }

    /// Returns the number of bytes of the name and of the data behind it, without the values of
    /// [`BEHIND`].
    pub(crate) fn text_bytes(&self) -> usize {
        usize::from(self.name_bytes) + self.behind(0).len()
    }

    /// Returns the target of a link. It is empty for every other class.
    pub(crate) fn target(&self) -> &[u8] {
        match self.class {
            Class::Symlink => self.behind_name(),
            _ => &[],
        }
    }

    /// Returns the recorded sender of a file to its author, if there is one.
    pub(crate) fn sent_by(&self) -> Option<Sender> {
        match self.class {
            Class::File if !self.behind_name().is_empty() => {
                postcard::from_bytes(self.behind_name()).ok()
            }
            _ => None,
        }
    }

    /// Returns the offer to keep files. It is empty for every other class.
    pub(crate) fn keep_offer(&self) -> KeepOffer {
        match self.class {
            Class::Keeps | Class::KeepsNot => {
                postcard::from_bytes(self.behind(0)).unwrap_or_default()
            }
            _ => KeepOffer::default(),
        }
    }

    fn behind_name(&self) -> &[u8] {
        let seal_bytes = self.seal().map_or(0, |(path, entry)| {
            path.len() + entry.len() + SEAL_LENGTHS_BYTES
        });
        let behind = self.behind(0);
        let replaces_bytes = match self.replaces().len() {
            0 => 0,
            count => 1 + count * HASH_BYTES,
        };
        &behind[replaces_bytes..behind.len() - seal_bytes]
    }

    /// Returns the contents that a file replaces or that a deletion deletes, the newest first.
    pub(crate) fn replaces(&self) -> &[[u8; HASH_BYTES]] {
        if !self.has(REPLACES) {
            return &[];
        }
        let (count, hashes) = self.behind(0).split_first().expect("its mark says so");
        &hashes.as_chunks().0[..usize::from(*count)]
    }

    /// Returns these contents as a record has them.
    pub(crate) fn replaced_contents(&self) -> Vec<ContentHash> {
        self.replaces()
            .iter()
            .copied()
            .map(ContentHash::new)
            .collect()
    }

    /// Returns whether releases that speak `p2pfs/3` or less can decode the fact of the row.
    pub(crate) fn is_of_first_form(&self) -> bool {
        match self.class {
            Class::Gone | Class::Open | Class::Closed | Class::Keeps | Class::KeepsNot => false,
            Class::File => self.share.is_sealed() || !self.has(REPLACES),
            _ => true,
        }
    }

    /// Returns the hash by which records name the object of a file, link or directory
    /// ([`Kind::content`]).
    pub(crate) fn content(&self) -> Option<ContentHash> {
        match self.class {
            Class::File => Some(self.hash()),
            _ => Some(self.kind()?.content()),
        }
    }

    /// Returns the sealed path and the sealed entry of a row of a sealed share, or `None` for
    /// another row. The entry of a tombstone is empty. For a list of readers, the path is empty and
    /// the entry is the encoded list.
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

    /// Returns the data behind the name from the value of a mark on. For the mark 0 it returns the
    /// data after all values.
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

    /// Returns the size in bytes. For an opaque row this is the length of its path.
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

    /// Returns whether the row states a removal. Such a row does not count in its author's head.
    pub(crate) fn is_tombstone(&self) -> bool {
        matches!(
            self.class,
            Class::Removed
                | Class::HaveNot
                | Class::SealedRemoved
                | Class::Closed
                | Class::KeepsNot
        )
    }

    /// Returns whether the row is a list of readers, or a sealed record that this node cannot open.
    pub(crate) fn is_opaque(&self) -> bool {
        matches!(
            self.class,
            Class::Readers | Class::Sealed | Class::SealedRemoved
        )
    }

    /// Returns whether the row is about a name, and so belongs to a directory. Other rows are
    /// opaque, about a cached content, about the terms of a share, or an offer to keep files.
    pub(crate) fn has_name(&self) -> bool {
        let is_of_content = matches!(self.class, Class::Have | Class::HaveNot);
        !is_of_content && !self.is_terms() && !self.is_opaque()
    }

    /// Returns whether the row states the terms of a share, or an offer to keep files.
    pub(crate) fn is_terms(&self) -> bool {
        matches!(
            self.class,
            Class::Open | Class::Closed | Class::Keeps | Class::KeepsNot
        )
    }

    /// Returns whether the row states that the author has something under a name.
    pub(crate) fn is_named_object(&self) -> bool {
        matches!(self.class, Class::File | Class::Symlink | Class::Directory)
    }

    /// Returns whether the author offers the bytes of a hash by this row.
    pub(crate) fn gives_content(&self) -> bool {
        matches!(self.class, Class::File | Class::Have)
    }

    /// Returns whether both rows have the same bytes or the same link target.
    pub(crate) fn same_content(&self, other: &Self) -> bool {
        self.class == other.class
            && self.hash == other.hash
            && self.size_bytes() == other.size_bytes()
            && self.target() == other.target()
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        std::ptr::eq::<Facts>(&**self, &**other)
    }

    /// Returns the recorded entry. Returns `None` for a tombstone, a cached content or an opaque
    /// row.
    pub(crate) fn to_entry(&self) -> Option<Entry> {
        Some(Entry {
            kind: self.kind()?,
            mtime: self.mtime(),
            version_time: self.version_time(),
            sent_by: self.sent_by(),
            replaces: self
                .replaces()
                .iter()
                .copied()
                .map(ContentHash::new)
                .collect(),
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
            Class::Gone | Class::Open | Class::Closed => return None,
            Class::Keeps | Class::KeepsNot => return None,
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

    /// Sets the mtime. If it does not fit the fixed part, returns the bytes to store behind the name.
    #[must_use]
    fn set_mtime(&mut self, mtime: Timestamp) -> Option<[u8; TIME_BYTES]> {
        match mtime.packed() {
            Some(packed) => {
                self.mtime = packed;
                None
            }
            None => {
                self.mark(OWN_MTIME);
                Some(time_bytes(mtime))
            }
        }
    }

    /// Appends the contents that a row replaces to the data behind its name.
    fn set_replaces(&mut self, replaces: &[ContentHash], behind: &mut Vec<u8>) {
        if !replaces.is_empty() {
            self.mark(REPLACES);
            behind.push(replaces.len() as u8);
            behind.extend(replaces.iter().flat_map(ContentHash::as_bytes));
        }
    }

    /// Sets the size of a row without one. If the size needs more than 43 bits, returns the bytes
    /// to store behind the name.
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

/// Encodes the sealed form of a row. Both parts are shorter than 64 KiB (see `SEALED_MAX_BYTES`).
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
