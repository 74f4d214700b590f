//! Persistent state: the logs of the catalogue, the addresses of members, and a few settings.
//!
//! Owns one redb file in the state directory that only its owner can read. Each write is one
//! transaction and is on disk when the call returns. A crash leaves the state before or after it.
//! All calls block. Nothing here deletes a file: an unreadable file is an error that states the
//! remedy, and [`Store::set_aside`] applies it.
//!
//! A failed write stores nothing. `CatalogueStorage::store_anew` then makes the catalogue return
//! everything again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use redb::{ReadableTable, ReadableTableMetadata, Table, TableDefinition};
use serde::{Deserialize, Serialize};

use p2pfs_catalogue::{Catalogue, LogState, LogWrite, Mark};
use p2pfs_proto::wire::native::record::{Fact, Record};
use p2pfs_types::files::aside;
use p2pfs_types::id::{Generation, NodeId};

mod error;
mod file;
mod forgotten;
mod marks;
mod responders;

#[cfg(test)]
mod tests;

pub use error::StoreError;
use file::{StoreFile, VALUES, encode};
use forgotten::ForgottenTable;
use marks::MarksTable;
pub use responders::{Responders, save_responders};

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
    file: StoreFile,
}

impl Store {
    /// Opens the store of a state directory, or creates it with mode 0600.
    ///
    /// # Errors
    /// [`StoreError`], which names the file.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let file = StoreFile::open(state_dir.join(STORE_FILE))?;
        let store = Self { file };
        store.check_version()?;
        Ok(store)
    }

    /// Returns its state directory.
    pub fn dir(&self) -> &Path {
        self.file.path.parent().unwrap_or(Path::new(""))
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
    /// [`StoreError`]; [`StoreError::Damaged`] if a record cannot be decoded.
    pub fn load_catalogue(&self, mut catalogue: Catalogue) -> Result<Catalogue, StoreError> {
        let reading = self.file.begin_read()?;
        let logs = self.file.check(reading.open_table(LOGS))?;
        let records = self.file.check(reading.open_table(RECORDS))?;
        for log in self.file.check(logs.iter())? {
            let (author, stored) = self.file.check(log)?;
            let author = NodeId::new(*author.value());
            let StoredLog { number, state } = self.file.decode(stored.value())?;
            let range = self
                .file
                .check(records.range((number, 0)..=(number, u64::MAX)))?;
            let mut trouble = None;
            let rows = range.map_while(|row| {
                let decoded = self.file.check(row).and_then(|(key, fact)| {
                    let fact: Fact = self.file.decode(fact.value())?;
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
        catalogue
            .storage()
            .restore_forgotten(ForgottenTable(&self.file).all()?);
        catalogue
            .storage()
            .restore_marks(MarksTable(&self.file).all()?);
        if self.file.value(MARKS_LOST_KEY)?.is_some() {
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
        self.file.put_value(MARKS_LOST_KEY, &[])
    }

    /// Stores writes of the catalogue in one transaction.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was stored.
    pub fn write_logs(&mut self, writes: &[LogWrite]) -> Result<(), StoreError> {
        let writing = self.file.begin_write()?;
        {
            let mut logs = self.file.check(writing.open_table(LOGS))?;
            let mut records = self.file.check(writing.open_table(RECORDS))?;
            for write in writes {
                self.write_log(&mut logs, &mut records, write)?;
                MarksTable(&self.file).write(&writing, write.marks.iter())?;
            }
        }
        ForgottenTable(&self.file).write(&writing, writes)?;
        self.file.check(writing.commit())
    }

    /// Removes these marks of private contents.
    ///
    /// # Errors
    /// [`StoreError`]; then all marks stay.
    pub fn drop_marks(&mut self, gone: &[Mark]) -> Result<(), StoreError> {
        if gone.is_empty() {
            return Ok(());
        }
        let writing = self.file.begin_write()?;
        MarksTable(&self.file).write(&writing, gone.iter().map(|mark| (mark, &false)))?;
        self.file.check(writing.commit())
    }

    /// Records that these nodes are live at a time.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was stored.
    pub fn record_live(&mut self, nodes: &[NodeId], unix_seconds: u64) -> Result<(), StoreError> {
        let writing = self.file.begin_write()?;
        {
            let mut table = self.file.check(writing.open_table(LAST_LIVE))?;
            for node in nodes {
                self.file
                    .check(table.insert(node.as_bytes(), unix_seconds))?;
            }
        }
        self.file.check(writing.commit())
    }

    /// Returns the authors of stored logs that were last live more than [`FORGET_AFTER_SECONDS`]
    /// ago; pass them to `Catalogue::forget`. An author without a live time gets the current one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn departed(&mut self, unix_seconds: u64) -> Result<Vec<NodeId>, StoreError> {
        let writing = self.file.begin_write()?;
        let mut departed = Vec::new();
        {
            let logs = self.file.check(writing.open_table(LOGS))?;
            let mut times = self.file.check(writing.open_table(LAST_LIVE))?;
            for log in self.file.check(logs.iter())? {
                let (author, stored) = self.file.check(log)?;
                let StoredLog { state, .. } = self.file.decode(stored.value())?;
                if state.head.is_none() {
                    // the own log, which is stored without a head
                    continue;
                }
                let author = *author.value();
                let last = self.file.check(times.get(&author))?;
                let last = last.map(|time| time.value());
                if last.is_none() {
                    self.file.check(times.insert(&author, unix_seconds))?;
                }
                let age_seconds = unix_seconds.saturating_sub(last.unwrap_or(unix_seconds));
                if age_seconds > FORGET_AFTER_SECONDS {
                    departed.push(NodeId::new(author));
                }
            }
        }
        self.file.check(writing.commit())?;
        Ok(departed)
    }

    /// Returns the generation that was stored last; 0 if none was.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn generation(&self) -> Result<Generation, StoreError> {
        let stored = self.file.value(GENERATION_KEY)?;
        stored.map_or(Ok(Generation::default()), |bytes| self.file.decode(&bytes))
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
        let stored = self.file.value(ADDRESSES_KEY)?;
        stored.map_or(Ok(Vec::new()), |bytes| self.file.decode(&bytes))
    }

    /// Stores the first [`ADDRESSES_MAX`] addresses of members.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn set_addresses(&mut self, addresses: &[SocketAddr]) -> Result<(), StoreError> {
        let kept = &addresses[..addresses.len().min(ADDRESSES_MAX)];
        self.file.put_value(ADDRESSES_KEY, &encode(&kept))
    }

    /// Returns a setting.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn value(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.file.value(name)
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
        self.file.put_value(name, value)
    }

    fn check_version(&self) -> Result<(), StoreError> {
        let writing = self.file.begin_write()?;
        {
            let mut values = self.file.check(writing.open_table(VALUES))?;
            let stored = self.file.check(values.get(VERSION_KEY))?;
            let version = stored
                .map(|value| self.file.decode::<u64>(value.value()))
                .transpose()?;
            if let Some(version) = version.filter(|version| *version != STORE_VERSION) {
                return Err(StoreError::Version {
                    path: self.file.path.clone(),
                    version,
                });
            }
            let current = encode(&STORE_VERSION);
            self.file.check(values.insert(VERSION_KEY, &*current))?;
            // These tables exist from here on, so that no read finds one of them missing.
            self.file.check(writing.open_table(LOGS))?;
            self.file.check(writing.open_table(RECORDS))?;
            self.file.check(writing.open_table(LAST_LIVE))?;
            ForgottenTable(&self.file).create(&writing)?;
        }
        self.file.check(writing.commit())
    }

    fn write_log(
        &self,
        logs: &mut Table<'_, &'static [u8; 32], &'static [u8]>,
        records: &mut Table<'_, (u32, u64), &'static [u8]>,
        write: &LogWrite,
    ) -> Result<(), StoreError> {
        let author = write.author.as_bytes();
        let stored = self.file.check(logs.get(author))?;
        let stored = stored
            .map(|log| self.file.decode::<StoredLog>(log.value()))
            .transpose()?;
        let number = match stored {
            Some(log) => log.number,
            None => self.free_number(logs)?,
        };
        if write.anew {
            self.file
                .check(records.retain_in((number, 0)..=(number, u64::MAX), |_, _| false))?;
        }
        for sequence in &write.deletes {
            self.file.check(records.remove((number, *sequence)))?;
        }
        for Record { sequence, fact } in &write.puts {
            let fact = encode(fact);
            self.file
                .check(records.insert((number, *sequence), &*fact))?;
        }
        match &write.state {
            Some(state) => {
                let log = encode(&StoredLog {
                    number,
                    state: state.clone(),
                });
                self.file.check(logs.insert(author, &*log))?;
            }
            None => drop(self.file.check(logs.remove(author))?),
        }
        Ok(())
    }

    /// Returns the lowest number that no stored log has.
    fn free_number(
        &self,
        logs: &Table<'_, &'static [u8; 32], &'static [u8]>,
    ) -> Result<u32, StoreError> {
        let mut taken = Vec::with_capacity(self.file.check(logs.len())? as usize);
        for log in self.file.check(logs.iter())? {
            let (_, stored) = self.file.check(log)?;
            taken.push(self.file.decode::<StoredLog>(stored.value())?.number);
        }
        taken.sort_unstable();
        let gap = taken
            .iter()
            .zip(0..)
            .find(|(number, expected)| *number != expected);
        Ok(gap.map_or(taken.len() as u32, |(_, expected)| expected))
    }
}
