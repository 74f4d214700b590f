//! A metered network, where each byte costs money.

use std::fs::File;
use std::io::Read;

use macro_rules_attribute::apply;
use serde_json::Value;

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];
const MIB: usize = 1 << 20;
const SIZE: usize = 24 * MIB;

fn received(node: &Node) -> usize {
    let status = node.cli(&["status", "--json"]).expect_json();
    let traffic = &status["traffic"];
    traffic["received_bytes"].as_u64().unwrap() as usize
}

#[apply(promise)]
fn on_a_metered_network_unread_files_wait_and_say_so() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["holder", "reader"]);
    let bytes = noise(4, SIZE);
    for name in ["read", "pinned", "named"] {
        nodes[0].write(name, &bytes[name.len()..]);
        nodes[1].wait_for_file(name);
    }
    let reader = &nodes[1];
    let said = reader.cli(&["limits", "--metered", "on"]).expect_ok();
    assert!(said.contains("yes: nothing is fetched"), "{said}");
    let status = reader.cli(&["status"]).expect_ok();
    assert!(status.contains("metered"), "{status}");
    let pinned = reader.cli(&["pin", "pinned"]).expect_ok();
    assert!(pinned.contains("wait: the network is metered"), "{pinned}");
    let refused = reader.cli(&["prefetch", "named"]);
    let words = refused.stderr.replace('\n', " ");
    assert!(
        !refused.status.success() && words.contains("--anyway"),
        "{words}"
    );
    // The read is long enough that, on a free network, read-ahead would run far ahead of the
    // reader.
    let mut file = File::open(reader.mounted("read")).unwrap();
    let mut begin = vec![0; 4 * MIB];
    file.read_exact(&mut begin).unwrap();
    assert!(begin == bytes[4..4 * MIB + 4]);
    // The kernel's own read-ahead is at most twice 4 MiB.
    let came = received(reader);
    assert!(came <= 16 * MIB, "{came} bytes came for 4 MiB");
    reader.cli(&["prefetch", "--anyway", "named"]).expect_ok();
    reader.cli(&["limits", "--configured"]).expect_ok();
    eventually("what is pinned has come", HANG_LIMIT, || {
        received(reader) >= came + 2 * (SIZE - 16)
    });
}

/// Returns the state of a file's transfer if any part is in flight or requested.
fn transfer(node: &Node, name: &str) -> Option<Value> {
    let top = node.cli(&["top", "--once", "--json"]).expect_json();
    let transfers = top["transfers"].as_array().unwrap().iter();
    transfers.clone().find(|it| it["path"] == name).cloned()
}

fn cached(node: &Node, name: &str) -> usize {
    let listed = node.cli(&["ls", "--json", name]).expect_json();
    listed["entries"][0]["cached_bytes"].as_u64().unwrap() as usize
}

/// Returns a holder and a reader that has begun to fetch its pinned files, slowly enough to be far
/// from the end.
fn slowly_pinning(cluster: &mut Cluster, names: &[&str]) -> Vec<Node> {
    let nodes = cluster.start_all(&["holder", "reader"]);
    let reader = &nodes[1];
    for (seed, name) in (0..).zip(names) {
        nodes[0].write(name, &noise(seed, SIZE));
        reader.wait_for_file(name);
    }
    reader.cli(&["limits", "--down", "64KiB/s"]).expect_ok();
    reader.cli(&[&["pin"], names].concat()).expect_ok();
    for name in names {
        eventually("it is on its way", HANG_LIMIT, || {
            transfer(reader, name).is_some_and(|it| it["whole"] == true)
        });
    }
    nodes
}

#[apply(promise)]
fn a_pin_in_progress_pauses_while_the_network_is_metered() {
    let mut cluster = Cluster::new();
    let nodes = slowly_pinning(&mut cluster, &["pinned"]);
    let reader = &nodes[1];
    reader.cli(&["limits", "--metered", "on"]).expect_ok();
    eventually("nothing of it is asked for", HANG_LIMIT, || {
        transfer(reader, "pinned").is_none()
    });
    let came = cached(reader, "pinned");
    assert!(came < SIZE, "all of it came");
    // A pin made now waits too and does not start the transfer.
    reader.cli(&["pin", "pinned"]).expect_ok();
    reader.cli(&["limits", "--down", "none"]).expect_ok();
    assert_eq!(
        (transfer(reader, "pinned"), cached(reader, "pinned")),
        (None, came)
    );
    reader.cli(&["limits", "--metered", "off"]).expect_ok();
    eventually("it has come", HANG_LIMIT, || {
        cached(reader, "pinned") == SIZE
    });
}

#[apply(promise)]
fn an_unpinned_file_stops_fetching_and_other_pins_continue() {
    let mut cluster = Cluster::new();
    let nodes = slowly_pinning(&mut cluster, &["dropped", "kept"]);
    let reader = &nodes[1];
    reader.cli(&["unpin", "dropped"]).expect_ok();
    eventually("nothing of it is asked for", HANG_LIMIT, || {
        transfer(reader, "dropped").is_none()
    });
    let came = cached(reader, "dropped");
    assert!(came < SIZE, "all of it came");
    reader.cli(&["limits", "--down", "none"]).expect_ok();
    eventually("the other has come", HANG_LIMIT, || {
        cached(reader, "kept") == SIZE
    });
    assert_eq!(cached(reader, "dropped"), came);
}
