//! Stored marks of private contents that no log names any more.

use redb::{
    ReadableDatabase, ReadableTable, StorageError, TableDefinition, TableError, WriteTransaction,
};

use super::{Store, StoreError};
use p2pfs_catalogue::Mark;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;

type MarkKey = (&'static [u8; 32], &'static [u8; 32]);

/// Private contents that no log names any more, each with the author that marked it.
const MARKS: TableDefinition<MarkKey, ()> = TableDefinition::new("marks of private contents");

fn key_of(mark: &Mark) -> (&[u8; 32], &[u8; 32]) {
    (mark.content.as_bytes(), mark.author.as_bytes())
}

impl Store {
    pub(super) fn marks(&self) -> Result<Vec<Mark>, StoreError> {
        let reading = self.check(self.database.begin_read())?;
        let marks = match reading.open_table(MARKS) {
            Ok(marks) => marks,
            // a store from before marks existed
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(self.failed(error)),
        };
        let marks = self.check(marks.iter())?;
        let marks = marks.map(|mark| {
            let (key, _) = mark?;
            let (content, author) = key.value();
            Ok::<_, StorageError>(Mark {
                content: ContentHash::new(*content),
                author: NodeId::new(*author),
            })
        });
        self.check(marks.collect::<Result<_, _>>())
    }

    /// Removes the marks of private contents that no node can fetch from here any more.
    ///
    /// # Errors
    /// [`StoreError`]; then all marks stay.
    pub fn drop_marks(&mut self, gone: &[Mark]) -> Result<(), StoreError> {
        if gone.is_empty() {
            return Ok(());
        }
        let writing = self.begin_write()?;
        self.write_marks(&writing, gone.iter().map(|mark| (mark, &false)))?;
        self.check(writing.commit())
    }

    /// Stores the marks that are kept, and removes the others.
    pub(super) fn write_marks<'a>(
        &self,
        writing: &WriteTransaction,
        marked: impl ExactSizeIterator<Item = (&'a Mark, &'a bool)>,
    ) -> Result<(), StoreError> {
        if marked.len() == 0 {
            return Ok(());
        }
        let mut marks = self.check(writing.open_table(MARKS))?;
        for (mark, is_kept) in marked {
            self.check(match is_kept {
                true => marks.insert(key_of(mark), ()).map(drop),
                false => marks.remove(key_of(mark)).map(drop),
            })?;
        }
        Ok(())
    }
}
