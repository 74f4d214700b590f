//! Storing what must outlive the process, beside the event loop.
//!
//! Owns the thread that writes to the store. One batch is under way at a time; while it is, what
//! changes gathers in the catalogue, so that a slow disk makes larger batches and never a longer
//! queue.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::store::{Store, StoreError};
use crate::catalogue::{Catalogue, LogWrite};
use crate::id::Generation;

/// Records in one batch: about a MiB on disk, so that a batch takes milliseconds.
const BATCH_RECORDS: usize = 8192;
/// The shortest time between the begins of two batches: each ends in a sync of the disk.
const BATCH_SPACING: Duration = Duration::from_millis(500);

/// What is handed to the thread.
enum Work {
    Logs(Vec<LogWrite>),
    Generation(Generation),
    Addresses(Vec<SocketAddr>),
}

/// The near end of the thread that stores.
pub(super) struct Persister {
    work: Option<Sender<Work>>,
    outcomes: Receiver<Result<(), StoreError>>,
    thread: Option<JoinHandle<()>>,
    under_way: bool,
    /// The last look was too early, or found something: look again.
    has_more: bool,
    next_batch: Instant,
    /// What went wrong last, until it is taken.
    trouble: Option<StoreError>,
}

impl Persister {
    /// Takes the store to a thread of its own, and stores which life this is.
    pub(super) fn start(store: Store, generation: Generation) -> Self {
        let (work, queue) = channel();
        let (outcome, outcomes) = channel();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || run(store, &queue, &outcome))
            .expect("a process that just started can start a thread");
        let persister = Self {
            work: Some(work),
            outcomes,
            thread: Some(thread),
            under_way: false,
            has_more: true,
            next_batch: Instant::now(),
            trouble: None,
        };
        persister.set_generation(generation);
        persister
    }

    /// Hands the next batch to the thread, if it is idle and there is one.
    pub(super) fn advance(&mut self, catalogue: &mut Catalogue) {
        self.take_outcomes(catalogue);
        let now = Instant::now();
        self.has_more = true;
        if self.under_way || now < self.next_batch {
            return;
        }
        let writes = catalogue.take_writes(BATCH_RECORDS);
        self.has_more = !writes.is_empty();
        if self.has_more {
            self.next_batch = now + BATCH_SPACING;
            self.under_way = self.send(Work::Logs(writes));
        }
    }

    /// When [`Self::advance`] should be called again, whatever happens until then.
    pub(super) fn next_due(&self) -> Option<Instant> {
        match (self.under_way, self.has_more) {
            (true, _) => Some(Instant::now() + OUTCOME_LOOK),
            (false, true) => Some(self.next_batch),
            (false, false) => None,
        }
    }

    /// Remembers which life this is.
    pub(super) fn set_generation(&self, generation: Generation) {
        self.send(Work::Generation(generation));
    }

    /// Remembers where members are reached.
    pub(super) fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        self.send(Work::Addresses(addresses));
    }

    /// What went wrong since it was asked last. Everything is stored again later.
    pub(super) fn take_trouble(&mut self) -> Option<StoreError> {
        self.trouble.take()
    }

    /// Stores all that is left and ends the thread.
    pub(super) fn finish(&mut self, catalogue: &mut Catalogue) {
        loop {
            let writes = catalogue.take_writes(BATCH_RECORDS);
            if writes.is_empty() || !self.send(Work::Logs(writes)) {
                break;
            }
        }
        self.work = None;
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }

    fn take_outcomes(&mut self, catalogue: &mut Catalogue) {
        loop {
            match self.outcomes.try_recv() {
                Ok(Ok(())) => self.under_way = false,
                Ok(Err(error)) => {
                    self.under_way = false;
                    self.trouble = Some(error);
                    catalogue.store_anew();
                    self.next_batch = Instant::now() + RETRY_AFTER;
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }

    fn send(&self, work: Work) -> bool {
        self.work
            .as_ref()
            .is_some_and(|queue| queue.send(work).is_ok())
    }
}

/// How often the thread's outcome is looked for while a batch is under way.
const OUTCOME_LOOK: Duration = Duration::from_millis(50);
/// How long a store that failed is left alone: a full disk is not emptied in a moment.
const RETRY_AFTER: Duration = Duration::from_secs(30);

fn run(mut store: Store, queue: &Receiver<Work>, outcome: &Sender<Result<(), StoreError>>) {
    while let Ok(work) = queue.recv() {
        let done = match work {
            Work::Logs(writes) => {
                let done = store.write_logs(&writes);
                if outcome.send(done).is_err() {
                    tracing::debug!("the loop ended before the store's last batch");
                }
                continue;
            }
            Work::Generation(generation) => store.set_generation(generation),
            Work::Addresses(addresses) => store.set_addresses(&addresses),
        };
        if let Err(error) = done {
            tracing::debug!(%error, "a setting was not stored");
        }
    }
}
