//! TLS 1.3 connections. This crate seals and opens their records (RFC 8446, section 5) itself.
//!
//! rustls makes the handshake ([`connect`], [`accept`]) and derives the keys of the records.
//! Afterwards this crate seals the caller's bytes into the output buffer. It opens a received
//! record into the caller's buffer if the record fits there. rustls copies each byte once when it
//! sends, and three times when it receives.
//!
//! ```text
//!  connect, accept ──▶ handshake (rustls, unbuffered) ──▶ KernelConnection
//!                             │                               │ next keys
//!                             ▼                               ▼
//!                         TlsStream ──split──▶ RecordReader, RecordWriter
//!                                                   │            │
//!                                                 Opener       Sealer     (seal: no I/O)
//! ```
//!
//! The caller provides the configuration of the handshake. `docs/tls.md` has the rules and the
//! threat model.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests may read the clock")
)]

mod exporter;
mod handshake;
mod keys;
mod limits;
mod seal;
mod stream;
#[cfg(any(test, feature = "test-support"))]
pub mod testing;

pub use handshake::{HandshakeError, Side, accept, connect};
pub use limits::{EMPTY_RECORDS_MAX, HANDSHAKE_MAX_BYTES, LIMITS, WRITE_AHEAD_BYTES};
pub use seal::{CARRIED_MAX_BYTES, OVERHEAD_BYTES, Opener, RecordError, Sealer};
pub use stream::{RecordObserver, RecordReader, RecordWriter, SplitStream, TlsStream, UnreadBytes};
