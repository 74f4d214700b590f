//! State that the users of one connection share with its task: the open requests of this end, and
//! the silence of the connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, Instant};

use super::counters::DropReason;
use super::framing::Pulse;
use super::limits::PeerLimits;
use super::queue_limit::LastTcpInfo;
use crate::net::NetError;
use p2pfs_proto::wire::native::tcp::Response;
use p2pfs_types::id::NodeId;

/// Possible difference between the kernel's clock of arrivals (ticks of up to 10 ms) and the clock
/// of opened records, with the time between arrival and opening.
const CLOCKS_DIFFER: Duration = Duration::from_millis(50);

/// Callback for an answer. Called once, unless the request is cancelled. It must not block, because
/// the task of the connection may call it.
pub type OnAnswer = Box<dyn FnOnce(Result<Response, NetError>) + Send>;

/// Callback for bytes of an answer that arrive before it is complete. Called for slow answers only,
/// about every 50 ms at most, and also for cancelled requests. It is also called with zero bytes in
/// two cases: for a request that waits for a handshake, when the handshake progresses; and for the
/// oldest request, while a record arrives that is not complete.
#[derive(Clone)]
pub struct Progress {
    /// Receives the node, the key and the number of bytes since the last call. Called on async
    /// tasks, so it must not block.
    pub tell: Arc<dyn Fn(NodeId, u64, u64) + Send + Sync>,
    /// Peer that was asked.
    pub node: NodeId,
    /// The asker's id of the request.
    pub key: u64,
}

impl Progress {
    /// Reports that the peer is at work for the request, without bytes of its answer so far.
    pub(super) fn report_work(&self) {
        (self.tell)(self.node, self.key, 0);
    }
}

/// Open request.
pub(super) struct OpenRequest {
    pub reply: OnAnswer,
    pub progress: Option<Progress>,
    /// Held until the answer arrives, even for a cancelled request: the peer is busy with it all
    /// the same.
    pub _slot: OwnedSemaphorePermit,
    pub sent: Instant,
}

pub(super) struct ConnectionRequests {
    pub waiters: HashMap<u32, OpenRequest>,
    next_id: u32,
    /// When the connection's task checks the clock next.
    pub next_look: Instant,
    /// When a request was last sent while no other was open.
    pub busy_since: Instant,
    pub last_used: Instant,
    /// When bytes of any answer last arrived.
    pub brought: Instant,
    /// Last reported arrival of bytes of an incomplete record.
    part_told: Instant,
    pub closed: Option<DropReason>,
}

/// State that the users of a connection share with its task.
pub(super) struct ConnectionState {
    table: Mutex<ConnectionRequests>,
    pub slots: Arc<Semaphore>,
    /// Wakes the task of an idle connection when a request is added, if the task would sleep beyond
    /// the time at which it must check that request.
    pub woken: Notify,
    /// Time from the sending of a request until it must be checked against the time limits.
    look_after: Duration,
    pub pulse: Pulse,
    link: LastTcpInfo,
    /// Sent pings that may still be answered.
    pings: AtomicU64,
}

impl ConnectionState {
    pub(super) fn new(in_flight: usize, look_after: Duration, link: LastTcpInfo) -> Self {
        let now = Instant::now();
        let table = ConnectionRequests {
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

    pub(super) fn lock(&self) -> MutexGuard<'_, ConnectionRequests> {
        self.table.lock()
    }

    /// Adds an open request. Returns its id, or the reason and the callback if the connection has
    /// ended.
    pub(super) fn add(&self, waiter: OpenRequest) -> Result<u32, (NetError, OnAnswer)> {
        let mut table = self.lock();
        if let Some(reason) = table.closed {
            return Err((NetError::Lost { reason }, waiter.reply));
        }
        let sent = waiter.sent;
        let was_idle = table.waiters.is_empty();
        if was_idle {
            table.busy_since = sent;
        }
        // Ids repeat after four thousand million; at most a few dozen are in flight.
        let id = table.next_id;
        table.next_id = id.wrapping_add(1);
        table.waiters.insert(id, waiter);
        if was_idle && sent + self.look_after < table.next_look {
            // this notification serves all requests until that check
            table.next_look = sent;
            self.woken.notify_one();
        }
        Ok(id)
    }

    pub(super) fn take(&self, id: u32) -> Option<OpenRequest> {
        let mut table = self.lock();
        let now = Instant::now();
        (table.last_used, table.brought) = (now, now);
        table.waiters.remove(&id)
    }

    /// Drops the callback of a cancelled request. Returns false if the request is no longer open.
    pub(super) fn forget(&self, id: u32) -> bool {
        let mut table = self.lock();
        let waiter = table.waiters.get_mut(&id);
        let unwanted = waiter.map(|waiter| std::mem::replace(&mut waiter.reply, Box::new(|_| ())));
        drop(table);
        unwanted.is_some()
    }

    /// Records that bytes of an incomplete answer arrived.
    pub(super) fn record_part(&self, id: u32, bytes: u64) {
        let mut table = self.lock();
        table.brought = Instant::now();
        let progress = table.waiters.get(&id).and_then(|it| it.progress.clone());
        drop(table);
        if let Some(Progress { tell, node, key }) = progress {
            tell(node, key, bytes);
        }
    }

    /// Returns when bytes of a record that is still incomplete last arrived. A record of the full
    /// size takes 16 s on a link of 1 kB/s, and cannot be opened before it is complete. Bytes that
    /// arrived before the last opened or empty record do not count.
    fn last_part_at(&self) -> Option<Instant> {
        let last = self.link.passed_over().max(Some(self.pulse.last()));
        let whole = last? + CLOCKS_DIFFER;
        self.link.answered_at().filter(|came| *came > whole)
    }

    /// Records that a ping is sent, which the peer may answer once.
    pub(super) fn record_ping(&self) {
        self.pings.fetch_add(1, Ordering::Relaxed);
    }

    /// Matches a pong with a sent ping. Returns false if all pings have been answered.
    pub(super) fn take_pong(&self) -> bool {
        let less = |pings: u64| pings.checked_sub(1);
        let taken = self
            .pings
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        taken.is_ok()
    }

    /// Reports to the oldest open request that a record is arriving, if more of it arrived since
    /// the last time.
    pub(super) fn report_part(&self) {
        let Some(came) = self.last_part_at() else {
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
            progress.report_work();
        }
    }

    /// Ends the connection. The first reason stays; all open requests fail at once.
    pub(super) fn fail(&self, mut reason: DropReason) {
        let waiters = {
            let mut table = self.lock();
            reason = *table.closed.get_or_insert(reason);
            std::mem::take(&mut table.waiters)
        };
        self.slots.close();
        self.woken.notify_one();
        for waiter in waiters.into_values() {
            (waiter.reply)(Err(NetError::Lost { reason }));
        }
    }

    /// Returns why the connection ended.
    pub(super) fn end_reason(&self) -> DropReason {
        self.lock().closed.unwrap_or(DropReason::ClosedHere)
    }

    pub(super) fn lost(&self) -> NetError {
        NetError::Lost {
            reason: self.end_reason(),
        }
    }

    /// Checks the time limits of the connection, which may be unused for `idle`. Returns what to do
    /// now, or when to check again.
    pub(super) fn check(
        &self,
        now: Instant,
        pinged: &mut Option<SilenceId>,
        limits: &PeerLimits,
        idle: Duration,
    ) -> ConnectionCheck {
        let mut table = self.lock();
        let check = self.look(&table, now, pinged, limits, idle);
        if let ConnectionCheck::Again(next) = check {
            table.next_look = next;
        }
        check
    }

    /// Returns when either end last used the connection.
    fn used_at(&self, table: &ConnectionRequests) -> Instant {
        table.last_used.max(self.pulse.last())
    }

    /// Returns whether the connection is open and was used since `since`.
    pub(super) fn is_used_since(&self, since: Option<Instant>) -> bool {
        let table = self.lock();
        table.closed.is_none() && since.is_none_or(|since| self.used_at(&table) > since)
    }

    /// Returns since when this end has no open request, or `None` if one is open.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let table = self.lock();
        table.waiters.is_empty().then(|| self.used_at(&table))
    }

    /// Records that this end uses the connection otherwise than by a request.
    pub(super) fn record_use(&self) {
        self.lock().last_used = Instant::now();
    }

    fn look(
        &self,
        table: &ConnectionRequests,
        now: Instant,
        pinged: &mut Option<SilenceId>,
        limits: &PeerLimits,
        idle: Duration,
    ) -> ConnectionCheck {
        if let Some(reason) = table.closed {
            return ConnectionCheck::End(reason);
        }
        let Some(oldest) = table.waiters.values().map(|waiter| waiter.sent).min() else {
            let end = self.used_at(table) + idle;
            return if now >= end {
                ConnectionCheck::End(DropReason::Idle)
            } else {
                ConnectionCheck::Again(end)
            };
        };
        let silence = SilenceId {
            beats: self.pulse.beats(),
            busy_since: table.busy_since,
        };
        let part_came = self.last_part_at().unwrap_or(table.busy_since);
        let quiet_since = self.pulse.last().max(table.busy_since).max(part_came);
        let silent = limits.silent(quiet_since, &self.link);
        let unanswered = limits.unanswered(oldest, table.brought.max(part_came));
        let ping = quiet_since + limits.times.ping_after;
        if now >= silent {
            ConnectionCheck::End(DropReason::Silent)
        } else if now >= unanswered {
            ConnectionCheck::End(DropReason::Unanswered)
        } else if *pinged == Some(silence) {
            ConnectionCheck::Again(silent.min(unanswered))
        } else if now >= ping {
            *pinged = Some(silence);
            ConnectionCheck::Ping
        } else {
            ConnectionCheck::Again(ping.min(unanswered))
        }
    }
}

/// Identity of a silence: the next one begins when bytes arrive, or with the first request after
/// all others were answered. Arrivals are counted rather than timed, since an answer may arrive
/// within the same tick of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SilenceId {
    beats: u64,
    busy_since: Instant,
}

/// Action for a connection's silence.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ConnectionCheck {
    Again(Instant),
    Ping,
    End(DropReason),
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::super::limits::ConnectionTimes;
    use super::*;
    use crate::net::peer::tcp_info::TcpInfo;

    const IDLE: Duration = Duration::from_secs(60);

    fn line(in_flight: usize) -> ConnectionState {
        let ping_after = PeerLimits::default().times.ping_after;
        ConnectionState::new(in_flight, ping_after, LastTcpInfo::default())
    }

    fn waiter(
        line: &ConnectionState,
    ) -> (OpenRequest, oneshot::Receiver<Result<Response, NetError>>) {
        let slot = Arc::clone(&line.slots).try_acquire_owned().unwrap();
        let (reply, answer) = oneshot::channel();
        (
            OpenRequest {
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
        let end = start + IDLE;
        assert_eq!(
            line.check(start, &mut None, &limits, IDLE),
            ConnectionCheck::Again(end)
        );
        assert_eq!(
            line.check(end, &mut None, &limits, IDLE),
            ConnectionCheck::End(DropReason::Idle)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn silence_during_a_request_is_probed_after_1_s_and_dead_after_2_s() {
        let (line, limits) = (line(4), PeerLimits::default());
        tokio::time::advance(Duration::from_secs(30)).await;
        let (waiting, _answer) = waiter(&line);
        line.add(waiting).ok().unwrap();
        let (start, mut pinged) = (Instant::now(), None);
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(
            line.check(start, &mut pinged, &limits, IDLE),
            ConnectionCheck::Again(after(1000))
        );
        assert_eq!(
            line.check(after(1000), &mut pinged, &limits, IDLE),
            ConnectionCheck::Ping
        );
        assert_eq!(
            line.check(after(1000), &mut pinged, &limits, IDLE),
            ConnectionCheck::Again(after(2000))
        );
        let dead = ConnectionCheck::End(DropReason::Silent);
        assert_eq!(line.check(after(2000), &mut pinged, &limits, IDLE), dead);
    }

    /// Returns the check of a connection with an open request, for given times and kernel figures.
    fn checks_of(line: &ConnectionState) -> impl FnMut(u64, (u64, TcpInfo)) -> ConnectionCheck {
        let (start, mut pinged) = (Instant::now(), None);
        let after = move |ms| start + Duration::from_millis(ms);
        move |ms, (read_ms, reading)| {
            line.link.set(after(read_ms), reading);
            line.check(after(ms), &mut pinged, &PeerLimits::default(), IDLE)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn empty_records_keep_no_silent_connection_alive() {
        let line = line(4);
        let (waiting, _answer) = waiter(&line);
        line.add(waiting).ok().unwrap();
        let start = Instant::now();
        let mut check = checks_of(&line);
        let reading = TcpInfo {
            acked_ago: Duration::from_secs(9),
            came_ago: Duration::ZERO,
            ..TcpInfo::default()
        };
        assert_eq!(check(1000, (0, reading)), ConnectionCheck::Ping);
        line.link.pass_over(start + Duration::from_millis(1900));
        let dead = ConnectionCheck::End(DropReason::Silent);
        assert_eq!(check(2000, (1900, reading)), dead);
        // bytes of an unfinished record with content do keep it alive
        let alive = ConnectionCheck::Again(start + Duration::from_millis(3960));
        assert_eq!(check(2000, (1960, reading)), alive);
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_long_queue_silence_is_dead_after_some_round_trips() {
        let line = line(4);
        let (waiting, _answer) = waiter(&line);
        line.add(waiting).ok().unwrap();
        let then = Instant::now() + Duration::from_secs(6);
        let mut check = checks_of(&line);
        let reading = TcpInfo {
            round_trip: Duration::from_millis(1500),
            acked_ago: Duration::from_secs(9),
            came_ago: Duration::from_secs(9),
            ..TcpInfo::default()
        };
        assert_eq!(check(1000, (0, reading)), ConnectionCheck::Ping);
        assert_eq!(check(2000, (0, reading)), ConnectionCheck::Again(then));
        let dead = ConnectionCheck::End(DropReason::Silent);
        assert_eq!(check(6000, (0, reading)), dead);
    }

    #[tokio::test(start_paused = true)]
    async fn an_acknowledging_peer_is_not_dead_but_not_awaited_forever() {
        let line = line(4);
        let (waiting, _answer) = waiter(&line);
        line.add(waiting).ok().unwrap();
        let after = |ms| Instant::now() + Duration::from_millis(ms);
        let mut check = checks_of(&line);
        let mut ends = |acked_ms: u64| {
            let reading = TcpInfo {
                came_ago: Duration::from_mins(2),
                ..TcpInfo::default()
            };
            check(2000, (acked_ms, reading));
            check(2000, (acked_ms, reading))
        };
        assert_eq!(ends(0), ConnectionCheck::End(DropReason::Silent));
        assert_eq!(ends(1900), ConnectionCheck::Again(after(3900)));
        assert_eq!(ends(60_000), ConnectionCheck::Again(after(8000)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_overtaken_for_too_long_ends_the_connection() {
        let line = line(4);
        let limits = PeerLimits {
            times: ConnectionTimes {
                silent_after: Duration::from_secs(99),
                ..ConnectionTimes::default()
            },
            ..PeerLimits::default()
        };
        let (waiting, _answer) = waiter(&line);
        line.add(waiting).ok().unwrap();
        let later = Instant::now() + limits.times.unanswered_after;
        let end = ConnectionCheck::End(DropReason::Unanswered);
        assert_eq!(line.check(later, &mut None, &limits, IDLE), end);
    }

    #[tokio::test]
    async fn a_failed_connection_notifies_its_waiters_and_accepts_no_more() {
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
    async fn successive_requests_wake_the_watch_once_a_period() {
        let (line, limits) = (line(4), PeerLimits::default());
        let idle = line.check(Instant::now(), &mut None, &limits, IDLE);
        assert!(matches!(idle, ConnectionCheck::Again(_)));
        let mut rung = 0;
        for _ in 0..50 {
            let (waiting, _answer) = waiter(&line);
            let id = line.add(waiting).ok().unwrap();
            if std::pin::pin!(line.woken.notified()).enable() {
                rung += 1;
                line.check(Instant::now(), &mut None, &limits, IDLE);
            }
            line.take(id);
        }
        assert_eq!(rung, 1);
    }
}
