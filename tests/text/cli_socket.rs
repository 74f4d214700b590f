//! The command line with a socket that has no daemon, or a silent one.

use std::fs;
use std::os::unix::net::UnixListener;

use super::cli_alone::{dir, p2pfs, run, stderr};

#[test]
fn a_silent_daemon_is_not_reported_as_stopped() {
    let dir = dir();
    // A caller is connected and gets no answer.
    let _silent = UnixListener::bind(dir.path().join("no.sock")).unwrap();
    let output = run(dir.path(), &["wait", "--mounted", "--timeout", "200ms"]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.starts_with("p2pfs: not so within 200ms: the daemon does not answer; see what"),
        "{said}"
    );
    assert!(said.contains("journalctl -u p2pfs"), "{said}");
    assert!(!said.contains("systemctl start"), "{said}");
}

#[test]
fn an_impossible_socket_path_is_reported_with_an_alternative() {
    let dir = dir();
    fs::write(dir.path().join("file"), "").unwrap();
    let long = "s".repeat(200);
    for command in ["status", "wait", "doctor"] {
        let said = stderr(&run(dir.path(), &[command, "--socket", &long]));
        let wanted = ": a socket's path has at most 107 bytes, and this one 200; name it by a";
        assert!(said.contains(wanted), "{command}: {said}");
        for other in ["file", "."] {
            let said = stderr(&run(dir.path(), &[command, "--socket", other]));
            let wanted = format!("p2pfs: {other} is not a socket; name the control socket of");
            assert!(said.starts_with(&wanted), "{command}: {said}");
        }
    }
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let dir = dir();
    let says = |arguments: &[&str]| {
        let mut command = p2pfs(dir.path());
        command.env("P2PFS_CONFIG", "").env("P2PFS_SOCKET", "");
        let output = command.args(arguments).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
        (output.status.code(), told)
    };
    let (code, told) = says(&["daemon", "--check-config", "--name", "n"]);
    assert_eq!(code, Some(0), "{told}");
    assert!(
        told.contains("name = \"n\"") && !told.contains("socket = \"\""),
        "{told}"
    );
    for command in [&["wait", "--timeout", "0s"][..], &["doctor"]] {
        let (code, told) = says(command);
        assert_ne!(code, Some(2), "{command:?}: {told}");
    }
    let (code, told) = says(&["wait", "--socket", ""]);
    assert_eq!(code, Some(2), "a flag is said: {told}");
    let (_, told) = says(&["daemon", "--help"]);
    assert!(told.contains("--config <FILE>"), "{told}");
}

#[test]
fn an_invalid_number_or_time_is_reported_with_valid_ones() {
    let dir = dir();
    let says = |arguments: &[&str], wanted: &str| {
        let output = run(dir.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let said = stderr(&output);
        assert!(said.contains(wanted), "{arguments:?}: {said}");
    };
    says(&["wait", "--peers", "x"], "write a whole number, such as 3");
    says(&["wait", "--peers=-1"], "write a whole number, such as 3");
    says(
        &["invite", "--expires", "500ms"],
        "\"500ms\" is too short: write 1s to 7d",
    );
}

#[test]
fn the_socket_option_is_accepted_before_or_after_a_subcommand() {
    let dir = dir();
    let at = dir.path().join("nobody.sock");
    let at = at.to_str().unwrap();
    let other = dir.path().join("other.sock");
    let parts: [&[&str]; 4] = [
        &["share", "ls"],
        &["share", "add", "."],
        &["share", "remove", "."],
        &["cache", "resize", "1GiB"],
    ];
    for part in parts {
        let (command, rest) = part.split_first().unwrap();
        for order in [&[&["--socket", at], rest], &[rest, &["--socket", at]]] {
            // The flag overrides the variable in both positions.
            let mut asked = p2pfs(dir.path());
            asked.env("P2PFS_SOCKET", &other).arg(command);
            let output = asked.args(order.concat()).output().unwrap();
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{order:?}: {said}");
            assert!(said.contains(at), "{order:?}: {said}");
        }
    }
}
