//! The state that survives restarts: the number of each share and the hash of each file.
//!
//! This module owns `shares.redb`. The loss of a file's row costs little more than one more
//! hashing, so a separate thread writes these rows in batches, about a second late. Share numbers
//! are on disk before they are returned.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};

use super::error::ShareError;
use super::filesystems::Filesystems;
use super::identity::{FileIdentity, FileTimestamp};
use super::proof::{HashProof, KnownFile};
use p2pfs_proto::wire::native::record::SHARES_MAX;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::files::written::WrittenMark;
use p2pfs_types::files::{PRIVATE_MODE, aside, is_damage, open_private, with_remedy};

/// Name of the file in the state directory.
pub(super) const LEDGER_FILE: &str = "shares.redb";
/// Size of redb's page cache. The default of redb is a gibibyte.
const CACHE_BYTES: usize = 2 << 20;
/// Maximum rows that wait to be written. Further rows are dropped, except deletions. Each dropped
/// row costs one hashing after the next restart.
const WAITING_MAX_ROWS: usize = 1 << 17;
/// Capacity of the row map that is kept while few rows wait.
const ROOM_KEPT_ROWS: usize = 1 << 10;
/// How long rows gather before they are written.
const GATHER: Duration = Duration::from_secs(1);

const SHARES: TableDefinition<&[u8], u16> = TableDefinition::new("shares");
/// Share numbers by names under which shares were added. Only names that differ from the canonical
/// path of the share are stored, for example because they contain a link.
const LINKED_SHARES: TableDefinition<&[u8], u16> = TableDefinition::new("linked_shares");
/// Rows by filesystem and inode number. Rows that an earlier version wrote have the number of the
/// device instead of the identity of the filesystem.
const FILES: TableDefinition<(u64, u64), [u8; ROW_BYTES]> = TableDefinition::new("files");
const ROW_BYTES: usize = 77;
/// Marks of files that were written through the mount, by the keys of their rows. A row says whether
/// there is one.
const MARKS: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("marks");
/// Set in the last byte of a row with a mark. An earlier version reads the hash of such a row as
/// doubted.
const HAS_MARK: u8 = 1 << 7;
/// The latest time that the clock showed, as seconds and nanoseconds.
const CLOCK: TableDefinition<(), (i64, u32)> = TableDefinition::new("clock");

/// Remembered facts about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LedgerRow {
    pub(super) identity: FileIdentity,
    pub(super) hash: ContentHash,
    /// Version time: the mtime, or the time when this version was first seen if that is earlier; for
    /// a marked file the time of its last change.
    pub(super) first_seen: FileTimestamp,
    /// Proof that the file still has the hash.
    pub(super) proof: HashProof,
    /// Mark of a file that was written through the mount.
    pub(super) mark: Option<Arc<WrittenMark>>,
}

impl LedgerRow {
    /// Returns the bytes that the file had.
    pub(super) fn known(&self) -> KnownFile {
        let (identity, hash) = (self.identity, self.hash);
        KnownFile { identity, hash }
    }

    fn on_device(mut self, dev: u64) -> Self {
        self.identity.dev = dev;
        self
    }
}

/// Identity of a filesystem, and an inode number in it.
type InodeKey = (u64, u64);

#[derive(Default)]
struct PendingRows {
    /// Rows to write; `None` deletes a row.
    rows: HashMap<InodeKey, Option<LedgerRow>>,
    /// Latest time that the clock showed. It is written with the rows, and at the end.
    time: Option<FileTimestamp>,
    stopping: bool,
}

struct LedgerShared {
    /// `None` if the database could not be reopened. After its disk has refused a write, redb
    /// refuses to use a file until it is opened again (`redb::Error::PreviousIo`).
    database: RwLock<Option<Database>>,
    path: PathBuf,
    waiting: Mutex<PendingRows>,
    changed: Condvar,
    /// Held while waiting rows are written. Without it, a thread with older rows could overwrite
    /// newer ones.
    writing: Mutex<()>,
}

/// The ledger. Dropping it writes the waiting rows.
pub struct ShareLedger {
    shared: Arc<LedgerShared>,
    filesystems: Arc<Filesystems>,
    writer: Option<JoinHandle<()>>,
}

impl ShareLedger {
    /// Opens the file, creating it if it is missing, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, ShareError> {
        let database = open_database(path)?;
        let shared = Arc::new(LedgerShared {
            database: RwLock::new(Some(database)),
            path: path.to_owned(),
            waiting: Mutex::default(),
            changed: Condvar::new(),
            writing: Mutex::default(),
        });
        shared
            .make_tables()
            .map_err(|error| state_error(path, error))?;
        let writer = {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name("share-ledger".to_owned());
            thread.spawn(move || shared.write_until_stopped())?
        };
        Ok(Self {
            shared,
            filesystems: Arc::default(),
            writer: Some(writer),
        })
    }

    /// Returns the identities by which the ledger finds the rows of a filesystem under any device
    /// number.
    pub(super) fn filesystems(&self) -> &Arc<Filesystems> {
        &self.filesystems
    }

    /// Checks that all share numbers and the first file row can be read.
    fn check(&self) -> Result<(), ShareError> {
        let read = self.shared.with(|database| {
            let reading = database.begin_read()?;
            for row in reading.open_table(SHARES)?.iter()? {
                row?;
            }
            reading.open_table(FILES)?.first()?;
            Ok(())
        });
        read.map_err(|error| state_error(&self.shared.path, error))
    }

    /// Returns the number of a directory, assigning one that is not `in_use` if needed. Another
    /// directory loses its number only if no number is left that never was assigned. The number is
    /// also stored under the given name.
    pub(super) fn share_index(
        &self,
        dir: &Path,
        given: &Path,
        in_use: &BTreeSet<u16>,
    ) -> Result<u16, ShareError> {
        let [dir, given] = [dir, given].map(|name| name.as_os_str().as_bytes());
        let found = self
            .shared
            .with(|database| share_index(database, dir, given, in_use));
        let found = found.map_err(|error| state_error(&self.shared.path, error))?;
        found.ok_or(ShareError::TooMany { limit: SHARES_MAX })
    }

    /// Returns the numbers that directories have.
    pub(super) fn share_numbers(&self) -> Result<BTreeSet<u16>, ShareError> {
        let read = self.shared.with(|database| {
            let shares = database.begin_read()?.open_table(SHARES)?;
            shares.iter()?.map(|row| Ok(row?.1.value())).collect()
        });
        read.map_err(|error| state_error(&self.shared.path, error))
    }

    /// Returns the number of a directory if it has one.
    pub(super) fn known_share(&self, dir: &Path) -> Option<u16> {
        let found = self.shared.with(|database| {
            let shares = database.begin_read()?.open_table(SHARES)?;
            let found = shares.get(dir.as_os_str().as_bytes())?;
            Ok(found.map(|found| found.value()))
        });
        found.ok()?
    }

    /// Returns the number of a share by its canonical path or another name under which it was
    /// added. Does not resolve links on the disk, which may not answer.
    pub(super) fn share_given_as(&self, name: &Path) -> Option<u16> {
        let found = self.shared.with(|database| {
            let linked = database.begin_read()?.open_table(LINKED_SHARES)?;
            let found = linked.get(name.as_os_str().as_bytes())?;
            Ok(found.map(|found| found.value()))
        });
        self.known_share(name).or(found.ok()?)
    }

    /// Returns the remembered row of the file (dev, ino), regardless of its current state.
    pub(super) fn get(&self, dev: u64, ino: u64) -> Option<LedgerRow> {
        let key = (self.filesystems.identity(dev), ino);
        let waiting = self.shared.waiting.lock().rows.get(&key).cloned();
        if let Some(row) = waiting {
            return row.map(|row| row.on_device(dev));
        }
        let found = self.shared.with(|database| {
            let reading = database.begin_read()?;
            let files = reading.open_table(FILES)?;
            let found = match files.get(key)? {
                None if key.0 != dev => files.get((dev, ino))?,
                found => found,
            };
            let Some(row) = found.map(|found| decode((dev, ino), &found.value())) else {
                return Ok(None);
            };
            let (row, has_mark) = row;
            let marks = has_mark.then(|| reading.open_table(MARKS)).transpose()?;
            let mark = marks.map(|marks| marks.get(key)).transpose()?.flatten();
            let mark = mark.and_then(|mark| WrittenMark::decode(mark.value()));
            let mark = mark.map(Arc::new);
            Ok(Some(LedgerRow { mark, ..row }))
        });
        found.ok()?
    }

    /// Remembers a row.
    pub(super) fn put(&self, row: LedgerRow) {
        let identity = row.identity;
        self.change(&identity, Some(row));
    }

    /// Forgets the hash of a file because it was found wrong.
    pub(super) fn forget(&self, identity: &FileIdentity) {
        self.change(identity, None);
    }

    fn change(&self, identity: &FileIdentity, row: Option<LedgerRow>) {
        let key = (self.filesystems.identity(identity.dev), identity.ino);
        let by_device = (identity.dev, identity.ino);
        let mut waiting = self.shared.waiting.lock();
        if waiting.rows.len() < WAITING_MAX_ROWS || row.is_none() {
            if row.is_none() && by_device != key {
                waiting.rows.insert(by_device, None);
            }
            waiting.rows.insert(key, row);
            self.shared.changed.notify_one();
        }
    }

    /// Returns the latest time that the clock showed in an earlier run.
    pub(super) fn latest_time(&self) -> Option<FileTimestamp> {
        let found = self.shared.with(|database| {
            let clock = database.begin_read()?.open_table(CLOCK)?;
            Ok(clock.get(())?.map(|found| found.value()))
        });
        let (seconds, nanoseconds) = found.ok()??;
        Some(FileTimestamp::new(seconds, nanoseconds))
    }

    /// Remembers the latest time that the clock showed. It is written with the next rows or at the
    /// end.
    pub(super) fn record_time(&self, time: FileTimestamp) {
        self.shared.waiting.lock().time = Some(time);
    }

    /// Writes the waiting rows without gathering more. Blocking.
    pub(super) fn store(&self) {
        self.shared.write_waiting();
    }

    /// Returns the number of files remembered on disk.
    pub(super) fn len(&self) -> u64 {
        let count = |database: &Database| Ok(database.begin_read()?.open_table(FILES)?.len()?);
        self.shared.with(count).unwrap_or(0)
    }

    /// Removes the rows on disk of every file that is not in `live`, by device and inode number.
    pub(super) fn retain(&self, live: impl IntoIterator<Item = (u64, u64)>) {
        let live = live.into_iter().flat_map(|(dev, ino)| {
            let identity = self.filesystems.identity(dev);
            [(identity, ino), (dev, ino)]
        });
        if let Err(error) = self.shared.retain(&live.collect()) {
            tracing::debug!(%error, "cannot tidy the ledger of shared files");
        }
    }
}

impl Drop for ShareLedger {
    fn drop(&mut self) {
        self.shared.waiting.lock().stopping = true;
        self.shared.changed.notify_one();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl LedgerShared {
    /// Runs an operation on the database. Reopens the database if its disk refused a write before.
    fn with<T>(
        &self,
        deed: impl Fn(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        let done = self.database.read().as_ref().map(&deed);
        match done {
            None | Some(Err(redb::Error::PreviousIo)) => {}
            Some(done) => return done,
        }
        let mut place = self.database.write();
        // the old database keeps the file locked until it is dropped
        *place = None;
        let anew = database_at(&self.path)?;
        deed(place.insert(anew))
    }

    fn make_tables(&self) -> Result<(), redb::Error> {
        self.with(|database| {
            let writing = database.begin_write()?;
            writing.open_table(SHARES)?;
            writing.open_table(LINKED_SHARES)?;
            writing.open_table(FILES)?;
            writing.open_table(MARKS)?;
            writing.open_table(CLOCK)?;
            Ok(writing.commit()?)
        })
    }

    fn write_until_stopped(&self) {
        loop {
            let mut waiting = self.waiting.lock();
            // a first walk grows the map far beyond that
            waiting.rows.shrink_to(ROOM_KEPT_ROWS);
            while waiting.rows.is_empty() && !waiting.stopping {
                self.changed.wait(&mut waiting);
            }
            if !waiting.stopping {
                self.changed
                    .wait_while_for(&mut waiting, |w| !w.stopping, GATHER);
            }
            let stopping = waiting.stopping;
            drop(waiting);
            self.write_waiting();
            if stopping {
                return;
            }
        }
    }

    fn write_waiting(&self) {
        let _alone = self.writing.lock();
        let (rows, time) = {
            let waiting = self.waiting.lock();
            let time = waiting
                .time
                .filter(|_| waiting.stopping || !waiting.rows.is_empty());
            (waiting.rows.clone(), time)
        };
        if rows.is_empty() && time.is_none() {
            return;
        }
        if let Err(error) = self.write(&rows, time) {
            tracing::debug!(%error, "cannot remember the hashes of shared files");
        }
        self.waiting
            .lock()
            .rows
            .retain(|key, row| rows.get(key) != Some(row));
    }

    fn write(
        &self,
        rows: &HashMap<InodeKey, Option<LedgerRow>>,
        time: Option<FileTimestamp>,
    ) -> Result<(), redb::Error> {
        self.with(|database| {
            let writing = database.begin_write()?;
            {
                let mut files = writing.open_table(FILES)?;
                let mut marks = writing.open_table(MARKS)?;
                for (key, row) in rows {
                    match row {
                        Some(row) => files.insert(*key, encode(row))?.map(|_| ()),
                        None => files.remove(*key)?.map(|_| ()),
                    };
                    match row.as_ref().and_then(|row| row.mark.as_ref()) {
                        Some(mark) => marks.insert(*key, &*mark.encode())?.map(|_| ()),
                        None => marks.remove(*key)?.map(|_| ()),
                    };
                }
                if let Some(FileTimestamp {
                    seconds,
                    nanoseconds,
                }) = time
                {
                    writing
                        .open_table(CLOCK)?
                        .insert((), (seconds, nanoseconds))?;
                }
            }
            Ok(writing.commit()?)
        })
    }

    fn retain(&self, live: &HashSet<InodeKey>) -> Result<(), redb::Error> {
        self.with(|database| {
            let writing = database.begin_write()?;
            let is_live = |key: &InodeKey| live.contains(key);
            let mut files = writing.open_table(FILES)?;
            files.retain(|key, _| is_live(&key))?;
            let mut marks = writing.open_table(MARKS)?;
            marks.retain(|key, _| is_live(&key))?;
            drop((files, marks));
            Ok(writing.commit()?)
        })
    }
}

/// Returns the number of a directory, assigning one if it has none. Returns `None` if all numbers
/// are in use.
fn share_index(
    database: &Database,
    dir: &[u8],
    given: &[u8],
    in_use: &BTreeSet<u16>,
) -> Result<Option<u16>, redb::Error> {
    let writing = database.begin_write()?;
    let index = {
        let mut shares = writing.open_table(SHARES)?;
        let mut linked = writing.open_table(LINKED_SHARES)?;
        let known = shares.get(dir)?.map(|found| found.value());
        let index = match known {
            Some(index) => Some(index),
            None => {
                let assigned: HashSet<u16> = shares
                    .iter()?
                    .map(|row| Ok(row?.1.value()))
                    .collect::<Result<_, redb::Error>>()?;
                let mut free = (0..SHARES_MAX as u16).filter(|index| !in_use.contains(index));
                let first = free.clone().next();
                free.find(|index| !assigned.contains(index)).or(first)
            }
        };
        if let Some(index) = index.filter(|_| known.is_none()) {
            // the directory that had the number before
            shares.retain(|_, other| other != index)?;
            linked.retain(|_, other| other != index)?;
            shares.insert(dir, index)?;
        }
        if let Some(index) = index.filter(|_| given != dir) {
            linked.insert(given, index)?;
        }
        index
    };
    writing.commit()?;
    Ok(index)
}

fn open_database(path: &Path) -> Result<Database, ShareError> {
    database_at(path).map_err(|error| match error {
        redb::Error::DatabaseAlreadyOpen => ShareError::Locked {
            path: path.to_owned(),
        },
        other => state_error(path, other),
    })
}

/// Opens the file, creating it if it is missing, with access for its owner only.
fn database_at(path: &Path) -> Result<Database, redb::Error> {
    let file = open_private(path)?;
    file.set_permissions(Permissions::from_mode(PRIVATE_MODE))?;
    let mut builder = Database::builder();
    Ok(builder.set_cache_size(CACHE_BYTES).create_file(file)?)
}

/// Opens the ledger of a state directory. If it is damaged, moves it aside, creates a new one, and
/// returns the path of the damaged file and the reason.
///
/// # Errors
/// If the file cannot be opened, created or moved.
pub fn open_sound(state_dir: &Path) -> Result<(ShareLedger, Option<Aside>), ShareError> {
    let path = &state_dir.join(LEDGER_FILE);
    let opened = ShareLedger::open(path).and_then(|ledger| ledger.check().map(|()| ledger));
    match opened {
        Ok(ledger) => Ok((ledger, None)),
        Err(ShareError::Damaged { reason, .. }) => {
            let aside = aside(path);
            std::fs::rename(path, &aside)?;
            Ok((ShareLedger::open(path)?, Some((aside, reason))))
        }
        Err(error) => Err(error),
    }
}

/// Path of a damaged file after the move, and the damage.
type Aside = (PathBuf, String);

fn state_error(path: &Path, error: impl Into<redb::Error>) -> ShareError {
    let path = path.to_owned();
    match error.into() {
        redb::Error::Io(error) if !is_damage(&error) => {
            let reason = with_remedy(&error);
            ShareError::State { path, reason }
        }
        redb::Error::PreviousIo | redb::Error::DatabaseClosed => {
            let reason = "the disk refused a write before".to_owned();
            ShareError::State { path, reason }
        }
        error => {
            let reason = error.to_string();
            ShareError::Damaged { path, reason }
        }
    }
}

fn encode(row: &LedgerRow) -> [u8; ROW_BYTES] {
    let mut bytes = [0; ROW_BYTES];
    bytes[..8].copy_from_slice(&row.identity.size_bytes.to_le_bytes());
    for (at, stamp) in [
        (8, row.identity.mtime),
        (20, row.identity.ctime),
        (32, row.first_seen),
    ] {
        bytes[at..at + 8].copy_from_slice(&{ stamp.seconds }.to_le_bytes());
        bytes[at + 8..at + 12].copy_from_slice(&{ stamp.nanoseconds }.to_le_bytes());
    }
    bytes[44..76].copy_from_slice(row.hash.as_bytes());
    bytes[76] = match row.proof {
        HashProof::Times => 0,
        HashProof::Missing => 1,
        // an earlier version takes it for a doubted hash
        HashProof::Reports => 2,
    };
    if row.mark.is_some() {
        bytes[76] |= HAS_MARK;
    }
    bytes
}

/// Decodes a row without its mark. Also returns whether it has one.
fn decode((dev, ino): InodeKey, bytes: &[u8; ROW_BYTES]) -> (LedgerRow, bool) {
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    let stamp = |at: usize| {
        let nanoseconds = u32::from_le_bytes(std::array::from_fn(|i| bytes[at + 8 + i]));
        FileTimestamp::new(number(at).cast_signed(), nanoseconds)
    };
    let identity = FileIdentity {
        dev,
        ino,
        size_bytes: number(0),
        mtime: stamp(8),
        ctime: stamp(20),
    };
    let hash = ContentHash::new(std::array::from_fn(|i| bytes[44 + i]));
    let row = LedgerRow {
        identity,
        hash,
        first_seen: stamp(32),
        proof: match bytes[76] & !HAS_MARK {
            0 => HashProof::Times,
            2 => HashProof::Reports,
            _ => HashProof::Missing,
        },
        mark: None,
    };
    (row, bytes[76] & HAS_MARK != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ino: u64) -> LedgerRow {
        let identity = FileIdentity {
            dev: 7,
            ino,
            size_bytes: 99,
            mtime: FileTimestamp::new(-3, 999_999_999),
            ctime: FileTimestamp::new(1 << 40, 1),
        };
        let hash = ContentHash::of(&ino.to_le_bytes());
        LedgerRow {
            identity,
            hash,
            first_seen: FileTimestamp::new(5, 6),
            proof: match ino % 3 {
                0 => HashProof::Times,
                1 => HashProof::Missing,
                _ => HashProof::Reports,
            },
            mark: ino.is_multiple_of(2).then(|| {
                Arc::new(WrittenMark {
                    replaces: vec![hash; 3],
                    ..WrittenMark::default()
                })
            }),
        }
    }

    #[test]
    fn a_row_is_found_at_once_and_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.redb");
        let ledger = ShareLedger::open(&path).unwrap();
        ledger.put(row(1));
        ledger.put(row(2));
        assert_eq!(ledger.get(7, 1), Some(row(1)));
        drop(ledger);
        let ledger = ShareLedger::open(&path).unwrap();
        assert_eq!(ledger.get(7, 1), Some(row(1)));
        assert_eq!(ledger.get(7, 2), Some(row(2)));
        assert_eq!(ledger.get(8, 1), None);
        assert_eq!(ledger.len(), 2);
        ledger.forget(&row(1).identity);
        assert_eq!(ledger.get(7, 1), None);
        ledger.retain([]);
        assert_eq!(ledger.get(7, 2), None);
    }

    #[test]
    fn a_row_is_found_when_its_filesystem_has_another_device_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.redb");
        let ledger = ShareLedger::open(&path).unwrap();
        ledger.put(row(1));
        drop(ledger);
        let ledger = ShareLedger::open(&path).unwrap();
        ledger.filesystems().set(7, 99);
        assert_eq!(ledger.get(7, 1), Some(row(1)), "of an earlier version");
        ledger.put(row(2));
        drop(ledger);
        let ledger = ShareLedger::open(&path).unwrap();
        assert_eq!(ledger.get(8, 2), None);
        ledger.filesystems().set(8, 99);
        assert_eq!(ledger.get(8, 2), Some(row(2).on_device(8)));
        ledger.retain([(8, 2)]);
        assert_eq!(ledger.len(), 1);
        ledger.forget(&row(2).on_device(8).identity);
        assert_eq!(ledger.get(8, 2), None);
    }

    fn index_of(ledger: &ShareLedger, dir: &str) -> u16 {
        let in_use = BTreeSet::new();
        let index = ledger.share_index(Path::new(dir), Path::new(dir), &in_use);
        index.unwrap()
    }

    #[test]
    fn a_directory_keeps_its_unique_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.redb");
        let ledger = ShareLedger::open(&path).unwrap();
        let first = index_of(&ledger, "/a");
        let second = index_of(&ledger, "/b");
        assert_ne!(first, second);
        drop(ledger);
        let ledger = ShareLedger::open(&path).unwrap();
        assert_eq!(index_of(&ledger, "/b"), second);
        assert_eq!(ledger.known_share(Path::new("/a")), Some(first));
        assert_eq!(ledger.known_share(Path::new("/c")), None);
    }

    #[test]
    fn numbers_of_former_shares_are_assigned_again_when_all_are_assigned() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ShareLedger::open(&dir.path().join("l.redb")).unwrap();
        let all = 0..SHARES_MAX as u16;
        let filled = ledger.shared.with(|database| {
            let writing = database.begin_write()?;
            for index in all.clone() {
                let (name, link) = (format!("/former/{index}"), format!("/link/{index}"));
                writing.open_table(SHARES)?.insert(name.as_bytes(), index)?;
                let mut linked = writing.open_table(LINKED_SHARES)?;
                linked.insert(link.as_bytes(), index)?;
            }
            Ok(writing.commit()?)
        });
        filled.unwrap();
        let add = |dir: &str, in_use: &BTreeSet<u16>| {
            ledger.share_index(Path::new(dir), Path::new(dir), in_use)
        };
        let (free, others) = (7, all.filter(|index| *index != 7).collect());
        assert_eq!(add("/new", &others).unwrap(), free);
        assert_eq!(add("/former/8", &others).unwrap(), 8);
        for gone in ["/former/7", "/link/7"] {
            assert_eq!(ledger.share_given_as(Path::new(gone)), None);
        }
        let mut in_use = others;
        in_use.insert(free);
        assert!(matches!(
            add("/newer", &in_use),
            Err(ShareError::TooMany { .. })
        ));
    }

    #[test]
    fn a_second_daemon_on_the_same_state_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.redb");
        let _first = ShareLedger::open(&path).unwrap();
        assert!(matches!(
            ShareLedger::open(&path),
            Err(ShareError::Locked { .. })
        ));
    }

    #[test]
    fn a_file_that_is_not_a_database_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.redb");
        std::fs::write(
            &path,
            b"something else entirely, and long enough to look at",
        )
        .unwrap();
        let error = ShareLedger::open(&path).err().unwrap();
        assert!(error.to_string().contains("l.redb"), "{error}");
    }
}
