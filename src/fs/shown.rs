//! Which namespace the kernel's requests are answered from: the newest that it was told of.
//!
//! What the kernel has cached and what it is answered would otherwise be of two moments, and a
//! program that finds a new name beside a listing of before sees an order in which nothing
//! happened. Owns the namespace that is shown; never asks for one by itself, and never waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::catalogue::View;

/// For how long a newer namespace waits for the kernel to be told of it: then it is shown anyway.
/// Telling takes microseconds a name, unless a request of ours stands still on a disk and holds the
/// kernel's locks; half of what may pass between a file's close and its name on every node.
pub(super) const TELLING_LIMIT: Duration = Duration::from_secs(1);

/// The namespace that is shown.
#[derive(Default)]
pub(super) struct Shown(Mutex<State>);

#[derive(Default)]
struct State {
    /// What the kernel was told of last; nothing at the start.
    told: Option<Arc<View>>,
    /// Since when a newer one is known to wait.
    behind_since: Option<Instant>,
    /// The newest that was given before the kernel was told of it. What is older is not given any
    /// more: nothing that was shown is taken back.
    ahead: Option<Arc<View>>,
}

impl Shown {
    /// The kernel was told of all that this namespace changes.
    pub fn show(&self, view: Arc<View>) {
        let mut state = self.0.lock();
        state.ahead.take_if(|ahead| Arc::ptr_eq(ahead, &view));
        state.told = Some(view);
        state.behind_since = None;
    }

    /// What to answer from, where this is the newest there is.
    pub fn of(&self, newest: Arc<View>, now: Instant) -> Arc<View> {
        let mut state = self.0.lock();
        if let State {
            told: Some(told),
            behind_since,
            ahead: None,
        } = &mut *state
        {
            if Arc::ptr_eq(told, &newest) {
                *behind_since = None;
                return newest;
            }
            let since = *behind_since.get_or_insert(now);
            if now.saturating_duration_since(since) <= TELLING_LIMIT {
                return told.clone();
            }
        }
        state.ahead = Some(newest.clone());
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;
    use crate::id::{NodeId, NodeName};

    /// A namespace, another than each before.
    fn view() -> Arc<View> {
        let name = NodeName::new("near").unwrap();
        Catalogue::new(NodeId::new([7; 32]), name).view()
    }

    fn gives(shown: &Shown, newest: &Arc<View>, now: Instant, expected: &Arc<View>) -> bool {
        Arc::ptr_eq(&shown.of(newest.clone(), now), expected)
    }

    #[test]
    fn a_newer_namespace_is_shown_when_the_kernel_was_told_of_it() {
        let (shown, now) = (Shown::default(), Instant::now());
        let (one, two) = (view(), view());
        shown.show(one.clone());
        assert!(gives(&shown, &two, now, &one));
        shown.show(two.clone());
        assert!(gives(&shown, &two, now, &two));
    }

    #[test]
    fn a_kernel_that_cannot_be_told_is_waited_for_no_longer_than_the_limit() {
        let (shown, now) = (Shown::default(), Instant::now());
        let (one, two) = (view(), view());
        shown.show(one.clone());
        assert!(gives(&shown, &two, now, &one));
        assert!(gives(&shown, &two, now + TELLING_LIMIT, &one));
        let later = now + TELLING_LIMIT + Duration::from_millis(1);
        assert!(gives(&shown, &two, later, &two));
        shown.show(view());
        assert!(gives(&shown, &two, later, &two), "nor is it taken back");
        shown.show(two.clone());
        let three = view();
        assert!(gives(&shown, &three, later, &two), "and all is as before");
    }

    #[test]
    fn what_was_shown_at_the_start_is_not_taken_back() {
        let (shown, now) = (Shown::default(), Instant::now());
        let (old, older, newest) = (view(), view(), view());
        assert!(gives(&shown, &newest, now, &newest));
        shown.show(older);
        shown.show(old);
        assert!(gives(&shown, &newest, now, &newest));
        shown.show(newest.clone());
        let next = view();
        assert!(gives(&shown, &next, now, &newest));
    }
}
