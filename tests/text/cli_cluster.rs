//! Invitations, shares and waits of the command line, against a fake daemon.

use std::path::PathBuf;

use jiff::Timestamp;
use p2pfs::daemon::control::{
    Call, CheckState, Checkup, ControlServer, Failure, FailureKind, Invitation, Joined, Named,
    Nothing, Policy, SettingInfo, Settings, ShareChange, Shares, Trust, TrustedNode,
};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::cli_alone::whole_token;
use super::cli_commands::{FakeDaemon, names_in, stderr};

#[test]
fn invite_prints_only_the_token() {
    let daemon = FakeDaemon::start(|request| {
        assert_eq!(
            request.call,
            Call::Invite {
                lifetime_s: 600,
                admin: false,
                name: Some("desk".parse().unwrap())
            }
        );
        let token = "p2pfs1-abc".to_owned();
        request.reply.done(&Invitation {
            token,
            expires: Timestamp::UNIX_EPOCH,
        });
    });
    let output = daemon.run(&["invite", "--expires", "10m", "--name", "desk"]);
    assert_eq!(output.stdout, b"p2pfs1-abc\n");
    assert!(output.stderr.is_empty());
}

#[test]
fn join_hands_the_token_to_a_running_daemon() {
    let daemon = FakeDaemon::start(|request| match request.call {
        Call::Join { token } => {
            assert_eq!(token, "p2pfs1-abc");
            request.reply.done(&Joined {
                epoch: "00ff".to_owned(),
                issuer: "ab".repeat(32),
            })
        }
        // The command ends once another node is up.
        Call::Wait { peers: 1, .. } => request.reply.done(&Nothing {}),
        // It asks before it drops a cluster with other members.
        Call::Trust {} => request.reply.done(&Trust::default()),
        Call::Shares {} => request.reply.done(&Shares::default()),
        other => panic!("{other:?}"),
    });
    for arguments in [&["join", "-"][..], &["join"]] {
        let mut command = daemon.command();
        let output = command
            .args(arguments)
            .write_stdin("p2pfs1-abc\n")
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            "joined the cluster\n"
        );
    }
    assert_eq!(names_in(daemon.path()), [""; 0]);
}

/// Starts a daemon with the state directory `/srv/state` that accepts any token.
fn daemon_with_state() -> FakeDaemon {
    FakeDaemon::start(|request| match request.call {
        Call::Settings {} => {
            let state_dir = SettingInfo {
                key: "state_dir".to_owned(),
                value: "\"/srv/state\"".to_owned(),
                origin: "the default".to_owned(),
                after_restart: None,
            };
            request.reply.done(&Settings {
                files: Vec::new(),
                settings: vec![state_dir],
            })
        }
        Call::Join { .. } => request.reply.done(&Joined {
            epoch: "00ff".to_owned(),
            issuer: "ab".repeat(32),
        }),
        Call::Trust {} => request.reply.done(&Trust::default()),
        Call::Shares {} => request.reply.done(&Shares::default()),
        _ => request.reply.done(&Nothing {}),
    })
}

#[test]
fn join_without_a_terminal_drops_a_cluster_with_others_only_if_that_is_confirmed() {
    let member = |digit: &str| TrustedNode {
        name: digit.to_owned(),
        node: digit.repeat(64),
        admin: false,
        since: Timestamp::UNIX_EPOCH,
        until: None,
        by: "a".to_owned(),
        by_node: "a".repeat(64),
    };
    let trust = Trust {
        members: ["a", "b", "c"].map(member).to_vec(),
        ..Trust::default()
    };
    let daemon = FakeDaemon::start(move |request| match request.call {
        Call::Trust {} => request.reply.done(&trust),
        Call::Shares {} => request.reply.done(&Shares::default()),
        Call::Join { .. } => request.reply.done(&Joined {
            epoch: "00ff".to_owned(),
            issuer: "ab".repeat(32),
        }),
        _ => request.reply.done(&Nothing {}),
    });
    let refused = daemon.run(&["join", &whole_token()]);
    assert_eq!(refused.status.code(), Some(1));
    let said = stderr(&refused);
    assert!(
        said.contains("with 2 other members") && said.contains("--yes"),
        "{said}"
    );
    assert!(
        !daemon
            .asked()
            .iter()
            .any(|it| matches!(it, Call::Join { .. }))
    );
    let joined = daemon.output(&["join", "--yes", &whole_token()]);
    assert_eq!(joined, "joined the cluster\n");
}

#[test]
fn join_for_another_state_directory_stores_the_token_there_and_not_in_the_running_daemon() {
    let daemon = daemon_with_state();
    let token = whole_token();
    let said = daemon.output(&["join", "--state", "other", &token]);
    assert!(said.contains("no daemon runs on"), "{said}");
    assert!(said.contains("p2pfs daemon --state "), "{said}");
    let stored = std::fs::read_to_string(daemon.path().join("other/join-token"));
    assert_eq!(stored.unwrap(), format!("{token}\n"));
    let is_join = |call: &Call| matches!(call, Call::Join { .. });
    assert!(!daemon.asked().iter().any(is_join));
    // A daemon that runs on the directory has another socket.
    let lock = std::fs::File::create(daemon.path().join("other/lock")).unwrap();
    lock.lock().unwrap();
    let refused = stderr(&daemon.run(&["join", "--state", "other", &token]));
    assert!(refused.contains("belongs to a running daemon"), "{refused}");
    assert!(!daemon.asked().iter().any(is_join));
}

#[test]
fn join_for_another_configuration_stores_the_token_in_its_state_directory() {
    let daemon = daemon_with_state();
    let (token, config) = (whole_token(), daemon.path().join("named.toml"));
    let state = daemon.path().join("other");
    std::fs::write(&config, format!("state_dir = '{}'\n", state.display())).unwrap();
    let join = ["join", "--config", "named.toml", &token];
    let said = daemon.output(&join);
    assert!(said.contains("no daemon runs on"), "{said}");
    assert!(said.contains("p2pfs daemon --config "), "{said}");
    let stored = std::fs::read_to_string(state.join("join-token"));
    assert_eq!(stored.unwrap(), format!("{token}\n"));
    let is_join = |call: &Call| matches!(call, Call::Join { .. });
    assert!(!daemon.asked().iter().any(is_join));
    // The variable is for commands without a daemon.
    let mut by_variable = daemon.command();
    by_variable
        .args(["join", &token])
        .env("P2PFS_CONFIG", &config);
    let joined = by_variable.output().unwrap();
    assert_eq!(joined.stdout, b"joined the cluster\n");
    // The state directory of the daemon that answers.
    std::fs::write(&config, "state_dir = '/srv/state'\n").unwrap();
    assert_eq!(daemon.output(&join), "joined the cluster\n");
}

#[test]
fn join_for_the_state_directory_of_the_running_daemon_hands_it_the_token() {
    let daemon = daemon_with_state();
    let said = daemon.output(&["join", "--state", "/srv/state/", &whole_token()]);
    assert_eq!(said, "joined the cluster\n");
}

#[test]
fn doctor_checks_the_named_configuration_beside_a_running_daemon() {
    let daemon = FakeDaemon::start(|request| request.reply.done(&Checkup { checks: Vec::new() }));
    let config = daemon.path().join("named.toml");
    let doctor = |text: &str| {
        std::fs::write(&config, text).unwrap();
        let output = daemon.run(&["doctor", "--json", "--config", "named.toml"]);
        let checkup: Checkup = serde_json::from_slice(&output.stdout).unwrap();
        let mut checks = checkup.checks.into_iter();
        checks.find(|it| it.name == "configuration").unwrap()
    };
    for broken in ["name = \n", "no_such_key = 1\n", "listen = 'nowhere'\n"] {
        let check = doctor(broken);
        assert_eq!(check.state, CheckState::Failed, "{check:?}");
        assert!(check.found.contains("named.toml"), "{check:?}");
    }
    assert_eq!(doctor("name = 'right'\n").state, CheckState::Ok);
}

#[test]
fn a_share_is_added_by_its_real_path() {
    let daemon = FakeDaemon::start(|request| request.reply.done(&Shares::default()));
    std::fs::create_dir(daemon.path().join("real")).unwrap();
    std::os::unix::fs::symlink("real", daemon.path().join("link")).unwrap();
    let patterns = ["--exclude", "*.log", "--exclude", "/build/"];
    let given = [
        "share",
        "add",
        "link",
        "--as",
        "photos/2026",
        "--include-private",
    ];
    daemon.output(&[&given[..], &patterns, &["--no-default-excludes"]].concat());
    let real = daemon.path().canonicalize().unwrap().join("real");
    let dir = Named::from_local(&real);
    assert_eq!(
        daemon.asked(),
        [
            // The command asks for the shares to report what has changed.
            Call::Shares {},
            Call::ShareAdd {
                dir,
                how: ShareChange {
                    place: Some("photos/2026".to_owned()),
                    include_private: Some(true),
                    exclude: Some(vec!["*.log".to_owned(), "/build/".to_owned()]),
                    no_default_excludes: Some(true),
                    ..ShareChange::default()
                }
            }
        ]
    );
}

#[test]
fn a_share_with_a_missing_folder_can_be_removed() {
    let daemon = FakeDaemon::start(|request| request.reply.done(&Shares::default()));
    daemon.output(&["share", "remove", "/srv/gone"]);
    assert_eq!(
        daemon.asked(),
        [Call::ShareRemove {
            dir: Named::new("/srv/gone")
        }]
    );
}

#[test]
fn wait_forwards_its_conditions_and_reports_unmet_ones() {
    let daemon = FakeDaemon::start(|request| match &request.call {
        Call::Wait {
            mounted: true,
            peers: 2,
            file: Some(file),
            ..
        } => {
            assert_eq!(file.as_bytes(), b"a/b");
            request.reply.done(&Nothing {});
        }
        _ => request.reply.fail(Failure::new(
            FailureKind::TimedOut,
            "1 of 5 peers are alive",
        )),
    });
    daemon.output(&[
        "wait",
        "--mounted",
        "--peers",
        "2",
        "--file",
        "/mnt/p2p/a/b",
    ]);
    let output = daemon.run(&["wait", "--peers", "5", "--timeout", "1s"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("p2pfs: not so within 1s: 1 of 5 peers are alive; "));
}

#[test]
fn a_wait_begun_before_the_daemon_ends_once_it_answers() {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("late.sock");
    let binary = assert_cmd::cargo::cargo_bin("p2pfs");
    let mut waiting = std::process::Command::new(binary)
        .args(["wait", "--timeout", "60s", "--socket"])
        .arg(&path)
        .spawn()
        .unwrap();
    assert!(waiting.try_wait().unwrap().is_none());
    let runtime = Runtime::new().unwrap();
    let _guard = runtime.enter();
    let server = ControlServer::bind(&path, Policy::of_this_process(), 4).unwrap();
    let (sender, mut requests) = mpsc::channel(4);
    runtime.spawn(server.serve(sender));
    let first = runtime.block_on(requests.recv()).unwrap();
    // A daemon that is still starting is asked again.
    first
        .reply
        .fail(Failure::new(FailureKind::Busy, "the daemon is starting"));
    let second = runtime.block_on(requests.recv()).unwrap();
    second.reply.done(&Nothing {});
    assert!(waiting.wait().unwrap().success());
}
