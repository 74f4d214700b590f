//! A shared folder: its settings, the progress of its walk, and its counters.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::config::{ShareProgress, ShareSpec, ShareTotals};
use super::exclude::Exclude;
use super::left_out::{LeftOut, LeftOutWhy, remedy_of_private};
use super::tree::Slot;
use super::writable::WriteAccess;

/// Maximum warnings about left-out names of one share, from the start of a walk to the start of the
/// next. The status counts all left-out names.
pub(super) const WARNINGS_PER_WALK_MAX: u32 = 32;

/// Warning for a share with directories that the kernel does not watch.
pub(super) const UNWATCHED: &str = "the limit of inotify watches is reached, so some changes are \
     only seen by the rescan; raise fs.inotify.max_user_watches, and max_user_instances where many \
     programs watch something (sysctl)";

/// A shared folder.
pub(super) struct OfferedShare {
    pub(super) dir: Arc<Path>,
    /// Settings of the share. Their `dir` is the path under which the share was last added, which
    /// may contain a link.
    pub(super) spec: ShareSpec,
    pub(super) exclude: Arc<Exclude>,
    pub(super) root: Slot,
    pub(super) walk: WalkProgress,
    pub(super) problems: ShareProblems,
    /// Whether the mount writes into it.
    pub(super) access: WriteAccess,
    pub(super) totals: ShareTotals,
    pub(super) left_out: BTreeSet<(LeftOutWhy, Slot)>,
    pub(super) left_out_counts: BTreeMap<LeftOutWhy, u64>,
}

/// The walk through a share.
#[derive(Default)]
pub(super) struct WalkProgress {
    /// Number of directories that wait to be read.
    pub(super) left: usize,
    /// Whether a walk through the whole share is running.
    pub(super) is_running: bool,
    /// Whether another walk was requested meanwhile.
    pub(super) again: bool,
}

/// The reasons why the listing of a share may be incomplete or late.
pub(super) struct ShareProblems {
    pub(super) vanished: bool,
    /// Whether something in the share could not be opened for lack of descriptors or memory.
    pub(super) wanting: bool,
    /// Whether the disk does not answer. Nothing in the share is checked until the disk does.
    pub(super) stands_still: bool,
    /// Whether others may not read the share's own directory, so that nothing is listed.
    pub(super) private: bool,
    /// Whether changes in some directories of the share are found only by the rescan.
    pub(super) unwatched: bool,
    pub(super) warning: Option<String>,
    pub(super) warnings_left: u32,
}

impl OfferedShare {
    pub(super) fn new(dir: &Path, spec: &ShareSpec, exclude: Arc<Exclude>, root: Slot) -> Self {
        Self {
            dir: dir.into(),
            spec: spec.clone(),
            exclude,
            root,
            walk: WalkProgress::default(),
            problems: ShareProblems {
                vanished: false,
                wanting: false,
                stands_still: false,
                private: false,
                unwatched: false,
                warning: None,
                warnings_left: WARNINGS_PER_WALK_MAX,
            },
            access: WriteAccess::Off,
            totals: ShareTotals::default(),
            left_out: BTreeSet::new(),
            left_out_counts: BTreeMap::new(),
        }
    }

    /// Returns the current warning about the share's own directory.
    pub(super) fn own_warning(&self) -> Option<String> {
        let private = || {
            let include = remedy_of_private(&self.dir, self.spec.is_by_command);
            format!(
                "others may not read this directory, so nothing in it is shared; chmod o+rx, or \
                 {include}"
            )
        };
        let not_writable = |why| format!("writing into the mount does not work here: {why}");
        self.problems
            .warning
            .clone()
            .or_else(|| self.problems.private.then(private))
            .or_else(|| self.access.refusal().map(not_writable))
    }

    /// Returns whether the share may list less than it has: it cannot be read as a whole at
    /// present, or was not read to its end. The missing files may come back unchanged.
    pub(super) fn lists_less(&self) -> bool {
        let problems = &self.problems;
        self.walk.is_running
            || problems.vanished
            || problems.private
            || problems.stands_still
            || problems.wanting
    }

    /// Returns whether the share must be walked again although nothing was reported: it vanished,
    /// or something in it could not be opened for lack of resources. Clears `wanting` unless a walk
    /// is running.
    pub(super) fn take_retry(&mut self) -> bool {
        let wanting = !self.walk.is_running && std::mem::take(&mut self.problems.wanting);
        wanting || self.problems.vanished
    }

    /// Adds a left-out name to the counters or subtracts it.
    pub(super) fn count_left_out(&mut self, slot: Slot, why: LeftOutWhy, is_new: bool) {
        let changed = if is_new {
            self.left_out.insert((why, slot))
        } else {
            self.left_out.remove(&(why, slot))
        };
        let count = self.left_out_counts.entry(why).or_default();
        if is_new {
            *count += u64::from(changed)
        } else {
            *count -= u64::from(changed)
        }
    }

    /// Returns why nothing in the share is listed, if others may not read its own directory.
    pub(super) fn left_out_itself(&self) -> Option<LeftOut> {
        self.problems.private.then(|| LeftOut {
            path: self.dir.to_path_buf(),
            why: LeftOutWhy::Private,
            remedy: LeftOutWhy::Private.remedy(&self.dir, true, self),
        })
    }

    /// Returns the number of left-out names by reason. The share itself counts if it is private.
    pub(super) fn left_out_counts(&self) -> Vec<(LeftOutWhy, u64)> {
        let mut counts = self.left_out_counts.clone();
        *counts.entry(LeftOutWhy::Private).or_default() += u64::from(self.problems.private);
        counts.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// Returns the current warning about the whole share.
    pub(super) fn current_warning(&self) -> Option<String> {
        let unwatched = self.problems.unwatched.then(|| UNWATCHED.to_owned());
        self.own_warning().or(unwatched)
    }

    /// Returns the share's activity. `due` says whether a walk is about to begin.
    pub(super) fn state(&self, due: bool, files_left: u64) -> ShareProgress {
        if self.problems.vanished {
            ShareProgress::Vanished
        } else if due || self.walk.is_running {
            ShareProgress::Scanning
        } else if files_left > 0 {
            ShareProgress::Hashing { files_left }
        } else {
            ShareProgress::Ready
        }
    }
}
