//! Contents that no holder gives, although its authors list them.

use std::time::{Duration, Instant};

use super::Machine;
use crate::offence::Offence;
use p2pfs_types::digest::ContentHash;

/// How long a content that proved unserved ranks behind the other versions of its names, unless a
/// holder gives it before. A reader then tries it again. It is as long as a peer is shunned for
/// wrong bytes.
pub const UNSERVED_FOR: Duration = p2pfs_fetch::plan::SHUN;

impl Machine {
    /// Ranks a content behind the other versions of its names, because its holders answered no
    /// request for it or sent wrong bytes. Reports its authors if such a version exists.
    pub fn mark_unserved(&mut self, now: Instant, hash: ContentHash) {
        let at_fault = self.catalogue.unserved().mark(hash, now + UNSERVED_FOR);
        let me = self.me;
        for author in at_fault.into_iter().filter(|author| *author != me) {
            self.report_offence(author, Offence::GivesNothing);
        }
    }

    /// Ranks a content by the usual rules again, because verified bytes of it arrived.
    pub fn clear_unserved(&mut self, hash: ContentHash) {
        self.catalogue.unserved().clear(hash);
    }
}
