//! The known files of legacy peers and their bytes. Start at [`RemoteFiles`].
//!
//! The bytes of such a file have no hash that could be checked. They are kept in separate files in
//! the folder `unverified` of the cache, and only reads of that file name return them. They never
//! reach the verified cache, the catalogue or another node. They are charged to the cache's budget
//! as they arrive.
//!
//! Each transfer has a destination of its own. A [`RemoteCopy`] stores it in a file, and several
//! opens share it. If the cache has no room, a [`Window`] keeps only the part that is being read,
//! in memory. A process never uses the copies of an earlier one, and removes them at its start.

mod copy;
mod window;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::run::PlaneQueue;
use super::tcp::{CopyError, Transfer};
use crate::wire::discovery::Name;
use p2pfs_content::UnverifiedRoom;
use p2pfs_fs::ReadNow;
use p2pfs_node::ForeignThrottle;

pub use copy::RemoteCopy;
pub use window::Window;

/// Maximum number of known files of legacy peers. The one found first is forgotten first.
pub const KNOWN_MAX: usize = 4096;
/// How long a transfer with a complete header waits for a reader before this node closes it.
const PARKED: Duration = Duration::from_secs(5);
/// How long a complete copy is kept for further opens. It is short, because the protocol does not
/// report when the peer changes its file.
const COPY_AGE: Duration = Duration::from_secs(10);
/// Maximum number of copies at once, each with a file and usually a connection. Further opens fail.
pub const COPIES_MAX: usize = 256;
/// Maximum number of windows at once. Each takes a few MiB of memory. Further opens fail with
/// [`CopyError::NoRoom`].
pub const WINDOWS_MAX: usize = 16;

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
    /// Transfer that waits for its reader.
    parked: Mutex<Option<Transfer>>,
    /// The latest copy, if it is still in use or kept.
    copy: tokio::sync::Mutex<Weak<RemoteCopy>>,
}

/// The known files. Clones share their state.
#[derive(Clone)]
pub struct RemoteFiles {
    store: Arc<RemoteFileStore>,
}

struct RemoteFileStore {
    dir: PathBuf,
    room: UnverifiedRoom,
    limit: ForeignThrottle,
    next: AtomicU64,
    places: Arc<Semaphore>,
    windows: Arc<Semaphore>,
    known: Mutex<BTreeMap<Name, Arc<RemoteFile>>>,
    /// Complete copies that are kept for further opens.
    kept: Mutex<Vec<Arc<RemoteCopy>>>,
    plane: PlaneQueue,
}

impl RemoteFiles {
    /// Opens an empty set that fetches files within the rate limit. Removes the copies of an
    /// earlier run from the folder, because nothing could verify them.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn open(
        room: UnverifiedRoom,
        limit: ForeignThrottle,
        plane: PlaneQueue,
    ) -> io::Result<Self> {
        let store = RemoteFileStore {
            dir: room.emptied_dir()?,
            room,
            limit,
            next: AtomicU64::new(1),
            places: Arc::new(Semaphore::new(COPIES_MAX)),
            windows: Arc::new(Semaphore::new(WINDOWS_MAX)),
            known: Mutex::default(),
            kept: Mutex::default(),
            plane,
        };
        Ok(Self {
            store: Arc::new(store),
        })
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
        transfer: Transfer,
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

    /// Records a failed transfer. If the failure is the peer's, the file is forgotten, unless
    /// another file is known by its name now. The next open then asks the legacy peers again and
    /// tries other peers first.
    pub fn failed(&self, file: &Arc<RemoteFile>, error: &CopyError) {
        if error.is_the_peers() {
            let mut known = self.store.known.lock();
            let now = known.get(&file.name);
            if now.is_some_and(|now| Arc::ptr_eq(now, file)) {
                known.remove(&file.name);
            }
        }
        let (file, error) = (file.clone(), error.clone());
        self.store
            .plane
            .try_call(move |plane| plane.handle_failure(&file, &error));
    }

    /// Forgets the files of a peer that is no longer a member, and returns their names.
    pub(super) fn forget_peer(&self, peer: SocketAddrV4) -> Vec<Name> {
        let mut known = self.store.known.lock();
        let gone = known.extract_if(.., |_, file| file.peer == peer);
        gone.map(|(name, _)| name).collect()
    }

    /// Opens a file for reading. Uses the latest copy if it is still in use or was completed
    /// within [`COPY_AGE`], and begins a transfer otherwise. If the cache has no room, the bytes
    /// stay in memory.
    ///
    /// # Errors
    /// [`CopyError`]. If the failure is the peer's, the file is forgotten.
    pub(super) async fn bytes(&self, file: &Arc<RemoteFile>) -> Result<RemoteBytes, CopyError> {
        match self.copy(file).await {
            Err(CopyError::NoRoom { .. }) => self.window(file).await.map(RemoteBytes::Window),
            copied => copied.map(RemoteBytes::Copy),
        }
    }

    /// Returns a copy of a file, as `bytes` does. If the peer now has a file of another
    /// size, that file replaces the known one.
    ///
    /// # Errors
    /// [`CopyError`], with [`CopyError::NoRoom`] if the cache has no room for a copy.
    pub async fn copy(&self, file: &Arc<RemoteFile>) -> Result<Arc<RemoteCopy>, CopyError> {
        let mut latest = file.copy.lock().await;
        if let Some(copy) = latest.upgrade().filter(|copy| !copy.has_failed()) {
            return Ok(copy);
        }
        self.check_room(file)?;
        let transfer = self.transfer(file).await?;
        if transfer.size_bytes() == file.size_bytes {
            let copy = self.start_copy(file, transfer)?;
            *latest = Arc::downgrade(&copy);
            return Ok(copy);
        }
        let (renewed, transfer) = self.renew(file, transfer);
        let copy = self.start_copy(&renewed, transfer)?;
        *renewed.copy.lock().await = Arc::downgrade(&copy);
        Ok(copy)
    }

    async fn window(&self, file: &Arc<RemoteFile>) -> Result<Arc<Window>, CopyError> {
        let size_bytes = file.size_bytes;
        let place = self.store.windows.clone().try_acquire_owned();
        let place = place.map_err(|_| self.fail(file, CopyError::NoRoom { size_bytes }))?;
        let transfer = self.transfer(file).await?;
        if transfer.size_bytes() == size_bytes {
            let window = Window::new(file.clone(), transfer, self.clone(), place);
            return Ok(Arc::new(window));
        }
        let (renewed, transfer) = self.renew(file, transfer);
        let window = Window::new(renewed, transfer, self.clone(), place);
        Ok(Arc::new(window))
    }

    /// Returns a transfer of a file: the one that waits for a reader since the file was found, else
    /// a new one.
    ///
    /// # Errors
    /// [`CopyError`] if no transfer begins; then the file is forgotten.
    pub async fn transfer(&self, file: &Arc<RemoteFile>) -> Result<Transfer, CopyError> {
        let parked = file.parked.lock().take();
        match parked {
            Some(transfer) => Ok(transfer),
            None => {
                let begun = self.begin(file.at, &file.name).await;
                begun.map_err(|error| self.fail(file, error))
            }
        }
    }

    /// Connects to a peer and begins the transfer of a file.
    ///
    /// # Errors
    /// [`CopyError`]; another responder may succeed.
    pub(super) async fn begin(&self, at: SocketAddrV4, name: &Name) -> Result<Transfer, CopyError> {
        Transfer::begin(at, name, self.store.limit.clone()).await
    }

    /// Replaces a file whose size changed by the one of this transfer, if the name is still known.
    fn renew(&self, file: &RemoteFile, transfer: Transfer) -> (Arc<RemoteFile>, Transfer) {
        let renewed = Arc::new(RemoteFile::of(file.name.clone(), file.peer, &transfer));
        if let Some(known) = self.store.known.lock().get_mut(&file.name) {
            *known = renewed.clone();
        }
        (renewed, transfer)
    }

    fn fail(&self, file: &Arc<RemoteFile>, error: CopyError) -> CopyError {
        self.failed(file, &error);
        error
    }

    fn check_room(&self, file: &RemoteFile) -> Result<(), CopyError> {
        let size_bytes = file.size_bytes;
        let could_hold = || self.store.room.could_hold(size_bytes);
        if could_hold() || (self.drop_kept() && could_hold()) {
            return Ok(());
        }
        Err(CopyError::NoRoom { size_bytes })
    }

    fn start_copy(
        &self,
        file: &Arc<RemoteFile>,
        transfer: Transfer,
    ) -> Result<Arc<RemoteCopy>, CopyError> {
        self.check_room(file)?;
        let enter = || self.store.places.clone().try_acquire_owned().ok();
        let place = enter().or_else(|| self.drop_kept().then(enter).flatten());
        let place = place.ok_or_else(|| self.fail(file, CopyError::Busy))?;
        let number = self.store.next.fetch_add(1, Ordering::Relaxed);
        let path = self.store.dir.join(number.to_string());
        let room = self.store.room.reservation();
        let started = RemoteCopy::start(transfer.size_bytes(), path, room, place);
        let (copy, writer) =
            started.map_err(|error| self.fail(file, CopyError::Disk(error.to_string())))?;
        let (files, file) = (self.clone(), Arc::downgrade(file));
        tokio::spawn(async move {
            let make_room = files.clone();
            let outcome = writer.carry(transfer, move || make_room.drop_kept()).await;
            match (&outcome, file.upgrade()) {
                (Some(Ok(())), Some(_)) => files.keep(writer).await,
                (Some(Err(error)), Some(file)) => {
                    files.failed(&file, error);
                    writer.end(Err(error.clone()));
                }
                (Some(outcome), None) => writer.end(outcome.clone()),
                (None, _) => {}
            }
        });
        Ok(copy)
    }

    /// Keeps a complete copy for [`COPY_AGE`].
    async fn keep(&self, writer: copy::CopyWriter) {
        let Some(copy) = writer.copy() else { return };
        let weak = Arc::downgrade(&copy);
        self.store.kept.lock().push(copy);
        writer.end(Ok(()));
        tokio::time::sleep(COPY_AGE).await;
        let mut kept = self.store.kept.lock();
        kept.retain(|copy| !std::ptr::eq(Arc::as_ptr(copy), weak.as_ptr()));
    }

    /// Stops keeping the complete copies, so that those without a reader are removed. Returns
    /// whether any was kept.
    fn drop_kept(&self) -> bool {
        !std::mem::take(&mut *self.store.kept.lock()).is_empty()
    }
}

impl RemoteFile {
    fn of(name: Name, peer: SocketAddrV4, transfer: &Transfer) -> Self {
        Self {
            name,
            size_bytes: transfer.size_bytes(),
            peer,
            at: transfer.at(),
            first_seen: SystemTime::now(),
            parked: Mutex::default(),
            copy: tokio::sync::Mutex::default(),
        }
    }

    /// Creates a file from a transfer that has begun. The transfer waits for [`PARKED`].
    fn parked(name: Name, peer: SocketAddrV4, transfer: Transfer) -> Arc<Self> {
        let file = Arc::new(Self::of(name, peer, &transfer));
        *file.parked.lock() = Some(transfer);
        let parked = Arc::downgrade(&file);
        tokio::spawn(async move {
            tokio::time::sleep(PARKED).await;
            if let Some(file) = parked.upgrade() {
                file.parked.lock().take();
            }
        });
        file
    }

    /// Returns how many bytes of the file a copy has.
    pub fn cached_bytes(&self) -> u64 {
        let copy = self.copy.try_lock().ok().and_then(|copy| copy.upgrade());
        copy.map_or(0, |copy| copy.written_bytes())
    }
}

/// The source of the bytes of one open of a legacy peer's file.
#[derive(Clone)]
pub(super) enum RemoteBytes {
    /// The whole file, in the cache's folder.
    Copy(Arc<RemoteCopy>),
    /// The part that is being read, in memory.
    Window(Arc<Window>),
}

impl RemoteBytes {
    /// Returns the size of the file in bytes.
    pub(super) fn size_bytes(&self) -> u64 {
        match self {
            Self::Copy(copy) => copy.size_bytes,
            Self::Window(window) => window.size_bytes,
        }
    }

    /// Fills the buffer if a copy has its bytes. For a window the caller must use [`Self::read`].
    pub(super) fn read_now(&self, offset: u64, buffer: &mut [u8]) -> ReadNow {
        match self {
            Self::Copy(copy) => copy.read_now(offset, buffer),
            Self::Window(_) => ReadNow::Wait,
        }
    }

    /// Waits until the bytes have arrived and returns them. Gives up when the peer makes no
    /// progress for `patience`, at least for twice [`CLOSE_WAIT`](super::tcp::CLOSE_WAIT).
    ///
    /// # Errors
    /// [`CopyError`] if the transfer failed or makes no progress.
    pub(super) async fn read(
        &self,
        offset: u64,
        length: usize,
        patience: Duration,
    ) -> Result<Bytes, CopyError> {
        match self {
            Self::Copy(copy) => copy.read(offset, length, patience).await,
            Self::Window(window) => window.read(offset, length, patience).await,
        }
    }
}
