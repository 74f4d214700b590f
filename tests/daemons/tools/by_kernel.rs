//! Files that the kernel reads by itself: complete cached ones and own ones, if the daemon has the
//! right. A daemon of an ordinary user does not have it.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use macro_rules_attribute::apply;

use super::{NEEDS, activity, count, world};
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::promise;

/// Returns whether the kernel may read by itself here. If not, prints that the test is skipped.
fn has_passthrough(node: &Node) -> bool {
    let may = activity(node)["passthrough"].as_bool().unwrap();
    if !may {
        let status = node.cli(&["status"]).expect_ok();
        assert!(status.contains("read through the daemon"), "{status}");
        eprintln!("SKIPPED: no passthrough here");
    }
    may
}

fn wait_until_closed(node: &Node) {
    eventually("all files are closed", HANG_LIMIT, || {
        let status = node.cli(&["status", "--json"]).expect_json();
        status["open_versions"] == 0
    });
}

#[apply(promise)]
fn a_complete_file_is_read_by_the_kernel_directly() {
    let world = world();
    if !has_passthrough(&world.reader) {
        return;
    }
    let bytes = fs::read(world.source("kernel.bin")).unwrap();
    let seen = world.seen("kernel.bin");
    // The file completes while it is open. Its present readers, and those that join them, keep
    // asking the daemon.
    let first = File::open(&seen).unwrap();
    assert!(fs::read(&seen).unwrap() == bytes);
    let mut page = [0; 4096];
    first.read_exact_at(&mut page, 1 << 20).unwrap();
    assert_eq!(page[..], bytes[1 << 20..(1 << 20) + 4096]);
    drop(first);
    wait_until_closed(&world.reader);
    let before = count(&world.reader, "reads");
    assert!(
        fs::read(&seen).unwrap() == bytes,
        "the next open reads it from the disk"
    );
    let mapped = run(Command::new("cmp")
        .arg(&seen)
        .arg(world.source("kernel.bin")));
    mapped.expect_ok();
    assert_eq!(
        count(&world.reader, "reads"),
        before,
        "no read came to the daemon"
    );
}

#[apply(promise)]
fn an_own_file_is_read_by_the_kernel_directly_and_is_live() {
    let world = world();
    if !has_passthrough(&world.author) {
        return;
    }
    world.author.write("own.log", b"one\n");
    world.author.wait_for_file("own.log");
    let (own, seen) = (world.source("own.log"), world.author.mounted("own.log"));
    let before = count(&world.author, "reads");
    let mut open = File::open(&seen).unwrap();
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    fs::write(&own, "one\ntwo\n").unwrap();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one\ntwo\n", "what is appended is seen at once");
    assert_eq!(open.metadata().unwrap().len(), 8);
    // A replacement is another file. Readers of the old one keep it.
    let staging = world.author.home.join("own.log");
    fs::write(&staging, "another\n").unwrap();
    fs::rename(&staging, &own).unwrap();
    eventually("the replacement is read", HANG_LIMIT, || {
        fs::read(&seen).is_ok_and(|bytes| bytes == b"another\n")
    });
    let mut old = [0; 8];
    open.read_exact_at(&mut old, 0).unwrap();
    assert_eq!(&old, b"one\ntwo\n");
    assert_eq!(
        count(&world.author, "reads"),
        before,
        "no read came to the daemon"
    );
}

#[apply(promise)]
fn an_open_file_survives_the_clearing_of_the_cache() {
    let world = world();
    let bytes = fs::read(world.source("cleared.bin")).unwrap();
    let seen = world.seen("cleared.bin");
    assert!(fs::read(&seen).unwrap() == bytes);
    wait_until_closed(&world.reader);
    let open = File::open(&seen).unwrap();
    world.reader.cli(&["cache", "clear"]).expect_ok();
    let mut read = vec![0; bytes.len()];
    open.read_exact_at(&mut read, 0).unwrap();
    assert!(read == bytes, "an open file stays");
    drop(open);
    world.reader.cli(&["cache", "clear"]).expect_ok();
    assert!(fs::read(&seen).unwrap() == bytes, "and can be fetched anew");
}

/// Runs a daemon as an ordinary user that may open /dev/fuse in its own mount namespace.
const AS_A_USER: &str = r#"
eval "$3"
cd "$1" && mknod fuse c 10 229 && chmod 666 fuse && mount --bind fuse /dev/fuse || exit 77
mkdir share mnt && echo hello > share/a.txt && cp "$1/../reader/secret" . && chown -R 65534 .
user="setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=$1 $4"
$user timeout 60 "$2" daemon --config /dev/null --listen 127.0.0.1:0 --secret-file secret \
    --state "$1/state" --cache "$1/cache" --socket "$1/s" --mount "$1/mnt" --share "$1/share" \
    2> log & daemon=$!
"$2" wait --mounted --file a.txt --timeout 30s --socket "$1/s" || cat log >&2
$user cat mnt/a.txt mnt/a.txt || { $user stat . mnt mnt/a.txt; mount | grep "$1"; cat log; } >&2
"$2" status --socket "$1/s" | grep ^warning
cat mnt/a.txt; ls mnt
kill $daemon; wait $daemon; grep WARN log
"#;
/// Starts the broker of a system service first. Its socket is closed to this user.
const BESIDE_A_SERVICE: &str = r#"
mount -t tmpfs none /run || exit 77
"$2" mount-broker --socket /run/p2pfs-broker.sock --allow "$1/theirs" & broker=$!
trap 'kill $broker' EXIT
until test -S /run/p2pfs-broker.sock; do sleep 0.02; done
chmod 600 /run/p2pfs-broker.sock
"#;

/// Returns the output of that daemon and its user by lines, and the output of root, which is
/// another user. Returns `None` if such a daemon is not possible here.
fn daemon_of_a_user(name: &str, before: &str, variable: &str) -> Option<(Vec<String>, String)> {
    let world = world();
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can become an ordinary user");
        return None;
    }
    let home = world.author.home.with_file_name(name);
    fs::create_dir(&home).unwrap();
    set_mode(&home, 0o755);
    let mut unshare = Command::new("unshare");
    unshare
        .args(["-m", "sh", "-c", AS_A_USER, "sh"])
        .arg(&home)
        .arg(P2PFS)
        .args([before, variable]);
    let ran = run(&mut unshare);
    if ran.status.code() == Some(77) || !Path::new("/usr/bin/fusermount3").exists() {
        eprintln!(
            "SKIPPED: no daemon of an ordinary user here: {}",
            ran.stderr
        );
        return None;
    }
    let refused = ran.stderr.clone();
    let lines = ran.expect_ok().lines().map(str::to_owned).collect();
    Some((lines, refused))
}

#[apply(promise)]
#[takes("unshare", "setpriv", "mknod")]
fn without_the_right_the_daemon_reads_and_warns_once() {
    let Some((lines, errors)) = daemon_of_a_user("user", "", "") else {
        return;
    };
    assert_eq!(lines[..2], ["hello", "hello"], "{errors}");
    assert!(lines[2].contains("read through the daemon"), "{lines:?}");
    assert_eq!(lines.len(), 4, "one warning in the log: {lines:?}");
    assert!(lines[3].contains("read through the daemon"), "{lines:?}");
}

#[apply(promise)]
#[takes("unshare", "setpriv", "mknod")]
fn a_mount_of_an_ordinary_user_refuses_all_others() {
    let Some((lines, refused)) = daemon_of_a_user("another-user", "", "") else {
        return;
    };
    assert_eq!(lines.iter().filter(|line| *line == "hello").count(), 2);
    let denied = refused.matches("Permission denied").count();
    assert_eq!(denied, 2, "a file and the folder itself: {refused}");
}

#[apply(promise)]
#[takes("unshare", "setpriv", "mknod")]
fn a_users_mount_is_independent_of_the_systems_broker() {
    for (name, variable) in [("beside", ""), ("brokerless", "P2PFS_BROKER=")] {
        let Some((lines, errors)) = daemon_of_a_user(name, BESIDE_A_SERVICE, variable) else {
            return;
        };
        assert_eq!(lines[..2], ["hello", "hello"], "{name}: {errors}");
    }
}
