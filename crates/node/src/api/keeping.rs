//! Keeping: complete copies of the files below some paths, which outlive the nodes that wrote them.
//!
//! [`NodeKeeper::maintain`] compares the namespace with the kept files in rounds. Each round pins
//! what this node has to keep ([`crate::keepers`]) and releases what it need not keep any longer.
//! The pins fetch the files ([`NodePins::maintain`]). A round also counts the files that exist only
//! on this node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::NodePins;
use super::contents::Contents;
use crate::commands::CommandSender;
use crate::conditions::{Condition, Finding};
use crate::keepers::{AuthorLimits, Duty, Keepers, KeptCandidate, fit};
use crate::run::LoopCommand;
use p2pfs_catalogue::{Found, View};
use p2pfs_content::cache::cost_bytes;
use p2pfs_proto::wire::native::record::{KeepOffer, Kind, ShareIndex, is_at_or_below};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;
use p2pfs_types::path::{SharedPath, escape};

/// Minimum time between two rounds.
const ROUND_EACH: Duration = Duration::from_secs(1);
/// Maximum time between two rounds, if nothing in the namespace changes. Room may become free.
const ROUND_AT_LEAST_EACH: Duration = Duration::from_secs(60);
/// The rounds take at most one part in this many of a processor. A round over a million names takes
/// about a second.
const ROUND_SHARE: u32 = 20;
/// Maximum number of files that a node keeps. It is half of the pins that a cache may have.
pub(crate) const KEPT_FILES_MAX: usize = 1 << 19;
/// How long a file that need not be kept any longer stays pinned, if the budget has room. After a
/// start or a partition, a name may be missing for some seconds.
const RELEASE_AFTER: Duration = Duration::from_secs(60);
/// Number of paths that a message names.
const NAMED_MAX: usize = 3;

/// The files that a node keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepSettings {
    /// The paths at and below which the node keeps files, in ascending order.
    pub paths: Vec<SharedPath>,
    /// Maximum bytes of the cache for them. `None` for all of the cache.
    pub budget_bytes: Option<u64>,
    /// Number of keepers that keep each file. `None` if this node keeps all files.
    pub copies: Option<usize>,
    /// How long another keeper may be absent before this node keeps its files, too.
    pub takeover: Duration,
}

/// A number of files and their size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSum {
    /// Number of files. Files of equal content count once.
    pub files: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// The files that a node keeps, as the last round found them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeepReport {
    /// The kept files that are complete.
    pub complete: FileSum,
    /// The files that are to be kept and are not complete yet.
    pub missing: FileSum,
    /// The files for which there is no room.
    pub left_out: FileSum,
    /// The files of the writable shares of this node of which no other live node has a complete
    /// copy. Files for some readers alone do not count.
    pub only_here: FileSum,
}

/// Sums up files by their sizes.
impl FromIterator<u64> for FileSum {
    fn from_iter<Sizes: IntoIterator<Item = u64>>(sizes: Sizes) -> Self {
        let sizes = sizes.into_iter();
        sizes.fold(Self::default(), |sum, size_bytes| Self {
            files: sum.files + 1,
            bytes: sum.bytes.saturating_add(size_bytes),
        })
    }
}

/// The keeping of a node. [`Node::keeper`](crate::Node::keeper) returns it. Clones share their
/// state.
#[derive(Clone)]
pub struct NodeKeeper {
    pub(crate) me: NodeId,
    pub(crate) settings: Arc<KeepSettings>,
    pub(crate) pins: NodePins,
    pub(crate) commands: CommandSender,
    pub(crate) report: Arc<ArcSwap<KeepReport>>,
}

/// The state of the rounds.
struct Rounds {
    /// Since when each other keeper is absent.
    absent: BTreeMap<NodeId, Instant>,
    /// Since when each kept file need not be kept.
    unwanted: BTreeMap<ContentHash, Instant>,
    authors: AuthorLimits,
    /// When the last round began, and the number of its view.
    last: Option<(Instant, u64)>,
    said: Option<KeepOffer>,
}

/// The files that a round found.
#[derive(Default)]
struct FoundFiles {
    candidates: Vec<KeptCandidate>,
    only_here: BTreeMap<ContentHash, u64>,
}

impl NodeKeeper {
    /// Returns what this node keeps, as the last round found it. It is empty before the first round.
    pub fn report(&self) -> Arc<KeepReport> {
        self.report.load_full()
    }

    /// Returns the settings.
    pub fn settings(&self) -> &KeepSettings {
        &self.settings
    }

    /// Keeps files for as long as this future is polled, and announces to the other nodes that this
    /// node does so.
    pub async fn maintain(&self) {
        let mut rounds = self.rounds();
        loop {
            if self.is_settled(&rounds) {
                sleep(ROUND_EACH).await;
                continue;
            }
            let (keeper, began) = (self.clone(), Instant::now());
            let ended = spawn_blocking(move || {
                let offer = keeper.round(&mut rounds);
                (rounds, offer)
            });
            // After a panic or at the end of the runtime, keeping ends.
            let Ok((after, offer)) = ended.await else {
                return;
            };
            rounds = after;
            if rounds.said.as_ref() != Some(&offer) {
                let said = self.commands.send(LoopCommand::Keep(offer.clone())).await;
                if said.is_err() {
                    return;
                }
                rounds.said = Some(offer);
            }
            sleep(ROUND_EACH.max(began.elapsed() * ROUND_SHARE)).await;
        }
    }

    fn rounds(&self) -> Rounds {
        Rounds {
            absent: BTreeMap::new(),
            unwanted: BTreeMap::new(),
            authors: AuthorLimits::new(self.budget_bytes()),
            last: None,
            said: None,
        }
    }

    /// Returns whether a further round would find the same as the last one.
    fn is_settled(&self, rounds: &Rounds) -> bool {
        let Some((began, view)) = rounds.last else {
            return false;
        };
        let takeover = self.settings.takeover;
        let counted = |since: &Instant| began.saturating_duration_since(*since) < takeover;
        let awaits_takeover = self.settings.copies.is_some() && rounds.absent.values().any(counted);
        view == self.pins.cache.view.load().number()
            && rounds.unwanted.is_empty()
            && !awaits_takeover
            && self.report.load().missing.files == 0
            && began.elapsed() < ROUND_AT_LEAST_EACH
    }

    fn budget_bytes(&self) -> u64 {
        let cache_bytes = self.pins.cache.usage().budget_bytes;
        let budget_bytes = self.settings.budget_bytes;
        budget_bytes.map_or(cache_bytes, |it| it.min(cache_bytes))
    }

    /// Pins what is to be kept and releases the rest. Returns the offer to announce.
    fn round(&self, rounds: &mut Rounds) -> KeepOffer {
        let view = self.pins.cache.view.load_full();
        rounds.last = Some((Instant::now(), view.number()));
        let kept = self.pins.kept();
        let found = self.find(&view, &self.keepers(&view, rounds), &kept);
        let budget_bytes = self.budget_bytes();
        let (fitting, mut left_out) = fit(found.candidates, budget_bytes);
        let [fitting, beyond] = split_at_most(fitting, KEPT_FILES_MAX);
        left_out.extend(beyond);
        let delayed = self.delayed(rounds, &fitting);
        self.release(released(rounds, &kept, &fitting, budget_bytes, &delayed));
        let refused = self.begin(&fitting, &delayed);
        let is_refused = |it: &KeptCandidate| refused.contains(&it.path);
        let (refused, fitting): (Vec<_>, Vec<_>) = fitting.into_iter().partition(is_refused);
        left_out.extend(refused);
        self.tell_left_out(&left_out);
        let sizes = |of: &[KeptCandidate], is_here| -> FileSum {
            let meant = of.iter().filter(|it| it.is_here == is_here);
            meant.map(|it| it.size_bytes).collect()
        };
        self.report.store(Arc::new(KeepReport {
            complete: sizes(&fitting, true),
            missing: sizes(&fitting, false),
            left_out: left_out.iter().map(|it| it.size_bytes).collect(),
            only_here: found.only_here.into_values().collect(),
        }));
        if self.settings.paths.is_empty() {
            // A node that never kept files records nothing.
            return KeepOffer::default();
        }
        KeepOffer {
            paths: self.settings.paths.clone(),
            all: self.settings.copies.is_none(),
            full: !left_out.is_empty(),
        }
    }

    /// Returns the keepers that count: the live ones, and those that are absent for less than the
    /// time of a takeover.
    fn keepers(&self, view: &View, rounds: &mut Rounds) -> Keepers {
        let now = Instant::now();
        let mut others = view.keepers();
        others.retain(|it| it.node != self.me);
        let is_absent = |node: &NodeId| others.iter().any(|it| it.node == *node && !it.is_live);
        rounds.absent.retain(|node, _| is_absent(node));
        others.retain(|it| {
            it.is_live || {
                let since = *rounds.absent.entry(it.node).or_insert(now);
                now.saturating_duration_since(since) < self.settings.takeover
            }
        });
        Keepers {
            me: self.me,
            copies: self.settings.copies,
            others,
        }
    }

    /// Finds the files to keep, and the own files without another copy.
    fn find(&self, view: &View, keepers: &Keepers, kept: &Contents) -> FoundFiles {
        let (store, shares) = (&self.pins.store, self.pins.store.shares());
        let folders = store.writable_folders();
        let writable: BTreeSet<ShareIndex> = folders.iter().map(|it| it.share).collect();
        let places = folders.iter().map(|it| it.place.path());
        let tops = topmost(self.settings.paths.iter().chain(places));
        let is_meant = |path: &SharedPath| is_at_or_below(path, &self.settings.paths);
        let (mut found, mut seen) = (FoundFiles::default(), BTreeSet::new());
        let mut take = |path: SharedPath, file: &Found| {
            let Kind::File {
                hash, size_bytes, ..
            } = file.kind
            else {
                return;
            };
            let own_share = file.own.as_ref().map(|(share, _)| share);
            if own_share.is_some_and(|it| writable.contains(it))
                && view.contents().is_mine_alone(&hash)
                && !view.contents().is_private(&hash)
            {
                found.only_here.insert(hash, size_bytes);
            }
            if !is_meant(&path) || shares.holds(&hash) || seen.contains(&hash) {
                return;
            }
            let holders = view.contents().holders(&hash);
            let duty = keepers.duty(&path, |node| holders.contains(node));
            if duty == Duty::Keep || duty == Duty::Hold && kept.contains_key(&hash) {
                seen.insert(hash);
                found.candidates.push(KeptCandidate {
                    hash,
                    size_bytes,
                    cost_bytes: cost_bytes(size_bytes),
                    path,
                    author: file.author,
                    is_here: store.is_whole(&hash),
                });
            }
        };
        tops.iter().for_each(|top| view.each_file(top, &mut take));
        found
    }

    /// Ends the pins of files. A pin that the disk refuses to end stays, and the next round repeats
    /// it.
    fn release(&self, released: Contents) {
        if !released.is_empty() {
            let _repeated = self.pins.set_kept(released, false);
        }
    }

    /// Returns the files that are not fetched yet, because enough was fetched of their authors.
    fn delayed(&self, rounds: &mut Rounds, fitting: &[KeptCandidate]) -> BTreeSet<ContentHash> {
        let is_pinned = |it: &KeptCandidate| self.pins.is_pinned(&it.hash);
        let begins = fitting.iter().filter(|it| !it.is_here && !is_pinned(it));
        rounds
            .authors
            .delayed(Instant::now(), &begins.collect::<Vec<_>>())
    }

    /// Pins files that are not pinned yet, but not the delayed ones. Returns the paths for which the
    /// cache has no room.
    fn begin(
        &self,
        fitting: &[KeptCandidate],
        delayed: &BTreeSet<ContentHash>,
    ) -> BTreeSet<SharedPath> {
        // A pin of the user stays one.
        let unpinned = fitting.iter().filter(|it| !self.pins.is_pinned(&it.hash));
        let begun = unpinned.filter(|it| !delayed.contains(&it.hash));
        let begun = begun.map(|it| (it.hash, (it.size_bytes, it.path.clone())));
        let begun: Contents = begun.collect();
        if begun.is_empty() {
            return BTreeSet::new();
        }
        let refused = self.pins.set_kept(begun, true).into_iter();
        refused.map(|it| it.path).collect()
    }

    /// Begins or ends the condition that files are not kept for lack of room.
    fn tell_left_out(&self, left_out: &[KeptCandidate]) {
        let events = &self.pins.files.names.events;
        if left_out.is_empty() {
            return events.end(Condition::KeepFull, "");
        }
        let names: Vec<String> = left_out
            .iter()
            .take(NAMED_MAX)
            .map(|it| escape(it.path.as_bytes()))
            .collect();
        let more = left_out.len() - names.len();
        let and_more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        let found = format!("there is no room to keep {}{and_more}", names.join(", "));
        let finding = Finding::new(found).of_cause("room");
        events.begin(Condition::KeepFull, "", finding);
    }
}

/// Returns the kept files whose pins end in this round: those that are not to be kept, after some
/// time or as soon as the budget has no room for them. An older version stays until the newer one is
/// here.
fn released(
    rounds: &mut Rounds,
    kept: &Contents,
    fitting: &[KeptCandidate],
    budget_bytes: u64,
    delayed: &BTreeSet<ContentHash>,
) -> Contents {
    let now = Instant::now();
    let wanted: BTreeSet<ContentHash> = fitting.iter().map(|it| it.hash).collect();
    let arriving = fitting.iter().filter(|it| !it.is_here);
    let arriving: BTreeSet<&SharedPath> = arriving.map(|it| &it.path).collect();
    let begun = fitting.iter().filter(|it| !delayed.contains(&it.hash));
    let wanted_bytes: u64 = begun.map(|it| it.cost_bytes).sum();
    let mut left_bytes = budget_bytes.saturating_sub(wanted_bytes);
    let is_unwanted = |hash: &ContentHash| kept.contains_key(hash) && !wanted.contains(hash);
    rounds.unwanted.retain(|hash, _| is_unwanted(hash));
    let mut released = Contents::new();
    for (hash, (size_bytes, path)) in kept.iter().filter(|(hash, _)| is_unwanted(hash)) {
        let since = *rounds.unwanted.entry(*hash).or_insert(now);
        let is_recent = now.saturating_duration_since(since) < RELEASE_AFTER;
        match left_bytes.checked_sub(cost_bytes(*size_bytes)) {
            Some(rest) if is_recent || arriving.contains(path) => left_bytes = rest,
            _ => drop(released.insert(*hash, (*size_bytes, path.clone()))),
        }
    }
    released
}

/// Splits a list after its first `count` elements.
fn split_at_most(mut list: Vec<KeptCandidate>, count: usize) -> [Vec<KeptCandidate>; 2] {
    let rest = list.split_off(list.len().min(count));
    [list, rest]
}

/// Returns those of some paths that are not below another one.
fn topmost<'a>(paths: impl Iterator<Item = &'a SharedPath>) -> BTreeSet<SharedPath> {
    let all: BTreeSet<&SharedPath> = paths.collect();
    let is_top = |path: &&&SharedPath| !all.iter().any(|it| path.is_beneath(it));
    all.iter().filter(is_top).map(|it| (*it).clone()).collect()
}
