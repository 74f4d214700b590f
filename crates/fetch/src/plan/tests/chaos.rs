//! Benches with arbitrary faults, each from its seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::bench::{Bench, Reader};
use super::peers::{Death, SimPeer};
use super::{MIB, page};
use crate::plan::RangeRequest;
use p2pfs_types::extent::{ByteRange, ExtentSet, PAGE_BYTES};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Returns a bench in which all peers but one may have any fault.
fn chaotic(seed: u64) -> Bench {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut bench = Bench::new(seed);
    let size = rng.random_range(1..24 * MIB);
    let mut listed = Vec::new();
    for number in 1..rng.random_range(2..6) {
        let mut peer = SimPeer::new(
            rng.random_range(0..80),
            10f64.powf(rng.random_range(5.5..8.5)),
        );
        let after = rng.random_range(0..1500);
        match rng.random_range(0..8) {
            0 => peer = peer.dying(after, Death::Reset),
            1 => peer = peer.dying(after, Death::Silence),
            2 => peer.lies = true,
            3 => peer.gone = true,
            4 => peer.offers = Some(ExtentSet::of(ByteRange::new(0, size / 131072 * 65536))),
            5 => {
                for _ in 0..rng.random_range(1..4) {
                    let from = ms(rng.random_range(0..3000));
                    peer.pauses.push((from, ms(rng.random_range(50..900))));
                }
            }
            _ => {}
        }
        let offers = peer.offers.is_some();
        let name = bench.peer(number, peer);
        if !offers {
            listed.push(name);
        }
    }
    listed.push(bench.peer(99, SimPeer::new(rng.random_range(0..50), 20e6)));
    let content = bench.file(1, size, &listed);
    for _ in 0..rng.random_range(1..4) {
        let reader = match rng.random_range(0..10) {
            0..4 => Reader::sequential(content, size),
            4..6 => Reader::in_reads_of(rng.random_range(1..9) * MIB, content, size),
            _ => {
                let whole = size.div_ceil(PAGE_BYTES);
                let pages = (0..100).map(|_| page(rng.random_range(0..whole)));
                let cut = |range: ByteRange| range.intersection(&ByteRange::new(0, size));
                Reader::new(content, pages.map(cut).collect())
            }
        };
        bench.read(reader);
    }
    bench
}

#[test]
fn every_reader_gets_every_byte_while_one_honest_holder_lives() {
    for seed in 0..600 {
        let mut bench = chaotic(seed);
        bench.run(Duration::from_secs(120));
        for reader in &bench.readers {
            assert!(reader.done_at.is_some(), "seed {seed}: not done");
            assert!(reader.errors.is_empty(), "seed {seed}: {:?}", reader.errors);
            assert!(reader.longest_wait <= Duration::from_secs(3), "seed {seed}");
        }
        let served: u64 = bench.peers.values().map(|p| p.served_bytes).sum();
        let content = bench.readers[0].content;
        let size = bench
            .plan
            .state
            .files
            .ready_bytes(&content)
            .unwrap_or_default();
        assert!(
            served <= size + size / 4 + 4 * MIB,
            "seed {seed}: {served} served for {size}"
        );
    }
}

#[test]
fn one_seed_gives_one_reproducible_run() {
    let trace = |seed| {
        let mut bench = chaotic(seed);
        bench.run(Duration::from_secs(120));
        let place = |r: &RangeRequest| (r.id, r.node, r.range);
        (
            bench.requests.iter().map(place).collect::<Vec<_>>(),
            bench.now - bench.start,
        )
    };
    for seed in [3, 17, 99] {
        assert_eq!(trace(seed), trace(seed));
    }
}
