//! Selects the namespace from which the kernel's requests are answered: the newest one that the
//! kernel was notified of.
//!
//! Otherwise the kernel's caches and the answers would be from different moments. A program that
//! finds a new name beside an old listing would see an order of events that never happened. This
//! module owns the shown namespace. It never requests a namespace itself, and never waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use p2pfs_catalogue::View;

/// How long a newer namespace waits until the kernel is notified of it. After that it is shown
/// anyway. A notification takes microseconds a name, unless the kernel holds the locks for a
/// request that is stalled on a disk here. The limit is half of the time that may pass between a
/// file's close and its name on every node.
pub(super) const TELLING_LIMIT: Duration = Duration::from_secs(1);

/// The shown namespace. It is empty before the first request, and never goes back to an older one.
#[derive(Default)]
pub(super) struct ShownView(Mutex<ShownState>);

#[derive(Default)]
struct ShownState {
    shown: Option<Arc<View>>,
    /// Time since which a newer namespace is known to wait.
    behind_since: Option<Instant>,
}

impl ShownState {
    fn advance_to(&mut self, view: Arc<View>) {
        self.shown = Some(view);
        self.behind_since = None;
    }
}

impl ShownView {
    /// Shows a namespace after the kernel was notified of all its changes. Ignores a namespace that
    /// is not newer than the shown one. Ignores every namespace before the first request, which is
    /// answered from the newest namespace at that time.
    pub(crate) fn show(&self, view: Arc<View>) {
        let mut state = self.0.lock();
        let shown = state.shown.as_ref();
        if shown.is_some_and(|it| !it.is_newer_than(&view)) {
            state.advance_to(view);
        }
    }

    /// Returns the namespace to answer from. `newest` was the newest when it was obtained.
    pub(crate) fn of(&self, newest: Arc<View>, now: Instant) -> Arc<View> {
        let mut state = self.0.lock();
        if let Some(shown) = state.shown.clone() {
            // Another thread may have shown a newer one since this one was obtained.
            if !newest.is_newer_than(&shown) {
                return shown;
            }
            let since = *state.behind_since.get_or_insert(now);
            if now.saturating_duration_since(since) <= TELLING_LIMIT {
                return shown;
            }
        }
        state.advance_to(newest.clone());
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2pfs_catalogue::Catalogue;
    use p2pfs_catalogue::sample::directory;
    use p2pfs_proto::wire::native::record::{ShareIndex, Timestamp};
    use p2pfs_types::id::{NodeId, NodeName};
    use p2pfs_types::path::SharedPath;

    /// Creates namespaces of one node, each with one name more than the one before.
    fn views<const N: usize>() -> [Arc<View>; N] {
        let name = NodeName::new("near").unwrap();
        let mut catalogue = Catalogue::new(NodeId::new([7; 32]), name);
        std::array::from_fn(|n| {
            let entry = directory(Timestamp::default());
            let path = SharedPath::new(format!("d{n}").into_bytes()).unwrap();
            catalogue
                .own_mut()
                .put(ShareIndex(0), &path, entry)
                .unwrap();
            catalogue.view()
        })
    }

    fn gives(shown: &ShownView, newest: &Arc<View>, now: Instant, expected: &Arc<View>) -> bool {
        Arc::ptr_eq(&shown.of(newest.clone(), now), expected)
    }

    fn too_late(now: Instant) -> Instant {
        now + TELLING_LIMIT + Duration::from_millis(1)
    }

    #[test]
    fn a_newer_namespace_is_shown_once_the_kernel_was_notified() {
        let (shown, now) = (ShownView::default(), Instant::now());
        let [one, two] = views();
        assert!(gives(&shown, &one, now, &one));
        assert!(gives(&shown, &two, now, &one));
        shown.show(two.clone());
        assert!(gives(&shown, &two, now, &two));
    }

    #[test]
    fn a_kernel_that_cannot_be_notified_delays_a_view_only_up_to_the_limit() {
        let (shown, now) = (ShownView::default(), Instant::now());
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
    fn the_first_request_sees_the_newest_view_regardless_of_notifications() {
        let (shown, now) = (ShownView::default(), Instant::now());
        let [before, newest, next] = views();
        // This one is from before the other nodes were heard.
        shown.show(before);
        assert!(gives(&shown, &newest, now, &newest));
        assert!(gives(&shown, &next, now, &newest));
    }

    #[test]
    fn the_initial_view_is_not_rolled_back() {
        let (shown, now) = (ShownView::default(), Instant::now());
        let [older, old, newest, next] = views();
        assert!(gives(&shown, &newest, now, &newest));
        shown.show(older);
        shown.show(old);
        assert!(gives(&shown, &newest, now, &newest));
        shown.show(newest.clone());
        assert!(gives(&shown, &next, now, &newest));
    }

    #[test]
    fn a_slow_request_does_not_roll_back_a_view_shown_to_another() {
        let (shown, now) = (ShownView::default(), Instant::now());
        let [one, asked_slowly, newest] = views();
        assert!(gives(&shown, &one, now, &one));
        assert!(gives(&shown, &newest, now, &one));
        assert!(gives(&shown, &newest, too_late(now), &newest));
        assert!(gives(&shown, &asked_slowly, too_late(now), &newest));
        shown.show(asked_slowly);
        assert!(gives(&shown, &newest, too_late(now), &newest));
    }
}
