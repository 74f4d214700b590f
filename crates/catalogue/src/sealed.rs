//! Log entries sealed for the readers of a share. Readers open them, and every other node stores
//! and forwards the ciphertext unchanged.
//!
//! An author's log is the same for all nodes, so any holder can forward it. Entries for a share's
//! readers are therefore sealed within the log, under a number that has one fixed list of readers.
//! A new list gets a new number. All entries of the share are recorded again under it, piece by
//! piece, and then the old number is withdrawn. A node outside the list keeps opaque rows, which
//! belong to no directory and no hash.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::audience::{Audience, Mark, ReaderList, SealedPlace, key_context};
use super::row::{Class, NodeIndex, Row};
use p2pfs_proto::trust::{NodeKey, ShareKey};
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;

/// Records that only some nodes may read.
#[derive(Default)]
pub(super) struct SealedRecords {
    /// Lists of readers, and sealed records that this node cannot open.
    opaque: BTreeMap<SealedPlace, Row>,
    /// Sealed records that this node could open.
    opened: BTreeMap<SealedPlace, Row>,
    /// The node key, which opens records sealed for this node.
    pub(super) vault: Option<Arc<NodeKey>>,
    /// Marks of private contents that were added (`true`) or removed, and are not stored yet.
    pub(super) new_marks: BTreeMap<Mark, bool>,
    /// How many lists of readers each share has at present. Shares that all nodes may read have no
    /// entry.
    pub(super) restricted: BTreeMap<(NodeIndex, ShareIndex), usize>,
    /// Cached contents that became private or stopped being private.
    pub(super) haves_to_review: Vec<ContentHash>,
}

fn place(author: NodeIndex, number: ShareIndex, path: &[u8]) -> SealedPlace {
    let hash = blake3::hash(path);
    let short = hash.as_bytes().first_chunk().expect("16 of 32 bytes");
    (author, number, *short)
}

fn place_of(row: &Row) -> SealedPlace {
    let path = match (row.class, row.seal()) {
        (Class::Readers, _) | (_, None) => &[],
        (_, Some((path, _))) => path,
    };
    place(row.author, row.share, path)
}

impl SealedRecords {
    /// Returns the row with the author, the number and the sealed path of `row`, whether it was
    /// opened or not. An entry and its tombstone have one sealed path. They therefore replace each
    /// other even on a node that can open neither.
    pub(crate) fn row_of_seal(&self, row: &Row) -> Option<Row> {
        self.row_at(&place_of(row))
    }

    /// Returns one author's row with a given sealed path under a number.
    pub(crate) fn row_sealed_as(
        &self,
        author: NodeIndex,
        number: ShareIndex,
        path: &[u8],
    ) -> Option<Row> {
        self.row_at(&place(author, number, path))
    }

    fn row_at(&self, place: &SealedPlace) -> Option<Row> {
        let row = self.opaque.get(place).or_else(|| self.opened.get(place));
        row.cloned()
    }

    /// Returns whether this node has a row with a given sealed path that it did not open.
    pub(crate) fn is_opaque(&self, author: NodeIndex, number: ShareIndex, path: &[u8]) -> bool {
        self.opaque.contains_key(&place(author, number, path))
    }

    /// Inserts a row that this node cannot open, or a list of readers.
    pub(crate) fn insert_opaque(&mut self, row: &Row) {
        self.opaque.insert(place_of(row), row.clone());
    }

    /// Removes a row that was inserted by [`Self::insert_opaque`].
    pub(crate) fn remove_opaque(&mut self, row: &Row) {
        self.opaque.remove(&place_of(row));
    }

    /// Returns the row of the list of readers under a number.
    pub(crate) fn list_row(&self, author: NodeIndex, number: ShareIndex) -> Option<&Row> {
        self.opaque.get(&place(author, number, &[]))
    }

    /// Updates the index of opened rows after a row with a name was added or removed.
    pub(crate) fn index_opened(&mut self, gone: Option<&Row>, new: Option<&Row>) {
        let is_sealed = |row: &&Row| row.has_name() && row.share.is_sealed();
        if let Some(gone) = gone.filter(is_sealed) {
            self.opened.remove(&place_of(gone));
        }
        if let Some(new) = new.filter(is_sealed) {
            self.opened.insert(place_of(new), new.clone());
        }
    }

    /// Counts a list of readers of a share, or discounts it.
    pub(crate) fn count_list(&mut self, author: NodeIndex, share: ShareIndex, is_new: bool) {
        let count = self.restricted.entry((author, share)).or_default();
        if is_new {
            *count += 1
        } else {
            *count = count.saturating_sub(1)
        }
        if *count == 0 {
            self.restricted.remove(&(author, share));
        }
    }

    /// Returns the audience that an author states in the row of a list of readers.
    pub(crate) fn audience_of(
        &self,
        me: &NodeId,
        author: &NodeId,
        (number, list): (ShareIndex, ReaderList),
    ) -> Audience {
        let (share, salt, readers) = list;
        let own = readers.iter().find(|reader| reader.node == *me);
        let key = own.zip(self.vault.as_ref()).and_then(|(own, vault)| {
            ShareKey::unwrap(&own.key, vault, author, &key_context(number, &salt))
        });
        Audience {
            share,
            readers: readers.into_iter().map(|reader| reader.node).collect(),
            key,
        }
    }
}
