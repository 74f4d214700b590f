//! The engine's packets and member lists, decoded before the engine sees them.

use foca::{Codec, PostcardCodec};

use super::engine::{Header, Update};
use crate::config::MEMBER_LIST_MAX_BYTES;
use crate::vouch::{LifeCodec, Vouchers, decode_signed};
use p2pfs_proto::wire::native::udp::{Contact, PAYLOAD_MAX_BYTES, Signature};

/// A decoded packet before the engine sees it.
pub(super) struct EnginePacket {
    pub(super) header: Header,
    pub(super) told: Vec<(Update, Signature)>,
}

/// Returns whether a datagram can be addressed to the contact.
pub(super) fn is_reachable(contact: Contact) -> bool {
    contact.address.port() != 0 && !contact.address.ip().is_unspecified()
}

/// Decodes a packet. Returns `None` if it is too long, if its header or a member in it is
/// malformed, or if a member has no address.
pub(super) fn decode(mut data: &[u8]) -> Option<EnginePacket> {
    if data.len() > PAYLOAD_MAX_BYTES {
        return None;
    }
    let header: Header = PostcardCodec.decode_header(&mut data).ok()?;
    let mut told = Vec::new();
    if let [high, low, rest @ ..] = data
        && header.message != foca::Message::Broadcast
    {
        let mut rest = rest;
        for _ in 0..u16::from_be_bytes([*high, *low]) {
            told.push(decode_signed(&mut rest)?);
        }
    }
    let sound = is_reachable(header.src.0) && told.iter().all(|(u, _)| is_reachable(u.id().0));
    sound.then_some(EnginePacket { header, told })
}

/// Encodes a packet with exactly these updates.
pub(super) fn encode(header: &Header, updates: &[Update], vouchers: &Vouchers) -> Vec<u8> {
    let mut codec = LifeCodec(vouchers.clone());
    let mut bytes = Vec::new();
    let _always_fits = codec.encode_header(header, &mut bytes);
    let count = u16::try_from(updates.len()).unwrap_or(0);
    bytes.extend_from_slice(&count.to_be_bytes());
    for update in &updates[..usize::from(count)] {
        let _always_fits = codec.encode_member(update, &mut bytes);
    }
    bytes
}

/// Decodes a list of members. Returns `None` if it is too long or malformed.
pub(super) fn decode_list(mut list: &[u8]) -> Option<Vec<(Update, Signature)>> {
    if list.len() > MEMBER_LIST_MAX_BYTES {
        return None;
    }
    let mut signed = Vec::new();
    while !list.is_empty() {
        signed.push(decode_signed(&mut list)?);
    }
    Some(signed)
}

/// Encodes a list of members.
pub(super) fn encode_list<'a>(
    members: impl Iterator<Item = &'a Update>,
    vouchers: &Vouchers,
) -> Vec<u8> {
    let mut codec = LifeCodec(vouchers.clone());
    let mut bytes = Vec::new();
    for member in members {
        let _always_fits = codec.encode_member(member, &mut bytes);
    }
    bytes
}
