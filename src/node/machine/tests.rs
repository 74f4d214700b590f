//! The promises of one machine, and of a few that hear each other at once.

use std::collections::BTreeMap;

use super::*;
use crate::trust::EpochSecret;
use crate::wire::native::record::{Head, Kind, SignedHead, Timestamp};
use crate::wire::native::tcp::{LogPart, Response, pack_records, unpack_records};

const STEP: Duration = Duration::from_millis(1);

/// Machines at addresses, datagrams that arrive at once, and questions that the test answers.
struct Bench {
    now: Instant,
    machines: Vec<Machine>,
    /// Addresses of which nothing comes and to which nothing goes.
    cut: Vec<SocketAddr>,
    /// Questions that were asked and not answered yet, with who asked.
    questions: Vec<(usize, Outgoing)>,
    events: Vec<(usize, NodeEvent)>,
    heads: BTreeMap<usize, Vec<(Instant, u64)>>,
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
    let catalogue = Catalogue::new(key.node_id(), name.clone());
    let config = MachineConfig {
        key,
        name,
        advertised: address(index),
        generation: Generation(7),
        keyring: Arc::new(Keyring::in_memory(EpochSecret::new([1; 32]))),
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
    }
}

fn path(text: &str) -> SharedPath {
    SharedPath::new(text.as_bytes()).unwrap()
}

impl Bench {
    fn new(count: usize) -> Self {
        let now = Instant::now();
        let mut bench = Self {
            now,
            machines: (0..count).map(|index| machine(index, now)).collect(),
            cut: Vec::new(),
            questions: Vec::new(),
            events: Vec::new(),
            heads: BTreeMap::new(),
        };
        bench.run(Duration::from_secs(2));
        bench
    }

    fn id(&self, index: usize) -> NodeId {
        self.machines[index].me
    }

    fn put(&mut self, index: usize, name: &str, content: &str) {
        let now = self.now;
        self.machines[index].put(now, ShareIndex(0), path(name), file(content));
    }

    /// Lets time pass; questions are answered as they come.
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
            while self.exchange(answered) {}
        }
    }

    fn note_head(&mut self, index: usize) {
        let me = self.id(index);
        let Some(signed) = self.machines[index].catalogue().head_of(&me) else {
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
                if let Some(to) = to.filter(|_| !is_cut) {
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
                self.answer(asker, question);
            }
        }
        acted
    }

    /// Answers a question truly, or says that nobody is there.
    fn answer(&mut self, asker: usize, question: Outgoing) {
        let (now, from) = (self.now, self.id(asker));
        let is_cut = self.cut.contains(&question.address) || self.cut.contains(&address(asker));
        let asked = (0..self.machines.len()).find(|index| self.id(*index) == question.node);
        let asked = asked.filter(|_| !is_cut);
        let response =
            asked.and_then(|index| self.machines[index].answer(now, from, &question.request));
        self.machines[asker].handle_response(now, question.id, response);
    }

    /// The questions for logs that wait, as who asks whom for whose.
    fn log_questions(&self) -> Vec<(usize, NodeId, NodeId)> {
        let logs = self.questions.iter().filter_map(|(asker, question)| {
            let Request::Log { author, .. } = question.request else {
                return None;
            };
            Some((*asker, question.node, author))
        });
        logs.collect()
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
fn a_change_is_published_within_ten_milliseconds_and_many_at_most_ten_times_a_second() {
    let mut bench = Bench::new(1);
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
    assert!(!bench.machines[0].catalogue().needs_signature());
}

#[test]
fn what_was_said_before_is_no_reason_for_a_new_head() {
    let mut bench = Bench::new(1);
    bench.put(0, "a", "1");
    bench.run(Duration::from_secs(1));
    let before = bench.heads[&0].len();
    bench.put(0, "a", "1");
    let now = bench.now;
    bench.machines[0].remove(now, ShareIndex(0), &path("never was"));
    bench.machines[0].set_have(now, ContentHash::of(b"never was"), None);
    bench.run(Duration::from_secs(1));
    assert_eq!(bench.machines[0].publish.due, None);
    assert_eq!(bench.heads[&0].len(), before);
}

#[test]
fn the_log_says_of_the_cache_what_is_in_it_after_a_start() {
    let mut bench = Bench::new(1);
    let now = bench.now;
    let [kept, lost, new] = ["kept", "lost", "new"].map(|t| ContentHash::of(t.as_bytes()));
    for hash in [kept, lost] {
        bench.machines[0].set_have(now, hash, Some(4));
    }
    bench.machines[0].align_haves(now, &[(kept, 4), (new, 3)]);
    bench.run(Duration::from_secs(1));
    let mut said: Vec<_> = bench.machines[0].catalogue().own_haves().collect();
    said.sort();
    let mut held = vec![(kept, 4), (new, 3)];
    held.sort();
    assert_eq!(said, held);
}

#[test]
fn a_log_can_be_pulled_at_any_time_however_fast_it_changes() {
    let mut bench = Bench::new(2);
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
fn more_own_facts_than_may_wait_are_recorded_at_once() {
    let mut bench = Bench::new(1);
    bench.put(0, "first", "1");
    bench.run(PUBLISH_AFTER + STEP);
    for number in 0..UNSAID_MAX + 10 {
        bench.put(0, &format!("f{number}"), "x");
    }
    assert_eq!(bench.machines[0].unsaid.len(), 10);
    assert!(bench.lists(0, "f7"));
    let leave = Leave::Away;
    let now = bench.now;
    bench.machines[0].leave(now, leave);
    let last = format!("f{}", UNSAID_MAX + 9);
    assert!(bench.lists(0, &last), "a farewell leaves nothing unsaid");
}

fn forged(bench: &mut Bench, author: usize, change: impl Fn(&mut SignedHead)) -> SignedHead {
    let id = bench.id(author);
    let mut signed = bench.machines[author]
        .catalogue()
        .head_of(&id)
        .unwrap()
        .clone();
    change(&mut signed);
    signed
}

#[test]
fn a_head_that_its_author_did_not_sign_is_refused_and_counted() {
    let mut bench = Bench::new(2);
    bench.put(1, "a", "1");
    bench.run(Duration::from_secs(1));
    let now = bench.now;
    let genuine = forged(&mut bench, 1, |_| {});
    let other = forged(&mut bench, 1, |signed| signed.head.sequence += 9);
    let by_another = forged(&mut bench, 1, |signed| {
        signed.head.sequence += 9;
        signed.signature = key(2).sign(&signed.head.signed_bytes());
    });
    let in_another_name = forged(&mut bench, 1, |signed| {
        signed.head.author = key(2).node_id()
    });
    for (count, wrong) in [other, by_another, in_another_name].into_iter().enumerate() {
        let bytes = postcard::to_stdvec(&wrong).unwrap();
        match count % 2 {
            0 => bench.machines[0].handle_head_bytes(now, &bytes),
            _ => {
                let heads = vec![wrong];
                let from = bench.id(1);
                let answer = bench.machines[0].answer(now, from, &Request::Heads { heads });
                assert!(matches!(answer, Some(Response::Heads { .. })));
            }
        }
        assert_eq!(bench.machines[0].counters().bad_heads, count as u64 + 1);
        assert_eq!(
            bench.machines[0].pulls.poll_timeout(),
            None,
            "nothing is pulled for it"
        );
    }
    bench.machines[0].handle_head_bytes(now, b"garbage");
    assert_eq!(bench.machines[0].counters().bad_heads, 4);
    let author = bench.id(1);
    assert_eq!(
        bench.machines[0].catalogue().head_of(&author),
        Some(&genuine)
    );
    assert!(bench.lists(0, "a"));
}

/// Two machines, of which the first asks for the log of the second; the answer is the test's.
fn asked() -> (Bench, Outgoing, LogPart) {
    let mut bench = Bench::new(2);
    bench.put(1, "a", "1");
    bench.run_unanswered(Duration::from_millis(300), false);
    let (asker, question) = bench.take_log_question();
    assert_eq!((asker, question.node), (0, bench.id(1)));
    let (now, from) = (bench.now, bench.id(0));
    let answer = bench.machines[1].answer(now, from, &question.request);
    let Some(Response::Log(part)) = answer else {
        panic!("{answer:?}")
    };
    (bench, question, part)
}

#[test]
fn a_part_under_a_head_that_is_not_its_authors_is_refused_and_asked_for_again() {
    let wrongs: [fn(&mut LogPart); 4] = [
        |part| part.head.head.sequence += 1,
        |part| part.head.signature[0][0] ^= 1,
        |part| {
            part.head.head.author = key(5).node_id();
            part.head.signature = key(5).sign(&part.head.head.signed_bytes());
        },
        |part| part.records = Bytes::from_static(b"no records"),
    ];
    for wrong in wrongs {
        let (mut bench, question, mut part) = asked();
        wrong(&mut part);
        let now = bench.now;
        bench.machines[0].handle_response(now, question.id, Some(Response::Log(part)));
        assert_eq!(bench.machines[0].counters().bad_parts, 1);
        assert!(!bench.lists(0, "a"));
        bench.run(Duration::from_secs(1));
        assert!(bench.lists(0, "a"));
    }
}

#[test]
fn records_that_do_not_add_up_to_the_signed_head_are_never_listed() {
    let (mut bench, question, mut part) = asked();
    let mut records = unpack_records(&part.records).unwrap();
    for record in &mut records {
        if let crate::wire::native::record::Fact::Entry { entry, .. } = &mut record.fact {
            *entry = file("another content");
        }
    }
    part.records = pack_records(&records).unwrap().bytes;
    let now = bench.now;
    bench.machines[0].handle_response(now, question.id, Some(Response::Log(part)));
    assert_eq!(bench.machines[0].counters().bad_parts, 1);
    assert!(!bench.lists(0, "a"));
    bench.run(Duration::from_secs(1));
    let found = bench.machines[0].view().lookup(&path("a")).unwrap();
    assert_eq!(found.kind, file("1").kind);
}

#[test]
fn an_answer_that_nobody_asked_for_changes_nothing() {
    let (mut bench, question, part) = asked();
    let now = bench.now;
    let unknown = RequestId(question.id.0 + 1000);
    bench.machines[0].handle_response(now, unknown, Some(Response::Log(part.clone())));
    assert!(!bench.lists(0, "a"));
    bench.machines[0].handle_response(now, question.id, Some(Response::Log(part.clone())));
    bench.machines[0].handle_response(now, question.id, Some(Response::Log(part)));
    assert!(bench.lists(0, "a"));
    assert_eq!(bench.machines[0].counters(), MachineCounters::default());
}

#[test]
fn nodes_exchange_members_and_heads_and_answer_with_what_is_news() {
    let mut bench = Bench::new(3);
    bench.put(1, "a", "1");
    bench.run(Duration::from_secs(1));
    let now = bench.now;
    let from = bench.id(2);
    let heads = bench.machines[2].catalogue().heads();
    let answer = bench.machines[0].answer(now, from, &Request::Heads { heads });
    assert_eq!(
        answer,
        Some(Response::Heads { heads: Vec::new() }),
        "it has all"
    );
    let answer = bench.machines[0].answer(now, from, &Request::Heads { heads: Vec::new() });
    let Some(Response::Heads { heads }) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(heads.len(), 3);
    let members = Bytes::from_static(b"garbage");
    let answer = bench.machines[0].answer(now, from, &Request::Members { members });
    assert!(matches!(answer, Some(Response::Members { .. })));
    assert_eq!(bench.machines[0].counters().bad_member_lists, 1);
    let hash = ContentHash::of(b"1");
    let answer = bench.machines[0].answer(now, from, &Request::Holdings { hash });
    assert_eq!(answer, None, "contents are not the machine's business");
}

#[test]
fn heads_that_gossip_did_not_bring_are_learned_by_the_exchange() {
    let mut bench = Bench::new(2);
    // the datagrams of the change are lost, but no member is missed
    bench.put(1, "a", "1");
    let now = bench.now + PUBLISH_AFTER;
    bench.machines[1].publish_head(now);
    while bench.machines[1].poll_transmit().is_some() {}
    assert!(!bench.lists(0, "a"));
    let (node, at) = (bench.id(1), address(1));
    bench.machines[0].ask_push_pull(node, at);
    while bench.exchange(true) {}
    bench.run(Duration::from_millis(5));
    assert!(bench.lists(0, "a"));
}

#[test]
fn a_log_is_pulled_from_a_third_node_when_its_author_is_gone() {
    let mut bench = Bench::new(3);
    let author = bench.id(2);
    bench.put(2, "a", "1");
    // node 0 hears the head, and its question is on its way when the author dies
    bench.run_unanswered(Duration::from_millis(200), false);
    let asked = bench.log_questions();
    assert!(asked.contains(&(0, author, author)) && asked.contains(&(1, author, author)));
    let of_one = |(asker, question): &(usize, Outgoing)| {
        *asker == 1 && matches!(question.request, Request::Log { .. })
    };
    let at = bench.questions.iter().position(of_one).unwrap();
    let (asker, question) = bench.questions.remove(at);
    bench.answer(asker, question);
    assert!(bench.lists(1, "a") && !bench.lists(0, "a"));
    bench.cut.push(address(2));
    bench.run(Duration::from_secs(20));
    let members = bench.machines[0].cluster().live().count();
    assert_eq!(members, 1);
    let held = bench.machines[0].catalogue().head_of(&author).cloned();
    assert!(held.is_some_and(|signed| signed.head.count == 1));
    assert!(
        !bench.lists(0, "a"),
        "its author is gone, and nobody else has the content"
    );
}

#[test]
fn a_member_that_never_answers_is_not_waited_for_when_it_goes() {
    let mut bench = Bench::new(3);
    let author = bench.id(2);
    bench.put(2, "a", "1");
    bench.run_unanswered(Duration::from_millis(200), false);
    assert!(bench.log_questions().contains(&(0, author, author)));
    bench.questions.clear();
    bench.cut.push(address(2));
    bench.run_unanswered(Duration::from_secs(20), false);
    let third = bench.id(1);
    assert!(bench.log_questions().contains(&(0, third, author)));
}

#[test]
fn gets_and_offers_reach_their_owner_and_garbage_is_counted() {
    let mut bench = Bench::new(2);
    let hash = ContentHash::of(b"wanted");
    let now = bench.now;
    bench.events.clear();
    bench.machines[0].broadcast_wanted(now, vec![hash]);
    bench.run(Duration::from_millis(10));
    let from = bench.id(0);
    let wanted = NodeEvent::Wanted {
        from,
        hashes: vec![hash],
    };
    assert_eq!(bench.events, [(1, wanted)]);
    bench.events.clear();
    let offer = OfferSummary {
        hash,
        size_bytes: 6,
        all: true,
        ranges: Vec::new(),
        load: 0,
        askers: Vec::new(),
    };
    bench.machines[1].send(now, from, &Message::Offer(offer.clone()));
    bench.run(Duration::from_millis(10));
    let offered = NodeEvent::Offered {
        from: bench.id(1),
        address: address(1),
        offer,
    };
    assert_eq!(bench.events, [(0, offered)]);
    bench.machines[0].handle_application(from, &Bytes::from_static(b"\xff\xff"));
    assert_eq!(bench.machines[0].counters().bad_messages, 1);
}

#[test]
fn a_head_of_our_own_that_we_do_not_remember_is_outbid() {
    let mut bench = Bench::new(1);
    bench.put(0, "a", "1");
    bench.run(Duration::from_secs(1));
    let epoch = bench.machines[0].catalogue().own_head().epoch;
    let head = Head {
        epoch: epoch + 4,
        ..bench.machines[0].catalogue().own_head()
    };
    let signature = key(0).sign(&head.signed_bytes());
    let now = bench.now;
    bench.machines[0].handle_head(now, &SignedHead { head, signature }, None);
    bench.run(Duration::from_secs(1));
    let own = bench.machines[0].catalogue().own_head();
    assert_eq!(own.epoch, epoch + 5);
    assert!(!bench.machines[0].catalogue().needs_signature());
    assert!(bench.lists(0, "a"));
}

#[test]
fn a_second_log_under_our_own_number_is_reported_and_outbid_a_few_times() {
    let mut bench = Bench::new(1);
    bench.put(0, "a", "1");
    bench.run(Duration::from_secs(1));
    bench.events.clear();
    let mut epochs = Vec::new();
    for round in 0..6 {
        let head = Head {
            digest: [round; 32],
            ..bench.machines[0].catalogue().own_head()
        };
        let signature = key(0).sign(&head.signed_bytes());
        let now = bench.now;
        bench.machines[0].handle_head(now, &SignedHead { head, signature }, None);
        bench.run(Duration::from_secs(1));
        epochs.push(bench.machines[0].catalogue().own_head().epoch);
    }
    assert_eq!(bench.events.len(), 6);
    let copied = |(_, event): &(usize, NodeEvent)| matches!(event, NodeEvent::CopiedKey { .. });
    assert!(bench.events.iter().all(copied));
    epochs.dedup();
    assert_eq!(epochs.len(), crate::catalogue::MAX_OWN_RECOVERIES as usize);
}
