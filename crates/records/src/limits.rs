//! The limits on what another end can make this crate do.

use p2pfs_types::limit::{Limit, LimitTests, LimitValue};

use crate::seal::RECORD_MAX_BYTES;

/// Maximum records in a row without a byte of the stream, key updates included. rustls and
/// BoringSSL accept as many empty records. p2pfs sends none except key updates.
pub const EMPTY_RECORDS_MAX: u32 = 32;
/// Maximum received bytes of a handshake that rustls has not processed yet: two records of the
/// largest size. The largest handshake message of p2pfs has about 2 KiB, because it contains the
/// key of a post-quantum key exchange.
pub const HANDSHAKE_MAX_BYTES: usize = 2 * RECORD_MAX_BYTES;
/// Maximum size of the read buffer in bytes after a connection is split. It is large enough to save
/// system calls, and small enough that received bytes are still in the processor's cache when they
/// are opened.
pub(crate) const READ_AHEAD_BYTES: usize = 64 << 10;
/// Number of sealed bytes waiting for the socket at which the writer seals no further record. It
/// continues when the socket has accepted all sealed bytes. One system call can thus take many
/// records.
pub const WRITE_AHEAD_BYTES: usize = 256 << 10;

/// The limits of this crate, for p2pfs(8).
pub const LIMITS: &[Limit] = &[
    Limit {
        name: "records::EMPTY_RECORDS_MAX",
        value: LimitValue::Count(EMPTY_RECORDS_MAX as u64),
        text: "TLS records in a row that may carry no byte. One more ends the connection, and \
               the peer is named.",
        tests: LimitTests::By(&[
            "crates/records/src/stream/tests.rs empty_records_in_a_row_are_bounded",
            "crates/transfer/src/net/peer/tests/floods.rs a_member_that_sends_endless_empty_records_is_disconnected_and_named",
        ]),
    },
    Limit {
        name: "records::HANDSHAKE_MAX_BYTES",
        value: LimitValue::Bytes(HANDSHAKE_MAX_BYTES as u64),
        text: "bytes of an unfinished TLS handshake in memory. More end the connection.",
        tests: LimitTests::By(&[
            "crates/records/src/handshake/tests.rs a_handshake_without_end_is_given_up_at_its_limit",
        ]),
    },
];
