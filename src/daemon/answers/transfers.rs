//! Choice of the events and transfers that a caller is told of by name: they tell which files users
//! read.

use std::collections::BTreeSet;

use super::{Service, Viewer};
use p2pfs_node::{Audience, News};
use p2pfs_types::digest::ContentHash;

/// How much of an event a caller is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Telling {
    /// All of it.
    Whole,
    /// That there was one.
    Counted,
    /// Nothing.
    Nothing,
}

impl Service {
    /// How much of an event the caller is told. `own` gives the files that its user reads.
    pub(super) fn telling(
        &self,
        news: &News,
        viewer: &Viewer,
        own: impl FnOnce() -> BTreeSet<ContentHash>,
    ) -> Telling {
        let whole_if = |is_told| {
            if is_told {
                Telling::Whole
            } else {
                Telling::Counted
            }
        };
        match news {
            News::Warning(_, Audience::Owner) if !viewer.is_owner() => Telling::Nothing,
            News::Added(_) | News::Removed(_) | News::Changed(_) => whole_if(viewer.access.list),
            News::FetchStarted(fetched)
            | News::FetchDone(fetched)
            | News::FetchFailed(fetched, _) => {
                whole_if(viewer.sees_transfers() || own().contains(&fetched.hash))
            }
            News::Given(_) | News::Received(_) | News::Sent(_) => whole_if(viewer.sees_transfers()),
            _ => Telling::Whole,
        }
    }

    /// The files that the caller's user has open in the mount, read there within the last minute,
    /// or got lately. They are its own reads, so that it is told of their transfers.
    pub(super) fn read_by(&self, viewer: &Viewer) -> BTreeSet<ContentHash> {
        let Some(uid) = viewer.one_user() else {
            return BTreeSet::new();
        };
        let paths = self.served.files_read_by(uid).into_iter();
        let open = paths.filter_map(|path| self.file_version(&path).ok());
        let mut own: BTreeSet<_> = open.map(|file| file.hash).collect();
        own.extend(self.gets.lock().of(uid));
        own
    }
}
