//! An ordered set in sorted runs. Copies share the runs that did not change since. Runs that were
//! filled in order are full, while a tree keeps its nodes half empty.

use equivalent::Comparable;
use imbl::Vector;
use triomphe::Arc;

/// Maximum elements of a run. An insertion or a removal copies about this many at most.
const RUN_MAX: usize = 64;

/// Elements in ascending order, each once.
#[derive(Clone, Debug)]
pub(super) struct SortedSet<T> {
    /// Sorted runs. No run is empty.
    runs: Vector<Arc<Vec<T>>>,
}

impl<T: Ord + Clone> SortedSet<T> {
    pub(crate) fn new() -> Self {
        Self {
            runs: Vector::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(crate) fn get(&self, key: &impl Comparable<T>) -> Option<&T> {
        let run = self.runs.get(self.run_of(key))?;
        let at = run.binary_search_by(|element| key.compare(element).reverse());
        at.ok().map(|at| &run[at])
    }

    pub(crate) fn contains(&self, key: &impl Comparable<T>) -> bool {
        self.get(key).is_some()
    }

    /// Inserts an element. It replaces an equal one.
    pub(crate) fn insert(&mut self, element: T) {
        let number = self.run_of(&element);
        let Some(run) = self.runs.get(number) else {
            return self.insert_between(number, element);
        };
        match run.binary_search(&element) {
            Ok(at) => self.run_mut(number)[at] = element,
            Err(at) if run.len() < RUN_MAX => put(self.run_mut(number), at, element),
            // Elements inserted in order, from either end, leave full runs behind.
            Err(0) => self.insert_between(number, element),
            Err(at) => self.split_around(number, at, element),
        }
    }

    /// Removes the equal element, if there is one.
    pub(crate) fn remove(&mut self, key: &impl Comparable<T>) {
        let number = self.run_of(key);
        let Some(run) = self.runs.get(number) else {
            return;
        };
        if let Ok(at) = run.binary_search_by(|element| key.compare(element).reverse()) {
            self.run_mut(number).remove(at);
            self.mend(number);
        }
    }

    /// Returns all elements, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.runs.iter().flat_map(|run| run.iter())
    }

    /// Returns the elements from a position on, ascending.
    pub(crate) fn from<K: Comparable<T>>(
        &self,
        place: &K,
    ) -> impl Iterator<Item = &T> + use<'_, T, K> {
        let number = self.run_of(place);
        let first = self.runs.get(number);
        let skipped = first.map_or(0, |run| {
            run.partition_point(|element| place.compare(element).is_gt())
        });
        let runs = (number..self.runs.len()).map(|number| &self.runs[number]);
        runs.flat_map(|run| run.iter()).skip(skipped)
    }

    /// Returns the last element before a position.
    pub(crate) fn last_before(&self, place: &impl Comparable<T>) -> Option<&T> {
        let number = self.run_of(place);
        let before = |run: &Arc<Vec<T>>| run.partition_point(|it| place.compare(it).is_gt());
        let (number, length) = match self.runs.get(number).map(before) {
            None | Some(0) => {
                let number = number.checked_sub(1)?;
                (number, self.runs[number].len())
            }
            Some(length) => (number, length),
        };
        self.runs[number].get(length - 1)
    }

    /// Returns the index of the run for an element: the first run with a last element not below
    /// it.
    fn run_of(&self, key: &impl Comparable<T>) -> usize {
        let (mut from, mut to) = (0, self.runs.len());
        while from < to {
            let middle = from.midpoint(to);
            let last = self.runs[middle].last();
            if last.is_some_and(|last| key.compare(last).is_gt()) {
                from = middle + 1
            } else {
                to = middle
            }
        }
        from
    }

    fn run_mut(&mut self, number: usize) -> &mut Vec<T> {
        Arc::make_mut(&mut self.runs[number])
    }

    /// Inserts an element between two runs. It is above all runs before `number` and below all
    /// others.
    fn insert_between(&mut self, number: usize, element: T) {
        match number.checked_sub(1) {
            Some(before) if self.runs[before].len() < RUN_MAX => {
                let run = self.run_mut(before);
                put(run, run.len(), element);
            }
            _ => self.runs.insert(number, Arc::new(vec![element])),
        }
    }

    fn split_around(&mut self, number: usize, at: usize, element: T) {
        let run = self.run_mut(number);
        let mut upper = run.split_off(RUN_MAX / 2);
        run.shrink_to_fit();
        match at.checked_sub(run.len()) {
            Some(at) if at > 0 => put(&mut upper, at, element),
            _ => put(run, at, element),
        }
        self.runs.insert(number + 1, Arc::new(upper));
    }

    /// Drops a run that became empty. Joins a run with the next one if they fill half a run
    /// together at most.
    fn mend(&mut self, number: usize) {
        let length = self.runs[number].len();
        if length == 0 {
            self.runs.remove(number);
            return;
        }
        let next = self.runs.get(number + 1);
        if next.is_some_and(|next| length + next.len() <= RUN_MAX / 2) {
            let next = self.runs.remove(number + 1);
            self.run_mut(number).extend(next.iter().cloned());
        }
    }
}

fn put<T>(run: &mut Vec<T>, at: usize, element: T) {
    // The capacity grows by an eighth at a time, because doubling would leave much of it unused.
    if run.len() == run.capacity() {
        run.reserve_exact((run.len() / 8).max(4));
    }
    run.insert(at, element);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn filled(numbers: impl Iterator<Item = u32>) -> SortedSet<u32> {
        let mut set = SortedSet::new();
        numbers.for_each(|number| set.insert(number));
        set
    }

    #[test]
    fn sorted_input_from_either_end_leaves_full_runs() {
        let many = 100 * RUN_MAX as u32;
        for set in [filled(0..many), filled((0..many).rev())] {
            assert!(set.iter().copied().eq(0..many));
            assert_eq!(set.runs.len(), 100);
            let room: usize = set.runs.iter().map(|run| run.capacity()).sum();
            assert!(room <= 100 * RUN_MAX * 9 / 8, "{room}");
        }
    }

    #[test]
    fn a_copy_shares_all_unchanged_runs() {
        let before = filled((0..100 * RUN_MAX as u32).map(|number| number * 2));
        let mut after = before.clone();
        after.insert(777);
        let of_before: BTreeSet<_> = before.runs.iter().map(Arc::as_ptr).collect();
        let own = after.runs.iter();
        let own = own.filter(|run| !of_before.contains(&Arc::as_ptr(run)));
        assert!(own.count() <= 2);
        assert!(!before.contains(&777) && after.contains(&777));
    }

    proptest! {
        #[test]
        fn it_behaves_as_a_sorted_set_with_unchanging_copies(
            changes in proptest::collection::vec((any::<bool>(), 0u32..1000), 0..2000),
            place in 0u32..1100,
        ) {
            let mut set = filled((0..1000).step_by(2));
            let mut model: BTreeSet<u32> = (0..1000).step_by(2).collect();
            let copy = set.clone();
            for (comes, number) in changes {
                if comes {
                    set.insert(number);
                    model.insert(number);
                } else {
                    set.remove(&number);
                    model.remove(&number);
                }
            }
            prop_assert!(set.iter().eq(model.iter()));
            prop_assert!(set.from(&place).eq(model.range(place..)));
            prop_assert_eq!(set.last_before(&place), model.range(..place).next_back());
            prop_assert_eq!(set.get(&place), model.get(&place));
            prop_assert_eq!(set.is_empty(), model.is_empty());
            prop_assert!(set.runs.iter().all(|run| (1..=RUN_MAX).contains(&run.len())));
            prop_assert!(copy.iter().copied().eq((0..1000).step_by(2)));
        }
    }
}
