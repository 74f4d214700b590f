//! Mixed clusters: two native nodes with their mounts, two legacy peers, and files in every
//! direction. Each folder reads from legacy peers, legacy peers download from each node, and one
//! node bridges to another that does not serve legacy peers.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use macro_rules_attribute::apply;

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::legacy_peer::{OldPeer, download, header};
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

/// How long a lookup searches for a name.
const LOOKUP: Duration = Duration::from_secs(4);
const LARGE_BYTES: usize = 100 << 20;

/// Two nodes and two legacy peers that know each other. The folder `open` of each node is also for
/// legacy peers, `share` is not.
struct Mixed {
    nodes: [Node; 2],
    peers: [OldPeer; 2],
    _cluster: Cluster,
}

impl Mixed {
    fn start() -> Self {
        let peers = [
            OldPeer::start(Duration::ZERO),
            OldPeer::start(Duration::from_secs(1)),
        ];
        let mut cluster = Cluster::new();
        let mut start = |name: &str, more: &str| {
            let open = cluster.folder.path().join(name).join("open");
            fs::create_dir_all(&open).unwrap();
            set_mode(&open, 0o755);
            cluster.start_with(NodeOptions {
                config: settings(&peers, more, &open),
                ..NodeOptions::new(name)
            })
        };
        let nodes = [start("alpha", "bridge = true"), start("beta", "")];
        for node in &nodes {
            node.cli(&["wait", "--peers", "1", "--timeout", WAIT_LIMIT])
                .expect_ok();
        }
        for peer in &peers {
            let knows = |node: &Node| peer.members().contains(&node.address.to_string());
            eventually("the legacy peer knows both nodes", HANG_LIMIT, || {
                nodes.iter().all(knows)
            });
            peer.ping();
        }
        Self {
            nodes,
            peers,
            _cluster: cluster,
        }
    }

    /// Writes a file that is open to legacy peers, and waits until both nodes list it.
    fn write_open(&self, node: usize, path: &str, bytes: &[u8]) {
        write(&self.nodes[node].home.join("open").join(path), bytes);
        self.nodes.iter().for_each(|node| node.wait_for_file(path));
    }
}

fn settings(peers: &[OldPeer], more: &str, open: &Path) -> String {
    let members: Vec<String> = peers.iter().map(|p| format!("{:?}", p.address())).collect();
    format!(
        "[legacy]\nenabled = true\nmembers = [{}]\nperiod = '1s'\nwaiting = '20s'\nlookup = '{}s'\n\
         responder_delay = '1s'\n{more}\n[[share]]\ndir = {open:?}\nlegacy = true\n",
        members.join(","),
        LOOKUP.as_secs()
    )
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    set_mode(path, 0o644);
}

/// Returns files that the protocol can carry, from empty to a hundred MiB.
fn files() -> [(String, Vec<u8>); 6] {
    [
        ("empty".to_owned(), Vec::new()),
        ("one".to_owned(), b"1".to_vec()),
        ("large.bin".to_owned(), noise(7, LARGE_BYTES)),
        ("n".repeat(64), b"a name of 64 bytes".to_vec()),
        (
            "a name with spaces.txt".to_owned(),
            b"a name with spaces".to_vec(),
        ),
        ("r\u{e9}sum\u{e9}.pdf".to_owned(), noise(8, 70_000)),
    ]
}

#[apply(promise)]
fn each_folder_shows_the_files_of_legacy_peers() {
    let mixed = Mixed::start();
    let files = files();
    for (number, (name, bytes)) in files.iter().enumerate() {
        mixed.peers[number % 2].gives_file(name, bytes);
    }
    for node in &mixed.nodes {
        for (name, bytes) in &files {
            let shown = run(Command::new("cat").arg(node.mounted(name)));
            assert!(shown.status.success(), "{name}: {}", shown.stderr);
            assert!(shown.stdout == *bytes, "{name} on {}", node.name);
            let size = fs::metadata(node.mounted(name)).unwrap().len();
            assert_eq!(size, bytes.len() as u64, "{name}");
        }
    }
    // A file from a legacy peer does not become a file of the native cluster.
    for node in &mixed.nodes {
        let listed = node.cli(&["ls", "--json"]).expect_json();
        let entries = listed["entries"].as_array().unwrap();
        assert_eq!(entries.len(), files.len());
        assert!(entries.iter().all(|entry| entry["plane"] == "legacy"));
    }
}

#[apply(promise)]
fn each_legacy_peer_gets_the_files_of_native_nodes() {
    let mixed = Mixed::start();
    let files = files();
    for (number, (name, bytes)) in files.iter().enumerate() {
        mixed.write_open(number % 2, name, bytes);
    }
    mixed.write_open(0, "deep/in/folders/nested.txt", b"nested");
    for peer in &mixed.peers {
        for (name, bytes) in &files {
            gets(peer, name, bytes);
        }
        gets(peer, "nested.txt", b"nested");
    }
}

/// Downloads as a user of the original program does. That program takes a late answer to the
/// question before for an answer to this one, and then its user asks again.
#[track_caller]
fn gets(peer: &OldPeer, name: &str, bytes: &[u8]) {
    let mut got = None;
    eventually("it gets something", HANG_LIMIT, || {
        got = peer
            .get(name, HANG_LIMIT)
            .filter(|got| !got.header.is_empty());
        got.is_some()
    });
    let got = got.unwrap();
    assert_eq!(got.header, header(bytes.len() as u64, name));
    assert!(got.bytes == bytes, "{name}");
}

#[apply(promise)]
fn a_bridge_serves_files_that_only_another_native_node_has() {
    let mixed = Mixed::start();
    let [alpha, beta] = &mixed.nodes;
    let large = noise(9, 5 << 20);
    let files: [(&str, &str, &[u8]); 3] = [
        ("only-beta.bin", "only-beta.bin", &large),
        ("far/away/nested.bin", "nested.bin", b"nested"),
        ("nothing", "nothing", b""),
    ];
    for (path, _, bytes) in files {
        beta.write(path, bytes);
        alpha.wait_for_file(path);
    }
    for peer in &mixed.peers {
        for (_, name, bytes) in files {
            gets(peer, name, bytes);
        }
    }
    // The holder itself does not serve legacy peers.
    let refused = download(beta.address, "only-beta.bin");
    assert_eq!((refused.header.as_str(), refused.bytes.len()), ("", 0));
    // A node does not offer a file that no living node has.
    let mut mixed = mixed;
    mixed.nodes[1].write("gone.bin", &noise(10, 5 << 20));
    mixed.nodes[0].wait_for_file("gone.bin");
    mixed.nodes[1].kill();
    let alpha = &mixed.nodes[0];
    eventually("the file is gone with its holder", HANG_LIMIT, || {
        let got = download(alpha.address, "gone.bin");
        got.header.is_empty() && got.bytes.is_empty()
    });
}

#[apply(promise)]
fn a_bridge_serves_nothing_from_restricted_shares() {
    let mixed = Mixed::start();
    let [alpha, beta] = &mixed.nodes;
    let folder = beta.home.join("restricted");
    write(&folder.join("secret.bin"), &noise(11, 70_000));
    set_mode(&folder, 0o755);
    let status = alpha.cli(&["status", "--json"]).expect_json();
    let reader = status["node"].as_str().unwrap();
    let dir = folder.to_str().unwrap();
    beta.cli(&["share", "add", "--yes", "--readers", reader, dir])
        .expect_ok();
    alpha.wait_for_file("secret.bin");
    let read = fs::read(alpha.mounted("secret.bin")).unwrap();
    assert!(read == noise(11, 70_000), "the bridge's cache has it whole");
    // A later file is given.
    beta.write("open.bin", b"open");
    alpha.wait_for_file("open.bin");
    gets(&mixed.peers[0], "open.bin", b"open");
    for node in [alpha, beta] {
        let refused = download(node.address, "secret.bin");
        assert_eq!((refused.header.as_str(), refused.bytes.len()), ("", 0));
    }
    assert_eq!(
        mixed.peers[1].get("secret.bin", Duration::from_secs(3)),
        None
    );
}

#[apply(promise)]
fn names_that_cannot_be_carried_stay_native_and_are_reported_once() {
    let mut mixed = Mixed::start();
    let long = "n".repeat(65);
    let names = ["a,b.txt", "two\nlines", "colon:", "blank ", &long];
    for name in names {
        mixed.peers[0].gives_file(name, b"never asked for");
        for _ in 0..3 {
            let error = fs::metadata(mixed.nodes[0].mounted(name)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{name:?}");
        }
    }
    for name in names {
        mixed.write_open(0, name, name.as_bytes());
        // On native nodes they are ordinary files.
        for node in &mixed.nodes {
            assert_eq!(fs::read(node.mounted(name)).unwrap(), name.as_bytes());
        }
        let got = download(mixed.nodes[0].address, name);
        assert_eq!((got.header.as_str(), got.bytes.len()), ("", 0), "{name:?}");
    }
    let asked = mixed.peers[0].heard();
    let asked = asked.iter().filter(|(_, text)| text.starts_with("Get,"));
    assert_eq!(asked.count(), 0);
    let finished = mixed.nodes[0].stop();
    let journal = finished.text() + &finished.stderr;
    let lines = |what: &str| journal.lines().filter(|line| line.contains(what)).count();
    for (shown, why) in [
        ("a,b.txt", "comma"),
        ("two\\nlines", "line break"),
        ("colon:", "colon or blank"),
        ("blank ", "colon or blank"),
        (&long, "65 bytes"),
    ] {
        for what in ["was not asked of", "is not given to"] {
            let told = journal
                .lines()
                .filter(|line| line.contains(&format!("{shown} {what} legacy peers")));
            let told: Vec<&str> = told.collect();
            assert!(
                told.len() == 1 && told[0].contains(why),
                "{shown}: {told:?}"
            );
        }
    }
    assert_eq!(lines("was not asked of legacy peers"), names.len());
}

#[apply(promise)]
fn a_file_with_an_eleven_digit_size_stays_native_and_is_reported_once() {
    const SIZE_BYTES: u64 = 10_000_000_000;
    let mut mixed = Mixed::start();
    let path = mixed.nodes[0].home.join("open/huge.img");
    let file = fs::File::create(&path).unwrap();
    file.set_len(SIZE_BYTES).unwrap();
    set_mode(&path, 0o644);
    drop(file);
    for node in &mixed.nodes {
        let wait = ["wait", "--file", "huge.img", "--timeout", "10m"];
        let waited = start(&mut node.cli_command(&wait));
        waited.finish(HANG_LIMIT).expect_ok();
    }
    // On native nodes it is an ordinary file.
    let size = fs::metadata(mixed.nodes[1].mounted("huge.img")).unwrap();
    assert_eq!(size.len(), SIZE_BYTES);
    for _ in 0..3 {
        let got = download(mixed.nodes[0].address, "huge.img");
        assert_eq!((got.header.as_str(), got.bytes.len()), ("", 0));
    }
    assert_eq!(mixed.peers[0].get("huge.img", Duration::from_secs(3)), None);
    let finished = mixed.nodes[0].stop();
    let journal = finished.text() + &finished.stderr;
    let told = journal
        .lines()
        .filter(|line| line.contains("huge.img is not given to legacy peers"));
    let told: Vec<&str> = told.collect();
    let says_why = told.iter().all(|line| line.contains("10000000000 bytes"));
    assert!(told.len() == 1 && says_why, "{told:?}");
}
