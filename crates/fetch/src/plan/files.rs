//! The open files, and which of them may be closed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::fetch::FileFetch;
use super::peers::EVICT_ONE_IN;
use super::suppliers::Supply;
use super::{FETCHES_KEPT_MAX, FETCHES_MAX, RECENT};
use p2pfs_types::digest::{ContentKey, Verified};
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;

/// The open files.
#[derive(Debug, Default)]
pub struct FileTable {
    files: BTreeMap<ContentKey, FileFetch>,
    /// Number of files opened since the last search for idle files.
    opened: usize,
}

impl FileTable {
    pub(super) fn get(&self, content: &ContentKey) -> Option<&FileFetch> {
        self.files.get(content)
    }

    pub(super) fn get_mut(&mut self, content: &ContentKey) -> Option<&mut FileFetch> {
        self.files.get_mut(content)
    }

    pub(super) fn insert(&mut self, content: ContentKey, file: FileFetch) {
        self.files.insert(content, file);
    }

    pub(super) fn remove(&mut self, content: &ContentKey) -> Option<FileFetch> {
        self.files.remove(content)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&ContentKey, &FileFetch)> {
        self.files.iter()
    }

    /// Records that a node has returned. It owes no answer from before.
    pub(super) fn forgive(&mut self, node: &NodeId) {
        let files = self.files.values_mut();
        files.for_each(|file| file.suppliers.record_return(node));
    }

    /// Returns the contents of all open files.
    pub(super) fn contents(&self) -> Vec<ContentKey> {
        self.files.keys().copied().collect()
    }

    /// Returns whether the file is open.
    pub fn is_open(&self, content: &ContentKey) -> bool {
        self.files.contains_key(content)
    }

    /// Returns whether a node counts as a holder of an open file.
    pub fn is_holder(&self, content: &ContentKey, node: &NodeId) -> bool {
        let file = self.get(content);
        file.is_some_and(|file| file.holders().contains(node))
    }

    /// Returns whether a holder of an open file is known.
    pub fn has_holder(&self, content: &ContentKey) -> bool {
        let file = self.get(content);
        file.is_some_and(|file| file.holders().nodes().next().is_some())
    }

    /// Returns what this node has of a file, and the nodes that were asked for it. Returns nothing
    /// if the file is not open.
    pub fn supply(&self, content: &ContentKey) -> Supply {
        let supply = |file: &FileFetch| Supply {
            is_whole: file.presence.is_whole(),
            suppliers: file.suppliers.all(),
        };
        self.get(content).map(supply).unwrap_or_default()
    }

    /// Returns whether a node that had all of an open file recently reported that the file is gone.
    /// The catalogue may have newer information by now.
    pub fn was_just_lost(&self, now: Instant, content: &ContentKey) -> bool {
        let file = self.get(content);
        file.is_some_and(|file| file.holders().was_just_lost(now))
    }

    /// Returns how many bytes of an open file are on this node.
    pub fn ready_bytes(&self, content: &ContentKey) -> Option<u64> {
        self.get(content).map(|file| file.presence.bytes())
    }

    /// Returns the answers in memory that overlap a range of an open file, in order of their start.
    pub fn held_in(&self, content: &ContentKey, range: ByteRange) -> Vec<Arc<Verified>> {
        let file = self.get(content);
        file.map_or_else(Vec::new, |file| file.presence.held_in(range))
    }

    /// Returns whether the cache has all of an open file. Returns `None` while some of it is being
    /// stored, or if the file is not open.
    pub fn outcome_of_stores(&self, content: &ContentKey) -> Option<bool> {
        self.get(content)?.presence.outcome_of_stores()
    }

    /// Marks a node of a file's swarm as late, or unreachable. Other nodes own its stripes for a
    /// while.
    pub(super) fn note_late_node(&mut self, now: Instant, content: &ContentKey, node: &NodeId) {
        if let Some(file) = self.get_mut(content) {
            file.swarm.record_late(now, node);
        }
    }

    /// Returns whether one more file may be opened.
    pub(super) fn has_room(&self) -> bool {
        self.files.len() < FETCHES_MAX
    }

    /// Returns the idle files to close before one more is opened, those unused for the longest
    /// first. Returns none while fewer than [`FETCHES_KEPT_MAX`] files are open. Up to
    /// [`FETCHES_MAX`] files, it searches only once per batch of opened files, because the search
    /// examines all files.
    pub(super) fn idle_over_limit(&mut self, step: impl Fn()) -> Vec<ContentKey> {
        self.opened += 1;
        let at_once = FETCHES_KEPT_MAX / EVICT_ONE_IN;
        let (count, is_due) = (self.files.len(), self.opened >= at_once);
        if count < FETCHES_KEPT_MAX || !(is_due || count >= FETCHES_MAX) {
            return Vec::new();
        }
        self.opened = 0;
        let idle = self.files.iter().filter(|(_, file)| {
            step();
            file.is_idle()
        });
        let mut idle: Vec<_> = idle
            .map(|(name, file)| (file.times.last_used, *name))
            .collect();
        idle.sort_unstable();
        let over = count - (FETCHES_KEPT_MAX - at_once);
        idle.into_iter()
            .take(over)
            .map(|(_, content)| content)
            .collect()
    }

    /// Returns the files that have no waiting reader, no fill and no request in flight.
    pub(super) fn idle(&self) -> Vec<ContentKey> {
        let idle = self.files.iter().filter(|(_, file)| file.is_idle());
        idle.map(|(content, _)| *content).collect()
    }

    /// Returns the idle files that were not used lately.
    pub(super) fn long_idle(&self, now: Instant) -> Vec<ContentKey> {
        let is_old = |content: &ContentKey| {
            let file = self.get(content);
            file.is_some_and(|file| file.times.last_used + RECENT <= now)
        };
        self.idle().into_iter().filter(is_old).collect()
    }
}
