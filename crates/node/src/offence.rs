//! Behaviour of other nodes that no honest node shows.

use p2pfs_catalogue::{
    AUTHOR_MAX_BYTES, AUTHOR_MAX_DIRECTORIES, DropCause, RECORDS_PER_AUTHOR_MAX,
};
use p2pfs_proto::trust::{FAREWELLS_PER_MEMBERSHIP_MAX, STATEMENTS_PER_ADMIN_MAX};
use p2pfs_transfer::net::peer::DropReason;
use p2pfs_types::offences::Offending;

/// The kinds of offences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Offence {
    /// It forwarded a departure, a generation or a head that its subject did not sign.
    #[error("said of other nodes what they did not sign")]
    SpeaksForOthers,
    /// It signed a generation that is more than a day in the future.
    #[error("spoke of a start more than a day after now: compare the clocks")]
    AheadOfClock,
    /// It listed a version with a date in the future.
    #[error("listed files dated after now, by up to {ahead_s} s, which wait for their time")]
    DatesAhead {
        /// How far the latest date is ahead of this node's clock, in seconds.
        ahead_s: u64,
    },
    /// It lists a version that no holder gave, under a name that has another version.
    #[error("listed versions of files that no node gave: other versions have their names")]
    GivesNothing,
    /// Its log exceeds the budget of one author.
    #[error(
        "listed more than a node may ({RECORDS_PER_AUTHOR_MAX} names, {AUTHOR_MAX_DIRECTORIES} \
         directories, {} MiB of them): none of it is shown",
        AUTHOR_MAX_BYTES >> 20
    )]
    ListsTooMuch,
    /// Its log is the largest while all logs together exceed the total.
    #[error("listed the most of all, which were more names than fit: none of its are shown")]
    ListsMost,
    /// It sends reader lists that name this node faster than this node accepts them.
    #[error("sent lists of readers faster than a node may, which made its names wait")]
    ListsReadersTooFast,
    /// It signed more statements than one node may.
    #[error(
        "said more of who is in than a node may ({STATEMENTS_PER_ADMIN_MAX} times, and \
         {FAREWELLS_PER_MEMBERSHIP_MAX} times that one membership of it ends): what is beyond that \
         is not heard"
    )]
    StatesTooMuch,
    /// It sent a part of a log that is malformed or does not match its head.
    #[error("passed on names that their author did not sign, or that cannot be")]
    BadLog,
    /// It sent a message that does not decode.
    #[error("sent messages that mean nothing")]
    Garbage,
    /// It sent bytes that do not match their hash.
    #[error("sent bytes that do not fit their hash")]
    WrongBytes,
    /// It broke the protocol on a connection.
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

/// Defines the names of the kinds and their places from one list.
macro_rules! kinds {
    ($($kind:pat => $name:literal,)+) => {
        /// The names of all kinds, for metrics.
        pub const KINDS: [&'static str; [$($name),+].len()] = [$($name),+];

        /// Returns the place of the kind in [`Self::KINDS`].
        pub(super) fn place(self) -> usize {
            let name = match self {
                $($kind => $name,)+
            };
            let place = Self::KINDS.iter().position(|it| *it == name);
            place.unwrap_or_default()
        }
    };
}

impl Offence {
    kinds! {
        Self::SpeaksForOthers => "speaks-for-others",
        Self::AheadOfClock => "ahead-of-clock",
        Self::DatesAhead { .. } => "dates-ahead",
        Self::GivesNothing => "gives-nothing",
        Self::ListsTooMuch => "lists-too-much",
        Self::ListsMost => "lists-most",
        Self::ListsReadersTooFast => "lists-readers-too-fast",
        Self::StatesTooMuch => "states-too-much",
        Self::BadLog => "bad-log",
        Self::Garbage => "garbage",
        Self::WrongBytes => "wrong-bytes",
        Self::Breach(_) => "breach",
    }

    /// Returns the offence of a node whose log was dropped, or `None` if the log was dropped only
    /// because the node had departed.
    pub(super) fn of_dropped(why: DropCause) -> Option<Self> {
        match why {
            DropCause::OverAuthor => Some(Self::ListsTooMuch),
            DropCause::OverTotal => Some(Self::ListsMost),
            DropCause::Gone => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_counted_under_its_own_name() {
        let name = |offence: Offence| Offence::KINDS[offence.place()];
        assert_eq!(name(Offence::SpeaksForOthers), "speaks-for-others");
        assert_eq!(name(Offence::BadLog), "bad-log");
        assert_eq!(name(Offence::Breach(DropReason::Silent)), "breach");
        let distinct: std::collections::BTreeSet<_> = Offence::KINDS.into_iter().collect();
        assert_eq!(distinct.len(), Offence::KINDS.len());
    }
}
