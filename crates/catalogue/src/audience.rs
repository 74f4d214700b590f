//! What the merged state keeps of shares that are for some nodes alone: who reads them, and which
//! contents stay theirs without a name. Knows no rule of who is given what.

use std::collections::BTreeSet;

use imbl::{OrdMap, OrdSet};

use super::row::NodeIndex;
use p2pfs_proto::trust::ShareKey;
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;

/// Contents that are remembered as private after their last name is gone. Beyond it, what has no
/// name is given to nobody.
pub const MARKS_MAX: usize = 1 << 18;
/// And how many of them are of one author, so that none takes the room of all others.
pub const MARKS_MAX_PER_AUTHOR: usize = 1 << 16;

/// Where an opaque row is: its author, its number, and a hash of its path.
pub(super) type Place = (NodeIndex, ShareIndex, [u8; 16]);

/// Who reads a share, as its author said once under one number.
#[derive(Debug)]
pub(super) struct Audience {
    /// Which of the author's shares it is.
    pub share: ShareIndex,
    /// The author among them.
    pub readers: BTreeSet<NodeId>,
    /// None where this node is not one of them.
    pub key: Option<ShareKey>,
}

/// That a content stays private though the author's last sealed name of it is gone. That author
/// alone can open it, by listing it openly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// What is private.
    pub content: ContentHash,
    /// Who sealed a name of it.
    pub author: NodeId,
}

/// Contents of which somebody's last sealed name is gone.
#[derive(Clone, Default)]
pub(super) struct Marks {
    all: OrdSet<Mark>,
    /// How many each author made.
    of_authors: OrdMap<NodeId, usize>,
    is_full: bool,
}

impl Marks {
    /// Whether there was room for it.
    pub(crate) fn add(&mut self, mark: Mark) -> bool {
        if self.all.contains(&mark) {
            return true;
        }
        let count = self.of_authors.get(&mark.author).copied().unwrap_or(0);
        let has_room = count < MARKS_MAX_PER_AUTHOR && self.all.len() < MARKS_MAX;
        if has_room {
            self.all.insert(mark);
            self.of_authors.insert(mark.author, count + 1);
        }
        self.is_full |= !has_room;
        has_room
    }

    /// From now on it is not known of every content without a name.
    pub(crate) fn lose(&mut self) {
        self.is_full = true;
    }

    /// Whether it was there.
    pub(crate) fn remove(&mut self, mark: &Mark) -> bool {
        let was_there = self.all.remove(mark).is_some();
        if was_there && let Some(count) = self.of_authors.get_mut(&mark.author) {
            *count -= 1;
        }
        was_there
    }

    pub(crate) fn has(&self, content: ContentHash) -> bool {
        let first = Mark {
            content,
            author: NodeId::new([0; 32]),
        };
        let next = self.all.range(first..).next();
        next.is_some_and(|mark| mark.content == content)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Mark> {
        self.all.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether one found no room: then it is not known of every content without a name.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_makes_marks_beyond_its_limit_takes_the_room_of_nobody_else() {
        let mark = |author: u8, content: usize| Mark {
            content: ContentHash::of(&content.to_le_bytes()),
            author: NodeId::new([author; 32]),
        };
        let mut marks = Marks::default();
        for content in 0..MARKS_MAX_PER_AUTHOR {
            assert!(marks.add(mark(1, content)));
        }
        assert!(!marks.is_full() && marks.add(mark(1, 0)), "it is there");
        let over = mark(1, MARKS_MAX_PER_AUTHOR);
        assert!(!marks.add(over) && !marks.has(over.content) && marks.is_full());
        assert!(marks.add(mark(2, MARKS_MAX_PER_AUTHOR)) && marks.has(over.content));
        assert!(marks.remove(&mark(1, 0)) && !marks.remove(&mark(1, 0)));
        assert!(marks.add(over));
    }

    #[test]
    fn no_more_marks_of_all_authors_are_kept_than_the_limit() {
        let mark = |n: usize| {
            let mut content = [0; 32];
            content[..8].copy_from_slice(&n.to_be_bytes());
            Mark {
                content: ContentHash::new(content),
                author: NodeId::new([(n / MARKS_MAX_PER_AUTHOR) as u8; 32]),
            }
        };
        let mut marks = Marks::default();
        for n in 0..MARKS_MAX {
            assert!(marks.add(mark(n)));
        }
        assert!(!marks.is_full() && !marks.add(mark(MARKS_MAX)) && marks.is_full());
        assert!(marks.remove(&mark(0)) && marks.add(mark(MARKS_MAX)));
    }
}
