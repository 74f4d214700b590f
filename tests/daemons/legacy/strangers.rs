//! Legacy peers written by others, if present: a program `discovery_peer.py` in the folder that
//! `P2PFS_LEGACY_PEERS` names, or in `../shared/peers` beside the source. Tests both directions,
//! and each variant of the program.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;

use macro_rules_attribute::apply;
use parking_lot::Mutex;

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount, foreign_stand_in];

/// Returns why the foreign program cannot be tried, if it is missing.
fn foreign_stand_in() -> Option<String> {
    let remedy = "no discovery_peer.py: name its folder in P2PFS_LEGACY_PEERS to try it too";
    stand_in().is_none().then(|| remedy.to_owned())
}

fn stand_in() -> Option<PathBuf> {
    let named = std::env::var_os("P2PFS_LEGACY_PEERS").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/peers");
    let program = named.unwrap_or(beside).join("discovery_peer.py");
    program.is_file().then_some(program)
}

/// The foreign program, serving a folder, with its keyboard input.
struct Foreign {
    child: Child,
    keyboard: ChildStdin,
    events: Arc<Mutex<Vec<serde_json::Value>>>,
    folder: PathBuf,
    address: String,
}

impl Foreign {
    fn start(folder: &Path, more: &[&str]) -> Self {
        fs::create_dir_all(folder).unwrap();
        let port = UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut child = Command::new("python3")
            .arg(stand_in().unwrap())
            .args(["--port", &port.to_string(), "--period", "1", "--wait", "30"])
            .arg("--folder")
            .arg(folder)
            .args(more)
            .arg("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let events = Arc::new(Mutex::new(Vec::new()));
        let (lines, told) = (BufReader::new(child.stdout.take().unwrap()), events.clone());
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                told.lock().extend(serde_json::from_str(&line));
            }
        });
        let foreign = Self {
            keyboard: child.stdin.take().unwrap(),
            child,
            events,
            folder: folder.to_owned(),
            address: format!("127.0.0.1:{port}"),
        };
        foreign.tells("listening", |_| true);
        foreign
    }

    #[track_caller]
    fn tells(&self, event: &str, is_it: impl Fn(&serde_json::Value) -> bool) {
        eventually(&format!("it tells {event}"), HANG_LIMIT, || {
            let events = self.events.lock();
            events
                .iter()
                .any(|told| told["event"] == event && is_it(told))
        });
    }

    /// Downloads with the program's own command.
    #[track_caller]
    fn gets(&mut self, name: &str) -> Vec<u8> {
        writeln!(self.keyboard, "get {name}").unwrap();
        self.tells("get", |told| told["name"] == name);
        fs::read(self.folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn node(cluster: &mut Cluster, foreign: &[&Foreign]) -> Node {
    let members: Vec<String> = foreign.iter().map(|f| format!("{:?}", f.address)).collect();
    cluster.start_with(NodeOptions {
        more: vec!["--legacy".to_owned()],
        config: format!(
            "[legacy]\nmembers = [{}]\nperiod = '1s'\nwaiting = '30s'\nlookup = '5s'\n\
             responder_delay = '1s'\n",
            members.join(",")
        ),
        ..NodeOptions::new("lab")
    })
}

fn files() -> Vec<(String, Vec<u8>)> {
    vec![
        ("empty".to_owned(), Vec::new()),
        ("one".to_owned(), b"1".to_vec()),
        ("large.bin".to_owned(), noise(5, 100 << 20)),
        ("n".repeat(64), b"64 bytes of name".to_vec()),
        ("a name with spaces".to_owned(), noise(6, 2049)),
    ]
}

fn both_directions(more: &[&str]) {
    let mut cluster = Cluster::new();
    let home = cluster.folder.path().join("foreign");
    let mut foreign = Foreign::start(&home, &[&["--delay", "1"], more].concat());
    for (name, bytes) in files() {
        fs::write(home.join(&name), bytes).unwrap();
    }
    let node = node(&mut cluster, &[&foreign]);
    for (name, bytes) in files() {
        let out = node.home.join("copy");
        run(Command::new("cp").arg(node.mounted(&name)).arg(&out)).expect_ok();
        assert!(fs::read(&out).unwrap() == bytes, "{name}");
    }
    let mut ours = files();
    ours.iter_mut()
        .for_each(|(name, _)| *name = format!("our{}", &name[..name.len().min(61)]));
    for (name, bytes) in &ours {
        node.write(&format!("in/a/folder/{name}"), bytes);
    }
    for (name, bytes) in &ours {
        node.wait_for_file(&format!("in/a/folder/{name}"));
        assert!(foreign.gets(name) == *bytes, "{name}");
    }
}

#[apply(promise)]
fn a_foreign_implementation_is_read_and_served() {
    both_directions(&[]);
}

#[apply(promise)]
fn a_strict_foreign_implementation_is_read_and_served() {
    both_directions(&["--strict", "--announce-self", "--announce-now"]);
}

/// The peer announces another transfer method, with the port of its TCP listener nevertheless.
#[apply(promise)]
fn only_the_port_of_its_udp_method_is_ignored() {
    let mut cluster = Cluster::new();
    let home = cluster.folder.path().join("foreign");
    let foreign = Foreign::start(&home, &["--delay", "0", "--method", "2"]);
    fs::write(home.join("by another method"), b"x").unwrap();
    let node = node(&mut cluster, &[&foreign]);
    let error = fs::read(node.mounted("by another method")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
}

#[apply(promise)]
fn foreign_and_own_nodes_learn_of_each_other() {
    let mut cluster = Cluster::new();
    let home = cluster.folder.path();
    let a = Foreign::start(&home.join("a"), &[]);
    let b = Foreign::start(&home.join("b"), &[]);
    let node = node(&mut cluster, &[&a, &b]);
    let us = node.address.to_string();
    for (one, other) in [(&a, &b), (&b, &a)] {
        one.tells("member", |told| told["addr"] == us.as_str());
        one.tells("member", |told| told["addr"] == other.address.as_str());
    }
}
