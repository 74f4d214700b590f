//! Stores persistent state on a thread beside the event loop.
//!
//! [`Persister`] is the loop's side. It owns the thread and hands it one batch of log records and one
//! change of the membership at a time. While the thread writes a batch, further changes accumulate in the catalogue, so a slow
//! disk lengthens no queue. No batch is skipped, because a stored log claims to be complete.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex};
use tokio::sync::mpsc;

use super::conditions::{Condition, Finding};
use super::events::EventLog;
use super::store::{Store, StoreError, save_responders};
use p2pfs_catalogue::{Catalogue, LogWrite};
use p2pfs_fetch::PeerRecord;
use p2pfs_proto::trust::{KeyringFiles, TrustError, TrustWrite};
use p2pfs_transfer::Fetcher;
use p2pfs_types::files::disk::usage_command_after_failure;
use p2pfs_types::id::{Generation, NodeId};

/// Maximum number of records in one batch: about 1 MiB on disk, so that a batch takes milliseconds.
const BATCH_RECORDS: usize = 8192;
/// Minimum interval between the starts of two batches, because each ends with an fsync.
const BATCH_SPACING: Duration = Duration::from_millis(500);
/// Beginning of the warning about a failed write.
const NOT_STORED: &str = "the state is not stored, to be tried again";
/// Interval at which the reachable nodes are stored even if they have not changed. An hour is
/// precise enough, because a log is forgotten only after its author was away for days.
const NOTE_PERIOD: Duration = Duration::from_secs(3600);
/// Interval at which the responder statistics (how fast and how reliably each peer answered) are
/// stored. A crash loses what changed since the last time.
const RESPONDERS_PERIOD: Duration = Duration::from_secs(300);

/// The result of a batch.
type BatchResult = Result<(), StoreError>;

/// A job for the thread.
enum StoreJob {
    Trust(TrustWrite),
    Logs(Vec<LogWrite>),
    Generation(Generation),
    Reachable(Vec<(NodeId, SocketAddr)>),
    Responders(Vec<PeerRecord>),
}

/// The jobs that wait for the thread, at most one of each kind. A newer generation, list of
/// reachable nodes or list of statistics replaces the waiting one. A batch of logs and a change of
/// the membership must not be replaced, so each is added only after the result of the one before
/// arrived.
#[derive(Default)]
struct PendingJobs {
    trust: Option<TrustWrite>,
    logs: Option<Vec<LogWrite>>,
    generation: Option<Generation>,
    reachable: Option<Vec<(NodeId, SocketAddr)>>,
    responders: Option<Vec<PeerRecord>>,
    has_ended: bool,
}

impl PendingJobs {
    fn put(&mut self, work: StoreJob) {
        match work {
            StoreJob::Trust(write) => self.trust = Some(write),
            StoreJob::Logs(writes) => self.logs = Some(writes),
            StoreJob::Generation(generation) => self.generation = Some(generation),
            StoreJob::Reachable(members) => self.reachable = Some(members),
            StoreJob::Responders(records) => self.responders = Some(records),
        }
    }

    fn take(&mut self) -> Option<StoreJob> {
        // First, because a user or a joining node waits for it.
        let trust = self.trust.take().map(StoreJob::Trust);
        trust
            .or_else(|| self.generation.take().map(StoreJob::Generation))
            .or_else(|| self.logs.take().map(StoreJob::Logs))
            .or_else(|| self.reachable.take().map(StoreJob::Reachable))
            .or_else(|| self.responders.take().map(StoreJob::Responders))
    }
}

/// The job queue between the loop and the thread. Taking or adding a job never blocks on the disk.
#[derive(Default)]
struct WriteQueue {
    waiting: Mutex<PendingJobs>,
    changed: Condvar,
}

impl WriteQueue {
    fn put(&self, work: StoreJob) {
        self.waiting.lock().put(work);
        self.changed.notify_one();
    }

    /// Declares that no more jobs follow.
    fn end(&self) {
        self.waiting.lock().has_ended = true;
        self.changed.notify_one();
    }

    /// Waits for the next job. Returns `None` at the end.
    fn next(&self) -> Option<StoreJob> {
        let mut waiting = self.waiting.lock();
        loop {
            match waiting.take() {
                None if !waiting.has_ended => self.changed.wait(&mut waiting),
                next => return next,
            }
        }
    }
}

/// The loop's side of the storing thread.
pub(super) struct Persister {
    desk: Arc<WriteQueue>,
    outcomes: Receiver<BatchResult>,
    /// Results of changes of the membership. Unlike batches, they wake the loop.
    trust_results: mpsc::UnboundedReceiver<Result<(), TrustError>>,
    thread: Option<JoinHandle<()>>,
    under_way: bool,
    /// Whether the catalogue may have changes to store. This is so if the last [`Self::advance`]
    /// did not ask the catalogue, or got a batch from it.
    has_more: bool,
    next_batch: Instant,
    next_note: Instant,
    next_responders: Instant,
    /// Whether the last batch failed.
    is_failing: bool,
    /// The latest batch result that failed, or that succeeded after a failure, until
    /// [`Self::report`] reports it.
    news: Option<StoreNews>,
}

/// Returns the finding for a batch that was not stored.
fn not_stored(error: &StoreError) -> Finding {
    let said = error.to_string();
    // The remedy of the condition replaces that of the error.
    let cause = said.split_once("; ").map_or(&*said, |(cause, _)| cause);
    let found = Finding::new(format!("{NOT_STORED}: {cause}"));
    match error {
        StoreError::Disk { path, .. } => {
            let usage = usage_command_after_failure(path.parent().unwrap_or(path));
            found.remedy(format!(
                "free some of the state directory's disk ({usage}), or let the daemon's user write \
                 there; until then a restart loses what is new"
            ))
        }
        _ => found,
    }
}

/// News about the store for the owner of the node.
#[derive(Debug)]
enum StoreNews {
    /// A batch failed. Everything is stored again later.
    Failed(StoreError),
    /// Storing works again after a failure.
    Mended,
}

impl Persister {
    /// Starts the thread with the store and the files of the membership, if this node has any, and
    /// stores the generation.
    pub(super) fn start(
        store: Store,
        membership: Option<KeyringFiles>,
        generation: Generation,
    ) -> Self {
        let mut writer = StateWriter {
            store: ReopeningStore::new(store),
            membership,
        };
        let persister = Self::beside(move |desk, results| writer.run(desk, results));
        persister.set_generation(generation);
        persister
    }

    /// Starts the thread with this work.
    fn beside(work: impl FnOnce(&WriteQueue, &ResultSenders) + Send + 'static) -> Self {
        let desk = Arc::new(WriteQueue::default());
        let (batches, outcomes) = channel();
        let (trust, trust_results) = mpsc::unbounded_channel();
        let results = ResultSenders { batches, trust };
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn({
                let desk = desk.clone();
                move || work(&desk, &results)
            })
            .expect("a process that just started can start a thread");
        Self {
            desk,
            outcomes,
            trust_results,
            thread: Some(thread),
            under_way: false,
            has_more: true,
            next_batch: Instant::now(),
            next_note: Instant::now() + NOTE_PERIOD,
            next_responders: Instant::now() + RESPONDERS_PERIOD,
            is_failing: false,
            news: None,
        }
    }

    /// Handles the results of earlier batches. Then hands the next batch to the thread, if the
    /// thread has none, the time for it has come and the catalogue has changes.
    pub(super) fn advance(&mut self, catalogue: &mut Catalogue) {
        self.poll_results(catalogue);
        let now = Instant::now();
        self.has_more = true;
        if self.under_way || now < self.next_batch {
            return;
        }
        let writes = catalogue.storage().take_writes(BATCH_RECORDS);
        self.has_more = !writes.is_empty();
        if self.has_more {
            self.next_batch = now + BATCH_SPACING;
            self.put(writes);
        }
    }

    /// Returns whether every record that the catalogue had at the last [`Self::advance`] is stored.
    pub(super) fn has_stored_all(&self) -> bool {
        !self.under_way && !self.has_more
    }

    /// Returns when [`Self::advance`] should be called again, if nothing happens before.
    pub(super) fn next_due(&self) -> Option<Instant> {
        match (self.under_way, self.has_more) {
            (true, _) => Some(Instant::now() + OUTCOME_LOOK),
            (false, true) => Some(self.next_batch),
            (false, false) => None,
        }
    }

    /// Stores the generation of this life.
    pub(super) fn set_generation(&self, generation: Generation) {
        self.desk.put(StoreJob::Generation(generation));
    }

    /// Stores a change of the membership. The caller hands in the next one after
    /// [`Self::trust_written`] has returned the result of this one.
    pub(super) fn store_trust(&self, write: TrustWrite) {
        self.desk.put(StoreJob::Trust(write));
    }

    /// Waits for the result of [`Self::store_trust`].
    pub(super) async fn trust_written(&mut self) -> Option<Result<(), TrustError>> {
        self.trust_results.recv().await
    }

    /// Returns whether it is time to record the reachable nodes again.
    pub(super) fn is_reachability_due(&self) -> bool {
        Instant::now() >= self.next_note
    }

    /// Stores the addresses of the reachable members, and now as the time when they were last live.
    /// Ignores an empty list, so that a node without a network keeps the stored addresses for its
    /// next start.
    pub(super) fn set_reachable(&mut self, members: Vec<(NodeId, SocketAddr)>) {
        self.next_note = Instant::now() + NOTE_PERIOD;
        if !members.is_empty() {
            self.desk.put(StoreJob::Reachable(members));
        }
    }

    /// Stores the responder statistics, if [`RESPONDERS_PERIOD`] has passed since the last time.
    pub(super) fn store_responders(&mut self, fetcher: &Fetcher) {
        if Instant::now() >= self.next_responders {
            self.next_responders = Instant::now() + RESPONDERS_PERIOD;
            self.desk.put(StoreJob::Responders(fetcher.peer_records()));
        }
    }

    /// Makes the responder statistics due now, so that a crash hardly loses that a peer sent wrong
    /// bytes.
    pub(super) fn expedite_responders(&mut self) {
        self.next_responders = Instant::now();
    }

    /// Begins [`Condition::StateNotStored`] if a batch failed since the last call, and ends it if
    /// storing works again.
    pub(super) fn report(&mut self, events: &EventLog) {
        let Some(news) = self.news.take() else { return };
        match news {
            StoreNews::Failed(error) => {
                events.begin(Condition::StateNotStored, "", not_stored(&error));
            }
            StoreNews::Mended => events.end(Condition::StateNotStored, ""),
        }
    }

    /// Stores everything left, including the responder statistics, and ends the thread. Blocks on
    /// the disk.
    ///
    /// # Errors
    /// The error of the first batch that fails. The changes after it are not stored.
    pub(super) fn finish(
        &mut self,
        catalogue: &mut Catalogue,
        responders: Vec<PeerRecord>,
    ) -> BatchResult {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        self.desk.put(StoreJob::Responders(responders));
        let stored = self.store_the_rest(catalogue);
        self.desk.end();
        let _panicked = thread.join();
        stored
    }

    fn store_the_rest(&mut self, catalogue: &mut Catalogue) -> BatchResult {
        loop {
            if std::mem::take(&mut self.under_way) {
                match self.outcomes.recv() {
                    Ok(done) => done?,
                    // the thread panicked and reported it
                    Err(_) => return Ok(()),
                }
            }
            let writes = catalogue.storage().take_writes(BATCH_RECORDS);
            if writes.is_empty() {
                return Ok(());
            }
            self.put(writes);
        }
    }

    fn put(&mut self, writes: Vec<LogWrite>) {
        self.under_way = true;
        self.desk.put(StoreJob::Logs(writes));
    }

    fn poll_results(&mut self, catalogue: &mut Catalogue) {
        loop {
            match self.outcomes.try_recv() {
                Ok(Ok(())) => {
                    self.under_way = false;
                    if std::mem::take(&mut self.is_failing) {
                        self.news = Some(StoreNews::Mended);
                    }
                }
                Ok(Err(error)) => {
                    self.under_way = false;
                    self.is_failing = true;
                    self.news = Some(StoreNews::Failed(error));
                    catalogue.storage().store_anew();
                    self.next_batch = Instant::now() + RETRY_AFTER;
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }
}

/// Interval at which the result of a batch in progress is polled.
const OUTCOME_LOOK: Duration = Duration::from_millis(50);
/// Pause after a failed write: a full disk stays full for some time.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// The store, closed after each failure and reopened by the next job. After the disk refused one
/// write, an open redb database refuses all further writes, although its data on the disk is
/// intact.
struct ReopeningStore {
    dir: PathBuf,
    store: Option<Store>,
}

impl ReopeningStore {
    fn new(store: Store) -> Self {
        Self {
            dir: store.dir().to_owned(),
            store: Some(store),
        }
    }

    fn with(
        &mut self,
        work: impl FnOnce(&mut Store) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let store = match &mut self.store {
            Some(store) => store,
            closed => closed.insert(Store::open(&self.dir)?),
        };
        let done = work(store);
        if done.is_err() {
            self.store = None;
        }
        done
    }
}

/// The queues for the results of the thread.
struct ResultSenders {
    batches: Sender<BatchResult>,
    trust: mpsc::UnboundedSender<Result<(), TrustError>>,
}

/// The files of the state directory that the thread writes.
struct StateWriter {
    store: ReopeningStore,
    membership: Option<KeyringFiles>,
}

impl StateWriter {
    fn run(&mut self, desk: &WriteQueue, results: &ResultSenders) {
        while let Some(work) = desk.next() {
            let done = match work {
                StoreJob::Trust(write) => {
                    let files = self.membership.as_ref();
                    let done = files.map_or(Ok(()), |files| files.store(&write));
                    let _ended = results.trust.send(done);
                    continue;
                }
                StoreJob::Logs(writes) => {
                    let done = self.store.with(|store| store.write_logs(&writes));
                    if results.batches.send(done).is_err() {
                        tracing::debug!("the loop ended before the store's last batch");
                    }
                    continue;
                }
                StoreJob::Generation(generation) => {
                    self.store.with(|store| store.set_generation(generation))
                }
                StoreJob::Responders(records) => {
                    (self.store).with(|store| save_responders(store, &records, unix_now_s()))
                }
                StoreJob::Reachable(members) => {
                    self.store.with(|store| record_reachable(store, &members))
                }
            };
            if let Err(error) = done {
                tracing::debug!(%error, "a setting was not stored");
            }
        }
    }
}

fn record_reachable(store: &mut Store, members: &[(NodeId, SocketAddr)]) -> Result<(), StoreError> {
    let (nodes, addresses): (Vec<NodeId>, Vec<SocketAddr>) = members.iter().copied().unzip();
    store.set_addresses(&addresses)?;
    store.record_live(&nodes, unix_now_s())
}

/// Returns the time of the wall clock in Unix seconds.
pub(super) fn unix_now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2pfs_catalogue::sample::directory;
    use p2pfs_proto::wire::native::record::{Entry, ShareIndex, Timestamp};
    use p2pfs_types::id::NodeName;
    use p2pfs_types::path::SharedPath;

    fn me() -> NodeId {
        NodeId::new([1; 32])
    }

    fn entry(number: u64) -> Entry {
        directory(Timestamp {
            seconds: number as i64,
            nanoseconds: 0,
        })
    }

    fn catalogue_with(names: std::ops::Range<u64>) -> Catalogue {
        let mut catalogue = Catalogue::new(me(), NodeName::from_host("one"));
        for number in names {
            let path = SharedPath::new(format!("d{number}").into_bytes()).unwrap();
            catalogue
                .own_mut()
                .put(ShareIndex(0), &path, entry(number))
                .unwrap();
        }
        catalogue
    }

    fn stored_names(dir: &std::path::Path) -> usize {
        let store = Store::open(dir).unwrap();
        let catalogue = store
            .load_catalogue(Catalogue::new(me(), NodeName::from_host("one")))
            .unwrap();
        catalogue.own().all_entries().count()
    }

    #[test]
    fn all_queued_writes_are_stored_before_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut catalogue = catalogue_with(0..3 * BATCH_RECORDS as u64);
        let store = Store::open(folder.path()).unwrap();
        let mut persister = Persister::start(store, None, Generation(7));
        persister.advance(&mut catalogue);
        persister.finish(&mut catalogue, vec![]).unwrap();
        assert_eq!(stored_names(folder.path()), 3 * BATCH_RECORDS);
        assert_eq!(
            Store::open(folder.path()).unwrap().generation().unwrap(),
            Generation(7)
        );
    }

    #[test]
    fn no_batch_is_skipped_regardless_of_other_writes() {
        let folder = tempfile::tempdir().unwrap();
        let mut catalogue = catalogue_with(0..10);
        let mut persister =
            Persister::start(Store::open(folder.path()).unwrap(), None, Generation(1));
        for number in 0..64 {
            let address = SocketAddr::from(([10, 0, 0, number], 1378));
            persister.set_reachable(vec![(NodeId::new([number; 32]), address)]);
        }
        persister.advance(&mut catalogue);
        persister.finish(&mut catalogue, vec![]).unwrap();
        assert_eq!(stored_names(folder.path()), 10);
        let store = Store::open(folder.path()).unwrap();
        let newest: SocketAddr = "10.0.0.63:1378".parse().unwrap();
        assert_eq!(store.addresses().unwrap(), [newest]);
    }

    /// Works like [`StateWriter::run`], but the disk refuses the first batch.
    fn run_refusing_the_first(mut writer: StateWriter, desk: &WriteQueue, results: &ResultSenders) {
        while let Some(work) = desk.next() {
            if matches!(work, StoreJob::Logs(_)) {
                let refused = StoreError::TooLong { length_bytes: 1 };
                let refused = writer.store.with(|_| Err(refused));
                results.batches.send(refused).unwrap();
                break;
            }
        }
        writer.run(desk, results);
    }

    #[test]
    fn nothing_is_stored_after_a_batch_that_the_disk_refused_at_the_end() {
        for is_under_way in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let mut catalogue = catalogue_with(0..2 * BATCH_RECORDS as u64);
            let writer = StateWriter {
                store: ReopeningStore::new(Store::open(folder.path()).unwrap()),
                membership: None,
            };
            let mut persister = Persister::beside(move |desk, results| {
                run_refusing_the_first(writer, desk, results)
            });
            if is_under_way {
                persister.advance(&mut catalogue);
            }
            let finished = persister.finish(&mut catalogue, vec![]);
            assert!(matches!(finished, Err(StoreError::TooLong { .. })));
            // With only the second batch the log would claim to be complete while records are
            // missing.
            assert_eq!(stored_names(folder.path()), 0);
        }
    }

    #[test]
    fn a_failed_store_is_reopened_for_the_next_write() {
        let folder = tempfile::tempdir().unwrap();
        let mut reopening = ReopeningStore::new(Store::open(folder.path()).unwrap());
        let refused = || StoreError::TooLong { length_bytes: 1 };
        assert!(reopening.with(|_| Err(refused())).is_err());
        assert!(
            reopening.store.is_none(),
            "closed, so that it can be opened"
        );
        let done = reopening.with(|store| store.set_generation(Generation(3)));
        done.unwrap();
        drop(reopening);
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.generation().unwrap(), Generation(3));
    }

    #[test]
    fn addresses_are_retained_when_no_peer_is_reachable() {
        let folder = tempfile::tempdir().unwrap();
        let mut catalogue = catalogue_with(0..0);
        let mut persister =
            Persister::start(Store::open(folder.path()).unwrap(), None, Generation(1));
        let address: SocketAddr = "10.0.0.1:1378".parse().unwrap();
        persister.set_reachable(vec![(NodeId::new([2; 32]), address)]);
        persister.set_reachable(vec![]);
        persister.finish(&mut catalogue, vec![]).unwrap();
        assert_eq!(
            Store::open(folder.path()).unwrap().addresses().unwrap(),
            [address]
        );
    }
}
