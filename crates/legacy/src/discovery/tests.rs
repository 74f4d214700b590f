//! Tests of the state machine in virtual time.

use super::*;

mod hostile;
mod storms;

const OWN: &str = "10.0.0.1:1378";
/// The user of most requests.
const USER: u32 = 1000;

fn address(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A machine with its virtual time and its files.
struct DiscoveryWorld {
    machine: LegacyMachine,
    now: Instant,
    has: Vec<Name>,
}

type Sent = Vec<(String, String)>;

impl DiscoveryWorld {
    fn new(members: &[&str]) -> Self {
        let now = Instant::now();
        let members = members
            .iter()
            .map(|m| MemberName::parse(m.as_bytes()).unwrap());
        let config = LegacyConfig {
            own: address(OWN),
            members: members.collect(),
            period: seconds(20),
            waiting: seconds(100),
            lookup: seconds(12),
            responder_delay: seconds(10),
        };
        let is_own =
            |a: SocketAddrV4| a.port() == 1378 && (a.ip().is_loopback() || a == address(OWN));
        Self {
            machine: LegacyMachine::new(config, Box::new(is_own), now),
            now,
            has: Vec::new(),
        }
    }

    fn hear(&mut self, from: &str, text: &[u8]) {
        let has = self.has.clone();
        let from = from.parse().unwrap();
        self.machine
            .handle_message(self.now, from, text, &|name| has.contains(name));
    }

    /// Advances the time and wakes the machine at its deadlines.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = Some(self.machine.poll_timeout()).filter(|due| *due <= end) {
            self.now = due.max(self.now);
            let has = self.has.clone();
            self.machine
                .handle_timeout(self.now, &|name| has.contains(name));
        }
        self.now = end;
    }

    fn sent(&mut self) -> Sent {
        std::iter::from_fn(|| self.machine.poll_transmit())
            .map(|(to, bytes)| (to.to_string(), String::from_utf8(bytes).unwrap()))
            .collect()
    }

    fn events(&mut self) -> Vec<LegacyEvent> {
        std::iter::from_fn(|| self.machine.poll_event()).collect()
    }

    /// Returns the events except those about members.
    fn asking_events(&mut self) -> Vec<LegacyEvent> {
        let is_asking =
            |e: &LegacyEvent| !matches!(e, LegacyEvent::MemberUp(_) | LegacyEvent::MemberDown(_));
        self.events().into_iter().filter(is_asking).collect()
    }

    fn ask(&mut self, text: &str) -> Result<(), Absence> {
        self.ask_as(USER, text)
    }

    fn ask_as(&mut self, uid: u32, text: &str) -> Result<(), Absence> {
        let requester = Requester::program(uid);
        self.machine.ask(self.now, &name(text), requester, &[])
    }

    fn members(&self) -> Vec<String> {
        let heard = self.machine.members().into_iter().filter(|m| m.heard);
        heard.map(|m| m.address.to_string()).collect()
    }
}

fn sent(to: &str, text: &str) -> (String, String) {
    (to.to_owned(), text.to_owned())
}

fn attempt(file: &str, peer: &str, at: &str) -> LegacyEvent {
    LegacyEvent::Try {
        name: name(file),
        peer: address(peer),
        at: address(at),
    }
}

#[test]
fn a_configured_member_receives_our_address_at_start_and_every_period() {
    let mut world = DiscoveryWorld::new(&["10.0.0.2:1378"]);
    world.pass(seconds(0));
    let hello = sent("10.0.0.2:1378", "DISCOVER,10.0.0.1:1378\n");
    assert_eq!(world.sent(), std::slice::from_ref(&hello));
    world.pass(seconds(19));
    assert_eq!(world.sent(), []);
    world.pass(seconds(1));
    assert_eq!(world.sent(), [hello]);
}

#[test]
fn a_sender_becomes_a_member_and_receives_the_list_of_members() {
    let mut world = DiscoveryWorld::new(&[]);
    world.pass(seconds(1));
    world.hear("10.0.0.2:1378", b"DISCOVER,10.0.0.1:1378\n");
    world.hear("10.0.0.3:21001", b"DISCOVER,10.0.0.1:1378\n");
    assert_eq!(world.members(), ["10.0.0.2:1378", "10.0.0.3:21001"]);
    world.pass(seconds(20));
    let hello = "DISCOVER,10.0.0.1:1378\n";
    assert_eq!(
        world.sent(),
        [sent("10.0.0.2:1378", hello), sent("10.0.0.3:21001", hello)]
    );
    for _ in 0..4 {
        world.hear("10.0.0.2:1378", hello.as_bytes());
        world.hear("10.0.0.3:21001", hello.as_bytes());
    }
    world.pass(seconds(20));
    let list = "DISCOVER,10.0.0.1:1378,10.0.0.2:1378,10.0.0.3:21001\n";
    assert_eq!(
        world.sent(),
        [sent("10.0.0.2:1378", list), sent("10.0.0.3:21001", list)]
    );
}

#[test]
fn an_address_known_only_by_gossip_is_greeted_a_few_times_and_not_gossiped() {
    let mut world = DiscoveryWorld::new(&["10.0.0.2:1378"]);
    world.pass(seconds(1));
    for _ in 0..30 {
        world.hear("10.0.0.2:1378", b"DISCOVER,10.9.9.9:7,bad,[::1]:1\n");
        world.pass(seconds(20));
    }
    let sent = world.sent();
    let told = sent.iter().filter(|(to, _)| to == "10.9.9.9:7");
    assert_eq!(told.clone().count(), CANDIDATE_TRIES as usize);
    assert!(
        told.clone()
            .all(|(_, text)| text == "DISCOVER,10.0.0.1:1378\n")
    );
    let gossiped = |text: &String| text.contains("9.9.9") || text.contains("bad");
    assert!(!sent.iter().any(|(_, text)| gossiped(text)), "{sent:?}");
    assert_eq!(world.machine.counters().garbage_entries, 60);
}

#[test]
fn a_peer_that_answers_our_hello_becomes_a_member() {
    let mut world = DiscoveryWorld::new(&["10.0.0.2:1378"]);
    world.hear("10.0.0.2:1378", b"DISCOVER,10.0.0.3:1378\n");
    world.pass(seconds(20));
    assert!(
        world
            .sent()
            .contains(&sent("10.0.0.3:1378", "DISCOVER,10.0.0.1:1378\n"))
    );
    world.hear("10.0.0.3:1378", b"DISCOVER,10.0.0.1:1378\n");
    assert_eq!(world.members(), ["10.0.0.2:1378", "10.0.0.3:1378"]);
}

#[test]
fn our_own_messages_and_aliases_have_no_effect() {
    let mut world = DiscoveryWorld::new(&["127.0.0.1:1378", "10.0.0.1:1378"]);
    world.hear("10.0.0.1:1378", b"DISCOVER,10.0.0.7:1\n");
    world.hear("127.0.0.1:1378", b"Get,a\n");
    world.hear(
        "10.0.0.2:1378",
        b"DISCOVER,10.0.0.1:1378,127.0.0.1:1378,127.0.0.1:1378\n",
    );
    world.pass(seconds(60));
    assert_eq!(world.machine.counters().echoes, 2);
    assert!(world.sent().iter().all(|(to, _)| to == "10.0.0.2:1378"));
    assert_eq!(world.members(), ["10.0.0.2:1378"]);
}

#[test]
fn a_silent_member_leaves_and_an_active_one_stays() {
    let mut world = DiscoveryWorld::new(&[]);
    world.hear("10.0.0.2:1378", b"DISCOVER\n");
    world.hear("10.0.0.3:1378", b"DISCOVER\n");
    for _ in 0..10 {
        world.pass(seconds(20));
        world.hear("10.0.0.3:1378", b"DISCOVER,10.0.0.2:1378\n");
    }
    assert_eq!(world.members(), ["10.0.0.3:1378"]);
    assert!(
        world
            .events()
            .contains(&LegacyEvent::MemberDown(address("10.0.0.2:1378")))
    );
}

#[test]
fn a_host_name_is_resolved_by_the_owner_with_growing_pauses() {
    let mut world = DiscoveryWorld::new(&["node2:1378"]);
    let host = MemberName::parse(b"node2:1378").unwrap();
    let mut resolved_at = Vec::new();
    let begin = world.now;
    for _ in 0..200 {
        world.pass(seconds(1));
        for event in world.events() {
            assert_eq!(event, LegacyEvent::Resolve(host.clone()));
            resolved_at.push((world.now - begin).as_secs());
            world.machine.handle_resolved(world.now, &host, None);
        }
    }
    assert!(resolved_at.len() < 6, "{resolved_at:?}");
    world
        .machine
        .handle_resolved(world.now, &host, Some(address("10.0.0.2:1378")));
    assert_eq!(
        world.sent(),
        [sent("10.0.0.2:1378", "DISCOVER,10.0.0.1:1378\n")]
    );
    assert_eq!(world.ask("a.txt"), Ok(()));
    assert_eq!(world.sent(), [sent("10.0.0.2:1378", "Get,a.txt\n")]);
}

#[test]
fn a_host_name_that_resolves_to_ourselves_is_ignored() {
    let mut world = DiscoveryWorld::new(&["localhost:1378"]);
    let host = MemberName::parse(b"localhost:1378").unwrap();
    world
        .machine
        .handle_resolved(world.now, &host, Some(address("127.0.0.1:1378")));
    world.pass(seconds(100));
    assert_eq!(world.sent(), []);
}

#[test]
fn a_stranger_is_answered_after_ten_seconds_and_a_known_peer_at_once() {
    let mut world = DiscoveryWorld::new(&["10.0.0.2:1378"]);
    world.has = vec![name("b.txt")];
    world.pass(seconds(1));
    world.sent();
    world.hear("10.0.0.2:1378", b"Get,b.txt\n");
    world.pass(Duration::from_millis(9_999));
    assert_eq!(world.sent(), []);
    world.pass(Duration::from_millis(1));
    let file = sent("10.0.0.2:1378", "File,1,1378\n");
    assert_eq!(world.sent(), std::slice::from_ref(&file));

    world.ask("c.txt").unwrap();
    world.hear("10.0.0.2:1378", b"File,1,40000\n");
    world.sent();
    world.hear("10.0.0.2:1378", b"Get,dir/b.txt\n");
    assert_eq!(world.sent(), [file]);
    // reciprocity depends on address and port
    world.hear("10.0.0.2:1379", b"Get,b.txt\n");
    assert_eq!(world.sent(), []);
}

#[test]
fn a_file_we_lack_or_lost_gets_no_answer() {
    let mut world = DiscoveryWorld::new(&[]);
    world.has = vec![name("b.txt")];
    world.pass(seconds(1));
    world.hear("10.0.0.2:1378", b"Get,other\n");
    world.hear("10.0.0.2:1378", b"Get,b.txt\n");
    world.has.clear();
    world.pass(seconds(15));
    assert_eq!(world.sent(), []);
}

#[test]
fn a_file_present_at_the_time_of_the_delayed_answer_is_offered() {
    let mut world = DiscoveryWorld::new(&[]);
    world.pass(seconds(1));
    world.hear("10.0.0.2:1378", b"Get,b.txt\n");
    world.pass(seconds(9));
    world.has = vec![name("b.txt")];
    world.pass(seconds(1));
    assert_eq!(world.sent(), [sent("10.0.0.2:1378", "File,1,1378\n")]);
}

#[test]
fn a_repeated_question_of_one_asker_waits_for_one_answer() {
    let mut world = DiscoveryWorld::new(&[]);
    world.has = vec![name("b.txt")];
    world.pass(seconds(1));
    for _ in 0..5 {
        world.hear("10.0.0.2:1378", b"Get,b.txt\n");
    }
    world.pass(seconds(11));
    assert_eq!(world.sent(), [sent("10.0.0.2:1378", "File,1,1378\n")]);
}

#[test]
fn one_question_serves_several_local_askers() {
    let mut world = DiscoveryWorld::new(&["10.0.0.2:1378", "10.0.0.3:1378"]);
    world.pass(seconds(1));
    world.sent();
    for _ in 0..3 {
        assert_eq!(world.ask("a.txt"), Ok(()));
    }
    let expected = [
        sent("10.0.0.2:1378", "Get,a.txt\n"),
        sent("10.0.0.3:1378", "Get,a.txt\n"),
    ];
    assert_eq!(world.sent(), expected);
}

#[test]
fn responders_are_tried_one_at_a_time_in_order() {
    let mut world = DiscoveryWorld::new(&["10.0.0.2:1378", "10.0.0.3:1378"]);
    world.ask("a.txt").unwrap();
    world.hear("10.0.0.2:1378", b"File,1,5002\n");
    world.hear("10.0.0.3:1378", b"File,5003\n");
    world.hear("10.0.0.2:1378", b"File,1,5002\n");
    let first = attempt("a.txt", "10.0.0.2:1378", "10.0.0.2:5002");
    assert_eq!(world.asking_events(), [first]);
    world
        .machine
        .tried(world.now, &name("a.txt"), address("10.0.0.2:5002"), false);
    let second = attempt("a.txt", "10.0.0.3:1378", "10.0.0.3:5003");
    assert_eq!(world.asking_events(), [second]);
    world
        .machine
        .tried(world.now, &name("a.txt"), address("10.0.0.3:5003"), true);
    world.pass(seconds(300));
    assert_eq!(world.asking_events(), []);
}

#[test]
fn a_later_responder_is_tried_at_once_when_the_first_breaks_off() {
    let mut world = DiscoveryWorld::new(&["10.0.0.2:1378", "10.0.0.3:1378"]);
    let (a, b) = (address("10.0.0.2:5002"), address("10.0.0.3:5003"));
    world.ask("a.txt").unwrap();
    world.hear("10.0.0.2:1378", b"File,1,5002\n");
    world.machine.tried(world.now, &name("a.txt"), a, true);
    world.hear("10.0.0.3:1378", b"File,1,5003\n");
    world.asking_events();
    world.machine.failed(world.now, &name("a.txt"), a);
    world.ask("a.txt").unwrap();
    let second = attempt("a.txt", "10.0.0.3:1378", "10.0.0.3:5003");
    assert_eq!(world.asking_events(), [second]);
    // the first responder answers again first, and still waits for the other
    world.hear("10.0.0.2:1378", b"File,1,5002\n");
    world.machine.tried(world.now, &name("a.txt"), b, false);
    assert_eq!(world.asking_events(), []);
    world.hear("10.0.0.3:1378", b"File,1,5003\n");
    let last = attempt("a.txt", "10.0.0.2:1378", "10.0.0.2:5002");
    assert_eq!(world.asking_events(), [last], "everyone has answered");
}

#[test]
fn a_responder_that_broke_off_is_retried_when_no_other_has_the_file() {
    let mut world = DiscoveryWorld::new(&["10.0.0.2:1378"]);
    let a = address("10.0.0.2:5002");
    let again = attempt("a.txt", "10.0.0.2:1378", "10.0.0.2:5002");
    world.machine.failed(world.now, &name("a.txt"), a);
    world.ask("a.txt").unwrap();
    world.hear("10.0.0.2:1378", b"File,1,5002\n");
    assert_eq!(world.asking_events(), std::slice::from_ref(&again));
    // if another member stays silent, when the lookup would end
    let mut world = DiscoveryWorld::new(&["10.0.0.2:1378", "10.0.0.3:1378"]);
    world.machine.failed(world.now, &name("a.txt"), a);
    world.ask("a.txt").unwrap();
    world.hear("10.0.0.2:1378", b"File,1,5002\n");
    world.pass(Duration::from_millis(11_999));
    assert_eq!(world.asking_events(), []);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.asking_events(), [again]);
    world.machine.tried(world.now, &name("a.txt"), a, false);
    let over = LegacyEvent::LookupOver(name("a.txt"));
    assert_eq!(world.asking_events(), [over]);
}

#[test]
fn a_recently_failed_responder_is_skipped() {
    let mut world = DiscoveryWorld::new(&["10.0.0.2:1378", "10.0.0.3:1378"]);
    let failed = [address("10.0.0.2:5002")];
    let asked = world
        .machine
        .ask(world.now, &name("a.txt"), Requester::person(USER), &failed);
    assert_eq!(asked, Ok(()));
    world.hear("10.0.0.2:1378", b"File,1,5002\n");
    world.hear("10.0.0.3:1378", b"File,1,5003\n");
    let next = attempt("a.txt", "10.0.0.3:1378", "10.0.0.3:5003");
    assert_eq!(world.asking_events(), [next]);
}

#[test]
fn a_member_that_joins_during_a_question_is_asked_too() {
    let mut world = DiscoveryWorld::new(&["10.0.0.2:1378"]);
    world.ask("a.txt").unwrap();
    world.sent();
    world.hear("10.0.0.3:1378", b"DISCOVER,10.0.0.1:1378\n");
    assert_eq!(world.sent(), [sent("10.0.0.3:1378", "Get,a.txt\n")]);
    world.hear("10.0.0.3:1378", b"DISCOVER,10.0.0.1:1378\n");
    assert_eq!(world.sent(), []);
    world.hear("10.0.0.3:1378", b"File,1,5003\n");
    let next = attempt("a.txt", "10.0.0.3:1378", "10.0.0.3:5003");
    assert_eq!(world.asking_events(), [next]);
}

#[test]
fn a_responder_is_tried_for_each_open_question_as_answers_name_no_file() {
    let mut world = DiscoveryWorld::new(&["10.0.0.2:1378"]);
    world.ask("a.txt").unwrap();
    world.ask("b.txt").unwrap();
    world.hear("10.0.0.2:1378", b"File,1,5002\n");
    let tries = ["a.txt", "b.txt"].map(|n| attempt(n, "10.0.0.2:1378", "10.0.0.2:5002"));
    assert_eq!(world.asking_events(), tries);
}

#[test]
fn an_unsolicited_or_third_party_answer_is_counted_and_not_dialled() {
    let mut world = DiscoveryWorld::new(&["10.0.0.2:1378"]);
    world.hear("10.0.0.2:1378", b"File,1,5002\n");
    world.ask("a.txt").unwrap();
    world.hear("10.6.6.6:1378", b"File,1,22\n");
    let offended = LegacyEvent::Offended(address("10.6.6.6:1378"), DiscoveryOffence::StrayAnswer);
    assert_eq!(world.asking_events(), [offended]);
    assert_eq!(world.machine.counters().stray_answers, 2);
}

#[test]
fn a_lookup_ends_after_twelve_seconds_and_the_name_is_absent_for_thirty() {
    let mut world = DiscoveryWorld::new(&["10.0.0.2:1378"]);
    world.ask("a.txt").unwrap();
    world.pass(Duration::from_millis(11_999));
    assert_eq!(world.asking_events(), []);
    world.pass(Duration::from_millis(1));
    assert_eq!(
        world.asking_events(),
        [LegacyEvent::LookupOver(name("a.txt"))]
    );
    assert_eq!(world.ask("a.txt"), Err(Absence::AskedLately));
    world.sent();
    world.pass(NEGATIVE);
    world.sent();
    assert_eq!(world.ask("a.txt"), Ok(()));
    assert_eq!(world.sent(), [sent("10.0.0.2:1378", "Get,a.txt\n")]);
}

#[test]
fn an_answer_after_the_lookup_is_used_while_a_reader_waits() {
    let mut world = DiscoveryWorld::new(&["10.0.0.2:1378"]);
    world.ask("a.txt").unwrap();
    world.pass(seconds(60));
    world.hear("10.0.0.2:1378", b"File,1,5002\n");
    assert!(
        world
            .asking_events()
            .contains(&attempt("a.txt", "10.0.0.2:1378", "10.0.0.2:5002"))
    );
    world
        .machine
        .tried(world.now, &name("a.txt"), address("10.0.0.2:5002"), false);
    world.pass(seconds(60));
    assert_eq!(world.asking_events(), [LegacyEvent::AskOver(name("a.txt"))]);
    world.hear("10.0.0.2:1378", b"File,1,5002\n");
    assert_eq!(world.asking_events(), []);
}

#[test]
fn hidden_names_and_probes_are_asked_only_on_explicit_request() {
    let mut world = DiscoveryWorld::new(&["10.0.0.2:1378"]);
    for probe in [".git", "autorun.inf"] {
        assert_eq!(world.ask(probe), Err(Absence::NeverAsked));
    }
    let whole = world
        .machine
        .ask(world.now, &name(".profile"), Requester::person(USER), &[]);
    assert_eq!(whole, Ok(()));
    assert_eq!(
        DiscoveryWorld::new(&[]).ask("a.txt"),
        Err(Absence::NoMembers)
    );
}
