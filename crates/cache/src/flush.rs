//! Writes state from memory to the outboard and the map in a crash-safe order: the data is already
//! written, then come the hash pairs, then the map that claims the data.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::content_files::ContentFiles;
use super::context::CacheContext;
use super::disk::ReplaceDurability;
use super::file_pages::Pairs;
use super::map::{self, Boot, LoadedMap};
use super::pages::{Bits, PageMap};

/// Content of one flush.
pub(super) struct FlushBatch {
    pub(super) pairs: Arc<Pairs>,
    pub(super) blocks: Vec<(u64, Bits)>,
    pub(super) unflushed_bytes: u64,
    /// All present and doubtful pages, if the whole map is rewritten.
    pub(super) whole: Option<(PageMap, PageMap)>,
}

/// State of the map on disk. Its lock is held while the map is written.
pub(super) struct MapState {
    /// Whether the map is an attribute of the data file.
    pub(super) in_attribute: bool,
    pub(super) records: u64,
    pub(super) on_disk: bool,
    /// Whether records can no longer be appended, because one may be torn or is from another boot,
    /// or because pages were removed.
    pub(super) must_rewrite: bool,
    /// Whether the file was closed. The map on disk then belongs to the next opener, and is not
    /// written from here any longer.
    pub(super) retired: bool,
}

impl MapState {
    /// Describes a map that was read from disk.
    pub(super) fn of(loaded: &LoadedMap) -> Self {
        Self {
            in_attribute: loaded.in_attribute,
            records: loaded.records,
            on_disk: true,
            must_rewrite: !loaded.sound,
            retired: false,
        }
    }

    /// Writes a batch of pending changes.
    pub(super) fn write(
        &mut self,
        context: &CacheContext,
        files: &ContentFiles,
        batch: &FlushBatch,
        durable: bool,
    ) -> io::Result<()> {
        for (offset, bytes) in runs_of(&batch.pairs) {
            context
                .disk
                .write_at(files.outboard()?, &mut [IoSlice::new(&bytes)], offset)?;
        }
        if durable {
            files.sync(context).unwrap_or(Ok(()))?;
        }
        if let Some((present, doubt)) = &batch.whole {
            let boot = if durable { Boot::DURABLE } else { context.boot };
            if self.in_attribute {
                let small = map::small(&files.hash, files.size_bytes, boot, present, doubt);
                match context.disk.set_map_attribute(files.data()?, &small) {
                    Err(error) if has_no_attributes(&error) => self.in_attribute = false,
                    outcome => return outcome,
                }
            }
            let bytes = map::whole(&files.hash, files.size_bytes, boot, present, doubt);
            self.records = (present.counts() + doubt.counts()).blocks;
            let reach = if durable {
                ReplaceDurability::Bytes
            } else {
                ReplaceDurability::Memory
            };
            return context.disk.replace(&files.paths.map, &bytes, reach);
        }
        let mut bytes = Vec::new();
        if !self.on_disk {
            bytes.extend(map::header(&files.hash, files.size_bytes));
        }
        for (block, bits) in &batch.blocks {
            bytes.extend(map::record(&files.hash, *block, context.boot, bits));
        }
        self.records += batch.blocks.len() as u64;
        context.disk.append(&files.paths.map, &bytes)
    }
}

/// Returns whether the file system or a policy prevents the use of attributes.
fn has_no_attributes(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, Unsupported};
    matches!(error.kind(), Unsupported | PermissionDenied)
}

/// Joins adjacent pairs into single writes.
fn runs_of(pairs: &Pairs) -> Vec<(u64, Vec<u8>)> {
    let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
    for (offset, bytes) in pairs {
        match runs.last_mut() {
            Some((start, run)) if *start + run.len() as u64 == *offset => run.extend(bytes),
            _ => runs.push((*offset, bytes.to_vec())),
        }
    }
    runs
}
