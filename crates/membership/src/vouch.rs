//! Who has signed that it lives where: the one part of the cluster that knows of signatures.
//!
//! Owns this node's key, the signed lives of the others, and how far ahead of the clock a life may
//! be. What is not signed by the node that it speaks of is refused before it changes anything; a
//! life that was checked once is not checked again.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Member, PostcardCodec};
use parking_lot::Mutex;

use super::config::MEMBERS_MAX;
use super::event::Offence;
use super::identity::{Life, is_beyond};
use p2pfs_proto::trust::{NodeKey, verify};
use p2pfs_proto::wire::native::udp::{
    Contact, Credentials, Departure, Farewell, Salt, Signature, SignedContact, departure_bytes,
};
use p2pfs_types::id::{Generation, NodeId};

/// How far ahead of this machine's clock a generation, which is a time in seconds, may be: clocks
/// are wrong by hours where somebody set them by hand or to the wrong zone.
pub const GENERATION_AHEAD_MAX_S: u64 = 24 * 3600;
const SIGNATURE_BYTES: usize = 64;

/// The signed lives that are known. Clones are the same.
#[derive(Clone)]
pub(super) struct Vouchers {
    key: Arc<NodeKey>,
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    known: BTreeMap<NodeId, SignedContact>,
    latest: Option<Generation>,
}

impl Vouchers {
    pub(super) fn new(key: Arc<NodeKey>) -> Self {
        let table = Arc::default();
        Self { key, table }
    }

    /// Says what time it is, in seconds since 1970; without, no life is too late.
    pub(super) fn set_clock(&self, unix_s: Option<u64>) {
        let latest = unix_s.map(|now| Generation(now.saturating_add(GENERATION_AHEAD_MAX_S)));
        self.table.lock().latest = latest;
    }

    /// This node's signature under one of its lives.
    pub(super) fn sign(&self, contact: Contact) -> SignedContact {
        let signature = self.key.sign(&contact.signed_bytes());
        SignedContact { contact, signature }
    }

    /// What this process proves itself with.
    pub(super) fn credentials(&self, me: Contact, salt: &Salt, exchange: [u8; 32]) -> Credentials {
        let bytes = Credentials::bound_bytes(&me.node, salt, &exchange);
        Credentials {
            who: self.sign(me),
            exchange,
            binding: self.key.sign(&bytes),
        }
    }

    pub(super) fn sign_departure(&self, who: Contact, how: Farewell) -> Departure {
        let signature = self.key.sign(&departure_bytes(&who, how));
        Departure {
            who,
            how,
            signature,
        }
    }

    /// Whether the node itself says goodbye.
    pub(super) fn is_departure(it: &Departure) -> bool {
        let signed = departure_bytes(&it.who, it.how);
        verify(&it.who.node, &signed, &it.signature)
    }

    /// Whether the process with this salt speaks for the node that it says.
    pub(super) fn check(&self, salt: &Salt, it: &Credentials) -> Result<(), Offence> {
        self.check_life(&it.who)?;
        let node = it.who.contact.node;
        let bytes = Credentials::bound_bytes(&node, salt, &it.exchange);
        let is_bound = verify(&node, &bytes, &it.binding);
        is_bound.then_some(()).ok_or(Offence::SpeaksForOthers)
    }

    /// Whether the node has signed this life, and lives it already.
    pub(super) fn check_life(&self, signed: &SignedContact) -> Result<(), Offence> {
        // of a life that it did not sign nothing is to be said against the node
        if !self.holds(signed) && !is_signed(signed) {
            return Err(Offence::SpeaksForOthers);
        }
        let latest = self.table.lock().latest;
        let is_ahead = latest.is_some_and(|latest| signed.contact.generation > latest);
        (!is_ahead).then_some(()).ok_or(Offence::AheadOfClock)
    }

    fn holds(&self, signed: &SignedContact) -> bool {
        self.table.lock().known.get(&signed.contact.node) == Some(signed)
    }

    /// Remembers a life that was checked; the latest of each node stays.
    pub(super) fn keep(&self, signed: SignedContact) {
        let mut table = self.table.lock();
        let node = signed.contact.node;
        let known = table.known.get(&node).map(|known| known.contact.generation);
        if known.is_none_or(|known| known < signed.contact.generation) {
            if known.is_none() && table.known.len() >= 2 * MEMBERS_MAX {
                table.known.pop_first();
            }
            table.known.insert(node, signed);
        }
    }

    /// Whether this very life was seen signed.
    pub(super) fn knows(&self, contact: &Contact) -> bool {
        let table = self.table.lock();
        let known = table.known.get(&contact.node);
        known.is_some_and(|known| known.contact.generation == contact.generation)
    }

    /// A life of a node beyond this one, where one is known.
    pub(super) fn later(&self, than: &Contact) -> Option<SignedContact> {
        let table = self.table.lock();
        let known = table.known.get(&than.node).copied();
        known.filter(|known| is_beyond(&known.contact, than))
    }

    /// Whether a later life of the node was seen signed.
    pub(super) fn is_over(&self, life: &Contact) -> bool {
        let table = self.table.lock();
        let known = table.known.get(&life.node);
        known.is_some_and(|known| known.contact.generation > life.generation)
    }

    fn signature_of(&self, contact: &Contact) -> Option<Signature> {
        if contact.node == self.key.node_id() {
            return Some(self.sign(*contact).signature);
        }
        let known = *self.table.lock().known.get(&contact.node)?;
        if known.contact.generation != contact.generation {
            return None;
        }
        // two processes with one key may have signed one generation at two addresses
        let signed = SignedContact {
            contact: *contact,
            ..known
        };
        self.check_life(&signed).is_ok().then_some(known.signature)
    }
}

/// Whether the node signed this life, at this address or at none that it knows.
fn is_signed(life: &SignedContact) -> bool {
    let contact = life.contact;
    let nowhere = |ip| Contact {
        address: SocketAddr::new(ip, contact.address.port()),
        ..contact
    };
    let forms = [
        contact,
        nowhere(Ipv4Addr::UNSPECIFIED.into()),
        nowhere(Ipv6Addr::UNSPECIFIED.into()),
    ];
    let verifies = |form: &Contact| verify(&form.node, &form.signed_bytes(), &life.signature);
    forms.iter().any(verifies)
}

/// The engine's codec: behind each member stands the signature of its node. The two ends of a
/// packet have none, since the link has proven them.
pub(super) struct LifeCodec(pub(super) Vouchers);

/// Splits a member and its signature off.
pub(super) fn decode_signed(data: &mut &[u8]) -> Option<(Member<Life>, Signature)> {
    let member: Member<Life> = PostcardCodec.decode_member(&mut *data).ok()?;
    let (signature, rest) = data.split_at_checked(SIGNATURE_BYTES)?;
    *data = rest;
    let (first, second) = signature.split_at(SIGNATURE_BYTES / 2);
    Some((member, [first.try_into().ok()?, second.try_into().ok()?]))
}

impl Codec<Life> for LifeCodec {
    type Error = postcard::Error;

    fn encode_header(
        &mut self,
        header: &Header<Life>,
        buf: impl BufMut,
    ) -> Result<(), postcard::Error> {
        PostcardCodec.encode_header(header, buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Life>, postcard::Error> {
        PostcardCodec.decode_header(buf)
    }

    fn encode_member(
        &mut self,
        member: &Member<Life>,
        mut buf: impl BufMut,
    ) -> Result<(), postcard::Error> {
        // a life that nobody signed is not known here; zeros make its receiver refuse it
        let signature = self.0.signature_of(&member.id().0).unwrap_or_default();
        let bytes = postcard::to_stdvec(member)?;
        if buf.remaining_mut() < bytes.len() + SIGNATURE_BYTES {
            return Err(postcard::Error::SerializeBufferFull);
        }
        buf.put_slice(&bytes);
        buf.put_slice(signature.as_flattened());
        Ok(())
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Life>, postcard::Error> {
        let member = PostcardCodec.decode_member(&mut buf)?;
        if buf.remaining() < SIGNATURE_BYTES {
            return Err(postcard::Error::DeserializeUnexpectedEnd);
        }
        buf.advance(SIGNATURE_BYTES);
        Ok(member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact(key: &NodeKey, generation: u64) -> Contact {
        Contact {
            node: key.node_id(),
            address: "10.0.0.1:1378".parse().unwrap(),
            generation: Generation(generation),
        }
    }

    #[test]
    fn only_a_nodes_own_signature_makes_a_life() {
        let (one, other) = (Arc::new(NodeKey::random()), Arc::new(NodeKey::random()));
        let (theirs, ours) = (Vouchers::new(one.clone()), Vouchers::new(other.clone()));
        let signed = theirs.sign(contact(&one, 7));
        assert_eq!(ours.check_life(&signed), Ok(()));
        let elsewhere = "10.0.0.9:1378".parse().unwrap();
        for changed in [
            Contact {
                generation: Generation(8),
                ..signed.contact
            },
            Contact {
                address: elsewhere,
                ..signed.contact
            },
            Contact {
                node: other.node_id(),
                ..signed.contact
            },
        ] {
            let forged = SignedContact {
                contact: changed,
                ..signed
            };
            assert_eq!(ours.check_life(&forged), Err(Offence::SpeaksForOthers));
        }
    }

    #[test]
    fn who_does_not_know_its_address_leaves_it_to_who_sees_it_but_not_the_port() {
        let key = Arc::new(NodeKey::random());
        let vouchers = Vouchers::new(key.clone());
        let mut signed = vouchers.sign(Contact {
            address: "0.0.0.0:1378".parse().unwrap(),
            ..contact(&key, 1)
        });
        signed.contact.address = "10.0.0.5:1378".parse().unwrap();
        assert_eq!(vouchers.check_life(&signed), Ok(()));
        signed.contact.address = "10.0.0.5:1379".parse().unwrap();
        assert_eq!(vouchers.check_life(&signed), Err(Offence::SpeaksForOthers));
    }

    #[test]
    fn a_life_a_day_ahead_of_the_clock_is_refused_and_one_at_the_limit_is_not() {
        let key = Arc::new(NodeKey::random());
        let vouchers = Vouchers::new(key.clone());
        vouchers.set_clock(Some(1000));
        let latest = 1000 + GENERATION_AHEAD_MAX_S;
        let life = |generation| vouchers.sign(contact(&key, generation));
        assert_eq!(vouchers.check_life(&life(latest)), Ok(()));
        for late in [latest + 1, u64::MAX] {
            let refused = vouchers.check_life(&life(late));
            assert_eq!(refused, Err(Offence::AheadOfClock));
        }
    }

    #[test]
    fn a_life_ahead_of_the_clock_that_its_node_did_not_sign_is_its_tellers_fault() {
        let (key, liar) = (Arc::new(NodeKey::random()), Arc::new(NodeKey::random()));
        let vouchers = Vouchers::new(key.clone());
        vouchers.set_clock(Some(1000));
        let forged = Vouchers::new(liar).sign(contact(&key, u64::MAX));
        let refused = vouchers.check_life(&forged);
        assert_eq!(refused, Err(Offence::SpeaksForOthers));
    }

    #[test]
    fn a_key_of_a_process_is_bound_to_its_salt_and_its_node() {
        let (one, other) = (Arc::new(NodeKey::random()), Arc::new(NodeKey::random()));
        let vouchers = Vouchers::new(one.clone());
        let good = vouchers.credentials(contact(&one, 1), &[1; 16], [2; 32]);
        assert_eq!(vouchers.check(&[1; 16], &good), Ok(()));
        assert_eq!(
            vouchers.check(&[3; 16], &good),
            Err(Offence::SpeaksForOthers)
        );
        let others = Vouchers::new(other.clone()).sign(contact(&other, 1));
        for bad in [
            Credentials {
                exchange: [9; 32],
                ..good
            },
            Credentials {
                who: others,
                ..good
            },
        ] {
            assert_eq!(
                vouchers.check(&[1; 16], &bad),
                Err(Offence::SpeaksForOthers)
            );
        }
    }
}
