//! The interface of the catalogue. Its owner gets a handle for each subject from it: the own log,
//! received logs, storage.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

#[cfg(any(test, feature = "test-support"))]
use super::budget::Budgets;
use super::budget::{Dropped, LogBudget};
use super::change::Change;
use super::intake::{IntakeQueue, LogIntake};
use super::logs::NodeLogs;
use super::merged::Owners;
use super::own::{OwnLog, OwnRecords, OwnState};
use super::own_readers::ReaderLists;
use super::owners;
use super::private;
use super::row::NodeIndex;
use super::unserved::{UnservedContents, UnservedMarks};
use super::view::View;
use super::writes::CatalogueStorage;
use super::{CatalogueError, EARLY_TOLERANCE_SECONDS, HeadOutcome, RECORDS_PER_AUTHOR_MAX};
use p2pfs_proto::trust::NodeKey;
use p2pfs_proto::wire::native::record::{Head, SignedHead, Timestamp};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::{NodeId, NodeName};

/// The logs of all nodes and their merge. One thread owns it. Any thread may read its views.
pub struct Catalogue {
    pub(super) logs: NodeLogs,
    own: OwnState,
    pub(super) queue: IntakeQueue,
    budget: LogBudget,
    unserved: UnservedMarks,
    published: Arc<View>,
}

impl Catalogue {
    /// Creates an empty catalogue of a node.
    pub fn new(me: NodeId, name: NodeName) -> Self {
        let logs = NodeLogs::new(me, name);
        let published = Arc::new(View {
            merged: logs.merge.state().clone(),
            number: 0,
        });
        Self {
            logs,
            own: OwnState::default(),
            queue: IntakeQueue::default(),
            budget: LogBudget::default(),
            unserved: UnservedMarks::default(),
            published,
        }
    }

    /// Creates an empty catalogue of the node with this key. The catalogue opens records sealed for
    /// the node.
    pub fn of_key(key: Arc<NodeKey>, name: NodeName) -> Self {
        let mut catalogue = Self::new(key.node_id(), name);
        catalogue.logs.merge.sealed.vault = Some(key);
        catalogue
    }

    /// Returns the logs of all nodes, which answer the pulls of other nodes.
    pub fn logs(&self) -> &NodeLogs {
        &self.logs
    }

    /// Returns the queries of the own log.
    pub fn own(&self) -> OwnRecords<'_> {
        OwnRecords {
            logs: &self.logs,
            state: &self.own,
        }
    }

    /// Returns the handle that changes the own log.
    pub fn own_mut(&mut self) -> OwnLog<'_> {
        OwnLog {
            logs: &mut self.logs,
            state: &mut self.own,
            limit: self.budget.limits.author,
            unserved: &mut self.unserved,
        }
    }

    /// Returns the handle that changes the readers of this node's shares.
    pub fn reader_lists(&mut self) -> ReaderLists<'_> {
        ReaderLists {
            log: self.own_mut(),
        }
    }

    /// Returns the handle that applies received parts of logs.
    pub fn intake(&mut self) -> LogIntake<'_> {
        LogIntake {
            logs: &mut self.logs,
            queue: &mut self.queue,
            budget: &mut self.budget,
        }
    }

    /// Returns the queue of received parts of logs.
    pub fn intake_queue(&self) -> &IntakeQueue {
        &self.queue
    }

    /// Returns the handle that stores and restores the catalogue.
    pub fn storage(&mut self) -> CatalogueStorage<'_> {
        CatalogueStorage {
            logs: &mut self.logs,
            queue: &mut self.queue,
            budget: &mut self.budget,
            own: &mut self.own,
        }
    }

    /// Returns the handle that ranks unserved contents behind others.
    pub fn unserved(&mut self) -> UnservedContents<'_> {
        UnservedContents {
            marks: &mut self.unserved,
            logs: &mut self.logs,
        }
    }

    /// Returns when the next mark of an unserved content expires.
    pub fn next_unserved_expiry(&self) -> Option<Instant> {
        self.unserved.next_expiry()
    }

    /// Processes a head from its author. The caller has checked its signature. The node has the name
    /// in its head from now on, even if no node gives its log.
    pub fn handle_head(&mut self, signed: &SignedHead) -> HeadOutcome {
        self.handle_told_head(signed, signed.head.author)
    }

    /// Processes a head that the member `teller` sent, as [`handle_head`](Self::handle_head) does.
    pub fn handle_told_head(&mut self, signed: &SignedHead, teller: NodeId) -> HeadOutcome {
        let head = &signed.head;
        if head.count > RECORDS_PER_AUTHOR_MAX as u64 {
            return HeadOutcome::Refused(CatalogueError::TooManyRecords { count: head.count });
        }
        if self.logs.forgotten.refuses(head) {
            return HeadOutcome::Known;
        }
        match self.logs.admit_told(head.author, teller) {
            Ok(index) if index == self.logs.me => self.own().compare_head(head),
            Ok(index) => {
                let outcome = self.logs.log_mut(index).compare_head(head);
                if matches!(outcome, HeadOutcome::Pull(_)) {
                    self.logs.merge.node_names().set(index, &head.name);
                }
                outcome
            }
            Err(error) => HeadOutcome::Refused(error),
        }
    }

    /// Sets whether a node is live. This node itself is always live. About
    /// [`SWEEP_STEP_RECORDS`](super::SWEEP_STEP_RECORDS) of the node's records are processed at
    /// once, after those that the node's previous change has left. [`advance`](Self::advance)
    /// processes the rest.
    ///
    /// If the table of nodes is full, a live node displaces one that is not live.
    ///
    /// # Errors
    /// [`CatalogueError::TooManyNodes`] if all known nodes are live and this one is not known.
    pub fn set_live(&mut self, node: NodeId, live: bool) -> Result<(), CatalogueError> {
        let Some(index) = self.admit_with_liveness(node, live)? else {
            return Ok(());
        };
        if live {
            self.logs.forgotten.refused_to.remove(&node);
        }
        if index != self.logs.me && self.logs.merge.state().node(index).live != live {
            self.logs.set_live(index, live);
        }
        if live {
            self.unserved().blame_returned(&node);
        }
        Ok(())
    }

    /// Returns the index of a node, and assigns one to a live node.
    fn admit_with_liveness(
        &mut self,
        node: NodeId,
        live: bool,
    ) -> Result<Option<NodeIndex>, CatalogueError> {
        if !live {
            return Ok(self.logs.index_of(&node));
        }
        match self.logs.admit(node) {
            Err(CatalogueError::TooManyNodes) => {
                let displaced = self.logs.displaced_node();
                let displaced = displaced.ok_or(CatalogueError::TooManyNodes)?;
                self.forget(&displaced);
                while self.logs.index_of(&displaced).is_some() && self.logs.advance_step() {}
                self.logs.admit(node).map(Some)
            }
            admitted => admitted.map(Some),
        }
    }

    /// Forgets a node and its log. All of it is unlisted once [`advance`](Self::advance) returns
    /// `false`.
    pub fn forget(&mut self, node: &NodeId) {
        let index = self.logs.index_of(node);
        let Some(index) = index.filter(|index| *index != self.logs.me) else {
            return;
        };
        let log = self.logs.discard(index);
        log.pull.wanted = None;
        log.forgotten = true;
        self.queue.cancel(index);
        self.logs.advance_step();
    }

    /// Forgets a node as [`forget`](Self::forget) does, and refuses its heads up to the newest one
    /// received so far. Its log can be applied again once the node is live or has a newer head.
    pub fn forget_until_back(&mut self, node: &NodeId) {
        let index = self.logs.index_of(node);
        let index = index.filter(|index| *index != self.logs.me);
        let log = index.and_then(|index| self.logs.logs.get(&index));
        let verified = log
            .and_then(|log| log.head.as_ref())
            .map(|it| it.head.rank());
        let wanted = log.and_then(|log| log.pull.wanted.as_ref()).map(Head::rank);
        if let Some(rank) = verified.max(wanted) {
            self.logs.forgotten.refuse_to(*node, rank);
        }
        self.forget(node);
    }

    /// Processes up to about `limit` of the remaining records and of the directories that are
    /// removed with them. Returns whether more are left. Call it between other work until it
    /// returns `false`, and take a view now and then.
    pub fn advance(&mut self, limit: usize) -> bool {
        self.logs.advance(limit)
    }

    /// Sets the clock, in seconds since 1970. Versions more than [`EARLY_TOLERANCE_SECONDS`] ahead
    /// of it are not listed. A clock that goes back has no effect.
    pub fn set_clock(&mut self, now_seconds: i64) {
        let horizon = Timestamp {
            seconds: now_seconds.saturating_add(EARLY_TOLERANCE_SECONDS),
            nanoseconds: 0,
        };
        let before = self.logs.merge.state().horizon;
        if before.is_some_and(|before| before >= horizon) {
            return;
        }
        self.logs.merge.tracked.state.horizon = Some(horizon);
        match before {
            None => self.logs.hide_early(),
            Some(_) => {
                self.logs.merge.settler().settle_due(horizon);
                self.logs.merge.node_names().apply_waiting();
            }
        }
    }

    /// Returns whether versions of files or links wait for their time. Waiting directory times do
    /// not count.
    pub fn has_early_versions(&self) -> bool {
        self.logs.merge.settling.early.has_versions()
    }

    /// Returns the next author of versions dated more than [`EARLY_TOLERANCE_SECONDS`] ahead of the
    /// clock that was not returned yet, and by how many seconds the latest of them is ahead.
    pub fn poll_dated_ahead(&mut self) -> Option<(NodeId, u64)> {
        let merge = &mut self.logs.merge;
        let (index, latest) = merge.settling.dated_ahead.pop_first()?;
        let beyond_s = latest
            .seconds
            .saturating_sub(merge.state().horizon?.seconds);
        let ahead_s = beyond_s.saturating_add(EARLY_TOLERANCE_SECONDS);
        // The node may have been forgotten in the meantime.
        let node = merge.state().nodes.get(usize::from(index.0))?;
        node.as_ref()
            .map(|node| (node.id, ahead_s.max(0).cast_unsigned()))
    }

    /// Replaces the owners of paths. A first step of the affected rows is settled at once, and
    /// [`Catalogue::advance`] settles the rest.
    pub fn set_owners(&mut self, owners: Owners) {
        owners::set_owners(&mut self.logs.merge.settler(), owners);
    }

    /// Sets the names that the cluster has given to its nodes. Each of them replaces the name that
    /// the node gives itself, so that all parts of the program show one name.
    pub fn set_certified_names(&mut self, names: BTreeMap<NodeId, NodeName>) {
        self.logs.merge.node_names().set_certified(names);
    }

    /// Returns the current namespace, after it computes the outdated conflict names and directory
    /// times. The view shares its parts with the catalogue, so the copy itself is cheap.
    pub fn view(&mut self) -> Arc<View> {
        let merge = &mut self.logs.merge;
        merge.finish_batch();
        if std::mem::take(&mut merge.tracked.dirty) {
            self.published = Arc::new(View {
                merged: merge.state().clone(),
                number: self.published.number + 1,
            });
        }
        self.published.clone()
    }

    /// Returns whether [`view`](Self::view) would return another view than the last one.
    pub fn is_dirty(&self) -> bool {
        self.logs.merge.tracked.dirty
    }

    /// Returns the next change, each once. Call it until it returns `None`, after taking the
    /// [`view`](Self::view) that shows the changes.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.logs.merge.tracked.changes.poll()
    }

    /// Returns the next dropped log that was not returned yet.
    pub fn poll_dropped(&mut self) -> Option<Dropped> {
        self.budget.poll_dropped()
    }

    /// Replaces the limits of [`Budgets::default`].
    #[cfg(any(test, feature = "test-support"))]
    pub fn set_budgets(&mut self, budgets: Budgets) {
        self.budget.limits = budgets;
    }

    /// Returns whether this node gives a content to some nodes only, or to none.
    pub fn is_private(&self, hash: &ContentHash) -> bool {
        private::is_private(self.logs.merge.state(), *hash)
    }

    /// Returns the readers of the shares in which a private content has a name, including this
    /// node. Returns none if it has no such name left.
    pub fn readers_of(&self, hash: &ContentHash) -> BTreeSet<NodeId> {
        private::readers_of(self.logs.merge.state(), *hash)
    }
}
