//! Attacks on daemons by a hostile member. Each test is one attack. After it, the names and bytes
//! of the honest nodes are unchanged, no daemon has crashed, memory is within its budget, and the
//! attacker is named.

mod datagrams;
mod expelled;
mod files;
mod floods;
mod links;
mod words;

use std::fs;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use macro_rules_attribute::apply;
use p2pfs_proto::wire::native::record::{Fact, Head};
use p2pfs_proto::wire::native::tcp::{Request, Response};
use p2pfs_types::digest::ContentHash;
use serde_json::Value;

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::hostile::{Hostile, file, link};
use crate::support::process::{HANG_LIMIT, WAIT_LIMIT, eventually, status_kib};
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

/// Maximum peak memory of a daemon in KiB: the limit for one author's directories, and some room.
const MEMORY_MAX_KIB: u64 = 1 << 20;
/// A date in the year 2286, in seconds since 1970.
const YEAR_2286: i64 = 9_999_999_999;

/// Two honest nodes and one hostile node.
struct Scene {
    cluster: Cluster,
    one: Node,
    two: Node,
    eve: Hostile,
    written: usize,
}

fn scene() -> Scene {
    let mut cluster = Cluster::new();
    let mut nodes = cluster.start_all(&["one", "two"]);
    let (two, one) = (nodes.pop().unwrap(), nodes.pop().unwrap());
    two.write("honest.txt", b"honest");
    one.wait_for_file("honest.txt");
    let secret = cluster.folder.path().join("secret");
    let eve = Hostile::join(&secret, &[one.address, two.address]);
    for node in [&one, &two] {
        node.cli(&["wait", "--peers", "2", "--timeout", WAIT_LIMIT])
            .expect_ok();
    }
    Scene {
        cluster,
        one,
        two,
        eve,
        written: 0,
    }
}

/// Maximum number of attempts of a command. A daemon that is busy with her messages may not answer
/// in time.
const ASKED_MAX: usize = 10;

fn told(node: &Node, command: &str) -> Value {
    let ask = || node.cli(&[command, "--json"]);
    let mut answers = std::iter::repeat_with(ask).take(ASKED_MAX);
    let answer = answers.find(|it| !it.stderr.contains("does not answer"));
    answer.expect("it answers at last").expect_json()
}

fn peers(node: &Node) -> Vec<Value> {
    told(node, "peers")["peers"].as_array().unwrap().clone()
}

/// Waits until a file can be read. A machine that is busy with her may miss a deadline, but bytes
/// that it returns must be right.
fn await_bytes(node: &Node, name: &str, bytes: &[u8]) {
    eventually("it is read", HANG_LIMIT, || {
        let read = fs::read(node.mounted(name));
        assert!(read.as_ref().is_ok_and(|it| it == bytes) || read.is_err());
        read.is_ok()
    });
}

fn peer(node: &Node, id: &str) -> Value {
    let mut peers = peers(node).into_iter();
    peers.find(|peer| peer["node"] == id).unwrap_or_default()
}

fn memory_kib(node: &Node) -> u64 {
    status_kib(node.pid(), "VmHWM:")
}

/// Returns whether a text names the culprit by name, or by key while the name is unknown.
fn names_eve(text: &str, key: &str) -> bool {
    text.contains("eve") || text.contains(&key[..8])
}

impl Scene {
    fn secret(&self) -> PathBuf {
        self.cluster.folder.path().join("secret")
    }

    /// Returns how often the culprit offended, as counted by the first node.
    fn offences(&self) -> u64 {
        let peer = peer(&self.one, &self.eve.id.to_string());
        peer["offences"].as_u64().unwrap_or_default()
    }

    /// Waits until a node's list of peers names the culprit and the offence.
    fn await_listed(&self, node: &Node, how: &str) {
        let eve = self.eve.id.to_string();
        eventually("the culprit is named", HANG_LIMIT, || {
            let peer = peer(node, &eve);
            let last = peer["last_offence"].as_str();
            peer["offences"].as_u64() > Some(0) && last.is_some_and(|last| last.contains(how))
        });
    }

    /// Waits until a node names the culprit and its offence in its list of peers and its warnings.
    fn await_named(&self, node: &Node, how: &str) {
        self.await_listed(node, how);
        let eve = self.eve.id.to_string();
        // An offence of another kind may come in between and replace this one in the warning.
        eventually("the culprit is warned of", HANG_LIMIT, || {
            let status = told(node, "status");
            let mut warnings = status["warnings"].as_array().unwrap().iter();
            warnings.any(|it| {
                let text = it.as_str().unwrap();
                text.contains(how) && names_eve(text, &eve)
            })
        });
    }

    /// Asserts that all honest data is unchanged and that new files still arrive.
    fn assert_unharmed(&mut self) {
        self.written += 1;
        let name = format!("after-{}.bin", self.written);
        let bytes = noise(self.written as u64, 300_000);
        self.two.write(&name, &bytes);
        self.one.wait_for_file(&name);
        await_bytes(&self.one, &name, &bytes);
        await_bytes(&self.one, "honest.txt", b"honest");
        for node in [&mut self.one, &mut self.two] {
            assert!(node.is_running());
            let kib = memory_kib(node);
            assert!(kib < MEMORY_MAX_KIB, "{}: {kib} KiB", node.name);
            // The attributes of all names in the root are readable. Her names may disappear
            // meanwhile.
            let paths = || {
                fs::read_dir(&node.mount)
                    .unwrap()
                    .map(|it| it.unwrap().path())
            };
            for path in paths() {
                let is_there = fs::symlink_metadata(&path).is_ok();
                assert!(is_there || paths().all(|it| it != path), "{path:?}");
            }
        }
    }

    /// Asserts that the journal of the first node names the culprit.
    fn assert_journal_names(mut self, how: &str) {
        let eve = self.eve.id.to_string();
        let journal = self.one.stop().stderr;
        let mut lines = journal.lines();
        assert!(
            lines.any(|line| line.contains(how) && names_eve(line, &eve)),
            "{journal}"
        );
    }
}

#[apply(promise)]
fn endless_directories_of_one_member_cost_only_its_own_names() {
    let mut scene = scene();
    let names = (0..2000).map(|number| {
        let deep = format!("{number}{}", "/d".repeat(255));
        file(&deep, ContentHash::of(b"x"), 1, 1)
    });
    scene.eve.say(names.collect());
    let how = "listed more than a node may";
    scene.await_named(&scene.one, how);
    scene.assert_unharmed();
    let mounted = scene.one.mount.clone();
    eventually("none of hers are shown", HANG_LIMIT, || {
        let root = fs::read_dir(&mounted).unwrap();
        let listed = root.filter(|it| it.as_ref().unwrap().file_name() != "honest.txt");
        listed.count() <= scene.written
    });
    // The stored entries are within the budget too.
    scene.one.stop();
    scene.one.launch();
    scene.one.wait_for_file("honest.txt");
    scene.assert_unharmed();
    scene.await_named(&scene.one, how);
    scene.assert_journal_names(how);
}

#[apply(promise)]
fn impossible_names_sizes_and_links_are_refused_and_their_sender_is_named() {
    let mut scene = scene();
    let how = "that cannot be";
    let deep = format!("d{}", "/d".repeat(256));
    let bad: [Fact; 5] = [
        file("huge", ContentHash::of(b"huge"), 1 << 63, 1),
        link("absolute", "/etc/passwd"),
        link("up", "../../etc"),
        link("nul", "a\0b"),
        file(&deep, ContentHash::of(b"deep"), 1, 1),
    ];
    for fact in bad {
        let before = scene.offences();
        scene.eve.say(vec![fact]);
        // One part of her earlier statement may still be in flight.
        eventually("it is refused", HANG_LIMIT, || {
            scene.offences() >= before + 2
        });
    }
    scene.await_named(&scene.one, how);
    scene.assert_unharmed();
    for name in ["huge", "absolute", "up", "nul", "d"] {
        let found = fs::symlink_metadata(scene.one.mounted(name));
        assert!(found.is_err(), "{name} is listed");
    }
    scene.assert_journal_names(how);
}

#[apply(promise)]
fn a_file_dated_2286_never_wins_and_its_author_is_named() {
    let mut scene = scene();
    scene.two.write("install.sh", b"true");
    scene.one.wait_for_file("install.sh");
    let lure = ContentHash::of(b"lure");
    scene.eve.say(vec![file("install.sh", lure, 4, YEAR_2286)]);
    let how = "dated after now";
    scene.await_named(&scene.one, how);
    for node in [&scene.one, &scene.two] {
        assert_eq!(fs::read(node.mounted("install.sh")).unwrap(), b"true");
    }
    let provenance = scene
        .one
        .cli(&["why", "install.sh", "--json"])
        .expect_json();
    let versions = provenance["versions"].as_array().unwrap().iter();
    let standing: Vec<_> = versions.map(|it| (&it["won"], &it["waits"])).collect();
    let (yes, no) = (&Value::Bool(true), &Value::Bool(false));
    assert_eq!(standing, [(yes, no), (no, yes)], "{provenance}");
    scene.assert_unharmed();
    scene.assert_journal_names(how);
}

#[apply(promise)]
fn wrong_bytes_reach_no_reader_and_their_sender_is_named() {
    let mut scene = scene();
    scene.eve.answer(|request| match request {
        Request::Range { range, .. } => Some(Response::Data {
            proof: Bytes::from(vec![0x5a; range.len() as usize]),
        }),
        _ => None,
    });
    let bytes = noise(7, 200_000);
    scene.two.write("both.bin", &bytes);
    let (hash, size_bytes) = (ContentHash::of(&bytes), bytes.len() as u64);
    scene.eve.say(vec![
        file("both.bin", hash, size_bytes, 1),
        file("hers.bin", ContentHash::of(b"hers"), 4, 1),
    ]);
    scene.one.wait_for_file("hers.bin");
    scene.one.wait_for_file("both.bin");
    let read = fs::read(scene.one.mounted("hers.bin"));
    assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EIO));
    assert!(fs::read(scene.one.mounted("both.bin")).unwrap() == bytes);
    let how = "do not fit their hash";
    scene.await_named(&scene.one, how);
    assert!(peer(&scene.one, &scene.eve.id.to_string())["shunned"].is_string());
    scene.assert_unharmed();
    scene.assert_journal_names(how);
}

#[apply(promise)]
fn a_log_that_contradicts_its_signature_names_its_sender() {
    let mut scene = scene();
    let how = "did not sign";
    scene
        .eve
        .say_under(vec![file("a", ContentHash::of(b"a"), 1, 1)], |head| {
            head.digest = [9; 32];
        });
    scene.await_named(&scene.one, how);
    scene
        .eve
        .say_under(Vec::new(), |head| head.count = u64::MAX);
    // The warning is limited to one a minute, so the list of peers is checked instead.
    scene.await_listed(&scene.one, "listed more than a node may");
    scene.assert_unharmed();
    assert!(!scene.one.mounted("a").exists());
    scene.assert_journal_names(how);
}

#[apply(promise)]
fn a_head_signed_in_anothers_name_changes_nothing_and_names_its_sender() {
    let mut scene = scene();
    let victim = scene.eve.who_is_at(scene.two.address);
    let forged = scene.eve.sign(Head {
        author: victim,
        name: "two".parse().unwrap(),
        epoch: u64::MAX,
        sequence: 1,
        count: 0,
        floor: 0,
        digest: [0; 32],
    });
    let request = Request::Heads {
        heads: vec![forged],
    };
    scene.eve.ask(scene.one.address, request).unwrap();
    let how = "what they did not sign";
    scene.await_named(&scene.one, how);
    scene.assert_unharmed();
    scene.assert_journal_names(how);
}

#[apply(promise)]
fn meaningless_messages_and_lists_change_nothing_and_name_their_sender() {
    let mut scene = scene();
    for seed in 0..50 {
        scene.eve.broadcast(&noise(seed, 600));
    }
    let how = "mean nothing";
    scene.await_named(&scene.one, how);
    for seed in 0..20 {
        let members = noise(seed, 100_000).into();
        let question = noise(seed, 100_000).into();
        let _any = scene
            .eve
            .ask(scene.two.address, Request::Members { members });
        let _any = scene
            .eve
            .ask(scene.two.address, Request::Trust { question });
    }
    scene.await_named(&scene.two, how);
    scene.assert_unharmed();
    scene.assert_journal_names(how);
}

#[apply(promise)]
fn many_invented_keys_and_idle_connections_exclude_no_member() {
    let mut scene = scene();
    let crowd = scene.eve.crowd(&scene.secret(), scene.one.address, 560);
    let port = scene.one.address.port();
    let connect = |number: usize| {
        let from: SocketAddr = format!("127.0.0.{}:0", 2 + number % 4).parse().unwrap();
        let to: SocketAddr = ([127, 0, 0, 1], port).into();
        connect_from(from, to)
    };
    let idle: Vec<_> = (0..256).filter_map(connect).collect();
    let three = scene.cluster.start("three");
    three.wait_for_file("honest.txt");
    assert_eq!(fs::read(three.mounted("honest.txt")).unwrap(), b"honest");
    three.write("of-three.txt", b"three");
    scene.one.wait_for_file("of-three.txt");
    scene.assert_unharmed();
    drop((crowd, idle));
}

fn connect_from(from: SocketAddr, to: SocketAddr) -> Option<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).ok()?;
    socket.bind(&from.into()).ok()?;
    socket.connect(&to.into()).ok()?;
    Some(socket.into())
}

#[apply(promise)]
fn a_member_that_constantly_changes_its_statements_silences_no_other() {
    let mut scene = scene();
    for number in 0..2000 {
        let hash = ContentHash::of(format!("{number}").as_bytes());
        let names = (0..10).map(|name| file(&format!("hers-{name}"), hash, 4, number));
        scene.eve.say(names.collect());
        if number % 500 == 0 {
            scene.assert_unharmed();
        }
    }
    scene.assert_unharmed();
}

#[apply(promise)]
fn a_flood_of_random_datagrams_harms_no_node() {
    let mut scene = scene();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for seed in 0..20_000 {
        let length = 1 + (seed as usize * 7) % 1300;
        let _full = socket.send_to(&noise(seed, length), scene.one.address);
    }
    scene.assert_unharmed();
}

#[apply(promise)]
fn a_sparse_file_of_any_size_ends_no_daemon_and_hides_no_files() {
    let mut cluster = Cluster::new();
    let in_memory = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::set_permissions(in_memory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    sparse(&in_memory.path().join("eight-pebibytes"), 8 << 50);
    sparse(&in_memory.path().join("half-a-tebibyte"), 1 << 39);
    fs::write(in_memory.path().join("small.txt"), b"small").unwrap();
    let mut options = NodeOptions::new("one");
    options.shares.push(in_memory.path().to_owned());
    let mut one = cluster.start_with(options);
    one.wait_for_file("small.txt");
    sparse(&in_memory.path().join("large"), (64 << 20) + 1);
    one.wait_for_file("large");
    assert!(
        !one.mounted("half-a-tebibyte").exists(),
        "it takes its time"
    );
    let shares = one.cli(&["share", "ls"]).expect_ok();
    assert!(shares.contains("eight-pebibytes"), "{shares}");
    assert!(memory_kib(&one) < MEMORY_MAX_KIB);
    one.stop();
    one.launch();
    one.wait_for_file("small.txt");
}

fn sparse(path: &Path, size_bytes: u64) {
    let file = fs::File::create(path).unwrap();
    file.set_len(size_bytes).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o644))
        .unwrap();
}

#[apply(promise)]
fn a_killed_member_is_not_an_offender() {
    let scene = scene();
    let hash = ContentHash::of(b"hers");
    scene.eve.say(vec![file("hers.bin", hash, 4 << 20, 1)]);
    scene.one.wait_for_file("hers.bin");
    let id = scene.eve.id.to_string();
    let Scene { one, two, eve, .. } = scene;
    drop(eve);
    eventually("it is known to be gone", HANG_LIMIT, || {
        peer(&one, &id)["state"] == "down"
    });
    for node in [&one, &two] {
        assert_eq!(peer(node, &id)["offences"], 0);
        assert!(peers(node).iter().all(|peer| peer["offences"] == 0));
    }
}
