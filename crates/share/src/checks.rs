//! The names that were reported, and what the reports say about their writers.
//!
//! A name is checked once for all of its pending reports, in the turn of the last one that may have
//! replaced its content. If another such report is read after the check, the check may have seen a
//! change of that later turn. Its result is therefore dropped, or applied only after all reports so
//! far. A check may also have seen a change that is not reported yet (see
//! [`PendingChecks::may_be_ahead`]).

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::identity::{FileTimestamp, NameStat};
use super::observe::ObservedName;
use super::order::EventSeq;
use super::proof::Told;
use super::tree::Slot;
use super::walk::ShareDirectory;
use super::watch::Cause;

/// Maximum files remembered because their close was reported, to recognize them under a new name.
const WRITTEN_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// A name to check.
#[derive(Clone, Copy, Debug)]
pub(super) struct NameCheck {
    pub(super) turn: EventSeq,
    pub(super) cause: Cause,
    /// Evidence of the reports about the bytes of the file.
    pub(super) told: Told,
    /// Whether a report said that a writer closed a file with this name.
    closed: bool,
    /// Whether the last report said that the name was unlinked.
    unlinked: bool,
    /// Time just before the scanner began to read the batch of reports with the last report of a
    /// possible replacement of the content.
    since: FileTimestamp,
}

impl NameCheck {
    /// Returns whether the last report said that the name is gone.
    pub(super) fn is_of_loss(&self) -> bool {
        self.unlinked
    }
}

/// A name that was checked.
pub(super) struct CheckedName {
    pub(super) place: Arc<ShareDirectory>,
    pub(super) name: Box<[u8]>,
    pub(super) check: NameCheck,
    pub(super) found: ObservedName,
}

/// All names to check.
pub(super) struct PendingChecks {
    names: BTreeMap<(Slot, Box<[u8]>), NameCheck>,
    /// Results of checks that were not applied because the name had been reported again. Each name
    /// is checked again with the next reports.
    overtaken: HashMap<(Slot, Box<[u8]>), CheckedName>,
    /// Files, by (dev, ino), of which the kernel reported that a writer closed them.
    written: LruCache<(u64, u64), ()>,
    /// When a closed file was last found gone; it may have been linked under another name.
    lost: Option<Instant>,
    /// Time just before the scanner began to read the last batch of reports.
    reading_since: FileTimestamp,
}

impl PendingChecks {
    pub(super) fn new() -> Self {
        Self {
            names: BTreeMap::new(),
            overtaken: HashMap::new(),
            written: LruCache::new(WRITTEN_MAX),
            lost: None,
            reading_since: FileTimestamp::default(),
        }
    }

    /// Records that a batch of reports is read from now on.
    pub(super) fn begin_reading(&mut self, now: FileTimestamp) {
        self.reading_since = now;
    }

    /// Returns the first turn that waits for a check.
    pub(super) fn first_turn(&self) -> Option<EventSeq> {
        self.names.values().map(|check| check.turn).min()
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.names.clear();
        self.overtaken.clear();
    }

    /// Takes all names, ordered by directory.
    pub(super) fn take(&mut self) -> BTreeMap<(Slot, Box<[u8]>), NameCheck> {
        std::mem::take(&mut self.names)
    }

    /// Adds a report.
    pub(super) fn add_report(
        &mut self,
        directory: Slot,
        name: Box<[u8]>,
        cause: Cause,
        told: Told,
        turn: EventSeq,
    ) {
        let fresh = NameCheck {
            turn,
            cause,
            told: Told::Nothing,
            closed: false,
            unlinked: false,
            since: self.reading_since,
        };
        let check = self.names.entry((directory, name)).or_insert(fresh);
        if cause > Cause::Walk {
            check.turn = turn;
            check.since = self.reading_since;
            check.unlinked = cause == Cause::Unlinked;
        }
        check.cause = check.cause.then(cause);
        check.told = check.told.then(told);
        check.closed |= cause == Cause::Closed;
    }

    /// Returns what the reports so far say about the bytes of a name that waits for its check.
    pub(super) fn told_of(&self, directory: Slot, name: &[u8]) -> Told {
        let check = self.names.get(&(directory, name.into()));
        check.map(|check| check.told).unwrap_or_default()
    }

    /// Takes the results that were postponed since the last call.
    pub(super) fn take_postponed(&mut self) -> HashMap<(Slot, Box<[u8]>), CheckedName> {
        std::mem::take(&mut self.overtaken)
    }

    /// Returns the result of a check, unless the name may have been replaced since. In that case
    /// keeps the result for [`Self::take_postponed`], after the next check of the name.
    pub(super) fn postpone(&mut self, look: CheckedName) -> Option<CheckedName> {
        if self.was_overtaken(look.place.slot, &look.name, &look.check) {
            let key = (look.place.slot, look.name.clone());
            self.overtaken.insert(key, look);
            return None;
        }
        Some(look)
    }

    /// Returns whether a name may have been replaced since it was checked. In that case, passes
    /// what was known of its writer on to the next check.
    fn was_overtaken(&mut self, directory: Slot, name: &[u8], was: &NameCheck) -> bool {
        if self.names.is_empty() {
            return false;
        }
        let Some(again) = self.names.get_mut(&(directory, name.into())) else {
            return false;
        };
        if again.cause <= Cause::Walk {
            return false;
        }
        again.closed |= was.closed;
        again.cause = was.cause.then(again.cause);
        true
    }

    /// Returns whether the result may show a change later than all reports of the name. A change is
    /// visible some microseconds before it is reported, or milliseconds if the thread that makes it
    /// has to wait in between.
    pub(super) fn may_be_ahead(check: &NameCheck, found: &ObservedName) -> bool {
        match found {
            ObservedName::Nothing => !check.unlinked,
            ObservedName::File(seen) | ObservedName::Symlink(seen, _) => {
                seen.identity.ctime >= check.since
            }
            // the contents of a directory are found later and announced as one unit
            ObservedName::Directory(_) | ObservedName::LeftOut(_) => false,
        }
    }

    /// Returns whether a name must be checked because it may have been replaced.
    pub(super) fn is_due(&self, directory: Slot, name: &[u8]) -> bool {
        let due = |key: (Slot, Box<[u8]>)| self.names.get(&key);
        !self.is_empty() && due((directory, name.into())).is_some_and(|c| c.cause > Cause::Walk)
    }

    /// Returns the reported cause of a check, except for a file that was created and not written.
    /// If such a file is not empty or has another name, it may have been linked here. It then
    /// counts as closed if the close of this inode was reported lately, or if a closed file was
    /// found gone within the last `quiet`. Otherwise its writer is unknown, as in a walk.
    pub(super) fn cause_of_file(
        &self,
        check: &NameCheck,
        seen: &NameStat,
        now: Instant,
        quiet: Duration,
    ) -> Cause {
        let inode = (seen.identity.dev, seen.identity.ino);
        if check.cause != Cause::Created {
            return check.cause;
        }
        let linked = seen.identity.size_bytes > 0 || (seen.links > 1);
        let lost = self.lost.is_some_and(|at| now - at < quiet);
        if linked && (lost || self.written.contains(&inode)) {
            Cause::Closed
        } else {
            // a walk also looks for a writer that has the file open
            Cause::Walk
        }
    }

    /// Remembers what a result says about a file with a reported close. Must be called for each
    /// result, in the order of the turns.
    pub(super) fn record_closed_writer(
        &mut self,
        check: &NameCheck,
        found: &ObservedName,
        now: Instant,
    ) {
        match found {
            ObservedName::File(seen) if check.cause == Cause::Closed => {
                let inode = (seen.identity.dev, seen.identity.ino);
                self.written.put(inode, ());
            }
            ObservedName::Nothing if check.closed => self.lost = Some(now),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::FileIdentity;
    use super::super::order::EventOrder;
    use super::super::tree::Tree;
    use super::*;

    const QUIET: Duration = Duration::from_secs(2);

    fn seen(ino: u64, size_bytes: u64) -> NameStat {
        let identity = FileIdentity {
            ino,
            size_bytes,
            ..FileIdentity::default()
        };
        NameStat {
            identity,
            mode: 0o100_644,
            links: 1,
            made_up: false,
        }
    }

    /// Adds reports of one name and returns the resulting cause.
    fn after(checks: &mut PendingChecks, reports: &[Cause], seen: &NameStat) -> Cause {
        let (mut tree, mut order) = (Tree::new(), EventOrder::default());
        let root = tree.insert_root(0);
        for cause in reports {
            checks.add_report(root, b"f"[..].into(), *cause, Told::Written, order.step());
        }
        let (_, check) = checks.take().pop_first().unwrap();
        checks.record_closed_writer(&check, &ObservedName::File(*seen), Instant::now());
        checks.cause_of_file(&check, seen, Instant::now(), QUIET)
    }

    #[test]
    fn a_linked_file_is_ready_once_its_writer_closed_it() {
        use Cause::{Closed, Created, Modified, Walk};
        let mut checks = PendingChecks::new();
        assert_eq!(after(&mut checks, &[Created], &seen(1, 9)), Walk);
        assert_eq!(
            after(&mut checks, &[Created, Modified], &seen(1, 9)),
            Modified
        );
        let written = after(&mut checks, &[Created, Modified, Closed], &seen(1, 9));
        assert_eq!(written, Closed);
        assert_eq!(after(&mut checks, &[Created], &seen(1, 9)), Closed);
        assert_eq!(after(&mut checks, &[Created], &seen(2, 9)), Walk);
        assert_eq!(
            after(&mut checks, &[Created], &seen(1, 0)),
            Walk,
            "just made, or empty: its writer is asked for, since inodes are used again"
        );
    }

    #[test]
    fn a_name_that_is_gone_after_its_close_may_have_been_linked() {
        let mut checks = PendingChecks::new();
        let mut order = EventOrder::default();
        let root = Tree::new().insert_root(0);
        for cause in [Cause::Created, Cause::Closed, Cause::Unlinked] {
            checks.add_report(root, b"tmp"[..].into(), cause, Told::Written, order.step());
        }
        let (_, gone) = checks.take().pop_first().unwrap();
        checks.record_closed_writer(&gone, &ObservedName::Nothing, Instant::now());
        assert_eq!(
            after(&mut checks, &[Cause::Created], &seen(7, 9)),
            Cause::Closed
        );
    }

    #[test]
    fn a_recreated_name_is_not_the_closed_file() {
        let mut checks = PendingChecks::new();
        let reports = [
            Cause::Closed,
            Cause::Unlinked,
            Cause::Created,
            Cause::Modified,
        ];
        assert_eq!(after(&mut checks, &reports, &seen(1, 9)), Cause::Modified);
    }

    #[test]
    fn a_name_belongs_to_the_event_that_last_put_something_there() {
        let (mut checks, mut order) = (PendingChecks::new(), EventOrder::default());
        let root = Tree::new().insert_root(0);
        let turns = [order.step(), order.step(), order.step()];
        let causes = [Cause::Created, Cause::Closed, Cause::Walk];
        for (cause, turn) in causes.into_iter().zip(turns) {
            checks.add_report(root, b"f"[..].into(), cause, Told::Written, turn);
        }
        assert_eq!(checks.take().pop_first().unwrap().1.turn, turns[1]);
    }

    #[test]
    fn a_check_may_precede_the_reports_when_the_change_is_old_enough() {
        let (mut checks, mut order) = (PendingChecks::new(), EventOrder::default());
        let root = Tree::new().insert_root(0);
        let found = |seconds| {
            let mut seen = seen(1, 9);
            seen.identity.ctime = FileTimestamp::new(seconds, 0);
            ObservedName::Symlink(seen, Box::default())
        };
        checks.begin_reading(FileTimestamp::new(5, 0));
        checks.add_report(
            root,
            b"f"[..].into(),
            Cause::Closed,
            Told::Written,
            order.step(),
        );
        checks.begin_reading(FileTimestamp::new(8, 0));
        let (_, check) = checks.take().pop_first().unwrap();
        assert!(!PendingChecks::may_be_ahead(&check, &found(4)));
        assert!(PendingChecks::may_be_ahead(&check, &found(5)));
        assert!(PendingChecks::may_be_ahead(&check, &ObservedName::Nothing));
        checks.add_report(
            root,
            b"f"[..].into(),
            Cause::Unlinked,
            Told::Written,
            order.step(),
        );
        let (_, check) = checks.take().pop_first().unwrap();
        assert!(!PendingChecks::may_be_ahead(&check, &ObservedName::Nothing));
    }

    #[test]
    fn a_name_is_overtaken_only_by_events_that_may_have_put_something_there() {
        let (mut checks, mut order) = (PendingChecks::new(), EventOrder::default());
        let root = Tree::new().insert_root(0);
        checks.add_report(
            root,
            b"f"[..].into(),
            Cause::Closed,
            Told::Written,
            order.step(),
        );
        let (_, check) = checks.take().pop_first().unwrap();
        assert!(!checks.was_overtaken(root, b"f", &check));
        checks.add_report(
            root,
            b"f"[..].into(),
            Cause::Walk,
            Told::Written,
            order.step(),
        );
        assert!(!checks.was_overtaken(root, b"f", &check));
        checks.add_report(
            root,
            b"f"[..].into(),
            Cause::Unlinked,
            Told::Written,
            order.step(),
        );
        assert!(checks.was_overtaken(root, b"f", &check) && checks.is_due(root, b"f"));
        let (_, again) = checks.take().pop_first().unwrap();
        assert_eq!((again.cause, again.closed), (Cause::Closed, true));
    }
}
