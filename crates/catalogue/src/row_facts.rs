//! Conversion between facts, as logs transmit them, and rows, as this node keeps them.

use std::collections::BTreeMap;

use super::audience::{ReaderList, list_of};
use super::facts::check_in_clear;
use super::log::Log;
use super::merge::Merge;
use super::merged::Merged;
use super::row::{Class, NodeIndex, Row, Stamp, seal};
use p2pfs_proto::trust::ShareKey;
use p2pfs_proto::wire::native::record::{Entry, Fact, ShareIndex};
use p2pfs_types::path::SharedPath;

/// Creates the rows of facts. Before it creates the row of a name, it creates the missing
/// directories above the name.
pub(super) struct RowBuilder<'a> {
    pub merge: &'a mut Merge,
    pub logs: &'a BTreeMap<NodeIndex, Log>,
}

impl RowBuilder<'_> {
    /// Creates the row of a fact.
    pub(crate) fn row_of(&mut self, stamp: Stamp, fact: &Fact) -> Row {
        match fact {
            Fact::Entry { share, path, entry } => {
                let dir = self
                    .merge
                    .tracked
                    .dir_of(&path.parent().unwrap_or_default());
                Row::entry(stamp, *share, dir, path.file_name(), entry)
            }
            Fact::Removed { share, path } => {
                let dir = self
                    .merge
                    .tracked
                    .dir_of(&path.parent().unwrap_or_default());
                Row::removed(stamp, *share, dir, path.file_name())
            }
            Fact::Have { hash, size_bytes } => Row::have(stamp, hash, *size_bytes),
            Fact::HaveNot { hash } => Row::have_not(stamp, hash),
            Fact::Readers {
                number,
                share,
                salt,
                readers,
            } => readers_row(stamp, *number, &(*share, *salt, readers.clone())),
            Fact::Sealed {
                number,
                path,
                entry,
            } => self.sealed_row(stamp, *number, path, Some(entry)),
            Fact::SealedRemoved { number, path } => self.sealed_row(stamp, *number, path, None),
            Fact::Gone {
                path,
                replaces,
                time,
            } => {
                let dir = self
                    .merge
                    .tracked
                    .dir_of(&path.parent().unwrap_or_default());
                Row::gone(stamp, (dir, path.file_name()), replaces, *time)
            }
            Fact::Terms { share, open } => Row::terms(stamp, *share, *open),
            Fact::Keeps(offer) => Row::keeps(stamp, offer),
        }
    }

    /// Creates the row of a sealed entry, or of its tombstone if `entry` is `None`. The row is
    /// opened if this node has the key and the opened fact is valid.
    fn sealed_row(
        &mut self,
        stamp: Stamp,
        number: ShareIndex,
        path: &[u8],
        entry: Option<&[u8]>,
    ) -> Row {
        self.opened(stamp, number, path, entry).unwrap_or_else(|| {
            let class = match entry {
                Some(_) => Class::Sealed,
                None => Class::SealedRemoved,
            };
            Row::opaque(stamp, class, number, path, entry.unwrap_or_default())
        })
    }

    fn opened(
        &mut self,
        stamp: Stamp,
        number: ShareIndex,
        sealed_path: &[u8],
        sealed: Option<&[u8]>,
    ) -> Option<Row> {
        let author = stamp.author;
        if sealed_path.is_empty() || self.merge.sealed.is_opaque(author, number, sealed_path) {
            return None;
        }
        let audience = self.merge.state().audiences.get(&(author, number))?;
        let (key, share) = (audience.key.as_ref()?, audience.share);
        let (path, entry) = opened_text(key, number, sealed_path, sealed)?;
        let fact = match entry.clone() {
            Some(entry) => Fact::Entry {
                share,
                path: path.clone(),
                entry,
            },
            None => Fact::Removed {
                share,
                path: path.clone(),
            },
        };
        check_in_clear(&fact).ok()?;
        if self.is_of_another_seal(author, number, &path, sealed_path) {
            return None;
        }
        let dir = self
            .merge
            .tracked
            .dir_of(&path.parent().unwrap_or_default());
        let kept = seal(sealed_path, sealed.unwrap_or_default());
        let name = (dir, path.file_name());
        Some(match entry {
            Some(entry) => Row::entry_sealed(stamp, number, name, &entry, &kept),
            None => Row::removed_sealed(stamp, number, name, &kept),
        })
    }

    /// Returns whether a log already has this name under another sealed path of the same number. An
    /// honest author always seals a path under one number to the same bytes. A node without the key
    /// would count two entries.
    fn is_of_another_seal(
        &self,
        author: NodeIndex,
        number: ShareIndex,
        path: &SharedPath,
        sealed_path: &[u8],
    ) -> bool {
        let Some(dir) = path
            .parent()
            .and_then(|parent| self.merge.state().find_dir(&parent))
        else {
            return false;
        };
        let known = self
            .merge
            .state()
            .dir(dir)
            .row_of(path.file_name(), author, number)
            .cloned();
        let Some(known) = known else { return false };
        let log = self.logs.get(&author);
        let is_current = log
            .and_then(|log| log.rows.get(known.sequence))
            .is_some_and(|row| row.is(&known));
        is_current && known.seal().is_none_or(|(path, _)| path != sealed_path)
    }
}

/// Creates the row of a list of readers.
fn readers_row(stamp: Stamp, number: ShareIndex, list: &ReaderList) -> Row {
    let list = postcard::to_stdvec(list).expect("a list of readers always encodes");
    Row::opaque(stamp, Class::Readers, number, &[], &list)
}

fn opened_text(
    key: &ShareKey,
    number: ShareIndex,
    path: &[u8],
    sealed: Option<&[u8]>,
) -> Option<(SharedPath, Option<Entry>)> {
    let clear = SharedPath::new(key.open(&number.0.to_le_bytes(), path)?).ok()?;
    let Some(sealed) = sealed else {
        return Some((clear, None));
    };
    let entry = postcard::from_bytes(&key.open(path, sealed)?).ok()?;
    Some((clear, Some(entry)))
}

/// Returns the fact of a row in its wire form.
pub(super) fn fact_of(state: &Merged, row: &Row) -> Fact {
    if let Some(sealed) = sealed_fact_of(row) {
        return sealed;
    }
    let path = || state.path_of(row.dir, row.name());
    match (row.class, row.to_entry()) {
        (Class::Have, _) => Fact::Have {
            hash: row.hash(),
            size_bytes: row.size_bytes(),
        },
        (Class::HaveNot, _) => Fact::HaveNot { hash: row.hash() },
        (Class::Gone, _) => Fact::Gone {
            path: path(),
            replaces: row.replaced_contents(),
            time: row.version_time(),
        },
        (Class::Open | Class::Closed, _) => Fact::Terms {
            share: row.share,
            open: row.class == Class::Open,
        },
        (Class::Keeps | Class::KeepsNot, _) => Fact::Keeps(row.keep_offer()),
        (_, Some(entry)) => Fact::Entry {
            share: row.share,
            path: path(),
            entry,
        },
        (_, None) => Fact::Removed {
            share: row.share,
            path: path(),
        },
    }
}

/// Returns the wire form of an opaque row or of a row of a sealed share. Returns `None` for another
/// row.
fn sealed_fact_of(row: &Row) -> Option<Fact> {
    let number = row.share;
    if let Some((share, salt, readers)) = list_of(row) {
        return Some(Fact::Readers {
            number,
            share,
            salt,
            readers,
        });
    }
    let (path, entry) = row.seal()?;
    let path = bytes::Bytes::copy_from_slice(path);
    Some(if row.is_tombstone() {
        Fact::SealedRemoved { number, path }
    } else {
        Fact::Sealed {
            number,
            path,
            entry: bytes::Bytes::copy_from_slice(entry),
        }
    })
}
