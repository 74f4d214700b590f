//! This node's own log: the records about its shares and its cache, and its head.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::budget::{Budgets, DroppedLogs};
use super::facts::check_in_clear;
use super::log::{Log, LogPull};
use super::merge::Merge;
use super::row::{Class, NodeIndex};
use super::view::View;
use super::{
    Catalogue, CatalogueError, Change, Forgetting, OWN_RECOVERIES_MAX, RECORDS_PER_AUTHOR_MAX,
    ShareNumbers,
};
use p2pfs_proto::wire::native::link::link_stays_inside;
use p2pfs_proto::wire::native::record::{Entry, Fact, Head, Kind, ShareIndex, SignedHead};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::{NodeId, NodeName};
use p2pfs_types::path::SharedPath;

impl Catalogue {
    /// Creates an empty catalogue of a node.
    pub fn new(me: NodeId, name: NodeName) -> Self {
        let merge = Merge::new(me, name);
        let published = Arc::new(View {
            merged: merge.state.clone(),
            number: 0,
        });
        let index = NodeIndex(0);
        let own = Log {
            epoch: 1,
            pull: LogPull {
                complete: true,
                ..LogPull::default()
            },
            ..Log::default()
        };
        Self {
            me: index,
            indexes: HashMap::from([(me, index)]),
            logs: BTreeMap::from([(index, own)]),
            merge,
            recoveries: 0,
            published,
            forgetting: Forgetting::default(),
            budgets: Budgets::default(),
            dropped_logs: DroppedLogs::default(),
            renumbering: ShareNumbers::default(),
            intakes: super::intake::Intakes::default(),
            unserved: super::unserved::UnservedMarks::default(),
        }
    }

    /// Records the current entry of a name in a share. Returns `false` if that entry was recorded
    /// already. The sender of a file is kept while the bytes are the same.
    ///
    /// # Errors
    /// [`CatalogueError::BadFact`] for the root, and for any other entry that a log may not hold.
    /// [`CatalogueError::TooManyRecords`] and [`CatalogueError::OverBudget`] at the limits: the
    /// name is then not shared.
    pub fn put(
        &mut self,
        share: ShareIndex,
        path: &SharedPath,
        mut entry: Entry,
    ) -> Result<bool, CatalogueError> {
        let known = self.own_entry(share, path);
        if let (None, Some(known)) = (&entry.sent_by, &known)
            && known.kind.is_same_file(&entry.kind)
        {
            // The sender of these bytes is still correct, even if it can no longer be queried.
            entry.sent_by.clone_from(&known.sent_by);
        }
        let number = self.number_of(share);
        if self.own_entry_under(number, path).as_ref() == Some(&entry) {
            return Ok(false);
        }
        self.record(Fact::Entry {
            share: number,
            path: path.clone(),
            entry,
        })?;
        Ok(true)
    }

    /// Records that a name in a share is gone. Returns `false` if it was not there.
    pub fn remove(&mut self, share: ShareIndex, path: &SharedPath) -> bool {
        let mut was_there = false;
        for number in self.numbers_of(share) {
            let known = self.own_entry_under(number, path).is_some();
            let (share, path) = (number, path.clone());
            was_there |= known && self.record(Fact::Removed { share, path }).is_ok();
        }
        was_there
    }

    /// Records that the own cache holds a content completely. A private content is not announced,
    /// and an earlier announcement of it is withdrawn. Returns whether the log changed.
    ///
    /// # Errors
    /// [`CatalogueError::TooManyRecords`] and [`CatalogueError::OverBudget`] at the limits: other
    /// nodes then do not learn of the content.
    pub fn have(&mut self, hash: ContentHash, size_bytes: u64) -> Result<bool, CatalogueError> {
        self.drop_mark(hash);
        if self.is_private(&hash) {
            self.merge.record_own_private(hash, Some(size_bytes));
            return Ok(self.withdraw_have(hash));
        }
        let known = self.merge.cached_row(hash, self.me);
        let is_known =
            known.is_some_and(|row| row.class == Class::Have && row.size_bytes() == size_bytes);
        if is_known {
            return Ok(false);
        }
        self.record(Fact::Have { hash, size_bytes })?;
        self.merge.record_own_private(hash, None);
        Ok(true)
    }

    /// Records that the own cache no longer holds a content. Returns `false` if the log did not
    /// state it.
    pub fn have_not(&mut self, hash: ContentHash) -> bool {
        self.merge.record_own_private(hash, None);
        self.withdraw_have(hash)
    }

    fn withdraw_have(&mut self, hash: ContentHash) -> bool {
        let known = self.merge.cached_row(hash, self.me);
        let known = known.is_some_and(|row| row.class == Class::Have);
        known && self.record(Fact::HaveNot { hash }).is_ok()
    }

    /// Returns this node's entry of a name in one of its shares.
    pub fn own_entry(&self, share: ShareIndex, path: &SharedPath) -> Option<Entry> {
        let mut numbers = self.numbers_of(share).into_iter();
        numbers.find_map(|number| self.own_entry_under(number, path))
    }

    pub(super) fn own_entry_under(&self, number: ShareIndex, path: &SharedPath) -> Option<Entry> {
        let dir = self.merge.state.find_dir(&path.parent()?)?;
        self.merge
            .named_row(dir, path.file_name(), self.me, number)?
            .to_entry()
    }

    /// Returns all own entries of a share in the order of their records. The owner compares a scan
    /// of the share with them.
    pub fn own_entries(&self, share: ShareIndex) -> impl Iterator<Item = (SharedPath, Entry)> + '_ {
        let rows = self.logs[&self.me].rows.after(0);
        rows.filter(move |row| row.has_name() && self.merge.state.share_of(row) == share)
            .filter_map(|row| {
                Some((
                    self.merge.state.path_of(row.dir, row.name()),
                    row.to_entry()?,
                ))
            })
    }

    /// Withdraws own links that a log may not hold. An earlier release of this program may have
    /// recorded some. The next scan records them again in a form that other nodes accept.
    pub fn withdraw_unsound_links(&mut self) {
        let is_unsound = |path: &SharedPath, entry: &Entry| match &entry.kind {
            Kind::Symlink { target } => !link_stays_inside(path, target),
            Kind::File { .. } | Kind::Directory => false,
        };
        let own = self.all_own_entries();
        let unsound = own.filter(|(_, path, entry)| is_unsound(path, entry));
        let places: Vec<_> = unsound.map(|(share, path, _)| (share, path)).collect();
        for (share, path) in places {
            self.remove(share, &path);
        }
    }

    /// Returns all entries of all own shares.
    pub fn all_own_entries(&self) -> impl Iterator<Item = (ShareIndex, SharedPath, Entry)> + '_ {
        let rows = self.logs[&self.me].rows.after(0);
        rows.filter(|row| row.has_name()).filter_map(|row| {
            let path = self.merge.state.path_of(row.dir, row.name());
            Some((self.merge.state.share_of(row), path, row.to_entry()?))
        })
    }

    /// Returns the contents that the log lists as complete in the own cache, with their sizes in
    /// bytes.
    pub fn own_haves(&self) -> impl Iterator<Item = (ContentHash, u64)> + '_ {
        let rows = self.logs[&self.me].rows.after(0);
        let haves = rows.filter(|row| row.class == Class::Have);
        haves.map(|row| (row.hash(), row.size_bytes()))
    }

    /// Returns the current own head, for signing.
    pub fn own_head(&self) -> Head {
        let log = &self.logs[&self.me];
        let node = self.merge.state.node(self.me);
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

    /// Stores the signed own head, so that pulls can be answered. Returns `false` and stores
    /// nothing if it is not the current [`own_head`](Self::own_head).
    pub fn sign_own(&mut self, signed: SignedHead) -> bool {
        let current = signed.head == self.own_head();
        if current {
            self.log_mut(self.me).head = Some(signed);
        }
        current
    }

    /// Returns whether the own head changed since it was last signed.
    pub fn needs_signature(&self) -> bool {
        let signed = self.logs[&self.me].head.as_ref();
        signed.is_none_or(|signed| signed.head != self.own_head())
    }

    /// Sets the epoch of the own log if the log has no records. Otherwise the log continues
    /// unchanged. A node that lost its state may record as many facts as before, and so reach a
    /// sequence that it has signed already. The epoch distinguishes the two logs, provided that the
    /// caller takes a higher epoch from its clock at each start.
    pub fn begin_own(&mut self, epoch: u64) {
        let log = self.log_mut(self.me);
        if log.sequence == 0 {
            log.epoch = log.epoch.max(epoch);
        }
    }

    /// Returns whether [`recover_own`](Self::recover_own) may be called again.
    pub fn can_recover(&self) -> bool {
        self.recoveries < OWN_RECOVERIES_MAX
    }

    /// Resets the count of recoveries, after the node with a copy of this key is gone.
    pub fn forget_recoveries(&mut self) {
        self.recoveries = 0;
    }

    /// Continues the own log above an own epoch that this node no longer remembers. Everything is
    /// published again.
    pub fn recover_own(&mut self, epoch_heard: u64) {
        self.recoveries += 1;
        let me = self.me;
        let log = self.log_mut(me);
        log.epoch = log.epoch.max(epoch_heard) + 1;
        log.pending.state = true;
        let floor = log.sequence;
        self.raise_floor(me, floor);
    }

    /// Returns the current namespace. This is cheap: only the parts that changed since the last
    /// view are copied.
    pub fn view(&mut self) -> Arc<View> {
        self.merge.finish_batch();
        if std::mem::take(&mut self.merge.dirty) {
            self.published = Arc::new(View {
                merged: self.merge.state.clone(),
                number: self.published.number + 1,
            });
        }
        self.published.clone()
    }

    /// Returns whether [`view`](Self::view) would return another view than the last one.
    pub fn is_dirty(&self) -> bool {
        self.merge.dirty
    }

    /// Returns the next change, each once. Call it until it returns `None`, after taking the
    /// [`view`](Self::view) that shows the changes.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.merge.changes.poll()
    }

    /// Adds a fact to the own log. A fact about a name is sealed if its share number is one of a
    /// list of readers.
    pub(super) fn record(&mut self, fact: Fact) -> Result<(), CatalogueError> {
        check_in_clear(&fact)?;
        self.check_own_budget(&fact)?;
        if let Fact::Entry { entry, .. } = &fact
            && let Kind::File { hash, .. } = entry.kind
        {
            self.drop_mark(hash);
        }
        let fact = match &fact {
            Fact::Entry { share, .. } | Fact::Removed { share, .. } if share.is_sealed() => {
                let sealed = self.sealed_form(*share, &fact);
                sealed.ok_or(CatalogueError::BadFact)?
            }
            _ => fact,
        };
        let me = self.me;
        let log = self.log_mut(me);
        if log.rows.len() >= RECORDS_PER_AUTHOR_MAX {
            return Err(CatalogueError::TooManyRecords {
                count: log.rows.len() as u64,
            });
        }
        let sequence = log.sequence + 1;
        log.pending.state = true;
        self.apply_record(me, sequence, &fact);
        if let Some(floor) = self.logs[&me].floor_to_be() {
            self.raise_floor(me, floor);
        }
        Ok(())
    }
}
