//! Rows dated ahead of the clock by more than the tolerance, which wait until the clock comes near.
//!
//! A version dated in the future would otherwise precede every change that is dated before it. An
//! honest author with a correct clock never creates one, because a version time is at most the time
//! at which its author saw the version. Such a version therefore comes from a wrong clock or a
//! dishonest author.

use std::collections::BTreeMap;

use super::row::{Class, NodeIndex, Row};
use p2pfs_proto::wire::native::record::Timestamp;

/// The waiting rows, in the order in which they become due.
#[derive(Default)]
pub(super) struct FutureDated {
    pub rows: BTreeMap<(Timestamp, NodeIndex, u64), Row>,
    /// Number of waiting rows that are versions of files and symlinks, or deletions of such.
    versions: usize,
}

impl FutureDated {
    /// Returns whether versions of files or symlinks wait. Waiting directory times do not count.
    pub(crate) fn has_versions(&self) -> bool {
        self.versions > 0
    }

    pub(crate) fn insert(&mut self, row: &Row) {
        let before = self.rows.insert(place(row), row.clone());
        self.versions += usize::from(is_version(row));
        self.versions -= before.iter().filter(|row| is_version(row)).count();
    }

    pub(crate) fn remove(&mut self, row: &Row) {
        if !self.rows.is_empty() {
            let gone = self.rows.remove(&place(row));
            self.versions -= gone.iter().filter(|row| is_version(row)).count();
        }
    }

    pub(crate) fn take_up_to(&mut self, horizon: Timestamp) -> Vec<Row> {
        let beyond = Timestamp {
            nanoseconds: horizon.nanoseconds.saturating_add(1),
            ..horizon
        };
        let later = self.rows.split_off(&(beyond, NodeIndex(0), 0));
        let due = std::mem::replace(&mut self.rows, later);
        self.versions -= due.values().filter(|row| is_version(row)).count();
        due.into_values().collect()
    }
}

fn is_version(row: &Row) -> bool {
    matches!(row.class, Class::File | Class::Symlink | Class::Gone)
}

fn place(row: &Row) -> (Timestamp, NodeIndex, u64) {
    (row.version_time(), row.author, row.sequence)
}
