//! Own files that were replaced while programs have them open.
//!
//! An inode number stands for one content under one name. A replaced file may have the same bytes
//! as an earlier file of its name. For example, a log is empty after each rotation. A program that
//! has the earlier file open reads it under that number, so the new file gets the next number. This
//! happens even before the new file is hashed, because it is another file whatever its bytes are.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::inode::{Inode, Node};
use super::inodes::Inodes;
use super::modes::Modes;
use super::names::NameRecord;
use super::traits::Content;

/// The own files that programs have open, and the inodes under which they are open.
pub(super) struct OpenOwnFiles<'a> {
    pub content: &'a Arc<dyn Content>,
    pub modes: &'a Modes,
    pub inodes: &'a Inodes,
}

impl OpenOwnFiles<'_> {
    /// Returns the number for an own file that was looked up as `number`. If the file is open under
    /// one of its numbers, that one is returned. Otherwise the first of them without an open own
    /// file is returned. The lookup is counted on the result.
    pub(crate) fn look_up_file(
        &self,
        above: Option<u64>,
        inode: &Inode,
        said: Option<NameRecord>,
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
            self.inodes.forget(number, 1);
            best
        } else {
            number
        }
    }

    /// Returns whether the own file that is open as `number` differs from the file that has its
    /// name now.
    pub(crate) fn is_replaced(&self, number: u64, node: &Node) -> bool {
        let open = self.modes.live(number);
        let named = open.as_ref().and_then(|_| self.named_file(node));
        open.zip(named)
            .is_some_and(|(open, named)| !is_same(&open, &named))
    }

    /// Returns the own file that has the name now.
    fn named_file(&self, node: &Node) -> Option<Arc<File>> {
        let Node::File(file) = node else { return None };
        file.own.as_ref()?;
        let opened = self.content.clone().open(file).ok()?;
        opened.content.backing().filter(|_| opened.live)
    }
}

/// Returns whether both are the same file. If the disk cannot tell, they count as the same.
pub(super) fn is_same(ours: &File, theirs: &File) -> bool {
    let (Ok(ours), Ok(theirs)) = (ours.metadata(), theirs.metadata()) else {
        return true;
    };
    (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino())
}
