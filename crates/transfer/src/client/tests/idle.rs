//! Files that are closed between their opening and their use.

use std::sync::atomic::AtomicBool;
use std::thread;

use super::*;

/// Runs a function while another thread closes all idle files and evicts them from the cache.
fn beside_closing<R>(scene: &Scene, run: impl FnOnce() -> R) -> R {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                scene.fetcher.close_idle();
                scene.cache.cache.clear();
            }
        });
        let result = run();
        is_over.store(true, Ordering::Relaxed);
        result
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_read_during_the_clearing_of_the_cache_gets_its_bytes() {
    let content = Content::new(1, 20_000);
    let scene = scene(&content, 1 << 30, &[Manner::Honest]);
    let whole = ByteRange::new(0, content.size());
    let failed = tokio::task::block_in_place(|| {
        beside_closing(&scene, || {
            let reads = (0..3000).map(|_| read_now(&scene.fetcher, &content, whole));
            reads.filter_map(Result::err).collect::<Vec<_>>()
        })
    });
    assert!(failed.is_empty(), "{} failed: {}", failed.len(), failed[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_fills_of_one_file_complete_while_the_cache_is_cleared() {
    let content = Content::new(1, 20_000);
    for clears in [false, true] {
        let scene = scene(&content, 1 << 30, &[Manner::Honest]);
        let runtime = tokio::runtime::Handle::current();
        let fill_often = || {
            let mut failed = Vec::new();
            for _ in 0..1000 {
                let fills = [(); 2].map(|()| scene.fetcher.fill(content.hash(), content.size()));
                for fill in fills {
                    failed.extend(runtime.block_on(fill.done()).err());
                }
                scene.fetcher.close_idle();
                scene.cache.cache.clear();
            }
            failed
        };
        let failed = tokio::task::block_in_place(|| {
            if clears {
                beside_closing(&scene, fill_often)
            } else {
                fill_often()
            }
        });
        assert!(failed.is_empty(), "{} failed: {}", failed.len(), failed[0]);
    }
}
