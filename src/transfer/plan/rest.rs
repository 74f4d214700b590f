//! When the rest of an answer that is late may be here, and whether to ask another for it too.
//!
//! A reader whose own link is full finds everything late, whomever it asks: to ask twice would only
//! make it later still.

use std::time::{Duration, Instant};

use super::look::SILENT_MIN;
use super::peer::{Peer, Sent};
use super::{Lane, Plan, RangeRequest, RequestId};

/// Another is asked for the same where it would bring it in less than one part in so many of the
/// time that the rest of the answer takes: a hedge that wins little is not worth its bytes.
const SOONER_MULTIPLE: u32 = 2;

impl Plan {
    /// How long the rest of an answer takes at the pace of what came since it was asked for, of it
    /// and of what stood in line before it; nothing where nothing comes.
    pub(super) fn rest_of(&self, now: Instant, id: RequestId) -> Option<Duration> {
        let entry = self.in_flight.get(&id)?;
        let peer = self.peers.get(&entry.request.node)?;
        if peer.quiet_for(now, entry.sent.at) >= SILENT_MIN {
            return None;
        }
        let before = match entry.arrived_bytes {
            0 => peer.left_before(&entry.sent),
            _ => 0,
        };
        let own = entry.request.range.len();
        let left = before + own.saturating_sub(entry.arrived_bytes);
        let pace = peer.pace_since(now, &entry.sent)?;
        Duration::try_from_secs_f64(left as f64 / pace).ok()
    }

    /// Whether another would bring a late answer so much sooner that it is worth asking twice.
    pub(super) fn is_much_sooner(&self, now: Instant, late: &RangeRequest, other: &Peer) -> bool {
        let expected = other.expected(Lane::Urgent, late.range.len());
        let rest = self.rest_of(now, late.id);
        rest.is_none_or(|rest| expected * SOONER_MULTIPLE < rest)
    }
}

impl Peer {
    /// Bytes a second that came since something was asked, if any did.
    fn pace_since(&self, now: Instant, sent: &Sent) -> Option<f64> {
        let moved = (self.moved_bytes - sent.moved_bytes) as f64;
        let took = now.saturating_duration_since(sent.at).as_secs_f64();
        (moved > 0.0 && took > 0.0).then(|| moved / took)
    }

    /// What is still to come of what stood in line before something that was asked.
    fn left_before(&self, sent: &Sent) -> u64 {
        let moved = self.moved_bytes - sent.moved_bytes;
        sent.queue_bytes.saturating_sub(moved)
    }
}
