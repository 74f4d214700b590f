//! The command line without a daemon: misuse, help, and the message of each failure.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use p2pfs::cli;
use p2pfs_proto::trust::InviteToken;
use p2pfs_types::id::NodeId;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::cli_manual::every_command;

/// Returns the program with a clean environment, in a separate directory.
pub(crate) fn p2pfs(dir: &Path) -> Command {
    let mut command = Command::cargo_bin("p2pfs").unwrap();
    command
        .env_clear()
        .env("HOME", dir)
        .env("P2PFS_SOCKET", dir.join("no.sock"))
        .current_dir(dir);
    command
}

pub(crate) fn run(dir: &Path, arguments: &[&str]) -> Output {
    p2pfs(dir).args(arguments).output().unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Returns a whole token, which no node issued.
pub(crate) fn whole_token() -> String {
    let token = InviteToken {
        issuer: NodeId::new([1; 32]),
        seeds: vec!["192.0.2.7:1378".parse().unwrap()],
        key: [3; 32].into(),
        expires_unix_s: 1_800_000_000,
    };
    token.encode()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// How long a command may take to find that no daemon runs. One that runs on is ended, and belongs
/// in [`NOT_ASKING`].
const ASKING_MAX: Duration = Duration::from_secs(30);
/// Commands that ask the daemon, where the arguments that [`asking`] would choose do not fit or do
/// not suffice.
const ASKING: &[&[&str]] = &[
    &["status"],
    &["peers", "--json"],
    &["top"],
    &["top", "--once", "--json"],
    &["ls"],
    &["ls", "/docs", "-l"],
    &["get", "a"],
    &["why", "a"],
    &["share"],
    &["share", "ls"],
    &["ping", "lab-2"],
    &["limits"],
    &["limits", "--up", "1MiB/s"],
    &["limits", "--metered", "on"],
    &["share", "add", "."],
    &["share", "remove", "/gone"],
    &["invite"],
    &["leave"],
    &["cache", "ls"],
    &["cache", "clear"],
    &["cache", "verify"],
    &["cache", "resize", "1GiB"],
    &["pin", "a"],
    &["unpin", "a"],
    &["prefetch", "a", "b"],
    &["events", "--follow"],
    &["own", "/docs", "lab-2"],
    &["write", "on"],
    &["write", "on", "."],
];

/// Every other command, which runs without a daemon, waits for one, or reports that none runs.
const NOT_ASKING: &[&str] = &[
    "daemon",
    "demo",
    "wait",
    "join",
    "doctor",
    "config show",
    "legacy-shell",
    "mesh-shell",
    "mount-broker",
    "completions",
];

/// Returns the names of the commands that contain no others: `cache ls`.
fn leaves() -> BTreeMap<String, clap::Command> {
    let mut found = Vec::new();
    every_command(&cli::command(), "", &mut found);
    let leaves = found
        .into_iter()
        .filter(|(_, command)| command.get_subcommands().next().is_none());
    let named = leaves.map(|(name, command)| (name.trim_start().to_owned(), command));
    named.collect()
}

/// Returns the command lines of [`ASKING`], and one for each command that is in neither list. The
/// name of a file takes the place of each argument that it needs.
fn asking() -> Vec<Vec<String>> {
    let lines = ASKING
        .iter()
        .map(|line| line.iter().map(|it| (*it).to_owned()));
    let mut lines: Vec<Vec<String>> = lines.map(Iterator::collect).collect();
    for (name, command) in leaves() {
        let words = name.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let is_listed = lines.iter().any(|line| line.starts_with(&words));
        if is_listed || NOT_ASKING.contains(&&*name) {
            continue;
        }
        let needed = command
            .get_positionals()
            .filter(|argument| argument.is_required_set())
            .map(|_| "a".to_owned());
        lines.push(words.into_iter().chain(needed).collect());
    }
    lines
}

#[test]
fn every_command_that_does_not_ask_the_daemon_exists() {
    let leaves = leaves();
    let gone = NOT_ASKING
        .iter()
        .filter(|name| !leaves.contains_key(**name));
    assert_eq!(Vec::from_iter(gone), Vec::<&&str>::new());
}

#[test]
fn without_a_daemon_every_command_fails_with_one_line_and_a_remedy() {
    let dir = dir();
    // `send` looks for its file before it asks.
    fs::write(dir.path().join("a"), "content").unwrap();
    for arguments in asking() {
        let mut command = p2pfs(dir.path());
        let output = command
            .args(&arguments)
            .timeout(ASKING_MAX)
            .output()
            .unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(
            said.starts_with("p2pfs: no daemon answers on "),
            "{arguments:?}: {said}"
        );
        assert!(
            said.contains("; start it: systemctl start p2pfs, or p2pfs daemon"),
            "{said}"
        );
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn misuse_is_exit_code_2_and_help_is_0() {
    let dir = dir();
    for arguments in [
        &[][..],
        &["explode"],
        &["status", "--no-such-flag"],
        &["get"],
        &["pin"],
        &["wait", "--timeout", "10"],
        &["wait", "--timeout", "-1s"],
        &["wait", "--peers", "many"],
        &["cache", "resize", "big"],
        &["cache", "resize", "0GiB"],
        &["invite", "--expires", "0s"],
        &["invite", "--expires", "500ms"],
        &["wait", "--peers", "x"],
        &["daemon", "--listen", "here"],
        &["daemon", "--name", "a/b"],
        &["daemon", "--seed", "x"],
        &["daemon", "--cache-size", "10"],
        &["demo", "--nodes", "1"],
        &["completions", "tcsh"],
        &["share", "add"],
        &["share", "explode"],
        &["ping"],
        &["ping", "a", "--count", "0"],
        &["config"],
        &["limits", "--up", "10MiB"],
        &["limits", "--down", "1B/s"],
        &["limits", "--up", "none", "--configured"],
        &["limits", "--metered", "perhaps"],
        &["config", "explode"],
        &["doctor", "now"],
    ] {
        let output = run(dir.path(), arguments);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{arguments:?}"
        );
    }
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["daemon", "--help"],
        &["help", "get"],
    ] {
        let output = run(dir.path(), arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty());
    }
}

#[test]
fn a_bad_amount_is_refused_with_what_is_accepted() {
    let dir = dir();
    let said = stderr(&run(dir.path(), &["daemon", "--cache-size", "10"]));
    assert!(said.contains("no unit") && said.contains("10GiB"), "{said}");
}

#[test]
fn completions_exist_for_three_shells() {
    let dir = dir();
    for shell in ["bash", "zsh", "fish"] {
        let output = run(dir.path(), &["completions", shell]);
        assert!(output.status.success());
        assert!(stdout(&output).contains("COMPLETE"), "{shell}");
    }
    // Completion of commands does not need a daemon.
    let mut offered = p2pfs(dir.path());
    let offered = offered
        .env("COMPLETE", "fish")
        .args(["--", "p2pfs", "pref"]);
    assert!(stdout(&offered.output().unwrap()).starts_with("prefetch\t"));
    let mut switched = p2pfs(dir.path());
    let switched =
        switched
            .env("COMPLETE", "fish")
            .args(["--", "p2pfs", "limits", "--metered", ""]);
    assert_eq!(stdout(&switched.output().unwrap()), "on\noff\n");
    for place in ["", "x/"] {
        let mut offered = p2pfs(dir.path());
        let offered = offered
            .env("COMPLETE", "fish")
            .args(["--", "p2pfs", "get", place]);
        assert!(offered.output().unwrap().status.success(), "{place}");
    }
}

#[test]
fn wait_gives_up_at_its_timeout() {
    let dir = dir();
    let begun = Instant::now();
    let output = run(dir.path(), &["wait", "--mounted", "--timeout", "200ms"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(begun.elapsed() >= Duration::from_millis(200));
    let said = stderr(&output);
    assert!(
        said.starts_with("p2pfs: not so within 200ms: no daemon answers"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1);
}

#[test]
fn a_token_given_before_the_first_start_is_stored_privately() {
    let dir = dir();
    let state = dir.path().join("state");
    let state_argument = state.to_str().unwrap();
    let token = whole_token();
    let output = run(dir.path(), &["join", "--state", state_argument, &token]);
    assert!(output.status.success(), "{}", stderr(&output));
    let file = state.join("join-token");
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("{token}\n"));
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let said = stdout(&output);
    assert!(
        said.contains("stored") && said.contains("start the daemon"),
        "{said}"
    );
}

#[test]
fn a_token_is_not_stored_beside_a_running_daemon_on_another_socket() {
    let dir = dir();
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    let lock = fs::File::create(state.join("lock")).unwrap();
    lock.lock().unwrap();
    let token = whole_token();
    let arguments = ["join", "--state", state.to_str().unwrap(), &token];
    let output = run(dir.path(), &arguments);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.contains("belongs to a running daemon") && said.contains("--socket"),
        "{said}"
    );
    assert!(!state.join("join-token").exists());
    drop(lock);
    assert!(run(dir.path(), &arguments).status.success());
}

#[test]
fn a_token_is_not_stored_for_another_daemon_if_the_named_socket_is_wrong() {
    let dir = dir();
    let wrong = dir.path().join("wrong.sock");
    let token = whole_token();
    let mut command = p2pfs(dir.path());
    command.env("HOME", dir.path());
    let output = command
        .args(["join", "--socket", wrong.to_str().unwrap(), &token])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.contains("no daemon answers on") && said.contains("wrong.sock"),
        "{said}"
    );
    assert!(!stdout(&output).contains("stored"));
}

#[test]
fn a_listen_address_without_its_form_is_refused_with_the_form() {
    let dir = dir();
    for wrong in ["22001", "127.0.0.1", "localhost:22001"] {
        let output = run(dir.path(), &["daemon", "--listen", wrong]);
        assert_eq!(output.status.code(), Some(2));
        let said = stderr(&output);
        assert!(said.contains("write ADDRESS:PORT, such as"), "{said}");
    }
}

#[test]
fn an_empty_standard_input_is_reported_as_such() {
    let dir = dir();
    let mut command = p2pfs(dir.path());
    let output = command
        .args(["join", "-"])
        .write_stdin("\n")
        .output()
        .unwrap();
    let said = stderr(&output);
    assert!(said.contains("nothing was read"), "{said}");
}

#[test]
fn a_token_is_read_from_standard_input_and_the_state_directory_from_the_configuration() {
    let dir = dir();
    let state = dir.path().join("elsewhere");
    let config = dir.path().join("p2pfs.toml");
    fs::write(&config, format!("state_dir = '{}'\n", state.display())).unwrap();
    let mut command = p2pfs(dir.path());
    command
        .args(["join", "-", "--config"])
        .arg(&config)
        .write_stdin(format!("{}\n", whole_token()));
    command.assert().success();
    assert_eq!(
        fs::read_to_string(state.join("join-token")).unwrap(),
        format!("{}\n", whole_token())
    );
}

#[test]
fn a_broken_token_is_refused_with_the_sentence_of_the_daemon_and_not_stored() {
    let dir = dir();
    let state = dir.path().join("state");
    let whole = whole_token();
    for broken in ["p2pfs1-abcdef", &whole[..whole.len() - 9]] {
        let arguments = ["join", "--state", state.to_str().unwrap(), broken];
        let output = run(dir.path(), &arguments);
        assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
        let sentence = InviteToken::parse(broken).unwrap_err().to_string();
        assert!(sentence.contains("not a whole invitation"), "{sentence}");
        assert_eq!(stderr(&output), format!("p2pfs: {sentence}\n"));
    }
    assert!(!state.exists());
}

#[test]
fn an_invalid_token_is_refused_and_not_stored() {
    let dir = dir();
    let state = dir.path().join("state");
    for token in ["hello", "p2pfs1-", "p2pfs1-a b"] {
        let output = run(
            dir.path(),
            &["join", "--state", state.to_str().unwrap(), token],
        );
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("make one on a node of the cluster: p2pfs invite"));
    }
    assert!(!state.exists());
}

#[test]
fn check_config_prints_the_effective_settings() {
    let dir = dir();
    let config = dir.path().join("p2pfs.toml");
    fs::write(&config, "name = 'file'\n[cache]\nsize = '1GiB'\n").unwrap();
    let mut command = p2pfs(dir.path());
    command
        .args(["daemon", "--check-config", "--config"])
        .arg(&config);
    command.args([
        "--name", "flag", "--share", "relative", "--mount", "/m", "--seed", "a:1",
    ]);
    command
        .env("P2PFS_LOG_LEVEL", "debug")
        .env("P2PFS_CACHESIZE", "1GiB");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let printed = stdout(&output);
    for line in [
        format!("# from {}", config.display()),
        "# warning: P2PFS_CACHESIZE in the environment is not a setting and was ignored; did you \
         mean P2PFS_CACHE_SIZE?"
            .to_owned(),
        "name = \"flag\"".to_owned(),
        "seeds = [\"a:1\"]".to_owned(),
        "size = \"1GiB\"".to_owned(),
        "level = \"debug\"".to_owned(),
        "dir = \"/m\"".to_owned(),
        format!(
            "dir = \"{}/relative\"",
            dir.path().canonicalize().unwrap().display()
        ),
    ] {
        assert!(
            printed.lines().any(|printed| printed == line),
            "no {line} in\n{printed}"
        );
    }
}

#[test]
fn without_a_daemon_config_show_uses_the_file_named_by_the_environment() {
    let dir = dir();
    let config = dir.path().join("other.toml");
    fs::write(&config, "name = 'named'\n").unwrap();
    let mut command = p2pfs(dir.path());
    command
        .args(["config", "show"])
        .env("P2PFS_CONFIG", &config);
    let output = command.output().unwrap();
    let shown = stdout(&output);
    assert!(
        shown.contains("name = \"named\""),
        "{shown}{}",
        stderr(&output)
    );
}

#[test]
fn a_wrong_configuration_stops_the_start_and_names_its_line() {
    let dir = dir();
    let config = dir.path().join("p2pfs.toml");
    fs::write(&config, "\n[mount]\nread_deadline = \"10\"\n").unwrap();
    for extra in [&["--check-config"][..], &[]] {
        let mut command = p2pfs(dir.path());
        command
            .args(["daemon", "--config"])
            .arg(&config)
            .args(extra);
        let output = command.output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(78));
        let place = format!("p2pfs: {}:3:17: mount.read_deadline: ", config.display());
        assert!(said.starts_with(&place), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn an_unusable_secret_file_is_a_configuration_error() {
    let dir = dir();
    let secret = dir.path().join("secret");
    fs::write(&secret, "no secret").unwrap();
    let mut command = p2pfs(dir.path());
    command
        .args(["daemon", "--check-config", "--secret-file"])
        .arg(&secret);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("secret_file: "),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_state_directory_that_is_a_file_is_named_as_the_cause() {
    let dir = dir();
    fs::write(dir.path().join("state"), "").unwrap();
    let options = ["--state", "--cache", "--socket", "--mount"];
    let places = ["state", "c", "s", "m"];
    let mut command = p2pfs(dir.path());
    command.args(["daemon", "--listen", "127.0.0.1:0"]);
    for (option, place) in options.iter().zip(places) {
        command.args([option, place]);
    }
    let output = command.output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.ends_with("name a directory with --state\n"), "{said}");
    assert!(!said.contains("shares.toml"), "{said}");
}

#[test]
fn help_fits_a_line() {
    fn each(command: &clap::Command, words: &mut Vec<String>, dir: &Path) {
        let asked = words.iter().map(String::as_str).chain(["--help"]);
        let output = run(dir, &asked.collect::<Vec<_>>());
        let help = stdout(&output);
        let long: Vec<&str> = help.lines().filter(|it| it.chars().count() > 80).collect();
        assert!(long.is_empty(), "{words:?}: {long:?}");
        for inner in command.get_subcommands() {
            words.push(inner.get_name().to_owned());
            each(inner, words, dir);
            words.pop();
        }
    }
    each(&p2pfs::cli::command(), &mut Vec::new(), dir().path());
}

#[test]
fn a_secret_that_is_not_a_file_is_refused_at_once() {
    let dir = dir();
    let secret = dir.path().join("secret");
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, &secret, FileType::Fifo, mode, 0).unwrap();
    for place in [secret.as_path(), dir.path()] {
        let mut command = p2pfs(dir.path());
        command
            .args(["daemon", "--check-config", "--secret-file"])
            .arg(place)
            .timeout(Duration::from_secs(20));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{}", stderr(&output));
        let said = stderr(&output);
        assert!(said.contains("it is not a regular file"), "{said}");
    }
}

#[test]
fn a_system_folder_is_not_shared_by_flag_without_confirmation() {
    let dir = dir();
    for folder in ["/etc", "/"] {
        let output = run(dir.path(), &["daemon", "--share", folder]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(
            stderr(&output).contains("or give --yes"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn help_and_version_fail_when_they_cannot_be_written() {
    let dir = dir();
    for flag in ["--version", "--help"] {
        let full = fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let program = env!("CARGO_BIN_EXE_p2pfs");
        let mut command = std::process::Command::new(program);
        let output = command
            .current_dir(dir.path())
            .arg(flag)
            .stdout(full)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{flag}");
        assert!(
            stderr(&output).contains("cannot write the output"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn an_unreadable_input_of_a_shell_is_not_called_an_output_error() {
    let dir = dir();
    let program = env!("CARGO_BIN_EXE_p2pfs");
    let mut command = std::process::Command::new(program);
    command.env_clear().env("HOME", dir.path());
    let output = command
        .arg("legacy-shell")
        .stdin(fs::File::open("/").unwrap())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("cannot read the input: Is a dir"), "{said}");
}

#[test]
fn a_request_for_legacy_peers_is_refused_and_not_ignored() {
    let dir = dir();
    let mut command = p2pfs(dir.path());
    command
        .args(["daemon", "--check-config"])
        .env("P2P_CLUSTER", "127.0.0.1:1378");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let output = run(dir.path(), &["daemon", "--legacy", "--check-config"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_non_text_argument_is_refused_by_its_name() {
    let dir = dir();
    let mut command = p2pfs(dir.path());
    command.arg("say").arg(OsStr::from_bytes(b"caf\xe9"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(said.contains("a chat line must be UTF-8 text"), "{said}");
}

#[test]
fn a_missing_folder_is_not_shared() {
    let dir = dir();
    let output = run(dir.path(), &["share", "add", "missing"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot share missing"));
    fs::write(dir.path().join("file"), "").unwrap();
    let output = run(dir.path(), &["share", "add", "file"]);
    assert!(stderr(&output).contains("it is not a folder"));
}
