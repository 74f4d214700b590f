//! The filesystem against a plain model of it: random operations on the shares of real daemons,
//! after which every mount must come to show what the rules of the merged namespace say.
//!
//! `share` makes the operations on the disk and remembers what it made; `namespace` merges what is
//! remembered by the rules; `mounted` reads a mount. A failure prints its seed and every operation
//! before it; `P2PFS_SEED` runs one seed, `P2PFS_SEEDS` so many.

#[path = "../harness/mod.rs"]
mod harness;
mod mounted;
mod namespace;
mod share;

use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use harness::*;
use namespace::{Namespace, Sharer};
use share::Share;

fn main() {
    run_promises(&[(
        "every_mount_comes_to_show_the_merged_namespace",
        every_mount_shows_the_merged_namespace,
    )]);
}

/// Seeds of a usual run: with [`BATCHES`], half a minute at most.
const SEEDS: u64 = 6;
/// Rounds of operations for each seed; each is waited for.
const BATCHES: usize = 14;
const OPERATIONS_PER_BATCH_MAX: usize = 16;
/// Within two seconds of a change is the promise; a loaded machine gets far more.
const SETTLE_LIMIT: Duration = Duration::from_secs(40);

fn every_mount_shows_the_merged_namespace() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seeds = match number("P2PFS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("P2PFS_SEEDS").unwrap_or(SEEDS),
    };
    seeds.for_each(try_seed);
}

/// Two nodes that change their shares, and one that looks on.
struct World {
    seed: u64,
    random: StdRng,
    nodes: Vec<Node>,
    shares: Vec<Share>,
    keys: Vec<String>,
    told: Vec<String>,
}

fn try_seed(seed: u64) {
    let begun = Instant::now();
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two", "three"]);
    let key = |node: &Node| {
        let status = node.cli(&["status", "--json"]).expect_json();
        status["node"].as_str().unwrap().to_owned()
    };
    let mut world = World {
        seed,
        random: StdRng::seed_from_u64(seed),
        keys: nodes.iter().map(key).collect(),
        shares: nodes[..2]
            .iter()
            .map(|node| Share::new(&node.share))
            .collect(),
        nodes,
        told: vec![],
    };
    let restart_in = world.random.random_range(0..BATCHES);
    for batch in 0..BATCHES {
        world.told.push(format!("-- batch {batch}"));
        world.change_shares(batch == restart_in);
        world.settle();
    }
    println!("seed {seed}: {:.1} s", begun.elapsed().as_secs_f32());
}

impl World {
    fn change_shares(&mut self, with_restart: bool) {
        let stopped = self.random.random_range(0..self.shares.len());
        if with_restart {
            self.told.push(format!("stop {stopped}"));
            self.nodes[stopped].stop();
        }
        for _ in 0..self.random.random_range(1..=OPERATIONS_PER_BATCH_MAX) {
            let at = self.random.random_range(0..self.shares.len());
            let (before, after) = self.shares.split_at_mut(at.max(1));
            let (share, other) = match at {
                0 => (&mut before[0], &after[0]),
                _ => (&mut after[0], &before[0]),
            };
            let done = share.change(other, &mut self.random);
            let Some(done) = done else { continue };
            self.told
                .push(format!("{}: {}", self.nodes[at].name, done.told));
            if done.ends_batch {
                break;
            }
        }
        if with_restart {
            self.nodes[stopped].launch();
        }
    }

    /// Waits until every mount shows what it must.
    fn settle(&mut self) {
        self.shares.iter_mut().for_each(Share::note_directory_times);
        let sharers: Vec<Sharer<'_>> = (self.nodes.iter().zip(&self.shares).zip(&self.keys))
            .map(|((node, share), key)| Sharer {
                name: &node.name,
                key,
                share,
            })
            .collect();
        let merged = namespace::merged(&sharers);
        for node in &self.nodes {
            self.wait_for(node, &node.mount, &merged);
            for sharer in &sharers {
                let own = namespace::of_peer(*sharer);
                let folder = node.mount.join(".p2pfs/peers").join(sharer.name);
                self.wait_for(node, &folder, &own);
            }
        }
    }

    fn wait_for(&self, node: &Node, folder: &Path, expected: &Namespace) {
        let deadline = Instant::now() + SETTLE_LIMIT;
        loop {
            let wrong = mounted::differences(folder, expected);
            if wrong.is_empty() {
                return;
            }
            if Instant::now() > deadline {
                panic!(
                    "seed {}: {} on {} is not as expected:\n{}\nafter:\n{}",
                    self.seed,
                    folder.display(),
                    node.name,
                    wrong.join("\n"),
                    self.told.join("\n")
                );
            }
            std::thread::park_timeout(Duration::from_millis(30));
        }
    }
}
