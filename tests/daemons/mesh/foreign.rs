//! Mesh peers written by others, if present: a program `mesh_peer.py` in the folder that
//! `P2PFS_LEGACY_PEERS` names, or in `../shared/peers` beside the source.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use macro_rules_attribute::apply;

use super::{MeshNode, free_port, names_in};
use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, promise};

const NEEDS: &[Need] = &[foreign_stand_in];

/// Returns why the foreign program cannot be tried, if it is missing.
fn foreign_stand_in() -> Option<String> {
    let remedy = "no mesh_peer.py: name its folder in P2PFS_LEGACY_PEERS to try it too";
    stand_in().is_none().then(|| remedy.to_owned())
}

fn stand_in() -> Option<PathBuf> {
    let named = std::env::var_os("P2PFS_LEGACY_PEERS").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/peers");
    let program = named.unwrap_or(beside).join("mesh_peer.py");
    program.is_file().then_some(program)
}

fn foreign(folder: &Path, options: &[&str], action: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.arg(stand_in().unwrap()).arg("--folder").arg(folder);
    command.args(options).args(action).stdin(Stdio::null());
    command
}

#[apply(promise)]
fn the_foreign_peer_connects_talks_and_pushes_to_us() {
    let mut cluster = Cluster::new();
    let lab = MeshNode::start(&mut cluster, "lab", &[], "");
    let home = cluster.folder.path().to_owned();
    for seedless in [&["--no-listen"][..], &[]] {
        let mut options = vec!["--name", "bob"];
        options.extend(seedless);
        let info = run(&mut foreign(&home, &options, &["connect", &lab.mesh])).expect_ok();
        assert!(info.contains("\"name\": \"lab\""), "{info}");
    }
    let seed = ["--seed", &*lab.mesh, "--name", "bob"];
    run(&mut foreign(&home, &seed, &["chat", "hello there"])).expect_ok();
    eventually("its talk is told", HANG_LIMIT, || {
        lab.events("chat")
            .iter()
            .any(|chat| chat["text"] == "hello there")
    });
    for (name, size) in [
        ("empty.bin", 0),
        ("one.bin", 1),
        ("some.bin", 3_000_000),
        ("large.bin", 64 << 20),
    ] {
        let file = home.join(name);
        let bytes = noise(5, size);
        fs::write(&file, &bytes).unwrap();
        let mut options = seed.to_vec();
        options.extend(["--linger", "2"]);
        run(&mut foreign(
            &home,
            &options,
            &["send", file.to_str().unwrap()],
        ))
        .expect_ok();
        eventually("it is there", HANG_LIMIT, || {
            lab.received().contains(&name.to_owned())
        });
        assert!(fs::read(lab.inbox.join(name)).unwrap() == bytes, "{name}");
    }
}

#[apply(promise)]
fn we_connect_talk_and_push_to_the_foreign_peer() {
    let mut cluster = Cluster::new();
    let port = free_port();
    let folder = cluster.folder.path().join("theirs");
    let options = [
        "--port",
        &*port,
        "--name",
        "bob",
        "--count",
        "3",
        "--timeout",
        "80",
    ];
    let foreign = start(&mut foreign(&folder, &options, &["recv"]));
    let at = format!("127.0.0.1:{port}");
    let lab = MeshNode::start(&mut cluster, "lab", &[&at], "");
    eventually("bob is a peer", HANG_LIMIT, || lab.peers() == ["bob"]);
    lab.node.cli(&["say", "hello bob"]).expect_ok();
    let mine = cluster.folder.path().join("mine");
    fs::create_dir_all(&mine).unwrap();
    for (name, size) in [("a", 0), ("b", 70_000), ("c", 64 << 20)] {
        fs::write(mine.join(name), noise(6, size)).unwrap();
    }
    lab.node.cli(&["send", mine.to_str().unwrap()]).expect_ok();
    let ended = foreign.finish(HANG_LIMIT).expect_ok();
    assert!(ended.contains("hello bob"), "{ended}");
    assert_eq!(names_in(&folder), ["a", "b", "c"]);
    assert!(fs::read(folder.join("c")).unwrap() == noise(6, 64 << 20));
}
