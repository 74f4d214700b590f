//! What is remembered of contents that are private though no log names them any more.

use std::collections::BTreeMap;

use redb::{
    ReadableDatabase, ReadableTable, StorageError, TableDefinition, TableError, WriteTransaction,
};

use super::{Store, StoreError};
use crate::catalogue::Mark;
use crate::digest::ContentHash;
use crate::id::NodeId;

type MarkKey = (&'static [u8; 32], &'static [u8; 32]);

/// Contents that are for some nodes alone though no log names them any more, each with who said so.
const MARKS: TableDefinition<MarkKey, ()> = TableDefinition::new("marks of private contents");

fn key_of(mark: &Mark) -> (&[u8; 32], &[u8; 32]) {
    (mark.content.as_bytes(), mark.author.as_bytes())
}

impl Store {
    pub(super) fn marks(&self) -> Result<Vec<Mark>, StoreError> {
        let reading = self.database.begin_read();
        let reading = reading.map_err(|error| self.failed(error))?;
        let marks = match reading.open_table(MARKS) {
            Ok(marks) => marks,
            // a store of before there were any
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(self.failed(error)),
        };
        let marks = marks.iter().map_err(|error| self.failed(error))?;
        let marks = marks.map(|mark| {
            let (key, _) = mark?;
            let (content, author) = key.value();
            Ok::<_, StorageError>(Mark {
                content: ContentHash::new(*content),
                author: NodeId::new(*author),
            })
        });
        marks
            .collect::<Result<_, _>>()
            .map_err(|error| self.failed(error))
    }

    /// Forgets that contents were private that nobody can be given any more.
    ///
    /// # Errors
    /// [`StoreError`]; all are kept then.
    pub fn drop_marks(&mut self, gone: &[Mark]) -> Result<(), StoreError> {
        if gone.is_empty() {
            return Ok(());
        }
        let writing = self.begin_write()?;
        {
            let marks = writing.open_table(MARKS);
            let mut marks = marks.map_err(|error| self.failed(error))?;
            for mark in gone {
                let dropped = marks.remove(key_of(mark));
                dropped.map_err(|error| self.failed(error))?;
            }
        }
        writing.commit().map_err(|error| self.failed(error))
    }

    pub(super) fn write_marks(
        &self,
        writing: &WriteTransaction,
        marked: &BTreeMap<Mark, bool>,
    ) -> Result<(), StoreError> {
        if marked.is_empty() {
            return Ok(());
        }
        let marks = writing.open_table(MARKS);
        let mut marks = marks.map_err(|error| self.failed(error))?;
        for (mark, is_kept) in marked {
            let changed = match is_kept {
                true => marks.insert(key_of(mark), ()).map(drop),
                false => marks.remove(key_of(mark)).map(drop),
            };
            changed.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }
}
