//! The readers of this node's shares.
//!
//! Entries for a share's readers are sealed under a number that has one fixed list of readers (see
//! `sealed`). A new list gets a new number. All entries of the share are *restated* under it, piece
//! by piece, and then the old number is withdrawn.

use std::collections::BTreeSet;

use super::CatalogueError;
use super::audience::key_context;
use super::own::OwnLog;
use super::row::Row;
use p2pfs_proto::trust::{ShareKey, has_key};
use p2pfs_proto::wire::native::record::{EntitledReader, Fact, READERS_MAX, ShareIndex};
use p2pfs_types::id::NodeId;

/// Own records examined in one step of a restatement. Each may be sealed, recorded again and
/// withdrawn.
const RESTATE_STEP_RECORDS: usize = 64;
const FIRST: u16 = ShareIndex::FIRST_SEALED.0;
const LAST: ShareIndex = ShareIndex(u16::MAX);

/// Changes the lists of readers of this node's shares.
/// [`Catalogue::reader_lists`](super::Catalogue::reader_lists) returns it.
pub struct ReaderLists<'a> {
    pub(super) log: OwnLog<'a>,
}

impl ReaderLists<'_> {
    /// Sets the readers of an own share: this node and the valid keys of `readers`, or all nodes if
    /// `readers` is `None`. Returns whether the list changed. [`Self::restate`] then restates all
    /// entries of the share.
    ///
    /// # Errors
    /// [`CatalogueError::TooManyReaders`], [`CatalogueError::TooManyRecords`] and
    /// [`CatalogueError::OverBudget`] at the limits. [`CatalogueError::BadFact`] if this node has
    /// no key to seal with. After an error [`Self::restate`] withdraws all entries of the share.
    pub fn set(
        &mut self,
        share: ShareIndex,
        readers: Option<&BTreeSet<NodeId>>,
    ) -> Result<bool, CatalogueError> {
        let before = self.log.state.number_of(share);
        let known = self
            .log
            .logs
            .merge
            .state()
            .audiences
            .get(&(self.log.logs.me, before));
        let number = match readers {
            None if !before.is_sealed() => return Ok(false),
            None => share,
            Some(readers) => {
                let mut readers = readers.clone();
                readers.insert(self.log.logs.merge.state().node(self.log.logs.me).id);
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
                    self.log.state.numbers.insert(share, LAST);
                    self.log.state.restating = Some(0);
                }
                begun?
            }
        };
        self.log.state.numbers.insert(share, number);
        self.log.state.restating = Some(0);
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
        let vault = self.log.logs.merge.sealed.vault.clone();
        let vault = vault.ok_or(CatalogueError::BadFact)?;
        let number = self.fresh_number();
        let number = number.ok_or(CatalogueError::TooManyReaders)?;
        // No other list ever has the same purpose, so each list has its own key.
        let log = self.log.logs.own_log();
        let purpose = (log.epoch, log.sequence, number, &readers);
        let purpose = postcard::to_stdvec(&purpose).expect("a list of readers always encodes");
        let key = ShareKey::derive(&vault, &purpose);
        let salt = *blake3::hash(&purpose)
            .as_bytes()
            .first_chunk()
            .expect("16 of 32");
        let wrapped = readers.into_iter().filter_map(|node| {
            let key = key.wrap(&vault, &node, &key_context(number, &salt))?;
            Some(EntitledReader { node, key })
        });
        let readers = wrapped.collect();
        self.log.record(Fact::Readers {
            number,
            share,
            salt,
            readers,
        })?;
        Ok(number)
    }

    /// Returns a number under which the own log has no row, not even a tombstone. Returns `None` if
    /// there is none. Under a used number, an entry sealed for an earlier list would count as an
    /// entry of the new list.
    fn fresh_number(&self) -> Option<ShareIndex> {
        let rows = self.log.logs.own_log().rows.after(0);
        let numbers = rows
            .map(|row| row.share)
            .filter(|number| number.is_sealed());
        let used: BTreeSet<ShareIndex> = numbers.collect();
        let after = used.last().map_or(0, |number| (number.0 + 1) & !FIRST);
        let all = (after..FIRST).chain(0..after);
        let mut free = all.map(|at| ShareIndex(at | FIRST));
        free.find(|number| *number != LAST && !used.contains(number))
    }

    /// Records the next own entries again, under the number of their share's present list of
    /// readers. Returns whether more are left.
    pub fn restate(&mut self) -> bool {
        let Some(after) = self.log.state.restating else {
            return false;
        };
        let rows = self.log.logs.own_log().rows.after(after);
        let rows: Vec<Row> = rows.take(RESTATE_STEP_RECORDS).cloned().collect();
        let Some(last) = rows.last().map(|row| row.sequence) else {
            self.withdraw_numbers();
            self.log.state.restating = None;
            return false;
        };
        for row in rows {
            self.restate_row(&row);
        }
        self.log.state.restating = Some(last);
        true
    }

    fn restate_row(&mut self, row: &Row) {
        let now = self
            .log
            .state
            .number_of(self.log.logs.merge.state().share_of(row));
        let Some(mut entry) = row.to_entry().filter(|_| now != row.share) else {
            return;
        };
        let path = self.log.logs.merge.state().path_of(row.dir, row.name());
        if !now.is_sealed() {
            self.log.drop_private(&mut entry.replaces);
        }
        if self.log.records().entry_under(now, &path).is_none() {
            let again = Fact::Entry {
                share: now,
                path: path.clone(),
                entry,
            };
            let _over_the_budget = self.log.record(again);
        }
        let share = row.share;
        // An entry that could not be restated is withdrawn too. Otherwise nodes that are not
        // readers could see it.
        let _kept = self.log.record(Fact::Removed { share, path });
    }

    fn withdraw_numbers(&mut self) {
        let audiences = self.log.logs.merge.state().audiences.iter();
        let own = audiences.filter(|((author, _), _)| *author == self.log.logs.me);
        let stale = own
            .filter(|((_, number), audience)| self.log.state.number_of(audience.share) != *number);
        let stale: Vec<ShareIndex> = stale.map(|((_, number), _)| *number).collect();
        for number in stale {
            let path = bytes::Bytes::new();
            let _kept = self.log.record(Fact::SealedRemoved { number, path });
        }
    }
}
