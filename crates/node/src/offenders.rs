//! Other nodes that break the rules of the cluster: counted, and told of in the journal.
//!
//! Only what a node itself did counts, by its signature or over a connection that is proven: one
//! that was killed, or whose link failed, is no offender. It is told, and nothing else follows
//! from it: who drops or shuns a node does so by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::events::EventLog;
use super::offence::Offence;
use p2pfs_catalogue::View;
use p2pfs_transfer::net::peer::PeerNet;
use p2pfs_types::id::NodeId;
use p2pfs_types::offences::Ledger;

/// The ledger of this node. Clones are the same.
#[derive(Clone)]
pub struct Offenders {
    ledger: Arc<Mutex<Ledger<NodeId, Offence>>>,
    events: EventLog,
    view: Arc<ArcSwap<View>>,
    /// Somebody was told to list files that are dated ahead.
    dated_ahead: Arc<AtomicBool>,
}

impl Offenders {
    /// Nobody yet; `net` tells of broken connections from now on. The view knows what people call
    /// a node.
    pub(super) fn watch(net: &PeerNet, events: &EventLog, view: &Arc<ArcSwap<View>>) -> Self {
        let offenders = Self {
            ledger: Arc::new(Mutex::new(Ledger::new(Instant::now()))),
            events: events.clone(),
            view: view.clone(),
            dated_ahead: Arc::default(),
        };
        let told = offenders.clone();
        let note = move |node, reason| told.note(node, Offence::Breach(reason));
        net.set_on_breach(Arc::new(note));
        offenders
    }

    /// Counts what a node did, and tells of it where it was not told lately.
    pub(super) fn note(&self, node: NodeId, what: Offence) {
        let mut ledger = self.ledger.lock();
        let is_told = ledger.note(Instant::now(), &node, what);
        drop(ledger);
        if is_told {
            let short = node.short(8);
            let name = self.view.load().label(&node);
            let name = name.unwrap_or_else(|| short.clone());
            self.events.warn(format!("{name} {what} (node {short})"));
            if what == Offence::DatesAhead {
                self.dated_ahead.store(true, Ordering::Relaxed);
            }
        }
    }

    /// No version waits for its time any more: that some did is warned of no longer.
    pub(super) fn settle_dates(&self) {
        if self.dated_ahead.swap(false, Ordering::Relaxed) {
            self.events.settle_saying(&Offence::DatesAhead.to_string());
        }
    }

    /// How often a node offended, and how the last time.
    pub fn of(&self, node: &NodeId) -> Option<(u64, Offence)> {
        let ledger = self.ledger.lock();
        ledger.of(node)
    }
}
