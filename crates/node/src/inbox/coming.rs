//! One file that a node pushes: what of it is there, and what that comes to.

use std::io;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use super::origin::Origin;
use super::parts::{Note, Part};
use super::store::{Arriving, Inbox, InboxError};
use p2pfs_proto::wire::native::record::Sender;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::{ByteRange, ExtentSet};
use p2pfs_types::id::NodeId;

/// What is hashed at once.
const STEP_BYTES: u64 = 1 << 20;
/// How much more of a file is there each time that it is written down how far it is; a shorter one
/// is not kept for a later life, since it is sent again in no time.
pub(super) const NOTED_EVERY_BYTES: u64 = 8 << 20;
/// Stretches without a gap that are remembered of a file. A sender has a few pieces on their way at
/// a time, each next to the one before.
const STRETCHES_MAX: usize = 64;

/// Who sends it, and what.
pub(super) type Key = (NodeId, ContentHash);

pub(super) struct Coming {
    key: Key,
    pub(super) name: Vec<u8>,
    pub(super) size_bytes: u64,
    /// None before there is room for it, and once it has its name or was given up.
    arriving: Option<Arriving>,
    is_named: bool,
    got: ExtentSet,
    hasher: blake3::Hasher,
    hashed_bytes: u64,
    noted_bytes: u64,
    /// What an earlier life says that there is: to be looked at before it is believed.
    left: Option<Note>,
    pub(super) touched: Instant,
}

impl Coming {
    /// What an earlier life left of a file.
    pub(super) fn left(note: Note, arriving: Arriving) -> Self {
        let key = (note.from, note.hash);
        let mut coming = Self::new(key, note.name.clone(), arriving.size_bytes());
        (coming.arriving, coming.left) = (Some(arriving), Some(note));
        coming
    }

    /// A file that there is no room for yet.
    pub(super) fn new(key: Key, name: Vec<u8>, size_bytes: u64) -> Self {
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

    /// Makes room for it, which is charged to `origin`. Blocking.
    pub(super) fn begin(&mut self, inbox: &Inbox, origin: Origin) -> Result<(), InboxError> {
        let arriving = if self.size_bytes > NOTED_EVERY_BYTES {
            inbox.begin_kept(origin, &self.key.0, &self.key.1, self.size_bytes)?
        } else {
            inbox.begin(origin, self.size_bytes)?
        };
        self.arriving = Some(arriving);
        Ok(())
    }

    /// Whether an earlier life left it and it was not offered since.
    pub(super) fn is_left(&self) -> bool {
        self.left.is_some()
    }

    /// Compares what an earlier life left with what it says of it, and goes on from there where
    /// both fit, else from the begin. Blocking: reads all of it.
    pub(super) fn look_again(&mut self) {
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

    /// How much of it is there from its begin on.
    pub(super) fn prefix(&self) -> u64 {
        let first = self.got.iter().next().filter(|range| range.start == 0);
        first.map_or(0, |range| range.end)
    }

    /// Whether it has its name.
    pub(super) fn is_named(&self) -> bool {
        self.is_named
    }

    /// Whether more of it may come.
    pub(super) fn is_on_its_way(&self) -> bool {
        self.arriving.is_some()
    }

    /// Whether it was given up, or never begun.
    pub(super) fn is_gone(&self) -> bool {
        !self.is_on_its_way() && !self.is_named
    }

    /// Whether all of it is there.
    pub(super) fn is_whole(&self) -> bool {
        self.prefix() == self.size_bytes
    }

    /// Whether what is there lies about in more pieces than come of a sender that gives it from its
    /// begin on.
    pub(super) fn is_scattered(&self) -> bool {
        self.got.iter().nth(STRETCHES_MAX).is_some()
    }

    /// Takes some of it. Blocking.
    pub(super) fn take(&mut self, offset: u64, bytes: &[u8]) -> Result<(), InboxError> {
        let Some(arriving) = &self.arriving else {
            return Ok(());
        };
        arriving.write_at(offset, bytes)?;
        let end = offset + bytes.len() as u64;
        self.got.insert(ByteRange::new(offset, end));
        self.hash()?;
        if self.hashed_bytes - self.noted_bytes >= NOTED_EVERY_BYTES {
            self.note()?;
        }
        Ok(())
    }

    /// Whether what came is what was offered.
    pub(super) fn is_proven(&self) -> bool {
        self.hashed_bytes == self.size_bytes && self.hash_so_far() == self.key.1
    }

    /// Gives it its name, and says where it is written down that it has it. Blocking.
    pub(super) fn publish(
        &mut self,
        from: &Sender,
        called: &str,
    ) -> Result<Option<Part>, InboxError> {
        // that it is whole is written down before it has its name: after a restart in between,
        // it is not taken twice
        self.note()?;
        let Some(arriving) = self.arriving.take() else {
            return Ok(None);
        };
        let part = arriving.part().cloned();
        self.name = arriving.publish(&self.name, from, called)?;
        self.is_named = true;
        Ok(part)
    }

    /// Leaves nothing of it. Blocking.
    pub(super) fn discard(&mut self) {
        if let Some(arriving) = self.arriving.take() {
            arriving.discard();
        }
    }

    fn hash_so_far(&self) -> ContentHash {
        ContentHash::new(*self.hasher.finalize().as_bytes())
    }

    fn note(&mut self) -> io::Result<()> {
        let Some(arriving) = self.arriving.as_ref().filter(|it| it.part().is_some()) else {
            return Ok(());
        };
        arriving.note(&Note {
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

    /// Hashes what has come to stand without a gap, while it is still in memory.
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
