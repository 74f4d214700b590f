//! What holds for a long time and many times over, with real daemons and a real mount:
//! `cargo bench --bench endurance`. Each trial prints a row with its goal.
//!
//! All of it runs on loopback, in a network namespace of its own where that can be had (as root),
//! so that the packets that are counted are ours.
//!
//! | setting | of what | default |
//! |---|---|---|
//! | `P2PFS_BENCH_SIGNALS` | interrupted readers of each kind | 1000 |
//! | `P2PFS_BENCH_CALLS` | calls of each kind on metadata, at least | 10000 |
//! | `P2PFS_BENCH_ENTRIES` | names in the directory that is listed | 100000 |
//! | `P2PFS_BENCH_NAMES` | names that a daemon knows, with commas between | 100000,1000000 |
//! | `P2PFS_BENCH_HANDLES` | open files that are read at once | 500 |
//! | `P2PFS_BENCH_ONLY` | of `signals,metadata,listing,names,handles` those to do | all |

#[path = "../versus/figures.rs"]
#[allow(dead_code, reason = "other benches use the rest")]
mod figures;
mod listing;
mod memory;
mod metadata;
mod signals;
#[path = "../../tests/support/mod.rs"]
mod support;
mod table;

const TRIALS: [(&str, fn()); 5] = [
    ("signals", signals::run),
    ("metadata", metadata::run),
    ("listing", listing::run),
    ("names", memory::names),
    ("handles", memory::handles),
];

fn main() {
    if let Some(obstacle) = support::promise::mount() {
        println!("SKIPPED, nothing measured: {obstacle}");
        return;
    }
    if let Err(error) = listing::enter_own_network() {
        println!("packets of others are counted, too: no network of our own ({error})");
    }
    table::head();
    let only = std::env::var("P2PFS_BENCH_ONLY").unwrap_or_default();
    for (name, trial) in TRIALS {
        if only.is_empty() || only.split(',').any(|wanted| wanted == name) {
            trial();
        }
    }
}

/// A number from the environment.
fn setting(name: &str, otherwise: usize) -> usize {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}
