//! This node's own log: what it says about its shares and its cache, and what it signs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::budget::{Budgets, GivenWay};
use super::facts::check_in_clear;
use super::log::Log;
use super::merge::Merge;
use super::row::{Class, NodeIndex};
use super::view::View;
use super::{Catalogue, CatalogueError, Change, OWN_RECOVERIES_MAX, RECORDS_PER_AUTHOR_MAX};
use p2pfs_proto::wire::native::link::link_stays_inside;
use p2pfs_proto::wire::native::record::{Entry, Fact, Head, Kind, ShareIndex, SignedHead};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::{NodeId, NodeName};
use p2pfs_types::path::SharedPath;

impl Catalogue {
    /// An empty catalogue of a node.
    pub fn new(me: NodeId, name: NodeName) -> Self {
        let merge = Merge::new(me, name);
        let published = Arc::new(View {
            merged: merge.state.clone(),
            number: 0,
        });
        let index = NodeIndex(0);
        let own = Log {
            epoch: 1,
            complete: true,
            ..Log::default()
        };
        Self {
            me: index,
            indexes: HashMap::from([(me, index)]),
            logs: BTreeMap::from([(index, own)]),
            merge,
            recoveries: 0,
            published,
            forgotten: Vec::new(),
            forgotten_to: BTreeMap::new(),
            budgets: Budgets::default(),
            given_way: GivenWay::default(),
            numbers: BTreeMap::new(),
            restating: None,
            intakes: super::intake::Intakes::default(),
        }
    }

    /// Says that a name in a share is this now. False where that was known already. The sender of a
    /// file stays known while its bytes are the same.
    ///
    /// # Errors
    /// [`CatalogueError::BadFact`] for the root, [`CatalogueError::TooManyRecords`] at the limit:
    /// the name is then not shared.
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
            // who sent these bytes stays true, also where nobody can be asked any more
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

    /// Says that a name in a share is gone. False where it was not there.
    pub fn remove(&mut self, share: ShareIndex, path: &SharedPath) -> bool {
        let mut was_there = false;
        for number in self.numbers_of(share) {
            let known = self.own_entry_under(number, path).is_some();
            let (share, path) = (number, path.clone());
            was_there |= known && self.record(Fact::Removed { share, path }).is_ok();
        }
        was_there
    }

    /// Says that the own cache holds a content complete; where it is for some nodes alone, nothing
    /// of it, and takes back what was said. Whether the log says something else now.
    ///
    /// # Errors
    /// [`CatalogueError::TooManyRecords`] at the limit: others then do not learn of it.
    pub fn have(&mut self, hash: ContentHash, size_bytes: u64) -> Result<bool, CatalogueError> {
        if self.is_private(&hash) {
            self.merge.keep(hash, Some(size_bytes));
            return Ok(self.take_back_have(hash));
        }
        let known = self.merge.cached_row(hash, self.me);
        let is_known =
            known.is_some_and(|row| row.class == Class::Have && row.size_bytes() == size_bytes);
        if is_known {
            return Ok(false);
        }
        self.record(Fact::Have { hash, size_bytes })?;
        self.merge.keep(hash, None);
        Ok(true)
    }

    /// Says that the own cache holds a content no more. False where it did not.
    pub fn have_not(&mut self, hash: ContentHash) -> bool {
        self.merge.keep(hash, None);
        self.take_back_have(hash)
    }

    fn take_back_have(&mut self, hash: ContentHash) -> bool {
        let known = self.merge.cached_row(hash, self.me);
        let known = known.is_some_and(|row| row.class == Class::Have);
        known && self.record(Fact::HaveNot { hash }).is_ok()
    }

    /// What this node says of a name in one of its shares.
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

    /// All that this node says of a share, in the order it was said: what a scan is compared with.
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

    /// Takes back what this node says of links that no log may hold, as one of an earlier version
    /// may: the next scan says them again in a form that others take.
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

    /// All that this node says of all its shares.
    pub fn all_own_entries(&self) -> impl Iterator<Item = (ShareIndex, SharedPath, Entry)> + '_ {
        let rows = self.logs[&self.me].rows.after(0);
        rows.filter(|row| row.has_name()).filter_map(|row| {
            let path = self.merge.state.path_of(row.dir, row.name());
            Some((self.merge.state.share_of(row), path, row.to_entry()?))
        })
    }

    /// The contents that this node says its cache holds complete.
    pub fn own_haves(&self) -> impl Iterator<Item = (ContentHash, u64)> + '_ {
        let rows = self.logs[&self.me].rows.after(0);
        let haves = rows.filter(|row| row.class == Class::Have);
        haves.map(|row| (row.hash(), row.size_bytes()))
    }

    /// The own head as it is now, to be signed.
    pub fn own_head(&self) -> Head {
        let log = &self.logs[&self.me];
        let node = self.merge.state.node(self.me);
        Head {
            author: node.id,
            name: node.name.clone().unwrap_or_else(|| NodeName::from_host("")),
            epoch: log.epoch,
            sequence: log.sequence,
            count: log.count,
            floor: log.floor,
            digest: log.digest.digest(),
        }
    }

    /// Keeps the signature of the own head, so that others' pulls can be answered. False where it
    /// is not of [`own_head`](Self::own_head) as it is now; nothing was kept then.
    pub fn sign_own(&mut self, signed: SignedHead) -> bool {
        let current = signed.head == self.own_head();
        if current {
            self.log_mut(self.me).head = Some(signed);
        }
        current
    }

    /// Whether the own head changed since it was signed last.
    pub fn needs_signature(&self) -> bool {
        let signed = self.logs[&self.me].head.as_ref();
        signed.is_none_or(|signed| signed.head != self.own_head())
    }

    /// Begins a log that has said nothing yet in this life; one that has goes on as it is. A node
    /// that lost its state, and says as much again as before, then never gives two different
    /// logs one number, if its lives are told apart by the clock.
    pub fn begin_own(&mut self, epoch: u64) {
        let log = self.log_mut(self.me);
        if log.sequence == 0 {
            log.epoch = log.epoch.max(epoch);
        }
    }

    /// Whether [`recover_own`](Self::recover_own) may be tried once more.
    pub fn can_recover(&self) -> bool {
        self.recoveries < OWN_RECOVERIES_MAX
    }

    /// May be tried again as often as at first: who else had our key is gone.
    pub fn forget_recoveries(&mut self) {
        self.recoveries = 0;
    }

    /// Goes on above an epoch of our own that we do not remember; everything is published anew.
    pub fn recover_own(&mut self, epoch_heard: u64) {
        self.recoveries += 1;
        let me = self.me;
        let log = self.log_mut(me);
        log.epoch = log.epoch.max(epoch_heard) + 1;
        log.pending.state = true;
        let floor = log.sequence;
        self.raise_floor(me, floor);
    }

    /// The namespace as it is now. Cheap: only what changed since the last view was copied.
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

    /// Whether [`view`](Self::view) would show something that the last one does not.
    pub fn is_dirty(&self) -> bool {
        self.merge.dirty
    }

    /// The next thing that changed; ask until there is none, after having taken the
    /// [`view`](Self::view) that shows it. Each is told once.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.merge.changes.poll()
    }

    /// Says one more thing; of a name, under the number that it gives.
    pub(super) fn record(&mut self, fact: Fact) -> Result<(), CatalogueError> {
        check_in_clear(&fact)?;
        self.check_own_budget(&fact)?;
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
        self.take_record(me, sequence, &fact);
        if let Some(floor) = self.logs[&me].floor_to_be() {
            self.raise_floor(me, floor);
        }
        Ok(())
    }
}
