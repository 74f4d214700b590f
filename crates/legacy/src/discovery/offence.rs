//! Offences of legacy peers, by address.

use std::net::SocketAddrV4;

use super::rate::PER_S;
pub use p2pfs_types::offences::OFFENDERS_MAX;
use p2pfs_types::offences::{OffenceLog, Offending};

/// Offences by peer.
pub(super) type DiscoveryOffenders = OffenceLog<SocketAddrV4, DiscoveryOffence>;

/// An offence of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryOffence {
    /// More datagrams than its rate permits. The surplus was dropped.
    #[error("sends more than {PER_S} datagrams a second")]
    Flood,
    /// A `File` answer from an address that is not a member and was not asked an open question.
    #[error("answers a question that it was not asked")]
    StrayAnswer,
    /// A transfer header without a size, or with another name.
    #[error("sent a header that is not of the file asked for")]
    WrongHeader,
    /// Less data than announced.
    #[error("ended a transfer before the size that it had announced")]
    EarlyEnd,
    /// More data than announced.
    #[error("sent more than the size that it had announced")]
    Surplus,
    /// No data, or only a trickle.
    #[error("sent too slowly, or nothing")]
    TooSlow,
}

impl Offending for DiscoveryOffence {
    /// Returns whether the sender address may be forged.
    fn is_forgeable(self) -> bool {
        matches!(self, Self::Flood | Self::StrayAnswer)
    }
}
