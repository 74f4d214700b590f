//! The orders of rows: newtypes that order rows in sets, and the keys to search for them.

use std::cmp::Ordering;
use std::fmt;

use equivalent::{Comparable, Equivalent};
use triomphe::ThinArc;

use super::row::{Class, DirId, NodeIndex, Row};
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_types::digest::ContentHash;

/// Implements equality and order of a type by one comparison function.
macro_rules! ordered_by {
    ($type:ty, $compare:expr) => {
        impl Ord for $type {
            fn cmp(&self, other: &Self) -> Ordering {
                $compare(self, other)
            }
        }
        impl PartialOrd for $type {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }
        impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                self.cmp(other) == Ordering::Equal
            }
        }
        impl Eq for $type {}
    };
}

/// Lets a set be searched by a key that is not an element.
macro_rules! key_of {
    ($key:ty, $element:ty, $compare:expr) => {
        impl Equivalent<$element> for $key {
            fn equivalent(&self, element: &$element) -> bool {
                self.compare(element) == Ordering::Equal
            }
        }
        impl Comparable<$element> for $key {
            fn compare(&self, element: &$element) -> Ordering {
                $compare(self, element)
            }
        }
    };
}

/// A row in its directory, ordered by name, then author, then share.
#[derive(Clone, Debug)]
pub(super) struct ByName(pub Row);

ordered_by!(ByName, |a: &ByName, b: &ByName| {
    let (a, b) = (&a.0, &b.0);
    a.name()
        .cmp(b.name())
        .then_with(|| (a.author, a.share).cmp(&(b.author, b.share)))
});

/// The row that a name shows, ordered by name alone, because each name has one such row. Two rows
/// of one name are therefore equal, whatever their authors.
#[derive(Clone, Debug)]
pub(super) struct ListedRow(pub Row);

ordered_by!(ListedRow, |a: &ListedRow, b: &ListedRow| a
    .0
    .name()
    .cmp(b.0.name()));

/// Key of one author's row of a name in one share.
pub(super) struct OwnName<'a> {
    pub name: &'a [u8],
    pub author: NodeIndex,
    pub share: ShareIndex,
}

key_of!(OwnName<'_>, ByName, |key: &OwnName<'_>, row: &ByName| {
    let row = &row.0;
    let owner = (key.author, key.share);
    key.name
        .cmp(row.name())
        .then_with(|| owner.cmp(&(row.author, row.share)))
});

/// A position just before all elements of a name. It equals no element.
pub(super) struct Before<'a>(pub &'a [u8]);
/// A position just after all elements of a name. It equals no element.
pub(super) struct After<'a>(pub &'a [u8]);

key_of!(Before<'_>, ByName, |key: &Before<'_>, row: &ByName| {
    key.0.cmp(row.0.name()).then(Ordering::Less)
});
key_of!(After<'_>, ByName, |key: &After<'_>, row: &ByName| {
    key.0.cmp(row.0.name()).then(Ordering::Greater)
});
key_of!(After<'_>, ListedRow, |key: &After<'_>, row: &ListedRow| {
    key.0.cmp(row.0.name()).then(Ordering::Greater)
});

/// A directory in its parent, ordered by name.
#[derive(Clone)]
pub(super) struct DirRef(ThinArc<DirId, u8>);

impl DirRef {
    pub(crate) fn new(id: DirId, name: &[u8]) -> Self {
        Self(ThinArc::from_header_and_slice(id, name))
    }

    pub(crate) fn id(&self) -> DirId {
        self.0.header.header
    }

    pub(crate) fn name(&self) -> &[u8] {
        &self.0.slice
    }
}

impl fmt::Debug for DirRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.name().escape_ascii(), self.id())
    }
}

ordered_by!(DirRef, |a: &DirRef, b: &DirRef| a.name().cmp(b.name()));

/// Key of the one element with this exact name.
pub(super) struct Named<'a>(pub &'a [u8]);

key_of!(Named<'_>, DirRef, |key: &Named<'_>, dir: &DirRef| key
    .0
    .cmp(dir.name()));
key_of!(After<'_>, DirRef, |key: &After<'_>, dir: &DirRef| {
    key.0.cmp(dir.name()).then(Ordering::Greater)
});
key_of!(Named<'_>, ListedRow, |key: &Named<'_>, row: &ListedRow| key
    .0
    .cmp(row.0.name()));

/// A version that lost its name, with the conflict name under which it is listed.
#[derive(Clone)]
pub(super) struct Alias(ThinArc<Row, u8>);

impl Alias {
    pub(crate) fn new(row: Row, name: &[u8]) -> Self {
        Self(ThinArc::from_header_and_slice(row, name))
    }

    pub(crate) fn row(&self) -> &Row {
        &self.0.header.header
    }

    pub(crate) fn name(&self) -> &[u8] {
        &self.0.slice
    }
}

impl fmt::Debug for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {:?}", self.name().escape_ascii(), self.row())
    }
}

ordered_by!(Alias, |a: &Alias, b: &Alias| a.name().cmp(b.name()));
key_of!(Named<'_>, Alias, |key: &Named<'_>, alias: &Alias| key
    .0
    .cmp(alias.name()));
key_of!(After<'_>, Alias, |key: &After<'_>, alias: &Alias| {
    key.0.cmp(alias.name()).then(Ordering::Greater)
});

/// A row in the index of contents, ordered by hash, class, author, sequence and place.
#[derive(Clone, Debug)]
pub(super) struct ByHash {
    /// The hash's first bytes, beside the pointer. A search then dereferences only rows with the
    /// same first bytes, which saves most of its cost.
    prefix: u64,
    pub row: Row,
}

impl ByHash {
    pub(crate) fn new(row: Row) -> Self {
        Self {
            prefix: prefix(&row.hash),
            row,
        }
    }
}

fn prefix(hash: &[u8; 32]) -> u64 {
    hash.iter()
        .take(8)
        .fold(0, |prefix, byte| prefix << 8 | u64::from(*byte))
}

ordered_by!(ByHash, |a: &ByHash, b: &ByHash| {
    a.prefix.cmp(&b.prefix).then_with(|| {
        let (a, b) = (&a.row, &b.row);
        let place = |row: &Row| (row.class, row.author, row.sequence, row.dir, row.share);
        a.hash
            .cmp(&b.hash)
            .then_with(|| place(a).cmp(&place(b)))
            .then_with(|| a.name().cmp(b.name()))
    })
});

/// A position just before the first row of (hash, class, author). It equals no element.
pub(super) struct HashFrom {
    pub hash: ContentHash,
    pub class: Class,
    /// Wider than [`NodeIndex`], so that there is a position after the last author.
    pub author: u32,
}

impl HashFrom {
    /// Returns the position before all files of a content.
    pub(crate) fn files(hash: ContentHash) -> Self {
        Self {
            hash,
            class: Class::File,
            author: 0,
        }
    }
}

key_of!(HashFrom, ByHash, |key: &HashFrom, element: &ByHash| {
    prefix(key.hash.as_bytes())
        .cmp(&element.prefix)
        .then_with(|| {
            let row = &element.row;
            let from = (key.hash.as_bytes(), key.class, key.author);
            from.cmp(&(&row.hash, row.class, u32::from(row.author.0)))
        })
        .then(Ordering::Less)
});

#[cfg(test)]
mod tests {
    use super::super::row::Stamp;
    use super::*;

    #[test]
    fn pointers_are_thin() {
        for pointer_bytes in [size_of::<DirRef>(), size_of::<Alias>()] {
            assert_eq!(pointer_bytes, 8);
        }
    }

    #[test]
    fn a_name_is_found_regardless_of_its_author() {
        let row = |name: u32, author| {
            let stamp = Stamp {
                author: NodeIndex(author),
                sequence: 1,
            };
            ListedRow(Row::removed(
                stamp,
                ShareIndex(0),
                DirId::ROOT,
                &name.to_be_bytes(),
            ))
        };
        let mut set: imbl::OrdSet<ListedRow> = (0..600).map(|name| row(name, 9)).collect();
        for (name, author) in (0..600u32).flat_map(|name| [(name, 3), (name, 12)]) {
            let old = set.get(&Named(&name.to_be_bytes())).cloned();
            set.remove(&old.expect("it is there before"));
            set.insert(row(name, author));
            let found = set.get(&Named(&name.to_be_bytes()));
            assert_eq!(found.map(|row| row.0.author), Some(NodeIndex(author)));
        }
        assert_eq!(set.len(), 600);
    }

    #[test]
    fn a_bound_before_or_after_a_name_excludes_or_includes_all_its_rows() {
        let row = |name: &[u8], author| {
            let stamp = Stamp {
                author: NodeIndex(author),
                sequence: 1,
            };
            ByName(Row::removed(stamp, ShareIndex(0), DirId::ROOT, name))
        };
        let set: imbl::OrdSet<ByName> = (0..50)
            .flat_map(|a| [row(b"a", a), row(b"b", a), row(b"c", a)])
            .collect();
        assert_eq!(set.range(Before(b"b")..).count(), 100);
        assert_eq!(set.range(After(b"b")..).count(), 50);
        assert_eq!(set.range(..After(b"b")).count(), 100);
    }
}
