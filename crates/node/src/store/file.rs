//! The redb file of the store, its errors, and the table of settings.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase, StorageError, TableDefinition,
    WriteTransaction,
};
use serde::{Deserialize, Serialize};

use super::{PAGE_CACHE_BYTES, StoreError};
use p2pfs_types::files::{PRIVATE_MODE, is_damage, open_private};

/// Settings by name.
pub(super) const VALUES: TableDefinition<&str, &[u8]> = TableDefinition::new("values");

/// The open file. Each of its errors names the file.
pub(super) struct StoreFile {
    database: Database,
    pub(super) path: PathBuf,
}

impl StoreFile {
    /// Opens the file, or creates it with mode 0600.
    pub(super) fn open(path: PathBuf) -> Result<Self, StoreError> {
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
        Ok(Self { database, path })
    }

    /// Returns a setting.
    pub(super) fn value(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let reading = self.begin_read()?;
        let table = self.check(reading.open_table(VALUES))?;
        let value = self.check(table.get(name))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    /// Stores a setting of any length.
    pub(super) fn put_value(&self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        let writing = self.begin_write()?;
        {
            let mut table = self.check(writing.open_table(VALUES))?;
            self.check(table.insert(name, value))?;
        }
        self.check(writing.commit())
    }

    pub(super) fn begin_read(&self) -> Result<ReadTransaction, StoreError> {
        self.check(self.database.begin_read())
    }

    pub(super) fn begin_write(&self) -> Result<WriteTransaction, StoreError> {
        self.check(self.database.begin_write())
    }

    pub(super) fn decode<'a, T: Deserialize<'a>>(&self, bytes: &'a [u8]) -> Result<T, StoreError> {
        postcard::from_bytes(bytes).map_err(|error| damaged(&self.path, &error))
    }

    pub(super) fn check<T>(
        &self,
        outcome: Result<T, impl Into<redb::Error>>,
    ) -> Result<T, StoreError> {
        outcome.map_err(|error| self.failed(error))
    }

    /// Distinguishes a damaged file from a failing disk.
    pub(super) fn failed(&self, error: impl Into<redb::Error>) -> StoreError {
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

pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("what is stored always encodes")
}
