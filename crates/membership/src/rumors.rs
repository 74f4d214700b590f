//! News that spreads from member to member: heads, departures and statements.
//!
//! This module owns the newest head and departure of each node, the statements that are being
//! spread, and how often each is still sent. News is *hot* for a few rounds, and goes to some
//! random members in each. That reaches all but a tiny part of any cluster in a number of rounds
//! that grows with the logarithm of its size. A head counts and spreads only after the owner has
//! confirmed it, so an unverified head cannot replace a true one.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::config::{DEPARTURES_MAX, HEADS_MAX, STATEMENTS_SPREAD_MAX};
use super::sender_table::SenderTable;
use p2pfs_proto::wire::native::udp::{
    DatagramFrame, Departure, EncodedHead, Farewell, PAYLOAD_MAX_BYTES, Rumor,
};
use p2pfs_types::id::{Generation, NodeId};

/// Time between two rounds.
pub(super) const ROUND: Duration = Duration::from_millis(100);
/// Maximum number of members that receive news in a round.
pub(super) const ROUND_FANOUT: usize = 3;
/// Number of rounds for which a head is hot. Nine copies from each member that heard of it miss one
/// member in 8,000 by chance (e⁻⁹), and one in 1,300 if a fifth of the datagrams is lost.
const HEAD_ROUNDS: u32 = 3;
/// Number of rounds for which a departure or a statement is hot.
const DEPARTURE_ROUNDS: u32 = 4;
/// Maximum number of datagrams with news for one member in a round. The rest waits for a later
/// round.
const FRAMES_PER_ROUND: usize = 4;
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum NewsKey {
    Statement(u64),
    Departure(NodeId),
    Head(NodeId),
}

/// The known news, and the hot part of it.
pub(super) struct Rumors {
    hot: BTreeMap<NewsKey, u32>,
    /// Confirmed heads by author.
    heads: SenderTable<NodeId, EncodedHead>,
    /// Author and hash of heads that were reported and not confirmed yet. These are not reported
    /// again.
    reported: SenderTable<(NodeId, u64), ()>,
    departures: SenderTable<NodeId, Departure>,
    /// Hot statements by the hash of their bytes.
    statements: BTreeMap<u64, Bytes>,
    /// Hashes of statements that were heard recently.
    heard: SenderTable<u64, ()>,
    next_round: Option<Instant>,
}

impl Rumors {
    /// Creates an empty store.
    pub(super) fn new() -> Self {
        Self {
            hot: BTreeMap::new(),
            heads: SenderTable::new(HEADS_MAX),
            reported: SenderTable::new(HEADS_MAX),
            departures: SenderTable::new(DEPARTURES_MAX),
            statements: BTreeMap::new(),
            heard: SenderTable::new(STATEMENTS_SPREAD_MAX),
            next_round: None,
        }
    }

    /// Confirms a head. Returns false if a head of the same or a higher rank is stored.
    pub(super) fn confirm(&mut self, now: Instant, head: EncodedHead) -> bool {
        let author = head.author;
        if self.holds(&head) {
            return false;
        }
        let reported = (author, digest_of(head.rank, &head.bytes));
        let sender = self.reported.sender_of(&reported).unwrap_or(author);
        self.reported.remove_range((author, 0)..=(author, u64::MAX));
        if let Some(displaced) = self.heads.insert(sender, author, head) {
            self.hot.remove(&NewsKey::Head(displaced));
        }
        self.heat(NewsKey::Head(author), HEAD_ROUNDS, now);
        true
    }

    /// Returns whether a confirmed head of the author has the same or a higher rank.
    fn holds(&self, head: &EncodedHead) -> bool {
        let held = self.heads.get(&head.author);
        held.is_some_and(|held| held.rank >= head.rank)
    }

    /// Returns the newest confirmed head of a node, as news for others.
    pub(super) fn head(&self, author: &NodeId) -> Option<Rumor> {
        self.rumor(NewsKey::Head(*author))
    }

    /// Returns whether to report a head that `sender` sent to the owner: it is newer than the
    /// confirmed one and was not reported recently.
    pub(super) fn is_news(&mut self, sender: NodeId, head: &EncodedHead) -> bool {
        if self.holds(head) {
            let is_own = sender == head.author && self.heads.get(&sender) == Some(head);
            if is_own {
                // Otherwise a flood of the member that passed it on first could displace it.
                self.heads.attribute_to(sender, sender);
            }
            return false;
        }
        let reported = (head.author, digest_of(head.rank, &head.bytes));
        let is_new = !self.reported.contains(&reported);
        if is_new {
            self.reported.insert(sender, reported, ());
        }
        is_new
    }

    /// Returns whether a statement is not among the [`STATEMENTS_SPREAD_MAX`] remembered ones, and
    /// adds it to them.
    pub(super) fn is_unheard_statement(&mut self, sender: NodeId, bytes: &[u8]) -> bool {
        let digest = digest_of((0, 0), bytes);
        let is_new = !self.heard.contains(&digest);
        if is_new {
            self.heard.insert(sender, digest, ());
        }
        is_new
    }

    /// Spreads a statement that the owner has verified. Returns false, and does not spread it, if
    /// [`STATEMENTS_SPREAD_MAX`] statements are spreading already.
    pub(super) fn add_statement(&mut self, now: Instant, bytes: Bytes) -> bool {
        let digest = digest_of((0, 0), &bytes);
        if self.statements.len() >= STATEMENTS_SPREAD_MAX {
            return false;
        }
        self.statements.insert(digest, bytes);
        self.heat(NewsKey::Statement(digest), DEPARTURE_ROUNDS, now);
        true
    }

    /// Records a departure that `sender` sent. Returns false if it, or a later one, is known.
    pub(super) fn depart(&mut self, now: Instant, sender: NodeId, departure: Departure) -> bool {
        let Departure { who, how, .. } = departure;
        let known = self.departures.get(&who.node);
        if known.is_some_and(|known| (known.who.generation, known.how) >= (who.generation, how)) {
            return false;
        }
        if let Some(displaced) = self.departures.insert(sender, who.node, departure) {
            self.hot.remove(&NewsKey::Departure(displaced));
        }
        self.heat(NewsKey::Departure(who.node), DEPARTURE_ROUNDS, now);
        true
    }

    /// Forgets the departure of a node that lives in a later generation now.
    pub(super) fn returned(&mut self, node: &NodeId, generation: Generation) {
        if self
            .departures
            .get(node)
            .is_some_and(|departure| departure.who.generation < generation)
        {
            self.forget_departure(node);
        }
    }

    /// Returns the farewell of this life of a node, or of a later one.
    pub(super) fn farewell_of(&self, node: &NodeId, generation: Generation) -> Option<Farewell> {
        let known = self.departures.get(node);
        known
            .filter(|departure| departure.who.generation >= generation)
            .map(|departure| departure.how)
    }

    /// Returns when [`Self::round`] is due, or none if nothing is hot.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.next_round
    }

    /// Returns the frames of this round, all to be sent to the same few members.
    pub(super) fn round(&mut self, now: Instant) -> Vec<DatagramFrame> {
        if self.next_round.is_none_or(|at| now < at) {
            return Vec::new();
        }
        let mut pending: Vec<NewsKey> = self.hot.keys().copied().collect();
        // Departures and statements first, then the news that was sent least.
        pending.sort_by_key(|key| (matches!(key, NewsKey::Head(_)), Reverse(self.hot[key])));
        let rumors = pending
            .iter()
            .filter_map(|key| Some((*key, self.rumor(*key)?)));
        let (frames, told) = pack(rumors);
        told.into_iter().for_each(|key| self.cool(key));
        self.next_round = (!self.hot.is_empty()).then(|| now + ROUND);
        frames
    }

    fn heat(&mut self, key: NewsKey, rounds: u32, now: Instant) {
        self.hot.insert(key, rounds);
        self.next_round.get_or_insert(now);
    }

    fn cool(&mut self, key: NewsKey) {
        if let Some(rounds) = self.hot.get_mut(&key) {
            *rounds -= 1;
            if *rounds == 0 {
                self.hot.remove(&key);
                if let NewsKey::Statement(digest) = key {
                    self.statements.remove(&digest);
                }
            }
        }
    }

    fn rumor(&self, key: NewsKey) -> Option<Rumor> {
        match key {
            NewsKey::Statement(digest) => {
                self.statements.get(&digest).cloned().map(Rumor::Statement)
            }
            NewsKey::Head(author) => self.heads.get(&author).cloned().map(Rumor::Head),
            NewsKey::Departure(node) => self.departures.get(&node).copied().map(Rumor::Departure),
        }
    }

    fn forget_departure(&mut self, node: &NodeId) {
        self.departures.remove(node);
        self.hot.remove(&NewsKey::Departure(*node));
    }
}

/// Packs as many rumors as one round may send. Returns the frames, and the keys of the rumors in
/// them.
fn pack(rumors: impl Iterator<Item = (NewsKey, Rumor)>) -> (Vec<DatagramFrame>, Vec<NewsKey>) {
    let mut frames: Vec<Vec<Rumor>> = Vec::new();
    let mut room_bytes = 0;
    let mut told = Vec::new();
    for (key, rumor) in rumors {
        let length_bytes = postcard::to_stdvec(&rumor).map_or(usize::MAX, |bytes| bytes.len());
        if length_bytes > room_bytes {
            if frames.len() == FRAMES_PER_ROUND {
                break;
            }
            frames.push(Vec::new());
            room_bytes = PAYLOAD_MAX_BYTES;
        }
        room_bytes = room_bytes.saturating_sub(length_bytes);
        if let Some(frame) = frames.last_mut() {
            frame.push(rumor);
        }
        told.push(key);
    }
    (
        frames.into_iter().map(DatagramFrame::Rumors).collect(),
        told,
    )
}

fn digest_of(rank: (u64, u64), bytes: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&rank.0.to_le_bytes())
        .update(&rank.1.to_le_bytes())
        .update(bytes);
    let mut digest = [0; 8];
    digest.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2pfs_proto::wire::native::udp::{Contact, HEAD_MAX_BYTES};

    fn node(n: u16) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        NodeId::new(bytes)
    }

    fn contact(n: u16, generation: u64) -> Contact {
        let address = "10.0.0.1:1".parse().unwrap();
        Contact {
            node: node(n),
            address,
            generation: Generation(generation),
        }
    }

    fn head(n: u16, rank: (u64, u64), bytes: &'static [u8]) -> EncodedHead {
        EncodedHead {
            author: node(n),
            rank,
            bytes: Bytes::from_static(bytes),
        }
    }

    /// Runs rounds until nothing is hot. Returns the news of each round.
    fn rounds(rumors: &mut Rumors) -> Vec<Vec<Rumor>> {
        let mut all = Vec::new();
        while let Some(at) = rumors.poll_timeout() {
            let frames = rumors.round(at);
            assert!(frames.len() <= FRAMES_PER_ROUND);
            all.push(
                frames
                    .into_iter()
                    .flat_map(|frame| match frame {
                        DatagramFrame::Rumors(rumors) => rumors,
                        other => panic!("{other:?}"),
                    })
                    .collect(),
            );
        }
        all
    }

    #[test]
    fn only_the_newest_head_of_an_author_is_sent() {
        let mut rumors = Rumors::new();
        let now = Instant::now();
        assert!(rumors.confirm(now, head(1, (1, 5), b"old")));
        assert!(rumors.confirm(now, head(1, (2, 0), b"new")));
        assert!(!rumors.confirm(now, head(1, (1, 9), b"older epoch")));
        let told = rounds(&mut rumors);
        assert_eq!(told.len(), HEAD_ROUNDS as usize);
        assert!(told.iter().all(|round| round.len() == 1));
        assert!(matches!(&told[0][0], Rumor::Head(head) if head.bytes == "new"));
    }

    #[test]
    fn an_unconfirmed_head_is_reported_once_and_displaces_no_true_one() {
        let mut rumors = Rumors::new();
        assert!(rumors.is_news(node(99), &head(1, (u64::MAX, 0), b"forged")));
        assert!(!rumors.is_news(node(99), &head(1, (u64::MAX, 0), b"forged")));
        assert!(rumors.is_news(node(99), &head(1, (1, 1), b"true")));
        assert!(rumors.confirm(Instant::now(), head(1, (1, 1), b"true")));
        assert!(!rumors.is_news(node(99), &head(1, (1, 1), b"true")));
        assert!(rumors.is_news(node(99), &head(1, (1, 2), b"next")));
    }

    #[test]
    fn a_storm_of_heads_is_sent_completely_within_its_datagrams_for_each_round() {
        let mut rumors = Rumors::new();
        let now = Instant::now();
        for n in 0..500 {
            let bytes = vec![7; HEAD_MAX_BYTES].into();
            rumors.confirm(
                now,
                EncodedHead {
                    bytes,
                    ..head(n, (1, 1), b"")
                },
            );
        }
        let told = rounds(&mut rumors);
        let times = |n| {
            told.iter()
                .flatten()
                .filter(|r| matches!(r, Rumor::Head(head) if head.author == node(n)))
                .count()
        };
        assert!((0..500).all(|n| times(n) == HEAD_ROUNDS as usize));
    }

    fn departure(n: u16, generation: u64, how: Farewell) -> Departure {
        Departure {
            who: contact(n, generation),
            how,
            signature: [[0; 32]; 2],
        }
    }

    #[test]
    fn a_departure_counts_once_for_each_generation_and_ends_with_a_return() {
        let mut rumors = Rumors::new();
        let now = Instant::now();
        assert!(rumors.depart(now, node(99), departure(1, 4, Farewell::Away)));
        assert!(!rumors.depart(now, node(99), departure(1, 4, Farewell::Away)));
        assert!(
            !rumors.depart(now, node(99), departure(1, 3, Farewell::Final)),
            "of a life before"
        );
        assert!(rumors.depart(now, node(99), departure(1, 4, Farewell::Final)));
        rumors.returned(&node(1), Generation(4));
        assert!(!rumors.depart(now, node(99), departure(1, 4, Farewell::Final)));
        rumors.returned(&node(1), Generation(5));
        assert!(rounds(&mut rumors).iter().all(Vec::is_empty));
    }

    #[test]
    fn remembered_rumors_are_bounded() {
        let mut rumors = Rumors::new();
        let now = Instant::now();
        for n in 0..(HEADS_MAX + DEPARTURES_MAX) as u16 {
            rumors.is_news(node(99), &head(n, (1, 1), b"x"));
            rumors.confirm(now, head(n, (1, 1), b"x"));
            rumors.is_news(node(99), &head(n, (1, 2), b"y"));
            rumors.depart(now, node(99), departure(n, 1, Farewell::Away));
        }
        assert_eq!(
            (rumors.heads.len(), rumors.departures.len()),
            (HEADS_MAX, DEPARTURES_MAX)
        );
        assert!(rumors.reported.len() <= HEADS_MAX);
        assert!(rumors.hot.len() <= HEADS_MAX + DEPARTURES_MAX);
    }

    #[test]
    fn concurrently_spread_statements_are_bounded() {
        let (mut rumors, now) = (Rumors::new(), Instant::now());
        let bytes = |n: usize| Bytes::copy_from_slice(&n.to_be_bytes());
        for n in 0..STATEMENTS_SPREAD_MAX {
            assert!(rumors.is_unheard_statement(node(99), &bytes(n)));
            assert!(rumors.add_statement(now, bytes(n)));
        }
        assert!(
            !rumors.is_unheard_statement(node(99), &bytes(0)),
            "heard of lately"
        );
        assert!(!rumors.add_statement(now, bytes(STATEMENTS_SPREAD_MAX)));
        assert_eq!(rumors.statements.len(), STATEMENTS_SPREAD_MAX);
        assert!(rumors.is_unheard_statement(node(99), &bytes(STATEMENTS_SPREAD_MAX)));
        assert_eq!(rumors.heard.len(), STATEMENTS_SPREAD_MAX);
        assert!(
            rumors.is_unheard_statement(node(99), &bytes(0)),
            "the oldest is forgotten"
        );
        while let Some(at) = rumors.poll_timeout() {
            rumors.round(at);
        }
        assert!(
            rumors.add_statement(now, bytes(STATEMENTS_SPREAD_MAX)),
            "once there is room"
        );
    }

    #[test]
    fn a_flood_of_one_member_displaces_no_news_that_others_sent() {
        let (mut rumors, now) = (Rumors::new(), Instant::now());
        let (honest, liar) = (node(1), node(2));
        let tell = |rumors: &mut Rumors, sender, author| {
            let told = head(author, (1, 1), b"x");
            rumors.is_news(sender, &told) && rumors.confirm(now, told)
        };
        assert!(tell(&mut rumors, honest, 3));
        rumors.is_news(honest, &head(4, (1, 1), b"not confirmed"));
        rumors.depart(now, honest, departure(3, 1, Farewell::Away));
        rumors.is_unheard_statement(honest, b"true");
        // The liar passes this head on before its author does.
        assert!(tell(&mut rumors, liar, 5));
        assert!(!rumors.is_news(node(5), &head(5, (1, 1), b"x")));
        for author in 100..100 + 2 * HEADS_MAX as u16 {
            assert!(tell(&mut rumors, liar, author));
            rumors.is_news(liar, &head(author, (1, 2), b"not confirmed"));
            rumors.depart(now, liar, departure(author, 1, Farewell::Away));
            rumors.is_unheard_statement(liar, &author.to_be_bytes());
        }
        assert!(rumors.head(&node(3)).is_some() && rumors.head(&node(5)).is_some());
        assert!(!rumors.is_news(honest, &head(4, (1, 1), b"not confirmed")));
        assert!(rumors.farewell_of(&node(3), Generation(1)).is_some());
        assert!(!rumors.is_unheard_statement(honest, b"true"));
    }
}
