//! Table of the queued batches and those in flight, of their files until these are stored, and of
//! the reads that wait for them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{BATCH_TARGET_BYTES, BATCHES_PER_NODE_MAX, COMING_MAX, LONG_REST, PATIENCE, REST};
use crate::client::ReadReply;
use p2pfs_content::CacheFile;
use p2pfs_fetch::Holder;
use p2pfs_proto::wire::native::tcp::SmallFile;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;
use p2pfs_types::read::ReadWait;

/// Maximum files in memory that the cache could not store. The oldest is dropped first.
const UNSTORED_MAX: usize = 64;

/// Minimum target size of a batch in bytes. If a node is late even with a batch of this size, each
/// of its files is better fetched alone.
const BATCH_LEAST_BYTES: u64 = 16 << 10;

/// Maximum cache files held open after they were stored.
const HELD_MAX: usize = 256;

/// Read of a file that is in a batch.
pub(super) struct BatchRead {
    pub file: SmallFile,
    pub range: ByteRange,
    pub deadline: Instant,
    pub reply: ReadReply,
}

/// Files to request from one node at once.
pub(super) struct Batch {
    pub from: Holder,
    pub files: Vec<SmallFile>,
}

/// Handle of a batch in flight.
pub(super) struct BatchHandle {
    pub number: u64,
    /// Resolves with an error when the batch is cancelled.
    pub taken_back: oneshot::Receiver<()>,
}

enum BatchFileState {
    /// Requested from a node or queued for it, with the numbers of the waiting reads.
    Wanted { from: NodeId, waiting: Vec<u64> },
    /// Received and verified, but not stored yet.
    Here(Bytes),
}

enum ReadState {
    ForBatch(BatchRead),
    /// `None` until the fetcher has begun it.
    Alone(Option<ReadWait>),
}

#[derive(Default)]
pub(super) struct BatchTable {
    coming: HashMap<SmallFile, BatchFileState>,
    waits: HashMap<u64, ReadState>,
    next_number: u64,
    /// Batches in flight by node and number. Dropping the sender cancels the batch.
    under_way: BTreeMap<(NodeId, u64), oneshot::Sender<()>>,
    queued: VecDeque<Batch>,
    resting: HashMap<NodeId, Instant>,
    /// Target size of a batch, for nodes that are too slow for [`BATCH_TARGET_BYTES`].
    most_bytes: HashMap<NodeId, u64>,
    unstored: VecDeque<SmallFile>,
    /// Files of the cache held open for their expected readers, and since when.
    held: VecDeque<(Instant, CacheFile)>,
}

impl BatchTable {
    /// Returns how many more files may be requested.
    pub(super) fn room(&self) -> usize {
        COMING_MAX.saturating_sub(self.coming.len())
    }

    pub(super) fn is_coming(&self, file: &SmallFile) -> bool {
        self.coming.contains_key(file)
    }

    /// Returns whether a node gets no new batches now.
    pub(super) fn is_resting(&self, node: &NodeId, now: Instant) -> bool {
        self.resting.get(node).is_some_and(|until| *until > now)
    }

    /// Removes the queued batches of a node, and queues no new ones during `time`, or for longer if
    /// an earlier pause ends later. Returns the reads that waited for a removed batch, which the
    /// caller fetches alone.
    #[must_use]
    pub(super) fn rest(
        &mut self,
        node: NodeId,
        now: Instant,
        time: Duration,
    ) -> Vec<(u64, BatchRead)> {
        self.resting.retain(|_, until| *until > now);
        let until = self.resting.entry(node).or_insert(now);
        *until = (*until).max(now + time);
        let queued = std::mem::take(&mut self.queued);
        let (removed, left): (VecDeque<_>, _) =
            queued.into_iter().partition(|it| it.from.node == node);
        self.queued = left;
        let files = removed.iter().flat_map(|batch| &batch.files);
        files.flat_map(|file| self.failed(file, &node)).collect()
    }

    /// Returns the maximum bytes of a batch from a node, unless a single file is larger.
    pub(super) fn most_bytes(&self, node: &NodeId) -> u64 {
        self.most_bytes
            .get(node)
            .copied()
            .unwrap_or(BATCH_TARGET_BYTES)
    }

    fn set_most_bytes(&mut self, node: NodeId, most: u64) {
        if most < BATCH_TARGET_BYTES {
            self.most_bytes.insert(node, most.max(BATCH_LEAST_BYTES))
        } else {
            self.most_bytes.remove(&node)
        };
    }

    /// Halves a node's maximum batch size if a batch took longer than [`PATIENCE`]. Doubles it if a
    /// batch with more than half of that size took less than half of [`PATIENCE`].
    pub(super) fn record_duration(&mut self, node: NodeId, bytes: u64, time: Duration) {
        let most = self.most_bytes(&node);
        if time > PATIENCE {
            self.set_most_bytes(node, most / 2);
        } else if time < PATIENCE / 2 && bytes > most / 2 {
            self.set_most_bytes(node, most * 2);
        }
    }

    pub(super) fn queue(&mut self, batch: Batch) {
        for file in &batch.files {
            let (from, waiting) = (batch.from.node, Vec::new());
            self.coming
                .insert(*file, BatchFileState::Wanted { from, waiting });
        }
        self.queued.push_back(batch);
    }

    /// Removes the first queued batch that may be sent, and marks it as in flight. `None` if every
    /// queued batch is for a node with [`BATCHES_PER_NODE_MAX`] in flight. A node that gets no new
    /// batches has none in the queue, because [`Self::rest`] removes them.
    pub(super) fn next(&mut self) -> Option<(Batch, BatchHandle)> {
        let under_way = &self.under_way;
        let has_room = |batch: &Batch| {
            let node = batch.from.node;
            let count = under_way.range((node, 0)..=(node, u64::MAX)).count();
            count < BATCHES_PER_NODE_MAX
        };
        let at = self.queued.iter().position(has_room)?;
        let batch = self.queued.remove(at)?;
        self.next_number += 1;
        let number = self.next_number;
        let (takes_back, taken_back) = oneshot::channel();
        self.under_way.insert((batch.from.node, number), takes_back);
        Some((batch, BatchHandle { number, taken_back }))
    }

    /// Removes an ended batch.
    pub(super) fn remove_in_flight(&mut self, node: NodeId, number: u64) {
        self.under_way.remove(&(node, number));
    }

    /// Returns whether a file is still expected from a node.
    pub(super) fn is_wanted(&self, file: &SmallFile, node: &NodeId) -> bool {
        let coming = self.coming.get(file);
        matches!(coming, Some(BatchFileState::Wanted { from, .. }) if from == node)
    }

    /// Adds a read that waits for its batch, and returns its number. Returns the read if its file
    /// is not expected.
    pub(super) fn wait(&mut self, reading: BatchRead) -> Result<u64, BatchRead> {
        match self.coming.get_mut(&reading.file) {
            Some(BatchFileState::Wanted { waiting, .. }) => {
                self.next_number += 1;
                waiting.push(self.next_number);
                self.waits
                    .insert(self.next_number, ReadState::ForBatch(reading));
                Ok(self.next_number)
            }
            _ => Err(reading),
        }
    }

    /// Marks a file as received. Returns the reads that waited for it.
    pub(super) fn mark_received(&mut self, file: SmallFile, bytes: Bytes) -> Vec<BatchRead> {
        let before = self.coming.insert(file, BatchFileState::Here(bytes));
        let Some(BatchFileState::Wanted { waiting, .. }) = before else {
            return Vec::new();
        };
        let readings = waiting.iter().filter_map(|number| self.take(*number));
        readings.collect()
    }

    fn take(&mut self, number: u64) -> Option<BatchRead> {
        match self.waits.remove(&number)? {
            ReadState::ForBatch(reading) => Some(reading),
            alone @ ReadState::Alone(_) => {
                self.waits.insert(number, alone);
                None
            }
        }
    }

    /// Removes a file that will not arrive, if it is still expected from `node`. Returns the reads
    /// that waited for it, which the caller fetches alone.
    pub(super) fn failed(&mut self, file: &SmallFile, node: &NodeId) -> Vec<(u64, BatchRead)> {
        match self.coming.remove(file) {
            Some(BatchFileState::Wanted { from, waiting }) if from == *node => waiting
                .into_iter()
                .filter_map(|number| self.give_up(number))
                .collect(),
            // another node was asked since, or the file has arrived
            Some(other) => {
                self.coming.insert(*file, other);
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    /// Handles a read that has waited for [`PATIENCE`]. Cancels all batches, queued or in flight,
    /// of the node that the read waits for. That node gets no new batches for a while, then smaller
    /// ones, down to [`BATCH_LEAST_BYTES`]. Returns all reads that wait for the node, so that the
    /// others need not discover the delay one by one. The caller fetches them alone. Returns none
    /// if the read no longer waits.
    pub(super) fn take_late(&mut self, number: u64, now: Instant) -> Vec<(u64, BatchRead)> {
        let Some(ReadState::ForBatch(reading)) = self.waits.get(&number) else {
            return Vec::new();
        };
        let Some(BatchFileState::Wanted { from, .. }) = self.coming.get(&reading.file) else {
            return self.give_up(number).into_iter().collect();
        };
        let node = *from;
        let most = self.most_bytes(&node);
        let is_least = most == BATCH_LEAST_BYTES;
        let mut late = self.rest(node, now, if is_least { LONG_REST } else { REST });
        self.set_most_bytes(node, most / BATCHES_PER_NODE_MAX as u64);
        self.under_way.retain(|(of, _), _| *of != node);
        let files = self.coming.keys().copied();
        let files: Vec<SmallFile> = files.filter(|file| self.is_wanted(file, &node)).collect();
        late.extend(files.iter().flat_map(|file| self.failed(file, &node)));
        late
    }

    /// Ends the wait of a read for its batch. Returns the read if it waited.
    fn give_up(&mut self, number: u64) -> Option<(u64, BatchRead)> {
        let reading = self.take(number)?;
        self.waits.insert(number, ReadState::Alone(None));
        Some((number, reading))
    }

    /// Records the ticket of a read that is fetched alone. Returns false if the read has ended or
    /// was cancelled.
    pub(super) fn is_alone(&mut self, number: u64, ticket: ReadWait) -> bool {
        let wait = self.waits.get_mut(&number);
        wait.map(|wait| *wait = ReadState::Alone(Some(ticket)))
            .is_some()
    }

    /// Removes an ended read.
    pub(super) fn end(&mut self, number: u64) {
        self.waits.remove(&number);
    }

    /// Returns the deadline of a read, or the ticket under which it is fetched alone. `None` if the
    /// read has ended, or is fetched alone and has no ticket yet.
    pub(super) fn waits(&self, number: u64) -> Option<Result<Instant, ReadWait>> {
        match self.waits.get(&number)? {
            ReadState::ForBatch(reading) => Some(Ok(reading.deadline)),
            ReadState::Alone(wait) => wait.clone().map(Err),
        }
    }

    /// Removes a read. Returns it, or the ticket under which it is fetched alone. `None` if the
    /// read has ended, or is fetched alone and has no ticket yet.
    pub(super) fn cancel(&mut self, number: u64) -> Option<Result<BatchRead, ReadWait>> {
        match self.waits.remove(&number)? {
            ReadState::ForBatch(reading) => Some(Ok(reading)),
            ReadState::Alone(ticket) => ticket.map(Err),
        }
    }

    pub(super) fn here(&self, file: &SmallFile) -> Option<Bytes> {
        match self.coming.get(file)? {
            BatchFileState::Here(bytes) => Some(bytes.clone()),
            BatchFileState::Wanted { .. } => None,
        }
    }

    /// Records that the cache stored a file, and holds its cache file open. Returns the oldest held
    /// files beyond [`HELD_MAX`], which the caller drops without the lock.
    #[must_use]
    pub(super) fn stored(
        &mut self,
        file: &SmallFile,
        opened: CacheFile,
        now: Instant,
    ) -> Vec<CacheFile> {
        self.coming.remove(file);
        self.held.push_back((now, opened));
        let over = self.held.len().saturating_sub(HELD_MAX);
        self.held.drain(..over).map(|(_, file)| file).collect()
    }

    /// Removes and returns the held files that were stored at or before a time. The caller drops
    /// them without the lock.
    #[must_use]
    pub(super) fn close_held(&mut self, before: Instant) -> Vec<CacheFile> {
        let later = self.held.iter().position(|(since, _)| *since > before);
        let old = later.unwrap_or(self.held.len());
        self.held.drain(..old).map(|(_, file)| file).collect()
    }

    /// Keeps a received file in memory although the cache could not store it. Drops the oldest such
    /// file beyond [`UNSTORED_MAX`].
    pub(super) fn refused(&mut self, file: SmallFile) {
        if let Some(BatchFileState::Here(bytes)) = self.coming.get_mut(&file) {
            // a copy, so that the rest of its batch can be freed
            *bytes = Bytes::copy_from_slice(bytes);
        }
        self.unstored.push_back(file);
        if self.unstored.len() > UNSTORED_MAX
            && let Some(oldest) = self.unstored.pop_front()
        {
            self.coming.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use oneshot::error::TryRecvError;

    use super::*;
    use p2pfs_types::digest::ContentHash;

    fn batch(node: u8, n: u32) -> Batch {
        let address = "10.0.0.1:1378".parse().unwrap();
        let from = Holder {
            node: NodeId::new([node; 32]),
            address,
            size_bytes: 1,
            sequence: 1,
        };
        let hash = ContentHash::of(&n.to_be_bytes());
        let files = vec![SmallFile {
            hash,
            size_bytes: 1,
        }];
        Batch { from, files }
    }

    #[test]
    fn batches_under_way_and_files_wanted_from_one_node_are_bounded() {
        let mut table = BatchTable::default();
        for n in 0..COMING_MAX {
            assert_eq!(table.room(), COMING_MAX - n);
            table.queue(batch(1, n as u32));
        }
        assert_eq!(table.room(), 0);
        let under_way: Vec<_> = std::iter::from_fn(|| table.next()).collect();
        assert_eq!(under_way.len(), BATCHES_PER_NODE_MAX);
        table.queue(batch(2, 0));
        let other = table.next().map(|(batch, _)| batch.from.node);
        assert_eq!(
            other,
            Some(NodeId::new([2; 32])),
            "takes nothing from another"
        );
        let first = under_way.first().map(|(_, it)| it.number);
        table.remove_in_flight(NodeId::new([1; 32]), first.unwrap());
        assert_eq!(std::iter::from_fn(|| table.next()).count(), 1);
    }

    #[test]
    fn batches_queued_for_a_resting_node_are_not_sent() {
        let (mut table, now) = (BatchTable::default(), Instant::now());
        let queued = batch(1, 1);
        let file = queued.files[0];
        table.queue(queued);
        table.queue(batch(2, 2));
        assert!(table.wait(reading(file)).is_ok());
        let alone = table.rest(NodeId::new([1; 32]), now, REST);
        assert_eq!(alone.len(), 1, "its read waits no longer");
        assert!(!table.is_coming(&file));
        let sent: Vec<_> = std::iter::from_fn(|| table.next()).collect();
        let nodes: Vec<_> = sent.iter().map(|(batch, _)| batch.from.node).collect();
        assert_eq!(nodes, [NodeId::new([2; 32])]);
    }

    fn reading(file: SmallFile) -> BatchRead {
        let now = Instant::now();
        BatchRead {
            file,
            range: ByteRange::new(0, 1),
            deadline: now,
            reply: Box::new(drop),
        }
    }

    #[test]
    fn a_node_with_late_batches_gets_fewer_until_they_are_in_time() {
        let (mut table, now) = (BatchTable::default(), Instant::now());
        let node = NodeId::new([1; 32]);
        let take_late = |table: &mut BatchTable, n| {
            let batch = batch(1, n);
            let file = batch.files[0];
            table.queue(batch);
            let (_, under_way) = table.next().unwrap();
            let number = table.wait(reading(file)).ok().unwrap();
            assert_eq!(table.take_late(number, now).len(), 1);
            let mut taken_back = under_way.taken_back;
            assert!(
                taken_back
                    .try_recv()
                    .is_err_and(|it| it == TryRecvError::Closed)
            );
            table.most_bytes(&node)
        };
        let sizes = [1, 2].map(|n| take_late(&mut table, n));
        assert_eq!(sizes, [64 << 10, BATCH_LEAST_BYTES]);
        assert!(!table.is_resting(&node, now + REST));
        assert_eq!(take_late(&mut table, 3), BATCH_LEAST_BYTES);
        assert!(
            table.is_resting(&node, now + REST),
            "it is too slow for any"
        );
        let quick = PATIENCE / 4;
        table.record_duration(node, 100, quick);
        assert_eq!(table.most_bytes(&node), BATCH_LEAST_BYTES, "it was small");
        for _ in 0..10 {
            let most = table.most_bytes(&node);
            table.record_duration(node, most, quick);
        }
        assert_eq!(table.most_bytes(&node), BATCH_TARGET_BYTES);
        assert!(table.most_bytes.is_empty());
        table.record_duration(node, BATCH_TARGET_BYTES, PATIENCE * 2);
        assert_eq!(table.most_bytes(&node), BATCH_TARGET_BYTES / 2);
    }

    #[test]
    fn a_read_cancelled_as_it_begins_alone_leaves_no_request() {
        let mut table = BatchTable::default();
        let batch = batch(1, 1);
        let file = batch.files[0];
        table.queue(batch);
        let number = table.wait(reading(file)).ok().unwrap();
        assert_eq!(table.take_late(number, Instant::now()).len(), 1);
        assert!(table.cancel(number).is_none(), "it has no ticket yet");
        assert!(!table.is_alone(number, ReadWait::ended()));
    }
}
