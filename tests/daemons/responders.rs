//! The speed of peers as responders, as a node measured it, is kept over a restart.

use macro_rules_attribute::apply;
use serde_json::Value;

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::promise::{Need, promise};

const NEEDS: &[Need] = &[];

/// Returns a node's report about another node.
fn peer(node: &Node, name: &str) -> Value {
    let peers = node.cli(&["peers", "--json"]).expect_json();
    let peers = peers["peers"].as_array().unwrap();
    let found = peers.iter().find(|peer| peer["name"] == name);
    found.expect("it is known").clone()
}

fn start_unmounted(cluster: &mut Cluster, names: &[&str]) -> Vec<Node> {
    let start = |name: &&str| cluster.start_with(NodeOptions::unmounted(name));
    names.iter().map(start).collect()
}

fn get(reader: &Node, path: &str) -> Vec<u8> {
    let copy = reader.home.join("copy");
    let target = copy.to_str().unwrap();
    reader.cli(&["get", path, "-o", target]).expect_ok();
    let bytes = std::fs::read(&copy).unwrap();
    std::fs::remove_file(copy).unwrap();
    bytes
}

/// Returns whether two values are as close as a few minutes of ageing leave them. A value fades
/// within seven days.
fn about_the_same(before: &Value, after: &Value) -> bool {
    let (before, after) = (before.as_f64().unwrap(), after.as_f64().unwrap());
    (before - after).abs() <= 0.05 * before.max(1.0)
}

#[apply(promise)]
fn after_a_restart_a_node_remembers_response_times_and_priorities() {
    let mut cluster = Cluster::new();
    let mut nodes = start_unmounted(&mut cluster, &["one", "other", "reader"]);
    let (own, of_both) = ([noise(1, 2 << 20), noise(2, 2 << 20)], noise(3, 1 << 20));
    for (holder, own) in nodes.iter().zip(&own) {
        holder.write(&format!("of-{}", holder.name), own);
        holder.write("of-both", &of_both);
    }
    let await_all = |reader: &Node| {
        for name in ["of-one", "of-other", "of-both"] {
            reader.wait_for_file(name);
        }
    };
    await_all(&nodes[2]);
    assert!(get(&nodes[2], "of-one") == own[0] && get(&nodes[2], "of-other") == own[1]);
    let before = ["one", "other"].map(|name| peer(&nodes[2], name));
    nodes[2].stop();
    nodes[2].launch();
    await_all(&nodes[2]);
    let after = ["one", "other"].map(|name| peer(&nodes[2], name));
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(after["received_bytes"], 0, "nothing was asked in this life");
        for figure in ["latency_ms", "rate_bytes_per_s"] {
            let same = about_the_same(&before[figure], &after[figure]);
            assert!(same, "{figure}: {before} {after}");
        }
    }
    let first = after.iter().find(|peer| peer["priority"] == 1);
    let first = first.expect("one is the first")["name"].as_str().unwrap();
    let why = nodes[2].cli(&["why", "of-both"]).expect_ok();
    let reason = format!("asking {first} first (it answers in");
    let said: Vec<&str> = why.split_whitespace().collect();
    assert!(said.join(" ").contains(&reason), "{why}");
    assert!(get(&nodes[2], "of-both") == of_both);
}
