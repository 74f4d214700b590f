//! The check-up: the problems that it finds in a node, its cluster, its shares and its folders, and
//! the remedies that it names.

use std::fs;

use macro_rules_attribute::apply;
use serde_json::Value;

use super::NEEDS;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::promise;

/// Returns the checks of `doctor` whose name begins with `name`.
fn checks<'a>(checkup: &'a Value, name: &str) -> Vec<&'a Value> {
    let all = checkup["checks"].as_array().unwrap();
    let named = |check: &&Value| check["name"].as_str().unwrap().starts_with(name);
    all.iter().filter(named).collect()
}

fn doctor(node: &Node) -> (Option<i32>, Value) {
    let finished = node.cli(&["doctor", "--json"]);
    let checkup = serde_json::from_slice(&finished.stdout);
    let checkup = checkup.unwrap_or_else(|e| panic!("{e}: {}", finished.stderr));
    (finished.status.code(), checkup)
}

#[apply(promise)]
fn a_state_directory_removed_at_runtime_is_reported() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    let told = || node.cli(&["status", "--json"]).expect_json()["warnings"].to_string();
    assert!(!told().contains("state directory"), "{}", told());
    fs::rename(node.home.join("state"), node.home.join("moved")).unwrap();
    assert!(
        told().contains("was emptied, moved or replaced"),
        "{}",
        told()
    );
    let (code, checkup) = doctor(&node);
    assert_eq!(code, Some(1));
    assert!(
        checkup
            .to_string()
            .contains("put it back before the next restart"),
        "{checkup}"
    );
    let unread = run_unread(&mut node.cli_command(&["doctor"]));
    assert_eq!(unread.code(), Some(1));
    fs::rename(node.home.join("moved"), node.home.join("state")).unwrap();
    assert!(!told().contains("state directory"), "{}", told());
}

#[apply(promise)]
fn a_cache_directory_removed_at_runtime_is_reported() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    node.write("a", b"text");
    node.wait_for_file("a");
    node.cli(&["pin", "a"]).expect_ok();
    let told = || node.cli(&["status", "--json"]).expect_json()["warnings"].to_string();
    assert!(!told().contains("cache directory"), "{}", told());
    fs::rename(node.home.join("cache"), node.home.join("moved")).unwrap();
    assert!(
        told().contains("was emptied, moved or replaced"),
        "{}",
        told()
    );
    let (_, checkup) = doctor(&node);
    let cache = checks(&checkup, "cache")[0];
    assert_eq!(cache["state"], "warning");
    assert!(cache.to_string().contains("restart p2pfs"), "{cache}");
    let refused = node.cli(&["unpin", "a"]);
    assert_eq!(refused.status.code(), Some(1));
    let remedy = "its directory is gone: put it back, or restart p2pfs";
    assert!(refused.stderr.contains(remedy), "{}", refused.stderr);
    fs::rename(node.home.join("moved"), node.home.join("cache")).unwrap();
    assert!(!told().contains("cache directory"), "{}", told());
    node.cli(&["unpin", "a"]).expect_ok();
}

#[apply(promise)]
fn a_healthy_cluster_passes_its_checkup() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    let (code, checkup) = doctor(&nodes[1]);
    assert_eq!(code, Some(0), "{checkup:#}");
    assert_eq!(
        checks(&checkup, "peer one")[0]["found"],
        "is reached, and reaches this node"
    );
    assert_eq!(checks(&checkup, "seed ")[0]["found"], "is one");
    assert_eq!(checks(&checkup, "folder")[0]["state"], "ok");
    let text = nodes[1].cli(&["doctor"]).expect_ok();
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
}

#[apply(promise)]
fn doctor_distinguishes_closed_silent_foreign_and_unknown_seeds() {
    let mut strangers = Cluster::new();
    strangers.change_secret(&"c3".repeat(32));
    let stranger = strangers.start("stranger");
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    // The kernel accepts connections here, and no program answers them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = (silent.local_addr().unwrap(), silent);
    let mut cluster = Cluster::new();
    let mut node = cluster.start_with(NodeOptions {
        seeds: vec![closed, silent.0, stranger.address],
        more: vec!["--seed".into(), "no-such-host.invalid:1".into()],
        ..NodeOptions::new("one")
    });
    let (code, checkup) = doctor(&node);
    assert_eq!(code, Some(1));
    let seed = |name: &str| checks(&checkup, &format!("seed {name}"))[0].clone();
    let expected = [
        (
            closed.to_string(),
            "refuses connections",
            "start p2pfs there",
        ),
        (
            silent.0.to_string(),
            "takes connections and does not answer",
            "firewall",
        ),
        (
            stranger.address.to_string(),
            "another secret",
            "the same secret file",
        ),
        (
            "no-such-host.invalid".to_owned(),
            "does not resolve",
            "mend the name",
        ),
    ];
    for (name, found, remedy) in expected {
        let check = seed(&name);
        assert_eq!(check["state"], "failed", "{check}");
        assert!(check["found"].as_str().unwrap().contains(found), "{check}");
        assert!(
            check["remedy"].as_str().unwrap().contains(remedy),
            "{check}"
        );
    }
    // A cause of isolation is also in the status, with the remedy.
    let said = |text: &str| {
        node.cli(&["status", "--json"]).expect_json()["warnings"]
            .to_string()
            .contains(text)
    };
    eventually("status warns", HANG_LIMIT, || said("refuses connections"));
    assert!(said("start p2pfs there"));
    let log = node.stop().stderr;
    assert!(log.contains("refuses connections"), "{log}");
}

#[apply(promise)]
fn doctor_lists_unshared_files_with_a_remedy() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    node.write("private", b"1");
    set_mode(&node.share.join("private"), 0o600);
    let mut checkup = Value::Null;
    eventually("it is left out", HANG_LIMIT, || {
        checkup = doctor(&node).1;
        checks(&checkup, "share ")[0]["state"] == "warning"
    });
    let remedy = checks(&checkup, "share ")[0]["remedy"].to_string();
    assert!(remedy.contains("chmod o+r"), "{remedy}");
    let share = node.share.to_str().unwrap();
    let moved = node.home.join("elsewhere");
    fs::rename(share, &moved).unwrap();
    eventually("the share is gone", HANG_LIMIT, || {
        checkup = doctor(&node).1;
        checks(&checkup, "share ")[0]["state"] == "failed"
    });
    fs::rename(&moved, share).unwrap();
}

#[apply(promise)]
fn configured_shares_that_cannot_be_shared_are_reported_until_they_can() {
    let mut cluster = Cluster::new();
    let (outer, absent) = ("outer", "absent");
    let at = |name: &str| cluster.folder.path().join(name);
    fs::create_dir_all(at(outer).join("inner")).unwrap();
    let dirs = [at(outer), at(outer).join("inner"), at(absent)];
    let config = dirs
        .each_ref()
        .map(|dir| format!("[[share]]\ndir = '{}'\n", dir.display()));
    let node = cluster.start_with(NodeOptions {
        config: config.concat(),
        ..NodeOptions::new("one")
    });
    let told = |dir: &std::path::Path| {
        let name = format!("share {}", dir.display());
        let (code, checkup) = doctor(&node);
        let found = checks(&checkup, "share ").into_iter().cloned();
        let check = found.rev().find(|check| check["name"] == *name);
        (code, check.unwrap_or_default())
    };
    let (code, inner) = told(&dirs[1]);
    assert_eq!((code, &inner["state"]), (Some(1), &"failed".into()));
    assert!(inner["found"].to_string().contains("overlap"), "{inner}");
    assert_eq!(inner["remedy"], "share the outer one alone");
    let (_, missing) = told(&dirs[2]);
    assert!(
        missing["found"].to_string().contains("does not exist"),
        "{missing}"
    );
    let missing = || {
        let shares = node.cli(&["share", "--json"]).expect_json();
        let missing = shares["missing"].as_array().unwrap().clone();
        let paths = missing.iter().map(|it| it["path"].as_str().unwrap().into());
        paths.collect::<Vec<std::path::PathBuf>>()
    };
    assert_eq!(missing(), dirs[1..]);
    // Line breaks do not matter here.
    let said = node.cli(&["share"]).expect_ok();
    let words: Vec<_> = said.split_whitespace().collect();
    assert!(
        words.join(" ").contains("is not shared: the share"),
        "{said}"
    );
    fs::create_dir(&dirs[2]).unwrap();
    eventually("it is shared", HANG_LIMIT, || {
        told(&dirs[2]).1["state"] == "ok"
    });
    assert_eq!(missing(), dirs[1..2]);
}

#[apply(promise)]
fn a_warning_about_a_share_ends_when_the_share_recovers() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    node.write("file", b"1");
    node.wait_for_file("file");
    let told = || node.cli(&["status", "--json"]).expect_json()["warnings"].to_string();
    let share = node.share.to_str().unwrap();
    let ends = |what: &str| {
        eventually(what, HANG_LIMIT, || !told().contains(share));
        node.wait_for_file("file");
    };
    let warns = |words: &str| eventually(words, HANG_LIMIT, || told().contains(words));
    ends("nothing is wrong at first");
    set_mode(&node.share, 0o700);
    warns("others may not read this directory");
    set_mode(&node.share, 0o755);
    ends("others may read it again");
    let moved = node.home.join("elsewhere");
    fs::rename(share, &moved).unwrap();
    warns("the share cannot be read");
    fs::rename(&moved, share).unwrap();
    ends("the share is back");
    let link = node.share.join("out");
    std::os::unix::fs::symlink("/etc", &link).unwrap();
    warns("the link leads out of the share");
    fs::remove_file(link).unwrap();
    ends("the link is gone");
}

#[apply(promise)]
fn without_a_daemon_doctor_explains_what_prevents_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "short").unwrap();
    set_mode(&secret, 0o600);
    let config = folder.path().join("p2pfs.toml");
    let listen = taken.local_addr().unwrap();
    let text = format!(
        "listen = '{listen}'\nsecret_file = '{}'\n",
        secret.display()
    );
    fs::write(&config, text).unwrap();
    let run_doctor = || {
        let mut command = program();
        command.args(["doctor", "--json", "--config"]).arg(&config);
        command.arg("--socket").arg(folder.path().join("no.sock"));
        run(&mut command)
    };
    let finished = run_doctor();
    assert_eq!(finished.status.code(), Some(1));
    let checkup: Value = serde_json::from_slice(&finished.stdout).unwrap();
    for name in ["daemon", "secret", "port"] {
        assert_eq!(checks(&checkup, name)[0]["state"], "failed", "{checkup:#}");
    }
    assert_eq!(checks(&checkup, "fuse")[0]["state"], "ok");
    fs::write(&config, "nam = 'x'\n[cache]\nsize = '1'\n").unwrap();
    let checkup: Value = serde_json::from_slice(&run_doctor().stdout).unwrap();
    assert_eq!(checks(&checkup, "configuration").len(), 2, "{checkup:#}");
}

#[apply(promise)]
fn doctor_of_a_configuration_asks_the_daemon_at_its_socket() {
    let mut cluster = Cluster::new();
    let node = cluster.start("by-hand");
    let config = node.home.join("other.toml");
    fs::write(&config, format!("socket = '{}'\n", node.socket().display())).unwrap();
    let mut command = program();
    command.args(["doctor", "--json", "--config"]).arg(&config);
    let checkup: Value = serde_json::from_slice(&run(&mut command).stdout).unwrap();
    let daemon = &checks(&checkup, "daemon")[0];
    assert_eq!(daemon["state"], "ok", "{checkup:#}");
    assert!(daemon["found"].to_string().contains("by-hand"), "{daemon}");
}

/// A helper for mounts that waits for files before it mounts and unmounts.
const WAITING_HELPER: &str = r#"#!/bin/sh
case "$1" in
-u) go=unmount ;;
*) go=mount ;;
esac
until test -e "$HOME/may-$go"; do sleep 0.05; done
exec /usr/bin/fusermount3 "$@"
"#;

/// Runs a program as the user nobody, for which `/dev/fuse` is open.
const AS_NOBODY: &str = r#"
mknod -m 666 "$HOME/fuse" c 10 229 && mount --bind "$HOME/fuse" /dev/fuse &&
exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
"#;

#[apply(promise)]
#[takes("unshare", "setpriv", "fusermount3")]
fn doctor_of_a_starting_or_stopping_daemon_names_the_phase_and_no_firewall() {
    const NOBODY: &str = "65534";
    let mut cluster = Cluster::new();
    let mut node = cluster.start_with(NodeOptions::unmounted("one"));
    let other = cluster.start_with(NodeOptions::unmounted("other"));
    other.cli(&["wait", "--peers", "1"]).expect_ok();
    node.stop();
    fs::write(node.home.join("p2pfs.toml"), "").unwrap();
    node.options.mounted = true;
    let helper = node.home.join("bin/fusermount3");
    fs::create_dir(helper.parent().unwrap()).unwrap();
    fs::write(&helper, WAITING_HELPER).unwrap();
    set_mode(&helper, 0o755);
    let chown = ["-R", NOBODY, node.home.to_str().unwrap()];
    run(std::process::Command::new("chown").args(chown)).expect_ok();
    let through = ["unshare", "--mount", "sh", "-c", AS_NOBODY, "sh"];
    node.options.through = through.map(str::to_owned).to_vec();
    let path = format!("{}/bin:/usr/bin:/bin", node.home.display());
    let home = node.home.to_str().unwrap().to_owned();
    node.options.environment = vec![("PATH", path), ("HOME", home)];
    let running = start(&mut node.daemon_command());
    let phase = |words: &str| {
        let socket = node.socket();
        let is_there = || socket.exists() && node.cli(&["status"]).status.success();
        eventually("the daemon answers", HANG_LIMIT, is_there);
        let (code, checkup) = doctor(&node);
        assert_eq!(code, Some(0), "{checkup}");
        assert_eq!(checkup["checks"].as_array().unwrap().len(), 1, "{checkup}");
        let found = checkup["checks"][0]["found"].as_str().unwrap();
        assert!(found.starts_with(words), "{checkup}");
    };
    phase("is starting");
    fs::write(node.home.join("may-mount"), "").unwrap();
    node.cli(&["wait", "--mounted", "--timeout", WAIT_LIMIT])
        .expect_ok();
    assert!(checks(&doctor(&node).1, "peer other").len() == 1);
    running.signal(libc::SIGTERM);
    eventually("it is stopping", HANG_LIMIT, || {
        let status = node.cli(&["status", "--json"]).expect_json();
        status["state"] == "stopping"
    });
    phase("is stopping");
    fs::write(node.home.join("may-unmount"), "").unwrap();
    let ended = running.finish(HANG_LIMIT);
    assert!(!ended.stderr.contains("firewall"), "{}", ended.stderr);
}

#[apply(promise)]
fn doctor_in_a_cluster_with_a_secret_file_never_advises_an_invitation() {
    let mut cluster = Cluster::new();
    let mut one = cluster.start("one");
    let refused = one.cli(&["invite"]);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.text());
    let advice = |one: &Node, words: &str| {
        let checkup = doctor(one).1.to_string();
        assert!(checkup.contains(words), "{words}: {checkup}");
        assert!(!checkup.contains("invit"), "{checkup}");
    };
    advice(&one, "give another node the same secret file");
    fs::rename(one.home.join("state"), one.home.join("moved")).unwrap();
    advice(&one, "put it back before the next restart");
    fs::rename(one.home.join("moved"), one.home.join("state")).unwrap();

    let mut other = cluster.start("other");
    one.cli(&["wait", "--peers", "1"]).expect_ok();
    // The node returns with another secret before the first one notices its end.
    other.kill();
    fs::write(other.home.join("secret"), "c3".repeat(32)).unwrap();
    other.launch();
    advice(&one, "give both nodes the same secret file");
    one.stop();
    one.options.seeds = vec![other.address];
    one.launch();
    advice(&one, "give both nodes the same secret file");
}
