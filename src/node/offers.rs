//! Offers of content, between what serving and fetching say and what a datagram takes.

use crate::extent::ByteRange;
use crate::id::NodeId;
use crate::transfer::{Offer, OfferData};
use crate::wire::native::udp::{MAX_OFFER_ASKERS, MAX_OFFER_RANGES, OfferSummary};

pub(super) fn offer_of(node: NodeId, summary: &OfferSummary) -> Offer {
    Offer {
        node,
        hash: summary.hash,
        size_bytes: summary.size_bytes,
        all: summary.all,
        ranges: summary.ranges.iter().copied().collect(),
        load: summary.load,
    }
}

/// What fits a datagram: the longest ranges and the latest askers.
pub(super) fn summary_of(offer: OfferData) -> OfferSummary {
    let mut ranges: Vec<ByteRange> = offer.ranges.iter().collect();
    ranges.sort_by_key(|range| std::cmp::Reverse(range.len()));
    ranges.truncate(MAX_OFFER_RANGES);
    let askers = offer.askers.into_iter().take(MAX_OFFER_ASKERS).collect();
    let OfferData {
        hash,
        size_bytes,
        all,
        load,
        ..
    } = offer;
    OfferSummary {
        hash,
        size_bytes,
        all,
        ranges,
        load,
        askers,
    }
}
