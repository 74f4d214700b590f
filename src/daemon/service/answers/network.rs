//! Checks of the network between this node and the others: seeds that do not answer, firewalls,
//! clocks.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::membership::SAME_SECRET;
use super::pace::PING_PROBES;
use super::presence::{ProbedMachine, let_through, let_through_here, probe};
use super::{Asked, Services, Sight, membership, nearby, told};
use crate::daemon::config::Seed;
use crate::daemon::control::{Answer, Check, CheckState, Failure, FailureKind, Pong, parameters};
use crate::daemon::service::conditions::CLOCK_CHECK;
use crate::daemon::service::isolation;
use crate::daemon::service::seeds::resolve;
use p2pfs_node::api::MemberState;
use p2pfs_node::{
    CLOCK_CAUSE, GENERATION_AHEAD_MAX_S, MemberReport, NetError, Node, NodeError, Probed, Reached,
    StandingCondition,
};
use p2pfs_types::age::age_text;
use p2pfs_types::id::NodeId;
use p2pfs_types::utc::utc_text;

/// Maximum peers checked one by one; in a larger cluster, these are enough.
const PEERS_MAX: usize = 16;
/// Maximum nodes with a similar name that are suggested for an unknown name.
const ALIKE_MAX: usize = 4;
/// Number of live peers that each periodic check asks whether they reach this node.
const ASKED_IN_PASSING: usize = 2;
/// The kernel's list of this machine's IPv6 addresses.
const IPV6_ADDRESSES: &str = "/proc/net/if_inet6";
/// Scope of a link-local address in that list (`IPV6_ADDR_LINKLOCAL` of `net/ipv6.h`).
const LINK_SCOPE: &str = "20";
/// How long to wait until a node that was reached by TCP is heard over UDP: a few rounds of gossip.
const HEARD_WITHIN: Duration = Duration::from_secs(5);
/// How long after the start [`HEARD_WITHIN`] holds. Later, a node that answers is long heard.
const START_MAX: SignedDuration = SignedDuration::from_secs(10);
/// How long `p2pfs doctor` waits for other machines, so that it answers within 2 s. The second
/// packet of a lost connection attempt leaves after 1 s.
const CHECKUP_PATIENCE: Duration = Duration::from_millis(1500);
/// Minimum time for the dial of a seed. With less, its silence says nothing.
const DIAL_MIN: Duration = Duration::from_millis(500);
/// Remedy for a resolver that takes too long.
const SLOW_RESOLVER: &str = "mend the resolver of this machine, or give the seed by its address";
/// How long the periodic checks wait: longer than a dial, a handshake and an answer take.
pub(in crate::daemon::service) const WATCH_PATIENCE: Duration = Duration::from_secs(30);
/// Round trips until a peer has answered that it was asked to dial back: a connection each way with
/// its handshake, the question and the answer, with a margin.
const DIAL_BACK_ROUND_TRIPS: u32 = 10;
/// Interval between checks whether the node is heard over UDP.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// Maximum gap between two clocks that is not reported. It is less than the minute by which a
/// version may be dated ahead of the clock without having to wait, and more than the error of a
/// clock with a time server.
const CLOCK_GAP_MAX: Duration = Duration::from_secs(30);

pub(super) async fn members(services: &Services) -> Result<Vec<MemberReport>, Failure> {
    Ok(services.node.peers().members().await?)
}

/// Finds a node by its name, its address or the start of its key.
pub(super) async fn find_node(services: &Services, wanted: &str) -> Result<MemberReport, Failure> {
    let all = members(services).await?;
    let is_it = |member: &&MemberReport| {
        let contact = &member.status.member;
        services.node.peers().is_called(&contact.node, wanted)
            || contact.address.to_string() == wanted
    };
    let mut found: Vec<_> = all.iter().filter(is_it).collect();
    // If one of several matches is alive, the dead ones are not meant.
    if found.len() > 1 && found.iter().any(|member| is_alive(member)) {
        found.retain(|member| is_alive(member));
    }
    match found[..] {
        [member] => Ok(member.clone()),
        [] => {
            let message = format!("no node is called {wanted:?}");
            let failure = Failure::new(FailureKind::NotFound, message);
            Err(failure.with_remedy(called_alike(services, &all, wanted)))
        }
        _ => {
            let message = format!("{} nodes are called {wanted:?}", found.len());
            Err(Failure::new(FailureKind::Invalid, message)
                .with_remedy("name it by its address, as p2pfs peers shows it"))
        }
    }
}

/// Suggests similar names. Nodes with the same name have a part of their key appended.
fn called_alike(services: &Services, all: &[MemberReport], wanted: &str) -> String {
    let names = all
        .iter()
        .map(|it| services.node.peers().name_of(&it.status.member.node));
    let is_alike = |name: &String| {
        let rest = name.strip_prefix(wanted);
        rest.is_some_and(|rest| rest.starts_with('-'))
    };
    let alike: Vec<_> = names.filter(is_alike).take(ALIKE_MAX).collect();
    match alike[..] {
        [] => "p2pfs peers shows who is known".to_owned(),
        _ => format!("p2pfs peers has {}", alike.join(", ")),
    }
}

impl Answer<Asked> for parameters::Ping {
    async fn answer(self, asked: &mut Asked) -> Result<Pong, Failure> {
        let ping = ping(&asked.services, &self.peer, asked.viewer.sight);
        asked.while_heard(ping).await
    }
}

/// Measures how long a node takes to answer. A ping costs that node a handshake, so an ordinary
/// user may cause only a limited rate of pings.
async fn ping(services: &Services, wanted: &str, sight: Sight) -> Result<Pong, Failure> {
    services.rights.pace(sight, PING_PROBES).await;
    let member = find_node(services, wanted).await?;
    let contact = member.status.member;
    let (node, address) = (contact.node, contact.address);
    let round_trip = services.node.peers().tcp_round_trip(node, address).await;
    let round_trip = round_trip
        .map_err(|error| Failure::from(error).with_remedy("p2pfs doctor looks for the reason"))?;
    Ok(Pong {
        name: services.node.peers().name_of(&node),
        node: node.to_string(),
        address: address.to_string(),
        tcp_ms: round_trip.as_secs_f64() * 1e3,
        udp_ms: member
            .status
            .round_trip
            .map(|time| time.as_secs_f64() * 1e3),
    })
}

/// Checks the address, the seeds, the peers and their clocks, and looks for nodes nearby. The
/// findings about peers become conditions at once, so that `p2pfs status` agrees.
pub(super) async fn check_network(services: &Arc<Services>) -> Result<Vec<Check>, Failure> {
    let (address, seeds, peers, nearby) = tokio::join!(
        check_address(services),
        check_seeds(services, CHECKUP_PATIENCE),
        check_peers(services, PEERS_MAX, CHECKUP_PATIENCE),
        nearby::check_nearby(services, CHECKUP_PATIENCE)
    );
    let peers = peers?;
    if !peers.is_empty() {
        isolation::tell(services, unless_copied_at_all(services, peers.clone()));
    }
    let mut checks = vec![address];
    checks.extend(seeds);
    checks.extend(peers);
    checks.extend(nearby?);
    Ok(membership::unless_copied(services, checks))
}

/// Checks nodes that are not alive. Also returns whether no other node is alive.
pub(super) async fn check_absent(services: &Services) -> Result<(Vec<Check>, bool), Failure> {
    let members = members(services).await?;
    let absent = membership::check_absent(services, &members, CHECKUP_PATIENCE).await;
    Ok((absent, alive_of(&members) == 0))
}

/// Returns whether no other node is alive.
pub(in crate::daemon::service) async fn is_alone(services: &Services) -> bool {
    let members = services.node.peers().members().await;
    members.is_ok_and(|members| alive_of(&members) == 0)
}

/// Reports why no other node is there.
pub(in crate::daemon::service) async fn check_why_alone(services: &Arc<Services>) -> Vec<Check> {
    let mut checks = check_seeds(services, WATCH_PATIENCE).await;
    let members = members(services).await.unwrap_or_default();
    checks.extend(membership::check_absent(services, &members, WATCH_PATIENCE).await);
    match membership::check_membership(services) {
        // An expulsion of this node, or a copied key, explains why no other node is there. Both are
        // conditions of their own, which every answer includes.
        Some(_) => vec![],
        None if services.node.health().is_copied() => vec![],
        None => checks,
    }
}

/// Checks whether other nodes reach this node, and checks again the peers about which a condition
/// of [`isolation`] is open.
pub(in crate::daemon::service) async fn check_reached(services: &Services) -> Vec<Check> {
    let checks = check_peers(services, ASKED_IN_PASSING, WATCH_PATIENCE).await;
    unless_copied_at_all(services, checks.unwrap_or_default())
}

/// Returns no check if another machine uses this node's key. A copied key is a condition of its
/// own, and a peer cannot tell the two machines apart.
fn unless_copied_at_all(services: &Services, checks: Vec<Check>) -> Vec<Check> {
    if services.node.health().is_copied() {
        vec![]
    } else {
        checks
    }
}

async fn check_address(services: &Services) -> Check {
    let address = services.node.address();
    if address.ip().to_canonical().is_loopback() {
        let listen = services.settings.at_start.listen;
        let links = std::fs::read_to_string(IPV6_ADDRESSES).unwrap_or_default();
        return loopback_alone(address, listen, has_link_local(&links));
    }
    let probed = services.node.peers().probe(address, CHECKUP_PATIENCE).await;
    address_check(address, &probed, is_of_this_machine(address.ip()))
}

/// Explains the result of dialling the own address.
fn address_check(address: SocketAddr, probed: &Probed, is_here: bool) -> Check {
    let name = "address";
    match probed {
        Probed::Ourselves => Check::ok(name, address.to_string()),
        // No other machine takes part in this connection.
        Probed::Silent if is_here => Check::failed(
            name,
            format!("{address} does not answer this machine itself: its firewall is closed"),
            let_through_here(address.port()),
        ),
        _ => Check::warning(
            name,
            format!("{address} does not lead back here from this machine"),
            "fine behind a NAT that forwards it; else name the right one with listen",
        ),
    }
}

/// Returns whether this machine has an address. A router has the other ones.
pub(super) fn is_of_this_machine(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// Checks each seed of the configuration, all at once, because a silent one takes long.
pub(super) async fn check_seeds(services: &Arc<Services>, patience: Duration) -> Vec<Check> {
    let seeds = services.settings.in_force.load().config.seeds.clone();
    let asked = seeds.into_iter().map(|seed| {
        let services = services.clone();
        tokio::spawn(async move { check_seed(&services, &seed, patience).await })
    });
    let mut checks = Vec::new();
    for asked in asked.collect::<Vec<_>>() {
        // The task fails only if it panics or the runtime ends. Its check is then missing.
        checks.extend(asked.await);
    }
    checks
}

async fn check_seed(services: &Services, seed: &Seed, patience: Duration) -> Check {
    let name = format!("seed {seed}");
    let deadline = Instant::now() + patience;
    let Ok(addresses) = timeout_at(deadline, resolve(seed)).await else {
        return Check::failed(name, "its name does not resolve in time", SLOW_RESOLVER);
    };
    let left = || deadline.saturating_duration_since(Instant::now());
    if left() < DIAL_MIN {
        let found = "its name resolved too late to dial it";
        return Check::warning(name, found, SLOW_RESOLVER);
    }
    let (mut last, mut count) = (None, addresses.len());
    for address in addresses {
        // A silent address leaves time for the next ones.
        let patience = left() / u32::try_from(count).unwrap_or(u32::MAX);
        count -= 1;
        if address.is_ipv6() && services.settings.at_start.listen.is_ipv4() {
            last.get_or_insert(other_family(&name, address));
            continue;
        }
        let machine = probe(&services.node, address, patience).await;
        match &machine.probed {
            Probed::Member(node) => {
                return check_heard(services, name, *node, address, left()).await;
            }
            Probed::Ourselves => return Check::ok(name, "is this node itself"),
            Probed::Stranger(node) if membership::refuses(services, node) => {
                return membership::refused(services, name, address);
            }
            _ => {}
        }
        let has_certificates = services.node.membership().view().has_ledger();
        last = Some(seed_trouble(&name, seed.host(), &machine, has_certificates));
    }
    last.unwrap_or_else(|| {
        let remedy = "mend the name in seeds, or the resolver of this machine";
        Check::failed(name, "its name does not resolve", remedy)
    })
}

/// Checks whether datagrams pass in both directions to a member that was reached by TCP.
async fn check_heard(
    services: &Services,
    name: String,
    node: NodeId,
    address: SocketAddr,
    patience: Duration,
) -> Check {
    let age = Timestamp::now().duration_since(services.lifecycle.started);
    let heard_within = if age < START_MAX {
        HEARD_WITHIN
    } else {
        HEARD_WITHIN.min(patience / 2)
    };
    let begun = Instant::now();
    loop {
        let members = services.node.peers().members().await.unwrap_or_default();
        let mut live = members.iter().filter(|member| is_alive(member));
        if live.any(|member| member.status.member.node == node) {
            return Check::ok(name, format!("is {}", services.node.peers().name_of(&node)));
        }
        if begun.elapsed() >= heard_within {
            break;
        }
        sleep(LOOK_PERIOD).await;
    }
    let asked = services.node.peers().ask_to_dial_back(node, address);
    let reached = timeout(patience / 2, asked).await.ok().and_then(Result::ok);
    let gap = reached.and_then(|it| ClockGap::now(&it));
    silence(name, address.port(), gap.as_ref())
}

/// Checks live peers: dials them, and asks them to dial back. Checks the peers about which a
/// condition of [`isolation`] is open, those that leave requests unanswered, and up to `limit` others.
async fn check_peers(
    services: &Services,
    limit: usize,
    patience: Duration,
) -> Result<Vec<Check>, Failure> {
    let events = services.node.events();
    let standing = isolation::CONDITIONS
        .map(|it| events.standing_of(it))
        .concat();
    let stands = |name: &str| {
        let names = [format!("peer {name}"), format!("{CLOCK_CHECK}{name}")];
        standing.iter().any(|it| names.contains(&it.subject))
    };
    let mute = services.node.peers().mute();
    let members = members(services).await?;
    let live = members.iter().filter(|member| is_alive(member));
    let (mut known, others): (Vec<_>, Vec<_>) = live.partition(|member| {
        mute.contains(&member.status.member.node) || stands(&name_of(services, member))
    });
    known.extend(others.into_iter().take(limit));
    let mut asked = JoinSet::new();
    for member in known {
        let (node, name, member) = (
            services.node.clone(),
            name_of(services, member),
            member.clone(),
        );
        asked.spawn(async move {
            let reached = ask_both_ways(&node, &member, patience).await;
            (name, member.status.member.address, reached, now_ms())
        });
    }
    let mut checks = Vec::new();
    while let Some(Ok((name, address, reached, now_ms))) = asked.join_next().await {
        let here = services.node.address();
        let peer = format!("peer {name}");
        match reached {
            Ok(PeerAnswer::Reached(reached)) => {
                checks.extend(reached_checks(&name, here, &reached, now_ms));
            }
            // The last answer of the peer is more precise than its silence.
            Ok(PeerAnswer::StillDialling) => {
                let last = standing.iter().find(|it| it.subject == peer);
                checks.push(match last {
                    Some(last) => again(&peer, last),
                    None => unreached(peer, here, &format!("{here} does not answer")),
                });
            }
            Err(NodeError::Net(NetError::NotMember { .. })) => {
                checks.push(membership::refused(services, peer, address));
            }
            Err(error) => checks.push(peer_trouble(&name, address, &error)),
        }
    }
    checks.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(checks)
}

fn name_of(services: &Services, member: &MemberReport) -> String {
    services.node.peers().name_of(&member.status.member.node)
}

/// Returns the check that began a condition.
fn again(name: &str, standing: &StandingCondition) -> Check {
    let (found, remedy) = (told_of(name, &standing.finding.found), standing.remedy());
    let check = if standing.is_error() {
        Check::failed(name, found, remedy)
    } else {
        Check::warning(name, found, remedy).as_condition()
    };
    Check {
        cause: standing.finding.cause.clone(),
        ..check
    }
}

/// Returns the finding of a condition without the name of its check.
fn told_of<'a>(name: &str, found: &'a str) -> &'a str {
    let rest = found.strip_prefix(name);
    rest.and_then(|rest| rest.strip_prefix(": "))
        .unwrap_or(found)
}

/// The answer of a peer to the request to dial back.
enum PeerAnswer {
    /// The peer tried.
    Reached(Reached),
    /// The peer answers, but its attempt takes longer than the check waits.
    StillDialling,
}

/// Dials a peer, and asks it to dial back. Waits for `patience`, and longer if the packets of the
/// peer take long.
async fn ask_both_ways(
    node: &Node,
    member: &MemberReport,
    patience: Duration,
) -> Result<PeerAnswer, NodeError> {
    let contact = member.status.member;
    let round_trip = member.status.round_trip.unwrap_or_default();
    let deadline = Instant::now() + patience.max(round_trip * DIAL_BACK_ROUND_TRIPS);
    let peers = node.peers();
    let answered = peers.dial(contact.node, contact.address);
    match timeout_at(deadline, answered).await {
        Ok(answered) => answered?,
        Err(_) => {
            let (address, kind) = (contact.address, ErrorKind::TimedOut);
            return Err(NetError::Unreachable { address, kind }.into());
        }
    };
    let asked = peers.ask_to_dial_back(contact.node, contact.address);
    match timeout_at(deadline, asked).await {
        Ok(reached) => Ok(PeerAnswer::Reached(reached?)),
        Err(_) => Ok(PeerAnswer::StillDialling),
    }
}

pub(super) fn is_alive(member: &MemberReport) -> bool {
    member.status.state == MemberState::Alive
}

pub(super) fn alive_of(members: &[MemberReport]) -> usize {
    members.iter().filter(|member| is_alive(member)).count()
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Explains why a node that listens on IPv4 alone cannot join through this address.
fn other_family(name: &str, address: SocketAddr) -> Check {
    Check::failed(
        name,
        format!("{address} is an IPv6 address, and this node listens on IPv4 alone"),
        "listen on both families: listen = \"[::]:1378\" in the configuration",
    )
}

/// Explains why a seed does not lead into this node's cluster. The remedy for another secret is an
/// invitation, or the same secret file in a cluster without certificates, which refuses
/// invitations.
fn seed_trouble(name: &str, host: &str, seed: &ProbedMachine, has_certificates: bool) -> Check {
    let address = seed.address;
    let (found, remedy) = match &seed.probed {
        // A node that is named as a seed has to be there.
        Probed::Silent | Probed::Unreachable(_) => {
            return Check {
                state: CheckState::Failed,
                ..seed.unanswered(name, host)
            };
        }
        Probed::Closed => (
            format!("{address} refuses connections"),
            "start p2pfs there, or mend the port in seeds".to_owned(),
        ),
        Probed::Stalled => (
            format!("{address} takes connections and does not answer"),
            "look whether p2pfs runs there; if it does, a firewall is in the way, or a path that \
             loses large packets: lower the MTU here or there"
                .to_owned(),
        ),
        Probed::Broken(_) => (
            format!("connections to {address} break off before both nodes have proven themselves"),
            "try again; if they always do, a machine on the way changes what it passes on, or an \
             older p2pfs there takes this node for no member: p2pfs trust there shows it"
                .to_owned(),
        ),
        Probed::Other => (
            format!("what answers on {address} is not p2pfs"),
            "mend the address in seeds".to_owned(),
        ),
        Probed::Stranger(_) | Probed::Member(_) | Probed::Ourselves => (
            format!("{address} has another secret: it is in another cluster"),
            if has_certificates {
                "p2pfs invite there and p2pfs join here".to_owned()
            } else {
                SAME_SECRET.to_owned()
            },
        ),
    };
    Check::failed(name, found, remedy)
}

/// Explains why a peer could not be asked.
fn peer_trouble(machine: &str, address: SocketAddr, error: &NodeError) -> Check {
    let name = format!("peer {machine}");
    if let NodeError::Net(NetError::OpenFiles { why, .. }) = error {
        let (why, remedy) = told(why);
        return Check::failed(name, why, remedy.unwrap_or_default());
    }
    let found = error.to_string();
    let remedy = match error {
        NodeError::Net(NetError::Unreachable { kind, .. }) => match kind {
            ErrorKind::ConnectionRefused => "start p2pfs there, if it is to run".to_owned(),
            // The peer is heard over UDP, so a firewall that rejects connections also looks like this.
            ErrorKind::TimedOut | ErrorKind::HostUnreachable => {
                let pass = let_through(machine, address.port());
                let remedy = format!("{pass}; fine for a node behind a NAT, which dials this one");
                return Check::warning(name, found, remedy).as_condition();
            }
            ErrorKind::NetworkUnreachable => {
                let remedy = "mend the network between the two";
                return Check::warning(name, found, remedy).as_condition();
            }
            _ => "mend the network between the two".to_owned(),
        },
        _ => "ask again; if it stays so, p2pfs doctor there looks for the reason".to_owned(),
    };
    Check::failed(name, found, remedy)
}

/// Returns whether the text of [`IPV6_ADDRESSES`] has a link-local address.
fn has_link_local(addresses: &str) -> bool {
    let scope = |line: &str| line.split_whitespace().nth(3) == Some(LINK_SCOPE);
    addresses.lines().any(scope)
}

/// Reports that other machines cannot reach the node's address. The remedy depends on the
/// configured listen address.
fn loopback_alone(address: SocketAddr, listen: SocketAddr, has_link_local: bool) -> Check {
    let found = format!("{address}: reachable from this machine only");
    if listen.ip().is_unspecified() && has_link_local {
        Check::warning(
            "address",
            format!(
                "{found}, which has link-local addresses alone (fe80::); they hold on one link, and \
                 p2pfs does not announce them"
            ),
            "give this machine another address: by DHCP or a router, or by hand, as \
             ip address add 192.168.77.1/24 dev eth0",
        )
    } else if listen.ip().is_unspecified() {
        Check::warning(
            "address",
            format!("{found}, which has no other address"),
            "connect this machine to a network: p2pfs then announces its address by itself",
        )
    } else {
        Check::warning(
            "address",
            found,
            "for other machines: listen = \"0.0.0.0:1378\" in the configuration",
        )
    }
}

/// Explains the result of a peer's attempt to dial back.
fn reached_checks(name: &str, here: SocketAddr, reached: &Reached, now_ms: u64) -> Vec<Check> {
    let peer = format!("peer {name}");
    let mut checks = vec![match &reached.trouble {
        None => Check::ok(peer, "is reached, and reaches this node"),
        Some(trouble) => unreached(peer, here, trouble),
    }];
    let gap = ClockGap::of(reached, now_ms);
    checks.extend(gap.and_then(|gap| gap.check(name)));
    checks
}

/// Explains why a peer cannot dial this node, from the peer's description of its attempt.
fn unreached(peer: String, here: SocketAddr, trouble: &str) -> Check {
    let port = here.port();
    let words = trouble.split(' ').map(|word| word.trim_end_matches(':'));
    let dialled: Option<SocketAddr> = words.filter_map(|word| word.parse().ok()).next();
    match dialled.filter(|at| at.ip() != here.ip() && !is_of_this_machine(at.ip())) {
        Some(at) => Check::warning(
            peer,
            format!(
                "cannot dial this node behind the NAT of {}, so only nodes that this node can dial \
                 read its files",
                at.ip()
            ),
            format!(
                "fine if no other node is behind a NAT; otherwise forward TCP and UDP port {port} on \
                 the router to this machine"
            ),
        )
        .as_condition(),
        None => Check::failed(
            peer,
            format!("cannot reach this node: {trouble}"),
            let_through_here(port),
        ),
    }
}

/// The difference between this machine's clock and another's.
pub(super) struct ClockGap {
    length: Duration,
    /// The direction in which this machine's clock is off: `behind` or `ahead of` the other clock.
    way: &'static str,
    /// The times of this machine and of the other one, in milliseconds since 1970.
    times_ms: (u64, u64),
}

impl ClockGap {
    pub(super) fn now(reached: &Reached) -> Option<Self> {
        Self::of(reached, now_ms())
    }

    /// Reports the difference if it is too large.
    fn check(&self, name: &str) -> Option<Check> {
        (self.length > CLOCK_GAP_MAX).then(|| {
            let (length, way) = (age_text(self.length), self.way);
            let found = format!("this machine's is {length} {way} it ({})", self.times());
            let remedy = "set whichever is wrong: timedatectl set-ntp true";
            Check::failed(format!("{CLOCK_CHECK}{name}"), found, remedy).of_cause(CLOCK_CAUSE)
        })
    }

    /// Describes both times.
    fn times(&self) -> String {
        let text = |ms| utc_text(UNIX_EPOCH + Duration::from_millis(ms));
        let (here, there) = self.times_ms;
        format!("here {}, there {}", text(here), text(there))
    }

    /// Returns whether the gap is so large that one of the two nodes refuses the other, because the
    /// other's start appears to lie in the future.
    fn is_refused(&self) -> bool {
        self.length.as_secs() > GENERATION_AHEAD_MAX_S
    }

    fn of(reached: &Reached, now_ms: u64) -> Option<Self> {
        let theirs = reached.unix_ms?;
        Some(Self {
            times_ms: (now_ms, theirs),
            length: Duration::from_millis(now_ms.abs_diff(theirs)),
            way: if theirs > now_ms {
                "behind"
            } else {
                "ahead of"
            },
        })
    }
}

/// Explains why no datagram arrives from a member that answers over TCP.
fn silence(name: String, port: u16, gap: Option<&ClockGap>) -> Check {
    match gap.filter(|gap| gap.is_refused()) {
        Some(gap) => Check::failed(
            name,
            format!(
                "answers over TCP, but this machine's clock is {} hours {} it ({}), and starts of \
                 more than a day from now are refused",
                gap.length.as_secs() / 3600,
                gap.way,
                gap.times()
            ),
            "set the wrong clock: timedatectl set-ntp true",
        )
        .of_cause(CLOCK_CAUSE),
        None => Check::failed(
            name,
            "answers over TCP, and no datagram goes to and fro",
            format!("let UDP port {port} through the firewalls of both machines, both ways"),
        ),
    }
}

/// Explains why a former contact that answers over TCP is not a peer. The contact may become a peer
/// at any moment, because a node without live peers greets its former contacts only periodically.
pub(super) fn unheard(name: &str, port: u16, gap: Option<&ClockGap>) -> Check {
    let peer = format!("peer {name}");
    match gap {
        Some(gap) if gap.is_refused() => silence(peer, port, Some(gap)),
        _ => gap.and_then(|gap| gap.check(name)).unwrap_or_else(|| {
            let found = "answers over TCP, and no datagram of it came yet";
            let remedy = format!(
                "wait for half a minute; if it stays so, let UDP port {port} through the firewalls \
                 of both machines, both ways"
            );
            Check::warning(peer, found, remedy)
        }),
    }
}

#[cfg(test)]
mod tests;
