//! What another node can do that no honest one does.

use p2pfs_catalogue::{
    AUTHOR_MAX_BYTES, AUTHOR_MAX_DIRECTORIES, DropCause, RECORDS_PER_AUTHOR_MAX,
};
use p2pfs_proto::trust::STATEMENTS_PER_ADMIN_MAX;
use p2pfs_transfer::net::peer::DropReason;
use p2pfs_types::offences::Offending;

/// What another node did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Offence {
    /// A departure, a life or a head that its subject did not sign.
    #[error("says of other nodes what they did not sign")]
    SpeaksForOthers,
    /// A generation from the future.
    #[error("speaks of a start more than a day after now: compare the clocks")]
    AheadOfClock,
    /// A version from the future.
    #[error("lists files that are dated after now, which wait for their time: compare the clocks")]
    DatesAhead,
    /// Over the budget of one author.
    #[error(
        "lists more than a node may ({RECORDS_PER_AUTHOR_MAX} names, {AUTHOR_MAX_DIRECTORIES} \
         directories, {} MiB of them): none of it is shown",
        AUTHOR_MAX_BYTES >> 20
    )]
    ListsTooMuch,
    /// The largest while all are over the total.
    #[error("lists the most of all, which are more names than fit: none of its are shown")]
    ListsMost,
    /// More lists of readers that name this node than it takes in at once.
    #[error("says lists of readers faster than a node may, which makes its names wait")]
    ListsReadersTooFast,
    /// More statements about who is in than one node may sign.
    #[error(
        "says more of who is in than a node may ({STATEMENTS_PER_ADMIN_MAX} times): what is \
         beyond that is not heard"
    )]
    StatesTooMuch,
    /// A part of a log that cannot be one, or does not fit its head.
    #[error("passes on names that their author did not sign, or that cannot be")]
    BadLog,
    /// A message that does not decode.
    #[error("sends messages that mean nothing")]
    Garbage,
    /// Bytes that do not fit their hash.
    #[error("sent bytes that do not fit their hash")]
    WrongBytes,
    /// A connection that it broke.
    #[error("broke the protocol: {0}")]
    Breach(DropReason),
}

impl Offending for Offence {}

impl From<p2pfs_membership::Offence> for Offence {
    fn from(offence: p2pfs_membership::Offence) -> Self {
        match offence {
            p2pfs_membership::Offence::SpeaksForOthers => Self::SpeaksForOthers,
            p2pfs_membership::Offence::AheadOfClock => Self::AheadOfClock,
        }
    }
}

impl Offence {
    /// What a node did whose log gave way; nothing where it is only gone.
    pub(super) fn of_dropped(why: DropCause) -> Option<Self> {
        match why {
            DropCause::OverAuthor => Some(Self::ListsTooMuch),
            DropCause::OverTotal => Some(Self::ListsMost),
            DropCause::Gone => None,
        }
    }
}
