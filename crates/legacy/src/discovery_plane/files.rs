//! The known files of legacy peers and the copies of them. Start at [`RemoteFiles`].
//!
//! The bytes of such a file have no hash that could be checked. They are kept in separate files in
//! the folder `unverified` of the cache, and only reads of that file name return them. They never
//! reach the verified cache, the catalogue or another node. They are charged to the cache's budget
//! as they arrive.
//!
//! A copy ([`RemoteCopy`]) has the bytes of one transfer from one peer, under a temporary name
//! until the transfer is complete. A process never uses the copies of an earlier one, and removes
//! them at its start.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::copy::{CopyWriter, RemoteCopy};
use super::error::CopyError;
use super::incoming::ThrottledTransfer;
use super::window::Window;
use crate::net::discovery::LegacyError;
use crate::wire::discovery::Name;
use p2pfs_content::UnverifiedRoom;
use p2pfs_node::ForeignThrottle;

/// Maximum number of known files of legacy peers. The one found first is forgotten first.
pub const KNOWN_MAX: usize = 4096;
/// How long a transfer with a complete header waits for a reader before this node closes it.
const PARKED: Duration = Duration::from_secs(5);
/// How long a complete copy is kept and used for further opens. It is short, because the protocol
/// does not report when the peer changes its file.
pub const COPY_AGE: Duration = Duration::from_secs(10);
/// Maximum number of copies at once, each with a file and usually a connection. Further opens fail.
pub const COPIES_MAX: usize = 256;
/// Maximum number of windows ([`RemoteBytes::Window`](super::RemoteBytes::Window)) at once. Each
/// takes a few MiB of memory. Further opens fail with [`CopyError::NoRoom`].
pub const WINDOWS_MAX: usize = 16;
/// Maximum number of failures queued for the plane. Further ones are neither reported nor counted.
const FAILURES_MAX: usize = 256;

/// A file that a legacy peer has announced.
#[derive(Debug)]
pub struct RemoteFile {
    /// Base name under which the peer serves the file.
    pub name: Name,
    /// Size in the header of the transfer.
    pub size_bytes: u64,
    /// The peer that has the file, by the address of its datagrams.
    pub peer: SocketAddrV4,
    /// The address at which the peer serves the file.
    pub at: SocketAddrV4,
    /// The time when this node learned of the file. The protocol has no file times.
    pub first_seen: SystemTime,
    parked: Mutex<Option<ThrottledTransfer>>,
    copies: tokio::sync::Mutex<FileCopies>,
}

#[derive(Debug, Default)]
struct FileCopies {
    running: Weak<RemoteCopy>,
    whole: Option<(Instant, Arc<RemoteCopy>)>,
}

/// A failed transfer. Its file is no longer known if the failure is the peer's fault.
#[derive(Debug)]
pub(super) struct FailedTransfer {
    pub(super) file: Arc<RemoteFile>,
    pub(super) error: CopyError,
}

/// The known files. Clones share their state.
#[derive(Clone)]
pub struct RemoteFiles {
    store: Arc<RemoteFileStore>,
}

struct RemoteFileStore {
    dir: PathBuf,
    room: UnverifiedRoom,
    passage: ForeignThrottle,
    next: AtomicU64,
    places: Arc<Semaphore>,
    windows: Arc<Semaphore>,
    known: Mutex<BTreeMap<Name, Arc<RemoteFile>>>,
    failures: mpsc::Sender<FailedTransfer>,
    failures_taken: Mutex<Option<mpsc::Receiver<FailedTransfer>>>,
}

impl RemoteFiles {
    /// Opens an empty set that fetches files within the rate limit `passage`. Removes the copies of
    /// an earlier run from the folder, because nothing could verify them.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn open(room: UnverifiedRoom, passage: ForeignThrottle) -> io::Result<Self> {
        let dir = room.emptied_dir()?;
        let (failures, taken) = mpsc::channel(FAILURES_MAX);
        let store = RemoteFileStore {
            dir,
            room,
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

    /// Takes the receiver of failed transfers. Returns `None` after the first call.
    pub(super) fn take_failures(&self) -> Option<mpsc::Receiver<FailedTransfer>> {
        let mut taken = self.store.failures_taken.lock();
        taken.take()
    }

    /// Returns a known file.
    pub fn get(&self, name: &Name) -> Option<Arc<RemoteFile>> {
        self.store.known.lock().get(name).cloned()
    }

    /// Returns all known files, ordered by name.
    pub fn all(&self) -> Vec<Arc<RemoteFile>> {
        self.store.known.lock().values().cloned().collect()
    }

    /// Records a file whose transfer has begun. The transfer waits for a reader, at most for
    /// [`PARKED`]. Also returns the name of the file that made room for it, if one did.
    pub(super) fn found(
        &self,
        name: Name,
        peer: SocketAddrV4,
        transfer: ThrottledTransfer,
    ) -> (Arc<RemoteFile>, Option<Name>) {
        let file = RemoteFile::parked(name.clone(), peer, transfer);
        let mut known = self.store.known.lock();
        let mut evicted = None;
        if known.len() >= KNOWN_MAX && !known.contains_key(&name) {
            let first = known.values().min_by_key(|file| file.first_seen);
            evicted = first.map(|file| file.name.clone());
            evicted.iter().for_each(|name| drop(known.remove(name)));
        }
        known.insert(name, file.clone());
        (file, evicted)
    }

    /// Replaces a file whose size changed by one with this transfer, if the name is still known.
    fn renew(&self, file: &RemoteFile, transfer: ThrottledTransfer) -> Arc<RemoteFile> {
        let renewed = RemoteFile::parked(file.name.clone(), file.peer, transfer);
        if let Some(known) = self.store.known.lock().get_mut(&file.name) {
            *known = renewed.clone();
        }
        renewed
    }

    /// Forgets a file, unless another file is known by its name now.
    fn forget(&self, file: &Arc<RemoteFile>) {
        let mut known = self.store.known.lock();
        if known
            .get(&file.name)
            .is_some_and(|now| Arc::ptr_eq(now, file))
        {
            known.remove(&file.name);
        }
    }

    /// Records a failed transfer. If the failure is the peer's, the file is forgotten. The next
    /// open then asks the legacy peers again and tries other peers first.
    pub fn failed(&self, file: &Arc<RemoteFile>, error: &CopyError) {
        if error.is_the_peers() {
            self.forget(file);
        }
        let failed = FailedTransfer {
            file: file.clone(),
            error: error.clone(),
        };
        let _full_or_stopping = self.store.failures.try_send(failed);
    }

    /// Forgets the files of a peer that is no longer a member, and returns their names.
    pub(super) fn forget_peer(&self, peer: SocketAddrV4) -> Vec<Name> {
        let mut known = self.store.known.lock();
        let gone = known.values().filter(|file| file.peer == peer);
        let gone: Vec<Name> = gone.map(|file| file.name.clone()).collect();
        gone.iter().for_each(|name| {
            known.remove(name);
        });
        gone
    }

    /// Returns a copy of a file: one that was completed within [`COPY_AGE`], else one in progress,
    /// else a new one. If the peer now has a file of another size, that file replaces the known
    /// one.
    ///
    /// # Errors
    /// [`CopyError`]. If the failure is the peer's, the file is forgotten. After
    /// [`CopyError::NoRoom`], [`Self::window`] may still succeed.
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
        let renewed = self.renew(file, transfer);
        let mut copies = renewed.copies.lock().await;
        let Some(transfer) = renewed.take_parked() else {
            return Err(CopyError::Refused);
        };
        let copy = self.start(&renewed, transfer)?;
        copies.running = Arc::downgrade(&copy);
        Ok(copy)
    }

    /// Connects to a peer and begins the transfer of a file.
    ///
    /// # Errors
    /// [`LegacyError`]; another responder may succeed.
    pub(super) async fn begin(
        &self,
        at: SocketAddrV4,
        name: &Name,
    ) -> Result<ThrottledTransfer, LegacyError> {
        ThrottledTransfer::begin(at, name, self.store.passage.clone()).await
    }

    /// Returns a transfer of a file: the one that waits for a reader since the file was found, else
    /// a new one.
    ///
    /// # Errors
    /// [`CopyError`] if no transfer begins; then the file is forgotten.
    pub async fn transfer(&self, file: &Arc<RemoteFile>) -> Result<ThrottledTransfer, CopyError> {
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

    /// Opens a window on a file: a transfer that is read as it arrives, without a copy.
    ///
    /// # Errors
    /// [`CopyError`]; [`CopyError::NoRoom`] if the maximum number of windows is open.
    pub async fn window(&self, file: &Arc<RemoteFile>) -> Result<Arc<Window>, CopyError> {
        let place = self.place_of_window(file)?;
        let transfer = self.transfer(file).await?;
        if transfer.size_bytes() == file.size_bytes {
            let window = Window::new(file.clone(), transfer, self.clone(), place);
            return Ok(Arc::new(window));
        }
        let renewed = self.renew(file, transfer);
        let transfer = renewed.take_parked().ok_or(CopyError::Refused)?;
        let window = Window::new(renewed, transfer, self.clone(), place);
        Ok(Arc::new(window))
    }

    /// Takes a slot for one more window.
    ///
    /// # Errors
    /// [`CopyError::NoRoom`] if [`WINDOWS_MAX`] windows are open.
    fn place_of_window(&self, file: &Arc<RemoteFile>) -> Result<OwnedSemaphorePermit, CopyError> {
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
        let could_hold = || self.store.room.could_hold(size_bytes);
        if could_hold() || (self.drop_unused() && could_hold()) {
            return Ok(());
        }
        Err(CopyError::NoRoom { size_bytes })
    }

    fn start(
        &self,
        file: &Arc<RemoteFile>,
        transfer: ThrottledTransfer,
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
        let room = self.store.room.reservation();
        let started = RemoteCopy::start(transfer.size_bytes(), path, room, place);
        let (copy, carrier) = started.map_err(|error| {
            let error = CopyError::Disk(error.to_string());
            self.failed(file, &error);
            error
        })?;
        tokio::spawn(self.clone().carry(Arc::downgrade(file), carrier, transfer));
        Ok(copy)
    }

    /// Carries a transfer into its copy. Then keeps the complete copy, or records the failure, even
    /// if no reader waits.
    async fn carry(self, file: Weak<RemoteFile>, carrier: CopyWriter, transfer: ThrottledTransfer) {
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

    /// Stops keeping the complete copies, so that those without a reader are removed. Returns
    /// whether any complete copy was kept.
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
    /// Creates a file from a transfer that has begun. The transfer waits for [`PARKED`].
    fn parked(name: Name, peer: SocketAddrV4, transfer: ThrottledTransfer) -> Arc<Self> {
        let file = Arc::new(Self {
            name,
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
        file
    }

    fn take_parked(&self) -> Option<ThrottledTransfer> {
        let mut parked = self.parked.lock();
        parked.take()
    }

    /// Keeps a complete copy for further opens, for [`COPY_AGE`].
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

    /// Returns how many bytes of the file a copy has.
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
