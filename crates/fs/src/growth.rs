//! Files that grow: one inode for all versions of a file that only became longer.
//!
//! The number of an inode is derived from its version, so a new version is a new inode. A program
//! that follows a log would then read the whole log again for each version. Therefore an open file
//! keeps its inode if its new version begins with all bytes of the version before.
//!
//! This is never believed, but proven by [`Content::check_growth`] before the new version is shown.
//! Until then, or until a limit of time, all changes of the namespace wait. Without a proof the new
//! version is a new inode. With a proof the order is:
//!
//! 1. The open handles follow the new version.
//! 2. The kernel drops the page with the old end of the file. It has zeros after the end.
//! 3. The inode has the new version, the namespace is shown, and the kernel asks for the size again.
//!
//! The kernel cannot follow a file that it reads itself (passthrough), because that is the data file
//! of one version. Such a file becomes a new inode, and for some time its name is not opened by
//! passthrough.
//!
//! [`Content::check_growth`]: super::traits::Content::check_growth

use std::collections::HashMap;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::handles::{GrownContent, Handle, Reach};
use super::inherited::{OpenRecord, OpenedVersion};
use super::inode::{Name, Node};
use super::modes::Mode;
use super::names;
use super::staleness::KernelCaches;
use super::traits::{FileVersion, GrowthReply, Stale};
use p2pfs_catalogue::{Change, View};
use p2pfs_types::extent::{ByteRange, PAGE_BYTES};

/// How long a growth waits until the kernel has dropped the page with the old end. A reader that
/// waits for this page delays it. With the time for a proof, it is below the time after which a
/// namespace is shown anyway (`TELLING_LIMIT`).
const PAGE_LIMIT: Duration = Duration::from_millis(200);
/// How long a name is not opened by passthrough after its open file became longer.
pub(super) const GROWING_TIME: Duration = Duration::from_secs(60);
/// Maximum names that are remembered as growing. Others are opened as usual.
const GROWING_MAX: usize = 1024;

/// A change of the namespace that is not shown yet.
pub(super) struct PendingChange {
    pub view: Option<Arc<View>>,
    pub changes: Vec<Change>,
}

/// An open file with a longer version.
pub(super) struct LongerFile {
    pub ino: u64,
    pub older: FileVersion,
    pub newer: FileVersion,
}

/// The changes that wait for a proof, and the names that grew lately.
#[derive(Default)]
pub(super) struct Growth {
    queue: Mutex<ChangeQueue>,
    growing: Mutex<HashMap<Name, Instant>>,
}

#[derive(Default)]
struct ChangeQueue {
    is_busy: bool,
    waiting: Option<PendingChange>,
}

impl Growth {
    /// Returns the change if it is the next one to be shown. Otherwise it waits.
    pub(super) fn begin(&self, change: PendingChange) -> Option<PendingChange> {
        let mut queue = self.queue.lock();
        if !queue.is_busy {
            queue.is_busy = true;
            return Some(change);
        }
        match &mut queue.waiting {
            Some(waiting) => {
                waiting.view = change.view.or(waiting.view.take());
                waiting.changes.extend(change.changes);
            }
            None => queue.waiting = Some(change),
        }
        None
    }

    /// Ends a change, and returns the next one.
    pub(super) fn next(&self) -> Option<PendingChange> {
        let mut queue = self.queue.lock();
        let next = queue.waiting.take();
        queue.is_busy = next.is_some();
        next
    }

    /// Returns whether the file of a name became longer lately while it was open.
    pub(super) fn is_growing(&self, name: &Name, now: Instant) -> bool {
        let growing = self.growing.lock();
        let since = growing.get(name);
        since.is_some_and(|since| now.saturating_duration_since(*since) < GROWING_TIME)
    }

    fn record(&self, name: Name, now: Instant) {
        let mut growing = self.growing.lock();
        if growing.len() >= GROWING_MAX {
            growing.retain(|_, since| now.saturating_duration_since(*since) < GROWING_TIME);
        }
        if growing.len() < GROWING_MAX {
            growing.insert(name, now);
        }
    }
}

/// The proofs that one change waits for. The last reply that is called or dropped shows the change.
struct GrowthCheck {
    caches: Arc<KernelCaches>,
    change: Option<PendingChange>,
    grown: Mutex<Vec<LongerFile>>,
}

impl Drop for GrowthCheck {
    fn drop(&mut self) {
        if let Some(change) = self.change.take() {
            let grown = std::mem::take(&mut *self.grown.lock());
            self.caches.end_check(change, grown);
        }
    }
}

impl KernelCaches {
    /// Returns the open files that have a longer version in a change and may follow it.
    pub(super) fn longer_files(&self, change: &PendingChange) -> Vec<LongerFile> {
        let Some(newest) = &change.view else {
            return Vec::new();
        };
        let (shown, open) = (self.namespace.view(), self.open_inodes());
        let mut longer = Vec::new();
        for change in &change.changes {
            let Change::Entry(path) = change else {
                continue;
            };
            let name = Name::Union(path.clone());
            for ino in open.get(&name).into_iter().flatten() {
                let found = self.longer_file(*ino, &name, &shown, newest);
                longer.extend(found.filter(|_| {
                    self.growth.record(name.clone(), Instant::now());
                    self.modes.is_asked(*ino)
                }));
            }
        }
        longer
    }

    fn longer_file(
        &self,
        ino: u64,
        name: &Name,
        shown: &View,
        newest: &View,
    ) -> Option<LongerFile> {
        let Node::File(older) = self.inodes.get(ino)?.node else {
            return None;
        };
        let Node::File(newer) = names::resolve(newest, name)?.node else {
            return None;
        };
        let is_longer = newer.size_bytes > older.size_bytes;
        if older.own.is_some() || newer.own.is_some() || !is_longer {
            return None;
        }
        let is_shown = names::resolve(shown, name)?
            .node
            .is_version(&Node::File(older.clone()));
        let may_fetch = |(_, handle): &(u64, Arc<Handle>)| matches!(&**handle, Handle::File(file) if file.reach > Reach::Cached);
        let is_read = self.handles.of_inode(ino).iter().any(may_fetch);
        (is_shown && is_read).then_some(LongerFile { ino, older, newer })
    }

    /// Shows a change after it is known which of the files grew.
    pub(super) fn check_growth(self: &Arc<Self>, change: PendingChange, files: Vec<LongerFile>) {
        let check = Arc::new(GrowthCheck {
            caches: self.clone(),
            change: Some(change),
            grown: Mutex::default(),
        });
        let requests = files.into_iter().map(|file| {
            let (check, older, newer) = (check.clone(), file.older.clone(), file.newer.clone());
            let reply: GrowthReply = Box::new(move |is_grown| {
                check.grown.lock().extend(is_grown.then_some(file));
            });
            (newer, older, reply)
        });
        let requests: Vec<_> = requests.collect();
        // The replies alone end the check, because the end may wait and this caller may not.
        drop(check);
        for (newer, older, reply) in requests {
            let content = self.namespace.content.clone();
            content.check_growth(&newer, &older, reply);
        }
    }

    fn end_check(self: &Arc<Self>, change: PendingChange, grown: Vec<LongerFile>) {
        let grown: Vec<_> = grown.into_iter().filter(|it| self.follow(it)).collect();
        let is_dropped = grown.is_empty() || self.drop_old_ends(&grown);
        self.show_change(change, if is_dropped { grown } else { Vec::new() });
        self.show_changes(self.growth.next());
    }

    /// Makes the handles of a file follow its newer version. Returns whether it could be opened.
    fn follow(&self, file: &LongerFile) -> bool {
        let opened = match self.namespace.content.clone().open(&file.newer) {
            Ok(opened) if !opened.live => opened,
            _ => return false,
        };
        let ino = file.ino;
        for (number, handle) in self.handles.of_inode(ino) {
            if let Handle::File(open) = &*handle {
                open.follow(GrownContent {
                    content: opened.content.clone(),
                    size_bytes: file.newer.size_bytes,
                });
            }
            if let Some(inherited) = self.inherited.get() {
                inherited.forget(number);
                inherited.record(OpenRecord {
                    handle: number,
                    ino,
                    mode: Mode::Asked,
                    version: Some(OpenedVersion::of(&file.newer)),
                });
                if self.handles.get(number).is_err() {
                    inherited.forget(number);
                }
            }
        }
        true
    }

    /// Makes the kernel drop the pages with the old ends of these files. Returns whether that
    /// happened in time.
    fn drop_old_ends(&self, grown: &[LongerFile]) -> bool {
        let Some(invalidator) = self.invalidator.get() else {
            return true;
        };
        let stale = grown.iter().map(|file| {
            let old_end = file.older.size_bytes;
            let range = ByteRange::at(old_end - old_end % PAGE_BYTES, PAGE_BYTES);
            let ino = file.ino;
            Stale::PagesWithin { ino, range }
        });
        let (dropped, is_dropped) = mpsc::sync_channel(1);
        let tell = move || {
            // The growth may have stopped waiting.
            let _late = dropped.send(());
            Vec::new()
        };
        invalidator.invalidate_around(stale.collect(), Box::new(tell));
        is_dropped.recv_timeout(PAGE_LIMIT).is_ok()
    }
}

#[cfg(test)]
mod tests;
