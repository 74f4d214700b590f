//! The check of a node's own health, which begins and ends some of the node's conditions
//! ([`Condition`]).

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::NodeShares;
use crate::checks::warn_of_a_wrong_clock;
use crate::events::EventLog;
use crate::inbox::{InboxError, InboxHandle};
use crate::published::Published;
use crate::state_dir::StateDir;
use crate::{Condition, Finding};
use p2pfs_content::cache::{Cache, Lack, Room};
use p2pfs_membership::MemberState;
use p2pfs_types::age::age_text;
use p2pfs_types::files::Whereabouts;
use p2pfs_types::files::disk::{disk_of, usage_command, usage_command_after_failure};

/// Free space below which the state's disk counts as full, and the room that the cache's disk must
/// have: the size of some small files.
const LITTLE_BYTES: u64 = 1 << 20;

/// How long the condition of a damaged cache stands after the last damage.
const DAMAGE_STANDS: Duration = Duration::from_secs(3600);

/// Remedy for a lost state directory in a cluster with a secret file. Such a cluster admits this
/// machine again as a new node, without an invitation.
const WITHOUT_INVITATIONS: &str = "put it back before the next restart, or this becomes a new node";

/// Free and total bytes of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskRoom {
    /// Bytes that a process without privileges may still write.
    pub free_bytes: u64,
    /// Size of the filesystem.
    pub total_bytes: u64,
}

impl DiskRoom {
    /// Returns the room of the filesystem of a path, or `None` if statvfs(3) fails. Blocks on the
    /// disk.
    pub fn of(path: &Path) -> Option<Self> {
        let disk = rustix::fs::statvfs(path).ok()?;
        Some(Self {
            free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
            total_bytes: disk.f_blocks.saturating_mul(disk.f_frsize),
        })
    }
}

/// The real path of a directory of the node, for the name of its disk.
pub(crate) struct OwnDirectory {
    /// The path in messages.
    dir: PathBuf,
    /// The path without links. It is resolved at the start, because a disk that hangs later cannot
    /// resolve it.
    real: PathBuf,
}

impl OwnDirectory {
    pub(crate) fn new(dir: &Path) -> Self {
        let real = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        Self {
            dir: dir.to_owned(),
            real,
        }
    }

    /// Returns the name of the disk in parentheses, or an empty text if it is unknown.
    fn disk(&self) -> String {
        disk_of(&self.real).map_or_else(String::new, |disk| format!(" ({disk})"))
    }

    /// Returns the command that shows the free space of the disk.
    fn usage_command(&self) -> String {
        usage_command(&self.dir)
    }
}

/// The health of a node. [`Node::health`](crate::Node::health) returns it.
pub struct NodeHealth {
    pub(crate) state: StateDir,
    pub(crate) state_dir: OwnDirectory,
    pub(crate) cache: Cache,
    pub(crate) cache_dir: OwnDirectory,
    pub(crate) shares: NodeShares,
    /// The folders for files that other nodes and foreign peers send.
    pub(crate) inboxes: Vec<InboxHandle>,
    pub(crate) published: Published,
    pub(crate) events: EventLog,
}

impl NodeHealth {
    /// Checks the state directory, the cache, the disks of shares and inboxes, the clock and the
    /// other nodes, and begins and ends their conditions. Blocks on the disks of the state
    /// directory, the cache and the inboxes.
    pub fn review(&self) {
        let events = &self.events;
        events.expire(SystemTime::now());
        warn_of_a_wrong_clock(events, self.shares.clock_behind());
        let set = |condition, found: Option<Finding>| {
            let found = found.map(|found| (String::new(), found));
            events.replace(condition, found.into_iter().collect());
        };
        let state_gone = self.trouble_with_state();
        let is_there = state_gone.is_none();
        set(Condition::StateGone, state_gone);
        set(
            Condition::StateFull,
            self.state_is_full().filter(|_| is_there),
        );
        let cache_gone = self.trouble_with_cache_dir();
        let is_there = cache_gone.is_none();
        set(Condition::CacheGone, cache_gone);
        set(
            Condition::CacheFull,
            self.cache_is_full().filter(|_| is_there),
        );
        set(Condition::CacheDamaged, self.cache_is_damaged());
        let silent = self.shares.standing().into_iter().map(|dir| {
            let dir = dir.display().to_string();
            let said = format!(
                "the disk of {dir} does not answer: its files stay listed, and reads of them wait"
            );
            (dir, Finding::new(said).for_owner())
        });
        events.replace(Condition::ShareSilent, silent.collect());
        set(Condition::PeersDown, self.peers_are_down());
        self.review_inboxes();
    }

    /// Begins [`Condition::InboxFull`] for each inbox that still lacks room for the last file that
    /// it refused for lack of room. Ends the condition for all other inboxes. Blocks on the disks
    /// of the inboxes, except of those that are shares whose disks do not answer.
    fn review_inboxes(&self) {
        let silent = self.shares.standing();
        let inboxes = self.inboxes.iter().filter_map(InboxHandle::get);
        let answering = inboxes.filter(|inbox| !silent.contains(inbox.dir()));
        let full = answering.filter_map(|inbox| {
            let lack = inbox.still_lacks()?;
            let dir = inbox.dir().display().to_string();
            let found = Finding::new(format!("the inbox {dir} refused a file: {lack}"));
            let found = match lack {
                InboxError::Floor { .. } => {
                    let usage = usage_command(inbox.dir());
                    let remedy = format!("free some of the disk of the inbox ({usage})");
                    found.of_cause("disk").remedy(remedy)
                }
                _ => found.of_cause("budget"),
            };
            Some((dir, found))
        });
        self.events.replace(Condition::InboxFull, full.collect());
    }

    /// Returns whether another machine is known to use this node's key. In that case, a result
    /// about the connections of this node may concern the other machine.
    pub fn is_copied(&self) -> bool {
        let copied = self.events.standing_of(Condition::KeyCopied);
        copied.iter().any(|it| it.subject.is_empty())
    }

    /// Returns why the cache stores nothing, or `None` if it stores bytes.
    pub fn trouble_with_caching(&self) -> Option<String> {
        let events = &self.events;
        let found = events.standing_of(Condition::CacheNotStored).pop()?;
        Some(found.finding.found)
    }

    /// Describes the problem if the state directory was emptied, moved or replaced, or if its disk
    /// does not answer.
    fn trouble_with_state(&self) -> Option<Finding> {
        let place = format!("the state directory {}", self.state.path().display());
        let moved = "was emptied, moved or replaced while p2pfs runs, and with it this node's key";
        match self.state.whereabouts() {
            Whereabouts::InPlace => None,
            Whereabouts::Lost if self.shares.trust.has_ledger() => {
                Some(Finding::new(format!("{place} {moved}")))
            }
            Whereabouts::Lost => {
                Some(Finding::new(format!("{place} {moved}")).remedy(WITHOUT_INVITATIONS))
            }
            Whereabouts::Unknown => Some(silent_disk(&place, &self.state_dir)),
        }
    }

    /// Describes the problem if the cache directory was emptied, moved or replaced, or if its disk
    /// does not answer.
    fn trouble_with_cache_dir(&self) -> Option<Finding> {
        let place = format!("the cache directory {}", self.cache.dir().display());
        let moved = "was emptied, moved or replaced while p2pfs runs";
        match self.cache.whereabouts() {
            Whereabouts::InPlace => None,
            Whereabouts::Lost => Some(Finding::new(format!("{place} {moved}"))),
            Whereabouts::Unknown => Some(silent_disk(&place, &self.cache_dir)),
        }
    }

    fn state_is_full(&self) -> Option<Finding> {
        let room = DiskRoom::of(self.state.path())?;
        let not_stored = self.events.standing_of(Condition::StateNotStored);
        let is_full = room.free_bytes < LITTLE_BYTES && not_stored.is_empty();
        is_full.then(|| {
            let disk = self.state_dir.disk();
            let found = format!("the state is still stored, but its disk is full{disk}");
            let usage = self.state_dir.usage_command();
            Finding::new(found).remedy(format!(
                "free space on that disk ({usage}); once nothing more fits, a restart loses new \
                 changes"
            ))
        })
    }

    /// Returns a finding if the cache's disk takes no writes, or has too little room even if
    /// everything evictable were evicted. Returns `None` if pinned and open files fill the budget,
    /// because that is not a problem of the disk.
    fn cache_is_full(&self) -> Option<Finding> {
        let budget_bytes = self.cache.usage().budget_bytes;
        let lack = Room::for_files(&self.cache).lack(LITTLE_BYTES.min(budget_bytes / 2))?;
        let disk = self.cache_dir.disk();
        let (found, usage) = match lack {
            Lack::Budget { .. } => return None,
            Lack::Disk {
                free_bytes,
                floor_bytes,
            } => {
                let found = Finding::new(format!(
                    "the cache's disk is full{disk}: {} KiB are free, and {} KiB must stay free",
                    free_bytes >> 10,
                    floor_bytes >> 10
                ));
                (found.of_cause("full"), self.cache_dir.usage_command())
            }
            Lack::Refused { why } => {
                let found = Finding::new(format!("the cache's disk takes no writes{disk}: {why}"));
                (found, usage_command_after_failure(&self.cache_dir.dir))
            }
        };
        Some(found.remedy(format!(
            "free some of that disk ({usage}), or name another with cache_dir; reads go on uncached"
        )))
    }

    fn cache_is_damaged(&self) -> Option<Finding> {
        let usage = self.cache.usage();
        let age = usage.damaged_at?.elapsed().unwrap_or_default();
        let bytes = usage.damaged_bytes;
        let said = format!(
            "{bytes} bytes of the cache were wrong or unreadable, the last of them {} ago: they \
             were dropped, and are fetched again",
            age_text(age)
        );
        (age < DAMAGE_STANDS).then(|| Finding::new(said).of_cause("damaged"))
    }

    fn peers_are_down(&self) -> Option<Finding> {
        let members = self.published.members.load();
        let count = |state| {
            let states = members.iter().map(|it| it.status.state);
            states.filter(|it| *it == state).count()
        };
        let is_any_there = count(MemberState::Alive) + count(MemberState::Suspect) > 0;
        let (down, away) = (count(MemberState::Down), count(MemberState::Away));
        let known = down + away;
        (!is_any_there && down > 0).then(|| {
            Finding::new(format!(
                "no other node answers ({known} known): only files stored here can be read"
            ))
            .of_cause("down")
        })
    }
}

/// Returns the finding for a directory whose disk does not answer.
fn silent_disk(place: &str, dir: &OwnDirectory) -> Finding {
    let (disk, usage) = (dir.disk(), dir.usage_command());
    Finding::new(format!("the disk of {place} does not answer{disk}")).remedy(format!(
        "look at that disk ({usage} hangs while it does not answer), or at the server that it is of"
    ))
}
