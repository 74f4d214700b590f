//! The basis of the mount tests: contents in memory, and a mount of them that cannot block a test.

mod foreign;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use p2pfs_cache::{Cache, CachedBytes, ReadOutcome, Stored};
use p2pfs_catalogue::View;
use p2pfs_fs::{
    Change, Content, FileVersion, ForeignFiles, FsError, LiveAttributes, OpenContent, Opened,
    PageDropper, ReadNow, ReadReply, ReadWait, Space, UpperFolder, WritableFolder, WriteRoom,
    Writing,
};
use p2pfs_fuse::Mount;
use p2pfs_proto::wire::native::record::{Entry, Kind, ShareIndex, Timestamp};
use p2pfs_types::digest::{self, ContentHash, Outboard};
use p2pfs_types::extent::ByteRange;
use p2pfs_types::path::SharedPath;
use p2pfs_types::read::ReadSupplier;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::process::HANG_LIMIT;
use super::two_catalogues::Namespace;
use foreign::ForeignPeer;

/// How a content behaves in a read.
#[derive(Clone, Debug)]
pub(crate) enum Behaviour {
    /// All bytes are here.
    Here(Arc<Vec<u8>>),
    /// All bytes are here, in a file that the kernel does not get.
    Stored(Arc<File>),
    /// The bytes are in a cache ([`Memory::cache`]). Bytes that it lost arrive on request.
    Cached(Arc<Vec<u8>>),
    /// The bytes arrive on request, from another thread.
    Fetched(Arc<Vec<u8>>),
    /// The bytes are in flight until a caller asks for the progress. Then they arrive.
    OnItsWay(Arc<Vec<u8>>),
    /// The bytes never arrive, and no error either.
    Never,
    /// A read fails at once.
    Broken(FsError),
    /// A read panics, like a bug in this program.
    Panics,
    /// Fewer bytes arrive than it has.
    Short,
    /// Has any stated length. Every eight bytes are the number of their offset.
    Numbered,
    /// An open blocks until [`Memory::open_gate`], like another bug in this program.
    OpensLate,
    /// An own file whose attributes block until [`Memory::open_gate`].
    LooksLate,
    /// A close blocks until [`Memory::open_gate`].
    ClosesLate,
    /// A read blocks until [`Memory::open_gate`], and then fails.
    ReadsLate,
}

/// A namespace and its bytes in memory.
pub(crate) struct Memory {
    state: Mutex<State>,
    changed: Condvar,
    next: AtomicU64,
    /// Number of reads that had to wait.
    pub waits: AtomicU64,
    /// Number of cancelled reads.
    pub cancels: AtomicU64,
    /// The room for what programs write; set before the first write.
    pub room: OnceLock<WriteRoom>,
}

struct State {
    namespace: Namespace,
    view: Arc<View>,
    contents: HashMap<ContentHash, Behaviour>,
    open: usize,
    cached: HashMap<ContentHash, u64>,
    backing: HashMap<ContentHash, Arc<File>>,
    cache: Option<Cache>,
    live: HashMap<ContentHash, PathBuf>,
    never: Vec<ReadReply>,
    foreign: ForeignPeer,
    folders: Arc<[Arc<WritableFolder>]>,
    /// Changes of deletions through the mount. The mount is notified of them at the next publish.
    deleted: Vec<Change>,
    on_their_way: HashMap<u64, (ReadReply, Bytes)>,
    late: usize,
    gate_is_open: bool,
}

struct Open {
    memory: Arc<Memory>,
    hash: ContentHash,
    live: Option<Arc<File>>,
}

/// Modification time of every file.
pub(crate) const MTIME: Timestamp = Timestamp {
    seconds: 1_700_000_000,
    nanoseconds: 123_456_789,
};

pub(crate) fn path(text: &str) -> SharedPath {
    SharedPath::new(text.as_bytes()).unwrap()
}

impl Memory {
    pub(crate) fn new() -> Arc<Self> {
        let mut namespace = Namespace::new();
        let view = namespace.near.view();
        let state = State {
            namespace,
            view,
            contents: HashMap::new(),
            open: 0,
            cached: HashMap::new(),
            backing: HashMap::new(),
            cache: None,
            live: HashMap::new(),
            never: Vec::new(),
            foreign: ForeignPeer::default(),
            folders: Arc::default(),
            deleted: Vec::new(),
            on_their_way: HashMap::new(),
            late: 0,
            gate_is_open: false,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            next: AtomicU64::new(1),
            waits: AtomicU64::new(0),
            cancels: AtomicU64::new(0),
            room: OnceLock::new(),
        })
    }

    fn put(&self, name: &str, kind: Kind) {
        let entry = Entry {
            kind,
            mtime: MTIME,
            version_time: MTIME,
            sent_by: None,
            replaces: Vec::new(),
        };
        self.put_entry(name.as_bytes(), entry);
    }

    /// Lists an entry unchanged.
    pub(crate) fn put_entry(&self, name: &[u8], entry: Entry) {
        let mut state = self.state.lock();
        let path = SharedPath::new(name).unwrap();
        state
            .namespace
            .far
            .own_mut()
            .put(ShareIndex(0), &path, entry)
            .unwrap();
    }

    /// Lists a file of this node, read live from `file`.
    pub(crate) fn own(&self, name: &str, file: &Path) -> ContentHash {
        let bytes = std::fs::read(file).unwrap();
        let (hash, size_bytes) = (ContentHash::of(&bytes), bytes.len() as u64);
        let kind = Kind::File {
            hash,
            size_bytes,
            executable: false,
        };
        let entry = Entry {
            kind,
            mtime: MTIME,
            version_time: MTIME,
            sent_by: None,
            replaces: Vec::new(),
        };
        let mut state = self.state.lock();
        state
            .namespace
            .near
            .own_mut()
            .put(ShareIndex(0), &path(name), entry)
            .unwrap();
        state.live.insert(hash, file.to_owned());
        hash
    }

    /// Lists a file whose bytes are all here. Returns its hash.
    pub(crate) fn file(&self, name: &str, bytes: Vec<u8>) -> ContentHash {
        let size = bytes.len() as u64;
        let bytes = Arc::new(bytes);
        self.behave(name, ContentHash::of(&bytes), size, Behaviour::Here(bytes))
    }

    /// Lists a file whose bytes are all in a cache. Later files are in the same cache.
    pub(crate) fn cache(&self, name: &str, cache: &Cache, bytes: Vec<u8>) -> ContentHash {
        let (outboard, size) = (Outboard::of(&bytes), bytes.len() as u64);
        let (hash, whole) = (outboard.hash, ByteRange::new(0, size));
        let proof = digest::encode(hash, size, whole, &bytes[..], &outboard.pairs[..]).unwrap();
        let verified = digest::decode(hash, size, whole, proof.into()).unwrap();
        let file = cache.file(hash, size).unwrap();
        assert_eq!(file.store(&verified).unwrap(), Stored::Kept);
        self.state.lock().cache = Some(cache.clone());
        self.behave(name, hash, size, Behaviour::Cached(Arc::new(bytes)))
    }

    /// Lists a file with this behaviour.
    pub(crate) fn behave(
        &self,
        name: &str,
        hash: ContentHash,
        size: u64,
        how: Behaviour,
    ) -> ContentHash {
        self.put(
            name,
            Kind::File {
                hash,
                size_bytes: size,
                executable: false,
            },
        );
        self.state.lock().contents.insert(hash, how);
        hash
    }

    /// Lists a file whose bytes never arrive.
    pub(crate) fn dead(&self, name: &str, size: u64) -> ContentHash {
        self.behave(
            name,
            ContentHash::of(name.as_bytes()),
            size,
            Behaviour::Never,
        )
    }

    /// Changes the behaviour of a content.
    pub(crate) fn turn(&self, hash: ContentHash, how: Behaviour) {
        self.state.lock().contents.insert(hash, how);
    }

    pub(crate) fn executable(&self, name: &str, bytes: Vec<u8>) {
        let hash = ContentHash::of(&bytes);
        let size_bytes = bytes.len() as u64;
        self.put(
            name,
            Kind::File {
                hash,
                size_bytes,
                executable: true,
            },
        );
        self.state
            .lock()
            .contents
            .insert(hash, Behaviour::Here(Arc::new(bytes)));
    }

    pub(crate) fn directory(&self, name: &str) {
        self.put(name, Kind::Directory);
    }

    pub(crate) fn symlink(&self, name: &str, target: &str) {
        self.put(
            name,
            Kind::Symlink {
                target: Bytes::copy_from_slice(target.as_bytes()),
            },
        );
    }

    pub(crate) fn remove(&self, name: &str) {
        let mut state = self.state.lock();
        assert!(
            state
                .namespace
                .far
                .own_mut()
                .remove(ShareIndex(0), &path(name))
        );
    }

    pub(crate) fn set_cached(&self, hash: ContentHash, bytes: u64) {
        self.state.lock().cached.insert(hash, bytes);
    }

    /// Lets the kernel read this content from that file.
    pub(crate) fn set_backing(&self, hash: ContentHash, file: File) {
        self.state.lock().backing.insert(hash, Arc::new(file));
    }

    /// Withdraws the file from which the kernel may read, as if it were damaged.
    pub(crate) fn lose_backing(&self, hash: ContentHash) {
        self.state.lock().backing.remove(&hash);
    }

    /// Lets programs write into a folder of the disk, whose files appear below a path. The other
    /// node lets them replace and delete its files.
    pub(crate) fn set_writable(&self, folder: &Path, place: SharedPath) {
        let mut state = self.state.lock();
        let upper = UpperFolder::new(Arc::new(File::open(folder).unwrap()));
        let folder = WritableFolder {
            share: ShareIndex(1),
            place,
            upper,
        };
        state.folders = Arc::new([Arc::new(folder)]);
        drop(state);
        self.set_open(true);
    }

    /// Sets whether the other node lets others replace and delete its files.
    pub(crate) fn set_open(&self, open: bool) {
        let mut state = self.state.lock();
        let mut far = state.namespace.far.own_mut();
        assert!(far.set_open(ShareIndex(0), open).unwrap());
    }

    /// Publishes the view and notifies the mount of the changes.
    pub(crate) fn publish(&self, mount: Option<&Mount>) {
        let (view, changes) = {
            let mut state = self.state.lock();
            let (view, changes) = state.namespace.merge();
            state.view = view.clone();
            let mut all = std::mem::take(&mut state.deleted);
            all.extend(changes);
            (view, all)
        };
        if let Some(mount) = mount {
            mount.invalidate(Some(view), changes);
        }
    }

    /// Waits until this many reads wait for bytes that never arrive.
    pub(crate) fn wait_for_stuck(&self, count: usize) {
        let mut state = self.state.lock();
        let waited = self
            .changed
            .wait_while_for(&mut state, |s| s.never.len() < count, HANG_LIMIT);
        assert!(!waited.timed_out(), "{count} reads never came to wait");
    }

    pub(crate) fn stuck(&self) -> usize {
        self.state.lock().never.len()
    }

    /// Drops the reads that wait, without a reply.
    pub(crate) fn drop_stuck(&self) {
        let stuck = std::mem::take(&mut self.state.lock().never);
        drop(stuck);
    }

    fn stand_still<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.late += 1;
        self.changed.notify_all();
        self.changed.wait_while(&mut state, |s| !s.gate_is_open);
        state
    }

    /// Waits until this many calls are blocked.
    pub(crate) fn wait_for_late(&self, count: usize) {
        let mut state = self.state.lock();
        let waited = self
            .changed
            .wait_while_for(&mut state, |s| s.late < count, HANG_LIMIT);
        assert!(
            !waited.timed_out(),
            "{count} calls never came to stand still"
        );
    }

    /// Unblocks the blocked calls.
    pub(crate) fn open_gate(&self) {
        self.state.lock().gate_is_open = true;
        self.changed.notify_all();
    }

    pub(crate) fn open_count(&self) -> usize {
        self.state.lock().open
    }
}

impl Content for Memory {
    fn view(&self) -> Arc<View> {
        self.state.lock().view.clone()
    }

    fn open(self: Arc<Self>, file: &FileVersion) -> Result<Opened, FsError> {
        let mut state = self.state.lock();
        if matches!(state.contents.get(&file.hash), Some(Behaviour::OpensLate)) {
            state = self.stand_still(state);
        }
        let live = state.live.get(&file.hash).cloned();
        let live = live.map(|path| Arc::new(File::open(path).unwrap()));
        let is_live = live.is_some();
        state.open += 1;
        drop(state);
        let open = Open {
            hash: file.hash,
            live,
            memory: self,
        };
        Ok(Opened {
            content: Arc::new(open),
            live: is_live,
        })
    }

    fn cached_bytes(&self, file: &FileVersion) -> u64 {
        self.state
            .lock()
            .cached
            .get(&file.hash)
            .copied()
            .unwrap_or(0)
    }

    fn live(&self, file: &FileVersion) -> Option<LiveAttributes> {
        use std::os::unix::fs::MetadataExt;
        let mut state = self.state.lock();
        if matches!(state.contents.get(&file.hash), Some(Behaviour::LooksLate)) {
            state = self.stand_still(state);
        }
        let path = state.live.get(&file.hash).cloned()?;
        drop(state);
        let found = std::fs::metadata(path).ok()?;
        let nanoseconds = u32::try_from(found.mtime_nsec()).unwrap();
        let mtime = Timestamp {
            seconds: found.mtime(),
            nanoseconds,
        };
        let executable = found.mode() & 0o100 != 0;
        Some(LiveAttributes {
            size_bytes: found.len(),
            mtime,
            executable,
        })
    }

    fn watch_damage(&self, drop_pages: PageDropper) {
        if let Some(cache) = &self.state.lock().cache {
            cache.add_damage_listener(drop_pages);
        }
    }

    fn foreign(&self) -> Option<&dyn ForeignFiles> {
        Some(self)
    }

    fn writing(&self) -> Option<&dyn Writing> {
        Some(self)
    }

    fn space(&self) -> Space {
        Space {
            budget_bytes: 10 << 30,
            used_bytes: 4 << 30,
        }
    }

    fn status_json(&self) -> Vec<u8> {
        br#"{"health":"good"}"#.to_vec()
    }
}

impl Writing for Memory {
    fn folders(&self) -> Arc<[Arc<WritableFolder>]> {
        self.state.lock().folders.clone()
    }

    fn room(&self) -> &WriteRoom {
        self.room.get_or_init(WriteRoom::default)
    }

    fn delete(&self, path: &SharedPath, contents: Vec<ContentHash>) -> Result<(), FsError> {
        let mut state = self.state.lock();
        let mut near = state.namespace.near.own_mut();
        near.delete(path, contents, SystemTime::now().into())
            .unwrap();
        let (view, changes) = state.namespace.merge();
        state.view = view;
        state.deleted.extend(changes);
        Ok(())
    }

    fn withdraw_deletion(&self, path: &SharedPath, content: ContentHash) -> Result<(), FsError> {
        let mut state = self.state.lock();
        let mut near = state.namespace.near.own_mut();
        near.withdraw_deletion(path, &[content]).unwrap();
        let (view, changes) = state.namespace.merge();
        state.view = view;
        state.deleted.extend(changes);
        Ok(())
    }
}

impl ReadSupplier for Memory {
    fn waits_until(&self, number: u64) -> Option<Instant> {
        let (reply, bytes) = self.state.lock().on_their_way.remove(&number)?;
        std::thread::spawn(move || reply(Ok(bytes)));
        Some(Instant::now())
    }

    fn cancel(self: Arc<Self>, _: u64) {
        self.cancels.fetch_add(1, Ordering::Relaxed);
    }
}

impl OpenContent for Open {
    fn read_now(&self, offset: u64, buffer: &mut [u8]) -> ReadNow {
        let state = self.memory.state.lock();
        let how = state.contents.get(&self.hash).cloned();
        if matches!(how, Some(Behaviour::ReadsLate)) {
            drop(self.memory.stand_still(state));
            return ReadNow::Failed(FsError::Disk);
        }
        let cache = state.cache.clone();
        drop(state);
        if let Some(file) = &self.live {
            use std::os::unix::fs::FileExt;
            return ReadNow::Done(file.read_at(buffer, offset).unwrap());
        }
        match how {
            Some(Behaviour::Here(bytes)) => {
                let start = offset as usize;
                buffer.copy_from_slice(&bytes[start..start + buffer.len()]);
                ReadNow::Done(buffer.len())
            }
            Some(Behaviour::Numbered) => {
                for (byte, place) in buffer.iter_mut().zip(offset..) {
                    *byte = (place / 8 * 8).to_le_bytes()[place as usize % 8];
                }
                ReadNow::Done(buffer.len())
            }
            Some(Behaviour::Stored(file)) => {
                use std::os::unix::fs::FileExt;
                file.read_exact_at(buffer, offset).unwrap();
                ReadNow::Done(buffer.len())
            }
            Some(Behaviour::Cached(_)) => {
                let file = cache.unwrap().existing(&self.hash).unwrap().unwrap();
                match file.read_at(offset, buffer).unwrap() {
                    ReadOutcome::Ready(length) => ReadNow::Done(length),
                    ReadOutcome::Missing(_) => ReadNow::Wait,
                }
            }
            Some(Behaviour::Broken(error)) => ReadNow::Failed(error),
            Some(Behaviour::Panics) => panic!("a bug in reading (on purpose)"),
            Some(Behaviour::Short) => ReadNow::Done(buffer.len() - 1),
            None => ReadNow::Failed(FsError::Gone),
            Some(_) => ReadNow::Wait,
        }
    }

    fn read(&self, range: ByteRange, _ahead: bool, reply: ReadReply) -> ReadWait {
        let memory = &self.memory;
        memory.waits.fetch_add(1, Ordering::Relaxed);
        let mut state = memory.state.lock();
        let number = memory.next.fetch_add(1, Ordering::Relaxed);
        match state.contents[&self.hash].clone() {
            Behaviour::OnItsWay(bytes) => {
                let part = bytes[range.start as usize..range.end as usize].to_vec();
                state.on_their_way.insert(number, (reply, part.into()));
            }
            Behaviour::Fetched(bytes) | Behaviour::Cached(bytes) => {
                let part = bytes[range.start as usize..range.end as usize].to_vec();
                *state.cached.entry(self.hash).or_default() += part.len() as u64;
                std::thread::spawn(move || reply(Ok(Bytes::from(part))));
            }
            _ => state.never.push(reply),
        }
        memory.changed.notify_all();
        ReadWait::new(memory.clone(), number)
    }

    fn backing(&self) -> Option<Arc<File>> {
        let complete = || self.memory.state.lock().backing.get(&self.hash).cloned();
        self.live.clone().or_else(complete)
    }

    fn missing_bytes(&self, range: ByteRange) -> u64 {
        match self.memory.state.lock().contents.get(&self.hash) {
            Some(Behaviour::Here(_)) => 0,
            _ => range.len(),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.memory.state.lock();
        if matches!(state.contents.get(&self.hash), Some(Behaviour::ClosesLate)) {
            state = self.memory.stand_still(state);
        }
        state.open -= 1;
        self.memory.changed.notify_all();
    }
}
