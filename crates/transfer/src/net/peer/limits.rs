//! All limits on numbers and times of the TCP side.

use std::time::Duration;

use tokio::time::Instant;

use super::queue_limit::LastTcpInfo;
use p2pfs_proto::trust::{self, EXCHANGE_MAX_BYTES};
use p2pfs_proto::wire::native::tcp::{CHAIN_MAX_BYTES, Lane, TRUST_MAX_BYTES};

// the trust exchange of two members, and the chain of a new one, must fit into a frame
const _: () = assert!(TRUST_MAX_BYTES == EXCHANGE_MAX_BYTES);
const _: () = assert!(CHAIN_MAX_BYTES == trust::CHAIN_MAX_BYTES);

/// Default maximum of proven connections accepted from all peers.
pub const ACCEPTED_CONNECTIONS: u32 = 1024;
/// Slowest link for which a frame is waited for. A frame of 2 MiB then has 32 s more than an empty
/// one.
const SLOWEST_BYTES_PER_S: u64 = 64 << 10;
/// Slowest link for which a requested answer is waited for: 32 kbit/s shared by sixteen readers.
const SLOWEST_ANSWER_BYTES_PER_S: u64 = 256;
/// Age at which an unanswered request ends its connection even if other answers arrive, as a
/// multiple of `ConnectionTimes::unanswered_after`.
const OLDEST_MULTIPLE: u32 = 10;
/// Silence in round trips after which a connection counts as dead, if that is longer than
/// [`ConnectionTimes::silent_after`]. The kernel retransmits a lost segment after one and a half or two
/// round trips (RFC 6298), and the retransmission may be lost too.
const SILENT_ROUND_TRIPS: u32 = 4;
/// Maximum silence after which a connection counts as dead, however long its round trip is. It is
/// less than a reader waits for a byte by default.
const SILENT_MAX: Duration = Duration::from_secs(8);
/// Pings that a peer may send per second on one connection, in addition to one for each of its
/// requests. A node sends one for each silence of a second, and at most five a second when it is
/// about to give the connection up.
pub const PINGS_PER_S: u32 = 10;
/// Maximum pings at once: more than the 40 that a peer sends within `SILENT_MAX`, after which it
/// hangs up. All of them may arrive together.
pub const PINGS_AT_ONCE: u32 = 64;

/// Limits of the TCP side. Tests shorten the times.
#[derive(Clone, Debug)]
pub struct PeerLimits {
    /// Time limits of a connection and its frames.
    pub times: ConnectionTimes,
    /// Limits on the number of connections.
    pub connections: ConnectionLimits,
    /// Maximum requests in flight on an urgent connection. Further ones wait at the asker; the
    /// server pauses reading.
    pub in_flight_urgent: usize,
    /// Maximum requests in flight on a bulk connection. With answers of 1 MiB this also bounds the
    /// memory.
    pub in_flight_bulk: usize,
    /// Maximum requests that wait for the node's event loop. The next one is answered `Busy`.
    pub incoming: usize,
    /// DSCP mark of bulk packets, 0 to 63. `None` leaves them unmarked.
    pub bulk_code_point: Option<u8>,
    /// Whether this node requests and serves batches of small files (`p2pfs/2` and later). Without
    /// them it speaks only `p2pfs/1`.
    pub batches: bool,
}

/// Time limits of a connection, from its opening to its end.
#[derive(Clone, Debug)]
pub struct ConnectionTimes {
    /// Time for opening a TCP connection.
    pub dial: Duration,
    /// Time from accepting a TCP connection to its first byte.
    pub first_byte: Duration,
    /// Time from that byte until both sides have proven membership. A dialler allows this time for
    /// TLS and once more for the greeting.
    pub handshake: Duration,
    /// Time between two attempts at an address if the connection of the first was lost. A node that
    /// stops has closed its listener by then.
    pub look_again: Duration,
    /// Silence on a connection with unanswered requests until a ping is sent.
    pub ping_after: Duration,
    /// Minimum silence on a connection with unanswered requests until it counts as dead and its
    /// requests fail. It is longer if the round trip is long.
    pub silent_after: Duration,
    /// Maximum silence on such a connection, however long the round trip is.
    pub silent_max: Duration,
    /// Time after which a connection counts as dead: its oldest open request is that old, and for
    /// that time no bytes of any answer arrived. A request that is ten times as old ends the
    /// connection in any case.
    pub unanswered_after: Duration,
    /// How long an unused dialled connection stays open.
    pub idle_dialled: Duration,
    /// How long an unused accepted connection stays open. This is longer than `idle_dialled`, so
    /// that the dialler closes first.
    pub idle_accepted: Duration,
    /// Time for an empty frame, from its first byte to its last. A longer one has more time.
    pub frame_grace: Duration,
}

/// Limits on the number of a node's connections.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Maximum proven connections accepted from all peers. Beyond it the oldest one from the
    /// IP address with the most connections is dropped. If none has more than
    /// `accepted_per_peer`, the new connection is dropped.
    pub accepted: usize,
    /// Maximum proven connections accepted from one peer. Beyond it the oldest is dropped.
    pub accepted_per_peer: usize,
    /// Maximum proven connections accepted from one IP address. Beyond it the oldest is dropped.
    pub accepted_per_ip: usize,
    /// Maximum unproven connections. Beyond it the oldest is dropped, preferably from an address
    /// without a member. Each may hold a buffer of up to 64 KiB with an unfinished TLS handshake.
    pub unproven: usize,
    /// Part of `unproven` that is reserved for addresses at which gossip has proven members.
    pub unproven_for_members: usize,
    /// Maximum unproven connections from one IP address. Beyond it the oldest is dropped.
    pub unproven_per_ip: usize,
    /// Maximum dialled connections. Beyond it the longest idle one is closed, or the dial fails if
    /// none is idle.
    pub dialled: usize,
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self {
            times: ConnectionTimes::default(),
            connections: ConnectionLimits::default(),
            in_flight_urgent: 64,
            in_flight_bulk: 16,
            incoming: 1024,
            bulk_code_point: None,
            batches: true,
        }
    }
}

impl Default for ConnectionTimes {
    fn default() -> Self {
        Self {
            dial: Duration::from_secs(5),
            first_byte: Duration::from_secs(1),
            handshake: Duration::from_secs(10),
            look_again: Duration::from_secs(1),
            ping_after: Duration::from_secs(1),
            silent_after: Duration::from_secs(2),
            silent_max: SILENT_MAX,
            unanswered_after: Duration::from_secs(30),
            idle_dialled: Duration::from_secs(60),
            idle_accepted: Duration::from_secs(90),
            frame_grace: Duration::from_secs(5),
        }
    }
}

impl ConnectionTimes {
    /// Returns the default times, but ends a silent connection before a reader with this deadline
    /// gives up, so that the reader can ask another holder. The silence stays at least
    /// [`Self::silent_after`].
    pub fn within_read_deadline(read_deadline: Duration) -> Self {
        let times = Self::default();
        let silent_max = (read_deadline * 4 / 5).clamp(times.silent_after, SILENT_MAX);
        Self {
            silent_max,
            ..times
        }
    }
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            accepted: ACCEPTED_CONNECTIONS as usize,
            accepted_per_peer: 8,
            accepted_per_ip: 512,
            unproven: 128,
            unproven_for_members: 64,
            unproven_per_ip: 32,
            dialled: 512,
        }
    }
}

impl PeerLimits {
    pub(super) fn in_flight(&self, lane: Lane) -> usize {
        match lane {
            Lane::Urgent => self.in_flight_urgent,
            Lane::Bulk => self.in_flight_bulk,
        }
    }

    /// Returns when a connection that brought nothing since `quiet_since` counts as dead. The time
    /// is later if its last known round trip is long, or if the other end's kernel has acknowledged
    /// something since. The answer may then wait in a queue.
    pub(super) fn silent(&self, quiet_since: Instant, link: &LastTcpInfo) -> Instant {
        let least = quiet_since + self.times.silent_after;
        let most = quiet_since + self.times.silent_after.max(self.times.silent_max);
        let late = quiet_since + link.round_trip() * SILENT_ROUND_TRIPS;
        let acked = link
            .acked()
            .map_or(least, |acked| acked + self.times.silent_after);
        late.max(acked).clamp(least, most)
    }

    /// Returns the DSCP mark of a connection for this lane.
    pub(super) fn code_point(&self, lane: Lane) -> Option<u8> {
        self.bulk_code_point.filter(|_| lane == Lane::Bulk)
    }

    /// Returns how long a frame of this length may take from its first byte to its last.
    pub(super) fn frame_time(&self, length_bytes: usize) -> Duration {
        self.times.frame_grace + Duration::from_secs(length_bytes as u64 / SLOWEST_BYTES_PER_S)
    }

    /// Returns how long an answer of this length may take from its first byte to its last. A long
    /// one has more time than another frame, because it was requested.
    pub(super) fn answer_time(&self, length_bytes: usize) -> Duration {
        let slowest = Duration::from_secs(length_bytes as u64 / SLOWEST_ANSWER_BYTES_PER_S);
        self.times.frame_grace + slowest.min(self.times.unanswered_after * OLDEST_MULTIPLE)
    }

    /// Returns when a connection counts as dead, given when its oldest request was sent and when
    /// bytes of an answer last arrived.
    pub(super) fn unanswered(&self, oldest: Instant, brought: Instant) -> Instant {
        let quiet = oldest.max(brought) + self.times.unanswered_after;
        quiet.min(oldest + self.times.unanswered_after * OLDEST_MULTIPLE)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tcp_info::TcpInfo;
    use super::*;

    #[test]
    fn a_silent_connection_ends_before_the_read_deadline() {
        let seconds = Duration::from_secs;
        let (quiet_since, link) = (Instant::now(), LastTcpInfo::default());
        // With this round trip, the longest silence applies.
        let reading = TcpInfo {
            round_trip: seconds(60),
            ..TcpInfo::default()
        };
        link.set(quiet_since, reading);
        for (deadline, silence) in [(1, 2), (5, 4), (10, 8), (300, 8)] {
            let limits = PeerLimits {
                times: ConnectionTimes::within_read_deadline(seconds(deadline)),
                ..PeerLimits::default()
            };
            let end = quiet_since + seconds(silence);
            assert_eq!(limits.silent(quiet_since, &link), end, "{deadline} s");
        }
    }
}
