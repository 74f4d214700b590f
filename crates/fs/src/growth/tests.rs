//! Tests of `growth`.

#[path = "../../../../tests/support/two_catalogues.rs"]
mod two_catalogues;

use std::fs::File;
use std::io;

use two_catalogues::Namespace;

use super::*;
use crate::error::FsError;
use crate::files::Caching;
use crate::filesystem::{Filesystem, Options};
use crate::handles::ReadStep;
use crate::inode::ROOT_INO;
use crate::traits::{
    Around, BackingFile, BackingFiles, Content, Invalidator, LiveAttributes, OpenContent, Opened,
    ReadNow, ReadReply, ReadTicket, Space,
};
use p2pfs_proto::wire::native::record::{Entry, Kind, ShareIndex, Timestamp};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::path::SharedPath;

/// A file `log` of another node, with all its versions.
struct Log {
    namespace: Mutex<Namespace>,
    view: Mutex<Arc<View>>,
    versions: Mutex<HashMap<ContentHash, Vec<u8>>>,
    /// Data file of every version that is opened from now on.
    backing: Mutex<Option<Arc<File>>>,
    /// The proofs that have no answer yet, if answers are held back.
    held: Mutex<Option<Vec<GrowthReply>>>,
}

struct OpenLog {
    bytes: Vec<u8>,
    backing: Option<Arc<File>>,
}

impl Log {
    fn new() -> Arc<Self> {
        let mut namespace = Namespace::new();
        let view = Mutex::new(namespace.near.view());
        Arc::new(Self {
            namespace: namespace.into(),
            view,
            versions: Mutex::default(),
            backing: Mutex::default(),
            held: Mutex::default(),
        })
    }

    fn write(&self, bytes: &[u8]) -> Vec<Change> {
        let (hash, time) = (ContentHash::of(bytes), Timestamp::default());
        self.versions.lock().insert(hash, bytes.to_vec());
        let entry = Entry {
            kind: Kind::File {
                hash,
                size_bytes: bytes.len() as u64,
                executable: false,
            },
            mtime: time,
            version_time: time,
            sent_by: None,
        };
        let mut namespace = self.namespace.lock();
        let path = SharedPath::new(*b"log").unwrap();
        let mut own = namespace.far.own_mut();
        own.put(ShareIndex(0), &path, entry).unwrap();
        let (view, changes) = namespace.merge();
        *self.view.lock() = view;
        changes
    }
}

impl Content for Log {
    fn view(&self) -> Arc<View> {
        self.view.lock().clone()
    }

    fn open(self: Arc<Self>, file: &FileVersion) -> Result<Opened, FsError> {
        let bytes = self.versions.lock()[&file.hash].clone();
        let backing = self.backing.lock().clone();
        Ok(Opened {
            content: Arc::new(OpenLog { bytes, backing }),
            live: false,
        })
    }

    fn check_growth(self: Arc<Self>, newer: &FileVersion, older: &FileVersion, reply: GrowthReply) {
        let versions = self.versions.lock();
        let is_grown = versions[&newer.hash].starts_with(&versions[&older.hash]);
        drop(versions);
        match &mut *self.held.lock() {
            Some(held) => held.push(reply),
            None => reply(is_grown),
        }
    }

    fn cancel(&self, _: ReadTicket) {}

    fn cached_bytes(&self, _: &FileVersion) -> u64 {
        0
    }

    fn live(&self, _: &FileVersion) -> Option<LiveAttributes> {
        None
    }

    fn space(&self) -> Space {
        Space::default()
    }

    fn status_json(&self) -> Vec<u8> {
        Vec::new()
    }
}

impl OpenContent for OpenLog {
    fn read_now(&self, offset: u64, buffer: &mut [u8]) -> ReadNow {
        let start = offset as usize;
        buffer.copy_from_slice(&self.bytes[start..start + buffer.len()]);
        ReadNow::Done(buffer.len())
    }

    fn read(&self, _: ByteRange, _: ReadReply) -> ReadTicket {
        unreachable!("all bytes are here")
    }

    fn backing(&self) -> Option<Arc<File>> {
        self.backing.clone()
    }
}

/// A kernel that records what it is told, and the size of an inode at that time.
struct Kernel {
    fs: Arc<Filesystem>,
    ino: u64,
    told: Mutex<Vec<(Stale, u64)>>,
    /// The drops of pages that wait for a reader, if there is such a reader.
    kept: Mutex<Option<Vec<Around>>>,
}

impl Invalidator for Kernel {
    fn invalidate(&self, stale: Stale) {
        let size_bytes = self.fs.inodes.getattr(self.ino).unwrap().size_bytes;
        self.told.lock().push((stale, size_bytes));
    }

    fn invalidate_around(&self, stale: Vec<Stale>, change: Around) {
        let is_of_pages = matches!(stale.first(), Some(Stale::PagesWithin { .. }));
        if let (true, Some(kept)) = (is_of_pages, &mut *self.kept.lock()) {
            return kept.push(change);
        }
        stale.into_iter().for_each(|stale| self.invalidate(stale));
        change()
            .into_iter()
            .for_each(|stale| self.invalidate(stale));
    }
}

struct Backings;

impl BackingFiles for Backings {
    fn register(&self, _: &File) -> io::Result<BackingFile> {
        Ok(BackingFile(1))
    }

    fn release(&self, _: BackingFile) {}
}

/// A mount that shows the log, and an open of it.
struct Follower {
    log: Arc<Log>,
    fs: Arc<Filesystem>,
    kernel: Arc<Kernel>,
    ino: u64,
    handle: u64,
    /// The records of the open handles.
    opens: File,
    caching: Caching,
}

fn filesystem(log: &Arc<Log>) -> Arc<Filesystem> {
    let options = Options {
        uid: 0,
        gid: 0,
        file_mask: 0,
        directory_mask: 0,
    };
    Arc::new(Filesystem::new(log.clone(), options))
}

fn read(handle: &Handle, offset: u64) -> Vec<u8> {
    let mut buffer = vec![0; 100];
    match handle.read_now(offset, &mut buffer, Reach::Everything) {
        Ok(ReadStep::Done(length)) => buffer[..length].to_vec(),
        other => panic!("{other:?}"),
    }
}

impl Follower {
    fn open(first: &[u8], backing: Option<File>) -> Self {
        let log = Log::new();
        *log.backing.lock() = backing.map(Arc::new);
        log.write(first);
        let fs = filesystem(&log);
        fs.files.set_backing_files(Arc::new(Backings));
        let opens = tempfile::tempfile().unwrap();
        fs.files.inherit(opens.try_clone().unwrap()).unwrap();
        let ino = fs.inodes.lookup(ROOT_INO, b"log").unwrap().attributes.ino;
        let kernel = Arc::new(Kernel {
            fs: fs.clone(),
            ino,
            told: Mutex::default(),
            kept: Mutex::default(),
        });
        fs.caches.set_invalidator(kernel.clone());
        let open = fs.files.open(ino, libc::O_RDONLY, Reach::Everything);
        let open = open.unwrap();
        Self {
            log,
            fs,
            kernel,
            ino,
            handle: open.handle,
            opens,
            caching: open.caching,
        }
    }

    fn write(&self, bytes: &[u8]) {
        let changes = self.log.write(bytes);
        let view = self.log.view();
        self.fs.caches.namespace_changed(Some(view), changes);
    }

    fn named(&self) -> (u64, u64) {
        let entry = self.fs.inodes.lookup(ROOT_INO, b"log").unwrap();
        (entry.attributes.ino, entry.attributes.size_bytes)
    }

    fn read(&self, offset: u64) -> Vec<u8> {
        read(&self.fs.files.handle(self.handle).unwrap(), offset)
    }
}

#[test]
fn file_that_grows_keeps_its_inode_and_its_handles_read_on() {
    let follower = Follower::open(b"one\n", None);
    for (bytes, after) in [
        (&b"one\ntwo\n"[..], &b"two\n"[..]),
        (b"one\ntwo\nthree\n", b"two\nthree\n"),
    ] {
        follower.write(bytes);
        assert_eq!(follower.named(), (follower.ino, bytes.len() as u64));
        let open = follower.fs.inodes.getattr(follower.ino).unwrap();
        assert_eq!((open.size_bytes, open.links), (bytes.len() as u64, 1));
        assert_eq!(follower.read(0), bytes);
        assert_eq!(follower.read(4), after);
        let listed = follower.fs.caches.inodes.files_of(&ContentHash::of(bytes));
        assert_eq!(listed, [follower.ino]);
    }
}

#[test]
fn replaced_file_is_another_inode_and_its_handles_keep_the_old_version() {
    for other in [&b"One\ntwo\n"[..], b"on", b"1234"] {
        let follower = Follower::open(b"one\n", None);
        follower.write(other);
        let (ino, size_bytes) = follower.named();
        assert!(ino != follower.ino && size_bytes == other.len() as u64);
        let open = follower.fs.inodes.getattr(follower.ino).unwrap();
        assert_eq!((open.size_bytes, open.links), (4, 0));
        assert_eq!(follower.read(0), b"one\n");
    }
}

#[test]
fn truncated_file_is_another_inode_even_if_it_had_the_version_before() {
    let follower = Follower::open(b"one\n", None);
    follower.write(b"one\ntwo\n");
    follower.write(b"one\n");
    assert_ne!(follower.named().0, follower.ino);
    follower.write(b"one\nother\n");
    assert_ne!(follower.named().0, follower.ino);
    assert_eq!(follower.read(0), b"one\ntwo\n");
}

#[test]
fn file_that_grows_while_no_program_has_it_open_is_another_inode() {
    let follower = Follower::open(b"one\n", None);
    follower.fs.files.release(follower.handle);
    follower.write(b"one\ntwo\n");
    assert_ne!(follower.named().0, follower.ino);
}

#[test]
fn page_with_the_old_end_is_dropped_before_the_new_size_shows() {
    let old = vec![b'a'; 5000];
    let follower = Follower::open(&old, None);
    follower.write(&[&old[..], b"more"].concat());
    let told = follower.kernel.told.lock();
    let ino = follower.ino;
    let range = ByteRange::at(4096, 4096);
    assert_eq!(told[0], (Stale::PagesWithin { ino, range }, 5000));
    assert!(told[1..].contains(&(Stale::Attributes { ino }, 5004)));
}

#[test]
fn file_that_the_kernel_reads_itself_becomes_another_inode_once() {
    let follower = Follower::open(b"one\n", tempfile::tempfile().ok());
    assert!(matches!(follower.caching, Caching::Backed(_)));
    follower.write(b"one\ntwo\n");
    let (ino, _) = follower.named();
    assert_ne!(ino, follower.ino);
    assert_eq!(follower.read(0), b"one\n");
    let files = &follower.fs.files;
    let again = files.open(ino, libc::O_RDONLY, Reach::Everything).unwrap();
    assert_eq!(again.caching, Caching::Keep);
    follower.write(b"one\ntwo\nthree\n");
    assert_eq!(follower.named().0, ino);
}

#[test]
fn change_waits_for_its_proof_and_is_a_replacement_without_one() {
    let follower = Follower::open(b"one\n", None);
    *follower.log.held.lock() = Some(Vec::new());
    follower.write(b"one\ntwo\n");
    assert_eq!(follower.named(), (follower.ino, 4), "not shown yet");
    follower.write(b"one\ntwo\nthree\n");
    assert_eq!(follower.log.held.lock().as_ref().map(Vec::len), Some(1));
    let held = follower.log.held.lock().take();
    drop(held);
    let (ino, size_bytes) = follower.named();
    assert!(ino != follower.ino && size_bytes == 14);
    assert_eq!(follower.read(0), b"one\n");
}

#[test]
fn growth_does_not_wait_for_a_page_that_a_reader_keeps() {
    let follower = Follower::open(b"one\n", None);
    *follower.kernel.kept.lock() = Some(Vec::new());
    follower.write(b"one\ntwo\n");
    assert_ne!(follower.named().0, follower.ino);
}

#[test]
fn next_process_reads_the_grown_version_of_an_open_file() {
    let follower = Follower::open(b"one\n", None);
    follower.write(b"one\ntwo\n");
    let next = filesystem(&follower.log);
    next.files.inherit(follower.opens).unwrap();
    let handle = next.files.handle_of(follower.handle, follower.ino).unwrap();
    assert_eq!(read(&handle, 0), b"one\ntwo\n");
    assert_eq!(next.inodes.getattr(follower.ino).unwrap().size_bytes, 8);
}

#[test]
fn changes_during_a_check_are_shown_after_it_together() {
    let growth = Growth::default();
    let change = |number: u8| PendingChange {
        view: None,
        changes: vec![Change::Entry(SharedPath::new([b'a' + number]).unwrap())],
    };
    assert!(growth.begin(change(0)).is_some());
    assert!(growth.begin(change(1)).is_none() && growth.begin(change(2)).is_none());
    assert_eq!(growth.next().unwrap().changes.len(), 2);
    assert!(growth.begin(change(3)).is_none());
    assert_eq!(growth.next().unwrap().changes.len(), 1);
    assert!(growth.next().is_none() && growth.begin(change(4)).is_some());
}
