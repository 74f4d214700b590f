//! Names that are left out because of other names, and when to check them again. The kernel reports
//! nothing about them when the other names change.
//!
//! A symbolic link is left out because of its target: it leaves the share, leads back to itself, or
//! goes up from a name that is not a directory. It may lead through another link. A directory is
//! left out because a directory above it appears to be the same one.

use std::collections::BTreeSet;

use super::left_out::LeftOutWhy;
use super::tree::{NodeBody, Slot};

/// Maximum links that are followed again after a change, which takes some 10 ms. The others are
/// followed during the next walk of the share.
const FOLLOWED_AGAIN_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct DependentNames {
    links: BTreeSet<Slot>,
    /// Whether a link was removed or got a new target since the links were last followed.
    is_due: bool,
    /// Directories to check once they are no longer within themselves.
    loops: BTreeSet<Slot>,
}

impl DependentNames {
    /// Records that a name was added to the tree, or is about to be removed from it.
    pub(super) fn record(&mut self, slot: Slot, body: &NodeBody, comes: bool) {
        let is_left_out = match body {
            NodeBody::Symlink => false,
            NodeBody::LeftOut(body) => match body.why {
                LeftOutWhy::LinkOut | LeftOutWhy::LinkUp => true,
                LeftOutWhy::Loop => !body.directory,
                _ => return,
            },
            NodeBody::File(_) | NodeBody::Directory(_) => return,
        };
        if !comes {
            self.links.remove(&slot);
            self.loops.remove(&slot);
            self.record_change();
        } else if is_left_out {
            self.links.insert(slot);
        }
    }

    /// Records that a link was removed or has a new target.
    pub(super) fn record_change(&mut self) {
        self.is_due = true;
    }

    /// Records that a directory was left out because it appears to be within itself.
    pub(super) fn record_loop(&mut self, slot: Slot) {
        self.loops.insert(slot);
    }

    /// Returns the names to check: the directories that are no longer within themselves and, if a
    /// link was removed or got a new target since the last call, up to [`FOLLOWED_AGAIN_MAX`]
    /// left-out links.
    pub(super) fn take_due(&mut self, is_within_itself: impl Fn(&Slot) -> bool) -> Vec<Slot> {
        let mut due: Vec<Slot> = Vec::new();
        self.loops.retain(|slot| {
            let is_kept = is_within_itself(slot);
            due.extend((!is_kept).then_some(*slot));
            is_kept
        });
        if std::mem::take(&mut self.is_due) {
            due.extend(self.links.iter().take(FOLLOWED_AGAIN_MAX));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::FileIdentity;
    use super::super::tree::{LeftOutBody, Tree};
    use super::*;

    fn left_out(why: LeftOutWhy, directory: bool) -> NodeBody {
        let identity = FileIdentity::default();
        NodeBody::LeftOut(LeftOutBody {
            why,
            directory,
            identity,
        })
    }

    #[test]
    fn left_out_links_are_resolved_again_only_when_a_link_disappears() {
        let (mut links, mut tree) = (DependentNames::default(), Tree::new());
        let root = tree.insert_root(0);
        let bodies = [
            left_out(LeftOutWhy::LinkOut, false),
            left_out(LeftOutWhy::Loop, false),
            left_out(LeftOutWhy::Loop, true),
            left_out(LeftOutWhy::Private, false),
            NodeBody::Symlink,
        ];
        let names = "abcde".chars().map(|name| name.to_string());
        let slots: Vec<Slot> = names
            .zip(bodies)
            .map(|(name, body)| tree.insert(root, name.as_bytes(), body))
            .collect();
        let note = |links: &mut DependentNames, slot, comes| {
            links.record(slot, &tree.get(slot).unwrap().body, comes);
        };
        slots.iter().for_each(|slot| note(&mut links, *slot, true));
        assert!(
            links.take_due(|_| true).is_empty(),
            "what comes mends nothing"
        );
        note(&mut links, slots[4], false);
        assert_eq!(links.take_due(|_| true), slots[..2]);
        assert!(links.take_due(|_| true).is_empty());
        note(&mut links, slots[0], false);
        assert_eq!(links.take_due(|_| true), slots[1..2]);
        note(&mut links, slots[3], false);
        assert!(links.take_due(|_| true).is_empty(), "no link");
    }
}
