//! The choice of the nodes that keep a file, and of the files that fit into a budget. Pure.
//!
//! Every keeper ranks all keepers of a path by one hash (rendezvous hashing), so all of them find
//! the same order without a leader. The first ones keep the file. If one of them is absent for a
//! given time, the next one in the order counts instead.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use p2pfs_catalogue::{Keeper, NODES_MAX};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;
use p2pfs_types::keyed_buckets::KeyedBuckets;
use p2pfs_types::path::SharedPath;

/// Maximum number of times that a keeper fetches its budget of the files of one author in
/// [`REFILL_TIME`].
const BUDGETS_FETCHED_MAX: u64 = 4;
/// Time in which an author may make a keeper fetch [`BUDGETS_FETCHED_MAX`] budgets again.
const REFILL_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The keepers of a cluster, as this node counts them.
pub(super) struct Keepers {
    pub me: NodeId,
    /// Wanted number of copies. `None` if this node keeps all files.
    pub copies: Option<usize>,
    /// The other keepers that count: those that are live, and those that are absent for a short
    /// time.
    pub others: Vec<Keeper>,
}

/// Part of this node in keeping a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// This node is among the first keepers.
    Keep,
    /// Others come first, but not enough of them have the file yet. A copy that is here stays.
    Hold,
    /// Enough others that come first have the file.
    None,
}

impl Keepers {
    /// Returns the part of this node in keeping a file. `has` returns whether a live node has the
    /// complete content.
    pub(super) fn duty(&self, path: &SharedPath, has: impl Fn(&NodeId) -> bool) -> Duty {
        let Some(copies) = self.copies else {
            return Duty::Keep;
        };
        let mine = rank(&self.me, false, path);
        let is_ahead =
            |it: &&Keeper| it.offer.covers(path) && rank(&it.node, it.offer.all, path) > mine;
        let (mut willing, mut holding) = (0, 0);
        for keeper in self.others.iter().filter(is_ahead) {
            let holds = keeper.is_live && has(&keeper.node);
            holding += usize::from(holds);
            // The records of an absent node do not tell whether it has the file.
            willing += usize::from(holds || !keeper.is_live || !keeper.offer.full);
        }
        if willing < copies {
            Duty::Keep
        } else if holding < copies {
            Duty::Hold
        } else {
            Duty::None
        }
    }
}

/// Returns the rank of a keeper of a path. The path counts and not the content, so that the keepers
/// of a file stay the same when it changes.
fn rank(node: &NodeId, keeps_all: bool, path: &SharedPath) -> (bool, [u8; 32]) {
    let key = [node.as_bytes(), path.as_bytes()].concat();
    (keeps_all, *ContentHash::of(&key).as_bytes())
}

/// A file that this node would keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeptCandidate {
    pub hash: ContentHash,
    pub size_bytes: u64,
    /// Bytes of the budget that it takes.
    pub cost_bytes: u64,
    pub path: SharedPath,
    /// Node that wrote the version.
    pub author: NodeId,
    /// Whether the cache has all of it.
    pub is_here: bool,
}

/// Splits candidates into those that fit into a budget and those that do not. If the budget is
/// short, each author gets the same part of it, so that one author cannot displace the files of
/// others. Among the files of one author, those that are here come first.
pub(super) fn fit(
    mut candidates: Vec<KeptCandidate>,
    budget_bytes: u64,
) -> (Vec<KeptCandidate>, Vec<KeptCandidate>) {
    candidates.sort_by(|a, b| (!a.is_here, &a.path).cmp(&(!b.is_here, &b.path)));
    let mut totals: BTreeMap<NodeId, u64> = BTreeMap::new();
    let mut ranked: Vec<(u64, KeptCandidate)> = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let total = totals.entry(candidate.author).or_default();
        *total = total.saturating_add(candidate.cost_bytes);
        ranked.push((*total, candidate));
    }
    // The sort is stable, so equal totals keep the order of the paths.
    ranked.sort_by_key(|(total, candidate)| (*total, Reverse(candidate.is_here)));
    let (mut left_bytes, mut fitting, mut others) = (budget_bytes, Vec::new(), Vec::new());
    for (_, candidate) in ranked {
        match left_bytes.checked_sub(candidate.cost_bytes) {
            Some(rest) => {
                left_bytes = rest;
                fitting.push(candidate);
            }
            None => others.push(candidate),
        }
    }
    (fitting, others)
}

/// The bytes that a keeper may still fetch of the files of each author. So an author that changes its files
/// all the time uses a bounded part of the network.
pub(super) struct AuthorLimits {
    /// In KiB.
    buckets: KeyedBuckets<NodeId>,
    /// The files for which their authors had enough left.
    granted: BTreeSet<ContentHash>,
}

impl AuthorLimits {
    /// Creates the limits of a keeper with this budget.
    pub(super) fn new(budget_bytes: u64) -> Self {
        let kib = (budget_bytes >> 10).saturating_mul(BUDGETS_FETCHED_MAX);
        let capacity = u32::try_from(kib).unwrap_or(u32::MAX).max(1);
        Self {
            buckets: KeyedBuckets::one_in(REFILL_TIME / capacity, capacity, NODES_MAX),
            granted: BTreeSet::new(),
        }
    }

    /// Returns those of the files to fetch that must wait. Each file takes its bytes once, for as
    /// long as each call names it.
    pub(super) fn delayed(
        &mut self,
        now: Instant,
        files: &[&KeptCandidate],
    ) -> BTreeSet<ContentHash> {
        let hashes: BTreeSet<ContentHash> = files.iter().map(|it| it.hash).collect();
        self.granted.retain(|hash| hashes.contains(hash));
        for file in files {
            let kib = u32::try_from(file.cost_bytes >> 10).unwrap_or(u32::MAX);
            let is_granted = self.granted.contains(&file.hash)
                || self.buckets.take(file.author, kib.max(1), now);
            if is_granted {
                self.granted.insert(file.hash);
            }
        }
        hashes.difference(&self.granted).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use p2pfs_proto::wire::native::record::KeepOffer;

    fn node(number: u8) -> NodeId {
        NodeId::new([number; 32])
    }

    fn path(text: &str) -> SharedPath {
        SharedPath::new(text.as_bytes()).unwrap()
    }

    fn keeper(number: u8) -> Keeper {
        Keeper {
            node: node(number),
            offer: KeepOffer {
                paths: vec![path("docs")],
                ..KeepOffer::default()
            },
            is_live: true,
        }
    }

    /// Returns the duty of each of these keepers, as each of them finds it.
    fn duties(all: &[Keeper], copies: usize, file: &str, holders: &BTreeSet<NodeId>) -> Vec<Duty> {
        let duty = |me: &Keeper| {
            let others = all.iter().filter(|it| it.node != me.node);
            let keepers = Keepers {
                me: me.node,
                copies: Some(copies),
                others: others.cloned().collect(),
            };
            keepers.duty(&path(file), |node| holders.contains(node))
        };
        all.iter().map(duty).collect()
    }

    fn count(duties: &[Duty], duty: Duty) -> usize {
        duties.iter().filter(|it| **it == duty).count()
    }

    proptest! {
        #[test]
        fn keepers_that_see_the_same_choose_as_many_as_are_wanted(
            keepers in 1_u8..12, copies in 1_usize..5, name in "[a-z]{1,8}",
        ) {
            let all: Vec<Keeper> = (0..keepers).map(keeper).collect();
            let file = format!("docs/{name}");
            let chosen = duties(&all, copies, &file, &BTreeSet::new());
            prop_assert_eq!(count(&chosen, Duty::Keep), copies.min(all.len()));
            prop_assert_eq!(count(&chosen, Duty::None), 0);
            // Once the chosen ones have the file, no other keeper holds it.
            let chosen: BTreeSet<NodeId> = all.iter().zip(&chosen)
                .filter(|(_, duty)| **duty == Duty::Keep).map(|(it, _)| it.node).collect();
            let later = duties(&all, copies, &file, &chosen);
            prop_assert_eq!(count(&later, Duty::None), all.len() - chosen.len());
        }

        #[test]
        fn next_keeper_takes_the_place_of_an_absent_one_and_the_others_stay(
            keepers in 3_u8..12, gone in 0_u8..12, name in "[a-z]{1,8}",
        ) {
            let all: Vec<Keeper> = (0..keepers).map(keeper).collect();
            let rest: Vec<Keeper> = all.iter().filter(|it| it.node != node(gone)).cloned().collect();
            let file = format!("docs/{name}");
            let chosen = |of: &[Keeper]| -> BTreeSet<NodeId> {
                let duties = duties(of, 2, &file, &BTreeSet::new());
                of.iter().zip(duties).filter(|(_, duty)| *duty == Duty::Keep)
                    .map(|(it, _)| it.node).collect()
            };
            let (before, after) = (chosen(&all), chosen(&rest));
            prop_assert_eq!(after.len(), 2);
            prop_assert!(before.iter().filter(|it| **it != node(gone)).all(|it| after.contains(it)));
        }

        #[test]
        fn no_selection_exceeds_its_budget_and_no_file_is_lost(
            sizes in prop::collection::vec((1_u64..50, 0_u8..4, any::<bool>()), 0..40),
            budget in 0_u64..400,
        ) {
            let all: Vec<KeptCandidate> = sizes.iter().enumerate()
                .map(|(at, (size, author, here))| candidate(at, *size, *author, *here)).collect();
            let (fitting, others) = fit(all.clone(), budget);
            prop_assert!(fitting.iter().map(|it| it.cost_bytes).sum::<u64>() <= budget);
            prop_assert_eq!(fitting.len() + others.len(), all.len());
        }
    }

    fn candidate(at: usize, cost_bytes: u64, author: u8, is_here: bool) -> KeptCandidate {
        KeptCandidate {
            hash: ContentHash::of(&at.to_le_bytes()),
            size_bytes: cost_bytes,
            cost_bytes,
            path: path(&format!("docs/{at:04}")),
            author: node(author),
            is_here,
        }
    }

    #[test]
    fn keeper_without_room_is_replaced_only_for_files_that_it_lacks() {
        let mut all: Vec<Keeper> = (0..4).map(keeper).collect();
        let none = BTreeSet::new();
        let first = duties(&all, 1, "docs/f", &none);
        let first = first.iter().position(|it| *it == Duty::Keep).unwrap();
        all[first].offer.full = true;
        let duties_now = duties(&all, 1, "docs/f", &none);
        // The full one still would, so both do.
        assert_eq!(count(&duties_now, Duty::Keep), 2);
        let has_it = BTreeSet::from([all[first].node]);
        let duties_now = duties(&all, 1, "docs/f", &has_it);
        assert_eq!(count(&duties_now, Duty::Keep), 1);
        assert_eq!(count(&duties_now, Duty::None), 3);
    }

    #[test]
    fn absent_keeper_counts_as_willing_and_not_as_holding() {
        let mut all: Vec<Keeper> = (0..2).map(keeper).collect();
        let first = duties(&all, 1, "docs/f", &BTreeSet::new());
        let first = first.iter().position(|it| *it == Duty::Keep).unwrap();
        all[first].is_live = false;
        all[first].offer.full = true;
        let has_it = BTreeSet::from([all[first].node]);
        assert_eq!(duties(&all, 1, "docs/f", &has_it)[1 - first], Duty::Hold);
    }

    #[test]
    fn keeper_of_everything_comes_first_and_a_keeper_of_other_paths_does_not_count() {
        let mut all: Vec<Keeper> = (0..3).map(keeper).collect();
        all[0].offer.paths = vec![path("photos")];
        all[2].offer.all = true;
        let duties = duties(&all, 1, "docs/f", &BTreeSet::new());
        assert_eq!(duties[1], Duty::Hold);
    }

    #[test]
    fn author_that_changes_its_files_all_the_time_is_fetched_within_a_limit() {
        const BUDGET: u64 = 100 << 20;
        const FILE: u64 = 10 << 20;
        let (begin, mut limits) = (Instant::now(), AuthorLimits::new(BUDGET));
        let mut fetched_bytes = 0;
        for minute in 0..24 * 60 {
            let now = begin + Duration::from_secs(60 * minute);
            let version = candidate(minute as usize, FILE, 1, false);
            for _ in 0..3 {
                // The rounds ask again until the file is here, and it counts once.
                let delayed = limits.delayed(now, &[&version]);
                fetched_bytes += if delayed.is_empty() { FILE } else { 0 };
            }
        }
        let day = 2 * BUDGETS_FETCHED_MAX * BUDGET;
        assert!(fetched_bytes / 3 <= day, "{fetched_bytes}");
        assert!(fetched_bytes / 3 > day / 2);
        let other = candidate(0, FILE, 2, false);
        let end = begin + REFILL_TIME;
        assert!(limits.delayed(end, &[&other]).is_empty());
    }

    #[test]
    fn author_with_many_files_leaves_the_same_room_to_another_one() {
        let mut all: Vec<KeptCandidate> = (0..100).map(|at| candidate(at, 10, 1, true)).collect();
        all.extend((100..105).map(|at| candidate(at, 10, 2, false)));
        let (fitting, others) = fit(all, 200);
        let of_second =
            |all: &[KeptCandidate]| all.iter().filter(|it| it.author == node(2)).count();
        assert_eq!((of_second(&fitting), of_second(&others)), (5, 0));
        assert_eq!(fitting.len(), 20);
    }
}
