//! Selects the events and transfers that a caller may see by name, because they reveal which files
//! users read.

use std::collections::{BTreeSet, VecDeque};

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
        News::Added(_) | News::Removed(..) | News::Changed(..) => whole_if(viewer.access.list),
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

/// Maximum remembered gets. If a get is forgotten, `p2pfs top` counts its transfer for that user
/// but does not name it.
const GETS_KEPT: usize = 256;

/// The latest files that callers got, with the user ID of the caller.
#[derive(Debug, Default)]
pub(in crate::daemon::service) struct Gets(VecDeque<(u32, ContentHash)>);

impl Gets {
    /// Records that a user gets a file, as the latest get. Forgets the oldest get if there are
    /// [`GETS_KEPT`].
    pub(super) fn record(&mut self, uid: u32, hash: ContentHash) {
        self.0.retain(|it| *it != (uid, hash));
        if self.0.len() == GETS_KEPT {
            self.0.pop_front();
        }
        self.0.push_back((uid, hash));
    }

    /// Returns the files that a user got.
    pub(super) fn of(&self, uid: u32) -> impl Iterator<Item = ContentHash> {
        let own = self.0.iter().filter(move |(user, _)| *user == uid);
        own.map(|(_, hash)| *hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_gets_of_each_user_are_remembered_up_to_a_limit() {
        let hash = |number: usize| ContentHash::of(&number.to_le_bytes());
        let mut gets = Gets::default();
        for number in 0..GETS_KEPT + 1 {
            gets.record(1000, hash(number));
        }
        gets.record(1001, hash(7));
        gets.record(1001, hash(7));
        assert_eq!(gets.of(1000).count(), GETS_KEPT - 1);
        assert!(gets.of(1000).all(|it| it != hash(0)));
        assert_eq!(gets.of(1001).collect::<Vec<_>>(), [hash(7)]);
    }
}
