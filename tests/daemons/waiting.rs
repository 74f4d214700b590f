//! What `p2pfs wait` says yes to is so for every program that looks at once.

use std::fs;
use std::time::Duration;

use macro_rules_attribute::apply;

use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];
const ROUNDS: usize = 40;

/// Names come one after the other, so that the kernel is still told of the one when it is asked for
/// the next, and it knows that none of them was there.
#[apply(promise)]
fn a_file_that_was_waited_for_is_in_the_folder() {
    let mut cluster = Cluster::new();
    let writer = cluster.start("writer");
    let reader = cluster.start("reader");
    for round in 0..ROUNDS {
        let name = format!("dir/{round}");
        let seen = reader.mounted(&name);
        assert!(!seen.exists());
        let _listed = fs::read_dir(reader.mounted("dir")).map(Iterator::count);
        fs::create_dir_all(writer.share.join("dir")).unwrap();
        fs::write(writer.share.join(&name), name.as_bytes()).unwrap();
        (reader.cli(&["wait", "--file", &name, "--timeout", "60s"])).expect_ok();
        assert_eq!(fs::read(&seen).unwrap(), name.as_bytes());
        let listed = fs::read_dir(reader.mounted("dir")).unwrap().count();
        assert_eq!(listed, round + 1);
    }
    eventually("nothing is taken back", Duration::from_secs(60), || {
        fs::read_dir(reader.mounted("dir")).unwrap().count() == ROUNDS
    });
}
