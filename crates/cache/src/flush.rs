//! Writes state from memory to the outboard and the map in a crash-safe order: the data is already
//! written, then come the hash pairs, then the map that claims the data.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::SystemTime;

use super::context::CacheContext;
use super::disk::ReplaceDurability;
use super::file::{MapState, OpenFileState, PageState, Pairs};
use super::layout;
use super::map::{self, Boot, SPARE_RECORDS};
use super::pages::{Bits, PageMap, bytes_of, page_count};
use super::summary::FileSummary;
use p2pfs_types::extent::PAGE_BYTES;

/// Content of one flush.
struct FlushBatch {
    pairs: Arc<Pairs>,
    blocks: Vec<(u64, Bits)>,
    unflushed_bytes: u64,
    /// All present and doubtful pages, if the whole map is rewritten.
    whole: Option<(PageMap, PageMap)>,
}

impl OpenFileState {
    /// Writes the pending changes.
    pub(super) fn flush(&self, context: &CacheContext) -> io::Result<()> {
        self.flush_locked(context, &mut self.map.lock(), false)
    }

    /// Writes the pending changes, unless another thread is writing them.
    pub(super) fn flush_unless_busy(&self, context: &CacheContext) {
        if let Some(mut map) = self.map.try_lock() {
            // A failed flush is counted, and its data stays pending.
            let _ = self.flush_locked(context, &mut map, false);
        }
    }

    /// Syncs everything to the disk and marks it as durable.
    pub(super) fn sync(&self, context: &CacheContext) -> io::Result<()> {
        if !self.state.lock().unsynced {
            return Ok(());
        }
        self.flush_locked(context, &mut self.map.lock(), true)
    }

    /// Rewrites the map after pages were removed. If the rewrite fails, removes the map, with the
    /// data file if the map is its attribute: losing the file is better than trusting a damaged
    /// page.
    pub(super) fn rewrite(&self, context: &CacheContext, map: &mut MapState) {
        map.must_rewrite = true;
        if self.flush_locked(context, map, false).is_err() {
            let _ = context.disk.remove(&self.paths.map);
            if map.in_attribute {
                let _ = context.disk.remove(&self.paths.data);
            }
        }
    }

    /// Closes this open file. Returns the summary of what remains on disk, if anything, and whether
    /// to sync it: part of it was never synced, and the disk has not just refused its map.
    pub(super) fn retire(
        &self,
        context: &CacheContext,
        last_use: SystemTime,
    ) -> (Option<FileSummary>, bool) {
        let mut map = self.map.lock();
        let written = self.flush_locked(context, &mut map, false);
        let is_refused = written.is_err();
        map.retired = true;
        self.give_back(context);
        let summary = match written {
            Ok(()) if map.on_disk => Some(self.summary()),
            Ok(()) => None,
            Err(_) => reread(context, self),
        };
        let summary = summary.filter(|left| left.counts.pages > 0 || left.size_bytes == 0);
        let unsynced = self.state.lock().unsynced;
        if summary.is_none() && self.files().is_some() {
            let _ = context.record_result(layout::remove(&context.disk, &self.paths));
        }
        // The map stores the time of the last use. A failure only leaves an older time.
        match (summary.is_some(), map.in_attribute) {
            (true, false) => drop(context.disk.touch(&self.paths.map, last_use)),
            // Data stored recently already has its write time.
            (true, true) if !unsynced => drop(context.disk.touch(&self.paths.data, last_use)),
            _ => {}
        }
        // The disk would refuse the map of a sync as well, and its close would queue the next sync.
        (summary, unsynced && !is_refused)
    }

    /// Frees the disk space of stale pages. At this point no thread reads or writes them.
    fn give_back(&self, context: &CacheContext) {
        let stale = std::mem::take(&mut self.state.lock().stale);
        for run in stale.runs(0..page_count(self.size_bytes)) {
            let range = bytes_of(&run, run.end * PAGE_BYTES);
            // A file system without hole punching keeps the space until the file is evicted.
            if let Ok(data) = self.data() {
                let _ = context.disk.punch(data, range.start, range.len());
            }
        }
    }

    fn flush_locked(
        &self,
        context: &CacheContext,
        map: &mut MapState,
        durable: bool,
    ) -> io::Result<()> {
        if map.retired {
            return Ok(());
        }
        let Some(batch) = self.take_batch(map, durable) else {
            return Ok(());
        };
        let result = context.record_result(self.write_batch(context, map, &batch, durable));
        self.finish_batch(map, batch, result.is_ok());
        result
    }

    /// Takes the pending changes. Pages and their pairs are taken together, so that no page is
    /// claimed before its pairs are written.
    fn take_batch(&self, map: &MapState, durable: bool) -> Option<FlushBatch> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let nothing = state.dirty.is_empty() && state.pending.is_empty();
        if nothing && !map.must_rewrite && !durable {
            return None;
        }
        let dirty = std::mem::take(&mut state.dirty);
        let blocks: Vec<_> = dirty
            .into_iter()
            .map(|block| (block, state.present.block(block)))
            .collect();
        let records = map.records + blocks.len() as u64;
        let longest = 2 * (state.present.counts() + state.doubt.counts()).blocks + SPARE_RECORDS;
        let anew = durable || map.must_rewrite || map.in_attribute || records > longest;
        let whole = anew.then(|| (state.present.clone(), state.doubt.clone()));
        state.flushing = Arc::new(std::mem::take(&mut state.pending));
        if durable {
            state.unsynced = false;
        }
        let unflushed_bytes = std::mem::take(&mut state.unflushed_bytes);
        Some(FlushBatch {
            pairs: state.flushing.clone(),
            blocks,
            unflushed_bytes,
            whole,
        })
    }

    fn write_batch(
        &self,
        context: &CacheContext,
        map: &mut MapState,
        batch: &FlushBatch,
        durable: bool,
    ) -> io::Result<()> {
        for (offset, bytes) in runs_of(&batch.pairs) {
            context
                .disk
                .write_at(self.outboard()?, &mut [IoSlice::new(&bytes)], offset)?;
        }
        if durable {
            self.files().map_or(Ok(()), |files| files.sync(context))?;
        }
        if let Some((present, doubt)) = &batch.whole {
            let boot = if durable { Boot::DURABLE } else { context.boot };
            if map.in_attribute {
                let small = map::small(&self.hash, self.size_bytes, boot, present, doubt);
                match context.disk.set_map_attribute(self.data()?, &small) {
                    Err(error) if has_no_attributes(&error) => map.in_attribute = false,
                    outcome => return outcome,
                }
            }
            let bytes = map::whole(&self.hash, self.size_bytes, boot, present, doubt);
            map.records = (present.counts() + doubt.counts()).blocks;
            let reach = if durable {
                ReplaceDurability::Bytes
            } else {
                ReplaceDurability::Memory
            };
            return context.disk.replace(&self.paths.map, &bytes, reach);
        }
        let mut bytes = Vec::new();
        if !map.on_disk {
            bytes.extend(map::header(&self.hash, self.size_bytes));
        }
        for (block, bits) in &batch.blocks {
            bytes.extend(map::record(&self.hash, *block, context.boot, bits));
        }
        map.records += batch.blocks.len() as u64;
        context.disk.append(&self.paths.map, &bytes)
    }

    /// Completes a batch. After a failure, the content of the batch becomes pending again. The next
    /// flush then rewrites the whole map, because its last record may be torn.
    fn finish_batch(&self, map: &mut MapState, batch: FlushBatch, written: bool) {
        let mut state = self.state.lock();
        if written {
            state.flushing = Arc::default();
            map.on_disk = true;
            map.must_rewrite = false;
            return;
        }
        map.must_rewrite = true;
        restore(&mut state, batch);
    }
}

/// Returns whether the file system or a policy prevents the use of attributes.
fn has_no_attributes(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, Unsupported};
    matches!(error.kind(), Unsupported | PermissionDenied)
}

fn restore(state: &mut PageState, batch: FlushBatch) {
    let flushing = std::mem::take(&mut state.flushing);
    for (offset, bytes) in flushing.iter() {
        state.pending.entry(*offset).or_insert(*bytes);
    }
    state
        .dirty
        .extend(batch.blocks.iter().map(|(block, _)| *block));
    state.unflushed_bytes += batch.unflushed_bytes;
    state.unsynced = true;
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

/// Reads the summary of a closed file from its map on disk.
fn reread(context: &CacheContext, shared: &OpenFileState) -> Option<FileSummary> {
    let map = layout::load(&shared.paths, &shared.hash, context.boot).ok()??;
    Some(map.summary())
}
