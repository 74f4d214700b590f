//! Files of older peers: which are known, and the copies of them.
//!
//! Their bytes have no hash that could be checked. They live in files of their own under the
//! cache's `legacy/`, are given only to who asked for that very name, and never reach the cache,
//! the catalogue or another node. A copy is one transfer from one peer, under a temporary name
//! until it is whole. Nothing of it outlives the process.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::SocketAddrV4;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::sync::watch;

use crate::cache::{Cache, LEGACY_DIR};
use crate::fs::{FsError, ReadNow};
use crate::net::legacy::Transfer;
use crate::node::EventLog;
use crate::wire::legacy::Name;

/// Files of older peers that are known at one time; the one found first is forgotten first.
const KNOWN_MAX: usize = 4096;
/// How long a transfer whose header was read waits for somebody who wants its bytes.
const PARKED: Duration = Duration::from_secs(5);
/// How long a whole copy is used for further opens: the peer may have another file by then.
const COPY_AGE: Duration = Duration::from_secs(60);

/// Why a copy has no bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// The transfer failed; another may not.
    #[error("{0}")]
    Transfer(String),
    /// The peer has another file under that name by now.
    #[error("the older peer has another file under that name now")]
    Changed,
    /// It does not fit.
    #[error("no room in the cache for {size_bytes} bytes")]
    NoRoom {
        /// How many are needed.
        size_bytes: u64,
    },
    /// The local disk.
    #[error("the cache's disk: {0}")]
    Disk(String),
}

/// A file that an older peer has said to have.
#[derive(Debug)]
pub struct RemoteFile {
    /// Its name.
    pub name: Name,
    /// Its size as the header of its transfer says.
    pub size_bytes: u64,
    /// Who has it, by the address of its datagrams.
    pub peer: SocketAddrV4,
    /// Where it gives it.
    pub at: SocketAddrV4,
    /// When it was first heard of here: this protocol has no times of files.
    pub first_seen: SystemTime,
    parked: Mutex<Option<Transfer>>,
    copies: tokio::sync::Mutex<Copies>,
}

#[derive(Debug, Default)]
struct Copies {
    running: Weak<RemoteCopy>,
    whole: Option<(Instant, Arc<RemoteCopy>)>,
}

/// How far a transfer is.
#[derive(Clone, Debug, Default)]
struct Progress {
    written_bytes: u64,
    outcome: Option<Result<(), CopyError>>,
}

/// The bytes of one transfer. Dropping the last holder removes them and ends the transfer.
#[derive(Debug)]
pub struct RemoteCopy {
    /// How many bytes it has when it is whole.
    pub size_bytes: u64,
    file: Arc<File>,
    path: Mutex<PathBuf>,
    progress: watch::Receiver<Progress>,
    reserved: Reserved,
}

/// What is known. Clones are the same.
#[derive(Clone)]
pub struct RemoteFiles {
    shelf: Arc<Store>,
}

struct Store {
    dir: PathBuf,
    cache: Cache,
    events: EventLog,
    used_bytes: Arc<AtomicU64>,
    next: AtomicU64,
    known: Mutex<BTreeMap<Name, Arc<RemoteFile>>>,
}

impl RemoteFiles {
    /// An empty set; what an earlier run left in the folder is removed, as nothing could check it.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn open(cache_dir: &Path, cache: Cache, events: EventLog) -> io::Result<Self> {
        let dir = cache_dir.join(LEGACY_DIR);
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::create_dir_all(&dir)?;
        let store = Store {
            dir,
            cache,
            events,
            used_bytes: Arc::default(),
            next: AtomicU64::new(1),
            known: Mutex::default(),
        };
        Ok(Self {
            shelf: Arc::new(store),
        })
    }

    /// A file that is known.
    pub fn get(&self, name: &Name) -> Option<Arc<RemoteFile>> {
        self.known().get(name).cloned()
    }

    /// All that are known, by name.
    pub fn all(&self) -> Vec<Arc<RemoteFile>> {
        self.known().values().cloned().collect()
    }

    /// Takes note of a file whose transfer has begun; the transfer is kept for a moment.
    pub(super) fn found(
        &self,
        name: Name,
        peer: SocketAddrV4,
        transfer: Transfer,
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
        let mut known = self.known();
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
    pub fn forget(&self, file: &Arc<RemoteFile>) {
        let mut known = self.known();
        if known
            .get(&file.name)
            .is_some_and(|now| Arc::ptr_eq(now, file))
        {
            known.remove(&file.name);
        }
    }

    /// Forgets what a peer had that is a member no more.
    pub(super) fn forget_peer(&self, peer: SocketAddrV4) -> Vec<Name> {
        let mut known = self.known();
        let gone = known.values().filter(|file| file.peer == peer);
        let gone: Vec<Name> = gone.map(|file| file.name.clone()).collect();
        gone.iter().for_each(|name| {
            known.remove(name);
        });
        gone
    }

    /// The bytes of a file: those of a transfer that runs or has lately ended, else of a new one.
    ///
    /// # Errors
    /// [`CopyError`]; the next call tries anew.
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
        let transfer = match file.take_parked() {
            Some(transfer) => transfer,
            None => Transfer::begin(file.at, &file.name)
                .await
                .map_err(|error| CopyError::Transfer(error.to_string()))?,
        };
        if transfer.size_bytes() != file.size_bytes {
            self.forget(file);
            return Err(CopyError::Changed);
        }
        let copy = self.start(file, transfer)?;
        copies.running = Arc::downgrade(&copy);
        Ok(copy)
    }

    fn start(
        &self,
        file: &Arc<RemoteFile>,
        transfer: Transfer,
    ) -> Result<Arc<RemoteCopy>, CopyError> {
        let size_bytes = transfer.size_bytes();
        let reserved = self.reserve(size_bytes)?;
        let disk = |error: io::Error| CopyError::Disk(error.to_string());
        let number = self.shelf.next.fetch_add(1, Ordering::Relaxed);
        let path = self.shelf.dir.join(format!("{number}.part"));
        let opened = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path);
        let handle = Arc::new(opened.map_err(disk)?);
        let (progress, seen) = watch::channel(Progress::default());
        let copy = Arc::new(RemoteCopy {
            size_bytes,
            file: handle,
            path: Mutex::new(path),
            progress: seen,
            reserved,
        });
        let (owner, target) = (Arc::downgrade(file), Arc::downgrade(&copy));
        let events = self.shelf.events.clone();
        tokio::spawn(carry(transfer, target, owner, progress, events));
        Ok(copy)
    }

    /// Room within the cache's budget: unverified bytes are a guest there, and leave first.
    fn reserve(&self, size_bytes: u64) -> Result<Reserved, CopyError> {
        let usage = self.shelf.cache.usage();
        let free = usage.budget_bytes.saturating_sub(usage.used_bytes);
        let fits = || {
            let used = self.shelf.used_bytes.load(Ordering::Relaxed);
            used.saturating_add(size_bytes) <= free
        };
        if !fits() {
            for file in self.all() {
                if let Ok(mut copies) = file.copies.try_lock() {
                    copies.whole = None;
                }
            }
        }
        if !fits() {
            return Err(CopyError::NoRoom { size_bytes });
        }
        Ok(Reserved::new(&self.shelf.used_bytes, size_bytes))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<Name, Arc<RemoteFile>>> {
        let known = self.shelf.known.lock();
        known.unwrap_or_else(PoisonError::into_inner)
    }
}

impl RemoteFile {
    fn take_parked(&self) -> Option<Transfer> {
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        parked.take()
    }

    /// How many of its bytes are here.
    pub fn cached_bytes(&self) -> u64 {
        let Ok(copies) = self.copies.try_lock() else {
            return 0;
        };
        match (&copies.whole, copies.running.upgrade()) {
            (Some((_, whole)), _) => whole.size_bytes,
            (None, Some(running)) => running.progress.borrow().written_bytes,
            (None, None) => 0,
        }
    }
}

impl RemoteCopy {
    /// Waits until the bytes are there and gives them.
    ///
    /// # Errors
    /// [`CopyError`] where the transfer failed, at whatever byte.
    pub async fn read(&self, offset: u64, length: usize) -> Result<Bytes, CopyError> {
        let end = self.size_bytes.min(offset.saturating_add(length as u64));
        let mut progress = self.progress.clone();
        let is_there = |now: &Progress| now.written_bytes >= end || now.outcome.is_some();
        let reached = progress.wait_for(is_there).await;
        let reached = reached.map(|now| now.outcome.clone());
        match reached {
            Ok(Some(Err(error))) => return Err(error),
            Ok(_) => {}
            Err(_) => return Err(CopyError::Transfer("the transfer ended".to_owned())),
        }
        let (file, count) = (self.file.clone(), end.saturating_sub(offset));
        let read = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; usize::try_from(count).unwrap_or(0)];
            file.read_exact_at(&mut buffer, offset).map(|()| buffer)
        });
        match read.await {
            Ok(Ok(buffer)) => Ok(buffer.into()),
            Ok(Err(error)) => Err(CopyError::Disk(error.to_string())),
            Err(_) => Err(CopyError::Disk("the read did not end".to_owned())),
        }
    }

    /// Fills the buffer if its bytes are there.
    pub fn read_now(&self, offset: u64, buffer: &mut [u8]) -> ReadNow {
        let now = self.progress.borrow().clone();
        match now.outcome {
            Some(Err(_)) => ReadNow::Failed(FsError::Unreachable),
            _ if now.written_bytes < offset.saturating_add(buffer.len() as u64) => ReadNow::Wait,
            _ => match self.file.read_exact_at(buffer, offset) {
                Ok(()) => ReadNow::Done(buffer.len()),
                Err(_) => ReadNow::Failed(FsError::Disk),
            },
        }
    }

    /// Waits until the bytes are there, for as long as more come within each `patience`.
    ///
    /// # Errors
    /// As [`Self::read`]; where nothing comes, the same as a failed transfer.
    pub async fn read_with_patience(
        &self,
        offset: u64,
        length: usize,
        patience: Duration,
    ) -> Result<Bytes, CopyError> {
        let end = self.size_bytes.min(offset.saturating_add(length as u64));
        let mut progress = self.progress.clone();
        loop {
            let is_there = {
                let now = progress.borrow_and_update();
                now.written_bytes >= end || now.outcome.is_some()
            };
            if is_there {
                return self.read(offset, length).await;
            }
            match tokio::time::timeout(patience, progress.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return self.read(offset, length).await,
                Err(_) => return Err(CopyError::Transfer("nothing comes".to_owned())),
            }
        }
    }

    /// Waits until all bytes are there and the peer has kept its word to the end.
    ///
    /// # Errors
    /// [`CopyError`].
    pub async fn whole(&self) -> Result<(), CopyError> {
        let mut progress = self.progress.clone();
        let ended = progress.wait_for(|now| now.outcome.is_some()).await;
        let ended = ended.map(|now| now.outcome.clone());
        match ended {
            Ok(Some(outcome)) => outcome,
            _ => Err(CopyError::Transfer("the transfer ended".to_owned())),
        }
    }

    /// The file, to be read by itself; of use once it is whole.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn reopen(&self) -> io::Result<File> {
        let path = self.path.lock().unwrap_or_else(PoisonError::into_inner);
        File::open(&*path)
    }

    fn has_failed(&self) -> bool {
        matches!(self.progress.borrow().outcome, Some(Err(_)))
    }
}

impl Drop for RemoteCopy {
    fn drop(&mut self) {
        let path = self.path.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _gone_already = std::fs::remove_file(path);
    }
}

/// Carries a transfer into its copy for as long as somebody holds the copy.
async fn carry(
    mut transfer: Transfer,
    copy: Weak<RemoteCopy>,
    owner: Weak<RemoteFile>,
    progress: watch::Sender<Progress>,
    events: EventLog,
) {
    let outcome = loop {
        let part = match transfer.next().await {
            Ok(Some(part)) => part,
            Ok(None) => break Ok(()),
            Err(error) => break Err(CopyError::Transfer(error.to_string())),
        };
        let Some(copy) = copy.upgrade() else { return };
        let at = progress.borrow().written_bytes;
        let length = part.len() as u64;
        let file = copy.file.clone();
        let written = tokio::task::spawn_blocking(move || file.write_all_at(&part, at)).await;
        match written {
            Ok(Ok(())) => progress.send_modify(|now| now.written_bytes += length),
            Ok(Err(error)) => break Err(CopyError::Disk(error.to_string())),
            Err(_) => break Err(CopyError::Disk("the write did not end".to_owned())),
        }
    };
    let Some(copy) = copy.upgrade() else { return };
    let outcome = outcome.and_then(|()| copy.rename());
    let owner = owner.upgrade();
    if let (Err(error), Some(file)) = (&outcome, &owner) {
        events.warn(format!(
            "{} of the older peer {}: {error}",
            file.name, file.peer
        ));
    }
    if outcome.is_ok()
        && let Some(file) = owner
    {
        file.copies.lock().await.whole = Some((Instant::now(), copy.clone()));
    }
    progress.send_modify(|now| now.outcome = Some(outcome));
}

impl RemoteCopy {
    /// The final name, now that it is whole.
    fn rename(&self) -> Result<(), CopyError> {
        let mut path = self.path.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = path.with_extension("");
        std::fs::rename(&*path, &whole).map_err(|error| CopyError::Disk(error.to_string()))?;
        *path = whole;
        Ok(())
    }

    /// How many bytes of the budget it holds.
    pub fn reserved_bytes(&self) -> u64 {
        self.reserved.bytes
    }
}

/// Bytes of the budget, given back when dropped.
#[derive(Debug)]
struct Reserved {
    used: Arc<AtomicU64>,
    bytes: u64,
}

impl Reserved {
    fn new(used: &Arc<AtomicU64>, bytes: u64) -> Self {
        used.fetch_add(bytes, Ordering::Relaxed);
        Self {
            used: used.clone(),
            bytes,
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
