//! Detected behaviour of other nodes that no honest node shows. It is reported as events; no
//! decision is made here.

use std::time::Instant;

use super::{EVENTS_MAX, Machine, NodeEvent};
use crate::offence::Offence;
use p2pfs_catalogue::CatalogueError;
use p2pfs_proto::trust::Fault;
use p2pfs_types::id::NodeId;

impl Machine {
    pub(super) fn report_offence(&mut self, node: NodeId, what: Offence) {
        if self.events.len() < EVENTS_MAX {
            self.push_event(NodeEvent::Offended { node, what });
        }
    }

    /// Reports the offence in a rejected part of `author`'s log that `from` sent.
    pub(super) fn report_bad_part(&mut self, author: NodeId, from: NodeId, why: &CatalogueError) {
        match why {
            CatalogueError::WrongAuthor
            | CatalogueError::BadOrder
            | CatalogueError::PartTooLong { .. }
            | CatalogueError::BadFact => self.report_offence(from, Offence::BadLog),
            CatalogueError::TooManyRecords { .. } => {
                self.report_offence(author, Offence::ListsTooMuch)
            }
            CatalogueError::Stale
            | CatalogueError::TooManyNodes
            | CatalogueError::TooManyReaders
            | CatalogueError::OverBudget => {}
        }
    }

    /// Reports the offence in statements that `from` sent.
    pub(super) fn report_bad_statement(&mut self, from: NodeId, fault: Option<Fault>) {
        match fault {
            Some(Fault::Garbage) => self.report_offence(from, Offence::Garbage),
            // An honest node verifies statements before it forwards them.
            Some(Fault::Forged) => self.report_offence(from, Offence::SpeaksForOthers),
            Some(Fault::Over(signer)) => self.report_offence(signer, Offence::StatesTooMuch),
            None => {}
        }
    }

    /// Reports the authors of dropped logs and delays the next pull of these logs. Reports nodes
    /// that date files ahead.
    pub(super) fn report_dropped_logs(&mut self, now: Instant) {
        while let Some(dropped) = self.catalogue.poll_dropped() {
            match Offence::of_dropped(dropped.why) {
                Some(offence) => {
                    self.pulls.postpone(now, dropped.author);
                    self.report_offence(dropped.author, offence);
                }
                None => self.pulls.finish(dropped.author),
            }
        }
        while let Some(node) = self.catalogue.poll_dated_ahead() {
            if node != self.me {
                self.report_offence(node, Offence::DatesAhead);
            }
        }
    }
}
