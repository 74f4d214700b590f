//! Tests of a keyring whose disk answers late, or not before a crash.

use std::sync::mpsc::{Receiver, channel};

use super::*;

/// A node whose disk answers when the test says so.
struct Node {
    keyring: Keyring,
    key: u8,
    /// What the disk has.
    disk: StoredTrust,
    /// The write under way.
    write: Option<TrustWrite>,
    spread: Vec<SignedStatement>,
    /// Number of writes so far.
    writes: usize,
}

impl Node {
    /// Returns the founder of a cluster.
    fn founder(n: u8) -> Self {
        let stored = StoredTrust {
            secret: EpochSecret::random(),
            ledger: Ledger::found(&key(n), name(n), 100),
            former_names: BTreeSet::new(),
        };
        Self::start(n, stored)
    }

    fn start(n: u8, disk: StoredTrust) -> Self {
        let mut node = Self {
            keyring: Keyring::stored(Arc::new(key(n)), disk.clone(), 100),
            key: n,
            disk,
            write: None,
            spread: Vec::new(),
            writes: 0,
        };
        node.settle();
        node
    }

    fn settle(&mut self) {
        while let Some(action) = self.keyring.poll_action() {
            match action {
                TrustAction::Store(write) => {
                    assert!(self.write.is_none(), "one write at a time");
                    self.write = Some(write);
                    self.writes += 1;
                }
                TrustAction::Spread(statement) => self.spread.push(statement),
                TrustAction::Enforce => {}
                TrustAction::Answer(answer) => answer(),
            }
        }
    }

    /// Carries out the write under way.
    fn store(&mut self) {
        let write = self.write.take().expect("a write is under way");
        self.disk.secret = write.secret.unwrap_or(self.disk.secret.clone());
        self.disk.ledger = write.ledger.unwrap_or(self.disk.ledger.clone());
        self.keyring.finish_write(Ok(()));
        self.settle();
    }

    /// Refuses the write under way.
    fn refuse(&mut self) {
        let _write = self.write.take().expect("a write is under way");
        self.keyring.finish_write(Err(TrustError::StandsStill));
        self.settle();
    }

    /// Ends the process and starts it again.
    fn crash(self) -> Self {
        Self::start(self.key, self.disk)
    }

    fn state(
        &mut self,
        claims: impl Fn(&mut LedgerSigner<'_>) -> Result<Vec<SignedStatement>, TrustError>
        + Send
        + 'static,
    ) -> Receiver<Result<(), TrustError>> {
        let (sender, answer) = channel();
        let reply: Reply<Result<(), TrustError>> = Box::new(move |it| sender.send(it).unwrap());
        let claims = Box::new(claims);
        self.keyring.command(TrustCommand::State { claims, reply });
        self.settle();
        answer
    }

    fn admit(&mut self, n: u8, is_admin: bool) -> Receiver<Result<(), TrustError>> {
        self.state(move |it| it.admit(key(n).node_id(), name(n), is_admin))
    }

    fn is_member(&self, n: u8) -> bool {
        self.keyring.view().is_member(&key(n).node_id())
    }

    /// Takes in statements as gossip brings them.
    fn hear(&mut self, statements: &[SignedStatement]) {
        for statement in statements {
            assert_eq!(self.keyring.receive_news(&statement.encode()), None);
        }
        self.settle();
    }

    /// Asks another node as the exchange does.
    fn ask(&mut self, other: &mut Self) {
        for all in [false, true] {
            let question = self.keyring.view().question(all);
            let (answer, fault) = other.keyring.answer(&question);
            assert_eq!(fault, None);
            self.keyring.receive_answer(&answer.unwrap());
        }
        self.settle();
        other.settle();
    }
}

/// Returns the founder and an administrator that it admitted, with all stored.
fn pair() -> (Node, Node) {
    let mut one = Node::founder(1);
    let _answer = one.admit(2, true);
    one.store();
    let stored = StoredTrust {
        ledger: one.disk.ledger.clone(),
        secret: one.disk.secret.clone(),
        former_names: BTreeSet::new(),
    };
    (one, Node::start(2, stored))
}

#[test]
fn own_statement_counts_and_spreads_only_once_it_is_stored() {
    let (mut one, _) = pair();
    one.spread.clear();
    let answer = one.admit(3, false);
    for _ in 0..2 {
        assert!(answer.try_recv().is_err() && one.spread.is_empty());
        assert!(!one.is_member(3), "no reader sees it");
        // time alone changes nothing
        one.keyring.tick(1000);
        one.settle();
    }
    one.store();
    assert!(answer.try_recv().unwrap().is_ok() && one.is_member(3));
    assert_eq!(one.spread.len(), 1);
}

#[test]
fn own_statement_lost_by_a_crash_was_seen_by_no_other_node() {
    let (mut one, mut two) = pair();
    one.spread.clear();
    let answer = one.state(|it| it.expel(key(2).node_id()));
    two.ask(&mut one);
    let mut one = one.crash();
    two.ask(&mut one);
    assert!(answer.try_recv().is_err() && one.is_member(2) && two.is_member(2));
    // The next statement continues the same chain, and all nodes agree.
    let _answer = one.admit(4, false);
    one.store();
    two.ask(&mut one);
    assert!(one.is_member(4) && two.is_member(4));
}

#[test]
fn own_statement_stored_before_a_crash_reaches_the_others_at_the_next_start() {
    let (mut one, mut two) = pair();
    let _answer = one.admit(3, false);
    // The crash comes before the result of the write.
    one.disk.ledger = one.write.take().unwrap().ledger.unwrap();
    let mut one = one.crash();
    assert!(one.is_member(3) && one.spread.is_empty());
    two.ask(&mut one);
    assert!(two.is_member(3));
}

#[test]
fn received_statement_counts_and_is_passed_on_while_the_disk_hangs() {
    let (mut one, mut two) = pair();
    let _answer = one.admit(3, false);
    one.store();
    two.hear(&one.spread);
    assert!(two.is_member(3) && two.write.is_some(), "the disk hangs");
    one.spread.clear();
    let _answer = one.state(|it| it.expel(key(3).node_id()));
    one.store();
    let before = two.spread.len();
    two.hear(&one.spread);
    assert!(!two.is_member(3), "it is out at once");
    assert_eq!(two.spread.len(), before + 1);
    let (question, all) = (two.keyring.view().question(false), one.keyring.view());
    assert_eq!(question, all.question(false), "it tells what it knows");
    two.store();
    two.store();
    assert_eq!(two.disk.ledger.digest(), one.disk.ledger.digest());
    assert!(two.write.is_none());
}

#[test]
fn many_statements_received_during_one_write_are_stored_in_one() {
    let (mut one, mut two) = pair();
    one.spread.clear();
    for n in 10..60 {
        let _answer = one.admit(n, false);
        one.store();
    }
    two.hear(&one.spread);
    assert_eq!(two.writes, 1);
    two.store();
    two.store();
    assert_eq!((two.writes, two.write.is_none()), (2, true));
    assert_eq!(two.disk.ledger.digest(), one.disk.ledger.digest());
}

#[test]
fn statements_received_during_a_write_are_not_lost() {
    let (mut one, mut two) = pair();
    two.spread.clear();
    let _answer = two.admit(3, false);
    two.store();
    let answer = one.admit(4, false);
    one.hear(&two.spread);
    assert!(one.is_member(3) && !one.is_member(4));
    one.store();
    assert!(answer.try_recv().unwrap().is_ok());
    assert!(one.is_member(3) && one.is_member(4));
    one.store();
    let one = one.crash();
    assert!(one.is_member(3) && one.is_member(4));
}

#[test]
fn commands_take_effect_one_after_the_other() {
    let (mut one, _) = pair();
    let first = one.admit(3, false);
    let second = one.state(|it| it.expel(key(3).node_id()));
    let third = one.state(|it| it.expel(key(3).node_id()));
    one.store();
    assert!(first.try_recv().unwrap().is_ok() && second.try_recv().is_err());
    assert!(one.is_member(3));
    one.store();
    assert!(second.try_recv().unwrap().is_ok() && !one.is_member(3));
    assert!(matches!(
        third.try_recv().unwrap(),
        Err(TrustError::NoMember)
    ));
    assert!(one.write.is_none());
}

#[test]
fn a_refused_write_of_received_statements_is_repeated_later() {
    let (mut one, mut two) = pair();
    let _answer = one.admit(3, false);
    one.store();
    two.hear(&one.spread);
    two.refuse();
    assert!(two.is_member(3) && two.write.is_none());
    two.keyring.tick(100 + RETRY_AFTER_S - 1);
    two.settle();
    assert!(two.write.is_none());
    two.keyring.tick(100 + RETRY_AFTER_S);
    two.settle();
    two.store();
    assert_eq!(two.disk.ledger.digest(), one.disk.ledger.digest());
}

#[test]
fn waiting_commands_are_bounded() {
    let (mut one, _) = pair();
    let first = one.admit(3, false);
    let waiting: Vec<_> = (0..WAITING_MAX).map(|_| one.admit(3, false)).collect();
    let refused = one.admit(3, false).try_recv().unwrap();
    assert!(matches!(refused, Err(TrustError::StandsStill)));
    assert!(first.try_recv().is_err() && waiting.iter().all(|it| it.try_recv().is_err()));
}

#[test]
fn a_join_takes_effect_once_it_is_stored() {
    let (mut one, mut joiner) = (Node::founder(1), Node::founder(5));
    let _answer = one.admit(5, false);
    one.store();
    let (sender, answer) = channel();
    joiner.keyring.command(TrustCommand::Join {
        secret: one.disk.secret.clone(),
        chain: one.keyring.view().certificates_of(&key(5).node_id()),
        given: BTreeSet::new(),
        reply: Box::new(move |it| sender.send(it).unwrap()),
    });
    joiner.settle();
    assert!(answer.try_recv().is_err() && !joiner.is_member(1));
    joiner.store();
    assert!(answer.try_recv().unwrap().is_ok() && joiner.is_member(1));
    let joiner = joiner.crash();
    assert!(joiner.is_member(1) && joiner.is_member(5));
}
