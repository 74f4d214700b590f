//! What `p2pfs share` shows of the shares.

use std::collections::BTreeMap;

use super::config::{ShareState, ShareStatus};
use super::left_out::{LEFT_OUT_LIST_MAX, LeftOut, LeftOutWhy};
use super::state::{Share, State};
use super::tree::{Body, Slot};
use crate::wire::native::record::ShareIndex;

/// The warning of a share whose own directory others may not read.
pub(super) const PRIVATE_SHARE: &str = "others may not read this directory, so nothing in it \
     is shared; chmod o+rx, or include_private = true";
/// The warning of a share with directories that the kernel does not watch for us.
pub(super) const UNWATCHED: &str = "the limit of inotify watches is reached, so some changes are \
     only seen by the rescan; raise fs.inotify.max_user_watches (sysctl)";

impl State {
    /// What `p2pfs share` shows.
    pub(super) fn list(&self) -> Vec<ShareStatus> {
        let mut left: BTreeMap<u16, u64> = BTreeMap::new();
        for slot in self.queue.left() {
            if let Some(node) = self.tree.get(slot) {
                *left.entry(node.share).or_default() += 1;
            }
        }
        let status = |(index, share): (&u16, &Share)| ShareStatus {
            dir: share.dir.to_path_buf(),
            index: ShareIndex(*index),
            include_private: share.include_private,
            legacy: share.legacy,
            state: share.state(left.get(index).copied().unwrap_or(0)),
            files: share.files,
            directories: share.directories,
            symlinks: share.symlinks,
            bytes: share.bytes,
            left_out: self.first_left_out(share),
            left_out_count: share.left_out.len() as u64 + u64::from(share.private),
            warning: share.what_is_wrong(),
        };
        self.shares.iter().map(status).collect()
    }

    fn first_left_out(&self, share: &Share) -> Vec<LeftOut> {
        let itself = share.private.then(|| LeftOut {
            path: share.dir.to_path_buf(),
            why: LeftOutWhy::Private,
            remedy: LeftOutWhy::Private.remedy(&share.dir, true),
        });
        let others = share
            .left_out
            .iter()
            .filter_map(|slot| self.left_out(*slot));
        itself
            .into_iter()
            .chain(others)
            .take(LEFT_OUT_LIST_MAX)
            .collect()
    }

    /// A name that is left out, as its owner is told of it.
    pub(super) fn left_out(&self, slot: Slot) -> Option<LeftOut> {
        let node = self.tree.get(slot)?;
        let Body::LeftOut(body) = &node.body else {
            return None;
        };
        let dir = &self.shares.get(&node.share)?.dir;
        // a name may be left out because it makes no shared path, so its parent's is asked
        let parent = self.tree.path(node.parent)?;
        let name = std::os::unix::ffi::OsStrExt::from_bytes(&node.name[..]);
        let path = dir.join(parent.as_local()).join::<&std::ffi::OsStr>(name);
        let remedy = body.why.remedy(&path, body.directory);
        Some(LeftOut {
            path,
            why: body.why,
            remedy,
        })
    }
}

impl Share {
    fn what_is_wrong(&self) -> Option<String> {
        let private = self.private.then(|| PRIVATE_SHARE.to_owned());
        let unwatched = self.unwatched.then(|| UNWATCHED.to_owned());
        self.warning.clone().or(private).or(unwatched)
    }

    fn state(&self, files_left: u64) -> ShareState {
        if self.vanished {
            ShareState::Vanished
        } else if self.scanning {
            ShareState::Scanning
        } else if files_left > 0 {
            ShareState::Hashing { files_left }
        } else {
            ShareState::Ready
        }
    }
}
