//! Readers of restricted shares, and contents that stay private after their last name is gone.
//! [`admits`](super::private::admits) decides access.

use std::collections::BTreeSet;

use imbl::{OrdMap, OrdSet};

use super::row::{Class, NodeIndex, Row};
use p2pfs_proto::trust::ShareKey;
use p2pfs_proto::wire::native::record::{EntitledReader, Fact, ShareIndex};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;
use p2pfs_types::path::SharedPath;

/// Maximum number of marks of private contents without a name. Once a mark finds no room, all
/// contents without a name are refused to every node.
pub const MARKS_MAX: usize = 1 << 18;
/// Maximum number of marks of one author, so that one author cannot fill [`MARKS_MAX`].
pub const MARKS_MAX_PER_AUTHOR: usize = 1 << 16;

/// Key of an opaque row: its author, its share number, and a hash of its sealed path.
pub(super) type SealedPlace = (NodeIndex, ShareIndex, [u8; 16]);

/// Contents of the row of a list of readers: the share, the salt and the readers.
pub(super) type ReaderList = (ShareIndex, [u8; 16], Vec<EntitledReader>);

/// Returns the contents of the row of a list of readers. Returns `None` for any other row.
pub(super) fn list_of(row: &Row) -> Option<ReaderList> {
    let (_, list) = row.seal().filter(|_| row.class == Class::Readers)?;
    postcard::from_bytes(list).ok()
}

/// Returns the associated data for wrapping keys under a number.
pub(super) fn key_context(number: ShareIndex, salt: &[u8; 16]) -> Vec<u8> {
    [&number.0.to_le_bytes()[..], salt].concat()
}

/// The readers of a share, as its author stated them once under one number.
#[derive(Debug)]
pub(super) struct Audience {
    /// The author's share.
    pub share: ShareIndex,
    /// The reading nodes, including the author.
    pub readers: BTreeSet<NodeId>,
    /// The key of the share. `None` if this node is not one of the readers, or cannot decrypt the
    /// key.
    pub key: Option<ShareKey>,
}

impl Audience {
    /// Seals a fact about a name under the number of the audience. Returns `None` if this node has
    /// no key.
    pub(crate) fn sealed_form(&self, number: ShareIndex, fact: &Fact) -> Option<Fact> {
        let key = self.key.as_ref()?;
        let sealed_path = |path: &SharedPath| {
            let path = key.seal(&number.0.to_le_bytes(), path.as_bytes());
            bytes::Bytes::from(path)
        };
        Some(match fact {
            Fact::Entry { path, entry, .. } => {
                let path = sealed_path(path);
                let text = postcard::to_stdvec(entry).expect("an entry always encodes");
                let entry = key.seal(&path, &text).into();
                Fact::Sealed {
                    number,
                    path,
                    entry,
                }
            }
            Fact::Removed { path, .. } => Fact::SealedRemoved {
                number,
                path: sealed_path(path),
            },
            other => other.clone(),
        })
    }
}

/// Record that a content stays private although its author lists it no longer. If that author lists
/// the content again, its names decide instead of the mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The private content.
    pub content: ContentHash,
    /// The author of the sealed name.
    pub author: NodeId,
}

/// The marks of private contents.
#[derive(Clone, Default)]
pub(super) struct Marks {
    all: OrdSet<Mark>,
    /// Number of marks of each author.
    of_authors: OrdMap<NodeId, usize>,
    is_full: bool,
}

impl Marks {
    /// Adds a mark. Returns whether there was room for it.
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

    /// Records that marks were lost. From now on it is unknown whether a content without a name is
    /// public.
    pub(crate) fn lose(&mut self) {
        self.is_full = true;
    }

    /// Removes a mark. Returns whether it was present.
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

    /// Returns whether a mark was lost or found no room. It is then unknown whether a content
    /// without a name is public.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_author_with_marks_beyond_its_limit_takes_no_room_from_others() {
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
