//! Metrics that count what readers do.

use std::fs;
use std::process::Command;

use macro_rules_attribute::apply;

use crate::refusals::await_cached;
use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

/// Adds metrics and further settings to the options of a node.
pub(crate) fn with_metrics(cluster: &Cluster, options: NodeOptions, more: &str) -> NodeOptions {
    let socket = cluster.folder.path().join(&options.name).join("metrics");
    let listen = format!("[metrics]\nlisten = '{}'\n", socket.display());
    NodeOptions {
        config: format!("{}{listen}{more}", options.config),
        ..options
    }
}

pub(crate) fn metrics(node: &Node) -> String {
    let mut curl = Command::new("curl");
    curl.args(["-s", "--unix-socket"])
        .arg(node.home.join("metrics"));
    run(curl.arg("http://localhost/metrics")).expect_ok()
}

/// Returns the cache hits and misses for opens of other nodes' files.
fn cache_opens(node: &Node) -> (u64, u64) {
    let told = metrics(node);
    let value = |name: &str| {
        let value = told.lines().find_map(|line| line.strip_prefix(name));
        value
            .unwrap_or_else(|| panic!("{name}: {told}"))
            .parse()
            .unwrap()
    };
    (
        value("p2pfs_cache_hits_total "),
        value("p2pfs_cache_misses_total "),
    )
}

#[apply(promise)]
#[takes("curl")]
fn cold_read_counts_as_a_cache_miss_and_each_later_one_as_a_hit() {
    let mut cluster = Cluster::new();
    let owner = cluster.start("owner");
    let options = with_metrics(&cluster, NodeOptions::new("reader"), "");
    let reader = cluster.start_with(options);
    // The file is larger than one kernel read.
    let bytes = noise(1, 3 << 20);
    owner.write("file", &bytes);
    reader.wait_for_file("file");
    assert_eq!(cache_opens(&reader), (0, 0));
    let read = |hits_and_misses: (u64, u64)| {
        assert!(fs::read(reader.mounted("file")).unwrap() == bytes);
        assert_eq!(cache_opens(&reader), hits_and_misses);
    };
    read((0, 1));
    await_cached(&reader, "file", bytes.len());
    read((1, 1));
    read((2, 1));
    // An own shared file is not a cache file.
    reader.write("own", b"own");
    reader.wait_for_file("own");
    fs::read(reader.mounted("own")).unwrap();
    assert_eq!(cache_opens(&reader), (2, 1));
    reader.cli(&["cache", "clear"]).expect_ok();
    read((2, 2));
}
