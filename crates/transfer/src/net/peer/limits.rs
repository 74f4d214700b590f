//! How many and how long, in one place.

use std::time::Duration;

use tokio::time::Instant;

use super::polite::LastReading;
use p2pfs_proto::trust::{self, EXCHANGE_MAX_BYTES};
use p2pfs_proto::wire::native::tcp::{CHAIN_MAX_BYTES, Lane, TRUST_MAX_BYTES};

// what two members say of who is in, and what one shows to be let in, has its place in a frame
const _: () = assert!(TRUST_MAX_BYTES == EXCHANGE_MAX_BYTES);
const _: () = assert!(CHAIN_MAX_BYTES == trust::CHAIN_MAX_BYTES);

/// Proven connections that are accepted from all peers where no setting says otherwise.
pub const ACCEPTED_CONNECTIONS: u32 = 1024;
/// The slowest link for which a frame is waited for. A frame of 2 MiB then has 32 s.
const SLOWEST_BYTES_PER_S: u64 = 64 << 10;
/// The same for an answer that was asked for: a link of 32 kbit/s that sixteen readers share. Who
/// is slow is asked for a chunk or less at a time, and whoever else has it is asked too.
const SLOWEST_ANSWER_BYTES_PER_S: u64 = 256;
/// The age at which any request ends its connection, in multiples of the one for a request on a
/// connection that brings no answers.
const OLDEST_MULTIPLE: u32 = 10;
/// A connection counts as dead after the silence of so many round trips, where that is longer: its
/// kernel sends again what was lost after one and a half or two (RFC 6298), and that may be lost.
const SILENT_ROUND_TRIPS: u32 = 4;
/// What that comes to at most: less than a reader waits for a byte.
const SILENT_MAX: Duration = Duration::from_secs(8);
/// Records in a row that may carry no byte: as many as rustls and BoringSSL take. No node of ours
/// sends any.
pub const EMPTY_RECORDS_MAX: u32 = 32;
/// Pings that a peer may send a second on one connection, besides one for each request, which it
/// may take back by it. A node sends one for each silence of a second, and at most five a second
/// where it is about to give the connection up.
pub const PINGS_PER_S: u32 = 10;
/// The same at once: what a peer sends within [`SILENT_MAX`], after which it hangs up, and that may
/// all arrive together.
pub const PINGS_AT_ONCE: u32 = 64;
/// How much of what came is taken from the socket before it is opened: few system calls, and what
/// came with one is still in the processor's nearest caches when it is opened.
pub(super) const READ_AHEAD_BYTES: usize = 64 << 10;
/// How much is sealed ahead of the socket, so that one system call takes many records.
pub(super) const WRITE_AHEAD_BYTES: usize = 256 << 10;

/// Every limit of the TCP side. Tests shorten the times.
#[derive(Clone, Debug)]
pub struct PeerLimits {
    /// Until a TCP connection stands.
    pub dial: Duration,
    /// From then until the first byte of an accepted connection.
    pub first_byte: Duration,
    /// From then until both sides have proven membership.
    pub handshake: Duration,
    /// Between two looks at an address where the other end hung up on the first: a node that stops
    /// listens no more by then.
    pub look_again: Duration,
    /// Between two dials of a connection in the place of one whose keys are worn, where the first
    /// was in vain: that one goes on meanwhile, and bears as much again.
    pub renew_again: Duration,
    /// Silence on a connection with unanswered requests until we ask whether anyone is there.
    pub ping_after: Duration,
    /// The same until the connection counts as dead, and its requests fail, where its round trip is
    /// not long.
    pub silent_after: Duration,
    /// The age of a request at which its connection counts as dead, where no bytes of answers came
    /// for as long; ten times as much where some did.
    pub unanswered_after: Duration,
    /// How long a connection that we dialled stays open unused.
    pub idle_dialled: Duration,
    /// The same for one that we accepted; longer, so that the dialler is the one to close.
    pub idle_accepted: Duration,
    /// How long any frame may take, besides a second for each 64 KiB, or each 8 KiB of an answer.
    pub frame_grace: Duration,
    /// Requests in flight on an urgent connection; more wait at the asker, and at the server
    /// reading pauses.
    pub in_flight_urgent: usize,
    /// The same on a bulk connection; with answers of 1 MiB this also bounds the memory.
    pub in_flight_bulk: usize,
    /// Proven connections accepted from all peers; the oldest one from the address that has most
    /// gives way to the next, which is dropped where none has more than a peer's.
    pub accepted: usize,
    /// Proven connections accepted from one peer; the oldest gives way to the next.
    pub accepted_per_peer: usize,
    /// Proven connections accepted from one IP address; the oldest gives way to the next.
    pub accepted_per_ip: usize,
    /// Connections that have proven nothing yet; the oldest gives way to the next. Each has
    /// in TLS up to 64 KiB of an unfinished message.
    pub unproven: usize,
    /// Of these, how many places are kept for addresses where gossip has proven members to be.
    pub unproven_for_members: usize,
    /// Connections from one IP address that have proven nothing; the oldest gives way to the next.
    pub unproven_per_ip: usize,
    /// Connections that we dialled; the longest idle gives way.
    pub dialled: usize,
    /// Requests that wait for the node's event loop; the next one is answered `Busy`.
    pub incoming: usize,
    /// How packets of bulk connections are marked (DSCP, 0 to 63); none: not at all.
    pub bulk_code_point: Option<u8>,
    /// Whether many small files are asked for at once, and given so: by `p2pfs/2`. Without it this
    /// node is one of those that know `p2pfs/1` alone.
    pub batches: bool,
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self {
            dial: Duration::from_secs(5),
            first_byte: Duration::from_secs(1),
            handshake: Duration::from_secs(10),
            look_again: Duration::from_secs(1),
            renew_again: Duration::from_secs(5),
            ping_after: Duration::from_secs(1),
            silent_after: Duration::from_secs(2),
            unanswered_after: Duration::from_secs(30),
            idle_dialled: Duration::from_secs(60),
            idle_accepted: Duration::from_secs(90),
            frame_grace: Duration::from_secs(5),
            in_flight_urgent: 64,
            in_flight_bulk: 16,
            accepted: ACCEPTED_CONNECTIONS as usize,
            accepted_per_peer: 8,
            accepted_per_ip: 512,
            unproven: 128,
            unproven_for_members: 64,
            unproven_per_ip: 32,
            dialled: 512,
            incoming: 1024,
            bulk_code_point: None,
            batches: true,
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

    /// When a connection counts as dead that brought nothing since `quiet_since`: later where its
    /// round trip was long lately, or where the other end's kernel has acknowledged something
    /// since, so that the answer may stand in a queue.
    pub(super) fn silent(&self, quiet_since: Instant, link: &LastReading) -> Instant {
        let least = quiet_since + self.silent_after;
        let most = quiet_since + self.silent_after.max(SILENT_MAX);
        let late = quiet_since + link.round_trip() * SILENT_ROUND_TRIPS;
        let acked = link
            .acked()
            .map_or(least, |acked| acked + self.silent_after);
        late.max(acked).clamp(least, most)
    }

    /// What a connection for this lane is marked with.
    pub(super) fn code_point(&self, lane: Lane) -> Option<u8> {
        self.bulk_code_point.filter(|_| lane == Lane::Bulk)
    }

    /// How long a frame of this length may take from its first byte to its last.
    pub(super) fn frame_time(&self, length_bytes: usize) -> Duration {
        self.frame_grace + Duration::from_secs(length_bytes as u64 / SLOWEST_BYTES_PER_S)
    }

    /// The same for an answer, which whoever gets it has asked for.
    pub(super) fn answer_time(&self, length_bytes: usize) -> Duration {
        let slowest = Duration::from_secs(length_bytes as u64 / SLOWEST_ANSWER_BYTES_PER_S);
        self.frame_grace + slowest.min(self.unanswered_after * OLDEST_MULTIPLE)
    }

    /// When a connection counts as dead whose oldest request was sent at `oldest` and which last
    /// brought bytes of an answer at `brought`.
    pub(super) fn unanswered(&self, oldest: Instant, brought: Instant) -> Instant {
        let quiet = oldest.max(brought) + self.unanswered_after;
        quiet.min(oldest + self.unanswered_after * OLDEST_MULTIPLE)
    }
}
