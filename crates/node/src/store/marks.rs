//! Stored marks of private contents. A [`Mark`] keeps a content private after its author's log has
//! lost the last sealed name of it.

use redb::{ReadableTable, StorageError, TableDefinition, TableError, WriteTransaction};

use super::StoreError;
use super::file::StoreFile;
use p2pfs_catalogue::Mark;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;

type MarkKey = (&'static [u8; 32], &'static [u8; 32]);

/// Contents that stay private, each with the author of the sealed name that is gone.
const MARKS: TableDefinition<MarkKey, ()> = TableDefinition::new("marks of private contents");

fn key_of(mark: &Mark) -> (&[u8; 32], &[u8; 32]) {
    (mark.content.as_bytes(), mark.author.as_bytes())
}

/// The table of marks.
pub(super) struct MarksTable<'a>(pub(super) &'a StoreFile);

impl MarksTable<'_> {
    pub(super) fn all(&self) -> Result<Vec<Mark>, StoreError> {
        let reading = self.0.begin_read()?;
        let marks = match reading.open_table(MARKS) {
            Ok(marks) => marks,
            // a store from before marks existed
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(self.0.failed(error)),
        };
        let marks = self.0.check(marks.iter())?;
        let marks = marks.map(|mark| {
            let (key, _) = mark?;
            let (content, author) = key.value();
            Ok::<_, StorageError>(Mark {
                content: ContentHash::new(*content),
                author: NodeId::new(*author),
            })
        });
        self.0.check(marks.collect::<Result<_, _>>())
    }

    /// Stores the marks that come with `true`, and removes those with `false`.
    pub(super) fn write<'a>(
        &self,
        writing: &WriteTransaction,
        marked: impl ExactSizeIterator<Item = (&'a Mark, &'a bool)>,
    ) -> Result<(), StoreError> {
        if marked.len() == 0 {
            return Ok(());
        }
        let mut marks = self.0.check(writing.open_table(MARKS))?;
        for (mark, is_kept) in marked {
            let written = if *is_kept {
                marks.insert(key_of(mark), ()).map(drop)
            } else {
                marks.remove(key_of(mark)).map(drop)
            };
            self.0.check(written)?;
        }
        Ok(())
    }
}
