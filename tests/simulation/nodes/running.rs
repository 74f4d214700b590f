//! One node: its machine, its session, and the glue of the production event loop.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2pfs_catalogue::View;
use p2pfs_fetch::Session;
use p2pfs_fetch::plan::{self, PeerNews, PlanConfig, RangeRequest};
use p2pfs_membership::{ClusterConfig, MemberState};
use p2pfs_node::machine::{NodeEvent, RequestId};
use p2pfs_node::{Machine, MachineConfig};
use p2pfs_proto::trust::{EpochSecret, Keyring, NodeKey, StoredTrust, TrustWrite};
use p2pfs_proto::wire::native::record::{Entry, Kind, ShareIndex, Timestamp};
use p2pfs_proto::wire::native::tcp::{Request, Response};
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::id::{Generation, NodeId, NodeName};
use p2pfs_types::path::SharedPath;

use crate::nodes::contents::{Cached, Library};
use crate::nodes::disk::Disk;
use crate::nodes::fetching::{Harness, Reader};

/// Minimum time between two stored batches, as in production.
const STORE_SPACING: Duration = Duration::from_millis(500);
/// Bytes in memory for which the cache has no room.
const UNCACHED_MAX_BYTES: u64 = 32 << 20;
/// The share of each node in which the replacements and deletions of other nodes count.
pub(super) const OPEN_SHARE: ShareIndex = ShareIndex(0);
/// Number of records in one batch.
const STORE_RECORDS: usize = 8192;

fn fetching_as(me: NodeId) -> PlanConfig {
    PlanConfig {
        me,
        ..PlanConfig::default()
    }
}

/// How a node treats requests for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Honest,
    /// Sends proofs with one changed byte.
    Liar,
    /// Accepts requests about contents and logs, and never answers.
    Mute,
    /// Gives its log, and never answers questions about contents.
    Withholder,
    /// Gives its log and the beginning of each content, and never answers for the rest.
    Beginner,
    /// Says of each content that it is gone.
    Refuser,
}

/// How a disk stores changes of the membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TrustDisk {
    /// Each after this time.
    After(Duration),
    /// None. They wait.
    Hangs,
    /// The next at once, and the node dies before it learns of that.
    LastBreath,
}

/// The use of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Machine(RequestId),
    Range(RangeRequest),
    Holdings(ContentHash),
}

/// A request to send.
pub(super) struct Wish {
    pub node: NodeId,
    pub address: SocketAddr,
    pub request: Request,
    pub purpose: Purpose,
}

/// The parts of a node that survive its process, and the process while it runs.
pub(super) struct Node {
    pub key: Arc<NodeKey>,
    pub id: NodeId,
    pub name: NodeName,
    pub address: SocketAddr,
    pub config: ClusterConfig,
    pub secret: u8,
    /// What its disk has of the membership. With `None`, the secret alone makes a member.
    pub trust: Option<StoredTrust>,
    /// How its disk stores changes of the membership.
    pub trust_disk: TrustDisk,
    pub manner: Manner,
    /// Pause after each step of work that takes many steps. With `None`, all steps run at once.
    pub pace: Option<Duration>,
    pub shares: BTreeMap<(ShareIndex, SharedPath), Entry>,
    pub cache: BTreeMap<ContentHash, Cached>,
    pub disk: Disk,
    /// The whole machine is off, so no connection is refused.
    pub is_off: bool,
    pub lives: u64,
    pub running: Option<Running>,
}

/// One life of a node's process.
pub(super) struct Running {
    pub machine: Machine,
    pub session: Session<Harness>,
    pub view: Arc<View>,
    pub addresses: BTreeMap<NodeId, SocketAddr>,
    pub readers: Vec<Reader>,
    pub wishes: Vec<Wish>,
    /// Cancelled requests of the session.
    pub taken_back: Vec<plan::RequestId>,
    pub datagrams: Vec<(SocketAddr, Vec<u8>)>,
    /// Addresses that may belong to unknown members.
    pub knocks: Vec<SocketAddr>,
    /// Events reported by the node, with their time.
    pub events: Vec<(Instant, NodeEvent)>,
    /// Peers that the plan reported as liars, with the time.
    pub liars: Vec<(Instant, NodeId)>,
    /// Time of the first scan of the shares.
    scan_at: Option<Instant>,
    store_at: Instant,
    /// Set when there may be new data to store.
    unstored: bool,
    /// The change of the membership that the disk stores, and when it will be there.
    trust_write: Option<(TrustWrite, Option<Instant>)>,
    /// When the next of many steps is due.
    sweep_at: Option<Instant>,
    pub has_left: bool,
}

impl Node {
    /// Starts the process. Its shares are scanned a little later.
    pub(super) fn boot(&mut self, now: Instant, unix_s: u64, seed: u64, scan_after: Duration) {
        self.lives += 1;
        self.is_off = false;
        let mut catalogue = self.disk.load(self.id, self.name.clone());
        let view = catalogue.view();
        self.disk.generation = unix_s.max(self.disk.generation + 1);
        let mut cluster = self.config.clone();
        cluster.seeds.extend(&self.disk.addresses);
        let config = MachineConfig {
            key: self.key.clone(),
            name: self.name.clone(),
            advertised: self.address,
            generation: Generation(self.disk.generation),
            keyring: match self.trust.clone() {
                Some(stored) => Keyring::stored(self.key.clone(), stored, unix_s),
                None => Keyring::in_memory(EpochSecret::new([self.secret; 32]), self.key.clone()),
            },
            cluster,
            seed,
        };
        let mut machine = Machine::new(config, catalogue, now);
        let complete = self.cache.iter().filter(|(_, cached)| cached.is_complete());
        let complete: Vec<_> = complete.map(|(hash, c)| (*hash, c.size_bytes())).collect();
        machine.own().align_haves(now, &complete);
        self.running = Some(Running {
            machine,
            session: Session::new(fetching_as(self.id), seed, UNCACHED_MAX_BYTES),
            view,
            addresses: BTreeMap::new(),
            readers: Vec::new(),
            wishes: Vec::new(),
            taken_back: Vec::new(),
            datagrams: Vec::new(),
            knocks: Vec::new(),
            events: Vec::new(),
            liars: Vec::new(),
            scan_at: Some(now + scan_after),
            store_at: now,
            unstored: true,
            trust_write: None,
            sweep_at: None,
            has_left: false,
        });
    }

    /// Ends the process at once.
    pub(super) fn kill(&mut self) {
        self.running = None;
    }

    pub(super) fn has_scanned(&self) -> bool {
        self.running.as_ref().is_some_and(|r| r.scan_at.is_none())
    }

    /// Writes a file into a share, or removes it.
    pub(super) fn edit(
        &mut self,
        now: Instant,
        name: (ShareIndex, SharedPath),
        entry: Option<Entry>,
    ) {
        match &entry {
            Some(entry) => drop(self.shares.insert(name.clone(), entry.clone())),
            None => drop(self.shares.remove(&name)),
        }
        if !self.has_scanned() {
            return;
        }
        let Some(running) = &mut self.running else {
            return;
        };
        let (share, path) = name;
        match entry {
            Some(entry) => running.machine.own().put(now, share, path, entry),
            None => running.machine.own().remove(now, share, &path),
        }
    }

    /// Deletes the versions that a running node knows of a path.
    pub(super) fn delete(&mut self, now: Instant, time: Timestamp, path: &SharedPath) {
        let Some(running) = &mut self.running else {
            return;
        };
        let contents = running.view.contents_at(path).hashes;
        let deleted = running.machine.own().gone(now, time, path, contents);
        deleted.expect("within every budget");
    }

    /// Returns whether any name in a share has this content.
    pub(super) fn shares_content(&self, hash: &ContentHash) -> bool {
        let is_it = |entry: &Entry| matches!(&entry.kind, Kind::File { hash: h, .. } if h == hash);
        self.shares.values().any(is_it)
    }

    /// Evicts one complete content from the cache, unless it is in use.
    pub(super) fn evict(&mut self, now: Instant, hash: &ContentHash) {
        let Some(running) = &mut self.running else {
            return;
        };
        let is_idle = |cached: &Cached| {
            let content = ContentKey::new(*hash, cached.size_bytes());
            !running.session.plan.files().is_open(&content)
        };
        if self.cache.get(hash).is_some_and(is_idle) && self.cache.remove(hash).is_some() {
            running.machine.own().set_have(now, *hash, None);
        }
    }

    /// Answers a request of a proven member. Returns `None` if the node stays silent.
    pub(super) fn answer(
        &mut self,
        now: Instant,
        from: NodeId,
        request: &Request,
        library: &Library,
    ) -> Option<Response> {
        let running = self.running.as_mut()?;
        if self.manner == Manner::Mute && matches!(request, Request::Log { .. }) {
            return None;
        }
        match running.machine.answer(now, from, request) {
            Some(response) => Some(response),
            None => self.answer_about_content(request, library),
        }
    }

    /// Handles the scan and the timers that are due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let shares = &self.shares;
        let Some(running) = &mut self.running else {
            return;
        };
        if running.scan_at.is_some_and(|at| at <= now) {
            running.scan_at = None;
            running.scan(now, shares);
        }
        if running.machine.poll_timeout().is_some_and(|at| at <= now) {
            running.machine.handle_timeout(now);
        }
        if running
            .session
            .plan
            .poll_timeout()
            .is_some_and(|at| at <= now)
        {
            running.session.plan.handle_timeout(now);
        }
    }

    /// Returns when [`Self::handle_timeout`] is due.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let running = self.running.as_ref()?;
        let store = running.unstored.then_some(running.store_at);
        let machines = [
            running.machine.poll_timeout(),
            running.session.plan.poll_timeout(),
        ];
        let all = machines.into_iter().chain([running.scan_at, store]);
        let trust = running.trust_write.as_ref().and_then(|(_, at)| *at);
        all.chain([running.sweep_at, trust]).flatten().min()
    }

    /// Carries out the actions of the machine and the session until there are none. Outgoing
    /// messages are then in `datagrams` and `wishes`.
    pub(super) fn settle(&mut self, now: Instant, library: &Library) {
        self.store_trust(now);
        if self.running.is_none() {
            return;
        }
        while self.settle_machine(now) | self.settle_session(now, library) {}
        let Some(running) = &mut self.running else {
            return;
        };
        running.unstored = true;
        if running.store_at <= now {
            let writes = running
                .machine
                .catalogue()
                .storage()
                .take_writes(STORE_RECORDS);
            running.unstored = !writes.is_empty();
            if running.unstored {
                running.store_at = now + STORE_SPACING;
                self.disk.write(writes);
            }
        }
    }

    /// Stores changes of the membership as far as the disk has had the time.
    fn store_trust(&mut self, now: Instant) {
        while let Some(running) = &mut self.running {
            if let Some(write) = running.machine.poll_trust_write() {
                let done = match self.trust_disk {
                    TrustDisk::After(time) => Some(now + time),
                    TrustDisk::Hangs => None,
                    TrustDisk::LastBreath => Some(now),
                };
                running.trust_write = Some((write, done));
            }
            let is_done = |(_, done): &mut (_, Option<Instant>)| done.is_some_and(|at| at <= now);
            let Some((write, _)) = running.trust_write.take_if(is_done) else {
                return;
            };
            let stored = self.trust.as_mut().expect("only a ledger is stored");
            stored.secret = write.secret.unwrap_or(stored.secret.clone());
            stored.ledger = write.ledger.unwrap_or(stored.ledger.clone());
            if self.trust_disk == TrustDisk::LastBreath {
                self.trust_disk = TrustDisk::After(Duration::ZERO);
                return self.kill();
            }
            running.machine.finish_trust_write(now, Ok(()));
        }
    }

    fn settle_machine(&mut self, now: Instant) -> bool {
        let mut events = Vec::new();
        let Some(running) = &mut self.running else {
            return false;
        };
        if running.sweep_at.is_none_or(|at| at <= now) {
            let mut has_more = running.machine.sweep(now);
            while has_more && self.pace.is_none() {
                has_more = running.machine.sweep(now);
            }
            running.sweep_at = self.pace.filter(|_| has_more).map(|pace| now + pace);
        }
        while let Some(outgoing) = running.machine.poll_request() {
            running.wishes.push(Wish {
                node: outgoing.node,
                address: outgoing.address,
                request: outgoing.request,
                purpose: Purpose::Machine(outgoing.id),
            });
        }
        while let Some(event) = running.machine.poll_event() {
            events.push(event);
        }
        while let Some(answer) = running.machine.poll_answer() {
            answer();
        }
        while let Some(sent) = running.machine.poll_transmit() {
            assert!(sent.datagram.len() <= 1200 && sent.datagram[0] >= 0x80);
            running.datagrams.push((sent.to, sent.datagram));
        }
        if running.machine.has_changes() {
            running.view = running.machine.view();
            while running.machine.catalogue().poll_change().is_some() {}
        }
        let acted = !events.is_empty();
        for event in events {
            self.act_on(now, event);
        }
        acted
    }

    fn act_on(&mut self, now: Instant, event: NodeEvent) {
        let Some(running) = &mut self.running else {
            return;
        };
        match &event {
            NodeEvent::PeerUp(member) => {
                running
                    .session
                    .plan
                    .record_peer_news(member.node, PeerNews::Returned);
                self.publish_addresses();
            }
            NodeEvent::PeerMoved(_) | NodeEvent::PeerDown { .. } | NodeEvent::PeerAway { .. } => {
                self.publish_addresses()
            }
            NodeEvent::Wanted { from, hashes } => {
                self.introduce(now, *from, hashes);
                self.offer_what_is_here(now, *from, hashes);
            }
            NodeEvent::Offered {
                from,
                address,
                offer,
            } => self.take_offer(now, *from, *address, offer),
            NodeEvent::Renewed { generation } => self.disk.generation = generation.0,
            NodeEvent::Knock { address } => running.knocks.push(*address),
            NodeEvent::Called { .. }
            | NodeEvent::CopiedKey { .. }
            | NodeEvent::CopyGone { .. }
            | NodeEvent::Offended { .. }
            | NodeEvent::NamesRefused
            | NodeEvent::Stated(_)
            | NodeEvent::MembershipChanged => {}
            NodeEvent::Left => running.has_left = true,
        }
        if let Some(running) = &mut self.running {
            running.events.push((now, event));
        }
    }

    fn publish_addresses(&mut self) {
        let Some(running) = &mut self.running else {
            return;
        };
        let members = running.machine.cluster().members().into_iter();
        let reachable = members
            .filter(|status| matches!(status.state, MemberState::Alive | MemberState::Suspect));
        running.addresses = reachable
            .map(|status| (status.member.node, status.member.address))
            .collect();
        self.disk.addresses = running.addresses.values().copied().collect();
    }
}

impl Running {
    /// Compares the log with the folder.
    fn scan(&mut self, now: Instant, shares: &BTreeMap<(ShareIndex, SharedPath), Entry>) {
        let said: Vec<_> = self
            .machine
            .catalogue()
            .own()
            .all_entries()
            .map(|(share, path, _)| (share, path))
            .collect();
        for (share, path) in said {
            if !shares.contains_key(&(share, path.clone())) {
                self.machine.own().remove(now, share, &path);
            }
        }
        self.machine.own().terms(now, OPEN_SHARE, true);
        for ((share, path), entry) in shares {
            self.machine
                .own()
                .put(now, *share, path.clone(), entry.clone());
        }
    }
}
