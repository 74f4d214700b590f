//! Tests of the machine in virtual time, and of two searches on real sockets.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::known::KnownNodes;
use super::machine::{DATAGRAMS_PER_S, Machine, Output};
use super::message::{Announced, Received, ServiceNames, ServiceQuestion, Validity};
use super::subnet::{LinkId, Subnet};
use super::{
    DATAGRAM_MAX_BYTES, HINTS_AT_ONCE, HINTS_PER_S, Lan, LanEvent, NODES_MAX, NODES_PER_SENDER_MAX,
};

const LINK: LinkId = LinkId {
    interface: 2,
    is_v6: false,
};
const NODE: ServiceQuestion = ServiceQuestion {
    node: true,
    service_type: false,
};
const SECOND: Duration = Duration::from_secs(1);

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn subnet(ip: &str, prefix_bits: u8) -> Subnet {
    let ip = ip.parse().unwrap();
    Subnet { ip, prefix_bits }
}

/// Returns a node at 10.0.0.1.
fn machine(now: Instant) -> Machine {
    let mut machine = Machine::new(address("0.0.0.0:1378"), "aaaa", now).unwrap();
    machine.set_links(&[(LINK, vec![subnet("10.0.0.1", 24)])], now);
    machine
}

fn sent(machine: &mut Machine, now: Instant) -> Vec<Vec<u8>> {
    outputs(machine, now)
        .into_iter()
        .filter_map(|it| match it {
            Output::Send(_, datagram) => Some(datagram),
            Output::Hint(_) => None,
        })
        .collect()
}

fn hints(machine: &mut Machine, now: Instant) -> Vec<SocketAddr> {
    outputs(machine, now)
        .into_iter()
        .filter_map(|it| match it {
            Output::Hint(address) => Some(address),
            Output::Send(..) => None,
        })
        .collect()
}

fn outputs(machine: &mut Machine, now: Instant) -> Vec<Output> {
    std::iter::from_fn(|| machine.poll(now)).collect()
}

fn announcement(label: &str, at: &str) -> Vec<u8> {
    let at = address(at);
    let names = ServiceNames::new(label).unwrap();
    names.announcement(NODE, at.port(), &[at.ip()], Validity::Normal)
}

fn node(label: usize, at: SocketAddr) -> Announced {
    Announced {
        label: label.to_string().into_bytes().into(),
        lifetime: Duration::from_secs(4500),
        addresses: vec![at],
    }
}

#[test]
fn announced_node_is_found_and_forgotten_at_its_goodbye() {
    let now = Instant::now();
    let mut machine = machine(now);
    let from = address("10.0.0.2:5353");
    machine.receive(LINK, from, &announcement("bbbb", "10.0.0.2:1378"), now);
    assert_eq!(hints(&mut machine, now), [address("10.0.0.2:1378")]);
    let later = now + 31 * SECOND;
    machine.receive(LINK, from, &announcement("bbbb", "10.0.0.2:1378"), later);
    assert_eq!(hints(&mut machine, later), [address("10.0.0.2:1378")]);
    let names = ServiceNames::new("bbbb").unwrap();
    let addresses = [from.ip()];
    let goodbye = names.announcement(NODE, 1378, &addresses, Validity::Goodbye);
    machine.receive(LINK, from, &goodbye, later);
    assert!(hints(&mut machine, later + 60 * SECOND).is_empty());
}

#[test]
fn two_nodes_find_each_other_by_what_they_send() {
    let start = Instant::now();
    let mut one = machine(start);
    let mut other = Machine::new(address("[::]:9"), "bbbb", start).unwrap();
    let subnets = vec![subnet("10.0.0.2", 24), subnet("2001:db8::2", 64)];
    other.set_links(&[(LINK, subnets)], start);
    let mut found = [Vec::new(), Vec::new()];
    for step in 0..50 {
        let now = start + step * Duration::from_millis(100);
        for output in outputs(&mut one, now) {
            match output {
                Output::Send(_, datagram) => {
                    other.receive(LINK, address("10.0.0.1:5353"), &datagram, now);
                    one.receive(LINK, address("10.0.0.1:5353"), &datagram, now);
                }
                Output::Hint(hint) => found[0].push(hint),
            }
        }
        for output in outputs(&mut other, now) {
            match output {
                Output::Send(_, datagram) => {
                    one.receive(LINK, address("10.0.0.2:5353"), &datagram, now);
                }
                Output::Hint(hint) => found[1].push(hint),
            }
        }
    }
    assert_eq!(found[0], [address("10.0.0.2:9")]);
    assert_eq!(found[1], [address("10.0.0.1:1378")]);
}

#[test]
fn senders_off_the_link_and_other_ports_are_ignored() {
    let now = Instant::now();
    let mut machine = machine(now);
    let datagram = announcement("bbbb", "10.0.0.2:1378");
    for from in [
        "10.0.1.2:5353",
        "192.0.2.1:5353",
        "[2001:db8::1]:5353",
        "10.0.0.2:5354",
    ] {
        machine.receive(LINK, address(from), &datagram, now);
        assert!(hints(&mut machine, now).is_empty(), "{from}");
    }
    let elsewhere = LinkId {
        interface: 3,
        ..LINK
    };
    machine.receive(elsewhere, address("10.0.0.2:5353"), &datagram, now);
    assert!(hints(&mut machine, now).is_empty());
    machine.receive(LINK, address("[fe80::2]:5353"), &datagram, now);
    assert_eq!(hints(&mut machine, now).len(), 1);
}

#[test]
fn only_addresses_of_other_hosts_are_hints() {
    let now = Instant::now();
    let bad = [
        "127.0.0.1:1378",
        "0.0.0.0:1",
        "224.0.0.251:1378",
        "255.255.255.255:1",
        "[fe80::1]:1378",
        "[::1]:1378",
        "[2001:db8::1]:1378",
        "192.0.2.2:0",
    ];
    let mut machine = machine(now);
    for (at, label) in bad.iter().zip('b'..) {
        let datagram = announcement(&label.to_string(), at);
        machine.receive(LINK, address("10.0.0.2:5353"), &datagram, now);
    }
    assert_eq!(hints(&mut machine, now), []);
    let mut local = Machine::new(address("127.0.0.1:1"), "aaaa", now).unwrap();
    local.set_links(&[(LINK, vec![subnet("127.0.0.1", 8)])], now);
    for at in ["127.0.0.1:1", "127.0.0.1:2"] {
        let datagram = announcement("bbbb", at);
        local.receive(LINK, address("127.0.0.1:5353"), &datagram, now);
    }
    assert_eq!(hints(&mut local, now), [address("127.0.0.1:2")]);
}

#[test]
fn answers_are_bounded_however_many_questions_arrive() {
    let start = Instant::now();
    let mut machine = machine(start);
    let question = ServiceNames::new("bbbb").unwrap().question(&[]);
    let (mut count, mut bytes) = (0, 0);
    for step in 0..10_000 {
        let now = start + step * Duration::from_millis(1);
        machine.receive(LINK, address("10.0.0.2:5353"), &question, now);
        for datagram in sent(&mut machine, now) {
            count += 1;
            bytes += datagram.len();
        }
    }
    // two announcements and one answer a second, and the questions after 0, 1, 3 and 7 s
    assert!((10..=16).contains(&count), "{count}");
    assert!(bytes < 16 * 400, "{bytes}");
}

#[test]
fn question_with_this_node_among_its_known_answers_gets_none() {
    let names = ServiceNames::new("aaaa").unwrap();
    let other = ServiceNames::new("bbbb").unwrap();
    let known = [(b"aaaa"[..].into(), Duration::from_secs(4000))];
    assert_eq!(names.read(&other.question(&known)), None);
    let stale = [(b"aaaa"[..].into(), Duration::from_secs(2000))];
    let asked = Some(Received::Question(NODE));
    assert_eq!(names.read(&other.question(&stale)), asked);
    assert_eq!(names.read(&other.question(&[])), asked);
    assert_eq!(names.read(&names.question(&[])), None, "its own");
}

#[test]
fn questions_become_rare_and_carry_the_known_answers_of_one_frame() {
    let start = Instant::now();
    let mut machine = machine(start);
    for label in 0..200 {
        let from = format!("10.0.0.{}:5353", 2 + label % 200);
        let datagram = announcement(&format!("b{label:0>15}"), "10.0.0.2:1378");
        machine.receive(LINK, address(&from), &datagram, start);
    }
    let mut sent_at = Vec::new();
    let mut now = start;
    while now < start + 4000 * SECOND {
        for datagram in sent(&mut machine, now) {
            assert!(datagram.len() <= 1452, "{}", datagram.len());
            sent_at.push(now);
        }
        now = machine
            .poll_at()
            .unwrap()
            .max(now + Duration::from_millis(1));
    }
    // 12 questions double the gap from one second to an hour; two announcements
    assert!(sent_at.len() <= 12 + 2, "{}", sent_at.len());
}

#[test]
fn flood_of_one_sender_fills_its_share_and_hides_no_other_node() {
    let start = Instant::now();
    let mut machine = machine(start);
    let mut found = Vec::new();
    for i in 0..4000_u32 {
        let now = start + Duration::from_micros(2500) * i;
        let [_, b, c, d] = i.to_be_bytes();
        let at = format!("10.{b}.{c}.{d}:7");
        let datagram = announcement(&format!("f{i}"), &at);
        machine.receive(LINK, address("10.0.0.66:5353"), &datagram, now);
        if i == 2000 {
            let real = announcement("bbbb", "10.0.0.2:1378");
            machine.receive(LINK, address("10.0.0.2:5353"), &real, now);
        }
        let hints = hints(&mut machine, now);
        let real = hints.contains(&address("10.0.0.2:1378"));
        found.extend(real.then_some(i));
    }
    // within a second
    assert!(
        found.first().is_some_and(|i| (2000..2400).contains(i)),
        "{found:?}"
    );
}

#[test]
fn table_holds_its_maximum_and_each_sender_its_share() {
    let now = Instant::now();
    let mut known = KnownNodes::new(now);
    let flooder: IpAddr = "10.0.0.66".parse().unwrap();
    for label in 0..1000 {
        known.receive(flooder, node(label, address("10.1.0.1:1")), now);
    }
    assert_eq!(known.len(), NODES_PER_SENDER_MAX);
    for sender in 0..2000_u32 {
        let ip = IpAddr::from((0x0a00_0000 + sender).to_be_bytes());
        known.receive(ip, node(0, SocketAddr::new(ip, 1)), now);
        assert!(known.len() <= NODES_MAX);
    }
    assert_eq!(known.len(), NODES_MAX);
}

#[test]
fn flood_of_one_sender_hides_no_other_node_from_the_announced_nodes() {
    let now = Instant::now();
    let mut machine = machine(now);
    let from = address("10.0.0.66:5353");
    for i in 0..100 {
        let at = format!("10.1.0.{i}:7");
        machine.receive(LINK, from, &announcement(&format!("f{i}"), &at), now);
    }
    let real = announcement("bbbb", "10.0.0.2:1378");
    machine.receive(LINK, address("10.0.0.2:5353"), &real, now);
    let few = machine.announced_nodes(2, now);
    assert!(few.contains(&address("10.0.0.2:1378")), "{few:?}");
    assert_eq!(few.len(), 2);
    let all = machine.announced_nodes(usize::MAX, now);
    assert_eq!(all.len(), NODES_PER_SENDER_MAX + 1);
    let expired = machine.announced_nodes(usize::MAX, now + 4501 * SECOND);
    assert_eq!(expired, []);
}

#[test]
fn hints_keep_to_their_rate_and_memory() {
    let start = Instant::now();
    let mut known = KnownNodes::new(start);
    let mut given = 0;
    for i in 0..10_000_u32 {
        let now = start + Duration::from_millis(u64::from(i));
        let sender = IpAddr::from((0x0a00_0000 + i).to_be_bytes());
        known.receive(sender, node(0, SocketAddr::new(sender, 1)), now);
        given += usize::from(known.next_hint(now).is_some());
    }
    assert!(
        given <= (HINTS_AT_ONCE + 10 * HINTS_PER_S) as usize + 1,
        "{given}"
    );
    assert!(known.len() <= NODES_MAX);
}

#[test]
fn lifetimes_are_cut_and_the_same_address_is_not_repeated_soon() {
    let now = Instant::now();
    let mut known = KnownNodes::new(now);
    let mut forever = node(0, address("10.0.0.2:1"));
    forever.lifetime = Duration::from_secs(u64::from(u32::MAX));
    let sender: IpAddr = "10.0.0.2".parse().unwrap();
    known.receive(sender, forever.clone(), now);
    assert!(known.next_hint(now).is_some());
    known.receive(sender, forever.clone(), now + 15 * SECOND);
    assert!(known.next_hint(now + 15 * SECOND).is_none());
    known.receive(sender, forever, now + 30 * SECOND);
    assert!(known.next_hint(now + 30 * SECOND).is_some());
    assert!(known.fresh(9, now + 4530 * SECOND).is_empty());
    assert_eq!(known.len(), 0);
}

#[test]
fn only_so_many_datagrams_of_the_service_are_parsed_in_a_second() {
    let now = Instant::now();
    let mut machine = machine(now);
    let garbage = b"_p2pfs";
    for _ in 0..=DATAGRAMS_PER_S {
        machine.receive(LINK, address("10.0.0.66:5353"), garbage, now);
    }
    let datagram = announcement("bbbb", "10.0.0.2:1378");
    machine.receive(LINK, address("10.0.0.2:5353"), &datagram, now);
    assert!(hints(&mut machine, now).is_empty());
    machine.receive(LINK, address("10.0.0.2:5353"), &datagram, now + SECOND);
    assert_eq!(hints(&mut machine, now + SECOND).len(), 1);
}

#[test]
fn datagrams_with_more_bytes_or_records_than_a_node_sends_are_not_read() {
    let names = ServiceNames::new("aaaa").unwrap();
    let mut datagram = announcement("bbbb", "10.0.0.2:1378");
    assert!(matches!(names.read(&datagram), Some(Received::Nodes(_))));
    datagram.resize(DATAGRAM_MAX_BYTES, 0);
    assert!(matches!(names.read(&datagram), Some(Received::Nodes(_))));
    datagram.push(0);
    assert_eq!(names.read(&datagram), None);
    datagram.pop();
    datagram[8..10].copy_from_slice(&300_u16.to_be_bytes());
    assert_eq!(names.read(&datagram), None);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = ServiceNames::new("aaaa").unwrap().read(&bytes);
    }

    #[test]
    fn damaged_announcement_yields_few_nodes(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut datagram = announcement("bbbb", "10.0.0.2:1378");
        for (place, byte) in damage {
            let place = place.index(datagram.len());
            datagram[place] = byte;
        }
        if let Some(Received::Nodes(nodes)) = ServiceNames::new("aaaa").unwrap().read(&datagram) {
            prop_assert!(nodes.len() <= 32);
            prop_assert!(nodes.iter().all(|node| node.label.len() <= 63));
        }
    }
}

#[tokio::test]
async fn two_searches_on_loopback_find_each_other() {
    let (one, mut one_events) = Lan::start(address("127.0.0.1:1378"));
    let (other, _other_events) = Lan::start(address("127.0.0.1:1379"));
    let wanted = LanEvent::Hint(address("127.0.0.1:1379"));
    let found = async {
        loop {
            match one_events.recv().await {
                Some(event) if event == wanted => return true,
                Some(LanEvent::Hint(_) | LanEvent::Multicast) => {}
                Some(LanEvent::NoMulticast(_)) | None => return false,
            }
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(20), found).await;
    assert!(
        found.is_ok(),
        "neither found nor told that there is no multicast"
    );
    let announced = one.announced_nodes();
    assert!(
        announced
            .addresses(NODES_MAX)
            .await
            .contains(&address("127.0.0.1:1379"))
    );
    one.shutdown().await;
    other.shutdown().await;
    // The search has ended: the channel closes once its content is read.
    while one_events.recv().await.is_some() {}
    assert_eq!(announced.addresses(NODES_MAX).await, []);
}
