//! Ends of the waits of readers and fills: with the bytes that they wait for, or with an error.

use std::time::{Duration, Instant};

use super::demands::Demand;
use super::fetch::FileFetch;
use super::holders::GONE;
use super::patience::{Standstill, Waiting};
use super::state::{FetchState, Timer};
use super::{Decision, DemandId, PlanError, PlanEvent};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::ByteRange;

/// How long readers and fills wait.
#[derive(Debug, Default)]
pub struct Patience {
    /// Last period in which this node did not run.
    standstill: Option<Standstill>,
}

impl Patience {
    /// Records that this node did not run for `took` until `now`. Must be called before deadlines
    /// are checked.
    pub fn record_standstill(&mut self, now: Instant, took: Duration) {
        self.standstill = Some(Standstill::new(now, took));
    }

    /// Returns until when a demand waits if nothing more happens.
    pub(super) fn patient_until(
        &self,
        state: &FetchState,
        now: Instant,
        demand: &Demand,
    ) -> Option<Instant> {
        let fetch = state.files.get(&demand.content)?;
        let waiting = fetch.progress_of(demand.waiting);
        let its_turn = Some(waiting.progress_at());
        Some(self.patience_deadline(state, now, (fetch, demand.range), waiting, its_turn))
    }

    /// Returns until when the wait for a range of a file continues. Work of the file's holders for
    /// any request extends the wait, but at most to `TURN_PATIENCE` times the wait's limit after
    /// `its_turn`. There is no such bound if `its_turn` is `None`, or if a limit of this node
    /// lately delayed a request to a holder of missing bytes of the range. A standstill of this
    /// node also extends the wait.
    pub(super) fn patience_deadline(
        &self,
        state: &FetchState,
        now: Instant,
        (fetch, range): (&FileFetch, ByteRange),
        waiting: Waiting,
        its_turn: Option<Instant>,
    ) -> Instant {
        let limit = waiting.limit;
        let mut holders = fetch.holders_of(range).filter_map(|it| state.peers.get(it));
        let is_limited = holders.any(|peer| peer.is_held_back(now, limit));
        let its_turn = its_turn.filter(|_| !is_limited);
        let worked_at = state.peers.last_work(now, fetch.holders().nodes());
        let worked_at = worked_at.map(|at| at.min(now));
        let until = waiting.extended(worked_at, its_turn);
        let excused = self.standstill.map(|it| it.excuses_until(limit));
        excused.map_or(until, |excused| until.max(excused))
    }

    /// Ends the wait of a reader if its time is over, or schedules the next check.
    pub(super) fn check_patience(&self, state: &mut FetchState, now: Instant, id: DemandId) {
        let later = match state.demands.get(id) {
            Some(demand) => self.patient_until(state, now, demand),
            None => return,
        };
        let Some(later) = later.filter(|later| *later > now) else {
            return give_up(state, now, id);
        };
        let Some(demand) = state.demands.get_mut(id) else {
            return;
        };
        demand.deadline = later;
        state.out.decisions.record(|| Decision::ReadExtended {
            read: id,
            until: later,
        });
        state.out.timers.insert((later, Timer::Deadline(id)));
        let content = demand.content;
        state.mark_if_overdue(now, &content);
    }

    /// Ends a fill if its time is over, or schedules the next check. Readers are served before
    /// fills. So if no request of the fill was sent since bytes of the file last arrived, the fill
    /// waits for as long as its holders work for any request.
    pub(super) fn give_up_filling(
        &self,
        state: &mut FetchState,
        now: Instant,
        content: ContentKey,
    ) {
        let Some(fetch) = state.files.get(&content) else {
            return;
        };
        let Some(filling) = fetch.filling() else {
            return;
        };
        let waiting = fetch.progress_of(filling.waiting);
        let later =
            self.patience_deadline(state, now, (fetch, fetch.whole()), waiting, filling.turn_at);
        if later > now {
            state
                .out
                .timers
                .insert((later, Timer::FillDeadline(content)));
            return;
        }
        let why = fetch.reason(fetch.whole());
        fail_fill(state, content, why);
    }
}

/// Ends the waits of readers that have all their bytes now that `range` arrived.
pub(super) fn notify_readers(state: &mut FetchState, content: &ContentKey, range: ByteRange) {
    let Some(fetch) = state.files.get(content) else {
        return;
    };
    let waiting = state.demands.touching(fetch, range);
    let ready = waiting.filter(|(_, demand)| fetch.presence.here().contains(demand.range));
    let ready: Vec<_> = ready.map(|(id, _)| id).collect();
    for id in ready {
        state.take_demand(id);
        state.out.decisions.record(|| Decision::ReadReady(id));
        state.out.events.push_back(PlanEvent::Ready(id));
    }
}

/// Ends the fill of a file that is complete.
pub(super) fn notify_if_filled(state: &mut FetchState, content: &ContentKey) {
    let fetch = state.files.get(content);
    if fetch.is_some_and(|fetch| fetch.filling().is_some() && fetch.presence.is_whole()) {
        state.cancel_fill(content);
        state.record_filled(content);
    }
}

fn give_up(state: &mut FetchState, now: Instant, id: DemandId) {
    let Some(demand) = take_unmet(state, id) else {
        return;
    };
    let mut why = PlanError::NoHolder;
    if let Some(fetch) = state.files.get_mut(&demand.content) {
        why = fetch.reason(demand.range);
        for gap in fetch.presence.here().missing_in(demand.range).iter() {
            fetch.failures.remember(now, gap, why.clone());
        }
        why = fetch.suppliers.end_wait(now, demand.waiting, why);
    }
    state.out.decisions.record(|| Decision::ReadGivenUp {
        read: id,
        why: why.clone(),
    });
    state.out.events.push_back(PlanEvent::Failed(id, why));
}

/// Removes the demand of a reader that goes without all its bytes. If no other reader of the file
/// waits, its read-ahead ends too: nobody may read on. Requests in flight continue.
pub(super) fn take_unmet(state: &mut FetchState, id: DemandId) -> Option<Demand> {
    let demand = state.take_demand(id)?;
    let fetch = state.files.get(&demand.content);
    if fetch.is_some_and(|fetch| fetch.readers.is_empty()) {
        state.forget_streams(&demand.content);
    }
    Some(demand)
}

/// Ends the catalogue lookup of a file, if there was one. If a full holder recently reported the
/// file gone, and the file is still gone after that lookup, ends the waits that need bytes without
/// a holder.
pub(super) fn give_up_after_lookup(state: &mut FetchState, now: Instant, content: ContentKey) {
    let Some(fetch) = state.files.get_mut(&content) else {
        return;
    };
    let was_looked_up = fetch.holders_mut().end_lookup();
    if was_looked_up && fetch.is_just_gone_in(now, fetch.whole()) {
        give_up_gone(state, now, content, |_| true);
    }
}

/// Ends the waits of readers and fills for bytes without a holder, if the waits began at least
/// [`GONE`] ago. Does this only if every full holder reported the file gone and several `Get`s
/// (requests to all nodes for holders) in a row found nothing new.
pub(super) fn give_up_old_waits(state: &mut FetchState, now: Instant, content: ContentKey) {
    if state
        .files
        .get(&content)
        .is_some_and(|fetch| fetch.holders().has_long_asked())
    {
        give_up_gone(state, now, content, |since| since + GONE <= now);
    }
}

/// If a file is gone, ends each wait of a reader or fill that needs bytes without a holder, if
/// `is_over` returns true for the time at which the wait began.
fn give_up_gone(
    state: &mut FetchState,
    now: Instant,
    content: ContentKey,
    is_over: impl Fn(Instant) -> bool,
) {
    let Some(fetch) = state.files.get(&content) else {
        return;
    };
    let whole = fetch.whole();
    if !fetch.is_gone_in(whole) {
        return;
    }
    let why = fetch.reason(whole);
    let fills = fetch.filling().is_some_and(|it| is_over(it.waiting.since));
    let is_gone = |it: &Demand| is_over(it.waiting.since) && fetch.is_gone_in(it.range);
    let waiting = state.demands.touching(fetch, whole);
    let waiting = waiting.filter(|(_, demand)| is_gone(demand));
    let waiting: Vec<_> = waiting.map(|(id, _)| id).collect();
    waiting.into_iter().for_each(|id| give_up(state, now, id));
    if fills {
        fail_fill(state, content, why);
    }
}

/// Ends a fill with an error.
fn fail_fill(state: &mut FetchState, content: ContentKey, why: PlanError) {
    state.cancel_fill(&content);
    state.out.decisions.record(|| Decision::FillGivenUp {
        content,
        why: why.clone(),
    });
    state
        .out
        .events
        .push_back(PlanEvent::FillFailed(content, why));
}
