//! Files of legacy peers: which are known, and the copies of them.
//!
//! Their bytes have no hash that could be checked. They live in files of their own under the
//! cache's `legacy/`, are given only to who asked for that very name, and never reach the cache,
//! the catalogue or another node. They are charged to the cache's budget byte by byte as they come.
//! A copy is one transfer from one peer, under a temporary name until it is whole. Nothing of it
//! outlives the process.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::copy::{Carrier, RemoteCopy};
use super::error::CopyError;
use super::incoming::Incoming;
use crate::traffic::Passage;
use p2pfs_cache::{Cache, LEGACY_DIR};
use p2pfs_legacy::net::discovery::LegacyError;
use p2pfs_legacy::wire::discovery::Name;

/// Files of legacy peers that are known at one time; the one found first is forgotten first.
pub const KNOWN_MAX: usize = 4096;
/// How long a transfer whose header was read waits for somebody who wants its bytes.
const PARKED: Duration = Duration::from_secs(5);
/// How long a whole copy is used for further opens, and kept: the peer may have another file by
/// then, and nothing in its protocol would say so.
pub const COPY_AGE: Duration = Duration::from_secs(10);
/// Copies at one time, each with a file and mostly a connection; an open beyond it fails.
pub const COPIES_MAX: usize = 256;
/// Windows at one time. Each has a few MiB of memory; an open beyond it has no room.
pub const WINDOWS_MAX: usize = 16;
/// Failures that wait for the plane to take note of them; further ones are not counted.
const FAILURES_MAX: usize = 256;

/// A file that a legacy peer has said to have.
#[derive(Debug)]
pub struct RemoteFile {
    pub name: Name,
    /// Its size as the header of its transfer says.
    pub size_bytes: u64,
    /// Who has it, by the address of its datagrams.
    pub peer: SocketAddrV4,
    /// Where it gives it.
    pub at: SocketAddrV4,
    /// When it was first heard of here: this protocol has no times of files.
    pub first_seen: SystemTime,
    parked: Mutex<Option<Incoming>>,
    copies: tokio::sync::Mutex<Copies>,
}

#[derive(Debug, Default)]
struct Copies {
    running: Weak<RemoteCopy>,
    whole: Option<(Instant, Arc<RemoteCopy>)>,
}

/// A transfer that failed: its file is not known any more.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) file: Arc<RemoteFile>,
    pub(super) error: CopyError,
}

/// What is known. Clones are the same.
#[derive(Clone)]
pub struct RemoteFiles {
    store: Arc<Store>,
}

struct Store {
    dir: PathBuf,
    cache: Cache,
    passage: Passage,
    next: AtomicU64,
    places: Arc<Semaphore>,
    windows: Arc<Semaphore>,
    known: Mutex<BTreeMap<Name, Arc<RemoteFile>>>,
    failures: mpsc::Sender<Failed>,
    failures_taken: Mutex<Option<mpsc::Receiver<Failed>>>,
}

impl RemoteFiles {
    /// An empty set, into which files come through `passage`; what an earlier run left in the
    /// folder is removed, as nothing could check it.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn open(cache_dir: &Path, cache: Cache, passage: Passage) -> io::Result<Self> {
        let dir = cache_dir.join(LEGACY_DIR);
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::create_dir_all(&dir)?;
        let (failures, taken) = mpsc::channel(FAILURES_MAX);
        let store = Store {
            dir,
            cache,
            passage,
            next: AtomicU64::new(1),
            places: Arc::new(Semaphore::new(COPIES_MAX)),
            windows: Arc::new(Semaphore::new(WINDOWS_MAX)),
            known: Mutex::default(),
            failures,
            failures_taken: Mutex::new(Some(taken)),
        };
        Ok(Self {
            store: Arc::new(store),
        })
    }

    /// The transfers that fail from now on; none after the first call.
    pub(super) fn take_failures(&self) -> Option<mpsc::Receiver<Failed>> {
        let mut taken = self.store.failures_taken.lock();
        taken.take()
    }

    /// A file that is known.
    pub fn get(&self, name: &Name) -> Option<Arc<RemoteFile>> {
        self.store.known.lock().get(name).cloned()
    }

    /// All that are known, by name.
    pub fn all(&self) -> Vec<Arc<RemoteFile>> {
        self.store.known.lock().values().cloned().collect()
    }

    /// Takes note of a file whose transfer has begun; the transfer is kept for a moment.
    pub(super) fn found(
        &self,
        name: Name,
        peer: SocketAddrV4,
        transfer: Incoming,
    ) -> Arc<RemoteFile> {
        let file = Arc::new(RemoteFile {
            name: name.clone(),
            size_bytes: transfer.size_bytes(),
            peer,
            at: transfer.at(),
            first_seen: SystemTime::now(),
            parked: Mutex::new(Some(transfer)),
            copies: tokio::sync::Mutex::default(),
        });
        let parked = Arc::downgrade(&file);
        tokio::spawn(async move {
            tokio::time::sleep(PARKED).await;
            if let Some(file) = parked.upgrade() {
                file.take_parked();
            }
        });
        let mut known = self.store.known.lock();
        if known.len() >= KNOWN_MAX {
            let first = known.values().min_by_key(|file| file.first_seen);
            if let Some(name) = first.map(|file| file.name.clone()) {
                known.remove(&name);
            }
        }
        known.insert(name, file.clone());
        file
    }

    /// Forgets a file, if it is still the one that is known.
    fn forget(&self, file: &Arc<RemoteFile>) {
        let mut known = self.store.known.lock();
        if known
            .get(&file.name)
            .is_some_and(|now| Arc::ptr_eq(now, file))
        {
            known.remove(&file.name);
        }
    }

    /// A transfer failed: the next open asks anew, and others than this peer first.
    pub fn failed(&self, file: &Arc<RemoteFile>, error: &CopyError) {
        if error.is_the_peers() {
            self.forget(file);
        }
        let failed = Failed {
            file: file.clone(),
            error: error.clone(),
        };
        let _full_or_stopping = self.store.failures.try_send(failed);
    }

    /// Forgets what a peer had that is a member no more.
    pub(super) fn forget_peer(&self, peer: SocketAddrV4) -> Vec<Name> {
        let mut known = self.store.known.lock();
        let gone = known.values().filter(|file| file.peer == peer);
        let gone: Vec<Name> = gone.map(|file| file.name.clone()).collect();
        gone.iter().for_each(|name| {
            known.remove(name);
        });
        gone
    }

    /// The bytes of a file: those of a transfer that runs or ended within [`COPY_AGE`], else of a
    /// new one. Where the peer has a file of another size by now, that one is known from now on.
    ///
    /// # Errors
    /// [`CopyError`]; where it is the peer's the file is forgotten. Where there is no room a
    /// window needs none.
    pub async fn copy(&self, file: &Arc<RemoteFile>) -> Result<Arc<RemoteCopy>, CopyError> {
        let mut copies = file.copies.lock().await;
        if let Some((at, whole)) = &copies.whole
            && at.elapsed() < COPY_AGE
        {
            return Ok(whole.clone());
        }
        if let Some(running) = copies.running.upgrade().filter(|copy| !copy.has_failed()) {
            return Ok(running);
        }
        copies.whole = None;
        self.check_room(file)?;
        let transfer = self.transfer(file).await?;
        if transfer.size_bytes() == file.size_bytes {
            let copy = self.start(file, transfer)?;
            copies.running = Arc::downgrade(&copy);
            return Ok(copy);
        }
        let renewed = self.found(file.name.clone(), file.peer, transfer);
        let mut copies = renewed.copies.lock().await;
        let Some(transfer) = renewed.take_parked() else {
            return Err(CopyError::Refused);
        };
        let copy = self.start(&renewed, transfer)?;
        copies.running = Arc::downgrade(&copy);
        Ok(copy)
    }

    /// Dials a peer for a file.
    ///
    /// # Errors
    /// [`LegacyError`]; another responder may do better.
    pub(super) async fn begin(
        &self,
        at: SocketAddrV4,
        name: &Name,
    ) -> Result<Incoming, LegacyError> {
        Incoming::begin(at, name, self.store.passage.clone()).await
    }

    /// A transfer of a file, to be carried elsewhere than into a copy.
    ///
    /// # Errors
    /// [`CopyError`] where it does not begin; the file is forgotten then.
    pub async fn transfer(&self, file: &Arc<RemoteFile>) -> Result<Incoming, CopyError> {
        let begun = match file.take_parked() {
            Some(transfer) => Ok(transfer),
            None => self.begin(file.at, &file.name).await,
        };
        begun.map_err(|error| {
            let error = CopyError::from(error);
            self.failed(file, &error);
            error
        })
    }

    /// A place for one more window onto a transfer.
    ///
    /// # Errors
    /// [`CopyError::NoRoom`] where there are [`WINDOWS_MAX`].
    pub(super) fn place_of_window(
        &self,
        file: &Arc<RemoteFile>,
    ) -> Result<OwnedSemaphorePermit, CopyError> {
        let size_bytes = file.size_bytes;
        let place = self.store.windows.clone().try_acquire_owned();
        place.map_err(|_| {
            let error = CopyError::NoRoom { size_bytes };
            self.failed(file, &error);
            error
        })
    }

    fn check_room(&self, file: &RemoteFile) -> Result<(), CopyError> {
        let size_bytes = file.size_bytes;
        let could_hold = || self.store.cache.could_hold(size_bytes);
        if could_hold() || (self.drop_unused() && could_hold()) {
            return Ok(());
        }
        Err(CopyError::NoRoom { size_bytes })
    }

    fn start(
        &self,
        file: &Arc<RemoteFile>,
        transfer: Incoming,
    ) -> Result<Arc<RemoteCopy>, CopyError> {
        self.check_room(file)?;
        let enter = || self.store.places.clone().try_acquire_owned().ok();
        let place = enter().or_else(|| self.drop_unused().then(enter).flatten());
        let Some(place) = place else {
            self.failed(file, &CopyError::Busy);
            return Err(CopyError::Busy);
        };
        let number = self.store.next.fetch_add(1, Ordering::Relaxed);
        let path = self.store.dir.join(format!("{number}.part"));
        let room = self.store.cache.reservation();
        let started = RemoteCopy::start(transfer.size_bytes(), path, room, place);
        let (copy, carrier) = started.map_err(|error| {
            let error = CopyError::Disk(error.to_string());
            self.failed(file, &error);
            error
        })?;
        tokio::spawn(self.clone().carry(Arc::downgrade(file), carrier, transfer));
        Ok(copy)
    }

    /// Carries a transfer into its copy, and keeps that or takes note of what failed, also where
    /// nobody waits for it any more.
    async fn carry(self, file: Weak<RemoteFile>, carrier: Carrier, transfer: Incoming) {
        let files = self.clone();
        let Some(outcome) = carrier.carry(transfer, move || files.drop_unused()).await else {
            return;
        };
        match (&outcome, carrier.copy(), file.upgrade()) {
            (Ok(()), Some(copy), Some(file)) => file.keep_whole(&copy).await,
            (Err(error), _, Some(file)) => self.failed(&file, error),
            _ => {}
        }
        carrier.end(outcome);
    }

    /// Lets go of whole copies that nobody has open: they leave first. Says whether there were any.
    fn drop_unused(&self) -> bool {
        let mut dropped = false;
        for file in self.all() {
            if let Ok(mut copies) = file.copies.try_lock() {
                dropped |= copies.whole.take().is_some();
            }
        }
        dropped
    }
}

impl RemoteFile {
    pub(super) fn take_parked(&self) -> Option<Incoming> {
        let mut parked = self.parked.lock();
        parked.take()
    }

    /// Keeps a whole copy for further opens, for [`COPY_AGE`].
    async fn keep_whole(self: &Arc<Self>, copy: &Arc<RemoteCopy>) {
        self.copies.lock().await.whole = Some((Instant::now(), copy.clone()));
        let (file, copy) = (Arc::downgrade(self), Arc::downgrade(copy));
        tokio::spawn(async move {
            tokio::time::sleep(COPY_AGE).await;
            let Some(file) = file.upgrade() else { return };
            let mut copies = file.copies.lock().await;
            let is_same = |(_, whole): &(Instant, Arc<RemoteCopy>)| {
                std::ptr::eq(Arc::as_ptr(whole), copy.as_ptr())
            };
            copies.whole.take_if(|whole| is_same(whole));
        });
    }

    /// How many of its bytes are here.
    pub fn cached_bytes(&self) -> u64 {
        let Ok(copies) = self.copies.try_lock() else {
            return 0;
        };
        match (&copies.whole, copies.running.upgrade()) {
            (Some((_, whole)), _) => whole.size_bytes,
            (None, Some(running)) => running.written_bytes(),
            (None, None) => 0,
        }
    }
}
