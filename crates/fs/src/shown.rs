//! Which namespace the kernel's requests are answered from: the newest that it was told of.
//!
//! What the kernel has cached and what it is answered would otherwise be of two moments, and a
//! program that finds a new name beside a listing of before sees an order in which nothing
//! happened. Owns the namespace that is shown; never asks for one by itself, and never waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use p2pfs_catalogue::View;

/// For how long a newer namespace waits for the kernel to be told of it: then it is shown anyway.
/// Telling takes microseconds a name, unless a request of ours stands still on a disk and holds the
/// kernel's locks; half of what may pass between a file's close and its name on every node.
pub(super) const TELLING_LIMIT: Duration = Duration::from_secs(1);

/// The namespace that is shown: none before the first question, and never an older one again.
#[derive(Default)]
pub(super) struct Shown(Mutex<State>);

#[derive(Default)]
struct State {
    shown: Option<Arc<View>>,
    /// Since when a newer one is known to wait.
    behind_since: Option<Instant>,
}

impl State {
    fn go_on_to(&mut self, view: Arc<View>) {
        self.shown = Some(view);
        self.behind_since = None;
    }
}

impl Shown {
    /// The kernel was told of all that this namespace changes. Of one that is older than what is
    /// shown already there is nothing to say: it comes late. So it does before the first question,
    /// which is answered from the newest: what is told then is of the time before the mount.
    pub(crate) fn show(&self, view: Arc<View>) {
        let mut state = self.0.lock();
        let shown = state.shown.as_ref();
        if shown.is_some_and(|it| !it.is_newer_than(&view)) {
            state.go_on_to(view);
        }
    }

    /// What to answer from, where this was the newest when it was asked for.
    pub(crate) fn of(&self, newest: Arc<View>, now: Instant) -> Arc<View> {
        let mut state = self.0.lock();
        if let Some(shown) = state.shown.clone() {
            // another thread may have had a newer one shown since this one was asked for
            if !newest.is_newer_than(&shown) {
                return shown;
            }
            let since = *state.behind_since.get_or_insert(now);
            if now.saturating_duration_since(since) <= TELLING_LIMIT {
                return shown;
            }
        }
        state.go_on_to(newest.clone());
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2pfs_catalogue::Catalogue;
    use p2pfs_proto::wire::native::record::{Entry, Kind, ShareIndex, Timestamp};
    use p2pfs_types::id::{NodeId, NodeName};
    use p2pfs_types::path::SharedPath;

    /// Namespaces of one node, each with a name more than the one before.
    fn views<const N: usize>() -> [Arc<View>; N] {
        let name = NodeName::new("near").unwrap();
        let mut catalogue = Catalogue::new(NodeId::new([7; 32]), name);
        std::array::from_fn(|n| {
            let time = Timestamp::default();
            let entry = Entry {
                kind: Kind::Directory,
                mtime: time,
                version_time: time,
                sent_by: None,
            };
            let path = SharedPath::new(format!("d{n}").into_bytes()).unwrap();
            catalogue.put(ShareIndex(0), &path, entry).unwrap();
            catalogue.view()
        })
    }

    fn gives(shown: &Shown, newest: &Arc<View>, now: Instant, expected: &Arc<View>) -> bool {
        Arc::ptr_eq(&shown.of(newest.clone(), now), expected)
    }

    fn too_late(now: Instant) -> Instant {
        now + TELLING_LIMIT + Duration::from_millis(1)
    }

    #[test]
    fn a_newer_namespace_is_shown_when_the_kernel_was_told_of_it() {
        let (shown, now) = (Shown::default(), Instant::now());
        let [one, two] = views();
        assert!(gives(&shown, &one, now, &one));
        assert!(gives(&shown, &two, now, &one));
        shown.show(two.clone());
        assert!(gives(&shown, &two, now, &two));
    }

    #[test]
    fn a_kernel_that_cannot_be_told_is_waited_for_no_longer_than_the_limit() {
        let (shown, now) = (Shown::default(), Instant::now());
        let [one, two, three, four] = views();
        assert!(gives(&shown, &one, now, &one));
        assert!(gives(&shown, &three, now, &one));
        assert!(gives(&shown, &three, now + TELLING_LIMIT, &one));
        let later = too_late(now);
        assert!(gives(&shown, &three, later, &three));
        shown.show(two);
        assert!(gives(&shown, &three, later, &three), "nor is it taken back");
        assert!(gives(&shown, &four, later, &three), "and all is as before");
        shown.show(three.clone());
        assert!(gives(&shown, &four, later, &three));
        shown.show(four.clone());
        assert!(gives(&shown, &four, later, &four));
    }

    #[test]
    fn who_asks_first_sees_the_newest_whatever_was_told_of_before() {
        let (shown, now) = (Shown::default(), Instant::now());
        let [before, newest, next] = views();
        // of a moment at which the other nodes had not been heard yet
        shown.show(before);
        assert!(gives(&shown, &newest, now, &newest));
        assert!(gives(&shown, &next, now, &newest));
    }

    #[test]
    fn what_was_shown_at_the_start_is_not_taken_back() {
        let (shown, now) = (Shown::default(), Instant::now());
        let [older, old, newest, next] = views();
        assert!(gives(&shown, &newest, now, &newest));
        shown.show(older);
        shown.show(old);
        assert!(gives(&shown, &newest, now, &newest));
        shown.show(newest.clone());
        assert!(gives(&shown, &next, now, &newest));
    }

    #[test]
    fn who_asks_slowly_takes_nothing_back_that_another_was_shown() {
        let (shown, now) = (Shown::default(), Instant::now());
        let [one, asked_slowly, newest] = views();
        assert!(gives(&shown, &one, now, &one));
        assert!(gives(&shown, &newest, now, &one));
        assert!(gives(&shown, &newest, too_late(now), &newest));
        assert!(gives(&shown, &asked_slowly, too_late(now), &newest));
        shown.show(asked_slowly);
        assert!(gives(&shown, &newest, too_late(now), &newest));
    }
}
