//! Promises over a long time and many repetitions, with real daemons and a real mount:
//! `cargo bench --bench endurance`. Each trial prints a row with its goal.
//!
//! All trials run on loopback, as root in a separate network namespace, so that all counted packets
//! are from this bench.
//!
//! | setting | meaning | default |
//! |---|---|---|
//! | `P2PFS_BENCH_SIGNALS` | interrupted readers of each kind | 1000 |
//! | `P2PFS_BENCH_CALLS` | minimum number of metadata calls of each kind | 10000 |
//! | `P2PFS_BENCH_ENTRIES` | names in the listed directory | 100000 |
//! | `P2PFS_BENCH_NAMES` | names that a daemon knows, separated by commas | 100000,1000000 |
//! | `P2PFS_BENCH_HANDLES` | open files that are read concurrently | 500 |
//! | `P2PFS_BENCH_ONLY` | trials to run, of `signals,metadata,listing,names,handles` | all |

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
    let mut version = support::process::program();
    let version = support::process::run(version.arg("--version"));
    print!("{}", version.expect_ok());
    table::head();
    let only = std::env::var("P2PFS_BENCH_ONLY").unwrap_or_default();
    for (name, trial) in TRIALS {
        if only.is_empty() || only.split(',').any(|wanted| wanted == name) {
            trial();
        }
    }
}

/// Reads a number from the environment.
fn setting(name: &str, otherwise: usize) -> usize {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}
