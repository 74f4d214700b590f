//! Files that `p2pfs get` fetches from a fake daemon.

use std::os::unix::fs::PermissionsExt;

use super::cli_commands::{FakeDaemon, names_in, serve_file, stderr};

#[test]
fn get_writes_the_file_under_its_own_name_with_its_executable_bit() {
    let daemon = FakeDaemon::start(|request| serve_file(request, 6 << 20, 6 << 20));
    let output = daemon.run(&["get", "tools/run.sh"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let content = std::fs::read(daemon.path().join("run.sh")).unwrap();
    assert!(content.len() == 6 << 20 && content.iter().all(|byte| *byte == 7));
    let mode = daemon
        .path()
        .join("run.sh")
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_ne!(mode & 0o100, 0);
    assert_eq!(names_in(daemon.path()), ["run.sh"]);
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
}

#[test]
fn get_writes_to_a_file_directory_or_standard_output_and_replaces_files() {
    let daemon = FakeDaemon::start(|request| serve_file(request, 1000, 1000));
    let out = daemon.path().join("out");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("x"), "old").unwrap();
    for place in ["out", "out/x"] {
        assert!(daemon.run(&["get", "d/x", "-o", place]).status.success());
        assert_eq!(std::fs::read(out.join("x")).unwrap(), [7; 1000]);
    }
    assert_eq!(daemon.run(&["get", "d/x", "-o", "-"]).stdout, [7; 1000]);
    assert!(
        daemon
            .run(&["get", "d/x", "-o", "/dev/null"])
            .status
            .success()
    );
    assert_eq!(names_in(&out), ["x"]);
    let json = daemon.json(&["get", "d/x", "-o", "out", "--json"]);
    assert_eq!(
        (&json["size_bytes"], &json["sources"][0]["name"]),
        (&1000.into(), &"lab-2".into())
    );
}

#[test]
fn an_incomplete_file_leaves_nothing_and_changes_nothing() {
    let daemon = FakeDaemon::start(|request| serve_file(request, 1 << 20, 70_000));
    std::fs::write(daemon.path().join("x"), "precious").unwrap();
    let output = daemon.run(&["get", "x"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "p2pfs: no holder is reachable; see p2pfs peers\n"
    );
    assert_eq!(names_in(daemon.path()), ["x"]);
    assert_eq!(std::fs::read(daemon.path().join("x")).unwrap(), b"precious");
}

#[test]
fn an_empty_file_is_a_file() {
    let daemon = FakeDaemon::start(|request| serve_file(request, 0, 0));
    assert!(daemon.run(&["get", "empty"]).status.success());
    assert_eq!(std::fs::read(daemon.path().join("empty")).unwrap(), b"");
}

#[test]
fn a_file_that_cannot_be_written_is_reported_with_its_path() {
    let daemon = FakeDaemon::start(|request| serve_file(request, 10, 10));
    let output = daemon.run(&["get", "a", "-o", "no/such/folder/a"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("p2pfs: cannot write no/such/folder/a: "));
}
