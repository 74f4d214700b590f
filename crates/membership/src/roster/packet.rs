//! The engine's packets, decoded before the engine sees them, and the engine's settings.

use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::{Codec, PeriodicParams, PostcardCodec};

use super::super::config::ClusterConfig;
use super::super::vouch::{LifeCodec, Vouchers, decode_signed};
use super::{Header, Update};
use p2pfs_proto::wire::native::udp::{Contact, PAYLOAD_MAX_BYTES, Signature};

/// Time between two rounds of gossip while there is news of members.
const GOSSIP_PERIOD: Duration = Duration::from_millis(200);
/// Number of members that receive gossip at once, and that are asked to try a failed probe.
const FANOUT: NonZeroUsize = NonZeroUsize::new(3).unwrap();
/// Time between two requests to a member for the members that it knows.
const ASK_PERIOD: Duration = Duration::from_secs(30);
/// Time between two rounds of greetings. Each round greets up to two members that are down, which
/// heals a partition.
const LOOK_FOR_DOWN_PERIOD: Duration = Duration::from_secs(10);
/// Minimum time between probes.
const SHORTEST_PERIOD: Duration = Duration::from_millis(10);

/// A decoded packet before the engine sees it.
pub(super) struct EnginePacket {
    pub(super) header: Header,
    pub(super) told: Vec<(Update, Signature)>,
}

/// Minimum number of transmissions of each piece of news: enough for three members under heavy
/// loss.
pub(super) const SENDS_MIN: NonZeroU8 = NonZeroU8::new(6).unwrap();

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

pub(super) fn engine_config(config: &ClusterConfig) -> foca::Config {
    let periodic = |frequency, members: usize| {
        let num_members = NonZeroUsize::new(members).unwrap_or(NonZeroUsize::MIN);
        Some(PeriodicParams {
            frequency,
            num_members,
        })
    };
    foca::Config {
        // With a period of zero, time would never pass.
        probe_period: config.probe_period.max(SHORTEST_PERIOD),
        probe_rtt: config.probe_round_trip,
        num_indirect_probes: FANOUT,
        max_transmissions: SENDS_MIN,
        suspect_to_down_after: config.suspicion,
        remove_down_after: Some(config.remember_down),
        max_packet_size: NonZeroUsize::new(PAYLOAD_MAX_BYTES).unwrap_or(NonZeroUsize::MIN),
        notify_down_members: true,
        periodic_announce: periodic(ASK_PERIOD, 1),
        periodic_announce_to_down_members: periodic(LOOK_FOR_DOWN_PERIOD, 2),
        periodic_gossip: periodic(GOSSIP_PERIOD, FANOUT.get()),
    }
}
