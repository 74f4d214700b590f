//! Tests of which processes reveal a copied key, and which do not.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const N: NodeId = NodeId::new([9; 32]);
const ME: NodeId = NodeId::new([1; 32]);
const HERE: &str = "10.0.0.1:1378";
const THERE: &str = "10.0.0.2:1378";

/// Returns the state after processes of one node spoke, each at a second, with a salt and from an
/// address. Also returns the reports and the time.
fn after(words: &[(u64, u8, &str)]) -> (Copies, Vec<Vec<SocketAddr>>, Instant) {
    let begin = Instant::now();
    let (mut copies, mut told, mut now) = (Copies::new(begin), Vec::new(), begin);
    for (at, salt, address) in words {
        now = begin + Duration::from_secs(*at);
        told.extend(copies.record_process(now, N, [*salt; 16], address.parse().unwrap()));
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

#[test]
fn a_late_message_of_an_ended_generation_is_not_a_copy() {
    let late = [(0, 1, HERE), (5, 2, THERE), (7, 1, HERE), (8, 2, THERE)];
    assert_eq!(told(&late), Vec::<Vec<String>>::new());
    // However late it is, if the later one is silent.
    let moved = [(0, 1, HERE), (5, 2, THERE), (20, 1, HERE), (30, 1, HERE)];
    assert_eq!(told(&moved), Vec::<Vec<String>>::new());
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
    let [here, there] = [HERE, THERE].map(|it| it.parse().unwrap());
    assert_eq!(copies.record_process(now, N, [3; 16], here), None);
    assert_eq!(copies.record_process(now + SECOND, N, [4; 16], there), None);
    assert_eq!(
        copies.record_process(now + 5 * SECOND, N, [3; 16], here),
        None
    );
    let again = copies.record_process(now + 6 * SECOND, N, [4; 16], there);
    assert_eq!(again, Some(vec![here, there]));
}

#[test]
fn another_process_with_our_key_is_reported_at_its_first_message_until_silent() {
    let begin = Instant::now();
    let mut copies = Copies::new(begin);
    let there: SocketAddr = THERE.parse().unwrap();
    let told = copies.record_own_process(begin, ME, [1; 16], there);
    assert_eq!(told, Some(vec![there]));
    assert_eq!(
        copies.record_own_process(begin + SECOND, ME, [1; 16], there),
        None
    );
    let soon = begin + UNHEARD;
    assert_eq!(copies.forget_silent(soon, &ME), Vec::<NodeId>::new());
    assert_eq!(copies.forget_silent(soon + SECOND, &ME), [ME]);
    let again = copies.record_own_process(soon + SECOND, ME, [1; 16], there);
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
        copies.record_own_process(now, ME, salt.unwrap(), address);
        copies.is_worth_a_look(now, address);
    }
    assert!(copies.processes[&ME].len() <= PROCESSES_MAX);
    assert!(copies.told[&ME].len() <= PLACES_MAX && copies.looked.len() <= PLACES_MAX);
}
