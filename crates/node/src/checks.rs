//! Checks at the start of a node: the cache after an unclean stop, the clock, the secret.

use std::ops::ControlFlow;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::conditions::{Condition, Finding};
use super::events::EventLog;
use super::persist::unix_now_s;
use super::run::NodeHandles;
use super::store::{Responders, Store, StoreError};
use p2pfs_catalogue::Catalogue;
use p2pfs_content::cache::Cache;
use p2pfs_content::shares::ShareSet;
use p2pfs_proto::wire::native::record::EARLIEST_UNIX_S;

/// Warning for a dropped secret of an earlier version.
const DROPPED_SECRET: &str = "the secret of an earlier version was dropped, since it proves no \
    membership: this node has founded a cluster of its own; p2pfs invite on a node of the others, \
    and p2pfs join here";

/// Returns the time of the clock that dates own versions, or `None` if it is before
/// [`EARLIEST_UNIX_S`], so that the clock cannot have been set. Versions of all nodes are judged by
/// this clock. By the system clock, own versions would seem to lie in the future while it is behind.
pub(super) fn believable_now_s(shares: &ShareSet) -> Option<u64> {
    Some(shares.version_time_s()).filter(|now| *now >= EARLIEST_UNIX_S)
}

/// Forgets the marks of private contents of which the cache has no bytes.
///
/// # Errors
/// [`StoreError`] if the change cannot be stored.
pub(super) fn drop_marks(
    catalogue: &mut Catalogue,
    store: &mut Store,
    cache: &Cache,
) -> Result<(), StoreError> {
    let mut gone = catalogue.storage().marks();
    gone.retain(|mark| cache.cached_bytes(&mark.content) == 0);
    catalogue.storage().drop_marks(&gone);
    store.drop_marks(&gone)
}

/// Starts a thread that verifies the files of the cache that were not checked since an unclean stop
/// or have pages in doubt, and then all complete files again and again until the node stops. After
/// each step of the first check the thread sleeps as long as the step took, so it uses at most half
/// of the disk's time. If it cannot be started, no file is verified. Returns a receiver that fails
/// when the thread has ended and no longer has the cache.
pub(super) fn check_cache(
    cache: Cache,
    mut stopping: watch::Receiver<bool>,
) -> oneshot::Receiver<()> {
    let (ended, end) = oneshot::channel();
    let (running, stop) = std::sync::mpsc::channel::<()>();
    tokio::spawn(async move {
        let _stopped_or_dropped = stopping.wait_for(|stopped| *stopped).await;
        drop(running);
    });
    let check = move || {
        let wait = |pause| match stop.recv_timeout(pause) {
            Err(RecvTimeoutError::Timeout) => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        };
        let mut begun = Instant::now();
        cache.verify_unverified(|_| {
            let next = wait(begun.elapsed());
            begun = Instant::now();
            next
        });
        cache.verify_continually(wait);
        drop(cache);
        drop(ended);
    };
    let thread = std::thread::Builder::new().name("cache-check".to_owned());
    let _detached = thread.spawn(check);
    end
}

/// Warns about a wrong clock, about a dropped secret of an earlier version, about state that could
/// not be read, and about problems of the cache.
pub(super) fn warn_of_what_was_found(
    dropped_secret: bool,
    unread: &[String],
    cache: &Cache,
    events: &EventLog,
) {
    warn_of_a_wrong_clock(events, None);
    unread.iter().for_each(|why| events.warn_owner(why.clone()));
    if dropped_secret {
        events.warn(DROPPED_SECRET.to_owned());
    }
    let problems = cache.problems().into_iter();
    problems.for_each(|problem| events.warn(problem));
}

/// Hands the stored responder statistics of other nodes to the fetcher, and the nodes that are
/// still shunned to the catalogue. Warns if the stored value was unreadable and was set aside.
pub(super) fn restore_responders(
    found: &Responders,
    handles: &NodeHandles,
    catalogue: &mut Catalogue,
) {
    handles.fetcher.recall(&found.records);
    let now = Instant::now();
    for record in &found.records {
        if let Some(left) = record.shunned_for() {
            catalogue.unserved().shun(record.node, now + left);
        }
    }
    if let Some(why) = &found.set_aside {
        handles.events.warn(format!(
            "how quick other nodes were, and which of them lied, is learnt anew: what was stored \
             of it was set aside, since {why}"
        ));
    }
}

/// Begins [`Condition::ClockBehind`] if this machine's clock is before [`EARLIEST_UNIX_S`], or is
/// `behind` the time that it showed before. Ends it otherwise.
pub(super) fn warn_of_a_wrong_clock(events: &EventLog, behind: Option<Duration>) {
    let now = unix_now_s();
    if now < EARLIEST_UNIX_S {
        let said = "the clock of this machine is far behind: files changed here lose against \
                    older ones of other nodes";
        events.begin(Condition::ClockBehind, "", Finding::new(said));
    } else if let Some(behind) = behind {
        let said = format!(
            "the clock of this machine is about {} min behind the time that it showed before: files \
             changed here now lose against older ones of other nodes",
            behind.as_secs() / 60
        );
        events.begin(Condition::ClockBehind, "", Finding::new(said));
    } else {
        events.end(Condition::ClockBehind, "");
    }
}
