//! What the event loop publishes for everyone else, and what it tells of changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use p2pfs_catalogue::{Change, View};
use p2pfs_membership::MemberStatus;
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_proto::wire::native::tcp::LogPart;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;

/// How often the members are told, changes of their state aside, which are told at once.
const MEMBERS_EACH: Duration = Duration::from_millis(100);

/// One other node, as the loop knows it.
#[derive(Clone, Debug)]
pub struct MemberReport {
    /// Membership.
    pub status: MemberStatus,
    /// Entries in its log.
    pub entries: u64,
    /// Whether it has told which logs it knows, and none of those that are to be had is still on
    /// its way: what the live members list is listed here.
    pub is_read: bool,
}

/// Who reads each share of this node that has readers.
pub(crate) type OwnReaders = BTreeMap<ShareIndex, BTreeSet<NodeId>>;

/// What is published. Clones are the same.
#[derive(Clone)]
pub(super) struct Published {
    /// The namespace as it is now.
    pub(super) view: Arc<ArcSwap<View>>,
    /// Who reads the own shares, before any name of theirs is told.
    pub(super) readers: Arc<ArcSwap<OwnReaders>>,
    /// Where others reach this node.
    pub(super) own_address: Arc<ArcSwap<SocketAddr>>,
    /// Where each reachable member is.
    pub(super) addresses: Arc<ArcSwap<BTreeMap<NodeId, SocketAddr>>>,
    /// Where members were reached the last time that any was, in this life or an earlier one.
    pub(super) last_addresses: Arc<ArcSwap<Vec<SocketAddr>>>,
    /// What `.p2pfs/status.json` shows.
    pub(super) status: Arc<ArcSwap<Vec<u8>>>,
    /// The members, as [`Roll`] has them told.
    pub(super) members: Arc<ArcSwap<Vec<MemberReport>>>,
    dropped_datagrams: Arc<AtomicU64>,
    told_bytes: Arc<AtomicU64>,
}

impl Published {
    pub(super) fn new(
        view: Arc<View>,
        own_address: SocketAddr,
        last_addresses: Vec<SocketAddr>,
    ) -> Self {
        Self {
            own_address: Arc::new(ArcSwap::from_pointee(own_address)),
            view: Arc::new(ArcSwap::new(view)),
            readers: Arc::default(),
            addresses: Arc::default(),
            last_addresses: Arc::new(ArcSwap::from_pointee(last_addresses)),
            status: Arc::new(ArcSwap::from_pointee(b"{}\n".to_vec())),
            members: Arc::default(),
            dropped_datagrams: Arc::default(),
            told_bytes: Arc::default(),
        }
    }

    /// Says how many datagrams were dropped since the start.
    pub(super) fn note_dropped(&self, datagrams: u64) {
        self.dropped_datagrams.store(datagrams, Ordering::Relaxed);
    }

    pub(super) fn dropped_datagrams(&self) -> u64 {
        self.dropped_datagrams.load(Ordering::Relaxed)
    }

    /// A part of a log was given to a member.
    pub(super) fn note_told(&self, part: &LogPart) {
        let bytes = part.records.len() as u64;
        self.told_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn told_bytes(&self) -> u64 {
        self.told_bytes.load(Ordering::Relaxed)
    }

    /// Where each member is reached from now on.
    pub(super) fn set_addresses(&self, addresses: BTreeMap<NodeId, SocketAddr>) {
        if !addresses.is_empty() {
            let all = addresses.values().copied().collect();
            self.last_addresses.store(Arc::new(all));
        }
        self.addresses.store(Arc::new(addresses));
    }
}

/// When the members are told again: soon after anything happened, and not more often than
/// [`MEMBERS_EACH`].
#[derive(Default)]
pub(super) struct Roll {
    told_at: Option<Instant>,
    due: Option<Instant>,
}

impl Roll {
    /// Whether they are to be told now that something happened; else they are due later.
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

/// What whoever shows the namespace must look at again.
#[derive(Clone)]
pub enum Outdated {
    /// Names, in the order in which they changed.
    Names {
        /// The namespace that shows them so; none where they are legacy peers'.
        view: Option<Arc<View>>,
        /// What changed.
        changes: Vec<Change>,
    },
    /// Another part of this content is cached than before.
    CachedBytes(ContentHash),
}
