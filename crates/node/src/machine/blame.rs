//! What other nodes do that no honest one does: found here, told as events, judged by nobody.

use std::time::Instant;

use super::{EVENTS_MAX, Machine, NodeEvent};
use crate::offence::Offence;
use p2pfs_catalogue::CatalogueError;
use p2pfs_proto::trust::Fault;
use p2pfs_types::id::NodeId;

impl Machine {
    pub(super) fn blame(&mut self, node: NodeId, what: Offence) {
        if self.events.len() < EVENTS_MAX {
            self.push_event(NodeEvent::Offended { node, what });
        }
    }

    /// A part of `author`'s log that `from` sent was not taken.
    pub(super) fn blame_for_part(&mut self, author: NodeId, from: NodeId, why: &CatalogueError) {
        match why {
            CatalogueError::WrongAuthor
            | CatalogueError::BadOrder
            | CatalogueError::PartTooLong { .. }
            | CatalogueError::BadFact => self.blame(from, Offence::BadLog),
            CatalogueError::TooManyRecords { .. } => self.blame(author, Offence::ListsTooMuch),
            CatalogueError::Stale
            | CatalogueError::TooManyNodes
            | CatalogueError::TooManyReaders
            | CatalogueError::OverBudget => {}
        }
    }

    /// What `from` said of who is in is not what an honest node says.
    pub(super) fn blame_for_words(&mut self, from: NodeId, fault: Option<Fault>) {
        match fault {
            Some(Fault::Garbage) => self.blame(from, Offence::Garbage),
            // an honest node hands on what it has looked at
            Some(Fault::Forged) => self.blame(from, Offence::SpeaksForOthers),
            Some(Fault::Over(signer)) => self.blame(signer, Offence::StatesTooMuch),
            None => {}
        }
    }

    /// Whose logs gave way is told, and not asked for again at once; who dates files ahead is told.
    pub(super) fn note_given_way(&mut self, now: Instant) {
        while let Some(dropped) = self.catalogue.poll_dropped() {
            match Offence::of_dropped(dropped.why) {
                Some(offence) => {
                    self.pulls.put_off(now, dropped.author);
                    self.blame(dropped.author, offence);
                }
                None => self.pulls.finish(dropped.author),
            }
        }
        while let Some(node) = self.catalogue.poll_dated_ahead() {
            if node != self.me {
                self.blame(node, Offence::DatesAhead);
            }
        }
    }
}
