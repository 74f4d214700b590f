//! The positions up to which logs of nodes were forgotten. They are stored so that this node does
//! not pull the forgotten records again after a restart.

use redb::{ReadableTable, StorageError, TableDefinition, WriteTransaction};

use super::StoreError;
use super::file::StoreFile;
use p2pfs_catalogue::{LogWrite, Rank};
use p2pfs_types::id::NodeId;

/// Epoch and sequence up to which an author's log was forgotten.
const FORGOTTEN: TableDefinition<&[u8; 32], Rank> = TableDefinition::new("forgotten");

/// The table of forgotten positions.
pub(super) struct ForgottenTable<'a>(pub(super) &'a StoreFile);

impl ForgottenTable<'_> {
    pub(super) fn all(&self) -> Result<Vec<(NodeId, Rank)>, StoreError> {
        let reading = self.0.begin_read()?;
        let forgotten = self.0.check(reading.open_table(FORGOTTEN))?;
        let forgotten = self.0.check(forgotten.iter())?.map(|row| {
            let (author, to) = row?;
            Ok::<_, StorageError>((NodeId::new(*author.value()), to.value()))
        });
        self.0.check(forgotten.collect::<Result<_, _>>())
    }

    pub(super) fn create(&self, writing: &WriteTransaction) -> Result<(), StoreError> {
        self.0.check(writing.open_table(FORGOTTEN)).map(drop)
    }

    /// Stores or removes the forgotten position of each author, in the transaction that writes the
    /// author's log. So a crash never leaves an author with neither a log nor a position.
    pub(super) fn write(
        &self,
        writing: &WriteTransaction,
        writes: &[LogWrite],
    ) -> Result<(), StoreError> {
        let mut forgotten = self.0.check(writing.open_table(FORGOTTEN))?;
        for write in writes {
            let author = write.author.as_bytes();
            self.0.check(match write.forgotten_to {
                Some(to) => forgotten.insert(author, to).map(drop),
                None => forgotten.remove(author).map(drop),
            })?;
        }
        Ok(())
    }
}
