//! What the users of one connection and its task share: who waits for an answer, and how long the
//! connection has been silent.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, Instant};

use super::counters::DropReason;
use super::framing::Pulse;
use super::limits::PeerLimits;
use super::polite::LastReading;
use crate::net::NetError;
use p2pfs_proto::wire::native::tcp::Response;
use p2pfs_types::id::NodeId;

/// By how much the kernel's clock of what came (ticks of up to 10 ms) and that of what was opened
/// of it may differ, and the time between the two.
const CLOCKS_DIFFER: Duration = Duration::from_millis(50);

/// What to do with an answer. Called once, on the task of the connection or where it is ended, so
/// it must not wait for anything.
pub type OnAnswer = Box<dyn FnOnce(Result<Response, NetError>) + Send>;

/// Whom to tell that bytes of an answer came before it is whole. Told of slow answers only, each
/// fifty milliseconds or so, and also of one that nobody waits for any more. Told of no bytes where
/// a handshake that the request waits for gets on.
#[derive(Clone)]
pub struct Progress {
    /// Given the node, the key and how many bytes came since the last time. Called on the task of
    /// the connection, so it must not wait for anything.
    pub tell: Arc<dyn Fn(NodeId, u64, u64) + Send + Sync>,
    /// Whom is asked.
    pub node: NodeId,
    /// What the asker calls the request.
    pub key: u64,
}

impl Progress {
    /// The peer is at work for the request, and none of its answer is here yet.
    pub(super) fn tell_of_work(&self) {
        (self.tell)(self.node, self.key, 0);
    }
}

/// A request on its way.
pub(super) struct Waiter {
    pub reply: OnAnswer,
    pub progress: Option<Progress>,
    /// Held until the answer comes, also where nobody waits for it any more: the peer is busy
    /// with it all the same.
    pub _slot: OwnedSemaphorePermit,
    pub sent: Instant,
}

pub(super) struct Table {
    pub waiters: HashMap<u32, Waiter>,
    next_id: u32,
    /// When the connection's task looks at the clock again.
    pub next_look: Instant,
    /// When the first of the waiters came to an idle connection.
    pub busy_since: Instant,
    pub last_used: Instant,
    /// When bytes of an answer last came.
    pub brought: Instant,
    /// The same of bytes of which no record is whole yet, as far as was told.
    part_told: Instant,
    pub closed: Option<DropReason>,
}

/// What the users of a connection and its task share.
pub(super) struct Line {
    table: Mutex<Table>,
    pub slots: Arc<Semaphore>,
    /// Rung when an idle connection gets a request that its task would look at too late.
    pub woken: Notify,
    /// How soon a request is to be looked at.
    look_after: Duration,
    pub pulse: Pulse,
    link: LastReading,
    /// Pings that were sent and may still be answered.
    pings: AtomicU64,
}

impl Line {
    pub(super) fn new(in_flight: usize, look_after: Duration, link: LastReading) -> Self {
        let now = Instant::now();
        let table = Table {
            waiters: HashMap::new(),
            next_id: 1,
            next_look: now,
            busy_since: now,
            last_used: now,
            brought: now,
            part_told: now,
            closed: None,
        };
        let slots = Arc::new(Semaphore::new(in_flight));
        Self {
            table: Mutex::new(table),
            slots,
            woken: Notify::new(),
            look_after,
            pulse: Pulse::new(),
            link,
            pings: AtomicU64::new(0),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }

    /// The waiter's id; who is not taken is given back with the reason.
    pub(super) fn add(&self, waiter: Waiter) -> Result<u32, (NetError, OnAnswer)> {
        let mut table = self.lock();
        if let Some(reason) = table.closed {
            return Err((NetError::Lost { reason }, waiter.reply));
        }
        let sent = waiter.sent;
        let was_idle = table.waiters.is_empty();
        if was_idle {
            table.busy_since = sent;
        }
        // Ids come round after four thousand million; at most a few dozen are in flight.
        let id = table.next_id;
        table.next_id = id.wrapping_add(1);
        table.waiters.insert(id, waiter);
        if was_idle && sent + self.look_after < table.next_look {
            // one ring for all until then
            table.next_look = sent;
            self.woken.notify_one();
        }
        Ok(id)
    }

    pub(super) fn take(&self, id: u32) -> Option<Waiter> {
        let mut table = self.lock();
        let now = Instant::now();
        (table.last_used, table.brought) = (now, now);
        table.waiters.remove(&id)
    }

    /// Nobody waits for this answer any more; false where it came already.
    pub(super) fn forget(&self, id: u32) -> bool {
        let mut table = self.lock();
        let waiter = table.waiters.get_mut(&id);
        let unwanted = waiter.map(|waiter| std::mem::replace(&mut waiter.reply, Box::new(|_| ())));
        drop(table);
        unwanted.is_some()
    }

    /// Bytes of an answer came, and there are more to come.
    pub(super) fn bring(&self, id: u32, bytes: u64) {
        let mut table = self.lock();
        table.brought = Instant::now();
        let progress = table.waiters.get(&id).and_then(|it| it.progress.clone());
        drop(table);
        if let Some(Progress { tell, node, key }) = progress {
            tell(node, key, bytes);
        }
    }

    /// When bytes last came of which no record is whole yet. A record of the full size takes 16 s
    /// of a link of 1 kB/s, and until then nothing of it can be opened.
    /// Records without content are not on the way to an answer.
    fn part_came(&self) -> Option<Instant> {
        let last = self.link.passed_over().max(Some(self.pulse.last()));
        let whole = last? + CLOCKS_DIFFER;
        self.link.came().filter(|came| *came > whole)
    }

    /// Records that a ping goes out, which the peer may answer once.
    pub(super) fn note_ping(&self) {
        self.pings.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a pong answers a ping of this end; it does so no more then.
    pub(super) fn take_pong(&self) -> bool {
        let less = |pings: u64| pings.checked_sub(1);
        let taken = self
            .pings
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        taken.is_ok()
    }

    /// Tells who asked first that a record is on its way, where more of it came since the last
    /// time.
    pub(super) fn tell_of_part(&self) {
        let Some(came) = self.part_came() else {
            return;
        };
        let first = {
            let mut table = self.lock();
            if came <= table.part_told {
                return;
            }
            table.part_told = came;
            let first = table.waiters.values().min_by_key(|waiter| waiter.sent);
            first.and_then(|waiter| waiter.progress.clone())
        };
        if let Some(progress) = first {
            progress.tell_of_work();
        }
    }

    /// The first reason stays; every waiter learns it at once.
    pub(super) fn fail(&self, mut reason: DropReason) {
        let waiters = {
            let mut table = self.lock();
            reason = *table.closed.get_or_insert(reason);
            std::mem::take(&mut table.waiters)
        };
        self.slots.close();
        for waiter in waiters.into_values() {
            (waiter.reply)(Err(NetError::Lost { reason }));
        }
    }

    pub(super) fn lost(&self) -> NetError {
        NetError::Lost {
            reason: self.lock().closed.unwrap_or(DropReason::ClosedHere),
        }
    }

    /// What the clock says about the connection, and when to look again.
    pub(super) fn check(
        &self,
        now: Instant,
        pinged: &mut Option<Silence>,
        limits: &PeerLimits,
    ) -> Check {
        let mut table = self.lock();
        let check = self.look(&table, now, pinged, limits);
        if let Check::Again(next) = check {
            table.next_look = next;
        }
        check
    }

    fn look(
        &self,
        table: &Table,
        now: Instant,
        pinged: &mut Option<Silence>,
        limits: &PeerLimits,
    ) -> Check {
        let Some(oldest) = table.waiters.values().map(|waiter| waiter.sent).min() else {
            let end = table.last_used + limits.idle_dialled;
            return if now >= end {
                Check::End(DropReason::Idle)
            } else {
                Check::Again(end)
            };
        };
        let silence = Silence {
            beats: self.pulse.beats(),
            busy_since: table.busy_since,
        };
        let part_came = self.part_came().unwrap_or(table.busy_since);
        let quiet_since = self.pulse.last().max(table.busy_since).max(part_came);
        let silent = limits.silent(quiet_since, &self.link);
        let unanswered = limits.unanswered(oldest, table.brought.max(part_came));
        let ping = quiet_since + limits.ping_after;
        if now >= silent {
            Check::End(DropReason::Silent)
        } else if now >= unanswered {
            Check::End(DropReason::Unanswered)
        } else if *pinged == Some(silence) {
            Check::Again(silent.min(unanswered))
        } else if now >= ping {
            *pinged = Some(silence);
            Check::Ping
        } else {
            Check::Again(ping.min(unanswered))
        }
    }
}

/// Which silence it is: the next one begins when bytes come, or with a request after none. Counted
/// and not timed, since an answer may come within the same tick of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Silence {
    beats: u64,
    busy_since: Instant,
}

/// What to do about a connection's silence.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Check {
    Again(Instant),
    Ping,
    End(DropReason),
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::net::peer::gauge::Reading;

    fn line(in_flight: usize) -> Line {
        let ping_after = PeerLimits::default().ping_after;
        Line::new(in_flight, ping_after, LastReading::default())
    }

    fn waiter(line: &Line) -> (Waiter, oneshot::Receiver<Result<Response, NetError>>) {
        let slot = Arc::clone(&line.slots).try_acquire_owned().unwrap();
        let (reply, answer) = oneshot::channel();
        (
            Waiter {
                reply: Box::new(move |outcome| drop(reply.send(outcome))),
                progress: None,
                _slot: slot,
                sent: Instant::now(),
            },
            answer,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_lives_until_its_time_and_is_never_pinged() {
        let (line, limits) = (line(4), PeerLimits::default());
        let start = Instant::now();
        let end = start + limits.idle_dialled;
        assert_eq!(line.check(start, &mut None, &limits), Check::Again(end));
        assert_eq!(
            line.check(end, &mut None, &limits),
            Check::End(DropReason::Idle)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn silence_with_a_request_out_is_asked_about_after_1_s_and_dead_after_2_s() {
        let (line, limits) = (line(4), PeerLimits::default());
        tokio::time::advance(Duration::from_secs(30)).await;
        let (waiting, _answer) = waiter(&line);
        line.add(waiting).ok().unwrap();
        let (start, mut pinged) = (Instant::now(), None);
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(
            line.check(start, &mut pinged, &limits),
            Check::Again(after(1000))
        );
        assert_eq!(line.check(after(1000), &mut pinged, &limits), Check::Ping);
        assert_eq!(
            line.check(after(1000), &mut pinged, &limits),
            Check::Again(after(2000))
        );
        let dead = Check::End(DropReason::Silent);
        assert_eq!(line.check(after(2000), &mut pinged, &limits), dead);
    }

    /// What the clock says of a line with a question out, of which the kernel says so.
    fn checks_of(line: &Line) -> impl FnMut(u64, (u64, Reading)) -> Check {
        let (start, mut pinged) = (Instant::now(), None);
        let after = move |ms| start + Duration::from_millis(ms);
        move |ms, (read_ms, reading)| {
            line.link.set(after(read_ms), reading);
            line.check(after(ms), &mut pinged, &PeerLimits::default())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_of_a_record_without_content_keep_no_silent_connection_alive() {
        let line = line(4);
        let (waiting, _answer) = waiter(&line);
        line.add(waiting).ok().unwrap();
        let start = Instant::now();
        let mut check = checks_of(&line);
        let reading = Reading {
            acked_ago: Duration::from_secs(9),
            came_ago: Duration::ZERO,
            ..Reading::default()
        };
        assert_eq!(check(1000, (0, reading)), Check::Ping);
        line.link.pass_over(start + Duration::from_millis(1900));
        let dead = Check::End(DropReason::Silent);
        assert_eq!(check(2000, (1900, reading)), dead);
        // those of a record of which more is to come do
        let alive = Check::Again(start + Duration::from_millis(3960));
        assert_eq!(check(2000, (1960, reading)), alive);
    }

    #[tokio::test(start_paused = true)]
    async fn on_a_link_with_a_long_queue_silence_is_dead_after_some_round_trips() {
        let line = line(4);
        let (waiting, _answer) = waiter(&line);
        line.add(waiting).ok().unwrap();
        let then = Instant::now() + Duration::from_secs(6);
        let mut check = checks_of(&line);
        let reading = Reading {
            round_trip: Duration::from_millis(1500),
            acked_ago: Duration::from_secs(9),
            came_ago: Duration::from_secs(9),
            ..Reading::default()
        };
        assert_eq!(check(1000, (0, reading)), Check::Ping);
        assert_eq!(check(2000, (0, reading)), Check::Again(then));
        let dead = Check::End(DropReason::Silent);
        assert_eq!(check(6000, (0, reading)), dead);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_not_dead_while_the_other_end_acknowledges_but_not_for_ever() {
        let line = line(4);
        let (waiting, _answer) = waiter(&line);
        line.add(waiting).ok().unwrap();
        let after = |ms| Instant::now() + Duration::from_millis(ms);
        let mut check = checks_of(&line);
        let mut ends = |acked_ms: u64| {
            let reading = Reading {
                came_ago: Duration::from_mins(2),
                ..Reading::default()
            };
            check(2000, (acked_ms, reading));
            check(2000, (acked_ms, reading))
        };
        assert_eq!(ends(0), Check::End(DropReason::Silent));
        assert_eq!(ends(1900), Check::Again(after(3900)));
        assert_eq!(ends(60_000), Check::Again(after(8000)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_others_overtake_for_too_long_ends_the_connection() {
        let line = line(4);
        let limits = PeerLimits {
            silent_after: Duration::from_secs(99),
            ..PeerLimits::default()
        };
        let (waiting, _answer) = waiter(&line);
        line.add(waiting).ok().unwrap();
        let later = Instant::now() + limits.unanswered_after;
        let end = Check::End(DropReason::Unanswered);
        assert_eq!(line.check(later, &mut None, &limits), end);
    }

    #[tokio::test]
    async fn a_failed_connection_tells_its_waiters_and_takes_no_more() {
        let line = line(4);
        let (waiting, answer) = waiter(&line);
        line.add(waiting).ok().unwrap();
        let (late, _) = waiter(&line);
        line.fail(DropReason::Silent);
        line.fail(DropReason::Broken);
        let lost = NetError::Lost {
            reason: DropReason::Silent,
        };
        assert_eq!(answer.await.unwrap().unwrap_err(), lost);
        assert_eq!(line.lost(), lost);
        assert_eq!(line.add(late).err().unwrap().0, lost);
        assert!(lost.is_retryable());
    }

    #[tokio::test(start_paused = true)]
    async fn many_requests_in_turn_wake_the_watch_once_a_look() {
        let (line, limits) = (line(4), PeerLimits::default());
        let idle = line.check(Instant::now(), &mut None, &limits);
        assert!(matches!(idle, Check::Again(_)));
        let mut rung = 0;
        for _ in 0..50 {
            let (waiting, _answer) = waiter(&line);
            let id = line.add(waiting).ok().unwrap();
            if std::pin::pin!(line.woken.notified()).enable() {
                rung += 1;
                line.check(Instant::now(), &mut None, &limits);
            }
            line.take(id);
        }
        assert_eq!(rung, 1);
    }
}
