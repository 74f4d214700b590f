//! The filesystem compared with a plain model: random operations on the shares of real daemons.
//! Nodes stop, die and return, shares appear and disappear, and readers run in between. Afterwards
//! every mount must converge to the merged namespace.
//!
//! `share` does the operations on the disk and records them. `namespace` merges the records by the
//! rules. `mounted` reads a mount. `reading` has the programs that read all the time. A failure
//! prints its seed and every operation before it. `P2PFS_TELL` makes every seed print them.
//! `P2PFS_SEED` runs one seed, `P2PFS_SEEDS` sets the number of seeds, and `P2PFS_STEPS` the number
//! of rounds for each.

mod mounted;
mod namespace;
mod reading;
mod share;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use macro_rules_attribute::apply;

use crate::support::daemon::*;
use crate::support::process::{WAIT_LIMIT, look_again};
use crate::support::promise::{Need, mount, promise};
use namespace::{Contents, Namespace, Sharer};
use reading::{Lister, OpenFile};
use share::Share;

const NEEDS: &[Need] = &[mount];

/// Number of seeds in a usual run. With [`BATCHES`] rounds each, it takes a minute at most.
const SEEDS: u64 = 4;
/// Rounds of operations for each seed. The test waits for convergence after each round.
const BATCHES: u64 = 12;
const OPERATIONS_PER_BATCH_MAX: usize = 16;
/// Limit for convergence. The promise is two seconds after a change, and a few more after a death.
/// A loaded machine gets far more.
const SETTLE_LIMIT: Duration = Duration::from_secs(180);
/// Maximum number of files that programs keep open between rounds.
const OPEN_FILES_MAX: usize = 12;
/// Number of permanent names in the directory that is listed all the time.
const STAYING: usize = 60;
/// Number of nodes that share. One more node only reads.
const SHARING: usize = 2;
/// A node that stopped cleanly returns long before it is declared gone.
const CONFIG: &str = "[membership]\naway_grace = \"10m\"\n";

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[apply(promise)]
fn every_mount_converges_to_the_merged_namespace() {
    let seeds = match number("P2PFS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("P2PFS_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let begun = Instant::now();
        let mut cluster = Cluster::new();
        World::new(seed, &mut cluster).run(number("P2PFS_STEPS").unwrap_or(BATCHES));
        println!("seed {seed}: {:.1} s", begun.elapsed().as_secs_f32());
    }
}

/// A node's state as its peers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Up,
    /// The node announced that it will return.
    Away,
    Dead,
}

/// A folder of one node, shared or not.
struct Folder {
    node: usize,
    share: Share,
    /// The content that the node last announced. `None` if it does not share the folder.
    said: Option<Share>,
}

/// Two nodes that change their shares, and one that only reads.
struct World {
    seed: u64,
    random: StdRng,
    nodes: Vec<Node>,
    standing: Vec<Standing>,
    folders: Vec<Folder>,
    keys: Vec<String>,
    told: Vec<String>,
    open: Vec<OpenFile>,
    /// The namespace when all nodes last agreed.
    shown: Namespace,
    comers: Vec<PathBuf>,
}

impl World {
    fn new(seed: u64, cluster: &mut Cluster) -> Self {
        let start = |name: &&str| {
            let mut options = NodeOptions::new(name);
            options.config = CONFIG.to_owned();
            cluster.start_with(options)
        };
        let nodes: Vec<Node> = ["one", "two", "three"].iter().map(start).collect();
        for node in &nodes {
            node.cli(&["wait", "--peers", "2", "--timeout", WAIT_LIMIT])
                .expect_ok();
        }
        let key = |node: &Node| {
            let status = node.cli(&["status", "--json"]).expect_json();
            status["node"].as_str().unwrap().to_owned()
        };
        let folder = |node: usize, path: PathBuf, offered: bool| {
            let share = Share::new(&path);
            let said = offered.then(|| share.clone());
            Folder { node, share, said }
        };
        let mut folders: Vec<Folder> = (0..SHARING)
            .map(|at| folder(at, nodes[at].share.clone(), true))
            .collect();
        for (at, node) in nodes[..SHARING].iter().enumerate() {
            let more = node.home.join("more");
            std::fs::create_dir(&more).unwrap();
            folders.push(folder(at, more, false));
        }
        folders[0].share.fill(share::UNTOUCHED, STAYING);
        Self {
            seed,
            random: StdRng::seed_from_u64(seed),
            keys: nodes.iter().map(key).collect(),
            standing: vec![Standing::Up; nodes.len()],
            nodes,
            folders,
            told: vec![],
            open: vec![],
            shown: Namespace::new(),
            comers: vec![],
        }
    }

    fn run(&mut self, batches: u64) {
        self.settle();
        let mut at = || self.random.random_range(1..batches.max(2));
        let (restart, away, dead) = (at(), at(), at());
        for batch in 0..batches {
            self.told.push(format!("-- batch {batch}"));
            let listers: Vec<Lister> = self.up().map(|node| Lister::start(&node.mount)).collect();
            self.open_files();
            let shares_change = self.random.random_bool(0.25);
            let stopped = self.random.random_range(0..SHARING);
            if batch == restart {
                self.end(stopped, Standing::Away);
            }
            self.change_shares();
            if batch == restart {
                self.launch(stopped);
            }
            if shares_change {
                self.offer_or_withdraw();
            }
            for (when, standing) in [(away, Standing::Away), (dead, Standing::Dead)] {
                if batch == when && self.is_all_up() {
                    self.settle();
                    self.end(stopped, standing);
                }
            }
            self.settle();
            listers.into_iter().for_each(Lister::finish);
            self.read_open_files();
            if let Some(down) = self.standing.iter().position(|it| *it != Standing::Up) {
                self.change_shares();
                self.launch(down);
                self.settle();
            }
        }
        if std::env::var_os("P2PFS_TELL").is_some() {
            println!(
                "{}",
                self.told.join(
                    "
"
                )
            );
        }
        self.standing
            .iter()
            .for_each(|it| assert_eq!(*it, Standing::Up));
        for node in &self.nodes {
            mounted::expect_tools_to_agree(&node.mount, &self.shown);
        }
    }

    fn up(&self) -> impl Iterator<Item = &Node> {
        let nodes = self.nodes.iter().zip(&self.standing);
        nodes.filter(|it| *it.1 == Standing::Up).map(|it| it.0)
    }

    fn is_all_up(&self) -> bool {
        self.standing.iter().all(|it| *it == Standing::Up)
    }

    fn end(&mut self, at: usize, standing: Standing) {
        self.told.push(format!("{at} becomes {standing:?}"));
        // Readers through its mount end with it.
        let mount = &self.nodes[at].mount;
        self.open.retain(|open| !open.path.starts_with(mount));
        match standing {
            Standing::Dead => self.nodes[at].kill(),
            _ => drop(self.nodes[at].stop()),
        }
        self.standing[at] = standing;
    }

    fn launch(&mut self, at: usize) {
        self.told.push(format!("{at} returns"));
        self.nodes[at].launch();
        self.standing[at] = Standing::Up;
    }

    fn offer_or_withdraw(&mut self) {
        let at = self.random.random_range(SHARING..self.folders.len());
        let folder = &mut self.folders[at];
        if self.standing[folder.node] != Standing::Up {
            return;
        }
        let node = &self.nodes[folder.node];
        let dir = folder.share.folder.to_str().unwrap().to_owned();
        let word = if folder.said.is_some() {
            "remove"
        } else {
            "add"
        };
        if folder.said.take().is_none() {
            folder.share.forget_dates_ahead();
            folder.said = Some(folder.share.clone());
        }
        node.cli(&["share", word, &dir]).expect_ok();
        self.told.push(format!("{}: share {word} {dir}", node.name));
    }

    fn change_shares(&mut self) {
        for _ in 0..self.random.random_range(1..=OPERATIONS_PER_BATCH_MAX) {
            let at = self.random.random_range(0..self.folders.len());
            let other = self.random.random_range(0..self.folders.len());
            let other = self.folders[other].share.clone();
            let folder = &mut self.folders[at];
            let watched = folder.said.is_some() && self.standing[folder.node] == Standing::Up;
            let done = folder.share.change(&other, watched, &mut self.random);
            let Some(done) = done else { continue };
            let name = &self.nodes[folder.node].name;
            let folder = folder.share.folder.file_name().unwrap();
            self.told.push(format!("{name} {folder:?}: {}", done.told));
            if done.ends_batch {
                self.settle();
            }
        }
        // One file is added and one is removed beside the permanent ones.
        let comer = Path::new(share::UNTOUCHED).join(format!("comes-{}", self.told.len()));
        self.folders[0].share.add_empty(&comer);
        self.comers.push(comer);
        if self.comers.len() > 2 {
            self.folders[0].share.remove_file(&self.comers.remove(0));
        }
    }

    /// Opens files through every mount, reads a little, and keeps them open.
    fn open_files(&mut self) {
        let names: Vec<PathBuf> = self.shown.keys().cloned().collect();
        for at in 0..self.nodes.len() {
            if self.standing[at] != Standing::Up {
                continue;
            }
            let path = &names[self.random.random_range(0..names.len())];
            // An own file is read live, under a conflict name too, so a reader has no fixed
            // version.
            let mut own = self.folders.iter().filter(|folder| folder.node == at);
            let may_be_own = path.to_string_lossy().contains('~') && at < SHARING;
            if may_be_own || own.any(|folder| folder.share.things.contains_key(path)) {
                continue;
            }
            let mount = &self.nodes[at].mount;
            let opened = OpenFile::open(mount, path, &self.shown, &mut self.random);
            self.open.extend(opened);
        }
        if self.open.len() > OPEN_FILES_MAX {
            self.open.drain(..self.open.len() - OPEN_FILES_MAX);
        }
    }

    fn read_open_files(&mut self) {
        for open in &mut self.open {
            if let Some(wrong) = open.read_on(&mut self.random) {
                panic!(
                    "seed {}: {wrong}\nafter:\n{}",
                    self.seed,
                    self.told.join("\n")
                );
            }
        }
    }

    /// Waits until every mount shows the expected namespace.
    fn settle(&mut self) {
        let begun = Instant::now();
        for folder in &mut self.folders {
            folder.share.note_directory_times();
            if folder.said.is_some() && self.standing[folder.node] == Standing::Up {
                folder.said = Some(folder.share.clone());
            }
        }
        let mut shown = Namespace::new();
        for node in self.up() {
            shown = self.wait_for(node, &node.mount, |world| {
                Some(namespace::merged(&world.sharers(), &world.cached()))
            });
            for at in 0..SHARING {
                let folder = node.mount.join(".p2pfs/peers").join(&self.nodes[at].name);
                if self.standing[at] == Standing::Dead {
                    self.wait_until(node, &folder, || match folder.symlink_metadata() {
                        Ok(_) => vec!["is still there".to_owned()],
                        Err(_) => vec![],
                    });
                } else if self.folders[SHARING + at].said.is_none() {
                    self.wait_for(node, &folder, |world| {
                        let sharers = world.sharers();
                        let own = |it: &&Sharer<'_>| it.name == self.nodes[at].name;
                        sharers.iter().find(own).map(|it| namespace::of_peer(*it))
                    });
                }
            }
        }
        self.shown = shown;
        self.told
            .push(format!("settled in {:.1} s", begun.elapsed().as_secs_f32()));
        let mut random = StdRng::seed_from_u64(self.random.random());
        for node in self.up() {
            mounted::expect_reads_to_agree(&node.mount, &self.shown, &mut random);
        }
    }

    fn sharers(&self) -> Vec<Sharer<'_>> {
        let offered = self.folders.iter().filter(|folder| folder.said.is_some());
        offered
            .map(|folder| Sharer {
                name: &self.nodes[folder.node].name,
                key: &self.keys[folder.node],
                share: folder.said.as_ref().unwrap(),
                alive: self.standing[folder.node] != Standing::Dead,
            })
            .collect()
    }

    /// Returns the contents that caches hold whole. They matter only if a node is gone.
    fn cached(&self) -> Contents {
        if self.standing.iter().all(|it| *it != Standing::Dead) {
            return Contents::new();
        }
        let of_node = |node: &Node| {
            let listed = node.cli(&["cache", "ls", "--json"]).expect_json();
            let entries = listed["entries"].as_array().unwrap().clone();
            let whole = entries
                .into_iter()
                .filter(|it| it["cached_bytes"] == it["size_bytes"]);
            whole
                .map(|it| it["hash"].as_str().unwrap().to_owned())
                .collect::<Vec<String>>()
        };
        self.up().flat_map(of_node).collect()
    }

    fn wait_for(
        &self,
        node: &Node,
        folder: &Path,
        expected: impl Fn(&Self) -> Option<Namespace>,
    ) -> Namespace {
        let mut last = Namespace::new();
        self.wait_until(node, folder, || {
            last = expected(self).unwrap();
            mounted::differences(folder, &last)
        });
        last
    }

    /// Returns the nodes' own reports for a failure message, to show where data was lost.
    fn what_nodes_say(&self) -> String {
        let said = self.up().flat_map(|node| {
            let words: [&[&str]; 3] = [&["share"], &["peers"], &["ls", "-l"]];
            words.map(|words| format!("{} {words:?}:\n{}", node.name, node.cli(words).text()))
        });
        said.collect::<Vec<String>>().join("\n")
    }

    fn wait_until(&self, node: &Node, folder: &Path, mut wrong: impl FnMut() -> Vec<String>) {
        let deadline = Instant::now() + SETTLE_LIMIT;
        loop {
            let wrong = wrong();
            if wrong.is_empty() {
                return;
            }
            if Instant::now() > deadline {
                panic!(
                    "seed {}: {} on {} is not as expected:\n{}\nafter:\n{}\n{}",
                    self.seed,
                    folder.display(),
                    node.name,
                    wrong.join("\n"),
                    self.told.join("\n"),
                    self.what_nodes_say()
                );
            }
            look_again();
        }
    }
}
