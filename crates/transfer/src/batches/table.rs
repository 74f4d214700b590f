//! What is under way, what has come and is not stored, and who waits for it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    BATCH_TARGET_BYTES, BATCHES_PER_NODE_MAX, COMING_MAX, FetchTicket, LONG_REST, PATIENCE, REST,
};
use crate::ReadReply;
use p2pfs_cache::CacheFile;
use p2pfs_fetch::Holder;
use p2pfs_proto::wire::native::tcp::SmallFile;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;

/// How many files stay in memory that the cache has no room for; the oldest goes first.
const UNSTORED_MAX: usize = 64;

/// The least that a batch has of files together, where there are more: a node of which even so
/// little is late is better asked for each file alone.
const BATCH_LEAST_BYTES: u64 = 16 << 10;

/// How many files are held open: as many as are asked for ahead of one program.
const HELD_MAX: usize = 256;

/// A read of a file that is in a batch.
pub(super) struct Reading {
    pub file: SmallFile,
    pub range: ByteRange,
    pub deadline: Instant,
    pub reply: ReadReply,
}

/// Files to be asked of one node at once.
pub(super) struct Batch {
    pub from: Holder,
    pub files: Vec<SmallFile>,
}

/// By what a batch that is under way is known.
pub(super) struct UnderWay {
    pub number: u64,
    /// Ends, in an error, when it is to be taken back.
    pub taken_back: oneshot::Receiver<()>,
}

enum Coming {
    /// Asked of a node, or to be asked of it; with the numbers of those that wait.
    Wanted { from: NodeId, waiting: Vec<u64> },
    /// Here, verified, and not stored yet.
    Here(Bytes),
}

enum Wait {
    ForBatch(Reading),
    /// Nothing for a moment, while the read begins.
    Alone(Option<FetchTicket>),
}

#[derive(Default)]
pub(super) struct Table {
    coming: HashMap<SmallFile, Coming>,
    waits: HashMap<u64, Wait>,
    next_number: u64,
    /// By node and number; who drops one takes it back.
    under_way: BTreeMap<(NodeId, u64), oneshot::Sender<()>>,
    queued: VecDeque<Batch>,
    resting: HashMap<NodeId, Instant>,
    /// What a batch may have together, of nodes of which more would take too long.
    most_bytes: HashMap<NodeId, u64>,
    unstored: VecDeque<SmallFile>,
    /// Files of the cache that are held open for who is about to read them, and since when.
    held: VecDeque<(Instant, CacheFile)>,
}

impl Table {
    /// How many more files may be wanted.
    pub(super) fn room(&self) -> usize {
        COMING_MAX.saturating_sub(self.coming.len())
    }

    pub(super) fn is_coming(&self, file: &SmallFile) -> bool {
        self.coming.contains_key(file)
    }

    /// Whether a node may be asked now.
    pub(super) fn is_resting(&self, node: &NodeId, now: Instant) -> bool {
        self.resting.get(node).is_some_and(|until| *until > now)
    }

    /// Asks nothing of a node for a while, or for the rest of a longer one.
    pub(super) fn rest(&mut self, node: NodeId, now: Instant, time: Duration) {
        self.resting.retain(|_, until| *until > now);
        let until = self.resting.entry(node).or_insert(now);
        *until = (*until).max(now + time);
    }

    /// What a batch of a node may have of files together, unless one file alone is more.
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

    /// A batch of so many bytes took so long: the next are to come before readers lose patience.
    pub(super) fn took(&mut self, node: NodeId, bytes: u64, time: Duration) {
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
            self.coming.insert(*file, Coming::Wanted { from, waiting });
        }
        self.queued.push_back(batch);
    }

    /// The next batch that may be sent, which counts as under way from now on.
    pub(super) fn next(&mut self) -> Option<(Batch, UnderWay)> {
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
        Some((batch, UnderWay { number, taken_back }))
    }

    /// A batch of a node is over.
    pub(super) fn over(&mut self, node: NodeId, number: u64) {
        self.under_way.remove(&(node, number));
    }

    /// Whether a file is to come from a node still.
    pub(super) fn is_wanted(&self, file: &SmallFile, node: &NodeId) -> bool {
        let coming = self.coming.get(file);
        matches!(coming, Some(Coming::Wanted { from, .. }) if from == node)
    }

    /// Lets a read wait for its file, where that is coming.
    pub(super) fn wait(&mut self, reading: Reading) -> Result<u64, Reading> {
        match self.coming.get_mut(&reading.file) {
            Some(Coming::Wanted { waiting, .. }) => {
                self.next_number += 1;
                waiting.push(self.next_number);
                self.waits.insert(self.next_number, Wait::ForBatch(reading));
                Ok(self.next_number)
            }
            _ => Err(reading),
        }
    }

    /// Who waits for a file that came, which is here from now on.
    pub(super) fn came(&mut self, file: SmallFile, bytes: Bytes) -> Vec<Reading> {
        let before = self.coming.insert(file, Coming::Here(bytes));
        let Some(Coming::Wanted { waiting, .. }) = before else {
            return Vec::new();
        };
        let readings = waiting.iter().filter_map(|number| self.take(*number));
        readings.collect()
    }

    fn take(&mut self, number: u64) -> Option<Reading> {
        match self.waits.remove(&number)? {
            Wait::ForBatch(reading) => Some(reading),
            alone @ Wait::Alone(_) => {
                self.waits.insert(number, alone);
                None
            }
        }
    }

    /// Who waits for a file that does not come from a node; they are alone from now on.
    pub(super) fn failed(&mut self, file: &SmallFile, node: &NodeId) -> Vec<(u64, Reading)> {
        match self.coming.remove(file) {
            Some(Coming::Wanted { from, waiting }) if from == *node => waiting
                .into_iter()
                .filter_map(|number| self.give_up(number))
                .collect(),
            // another was asked since, or it is here
            Some(other) => {
                self.coming.insert(*file, other);
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    /// The read with this number has waited long enough. Nobody else is to find that out for
    /// himself: whoever waits for the same node is alone from now on, and it rests. What is under
    /// way from there is taken back, so that nothing comes twice, and less is asked for next.
    pub(super) fn late(&mut self, number: u64, now: Instant) -> Vec<(u64, Reading)> {
        let Some(Wait::ForBatch(reading)) = self.waits.get(&number) else {
            return Vec::new();
        };
        let Some(Coming::Wanted { from, .. }) = self.coming.get(&reading.file) else {
            return self.give_up(number).into_iter().collect();
        };
        let node = *from;
        let most = self.most_bytes(&node);
        let is_least = most == BATCH_LEAST_BYTES;
        self.rest(node, now, if is_least { LONG_REST } else { REST });
        self.set_most_bytes(node, most / BATCHES_PER_NODE_MAX as u64);
        self.queued.retain(|batch| batch.from.node != node);
        self.under_way.retain(|(of, _), _| *of != node);
        let files = self.coming.keys().copied();
        let files: Vec<SmallFile> = files.filter(|file| self.is_wanted(file, &node)).collect();
        files
            .iter()
            .flat_map(|file| self.failed(file, &node))
            .collect()
    }

    /// The read with this number waits for its batch no more, if it did.
    fn give_up(&mut self, number: u64) -> Option<(u64, Reading)> {
        let reading = self.take(number)?;
        self.waits.insert(number, Wait::Alone(None));
        Some((number, reading))
    }

    /// A read goes on alone under this ticket; false where it is over already, or was taken back.
    pub(super) fn is_alone(&mut self, number: u64, ticket: FetchTicket) -> bool {
        let wait = self.waits.get_mut(&number);
        wait.map(|wait| *wait = Wait::Alone(Some(ticket))).is_some()
    }

    /// A read that went on alone is over.
    pub(super) fn end(&mut self, number: u64) {
        self.waits.remove(&number);
    }

    /// Until when a read waits, or by which ticket it goes on alone.
    pub(super) fn waits(&self, number: u64) -> Option<Result<Instant, FetchTicket>> {
        match self.waits.get(&number)? {
            Wait::ForBatch(reading) => Some(Ok(reading.deadline)),
            Wait::Alone(ticket) => ticket.map(Err),
        }
    }

    /// Takes a read out, or says by which ticket it goes on alone.
    pub(super) fn cancel(&mut self, number: u64) -> Option<Result<Reading, FetchTicket>> {
        match self.waits.remove(&number)? {
            Wait::ForBatch(reading) => Some(Ok(reading)),
            Wait::Alone(ticket) => ticket.map(Err),
        }
    }

    pub(super) fn here(&self, file: &SmallFile) -> Option<Bytes> {
        match self.coming.get(file)? {
            Coming::Here(bytes) => Some(bytes.clone()),
            Coming::Wanted { .. } => None,
        }
    }

    /// The cache has the file, which is held open for a while. Gives what had to be closed for
    /// it, to be dropped without the lock.
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

    /// The files that were stored before that, to be dropped without the lock.
    #[must_use]
    pub(super) fn let_go(&mut self, before: Instant) -> Vec<CacheFile> {
        let later = self.held.iter().position(|(since, _)| *since > before);
        let old = later.unwrap_or(self.held.len());
        self.held.drain(..old).map(|(_, file)| file).collect()
    }

    /// The cache has no room for it: it stays in memory for a while.
    pub(super) fn refused(&mut self, file: SmallFile) {
        if let Some(Coming::Here(bytes)) = self.coming.get_mut(&file) {
            // without the rest of its batch
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
    fn so_many_batches_are_under_way_to_one_node_and_so_many_files_wanted() {
        let mut table = Table::default();
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
        table.over(NodeId::new([1; 32]), first.unwrap());
        assert_eq!(std::iter::from_fn(|| table.next()).count(), 1);
    }

    fn reading(file: SmallFile) -> Reading {
        let now = Instant::now();
        Reading {
            file,
            range: ByteRange::new(0, 1),
            deadline: now,
            reply: Box::new(drop),
        }
    }

    #[test]
    fn of_a_node_whose_batches_are_late_less_is_asked_until_they_are_in_time() {
        let (mut table, now) = (Table::default(), Instant::now());
        let node = NodeId::new([1; 32]);
        let late = |table: &mut Table, n| {
            let batch = batch(1, n);
            let file = batch.files[0];
            table.queue(batch);
            let (_, under_way) = table.next().unwrap();
            let number = table.wait(reading(file)).ok().unwrap();
            assert_eq!(table.late(number, now).len(), 1);
            let mut taken_back = under_way.taken_back;
            assert!(
                taken_back
                    .try_recv()
                    .is_err_and(|it| it == TryRecvError::Closed)
            );
            table.most_bytes(&node)
        };
        let sizes = [1, 2].map(|n| late(&mut table, n));
        assert_eq!(sizes, [64 << 10, BATCH_LEAST_BYTES]);
        assert!(!table.is_resting(&node, now + REST));
        assert_eq!(late(&mut table, 3), BATCH_LEAST_BYTES);
        assert!(
            table.is_resting(&node, now + REST),
            "it is too slow for any"
        );
        let quick = PATIENCE / 4;
        table.took(node, 100, quick);
        assert_eq!(table.most_bytes(&node), BATCH_LEAST_BYTES, "it was small");
        for _ in 0..10 {
            let most = table.most_bytes(&node);
            table.took(node, most, quick);
        }
        assert_eq!(table.most_bytes(&node), BATCH_TARGET_BYTES);
        assert!(table.most_bytes.is_empty());
        table.took(node, BATCH_TARGET_BYTES, PATIENCE * 2);
        assert_eq!(table.most_bytes(&node), BATCH_TARGET_BYTES / 2);
    }

    #[test]
    fn a_read_that_is_taken_back_as_it_begins_alone_goes_on_for_nobody() {
        let mut table = Table::default();
        let batch = batch(1, 1);
        let file = batch.files[0];
        table.queue(batch);
        let number = table.wait(reading(file)).ok().unwrap();
        assert_eq!(table.late(number, Instant::now()).len(), 1);
        assert!(table.cancel(number).is_none(), "it has no ticket yet");
        assert!(!table.is_alone(number, FetchTicket::from_number(1)));
    }
}
