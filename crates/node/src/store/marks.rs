//! Stored marks of private contents. A [`Mark`] keeps a content private after its author's log has
//! lost the last sealed name of it.

use redb::{
    ReadableDatabase, ReadableTable, StorageError, TableDefinition, TableError, WriteTransaction,
};

use super::{Store, StoreError};
use p2pfs_catalogue::Mark;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;

type MarkKey = (&'static [u8; 32], &'static [u8; 32]);

/// Contents that stay private, each with the author of the sealed name that is gone.
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

    /// Removes marks, because this node has no bytes of their contents any more.
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

    /// Stores the marks that come with `true`, and removes those with `false`.
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
