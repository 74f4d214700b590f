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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ShareEvent, ShareSpec};
    use crate::exclude::Exclude;
    use crate::tree::Tree;
    use std::path::Path;
    use std::sync::Arc;

    /// Returns two shares that lack watches.
    fn unwatched_shares() -> OfferedShares {
        let (mut tree, mut shares) = (Tree::new(), OfferedShares::default());
        for (index, dir) in [(0, "/a"), (1, "/b")] {
            let exclude = Arc::new(Exclude::new(&[], false).unwrap());
            let root = tree.insert_root(index);
            let dir = Path::new(dir);
            let mut share = OfferedShare::new(dir, &ShareSpec::new(dir), exclude, root);
            share.problems.unwatched = true;
            shares.by_index.insert(index, share);
        }
        shares
    }

    /// Takes the announced folders: whether each is warned of, or no longer.
    fn announced(shares: &mut OfferedShares) -> Vec<(&'static str, bool)> {
        let events = std::mem::take(&mut shares.outbox).into_iter();
        let announced = events.map(|event| match event {
            ShareEvent::Warning { path, .. } => (path, true),
            ShareEvent::Settled { path, .. } => (path, false),
            other => panic!("{other:?}"),
        });
        let name = |path: PathBuf| if path.ends_with("a") { "a" } else { "b" };
        announced
            .map(|(path, is_new)| (name(path), is_new))
            .collect()
    }

    #[test]
    fn one_share_without_watches_is_warned_of_at_a_time() {
        let (mut warning, mut shares) = (WatchWarning::default(), unwatched_shares());
        warning.raise(&mut shares, 0, "/a".into());
        warning.raise(&mut shares, 1, "/b".into());
        assert_eq!(announced(&mut shares), [("a", true)]);
        warning.update(&mut shares);
        assert_eq!(announced(&mut shares), []);
        shares.by_index.get_mut(&0).unwrap().problems.unwatched = false;
        shares.by_index.get_mut(&0).unwrap().walk.is_running = true;
        warning.update(&mut shares);
        assert_eq!(announced(&mut shares), [], "the walk may still lack one");
        shares.by_index.get_mut(&0).unwrap().walk.is_running = false;
        warning.update(&mut shares);
        assert_eq!(announced(&mut shares), [("a", false), ("b", true)]);
        shares.by_index.remove(&1);
        warning.update(&mut shares);
        assert_eq!(announced(&mut shares), [("b", false)]);
    }
}
