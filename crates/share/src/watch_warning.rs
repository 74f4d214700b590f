//! The warning that the kernel does not watch some directories of a share.

use std::path::PathBuf;

use super::offered::{OfferedShare, UNWATCHED};
use super::shares::OfferedShares;

/// The current warning about missing watches. All shares have the same cause, so only one of them
/// is named.
#[derive(Default)]
pub(super) struct WatchWarning {
    /// Share and folder that are named in the warning.
    named: Option<(u16, PathBuf)>,
}

impl WatchWarning {
    /// Warns of a share, unless the owner is already warned of one.
    pub(super) fn raise(&mut self, shares: &mut OfferedShares, index: u16, dir: PathBuf) {
        if self.named.is_none() {
            shares.warn(index, dir.clone(), UNWATCHED);
            self.named = Some((index, dir));
        }
    }

    /// Ends the warning if its share has all watches now or is no longer offered. Another share
    /// without watches is warned of instead.
    pub(super) fn update(&mut self, shares: &mut OfferedShares) {
        let Some((index, _)) = &self.named else {
            return;
        };
        // a running walk has not tried all of its watches yet
        let may_lack = |share: &OfferedShare| share.problems.unwatched || share.walk.is_running;
        if shares.by_index.get(index).is_some_and(may_lack) {
            return;
        }
        if let Some((index, dir)) = self.named.take() {
            shares.settle(index, dir, Some(UNWATCHED.to_owned()));
        }
        let mut others = shares.by_index.iter();
        let other = others.find(|(_, share)| share.problems.unwatched);
        let other = other.map(|(index, share)| (*index, share.dir.to_path_buf()));
        if let Some((index, dir)) = other {
            self.raise(shares, index, dir);
        }
    }
}
