//! Announcements and questions of this node on the local network, and the addresses found there.
//! Pure: the caller passes in datagrams and the time, and sends the output.
//!
//! The machine sends questions and answers on each link at bounded rates, whatever arrives there.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::known::KnownNodes;
use super::message::{Announced, KNOWN_ANSWERS, Received, ServiceNames, ServiceQuestion, Validity};
use super::subnet::{LinkId, Subnet, announced};
use p2pfs_types::bucket::TokenBucket;

/// The port of multicast DNS. A datagram from another port is from a resolver that wants a reply of
/// its own (RFC 6762, section 6.7), and gets none.
pub(super) const PORT: u16 = 5353;
/// Maximum datagrams a second of one link that are parsed, on average. Only those with a name of
/// the service count.
pub const DATAGRAMS_PER_S: u32 = 2000;
/// Shortest time between an answer on a link and the next one (RFC 6762, section 6). Announcements
/// are not delayed by it.
const ANSWER_GAP: Duration = Duration::from_secs(1);
/// Shortest and longest delay of an answer, so that not all nodes answer at the same time (RFC
/// 6762, section 6). The random label of a node determines its delay.
const DELAY_MIN: Duration = Duration::from_millis(20);
const DELAY_MAX: Duration = Duration::from_millis(120);
/// Number of announcements after a link appears or its addresses change, and the time between them
/// (RFC 6762, section 8.3).
const ANNOUNCEMENTS: u32 = 2;
const ANNOUNCEMENT_GAP: Duration = Duration::from_secs(1);
/// Time between the first two questions on a link. It doubles each time, up to the longest
/// (RFC 6762, section 5.2).
const QUESTION_GAP_MIN: Duration = Duration::from_secs(1);
const QUESTION_GAP_MAX: Duration = Duration::from_secs(3600);

/// Action for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a datagram to the multicast group on a link.
    Send(LinkId, Vec<u8>),
    /// Pass on the address of a possible node.
    Hint(SocketAddr),
}

#[derive(Debug)]
struct LanLink {
    subnets: Vec<Subnet>,
    rate: TokenBucket,
    announcements: u32,
    announce_at: Option<Instant>,
    answer: Option<(Instant, ServiceQuestion)>,
    /// When an answer or announcement was last sent.
    said: Option<Instant>,
    question_at: Instant,
    question_gap: Duration,
}

/// The search for nodes on the local network.
#[derive(Debug)]
pub struct Machine {
    listen: SocketAddr,
    names: ServiceNames,
    delay: Duration,
    links: BTreeMap<LinkId, LanLink>,
    known: KnownNodes,
}

impl Machine {
    /// Creates a machine that announces `listen` under `label`, which has at most 63 letters and
    /// digits. Returns `None` if `label` is not valid in DNS.
    pub fn new(listen: SocketAddr, label: &str, now: Instant) -> Option<Self> {
        let spread: u32 = label.bytes().map(u32::from).sum();
        let step = (DELAY_MAX - DELAY_MIN) / 100;
        Some(Self {
            listen,
            names: ServiceNames::new(label)?,
            delay: DELAY_MIN + step * (spread % 101),
            links: BTreeMap::new(),
            known: KnownNodes::new(now),
        })
    }

    /// Replaces the links. A link that is new, or has other addresses, is searched from the start.
    pub fn set_links(&mut self, links: &[(LinkId, Vec<Subnet>)], now: Instant) {
        self.links
            .retain(|id, _| links.iter().any(|(it, _)| it == id));
        for (id, subnets) in links {
            let known = self.links.get(id);
            if known.is_none_or(|known| known.subnets != *subnets) {
                let link = LanLink::new(subnets.clone(), now + self.delay, now);
                self.links.insert(*id, link);
            }
        }
    }

    /// Processes a datagram that arrived on a link.
    pub fn receive(&mut self, id: LinkId, from: SocketAddr, datagram: &[u8], now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let is_near = from.port() == PORT && link.is_neighbour(from.ip());
        if !is_near || !self.names.occur_in(datagram) || !link.rate.take(1, now) {
            return;
        }
        match self.names.read(datagram) {
            Some(Received::Question(question)) => link.ask(question, now + self.delay),
            Some(Received::Nodes(nodes)) => {
                for node in nodes {
                    self.receive_node(from.ip(), node, now);
                }
            }
            None => {}
        }
    }

    fn receive_node(&mut self, sender: IpAddr, mut node: Announced, now: Instant) {
        if node.label == self.names.label {
            return;
        }
        let listen = self.listen;
        node.addresses
            .retain(|it| *it != listen && is_reachable(*it, listen));
        if !node.addresses.is_empty() || node.lifetime.is_zero() {
            self.known.receive(sender, node, now);
        }
    }

    /// Returns the next action that is due. The caller repeats the call until there is none.
    pub fn poll(&mut self, now: Instant) -> Option<Output> {
        if let Some(hint) = self.known.next_hint(now) {
            return Some(Output::Hint(hint));
        }
        let due = self.links.iter_mut().find(|(_, link)| link.due_at() <= now);
        let (id, link) = due?;
        if link.question_at <= now {
            link.question_at = now + link.question_gap;
            link.question_gap = (link.question_gap * 2).min(QUESTION_GAP_MAX);
            let known = self.known.fresh(KNOWN_ANSWERS, now);
            return Some(Output::Send(*id, self.names.question(&known)));
        }
        let question = link.take_answer(now);
        let addresses = announced(&link.subnets, self.listen.ip());
        let (port, validity) = (self.listen.port(), Validity::Normal);
        let answer = self
            .names
            .announcement(question, port, &addresses, validity);
        Some(Output::Send(*id, answer))
    }

    /// Returns when [`Self::poll`] has something to give, at the earliest.
    pub fn poll_at(&self) -> Option<Instant> {
        let links = self.links.values().map(LanLink::due_at);
        links.chain(self.known.hint_at()).min()
    }

    /// Returns up to `count` addresses at which other nodes announce themselves, one of each node.
    pub fn announced_nodes(&mut self, count: usize, now: Instant) -> Vec<SocketAddr> {
        self.known.sample(count, now)
    }

    /// Returns the datagrams that make others forget this node.
    pub fn farewell(&self) -> Vec<(LinkId, Vec<u8>)> {
        let all = ServiceQuestion {
            node: true,
            service_type: false,
        };
        let goodbye = |(id, link): (&LinkId, &LanLink)| {
            let addresses = announced(&link.subnets, self.listen.ip());
            let (port, validity) = (self.listen.port(), Validity::Goodbye);
            (
                *id,
                self.names.announcement(all, port, &addresses, validity),
            )
        };
        self.links.iter().map(goodbye).collect()
    }
}

impl LanLink {
    fn new(subnets: Vec<Subnet>, first: Instant, now: Instant) -> Self {
        Self {
            subnets,
            rate: TokenBucket::per_second(DATAGRAMS_PER_S, DATAGRAMS_PER_S, now),
            announcements: ANNOUNCEMENTS,
            announce_at: Some(first),
            answer: None,
            said: None,
            question_at: first,
            question_gap: QUESTION_GAP_MIN,
        }
    }

    /// Returns whether a sender is on this link, as far as its address tells (RFC 6762,
    /// section 11).
    fn is_neighbour(&self, sender: IpAddr) -> bool {
        let is_link_local = matches!(sender, IpAddr::V6(ip) if ip.is_unicast_link_local());
        is_link_local || self.subnets.iter().any(|subnet| subnet.contains(sender))
    }

    /// Schedules an answer, or adds to the one that is scheduled.
    fn ask(&mut self, question: ServiceQuestion, at: Instant) {
        let earliest = self.said.map_or(at, |said| at.max(said + ANSWER_GAP));
        let (_, asked) = self.answer.get_or_insert((earliest, question));
        asked.node |= question.node;
        asked.service_type |= question.service_type;
    }

    fn due_at(&self) -> Instant {
        let answer = self.answer.map(|(at, _)| at);
        let says = [self.announce_at, answer].into_iter().flatten();
        says.chain([self.question_at])
            .min()
            .unwrap_or(self.question_at)
    }

    /// Returns what to announce now. An announcement answers a scheduled question.
    fn take_answer(&mut self, now: Instant) -> ServiceQuestion {
        let asked = self.answer.take().map(|(_, question)| question);
        let mut question = asked.unwrap_or_default();
        if self.announce_at.is_some_and(|at| at <= now) {
            question.node = true;
            self.announcements -= 1;
            let more = self.announcements > 0;
            self.announce_at = more.then(|| now + ANNOUNCEMENT_GAP);
        }
        self.said = Some(now);
        question
    }
}

/// Returns whether an address can be that of another node: a unicast address with a port, of a
/// family that this node speaks, and on loopback only if this node listens there. A link-local IPv6
/// address is useless without its link.
fn is_reachable(hint: SocketAddr, own: SocketAddr) -> bool {
    let ip = hint.ip();
    let is_link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    let is_unusable = ip.is_unspecified() || ip.is_multicast() || is_broadcast || is_link_local;
    let is_spoken = ip.is_ipv4() || own.is_ipv6();
    let is_elsewhere = !ip.is_loopback() || own.ip().is_loopback();
    hint.port() != 0 && !is_unusable && is_spoken && is_elsewhere
}
