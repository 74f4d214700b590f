//! Real mounts: allowed mount points, and ends of a mount.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::content::noise;
use crate::support::memory::Memory;
use crate::support::mounted::Mounted;
use crate::support::process::{AT_ONCE, HANG_LIMIT, eventually, run_with, wait_child};
use crate::support::promise::{Need, mount_as_root, promise};
use macro_rules_attribute::apply;
use p2pfs_fuse::mounting::MountingError;
use p2pfs_fuse::{Mount, MountError, MountOptions};

const NEEDS: &[Need] = &[mount_as_root];

fn mount_at(dir: &Path) -> Result<Mount, MountError> {
    let content = Memory::new();
    content.file("file", b"bytes".to_vec());
    content.publish(None);
    Mount::start(dir, content, &MountOptions::for_this_user())
}

fn refused(dir: &Path) -> MountingError {
    match mount_at(dir) {
        Err(MountError::Mounting(error)) => error,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("mounted at {}", dir.display()),
    }
}

#[apply(promise)]
fn an_impossible_mount_point_is_refused_with_a_remedy() {
    let scratch = tempfile::tempdir().unwrap();
    let full = scratch.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("file"), "x").unwrap();
    assert!(matches!(refused(&full), MountingError::NotEmpty { .. }));
    assert!(matches!(
        refused(&full.join("file")),
        MountingError::NotADirectory { .. }
    ));
    assert!(matches!(
        refused(Path::new("/proc")),
        MountingError::Busy { .. }
    ));
    let said = refused(&full).to_string();
    assert!(
        said.contains("full") && said.contains("choose another"),
        "{said}"
    );
    assert_eq!(fs::read(full.join("file")).unwrap(), b"x");
}

#[apply(promise)]
fn a_missing_mount_point_is_created_and_a_link_to_one_is_followed() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("a/b c");
    let mount = mount_at(&dir).unwrap();
    assert!(mount.is_mounted());
    assert_eq!(fs::read(dir.join("file")).unwrap(), b"bytes");
    drop(mount);
    let link = scratch.path().join("link");
    std::os::unix::fs::symlink(&dir, &link).unwrap();
    let mount = mount_at(&link).unwrap();
    assert_eq!(mount.dir(), dir.canonicalize().unwrap());
    assert_eq!(fs::read(link.join("file")).unwrap(), b"bytes");
}

#[apply(promise)]
fn a_mount_that_another_daemon_serves_is_left_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let first = mount_at(scratch.path()).unwrap();
    assert!(matches!(
        refused(scratch.path()),
        MountingError::AlreadyServed { .. }
    ));
    assert!(first.is_mounted());
    assert_eq!(fs::read(scratch.path().join("file")).unwrap(), b"bytes");
}

#[apply(promise)]
fn an_unmount_leaves_an_empty_folder_that_can_be_mounted_again() {
    let scratch = tempfile::tempdir().unwrap();
    for _ in 0..5 {
        let mount = mount_at(scratch.path()).unwrap();
        assert_eq!(fs::read(scratch.path().join("file")).unwrap(), b"bytes");
        mount.end().unwrap();
        assert!(!mount.is_mounted());
        mount.end().unwrap();
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}

#[apply(promise)]
fn an_unmount_by_another_program_is_noticed() {
    let content = Memory::new();
    let mounted = Mounted::of(&content);
    let dir = mounted.dir().to_owned();
    assert!(Command::new("umount").arg(&dir).status().unwrap().success());
    eventually("the mount is gone", HANG_LIMIT, || {
        !mounted.mount.is_mounted()
    });
    let why = mounted.mount.why_gone();
    assert!(why.contains("unmounted by hand"), "{why}");
    mounted.mount.end().unwrap();
}

#[apply(promise)]
fn a_filesystem_mounted_over_the_folder_is_named_until_it_is_gone() {
    let scratch = tempfile::tempdir().unwrap();
    let mount = mount_at(scratch.path()).unwrap();
    let mut cover = Command::new("mount");
    cover.args(["-t", "tmpfs", "none"]).arg(scratch.path());
    assert!(cover.status().unwrap().success());
    assert!(!mount.is_mounted());
    let why = mount.why_gone();
    assert!(why.contains("(tmpfs) is mounted over it"), "{why}");
    let uncovered = Command::new("umount").arg(scratch.path()).status();
    assert!(uncovered.unwrap().success());
    assert!(mount.is_mounted());
    assert_eq!(fs::read(scratch.path().join("file")).unwrap(), b"bytes");
    mount.end().unwrap();
}

#[apply(promise)]
fn an_unmount_under_load_releases_all_readers() {
    let content = Memory::new();
    content.dead("dead", 64 << 20);
    content.file("alive", noise(1, 64 << 20));
    let mounted = Mounted::start(&content, |options| {
        options.server.deadlines.read = Duration::from_secs(600);
    });
    let cat = |name: &str| {
        let script = format!("while cat '{}'; do :; done", mounted.at(name).display());
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        shell.stderr(Stdio::null()).spawn().unwrap()
    };
    let mut readers: Vec<Child> = ["dead", "alive", "alive", "dead"].map(cat).into();
    content.wait_for_stuck(1);
    let open = File::open(mounted.at("dead")).unwrap();
    let begun = Instant::now();
    mounted.mount.end().unwrap();
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    for child in &mut readers {
        wait_child(child, HANG_LIMIT);
    }
    assert!(
        open.read_at(&mut [0; 10], 0).is_err(),
        "an open file fails from now on"
    );
    assert!(!mounted.mount.is_mounted());
    eventually("nothing is open", HANG_LIMIT, || content.open_count() == 0);
}

#[apply(promise)]
fn an_ordinary_user_without_the_helper_is_told_what_to_install() {
    // The program runs as `nobody`, in a folder of that user, with an empty path for programs.
    let scratch = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(scratch.path(), Some(65534), Some(65534)).unwrap();
    let program = scratch.path().join("program");
    // Another process copies it: a copy written by this one might still be open in a child just
    // forked.
    let copied = run_with("cp", &[&std::env::current_exe().unwrap(), &program]);
    assert!(copied.status.success(), "{copied:?}");
    let dir = scratch.path().join("mount");
    let mut child = Command::new("/usr/bin/setpriv");
    child
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&program);
    let output = child
        .env("PATH", "")
        .env(CHILD_MOUNTS, &dir)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("FusermountMissing"),
        "{said}"
    );
}

/// Set in the process that a test kills: its mount point.
const CHILD_MOUNTS: &str = "P2PFS_TEST_MOUNT_CHILD";

pub(crate) fn is_child_that_mounts() -> bool {
    std::env::var_os(CHILD_MOUNTS).is_some()
}

/// Mounts and serves until this process is killed.
pub(crate) fn mount_until_killed() {
    let dir = std::env::var_os(CHILD_MOUNTS).unwrap();
    let content = Memory::new();
    content.file("file", b"bytes".to_vec());
    content.dead("dead", 1 << 20);
    content.publish(None);
    let options = MountOptions::for_this_user();
    let _mount = Mount::start(Path::new(&dir), content, &options).unwrap();
    loop {
        thread::park();
    }
}

fn child_that_mounts_at(dir: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.env(CHILD_MOUNTS, dir).stdin(Stdio::null());
    child
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[apply(promise)]
fn the_stale_mount_of_a_killed_daemon_is_cleaned() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("mount");
    fs::create_dir(&dir).unwrap();
    for round in 0..3 {
        let mut daemon = child_that_mounts_at(&dir);
        eventually("the child mounts", HANG_LIMIT, || dir.join("file").exists());
        let file = dir.join("dead");
        let reader = thread::spawn(move || fs::read(file));
        let open = File::open(dir.join("file")).unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        assert!(
            reader.join().unwrap().is_err(),
            "a reader of a dead daemon gets an error"
        );
        let dead = rustix::fs::statfs(&dir).map(drop);
        assert_eq!(dead, Err(rustix::io::Errno::NOTCONN), "round {round}");

        let mount = mount_at(&dir).unwrap();
        assert_eq!(fs::read(dir.join("file")).unwrap(), b"bytes");
        assert!(open.read_at(&mut [0; 5], 0).is_err(), "round {round}");
        drop(mount);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    }
}

#[apply(promise)]
fn operations_of_the_mount_are_counted() {
    let content = Memory::new();
    content.file("file", noise(1, 1 << 20));
    let mounted = Mounted::of(&content);
    fs::read(mounted.at("file")).unwrap();
    let _ = fs::metadata(mounted.at("missing"));
    let activity = mounted.mount.activity();
    assert_eq!(activity.read_bytes, 1 << 20);
    for wanted in ["lookup", "open", "read"] {
        let counted = activity
            .operations
            .iter()
            .find(|it| it.name == wanted)
            .unwrap();
        assert!(
            counted.count > 0 && counted.longest_us < 60_000_000,
            "{counted:?}"
        );
    }
    assert!(activity.inodes >= 2);
    eventually("nothing stays open", HANG_LIMIT, || {
        mounted.mount.activity().handles == 0
    });
}
