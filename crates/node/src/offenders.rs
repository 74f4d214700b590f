//! The record of other nodes that break the rules of the cluster. It counts offences and reports
//! them in the journal.
//!
//! A node that was killed or whose link failed is not an offender. The record only reports: it
//! neither drops nor shuns a node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use super::conditions::{Condition, Finding};
use super::events::EventLog;
use super::names::Names;
use super::offence::Offence;
use p2pfs_transfer::net::peer::PeerNet;
use p2pfs_types::id::NodeId;
use p2pfs_types::offences::OffenceLog;

/// The record of this node. Clones share their state.
#[derive(Clone)]
pub struct Offenders {
    ledger: Arc<Mutex<OffenceLog<NodeId, Offence>>>,
    events: EventLog,
    names: Names,
    /// Number of offences of each kind, in the order of [`Offence::KINDS`].
    counts: Arc<[AtomicU64; Offence::KINDS.len()]>,
    /// Whether a condition for files dated ahead was begun.
    dated_ahead: Arc<AtomicBool>,
}

impl Offenders {
    /// Returns an empty record that also counts protocol breaches on `net` from now on.
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
            let said = format!("{} {what}", self.names.of(&node));
            match what {
                Offence::DatesAhead { ahead_s } => self.begin_dated_ahead(&node, said, ahead_s),
                _ => self.events.warn(said),
            }
        }
    }

    /// Begins [`Condition::ClockAhead`] for a node, until the latest of its dates is reached.
    fn begin_dated_ahead(&self, node: &NodeId, said: String, ahead_s: u64) {
        self.dated_ahead.store(true, Ordering::Relaxed);
        let finding = Finding::new(said);
        // This clock never reaches a time beyond the range of `SystemTime`.
        let until = SystemTime::now().checked_add(Duration::from_secs(ahead_s));
        let finding = match until {
            Some(until) => finding.until(until),
            None => finding,
        };
        let subject = node.to_string();
        self.events.begin(Condition::ClockAhead, &subject, finding);
    }

    /// Ends the conditions of files dated ahead. Call it while no version waits for its time.
    pub(super) fn settle_dates(&self) {
        if self.dated_ahead.swap(false, Ordering::Relaxed) {
            self.events.replace(Condition::ClockAhead, Vec::new());
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

    /// Returns the time since the last offence of a node.
    pub fn last_age(&self, node: &NodeId) -> Option<Duration> {
        let at = self.ledger.lock().last_at(node)?;
        Some(at.elapsed())
    }
}
