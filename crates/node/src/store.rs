//! Persistent state: the logs of the catalogue, the addresses of members, and a few settings.
//!
//! Owns one redb file in the state directory that only its owner can read. Each write is one
//! transaction and is on disk when the call returns. A crash leaves the state before or after it.
//! All calls block. Nothing here deletes a file: an unreadable file is an error that states the
//! remedy, and [`Store::set_aside`] applies it.
//!
//! A failed write stores nothing. `CatalogueStorage::store_anew` then makes the catalogue return
//! everything again.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageError,
    Table, TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};

use p2pfs_catalogue::{Catalogue, LogState, LogWrite};
use p2pfs_proto::wire::native::record::{Fact, Record};
use p2pfs_types::files::{PRIVATE_MODE, aside, is_damage, open_private};
use p2pfs_types::id::{Generation, NodeId};

mod error;
mod forgotten;
mod marks;
mod responders;

#[cfg(test)]
mod tests;

pub use error::StoreError;
pub use responders::Responders;

/// Name of the file in the state directory.
pub const STORE_FILE: &str = "catalogue.redb";
/// Version of the tables. Other versions are not read.
pub const STORE_VERSION: u64 = 1;
/// Maximum memory for redb's pages; its own default is 1 GiB. Logs are written in order and read
/// once, so more would only hold unused pages.
pub const PAGE_CACHE_BYTES: usize = 1 << 20;
/// Time since a node was last live after which a start of this node forgets that node's log.
pub const FORGET_AFTER_SECONDS: u64 = 30 * 24 * 3600;
/// Maximum number of stored addresses, as many as the membership has members at most.
pub const ADDRESSES_MAX: usize = 4096;
/// Maximum length of a value of [`Store::set_value`].
pub const VALUE_MAX_BYTES: usize = 64 << 10;

/// The state of each log, by its author.
const LOGS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("logs");
/// Facts by the number of their log and their sequence.
const RECORDS: TableDefinition<(u32, u64), &[u8]> = TableDefinition::new("records");
/// When each author was last live, in Unix seconds.
const LAST_LIVE: TableDefinition<&[u8; 32], u64> = TableDefinition::new("last live");
/// Settings by name.
const VALUES: TableDefinition<&str, &[u8]> = TableDefinition::new("values");

const VERSION_KEY: &str = "version";
const GENERATION_KEY: &str = "generation";
const ADDRESSES_KEY: &str = "addresses";
const MARKS_LOST_KEY: &str = "marks lost";

/// The state of a log and the number under which its records are stored.
#[derive(Serialize, Deserialize)]
struct StoredLog {
    number: u32,
    state: LogState,
}

/// The open store.
pub struct Store {
    database: Database,
    path: PathBuf,
}

impl Store {
    /// Opens the store of a state directory, or creates it with mode 0600.
    ///
    /// # Errors
    /// [`StoreError`], which names the file and the remedy. The file is unchanged.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let path = state_dir.join(STORE_FILE);
        let disk = |error: std::io::Error| StoreError::disk(&path, &error);
        let file = open_private(&path).map_err(disk)?;
        let mode = Permissions::from_mode(PRIVATE_MODE);
        file.set_permissions(mode).map_err(disk)?;
        let mut builder = Database::builder();
        builder.set_cache_size(PAGE_CACHE_BYTES);
        let database = builder.create_file(file).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.clone() },
            DatabaseError::UpgradeRequired(_) | DatabaseError::RepairAborted => {
                damaged(&path, &error)
            }
            DatabaseError::Storage(StorageError::Io(error)) if !is_damage(&error) => {
                StoreError::disk(&path, &error)
            }
            other => damaged(&path, &other),
        })?;
        let store = Self { database, path };
        store.check_version()?;
        Ok(store)
    }

    /// Returns its state directory.
    pub fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// Renames the store of a state directory, so that the next [`open`](Self::open) starts with an
    /// empty one. Returns the new name.
    ///
    /// # Errors
    /// [`StoreError::Disk`] if it cannot be renamed.
    pub fn set_aside(state_dir: &Path) -> Result<PathBuf, StoreError> {
        let path = state_dir.join(STORE_FILE);
        let free = aside(&path);
        std::fs::rename(&path, &free).map_err(|error| StoreError::disk(&path, &error))?;
        Ok(free)
    }

    /// Loads the stored logs, forgotten positions and marks into an empty catalogue. No node is
    /// live in that catalogue yet.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if a record cannot be decoded.
    pub fn load_catalogue(&self, mut catalogue: Catalogue) -> Result<Catalogue, StoreError> {
        let reading = self.check(self.database.begin_read())?;
        let logs = self.check(reading.open_table(LOGS))?;
        let records = self.check(reading.open_table(RECORDS))?;
        for log in self.check(logs.iter())? {
            let (author, stored) = self.check(log)?;
            let author = NodeId::new(*author.value());
            let StoredLog { number, state } = self.decode(stored.value())?;
            let range = self.check(records.range((number, 0)..=(number, u64::MAX)))?;
            let mut trouble = None;
            let rows = range.map_while(|row| {
                let decoded = self.check(row).and_then(|(key, fact)| {
                    let fact: Fact = self.decode(fact.value())?;
                    Ok(Record {
                        sequence: key.value().1,
                        fact,
                    })
                });
                decoded.map_err(|error| trouble = Some(error)).ok()
            });
            let whole = catalogue.storage().restore(author, state, rows)?;
            if let Some(error) = trouble {
                return Err(error);
            }
            tracing::debug!(%author, whole, "took a stored log up");
        }
        catalogue.storage().restore_forgotten(self.forgotten()?);
        catalogue.storage().restore_marks(self.marks()?);
        if self.value(MARKS_LOST_KEY)?.is_some() {
            catalogue.storage().lose_marks();
        }
        Ok(catalogue)
    }

    /// Records that the marks of private contents were lost. A content without a name may be
    /// private, so from the next load on no such content is given to other nodes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn record_lost_marks(&mut self) -> Result<(), StoreError> {
        self.put_value(MARKS_LOST_KEY, &[])
    }

    /// Stores writes of the catalogue in one transaction.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was stored.
    pub fn write_logs(&mut self, writes: &[LogWrite]) -> Result<(), StoreError> {
        let writing = self.begin_write()?;
        {
            let mut logs = self.check(writing.open_table(LOGS))?;
            let mut records = self.check(writing.open_table(RECORDS))?;
            for write in writes {
                self.write_log(&mut logs, &mut records, write)?;
                self.write_marks(&writing, write.marks.iter())?;
            }
        }
        self.write_forgotten(&writing, writes)?;
        self.check(writing.commit())
    }

    /// Records that these nodes are live at a time.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was stored.
    pub fn record_live(&mut self, nodes: &[NodeId], unix_seconds: u64) -> Result<(), StoreError> {
        let writing = self.begin_write()?;
        {
            let mut table = self.check(writing.open_table(LAST_LIVE))?;
            for node in nodes {
                self.check(table.insert(node.as_bytes(), unix_seconds))?;
            }
        }
        self.check(writing.commit())
    }

    /// Returns the authors of stored logs that were last live more than [`FORGET_AFTER_SECONDS`]
    /// ago; pass them to `Catalogue::forget`. An author without a live time gets the current one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn departed(&mut self, unix_seconds: u64) -> Result<Vec<NodeId>, StoreError> {
        let writing = self.begin_write()?;
        let mut departed = Vec::new();
        {
            let logs = self.check(writing.open_table(LOGS))?;
            let mut times = self.check(writing.open_table(LAST_LIVE))?;
            for log in self.check(logs.iter())? {
                let (author, stored) = self.check(log)?;
                let StoredLog { state, .. } = self.decode(stored.value())?;
                if state.head.is_none() {
                    // the own log, which is stored without a head
                    continue;
                }
                let author = *author.value();
                let last = self.check(times.get(&author))?;
                let last = last.map(|time| time.value());
                if last.is_none() {
                    self.check(times.insert(&author, unix_seconds))?;
                }
                let age_seconds = unix_seconds.saturating_sub(last.unwrap_or(unix_seconds));
                if age_seconds > FORGET_AFTER_SECONDS {
                    departed.push(NodeId::new(author));
                }
            }
        }
        self.check(writing.commit())?;
        Ok(departed)
    }

    /// Returns the generation that was stored last; 0 if none was.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn generation(&self) -> Result<Generation, StoreError> {
        let stored = self.value(GENERATION_KEY)?;
        stored.map_or(Ok(Generation::default()), |bytes| self.decode(&bytes))
    }

    /// Stores the generation of this life.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn set_generation(&mut self, generation: Generation) -> Result<(), StoreError> {
        self.set_value(GENERATION_KEY, &encode(&generation))
    }

    /// Returns the addresses at which members were last reached; empty if none were stored.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn addresses(&self) -> Result<Vec<SocketAddr>, StoreError> {
        let stored = self.value(ADDRESSES_KEY)?;
        stored.map_or(Ok(Vec::new()), |bytes| self.decode(&bytes))
    }

    /// Stores the first [`ADDRESSES_MAX`] addresses of members.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn set_addresses(&mut self, addresses: &[SocketAddr]) -> Result<(), StoreError> {
        let kept = &addresses[..addresses.len().min(ADDRESSES_MAX)];
        self.put_value(ADDRESSES_KEY, &encode(&kept))
    }

    /// Returns a setting.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn value(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let reading = self.check(self.database.begin_read())?;
        let table = self.check(reading.open_table(VALUES))?;
        let value = self.check(table.get(name))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    /// Stores a setting.
    ///
    /// # Errors
    /// [`StoreError::TooLong`], and others if it could not be stored.
    pub fn set_value(&mut self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        if value.len() > VALUE_MAX_BYTES {
            return Err(StoreError::TooLong {
                length_bytes: value.len(),
            });
        }
        self.put_value(name, value)
    }

    fn put_value(&self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        let writing = self.begin_write()?;
        {
            let mut table = self.check(writing.open_table(VALUES))?;
            self.check(table.insert(name, value))?;
        }
        self.check(writing.commit())
    }

    fn check_version(&self) -> Result<(), StoreError> {
        let writing = self.begin_write()?;
        {
            let mut values = self.check(writing.open_table(VALUES))?;
            let stored = self.check(values.get(VERSION_KEY))?;
            let version = stored
                .map(|value| self.decode::<u64>(value.value()))
                .transpose()?;
            if let Some(version) = version.filter(|version| *version != STORE_VERSION) {
                return Err(StoreError::Version {
                    path: self.path.clone(),
                    version,
                });
            }
            let current = encode(&STORE_VERSION);
            self.check(values.insert(VERSION_KEY, &*current))?;
            // All tables exist from here on, so that no read finds one missing.
            self.check(writing.open_table(LOGS))?;
            self.check(writing.open_table(RECORDS))?;
            self.check(writing.open_table(LAST_LIVE))?;
            self.make_forgotten(&writing)?;
        }
        self.check(writing.commit())
    }

    fn write_log(
        &self,
        logs: &mut Table<'_, &'static [u8; 32], &'static [u8]>,
        records: &mut Table<'_, (u32, u64), &'static [u8]>,
        write: &LogWrite,
    ) -> Result<(), StoreError> {
        let author = write.author.as_bytes();
        let stored = self.check(logs.get(author))?;
        let stored = stored
            .map(|log| self.decode::<StoredLog>(log.value()))
            .transpose()?;
        let number = match stored {
            Some(log) => log.number,
            None => self.free_number(logs)?,
        };
        if write.anew {
            self.check(records.retain_in((number, 0)..=(number, u64::MAX), |_, _| false))?;
        }
        for sequence in &write.deletes {
            self.check(records.remove((number, *sequence)))?;
        }
        for Record { sequence, fact } in &write.puts {
            let fact = encode(fact);
            self.check(records.insert((number, *sequence), &*fact))?;
        }
        match &write.state {
            Some(state) => {
                let log = encode(&StoredLog {
                    number,
                    state: state.clone(),
                });
                self.check(logs.insert(author, &*log))?;
            }
            None => drop(self.check(logs.remove(author))?),
        }
        Ok(())
    }

    /// Returns the lowest number that no stored log has.
    fn free_number(
        &self,
        logs: &Table<'_, &'static [u8; 32], &'static [u8]>,
    ) -> Result<u32, StoreError> {
        let mut taken = Vec::with_capacity(self.check(logs.len())? as usize);
        for log in self.check(logs.iter())? {
            let (_, stored) = self.check(log)?;
            taken.push(self.decode::<StoredLog>(stored.value())?.number);
        }
        taken.sort_unstable();
        let gap = taken
            .iter()
            .zip(0..)
            .find(|(number, expected)| *number != expected);
        Ok(gap.map_or(taken.len() as u32, |(_, expected)| expected))
    }

    fn begin_write(&self) -> Result<WriteTransaction, StoreError> {
        self.check(self.database.begin_write())
    }

    fn decode<'a, T: Deserialize<'a>>(&self, bytes: &'a [u8]) -> Result<T, StoreError> {
        postcard::from_bytes(bytes).map_err(|error| damaged(&self.path, &error))
    }

    fn check<T>(&self, outcome: Result<T, impl Into<redb::Error>>) -> Result<T, StoreError> {
        outcome.map_err(|error| self.failed(error))
    }

    /// Distinguishes a damaged file from a failing disk.
    fn failed(&self, error: impl Into<redb::Error>) -> StoreError {
        match error.into() {
            redb::Error::Io(error) if !is_damage(&error) => StoreError::disk(&self.path, &error),
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => StoreError::Disk {
                path: self.path.clone(),
                why: "the disk refused a write before".to_owned(),
            },
            error => damaged(&self.path, &error),
        }
    }
}

fn damaged(path: &Path, why: &dyn std::fmt::Display) -> StoreError {
    StoreError::Damaged {
        path: path.to_owned(),
        why: why.to_string(),
    }
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("what is stored always encodes")
}
