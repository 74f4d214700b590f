//! The whole cluster as its owner uses it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::ClusterError;
use super::config::ClusterConfig;
use super::copies::Spoken;
use super::counters::Counters;
use super::event::{
    DownReason, Event, Leave, Member, MemberState, MemberStatus, Offence, Transmit,
};
use super::farewell::{Absences, OngoingFarewell};
use super::links::Arrival;
use super::lives::NodeLives;
use super::push_pull::PushPullSchedule;
use super::roster::RosterChange;
use super::seeds::SeedSchedule;
use super::spread::Spreading;
use super::vouch::Vouchers;
use p2pfs_proto::trust::{NodeKey, TrustReader};
use p2pfs_proto::wire::canonical;
use p2pfs_proto::wire::native::udp::{
    DatagramFrame, Departure, EncodedHead, Farewell, HEAD_MAX_BYTES, PAYLOAD_MAX_BYTES, Rumor,
    STATEMENT_MAX_BYTES, Salt,
};
use p2pfs_types::id::{Generation, NodeId};

// Gossip carries every statement that a member may sign.
const _: () = assert!(STATEMENT_MAX_BYTES == p2pfs_proto::trust::STATEMENT_MAX_BYTES);

/// State of this node in the cluster.
pub struct Cluster {
    pub(super) lives: NodeLives,
    seeds: SeedSchedule,
    pub(super) spreading: Spreading,
    absences: Absences,
    /// The farewell of this node, once it leaves.
    leaving: Option<OngoingFarewell>,
    push_pulls: PushPullSchedule,
}

impl Cluster {
    /// Creates a node that knows no other node. Its first greetings are due at once.
    ///
    /// `advertised` is the address at which members reach this node. If its IP address is
    /// unspecified, the one at which the first peer reached this node replaces it. `generation`
    /// should be higher than at any earlier start. The wall clock in seconds suffices, even if it
    /// went back: members report a later life of this node, and this node then continues with the
    /// next generation.
    ///
    /// `seed` determines all randomness, including the salt and the secret keys. A repeated salt
    /// would break the encryption. In production the seed must come from the operating system's
    /// generator, and must be neither stored nor used again. The node and the generation are mixed
    /// in, so tests may give all nodes one seed.
    pub fn new(
        config: ClusterConfig,
        key: Arc<NodeKey>,
        advertised: SocketAddr,
        generation: Generation,
        trust: TrustReader,
        seed: u64,
        now: Instant,
    ) -> Self {
        let me = Member {
            node: key.node_id(),
            address: canonical(advertised),
            generation,
        };
        let rng = StdRng::from_seed(mixed(seed, me.node, generation));
        Self {
            lives: NodeLives::new(&config, key, me, trust, rng, now),
            seeds: SeedSchedule::new(&config.seeds, config.announce_period, now),
            spreading: Spreading::new(now),
            absences: Absences::new(config.away_grace),
            leaving: None,
            push_pulls: PushPullSchedule::new(config.push_pull_period),
        }
    }

    /// Returns this node as it presents itself now.
    pub fn me(&self) -> Member {
        self.lives.links.process.me()
    }

    /// Handles a datagram from `from`. Counts it if it is invalid.
    pub fn handle_message(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        for arrival in self.lives.links.handle_datagram(now, from, datagram) {
            match arrival {
                Arrival::Proven(peer) => {
                    let is_leaving = self.leaving.is_some();
                    let elsewhere = self.lives.handle_introduction(now, &peer, is_leaving);
                    if let Some(address) = elsewhere
                        && self.seeds.take_trial(now)
                    {
                        self.lives.links.greet(now, address);
                    }
                }
                Arrival::Frame {
                    from,
                    salt,
                    address,
                    frame,
                } => self.receive_frame(now, from, salt, address, frame),
            }
            self.settle(now);
        }
        self.settle(now);
    }

    /// Performs the actions that are due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.lives.links.handle_timeout(now);
        if let Some(farewell) = &mut self.leaving {
            farewell.send_due(now, &mut self.lives);
            return;
        }
        self.lives.roster.handle_timeout(now);
        self.settle(now);
        self.seeds.handle_timeout(now, &mut self.lives);
        self.spreading.send_due(now, &mut self.lives);
        let ended = self.absences.end_due(now);
        self.lives.events.extend(ended);
        self.lives.review_copies(now);
        self.push_pulls.handle_timeout(now, &mut self.lives);
        self.lives.renew_mappings(now);
        self.settle(now);
    }

    /// Returns the next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.lives.links.poll_transmit()
    }

    /// Returns the next event for the owner.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.lives.events.pop_front()
    }

    /// Returns when [`Self::handle_timeout`] is due next, or none after the farewell.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if let Some(leaving) = &self.leaving {
            return leaving.next;
        }
        let parts = [
            self.lives.roster.poll_timeout(),
            self.lives.poll_timeout(),
            self.spreading.poll_timeout(),
            self.absences.poll_timeout(),
            self.push_pulls.poll_timeout(),
        ];
        let links = self.lives.links.poll_timeout();
        let always = links.min(self.seeds.poll_timeout());
        Some(parts.into_iter().flatten().fold(always, Instant::min))
    }

    /// Remembers an address to join through. If it is new, the next greetings are due at once.
    pub fn add_seed(&mut self, now: Instant, address: SocketAddr) {
        self.seeds.add(address, now);
    }

    /// Follows a hint that a member may be at `address`, such as an announcement on the LAN: greets
    /// `address`. Ignores the hint if a living member was recently heard there, and beyond the
    /// limits on hints.
    pub fn hint(&mut self, now: Instant, address: SocketAddr) {
        let is_known = self.lives.is_met(now, address);
        if !is_known && self.leaving.is_none() && self.seeds.accept_hint(address, now) {
            self.lives.approach(now, address);
            self.settle(now);
        }
    }

    /// Changes the address at which others reach this node.
    pub fn move_to(&mut self, now: Instant, address: SocketAddr) {
        if self.leaving.is_none() && self.me().address != address {
            self.lives.roster.move_to(now, address);
            self.settle(now);
            // This node is probably in another network now, where seeds may answer.
            self.seeds.start_over(now);
        }
    }

    /// Sets the wall clock in seconds since 1970; `None` if it is unknown. A life with a generation
    /// more than [`super::GENERATION_AHEAD_MAX_S`] above the clock is refused. If this node's own
    /// life is, because the clock was wrong when it began, the node continues with a life of now.
    pub fn set_clock(&mut self, now: Instant, unix_s: Option<u64>) {
        self.lives.admission.vouchers.set_clock(unix_s);
        let Some(unix_s) = unix_s.filter(|_| self.leaving.is_none()) else {
            return;
        };
        if (self.lives.roster).correct_generation(now, Generation(unix_s)) {
            self.settle(now);
            // Members that refused this node may have stopped greeting it.
            self.seeds.start_over(now);
        }
    }

    /// Sends the farewell at once and, while there are living members, twice more, 60 ms apart.
    /// [`Event::Left`] follows the last transmission. Membership packets and rumors of other nodes
    /// are ignored from now on.
    pub fn leave(&mut self, now: Instant, how: Leave) {
        if self.leaving.is_none() {
            let farewell = self.leaving.insert(OngoingFarewell::new(now, how));
            farewell.send_due(now, &mut self.lives);
        }
    }

    /// Sends one message to one member, with the guarantees of UDP.
    ///
    /// # Errors
    /// [`ClusterError::NotAMember`], [`ClusterError::MessageTooLong`].
    pub fn send(&mut self, now: Instant, to: NodeId, body: Bytes) -> Result<(), ClusterError> {
        let member = self.lives.roster.live().get(&to);
        let member = member.ok_or(ClusterError::NotAMember)?;
        fits(&body)?;
        self.lives
            .links
            .send_to(now, member, DatagramFrame::Message(body));
        Ok(())
    }

    /// Sends a frame unchecked, whatever its content. For tests with a malicious member.
    #[cfg(feature = "test-support")]
    pub fn send_unchecked(&mut self, now: Instant, to: SocketAddr, frame: DatagramFrame) {
        self.lives.links.send(now, to, frame);
    }

    /// Sends one message to every member of a small cluster (up to about 64), otherwise to some
    /// random ones. Returns the number of members to which the message was queued. A token bucket
    /// limits the rate; beyond it fewer members are reached.
    ///
    /// # Errors
    /// [`ClusterError::MessageTooLong`].
    pub fn broadcast(&mut self, now: Instant, body: Bytes) -> Result<usize, ClusterError> {
        fits(&body)?;
        Ok(self.spreading.broadcast(now, &body, &mut self.lives))
    }

    /// Records which member sent a head of `author` other than by gossip. Call it before
    /// [`Self::set_head`] for that head.
    pub fn record_head_sender(
        &mut self,
        sender: NodeId,
        author: NodeId,
        rank: (u64, u64),
        bytes: Bytes,
    ) {
        let head = EncodedHead {
            author,
            rank,
            bytes,
        };
        let _is_news = self.spreading.rumors.is_news(sender, &head);
    }

    /// Makes `bytes` the newest head of `author` and spreads it. Returns false if a head of the
    /// same or a higher rank is stored. The signature of another author's head ([`Event::Head`])
    /// must have been verified.
    ///
    /// # Errors
    /// [`ClusterError::HeadTooLong`].
    pub fn set_head(
        &mut self,
        now: Instant,
        author: NodeId,
        rank: (u64, u64),
        bytes: Bytes,
    ) -> Result<bool, ClusterError> {
        let length_bytes = bytes.len();
        if length_bytes > HEAD_MAX_BYTES {
            return Err(ClusterError::HeadTooLong { length_bytes });
        }
        let head = EncodedHead {
            author,
            rank,
            bytes,
        };
        if !self.spreading.rumors.confirm(now, head) {
            return Ok(false);
        }
        if author == self.me().node {
            self.spreading.schedule_own_head(now);
        }
        if self.leaving.is_none() {
            self.spreading.send_due(now, &mut self.lives);
        }
        Ok(true)
    }

    /// Spreads a membership statement that the owner has verified or made. Ignores it if it is too
    /// long, or if too many are spreading already.
    pub fn spread_statement(&mut self, now: Instant, bytes: Bytes) {
        if bytes.len() <= STATEMENT_MAX_BYTES && self.spreading.rumors.add_statement(now, bytes) {
            self.spreading.send_due(now, &mut self.lives);
        }
    }

    /// Returns the living members besides this node, in the order of node ids, each with the
    /// address at which this node reaches it.
    pub fn live(&self) -> impl Iterator<Item = Member> {
        let live = self.lives.roster.live().values();
        live.map(|it| self.lives.reached(it))
    }

    /// Returns every remembered node except this one, in the order of node ids, with the address at
    /// which this node reaches it. Excludes nodes that were never members according to the ledger,
    /// if there is one: they are of a cluster that this node was in before.
    pub fn members(&self) -> Vec<MemberStatus> {
        let (roster, admission) = (&self.lives.roster, &self.lives.admission);
        let rumors = &self.spreading.rumors;
        let trust = admission.trust.load();
        let ledger = trust.ledger();
        let state_of = |member: &Member, state| match state {
            _ if self.absences.is_away(&member.node) => MemberState::Away,
            foca::State::Alive => MemberState::Alive,
            foca::State::Suspect => MemberState::Suspect,
            foca::State::Down => {
                let farewell = rumors.farewell_of(&member.node, member.generation);
                admission.state_when_down(&member.node, farewell)
            }
        };
        let mut members: Vec<_> = roster
            .engine
            .members()
            .filter(|(member, _)| {
                let ledger = ledger.as_ref();
                ledger.is_none_or(|it| it.was_member(&member.node))
            })
            .map(|(member, state)| MemberStatus {
                member: self.lives.reached(&member),
                state: state_of(&member, state),
                round_trip: roster.round_trip(&member.node),
            })
            .collect();
        members.sort_by_key(|status| status.member.node);
        members
    }

    /// Returns whether two processes are known to use the key of this or another node.
    pub fn is_copied(&self, node: &NodeId) -> bool {
        self.lives.copies.is_copied(node)
    }

    /// Returns the numbers of datagrams sent, accepted and dropped, by cause.
    pub fn counters(&self) -> Counters {
        self.lives.links.counters
    }

    /// Returns this node and all known members that did not say farewell, for another member to
    /// merge.
    pub fn export_members(&self) -> Bytes {
        // An entry would only say that such a member is down. Its farewell, which spreads by
        // itself, also says why.
        let rumors = &self.spreading.rumors;
        let has_left = |m: &Member| rumors.farewell_of(&m.node, m.generation).is_some();
        self.lives.roster.export(has_left)
    }

    /// Merges the list that the member `teller` exported.
    ///
    /// # Errors
    /// [`ClusterError::BadMemberList`], [`ClusterError::ForgedMemberList`].
    pub fn merge_members(
        &mut self,
        now: Instant,
        teller: NodeId,
        list: &[u8],
    ) -> Result<(), ClusterError> {
        if self.leaving.is_some() {
            return Ok(());
        }
        let lives = &mut self.lives;
        let trust = lives.admission.trust.view();
        let is_member = |node: &NodeId| trust.is_member(node);
        let counters = &mut lives.links.counters;
        let merged = lives.roster.merge(now, teller, list, is_member, counters);
        self.settle(now);
        merged
    }

    /// Removes members that the ledger no longer has, together with their sessions, at once. If no
    /// member is live, the next greetings are due at once.
    pub fn enforce_membership(&mut self, now: Instant) {
        let trust = self.lives.admission.trust.view();
        let is_gone = |node: &NodeId| !trust.is_member(node);
        self.lives.links.forget_former_members();
        self.lives.roster.retain_candidates(|node| !is_gone(node));
        let live = self.lives.roster.live().values().copied();
        let gone: Vec<_> = live.filter(|member| is_gone(&member.node)).collect();
        for member in gone {
            self.lives.roster.mark_down_silently(now, member);
        }
        let ended = self.absences.expel(is_gone);
        self.lives.events.extend(ended);
        self.settle(now);
        if self.lives.roster.live().is_empty() {
            // Seeds that ignored a stranger may answer a member.
            self.seeds.start_over(now);
        }
    }

    /// Delivers the engine's output until there is none left.
    fn settle(&mut self, now: Instant) {
        while let Some(change) = self.lives.poll_change(now) {
            match change {
                RosterChange::Up(member) => self.handle_up(now, member),
                RosterChange::Down(member) => self.handle_down(now, member),
                RosterChange::Renewed(me) => self.lives.begin_life(now, me),
            }
            let members = self.lives.roster.met_count() + 1;
            self.spreading.resize(members);
        }
    }

    fn handle_up(&mut self, now: Instant, member: Member) {
        self.absences.remove(&member.node);
        self.seeds.remove_lost(&member.node);
        let rumors = &mut self.spreading.rumors;
        rumors.returned(&member.node, member.generation);
        if let Some(address) = self.lives.address_after_move(now, &member)
            && self.seeds.take_trial(now)
        {
            self.lives.links.greet(now, address);
        }
        self.lives.report_up(&member);
        self.spreading.introduce_head(now, member, &mut self.lives);
        self.push_pulls.start(now);
    }

    /// Reports a member that is down. Remembers its addresses, unless it left for good or never
    /// spoke to this node.
    fn handle_down(&mut self, now: Instant, member: Member) {
        let node = member.node;
        let rumors = &self.spreading.rumors;
        let farewell = rumors.farewell_of(&node, member.generation);
        if farewell != Some(Farewell::Final) && !self.lives.roster.is_unmet(&node) {
            let addresses = self.lives.links.table.addresses(&member);
            self.seeds.add_lost(node, addresses);
        }
        let down = |why| Event::Down { node, why };
        let event = match farewell {
            _ if !self.lives.admission.trust.is_member(&node) => down(DownReason::Expelled),
            Some(Farewell::Away) => {
                self.absences.add(now, &member);
                Event::Away { node }
            }
            Some(Farewell::Final) => down(DownReason::Left),
            None => down(DownReason::Failed),
        };
        self.lives.report_down(&node, event);
        if self.lives.roster.live().is_empty() {
            self.push_pulls.stop();
            self.seeds.start_over(now);
        }
    }

    /// Handles a frame from a process that is proven at `address`.
    fn receive_frame(
        &mut self,
        now: Instant,
        from: Member,
        salt: Salt,
        address: SocketAddr,
        frame: DatagramFrame,
    ) {
        let (lives, is_leaving) = (&mut self.lives, self.leaving.is_some());
        let (node, me) = (from.node, lives.links.process.me().node);
        if !lives.admission.offenders.is_heard(now, &node) {
            lives.links.counters.excess.flooding += 1;
            return;
        }
        let farewell = farewell_of(&frame, &node);
        if farewell.is_some() {
            lives.speaker_left(now, node, salt);
        } else {
            let spoken = Spoken {
                salt,
                address,
                challenged: None,
            };
            lives.record_speaker(now, node, spoken);
        }
        if node == me {
            // Other frames of another process with this node's key are ignored.
            if let Some(farewell) = farewell {
                self.handle_departure(now, node, farewell);
            }
            return;
        }
        lives.roster.answers.record_arrival(node, now);
        match frame {
            DatagramFrame::Swim(_) | DatagramFrame::Outlived { .. } | DatagramFrame::Rumors(_)
                if is_leaving => {}
            DatagramFrame::Rumors(rumors) => {
                if lives.links.take_message(address, now) {
                    for rumor in rumors {
                        let lives = &mut self.lives;
                        if !lives.admission.offenders.is_heard(now, &node) {
                            // A rumor before this one was a forgery too many.
                            break;
                        }
                        match rumor {
                            Rumor::Head(it) => self.spreading.receive_head(node, it, lives),
                            Rumor::Statement(it) => {
                                self.spreading.receive_statement(node, it, lives);
                            }
                            Rumor::Departure(it) => self.handle_departure(now, node, it),
                        }
                    }
                }
            }
            frame => lives.handle_frame(now, from, address, frame),
        }
        self.lives.review_route(&node);
    }

    /// Handles a farewell of this node, of a living member or of one that is away. Ignores the
    /// farewell of a life before the present one.
    fn handle_departure(&mut self, now: Instant, from: NodeId, departure: Departure) {
        let Departure { who, how, .. } = departure;
        let (me, lives) = (self.me(), &mut self.lives);
        let live = lives.roster.live().get(&who.node);
        let away = self.absences.generation_of(&who.node);
        let here = live.map(|member| member.generation).or(away);
        let here = here.or((who.node == me.node).then_some(me.generation));
        // A farewell that would change nothing is dropped before its signature is verified, which
        // is expensive.
        if here.is_none_or(|generation| generation > who.generation) {
            return;
        }
        if !Vouchers::is_departure(&departure) {
            lives.record_offence(now, from, Offence::SpeaksForOthers);
        } else if who.node == me.node {
            lives.contradict(now, who.generation);
        } else if !self.spreading.rumors.depart(now, from, departure) {
            // This farewell was handled before.
        } else if lives.roster.live().contains_key(&who.node) {
            lives.roster.mark_down_silently(now, who);
        } else if how == Farewell::Final {
            self.absences.remove(&who.node);
            self.seeds.remove_lost(&who.node);
            lives.events.push_back(Event::Down {
                node: who.node,
                why: DownReason::Left,
            });
        }
    }
}

/// Returns the node's own farewell in a frame, if there is one.
fn farewell_of(frame: &DatagramFrame, from: &NodeId) -> Option<Departure> {
    let DatagramFrame::Rumors(rumors) = frame else {
        return None;
    };
    rumors.iter().find_map(|rumor| match rumor {
        Rumor::Departure(departure) if departure.who.node == *from => Some(*departure),
        _ => None,
    })
}

fn fits(body: &Bytes) -> Result<(), ClusterError> {
    let length_bytes = body.len();
    let fits = length_bytes <= PAYLOAD_MAX_BYTES;
    fits.then_some(())
        .ok_or(ClusterError::MessageTooLong { length_bytes })
}

fn mixed(seed: u64, me: NodeId, generation: Generation) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("p2pfs cluster seed");
    hasher.update(&seed.to_le_bytes()).update(me.as_bytes());
    hasher.update(&generation.0.to_le_bytes());
    *hasher.finalize().as_bytes()
}
