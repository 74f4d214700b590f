//! All shared folders, their walks, and the events about them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tracing::{Span, debug, debug_span};

use super::config::ShareEvent;
use super::offered::{OfferedShare, WARNINGS_PER_WALK_MAX};
use super::tree::Slot;
use p2pfs_proto::wire::native::record::ShareIndex;

/// Target of the trace events about scans.
const SCAN_TARGET: &str = "p2pfs::scan";

fn scan_span(share: u16) -> Span {
    debug_span!(target: SCAN_TARGET, "scan", share)
}

/// The shared folders by their numbers.
#[derive(Default)]
pub(super) struct OfferedShares {
    pub(super) by_index: BTreeMap<u16, OfferedShare>,
    /// Shares to walk through.
    pub(super) scans: Vec<u16>,
    /// Shares of which a walk ended since the listing last released events.
    pub(super) walked: Vec<u16>,
    /// Events that wait for no change of a name: readers, warnings and ends of walks.
    pub(super) outbox: Vec<ShareEvent>,
}

impl OfferedShares {
    /// Schedules a walk through every share.
    pub(super) fn scan_all(&mut self) {
        self.scans.extend(self.by_index.keys().copied());
    }

    /// Schedules a walk through a share. Returns false if one is scheduled already.
    pub(super) fn scan(&mut self, index: u16) -> bool {
        let is_new = !self.scans.contains(&index);
        if is_new {
            self.scans.push(index);
        }
        is_new
    }

    /// Changes a share. Announces the change of its warning, if there is one.
    pub(super) fn change(&mut self, index: u16, change: impl FnOnce(&mut OfferedShare)) {
        let Some(share) = self.by_index.get_mut(&index) else {
            return;
        };
        let before = share.own_warning();
        change(share);
        let (dir, after) = (share.dir.to_path_buf(), share.own_warning());
        if after != before {
            self.settle(index, dir.clone(), before);
            if let Some(why) = after {
                self.warn(index, dir, &why);
            }
        }
    }

    /// Sends a warning. The caller must check the budget of a walk, if the warning counts against
    /// it.
    pub(super) fn warn(&mut self, index: u16, path: PathBuf, why: &str) {
        let share = self.by_index.get(&index);
        let is_withdrawn = share.is_some_and(|it| it.problems.vanished && it.dir.as_ref() == path);
        self.outbox.push(ShareEvent::Warning {
            share: ShareIndex(index),
            path,
            why: why.to_owned(),
            is_withdrawn,
        });
    }

    /// Announces that the cause of a warning is resolved, if there was a warning.
    pub(super) fn settle(&mut self, index: u16, path: PathBuf, why: Option<String>) {
        let share = ShareIndex(index);
        let event = why.map(|why| ShareEvent::Settled { share, path, why });
        self.outbox.extend(event);
    }

    /// Begins a walk through a share and returns the root, from which to walk. If a walk is
    /// running, returns `None` and lets another walk follow it.
    pub(super) fn begin_scan(&mut self, index: u16) -> Option<Slot> {
        let share = self.by_index.get_mut(&index)?;
        if share.walk.is_running {
            share.walk.again = true;
            return None;
        }
        share.walk.is_running = true;
        scan_span(index).in_scope(|| debug!(target: SCAN_TARGET, "the scan begins"));
        share.problems.unwatched = false;
        share.problems.warnings_left = WARNINGS_PER_WALK_MAX;
        Some(share.root)
    }

    /// Records that a directory of a share was read or could not be read. If it was the last one to
    /// read, ends the walk through the share.
    pub(super) fn end_walk(&mut self, index: u16) {
        let Some(share) = self.by_index.get_mut(&index) else {
            return;
        };
        share.walk.left = share.walk.left.saturating_sub(1);
        if share.walk.left > 0 || !share.walk.is_running {
            return;
        }
        share.walk.is_running = false;
        self.walked.push(index);
        scan_span(index).in_scope(|| debug!(target: SCAN_TARGET, "the scan ended"));
        if std::mem::take(&mut share.walk.again) {
            self.scans.push(index);
        }
        if !share.problems.vanished {
            let share = ShareIndex(index);
            self.outbox.push(ShareEvent::Scanned { share });
        }
    }

    /// Schedules another walk of a share in which a check failed for lack of resources.
    pub(super) fn record_want(&mut self, index: u16) {
        if let Some(share) = self.by_index.get_mut(&index) {
            share.problems.wanting = true;
        }
    }

    /// Marks a share because its disk does not answer. Its names stay listed.
    pub(super) fn stands_still(&mut self, index: u16) {
        if let Some(share) = self.by_index.get_mut(&index) {
            share.problems.stands_still = true;
        }
    }

    /// Unmarks a share because its disk answers again, and schedules a walk for the changes missed
    /// meanwhile.
    pub(super) fn answers_again(&mut self, index: u16) {
        if let Some(share) = self.by_index.get_mut(&index) {
            share.problems.stands_still = false;
            self.scans.push(index);
        }
    }
}
