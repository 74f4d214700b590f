//! An ordered set of small elements in sorted runs. A million of them take little more than their
//! own bytes, whereas a tree keeps its nodes half empty.

/// Maximum elements of a run. Inserting or removing one moves at most this many.
const RUN_MAX: usize = 256;

/// Elements in ascending order, each once.
pub(super) struct Runs<T> {
    /// Runs, none of them empty.
    runs: Vec<Vec<T>>,
}

impl<T: Ord + Copy> Runs<T> {
    pub(super) const fn new() -> Self {
        Self { runs: Vec::new() }
    }

    pub(super) fn insert(&mut self, element: T) {
        let number = self.run_of(&element);
        let Some(run) = self.runs.get_mut(number) else {
            return self.append(element);
        };
        let Err(mut at) = run.binary_search(&element) else {
            return;
        };
        if run.len() < RUN_MAX {
            return put(run, at, element);
        }
        let mut upper = run.split_off(RUN_MAX / 2);
        run.shrink_to_fit();
        if at <= run.len() {
            put(run, at, element);
        } else {
            at -= run.len();
            put(&mut upper, at, element);
        }
        self.runs.insert(number + 1, upper);
    }

    pub(super) fn remove(&mut self, element: &T) {
        let number = self.run_of(element);
        let Some(run) = self.runs.get_mut(number) else {
            return;
        };
        let Ok(at) = run.binary_search(element) else {
            return;
        };
        run.remove(at);
        self.mend(number);
    }

    /// Returns the elements from `first` on, ascending.
    pub(super) fn from(&self, first: T) -> impl Iterator<Item = T> + '_ {
        let number = self.run_of(&first);
        let runs = self.runs.get(number..).unwrap_or_default();
        let skip = runs
            .first()
            .map_or(0, |run| run.partition_point(|element| *element < first));
        runs.iter().flatten().skip(skip).copied()
    }

    /// Returns the run that contains an element, or would.
    fn run_of(&self, element: &T) -> usize {
        self.runs
            .partition_point(|run| run.last().is_some_and(|last| last < element))
    }

    /// Appends an element above all others. Insertion in order leaves full runs behind.
    fn append(&mut self, element: T) {
        match self.runs.last_mut() {
            Some(run) if run.len() < RUN_MAX => put(run, run.len(), element),
            _ => self.runs.push(vec![element]),
        }
    }

    /// Removes the run if it is empty. Joins it with its successor if both together are small.
    fn mend(&mut self, number: usize) {
        if self.runs[number].is_empty() {
            self.runs.remove(number);
            return;
        }
        let Some(next) = self.runs.get(number + 1) else {
            return;
        };
        if self.runs[number].len() + next.len() <= RUN_MAX / 2 {
            let next = self.runs.remove(number + 1);
            self.runs[number].extend(next);
        }
    }
}

fn put<T>(run: &mut Vec<T>, at: usize, element: T) {
    // grow by an eighth, because doubling would leave much of it unused
    if run.len() == run.capacity() {
        run.reserve_exact((run.len() / 8).max(8));
    }
    run.insert(at, element);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sorted_input_wastes_no_space() {
        let mut runs = Runs::new();
        (0..100 * RUN_MAX).for_each(|number| runs.insert(number));
        let room: usize = runs.runs.iter().map(Vec::capacity).sum();
        assert!(room <= 100 * RUN_MAX * 9 / 8, "{room}");
        assert!(runs.from(0).eq(0..100 * RUN_MAX));
    }

    proptest! {
        #[test]
        fn runs_are_a_sorted_set(
            changes in proptest::collection::vec((any::<bool>(), 0u16..2000), 0..3000),
            first in 0u16..2100,
        ) {
            let (mut runs, mut model) = (Runs::new(), BTreeSet::new());
            // enough for several runs, whatever the random choice
            for number in (0..2000).step_by(2) {
                runs.insert(number);
                model.insert(number);
            }
            for (comes, number) in changes {
                if comes {
                    runs.insert(number);
                    model.insert(number);
                } else {
                    runs.remove(&number);
                    model.remove(&number);
                }
            }
            prop_assert!(runs.from(first).eq(model.range(first..).copied()));
            prop_assert!(runs.runs.iter().all(|run| (1..=RUN_MAX).contains(&run.len())));
        }
    }
}
