//! The filesystem against a simulated kernel that caches everything for ever. The namespace and own
//! files change at random, notifications arrive late and in parts, and lookups, listings, opens,
//! reads and forgets run in between.
//!
//! After the last notification, a cached answer must equal a fresh one. Because of this, names can
//! be cached for a minute and are never stale. A failure prints its seed and every step.
//! `P2PFS_SEED` runs one seed, `P2PFS_SEEDS` sets the number of seeds, `P2PFS_STEPS` the number of
//! steps.

mod kernel;
mod numbers;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use p2pfs_fs::{DEFAULT_MASK, Filesystem, Options, ROOT_INO};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use kernel::Kernel;
use world::{CONTENTS, Told, World};

/// Number of seeds in a usual run, which takes some seconds.
const SEEDS: u64 = 600;
const STEPS: u64 = 120;

#[test]
fn the_kernels_caches_are_never_stale_after_a_notification() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seeds = match number("P2PFS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("P2PFS_SEEDS").unwrap_or(SEEDS),
    };
    let steps = number("P2PFS_STEPS").unwrap_or(STEPS);
    for seed in seeds {
        let mut trial = Trial::new(seed);
        let tried = catch_unwind(AssertUnwindSafe(|| trial.run(steps)));
        if let Err(why) = tried {
            println!("seed {seed}, after:\n{}", trial.steps.join("\n"));
            std::panic::resume_unwind(why);
        }
    }
}

#[test]
fn names_are_cached_for_a_minute_and_own_files_and_hidden_names_for_a_second_at_most() {
    let world = World::new();
    let random = &mut StdRng::seed_from_u64(1);
    world.put_one_of_each(random);
    let fs = Filesystem::new(world.clone(), options());
    let lifetimes = |parent, name: &str| {
        let entry = fs.inodes.lookup(parent, name.as_bytes(), 0).unwrap();
        (
            entry.lifetime.as_secs(),
            entry.attributes.lifetime.as_secs(),
        )
    };
    assert_eq!(lifetimes(ROOT_INO, "theirs"), (60, 60));
    assert_eq!(fs.inodes.absence_lifetime(ROOT_INO).as_secs(), 60);
    assert_eq!(lifetimes(ROOT_INO, "own"), (60, 0));
    assert_eq!(lifetimes(ROOT_INO, ".p2pfs"), (0, 0));
    let hidden = fs
        .inodes
        .lookup(ROOT_INO, b".p2pfs", 0)
        .unwrap()
        .attributes
        .ino;
    assert_eq!(lifetimes(hidden, "peers"), (0, 0));
    assert_eq!(fs.inodes.absence_lifetime(hidden).as_secs(), 0);
    let mut listed = vec![];
    let listing = fs
        .directories
        .readdir_plus(ROOT_INO, 0, &mut |entry, attributes| {
            listed.push((entry.name.to_vec(), attributes.lifetime.as_secs()));
            false
        });
    listing.unwrap();
    assert!(listed.contains(&(b"own".to_vec(), 1)), "as in ls -l");
    assert!(listed.contains(&(b"theirs".to_vec(), 60)));
}

fn options() -> Options {
    Options {
        uid: 1,
        gid: 2,
        file_mask: DEFAULT_MASK,
        directory_mask: DEFAULT_MASK,
    }
}

struct Trial {
    random: StdRng,
    world: Arc<World>,
    kernel: Kernel,
    steps: Vec<String>,
}

impl Trial {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let world = World::new();
        let fs = Filesystem::new(world.clone(), options());
        let passthrough = random.random_bool(0.5);
        Self {
            kernel: Kernel::new(fs, world.clone(), passthrough),
            steps: vec![format!("passthrough {passthrough}")],
            random,
            world,
        }
    }

    fn run(&mut self, steps: u64) {
        for _ in 0..steps {
            let step = self.step();
            self.steps.push(step);
        }
        self.settle();
        // Old cached answers are used together with new requests.
        for _ in 0..20 {
            self.look();
        }
        self.kernel.expect_nothing_stale();
        if self.random.random_bool(0.5) {
            self.kernel.close_files();
            let fs = Filesystem::new(self.world.clone(), options());
            self.kernel.restart(fs);
        }
        self.kernel.close_all();
        let held = (self.kernel.fs.open_counts(), self.kernel.backings.count());
        assert_eq!(held, ((1, 0), 0), "only the root is left");
    }

    fn step(&mut self) -> String {
        let nth: usize = self.random.random_range(0..1000);
        match self.random.random_range(0..100) {
            0..18 => self.world.change(&mut self.random),
            18..21 => self.world.copy_to_own(&mut self.random),
            21..26 => {
                self.world.hear(nth);
                format!("hear of {}", nth % 3)
            }
            26..34 => {
                self.world.publish();
                self.kernel.view_changed();
                "publish".to_owned()
            }
            34..42 => self.tell().unwrap_or("nothing to tell").to_owned(),
            42..48 => {
                let told = self.kernel.hear(nth % 4);
                format!("notified {told}")
            }
            48..62 => self.look(),
            62..70 => self.open(),
            70..80 => {
                let offset = self.random.random_range(0..10_000);
                let length = self.random.random_range(1..12_000);
                let mapped = self.random.random_bool(0.3);
                self.kernel.read(nth, offset, length, mapped);
                format!("read {nth}, {length} at {offset}, mapped {mapped}")
            }
            80..85 => {
                self.kernel.close(nth);
                format!("close {nth}")
            }
            85..95 => {
                self.kernel.read_directory(nth, 1 + nth % 5);
                format!("list on {nth}")
            }
            95 | 96 => {
                self.kernel.open_by_handle(nth);
                format!("open by handle {nth}")
            }
            97 => {
                self.kernel.shrink(nth);
                format!("forget a name {nth}")
            }
            _ => {
                self.settle();
                self.kernel.expect_nothing_stale();
                "settled".to_owned()
            }
        }
    }

    /// Returns a path of the union, of one node, or by hash.
    fn path(&mut self) -> String {
        let below = world::random_path(&mut self.random);
        let below = String::from_utf8(below.as_bytes().to_vec()).unwrap();
        match self.random.random_range(0..12) {
            0 => format!(".p2pfs/peers/far/{below}"),
            1 => {
                let nth = self.random.random_range(0..CONTENTS.len());
                format!(".p2pfs/by-hash/{}", CONTENTS[nth].hash)
            }
            _ => below,
        }
    }

    fn look(&mut self) -> String {
        let path = self.path();
        let found = self.kernel.walk(&path);
        if let Some(ino) = found {
            self.kernel.stat(ino);
        }
        format!("stat {path:?}: {}", found.is_some())
    }

    fn open(&mut self) -> String {
        let path = self.path();
        let found = if self.random.random_bool(0.1) {
            Some(ROOT_INO)
        } else {
            self.kernel.walk(&path)
        };
        if let Some(ino) = found {
            let plus = self.random.random_bool(0.5);
            self.kernel.open_directory(ino, plus);
            self.kernel.open(ino);
        }
        format!("open {path:?}: {}", found.is_some())
    }

    fn tell(&mut self) -> Option<&'static str> {
        match self.world.next_told()? {
            Told::Names(view, changes) => {
                self.kernel.fs.caches.namespace_changed(Some(view), changes);
            }
            Told::CachedBytes(hash) => self.kernel.fs.caches.cached_changed(&hash),
        }
        Some("tell")
    }

    /// Delivers, publishes and handles all pending changes and notifications.
    fn settle(&mut self) {
        self.world.hear_all();
        self.world.publish();
        self.kernel.view_changed();
        while self.tell().is_some() {}
        while self.kernel.hear(usize::MAX) {}
    }
}
