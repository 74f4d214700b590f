//! Nodes that keep the files of others: a laptop writes, keepers fetch, and the laptop leaves.

use std::collections::BTreeSet;
use std::fs;

use macro_rules_attribute::apply;
use serde_json::Value;

use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, promise};

const NEEDS: &[Need] = &[];

/// Starts a node without a mount that keeps files with these settings of `[keep]`.
fn start_keeper(cluster: &mut Cluster, name: &str, settings: &str) -> Node {
    let mut options = NodeOptions::unmounted(name);
    options.config += &format!("[keep]\n{settings}");
    cluster.start_with(options)
}

fn status(node: &Node) -> Value {
    node.cli(&["status", "--json"]).expect_json()
}

/// Returns the names of the live nodes that have all of a file, as a node lists it.
fn holders(node: &Node, path: &str) -> BTreeSet<String> {
    let told = node.cli(&["ls", path, "--json"]);
    if !told.status.success() {
        return BTreeSet::new();
    }
    let told = told.expect_json();
    let holders = told["entries"][0]["holders"].as_array().cloned();
    let names = holders.unwrap_or_default().into_iter();
    names.map(|it| it.as_str().unwrap().to_owned()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|it| (*it).to_owned()).collect()
}

fn wait_for_holders(node: &Node, path: &str, wanted: &[&str]) {
    eventually(&format!("{path} is with {wanted:?}"), HANG_LIMIT, || {
        holders(node, path) == set(wanted)
    });
}

/// Gets a file and returns its bytes.
fn got(node: &Node, path: &str) -> Vec<u8> {
    let out = node.home.join("got");
    let to = out.to_str().unwrap();
    node.cli(&["get", path, "-o", to]).expect_ok();
    let bytes = fs::read(&out).unwrap();
    fs::remove_file(out).unwrap();
    bytes
}

#[apply(promise)]
fn file_and_its_next_version_outlive_the_laptop_that_wrote_them() {
    let mut cluster = Cluster::new();
    let keeper = start_keeper(&mut cluster, "keeper", "paths = [\"docs/**\"]\n");
    let mut laptop = cluster.start_with(NodeOptions::unmounted("laptop"));
    laptop.write("docs/plan", b"first");
    laptop.write("music/song", b"not kept");
    wait_for_holders(&keeper, "docs/plan", &["keeper", "laptop"]);
    laptop.write("docs/plan", b"second version");
    let second = blake3::hash(b"second version").to_hex();
    eventually("the next version is kept", HANG_LIMIT, || {
        let told = keeper.cli(&["ls", "docs/plan", "--json"]).expect_json();
        told["entries"][0]["hash"] == second.as_str()
            && holders(&keeper, "docs/plan") == set(&["keeper", "laptop"])
    });
    eventually("the status tells it", HANG_LIMIT, || {
        let kept = &status(&keeper)["keep"];
        kept["files"] == 1 && kept["bytes"] == 14 && kept["missing_files"] == 0
    });
    assert_eq!(holders(&keeper, "music/song"), set(&["laptop"]));
    let why = keeper.cli(&["why", "docs/plan"]).expect_ok();
    assert!(why.contains("copies   2"), "{why}");

    laptop.kill();
    let reader = cluster.start_with(NodeOptions::unmounted("reader"));
    for node in [&keeper, &reader] {
        eventually("only the keeper has it", HANG_LIMIT, || {
            let told = holders(node, "docs/plan");
            told.contains("keeper") && !told.contains("laptop")
        });
    }
    assert_eq!(got(&reader, "docs/plan"), b"second version");
}

#[apply(promise)]
fn third_keeper_takes_over_for_one_of_two_that_dies() {
    const FILES: usize = 6;
    let mut cluster = Cluster::new();
    let settings = "paths = [\"docs\"]\ncopies = 2\ntakeover = \"1s\"\n";
    let names = ["k1", "k2", "k3", "k4"];
    let mut keepers: Vec<Node> = names
        .iter()
        .map(|name| start_keeper(&mut cluster, name, settings))
        .collect();
    let laptop = cluster.start_with(NodeOptions::unmounted("laptop"));
    for keeper in keepers.iter().chain([&laptop]) {
        keeper
            .cli(&["wait", "--peers", "4", "--timeout", WAIT_LIMIT])
            .expect_ok();
    }
    let files: Vec<String> = (0..FILES).map(|at| format!("docs/f{at}")).collect();
    for file in &files {
        laptop.write(file, file.as_bytes());
    }
    let kept_files = |keepers: &[Node]| -> u64 {
        let kept = keepers.iter().map(|it| status(it)["keep"]["files"].clone());
        kept.map(|files| files.as_u64().unwrap()).sum()
    };
    let kept_twice = 2 * FILES as u64;
    eventually("each file is kept twice", HANG_LIMIT, || {
        kept_files(&keepers) == kept_twice
    });
    let kept = |it: &Node| status(it)["keep"]["files"].as_u64().unwrap();
    let dying = (0..keepers.len()).max_by_key(|at| kept(&keepers[*at]));
    let mut dead = keepers.remove(dying.unwrap());
    assert!(kept(&dead) > 0);
    dead.kill();
    eventually("each file is kept twice again", HANG_LIMIT, || {
        kept_files(&keepers) == kept_twice
    });
    for file in &files {
        eventually(&format!("{file} is with two others"), HANG_LIMIT, || {
            let holders = holders(&laptop, file);
            holders.len() >= 3 && !holders.contains(&dead.name)
        });
    }
}

#[apply(promise)]
fn keeper_stays_within_its_budget_and_its_status_names_what_is_not_kept() {
    const FILE_BYTES: usize = 600 << 10;
    const BUDGET_BYTES: u64 = 1 << 20;
    let mut cluster = Cluster::new();
    let settings = "paths = [\"docs\"]\nbudget = \"1MiB\"\n";
    let keeper = start_keeper(&mut cluster, "keeper", settings);
    let laptop = cluster.start_with(NodeOptions::unmounted("laptop"));
    laptop.write("docs/a", &vec![1; FILE_BYTES]);
    wait_for_holders(&keeper, "docs/a", &["keeper", "laptop"]);
    laptop.write("docs/b", &vec![2; FILE_BYTES]);
    eventually("the status names the other file", HANG_LIMIT, || {
        let told = keeper.cli(&["status"]).expect_ok();
        told.contains("no room to keep docs/b") && told.contains("keep.budget")
    });
    let told = status(&keeper);
    assert_eq!(told["keep"]["left_out_files"], 1, "{told}");
    assert!(told["cache"]["pinned_bytes"].as_u64().unwrap() <= BUDGET_BYTES);
    assert_eq!(holders(&keeper, "docs/b"), set(&["laptop"]));
    // The newer version takes the place of the older one, although both do not fit.
    laptop.write("docs/a", &vec![3; FILE_BYTES]);
    let hash = blake3::hash(&vec![3; FILE_BYTES]).to_hex();
    eventually("the newer version is kept", HANG_LIMIT, || {
        let told = keeper.cli(&["ls", "docs/a", "--json"]).expect_json();
        told["entries"][0]["hash"] == hash.as_str()
            && holders(&keeper, "docs/a") == set(&["keeper", "laptop"])
    });
    assert!(status(&keeper)["cache"]["pinned_bytes"].as_u64().unwrap() <= BUDGET_BYTES);
}

#[apply(promise)]
fn keeper_without_paths_releases_its_pins_and_a_pin_of_the_user_stays() {
    let mut cluster = Cluster::new();
    let mut keeper = start_keeper(&mut cluster, "keeper", "paths = [\"docs\"]\n");
    let laptop = cluster.start_with(NodeOptions::unmounted("laptop"));
    laptop.write("docs/a", b"kept");
    laptop.write("docs/b", b"pinned by hand");
    for file in ["docs/a", "docs/b"] {
        wait_for_holders(&keeper, file, &["keeper", "laptop"]);
    }
    keeper.cli(&["pin", "docs/b"]).expect_ok();
    keeper.stop();
    let config = keeper.home.join("p2pfs.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("[\"docs\"]", "[]")).unwrap();
    keeper.launch();
    let pinned = || status(&keeper)["cache"]["pinned_bytes"].as_u64().unwrap();
    eventually("only the user's pin is left", 2 * HANG_LIMIT, || {
        pinned() == b"pinned by hand".len() as u64
    });
    assert_eq!(status(&keeper)["keep"]["enabled"], false);
}

#[apply(promise)]
fn status_warns_of_files_that_exist_only_here() {
    let mut cluster = Cluster::new();
    let laptop = cluster.start_with(NodeOptions::unmounted("laptop"));
    laptop.cli(&["write", "on"]).expect_ok();
    let dir = laptop.home.join("state/files/docs");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("only"), b"only here").unwrap();
    laptop.write("read-only", b"not written through a mount");
    let only_here = || status(&laptop)["keep"]["only_here_files"].clone();
    eventually("one file is only here", HANG_LIMIT, || only_here() == 1);
    let told = laptop.cli(&["status"]).expect_ok();
    assert!(told.contains("1 file (9 B) written here"), "{told}");
    let keeper = start_keeper(&mut cluster, "keeper", "paths = [\"**\"]\n");
    wait_for_holders(&keeper, "docs/only", &["keeper", "laptop"]);
    eventually("no file is only here", HANG_LIMIT, || only_here() == 0);
    assert!(!laptop.cli(&["status"]).expect_ok().contains("written here"));
}

#[apply(promise)]
fn adopted_files_of_a_departed_node_stay_when_it_is_forgotten() {
    let mut cluster = Cluster::new();
    let keeper = start_keeper(&mut cluster, "keeper", "paths = [\"docs\"]\n");
    keeper.cli(&["write", "on"]).expect_ok();
    let mut laptop = cluster.start_with(NodeOptions::unmounted("laptop"));
    for (file, bytes) in [("docs/a", "first"), ("docs/b/c", "second"), ("d", "third")] {
        laptop.write(file, bytes.as_bytes());
    }
    for file in ["docs/a", "docs/b/c"] {
        wait_for_holders(&keeper, file, &["keeper", "laptop"]);
    }
    let early = keeper.cli(&["adopt", "laptop"]);
    assert!(early.stderr.contains("it is live"), "{}", early.stderr);

    laptop.kill();
    let adopted = |arguments: &[&str]| {
        let arguments = [&["adopt", "laptop", "--json"], arguments].concat();
        let done = keeper.cli(&arguments);
        done.status.success().then(|| done.expect_json())
    };
    let mut told = None;
    eventually("the laptop is down", HANG_LIMIT, || {
        told = adopted(&["docs/b"]);
        told.is_some()
    });
    assert_eq!(told.unwrap()["adopted"], 1);
    let rest = adopted(&[]).unwrap();
    assert_eq!(
        (&rest["failures"], &rest["missing"]),
        (&0.into(), &0.into())
    );
    let folder = keeper.home.join("state/files/docs");
    assert_eq!(fs::read(folder.join("a")).unwrap(), b"first");
    assert_eq!(fs::read(folder.join("b/c")).unwrap(), b"second");
    let authors = |path: &str| {
        let why = keeper.cli(&["why", path, "--json"]).expect_json();
        why["versions"][0]["author"].clone()
    };
    for file in ["docs/a", "docs/b/c"] {
        eventually("it is the keeper's own file", HANG_LIMIT, || {
            authors(file) == "keeper"
        });
    }
    keeper.cli(&["forget", "laptop"]).expect_ok();
    eventually("the laptop's own file is gone", HANG_LIMIT, || {
        !keeper.cli(&["ls", "d"]).status.success()
    });
    assert_eq!(got(&keeper, "docs/a"), b"first");
    assert_eq!(got(&keeper, "docs/b/c"), b"second");
}
