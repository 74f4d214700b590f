//! The demo under adverse conditions.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use macro_rules_attribute::apply;
use rustix::process::{Pid, Signal};

use crate::support::process::{program, run};
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

#[apply(promise)]
fn a_demo_without_a_reader_cleans_up_and_ends() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("demo");
    let mut demo = program();
    demo.args(["demo", "--once", "--nodes", "2", "--dir"])
        .arg(&folder);
    demo.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut demo = demo.spawn().unwrap();
    let mut first = String::new();
    let mut output = BufReader::new(demo.stdout.take().unwrap());
    output.read_line(&mut first).unwrap();
    assert!(first.starts_with("starting 2 nodes"), "{first}");
    drop(output);
    let mut said = String::new();
    let mut errors = demo.stderr.take().unwrap();
    errors.read_to_string(&mut said).unwrap();
    let status = demo.wait().unwrap();
    assert!(status.success() && said.is_empty(), "{status}: {said}");
    let left = fs::read_dir(&folder).map(Iterator::count).unwrap_or(0);
    assert_eq!(left, 0, "something stayed in its folder");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(folder.to_str().unwrap()), "{mounts}");
}

/// Returns the process of a demo's node once it runs.
fn process_of(demo: u32, node: &str) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{demo}/task/{demo}/children")).ok()?;
    let is_node = |pid: &&str| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        command.contains("\0daemon\0") && command.contains(&format!("/{node}/"))
    };
    children.split_whitespace().find(is_node)?.parse().ok()
}

#[apply(promise)]
fn a_demo_without_a_reader_still_reports_a_failed_node() {
    let parent = tempfile::tempdir().unwrap();
    let mut demo = program();
    demo.args(["demo", "--once", "--nodes", "2", "--dir"]);
    demo.arg(parent.path().join("demo"));
    demo.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut demo = demo.spawn().unwrap();
    drop(demo.stdout.take());
    let node = loop {
        if let Some(node) = process_of(demo.id(), "node2") {
            break node;
        }
        assert_eq!(demo.try_wait().unwrap(), None, "it ended before its tour");
        std::thread::yield_now();
    };
    rustix::process::kill_process(Pid::from_raw(node).unwrap(), Signal::KILL).unwrap();
    let ended = demo.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("node2"), "{said}");
}

#[apply(promise)]
fn a_demo_shows_its_own_files_regardless_of_user_settings() {
    let parent = tempfile::tempdir().unwrap();
    let mine = parent.path().join("mine");
    fs::create_dir(&mine).unwrap();
    fs::write(mine.join("private.txt"), "not for the demo").unwrap();
    let mut demo = program();
    demo.args(["demo", "--once", "--nodes", "2", "--dir"]);
    demo.arg(parent.path().join("demo"));
    demo.env("P2P_FOLDER", &mine).env("P2PFS_SHARE_DIR", &mine);
    demo.env("P2P_CLUSTER", "127.0.0.1:9")
        .env("P2PFS_LIMITS_UP", "64KiB/s");
    let ended = demo.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(
        ended.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    assert!(!said.contains("private.txt"), "{said}");
}

#[apply(promise)]
#[takes("sh")]
fn a_shell_runs_the_commands_that_a_demo_suggests() {
    let parent = tempfile::tempdir().unwrap();
    let mut demo = program();
    demo.args(["demo", "--nodes", "2", "--dir"]);
    demo.arg(parent.path().join("a demo"));
    demo.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut demo = demo.spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let mut suggested = lines.by_ref().map(Result::unwrap);
    suggested.find(|line| line.starts_with("The nodes stay up"));
    let suggested: Vec<String> = suggested
        .take_while(|line| !line.starts_with("Ctrl-C"))
        .collect();
    let suggested = suggested.join("\n").replace("\\\n", "");
    let status = suggested.lines().find(|line| line.contains(" status "));
    let shown = run(Command::new("sh").args(["-c", status.expect(&suggested)]));
    rustix::process::kill_process(Pid::from_child(&demo), Signal::INT).unwrap();
    assert!(demo.wait().unwrap().success());
    assert!(shown.expect_ok().contains("node1"), "{suggested}");
}
