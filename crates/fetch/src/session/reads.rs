//! Waiting reads, and how they end.

use std::collections::BTreeMap;

use super::{Actions, Delivery, OpenFile, Owner, Read, Sources};
use crate::TransferError;
use crate::plan::{DemandId, FileTable};
use p2pfs_types::digest::ContentKey;

/// Waiting reads.
pub(super) struct Reads<O: Owner> {
    waiting: BTreeMap<DemandId, Read<O::ReadHandle>>,
}

impl<O: Owner> Default for Reads<O> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
        }
    }
}

impl<O: Owner> Reads<O> {
    pub(super) fn insert(&mut self, id: DemandId, read: Read<O::ReadHandle>) {
        self.waiting.insert(id, read);
    }

    /// Returns the reads of a content.
    pub(super) fn of(&self, content: &ContentKey) -> Vec<DemandId> {
        let reads = self.waiting.iter();
        let of_it = reads.filter(|(_, read)| read.content == *content);
        of_it.map(|(id, _)| *id).collect()
    }

    /// Ends a read with its bytes, from memory and from the file of the cache.
    pub(super) fn deliver(
        &mut self,
        id: DemandId,
        present: &FileTable,
        files: &BTreeMap<ContentKey, OpenFile<O>>,
        actions: &mut Actions<O>,
    ) {
        let Some(read) = self.waiting.remove(&id) else {
            return;
        };
        let file = files.get(&read.content);
        let sources = Sources {
            held: present.held_in(&read.content, read.range),
            file: file.and_then(|file| file.cache.clone()),
        };
        actions.deliveries.push(Delivery { read, sources });
    }

    /// Ends a read without its bytes.
    pub(super) fn end(&mut self, id: DemandId, why: TransferError, actions: &mut Actions<O>) {
        if let Some(read) = self.waiting.remove(&id) {
            actions.ends.push((read.handle, why));
        }
    }

    /// Ends all reads for a reason of their owner.
    pub(super) fn end_all(&mut self, why: &TransferError, actions: &mut Actions<O>) {
        let reads = std::mem::take(&mut self.waiting).into_values();
        let ends = reads.map(|read| (read.handle, why.clone()));
        actions.ends.extend(ends);
    }
}
