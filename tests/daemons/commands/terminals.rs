//! Commands on a terminal: columns, colours, questions, progress, and shell completion.

use std::fs;
use std::process::Command;

use macro_rules_attribute::apply;

use super::NEEDS;
use crate::readers::terminal::Terminal;
use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::promise;

#[apply(promise)]
fn the_shell_completes_names_of_the_cluster_shares_and_nodes() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    nodes[0].write("docs/paper one.txt", b"1");
    nodes[0].write("docs/other", b"1");
    nodes[0].write("-f", b"dash");
    nodes[1].wait_for_file("./-f");
    nodes[1].wait_for_file("docs/paper one.txt");
    nodes[1].wait_for_file("docs/other");
    let offered = |words: &[&str]| -> Vec<String> {
        let mut command = program();
        command.arg("--").arg("p2pfs").args(words);
        command
            .env("COMPLETE", "fish")
            .env("P2PFS_SOCKET", nodes[1].socket());
        let said = run(&mut command).expect_ok();
        let first = |line: &str| line.split('\t').next().unwrap_or_default().to_owned();
        said.lines().map(first).collect()
    };
    assert_eq!(offered(&["get", "d"]), ["docs/"]);
    assert_eq!(offered(&["get", ""])[..2], ["./-f", "docs/"]);
    let named = nodes[1].cli(&["ls", "--json", "./-f"]).expect_json();
    assert_eq!(named["entries"][0]["path"], "-f");
    assert_eq!(offered(&["pin", "docs/p"]), ["docs/paper one.txt"]);
    assert_eq!(
        offered(&["why", "docs/"]),
        ["docs/other", "docs/paper one.txt"]
    );
    assert_eq!(offered(&["ping", ""])[0], "one");
    let share = nodes[1].share.to_str().unwrap();
    assert_eq!(offered(&["share", "remove", "/"]), [share]);
    for shell in ["bash", "zsh", "fish"] {
        let script = run(program().args(["completions", shell])).expect_ok();
        assert!(script.contains("COMPLETE"), "{script}");
    }
}

/// Prints the completions that bash offers for a partly typed line. An offer replaces `replaced`.
const COMPLETES: &str = r#"
eval "$("$PROGRAM" completions bash)"
p2pfs() { "$PROGRAM" "$@"; }
set -- "$1" "$2" $(complete -p p2pfs)
while [ "$3" != -F ]; do set -- "$1" "$2" "${@:4}"; done
COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9 COMP_WORDS=($1) COMP_CWORD=2
"$4" p2pfs "$2" get 2>/dev/null
printf '%s\0' "${COMPREPLY[@]}"
"#;

#[apply(promise)]
fn a_name_completed_by_bash_is_one_word_for_any_content() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    let names = [
        "odd/$(touch evil)",
        "odd/`touch evil`",
        "odd/a file's name",
        "odd/colon:name",
        "odd/semicolon;touch evil",
    ];
    for name in names {
        nodes[0].write(name, b"1");
        nodes[1].wait_for_file(name);
    }
    nodes[0].write("odd/break\ntouch evil", b"1");
    nodes[1].wait_for_file("odd/break\ntouch evil");
    let bash = |script: &str, line: &str, replaced: &str| {
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-c", script, "bash", line, replaced])
            .env("PROGRAM", program().get_program())
            .env("P2PFS_SOCKET", nodes[1].socket())
            .current_dir(cluster.folder.path());
        run(&mut bash).expect_ok()
    };
    let offered = |line: &str, replaced: &str| -> Vec<String> {
        let offered = bash(COMPLETES, line, replaced);
        let offered = offered.split_terminator('\0').map(str::to_owned);
        offered.collect()
    };
    // Returns the word that the shell reads after the offer is inserted.
    let meant = |before: &str, offer: &str, after: &str| -> String {
        let line = format!("printf %s {before}{offer}{after}");
        bash(&line, "", "")
    };
    let all = offered("p2pfs get odd/", "odd/");
    let all: Vec<String> = all.iter().map(|offer| meant("", offer, "")).collect();
    assert_eq!(all, names);
    for (before, replaced, after, name) in [
        ("", r"odd/a\ fi", "", names[2]),
        ("'", "odd/a fi", "'", names[2]),
        ("\"", "odd/$(t", "\"", names[0]),
        ("odd/colon:", "na", "", names[3]),
    ] {
        let line = format!("p2pfs get {before}{replaced}");
        let offers = offered(&line, replaced);
        assert_eq!(offers.len(), 1, "{line}: {offers:?}");
        assert_eq!(meant(before, &offers[0], after), name, "{line}");
    }
    assert!(!cluster.folder.path().join("evil").exists());
}

/// Runs a command on a terminal of 80 columns to its end and returns its output.
fn on_terminal(command: &mut Command) -> String {
    let mut terminal = Terminal::open(24, 80);
    let mut child = terminal.run(command);
    let status = wait_child(&mut child, HANG_LIMIT);
    assert!(status.success(), "{command:?}: {}", terminal.shown());
    terminal.settle();
    terminal.shown()
}

/// Returns the text without colour escapes.
pub(super) fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        let end = after.find(|c: char| c.is_ascii_alphabetic()).unwrap();
        rest = &after[end + 1..];
    }
    plain + rest
}

#[apply(promise)]
fn output_for_people_fits_80_columns_has_names_and_optional_colour() {
    let mut cluster = Cluster::new();
    let mut nodes = cluster.start_all(&["a-machine-with-a-long-name", "two"]);
    nodes[0].write("docs/paper.txt", &noise(1, 300_000));
    nodes[0].write("more/paper.txt", &noise(3, 300_000));
    nodes[1].wait_for_file("more/paper.txt");
    nodes[0].write("diary", b"1");
    set_mode(&nodes[0].share.join("diary"), 0o600);
    nodes[1].wait_for_file("docs/paper.txt");
    // This file keeps its short name. The one in docs gets its node's label beside the winning
    // version.
    nodes[1].cli(&["prefetch", "more"]).expect_ok();
    nodes[1].write("docs/paper.txt", &noise(2, 300_000));
    (nodes[0].cli(&[
        "say",
        "more words than a line of a terminal has room for "
            .repeat(4)
            .trim(),
    ]))
    .expect_ok();
    eventually("what was said is told", HANG_LIMIT, || {
        let events = nodes[1].cli(&["events"]).expect_ok();
        events.contains("more words")
    });
    let key = nodes[0].cli(&["status", "--json"]).expect_json()["node"].to_string();
    let commands: [&[&str]; 9] = [
        &["status"],
        &["peers"],
        &["ls", "-l", "more"],
        &["share"],
        &["why", "docs/paper.txt"],
        &["cache", "ls"],
        &["events"],
        &["ping", "a-machine-with-a-long-name"],
        &["doctor"],
    ];
    for arguments in commands {
        let shown = on_terminal(&mut nodes[1].cli_command(arguments));
        for line in plain(&shown).lines() {
            assert!(line.chars().count() <= 80, "{arguments:?}: {line}");
        }
        assert!(!shown.contains(&key[1..17]), "{arguments:?}: {shown}");
        let bare = on_terminal(nodes[1].cli_command(arguments).env("NO_COLOR", "1"));
        assert!(!bare.contains("\x1b["), "{arguments:?}: {bare:?}");
    }
    assert!(on_terminal(&mut nodes[1].cli_command(&["doctor"])).contains("\x1b[3"));
    assert!(nodes[1].is_running());
}

#[apply(promise)]
fn leaving_is_confirmed_on_a_terminal_and_nothing_happens_without_a_yes() {
    let mut cluster = Cluster::new();
    let mut node = cluster.start("one");
    let leave = |answer: &[u8]| {
        let mut terminal = Terminal::open(24, 80);
        let mut child = terminal.run(&mut node.cli_command(&["leave"]));
        terminal.read_until("[y/N] ");
        terminal.write(answer);
        wait_child(&mut child, HANG_LIMIT).code()
    };
    assert_eq!(leave(b"\n"), Some(1));
    assert_eq!(leave(b"no\n"), Some(1));
    assert_eq!(leave(b"y\n"), Some(0));
    let ended = node.await_end();
    assert!(ended.status.success(), "{}", ended.stderr);
}

#[apply(promise)]
fn leaving_and_expelling_without_a_terminal_need_yes() {
    let mut cluster = Cluster::with_own_secrets();
    let [mut one, two] = ["one", "two"].map(|name| cluster.start(name));
    let token = one.cli(&["invite"]).expect_ok().trim().to_owned();
    two.cli(&["join", &token]).expect_ok();
    for command in [
        &["expel", "two"][..],
        &["leave"],
        &["expel", "two", "--json"],
    ] {
        let refused = one.cli(command);
        assert_eq!(refused.status.code(), Some(1), "{command:?}");
        let said = refused.stderr;
        assert!(
            said.contains("without a confirmation"),
            "{command:?}: {said}"
        );
        assert!(said.contains("--yes"), "{command:?}: {said}");
    }
    let trust = one.cli(&["trust", "--json"]).expect_json();
    assert_eq!(trust["members"].as_array().unwrap().len(), 2);
    one.cli(&["expel", "two", "--yes"]).expect_ok();
    one.cli(&["leave", "--yes"]).expect_ok();
    one.await_end().expect_ok();
}

#[apply(promise)]
fn an_expulsion_is_confirmed_on_a_terminal_and_nothing_happens_without_a_yes() {
    let mut cluster = Cluster::with_own_secrets();
    let [one, two] = ["one", "two"].map(|name| cluster.start(name));
    let token = one.cli(&["invite"]).expect_ok().trim().to_owned();
    (two.cli(&["join", &token])).expect_ok();
    let members = || {
        let trust = one.cli(&["trust", "--json"]).expect_json();
        trust["members"].as_array().unwrap().len()
    };
    let expel = |answer: &[u8]| {
        let mut terminal = Terminal::open(24, 80);
        let mut child = terminal.run(&mut one.cli_command(&["expel", "two"]));
        terminal.read_until("[y/N] ");
        terminal.write(answer);
        wait_child(&mut child, HANG_LIMIT).code()
    };
    assert_eq!(members(), 2);
    assert_eq!(expel(b"\n"), Some(1));
    assert_eq!(expel(b"no\n"), Some(1));
    assert_eq!(members(), 2);
    assert_eq!(expel(b"y\n"), Some(0));
    assert_eq!(members(), 1);
}

#[apply(promise)]
fn a_cluster_with_others_is_not_dropped_for_another_without_a_yes() {
    let mut cluster = Cluster::with_own_secrets();
    let nodes = ["one", "two", "other"].map(|name| cluster.start(name));
    let [one, two, other] = &nodes;
    let invite = ["invite", "--admin"];
    let token = |of: &Node| of.cli(&invite).expect_ok().trim().to_owned();
    // The node is alone in its own cluster. It loses nothing, so the command asks no question.
    on_terminal(&mut two.cli_command(&["join", &token(one)]));
    on_terminal(&mut two.cli_command(&["join", &token(one)]));
    let join = |answer: &[u8]| {
        let mut terminal = Terminal::open(24, 80);
        let mut child = terminal.run(&mut one.cli_command(&["join", &token(other)]));
        terminal.read_until("[y/N] ");
        assert!(
            terminal.shown().contains("with 1 more"),
            "{}",
            terminal.shown()
        );
        terminal.write(answer);
        wait_child(&mut child, HANG_LIMIT).code()
    };
    let epoch = || one.cli(&["trust", "--json"]).expect_json()["epoch"].clone();
    let before = epoch();
    assert_eq!(join(b"\n"), Some(1));
    let without_terminal = one.cli(&["join", &token(other)]);
    assert_eq!(without_terminal.status.code(), Some(1));
    assert!(
        without_terminal.stderr.contains("--yes"),
        "{}",
        without_terminal.stderr
    );
    assert_eq!(epoch(), before);
    assert_eq!(join(b"y\n"), Some(0));
    assert_ne!(epoch(), before);
    one.cli(&["join", &token(two), "--yes"]).expect_ok();
    assert_eq!(epoch(), before);
}

#[apply(promise)]
fn adding_a_share_shows_hashing_progress_on_a_terminal() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    let more = cluster.folder.path().join("more");
    fs::create_dir(&more).unwrap();
    set_mode(&more, 0o755);
    let file = more.join("large");
    fs::File::create(&file).unwrap().set_len(2 << 30).unwrap();
    set_mode(&file, 0o644);
    let dir = more.to_str().unwrap();
    let shown = on_terminal(&mut node.cli_command(&["share", "add", dir]));
    let shown = plain(&shown);
    assert!(shown.contains("0 of 1 file, "), "{shown}");
    assert!(shown.contains(" of 2.00 GiB read, "), "{shown}");
    assert!(shown.contains("/s, ") && shown.contains(" left"), "{shown}");
    // Without a measured rate, no rate is shown.
    assert!(
        !shown.contains(" 0 B/s") && !shown.contains("TiB/s"),
        "{shown}"
    );
    assert!(shown.contains("1 file, 2.0 GiB"), "{shown}");
    // The output has the whole file when the command ends.
    assert_eq!(node.cli(&["ls"]).expect_ok(), "large\n");
}

#[apply(promise)]
fn prefetching_shows_its_rate_and_time_left_on_a_terminal() {
    const MIB: usize = 1 << 20;
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["author", "reader"]);
    let reader = &nodes[1];
    for (name, size) in [("dir/before", 64 * MIB), ("dir/now", 12 * MIB)] {
        nodes[0].write(name, &noise(size as u64, size));
        reader.wait_for_file(name);
    }
    reader.cli(&["prefetch", "dir/before"]).expect_ok();
    reader.cli(&["limits", "--down", "4MiB/s"]).expect_ok();
    let shown = on_terminal(&mut reader.cli_command(&["prefetch", "dir"]));
    let shown = plain(&shown);
    assert!(shown.contains("MiB of 76.00 MiB"), "{shown}");
    let rates = shown.split("of 76.00 MiB, ").skip(1);
    let rates: Vec<&str> = rates
        .map(|said| {
            let (rate, rest) = said.split_once("/s, ").unwrap();
            let (left, _) = rest.split_once(" left").unwrap();
            assert!(left.len() < 10, "{shown}");
            rate
        })
        .collect();
    assert!(!rates.is_empty(), "{shown}");
    // With the bytes from before, the first rate would be more than ten times the limit.
    let is_slow = |rate: &&str| match rate.split_once(' ').unwrap() {
        (amount, "MiB") => amount.parse::<f64>().unwrap() < 20.0,
        (_, unit) => matches!(unit, "B" | "KiB"),
    };
    assert!(rates.iter().all(is_slow), "{shown}");
    assert!(shown.contains("2 files, 76.0 MiB: in the cache"), "{shown}");
    let piped = reader.cli(&["prefetch", "dir"]);
    assert_eq!(
        (piped.stderr.as_str(), piped.text().trim()),
        ("", "2 files, 76.0 MiB: in the cache")
    );
}

#[apply(promise)]
fn a_token_is_pasted_on_a_terminal_and_ends_with_its_line() {
    let mut cluster = Cluster::with_own_secrets();
    let (one, two) = (cluster.start("one"), cluster.start("two"));
    let token = one.cli(&["invite"]).expect_ok();
    let mut join = program();
    join.args(["join", "-"]).env("P2PFS_SOCKET", two.socket());
    let mut terminal = Terminal::open(24, 80);
    let mut child = terminal.run(&mut join);
    terminal.read_until("Paste the token: ");
    terminal.write(format!("{}\n", token.trim()).as_bytes());
    terminal.read_until("joined the cluster");
    assert!(wait_child(&mut child, HANG_LIMIT).success());
}
