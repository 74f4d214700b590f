//! The width of what the commands show on a terminal of 80 columns, with the longest names and with
//! paths longer than a line.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use macro_rules_attribute::apply;

use super::NEEDS;
use super::terminals::plain;
use crate::readers::terminal::Terminal;
use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::promise;

/// A program that reads a file and keeps it open.
const READER: &str = r#"exec 3<"$1"; head -c 1 <&3 >/dev/null; exec sleep 1000"#;
/// Columns of the terminal.
const COLUMNS: usize = 80;

/// Runs a command on a terminal to its end. Returns what it showed, without colours.
fn shown_by(command: &mut Command) -> String {
    let mut terminal = Terminal::open(24, 80);
    let mut child = terminal.run(command);
    wait_child(&mut child, HANG_LIMIT);
    terminal.settle();
    plain(&terminal.shown()).replace('\r', "")
}

#[track_caller]
fn assert_fits(what: &str, shown: &str) {
    println!("$ p2pfs {what}\n{shown}");
    assert!(!shown.trim().is_empty(), "{what}");
    for line in shown.lines() {
        assert!(line.chars().count() <= COLUMNS, "{what}: {line}\n{shown}");
    }
}

/// Joins the lines of a name that is longer than a line, as a shell does.
fn joined(shown: &str) -> String {
    shown.replace("\\\n", "")
}

#[apply(promise)]
#[takes("sh", "sleep")]
fn widths_of_all_transcripts_fit_a_terminal_with_the_longest_names() {
    let name = |first: &str| format!("{first}{}", "-of-the-house".repeat(5))[..63].to_owned();
    let (here, there) = (name("desk"), name("attic"));
    let mut cluster = Cluster::new();
    let mut other = cluster.start(&there);
    let node = cluster.start(&here);
    node.cli(&["wait", "--peers", "1"]).expect_ok();
    let deep = format!("{}paper.txt", "photos-of-the-year/".repeat(7));
    other.write(&deep, &noise(1, 300_000));
    node.wait_for_file(&deep);
    node.write(&deep, &noise(2, 300_000));
    let private = deep.replace("paper", "diary");
    node.write(&private, b"1");
    set_mode(&node.share.join(&private), 0o600);
    let path = node.mounted(&deep);
    let mut reader = Command::new("sh");
    let _reader = start(reader.args(["-c", READER, "sh"]).arg(path));
    eventually("the reader is seen", HANG_LIMIT, || {
        let top = node.cli(&["top", "--json", "--once"]).expect_json();
        !top["readers"].as_array().unwrap().is_empty()
    });
    let shows = |command: &[&str]| shown_by(&mut node.cli_command(command));
    let all = |moment: &str| {
        for command in ["status", "peers", "doctor", "share", "events"] {
            assert_fits(&format!("{command} ({moment})"), &shows(&[command]));
        }
        for path in [&deep, &private] {
            let why = shows(&["why", path]);
            assert_fits("why", &why);
            assert!(joined(&why).contains(&**path), "{why}");
        }
        assert_fits("top --once", &shows(&["top", "--once"]));
    };
    eventually("the private file is left out", HANG_LIMIT, || {
        let share = node.cli(&["share"]).expect_ok();
        share.contains("1 left out")
    });
    all("two nodes");
    let peers = shows(&["peers"]);
    assert!(peers.lines().any(|line| line.trim() == there), "{peers}");
    other.kill();
    eventually("the other node is down", 2 * HANG_LIMIT, || {
        let status = node.cli(&["status"]).expect_ok();
        status.contains("no other node answers (1 known)")
    });
    all("one node");
    let status = node.cli(&["status"]).expect_ok();
    let lines = status.lines().filter(|line| line.starts_with("peers "));
    assert_eq!(lines.count(), 1, "{status}");
}

#[apply(promise)]
fn errors_of_a_first_start_fit_a_terminal_with_paths_longer_than_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("photos-of-the-year/".repeat(7));
    fs::create_dir_all(&deep).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let at = |name: &str| deep.join(name).display().to_string();
    fs::write(at("file"), "").unwrap();
    for (config, more, words) in [
        ("nam = 'x'\n[cache]\nsize = '1'\n".to_owned(), None, "nam"),
        (format!("secret_file = '{}'\n", at("none")), None, "none"),
        (format!("listen = '{listen}'\n"), None, "cannot listen on"),
        (String::new(), Some(at("file")), "Not a directory"),
    ] {
        fs::write(at("p2pfs.toml"), config + "[mount]\nenabled = false\n").unwrap();
        let mut command = program();
        command.args(["daemon", "--config", &at("p2pfs.toml")]);
        let state = more.unwrap_or_else(|| at("state"));
        command.args(["--state", &state, "--cache", &at("cache")]);
        command.arg("--socket").arg(folder.path().join("sock"));
        let shown = shown_by(command.env("NO_COLOR", "1"));
        let error = shown.find("p2pfs:").unwrap_or_else(|| panic!("{shown}"));
        assert_fits("daemon", &shown[error..]);
        assert!(joined(&shown).contains(words), "{shown}");
    }
}
