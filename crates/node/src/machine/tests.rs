//! Tests of one machine, and of a few that receive each other's datagrams at once.

mod exchange;
mod lists;
mod questions;

use std::collections::BTreeMap;

use super::*;
use crate::Offence;
use bytes::Bytes;
use p2pfs_catalogue::{Budgets, Cost, Rule};
use p2pfs_membership::DownReason;
use p2pfs_proto::trust::EpochSecret;
use p2pfs_proto::wire::native::record::{Entry, Kind, ShareIndex, Timestamp};
use p2pfs_proto::wire::native::udp::OfferSummary;
use p2pfs_types::path::SharedPath;

const STEP: Duration = Duration::from_millis(1);
/// How long a request to a machine without a route to it takes to fail.
const DIAL: Duration = Duration::from_secs(5);

/// Machines with addresses, datagrams that arrive at once, and requests that the test answers.
struct MachineBench {
    now: Instant,
    machines: Vec<Machine>,
    /// Addresses that are cut off from the network.
    cut: Vec<SocketAddr>,
    /// Pairs of machines without a route between them.
    apart: Vec<[usize; 2]>,
    /// Requests between such pairs, with the index of the asking machine and the time at which they
    /// fail.
    dials: Vec<(Instant, usize, RequestId)>,
    /// Unanswered requests, with the index of the asking machine.
    questions: Vec<(usize, Outgoing)>,
    events: Vec<(usize, NodeEvent)>,
    heads: BTreeMap<usize, Vec<(Instant, u64)>>,
}

/// Reports the only other member as up, as after its restart.
fn come_up_anew(machine: &mut Machine, now: Instant) {
    machine.view();
    let member = machine.cluster.live().next().unwrap();
    machine.handle_cluster_event(now, ClusterEvent::Up(member));
}

/// Makes a machine take a member for failed.
fn go_down(machine: &mut Machine, now: Instant, node: NodeId) {
    let why = DownReason::Failed;
    machine.handle_cluster_event(now, ClusterEvent::Down { node, why });
}

fn address(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, index as u8], 1378))
}

fn key(index: usize) -> NodeKey {
    NodeKey::from_seed(&[index as u8 + 1; 32])
}

fn machine(index: usize, now: Instant) -> Machine {
    let key = Arc::new(key(index));
    let name = NodeName::new(format!("node{index}")).unwrap();
    let catalogue = Catalogue::of_key(key.clone(), name.clone());
    let keyring = Keyring::in_memory(EpochSecret::new([1; 32]), key.clone());
    let config = MachineConfig {
        key,
        name,
        advertised: address(index),
        generation: Generation(7),
        keyring,
        cluster: ClusterConfig {
            seeds: vec![address(0)],
            ..ClusterConfig::default()
        },
        seed: index as u64,
    };
    Machine::new(config, catalogue, now)
}

fn file(content: &str) -> Entry {
    Entry {
        kind: Kind::File {
            hash: ContentHash::of(content.as_bytes()),
            size_bytes: content.len() as u64,
            executable: false,
        },
        mtime: Timestamp::default(),
        version_time: Timestamp::default(),
        sent_by: None,
        replaces: Vec::new(),
    }
}

fn path(text: &str) -> SharedPath {
    SharedPath::new(text.as_bytes()).unwrap()
}

impl MachineBench {
    fn new(count: usize) -> Self {
        let mut bench = Self::begin(count, &[]);
        bench.run(Duration::from_secs(2));
        bench
    }

    /// Creates machines of which some pairs are without a route between them.
    fn begin(count: usize, apart: &[[usize; 2]]) -> Self {
        let now = Instant::now();
        Self {
            now,
            machines: (0..count).map(|index| machine(index, now)).collect(),
            cut: Vec::new(),
            apart: apart.to_vec(),
            dials: Vec::new(),
            questions: Vec::new(),
            events: Vec::new(),
            heads: BTreeMap::new(),
        }
    }

    fn is_apart(&self, one: usize, other: usize) -> bool {
        self.apart.contains(&[one, other]) || self.apart.contains(&[other, one])
    }

    fn index_of(&self, node: NodeId) -> Option<usize> {
        (0..self.machines.len()).find(|index| self.id(*index) == node)
    }

    /// Fails the requests whose dials took too long.
    fn fail_dials(&mut self) {
        let now = self.now;
        let failed = self.dials.extract_if(.., |(at, ..)| *at <= now);
        for (_, asker, id) in failed.collect::<Vec<_>>() {
            self.machines[asker].handle_response(now, id, None);
        }
    }

    fn id(&self, index: usize) -> NodeId {
        self.machines[index].me
    }

    fn put(&mut self, index: usize, name: &str, content: &str) {
        let now = self.now;
        self.machines[index]
            .own()
            .put(now, ShareIndex(0), path(name), file(content));
    }

    /// Advances the time; requests are answered as they arise.
    fn run(&mut self, time: Duration) {
        self.run_unanswered(time, true);
    }

    fn run_unanswered(&mut self, time: Duration, answered: bool) {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP;
            for index in 0..self.machines.len() {
                let due = self.machines[index].poll_timeout();
                if due.is_some_and(|at| at <= self.now) {
                    self.machines[index].handle_timeout(self.now);
                }
                self.note_head(index);
            }
            self.fail_dials();
            while self.exchange(answered) {}
        }
    }

    fn note_head(&mut self, index: usize) {
        let me = self.id(index);
        let Some(signed) = self.machines[index].catalogue().logs().head_of(&me) else {
            return;
        };
        let sequence = signed.head.sequence;
        let heads = self.heads.entry(index).or_default();
        if heads.last().is_none_or(|(_, last)| *last != sequence) {
            heads.push((self.now, sequence));
        }
    }

    fn exchange(&mut self, answered: bool) -> bool {
        let mut acted = false;
        for index in 0..self.machines.len() {
            while let Some(sent) = self.machines[index].poll_transmit() {
                acted = true;
                let from = address(index);
                let to = (0..self.machines.len()).find(|to| address(*to) == sent.to);
                let is_cut = self.cut.contains(&from) || self.cut.contains(&sent.to);
                let to = to.filter(|to| !is_cut && !self.is_apart(index, *to));
                if let Some(to) = to {
                    self.machines[to].handle_message(self.now, from, &sent.datagram);
                }
            }
            while let Some(question) = self.machines[index].poll_request() {
                acted = true;
                self.questions.push((index, question));
            }
            while let Some(event) = self.machines[index].poll_event() {
                self.events.push((index, event));
            }
        }
        if answered {
            for (asker, question) in std::mem::take(&mut self.questions) {
                let asked = self.index_of(question.node);
                if asked.is_some_and(|asked| self.is_apart(asker, asked)) {
                    self.dials.push((self.now + DIAL, asker, question.id));
                } else {
                    self.answer(asker, question);
                }
            }
        }
        acted
    }

    /// Answers a request correctly, or as unreachable.
    fn answer(&mut self, asker: usize, question: Outgoing) {
        let (now, from) = (self.now, self.id(asker));
        let is_cut = self.cut.contains(&question.address) || self.cut.contains(&address(asker));
        let asked = self.index_of(question.node).filter(|_| !is_cut);
        let response =
            asked.and_then(|index| self.machines[index].answer(now, from, &question.request));
        self.machines[asker].handle_response(now, question.id, response);
    }

    /// Returns the waiting requests for logs: the asking machine, the asked node and the author.
    fn log_questions(&self) -> Vec<(usize, NodeId, NodeId)> {
        let logs = self.questions.iter().filter_map(|(asker, question)| {
            let Request::Log { author, .. } = question.request else {
                return None;
            };
            Some((*asker, question.node, author))
        });
        logs.collect()
    }

    /// Makes the first machine receive a part of a log from its author.
    fn receive_part(&mut self, author: NodeId, part: tcp::LogPart) {
        let machine = &mut self.machines[0];
        if machine
            .intake(self.now)
            .handle_log_part(author, author, part)
        {
            machine.merge_step(self.now);
        }
    }

    fn take_log_question(&mut self) -> (usize, Outgoing) {
        let is_log =
            |(_, question): &(usize, Outgoing)| matches!(question.request, Request::Log { .. });
        let at = self.questions.iter().position(is_log).unwrap();
        self.questions.remove(at)
    }

    fn lists(&mut self, index: usize, name: &str) -> bool {
        let view = self.machines[index].view();
        view.lookup(&path(name)).is_some()
    }
}

#[test]
fn a_deletion_reaches_other_nodes_and_its_log_can_be_pulled_at_once() {
    let mut bench = MachineBench::new(2);
    let now = bench.now;
    bench.machines[0].own().terms(now, ShareIndex(0), true);
    for name in ["one", "two"] {
        bench.put(0, name, name);
    }
    bench.run(Duration::from_secs(2));
    let now = bench.now;
    for name in ["one", "two"] {
        let machine = &mut bench.machines[1];
        let (me, path) = (machine.me, path(name));
        let contents = machine.view().contents_at(&path).hashes;
        assert_eq!(contents, [ContentHash::of(name.as_bytes())]);
        let deleted = machine
            .own()
            .gone(now, Timestamp::default(), &path, contents);
        assert_eq!(deleted, Ok(true));
        assert_eq!(machine.view().lookup(&path), None);
        assert!(machine.known().logs().part(&me, 0, 0).is_some());
    }
    bench.run(Duration::from_secs(2));
    for name in ["one", "two"] {
        let versions = bench.machines[0].view().versions(&path(name));
        assert_eq!(versions[0].rule, Rule::Deleted);
        assert_eq!(versions[0].listed_as, None);
    }
}

#[test]
fn names_over_budget_are_not_published_and_reported_once() {
    let mut bench = MachineBench::new(2);
    let budgets = Budgets {
        author: Cost {
            bytes: u64::MAX,
            directories: 3,
            replaced: u64::MAX,
        },
        ..Budgets::default()
    };
    for machine in &mut bench.machines {
        machine.catalogue().set_budgets(budgets);
    }
    for name in ["a/b/c/kept", "d/e/f/refused", "g/h/i/refused"] {
        bench.put(0, name, "x");
    }
    bench.run(Duration::from_secs(2));
    let told = bench.events.iter();
    let told = told.filter(|it| **it == (0, NodeEvent::NamesRefused));
    assert_eq!(told.count(), 1);
    let view = bench.machines[1].view();
    assert!(view.lookup(&path("a/b/c/kept")).is_some());
    assert!(view.lookup(&path("d/e/f/refused")).is_none());
}

#[test]
fn the_first_refused_name_is_reported_although_other_facts_were_refused_before() {
    let mut bench = MachineBench::new(1);
    let (now, share) = (bench.now, ShareIndex(9));
    let budgets = Budgets {
        author: Cost {
            bytes: 0,
            directories: 0,
            replaced: 0,
        },
        ..Budgets::default()
    };
    let machine = &mut bench.machines[0];
    machine.catalogue().set_budgets(budgets);
    machine.own().set_readers(now, share, Some(vec![]));
    let hash = ContentHash::of(b"cached");
    machine.own().set_have(now, hash, Some(6));
    bench.run(Duration::from_secs(2));
    let refused = |bench: &MachineBench| {
        let mut told = bench.events.iter();
        told.any(|it| *it == (0, NodeEvent::NamesRefused))
    };
    let counters = bench.machines[0].counters();
    assert_eq!((counters.refused_lists, counters.refused_haves), (1, 1));
    assert!(!refused(&bench), "no name was refused");
    bench.put(0, "name", "x");
    bench.run(Duration::from_secs(2));
    assert_eq!(bench.machines[0].counters().refused_names, 1);
    assert!(refused(&bench));
}

#[test]
fn names_removed_before_a_new_list_of_readers_are_not_recorded_for_it() {
    let mut bench = MachineBench::new(1);
    let (now, share) = (bench.now, ShareIndex(0));
    bench.machines[0]
        .own()
        .set_readers(now, share, Some(vec![]));
    bench.put(0, "secret", "x");
    bench.run(Duration::from_secs(2));
    let now = bench.now;
    let machine = &mut bench.machines[0];
    assert_eq!(machine.catalogue().own().all_entries().count(), 1);
    machine.own().remove(now, share, &path("secret"));
    machine.own().set_readers(now, share, None);
    while machine.sweep(now) {}
    assert_eq!(machine.catalogue().own().all_entries().count(), 0);
}

#[test]
fn a_member_over_its_budget_is_named_once_and_not_pulled_again_at_once() {
    let mut bench = MachineBench::new(3);
    let budgets = Budgets {
        author: Cost {
            bytes: u64::MAX,
            directories: 3,
            replaced: u64::MAX,
        },
        ..Budgets::default()
    };
    bench.machines[1].catalogue().set_budgets(budgets);
    bench.put(2, "honest", "h");
    for name in ["a/b/c/d/1", "e/f/2"] {
        bench.put(0, name, "x");
        bench.run(Duration::from_secs(2));
    }
    let named = |(index, event): &&(usize, NodeEvent)| {
        let what = Offence::ListsTooMuch;
        let node = bench.machines[0].me;
        *index == 1 && *event == NodeEvent::Offended { node, what }
    };
    assert_eq!(bench.events.iter().filter(named).count(), 1);
    let view = bench.machines[1].view();
    assert!(view.lookup(&path("honest")).is_some());
    assert!(view.lookup(&path("e/f/2")).is_none());
}

#[test]
fn a_change_is_published_within_ten_milliseconds_and_at_most_ten_times_a_second() {
    let mut bench = MachineBench::new(1);
    bench.heads.clear();
    bench.run(STEP);
    let begun = bench.now;
    bench.put(0, "first", "1");
    bench.run(Duration::from_millis(12));
    let (at, _) = *bench.heads[&0].last().unwrap();
    assert!(at > begun && at - begun <= PUBLISH_AFTER + 2 * STEP);
    for number in 0..1000 {
        bench.put(0, &format!("f{number}"), "x");
        bench.run(STEP);
    }
    let times: Vec<Instant> = bench.heads[&0].iter().map(|(at, _)| *at).skip(1).collect();
    assert!(times.len() <= 12, "{} heads in a second", times.len());
    let spaced = |pair: &[Instant]| pair[1] - pair[0] >= PUBLISH_SPACING;
    assert!(times.windows(2).all(spaced));
    bench.run(PUBLISH_SPACING + PUBLISH_AFTER);
    assert!(!bench.machines[0].catalogue().own().needs_signature());
}

#[test]
fn a_repeated_statement_causes_no_new_head() {
    let mut bench = MachineBench::new(1);
    bench.put(0, "a", "1");
    bench.run(Duration::from_secs(1));
    let before = bench.heads[&0].len();
    bench.put(0, "a", "1");
    let now = bench.now;
    bench.machines[0]
        .own()
        .remove(now, ShareIndex(0), &path("never was"));
    bench.machines[0]
        .own()
        .set_have(now, ContentHash::of(b"never was"), None);
    bench.run(Duration::from_secs(1));
    assert_eq!(bench.machines[0].own.due, None);
    assert_eq!(bench.heads[&0].len(), before);
}

#[test]
fn after_a_start_the_log_matches_the_cache() {
    let mut bench = MachineBench::new(1);
    let now = bench.now;
    let [kept, lost, new] = ["kept", "lost", "new"].map(|t| ContentHash::of(t.as_bytes()));
    for hash in [kept, lost] {
        bench.machines[0].own().set_have(now, hash, Some(4));
    }
    bench.machines[0]
        .own()
        .align_haves(now, &[(kept, 4), (new, 3)]);
    bench.run(Duration::from_secs(1));
    let mut said: Vec<_> = bench.machines[0].catalogue().own().haves().collect();
    said.sort();
    let mut held = vec![(kept, 4), (new, 3)];
    held.sort();
    assert_eq!(said, held);
}

#[test]
fn a_log_can_be_pulled_at_any_time_however_fast_it_changes() {
    let mut bench = MachineBench::new(2);
    let (from, author) = (bench.id(0), bench.id(1));
    for number in 0..500 {
        bench.put(1, &format!("f{number}"), "x");
        bench.run(STEP);
        let request = Request::Log {
            author,
            epoch: 0,
            after: 0,
        };
        let now = bench.now;
        let answer = bench.machines[1].answer(now, from, &request);
        assert!(
            matches!(answer, Some(Response::Log(_))),
            "{number}: {answer:?}"
        );
    }
    assert!(bench.lists(0, "f350"), "it is listed while more comes");
}

#[test]
fn own_facts_beyond_the_queue_limit_are_recorded_at_once() {
    let mut bench = MachineBench::new(1);
    bench.put(0, "first", "1");
    bench.run(PUBLISH_AFTER + STEP);
    for number in 0..UNSAID_MAX + 10 {
        bench.put(0, &format!("f{number}"), "x");
    }
    assert_eq!(bench.machines[0].own.unsaid.len(), 10);
    assert!(bench.lists(0, "f7"));
    let leave = Leave::Away;
    let now = bench.now;
    bench.machines[0].leave(now, leave);
    let last = format!("f{}", UNSAID_MAX + 9);
    assert!(bench.lists(0, &last), "a farewell leaves nothing unsaid");
}

#[test]
fn unread_messages_are_bounded() {
    let mut bench = MachineBench::new(2);
    bench.run(Duration::from_secs(3));
    let other = bench.id(1);
    let machine = &mut bench.machines[0];
    while machine.poll_event().is_some() {}
    let hashes = vec![ContentHash::of(b"x")];
    let get = Bytes::from(Message::Get { hashes }.encode().unwrap());
    for told in 0..EVENTS_MAX {
        assert_eq!(machine.events.queue.len(), told);
        machine.events.receive_message(other, None, &get);
    }
    machine.events.receive_message(other, None, &get);
    assert_eq!(machine.events.queue.len(), EVENTS_MAX);
}

#[test]
fn a_member_that_was_asked_at_a_wrong_address_is_not_read_until_it_answers_at_the_right_one() {
    let mut bench = MachineBench::new(2);
    let (now, peer) = (bench.now, bench.id(1));
    let machine = &mut bench.machines[0];
    machine.view();
    let member = machine.cluster.live().next().unwrap();
    go_down(machine, now, peer);
    machine.handle_cluster_event(now, ClusterEvent::Up(member));
    let asked = |machine: &mut Machine| {
        machine.requests().ask_newcomers(now);
        std::iter::from_fn(|| machine.poll_request()).collect::<Vec<_>>()
    };
    for outgoing in asked(machine) {
        machine.handle_response(now, outgoing.id, None);
    }
    let address = address(9);
    machine.handle_cluster_event(now, ClusterEvent::Moved(Member { address, ..member }));
    assert!(!is_read(machine, peer));
    let again = asked(machine);
    assert!(!again.is_empty() && again.iter().all(|it| it.address == address));
    machine.handle_cluster_event(now, ClusterEvent::Moved(Member { address, ..member }));
    assert!(asked(machine).is_empty(), "it is asked once");
}

fn is_read(machine: &Machine, peer: NodeId) -> bool {
    let mut reports = machine.member_reports().into_iter();
    reports.any(|it| it.status.member.node == peer && it.is_read)
}

#[test]
fn a_members_statement_counts_once_a_view_shows_it() {
    let mut bench = MachineBench::new(2);
    let peer = bench.id(1);
    bench.machines[0].view();
    assert!(is_read(&bench.machines[0], peer));
    bench.put(1, "docs", "text");
    bench.run(Duration::from_secs(2));
    assert!(!is_read(&bench.machines[0], peer));
    bench.put(0, "own", "text");
    let view = bench.machines[0].view();
    assert!(view.lookup(&path("docs")).is_some());
    bench.put(0, "of this node's own", "text");
    assert!(is_read(&bench.machines[0], peer));
}

#[test]
fn a_members_statement_before_it_left_does_not_count_after_its_return() {
    let mut bench = MachineBench::new(2);
    let (now, peer) = (bench.now, bench.id(1));
    let machine = &mut bench.machines[0];
    let is_read = |machine: &Machine| is_read(machine, peer);
    machine.view();
    assert!(is_read(machine));
    let member = machine.cluster.live().next().unwrap();
    machine.requests().ask_for_heads(peer, member.address);
    let late = machine.poll_request().unwrap().id;
    go_down(machine, now, peer);
    machine.handle_response(now, late, None);
    machine.handle_cluster_event(now, ClusterEvent::Up(member));
    assert!(!is_read(machine));
}

#[test]
fn a_member_that_did_not_answer_is_not_read_and_is_asked_again() {
    let mut bench = MachineBench::new(2);
    let (now, peer) = (bench.now, bench.id(1));
    let machine = &mut bench.machines[0];
    come_up_anew(machine, now);
    machine.handle_timeout(now);
    while let Some(question) = machine.poll_request() {
        machine.handle_response(now, question.id, None);
    }
    machine.view();
    assert!(!is_read(machine, peer), "it has told nothing");
    let again = machine.questions.next_again().unwrap();
    assert!(again > now);
    machine.handle_timeout(again);
    let mut asked = Vec::new();
    while let Some(question) = machine.poll_request() {
        asked.push(question.request);
    }
    let is_heads = |it: &Request| matches!(it, Request::Heads { .. });
    assert!(asked.iter().any(is_heads), "{asked:?}");
}

#[test]
fn known_entries_of_a_returned_member_count_once_a_view_shows_them() {
    let mut bench = MachineBench::new(2);
    let (now, peer) = (bench.now, bench.id(1));
    bench.put(1, "docs", "text");
    bench.run(Duration::from_secs(2));
    let machine = &mut bench.machines[0];
    let member = machine.cluster.live().next().unwrap();
    go_down(machine, now, peer);
    assert!(machine.view().lookup(&path("docs")).is_none());
    machine.handle_cluster_event(now, ClusterEvent::Up(member));
    machine.questions.mark_heads_told(peer);
    assert!(!is_read(machine, peer), "no view shows its entries yet");
    assert!(machine.view().lookup(&path("docs")).is_some());
    assert!(is_read(machine, peer));
}
