//! Bytes on disk that the disk fails to return.

use std::fs::{self, File};
use std::ops::ControlFlow;

use super::*;
use crate::content_files::{ContentFiles, Descriptors};
use crate::file::OpenFileState;
use crate::flush::MapState;
use crate::layout::{Layout, load};
use crate::opening::{ClaimOutcome, ClaimedHash};
use p2pfs_types::pool::PiecePool;

#[test]
fn an_unreadable_block_is_found_by_a_check_and_by_a_read() {
    for by_check in [true, false] {
        let place = Place::new(1 << 20);
        let (cache, events) = place.open();
        let source = Source::new(1, 200_000);
        assert_eq!(fill(&cache, &source), Stored::Kept);
        let layout = Layout {
            dir: place.cache_dir(),
        };
        let (hash, core) = (source.hash(), cache.core());
        let paths = layout.paths(&hash);
        let map = load(&paths, &hash, core.context.boot).unwrap().unwrap();
        let descriptors = Descriptors {
            // Every read of the file fails.
            data: fs::OpenOptions::new()
                .write(true)
                .open(&paths.data)
                .unwrap(),
            outboard: Some(File::open(&paths.outboard).unwrap()),
        };
        let charge_bytes = cache.usage().used_bytes;
        let state = MapState::of(&map);
        let files = ContentFiles::new(hash, source.size(), paths, Some(descriptors));
        let shared = OpenFileState::new(files, map, state, charge_bytes);
        let ClaimOutcome::Closed(claimed, entry) = ClaimedHash::claim(core, hash) else {
            panic!("the file is closed");
        };
        let open = claimed.publish(shared, entry);
        let _before = events.try_iter().count();
        if by_check {
            let report = cache.verify(|_| ControlFlow::Continue(()));
            assert_eq!(report.dropped_bytes, source.size());
        } else {
            let asked = cache.existing(&hash).unwrap().unwrap();
            let answer = asked.encode(source.whole(), &PiecePool::default());
            assert!(
                matches!(answer, Err(CacheError::Damaged { .. })),
                "{answer:?}"
            );
        }
        assert!(!cache.is_complete(&hash) && cache.cached_bytes(&hash) == 0);
        let told: Vec<_> = events.try_iter().collect();
        let is_loss = |event: &CacheEvent| {
            matches!(
                event,
                CacheEvent::Dropped {
                    was_complete: true,
                    ..
                }
            )
        };
        assert_eq!(
            told.iter().filter(|event| is_loss(event)).count(),
            1,
            "{told:?}"
        );
        drop(open);
    }
}
