//! The missing shares, and those of them that a thread is trying to add.

use std::path::{Path, PathBuf};

use crate::daemon::config::ShareSettings;
use p2pfs_node::api::MissingShare;

/// Shares that are wanted and are not shared yet.
#[derive(Default)]
pub(super) struct Missing {
    /// The wanted shares in their order, each folder once.
    wanted: Vec<ShareSettings>,
    /// Folders that a thread is trying to share now, including folders that are not wanted now.
    tried: Vec<PathBuf>,
    /// The last known reason for each missing share, with the remedy behind a semicolon.
    why: Vec<(PathBuf, String)>,
}

impl Missing {
    pub(super) fn wanted(&self) -> &[ShareSettings] {
        &self.wanted
    }

    /// Returns whether a thread is trying to share a folder, and so may wait for its disk.
    pub(super) fn awaits_any(&self) -> bool {
        !self.tried.is_empty()
    }

    /// Adds wanted shares, and replaces the settings of wanted shares with the same folders. If two
    /// of the given shares have one folder, the first counts.
    pub(super) fn want(&mut self, shares: Vec<ShareSettings>) {
        for share in &shares {
            self.want_no_more(&share.dir);
        }
        for share in shares {
            if !self.is_wanted(&share.dir) {
                self.wanted.push(share);
            }
        }
    }

    /// Removes a share from the wanted ones; returns whether it was wanted.
    pub(super) fn want_no_more(&mut self, dir: &Path) -> bool {
        let before = self.wanted.len();
        self.wanted.retain(|share| share.dir != dir);
        self.why.retain(|(missing, _)| missing != dir);
        self.wanted.len() < before
    }

    /// Records why a share is missing.
    pub(super) fn record(&mut self, dir: &Path, why: String) {
        self.why.retain(|(missing, _)| missing != dir);
        self.why.push((dir.to_owned(), why));
    }

    /// Returns the shares with a known reason, in the order in which the reasons were found.
    pub(super) fn known(&self) -> &[(PathBuf, String)] {
        &self.why
    }

    /// Claims the attempt to share a folder. Returns `false` if the folder is not wanted or another
    /// thread is trying to share it.
    pub(super) fn begin_to_try(&mut self, dir: &Path) -> bool {
        let begins = self.is_wanted(dir) && !self.is_tried(dir);
        if begins {
            self.tried.push(dir.to_owned());
        }
        begins
    }

    pub(super) fn end_try(&mut self, dir: &Path) {
        self.tried.retain(|tried| tried != dir);
    }

    /// Returns all wanted shares. The outcome of a share is still awaited if a thread is trying to
    /// add it, or if no attempt has failed yet.
    pub(super) fn outlook(&self) -> Vec<MissingShare> {
        let is_known = |dir: &Path| self.why.iter().any(|(missing, _)| missing == dir);
        let outlook = |share: &ShareSettings| MissingShare {
            dir: share.dir.clone(),
            is_awaited: self.is_tried(&share.dir) || !is_known(&share.dir),
        };
        self.wanted.iter().map(outlook).collect()
    }

    /// Returns whether a share is wanted and a thread is trying to add it.
    pub(super) fn is_awaited(&self, dir: &Path) -> bool {
        self.is_wanted(dir) && self.is_tried(dir)
    }

    fn is_wanted(&self, dir: &Path) -> bool {
        self.wanted.iter().any(|share| share.dir == dir)
    }

    fn is_tried(&self, dir: &Path) -> bool {
        self.tried.iter().any(|tried| tried == dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(include_private: bool) -> ShareSettings {
        ShareSettings {
            include_private,
            ..ShareSettings::new("/srv".into())
        }
    }

    #[test]
    fn the_reason_for_a_missing_folder_prefers_news_then_configuration() {
        let mut missing = Missing::default();
        missing.want(vec![share(true), share(false)]);
        assert_eq!(missing.wanted(), [share(true)]);
        missing.want(vec![share(false)]);
        assert_eq!(missing.wanted(), [share(false)]);
    }

    #[test]
    fn the_reason_for_a_missing_folder_is_kept_while_it_is_wanted() {
        let (mut missing, dir) = (Missing::default(), Path::new("/srv"));
        missing.want(vec![share(true)]);
        assert!(missing.known().is_empty());
        for why in ["does not exist", "is not a folder"] {
            missing.record(dir, why.to_owned());
            assert_eq!(missing.known(), [(dir.to_owned(), why.to_owned())]);
        }
        missing.want_no_more(dir);
        assert!(missing.known().is_empty());
    }

    #[test]
    fn a_folder_is_awaited_until_its_absence_is_explained_and_during_retries() {
        let (mut missing, dir) = (Missing::default(), Path::new("/srv"));
        let awaits = |missing: &Missing| missing.outlook()[0].is_awaited;
        missing.want(vec![share(true)]);
        assert!(awaits(&missing));
        assert!(missing.begin_to_try(dir));
        missing.record(dir, "its disk does not answer".to_owned());
        assert!(awaits(&missing));
        missing.end_try(dir);
        missing.record(dir, "does not exist".to_owned());
        assert!(!awaits(&missing));
        missing.want_no_more(dir);
        assert!(missing.outlook().is_empty());
    }

    #[test]
    fn a_folder_is_tried_by_one_task_at_a_time() {
        let (mut missing, dir) = (Missing::default(), Path::new("/srv"));
        assert!(!missing.begin_to_try(dir));
        missing.want(vec![share(true)]);
        assert!(missing.begin_to_try(dir) && missing.is_awaited(dir));
        assert!(missing.want_no_more(dir) && !missing.is_awaited(dir) && missing.awaits_any());
        missing.want(vec![share(true)]);
        assert!(!missing.begin_to_try(dir));
        missing.end_try(dir);
        assert!(missing.begin_to_try(dir));
    }
}
