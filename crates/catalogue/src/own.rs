//! This node's own log: the records about its shares and its cache, and its head.

use std::collections::{BTreeMap, BTreeSet};

use super::budget::{Cost, cost_of_own};
use super::facts::check_in_clear;
use super::logs::NodeLogs;
use super::private;
use super::row::{Class, NO_SHARE, Row};
use super::unserved::{UnservedContents, UnservedMarks};
use super::{CatalogueError, HeadOutcome, OWN_RECOVERIES_MAX, RECORDS_PER_AUTHOR_MAX};
use p2pfs_proto::wire::native::link::link_stays_inside;
use p2pfs_proto::wire::native::record::{
    Entry, Fact, Head, KeepOffer, Kind, REPLACES_MAX, ShareIndex, SignedHead, Timestamp,
};
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::id::NodeName;
use p2pfs_types::path::SharedPath;

/// State of the own log besides its records.
#[derive(Default)]
pub(super) struct OwnState {
    /// Number of moves to a higher epoch in this run, since the last [`OwnLog::forget_recoveries`].
    recoveries: u32,
    /// For each share of this node that has or had readers, the number under which its entries are
    /// sealed now (see `sealed`).
    pub numbers: BTreeMap<ShareIndex, ShareIndex>,
    /// Sequence up to which the entries of the own log were recorded again under new numbers.
    /// `None` if nothing is left to restate.
    pub restating: Option<u64>,
}

impl OwnState {
    /// Returns the number under which this node records the entries of a share. It is the share's
    /// own number if all nodes may read it.
    pub(crate) fn number_of(&self, share: ShareIndex) -> ShareIndex {
        self.numbers.get(&share).copied().unwrap_or(share)
    }

    /// Restores the current number of each share after a start: the number with the newest list of
    /// readers.
    pub(crate) fn restore_numbers(&mut self, logs: &NodeLogs) {
        let audiences = logs.merge.state().audiences.iter();
        let own = audiences.filter(|((author, _), _)| *author == logs.me);
        let mut begun: Vec<(u64, ShareIndex, ShareIndex)> = own
            .filter_map(|((author, number), audience)| {
                let row = logs.merge.sealed.list_row(*author, *number)?;
                Some((row.sequence, audience.share, *number))
            })
            .collect();
        begun.sort_unstable();
        let numbers = begun.into_iter().map(|(_, share, number)| (share, number));
        self.numbers = numbers.collect();
        self.restating = (!self.numbers.is_empty()).then_some(0);
    }
}

/// Queries of the own log. [`Catalogue::own`](super::Catalogue::own) returns it.
#[derive(Clone, Copy)]
pub struct OwnRecords<'a> {
    pub(super) logs: &'a NodeLogs,
    pub(super) state: &'a OwnState,
}

impl<'a> OwnRecords<'a> {
    /// Returns this node's entry of a name in one of its shares.
    pub fn entry(self, share: ShareIndex, path: &SharedPath) -> Option<Entry> {
        let mut numbers = self.numbers_of(share).into_iter();
        numbers.find_map(|number| self.entry_under(number, path))
    }

    pub(super) fn entry_under(self, number: ShareIndex, path: &SharedPath) -> Option<Entry> {
        let dir = self.logs.merge.state().find_dir(&path.parent()?)?;
        self.logs
            .merge
            .state()
            .dir(dir)
            .row_of(path.file_name(), self.logs.me, number)
            .cloned()?
            .to_entry()
    }

    /// Returns all own entries of a share in the order of their records.
    pub fn entries(self, share: ShareIndex) -> impl Iterator<Item = (SharedPath, Entry)> + 'a {
        let rows = self.logs.own_log().rows.after(0);
        rows.filter(move |row| row.has_name() && self.logs.merge.state().share_of(row) == share)
            .filter_map(|row| {
                Some((
                    self.logs.merge.state().path_of(row.dir, row.name()),
                    row.to_entry()?,
                ))
            })
    }

    /// Returns all entries of all own shares.
    pub fn all_entries(self) -> impl Iterator<Item = (ShareIndex, SharedPath, Entry)> + 'a {
        let rows = self.logs.own_log().rows.after(0);
        rows.filter(|row| row.has_name()).filter_map(|row| {
            let path = self.logs.merge.state().path_of(row.dir, row.name());
            Some((self.logs.merge.state().share_of(row), path, row.to_entry()?))
        })
    }

    /// Returns the contents that the log lists as complete in the own cache, with their sizes in
    /// bytes.
    pub fn haves(self) -> impl Iterator<Item = (ContentHash, u64)> + 'a {
        let rows = self.logs.own_log().rows.after(0);
        let haves = rows.filter(|row| row.class == Class::Have);
        haves.map(|row| (row.hash(), row.size_bytes()))
    }

    /// Returns the current own head, for signing.
    pub fn head(self) -> Head {
        let log = self.logs.own_log();
        let node = self.logs.merge.state().node(self.logs.me);
        Head {
            author: node.id,
            name: node.name.clone().unwrap_or_else(|| NodeName::from_host("")),
            epoch: log.epoch,
            sequence: log.sequence,
            count: log.totals.count,
            floor: log.cleanup.floor,
            digest: log.totals.digest.digest(),
        }
    }

    /// Returns whether the own head changed since it was last signed.
    pub fn needs_signature(self) -> bool {
        let signed = self.logs.own_log().head.as_ref();
        signed.is_none_or(|signed| signed.head != self.head())
    }

    /// Returns whether [`OwnLog::recover`] may be called again.
    pub fn can_recover(self) -> bool {
        self.state.recoveries < OWN_RECOVERIES_MAX
    }

    /// Returns whether [`ReaderLists::restate`](super::ReaderLists::restate) has work.
    pub fn is_restating(self) -> bool {
        self.state.restating.is_some()
    }

    /// Returns whether [`OwnLog::review_haves`] has work.
    pub fn has_haves_to_review(self) -> bool {
        !self.logs.merge.sealed.haves_to_review.is_empty()
    }

    /// Returns all numbers under which entries of a share may be recorded, the current one first.
    fn numbers_of(self, share: ShareIndex) -> Vec<ShareIndex> {
        let now = self.state.number_of(share);
        let audiences = &self.logs.merge.state().audiences;
        let sealed =
            audiences.range((self.logs.me, ShareIndex(0))..=(self.logs.me, ShareIndex(u16::MAX)));
        let sealed = sealed.filter(|(_, audience)| audience.share == share);
        let earlier = sealed.map(|((_, number), _)| *number).chain([share]);
        let mut numbers = vec![now];
        numbers.extend(earlier.filter(|number| *number != now));
        numbers
    }

    /// Compares a received head of this node with the current one.
    pub(super) fn compare_head(self, head: &Head) -> HeadOutcome {
        let own = self.head();
        if head.rank() < own.rank() || *head == own {
            return HeadOutcome::Known;
        }
        let copied = head.rank() == own.rank() && head.digest != own.digest;
        if copied || !self.can_recover() {
            return HeadOutcome::CopiedKey {
                author: head.author,
            };
        }
        if head.rank() == own.rank() {
            return HeadOutcome::Known;
        }
        HeadOutcome::OwnStateLost { epoch: head.epoch }
    }
}

/// Changes the own log. [`Catalogue::own_mut`](super::Catalogue::own_mut) returns it.
pub struct OwnLog<'a> {
    pub(super) logs: &'a mut NodeLogs,
    pub(super) state: &'a mut OwnState,
    /// Maximum memory and number of directories that the own log may cost other nodes. They drop a
    /// log above it.
    pub(super) limit: Cost,
    pub(super) unserved: &'a mut UnservedMarks,
}

impl OwnLog<'_> {
    pub(super) fn records(&self) -> OwnRecords<'_> {
        OwnRecords {
            logs: self.logs,
            state: self.state,
        }
    }

    fn unserved(&mut self) -> UnservedContents<'_> {
        UnservedContents {
            marks: self.unserved,
            logs: self.logs,
        }
    }

    /// Records the current entry of a name in a share. Returns `false` if that entry was recorded
    /// already. If `entry` has no sender, the recorded sender of the same content at this name is
    /// kept.
    ///
    /// # Errors
    /// [`CatalogueError::BadFact`] for the root, for any other entry that a log may not hold, and
    /// if the share has readers but no key. [`CatalogueError::TooManyRecords`] and
    /// [`CatalogueError::OverBudget`] at the limits. After an error the log is unchanged.
    pub fn put(
        &mut self,
        share: ShareIndex,
        path: &SharedPath,
        mut entry: Entry,
    ) -> Result<bool, CatalogueError> {
        let known = self.records().entry(share, path);
        if let (None, Some(known)) = (&entry.sent_by, &known)
            && known.kind.is_same_file(&entry.kind)
        {
            // The bytes are the same, so the recorded sender is still right, even if it can no
            // longer be looked up.
            entry.sent_by.clone_from(&known.sent_by);
        }
        let number = self.state.number_of(share);
        if !number.is_sealed() {
            self.drop_private(&mut entry.replaces);
        }
        if self.records().entry_under(number, path).as_ref() == Some(&entry) {
            return Ok(false);
        }
        self.record(Fact::Entry {
            share: number,
            path: path.clone(),
            entry,
        })?;
        Ok(true)
    }

    /// Records that a name in a share is gone. Returns `false` if it was not there, or if the log
    /// is full.
    pub fn remove(&mut self, share: ShareIndex, path: &SharedPath) -> bool {
        let mut was_there = false;
        for number in self.records().numbers_of(share) {
            let known = self.records().entry_under(number, path).is_some();
            let (share, path) = (number, path.clone());
            was_there |= known && self.record(Fact::Removed { share, path }).is_ok();
        }
        was_there
    }

    /// Records that versions of a path with these contents are deleted, in addition to those of an
    /// earlier deletion of this node. The newest [`REPLACES_MAX`] contents are kept. The time of
    /// the deletion is `now`, or later if a version is newer, but never so late that the deletion
    /// waits for the clock. Returns whether the log changed. It does not change for contents that
    /// only some nodes may have, because a deletion counts in no share with readers.
    ///
    /// # Errors
    /// [`CatalogueError::OverBudget`] and [`CatalogueError::TooManyRecords`] at the limits.
    /// [`CatalogueError::BadFact`] for the root. After an error the log is unchanged.
    pub fn delete(
        &mut self,
        path: &SharedPath,
        mut replaces: Vec<ContentHash>,
        now: Timestamp,
    ) -> Result<bool, CatalogueError> {
        self.drop_private(&mut replaces);
        let state = self.logs.merge.state();
        let parent = path.parent().ok_or(CatalogueError::BadFact)?;
        if replaces.is_empty() {
            return Ok(false);
        }
        let mut time = now;
        if let Some(here) = state.find_dir(&parent).map(|dir| state.dir(dir)) {
            let name = path.file_name();
            let former = here.row_of(name, self.logs.me, NO_SHARE);
            let is_named = |row: &Row| row.content().is_some_and(|it| replaces.contains(&it));
            let named = here.candidates(name).filter(|row| is_named(row));
            let past = named.chain(former).filter(|row| !state.is_ahead(row));
            let newest = past.map(Row::version_time).max();
            time = newest.map_or(now, |newest| now.max(newest.next()));
            let former = former.into_iter().flat_map(Row::replaces);
            replaces.extend(former.copied().map(ContentHash::new));
        }
        time = state.horizon.map_or(time, |horizon| time.min(horizon));
        let mut seen = BTreeSet::new();
        replaces.retain(|hash| seen.insert(*hash));
        replaces.truncate(REPLACES_MAX);
        let path = path.clone();
        self.record(Fact::Gone {
            path,
            replaces,
            time,
        })?;
        Ok(true)
    }

    /// Withdraws the deletion of versions of a path with these contents by this node. Returns
    /// whether the log changed.
    ///
    /// # Errors
    /// Those of [`OwnLog::delete`].
    pub fn withdraw_deletion(
        &mut self,
        path: &SharedPath,
        contents: &[ContentHash],
    ) -> Result<bool, CatalogueError> {
        let state = self.logs.merge.state();
        let parent = path.parent().ok_or(CatalogueError::BadFact)?;
        let here = state.find_dir(&parent).map(|dir| state.dir(dir));
        let former = here.and_then(|here| here.row_of(path.file_name(), self.logs.me, NO_SHARE));
        let Some(former) = former else {
            return Ok(false);
        };
        let deleted = former.replaces().iter().copied().map(ContentHash::new);
        let replaces: Vec<ContentHash> = deleted.filter(|it| !contents.contains(it)).collect();
        if replaces.len() == former.replaces().len() {
            return Ok(false);
        }
        let (path, time) = (path.clone(), former.version_time());
        self.record(Fact::Gone {
            path,
            replaces,
            time,
        })?;
        Ok(true)
    }

    /// Records whether the replacements and deletions of other nodes count in a share of this node.
    /// Returns whether the log changed.
    ///
    /// # Errors
    /// [`CatalogueError::OverBudget`] and [`CatalogueError::TooManyRecords`] at the limits.
    pub fn set_open(&mut self, share: ShareIndex, open: bool) -> Result<bool, CatalogueError> {
        let terms = &self.logs.merge.state().terms;
        let known = terms.get(&(self.logs.me, share));
        if known.is_some_and(|row| row.class == Class::Open) == open {
            return Ok(false);
        }
        self.record(Fact::Terms { share, open })?;
        Ok(true)
    }

    /// Records the offer of this node to keep files. Returns whether the log changed.
    ///
    /// # Errors
    /// [`CatalogueError::BadFact`] for an offer beyond its limits. [`CatalogueError::OverBudget`]
    /// and [`CatalogueError::TooManyRecords`] at the limits.
    pub fn set_keep_offer(&mut self, offer: KeepOffer) -> Result<bool, CatalogueError> {
        let terms = &self.logs.merge.state().terms;
        let known = terms.get(&(self.logs.me, NO_SHARE));
        if known.map(Row::keep_offer).unwrap_or_default() == offer {
            return Ok(false);
        }
        self.record(Fact::Keeps(offer))?;
        Ok(true)
    }

    /// Removes the hashes of contents that only some nodes may have from a list that all nodes can
    /// read. With such a hash, every node could check a guess of the content.
    pub(super) fn drop_private(&self, hashes: &mut Vec<ContentHash>) {
        hashes.retain(|hash| !private::is_private(self.logs.merge.state(), *hash));
    }

    /// Records that the own cache holds a content completely. A private content is not announced,
    /// and an earlier announcement of it is withdrawn. Returns whether the log changed.
    ///
    /// # Errors
    /// [`CatalogueError::TooManyRecords`] and [`CatalogueError::OverBudget`] at the limits: other
    /// nodes then do not learn of the content.
    pub fn have(&mut self, hash: ContentHash, size_bytes: u64) -> Result<bool, CatalogueError> {
        self.unserved()
            .drop_mark(&ContentKey::new(hash, size_bytes));
        if private::is_private(self.logs.merge.state(), hash) {
            self.logs.merge.record_own_private(hash, Some(size_bytes));
            return Ok(self.withdraw_have(hash));
        }
        let known = self
            .logs
            .merge
            .state()
            .contents
            .cached_row(hash, self.logs.me);
        let is_known =
            known.is_some_and(|row| row.class == Class::Have && row.size_bytes() == size_bytes);
        if is_known {
            return Ok(false);
        }
        self.record(Fact::Have { hash, size_bytes })?;
        self.logs.merge.record_own_private(hash, None);
        Ok(true)
    }

    /// Records that the own cache no longer holds a content. Returns `false` if the log is
    /// unchanged.
    pub fn have_not(&mut self, hash: ContentHash) -> bool {
        self.logs.merge.record_own_private(hash, None);
        self.withdraw_have(hash)
    }

    fn withdraw_have(&mut self, hash: ContentHash) -> bool {
        let known = self
            .logs
            .merge
            .state()
            .contents
            .cached_row(hash, self.logs.me);
        let known = known.is_some_and(|row| row.class == Class::Have);
        known && self.record(Fact::HaveNot { hash }).is_ok()
    }

    /// Withdraws own links that a log may not hold. An earlier release of this program may have
    /// recorded some.
    pub fn withdraw_unsound_links(&mut self) {
        let is_unsound = |path: &SharedPath, entry: &Entry| match &entry.kind {
            Kind::Symlink { target } => !link_stays_inside(path, target),
            Kind::File { .. } | Kind::Directory => false,
        };
        let own = self.records().all_entries();
        let unsound = own.filter(|(_, path, entry)| is_unsound(path, entry));
        let places: Vec<_> = unsound.map(|(share, path, _)| (share, path)).collect();
        for (share, path) in places {
            self.remove(share, &path);
        }
    }

    /// Stores the signed own head, so that pulls can be answered. Returns `false` and stores
    /// nothing if it is not the current [`head`](OwnRecords::head).
    pub fn sign(&mut self, signed: SignedHead) -> bool {
        let current = signed.head == self.records().head();
        if current {
            self.logs.log_mut(self.logs.me).head = Some(signed);
        }
        current
    }

    /// Raises the epoch of the own log to `epoch` if nothing was ever recorded in the log.
    /// Otherwise the log continues unchanged. A node that lost its state may record as many facts
    /// as before, and so reach a sequence that it has signed already. The epoch distinguishes the
    /// two logs, provided that the caller takes a higher epoch from its clock at each start.
    pub fn begin(&mut self, epoch: u64) {
        let log = self.logs.log_mut(self.logs.me);
        if log.sequence == 0 {
            log.epoch = log.epoch.max(epoch);
        }
    }

    /// Resets the count of recoveries, after the node with a copy of this key is gone.
    pub fn forget_recoveries(&mut self) {
        self.state.recoveries = 0;
    }

    /// Continues the own log in an epoch above `epoch_heard` and above its own, without its
    /// tombstones. Other nodes then pull the whole log.
    pub fn recover(&mut self, epoch_heard: u64) {
        self.state.recoveries += 1;
        let me = self.logs.me;
        let log = self.logs.log_mut(me);
        log.epoch = log.epoch.max(epoch_heard) + 1;
        log.pending.state = true;
        let floor = log.sequence;
        self.logs.raise_floor(me, floor);
    }

    /// Withdraws the announcements of cached contents that became private, and announces those that
    /// stopped being private.
    ///
    /// # Errors
    /// The first error of [`Self::have`]. The remaining contents are reviewed nevertheless.
    pub fn review_haves(&mut self) -> Result<(), CatalogueError> {
        let mut reviewed = Ok(());
        for hash in std::mem::take(&mut self.logs.merge.sealed.haves_to_review) {
            let Some(size_bytes) = private::cached_size(self.logs.merge.state(), hash) else {
                continue;
            };
            reviewed = reviewed.and(self.have(hash, size_bytes).map(drop));
        }
        reviewed
    }

    /// Adds a fact to the own log. A fact about a name is sealed if its share number is one of a
    /// list of readers.
    pub(super) fn record(&mut self, fact: Fact) -> Result<(), CatalogueError> {
        check_in_clear(&fact)?;
        self.check_budget(&fact)?;
        if let Fact::Entry { entry, .. } = &fact
            && let Kind::File {
                hash, size_bytes, ..
            } = entry.kind
        {
            self.unserved()
                .drop_mark(&ContentKey::new(hash, size_bytes));
        }
        let fact = match &fact {
            Fact::Entry { share, .. } | Fact::Removed { share, .. } if share.is_sealed() => {
                let audiences = &self.logs.merge.state().audiences;
                let audience = audiences.get(&(self.logs.me, *share));
                let sealed = audience.and_then(|it| it.sealed_form(*share, &fact));
                sealed.ok_or(CatalogueError::BadFact)?
            }
            _ => fact,
        };
        let me = self.logs.me;
        let log = self.logs.log_mut(me);
        if log.rows.len() >= RECORDS_PER_AUTHOR_MAX {
            return Err(CatalogueError::TooManyRecords {
                count: log.rows.len() as u64,
            });
        }
        let sequence = log.sequence + 1;
        log.pending.state = true;
        self.logs.apply_record(me, sequence, &fact);
        if let Some(floor) = self.logs.own_log().floor_to_be() {
            self.logs.raise_floor(me, floor);
        }
        Ok(())
    }

    /// Checks that this node may add a fact to its own log. A removal is always allowed.
    fn check_budget(&self, fact: &Fact) -> Result<(), CatalogueError> {
        let Some(more) = cost_of_own(fact) else {
            return Ok(());
        };
        let cost = self.logs.merge.costs.of(self.logs.me).plus(more);
        if cost.is_over(self.limit) {
            Err(CatalogueError::OverBudget)
        } else {
            Ok(())
        }
    }
}
