//! The state that the event loop publishes for other threads, and the changes that it announces.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;

use p2pfs_catalogue::{Change, View};
use p2pfs_content::{OwnReaders, PublishedNames};
use p2pfs_membership::MemberStatus;
use p2pfs_proto::wire::native::tcp::LogPart;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;

/// Minimum interval between publications of the member list. A member that comes up, moves, goes
/// down or goes away is published at once.
const MEMBERS_EACH: Duration = Duration::from_millis(100);

/// One other node, as the loop knows it.
#[derive(Clone, Debug)]
pub struct MemberReport {
    /// Its state in the membership.
    pub status: MemberStatus,
    /// Number of entries in its log.
    pub entries: u64,
    /// Whether this node shows everything that it can learn from the other node. Either the other
    /// node told which logs it knows, or a third node told its log instead, or it failed to answer
    /// several times. Besides, no log is in transfer to this node or waits to be shown, except logs
    /// that no node can give at the moment.
    pub is_read: bool,
    /// When this node learned of the present state; `None` before the report is published.
    pub since: Option<SystemTime>,
}

impl MemberReport {
    /// Sets since when the members have their state, from the reports before. Both are in the order
    /// of the nodes.
    pub(super) fn set_since(now: SystemTime, before: &[Self], reports: &mut [Self]) {
        for report in reports {
            let (node, state) = (report.status.member.node, report.status.state);
            let known = before.binary_search_by_key(&node, |it| it.status.member.node);
            let known = known.ok().and_then(|place| before.get(place));
            let same = known.filter(|it| it.status.state == state);
            report.since = same.and_then(|it| it.since).or(Some(now));
        }
    }
}

/// The published state. Clones share it.
#[derive(Clone)]
pub(super) struct Published {
    /// The current namespace.
    pub(super) view: Arc<ArcSwap<View>>,
    /// The readers of the own shares, published before any name in these shares is announced.
    pub(super) readers: Arc<ArcSwap<OwnReaders>>,
    /// The address at which other nodes reach this one.
    pub(super) own_address: Arc<ArcSwap<SocketAddr>>,
    /// The address of each reachable member.
    pub(super) addresses: Arc<ArcSwap<BTreeMap<NodeId, SocketAddr>>>,
    /// The addresses at which members were last reached, in this life or an earlier one.
    pub(super) last_addresses: Arc<ArcSwap<Vec<SocketAddr>>>,
    /// Content of `.p2pfs/status.json`.
    pub(super) status: Arc<ArcSwap<Vec<u8>>>,
    /// The members, published at the rate of [`MemberSchedule`].
    pub(super) members: Arc<ArcSwap<Vec<MemberReport>>>,
    dropped_datagrams: Arc<AtomicU64>,
    told_bytes: Arc<AtomicU64>,
}

impl Published {
    pub(super) fn new(
        names: PublishedNames,
        own_address: SocketAddr,
        last_addresses: Vec<SocketAddr>,
    ) -> Self {
        Self {
            own_address: Arc::new(ArcSwap::from_pointee(own_address)),
            view: names.view,
            readers: names.readers,
            addresses: Arc::default(),
            last_addresses: Arc::new(ArcSwap::from_pointee(last_addresses)),
            status: Arc::new(ArcSwap::from_pointee(b"{}\n".to_vec())),
            members: Arc::default(),
            dropped_datagrams: Arc::default(),
            told_bytes: Arc::default(),
        }
    }

    /// Sets the number of datagrams dropped since the start.
    pub(super) fn set_dropped(&self, datagrams: u64) {
        self.dropped_datagrams.store(datagrams, Ordering::Relaxed);
    }

    pub(super) fn dropped_datagrams(&self) -> u64 {
        self.dropped_datagrams.load(Ordering::Relaxed)
    }

    /// Counts a part of a log that was sent to a member.
    pub(super) fn count_told(&self, part: &LogPart) {
        let bytes = part.records.len() as u64;
        self.told_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn sent_log_bytes(&self) -> u64 {
        self.told_bytes.load(Ordering::Relaxed)
    }

    /// Sets the address of each reachable member.
    pub(super) fn set_addresses(&self, addresses: BTreeMap<NodeId, SocketAddr>) {
        if !addresses.is_empty() {
            let all = addresses.values().copied().collect();
            self.last_addresses.store(Arc::new(all));
        }
        self.addresses.store(Arc::new(addresses));
    }
}

/// The schedule of the member list: soon after any event, but at most once per [`MEMBERS_EACH`].
#[derive(Default)]
pub(super) struct MemberSchedule {
    told_at: Option<Instant>,
    due: Option<Instant>,
}

impl MemberSchedule {
    /// Returns whether to publish the members now, after an event. Otherwise they become due later.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let again = self.told_at.map(|at| at + MEMBERS_EACH);
        self.due = again.filter(|at| *at > now);
        if self.due.is_none() {
            self.told_at = Some(now);
        }
        self.due.is_none()
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due
    }
}

/// Changes for the owner of a mount, which has to update the kernel's caches.
#[derive(Clone)]
pub enum Outdated {
    /// Names, in the order of their changes.
    Names {
        /// The namespace after the changes; `None` for names of foreign files.
        view: Option<Arc<View>>,
        /// The changed names.
        changes: Vec<Change>,
    },
    /// The cached part of this content has changed.
    CachedBytes(ContentHash),
}

#[cfg(test)]
mod tests {
    use p2pfs_membership::{Member, MemberState};

    use super::*;
    use p2pfs_types::id::Generation;

    #[test]
    fn a_state_keeps_its_time_until_it_changes() {
        let report = |node: u8, state| MemberReport {
            status: MemberStatus {
                member: Member {
                    node: NodeId::new([node; 32]),
                    address: "10.0.0.1:1378".parse().unwrap(),
                    generation: Generation(1),
                },
                state,
                round_trip: None,
            },
            entries: 0,
            is_read: true,
            since: None,
        };
        let (alive, down) = (MemberState::Alive, MemberState::Down);
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut first = [report(1, alive), report(3, alive)];
        MemberReport::set_since(at(10), &[], &mut first);
        let mut second = [report(1, alive), report(2, down), report(3, down)];
        MemberReport::set_since(at(20), &first, &mut second);
        let since = second.map(|it| it.since);
        assert_eq!(since, [Some(at(10)), Some(at(20)), Some(at(20))]);
    }
}
