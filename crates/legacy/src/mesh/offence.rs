//! Offences of mesh peers, by claimed identity and address.

use std::net::IpAddr;

use crate::wire::mesh::{BYTES_MAX, LINE_MAX_BYTES, LISTED_MAX};
pub use p2pfs_types::offences::OFFENDERS_MAX;
use p2pfs_types::offences::{OffenceLog, Offending};

/// Offences by peer.
pub(super) type MeshOffenders = OffenceLog<Culprit, MeshOffence>;

/// An offence of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MeshOffence {
    /// An invalid first line.
    #[error("begins with a line that is not of the protocol")]
    NoHello,
    /// Too many lines.
    #[error("sends more lines than anyone says or reads")]
    Flood,
    /// A line without an end.
    #[error("sent a line of more than {LINE_MAX_BYTES} bytes")]
    EndlessLine,
    /// A payload with an invalid length.
    #[error("announced a payload that is not of 0 to {BYTES_MAX} bytes")]
    BadBytes,
    /// A payload length that is not a number.
    #[error("sent a payload length that is not a number")]
    BadLength,
    /// A list with too many addresses.
    #[error("listed more than {LISTED_MAX} addresses at once")]
    ManyAddresses,
    /// No data, or too little, in a handshake or in the middle of a message.
    #[error("sent too slowly, or nothing")]
    TooSlow,
    /// The peer does not read the bytes that this node sends.
    #[error("does not read what it is sent")]
    NeverReads,
    /// An invalid message about a file.
    #[error("sent a message about a file that means nothing")]
    BadFile,
    /// More files at a time, or per second, than are accepted.
    #[error("pushes more files at once than are taken")]
    ManyFiles,
    /// A file that does not match its hash.
    #[error("sent a file that does not fit its hash")]
    WrongHash,
    /// A file that does not match its size.
    #[error("sent a file that does not fit the size that it had announced")]
    WrongSize,
}

/// Identity of an offender. An ID alone proves nothing, because its sender chooses it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Culprit {
    /// Remote IP address of its connection.
    pub ip: IpAddr,
    /// Claimed ID; empty before the peer sent one.
    pub id: String,
    /// Claimed name; empty before the peer sent one.
    pub name: String,
}

impl Offending for MeshOffence {}
