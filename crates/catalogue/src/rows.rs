//! The rows of one log in the order of their sequence.
//!
//! They are stored in sorted chunks of pointers. Appending takes constant time on average. A
//! removal moves about one chunk of rows at most.

use super::row::Row;

/// Maximum rows of a chunk: 4 KiB of pointers.
const CHUNK_ROWS: usize = 512;

/// Rows in ascending sequence.
#[derive(Default)]
pub(super) struct Rows {
    /// Sorted chunks. No chunk is empty.
    chunks: Vec<Vec<Row>>,
    len: usize,
}

impl Rows {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a row. Its sequence is above all others.
    pub(crate) fn push(&mut self, row: Row) {
        debug_assert!(self.last_sequence() < row.sequence || self.is_empty());
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK_ROWS => chunk.push(row),
            _ => self.chunks.push(vec![row]),
        }
        self.len += 1;
    }

    /// Returns the highest sequence, or 0 if there are no rows.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.chunks
            .last()
            .and_then(|chunk| chunk.last())
            .map_or(0, |row| row.sequence)
    }

    pub(crate) fn get(&self, sequence: u64) -> Option<&Row> {
        let chunk = self.chunks.get(self.chunk_of(sequence))?;
        let at = chunk
            .binary_search_by_key(&sequence, |row| row.sequence)
            .ok()?;
        Some(&chunk[at])
    }

    pub(crate) fn remove(&mut self, sequence: u64) -> Option<Row> {
        let number = self.chunk_of(sequence);
        let chunk = self.chunks.get_mut(number)?;
        let at = chunk
            .binary_search_by_key(&sequence, |row| row.sequence)
            .ok()?;
        let row = chunk.remove(at);
        self.len -= 1;
        self.mend(number);
        Some(row)
    }

    /// Removes and returns the row of the highest sequence.
    pub(crate) fn pop(&mut self) -> Option<Row> {
        let chunk = self.chunks.last_mut()?;
        let row = chunk.pop();
        if chunk.is_empty() {
            self.chunks.pop();
        }
        self.len -= usize::from(row.is_some());
        row
    }

    /// Returns all rows above a sequence, ascending.
    pub(crate) fn after(&self, sequence: u64) -> impl Iterator<Item = &Row> {
        let number = self.chunk_of(sequence.saturating_add(1));
        let chunks = self.chunks.get(number..).unwrap_or_default();
        let skip = chunks.first().map_or(0, |chunk| {
            chunk.partition_point(|row| row.sequence <= sequence)
        });
        chunks.iter().flatten().skip(skip)
    }

    /// Returns the index of the chunk that would hold a sequence.
    fn chunk_of(&self, sequence: u64) -> usize {
        self.chunks
            .partition_point(|chunk| chunk[chunk.len() - 1].sequence < sequence)
    }

    /// Drops a chunk that became empty. Joins a chunk with the next one if they fill half a chunk
    /// together at most.
    fn mend(&mut self, number: usize) {
        if self.chunks[number].is_empty() {
            self.chunks.remove(number);
            return;
        }
        let Some(next) = self.chunks.get(number + 1) else {
            return;
        };
        if self.chunks[number].len() + next.len() <= CHUNK_ROWS / 2 {
            let next = self.chunks.remove(number + 1);
            self.chunks[number].extend(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::row::{NodeIndex, Stamp};
    use super::*;
    use p2pfs_types::digest::ContentHash;

    fn row(sequence: u64) -> Row {
        Row::have_not(
            Stamp {
                author: NodeIndex(0),
                sequence,
            },
            &ContentHash::of(b""),
        )
    }

    fn sequences(rows: &Rows, after: u64) -> Vec<u64> {
        rows.after(after).map(|row| row.sequence).collect()
    }

    #[test]
    fn rows_are_removed_and_inserted_across_many_chunks() {
        let mut rows = Rows::default();
        let mut model = BTreeSet::new();
        for sequence in 1..=5000 {
            rows.push(row(sequence * 3));
            model.insert(sequence * 3);
        }
        for sequence in (1..=5000).filter(|n| n % 7 != 0) {
            assert!(rows.remove(sequence * 3).is_some());
            assert!(rows.remove(sequence * 3).is_none());
            model.remove(&(sequence * 3));
        }
        assert_eq!(rows.len(), model.len());
        assert_eq!(
            sequences(&rows, 0),
            model.iter().copied().collect::<Vec<_>>()
        );
        assert!(
            rows.chunks.len() < 20,
            "sparse chunks are joined: {}",
            rows.chunks.len()
        );
    }

    proptest! {
        #[test]
        fn after_covers_everything_above(
            steps in proptest::collection::vec((1u64..4, any::<bool>()), 0..64),
            after in 0u64..200,
        ) {
            let (mut rows, mut model, mut at) = (Rows::default(), BTreeSet::new(), 0);
            for (step, keep) in steps {
                at += step;
                rows.push(row(at));
                model.insert(at);
                if !keep {
                    let first = *model.first().unwrap();
                    prop_assert!(rows.remove(first).is_some());
                    model.remove(&first);
                }
            }
            let above: Vec<u64> = model.range(after + 1..).copied().collect();
            prop_assert_eq!(sequences(&rows, after), above);
            prop_assert_eq!(rows.last_sequence(), model.last().copied().unwrap_or(0));
        }
    }
}
