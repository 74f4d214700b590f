//! Rights to ask and to change: of root, of the daemon's owner and of all other users. Replies
//! about private files.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::{fs, thread};

use macro_rules_attribute::apply;
use p2pfs::daemon::control::{Call, Client, GetStarted, Named, Shares, Status, Top};

use super::NEEDS;
use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::promise;

/// The user `nobody`, which owns no file on any machine.
const NOBODY: u32 = 65_534;
/// Runs a command of the program as `NOBODY`.
fn as_nobody(node: &Node, arguments: &[&str]) -> Finished {
    let mut command = node.cli_command(arguments);
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
    run(&mut command)
}

/// Talks to the daemon from a thread whose kernel user is `NOBODY`.
fn ask_as_nobody<T: Send + 'static>(
    node: &Node,
    talk: impl FnOnce(&mut Client) -> T + Send + 'static,
) -> T {
    let socket = node.socket();
    let asking = thread::spawn(move || {
        let keep = u32::MAX;
        // SAFETY: the call takes three numbers; made directly it changes this thread alone.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, keep, NOBODY, keep) };
        assert_eq!(changed, 0);
        let mut client = Client::connect(&[socket]).unwrap();
        talk(&mut client)
    });
    asking.join().unwrap()
}

#[apply(promise)]
fn any_user_may_look_and_only_the_owner_may_change() {
    let mut cluster = Cluster::new();
    let mut node = cluster.start("one");
    node.write("a", b"text");
    node.wait_for_file("a");
    let reading: [&[&str]; 11] = [
        &["status"],
        &["peers"],
        &["ls", "-l"],
        &["why", "a"],
        &["get", "a", "-o", "-"],
        &["wait", "--file", "a"],
        &["events"],
        &["top", "--once"],
        &["share", "ls"],
        &["config", "show"],
        &["doctor"],
    ];
    for arguments in reading {
        let finished = as_nobody(&node, arguments);
        assert!(
            finished.status.success(),
            "{arguments:?}: {}",
            finished.stderr
        );
    }
    let of_the_group: [&[&str]; 9] = [
        &["limits"],
        &["limits", "--up", "1MiB/s"],
        &["pin", "a"],
        &["unpin", "a"],
        &["prefetch", "a"],
        &["cache", "ls"],
        &["cache", "clear"],
        &["cache", "verify"],
        &["cache", "resize", "1GiB"],
    ];
    let of_the_owner: [&[&str]; 5] = [
        &["invite"],
        &["join", "p2pfs1-abc"],
        &["leave", "--yes"],
        &["share", "add", "/srv"],
        &["share", "remove", "/srv"],
    ];
    let denied = of_the_group.iter().map(|it| (it, "group p2pfs"));
    for (arguments, remedy) in denied.chain(of_the_owner.iter().map(|it| (it, "as root"))) {
        let finished = as_nobody(&node, arguments);
        assert_eq!(finished.status.code(), Some(1), "{arguments:?}");
        let said = &finished.stderr;
        assert!(
            said.contains("permission denied") && said.contains(remedy),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    assert!(node.is_running());
}

#[apply(promise)]
fn a_descriptor_of_the_file_itself_goes_only_to_root_and_its_owner() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    nodes[0].write("a", &noise(1, 3 << 20));
    set_mode(&nodes[0].share.join("a"), 0o666);
    nodes[1].wait_for_file("a");
    nodes[1].cli(&["prefetch", "a"]).expect_ok();
    // One own share, and one complete file of the cache.
    for node in &nodes {
        let given = |client: &mut Client| -> OwnedFd {
            client
                .start(&Call::Get {
                    path: Named::new("a"),
                })
                .unwrap();
            let mut first = client.next_reply().unwrap();
            let started: GetStarted = first.decode().unwrap();
            assert_eq!(started.size_bytes, 3 << 20);
            first.descriptor.take().unwrap()
        };
        let to_root = given(&mut Client::connect(&[node.socket()]).unwrap());
        assert!(fs::File::from(to_root).metadata().unwrap().is_file());
        let bytes = ask_as_nobody(node, move |client| {
            let descriptor = given(client);
            let mut pipe = fs::File::from(descriptor);
            assert!(pipe.metadata().unwrap().file_type().is_fifo());
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).unwrap();
            bytes
        });
        assert_eq!(bytes, noise(1, 3 << 20));
    }
}

#[apply(promise)]
fn an_own_file_given_by_the_daemon_is_never_a_mixture() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    let (old, new) = (noise(2, 32 << 20), noise(3, 32 << 20));
    node.write("own", &old);
    node.wait_for_file("own");
    let mut command = node.cli_command(&["get", "own", "-o", "-"]);
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
    let mut get = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = get.stdout.take().unwrap();
    let mut got = vec![0; 1 << 20];
    output.read_exact(&mut got).unwrap();
    let own = fs::OpenOptions::new()
        .write(true)
        .open(node.share.join("own"));
    own.unwrap().write_all_at(&new, 0).unwrap();
    output.read_to_end(&mut got).unwrap();
    let status = wait_child(&mut get, HANG_LIMIT);
    assert!(!status.success() || got == old, "a mixture of two versions");
}

#[apply(promise)]
fn others_see_counts_of_private_files_and_foreign_readers_and_no_names() {
    let mut cluster = Cluster::new();
    let mut node = cluster.start("one");
    node.write("a", &noise(1, 1 << 20));
    node.write("diary", b"dear");
    set_mode(&node.share.join("diary"), 0o600);
    fs::create_dir(node.share.join("secrets")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", node.share.join("secrets/out")).unwrap();
    set_mode(&node.share.join("secrets"), 0o755);
    node.wait_for_file("a");
    eventually("what is left out is counted", HANG_LIMIT, || {
        let shares = node.cli(&["share", "--json"]).expect_json();
        shares["shares"][0]["left_out_files"] == 2
    });
    let _reader = fs::File::open(node.mounted("a")).unwrap();
    let read_by_others = fs::read(node.mounted("a")).unwrap();
    assert_eq!(read_by_others.len(), 1 << 20);
    let (status, shares, top): (Status, Shares, Top) = ask_as_nobody(&node, |client| {
        let status = client.call(&Call::Status {}).unwrap();
        let shares = client.call(&Call::Shares {}).unwrap();
        (status, shares, client.call(&Call::Top {}).unwrap())
    });
    for share in status.shares.iter().chain(&shares.shares) {
        assert_eq!(share.left_out_files, 2);
        assert!(share.problems.is_empty(), "{share:?}");
    }
    let told = format!("{:?}", status.warnings);
    assert!(
        !told.contains("diary") && !told.contains("secrets"),
        "{told}"
    );
    assert!(top.readers.is_empty(), "{:?}", top.readers);
    let in_the_mount = fs::read_to_string(node.mounted(".p2pfs/status.json")).unwrap();
    assert!(!in_the_mount.contains("diary") && !in_the_mount.contains("secrets"));
    let events = as_nobody(&node, &["events"]).expect_ok();
    assert!(!events.contains("secrets"), "{events}");
    // Their owner gets all details.
    let owned = node.cli(&["share"]).expect_ok();
    assert!(
        owned.contains("diary") && owned.contains("secrets/out"),
        "{owned}"
    );
    assert!(node.cli(&["status"]).expect_ok().contains("secrets/out"));
    let mine: Top = Client::connect(&[node.socket()])
        .unwrap()
        .call(&Call::Top {})
        .unwrap();
    assert_eq!(mine.readers.len() as u64, top.other_readers);
    assert_eq!(mine.other_readers, 0);
    assert!(node.is_running());
}

#[apply(promise)]
fn the_remedy_for_a_private_file_can_be_pasted_for_any_file_name() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    node.write("x';touch PWNED;'", b"1");
    set_mode(&node.share.join("x';touch PWNED;'"), 0o600);
    let mut why = String::new();
    eventually("it is left out", HANG_LIMIT, || {
        let shares = node.cli(&["share", "--json"]).expect_json();
        why = shares["shares"][0]["problems"][0]["why"].to_string();
        shares["shares"][0]["left_out_files"] == 1
    });
    let why: String = serde_json::from_str(&why).unwrap();
    let command = why.split_once("chmod").unwrap().1;
    let command = command.strip_suffix(", or include_private = true").unwrap();
    let pasted = Command::new("sh")
        .args(["-c", &format!("chmod{command}")])
        .current_dir(&node.home)
        .status();
    assert!(pasted.unwrap().success(), "{why}");
    assert!(!node.home.join("PWNED").exists());
    node.wait_for_file("x';touch PWNED;'");
}
