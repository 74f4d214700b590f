//! The record of other nodes that break the rules of the cluster. It counts offences and reports
//! them in the journal.
//!
//! A node that was killed or whose link failed is not an offender. The record only reports: it
//! neither drops nor shuns a node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use super::conditions::{Condition, Finding};
use super::events::{EventLog, both_times};
use super::inbox::ChargedSender;
use super::names::Names;
use super::offence::Offence;
use super::published::Published;
use p2pfs_transfer::net::peer::PeerNet;
use p2pfs_types::id::NodeId;
use p2pfs_types::offences::{OffenceLog, Offending};

/// The record of this node. Clones share their state.
#[derive(Clone)]
pub struct Offenders {
    ledger: Arc<Mutex<OffenceRecords>>,
    events: EventLog,
    names: Names,
    published: Published,
    /// Number of offences of each kind, in the order of [`Offence::KINDS`].
    counts: Arc<[AtomicU64; Offence::KINDS.len()]>,
    /// Whether a condition for files dated ahead was begun.
    dated_ahead: Arc<AtomicBool>,
}

/// The offences by node, and by host for the reports. A host can invent as many keys as it likes
/// in a cluster with a secret file, so a report for each key would fill the journal.
struct OffenceRecords {
    nodes: OffenceLog<NodeId, Offence>,
    hosts: OffenceLog<ChargedSender, HostOffence>,
}

/// The last offence of a host.
#[derive(Clone, Copy)]
struct HostOffence {
    /// Number of nodes of the host that have offended. A node that was forgotten counts again.
    nodes: u64,
}

impl Offending for HostOffence {}

/// The offences of a host so far.
struct HostReport {
    count: u64,
    nodes: u64,
}

impl OffenceRecords {
    fn new(now: Instant) -> Self {
        Self {
            nodes: OffenceLog::new(now),
            hosts: OffenceLog::new(now),
        }
    }

    /// Counts an offence of a node at a host. Returns the offences of the host if it should be
    /// reported.
    fn record(
        &mut self,
        now: Instant,
        node: &NodeId,
        host: &ChargedSender,
        what: Offence,
    ) -> Option<HostReport> {
        let is_known = self.nodes.of(node).is_some();
        self.nodes.record(now, node, what);
        let (count, nodes) = match self.hosts.of(host) {
            Some((count, last)) => (count + 1, last.nodes + u64::from(!is_known)),
            None => (1, 1),
        };
        let is_reported = self.hosts.record(now, host, HostOffence { nodes });
        is_reported.then_some(HostReport { count, nodes })
    }
}

impl Offenders {
    /// Returns an empty record that also counts protocol breaches on `net` from now on.
    pub(super) fn watch(
        net: &PeerNet,
        events: &EventLog,
        names: Names,
        published: Published,
    ) -> Self {
        let offenders = Self::new(events, names, published);
        let told = offenders.clone();
        let note = move |node, address, reason| {
            told.record_at(node, Some(address), Offence::Breach(reason));
        };
        net.set_on_breach(Arc::new(note));
        offenders
    }

    fn new(events: &EventLog, names: Names, published: Published) -> Self {
        Self {
            ledger: Arc::new(Mutex::new(OffenceRecords::new(Instant::now()))),
            events: events.clone(),
            names,
            published,
            counts: Arc::default(),
            dated_ahead: Arc::default(),
        }
    }

    /// Counts an offence. Reports the host of the node if it was not reported recently.
    pub(super) fn record(&self, node: NodeId, what: Offence) {
        let address = match what {
            // Each node has a condition of its own.
            Offence::DatesAhead { .. } => None,
            _ => self.published.addresses.load().get(&node).copied(),
        };
        self.record_at(node, address, what);
    }

    fn record_at(&self, node: NodeId, address: Option<SocketAddr>, what: Offence) {
        self.counts[what.place()].fetch_add(1, Ordering::Relaxed);
        let host = address.map_or(ChargedSender::Node(node), ChargedSender::at);
        let mut ledger = self.ledger.lock();
        let report = ledger.record(Instant::now(), &node, &host, what);
        drop(ledger);
        let Some(HostReport { count, nodes }) = report else {
            return;
        };
        let said = format!("{} {what}", self.names.of(&node));
        match (what, address) {
            (Offence::DatesAhead { ahead_s }, _) => self.begin_dated_ahead(&node, said, ahead_s),
            (_, Some(address)) if nodes > 1 => self.events.warn(format!(
                "{said} ({count} offences of {nodes} keys at {} so far)",
                address.ip()
            )),
            _ => self.events.warn(said),
        }
    }

    /// Begins [`Condition::ClockAhead`] for a node, until the latest of its dates is reached.
    fn begin_dated_ahead(&self, node: &NodeId, said: String, ahead_s: u64) {
        self.dated_ahead.store(true, Ordering::Relaxed);
        let ahead = Duration::from_secs(ahead_s);
        let said = format!("{said} ({})", both_times(ahead));
        let finding = Finding::new(said).of_cause("dates");
        // This clock never reaches a time beyond the range of `SystemTime`.
        let until = SystemTime::now().checked_add(ahead);
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
        ledger.nodes.of(node)
    }

    /// Returns the time since the last offence of a node.
    pub fn last_age(&self, node: &NodeId) -> Option<Duration> {
        let at = self.ledger.lock().nodes.last_at(node)?;
        Some(at.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use p2pfs_catalogue::Catalogue;
    use p2pfs_proto::trust::{EpochSecret, TestKeyring};
    use p2pfs_transfer::net::peer::DropReason;
    use p2pfs_types::id::NodeName;

    use super::*;

    fn offenders() -> Offenders {
        let me = NodeId::new([1; 32]);
        let view = Catalogue::new(me, NodeName::from_host("me")).view();
        let here = SocketAddr::from(([127, 0, 0, 1], 1378));
        let published = Published::new(p2pfs_content::PublishedNames::new(view), here, Vec::new());
        let keyring = TestKeyring::in_memory(EpochSecret::random());
        let names = Names::new(published.view.clone(), keyring.reader());
        Offenders::new(&EventLog::default(), names, published)
    }

    fn key(number: u32) -> NodeId {
        let mut bytes = [7; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        NodeId::new(bytes)
    }

    #[test]
    fn breaches_under_invented_keys_of_one_host_are_reported_once() {
        let offenders = offenders();
        let breach = Offence::Breach(DropReason::Malformed);
        for number in 0..100 {
            let from = SocketAddr::from(([192, 0, 2, 7], number as u16));
            offenders.record_at(key(number), Some(from), breach);
        }
        let other = SocketAddr::from(([192, 0, 2, 8], 1));
        offenders.record_at(key(1000), Some(other), breach);
        let told = offenders.events.warnings();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains(&key(0).short(8)), "{told:?}");
        assert!(told[1].contains(&key(1000).short(8)), "{told:?}");
        assert_eq!(offenders.of(&key(99)), Some((1, breach)));
    }

    #[test]
    fn the_next_report_of_a_host_counts_its_keys_and_offences() {
        let (mut ledger, start) = (OffenceRecords::new(Instant::now()), Instant::now());
        let host = ChargedSender::at(SocketAddr::from(([192, 0, 2, 7], 1)));
        let mut record = |number, after| {
            let at = start + Duration::from_secs(after);
            let report = ledger.record(at, &key(number), &host, Offence::Garbage);
            report.map(|it| (it.count, it.nodes))
        };
        assert_eq!(record(0, 0), Some((1, 1)));
        assert_eq!([record(0, 1), record(1, 2), record(2, 3)], [None; 3]);
        assert_eq!(record(2, 120), Some((5, 3)));
    }
}
