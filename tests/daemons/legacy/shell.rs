//! `p2pfs legacy-shell`: a session of the original program, word for word, from both ends.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use macro_rules_attribute::apply;

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::legacy_peer::OldPeer;
use crate::support::ports::free_port;
use crate::support::process::*;
use crate::support::promise::{Need, promise};
use crate::support::shell::Shell;

const NEEDS: &[Need] = &[];

const PROMPT: &str =
    "Enter a file you want to download or 'list' to see the cluster ('quit' to exit)";

fn start(dir: &Path, variables: &[(&str, &str)]) -> Shell {
    let mut command = program();
    command.arg("legacy-shell").envs(variables.iter().copied());
    Shell::start(command.current_dir(dir))
}

/// Types the program's word for the end, and waits for the end.
#[track_caller]
fn ends(mut shell: Shell, word: &str) {
    shell.types(word);
    shell.shows_next(&["Shutting down...", "Shutdown complete"]);
    assert!(shell.ended().success() && shell.is_all_seen());
}

fn folder(home: &Path, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
    let folder = home.join(name);
    fs::create_dir(&folder).unwrap();
    set_mode(&folder, 0o755);
    for (file, bytes) in files {
        fs::write(folder.join(file), bytes).unwrap();
        set_mode(&folder.join(file), 0o644);
    }
    folder
}

#[track_caller]
fn answer_the_questions(shell: &mut Shell, folder: &Path, member: &str) {
    shell.shows_next(&["Enter the folder you want to share:"]);
    shell.types(&folder.display().to_string());
    shell.shows_next(&["Enter your cluster members list (one per line, enter 'q' to finish):"]);
    shell.types(member);
    shell.shows_next(&[&format!("Added: {member}")]);
    shell.types("q");
    shell.shows_next(&[PROMPT]);
}

#[apply(promise)]
fn the_old_tutorial_works_word_for_word_at_both_ends() {
    let home = tempfile::tempdir().unwrap();
    set_mode(home.path(), 0o755);
    let resume = noise(3, 300_000);
    let shared = folder(home.path(), "shared", &[]);
    let documents = folder(home.path(), "documents", &[("resume.pdf", &resume)]);
    let ports = [free_port(), free_port()];
    let open = |port: u16| {
        let port = port.to_string();
        start(home.path(), &[("P2P_PORT", &port), ("P2P_PERIOD", "1")])
    };
    let (mut a, mut b) = (open(ports[0]), open(ports[1]));
    let [at_a, at_b] = ports.map(|port| format!("127.0.0.1:{port}"));
    answer_the_questions(&mut a, &shared, &at_b);
    answer_the_questions(&mut b, &documents, &at_a);
    a.types("list");
    a.shows_next(&["Cluster members:", &format!("  1. {at_b}"), PROMPT]);
    a.types("get resume.pdf");
    b.shows_next(&[
        "A client has connected!",
        "Sending filename and filesize!",
        "Start sending file",
        "File has been sent, closing connection!",
    ]);
    a.shows_next(&["Received file completely!", PROMPT]);
    assert!(fs::read(shared.join("resume.pdf")).unwrap() == resume);
    b.types("list");
    b.shows_next(&["Cluster members:", &format!("  1. {at_a}"), PROMPT]);
    ends(a, "quit");
    ends(b, "exit");
    let left: Vec<_> = fs::read_dir(&shared).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[apply(promise)]
fn a_shell_whose_program_was_upgraded_continues() {
    let home = tempfile::tempdir().unwrap();
    set_mode(home.path(), 0o755);
    let shared = folder(home.path(), "shared", &[]);
    let peer = OldPeer::start(Duration::ZERO);
    peer.gives_file("theirs.txt", b"theirs");
    let before = home.path().join("p2pfs");
    copy_program(program().get_program().to_str().unwrap(), &before);
    let mut command = Command::new(&before);
    let port = free_port().to_string();
    command.arg("legacy-shell").env("P2P_PORT", port);
    let mut shell = Shell::start(command.current_dir(home.path()));
    answer_the_questions(&mut shell, &shared, peer.address());
    // A package replaces the program in this way.
    let upgraded = home.path().join("upgraded");
    fs::write(&upgraded, "of another version").unwrap();
    fs::rename(&upgraded, &before).unwrap();
    shell.types("get theirs.txt");
    shell.shows_next(&["Received file completely!", PROMPT]);
    assert_eq!(fs::read(shared.join("theirs.txt")).unwrap(), b"theirs");
    ends(shell, "quit");
}

#[apply(promise)]
fn every_answer_is_that_of_the_old_program() {
    let home = tempfile::tempdir().unwrap();
    set_mode(home.path(), 0o755);
    let shared = folder(home.path(), "shared", &[("ours.txt", b"ours")]);
    fs::write(home.path().join("a file"), b"").unwrap();
    let peer = OldPeer::start(Duration::ZERO);
    peer.gives_file("theirs.txt", b"theirs");
    let port = free_port().to_string();
    let mut shell = start(
        home.path(),
        &[
            ("P2P_PORT", &port),
            ("P2P_PERIOD", "1"),
            ("P2P_WAITING", "3"),
        ],
    );
    shell.shows_next(&["Enter the folder you want to share:"]);
    shell.types("/nowhere at all");
    shell.shows_next(&[
        "Couldn't find the folder, please try again",
        "Enter the folder you want to share:",
    ]);
    shell.types("a file");
    shell.shows_next(&[
        "Path is not a directory, please try again",
        "Enter the folder you want to share:",
    ]);
    shell.types("shared");
    shell.shows_next(&["Enter your cluster members list (one per line, enter 'q' to finish):"]);
    shell.types("nonsense");
    shell.shows_next(&["Invalid address format. Use IP:Port (e.g., 127.0.0.1:1378)"]);
    shell.types("");
    shell.types("q");
    shell.shows_next(&[PROMPT]);
    shell.types("list");
    shell.shows_next(&["Cluster members:", "  (no members)", PROMPT]);
    shell.types("get");
    shell.shows_next(&["Usage: get <filename>", PROMPT]);
    shell.types("help");
    shell.shows_next(&[
        "Unknown command. Use 'list', 'get <filename>', or 'quit'",
        PROMPT,
    ]);
    // A member was not typed by the user. A name that no member has prints nothing.
    let node: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    peer.say(node, format!("DISCOVER,{node}\n").as_bytes());
    eventually("the peer is told of the node", HANG_LIMIT, || {
        !peer.members().is_empty()
    });
    shell.types("list");
    shell.shows_next(&[
        "Cluster members:",
        &format!("  1. {}", peer.address()),
        PROMPT,
    ]);
    shell.types("get absent.txt");
    shell.shows_next(&[PROMPT]);
    shell.types("get theirs.txt");
    shell.shows_next(&["Received file completely!", PROMPT]);
    assert_eq!(fs::read(shared.join("theirs.txt")).unwrap(), b"theirs");
    // The answer is immediate, because that peer has answered before.
    assert_eq!(peer.get("ours.txt", HANG_LIMIT).unwrap().bytes, b"ours");
    shell.shows_next(&[
        "A client has connected!",
        "Sending filename and filesize!",
        "Start sending file",
        "File has been sent, closing connection!",
    ]);
    ends(shell, "quit");
}

#[apply(promise)]
fn ctrl_c_leaves_nothing_behind() {
    let home = tempfile::tempdir().unwrap();
    set_mode(home.path(), 0o755);
    let shared = folder(home.path(), "shared", &[]);
    let port = free_port().to_string();
    let temporary = home.path().display().to_string();
    let variables = [("P2P_PORT", port.as_str()), ("TMPDIR", &temporary)];
    let mut shell = start(home.path(), &variables);
    answer_the_questions(&mut shell, &shared, "127.0.0.1:7");
    let kept = || {
        let all = fs::read_dir(home.path()).unwrap().flatten();
        all.filter(|entry| entry.file_name() != "shared").count()
    };
    assert_eq!(kept(), 1, "the daemon's own folder");
    shell.interrupt();
    shell.ended();
    assert_eq!(kept(), 0);
    let port: u16 = port.parse().unwrap();
    assert!(
        UdpSocket::bind(("127.0.0.1", port)).is_ok(),
        "its daemon is gone"
    );
}

#[apply(promise)]
fn the_old_variables_and_config_yml_ask_nothing() {
    let home = tempfile::tempdir().unwrap();
    set_mode(home.path(), 0o755);
    let shared = folder(home.path(), "shared", &[]);
    let peer = OldPeer::start(Duration::ZERO);
    let port = free_port();
    let old = format!("host: \"127.0.0.1\" # ours\nport: {port}\nperiod: 1\nwaiting: 3\n");
    fs::write(home.path().join("config.yml"), old).unwrap();
    let cluster = format!("{}, localhost:7", peer.address());
    let folder = shared.display().to_string();
    let mut shell = start(
        home.path(),
        &[("P2P_FOLDER", &folder), ("P2P_CLUSTER", &cluster)],
    );
    shell.shows_next(&[
        "Using environment configuration:",
        &format!("  Folder: {folder}"),
        &format!("  Cluster: {cluster}"),
        PROMPT,
    ]);
    let node = format!("127.0.0.1:{port}");
    eventually(
        "the peer hears of the port of config.yml",
        HANG_LIMIT,
        || peer.members().contains(&node),
    );
    shell.types("list");
    shell.shows_next(&[
        "Cluster members:",
        &format!("  1. {}", peer.address()),
        "  2. localhost:7",
        PROMPT,
    ]);
    ends(shell, "quit");
}
