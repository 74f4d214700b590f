//! Tests of the ledger: the membership follows from the statements alone.

use proptest::prelude::*;

use super::last_statement::last_of;
use super::*;
use crate::trust::statement::OWNED_PATH_MAX_BYTES;

mod admitted;
mod chains;
mod confirming;
mod converging;
mod departed;
mod forged;
mod full;
mod history;
mod numbers;
mod unseen;

fn key(n: u8) -> NodeKey {
    NodeKey::from_seed(&[n; 32])
}

fn id(n: u8) -> NodeId {
    key(n).node_id()
}

fn name(n: u8) -> NodeName {
    NodeName::new(format!("n{n}")).unwrap()
}

/// Returns a cluster that node 1 founded, with node 2 as another administrator and node 3 as a
/// member.
fn cluster() -> Ledger {
    let mut ledger = Ledger::found(&key(1), name(1), 10);
    ledger
        .signer(&key(1), 20)
        .admit(id(2), name(2), true)
        .unwrap();
    ledger
        .signer(&key(1), 30)
        .admit(id(3), name(3), false)
        .unwrap();
    ledger
}

fn members(ledger: &Ledger) -> Vec<u8> {
    (1..20).filter(|n| ledger.is_member(&id(*n), 100)).collect()
}

fn merged(a: &Ledger, b: &Ledger) -> Ledger {
    let mut all = a.clone();
    all.merge(b.statements().cloned());
    all
}

/// Returns this statement with another signature, and so with another id.
fn variant(signed: &SignedStatement, n: u32) -> SignedStatement {
    let mut variant = signed.clone();
    variant.signature[0][..4].copy_from_slice(&n.to_be_bytes());
    variant
}

#[test]
fn members_are_listed_with_their_admitting_administrator_and_time() {
    let mut ledger = cluster();
    ledger
        .signer(&key(2), 40)
        .admit(id(4), name(4), false)
        .unwrap();
    assert_eq!(members(&ledger), [1, 2, 3, 4]);
    let four = ledger.certificate(&id(4)).unwrap();
    assert_eq!((four.by, four.since_s, four.admin), (id(2), 40, false));
    assert!(ledger.is_admin(&id(2), 100) && !ledger.is_admin(&id(3), 100));
}

#[test]
fn a_node_without_the_right_admits_and_expels_no_one() {
    let mut ledger = cluster();
    for stranger in [3, 9] {
        let refused = ledger
            .signer(&key(stranger), 40)
            .admit(id(7), name(7), true);
        assert!(matches!(refused, Err(TrustError::NotAdmin)));
        let refused = ledger.signer(&key(stranger), 40).expel(id(2));
        assert!(matches!(refused, Err(TrustError::NotAdmin)));
    }
    // A statement that it signs nevertheless is not even stored.
    let forged = Statement {
        cluster: ledger.cluster(),
        by: id(3),
        by_term: 1,
        at_s: 1,
        before: None,
        claim: Claim::Admit {
            node: id(7),
            name: name(7),
            admin: true,
            until_s: None,
            term: 1,
        },
    };
    assert!(ledger.merge([forged.clone().sign(&key(3))]).is_empty());
    let as_founder = Statement {
        by: id(1),
        ..forged
    };
    assert!(ledger.merge([as_founder.sign(&key(3))]).is_empty());
    assert_eq!(members(&ledger), [1, 2, 3]);
}

#[test]
fn an_expulsion_wins_over_the_certificate_in_any_order_of_arrival() {
    let mut ledger = cluster();
    ledger.signer(&key(2), 40).expel(id(3)).unwrap();
    let statements: Vec<_> = ledger.statements().cloned().collect();
    for turn in 0..statements.len() {
        let mut others = statements[1..].to_vec();
        others.rotate_left(turn % (statements.len() - 1));
        let mut anew = Ledger::of(vec![statements[0].clone()]).unwrap();
        anew.merge(others);
        assert_eq!(members(&anew), [1, 2]);
        assert_eq!(anew.digest(), ledger.digest());
    }
    assert!(ledger.is_expelled(&id(3)) && !ledger.is_expelled(&id(2)));
}

#[test]
fn statements_signed_after_an_expulsion_count_for_nothing_whatever_their_date() {
    let mut ledger = cluster();
    ledger
        .signer(&key(2), 40)
        .admit(id(4), name(4), false)
        .unwrap();
    let apart = ledger.clone();
    ledger.signer(&key(1), 50).expel(id(2)).unwrap();
    assert_eq!(members(&ledger), [1, 3, 4], "whom it admitted before stays");
    // The thief continues, dates its statements back, and has an accomplice spread them.
    let mut thief = apart;
    thief
        .signer(&key(2), 41)
        .admit(id(5), name(5), true)
        .unwrap();
    thief.signer(&key(2), 41).expel(id(3)).unwrap();
    thief.signer(&key(2), 41).rotate(EpochId([6; 8])).unwrap();
    let both = merged(&ledger, &thief);
    assert_eq!(members(&both), [1, 3, 4]);
    assert_eq!(both.epoch(), None);
}

#[test]
fn a_junior_cannot_expel_a_senior_and_a_senior_can_expel_a_junior() {
    let mut ledger = cluster();
    let refused = ledger.signer(&key(2), 40).expel(id(1));
    assert!(matches!(refused, Err(TrustError::Senior { .. })));
    let forged = Statement {
        cluster: ledger.cluster(),
        by: id(2),
        by_term: 1,
        at_s: 1,
        before: last_of(&ledger, &id(2)),
        claim: Claim::Expel {
            node: id(1),
            term: 1,
            stands: None,
        },
    };
    ledger.merge([forged.sign(&key(2))]);
    assert_eq!(members(&ledger), [1, 2, 3]);
    ledger.signer(&key(1), 40).expel(id(2)).unwrap();
    assert_eq!(members(&ledger), [1, 3]);
}

#[test]
fn an_administrator_cannot_give_itself_seniority() {
    let mut ledger = cluster();
    ledger
        .signer(&key(1), 40)
        .admit(id(4), name(4), true)
        .unwrap();
    // The junior signs itself a certificate dated before the senior's.
    ledger
        .signer(&key(4), 1)
        .admit(id(4), name(4), true)
        .unwrap();
    assert!(matches!(
        ledger.signer(&key(4), 50).expel(id(2)),
        Err(TrustError::Senior { .. })
    ));
    ledger.signer(&key(2), 50).expel(id(4)).unwrap();
    assert_eq!(members(&ledger), [1, 2, 3]);
}

#[test]
fn a_node_that_left_is_out_states_nothing_more_and_can_be_admitted_again() {
    let mut ledger = cluster();
    ledger.signer(&key(3), 40).expel(id(3)).unwrap();
    ledger.signer(&key(2), 40).expel(id(2)).unwrap();
    assert_eq!(members(&ledger), [1]);
    let after = Statement {
        cluster: ledger.cluster(),
        by: id(2),
        by_term: 1,
        at_s: 1,
        before: None,
        claim: Claim::Admit {
            node: id(7),
            name: name(7),
            admin: false,
            until_s: None,
            term: 1,
        },
    };
    ledger.merge([after.sign(&key(2))]);
    assert_eq!(members(&ledger), [1]);
    for n in [2, 3] {
        ledger
            .signer(&key(1), 50)
            .admit(id(n), name(n), n == 2)
            .unwrap();
    }
    assert_eq!(members(&ledger), [1, 2, 3]);
    ledger
        .signer(&key(2), 60)
        .admit(id(8), name(8), false)
        .unwrap();
    assert_eq!(members(&ledger), [1, 2, 3, 8], "its word counts again");
}

#[test]
fn the_higher_epoch_wins_and_of_two_concurrent_ones_the_seniors() {
    let mut ledger = cluster();
    ledger.signer(&key(2), 40).rotate(EpochId([1; 8])).unwrap();
    let (mut one, mut other) = (ledger.clone(), ledger.clone());
    one.signer(&key(1), 50).rotate(EpochId([2; 8])).unwrap();
    other.signer(&key(2), 50).rotate(EpochId([3; 8])).unwrap();
    assert_eq!(merged(&one, &other).epoch(), Some(EpochId([2; 8])));
    other.signer(&key(2), 60).rotate(EpochId([4; 8])).unwrap();
    assert_eq!(merged(&one, &other).epoch(), Some(EpochId([4; 8])));
}

#[test]
fn a_chain_from_the_founding_admits_a_node_with_no_other_knowledge() {
    let mut ledger = cluster();
    ledger
        .signer(&key(2), 40)
        .admit(id(4), name(4), false)
        .unwrap();
    let chain = ledger.chain(&id(4));
    assert_eq!(chain.len(), 3);
    let joined = Ledger::of(chain.clone()).unwrap();
    assert_eq!(members(&joined), [1, 2, 4]);
    assert!(Ledger::of(chain[1..].to_vec()).is_none());
    // The chain of another cluster changes nothing.
    let mut foreign = Ledger::found(&key(9), name(9), 1);
    assert!(foreign.merge(chain).is_empty());
}

/// Returns the owner of a path.
fn owner(ledger: &Ledger, path: &str) -> Option<NodeId> {
    let mut owners = ledger.owners();
    owners
        .find(|owned| owned.0 == path.as_bytes())
        .map(|it| it.1)
}

fn own(ledger: &mut Ledger, by: u8, path: &str, node: Option<u8>) -> Result<(), TrustError> {
    let owned = ledger.signer(&key(by), 50).own(path.into(), node.map(id));
    owned.map(drop)
}

#[test]
fn an_administrator_assigns_a_path_and_the_last_statement_counts() {
    let mut ledger = cluster();
    let refused = own(&mut ledger, 3, "docs", Some(3));
    assert!(matches!(refused, Err(TrustError::NotAdmin)));
    let refused = own(&mut ledger, 1, "docs", Some(9));
    assert!(matches!(refused, Err(TrustError::NoMember)));
    let longest = "p".repeat(OWNED_PATH_MAX_BYTES);
    own(&mut ledger, 1, &longest, Some(3)).unwrap();
    let refused = own(&mut ledger, 1, &format!("{longest}p"), Some(3));
    assert!(matches!(refused, Err(TrustError::OwnedPath)));
    own(&mut ledger, 2, "docs", Some(3)).unwrap();
    own(&mut ledger, 1, "docs", Some(2)).unwrap();
    assert_eq!(owner(&ledger, "docs"), Some(id(2)));
    own(&mut ledger, 2, "docs", None).unwrap();
    assert_eq!(owner(&ledger, "docs"), None);
    assert_eq!(owner(&ledger, &longest), Some(id(3)));
}

#[test]
fn of_two_concurrent_owners_the_seniors_choice_holds_everywhere() {
    let (mut one, mut two) = (cluster(), cluster());
    own(&mut one, 1, "docs", Some(3)).unwrap();
    own(&mut two, 2, "docs", Some(2)).unwrap();
    for both in [merged(&one, &two), merged(&two, &one)] {
        assert_eq!(owner(&both, "docs"), Some(id(3)));
    }
}

#[test]
fn an_expelled_node_owns_nothing_and_its_statements_on_owners_end() {
    let mut ledger = cluster();
    own(&mut ledger, 1, "docs", Some(3)).unwrap();
    ledger.signer(&key(1), 60).expel(id(3)).unwrap();
    assert_eq!(owner(&ledger, "docs"), None);
    ledger
        .signer(&key(1), 65)
        .admit(id(3), name(3), false)
        .unwrap();
    assert_eq!(owner(&ledger, "docs"), None, "nor after it is let in again");
    own(&mut ledger, 1, "docs", Some(3)).unwrap();
    assert_eq!(owner(&ledger, "docs"), Some(id(3)));
    own(&mut ledger, 1, "docs", None).unwrap();
    let mut behind = ledger.clone();
    ledger.signer(&key(1), 70).expel(id(2)).unwrap();
    own(&mut behind, 2, "docs", Some(2)).unwrap();
    assert_eq!(owner(&merged(&ledger, &behind), "docs"), None);
}

#[test]
fn the_longest_claim_to_a_path_fits_a_statement() {
    let statement = Statement {
        cluster: StatementId([255; 16]),
        by: id(1),
        by_term: u32::MAX,
        at_s: u64::MAX,
        before: Some(StatementId([255; 16])),
        claim: Claim::Own {
            path: vec![255; OWNED_PATH_MAX_BYTES],
            node: Some(id(2)),
            term: u32::MAX,
            number: u64::MAX,
        },
    };
    let bytes = statement.sign(&key(1)).encode();
    assert!(SignedStatement::decode(&bytes).is_some(), "{}", bytes.len());
}

#[test]
fn a_certificate_expires_at_its_time() {
    let mut ledger = cluster();
    let claim = Claim::Admit {
        node: id(4),
        name: name(4),
        admin: false,
        until_s: Some(50),
        term: 1,
    };
    ledger.signer(&key(1), 40).state(claim).unwrap();
    assert!(ledger.is_member(&id(4), 49) && !ledger.is_member(&id(4), 50));
}

#[test]
fn the_statements_that_one_administrator_can_make_others_store_are_bounded() {
    let mut ledger = cluster();
    let spam: Vec<_> = (0..STATEMENTS_PER_ADMIN_MAX as u64 + 50)
        .map(|number| {
            let claim = Claim::Rotate {
                epoch: EpochId(number.to_be_bytes()),
                number: 1,
            };
            let statement = Statement {
                cluster: ledger.cluster(),
                by: id(2),
                by_term: 1,
                at_s: 0,
                before: None,
                claim,
            };
            statement.sign(&key(2))
        })
        .collect();
    assert_eq!(ledger.take_in(spam).over, Some(id(2)), "it is named");
    let of_2 = ledger.statements.by(&id(2)).count();
    assert_eq!(of_2, STATEMENTS_PER_ADMIN_MAX);
    ledger.signer(&key(1), 99).expel(id(2)).unwrap();
    assert_eq!(members(&ledger), [1, 3]);
}

#[test]
fn administrators_that_admitted_each_other_are_applied_in_one_turn_in_any_order() {
    let ledger = cluster();
    let key = |n: u64| match n {
        2 => key(2),
        n => NodeKey::from_seed(
            &[&n.to_be_bytes()[..], &[9; 24]]
                .concat()
                .try_into()
                .unwrap(),
        ),
    };
    let admission = |n: u64| {
        let statement = Statement {
            cluster: ledger.cluster(),
            by: key(n).node_id(),
            by_term: 1,
            at_s: n,
            before: None,
            claim: Claim::Admit {
                node: key(n + 1).node_id(),
                name: name(9),
                admin: true,
                until_s: None,
                term: 1,
            },
        };
        statement.sign(&key(n))
    };
    let room = (STATEMENTS_OF_OTHERS_MAX - ledger.statements.len()) as u64;
    let mut chain: Vec<_> = (2..2 + room).map(admission).collect();
    // Each statement needs the one behind it. Examining all of them for each one would take hours.
    chain.reverse();
    let mut all = ledger.clone();
    assert_eq!(all.merge(chain).len() as u64, room);
    // Nodes count if they can show their certificates.
    let last = CHAIN_MAX as u64;
    for (n, is_in) in [(3, true), (last, true), (last + 1, false), (room, false)] {
        assert_eq!(all.is_admin(&key(n).node_id(), 99), is_in, "{n}");
    }
}

#[test]
fn a_ledger_accepts_statements_up_to_its_limit() {
    let admission = |by: u8, n: u8| {
        let mut apart = cluster();
        apart
            .signer(&key(by), 50)
            .admit(id(n), name(n), false)
            .unwrap();
        let is_it = |it: &&SignedStatement| match &it.statement.claim {
            Claim::Admit { node, .. } => *node == id(n),
            _ => false,
        };
        apart.statements().find(is_it).cloned().unwrap()
    };
    let (mut ledger, filler) = (cluster(), admission(2, 7));
    for n in ledger.statements.len() as u32 + 1..STATEMENTS_MAX as u32 {
        ledger.statements.insert(variant(&filler, n));
    }
    assert_eq!(ledger.statements.len(), STATEMENTS_MAX - 1);
    let admissions: Vec<_> = [5, 6].map(|n| admission(1, n)).into();
    assert_eq!(ledger.merge(admissions[..1].to_vec()).len(), 1, "the last");
    assert_eq!(ledger.statements.len(), STATEMENTS_MAX);
    assert!(ledger.merge(admissions[1..].to_vec()).is_empty());
    assert_eq!(ledger.statements.len(), STATEMENTS_MAX);
}

#[test]
fn a_chain_is_bounded_and_no_node_is_admitted_below_it() {
    let mut ledger = Ledger::found(&key(1), name(1), 10);
    let last = CHAIN_MAX as u8;
    let admit = |ledger: &mut Ledger, by: u8, n: u8| {
        ledger
            .signer(&key(by), 20 + u64::from(n))
            .admit(id(n), name(n), true)
    };
    for n in 2..=last {
        admit(&mut ledger, n - 1, n).unwrap();
    }
    let before = ledger.digest();
    let refused = admit(&mut ledger, last, last + 1);
    assert!(matches!(refused, Err(TrustError::TooFar)));
    assert_eq!(ledger.digest(), before);
    assert!(ledger.check_admits(&id(last), 100).is_err());
    admit(&mut ledger, last - 1, last + 1).unwrap();
    for n in [last - 1, last, last + 1] {
        let chain = ledger.chain(&id(n));
        assert!(chain.len() <= CHAIN_MAX);
        let alone = Ledger::of(chain).unwrap();
        assert!(alone.is_member(&id(n), 100), "{n}");
    }
}

/// One action of a node.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Admit(u8, u8, bool),
    Expel(u8, u8),
    ExpelWithAdmitted(u8, u8),
    Rotate(u8),
    Meet(usize, usize),
}

fn deeds() -> impl Strategy<Value = Vec<(usize, Deed)>> {
    let who = 1u8..7;
    let deed = prop_oneof![
        (who.clone(), who.clone(), any::<bool>()).prop_map(|(a, b, c)| Deed::Admit(a, b, c)),
        (who.clone(), who.clone()).prop_map(|(a, b)| Deed::Expel(a, b)),
        (who.clone(), who.clone()).prop_map(|(a, b)| Deed::ExpelWithAdmitted(a, b)),
        who.prop_map(Deed::Rotate),
        (0usize..3, 0usize..3).prop_map(|(a, b)| Deed::Meet(a, b)),
    ];
    prop::collection::vec((0usize..3, deed), 0..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn separated_ledgers_agree_once_they_have_merged(all in deeds()) {
        let mut apart = vec![cluster(); 3];
        for (number, (at, deed)) in all.into_iter().enumerate() {
            let now = 40 + number as u64;
            match deed {
                Deed::Admit(by, node, admin) => {
                    let _refused = apart[at].signer(&key(by), now).admit(id(node), name(node), admin);
                }
                Deed::Expel(by, node) => drop(apart[at].signer(&key(by), now).expel(id(node))),
                Deed::ExpelWithAdmitted(by, node) => {
                    drop(apart[at].signer(&key(by), now).expel_with_admitted(id(node)));
                }
                Deed::Rotate(by) => {
                    drop(apart[at].signer(&key(by), now).rotate(EpochId([number as u8; 8])));
                }
                Deed::Meet(a, b) => {
                    let of_b: Vec<_> = apart[b].statements().cloned().collect();
                    apart[a].merge(of_b);
                }
            }
        }
        let (mut one, mut other) = (apart[0].clone(), apart[2].clone());
        one.merge(apart[1].statements().cloned().collect::<Vec<_>>());
        one.merge(apart[2].statements().cloned().collect::<Vec<_>>());
        other.merge(apart[0].statements().cloned().collect::<Vec<_>>());
        other.merge(apart[1].statements().cloned().collect::<Vec<_>>());
        prop_assert_eq!(one.digest(), other.digest());
        prop_assert_eq!(members(&one), members(&other));
        prop_assert_eq!(one.epoch(), other.epoch());
        for member in one.members() {
            let alone = Ledger::of(one.chain(&member.node));
            prop_assert!(alone.is_some_and(|it| it.is_member(&member.node, 99)));
        }
        prop_assert!(one.is_member(&id(1), 99) || one.is_expelled(&id(1)), "the founder stays");
    }
}
