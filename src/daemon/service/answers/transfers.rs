//! Selects the events and transfers that a caller may see by name, because they reveal which files
//! users read.

use std::collections::BTreeSet;

use super::{Services, Viewer, content};
use p2pfs_node::News;
use p2pfs_types::digest::ContentHash;

/// How much of an event a caller may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Telling {
    /// The whole event.
    Whole,
    /// Only the number of such events.
    Counted,
    /// Nothing.
    Nothing,
}

/// Returns how much of an event the caller may see. `own` returns the files that the caller's user
/// reads.
pub(super) fn telling(
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
        news if news.is_for_owner() && !viewer.is_owner() => Telling::Nothing,
        News::Added(_) | News::Removed(_) | News::Changed(_) => whole_if(viewer.access.list),
        News::FetchStarted(fetched) | News::FetchDone(fetched) | News::ReadFailed(fetched, ..) => {
            whole_if(viewer.sees_transfers() || own().contains(&fetched.hash))
        }
        News::Given(_) | News::Received(_) | News::Sent(_) => whole_if(viewer.sees_transfers()),
        _ => Telling::Whole,
    }
}

/// Returns the files that the caller's user has open in the mount, has read there within the
/// last minute, or has got lately. These are the user's own reads, so the user may see their
/// transfers.
pub(super) fn read_by(services: &Services, viewer: &Viewer) -> BTreeSet<ContentHash> {
    let Some(uid) = viewer.one_user() else {
        return BTreeSet::new();
    };
    let paths = services.activity.served.files_read_by(uid).into_iter();
    let open = paths.filter_map(|path| content::file_version(services, &path, viewer).ok());
    let mut own: BTreeSet<_> = open.map(|file| file.hash).collect();
    own.extend(services.activity.gets.lock().of(uid));
    own
}
