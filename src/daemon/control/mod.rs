//! The control socket: how the command line and other local programs call the daemon.
//!
//! Begin with `calls`, which declares every call. Owns the Varlink interface `org.p2pfs.Control`:
//! its calls, the types of its replies, the rights of callers, and the server and client of the
//! wire protocol. The protocol consists of JSON objects, each ended by a NUL byte, on a Unix stream
//! socket (<https://varlink.org/Method-Call>). Each permitted call of this interface becomes a
//! [`ControlRequest`] in a bounded queue, and `service::answers` answers it. Only calls of
//! `org.varlink.service` are answered here.
//!
//! The protocol is implemented here rather than taken from the `zlink` crate. The server of that
//! crate answers one call at a time for all connections, so that one slow call or reader would
//! delay all others. That server accepts any number of connections and buffers up to 100 MiB for
//! each, and its future cannot be spawned. The part of the protocol that is needed here is a few
//! lines of framing.
//!
//! An error ends one call. A caller that violates the protocol loses its connection. Neither
//! affects other connections.

mod again;
mod answer;
mod call;
mod calls;
mod client;
mod connection;
mod credentials;
mod described;
mod descriptor;
mod failed_start;
mod failure;
mod framing;
mod giving;
mod health;
mod interface;
mod lost;
mod membership;
mod names;
mod process;
mod provenance;
mod request;
mod server;
mod shares;
mod top;
mod turn;
mod types;

pub use again::Breaks;
pub use answer::{Answer, LastReply, Parameters};
pub use call::{CallError, CallInfo, DESCRIPTION, INTERFACE, Right};
pub use calls::*;
pub use client::{Client, ClientError, RawReply};
pub use connection::{IDLE_MAX, QUEUE_WAIT_MAX, REPLY_READ_MAX};
pub use credentials::{Credentials, Policy, is_one_user};
pub use described::{Described, Field, FieldType, ObjectType};
pub use descriptor::PIPE_BYTES;
pub use failed_start::FailedStart;
pub use failure::{Failure, FailureKind};
pub use framing::{CALL_MAX_BYTES, READ_CALL_MAX_BYTES, REPLY_MAX_BYTES};
pub use giving::*;
pub use health::*;
pub use lost::*;
pub use membership::{
    Admitted, Expelled, GoneNode, Left, OwnedPath, Rotated, Trust, TrustStep, TrustedNode,
};
pub use names::{EntryKind, Named, Problem};
pub use process::Process;
pub use provenance::*;
pub use request::{CallerGone, ControlRequest, PENDING_REPLIES_MAX, ReplySink};
pub use server::{ControlError, ControlServer};
pub use shares::*;
pub use top::*;
pub use turn::Turn;
pub use types::*;

/// Maximum entries in one page of a listing.
pub const LS_PAGE_MAX_ENTRIES: usize = 1000;
/// Maximum paths in one call: as many as a shell passes to a command for a pattern, within
/// [`CALL_MAX_BYTES`]. A caller with more paths makes several calls.
pub const PATHS_MAX: usize = 16_384;
/// Maximum receivers in one call.
pub const RECEIVERS_MAX: usize = 32;
/// Maximum problems listed for one share. The counts cover the rest.
pub const PROBLEMS_MAX: usize = 20;

#[cfg(test)]
mod tests;
