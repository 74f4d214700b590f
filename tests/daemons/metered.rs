//! A network that costs by the byte.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use macro_rules_attribute::apply;

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];
const MIB: usize = 1 << 20;
const SIZE: usize = 24 * MIB;
const LONG: Duration = Duration::from_secs(120);

fn received(node: &Node) -> usize {
    let status = node.cli(&["status", "--json"]).expect_json();
    let traffic = &status["traffic"];
    traffic["received_bytes"].as_u64().unwrap() as usize
}

#[apply(promise)]
fn on_a_metered_network_what_nobody_reads_waits_and_says_so() {
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
    assert!(pinned.contains("waits: the network is metered"), "{pinned}");
    let refused = reader.cli(&["prefetch", "named"]);
    let words = refused.stderr.replace('\n', " ");
    assert!(
        !refused.status.success() && words.contains("--anyway"),
        "{words}"
    );
    // long enough for a reader to be kept far ahead of where bytes cost nothing
    let mut file = File::open(reader.mounted("read")).unwrap();
    let mut begin = vec![0; 4 * MIB];
    file.read_exact(&mut begin).unwrap();
    assert!(begin == bytes[4..4 * MIB + 4]);
    // what the kernel asks for ahead of it by itself is twice 4 MiB at most
    let came = received(reader);
    assert!(came <= 16 * MIB, "{came} bytes came for 4 MiB");
    reader.cli(&["prefetch", "--anyway", "named"]).expect_ok();
    reader.cli(&["limits", "--configured"]).expect_ok();
    eventually("what is pinned has come", LONG, || {
        received(reader) >= came + 2 * (SIZE - 16)
    });
}
