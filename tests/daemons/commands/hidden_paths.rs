//! Paths below `.p2pfs` as arguments: the files of one node, and contents by their hashes.

use macro_rules_attribute::apply;

use super::NEEDS;
use crate::support::daemon::*;
use crate::support::promise::promise;

#[apply(promise)]
fn a_path_below_the_hidden_directory_means_the_same_in_every_command() {
    let mut cluster = Cluster::new();
    let (author, reader) = (cluster.start("author"), cluster.start("reader"));
    author.write("docs/deep/a", b"text");
    author.write("docs/b", b"other");
    reader.wait_for_file("docs/deep/a");
    reader.wait_for_file("docs/b");
    let listed = |path: &str| reader.cli(&["ls", path]).expect_ok();
    assert_eq!(listed(".p2pfs"), "by-hash\npeers\n");
    assert_eq!(listed(".p2pfs/peers"), "author\nreader\n");
    assert_eq!(listed(".p2pfs/peers/author"), "docs\n");
    assert_eq!(listed(".p2pfs/peers/author/docs/"), "b\ndeep\n");
    let file = ".p2pfs/peers/author/docs/deep/a";
    let entry = reader.cli(&["ls", "--json", file]).expect_json()["entries"][0].clone();
    assert_eq!(
        (entry["path"].as_str(), entry["size_bytes"].as_u64()),
        (Some(file), Some(4))
    );
    let by_hash = format!(".p2pfs/by-hash/{}", entry["hash"].as_str().unwrap());
    let by_hash_entry = reader.cli(&["ls", "--json", &by_hash]).expect_json();
    assert_eq!(by_hash_entry["entries"][0]["hash"], entry["hash"]);

    let pinned = |name: &str| {
        let told = reader.cli(&["ls", "--json", name]).expect_json();
        told["entries"][0]["pinned"] == true
    };
    for path in [file, &by_hash, ".p2pfs/peers/author/docs"] {
        for command in ["prefetch", "pin"] {
            reader.cli(&[command, path]).expect_ok();
        }
        assert!(pinned("docs/deep/a"), "{path}");
        reader.cli(&["unpin", path]).expect_ok();
        assert!(!pinned("docs/deep/a") && !pinned("docs/b"), "{path}");
    }
    // The path in the folder releases the pin too.
    reader.cli(&["pin", ".p2pfs/peers/author"]).expect_ok();
    reader.cli(&["unpin", "docs"]).expect_ok();
    assert!(!pinned("docs/deep/a") && !pinned("docs/b"));
    for command in ["ls", "pin", "prefetch"] {
        let refused = reader.cli(&[command, ".p2pfs/peers/nobody/a"]);
        assert_eq!(refused.status.code(), Some(1), "{command}");
        assert!(
            refused.stderr.contains("below .p2pfs are"),
            "{}",
            refused.stderr
        );
    }
}
