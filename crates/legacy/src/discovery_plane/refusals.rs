//! Warnings about files that legacy peers cannot be asked for or be given. Each remembered name is
//! reported at most once. The rate of reports is bounded, because a folder may hold a million such
//! names and any program may ask for more.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::wire::discovery::{NameError, SIZE_MAX_BYTES, printable};
use p2pfs_fs::FsError;
use p2pfs_node::EventLog;
use p2pfs_types::bucket::TokenBucket;
use p2pfs_types::path::SharedPath;

/// Maximum number of remembered names. One more makes this node forget all.
pub const TOLD_MAX: usize = 4096;
/// Burst of warnings.
const BURST: u32 = 16;
/// Interval after which one more warning is allowed.
const PAUSE: Duration = Duration::from_secs(10);

/// The memory of reported names. Clones share their state.
#[derive(Clone)]
pub(super) struct RefusalLog {
    events: EventLog,
    told: Arc<Mutex<ReportedNames>>,
}

/// The kind of a warning about a name.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum RefusalKind {
    NotAsked,
    NotGiven,
    Unfinished,
}

struct ReportedNames {
    names: HashSet<(RefusalKind, Box<[u8]>)>,
    /// Warnings that may still be issued.
    left: TokenBucket,
    untold: u64,
}

impl RefusalLog {
    pub(super) fn new(events: EventLog) -> Self {
        let told = ReportedNames {
            names: HashSet::new(),
            left: TokenBucket::one_in(PAUSE, BURST, Instant::now()),
            untold: 0,
        };
        Self {
            events,
            told: Arc::new(Mutex::new(told)),
        }
    }

    /// Warns that a program asked for a name that the protocol cannot carry.
    pub(super) fn warn_not_asked(&self, name: &[u8], why: NameError) {
        self.warn_once(RefusalKind::NotAsked, name, || {
            format!("{} was not asked of legacy peers: {why}", printable(name))
        });
    }

    /// Warns that a shared file has a name that the protocol cannot carry.
    pub(super) fn warn_not_given(&self, path: &SharedPath, why: NameError) {
        let path = path.as_bytes();
        self.warn_once(RefusalKind::NotGiven, path, || {
            format!("{} is not given to legacy peers: {why}", printable(path))
        });
    }

    /// Warns that a file is larger than the protocol can express.
    pub(super) fn warn_too_large(&self, path: &SharedPath, size_bytes: u64) {
        let path = path.as_bytes();
        self.warn_once(RefusalKind::NotGiven, path, || {
            format!(
                "{} is not given to legacy peers: its {size_bytes} bytes are more than the \
                 {SIZE_MAX_BYTES} that their protocol can say",
                printable(path)
            )
        });
    }

    /// Warns that a legacy peer did not receive a whole file, through no fault of its own.
    pub(super) fn warn_unfinished(&self, path: &SharedPath, why: FsError) {
        let path = path.as_bytes();
        self.warn_once(RefusalKind::Unfinished, path, || {
            let shown = printable(path);
            format!("a legacy peer did not get the whole of {shown}: {why}")
        });
    }

    fn warn_once(&self, kind: RefusalKind, name: &[u8], message: impl FnOnce() -> String) {
        let mut told = self.told.lock();
        let key = (kind, Box::from(name));
        if told.names.contains(&key) {
            return;
        }
        if told.names.len() >= TOLD_MAX {
            told.names.clear();
        }
        told.names.insert(key);
        let Some(untold) = told.try_report(Instant::now()) else {
            return;
        };
        drop(told);
        let others = match untold {
            0 => String::new(),
            count => format!(" (and {count} others before it)"),
        };
        // Users of this machine choose these names, so only the owner of the node sees them.
        self.events.warn_owner(message() + &others);
    }
}

impl ReportedNames {
    /// Returns the number of suppressed warnings since the last one if a warning is allowed now,
    /// else `None`.
    fn try_report(&mut self, now: Instant) -> Option<u64> {
        if !self.left.take(1, now) {
            self.untold += 1;
            return None;
        }
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_name_is_reported_once_and_a_million_names_a_few_times() {
        let events = EventLog::default();
        let refusals = RefusalLog::new(events.clone());
        for _ in 0..3 {
            refusals.warn_not_asked(b"a,b", NameError::Comma);
        }
        let line =
            "a,b was not asked of legacy peers: legacy peers cannot carry a name with a comma";
        assert_eq!(events.warnings(), [line]);
        for n in 0..100_000 {
            refusals.warn_not_asked(format!("{n},").as_bytes(), NameError::Comma);
        }
        assert_eq!(events.warnings().len(), BURST as usize);
        assert!(refusals.told.lock().names.len() <= TOLD_MAX);
    }

    #[test]
    fn a_later_refusal_reports_the_number_of_suppressed_ones() {
        let now = Instant::now();
        let mut told = ReportedNames {
            names: HashSet::new(),
            left: TokenBucket::one_in(PAUSE, BURST, now),
            untold: 0,
        };
        let count = (0..100).filter(|_| told.try_report(now).is_some()).count();
        assert_eq!(count, BURST as usize);
        assert_eq!(told.try_report(now + PAUSE), Some(84));
        assert_eq!(told.try_report(now + PAUSE), None);
        assert_eq!(told.try_report(now + PAUSE * 3), Some(1));
    }
}
