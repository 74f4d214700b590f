//! The names that no legacy peer had lately. A lookup of such a name fails at once, on whatever
//! thread: the state machine shares them with the filesystem.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::NEGATIVE;
use crate::wire::discovery::Name;

/// Maximum number of names remembered as absent.
const ABSENT_MAX: usize = 4096;

/// The absent names, each with the time until which it counts as absent. Clones share their state.
#[derive(Clone, Default)]
pub(crate) struct AbsentNames {
    until: Arc<Mutex<HashMap<Name, Instant>>>,
}

impl AbsentNames {
    pub(crate) fn contains(&self, now: Instant, name: &Name) -> bool {
        self.until
            .lock()
            .get(name)
            .is_some_and(|until| *until > now)
    }

    /// Forgets a name, because a peer has the file.
    pub(super) fn remove(&self, name: &Name) {
        self.until.lock().remove(name);
    }

    /// Records that no peer has a file of this name. A name that already counts as absent does so
    /// no longer than before, so that frequent lookups do not hide a new file.
    pub(super) fn record(&self, now: Instant, name: Name) {
        let mut absent = self.until.lock();
        if absent.len() >= ABSENT_MAX {
            absent.retain(|_, until| *until > now);
        }
        if absent.len() < ABSENT_MAX {
            let until = absent.entry(name).or_insert(now);
            if *until <= now {
                *until = now + NEGATIVE;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_name_is_absent_for_a_while_however_often_it_is_recorded() {
        let (absent, now) = (AbsentNames::default(), Instant::now());
        assert!(!absent.contains(now, &name("a")));
        absent.record(now, name("a"));
        let later = now + NEGATIVE - Duration::from_millis(1);
        assert!(absent.contains(later, &name("a")) && !absent.contains(later, &name("b")));
        absent.record(later, name("a"));
        assert!(!absent.contains(now + NEGATIVE, &name("a")));
        absent.record(now + NEGATIVE, name("a"));
        assert!(absent.contains(now + NEGATIVE, &name("a")));
    }

    #[test]
    fn absent_names_are_bounded_and_make_room_when_they_expire() {
        let (absent, now) = (AbsentNames::default(), Instant::now());
        for number in 0..=ABSENT_MAX {
            absent.record(now, name(&format!("{number}")));
        }
        let last = name(&format!("{ABSENT_MAX}"));
        assert!(!absent.contains(now, &last));
        absent.record(now + NEGATIVE, last.clone());
        assert!(absent.contains(now + NEGATIVE, &last));
        assert_eq!(absent.until.lock().len(), 1);
    }
}
