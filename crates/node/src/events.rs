//! Recent events, warnings and standing conditions, for `p2pfs events`, `p2pfs status` and the
//! journal.
//!
//! [`EventLog`] is a bounded log of the latest events that sends new ones to its followers.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::conditions::{
    CLOCK_CAUSE, Condition, Finding, StandingCondition, StandingConditions, Turn,
};
use super::copied::{CopiedKey, hostname};
use super::failed_reads::{FailedReads, ReadFailure};
use super::foreign::ForeignPeer;
use super::machine::NodeEvent;
use super::names::Names;
use p2pfs_catalogue::{Change, Found, Rule, View};
use p2pfs_fetch::FetchEvent;
use p2pfs_membership::DownReason;
use p2pfs_proto::trust::{Claim, SignedStatement};
use p2pfs_proto::wire::native::record::{Kind, Timestamp};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;
use p2pfs_types::path::SharedPath;
use p2pfs_types::utc::utc_text;

/// Maximum number of remembered events. Older ones are dropped, those of standing conditions last.
pub(crate) const EVENTS_KEPT: usize = 1000;
/// Maximum number of events that a slow follower may be behind before it loses some.
pub(crate) const EVENTS_BEHIND_MAX: usize = 4096;
/// Maximum number of warnings kept for `p2pfs status`, each text once. The oldest is dropped first.
pub(crate) const WARNINGS_KEPT: usize = 20;

/// An event and its time.
#[derive(Clone, Debug)]
pub struct Noted {
    /// Time of the event by the local clock.
    pub at: SystemTime,
    /// The event.
    pub news: News,
}

/// The kinds of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Another node answers.
    PeerUp(Who),
    /// Another node stopped cleanly and may return.
    PeerAway(Who),
    /// Another node is gone.
    PeerDown(Who, DownReason),
    /// A node was admitted. The second node admitted it.
    Joined(Who, Who),
    /// A node asked for admission by an invitation and was refused.
    JoinRefused {
        /// The node, with the name that it gives itself. It has not proven this name.
        who: Who,
        /// Address from which it asked.
        from: IpAddr,
        /// Reason of the refusal, and the remedy.
        why: String,
        /// The users that may see the reason.
        audience: Audience,
    },
    /// A node was expelled or resigned. The second node signed the statement.
    Expelled(Who, Who),
    /// The cluster has a fresh secret, made by this member.
    Rotated(Who),
    /// A peer sent wrong bytes.
    PeerShunned(Who),
    /// A file or a link is newly listed.
    Added(SharedPath),
    /// A file or a link is no longer listed. The node is the one that deleted it for all nodes;
    /// `None` if the nodes that shared it removed it or are gone.
    Removed(SharedPath, Option<Who>),
    /// A name shows another kind of entry, content, link target or executable bit. The node is the
    /// one whose version it shows.
    Changed(SharedPath, Who),
    /// A fetch began.
    FetchStarted(Fetched),
    /// A content is complete in the cache.
    FetchDone(Fetched),
    /// A read of another node's file failed, with the reason and its details.
    ReadFailed(Fetched, ReadFailure, String),
    /// A transfer to a foreign peer began or is complete.
    Given(Given),
    /// A foreign peer is connected.
    ForeignUp {
        /// The connected peer.
        who: ForeignPeer,
        /// Whether this node dialled it.
        dialled: bool,
    },
    /// A foreign peer is gone, with the reason.
    ForeignDown(ForeignPeer, String),
    /// The foreign peer at an address refuses connections from this node, with the reason.
    ForeignRejected(String, String),
    /// A foreign peer reported other peers.
    ForeignLearned {
        /// The reporting peer.
        from: ForeignPeer,
        /// How many of them were unknown.
        count: usize,
    },
    /// A line of chat, exactly as it was sent. It may contain any character.
    Chat {
        /// Name of the sender. A foreign peer cannot prove its name.
        from: String,
        /// The text.
        text: String,
    },
    /// A message of bytes that are not a file. [`Messenger::messages`](super::Messenger::messages)
    /// delivers the bytes, unless they are too many.
    Bytes {
        /// Name of the sender. A foreign peer cannot prove its name.
        from: String,
        /// Number of bytes.
        size_bytes: u64,
    },
    /// A file that is pushed to this node.
    Received(Push),
    /// A file that this node pushes.
    Sent(Push),
    /// A warning for the operator.
    Warning(String, Audience),
    /// A condition begins to stand.
    Began(StandingCondition),
    /// A standing condition has another cause than those that were told.
    Explained(StandingCondition),
    /// A condition is over.
    Ended(StandingCondition),
}

impl News {
    /// Returns whether the event names local files, so that only the owner may see it.
    pub fn is_for_owner(&self) -> bool {
        match self {
            Self::Warning(_, audience) | Self::JoinRefused { audience, .. } => {
                *audience == Audience::Owner
            }
            Self::Began(it) | Self::Explained(it) | Self::Ended(it) => {
                it.finding.audience == Audience::Owner
            }
            _ => false,
        }
    }
}

/// The users that may see a warning or another event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Every user of this machine.
    Everybody,
    /// Only root and the user that the node runs as, because it has names of local files.
    Owner,
}

/// A content that is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Hash of the content.
    pub hash: ContentHash,
    /// Length in bytes; 0 if unknown.
    pub size_bytes: u64,
    /// A name of the content at the time of the event, or the last one if no live node lists it.
    /// By now another file may have this name.
    pub name: Option<SharedPath>,
}

/// A transfer to a foreign peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Remote address of its connection.
    pub peer: SocketAddr,
    /// The requested name.
    pub name: Vec<u8>,
    /// Length of the file in bytes.
    pub size_bytes: u64,
    /// Whether the transfer is complete.
    pub is_done: bool,
}

/// A file that one peer pushes to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// Name of the other peer. A foreign peer cannot prove its name.
    pub peer: String,
    /// The offered name of the file. For a file that this node has received, the name in its inbox.
    pub name: Vec<u8>,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Progress of the push.
    pub stage: PushStage,
}

/// Progress of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushStage {
    /// The push began.
    Started,
    /// The whole file has arrived, or was sent to a peer that cannot acknowledge it.
    Done,
    /// The push failed, with the reason.
    Failed(String),
}

/// A node and its name, if the name is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// Public key of the node.
    pub node: NodeId,
    /// Name of the node; `None` if unknown.
    pub name: Option<String>,
}

impl Who {
    /// Returns a node with the name that a view has for it.
    fn known(node: NodeId, view: &View) -> Self {
        let name = view.label(&node);
        Self { node, name }
    }
}

/// Events in their order: first the remembered ones, then each new one as it happens.
pub struct EventStream {
    remembered: VecDeque<Noted>,
    live: broadcast::Receiver<Noted>,
    lost: u64,
}

/// The log of events and warnings. Clones share their state.
#[derive(Clone)]
pub struct EventLog {
    kept: Arc<Mutex<EventHistory>>,
}

struct EventHistory {
    /// `None` once the node has ended.
    live: Option<broadcast::Sender<Noted>>,
    events: VecDeque<Noted>,
    warnings: VecDeque<(String, Audience)>,
    standing: StandingConditions,
    failed_reads: FailedReads,
}

impl EventHistory {
    /// Drops the oldest event if there are [`EVENTS_KEPT`]. An event of a condition that stands is
    /// dropped only if there are no others. Otherwise a thousand new files would hide the condition
    /// from `p2pfs events`.
    fn make_room(&mut self) {
        if self.events.len() < EVENTS_KEPT {
            return;
        }
        let is_past = |(index, noted): (usize, &Noted)| match &noted.news {
            News::Began(it) | News::Explained(it) => {
                !self.standing.stands(it.condition, &it.subject) || self.ends_after(index, it)
            }
            _ => true,
        };
        let oldest = self.events.iter().enumerate().position(is_past);
        self.events.remove(oldest.unwrap_or(0));
    }

    /// Returns whether a condition ended after the event at `index`, so that it began anew since.
    fn ends_after(&self, index: usize, began: &StandingCondition) -> bool {
        self.events.range(index..).any(|noted| match &noted.news {
            News::Ended(it) => (it.condition, &it.subject) == (began.condition, &began.subject),
            _ => false,
        })
    }
}

impl Default for EventLog {
    fn default() -> Self {
        let history = EventHistory {
            live: Some(broadcast::channel(EVENTS_BEHIND_MAX).0),
            events: VecDeque::new(),
            warnings: VecDeque::new(),
            standing: StandingConditions::default(),
            failed_reads: FailedReads::default(),
        };
        Self {
            kept: Arc::new(Mutex::new(history)),
        }
    }
}

impl EventLog {
    /// Returns a stream of the recent events and all future ones.
    pub fn follow(&self) -> EventStream {
        let (remembered, live) = self.subscribe();
        EventStream {
            remembered: remembered.into(),
            live,
            lost: 0,
        }
    }

    /// Returns the remembered events, oldest first, and a receiver for all later ones.
    pub(super) fn subscribe(&self) -> (Vec<Noted>, broadcast::Receiver<Noted>) {
        let kept = self.kept.lock();
        let live = match &kept.live {
            Some(live) => live.subscribe(),
            None => broadcast::channel(1).1,
        };
        (kept.events.iter().cloned().collect(), live)
    }

    /// Ends all streams after the events that were recorded before. Later events are only
    /// remembered.
    pub(super) fn close(&self) {
        let _streams_end = self.kept.lock().live.take();
    }

    /// Returns the remembered warnings that `audience` may see, oldest first.
    pub fn happenings(&self, audience: Audience) -> Vec<String> {
        match audience {
            Audience::Owner => self.warnings(),
            Audience::Everybody => self.public_warnings(),
        }
    }

    /// Returns the remembered warnings, oldest first.
    pub fn warnings(&self) -> Vec<String> {
        let kept = self.kept.lock();
        kept.warnings.iter().map(|(text, _)| text.clone()).collect()
    }

    /// Returns the remembered warnings that every user of this machine may see.
    pub fn public_warnings(&self) -> Vec<String> {
        let kept = self.kept.lock();
        let public = kept
            .warnings
            .iter()
            .filter(|(_, to)| *to == Audience::Everybody);
        public.map(|(text, _)| text.clone()).collect()
    }

    /// Records a warning that every user of this machine may see.
    pub fn warn(&self, message: String) {
        self.warn_whom(message, Audience::Everybody);
    }

    /// Records that a condition stands for a subject. Ends the conditions that this one explains.
    pub fn begin(&self, condition: Condition, subject: &str, finding: Finding) {
        self.turn(|standing| {
            let begun = standing.begin(condition, subject, finding);
            begun.into_iter().chain(standing.end_explained())
        });
    }

    /// Records that a condition is over for a subject.
    pub fn end(&self, condition: Condition, subject: &str) {
        self.turn(|standing| standing.end(condition, subject));
    }

    /// Makes exactly these findings of a condition stand, by subject.
    pub fn replace(&self, condition: Condition, found: Vec<(String, Finding)>) {
        self.turn(|standing| standing.replace(condition, found));
    }

    /// Ends the conditions whose time is over.
    pub(super) fn expire(&self, now: SystemTime) {
        self.turn(|standing| standing.expire(now));
    }

    /// Returns the conditions that stand, in the order of the table.
    pub fn standing(&self) -> Vec<StandingCondition> {
        self.kept.lock().standing.all().collect()
    }

    /// Returns the standing findings of one condition, one for each subject.
    pub fn standing_of(&self, condition: Condition) -> Vec<StandingCondition> {
        self.kept.lock().standing.of(condition).collect()
    }

    /// Returns the number of failed reads of other nodes' files since the start, by reason.
    pub fn failed_reads(&self) -> Vec<(ReadFailure, u64)> {
        self.kept.lock().failed_reads.counts()
    }

    /// Counts a failed read of another node's file. It is an event, unless a read of the same
    /// content failed for the same reason a few seconds ago.
    pub(super) fn record_failed_read(
        &self,
        fetched: impl FnOnce() -> Fetched,
        hash: ContentHash,
        why: ReadFailure,
        details: &str,
    ) {
        let mut kept = self.kept.lock();
        if kept.failed_reads.record(hash, why, Instant::now()) {
            drop(kept);
            self.record(News::ReadFailed(fetched(), why, details.to_owned()));
        }
    }

    fn turn<T: IntoIterator<Item = Turn>>(&self, apply: impl FnOnce(&mut StandingConditions) -> T) {
        let mut kept = self.kept.lock();
        let turns = apply(&mut kept.standing);
        for turn in turns {
            let news = match turn {
                Turn::Begun(it) => News::Began(it),
                Turn::Explained(it) => News::Explained(it),
                Turn::Ended(it) => News::Ended(it),
            };
            self.push(&mut kept, news);
        }
    }

    /// Records a warning that names local files.
    pub fn warn_owner(&self, message: String) {
        self.warn_whom(message, Audience::Owner);
    }

    fn warn_whom(&self, message: String, audience: Audience) {
        {
            let mut kept = self.kept.lock();
            if kept.warnings.iter().any(|(text, _)| *text == message) {
                return;
            }
            if kept.warnings.len() == WARNINGS_KEPT {
                kept.warnings.pop_front();
            }
            kept.warnings.push_back((message.clone(), audience));
        }
        self.record(News::Warning(message, audience));
    }

    /// Adds an event and sends it to the followers.
    pub fn record(&self, news: News) {
        self.push(&mut self.kept.lock(), news);
    }

    fn push(&self, kept: &mut EventHistory, news: News) {
        let noted = Noted {
            at: SystemTime::now(),
            news,
        };
        kept.make_room();
        kept.events.push_back(noted.clone());
        // Sent under the lock, so that a follower neither misses an event nor receives it twice.
        if let Some(live) = &kept.live {
            let _nobody_follows = live.send(noted);
        }
    }

    pub(super) fn record_node_event(&self, me: NodeId, event: &NodeEvent, names: &Names) {
        let who = |node: &NodeId| Who {
            node: *node,
            name: names.known(node),
        };
        match event {
            NodeEvent::PeerUp(member) => self.record(News::PeerUp(who(&member.node))),
            NodeEvent::PeerAway { node } => self.record(News::PeerAway(who(node))),
            NodeEvent::PeerDown { node, why } => self.record(News::PeerDown(who(node), *why)),
            NodeEvent::CopiedKey { node, addresses } => {
                let key = CopiedKey::of(node, &me);
                let found = Finding::new(key.warning(names.known(node), &hostname(), addresses));
                // The name of the node may become known later.
                let found = found.of_cause(format!("{addresses:?}"));
                self.begin(Condition::KeyCopied, &key.subject(), found);
            }
            NodeEvent::CopyGone { node } => {
                self.end(Condition::KeyCopied, &CopiedKey::of(node, &me).subject());
            }
            NodeEvent::Stated(signed) => self.record_statement(signed, &who),
            NodeEvent::MembershipChanged | NodeEvent::Knock { .. } => {}
            NodeEvent::NamesRefused => self.warn(
                "this node shares more names or directories than others keep of one \
                 (p2pfs-limits(7)): the rest is not listed; share less of it"
                    .to_owned(),
            ),
            // The ledger of offenders reports it.
            NodeEvent::Offended { .. } => {}
            NodeEvent::PeerMoved(_)
            | NodeEvent::Wanted { .. }
            | NodeEvent::Offered { .. }
            | NodeEvent::Called { .. }
            | NodeEvent::Renewed { .. }
            | NodeEvent::Left => {}
        }
    }

    fn record_statement(&self, signed: &SignedStatement, who: &dyn Fn(&NodeId) -> Who) {
        let by = who(&signed.statement.by);
        match &signed.statement.claim {
            Claim::Admit { node, name, .. } => {
                let joined = Who {
                    node: *node,
                    name: Some(name.to_string()),
                };
                self.record(News::Joined(joined, by));
            }
            Claim::Expel { node, .. } => self.record(News::Expelled(who(node), by)),
            // Number 0 names the secret that exists from the beginning.
            Claim::Rotate { number: 0, .. } | Claim::Found { .. } | Claim::Own { .. } => {}
            Claim::Rotate { .. } => self.record(News::Rotated(by)),
        }
    }

    pub(super) fn record_fetch(&self, event: &FetchEvent, view: &View) {
        let fetched = |hash: &ContentHash, size_bytes| Fetched {
            hash: *hash,
            size_bytes,
            name: view.contents().last_name_of(hash),
        };
        match event {
            FetchEvent::Started { hash, size_bytes } => {
                self.record(News::FetchStarted(fetched(hash, *size_bytes)));
            }
            FetchEvent::Done { hash, size_bytes } => {
                self.record(News::FetchDone(fetched(hash, *size_bytes)));
            }
            FetchEvent::Liar { node, .. } => {
                self.record(News::PeerShunned(Who {
                    node: *node,
                    name: view.label(node),
                }));
            }
            FetchEvent::Wanted { .. } => {}
        }
    }

    /// Begins [`Condition::ClockAhead`] for the author of a version with a time more than
    /// [`CLOCK_GAP_MAX`] in the future. One of the two clocks is wrong, and versions with a later
    /// time win. The condition ends when the time is no longer that far in the future.
    fn warn_of_clock(&self, found: &Found, view: &View) {
        if let Some(gap) = clock_gap(found.version_time, SystemTime::now()) {
            let who = view
                .label(&found.author)
                .unwrap_or_else(|| found.author.short(8));
            let said = format!(
                "the clock of {who} is about {} min ahead of this machine's ({}), and versions \
                 with a later time win",
                gap.as_secs() / 60,
                both_times(gap)
            );
            let finding = Finding::new(said).of_cause(CLOCK_CAUSE);
            // This clock never reaches a time beyond the range of `SystemTime`.
            let finding = match SystemTime::now().checked_add(gap - CLOCK_GAP_MAX) {
                Some(until) => finding.until(until),
                None => finding,
            };
            self.begin(Condition::ClockAhead, &found.author.to_string(), finding);
        }
    }

    /// Records which files and links were added, removed or changed between two views.
    pub(super) fn record_changes(&self, changes: &[Change], before: &View, after: &View) {
        for change in changes {
            let Change::Entry(path) = change else {
                continue;
            };
            let now_there = after.lookup(path);
            // The time of a directory is only displayed and wins no conflict.
            if let Some(found) = now_there.as_ref().filter(|found| is_file(found)) {
                self.warn_of_clock(found, after);
            }
            match (before.lookup(path).as_ref(), now_there.as_ref()) {
                (None, Some(found)) if is_file(found) => self.record(News::Added(path.clone())),
                (Some(found), None) if is_file(found) => {
                    let by = deleted_by(after, path);
                    let by = by.map(|node| Who::known(node, after));
                    self.record(News::Removed(path.clone(), by));
                }
                (Some(old), Some(new)) if old.kind != new.kind => {
                    let by = Who::known(new.author, after);
                    self.record(News::Changed(path.clone(), by));
                }
                _ => {}
            }
        }
    }
}

/// Maximum time by which the clock of another node may be ahead without a finding. Time servers
/// keep clocks within seconds, and a version that arrives late only looks older.
const CLOCK_GAP_MAX: Duration = Duration::from_secs(10 * 60);

/// Returns how far a version's time is ahead of `now`, if it is more than [`CLOCK_GAP_MAX`]. No
/// author gives a version a later time than the author's own clock showed, so that clock is ahead
/// at least as far.
fn clock_gap(version_time: Timestamp, now: SystemTime) -> Option<Duration> {
    let seconds = u64::try_from(version_time.seconds).ok()?;
    let version_time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
    let gap = version_time.duration_since(now).ok()?;
    (gap > CLOCK_GAP_MAX).then_some(gap)
}

/// Returns the time of this machine, and that of a node whose clock is ahead by `gap` at least.
pub(super) fn both_times(gap: Duration) -> String {
    let here = SystemTime::now();
    let there = here.checked_add(gap).map_or_else(
        || "beyond the calendar".to_owned(),
        |there| format!("{} or later", utc_text(there)),
    );
    format!("here {}, there {there}", utc_text(here))
}

/// Returns the node whose deletion hides the versions of a path, the last one if there are several.
fn deleted_by(view: &View, path: &SharedPath) -> Option<NodeId> {
    let versions = view.versions(path).into_iter();
    let deleted = versions.filter(|version| version.rule == Rule::Deleted);
    let deletions = deleted.filter_map(|version| version.superseded_by);
    let last = deletions.max_by_key(|deletion| deletion.time)?;
    Some(last.author)
}

fn is_file(found: &Found) -> bool {
    !matches!(found.kind, Kind::Directory)
}

impl EventStream {
    /// Returns the next event, or `None` once the node has ended. The future may be dropped early
    /// without losing an event.
    pub async fn next(&mut self) -> Option<Noted> {
        if let Some(noted) = self.next_remembered() {
            return Some(noted);
        }
        loop {
            match self.live.recv().await {
                Ok(noted) => return Some(noted),
                Err(RecvError::Lagged(events)) => self.lost += events,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Returns the next of the events that were remembered when the stream began, or `None` after
    /// the last one.
    pub fn next_remembered(&mut self) -> Option<Noted> {
        self.remembered.pop_front()
    }

    /// Returns how many events were dropped because they were not taken in time.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_log_is_bounded_and_keeps_the_newest() {
        let log = EventLog::default();
        let learned = |count| News::ForeignLearned {
            from: ForeignPeer {
                id: "1".into(),
                name: "desk".into(),
                address: "192.0.2.1:1378".parse().unwrap(),
            },
            count,
        };
        for number in 0..EVENTS_KEPT + 10 {
            log.record(learned(number));
        }
        let (events, _) = log.subscribe();
        assert_eq!(events.len(), EVENTS_KEPT);
        assert_eq!(events[0].news, learned(10));
    }

    #[test]
    fn begin_of_a_condition_is_kept_while_the_condition_stands() {
        let log = EventLog::default();
        let flood = || {
            (0..EVENTS_KEPT + 10).for_each(|_| {
                log.record(News::Bytes {
                    from: "desk".into(),
                    size_bytes: 1,
                })
            })
        };
        let begins = || {
            let (events, _) = log.subscribe();
            assert_eq!(events.len(), EVENTS_KEPT);
            let begins = events.iter().map(|it| &it.news);
            begins.filter(|it| matches!(it, News::Began(_))).count()
        };
        log.begin(Condition::StateFull, "", Finding::new("full"));
        log.end(Condition::StateFull, "");
        log.begin(Condition::StateFull, "", Finding::new("full"));
        log.begin(Condition::ShareSilent, "/a", Finding::new("silent"));
        flood();
        assert_eq!(begins(), 2);
        log.end(Condition::ShareSilent, "/a");
        flood();
        assert_eq!(begins(), 1);
        log.end(Condition::StateFull, "");
        flood();
        assert_eq!(begins(), 0);
    }

    #[test]
    fn all_events_of_standing_conditions_together_are_bounded() {
        let log = EventLog::default();
        for (number, condition) in (0..EVENTS_KEPT).zip(Condition::ALL.iter().cycle()) {
            let subject = (number / Condition::ALL.len()).to_string();
            log.begin(*condition, &subject, Finding::new("first"));
            log.begin(*condition, &subject, Finding::new("second"));
        }
        let (events, _) = log.subscribe();
        assert_eq!(events.len(), EVENTS_KEPT);
    }

    #[test]
    fn a_repeated_warning_is_kept_once_and_old_ones_are_dropped() {
        let log = EventLog::default();
        for number in 0..WARNINGS_KEPT + 5 {
            log.warn(format!("warning {number}"));
            log.warn(format!("warning {number}"));
        }
        let warnings = log.warnings();
        assert_eq!(warnings.len(), WARNINGS_KEPT);
        assert_eq!(
            warnings.last().unwrap(),
            &format!("warning {}", WARNINGS_KEPT + 4)
        );
    }

    #[test]
    fn a_warning_with_local_file_names_is_visible_only_to_their_owner() {
        let log = EventLog::default();
        log.warn("the clock is off".into());
        log.warn_owner("/srv/private/diary: left out".into());
        assert_eq!(log.warnings().len(), 2);
        assert_eq!(log.public_warnings(), ["the clock is off"]);
    }

    #[test]
    fn a_version_from_the_future_reports_a_wrong_clock_beyond_a_small_difference() {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let at = |seconds| Timestamp {
            seconds,
            nanoseconds: 0,
        };
        assert_eq!(clock_gap(at(1_800_000_000 + 599), now), None);
        let hour = clock_gap(at(1_800_000_000 + 3600), now);
        assert_eq!(hour, Some(Duration::from_secs(3600)));
        assert_eq!(clock_gap(at(0), now), None);
        assert_eq!(clock_gap(at(-5), now), None);
        assert!(clock_gap(at(i64::MAX), now).is_none_or(|gap| gap > CLOCK_GAP_MAX));
    }

    #[tokio::test]
    async fn streams_end_when_the_log_is_closed() {
        let log = EventLog::default();
        let mut before = log.follow();
        log.warn("one".into());
        log.close();
        log.warn("two".into());
        let one = News::Warning("one".into(), Audience::Everybody);
        assert_eq!(before.next().await.map(|noted| noted.news), Some(one));
        assert!(before.next().await.is_none());
        let mut after = log.follow();
        assert!(after.next().await.is_some() && after.next().await.is_some());
        assert!(after.next().await.is_none());
    }

    #[test]
    fn a_follower_receives_past_and_future_events_once_each() {
        let log = EventLog::default();
        log.warn("before".into());
        let (past, mut live) = log.subscribe();
        log.warn("after".into());
        assert_eq!(past.len(), 1);
        let after = News::Warning("after".into(), Audience::Everybody);
        assert_eq!(live.try_recv().unwrap().news, after);
        assert!(live.try_recv().is_err());
    }
}
