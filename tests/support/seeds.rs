//! Runs a promise with many seeds.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Returns the number of seeds: `default`, times `P2PFS_SEEDS` percent.
fn wanted(default: u64) -> u64 {
    let asked = std::env::var("P2PFS_SEEDS").ok();
    let percent: Option<u64> = asked.and_then(|text| text.parse().ok());
    percent.map_or(default, |percent| (default * percent / 100).max(1))
}

/// Runs a promise with many seeds, and names the seed that fails. `P2PFS_SEED` runs only one.
pub(crate) fn each_seed(default: u64, promise: impl Fn(u64)) {
    let one: Option<u64> = std::env::var("P2PFS_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seeds = one.map_or(0..wanted(default), |seed| seed..seed + 1);
    for seed in seeds {
        if let Err(why) = catch_unwind(AssertUnwindSafe(|| promise(seed))) {
            eprintln!("broken with seed {seed}: P2PFS_SEED={seed} replays it");
            resume_unwind(why);
        }
    }
}
