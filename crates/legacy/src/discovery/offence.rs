//! What legacy peers do wrong, by address.

use std::net::SocketAddrV4;

use super::rate::PER_S;
pub use p2pfs_types::offences::OFFENDERS_MAX;
use p2pfs_types::offences::{Ledger, Offending};

/// Who offended, and how.
pub(super) type Offenders = Ledger<SocketAddrV4, Offence>;

/// What a peer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Offence {
    /// Over its rate; what was over was not read.
    #[error("sends more than {PER_S} datagrams a second")]
    Flood,
    /// A `File` answer from one that is no member and was not asked.
    #[error("answers a question that it was not asked")]
    StrayAnswer,
    /// A transfer's header that says no size, or another name.
    #[error("sent a header that is not of the file asked for")]
    WrongHeader,
    /// Less than it had announced.
    #[error("ended a transfer before the size that it had announced")]
    EarlyEnd,
    /// More than it had announced.
    #[error("sent more than the size that it had announced")]
    Surplus,
    /// Nothing, or a drip.
    #[error("sent too slowly, or nothing")]
    TooSlow,
}

impl Offending for Offence {
    /// The sender could have been another than its address says.
    fn is_forgeable(self) -> bool {
        matches!(self, Self::Flood | Self::StrayAnswer)
    }
}
