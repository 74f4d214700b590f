//! What happened lately, for `p2pfs events` and the journal.
//!
//! Owns a bounded memory of the last events and hands new ones to whoever follows. It only tells;
//! nothing is decided by it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::broadcast;

use super::copied::CopiedKey;
use super::machine::NodeEvent;
use p2pfs_catalogue::{Change, Found, View};
use p2pfs_fetch::FetchEvent;
use p2pfs_legacy::mesh;
use p2pfs_legacy::wire::discovery::{MemberName, Name};
use p2pfs_membership::DownReason;
use p2pfs_proto::trust::{Claim, SignedStatement};
use p2pfs_proto::wire::native::record::{Kind, Timestamp};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;
use p2pfs_types::path::SharedPath;

/// Events that are remembered; older ones are forgotten.
pub(crate) const EVENTS_KEPT: usize = 1000;
/// Events that a slow follower may be behind before it loses some.
pub(crate) const EVENTS_BEHIND_MAX: usize = 4096;
/// Warnings that are kept for `p2pfs status`, each text once; the oldest goes first.
pub(crate) const WARNINGS_KEPT: usize = 20;

/// One event and when it was.
#[derive(Clone, Debug)]
pub struct Noted {
    /// By the local clock.
    pub at: SystemTime,
    /// What happened.
    pub news: News,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Another node answers.
    PeerUp(Who),
    /// Another node stopped cleanly and may be back.
    PeerAway(Who),
    /// Another node is gone.
    PeerDown(Who, DownReason),
    /// A node was admitted, by whom.
    Joined(Who, Who),
    /// A node was put out or went, by whose word.
    Expelled(Who, Who),
    /// The cluster has a fresh secret, by whom.
    Rotated(Who),
    /// A peer sent wrong bytes.
    PeerShunned(Who),
    /// A name is listed that was not.
    Added(SharedPath),
    /// A name is listed no more.
    Removed(SharedPath),
    /// A name shows another content.
    Changed(SharedPath),
    /// A fetch began.
    FetchStarted(Fetched),
    /// A content is complete in the cache.
    FetchDone(Fetched),
    /// Bytes did not come, and why.
    FetchFailed(Fetched, String),
    /// A legacy peer begins to be given a file, or has got the whole of it.
    Given(Given),
    /// A peer of the mesh is there.
    MeshUp {
        who: mesh::Who,
        /// Whether this node dialled it.
        dialled: bool,
    },
    /// A peer of the mesh is gone, and why.
    MeshDown(mesh::Who, String),
    /// A peer of the mesh takes no connection of ours.
    MeshRejected(MemberName, mesh::Rejection),
    /// A peer of the mesh told of others.
    MeshLearned {
        from: mesh::Who,
        /// Of how many that were not known.
        count: usize,
    },
    /// Talk, as it was sent: it may hold any character.
    Chat {
        /// What its sender calls itself.
        from: String,
        /// What it says.
        text: String,
    },
    /// Bytes of no file; [`Node::messages`](super::Node::messages) hands on the bytes themselves.
    Bytes {
        /// What their sender calls itself.
        from: String,
        /// How many.
        size_bytes: u64,
    },
    /// A file that is pushed to this node.
    Received(Push),
    /// A file that this node pushes.
    Sent(Push),
    /// Something that a person should know.
    Warning(String, Audience),
}

/// Whom a warning may be told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Every user of this machine.
    Everybody,
    /// Root and the user that the node runs as: it names local files.
    Owner,
}

/// What is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The hash of its bytes.
    pub hash: ContentHash,
    /// Its length; 0 where that is not known.
    pub size_bytes: u64,
    /// A name that it had then, which may be another file's by now.
    pub name: Option<SharedPath>,
}

/// What a legacy peer gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Where its connection comes from.
    pub peer: SocketAddr,
    /// The name that it asked for.
    pub name: Name,
    /// The length of the file.
    pub size_bytes: u64,
    /// Whether it has all of it.
    pub is_done: bool,
}

/// A file that one peer pushes to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// What the other one calls itself.
    pub peer: String,
    /// The name of the file: the one that it has got, once it is there.
    pub name: Vec<u8>,
    /// Its length.
    pub size_bytes: u64,
    /// How far it is.
    pub stage: PushStage,
}

/// How far a push is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushStage {
    /// It begins.
    Started,
    /// All of it is there, or was sent to one that cannot say so.
    Done,
    /// Nothing of it is there, and why.
    Failed(String),
}

/// A node and what it calls itself, where that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// Its key.
    pub node: NodeId,
    pub name: Option<String>,
}

/// The memory. Clones are the same memory.
#[derive(Clone)]
pub struct EventLog {
    kept: Arc<Mutex<Kept>>,
    live: broadcast::Sender<Noted>,
}

#[derive(Default)]
struct Kept {
    events: VecDeque<Noted>,
    warnings: VecDeque<(String, Audience)>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self {
            kept: Arc::default(),
            live: broadcast::channel(EVENTS_BEHIND_MAX).0,
        }
    }
}

impl EventLog {
    /// What is remembered, oldest first, and the events from now on.
    pub fn follow(&self) -> (Vec<Noted>, broadcast::Receiver<Noted>) {
        let kept = self.kept.lock();
        (kept.events.iter().cloned().collect(), self.live.subscribe())
    }

    /// The warnings that are remembered, oldest first.
    pub fn warnings(&self) -> Vec<String> {
        let kept = self.kept.lock();
        kept.warnings.iter().map(|(text, _)| text.clone()).collect()
    }

    /// Those of them that every user of this machine may know.
    pub fn public_warnings(&self) -> Vec<String> {
        let kept = self.kept.lock();
        let public = kept
            .warnings
            .iter()
            .filter(|(_, to)| *to == Audience::Everybody);
        public.map(|(text, _)| text.clone()).collect()
    }

    /// Remembers a warning.
    pub fn warn(&self, message: String) {
        self.warn_whom(message, Audience::Everybody);
    }

    /// Forgets the warnings that begin so: what they told of is over.
    pub fn settle(&self, beginning: &str) {
        let mut kept = self.kept.lock();
        kept.warnings
            .retain(|(text, _)| !text.starts_with(beginning));
    }

    /// Forgets the warnings that say this: it is over.
    pub(super) fn settle_saying(&self, words: &str) {
        let mut kept = self.kept.lock();
        kept.warnings.retain(|(text, _)| !text.contains(words));
    }

    /// The newest of the warnings that begin so.
    pub(super) fn standing(&self, beginning: &str) -> Option<String> {
        let kept = self.kept.lock();
        let mut texts = kept.warnings.iter().rev().map(|(text, _)| text);
        texts.find(|text| text.starts_with(beginning)).cloned()
    }

    /// Remembers a warning that names local files.
    pub fn warn_owner(&self, message: String) {
        self.warn_whom(message, Audience::Owner);
    }

    /// The same, in place of those that begin so.
    pub fn warn_owner_instead(&self, beginning: &str, message: String) {
        self.warn_instead(beginning, message, Audience::Owner);
    }

    fn warn_instead(&self, beginning: &str, message: String, audience: Audience) {
        {
            let mut kept = self.kept.lock();
            kept.warnings
                .retain(|(text, _)| *text == message || !text.starts_with(beginning));
        }
        self.warn_whom(message, audience);
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
        self.note(News::Warning(message, audience));
    }

    pub(super) fn note(&self, news: News) {
        let noted = Noted {
            at: SystemTime::now(),
            news,
        };
        let mut kept = self.kept.lock();
        if kept.events.len() == EVENTS_KEPT {
            kept.events.pop_front();
        }
        kept.events.push_back(noted.clone());
        // under the lock, so that a follower neither misses one nor gets it twice
        let _nobody_follows = self.live.send(noted);
    }

    pub(super) fn note_node(&self, me: NodeId, event: &NodeEvent, view: &View) {
        let who = |node: &NodeId| Who {
            node: *node,
            name: view.label(node),
        };
        match event {
            NodeEvent::PeerUp(member) => self.note(News::PeerUp(who(&member.node))),
            NodeEvent::PeerAway { node } => self.note(News::PeerAway(who(node))),
            NodeEvent::PeerDown { node, why } => self.note(News::PeerDown(who(node), *why)),
            NodeEvent::CopiedKey { node, addresses } => {
                let key = CopiedKey::of(node, &me);
                let warning = key.warning(view.label(node), addresses);
                self.warn_instead(&key.beginning(), warning, Audience::Everybody);
            }
            NodeEvent::CopyGone { node } => self.settle(&CopiedKey::of(node, &me).beginning()),
            NodeEvent::Stated(signed) => self.note_statement(signed, &who),
            NodeEvent::MembershipChanged | NodeEvent::Knock { .. } => {}
            NodeEvent::NamesRefused => self.warn(
                "this node shares more names or directories than others keep of one (LIMITS in \
                 p2pfs(8)): the rest is not listed; share less of it"
                    .to_owned(),
            ),
            // the ledger of offenders tells
            NodeEvent::Offended { .. } => {}
            NodeEvent::Wanted { .. }
            | NodeEvent::Offered { .. }
            | NodeEvent::Renewed { .. }
            | NodeEvent::Left => {}
        }
    }

    fn note_statement(&self, signed: &SignedStatement, who: &dyn Fn(&NodeId) -> Who) {
        let by = who(&signed.statement.by);
        match &signed.statement.claim {
            Claim::Admit { node, name, .. } => {
                let joined = Who {
                    node: *node,
                    name: Some(name.to_string()),
                };
                self.note(News::Joined(joined, by));
            }
            Claim::Expel { node, .. } => self.note(News::Expelled(who(node), by)),
            // the first number names the secret that is there already
            Claim::Rotate { number: 0, .. } | Claim::Found { .. } | Claim::Own { .. } => {}
            Claim::Rotate { .. } => self.note(News::Rotated(by)),
        }
    }

    pub(super) fn note_fetch(&self, event: &FetchEvent, view: &View) {
        let fetched = |hash: &ContentHash, size_bytes| Fetched {
            hash: *hash,
            size_bytes,
            name: view.names_of(hash, 1).pop(),
        };
        match event {
            FetchEvent::Started { hash, size_bytes } => {
                self.note(News::FetchStarted(fetched(hash, *size_bytes)));
            }
            FetchEvent::Done { hash, size_bytes } => {
                self.note(News::FetchDone(fetched(hash, *size_bytes)));
            }
            FetchEvent::Failed { hash, why, .. } => {
                self.note(News::FetchFailed(fetched(hash, 0), why.to_string()));
            }
            FetchEvent::Liar { node, .. } => {
                self.note(News::PeerShunned(Who {
                    node: *node,
                    name: view.label(node),
                }));
            }
            FetchEvent::Wanted { .. } => {}
        }
    }

    /// Another node's version from the future: one of the two clocks is wrong, and whichever is
    /// ahead wins every conflict.
    fn note_clock(&self, found: &Found, view: &View) {
        if let Some(gap) = clock_gap(found.version_time, SystemTime::now()) {
            let who = view
                .label(&found.author)
                .unwrap_or_else(|| found.author.short(8));
            self.warn(format!(
                "the clock of {who} is about {} min ahead of this machine's: set whichever is \
                 wrong, since versions with a later time win",
                gap.as_secs() / 60
            ));
        }
    }

    /// Tells which files came, went or changed between two views.
    pub(super) fn note_changes(&self, changes: &[Change], before: &View, after: &View) {
        for change in changes {
            let Change::Entry(path) = change else {
                continue;
            };
            let now_there = after.lookup(path);
            // a directory's time is only shown: it wins nothing
            if let Some(found) = now_there.as_ref().filter(|found| is_file(found)) {
                self.note_clock(found, after);
            }
            match (before.lookup(path).as_ref(), now_there.as_ref()) {
                (None, Some(found)) if is_file(found) => self.note(News::Added(path.clone())),
                (Some(found), None) if is_file(found) => self.note(News::Removed(path.clone())),
                (Some(old), Some(new)) if old.kind != new.kind => {
                    self.note(News::Changed(path.clone()));
                }
                _ => {}
            }
        }
    }
}

/// A clock that is further ahead than this is wrong: time servers keep machines within seconds, and
/// a slow log does not make a version newer.
const CLOCK_GAP_MAX: Duration = Duration::from_secs(10 * 60);

/// How far a version's time is ahead of now, where that is more than clocks may differ. No author
/// gives a version a later time than its own clock showed.
fn clock_gap(version_time: Timestamp, now: SystemTime) -> Option<Duration> {
    let seconds = u64::try_from(version_time.seconds).ok()?;
    let version_time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
    let gap = version_time.duration_since(now).ok()?;
    (gap > CLOCK_GAP_MAX).then_some(gap)
}

fn is_file(found: &Found) -> bool {
    !matches!(found.kind, Kind::Directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_is_bounded_and_keeps_the_newest() {
        let log = EventLog::default();
        let learned = |count| News::MeshLearned {
            from: mesh::Who {
                id: "1".into(),
                name: "desk".into(),
                address: "192.0.2.1:1378".parse().unwrap(),
            },
            count,
        };
        for number in 0..EVENTS_KEPT + 10 {
            log.note(learned(number));
        }
        let (events, _) = log.follow();
        assert_eq!(events.len(), EVENTS_KEPT);
        assert_eq!(events[0].news, learned(10));
    }

    #[test]
    fn the_same_warning_is_kept_once_and_old_ones_go() {
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
    fn a_warning_that_names_local_files_is_for_their_owner_alone() {
        let log = EventLog::default();
        log.warn("the clock is off".into());
        log.warn_owner("/srv/private/diary: left out".into());
        assert_eq!(log.warnings().len(), 2);
        assert_eq!(log.public_warnings(), ["the clock is off"]);
    }

    #[test]
    fn a_version_from_the_future_tells_of_a_wrong_clock_and_a_small_difference_does_not() {
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

    #[test]
    fn a_follower_gets_what_was_and_what_comes_each_once() {
        let log = EventLog::default();
        log.warn("before".into());
        let (past, mut live) = log.follow();
        log.warn("after".into());
        assert_eq!(past.len(), 1);
        let after = News::Warning("after".into(), Audience::Everybody);
        assert_eq!(live.try_recv().unwrap().news, after);
        assert!(live.try_recv().is_err());
    }
}
