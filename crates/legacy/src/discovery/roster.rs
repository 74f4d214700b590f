//! The known peers: members that were heard, configured members, and addresses from other members'
//! lists.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use crate::wire::discovery::MemberName;

/// Maximum heard members that are kept. Further ones are answered but not gossiped.
pub const MEMBERS_MAX: usize = 256;
/// Maximum candidates: configured members, and addresses and names that were learned from lists and
/// not heard yet. A configured member is added even to a full table.
pub const CANDIDATES_MAX: usize = 256;
/// Maximum candidates learned from one sender.
const CANDIDATES_PER_TELLER: usize = 64;
/// Number of times that this node sends its address to a candidate from a list. If the candidate
/// stays silent, it is forgotten 45 periods after the last time (`REST_PERIODS`).
pub const CANDIDATE_TRIES: u32 = 3;
/// Maximum candidates contacted in one period, so that a spoofed list causes little traffic.
/// Configured members count, but are contacted even beyond this number.
const PROBES_PER_PERIOD: usize = 32;
/// Periods for which a candidate that stayed silent is remembered and not tried. Otherwise this
/// node would soon try it again, because the original programs gossip dead addresses forever.
const REST_PERIODS: u32 = 45;
/// Periods of silence after which a member is dropped.
const SILENT_PERIODS: u32 = 5;
/// Minimum silence before a member is dropped. The list period of the member may be longer than
/// that of this node.
const SILENT_MIN: Duration = Duration::from_secs(60);
/// Periods until a host name that did not resolve is tried again: after the first failure, the
/// second, and so on. Further failures use the last entry.
const RESOLVE_BACKOFF_PERIODS: [u32; 5] = [1, 2, 4, 8, 16];

/// Bytes that this node may send to a member for each byte received from it, if the member is
/// [`MemberEvidence::Answering`]. Before that the factor is one, so that this node does not amplify
/// traffic with a forged sender address.
const ANSWERING_FACTOR: usize = 2;
/// The factor for a member that is configured or was first to answer a question. With it, such a
/// member receives the whole list of a small cluster at once.
const PROVEN_FACTOR: usize = 8;
/// Additional credit for each message of a member that has [`PROVEN_FACTOR`].
const PROVEN_MESSAGE_BYTES: usize = 64;
/// Questions that this node sends to a member beyond the credit of the member, until the member is
/// [`MemberEvidence::Answering`]. Only programs on this machine cause questions, so the owner of a
/// forged address receives only these few datagrams.
const QUESTIONS_AHEAD: u8 = 4;
/// Maximum saved credit: three periods of the longest list.
const CREDIT_MAX_BYTES: usize = 3 * MEMBERS_MAX * ENTRY_MAX_BYTES;
/// Credit that a list entry costs: the longest entry with its comma, and one byte as its share of
/// the start of a further datagram.
const ENTRY_MAX_BYTES: usize = ",255.255.255.255:65535".len() + 1;

struct Member {
    address: SocketAddrV4,
    last_heard: Instant,
    /// Bytes that this node may still send to the member.
    credit_bytes: usize,
    /// Questions that this node may still send to the member beyond its credit.
    questions_left: u8,
    standing: MemberEvidence,
    /// Position in `MemberRoster::heard` at which the next list for this member starts. So the
    /// member receives all heard members over time, a part in each list.
    told_up_to: usize,
}

/// Evidence that a member really sends under its address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum MemberEvidence {
    /// A message came from the address. This node has not yet sent a message there for which the
    /// member paid with its credit.
    Heard,
    /// This node sent such a message to the address.
    Written,
    /// A message came from the address after that.
    Answering,
}

impl Member {
    fn earn(&mut self, length_bytes: usize, is_proven: bool) {
        let earned = match self.standing {
            _ if is_proven => length_bytes.saturating_mul(PROVEN_FACTOR) + PROVEN_MESSAGE_BYTES,
            MemberEvidence::Answering => length_bytes.saturating_mul(ANSWERING_FACTOR),
            MemberEvidence::Heard | MemberEvidence::Written => length_bytes,
        };
        self.credit_bytes = (self.credit_bytes + earned).min(CREDIT_MAX_BYTES);
    }

    fn pay(&mut self, length_bytes: usize) -> bool {
        let left = self.credit_bytes.checked_sub(length_bytes);
        if let Some(left) = left {
            self.credit_bytes = left;
            self.standing = self.standing.max(MemberEvidence::Written);
        }
        left.is_some()
    }

    fn take_question(&mut self) -> bool {
        let left = self.questions_left.checked_sub(1);
        self.questions_left = left.unwrap_or(0);
        left.is_some()
    }
}

/// A candidate from the configuration or from a member's list.
struct MemberCandidate {
    /// Member whose list had the candidate; `None` for a configured one.
    teller: Option<SocketAddrV4>,
    /// Address of the candidate. For a host name, the one to which it resolved last.
    address: Option<SocketAddrV4>,
    tries: u32,
    /// Earliest time of the next try.
    next: Instant,
}

impl MemberCandidate {
    fn is_configured(&self) -> bool {
        self.teller.is_none()
    }
}

pub(super) struct MemberRoster {
    period: Duration,
    /// Members in the order in which they were first heard.
    heard: Vec<Member>,
    candidates: BTreeMap<MemberName, MemberCandidate>,
}

/// Addresses to which this node sends its own address, and host names to resolve.
#[derive(Default)]
pub(super) struct Probes {
    pub(super) addresses: Vec<SocketAddrV4>,
    pub(super) hosts: Vec<MemberName>,
}

impl MemberRoster {
    pub(super) fn new(period: Duration) -> Self {
        Self {
            period,
            heard: Vec::new(),
            candidates: BTreeMap::new(),
        }
    }

    /// Records a message of `length_bytes` from an address. `is_proven` tells that the address was
    /// first to answer a question, so it is not forged. Returns whether the address is a new
    /// member, or `None` if the table is full.
    pub(super) fn record_message(
        &mut self,
        from: SocketAddrV4,
        now: Instant,
        length_bytes: usize,
        is_proven: bool,
    ) -> Option<bool> {
        let is_proven = is_proven || self.is_configured(from);
        if let Some(member) = self.heard.iter_mut().find(|m| m.address == from) {
            member.last_heard = now;
            if member.standing == MemberEvidence::Written {
                member.standing = MemberEvidence::Answering;
            }
            member.earn(length_bytes, is_proven);
            return Some(false);
        }
        if self.heard.len() >= MEMBERS_MAX {
            return None;
        }
        let mut member = Member {
            address: from,
            last_heard: now,
            credit_bytes: 0,
            questions_left: QUESTIONS_AHEAD,
            standing: MemberEvidence::Heard,
            told_up_to: 0,
        };
        member.earn(length_bytes, is_proven);
        self.heard.push(member);
        let key = MemberName::Address(from);
        if self
            .candidates
            .get(&key)
            .is_some_and(|c| !c.is_configured())
        {
            self.candidates.remove(&key);
        }
        Some(true)
    }

    /// Records an entry of a list from `teller`, or of the configuration if `teller` is `None`.
    /// Returns false if there is no room for it.
    pub(super) fn learn(
        &mut self,
        member: &MemberName,
        teller: Option<SocketAddrV4>,
        now: Instant,
    ) -> bool {
        let address = match member {
            MemberName::Address(address) => Some(*address),
            MemberName::Host { .. } => None,
        };
        let is_heard = address.is_some_and(|address| self.is_heard(address));
        if self.candidates.contains_key(member) || (is_heard && teller.is_some()) {
            return true;
        }
        if teller.is_some() && !self.has_room_for(teller) {
            return false;
        }
        self.candidates.insert(
            member.clone(),
            MemberCandidate {
                teller,
                address,
                tries: 0,
                next: now,
            },
        );
        true
    }

    /// Returns whether there is room for another candidate of this teller. If the table is full,
    /// first forgets the candidates from lists to which this node sent its address
    /// [`CANDIDATE_TRIES`] times.
    fn has_room_for(&mut self, teller: Option<SocketAddrV4>) -> bool {
        let of_same = self.candidates.values().filter(|c| c.teller == teller);
        if of_same.count() >= CANDIDATES_PER_TELLER {
            return false;
        }
        if self.candidates.len() >= CANDIDATES_MAX {
            self.candidates
                .retain(|_, c| c.is_configured() || c.tries < CANDIDATE_TRIES);
        }
        self.candidates.len() < CANDIDATES_MAX
    }

    /// Records the address to which a host name resolved, or `None` if it did not resolve. Returns
    /// the address if it is new, the host is a configured member, and no message came from there
    /// yet. The caller then sends this node's address there at once.
    pub(super) fn resolved(
        &mut self,
        host: &MemberName,
        to: Option<SocketAddrV4>,
        now: Instant,
    ) -> Option<SocketAddrV4> {
        let period = self.period;
        let candidate = self.candidates.get_mut(host)?;
        let Some(address) = to else {
            let step = (candidate.tries as usize).min(RESOLVE_BACKOFF_PERIODS.len() - 1);
            candidate.tries = candidate.tries.saturating_add(1);
            candidate.next = now + period * RESOLVE_BACKOFF_PERIODS[step];
            return None;
        };
        let is_new = candidate.address != Some(address);
        candidate.address = Some(address);
        candidate.tries = u32::from(is_new);
        candidate.next = now + period;
        let is_configured = candidate.is_configured();
        (is_new && is_configured && !self.is_heard(address)).then_some(address)
    }

    /// Returns the candidates to contact now, each with a datagram of `own_bytes`, and the host
    /// names to resolve. A candidate from a list costs its teller `own_bytes` of credit. It is
    /// skipped if the teller lacks that credit, or is neither configured nor
    /// [`MemberEvidence::Answering`].
    pub(super) fn take_probes(&mut self, now: Instant, own_bytes: usize) -> Probes {
        let heard: Vec<SocketAddrV4> = self.members_heard_from().collect();
        let configured = self.configured();
        let (period, mut probes) = (self.period, Probes::default());
        self.candidates.retain(|_, candidate| {
            let is_over = candidate.tries >= CANDIDATE_TRIES && candidate.next <= now;
            candidate.is_configured() || !is_over
        });
        for (name, candidate) in &mut self.candidates {
            if candidate.next > now {
                continue;
            }
            if candidate.address.is_some_and(|a| heard.contains(&a)) {
                candidate.tries = 0;
                continue;
            }
            let is_full = probes.addresses.len() + probes.hosts.len() >= PROBES_PER_PERIOD;
            if is_full && !candidate.is_configured() {
                continue;
            }
            if let Some(teller) = candidate.teller {
                let is_configured = configured.contains(&teller);
                let teller = self.heard.iter_mut().find(|m| m.address == teller);
                let is_paid = teller.is_some_and(|teller| {
                    (is_configured || teller.standing == MemberEvidence::Answering)
                        && teller.pay(own_bytes)
                });
                if !is_paid {
                    continue;
                }
            }
            match (candidate.address, name) {
                (Some(address), _) => {
                    candidate.tries = candidate.tries.saturating_add(1);
                    probes.addresses.push(address);
                    let is_last = candidate.tries >= CANDIDATE_TRIES && !candidate.is_configured();
                    let rest = if is_last { REST_PERIODS } else { 1 };
                    candidate.next = now + period * rest;
                }
                (None, _) => probes.hosts.push(name.clone()),
            }
            // the address of a host may have changed if it stays silent, so resolve the name again
            if matches!(name, MemberName::Host { .. }) && candidate.tries > CANDIDATE_TRIES {
                probes.hosts.push(name.clone());
            }
        }
        probes
    }

    /// Returns, for each member, the next part of the list of all heard members, which begins where
    /// the member's last part ended. Takes the price from the member's credit: `own_bytes` for this
    /// node's address, and [`ENTRY_MAX_BYTES`] for each entry. A part has as many entries as the
    /// credit permits. A member that cannot pay `own_bytes` gets no part, unless it is configured.
    pub(super) fn take_lists(
        &mut self,
        own_bytes: usize,
    ) -> Vec<(SocketAddrV4, Vec<SocketAddrV4>)> {
        let all: Vec<SocketAddrV4> = self.members_heard_from().collect();
        let configured = self.configured();
        let lists = self.heard.iter_mut().filter_map(|member| {
            if !member.pay(own_bytes) && !configured.contains(&member.address) {
                return None;
            }
            let affordable = member.credit_bytes / ENTRY_MAX_BYTES;
            let count = affordable.min(all.len());
            let begin = if count < all.len() {
                member.told_up_to
            } else {
                0
            };
            let from_there = all.iter().cycle().skip(begin % all.len());
            let list: Vec<SocketAddrV4> = from_there.take(count).copied().collect();
            member.told_up_to = begin + count;
            member.credit_bytes -= count * ENTRY_MAX_BYTES;
            member.standing = member.standing.max(MemberEvidence::Written);
            Some((member.address, list))
        });
        lists.collect()
    }

    /// Returns whether a question of `length_bytes` may be sent to an address. The address of a
    /// member that is neither configured nor [`MemberEvidence::Answering`] may be forged. Such a
    /// member pays for the question from its credit or, if that is too low, with one of its
    /// [`QUESTIONS_AHEAD`].
    pub(super) fn may_be_asked(&mut self, who: SocketAddrV4, length_bytes: usize) -> bool {
        let is_configured = self.is_configured(who);
        let member = self.heard.iter_mut().find(|m| m.address == who);
        member.is_none_or(|member| {
            is_configured
                || member.standing == MemberEvidence::Answering
                || member.pay(length_bytes)
                || member.take_question()
        })
    }

    fn is_configured(&self, who: SocketAddrV4) -> bool {
        let mut configured = self.candidates.values().filter(|c| c.is_configured());
        configured.any(|c| c.address == Some(who))
    }

    fn configured(&self) -> Vec<SocketAddrV4> {
        let configured = self.candidates.values().filter(|c| c.is_configured());
        configured.filter_map(|c| c.address).collect()
    }

    /// Removes and returns the members that were silent for too long.
    pub(super) fn drop_silent(&mut self, now: Instant) -> Vec<SocketAddrV4> {
        let limit = SILENT_MIN.max(self.period * SILENT_PERIODS);
        let is_silent = |m: &Member| now.saturating_duration_since(m.last_heard) > limit;
        let silent = self.heard.iter().filter(|m| is_silent(m));
        let silent = silent.map(|m| m.address).collect();
        self.heard.retain(|m| !is_silent(m));
        silent
    }

    pub(super) fn members_heard_from(&self) -> impl Iterator<Item = SocketAddrV4> {
        self.heard.iter().map(|member| member.address)
    }

    pub(super) fn is_heard(&self, address: SocketAddrV4) -> bool {
        self.heard.iter().any(|member| member.address == address)
    }

    /// Returns the heard members, then the configured ones that were not heard, each once and with
    /// whether it was heard.
    pub(super) fn listed(&self) -> impl Iterator<Item = (SocketAddrV4, bool)> {
        let configured = self.candidates.values().filter(|c| c.is_configured());
        let mut unheard: Vec<SocketAddrV4> = configured
            .filter_map(|c| c.address)
            .filter(|address| !self.is_heard(*address))
            .collect();
        unheard.sort();
        unheard.dedup();
        let heard = self.members_heard_from().map(|address| (address, true));
        heard.chain(unheard.into_iter().map(|address| (address, false)))
    }

    /// Returns the addresses to which a question is sent. They include configured members that were
    /// not heard yet, because these may answer.
    pub(super) fn asked(&self) -> Vec<SocketAddrV4> {
        self.listed().map(|(address, _)| address).collect()
    }

    /// Returns whether a question has a receiver.
    pub(super) fn has_asked(&self) -> bool {
        self.listed().next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn addresses_learned_by_gossip_are_bounded_in_total_and_for_each_source() {
        let (mut roster, now) = (MemberRoster::new(Duration::from_secs(60)), Instant::now());
        let at = |n: usize| SocketAddrV4::new(Ipv4Addr::from(0x0a00_0000 + n as u32), 1);
        for n in 0..CANDIDATES_MAX {
            let teller = at(100_000 + n / CANDIDATES_PER_TELLER);
            if n == CANDIDATES_PER_TELLER {
                let first = Some(at(100_000));
                assert!(!roster.learn(&MemberName::Address(at(9999)), first, now));
            }
            assert!(
                roster.learn(&MemberName::Address(at(n)), Some(teller), now),
                "{n}"
            );
        }
        let (one_more, teller) = (MemberName::Address(at(9999)), Some(at(200_000)));
        assert!(!roster.learn(&one_more, teller, now));
        assert_eq!(roster.candidates.len(), CANDIDATES_MAX);
        assert!(
            roster.learn(&one_more, None, now),
            "what the configuration names is no gossip"
        );
    }
}
