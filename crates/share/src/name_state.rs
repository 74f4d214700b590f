//! The states of one shared name, and the table of its transitions.
//!
//! The table is a function of the state, the observation and a few facts. It returns the next state
//! and the effects, and updates the [`FileNotes`]. It reads no clock and changes nothing else.
//! [`HashQueue`](super::queue) stores the states of the names that wait to be read and gives each
//! file its place. `ListingState` passes the observations in and applies the effects to the
//! listing. `EventOrder` sees only the effects.
//!
//! ```text
//!  Absent, Listed, Doubted, Checking, Rejected
//!     │                    │
//!     │ written to         │ closed, or found at rest
//!     ▼                    ▼
//!  BeingWritten ──────▶ Queued ──────▶ Hashing ───────▶ Listed
//!     ▲     at rest     ▲ ▲  ▲  taken  │ │ │ │  hashed
//!     │                 │ │  └─────────┘ │ │ ├────────▶ Doubted ── at rest ──▶ Queued
//!     │                 │ │    changed   │ │ │  hashed, in doubt
//!     │           Paced ┘ └── Settling ◀─┘ │ ├────────▶ Rejected
//!     │                    closed, and     │ │  cannot be read
//!     │                    still open      │ └────────▶ Checking
//!     └────────────────────────────────────┘    is another file
//!        written to, or short of resources
//!
//!  any state ── the name is gone, or stands for no file ──────────▶ Absent
//!  any state ── a check finds the attributes of a remembered hash ─▶ Listed, or Doubted
//!  Hashing ──── a check finds a change ───────────────────────────▶ Hashing, with `again`
//! ```
//!
//! A file that changes again and again (`pace`) is `Paced` before it is `Queued`. A file that was
//! written for a long time is queued between two writes.
//!
//! A directory or a link that is listed is always `Listed`. A name that a check leaves out becomes
//! `Absent` and then `Rejected`. While a file waits to be read or is read, the listing keeps what
//! it showed before: nothing, the former version, or the reason for leaving the name out.

use std::time::{Duration, Instant};

use super::identity::{FileIdentity, FileTimestamp};
use super::outcome::{HashOutcome, HashTrust};
use super::pace::whole_read_rest;
use super::queue::{PROMISED_MAX_BYTES, QueueLane};
use super::watch::Cause;

/// Longest wait of a paced file for which later turns wait. It bounds the delay of other files.
const PACED_BLOCK_MAX: Duration = Duration::from_millis(250);
/// First wait for a file that is open for writing although its close was reported. The kernel
/// reports a close some microseconds before it decrements the writer count, or milliseconds if the
/// closing thread has to wait in between.
const CLOSING_WAIT: Duration = Duration::from_millis(20);
/// How long a listed file that programs write all the time keeps its listed version. After that, it
/// is read between two writes. However, a file over
/// [`PROMISED_MAX_BYTES`](super::queue::PROMISED_MAX_BYTES) is read only if it has grown, because a
/// file that is written in place would change again before its end is read.
pub(super) const BUSY_READ_AFTER: Duration = Duration::from_secs(10);

/// State of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameState {
    /// The name has no listed file, and no read is due.
    Absent,
    /// It was created or written to, a process has it open for writing, or it could not be read for
    /// lack of resources. It rests, at first for at most the quiet period.
    BeingWritten,
    /// It is still open for writing or was written to again, although its close was reported or it
    /// had been at rest. It rests for a short time, because the kernel may not have finished the
    /// close.
    Settling,
    /// The file changed again too soon after it was read. `sure` is as in [`Self::Queued`].
    Paced { sure: bool },
    /// The file may be read. If `sure` is false, and the file was written lately, it is read only
    /// if no process has it open for writing.
    Queued { purpose: ReadPurpose, sure: bool },
    /// It is being read. `again` is the cause of the changes that were noticed since.
    Hashing {
        purpose: ReadPurpose,
        sure: bool,
        again: Option<Cause>,
    },
    /// The last read ended with [`HashOutcome::Elsewhere`]. A check was requested.
    Checking,
    /// It is listed, and no read is due.
    Listed,
    /// It is listed with a hash in doubt, and is read again when it has been at rest.
    Doubted,
    /// It is left out, and no read is due.
    Rejected,
}

/// Why a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadPurpose {
    /// To list it.
    List,
    /// To list it after a rest, although no close was reported.
    ListUnclosed,
    /// To list it although a program writes it all the time.
    ListBusy,
    /// Only to verify its listed hash.
    Verify,
}

/// Facts about the writers and the last read of a file, kept while it waits to be read or checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FileNotes {
    /// When the first close was reported since the file was last hashed.
    pub(super) closed_at: Option<Instant>,
    /// When a write was first noticed since the file was last hashed, and size of the file then. It
    /// is set for a listed file that is written to, and for a file that a walk finds soon after a
    /// write. If the file is still being written [`BUSY_READ_AFTER`] after this time, it is read
    /// between two writes ([`ReadPurpose::ListBusy`]). Such a read sets both values to those at its
    /// start.
    pub(super) written: Option<(Instant, u64)>,
    /// Whether it is listed with a hash that was made without reading it whole.
    pub(super) is_extended: bool,
    /// Whether it is listed and may no longer have its listed content.
    pub(super) is_suspected: bool,
}

/// Facts about a name, besides its state, that its next state depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct NameFacts {
    pub(super) now: Instant,
    /// How long a file must be at rest before it counts as complete.
    pub(super) quiet: Duration,
    pub(super) size_bytes: u64,
    /// When the attributes of the file last changed.
    pub(super) changed: FileTimestamp,
    /// State that the listing shows: [`NameState::Absent`], [`NameState::Listed`] or
    /// [`NameState::Rejected`].
    pub(super) shown: NameState,
    /// When the file may be read again, if it was read so recently that it must wait.
    pub(super) paced_until: Option<Instant>,
}

/// How a changed file was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FoundBy {
    /// By a report of the kernel.
    Report,
    /// While a new tree was read. `is_awaited` says that later turns wait for the file.
    NewTree { is_awaited: bool },
    /// By a walk through the share.
    Walk,
}

/// An observation of a name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Observation {
    /// The name is gone, or no longer stands for a file.
    Gone,
    /// A check found the listed attributes. `is_closed` says that a writer closed the file, and that
    /// the times do not prove the listed hash.
    Unchanged { is_closed: bool },
    /// A check found the attributes of a remembered hash that is not listed under this name.
    Remembered { doubted: bool },
    /// A check found any other file. `recent` says that it changed within the quiet period.
    Changed {
        cause: Cause,
        recent: bool,
        found: FoundBy,
    },
    /// The file has rested long enough to be read. `watched` says that the directory of the file is
    /// watched, and `witnessed` that the reports of the kernel prove its listed hash.
    Rested { watched: bool, witnessed: bool },
    /// The read ended.
    Read(HashOutcome),
    /// Changed bytes were found under the listed hash.
    Suspected,
}

/// Effect on the order of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Wait {
    #[default]
    Keep,
    /// The current turn and all later ones wait until the file is hashed.
    Block,
    /// As [`Self::Block`], and the change begins a turn of its own.
    BlockNewTurn,
    /// No turn waits for the file.
    Unblock,
    /// No turn waits for the file, and the change begins a turn of its own.
    NewTurn,
}

/// Effect on the listing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ListingChange {
    #[default]
    Keep,
    /// The file is listed with the hash that was read or remembered.
    List,
    /// The listed hash is proven by the reports of the kernel.
    Confirm,
    /// The name is left out, because the file cannot be read.
    LeaveOut(FileIdentity),
    /// The name is removed.
    Remove,
}

/// Effect on the place of the file in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum PlaceChange {
    #[default]
    Keep,
    /// A running read is cancelled. Its end is still observed.
    CancelRead,
    Enqueue(QueueLane),
    RestUntil(Instant),
    /// No read is due.
    Leave,
}

/// All effects of one observation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    pub(super) wait: Wait,
    /// Whether the file counts in the new tree that is being read.
    pub(super) counts_in_tree: bool,
    pub(super) listing: ListingChange,
    pub(super) place: PlaceChange,
    /// A check to request, with its cause.
    pub(super) recheck: Option<Cause>,
}

impl Effects {
    fn wait(wait: Wait) -> Self {
        Self {
            wait,
            ..Self::default()
        }
    }
}

impl NameState {
    /// Returns whether a read is due whose result is not listed yet.
    pub(super) fn is_left(self) -> bool {
        match self {
            Self::BeingWritten | Self::Settling | Self::Paced { .. } => true,
            Self::Queued { purpose, .. } => purpose != ReadPurpose::Verify,
            Self::Hashing { purpose, again, .. } => {
                purpose != ReadPurpose::Verify || again.is_some()
            }
            Self::Absent | Self::Checking | Self::Listed | Self::Doubted | Self::Rejected => false,
        }
    }

    /// Returns whether the file waits to be read because it changed, or is queued or being read.
    pub(super) fn waits_for_read(self) -> bool {
        self.rests_for_change() || matches!(self, Self::Queued { .. } | Self::Hashing { .. })
    }

    fn rests_for_change(self) -> bool {
        matches!(
            self,
            Self::BeingWritten | Self::Settling | Self::Paced { .. }
        )
    }

    /// Returns the state once a hasher has taken the file. Returns `None` if it is not queued.
    pub(super) fn taken(
        self,
        notes: &mut FileNotes,
        size_bytes: u64,
        now: Instant,
    ) -> Option<Self> {
        let Self::Queued { purpose, sure } = self else {
            return None;
        };
        if purpose == ReadPurpose::ListBusy {
            notes.written = Some((now, size_bytes));
        }
        let again = None;
        Some(Self::Hashing {
            purpose,
            sure,
            again,
        })
    }

    /// Returns the state after an observation, and the effects.
    pub(super) fn after(
        self,
        observation: Observation,
        notes: &mut FileNotes,
        facts: &NameFacts,
    ) -> (Self, Effects) {
        match observation {
            Observation::Gone => {
                let listing = ListingChange::Remove;
                end(Self::Absent, listing, notes)
            }
            Observation::Remembered { doubted: false } => {
                let listing = ListingChange::List;
                end(Self::Listed, listing, notes)
            }
            // the hash is as doubtful under this name as under the name by which it was read
            Observation::Remembered { doubted: true } => {
                *notes = FileNotes::default();
                let (next, mut effects) = doubt(facts.quiet, facts);
                effects.listing = ListingChange::List;
                (next, effects)
            }
            Observation::Unchanged { is_closed } => self.after_unchanged(is_closed, notes, facts),
            Observation::Changed {
                cause,
                recent,
                found,
            } => self.after_change(cause, recent, found, notes, facts),
            Observation::Rested { watched, witnessed } => {
                self.after_rest(watched, witnessed, notes, facts)
            }
            Observation::Read(outcome) => self.after_read(outcome, notes, facts),
            Observation::Suspected => self.after_suspicion(notes, facts),
        }
    }

    /// Returns the next state of a file that looks as it is listed. It may have been written again
    /// within a clock tick, or through a mapping, which changes no time stamp. If its times do not
    /// prove the hash, it is hashed again once its writer has closed it, because it can then be
    /// hashed reliably.
    fn after_unchanged(
        self,
        is_closed: bool,
        notes: &mut FileNotes,
        facts: &NameFacts,
    ) -> (Self, Effects) {
        match self {
            _ if is_closed && !notes.is_extended => ready(true, Wait::Block, facts),
            // the read that was to verify the listed hash found something else under the name
            Self::Checking if notes.is_suspected => ready(false, Wait::Block, facts),
            Self::Checking if notes.is_extended => doubt(facts.quiet, facts),
            Self::Checking => end(Self::Listed, ListingChange::Keep, notes),
            _ => (self, Effects::default()),
        }
    }

    /// Returns the next state of a file that does not look as it is listed.
    fn after_change(
        self,
        cause: Cause,
        recent: bool,
        found: FoundBy,
        notes: &mut FileNotes,
        facts: &NameFacts,
    ) -> (Self, Effects) {
        if cause == Cause::Created {
            // the file closed under this name was a different one
            notes.closed_at = None;
        }
        match (self, cause) {
            (Self::Hashing { .. }, _) => self.changed_while_read(cause),
            (_, Cause::Closed) => {
                notes.closed_at.get_or_insert(facts.now);
                ready(true, Wait::Block, facts)
            }
            (_, Cause::Reopened) => {
                notes.closed_at.get_or_insert(facts.now);
                ready(false, Wait::Block, facts)
            }
            // after another write, later turns no longer wait for the earlier close
            (_, Cause::Modified) if notes.closed_at.is_some() => {
                if self.waits_for_read() || self == Self::Doubted {
                    return (self, Effects::wait(Wait::Unblock));
                }
                settle(Duration::ZERO, Wait::Unblock, facts)
            }
            (_, Cause::Created | Cause::Modified) => {
                write(facts.shown == NameState::Listed, notes, facts)
            }
            (_, Cause::Walk | Cause::Unlinked) if self.waits_for_read() => {
                (self, Effects::default())
            }
            (_, Cause::Walk | Cause::Unlinked) if recent => {
                if found == FoundBy::Walk {
                    notes.written.get_or_insert((facts.now, facts.size_bytes));
                }
                ready(false, Wait::Block, facts)
            }
            (_, Cause::Walk | Cause::Unlinked) => found_at_rest(found, facts),
        }
    }

    /// Adds a change to a running read. A write or a close cancels the read, unless the file is
    /// busy. After any cause but [`Cause::Walk`], the file belongs to the current turn, because the
    /// read may return bytes written in this turn.
    fn changed_while_read(self, cause: Cause) -> (Self, Effects) {
        let Self::Hashing {
            purpose,
            sure,
            again,
        } = self
        else {
            return (self, Effects::default());
        };
        let next = Self::Hashing {
            purpose,
            sure,
            again: Some(again.map_or(cause, |before| before.then(cause))),
        };
        let mut effects = Effects::default();
        if cause > Cause::Walk {
            effects.wait = Wait::Block;
        }
        if cause >= Cause::Modified && purpose != ReadPurpose::ListBusy {
            effects.place = PlaceChange::CancelRead;
        }
        (next, effects)
    }

    /// Returns the next state of a file that has rested long enough. If its directory has no watch,
    /// the read looks for open writers first.
    fn after_rest(
        self,
        watched: bool,
        witnessed: bool,
        notes: &mut FileNotes,
        facts: &NameFacts,
    ) -> (Self, Effects) {
        let queue = |purpose, sure, wait| {
            let effects = Effects {
                place: PlaceChange::Enqueue(QueueLane::JustWritten),
                ..Effects::wait(wait)
            };
            (Self::Queued { purpose, sure }, effects)
        };
        match (self, facts.paced_until) {
            (Self::Settling, _) => ready(true, Wait::Keep, facts),
            (Self::Paced { sure }, _) => ready(sure, Wait::Keep, facts),
            (Self::Doubted, _) if witnessed && !notes.is_extended && !notes.is_suspected => {
                end(Self::Listed, ListingChange::Confirm, notes)
            }
            (Self::Doubted | Self::BeingWritten, Some(until)) => {
                (self, rest_until(until, Wait::Keep))
            }
            (Self::Doubted, None) => queue(ReadPurpose::Verify, watched, Wait::Keep),
            (Self::BeingWritten, None) => {
                let since = notes.written.map(|(since, _)| since);
                if since.is_some_and(|since| since + BUSY_READ_AFTER <= facts.now) {
                    queue(ReadPurpose::ListBusy, true, Wait::NewTurn)
                } else {
                    queue(ReadPurpose::ListUnclosed, watched, Wait::BlockNewTurn)
                }
            }
            _ => (self, Effects::default()),
        }
    }

    /// Returns the next state of a file whose read ended.
    fn after_read(
        self,
        outcome: HashOutcome,
        notes: &mut FileNotes,
        facts: &NameFacts,
    ) -> (Self, Effects) {
        let Self::Hashing { sure, again, .. } = self else {
            return (self, Effects::default());
        };
        let written_to = matches!(again, Some(Cause::Created | Cause::Modified));
        let closed = again == Some(Cause::Closed);
        match outcome {
            HashOutcome::Hashed { trust, .. } => after_hash(trust, again, notes, facts),
            // for example a chmod during the read; unless a close was reported meanwhile, the next
            // read looks for open writers again
            HashOutcome::Changed if !written_to => ready(closed, Wait::Keep, facts),
            // A close and then another change were reported during this read. The writer may have
            // ended, and only set the time stamp last: read the file again as a closed one.
            HashOutcome::BeingWritten(_) if again == Some(Cause::Reopened) => {
                notes.closed_at.get_or_insert(facts.now);
                ready(false, Wait::Keep, facts)
            }
            // a file closed in the meantime is read in the turn of its close
            _ if closed => {
                notes.closed_at.get_or_insert(facts.now);
                ready(true, Wait::Keep, facts)
            }
            HashOutcome::BeingWritten(age) if sure && !written_to => settle(age, Wait::Keep, facts),
            HashOutcome::BeingWritten(_) | HashOutcome::Changed if notes.closed_at.is_some() => {
                settle(Duration::ZERO, Wait::Unblock, facts)
            }
            HashOutcome::Changed | HashOutcome::BeingWritten(_) | HashOutcome::Want => {
                write(facts.shown == NameState::Listed, notes, facts)
            }
            HashOutcome::Elsewhere => {
                let effects = Effects {
                    place: PlaceChange::Leave,
                    recheck: Some(Cause::Walk),
                    ..Effects::wait(Wait::Unblock)
                };
                (Self::Checking, effects)
            }
            HashOutcome::Unreadable(identity) => {
                end(Self::Rejected, ListingChange::LeaveOut(identity), notes)
            }
        }
    }

    /// Returns the next state of a file that may no longer have its listed content. A file that
    /// already waits to be read is not read earlier, because its writer may still be at work.
    fn after_suspicion(self, notes: &mut FileNotes, facts: &NameFacts) -> (Self, Effects) {
        notes.is_suspected = true;
        match self {
            Self::Hashing { .. } => self.changed_while_read(Cause::Walk),
            _ if self.waits_for_read() => (self, Effects::default()),
            _ => ready(false, Wait::Block, facts),
        }
    }
}

/// Returns a state in which no read is due, and forgets the notes.
fn end(next: NameState, listing: ListingChange, notes: &mut FileNotes) -> (NameState, Effects) {
    *notes = FileNotes::default();
    let effects = Effects {
        listing,
        place: PlaceChange::Leave,
        ..Effects::wait(Wait::Unblock)
    };
    (next, effects)
}

/// Queues a file, or lets it rest if it was read a short time ago. In both cases, `wait` says
/// whether later turns wait for the file. However, they do not wait for a file that rests for more
/// than [`PACED_BLOCK_MAX`].
fn ready(sure: bool, wait: Wait, facts: &NameFacts) -> (NameState, Effects) {
    if let Some(until) = facts.paced_until {
        let wait = if until - facts.now > PACED_BLOCK_MAX {
            Wait::Unblock
        } else {
            wait
        };
        return (NameState::Paced { sure }, rest_until(until, wait));
    }
    let effects = Effects {
        place: PlaceChange::Enqueue(QueueLane::JustWritten),
        ..Effects::wait(wait)
    };
    let purpose = ReadPurpose::List;
    (NameState::Queued { purpose, sure }, effects)
}

/// Queues a file that was not written lately. Files found by a walk, and files of a new tree that
/// is too large to wait for, go behind the files that were just written, and later turns do not
/// wait for them.
fn found_at_rest(found: FoundBy, facts: &NameFacts) -> (NameState, Effects) {
    let (next, mut effects) = match found {
        FoundBy::Report | FoundBy::NewTree { is_awaited: true } => ready(true, Wait::Block, facts),
        FoundBy::NewTree { is_awaited: false } | FoundBy::Walk => {
            let effects = Effects {
                place: PlaceChange::Enqueue(QueueLane::Found),
                ..Effects::wait(Wait::Unblock)
            };
            let (purpose, sure) = (ReadPurpose::List, true);
            (NameState::Queued { purpose, sure }, effects)
        }
    };
    effects.counts_in_tree = matches!(found, FoundBy::NewTree { .. });
    (next, effects)
}

/// Leaves a file unread for the quiet period, but not longer than [`BUSY_READ_AFTER`] after
/// [`FileNotes::written`]. Later turns do not wait for the file.
fn write(is_listed: bool, notes: &mut FileNotes, facts: &NameFacts) -> (NameState, Effects) {
    if is_listed {
        notes.written.get_or_insert((facts.now, facts.size_bytes));
    }
    let until = facts.now + facts.quiet;
    let busy_at = notes.written.map(|(since, _)| since + BUSY_READ_AFTER);
    let until = busy_at.map_or(until, |busy_at| until.min(busy_at));
    (NameState::BeingWritten, rest_until(until, Wait::Unblock))
}

/// Leaves a file unread that is still open for writing or was written to again. The wait is `age`,
/// the time since the last write, but at least [`CLOSING_WAIT`] and at most half of the quiet
/// period. If it is longer than [`CLOSING_WAIT`], later turns do not wait for the file. Otherwise
/// `wait` applies, because the kernel is probably about to finish the close.
fn settle(age: Duration, wait: Wait, facts: &NameFacts) -> (NameState, Effects) {
    let rest = age.min(facts.quiet / 2).max(CLOSING_WAIT);
    let wait = if rest > CLOSING_WAIT {
        Wait::Unblock
    } else {
        wait
    };
    (NameState::Settling, rest_until(facts.now + rest, wait))
}

/// Leaves a listed file unread until its doubted hash can be verified.
fn doubt(rest: Duration, facts: &NameFacts) -> (NameState, Effects) {
    let effects = rest_until(facts.now + rest, Wait::Unblock);
    (NameState::Doubted, effects)
}

fn rest_until(until: Instant, wait: Wait) -> Effects {
    Effects {
        place: PlaceChange::RestUntil(until),
        ..Effects::wait(wait)
    }
}

/// Lists a file that was hashed. `again` is the cause of a change that was noticed during the read.
fn after_hash(
    trust: HashTrust,
    again: Option<Cause>,
    notes: &mut FileNotes,
    facts: &NameFacts,
) -> (NameState, Effects) {
    *notes = FileNotes {
        is_extended: trust == HashTrust::Extended,
        ..FileNotes::default()
    };
    let (next, effects) = match (again, trust) {
        // it is read again in the turn of its close
        (Some(Cause::Closed), _) => {
            notes.closed_at = Some(facts.now);
            ready(true, Wait::Keep, facts)
        }
        (Some(Cause::Created | Cause::Modified), _) => write(true, notes, facts),
        (_, HashTrust::Racy { .. }) => doubt(facts.quiet, facts),
        (_, HashTrust::Extended) => {
            let is_promised = facts.size_bytes <= PROMISED_MAX_BYTES;
            let rest = whole_read_rest(facts.size_bytes).max(facts.quiet);
            doubt(if is_promised { facts.quiet } else { rest }, facts)
        }
        (_, HashTrust::Sure | HashTrust::UntilClosed) => {
            let effects = Effects {
                place: PlaceChange::Leave,
                ..Effects::wait(Wait::Unblock)
            };
            (NameState::Listed, effects)
        }
    };
    let effects = Effects {
        listing: ListingChange::List,
        recheck: again,
        ..effects
    };
    (next, effects)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::super::identity::NameStat;
    use super::*;
    use p2pfs_types::digest::ContentHash;

    const CAUSES: [Cause; 6] = [
        Cause::Walk,
        Cause::Unlinked,
        Cause::Created,
        Cause::Modified,
        Cause::Reopened,
        Cause::Closed,
    ];

    fn any_state() -> impl Strategy<Value = NameState> {
        let purposes = [
            ReadPurpose::List,
            ReadPurpose::ListUnclosed,
            ReadPurpose::ListBusy,
            ReadPurpose::Verify,
        ];
        let read = (select(purposes.to_vec()), any::<bool>());
        let again = proptest::option::of(select(&CAUSES));
        prop_oneof![
            select(&[
                NameState::Absent,
                NameState::BeingWritten,
                NameState::Settling,
                NameState::Checking,
                NameState::Listed,
                NameState::Doubted,
                NameState::Rejected,
            ]),
            any::<bool>().prop_map(|sure| NameState::Paced { sure }),
            read.clone()
                .prop_map(|(purpose, sure)| NameState::Queued { purpose, sure }),
            (read, again).prop_map(|((purpose, sure), again)| NameState::Hashing {
                purpose,
                sure,
                again
            }),
        ]
    }

    fn any_outcome() -> impl Strategy<Value = HashOutcome> {
        let trusts = [
            HashTrust::Sure,
            HashTrust::UntilClosed,
            HashTrust::Racy { is_open: false },
            HashTrust::Racy { is_open: true },
            HashTrust::Extended,
        ];
        let hashed = |trust| HashOutcome::Hashed {
            seen: NameStat {
                identity: FileIdentity::default(),
                mode: 0o100_644,
                links: 1,
                made_up: false,
            },
            hash: ContentHash::of(b""),
            trust,
            unwritten: true,
        };
        let ages = [0, 10, 900, 5000].map(Duration::from_millis);
        prop_oneof![
            select(trusts.to_vec()).prop_map(hashed),
            select(ages.to_vec()).prop_map(HashOutcome::BeingWritten),
            Just(HashOutcome::Changed),
            Just(HashOutcome::Elsewhere),
            Just(HashOutcome::Unreadable(FileIdentity::default())),
            Just(HashOutcome::Want),
        ]
    }

    fn any_observation() -> impl Strategy<Value = Observation> {
        let founds = [
            FoundBy::Report,
            FoundBy::NewTree { is_awaited: true },
            FoundBy::NewTree { is_awaited: false },
            FoundBy::Walk,
        ];
        let change = (select(&CAUSES), any::<bool>(), select(founds.to_vec()));
        prop_oneof![
            Just(Observation::Gone),
            Just(Observation::Suspected),
            any::<bool>().prop_map(|doubted| Observation::Remembered { doubted }),
            any::<[bool; 2]>()
                .prop_map(|[watched, witnessed]| Observation::Rested { watched, witnessed }),
            any::<bool>().prop_map(|is_closed| Observation::Unchanged { is_closed }),
            change.prop_map(|(cause, recent, found)| Observation::Changed {
                cause,
                recent,
                found
            }),
            any_outcome().prop_map(Observation::Read),
        ]
    }

    /// Returns the effect on the order of a file that was closed and is paced for `wait`.
    fn wait_of_paced(wait: Duration) -> Wait {
        let now = Instant::now();
        let facts = NameFacts {
            now,
            quiet: Duration::from_secs(2),
            size_bytes: 40 << 20,
            changed: FileTimestamp::default(),
            shown: NameState::Listed,
            paced_until: Some(now + wait),
        };
        let closed = Observation::Changed {
            cause: Cause::Closed,
            recent: true,
            found: FoundBy::Report,
        };
        let notes = &mut FileNotes::default();
        NameState::Listed.after(closed, notes, &facts).1.wait
    }

    #[test]
    fn a_paced_file_delays_later_changes_only_if_its_wait_is_short() {
        assert_eq!(wait_of_paced(PACED_BLOCK_MAX), Wait::Block);
        assert_eq!(wait_of_paced(2 * PACED_BLOCK_MAX), Wait::Unblock);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, ..Default::default() })]

        #[test]
        fn the_effects_of_any_transition_fit_the_next_state(
            before in any_state(),
            observation in any_observation(),
            flags in any::<[bool; 5]>(),
        ) {
            let now = Instant::now();
            let [is_closed, is_written, is_extended, is_suspected, is_paced] = flags;
            let mut notes = FileNotes {
                closed_at: is_closed.then_some(now),
                written: is_written.then_some((now, 1)),
                is_extended,
                is_suspected,
            };
            let facts = NameFacts {
                now,
                quiet: Duration::from_secs(2),
                size_bytes: 1,
                changed: FileTimestamp::default(),
                shown: NameState::Absent,
                paced_until: is_paced.then_some(now + Duration::from_secs(1)),
            };
            let (next, effects) = before.after(observation, &mut notes, &facts);
            let fits = match effects.place {
                PlaceChange::Keep | PlaceChange::CancelRead => {
                    std::mem::discriminant(&next) == std::mem::discriminant(&before)
                }
                PlaceChange::Enqueue(_) => matches!(next, NameState::Queued { .. }),
                PlaceChange::RestUntil(until) => {
                    until > now && (next.rests_for_change() || next == NameState::Doubted)
                }
                PlaceChange::Leave => !next.waits_for_read() && next != NameState::Doubted,
            };
            prop_assert!(fits, "{:?} with {:?}", next, effects.place);
            match effects.wait {
                Wait::Block | Wait::BlockNewTurn => prop_assert!(next.waits_for_read()),
                // a turn that waits for the file goes on waiting, so a read must be due
                Wait::Keep if next != before => prop_assert!(next.waits_for_read()
                    || before == NameState::Checking),
                Wait::Keep | Wait::Unblock | Wait::NewTurn => {}
            }
            let is_noted = next.waits_for_read()
                || matches!(next, NameState::Doubted | NameState::Checking);
            prop_assert!(is_noted || notes == FileNotes::default() || next == before);
            let is_listed = matches!(effects.listing, ListingChange::List);
            let is_hash = matches!(observation, Observation::Remembered { .. }
                | Observation::Read(HashOutcome::Hashed { .. }));
            prop_assert!(is_hash || !is_listed, "listed without a hash");
        }
    }
}
