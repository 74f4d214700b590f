//! The ledger of members: statements signed by any node, in any order, received anywhere. Nodes
//! with the same statements agree, and a node that never had the right has changed nothing.

use std::sync::LazyLock;

use arbitrary::{Result, Unstructured};
use p2pfs_proto::trust::{Claim, Ledger, NodeKey, SignedStatement, Statement};
use p2pfs_types::id::{EpochId, NodeId, NodeName};

/// The founder, two nodes that may be admitted as administrators, one that may not, and a stranger.
static KEYS: LazyLock<Vec<NodeKey>> = LazyLock::new(|| {
    (1..=5)
        .map(|seed| NodeKey::from_seed(&[seed; 32]))
        .collect()
});
const PLAIN: usize = 3;
const PATHS: [&[u8]; 3] = [b"", b"docs", b"docs/guide"];

fn name(of: usize) -> NodeName {
    NodeName::new(format!("n{of}")).expect("a name")
}

/// Does one step of an honest program, or makes a statement that no honest program signs.
fn state(choose: &mut Unstructured<'_>, ledger: &mut Ledger, at_s: u64) -> Result<()> {
    let keys = &*KEYS;
    let by = choose.choose_index(keys.len())?;
    let node = choose.choose_index(keys.len())?;
    let (key, subject) = (&keys[by], keys[node].node_id());
    match choose.int_in_range(0..=5u8)? {
        // No node admits the plain member as an administrator.
        0 => drop(ledger.signer(key, at_s).admit(
            subject,
            name(node),
            node < PLAIN && choose.arbitrary()?,
        )),
        1 => drop(ledger.signer(key, at_s).expel(subject)),
        2 => drop(
            ledger
                .signer(key, at_s)
                .rotate(EpochId([choose.arbitrary()?; 8])),
        ),
        3 => {
            let whose = choose.arbitrary::<bool>()?.then_some(subject);
            drop(
                ledger
                    .signer(key, at_s)
                    .own(choose.choose(&PATHS)?.to_vec(), whose),
            );
        }
        _ => {
            let forged = forged(choose, ledger, key, (node, subject))?;
            ledger.merge([forged]);
        }
    }
    Ok(())
}

fn forged(
    choose: &mut Unstructured<'_>,
    ledger: &Ledger,
    key: &NodeKey,
    (node, subject): (usize, NodeId),
) -> Result<SignedStatement> {
    let known: Vec<_> = ledger.statements().map(SignedStatement::id).collect();
    let number = choose.arbitrary()?;
    let claim = match choose.int_in_range(0..=3u8)? {
        0 => Claim::Admit {
            node: subject,
            name: name(node),
            admin: node < PLAIN && choose.arbitrary()?,
            until_s: choose.arbitrary()?,
            term: choose.arbitrary()?,
        },
        1 => Claim::Expel {
            node: subject,
            term: choose.arbitrary()?,
            stands: choose
                .arbitrary::<bool>()?
                .then_some(*choose.choose(&known)?),
        },
        2 => Claim::Rotate {
            epoch: EpochId([choose.arbitrary()?; 8]),
            number,
        },
        _ => Claim::Own {
            path: choose.choose(&PATHS)?.to_vec(),
            node: choose.arbitrary::<bool>()?.then_some(subject),
            term: choose.int_in_range(0..=3)?,
            number,
        },
    };
    let statement = Statement {
        cluster: ledger.cluster(),
        by: key.node_id(),
        by_term: choose.int_in_range(0..=3)?,
        at_s: choose.arbitrary()?,
        before: choose
            .arbitrary::<bool>()?
            .then_some(*choose.choose(&known)?),
        claim,
    };
    Ok(statement.sign(key))
}

/// Runs three separate ledgers that meet, until the bytes end. Then all meet.
pub fn drive(choose: &mut Unstructured<'_>) -> Result<()> {
    let founded = Ledger::found(&KEYS[0], name(0), 10);
    let mut apart = vec![founded; 3];
    let mut at_s = 10;
    let steps = (|| {
        while !choose.is_empty() && at_s < 60 {
            at_s += 1;
            let at = choose.choose_index(apart.len())?;
            if choose.ratio(1u8, 4u8)? {
                let other = choose.choose_index(apart.len())?;
                let said: Vec<_> = apart[other].statements().cloned().collect();
                apart[at].merge(said);
            } else {
                state(choose, &mut apart[at], at_s)?;
            }
        }
        Ok(())
    })();
    let all: Vec<Vec<_>> = apart
        .iter()
        .map(|it| it.statements().cloned().collect())
        .collect();
    // A ledger that refused a statement without a known signer accepts it once the signer is known.
    for ledger in &mut apart {
        let met = all.iter().chain(&all).flatten().cloned();
        met.for_each(|statement| drop(ledger.merge([statement])));
    }
    apart.iter().for_each(check);
    for other in &apart[1..] {
        agree(&apart[0], other);
    }
    steps
}

fn agree(one: &Ledger, other: &Ledger) {
    assert_eq!(one.digest(), other.digest());
    assert_eq!(one.epoch(), other.epoch());
    assert!(
        one.owners().eq(other.owners()),
        "owners are the same everywhere"
    );
    for key in &*KEYS {
        let node = key.node_id();
        assert_eq!(one.is_member(&node, 50), other.is_member(&node, 50));
        assert_eq!(one.is_admin(&node, 50), other.is_admin(&node, 50));
        assert_eq!(one.is_expelled(&node), other.is_expelled(&node));
    }
    let stored = SignedStatement::encode_all(one.statements());
    let read = SignedStatement::decode_all(&stored, usize::MAX).expect("it was just written");
    let again = Ledger::of(read).expect("it begins with the founding");
    assert_eq!(
        again.digest(),
        one.digest(),
        "what is stored is the same cluster"
    );
}

fn check(ledger: &Ledger) {
    let (founder, plain) = (KEYS[0].node_id(), KEYS[PLAIN].node_id());
    assert!(ledger.is_member(&founder, 50) || ledger.departed().has_resigned(&founder));
    assert!(!ledger.is_admin(&plain, 50), "nobody gave it the right");
    let counts = ledger.statements().filter(|it| ledger.counts(it));
    let by_plain = counts.filter(|it| it.statement.by == plain);
    for signed in by_plain {
        let of_itself =
            matches!(&signed.statement.claim, Claim::Expel { node, .. } if *node == plain);
        assert!(of_itself, "{signed:?} counts, of one without the right");
    }
}
