//! TLS 1.3 connections with few copies of each byte. rustls makes the handshake ([`connect`],
//! [`accept`]) and derives the keys. This crate encrypts and decrypts the records (RFC 8446, section
//! 5).
//!
//! To *seal* is to encrypt a record, and to *open* is to decrypt one. This crate seals the caller's
//! bytes into the output buffer, and opens a received record into the caller's buffer if that is
//! long enough. With rustls alone, each byte is copied once more to send it, and three times more to
//! receive it.
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
