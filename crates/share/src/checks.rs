//! The names that something was reported of, and what the reports say of their writers.
//!
//! A name is looked at once for all that was reported of it, in the turn of the last report that
//! may have put something else there. A look that is overtaken by another report may have seen what
//! is of that later turn, so it counts for nothing, or only after all that was reported by then.
//! And it may have seen what is yet to be reported (see [`Checks::may_be_ahead`]).

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::identity::{Seen, Stamp};
use super::observe::Found;
use super::order::Turn;
use super::tree::Slot;
use super::walk::Place;
use super::watch::Cause;

/// Files whose writers were seen closing that are remembered, to know them under a new name.
const WRITTEN_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// A name to look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Check {
    pub(super) turn: Turn,
    pub(super) cause: Cause,
    /// A writer closed what had the name.
    closed: bool,
    /// The last that was reported is that it was unlinked.
    unlinked: bool,
    /// When the reports began to be read that it is for.
    since: Stamp,
}

impl Check {
    /// Whether the last that was reported of the name is that nothing has it any more.
    pub(super) fn is_of_loss(&self) -> bool {
        self.unlinked
    }
}

/// A name that was looked at.
pub(super) struct Look {
    pub(super) place: Arc<Place>,
    pub(super) name: Box<[u8]>,
    pub(super) check: Check,
    pub(super) found: Found,
}

/// All names to look at.
pub(super) struct Checks {
    names: BTreeMap<(Slot, Box<[u8]>), Check>,
    /// (dev, ino) of files whose writers were seen closing.
    written: LruCache<(u64, u64), ()>,
    /// When a name was found gone whose writer was seen closing: it may have been linked.
    lost: Option<Instant>,
    /// When the last reports began to be read.
    reading_since: Stamp,
}

impl Checks {
    pub(super) fn new() -> Self {
        Self {
            names: BTreeMap::new(),
            written: LruCache::new(WRITTEN_MAX),
            lost: None,
            reading_since: Stamp::default(),
        }
    }

    /// Reports are read from now on.
    pub(super) fn begin_reading(&mut self, now: Stamp) {
        self.reading_since = now;
    }

    /// The first turn that something is to be looked at for.
    pub(super) fn first_turn(&self) -> Option<Turn> {
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
    }

    /// All of them, by their directories.
    pub(super) fn take(&mut self) -> BTreeMap<(Slot, Box<[u8]>), Check> {
        std::mem::take(&mut self.names)
    }

    /// Takes a report in.
    pub(super) fn note(&mut self, directory: Slot, name: Box<[u8]>, cause: Cause, turn: Turn) {
        let fresh = Check {
            turn,
            cause,
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
        check.closed |= cause == Cause::Closed;
    }

    /// Whether something may have been put under a name since it was looked at; it is looked at
    /// again then, with what was known of its writer.
    pub(super) fn was_overtaken(&mut self, directory: Slot, name: &[u8], was: &Check) -> bool {
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

    /// Whether what was found may have come about after all that was reported of the name: a change
    /// is to be seen some microseconds before it is reported, or milliseconds where its thread has
    /// to wait between the two.
    pub(super) fn may_be_ahead(check: &Check, found: &Found) -> bool {
        match found {
            Found::Nothing => !check.unlinked,
            Found::File(seen) | Found::Symlink(seen, _) => seen.identity.ctime >= check.since,
            // what is in a directory is found later, and told as one unit
            Found::Directory(_) | Found::LeftOut(_) => false,
        }
    }

    /// Whether a name is to be looked at since something may have been put there.
    pub(super) fn is_due(&self, directory: Slot, name: &[u8]) -> bool {
        let due = |key: (Slot, Box<[u8]>)| self.names.get(&key);
        !self.is_empty() && due((directory, name.into())).is_some_and(|c| c.cause > Cause::Walk)
    }

    /// What is known of the writer of a file that was found. One that was made under this name and
    /// has bytes without a write being reported was linked here, and is as ready as it was under
    /// its other name; an empty one may have been, or was just made.
    pub(super) fn cause_of_file(
        &self,
        check: &Check,
        seen: &Seen,
        now: Instant,
        quiet: Duration,
    ) -> Cause {
        let inode = (seen.identity.dev, seen.identity.ino);
        if check.cause != Cause::Created {
            return check.cause;
        }
        let linked = seen.identity.size_bytes > 0 || seen.linked_again;
        let lost = self.lost.is_some_and(|at| now - at < quiet);
        if linked && (lost || self.written.contains(&inode)) {
            Cause::Closed
        } else {
            // a walk also checks for a writer that has the file open
            Cause::Walk
        }
    }

    /// Remembers what a look tells of a writer that was seen closing; to be called for each look,
    /// in the order of their turns.
    pub(super) fn note_look(&mut self, check: &Check, found: &Found, now: Instant) {
        match found {
            Found::File(seen) if check.cause == Cause::Closed => {
                let inode = (seen.identity.dev, seen.identity.ino);
                self.written.put(inode, ());
            }
            Found::Nothing if check.closed => self.lost = Some(now),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::Identity;
    use super::super::order::Order;
    use super::super::tree::Tree;
    use super::*;

    const QUIET: Duration = Duration::from_secs(2);

    fn seen(ino: u64, size_bytes: u64) -> Seen {
        let identity = Identity {
            ino,
            size_bytes,
            ..Identity::default()
        };
        Seen {
            identity,
            mode: 0o100_644,
            linked_again: false,
            made_up: false,
        }
    }

    /// Reports of one name, and what is then known of its writer.
    fn after(checks: &mut Checks, reports: &[Cause], seen: &Seen) -> Cause {
        let (mut tree, mut order) = (Tree::new(), Order::default());
        let root = tree.insert_root(0);
        for cause in reports {
            checks.note(root, b"f"[..].into(), *cause, order.step());
        }
        let (_, check) = checks.take().pop_first().unwrap();
        checks.note_look(&check, &Found::File(*seen), Instant::now());
        checks.cause_of_file(&check, seen, Instant::now(), QUIET)
    }

    #[test]
    fn a_linked_file_is_ready_where_its_writer_was_seen_closing() {
        use Cause::{Closed, Created, Modified, Walk};
        let mut checks = Checks::new();
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
        let mut checks = Checks::new();
        let mut order = Order::default();
        let root = Tree::new().insert_root(0);
        for cause in [Cause::Created, Cause::Closed, Cause::Unlinked] {
            checks.note(root, b"tmp"[..].into(), cause, order.step());
        }
        let (_, gone) = checks.take().pop_first().unwrap();
        checks.note_look(&gone, &Found::Nothing, Instant::now());
        assert_eq!(
            after(&mut checks, &[Cause::Created], &seen(7, 9)),
            Cause::Closed
        );
    }

    #[test]
    fn what_is_made_anew_under_a_name_is_not_what_was_closed_under_it() {
        let mut checks = Checks::new();
        let reports = [
            Cause::Closed,
            Cause::Unlinked,
            Cause::Created,
            Cause::Modified,
        ];
        assert_eq!(after(&mut checks, &reports, &seen(1, 9)), Cause::Modified);
    }

    #[test]
    fn a_name_is_of_the_turn_that_put_something_there_last() {
        let (mut checks, mut order) = (Checks::new(), Order::default());
        let root = Tree::new().insert_root(0);
        let turns = [order.step(), order.step(), order.step()];
        let causes = [Cause::Created, Cause::Closed, Cause::Walk];
        for (cause, turn) in causes.into_iter().zip(turns) {
            checks.note(root, b"f"[..].into(), cause, turn);
        }
        assert_eq!(checks.take().pop_first().unwrap().1.turn, turns[1]);
    }

    #[test]
    fn a_look_may_be_ahead_of_the_reports_where_the_change_is_no_older_than_their_reading() {
        let (mut checks, mut order) = (Checks::new(), Order::default());
        let root = Tree::new().insert_root(0);
        let found = |seconds| {
            let mut seen = seen(1, 9);
            seen.identity.ctime = Stamp::new(seconds, 0);
            Found::Symlink(seen, Box::default())
        };
        checks.begin_reading(Stamp::new(5, 0));
        checks.note(root, b"f"[..].into(), Cause::Closed, order.step());
        checks.begin_reading(Stamp::new(8, 0));
        let (_, check) = checks.take().pop_first().unwrap();
        assert!(!Checks::may_be_ahead(&check, &found(4)));
        assert!(Checks::may_be_ahead(&check, &found(5)));
        assert!(Checks::may_be_ahead(&check, &Found::Nothing));
        checks.note(root, b"f"[..].into(), Cause::Unlinked, order.step());
        let (_, check) = checks.take().pop_first().unwrap();
        assert!(!Checks::may_be_ahead(&check, &Found::Nothing));
    }

    #[test]
    fn a_name_is_overtaken_by_what_may_have_put_something_there_and_by_nothing_else() {
        let (mut checks, mut order) = (Checks::new(), Order::default());
        let root = Tree::new().insert_root(0);
        checks.note(root, b"f"[..].into(), Cause::Closed, order.step());
        let (_, check) = checks.take().pop_first().unwrap();
        assert!(!checks.was_overtaken(root, b"f", &check));
        checks.note(root, b"f"[..].into(), Cause::Walk, order.step());
        assert!(!checks.was_overtaken(root, b"f", &check));
        checks.note(root, b"f"[..].into(), Cause::Unlinked, order.step());
        assert!(checks.was_overtaken(root, b"f", &check) && checks.is_due(root, b"f"));
        let (_, again) = checks.take().pop_first().unwrap();
        assert_eq!((again.cause, again.closed), (Cause::Closed, true));
    }
}
