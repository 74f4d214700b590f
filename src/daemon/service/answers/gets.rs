//! The files that each user got lately, so that a user sees its own transfers.

use std::collections::VecDeque;

use p2pfs_types::digest::ContentHash;

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
