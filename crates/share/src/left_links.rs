//! Symbolic links that are left out because of their targets (they leave the share, lead back to
//! themselves, or go up from a name that is not a directory), and when to follow them again. A
//! left-out link may lead through another link. When that other link changes, the kernel reports
//! nothing about the left-out link.

use std::collections::BTreeSet;

use super::left_out::LeftOutWhy;
use super::tree::{NodeBody, Slot};

/// Maximum links that are followed again after a change, which takes some 10 ms. The others are
/// followed during the next walk of the share.
const FOLLOWED_AGAIN_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct LeftLinks {
    slots: BTreeSet<Slot>,
    is_due: bool,
}

impl LeftLinks {
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
            self.slots.remove(&slot);
            self.record_change();
        } else if is_left_out {
            self.slots.insert(slot);
        }
    }

    /// Records that a link was removed or has a new target.
    pub(super) fn record_change(&mut self) {
        self.is_due = true;
    }

    /// Returns the links to follow again: none unless a link changed since the last call.
    pub(super) fn take_due(&mut self) -> Vec<Slot> {
        if std::mem::take(&mut self.is_due) {
            self.slots
                .iter()
                .copied()
                .take(FOLLOWED_AGAIN_MAX)
                .collect()
        } else {
            Vec::new()
        }
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
        let (mut links, mut tree) = (LeftLinks::default(), Tree::new());
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
        let note = |links: &mut LeftLinks, slot, comes| {
            links.record(slot, &tree.get(slot).unwrap().body, comes);
        };
        slots.iter().for_each(|slot| note(&mut links, *slot, true));
        assert!(links.take_due().is_empty(), "what comes mends nothing");
        note(&mut links, slots[4], false);
        assert_eq!(links.take_due(), slots[..2]);
        assert!(links.take_due().is_empty());
        note(&mut links, slots[0], false);
        assert_eq!(links.take_due(), slots[1..2]);
        note(&mut links, slots[3], false);
        assert!(links.take_due().is_empty(), "no link");
    }
}
