//! One file that a node pushes: the bytes that have arrived, and their hash.

use std::io;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use super::origin::ChargedSender;
use super::parts::{PartPaths, ProgressNote};
use super::store::{Inbox, InboxError, InboxFile};
use p2pfs_proto::wire::native::record::Sender;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::{ByteRange, ExtentSet};
use p2pfs_types::id::NodeId;

/// Number of bytes hashed at once.
const STEP_BYTES: u64 = 1 << 20;
/// Number of new bytes after which progress is stored. A file of at most this size is not kept over
/// a restart, because sending it again takes little time.
pub(super) const NOTED_EVERY_BYTES: u64 = 8 << 20;
/// Maximum number of separate ranges of a file that have arrived. With more, the file is given up.
/// A sender has a few adjacent pieces in flight at a time.
const STRETCHES_MAX: usize = 64;

/// The sender and the hash of a file.
pub(super) type PushKey = (NodeId, ContentHash);

pub(super) struct IncomingPush {
    key: PushKey,
    pub(super) name: Vec<u8>,
    pub(super) size_bytes: u64,
    /// The file in the inbox. `None` before space is reserved, and after the file was published or
    /// given up.
    arriving: Option<InboxFile>,
    is_named: bool,
    got: ExtentSet,
    hasher: blake3::Hasher,
    hashed_bytes: u64,
    noted_bytes: u64,
    /// The progress note of an earlier run of the node, not verified yet.
    left: Option<ProgressNote>,
    pub(super) touched: Instant,
}

impl IncomingPush {
    /// Restores a file that an earlier run of the node left unfinished.
    pub(super) fn left(note: ProgressNote, arriving: InboxFile) -> Self {
        let key = (note.from, note.hash);
        let mut coming = Self::new(key, note.name.clone(), arriving.size_bytes());
        (coming.arriving, coming.left) = (Some(arriving), Some(note));
        coming
    }

    /// Returns a file for which no space is reserved yet.
    pub(super) fn new(key: PushKey, name: Vec<u8>, size_bytes: u64) -> Self {
        Self {
            key,
            name,
            size_bytes,
            arriving: None,
            is_named: false,
            got: ExtentSet::new(),
            hasher: blake3::Hasher::new(),
            hashed_bytes: 0,
            noted_bytes: 0,
            left: None,
            touched: Instant::now(),
        }
    }

    /// Reserves space for the file and charges it to `origin`. Blocking.
    pub(super) fn begin(&mut self, inbox: &Inbox, origin: ChargedSender) -> Result<(), InboxError> {
        let arriving = if self.size_bytes > NOTED_EVERY_BYTES {
            inbox.begin_kept(origin, &self.key.0, &self.key.1, self.size_bytes)?
        } else {
            inbox.begin(origin, self.size_bytes)?
        };
        self.arriving = Some(arriving);
        Ok(())
    }

    /// Returns whether the file is from an earlier run of the node and has not been offered again.
    pub(super) fn is_left(&self) -> bool {
        self.left.is_some()
    }

    /// Verifies the bytes of an earlier run of the node against the hash in its note. Continues
    /// from there if they match, else from the beginning. Blocking: reads all of these bytes.
    pub(super) fn verify_left(&mut self) {
        let Some(note) = self.left.take() else {
            return;
        };
        self.got.insert(ByteRange::new(0, note.prefix_bytes));
        let read = self.hash();
        if read.is_err() || self.hash_so_far() != note.prefix_hash {
            (self.got, self.hasher) = (ExtentSet::new(), blake3::Hasher::new());
            self.hashed_bytes = 0;
        }
        self.noted_bytes = self.hashed_bytes;
    }

    /// Returns the length of the gapless prefix that has arrived.
    pub(super) fn prefix(&self) -> u64 {
        let first = self.got.iter().next().filter(|range| range.start == 0);
        first.map_or(0, |range| range.end)
    }

    /// Returns whether the file was published under its name.
    pub(super) fn is_named(&self) -> bool {
        self.is_named
    }

    /// Returns whether more of the file may arrive.
    pub(super) fn is_on_its_way(&self) -> bool {
        self.arriving.is_some()
    }

    /// Returns whether the file was given up or never begun.
    pub(super) fn is_gone(&self) -> bool {
        !self.is_on_its_way() && !self.is_named
    }

    /// Returns whether all bytes have arrived.
    pub(super) fn is_whole(&self) -> bool {
        self.prefix() == self.size_bytes
    }

    /// Returns whether the arrived bytes are in more than [`STRETCHES_MAX`] separate ranges.
    pub(super) fn is_scattered(&self) -> bool {
        self.got.iter().nth(STRETCHES_MAX).is_some()
    }

    /// Writes a piece of the file. Blocking.
    pub(super) fn write_piece(&mut self, offset: u64, bytes: &[u8]) -> Result<(), InboxError> {
        let Some(arriving) = &self.arriving else {
            return Ok(());
        };
        arriving.write_at(offset, bytes)?;
        let end = offset + bytes.len() as u64;
        self.got.insert(ByteRange::new(offset, end));
        self.hash()?;
        if self.hashed_bytes - self.noted_bytes >= NOTED_EVERY_BYTES {
            self.store_note()?;
        }
        Ok(())
    }

    /// Returns whether the bytes match the offered hash.
    pub(super) fn is_proven(&self) -> bool {
        self.hashed_bytes == self.size_bytes && self.hash_so_far() == self.key.1
    }

    /// Publishes the file under its name. Returns the paths of its note, which now records that the
    /// file is published, or `None` if the file has no note. Blocking.
    pub(super) fn publish(
        &mut self,
        from: &Sender,
        called: &str,
    ) -> Result<Option<PartPaths>, InboxError> {
        // The note of the complete file is written before the file gets its name. So a restart in
        // between does not accept the file twice.
        self.store_note()?;
        let Some(arriving) = self.arriving.take() else {
            return Ok(None);
        };
        let part = arriving.part().cloned();
        self.name = arriving.publish(&self.name, from, called)?;
        self.is_named = true;
        Ok(part)
    }

    /// Removes all bytes and the note. Blocking.
    pub(super) fn discard(&mut self) {
        if let Some(arriving) = self.arriving.take() {
            arriving.discard();
        }
    }

    fn hash_so_far(&self) -> ContentHash {
        ContentHash::new(*self.hasher.finalize().as_bytes())
    }

    fn store_note(&mut self) -> io::Result<()> {
        let Some(arriving) = self.arriving.as_ref().filter(|it| it.part().is_some()) else {
            return Ok(());
        };
        arriving.store_note(&ProgressNote {
            from: self.key.0,
            hash: self.key.1,
            name: self.name.clone(),
            size_bytes: self.size_bytes,
            prefix_bytes: self.hashed_bytes,
            prefix_hash: self.hash_so_far(),
        })?;
        self.noted_bytes = self.hashed_bytes;
        Ok(())
    }

    /// Hashes the part of the gapless prefix that is not hashed yet. If its bytes were just
    /// written, the page cache still has them.
    fn hash(&mut self) -> io::Result<()> {
        let to = self.prefix();
        let Some(arriving) = &self.arriving else {
            return Ok(());
        };
        while self.hashed_bytes < to {
            let length = STEP_BYTES.min(to - self.hashed_bytes) as usize;
            let mut bytes = vec![0; length];
            arriving
                .file()
                .read_exact_at(&mut bytes, self.hashed_bytes)?;
            self.hasher.update(&bytes);
            self.hashed_bytes += length as u64;
        }
        Ok(())
    }
}
