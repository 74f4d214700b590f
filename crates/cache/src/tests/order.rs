//! Order in which files are evicted.

use std::fs;
use std::ops::ControlFlow;
use std::time::{Duration, SystemTime};

use super::*;
use crate::cost_bytes;
use crate::layout::Layout;

fn hashes(cache: &Cache) -> Vec<ContentHash> {
    cache.list().into_iter().map(|line| line.hash).collect()
}

#[test]
fn a_check_does_not_count_as_a_use() {
    for size in [10_000, 150_000] {
        let place = Place::new(7 * cost_bytes(size as u64));
        let sources: Vec<_> = (0..8).map(|seed| Source::new(seed, size)).collect();
        let (cache, _events) = place.open();
        sources[..7]
            .iter()
            .for_each(|source| assert_eq!(fill(&cache, source), Stored::Kept));
        drop(cache);
        let layout = Layout {
            dir: place.cache_dir(),
        };
        for (age, source) in (1..).zip(&sources[..7]) {
            let paths = layout.paths(&source.hash());
            let dated = fs::File::open(paths.map).or_else(|_| fs::File::open(paths.data));
            let time = SystemTime::now() - Duration::from_secs(60 * age);
            dated.unwrap().set_modified(time).unwrap();
        }
        fs::remove_file(layout.clean()).unwrap();
        let (cache, _events) = place.open();
        let mut order: Vec<_> = sources[..7].iter().rev().map(Source::hash).collect();
        assert_eq!(hashes(&cache), order);
        cache.verify_unverified(|_| {
            // A reader opens a file that may or may not have been checked.
            drop(cache.existing(&order[3]).unwrap());
            ControlFlow::Continue(())
        });
        assert!(cache.unverified().is_empty());
        let used = order.remove(3);
        order.push(used);
        assert_eq!(hashes(&cache), order);
        drop(cache);
        let (cache, events) = place.open();
        assert_eq!(hashes(&cache), order, "at the next start too");
        cache.verify(|_| ControlFlow::Continue(()));
        fill(&cache, &sources[7]);
        let evicted = CacheEvent::Evicted {
            hash: order[0],
            was_complete: true,
        };
        assert_eq!(events.try_iter().next(), Some(evicted));
        order.remove(0);
        order.push(sources[7].hash());
        assert_eq!(hashes(&cache), order);
    }
}
