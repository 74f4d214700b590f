//! Tests of which processes reveal a copied key, and which do not.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const N: NodeId = NodeId::new([9; 32]);
const ME: NodeId = NodeId::new([1; 32]);
const HERE: &str = "10.0.0.1:1378";
const THERE: &str = "10.0.0.2:1378";

fn spoken(salt: u8, address: &str, challenged: Option<Instant>) -> Spoken {
    Spoken {
        salt: [salt; 16],
        address: address.parse().unwrap(),
        challenged,
    }
}

/// Returns the state after processes of one node answered challenges, each at a second, with a salt
/// and from an address. Also returns the reports and the time.
fn after(words: &[(u64, u8, &str)]) -> (Copies, Vec<Vec<SocketAddr>>, Instant) {
    let begin = Instant::now();
    let (mut copies, mut told, mut now) = (Copies::new(begin), Vec::new(), begin);
    for (at, salt, address) in words {
        now = begin + Duration::from_secs(*at);
        told.extend(copies.record_process(now, N, spoken(*salt, address, Some(now))));
    }
    (copies, told, now)
}

fn told(words: &[(u64, u8, &str)]) -> Vec<Vec<String>> {
    let told = after(words).1.into_iter();
    told.map(|all| all.iter().map(SocketAddr::to_string).collect())
        .collect()
}

#[test]
fn two_alternating_processes_are_reported_once_with_both_addresses() {
    let turns: Vec<_> = (0..40)
        .map(|at| match at % 2 {
            0 => (at, 1, HERE),
            _ => (at, 2, THERE),
        })
        .collect();
    assert_eq!(told(&turns), [[HERE, THERE]]);
    // The same holds within seconds.
    assert_eq!(told(&turns[..6]), [[HERE, THERE]]);
}

#[test]
fn a_node_that_restarts_repeatedly_is_not_a_copy() {
    let lives: Vec<_> = (0..60)
        .map(|at| (at, (at / 3) as u8, [HERE, THERE][at as usize / 3 % 2]))
        .collect();
    assert_eq!(told(&lives), Vec::<Vec<String>>::new());
}

#[test]
fn a_node_with_several_addresses_is_not_a_copy() {
    let one: Vec<_> = (0..60)
        .map(|at| (at, 1, [HERE, THERE][at as usize % 2]))
        .collect();
    assert_eq!(told(&one), Vec::<Vec<String>>::new());
}

/// Returns the reports if a machine on the way withholds datagrams of one process and delivers them
/// at the given seconds, each with the second of the challenge that it answers, if it answers one.
/// The other process answers a challenge at every second from the given one on.
fn told_of_withheld(begins: u64, withheld: &[(u64, Option<u64>)]) -> Vec<Vec<SocketAddr>> {
    let begin = Instant::now();
    let at = |second| begin + Duration::from_secs(second);
    let (mut copies, mut told) = (Copies::new(begin), Vec::new());
    for second in 0..40 {
        for (_, challenged) in withheld.iter().filter(|it| it.0 == second) {
            let ended = spoken(1, HERE, challenged.map(at));
            told.extend(copies.record_process(at(second), N, ended));
        }
        if second >= begins {
            let next = spoken(2, THERE, Some(at(second)));
            told.extend(copies.record_process(at(second), N, next));
        }
    }
    told
}

#[test]
fn withheld_datagrams_of_an_ended_process_make_no_copy() {
    // The first process was seen before, and ends before the other begins at second 5.
    let frames = [(0, Some(0)), (7, None), (8, None), (20, None)];
    assert_eq!(told_of_withheld(5, &frames), Vec::<Vec<_>>::new());
    let answers = [(0, Some(0)), (8, Some(4)), (9, None), (23, Some(4))];
    assert_eq!(told_of_withheld(5, &answers), Vec::<Vec<_>>::new());
    // The first process was never seen before: it seems to be the later one.
    let unseen = [(8, Some(3)), (12, Some(4)), (13, None), (23, Some(4))];
    assert_eq!(told_of_withheld(5, &unseen), Vec::<Vec<_>>::new());
    // A process that lives answers later challenges.
    let living = [(0, Some(0)), (8, Some(7))];
    assert_eq!(told_of_withheld(5, &living).len(), 1);
    let living = [(8, Some(3)), (12, Some(9))];
    assert_eq!(told_of_withheld(5, &living).len(), 1);
}

#[test]
fn only_a_process_beside_another_one_is_challenged_and_at_a_pace() {
    let begin = Instant::now();
    let mut copies = Copies::new(begin);
    let mut challenged = |second: u64, salt: u8, answered: bool| {
        let now = begin + Duration::from_secs(second);
        let answered = answered.then_some(now);
        copies.record_process(now, N, spoken(salt, HERE, answered));
        copies.is_to_be_challenged(now, &N, &[salt; 16])
    };
    assert!(!challenged(0, 1, true));
    assert!(!challenged(1, 1, false), "it is alone");
    assert!(!challenged(2, 2, true), "it began just now");
    assert!(challenged(3, 2, false));
    assert!(!challenged(4, 2, false), "it was just challenged");
    assert!(challenged(3 + CHALLENGE_PERIOD.as_secs(), 2, false));
    assert!(!challenged(20, 2, true), "it answered");
    assert!(!challenged(30, 2, false));
    assert!(challenged(31, 1, false), "the other one did not");
}

#[test]
fn a_copy_ends_when_one_of_both_falls_silent_and_is_reported_again_later() {
    let mut turns: Vec<_> = (0..20)
        .map(|at| (at, 1 + (at % 2) as u8, [HERE, THERE][at as usize % 2]))
        .collect();
    // Only the earlier one continues.
    turns.extend((20..200).step_by(5).map(|at| (at, 1, HERE)));
    let (mut copies, _, now) = after(&turns);
    assert!(copies.is_copied(&N));
    assert_eq!(copies.forget_silent(now, &ME), [N]);
    assert!(!copies.is_copied(&N));
    // It restarts, which is not a copy, and then the other one returns.
    let answers = |at, salt, address| spoken(salt, address, Some(at));
    let [here, there] = [HERE, THERE].map(|it| it.parse().unwrap());
    assert_eq!(copies.record_process(now, N, answers(now, 3, HERE)), None);
    assert_eq!(
        copies.record_process(now + SECOND, N, answers(now + SECOND, 4, THERE)),
        None
    );
    assert_eq!(
        copies.record_process(now + 5 * SECOND, N, answers(now + 5 * SECOND, 3, HERE)),
        None
    );
    let again = copies.record_process(now + 6 * SECOND, N, answers(now + 6 * SECOND, 4, THERE));
    assert_eq!(again, Some(vec![here, there]));
}

#[test]
fn another_process_with_our_key_is_reported_at_its_first_message_until_silent() {
    let begin = Instant::now();
    let mut copies = Copies::new(begin);
    let there: SocketAddr = THERE.parse().unwrap();
    let told = copies.record_own_process(begin, ME, spoken(1, THERE, None));
    assert_eq!(told, Some(vec![there]));
    assert_eq!(
        copies.record_own_process(begin + SECOND, ME, spoken(1, THERE, None)),
        None
    );
    let soon = begin + UNHEARD;
    assert_eq!(copies.forget_silent(soon, &ME), Vec::<NodeId>::new());
    assert_eq!(copies.forget_silent(soon + SECOND, &ME), [ME]);
    let again = copies.record_own_process(soon + SECOND, ME, spoken(1, THERE, None));
    assert_eq!(again, Some(vec![there]));
}

#[test]
fn an_earlier_generation_is_contradicted_once_or_twice_and_is_not_a_copy() {
    let begin = Instant::now();
    let again = |seconds: &[u32]| {
        let mut copies = Copies::new(begin);
        let mut times = seconds.iter();
        times.any(|at| copies.is_contradicted_again(begin + *at * SECOND))
    };
    assert!(!again(&[0, 1, 1, 2, 2]), "all members tell at once");
    assert!(!again(&[0, 60]), "and another part of the network later");
    assert!(!again(&[0, 200, 400, 600]));
    assert!(again(&[0, 5, 10]));
}

#[test]
fn remembered_copies_are_bounded() {
    let begin = Instant::now();
    let mut copies = Copies::new(begin);
    for n in 0..2000 {
        let address = SocketAddr::from(([10, 0, 0, 1], n));
        let salt = blake3::hash(&n.to_le_bytes()).as_bytes()[..16].try_into();
        let now = begin + u32::from(n) * Duration::from_millis(10);
        let spoken = Spoken {
            salt: salt.unwrap(),
            address,
            challenged: None,
        };
        copies.record_own_process(now, ME, spoken);
        copies.is_worth_a_look(now, address);
    }
    assert!(copies.processes[&ME].len() <= PROCESSES_MAX);
    assert!(copies.told[&ME].len() <= PLACES_MAX && copies.looked.len() <= PLACES_MAX);
}
