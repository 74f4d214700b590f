//! Log entries sealed for the readers of a share. Readers open them, and every other node stores
//! and forwards the ciphertext unchanged.
//!
//! An author's log is the same for all nodes, so any holder can forward it. Entries for a share's
//! readers are therefore sealed within the log, under a number that has one fixed list of readers.
//! A new list gets a new number. Everything is restated under it, piece by piece, and then the old
//! number is withdrawn. A node outside the list keeps opaque rows, which belong to no directory and
//! no hash.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::audience::{Audience, SealedPlace};
use super::facts::check_in_clear;
use super::merge::Merge;
use super::row::{Class, NodeIndex, Row, Stamp, seal};
use super::{Catalogue, CatalogueError};
use p2pfs_proto::trust::{NodeKey, ShareKey, has_key};
use p2pfs_proto::wire::native::record::{EntitledReader, Entry, Fact, READERS_MAX, ShareIndex};
use p2pfs_types::id::{NodeId, NodeName};
use p2pfs_types::path::SharedPath;

/// Own records examined in one step of a restatement. Each may be sealed, recorded again and
/// withdrawn. A request to this node may wait for a few such steps.
const RESTATE_STEP_RECORDS: usize = 64;

/// Contents of the row of a list of readers: the share, the salt and the readers.
type ReaderList = (ShareIndex, [u8; 16], Vec<EntitledReader>);

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

/// Returns the associated data for wrapping keys under a number.
fn about(number: ShareIndex, salt: &[u8; 16]) -> Vec<u8> {
    [&number.0.to_le_bytes()[..], salt].concat()
}

fn list_of(row: &Row) -> Option<ReaderList> {
    let (_, list) = row.seal().filter(|_| row.class == Class::Readers)?;
    postcard::from_bytes(list).ok()
}

impl Merge {
    /// Returns the row with the author, the number and the sealed path of `row`, whether it was
    /// opened or not. An entry and its tombstone have one sealed path. They therefore replace each
    /// other even on a node that can open neither.
    pub(super) fn row_of_seal(&self, row: &Row) -> Option<Row> {
        self.row_at(&place_of(row))
    }

    /// Returns one author's row with a given sealed path under a number.
    pub(super) fn row_sealed_as(
        &self,
        author: NodeIndex,
        number: ShareIndex,
        path: &[u8],
    ) -> Option<Row> {
        self.row_at(&place(author, number, path))
    }

    fn row_at(&self, place: &SealedPlace) -> Option<Row> {
        let row = self
            .sealed
            .opaque
            .get(place)
            .or_else(|| self.sealed.opened.get(place));
        row.cloned()
    }

    /// Updates the index of opened rows after a row with a name was added or removed.
    pub(super) fn index_opened(&mut self, gone: Option<&Row>, new: Option<&Row>) {
        let is_sealed = |row: &&Row| row.has_name() && row.share.is_sealed();
        if let Some(gone) = gone.filter(is_sealed) {
            self.sealed.opened.remove(&place_of(gone));
        }
        if let Some(new) = new.filter(is_sealed) {
            self.sealed.opened.insert(place_of(new), new.clone());
        }
    }

    /// Replaces an opaque row by another with the same sealed path.
    pub(super) fn change_opaque(&mut self, gone: Option<&Row>, new: Option<&Row>) {
        if let Some(gone) = gone {
            self.sealed.opaque.remove(&place_of(gone));
            self.costs.drop_row(gone);
            if gone.class == Class::Readers {
                self.dirty = true;
                let audiences = Arc::make_mut(&mut self.state.audiences);
                let audience = audiences.remove(&(gone.author, gone.share));
                audience.inspect(|it| self.count_list(gone.author, it.share, false));
            }
        }
        let Some(new) = new else { return };
        self.sealed.opaque.insert(place_of(new), new.clone());
        self.costs.add_row(new);
        if let Some(audience) = list_of(new).map(|list| self.audience_of(new, list)) {
            self.dirty = true;
            self.count_list(new.author, audience.share, true);
            let audiences = Arc::make_mut(&mut self.state.audiences);
            audiences.insert((new.author, new.share), Arc::new(audience));
        }
    }

    fn count_list(&mut self, author: NodeIndex, share: ShareIndex, is_new: bool) {
        let count = self.sealed.restricted.entry((author, share)).or_default();
        if is_new {
            *count += 1
        } else {
            *count = count.saturating_sub(1)
        }
        if *count == 0 {
            self.sealed.restricted.remove(&(author, share));
        }
    }

    fn audience_of(&self, row: &Row, (share, salt, readers): ReaderList) -> Audience {
        let (me, author) = (self.state.node(self.state.me).id, *self.state.node_of(row));
        let own = readers.iter().find(|reader| reader.node == me);
        let key = own
            .zip(self.sealed.vault.as_ref())
            .and_then(|(own, vault)| {
                let key = vault.unwrap(&author, &own.key, &about(row.share, &salt))?;
                Some(key)
            });
        Audience {
            share,
            readers: readers.into_iter().map(|reader| reader.node).collect(),
            key,
        }
    }
}

impl Catalogue {
    /// Creates an empty catalogue of the node with this key. The catalogue opens records sealed for
    /// the node.
    pub fn of_key(key: Arc<NodeKey>, name: NodeName) -> Self {
        let mut catalogue = Self::new(key.node_id(), name);
        catalogue.merge.sealed.vault = Some(key);
        catalogue
    }

    /// Creates the row of a sealed entry, or of its tombstone if `entry` is `None`. The row is
    /// opened if this node has the key.
    pub(super) fn sealed_row(
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
        let place = place(stamp.author, number, sealed_path);
        if sealed_path.is_empty() || self.merge.sealed.opaque.contains_key(&place) {
            return None;
        }
        let audience = self.merge.state.audiences.get(&(stamp.author, number))?;
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
        if self.is_of_another_seal(stamp.author, number, &path, sealed_path) {
            return None;
        }
        let dir = self.merge.dir_of(&path.parent().unwrap_or_default());
        let kept = seal(sealed_path, sealed.unwrap_or_default());
        let name = (dir, path.file_name());
        Some(match entry {
            Some(entry) => Row::entry_sealed(stamp, number, name, &entry, &kept),
            None => Row::removed_sealed(stamp, number, name, &kept),
        })
    }

    /// Returns whether a log already has this name under another sealed path. An honest author
    /// seals a name only once, and a node without the key would count two entries.
    fn is_of_another_seal(
        &self,
        author: NodeIndex,
        number: ShareIndex,
        path: &SharedPath,
        sealed_path: &[u8],
    ) -> bool {
        let Some(dir) = path
            .parent()
            .and_then(|parent| self.merge.state.find_dir(&parent))
        else {
            return false;
        };
        let known = self.merge.named_row(dir, path.file_name(), author, number);
        let Some(known) = known else { return false };
        let log = self.logs.get(&author);
        let is_current = log
            .and_then(|log| log.rows.get(known.sequence))
            .is_some_and(|row| row.is(&known));
        is_current && known.seal().is_none_or(|(path, _)| path != sealed_path)
    }

    /// Creates the row of a list of readers.
    pub(super) fn readers_row(stamp: Stamp, number: ShareIndex, list: ReaderList) -> Row {
        let list = postcard::to_stdvec(&list).expect("a list of readers always encodes");
        Row::opaque(stamp, Class::Readers, number, &[], &list)
    }

    /// Returns the wire form of an opaque row, or of a row that arrived sealed.
    pub(super) fn sealed_fact_of(row: &Row) -> Option<Fact> {
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

    /// Seals a fact about a name under a number. Returns `None` if the key of the number is not
    /// known.
    pub(super) fn sealed_form(&self, number: ShareIndex, fact: &Fact) -> Option<Fact> {
        let audience = self.merge.state.audiences.get(&(self.me, number))?;
        let key = audience.key.as_ref()?;
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

    /// Returns the number under which this node records the entries of a share. It is the share's
    /// own number if all nodes may read it.
    pub(super) fn number_of(&self, share: ShareIndex) -> ShareIndex {
        self.renumbering
            .numbers
            .get(&share)
            .copied()
            .unwrap_or(share)
    }

    /// Returns all numbers under which entries of a share may be recorded, the current one first.
    pub(super) fn numbers_of(&self, share: ShareIndex) -> Vec<ShareIndex> {
        let now = self.number_of(share);
        let audiences = &self.merge.state.audiences;
        let sealed = audiences.range((self.me, ShareIndex(0))..=(self.me, ShareIndex(u16::MAX)));
        let sealed = sealed.filter(|(_, audience)| audience.share == share);
        let earlier = sealed.map(|((_, number), _)| *number).chain([share]);
        let mut numbers = vec![now];
        numbers.extend(earlier.filter(|number| *number != now));
        numbers
    }

    /// Restores the current number of each share after a start: the number that was begun last.
    pub(super) fn restore_numbers(&mut self) {
        let audiences = self.merge.state.audiences.iter();
        let own = audiences.filter(|((author, _), _)| *author == self.me);
        let mut begun: Vec<(u64, ShareIndex, ShareIndex)> = own
            .filter_map(|((author, number), audience)| {
                let row = self
                    .merge
                    .sealed
                    .opaque
                    .get(&place(*author, *number, &[]))?;
                Some((row.sequence, audience.share, *number))
            })
            .collect();
        begun.sort_unstable();
        let numbers = begun.into_iter().map(|(_, share, number)| (share, number));
        self.renumbering.numbers = numbers.collect();
        self.renumbering.restating = (!self.renumbering.numbers.is_empty()).then_some(0);
    }

    /// Sets the readers of an own share: `readers` and this node, or all nodes if `readers` is
    /// `None`. Returns whether the list changed. [`Self::restate`] then restates all entries of the
    /// share.
    ///
    /// # Errors
    /// [`CatalogueError::TooManyReaders`] and [`CatalogueError::TooManyRecords`] at the limits.
    /// [`CatalogueError::BadFact`] if this node has no key to seal with. After an error no other
    /// node can read the share.
    pub fn set_readers(
        &mut self,
        share: ShareIndex,
        readers: Option<&BTreeSet<NodeId>>,
    ) -> Result<bool, CatalogueError> {
        let before = self.number_of(share);
        let known = self.merge.state.audiences.get(&(self.me, before));
        let number = match readers {
            None if !before.is_sealed() => return Ok(false),
            None => share,
            Some(readers) => {
                let mut readers = readers.clone();
                readers.insert(self.merge.state.node(self.me).id);
                // A node id that is not a valid key cannot read. Without it, the list may equal the
                // known list.
                readers.retain(has_key);
                if known.is_some_and(|known| known.readers == readers && known.key.is_some()) {
                    return Ok(false);
                }
                let begun = self.begin_number(share, readers);
                if begun.is_err() {
                    // No entry can be recorded under the number `LAST`, so [`Self::restate`]
                    // withdraws the existing entries.
                    self.renumbering.numbers.insert(share, LAST);
                    self.renumbering.restating = Some(0);
                }
                begun?
            }
        };
        self.renumbering.numbers.insert(share, number);
        self.renumbering.restating = Some(0);
        Ok(true)
    }

    fn begin_number(
        &mut self,
        share: ShareIndex,
        readers: BTreeSet<NodeId>,
    ) -> Result<ShareIndex, CatalogueError> {
        if readers.len() > READERS_MAX {
            return Err(CatalogueError::TooManyReaders);
        }
        let vault = self
            .merge
            .sealed
            .vault
            .clone()
            .ok_or(CatalogueError::BadFact)?;
        let number = self.fresh_number();
        let number = number.ok_or(CatalogueError::TooManyReaders)?;
        // No other list ever has the same purpose, so each list has its own key.
        let log = &self.logs[&self.me];
        let purpose = (log.epoch, log.sequence, number, &readers);
        let purpose = postcard::to_stdvec(&purpose).expect("a list of readers always encodes");
        let key = vault.share_key(&purpose);
        let salt = *blake3::hash(&purpose)
            .as_bytes()
            .first_chunk()
            .expect("16 of 32");
        let wrapped = readers.into_iter().filter_map(|node| {
            let key = vault.wrap(&key, &node, &about(number, &salt))?;
            Some(EntitledReader { node, key })
        });
        let readers = wrapped.collect();
        self.record(Fact::Readers {
            number,
            share,
            salt,
            readers,
        })?;
        Ok(number)
    }

    /// Returns whether [`Self::restate`] has work.
    pub fn is_restating(&self) -> bool {
        self.renumbering.restating.is_some()
    }

    /// Returns a number under which the own log has no row, not even a tombstone. An entry sealed
    /// for another list is therefore never taken for an entry of the new list.
    fn fresh_number(&self) -> Option<ShareIndex> {
        let rows = self.logs[&self.me].rows.after(0);
        let numbers = rows
            .map(|row| row.share)
            .filter(|number| number.is_sealed());
        let used: BTreeSet<ShareIndex> = numbers.collect();
        let after = used.last().map_or(0, |number| (number.0 + 1) & !FIRST);
        let all = (after..FIRST).chain(0..after);
        let mut free = all.map(|at| ShareIndex(at | FIRST));
        free.find(|number| *number != LAST && !used.contains(number))
    }

    /// Restates the next own entries under the current number of their share. Returns whether more
    /// are left.
    pub fn restate(&mut self) -> bool {
        let Some(after) = self.renumbering.restating else {
            return false;
        };
        let rows = self.logs[&self.me].rows.after(after);
        let rows: Vec<Row> = rows.take(RESTATE_STEP_RECORDS).cloned().collect();
        let Some(last) = rows.last().map(|row| row.sequence) else {
            self.withdraw_numbers();
            self.renumbering.restating = None;
            return false;
        };
        for row in rows {
            self.restate_row(&row);
        }
        self.renumbering.restating = Some(last);
        true
    }

    fn restate_row(&mut self, row: &Row) {
        let now = self.number_of(self.merge.state.share_of(row));
        let Some(entry) = row.to_entry().filter(|_| now != row.share) else {
            return;
        };
        let path = self.merge.state.path_of(row.dir, row.name());
        if self.own_entry_under(now, &path).is_none() {
            let again = Fact::Entry {
                share: now,
                path: path.clone(),
                entry,
            };
            let _over_the_budget = self.record(again);
        }
        let share = row.share;
        // An entry that could not be restated is withdrawn too. Otherwise nodes that are not
        // readers could see it.
        let _kept = self.record(Fact::Removed { share, path });
    }

    fn withdraw_numbers(&mut self) {
        let audiences = self.merge.state.audiences.iter();
        let own = audiences.filter(|((author, _), _)| *author == self.me);
        let stale = own.filter(|((_, number), audience)| self.number_of(audience.share) != *number);
        let stale: Vec<ShareIndex> = stale.map(|((_, number), _)| *number).collect();
        for number in stale {
            let path = bytes::Bytes::new();
            let _kept = self.record(Fact::SealedRemoved { number, path });
        }
    }
}

const FIRST: u16 = ShareIndex::FIRST_SEALED.0;
const LAST: ShareIndex = ShareIndex(u16::MAX);

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
