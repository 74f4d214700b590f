//! The ledger of other nodes that break the rules of the cluster. It counts offences and reports
//! them in the journal.
//!
//! A node that was killed or whose link failed is not an offender. The ledger only reports: it
//! neither drops nor shuns a node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::events::EventLog;
use super::names::Names;
use super::offence::Offence;
use p2pfs_transfer::net::peer::PeerNet;
use p2pfs_types::id::NodeId;
use p2pfs_types::offences::OffenceLog;

/// The ledger of this node. Clones share their state.
#[derive(Clone)]
pub struct Offenders {
    ledger: Arc<Mutex<OffenceLog<NodeId, Offence>>>,
    events: EventLog,
    names: Names,
    /// Number of offences of each kind, in the order of [`Offence::KINDS`].
    counts: Arc<[AtomicU64; Offence::KINDS.len()]>,
    /// Whether a warning about files dated ahead was recorded.
    dated_ahead: Arc<AtomicBool>,
}

impl Offenders {
    /// Returns an empty ledger that also counts protocol breaches on `net` from now on.
    pub(super) fn watch(net: &PeerNet, events: &EventLog, names: Names) -> Self {
        let offenders = Self {
            ledger: Arc::new(Mutex::new(OffenceLog::new(Instant::now()))),
            events: events.clone(),
            names,
            counts: Arc::default(),
            dated_ahead: Arc::default(),
        };
        let told = offenders.clone();
        let note = move |node, reason| told.record(node, Offence::Breach(reason));
        net.set_on_breach(Arc::new(note));
        offenders
    }

    /// Counts an offence. Reports the node if it was not reported recently.
    pub(super) fn record(&self, node: NodeId, what: Offence) {
        self.counts[what.place()].fetch_add(1, Ordering::Relaxed);
        let mut ledger = self.ledger.lock();
        let is_told = ledger.record(Instant::now(), &node, what);
        drop(ledger);
        if is_told {
            let name = self.names.of(&node);
            self.events.warn(format!("{name} {what}"));
            if what == Offence::DatesAhead {
                self.dated_ahead.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Removes the warnings about files dated ahead. Call it while no version waits for its time.
    pub(super) fn settle_dates(&self) {
        if self.dated_ahead.swap(false, Ordering::Relaxed) {
            self.events.settle_saying(&Offence::DatesAhead.to_string());
        }
    }

    /// Returns the number of offences of each kind since the start.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let counts = self.counts.iter().map(|it| it.load(Ordering::Relaxed));
        Offence::KINDS.into_iter().zip(counts).collect()
    }

    /// Returns how often a node offended, and its last offence.
    pub fn of(&self, node: &NodeId) -> Option<(u64, Offence)> {
        let ledger = self.ledger.lock();
        ledger.of(node)
    }
}
