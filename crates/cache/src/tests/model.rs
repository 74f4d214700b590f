//! Random work on a cache, compared with a simple model of the pages that must be present.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use p2pfs_types::pool::PiecePool;

const SIZES: [usize; 5] = [3_000, 65_536, 70_001, 250_000, 8_192];

#[derive(Clone, Debug)]
enum Step {
    Open(usize),
    Close(usize),
    Store(usize, f64, f64),
    Read(usize, f64, f64),
    Prove(usize, f64),
    Pin(usize, bool),
    Resize(u64),
    Clear,
    Flush,
    Sync(usize),
    Restart { reboot: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let file = 0..SIZES.len();
    prop_oneof![
        3 => file.clone().prop_map(Step::Open),
        3 => file.clone().prop_map(Step::Close),
        9 => (file.clone(), 0.0..1.0, 0.0..1.0).prop_map(|(n, a, b)| Step::Store(n, a, b)),
        5 => (file.clone(), 0.0..1.0, 0.0..1.0).prop_map(|(n, a, b)| Step::Read(n, a, b)),
        2 => (file.clone(), 0.0..1.0).prop_map(|(n, a)| Step::Prove(n, a)),
        2 => (file.clone(), any::<bool>()).prop_map(|(n, pinned)| Step::Pin(n, pinned)),
        1 => (0u64..600_000).prop_map(Step::Resize),
        1 => Just(Step::Clear),
        1 => Just(Step::Flush),
        1 => file.prop_map(Step::Sync),
        1 => any::<bool>().prop_map(|reboot| Step::Restart { reboot }),
    ]
}

fn range_of(size: u64, a: f64, b: f64) -> ByteRange {
    let (a, b) = ((a * size as f64) as u64, (b * size as f64) as u64);
    ByteRange::new(a.min(b), a.max(b) + 1)
}

/// A cache and its expected content.
struct Pair<'a> {
    place: Place,
    sources: &'a [Source],
    cache: Option<(Cache, Receiver<CacheEvent>)>,
    open: BTreeMap<usize, CacheFile>,
    pages: BTreeMap<usize, BTreeSet<u64>>,
    pins: BTreeSet<ContentHash>,
    boots: u64,
}

impl<'a> Pair<'a> {
    fn new(sources: &'a [Source]) -> Self {
        let place = Place::new(400_000);
        let cache = Some(place.open());
        let (open, pages, pins) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self {
            place,
            sources,
            cache,
            open,
            pages,
            pins,
            boots: 0,
        }
    }

    fn cache(&self) -> &Cache {
        &self.cache.as_ref().unwrap().0
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Open(n) => {
                let file = open_file(self.cache(), &self.sources[n]);
                self.open.insert(n, file);
            }
            Step::Close(n) => drop(self.open.remove(&n)),
            Step::Store(n, a, b) => self.store(n, a, b),
            Step::Read(n, a, b) => self.read(n, a, b),
            Step::Prove(n, a) => self.prove(n, a),
            Step::Pin(n, pinned) => self.pin(n, pinned),
            Step::Resize(budget_bytes) => {
                self.place.budget_bytes = budget_bytes;
                self.cache().resize(budget_bytes);
            }
            Step::Clear => drop(self.cache().clear()),
            Step::Flush => self.cache().flush(),
            Step::Sync(n) => {
                if let Some(file) = self.open.get(&n) {
                    file.shared().sync(&self.cache().core().context).unwrap();
                }
            }
            Step::Restart { reboot } => self.restart(reboot),
        }
        self.follow_evictions(false);
        self.compare();
    }

    fn store(&mut self, n: usize, a: f64, b: f64) {
        let Some(file) = self.open.get(&n) else {
            return;
        };
        let source = &self.sources[n];
        let range = range_of(source.size(), a, b);
        let whole = range
            .align_out(1024, source.size())
            .align_in(PAGE_BYTES, source.size());
        if source.store(file, range) == Stored::Kept {
            let pages = whole.start / PAGE_BYTES..whole.end.div_ceil(PAGE_BYTES);
            self.pages.entry(n).or_default().extend(pages);
        }
    }

    fn read(&self, n: usize, a: f64, b: f64) {
        let Some(file) = self.open.get(&n) else {
            return;
        };
        let source = &self.sources[n];
        let range = range_of(source.size(), a, b);
        let mut buffer = vec![0; range.len() as usize];
        let pages = range.start / PAGE_BYTES..range.end.div_ceil(PAGE_BYTES);
        let none = BTreeSet::new();
        let held = self.pages.get(&n).unwrap_or(&none);
        match file.read_at(range.start, &mut buffer).unwrap() {
            ReadOutcome::Ready(length) => {
                assert_eq!(length as u64, range.len());
                assert_eq!(
                    buffer,
                    source.data[range.start as usize..range.end as usize]
                );
                assert!(pages.clone().all(|page| held.contains(&page)));
            }
            ReadOutcome::Missing(gap) => {
                let first = pages.clone().find(|page| !held.contains(page));
                assert_eq!(first, Some(gap.start / PAGE_BYTES));
            }
        }
    }

    fn prove(&self, n: usize, a: f64) {
        let Some(file) = self.open.get(&n) else {
            return;
        };
        let source = &self.sources[n];
        let range = range_of(source.size(), a, a);
        let chunk = range.align_out(65_536, source.size());
        match file.encode(range, &PiecePool::default()) {
            Ok(proof) => {
                assert!(digest::decode(source.hash(), source.size(), range, proof).is_ok());
                assert!(file.offered().contains(chunk));
            }
            Err(CacheError::NotCached { .. }) => assert!(!file.offered().contains(chunk)),
            Err(error) => panic!("{error}"),
        }
    }

    fn pin(&mut self, n: usize, pinned: bool) {
        let hash = self.sources[n].hash();
        pin(self.cache(), hash, pinned).unwrap();
        if pinned {
            self.pins.insert(hash);
        } else {
            self.pins.remove(&hash);
        }
    }

    /// Closes and opens the cache. In another boot, pages that are neither synced nor in a complete
    /// chunk may be lost. The model then takes over the present pages, after they were compared
    /// with the true content.
    fn restart(&mut self, reboot: bool) {
        self.open.clear();
        self.follow_evictions(false);
        drop(self.cache.take());
        if reboot {
            self.boots += 1;
            self.place.boot = ["second", "third"][self.boots as usize % 2];
        }
        self.cache = Some(self.place.open());
        self.follow_evictions(reboot);
        if !reboot {
            return;
        }
        self.cache().verify(|_| std::ops::ControlFlow::Continue(()));
        for (n, source) in self.sources.iter().enumerate() {
            let Some(file) = self.cache().existing(&source.hash()).unwrap() else {
                self.pages.remove(&n);
                continue;
            };
            source.check_all(&file);
            let kept: BTreeSet<u64> = file
                .present()
                .iter()
                .flat_map(|run| run.start / PAGE_BYTES..run.end.div_ceil(PAGE_BYTES))
                .collect();
            let before = self.pages.insert(n, kept.clone()).unwrap_or_default();
            assert!(kept.is_subset(&before), "pages out of nothing");
        }
    }

    fn follow_evictions(&mut self, rebooted: bool) {
        let Some((_, events)) = &self.cache else {
            return;
        };
        for event in events.try_iter() {
            match event {
                CacheEvent::Evicted { hash, .. } => {
                    let n = self
                        .sources
                        .iter()
                        .position(|source| source.hash() == hash)
                        .unwrap();
                    // After a power cut, possibly nothing of a file is usable.
                    assert!(!self.open.contains_key(&n));
                    assert!(rebooted || !self.pins.contains(&hash));
                    self.pages.remove(&n);
                }
                CacheEvent::Completed { .. } => {}
                event => panic!("{event:?}"),
            }
        }
    }

    fn compare(&self) {
        let usage = self.cache().usage();
        let files = self.cache().list();
        let pinned = files.iter().filter(|file| file.pinned);
        let counted = (usage.files, usage.complete_files, usage.pinned_bytes);
        let walked = (
            files.len(),
            files.iter().filter(|file| file.complete).count(),
            pinned.map(|file| file.cached_bytes).sum::<u64>(),
        );
        assert_eq!(counted, walked, "what is counted is what there is");
        for (n, source) in self.sources.iter().enumerate() {
            let size = source.size();
            let length = |page: &u64| (size - page * PAGE_BYTES).min(PAGE_BYTES);
            let held: u64 = self.pages.get(&n).into_iter().flatten().map(length).sum();
            assert_eq!(self.cache().cached_bytes(&source.hash()), held, "file {n}");
            assert_eq!(self.cache().is_complete(&source.hash()), held == size);
            assert_eq!(
                self.cache().is_pinned(&source.hash()),
                self.pins.contains(&source.hash())
            );
        }
        assert!(
            self.place.taken_bytes() <= usage.used_bytes,
            "uncounted bytes"
        );
        let held_back = usage.used_bytes - usage.evictable_bytes;
        assert!(
            usage.used_bytes <= usage.budget_bytes.max(held_back),
            "over the budget"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_cache_holds_what_was_stored_until_it_says_otherwise(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let numbered = (7..).zip(SIZES);
        let sources: Vec<_> = numbered.map(|(seed, size)| Source::new(seed, size)).collect();
        let mut pair = Pair::new(&sources);
        steps.into_iter().for_each(|step| pair.take(step));
    }
}
