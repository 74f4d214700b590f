//! Signed lives of nodes: the one part of the cluster that knows signatures.
//!
//! This module owns this node's key, the signed lives of the others, and how far ahead of the clock
//! a life may be. A life without its node's signature is refused before it changes anything. The
//! latest known life of a node is not verified again.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Member, PostcardCodec};
use parking_lot::Mutex;

use super::config::MEMBERS_MAX;
use super::event::Offence;
use super::identity::{MemberLife, is_beyond};
use super::sender_table::SenderTable;
use p2pfs_proto::trust::{NodeKey, verify};
use p2pfs_proto::wire::native::udp::{
    Contact, Credentials, Departure, Farewell, Salt, Signature, SignedContact, departure_bytes,
};
use p2pfs_types::id::{Generation, NodeId};

/// Maximum number of seconds by which a generation, which is a time, may be ahead of this machine's
/// clock. Clocks are wrong by hours if they were set by hand or to the wrong time zone.
pub const GENERATION_AHEAD_MAX_S: u64 = 24 * 3600;
const SIGNATURE_BYTES: usize = 64;
/// Maximum number of remembered lives: of the members, and as many others.
const LIVES_MAX: usize = 2 * MEMBERS_MAX;

/// The known signed lives. All clones share one table.
#[derive(Clone)]
pub(super) struct Vouchers {
    key: Arc<NodeKey>,
    table: Arc<Mutex<LifeTable>>,
}

struct LifeTable {
    known: SenderTable<NodeId, SignedContact>,
    latest: Option<Generation>,
}

impl LifeTable {
    fn is_ahead(&self, generation: Generation) -> bool {
        self.latest.is_some_and(|latest| generation > latest)
    }

    /// Returns the latest known life of a node, unless the node began it while its clock was wrong.
    /// Once this clock and that of the node are right, the node continues with an earlier life.
    fn believable(&self, node: &NodeId) -> Option<&SignedContact> {
        let known = self.known.get(node);
        known.filter(|known| !self.is_ahead(known.contact.generation))
    }
}

impl Vouchers {
    pub(super) fn new(key: Arc<NodeKey>) -> Self {
        let table = LifeTable {
            known: SenderTable::new(LIVES_MAX),
            latest: None,
        };
        Self {
            key,
            table: Arc::new(Mutex::new(table)),
        }
    }

    /// Sets the time in seconds since 1970; `None` if it is unknown. No life is ahead of an unknown
    /// time.
    pub(super) fn set_clock(&self, unix_s: Option<u64>) {
        let latest = unix_s.map(|now| Generation(now.saturating_add(GENERATION_AHEAD_MAX_S)));
        self.table.lock().latest = latest;
    }

    /// Signs one of this node's lives.
    pub(super) fn sign(&self, contact: Contact) -> SignedContact {
        let signature = self.key.sign(&contact.signed_bytes());
        SignedContact { contact, signature }
    }

    /// Returns the credentials with which this process proves its identity.
    pub(super) fn credentials(&self, me: Contact, salt: &Salt, exchange: [u8; 32]) -> Credentials {
        let bytes = Credentials::bound_bytes(&me.node, salt, &exchange);
        Credentials {
            who: self.sign(me),
            exchange,
            binding: self.key.sign(&bytes),
        }
    }

    /// Signs a farewell of this node.
    pub(super) fn sign_departure(&self, who: Contact, how: Farewell) -> Departure {
        let signature = self.key.sign(&departure_bytes(&who, how));
        Departure {
            who,
            how,
            signature,
        }
    }

    /// Returns whether the node itself signed the farewell.
    pub(super) fn is_departure(it: &Departure) -> bool {
        let signed = departure_bytes(&it.who, it.how);
        verify(&it.who.node, &signed, &it.signature)
    }

    /// Checks that the process with this salt speaks for the node that it claims.
    pub(super) fn check(&self, salt: &Salt, it: &Credentials) -> Result<(), Offence> {
        self.check_life(&it.who)?;
        let node = it.who.contact.node;
        let bytes = Credentials::bound_bytes(&node, salt, &it.exchange);
        let is_bound = verify(&node, &bytes, &it.binding);
        is_bound.then_some(()).ok_or(Offence::SpeaksForOthers)
    }

    /// Checks that the node has signed this life, and that the life is not ahead of the clock.
    pub(super) fn check_life(&self, signed: &SignedContact) -> Result<(), Offence> {
        // The node is not to blame for a life that it did not sign.
        if !self.holds(signed) && !is_signed(signed) {
            return Err(Offence::SpeaksForOthers);
        }
        let is_ahead = self.is_ahead(signed.contact.generation);
        (!is_ahead).then_some(()).ok_or(Offence::AheadOfClock)
    }

    /// Returns whether a life with this generation is ahead of the clock. No node with this clock
    /// accepts it.
    pub(super) fn is_ahead(&self, generation: Generation) -> bool {
        self.table.lock().is_ahead(generation)
    }

    fn holds(&self, signed: &SignedContact) -> bool {
        self.table.lock().known.get(&signed.contact.node) == Some(signed)
    }

    /// Remembers a life that `teller` sent and that was verified. Only the latest of each node is
    /// stored.
    pub(super) fn remember(&self, teller: NodeId, signed: SignedContact) {
        let mut table = self.table.lock();
        let node = signed.contact.node;
        let known = table
            .believable(&node)
            .map(|known| known.contact.generation);
        if known.is_none_or(|known| known < signed.contact.generation) {
            table.known.insert(teller, node, signed);
        } else if teller == node {
            // Otherwise a flood of the member that told of it first could displace it.
            table.known.attribute_to(node, node);
        }
    }

    /// Returns whether the latest known life of the node has the generation of this contact.
    pub(super) fn knows(&self, contact: &Contact) -> bool {
        let table = self.table.lock();
        let known = table.known.get(&contact.node);
        known.is_some_and(|known| known.contact.generation == contact.generation)
    }

    /// Returns the known life of the node of `than`, if [`is_beyond`] says that it is beyond
    /// `than`.
    pub(super) fn later(&self, than: &Contact) -> Option<SignedContact> {
        let table = self.table.lock();
        let known = table.believable(&than.node).copied();
        known.filter(|known| is_beyond(&known.contact, than))
    }

    /// Returns whether a later life of the node is known.
    pub(super) fn is_over(&self, life: &Contact) -> bool {
        let table = self.table.lock();
        let known = table.believable(&life.node);
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
        // Two processes with one key may have signed one generation at two addresses. The known
        // signature may therefore be for another address than this contact's.
        let signed = SignedContact {
            contact: *contact,
            ..known
        };
        self.check_life(&signed).is_ok().then_some(known.signature)
    }
}

/// Returns whether the node signed this life, with this address or with an unspecified IP address.
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

/// The engine's codec. Each member is followed by its node's signature. The lives in a packet's
/// header have no signature; the link authenticates the sender.
pub(super) struct LifeCodec(pub(super) Vouchers);

/// Splits off a member and its signature.
pub(super) fn decode_signed(data: &mut &[u8]) -> Option<(Member<MemberLife>, Signature)> {
    let member: Member<MemberLife> = PostcardCodec.decode_member(&mut *data).ok()?;
    let (signature, rest) = data.split_at_checked(SIGNATURE_BYTES)?;
    *data = rest;
    let (first, second) = signature.split_at(SIGNATURE_BYTES / 2);
    Some((member, [first.try_into().ok()?, second.try_into().ok()?]))
}

impl Codec<MemberLife> for LifeCodec {
    type Error = postcard::Error;

    fn encode_header(
        &mut self,
        header: &Header<MemberLife>,
        buf: impl BufMut,
    ) -> Result<(), postcard::Error> {
        PostcardCodec.encode_header(header, buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<MemberLife>, postcard::Error> {
        PostcardCodec.decode_header(buf)
    }

    fn encode_member(
        &mut self,
        member: &Member<MemberLife>,
        mut buf: impl BufMut,
    ) -> Result<(), postcard::Error> {
        // A life whose signature is not known is sent with zeros as its signature, so that the
        // receiver skips it.
        let signature = self.0.signature_of(&member.id().0).unwrap_or_default();
        let bytes = postcard::to_stdvec(member)?;
        if buf.remaining_mut() < bytes.len() + SIGNATURE_BYTES {
            return Err(postcard::Error::SerializeBufferFull);
        }
        buf.put_slice(&bytes);
        buf.put_slice(signature.as_flattened());
        Ok(())
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<MemberLife>, postcard::Error> {
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
    fn only_a_nodes_own_signature_makes_a_generation() {
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
    fn a_node_without_a_known_address_accepts_the_observed_one_but_not_the_port() {
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
    fn a_generation_over_a_day_ahead_of_the_clock_is_refused() {
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
    fn an_unsigned_generation_ahead_of_the_clock_is_its_senders_fault() {
        let (key, liar) = (Arc::new(NodeKey::random()), Arc::new(NodeKey::random()));
        let vouchers = Vouchers::new(key.clone());
        vouchers.set_clock(Some(1000));
        let forged = Vouchers::new(liar).sign(contact(&key, u64::MAX));
        let refused = vouchers.check_life(&forged);
        assert_eq!(refused, Err(Offence::SpeaksForOthers));
    }

    #[test]
    fn a_process_key_is_bound_to_its_salt_and_node() {
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

    #[test]
    fn a_flood_of_invented_lives_displaces_no_life_that_another_member_told() {
        let vouchers = Vouchers::new(Arc::new(NodeKey::random()));
        let life = |number: u16| {
            let mut node = [0; 32];
            node[..2].copy_from_slice(&number.to_be_bytes());
            SignedContact {
                contact: Contact {
                    node: NodeId::new(node),
                    address: "10.0.0.1:1378".parse().unwrap(),
                    generation: Generation(1),
                },
                signature: Signature::default(),
            }
        };
        let (honest, liar) = (NodeId::new([1; 32]), NodeId::new([2; 32]));
        let (told, own) = (life(0), life(1));
        vouchers.remember(honest, told);
        vouchers.remember(liar, own);
        vouchers.remember(own.contact.node, own);
        for number in 2..2 + 2 * LIVES_MAX as u16 {
            vouchers.remember(liar, life(number));
        }
        assert!(vouchers.knows(&told.contact) && vouchers.knows(&own.contact));
        assert_eq!(vouchers.table.lock().known.len(), LIVES_MAX);
    }
}
