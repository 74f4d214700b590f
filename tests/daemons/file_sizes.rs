//! A limit on the size of files (`ulimit -f`): one write fails, and the daemon goes on.

use std::fs;
use std::process::Command;

use macro_rules_attribute::apply;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

#[apply(promise)]
fn a_daemon_with_a_file_size_limit_still_reads() {
    let mut cluster = Cluster::new();
    let mut nodes = cluster.start_all(&["owner", "reader"]);
    let bytes = noise(1, 4 << 20);
    nodes[0].write("large", &bytes);
    nodes[1].wait_for_file("large");
    let pid = Pid::from_raw(nodes[1].pid().cast_signed());
    let limit = |limit| prlimit(pid, Resource::Fsize, limit).unwrap();
    let before = limit(Rlimit {
        current: Some(256 << 10),
        maximum: None,
    });
    assert!(fs::read(nodes[1].mounted("large")).unwrap() == bytes);
    limit(before);
    assert!(nodes[1].is_running());
    let status = nodes[1].cli(&["status", "--json"]).expect_json();
    assert_eq!(status["cache"]["complete_files"], 0, "{status}");
}

#[apply(promise)]
fn get_reports_a_file_size_limit_and_leaves_no_file() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    node.write("large", &noise(1, 1 << 20));
    node.wait_for_file("large");
    let folder = node.home.join("got");
    fs::create_dir(&folder).unwrap();
    let get = node.cli_command(&["get", "large", "-o", folder.to_str().unwrap()]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 8; exec \"$@\"", "sh"]);
    limited.arg(get.get_program()).args(get.get_args());
    let set = get
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    limited.envs(set);
    let ended = run(&mut limited);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("File too large"), "{}", ended.stderr);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}
