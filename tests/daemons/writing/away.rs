//! Changes while a node is away, and after it was expelled.

use super::super::trust::invite;
use super::*;

/// Waits until each node has all that the other said until now.
fn meet(nodes: &[Node], token: &str) {
    for node in nodes {
        node.write(&format!("{token}-{}", node.name), b"here");
    }
    for node in nodes {
        for other in nodes {
            node.wait_for_file(&format!("{token}-{}", other.name));
        }
    }
}

#[apply(promise)]
fn a_deletion_stays_when_the_node_of_the_file_returns_and_a_later_change_wins() {
    let mut cluster = Cluster::new();
    let mut nodes = cluster.start_all(&["one", "two"]);
    nodes.iter().for_each(write_on);
    make_dir(&nodes, "dir");
    for name in ["dir/deleted", "dir/changed", "dir/later"] {
        fs::write(nodes[1].mounted(name), b"of two").unwrap();
    }
    let of_two = &b"of two"[..];
    let all = [("deleted", of_two), ("changed", of_two), ("later", of_two)];
    expect_files(&nodes, "dir", &all);
    nodes[1].stop();
    for (name, _) in all {
        fs::remove_file(nodes[0].mounted("dir").join(name)).unwrap();
    }
    expect_files(&nodes[..1], "dir", &[]);
    // While its daemon is away, a program changes a file in the folder of the share.
    fs::write(on_disk(&nodes[1], "dir/changed"), b"changed since").unwrap();
    nodes[1].launch();
    meet(&nodes, "returned");
    expect_files(&nodes, "dir", &[("changed", b"changed since")]);
    for hidden in [".p2pfs/peers/two/dir/deleted", ".p2pfs/peers/two/dir/later"] {
        assert_eq!(fs::read(nodes[0].mounted(hidden)).unwrap(), b"of two");
    }
    fs::write(nodes[1].mounted("dir/later"), b"made again").unwrap();
    let both: [(&str, &[u8]); 2] = [("changed", b"changed since"), ("later", b"made again")];
    expect_files(&nodes, "dir", &both);
    nodes[0].stop();
    nodes[0].launch();
    meet(&nodes, "again");
    expect_files(&nodes, "dir", &both);
}

#[apply(promise)]
fn an_edit_stays_when_the_node_of_the_replaced_file_returns() {
    let mut cluster = Cluster::new();
    let mut nodes = cluster.start_all(&["one", "two"]);
    nodes.iter().for_each(write_on);
    make_dir(&nodes, "dir");
    fs::write(nodes[1].mounted("dir/file"), b"of two").unwrap();
    expect_files(&nodes, "dir", &[("file", b"of two")]);
    nodes[1].stop();
    fs::write(nodes[0].mounted("dir/file"), b"edited").unwrap();
    expect_files(&nodes[..1], "dir", &[("file", b"edited")]);
    nodes[1].launch();
    meet(&nodes, "returned");
    expect_files(&nodes, "dir", &[("file", b"edited")]);
}

#[apply(promise)]
fn replacements_and_deletions_of_an_expelled_node_end() {
    let mut cluster = Cluster::with_own_secrets();
    let nodes = ["one", "two", "eve"].map(|name| cluster.start(name));
    for joiner in &nodes[1..] {
        invite(&nodes[0], &[], joiner);
    }
    nodes.iter().for_each(write_on);
    make_dir(&nodes, "dir");
    for name in ["dir/replaced", "dir/deleted"] {
        fs::write(nodes[0].mounted(name), b"of one").unwrap();
    }
    let whole: [(&str, &[u8]); 2] = [("replaced", b"of one"), ("deleted", b"of one")];
    expect_files(&nodes, "dir", &whole);
    fs::write(nodes[2].mounted("dir/replaced"), b"of eve").unwrap();
    fs::remove_file(nodes[2].mounted("dir/deleted")).unwrap();
    expect_files(&nodes, "dir", &[("replaced", b"of eve")]);
    nodes[0].cli(&["expel", "eve", "--yes"]).expect_ok();
    expect_files(&nodes[..2], "dir", &whole);
}
