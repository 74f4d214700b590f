//! What mesh peers do wrong, by who they say they are and where from.

use std::net::IpAddr;

use crate::wire::mesh::{BYTES_MAX, LINE_MAX_BYTES, LISTED_MAX};
pub use p2pfs_types::offences::OFFENDERS_MAX;
use p2pfs_types::offences::{Ledger, Offending};

/// Who offended, and how.
pub(super) type Offenders = Ledger<Culprit, Offence>;

/// What a peer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Offence {
    /// A first line that is none.
    #[error("begins with what is no line of the protocol")]
    NoHello,
    /// Too many lines.
    #[error("sends more lines than anyone says or reads")]
    Flood,
    /// No line end.
    #[error("sent a line of more than {LINE_MAX_BYTES} bytes")]
    EndlessLine,
    /// A payload that may not be.
    #[error("announced a payload that is not of 0 to {BYTES_MAX} bytes")]
    BadBytes,
    /// A payload's length that is no number.
    #[error("sent a payload's length that is no number")]
    BadLength,
    /// A long list.
    #[error("listed more than {LISTED_MAX} addresses at once")]
    ManyAddresses,
    /// Nothing, or a drip.
    #[error("sent too slowly, or nothing")]
    TooSlow,
    /// It takes nothing of what it is sent.
    #[error("does not read what it is sent")]
    NeverReads,
    /// A file message that means nothing.
    #[error("sent a message about a file that means nothing")]
    BadFile,
    /// More files at a time, or a second, than are taken.
    #[error("pushes more files at once than are taken")]
    ManyFiles,
    /// A file that does not come to its hash.
    #[error("sent a file that does not fit its hash")]
    WrongHash,
    /// A file that does not come to its size.
    #[error("sent a file that does not fit the size that it had announced")]
    WrongSize,
}

/// Who it was: an ID alone is whatever its sender says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Culprit {
    /// Where its connection came from, or was made to.
    pub ip: IpAddr,
    /// The ID that it gave; empty before it gave one.
    pub id: String,
    /// The name that it gave; empty before it gave one.
    pub name: String,
}

impl Offending for Offence {}
