//! Random clusters whose bad administrators are expelled or leave. No statement that these nodes
//! sign, hold back, fork or date back has an effect once the founder has rotated the secret.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use arbitrary::{Result, Unstructured};
use p2pfs_proto::trust::{Claim, Ledger, NodeKey, SignedStatement, Statement, StatementId};
use p2pfs_types::id::{EpochId, NodeId, NodeName};

const FOUNDER: usize = 0;
const HONEST_ADMIN: usize = 1;
const HONEST_MEMBER: usize = 2;
const BAD_ADMIN: usize = 3;
const HELPER_ADMIN: usize = 4;
const HELPER: usize = 5;
/// First key that no honest node ever admitted.
const MADE_UP: usize = 6;
const NODES: usize = 9;
/// Maximum number of rounds that expel all bad nodes and all nodes that they admitted.
const EXPELLING_ROUNDS_MAX: usize = 12;
/// Number of exchanges after which two ledgers must agree.
const MEETINGS: usize = 4;
const BEFORE_MAX: usize = 10;
const AFTER_MAX: usize = 25;

static KEYS: LazyLock<Vec<NodeKey>> = LazyLock::new(|| {
    let seeds = (1u8..).take(NODES);
    seeds.map(|seed| NodeKey::from_seed(&[seed; 32])).collect()
});
static IDS: LazyLock<Vec<NodeId>> = LazyLock::new(|| KEYS.iter().map(NodeKey::node_id).collect());

fn name(of: usize) -> NodeName {
    NodeName::new(format!("n{of}")).expect("a name")
}

/// The effect of a ledger's statements: members, newest secret, owners.
type Outcome = (
    Vec<(NodeId, bool, u32)>,
    Option<EpochId>,
    Vec<(Vec<u8>, NodeId)>,
);

fn outcome(ledger: &Ledger, at_s: u64) -> Outcome {
    let members = ledger.members();
    let members = members.filter(|it| ledger.is_member(&it.node, at_s));
    let owners = ledger.owners();
    (
        members.map(|it| (it.node, it.admin, it.term)).collect(),
        ledger.epoch(),
        owners.map(|(path, node)| (path.to_vec(), node)).collect(),
    )
}

struct Cluster {
    ledger: Ledger,
    at_s: u64,
    /// Statements that a hostile statement may refer to, shown or not.
    signed: Vec<StatementId>,
}

impl Cluster {
    fn found(choose: &mut Unstructured<'_>) -> Result<Self> {
        let at_s = 1_000_000;
        let ledger = Ledger::found(&KEYS[FOUNDER], name(FOUNDER), at_s);
        let mut cluster = Self {
            ledger,
            at_s,
            signed: Vec::new(),
        };
        let mut admins = [HONEST_ADMIN, BAD_ADMIN];
        if choose.arbitrary()? {
            admins.reverse();
        }
        for admin in admins {
            cluster.admit(FOUNDER, admin, true);
        }
        let by = *choose.choose(&[FOUNDER, HONEST_ADMIN])?;
        cluster.admit(by, HONEST_MEMBER, false);
        cluster.admit(BAD_ADMIN, HELPER_ADMIN, true);
        let by = *choose.choose(&[BAD_ADMIN, HELPER_ADMIN])?;
        cluster.admit(by, HELPER, false);
        cluster.settle(1);
        let known = cluster.ledger.statements().map(SignedStatement::id);
        cluster.signed = known.collect();
        Ok(cluster)
    }

    fn tick(&mut self) -> u64 {
        self.at_s += 5;
        self.at_s
    }

    fn admit(&mut self, by: usize, node: usize, admin: bool) {
        let at_s = self.tick();
        let _refused = self
            .ledger
            .signer(&KEYS[by], at_s)
            .admit(IDS[node], name(node), admin);
    }

    /// Lets the founder rotate the secret and give the honest member its path.
    fn settle(&mut self, epoch: u8) {
        let at_s = self.tick();
        let rotated = self
            .ledger
            .signer(&KEYS[FOUNDER], at_s)
            .rotate(EpochId([epoch; 8]));
        rotated.expect("the founder rotates");
        // A bad administrator may have used up all memberships that this key can have.
        let member = IDS[HONEST_MEMBER];
        let owner = self.ledger.certificate(&member).map(|it| it.node);
        let owned = self
            .ledger
            .signer(&KEYS[FOUNDER], at_s)
            .own(b"docs".to_vec(), owner);
        owned.expect("the founder gives a path away");
    }

    /// Returns a statement that only a hostile program signs.
    fn hostile(&self, choose: &mut Unstructured<'_>) -> Result<SignedStatement> {
        let by = choose.int_in_range(BAD_ADMIN..=NODES - 1)?;
        let node = match choose.int_in_range(0..=3u8)? {
            0 => IDS[choose.int_in_range(FOUNDER..=HONEST_MEMBER)?],
            1 => IDS[by],
            _ => IDS[choose.int_in_range(BAD_ADMIN..=NODES - 1)?],
        };
        let term = *choose.choose(&[1, 1, 2, 2, 3, 0, u32::MAX])?;
        let numbers = [1, 2, 3, 4, 0, u64::MAX];
        let claim = match choose.int_in_range(0..=9u8)? {
            0..=2 => Claim::Admit {
                node,
                name: name(NODES),
                admin: choose.arbitrary()?,
                until_s: *choose.choose(&[None, None, Some(1), Some(u64::MAX)])?,
                term,
            },
            3..=5 => Claim::Expel {
                node,
                term,
                stands: self.named(choose)?,
            },
            6..=7 => Claim::Expel {
                node: IDS[by],
                term,
                stands: self.named(choose)?,
            },
            8 => Claim::Rotate {
                epoch: EpochId([choose.arbitrary()?; 8]),
                number: *choose.choose(&numbers)?,
            },
            _ => Claim::Own {
                path: b"docs".to_vec(),
                node: choose.arbitrary::<bool>()?.then_some(node),
                term,
                number: *choose.choose(&numbers)?,
            },
        };
        let at_s = self.at_s;
        let statement = Statement {
            cluster: self.ledger.cluster(),
            by: IDS[by],
            by_term: *choose.choose(&[1, 1, 2, 2, 3, 0, u32::MAX])?,
            at_s: *choose.choose(&[at_s, at_s + 1, at_s - 100, 0, u64::MAX])?,
            before: self.named(choose)?,
            claim,
        };
        Ok(statement.sign(&KEYS[by]))
    }

    fn named(&self, choose: &mut Unstructured<'_>) -> Result<Option<StatementId>> {
        Ok(match choose.int_in_range(0..=6u8)? {
            0 => None,
            1 => Some(StatementId(*b"0123456789abcdef")),
            2..=3 => self.signed.last().copied(),
            _ => Some(*choose.choose(&self.signed)?),
        })
    }

    /// Does one step before the end of the bad nodes.
    fn step(
        &mut self,
        choose: &mut Unstructured<'_>,
        hidden: &mut Vec<SignedStatement>,
    ) -> Result<()> {
        let at_s = self.tick();
        let node = choose.int_in_range(HONEST_ADMIN..=NODES - 1)?;
        match choose.int_in_range(0..=9u8)? {
            0..=4 => {
                let signed = self.hostile(choose)?;
                self.signed.push(signed.id());
                if choose.arbitrary()? {
                    self.ledger.merge([signed]);
                } else {
                    hidden.push(signed);
                }
            }
            // The node leaves as with `p2pfs leave`.
            5..=6 => drop(self.ledger.signer(&KEYS[node], at_s).expel(IDS[node])),
            7 => {
                let by = *choose.choose(&[FOUNDER, HONEST_ADMIN])?;
                drop(self.ledger.signer(&KEYS[by], at_s).expel(IDS[node]));
            }
            _ => self.admit(FOUNDER, node, node < HELPER),
        }
        Ok(())
    }

    /// Ends all memberships of bad nodes: each leaves by itself or is expelled.
    fn end_bad_nodes(&mut self, choose: &mut Unstructured<'_>) -> Result<()> {
        let by = *choose.choose(&[FOUNDER, FOUNDER, HONEST_ADMIN])?;
        for round in 0..EXPELLING_ROUNDS_MAX {
            let members: BTreeSet<_> = self.ledger.members().map(|it| it.node).collect();
            let bad = (BAD_ADMIN..NODES).filter(|node| members.contains(&IDS[*node]));
            for node in bad {
                let (at_s, id) = (self.tick(), IDS[node]);
                let ended = match choose.int_in_range(0..=3u8)? {
                    0..=1 if round == 0 => self.ledger.signer(&KEYS[node], at_s).expel(id),
                    2 if round == 0 => self.ledger.signer(&KEYS[by], at_s).expel(id),
                    _ => self.ledger.signer(&KEYS[by], at_s).expel_with_admitted(id),
                };
                if ended.is_err() && self.ledger.certificate(&id).is_some() {
                    let ended = self
                        .ledger
                        .signer(&KEYS[FOUNDER], at_s)
                        .expel_with_admitted(id);
                    ended.expect("the founder expels any member");
                }
            }
        }
        // The bad nodes may have expelled honest nodes while they could.
        for node in [HONEST_ADMIN, HONEST_MEMBER] {
            if self.ledger.certificate(&IDS[node]).is_none() {
                self.admit(FOUNDER, node, node == HONEST_ADMIN);
            }
        }
        let member = |it: &p2pfs_proto::trust::Certificate| it.node;
        let bad = self.ledger.members().map(member);
        let bad: Vec<_> = bad.filter(|it| IDS[BAD_ADMIN..].contains(it)).collect();
        assert!(bad.is_empty(), "still members: {bad:?}");
        Ok(())
    }
}

/// Lets bad nodes act and ends them. Then they show the statements that they held back, and sign
/// more.
pub fn drive(choose: &mut Unstructured<'_>) -> Result<()> {
    const { assert!(MADE_UP > HELPER) };
    let mut cluster = Cluster::found(choose)?;
    let mut hidden = Vec::new();
    for _ in 0..choose.int_in_range(0..=BEFORE_MAX)? {
        cluster.step(choose, &mut hidden)?;
    }
    cluster.end_bad_nodes(choose)?;
    cluster.settle(2);
    let (ended, at_s) = (cluster.ledger.clone(), cluster.at_s);
    let then = outcome(&ended, at_s);
    let mut shown = hidden;
    for _ in 0..choose.int_in_range(0..=AFTER_MAX)? {
        let signed = cluster.hostile(choose)?;
        cluster.signed.push(signed.id());
        shown.push(signed);
    }
    for last in (1..shown.len()).rev() {
        shown.swap(last, choose.int_in_range(0..=last)?);
    }
    let (mut one, mut other) = (ended.clone(), ended);
    for part in shown.chunks(3) {
        one.merge(part.iter().cloned());
        let now = outcome(&one, at_s);
        assert_eq!(now, then, "changed by statements of nodes that are out");
    }
    other.merge(shown.into_iter().rev());
    for _ in 0..MEETINGS {
        let said: Vec<_> = other.statements().cloned().collect();
        one.merge(said);
        let said: Vec<_> = one.statements().cloned().collect();
        other.merge(said);
    }
    assert_eq!(outcome(&one, at_s), then);
    assert_eq!(outcome(&other, at_s), then);
    let agree = one.digest() == other.digest();
    assert!(
        agree,
        "two ledgers that exchanged all their statements differ"
    );
    Ok(())
}
