//! Own files that were replaced while programs have them open.
//!
//! A number stands for the bytes of a name, and a file may come to have the bytes that another of
//! its name once had: a log that was rotated is empty each time. Who has that open reads it as the
//! number, so the one that has the name now gets the next number; before it is hashed, too, since
//! it is another file whatever is in it.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::filesystem::Filesystem;
use super::inode::{Inode, Node};
use super::names::Said;

impl Filesystem {
    /// The number under which an own file is found that was looked up as `number`: another where
    /// another file is open as that, and the one as which this file is open, if there is one. The
    /// lookup counts on it.
    pub(super) fn look_up_file(
        &self,
        above: Option<u64>,
        inode: &Inode,
        said: Option<Said>,
        number: u64,
    ) -> u64 {
        let is_open = self.modes.live(number).is_some();
        if !is_open && !self.inodes.has_second_number(inode) {
            return number;
        }
        let Some(named) = self.named_file(&inode.node) else {
            return number;
        };
        let open_as = |number: u64| {
            let open = self.modes.live(number);
            open.map(|open| is_same(&open, &named))
        };
        let numbers = || inode.numbers().map(|number| (number, open_as(number)));
        let best = numbers().find(|(_, is_it)| *is_it == Some(true));
        let best = best.or_else(|| numbers().find(|(_, is_it)| is_it.is_none()));
        let Some((best, _)) = best.filter(|(best, _)| *best != number) else {
            return number;
        };
        if self.inodes.look_up_as(best, above, inode, said) {
            self.forget(number, 1);
            best
        } else {
            number
        }
    }

    /// Whether another file is open as this own file than the one that has its name.
    pub(super) fn is_replaced(&self, number: u64, node: &Node) -> bool {
        let open = self.modes.live(number);
        let named = open.as_ref().and_then(|_| self.named_file(node));
        open.zip(named)
            .is_some_and(|(open, named)| !is_same(&open, &named))
    }

    /// The own file that has the name.
    fn named_file(&self, node: &Node) -> Option<Arc<File>> {
        let Node::File(file) = node else { return None };
        file.own.as_ref()?;
        let opened = self.content.clone().open(file).ok()?;
        opened.content.backing().filter(|_| opened.live)
    }
}

/// Whether both are the same file; what the disk does not tell apart is.
pub(super) fn is_same(ours: &File, theirs: &File) -> bool {
    let (Ok(ours), Ok(theirs)) = (ours.metadata(), theirs.metadata()) else {
        return true;
    };
    (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino())
}
