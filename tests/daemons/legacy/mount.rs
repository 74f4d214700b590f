//! Legacy peers through the folder: a name that only they have appears when a program asks for it,
//! and no other program waits for that lookup.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use macro_rules_attribute::apply;

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::legacy_peer::{Gives, OldPeer};
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

const LOOKUP: Duration = Duration::from_secs(3);
/// Maximum lookups of one user while no other has any.
const LOOKUPS_OF_A_USER: usize = 512;
/// `lookup` of a node whose lookups outlast each test.
const ENDLESS: &str = "'900s'";

fn start(cluster: &mut Cluster, peers: &[&OldPeer]) -> Node {
    start_with(cluster, settings(peers))
}

/// Starts a node whose lookups of an unknown name outlast the test.
fn start_patient(cluster: &mut Cluster, peers: &[&OldPeer]) -> Node {
    start_with(cluster, settings(peers).replace("'3s'", ENDLESS))
}

fn start_with(cluster: &mut Cluster, config: String) -> Node {
    cluster.start_with(NodeOptions {
        more: vec!["--legacy".to_owned()],
        config,
        ..NodeOptions::new("lab")
    })
}

/// Looks a name up on a node of [`start_patient`].
fn expect_absent_at_once(node: &Node, name: &str) {
    let begun = Instant::now();
    assert!(fs::metadata(node.mounted(name)).is_err(), "{name}");
    assert!(begun.elapsed() < HANG_LIMIT, "{name} was looked for");
}

fn settings(peers: &[&OldPeer]) -> String {
    let members: Vec<String> = peers.iter().map(|p| format!("{:?}", p.address())).collect();
    format!(
        "[legacy]\nmembers = [{}]\nperiod = '1s'\nwaiting = '20s'\nlookup = '3s'\n",
        members.join(",")
    )
}

fn asked(peer: &OldPeer, name: &str) -> usize {
    let question = format!("Get,{name}\n");
    let heard = peer.heard();
    heard.iter().filter(|(_, text)| *text == question).count()
}

#[apply(promise)]
fn files_of_a_legacy_peer_are_found_at_the_first_access() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::from_secs(1));
    let large: Vec<u8> = (0..100 << 20)
        .map(|n: u32| (n >> 8) as u8 ^ n as u8)
        .collect();
    let long = "n".repeat(64);
    let files: [(&str, &[u8]); 5] = [
        ("empty", b""),
        ("one", b"1"),
        ("name with spaces.pdf", b"spaces"),
        (&long, b"long"),
        ("large.bin", &large),
    ];
    files
        .iter()
        .for_each(|(name, bytes)| peer.gives_file(name, bytes));
    let node = start(&mut cluster, &[&peer]);
    for (name, bytes) in &files {
        let out = node.home.join("copy");
        let copied = run(Command::new("cp").arg(node.mounted(name)).arg(&out));
        copied.expect_ok();
        assert!(fs::read(&out).unwrap() == *bytes, "{name}");
    }
    peer.gives_file("resume.pdf", b"twelve bytes");
    let listed = run(Command::new("ls").arg("-l").arg(node.mounted("resume.pdf")));
    let line = listed.expect_ok();
    assert!(
        line.contains(" 12 ") && line.starts_with("-rw-r--r--"),
        "{line}"
    );
    assert_eq!(
        fs::read(node.mounted("resume.pdf")).unwrap(),
        b"twelve bytes"
    );
    // The end of the file is read before the beginning.
    let tail = run(Command::new("tail")
        .args(["-c", "5"])
        .arg(node.mounted("large.bin")));
    assert_eq!(tail.stdout, large[large.len() - 5..]);
}

#[apply(promise)]
fn a_known_name_is_listed_and_marked_unverified() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    peer.gives_file("theirs", b"theirs");
    let node = start(&mut cluster, &[&peer]);
    node.write("ours", b"ours");
    node.wait_for_file("ours");
    let names = || -> Vec<String> {
        let entries = fs::read_dir(&node.mount).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["ours"]);
    let before = std::time::SystemTime::now() - Duration::from_secs(5);
    let seen = fs::metadata(node.mounted("theirs")).unwrap();
    assert_eq!(seen.len(), 6);
    assert!(seen.modified().unwrap() > before, "when it was first seen");
    eventually("the name is listed", HANG_LIMIT, || {
        names() == ["ours", "theirs"]
    });
    let attribute = |name: &str| {
        let mut room = [0; 64];
        let length = rustix::fs::getxattr(node.mounted("theirs"), name, &mut room);
        length.map(|length| String::from_utf8_lossy(&room[..length]).into_owned())
    };
    assert_eq!(attribute("user.p2pfs.verified").unwrap(), "none");
    assert_eq!(attribute("user.p2pfs.holders").unwrap(), peer.address());
    assert!(attribute("user.p2pfs.hash").is_err(), "it has none");
    let again = fs::metadata(node.mounted("theirs")).unwrap();
    assert_eq!((again.ino(), again.mtime()), (seen.ino(), seen.mtime()));
}

#[apply(promise)]
fn an_unavailable_name_is_absent_after_the_lookup_and_then_at_once() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    let node = start(&mut cluster, &[&peer]);
    let begun = Instant::now();
    let error = fs::metadata(node.mounted("nobody has this")).unwrap_err();
    let took = begun.elapsed();
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    assert!(took >= LOOKUP - Duration::from_millis(500), "{took:?}");
    assert!(fs::metadata(node.mounted("nobody has this")).is_err());
    assert_eq!(asked(&peer, "nobody has this"), 1);
}

#[apply(promise)]
fn a_name_that_the_protocol_cannot_carry_is_absent_at_once() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    let node = start_patient(&mut cluster, &[&peer]);
    for name in ["a,b", &"n".repeat(65), "folder/name"] {
        expect_absent_at_once(&node, name);
    }
}

#[apply(promise)]
fn an_unlisted_name_is_absent_at_once_as_long_as_no_legacy_peer_is_known() {
    let mut cluster = Cluster::new();
    let node = start_patient(&mut cluster, &[]);
    for name in ["first", "second", "first"] {
        expect_absent_at_once(&node, name);
    }
    // From the first message of a peer on, the peer may have the name.
    let peer = OldPeer::start(Duration::ZERO);
    peer.gives_file("theirs", b"theirs");
    peer.say(
        node.address,
        format!("DISCOVER,{}\n", node.address).as_bytes(),
    );
    eventually("the peer is told of the node", HANG_LIMIT, || {
        !peer.members().is_empty()
    });
    assert_eq!(fs::read(node.mounted("theirs")).unwrap(), b"theirs");
    let stat = start_stat(&node, "third");
    eventually("the peer is asked", HANG_LIMIT, || {
        asked(&peer, "third") > 0
    });
    expect_interrupted(stat);
}

/// Looks `count` names up at once. Returns the errno and the duration of each.
fn look_up(node: &Node, count: usize) -> Vec<thread::JoinHandle<(i32, Duration)>> {
    let looked_up = (0..count).map(|n| {
        let path = node.mounted(&format!("absent-{n}"));
        let look = move || {
            let begun = Instant::now();
            let error = fs::metadata(path).unwrap_err();
            (error.raw_os_error().unwrap(), begun.elapsed())
        };
        let small = thread::Builder::new().stack_size(1 << 17);
        small.spawn(look).unwrap()
    });
    looked_up.collect()
}

#[apply(promise)]
fn an_available_name_among_many_lookups_is_found() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::from_secs(1));
    peer.gives_file("masked.txt", b"here");
    let node = start(&mut cluster, &[&peer]);
    let others = look_up(&node, 150);
    eventually("the legacy peer is asked", HANG_LIMIT, || {
        asked(&peer, "absent-0") > 0
    });
    assert_eq!(fs::read(node.mounted("masked.txt")).unwrap(), b"here");
    for other in others {
        let (errno, took) = other.join().unwrap();
        assert_eq!(errno, libc::ENOENT);
        assert!(took >= LOOKUP - Duration::from_millis(500), "{took:?}");
    }
}

#[apply(promise)]
fn names_beyond_the_limit_of_lookups_are_refused_and_not_absent() {
    let lookup = Duration::from_secs(25);
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    let node = cluster.start_with(NodeOptions {
        more: vec!["--legacy".to_owned()],
        config: settings(&[&peer]).replace("'3s'", "'25s'"),
        ..NodeOptions::new("lab")
    });
    let all = look_up(&node, LOOKUPS_OF_A_USER + 100);
    let all: Vec<_> = all.into_iter().map(|one| one.join().unwrap()).collect();
    let refused = all.iter().filter(|(errno, _)| *errno == libc::EAGAIN);
    let refused_count = refused.count();
    assert_ne!(refused_count, 0);
    let absent = all.iter().filter(|(errno, _)| *errno == libc::ENOENT);
    let absent: Vec<_> = absent.map(|(_, took)| *took).collect();
    assert_eq!(absent.len() + refused_count, all.len());
    let first = absent.iter().min().unwrap();
    assert!(*first >= lookup - Duration::from_millis(500), "{first:?}");
    let told = node.cli(&["events"]).expect_ok();
    assert_eq!(
        told.matches("only 1024 are looked for").count(),
        1,
        "{told}"
    );
    let refused = all.iter().position(|(errno, _)| *errno == libc::EAGAIN);
    let name = format!("absent-{}", refused.unwrap());
    assert_eq!(asked(&peer, &name), 0);
    peer.gives_file(&name, b"here after all");
    assert_eq!(fs::read(node.mounted(&name)).unwrap(), b"here after all");
}

mod for_root {
    use std::thread::JoinHandle;

    use super::*;
    use crate::support::promise::root;

    const NEEDS: &[Need] = &[root, mount];

    #[apply(promise)]
    #[takes("setpriv")]
    fn lookups_of_one_user_leave_room_for_those_of_another() {
        let mut cluster = Cluster::new();
        let peer = OldPeer::start(Duration::ZERO);
        peer.gives_file("theirs", b"theirs");
        let node = cluster.start_with(NodeOptions {
            more: vec!["--legacy".to_owned()],
            config: settings(&[&peer]).replace("'3s'", "'25s'"),
            ..NodeOptions::new("lab")
        });
        node.write("ours", b"ours");
        node.wait_for_file("ours");
        let waiting = look_up(&node, LOOKUPS_OF_A_USER + 100);
        eventually("this user is refused", HANG_LIMIT, || {
            waiting.iter().any(JoinHandle::is_finished)
        });
        // The folders above the mount are closed to other users.
        let read = "cd $0 && exec setpriv --reuid 65534 --regid 65534 --clear-groups cat $1";
        let as_another = |name: &str| {
            let mut shell = Command::new("sh");
            run(shell.args(["-c", read]).arg(&node.mount).arg(name)).expect_ok()
        };
        assert_eq!(as_another("ours"), "ours");
        run(Command::new("df").arg(&node.mount)).expect_ok();
        assert_eq!(as_another("theirs"), "theirs");
        let still = |lookup: &&JoinHandle<_>| !lookup.is_finished();
        assert_ne!(waiting.iter().filter(still).count(), 0, "it found a place");
        for lookup in waiting {
            let (errno, _) = lookup.join().unwrap();
            assert!([libc::EAGAIN, libc::ENOENT].contains(&errno), "{errno}");
        }
    }
}

#[apply(promise)]
fn a_lookup_delays_no_other_request() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    let node = start_patient(&mut cluster, &[&peer]);
    node.write("ours", b"ours");
    node.wait_for_file("ours");
    let stat = || start_stat(&node, "unknown");
    let mut waiting = [stat(), stat()];
    eventually("the legacy peer is asked", HANG_LIMIT, || {
        asked(&peer, "unknown") > 0
    });
    run(Command::new("ls").arg("-l").arg(&node.mount)).expect_ok();
    assert_eq!(fs::read(node.mounted("ours")).unwrap(), b"ours");
    let touched = fs::File::create(node.mounted("unknown")).unwrap_err();
    assert_eq!(touched.raw_os_error(), Some(libc::EROFS));
    assert!(waiting.iter_mut().all(Running::is_running));
    for stat in waiting {
        expect_interrupted(stat);
    }
    assert_eq!(asked(&peer, "unknown"), 1, "one question for both");
}

fn start_stat(node: &Node, name: &str) -> Running {
    crate::support::process::start(Command::new("stat").arg(node.mounted(name)))
}

/// Sends a signal to a program that waits for an endless lookup. It must end the program.
fn expect_interrupted(mut stat: Running) {
    assert!(stat.is_running(), "it does not wait");
    stat.signal(libc::SIGINT);
    assert!(stat.end_within(HANG_LIMIT).1, "the lookup goes on");
}

#[apply(promise)]
fn a_signal_ends_the_wait() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    let node = start_patient(&mut cluster, &[&peer]);
    let stat = start_stat(&node, "unknown");
    eventually("the legacy peer is asked", HANG_LIMIT, || {
        asked(&peer, "unknown") > 0
    });
    expect_interrupted(stat);
}

#[apply(promise)]
fn a_late_answer_makes_the_name_appear() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(LOOKUP + Duration::from_secs(2));
    peer.gives_file("slow", b"slow");
    let node = start(&mut cluster, &[&peer]);
    assert!(fs::metadata(node.mounted("slow")).is_err());
    eventually("the name appears", HANG_LIMIT, || {
        let entries = fs::read_dir(&node.mount).unwrap();
        entries.flatten().any(|entry| entry.file_name() == "slow")
    });
    assert_eq!(fs::read(node.mounted("slow")).unwrap(), b"slow");
}

#[apply(promise)]
fn native_files_come_before_those_of_legacy_peers() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    peer.gives_file("both", b"the legacy peer's");
    let node = start(&mut cluster, &[&peer]);
    assert_eq!(
        fs::read(node.mounted("both")).unwrap(),
        b"the legacy peer's"
    );
    node.write("both", b"ours");
    node.wait_for_file("both");
    eventually("the native file has the name", HANG_LIMIT, || {
        fs::read(node.mounted("both")).unwrap() == b"ours"
    });
}

#[apply(promise)]
fn a_changed_file_of_a_legacy_peer_is_seen_within_seconds() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    let node = start(&mut cluster, &[&peer]);
    peer.gives_file("theirs", b"one");
    let path = node.mounted("theirs");
    assert_eq!(fs::read(&path).unwrap(), b"one");
    // The new content has the same size, so no header can show the change. Continuous reads must
    // not keep the old copy.
    peer.gives_file("theirs", b"two");
    eventually("the new content is read", HANG_LIMIT, || {
        let now = fs::read(&path).unwrap();
        assert!(now == b"one" || now == b"two", "never a mixture");
        now == b"two"
    });
    peer.gives_file("theirs", b"longer than before");
    eventually("the new size is read", HANG_LIMIT, || {
        fs::read(&path).unwrap() == b"longer than before"
    });
    assert_eq!(fs::metadata(&path).unwrap().len(), 18);
    let stored = || {
        fs::read_dir(node.home.join("cache/unverified"))
            .unwrap()
            .count()
    };
    eventually("copies that nobody has open go", HANG_LIMIT, || {
        stored() == 0
    });
}

#[apply(promise)]
fn bytes_of_legacy_peers_count_against_the_budget_while_streaming() {
    const BUDGET_BYTES: u64 = 16 << 20;
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    let node = cluster.start_with(NodeOptions {
        more: ["--legacy", "--cache-size", "16MiB"]
            .map(str::to_owned)
            .into(),
        config: settings(&[&peer]),
        ..NodeOptions::new("lab")
    });
    let used = || {
        let status = node.cli(&["status", "--json"]).expect_json();
        let used = status["cache"]["used_bytes"].as_u64().unwrap();
        assert!(used <= BUDGET_BYTES, "{used}");
        used
    };
    let (first, second) = (noise(1, 9 << 20), noise(2, 9 << 20));
    peer.gives_file("first", &first);
    peer.gives_file("second", &second);
    peer.gives_file("too large", &noise(3, 17 << 20));
    // The size of this file is unknown, so its bytes are counted as they arrive.
    peer.gives("endless", Gives::Drip(1 << 20));
    let streaming = fs::File::open(node.mounted("endless")).unwrap();
    eventually("what has come is counted", HANG_LIMIT, || used() > 0);
    drop(streaming);
    let mut open = fs::File::open(node.mounted("first")).unwrap();
    let mut bytes = Vec::new();
    open.read_to_end(&mut bytes).unwrap();
    assert!(bytes == first && used() >= 9 << 20);
    // The open file stays in the cache. Another file is streamed past the cache.
    assert!(fs::read(node.mounted("second")).unwrap() == second);
    assert!((9 << 20..10 << 20).contains(&used()));
    // A download to a file does not need the cache.
    let out = node.home.join("too large");
    let got = node.cli(&["get", "too large", "-o", out.to_str().unwrap()]);
    got.expect_ok();
    assert!(fs::read(out).unwrap() == noise(3, 17 << 20) && used() >= 9 << 20);
    peer.gives("short", Gives::Announcing(17 << 20, noise(4, 16 << 20)));
    let out = node.home.join("short");
    let got = node.cli(&["get", "short", "-o", out.to_str().unwrap()]);
    assert_eq!(got.status.code(), Some(1), "{}", got.stderr);
    assert!(!out.exists(), "no file appears under its name");
    drop(open);
    // A file that no program has open is evicted.
    assert!(fs::read(node.mounted("second")).unwrap() == second);
    used();
}

#[apply(promise)]
fn a_legacy_file_larger_than_the_cache_is_streamed_past_it() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    let node = cluster.start_with(NodeOptions {
        more: ["--legacy", "--cache-size", "16MiB"]
            .map(str::to_owned)
            .into(),
        config: settings(&[&peer]),
        ..NodeOptions::new("lab")
    });
    let bytes = noise(3, 40 << 20);
    peer.gives_file("large", &bytes);
    peer.gives("short", Gives::Announcing(40 << 20, bytes[1..].to_vec()));
    assert!(fs::read(node.mounted("large")).unwrap() == bytes);
    assert_eq!(peer.served().len(), 1, "one transfer");
    let file = fs::File::open(node.mounted("large")).unwrap();
    let expect_at = |offset: usize| {
        let mut part = [0; 5000];
        file.read_exact_at(&mut part, offset as u64).unwrap();
        assert!(part == bytes[offset..offset + 5000], "{offset}");
    };
    // Forward, a little back, near the end, and back to bytes that have already passed.
    for offset in [0, 3 << 20, (3 << 20) - 100_000, (40 << 20) - 5000, 1 << 20] {
        expect_at(offset);
    }
    assert_eq!(peer.served().len(), 3);
    let error = fs::read(node.mounted("short")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    drop(file);
    let open = || fs::File::open(node.mounted("large"));
    let all: Vec<_> = (0..16).map(|_| open().unwrap()).collect();
    let error = open().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    let told = node.cli(&["events"]).expect_ok();
    let reason = "no room in the cache for its 41943040 bytes";
    assert!(told.contains(reason), "{told}");
    drop(all);
    eventually("there is a place again", HANG_LIMIT, || open().is_ok());
}

#[apply(promise)]
fn a_read_of_a_legacy_peers_file_continues_while_bytes_arrive() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    // A read without progress ends after four times the deadline plus 5 s.
    let deadline = "\n[mount]\nread_deadline = '300ms'\n";
    let node = cluster.start_with(NodeOptions {
        more: vec!["--legacy".to_owned()],
        config: settings(&[&peer]) + deadline,
        ..NodeOptions::new("lab")
    });
    let bytes = noise(5, 40);
    peer.gives("slow", Gives::Slowly(bytes.clone()));
    assert!(fs::read(node.mounted("slow")).unwrap() == bytes);
    // If no more bytes arrive, the read ends.
    peer.gives("stuck", Gives::Announcing(40, bytes[1..].to_vec()));
    let error = fs::read(node.mounted("stuck")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
}

#[apply(promise)]
fn programs_limited_to_cached_bytes_get_no_legacy_peers_file() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    peer.gives_file("theirs", b"theirs");
    let node = cluster.start_with(NodeOptions {
        more: vec!["--legacy".to_owned()],
        config: settings(&[&peer]) + "[readers]\ncached_only = ['head']\n",
        ..NodeOptions::new("lab")
    });
    let head = || run(Command::new("head").arg(node.mounted("theirs")));
    assert!(!head().status.success());
    assert_eq!(asked(&peer, "theirs"), 0, "nobody is asked for it");
    assert_eq!(fs::read(node.mounted("theirs")).unwrap(), b"theirs");
    // No content of a legacy peer is in the cache, although another program has read it.
    let refused = head();
    assert!(!refused.status.success() && refused.stdout.is_empty());
    let why = &refused.stderr;
    assert!(why.contains("Permission denied"), "{why}");
    assert_eq!(peer.served(), ["theirs"], "nothing is fetched for it");
}

#[apply(promise)]
fn names_that_programs_probe_everywhere_are_never_asked() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    let node = start_patient(&mut cluster, &[&peer]);
    for name in [".git", ".Trash", "autorun.inf", "HEAD"] {
        expect_absent_at_once(&node, name);
    }
    assert!(
        !peer
            .heard()
            .iter()
            .any(|(_, text)| text.starts_with("Get,"))
    );
}
