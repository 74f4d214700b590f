//! Disks that appear and disappear below a share.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use macro_rules_attribute::apply;

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, mount];

/// A filesystem in memory or in a file, unmounted on drop.
pub(crate) struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path) -> Self {
        Self::mount_with(at, "size=1m,mode=755")
    }

    /// Mounts an image file with ext4.
    pub(crate) fn mount_image(image: &Path, at: &Path) -> Self {
        make_image(image);
        Self::mount_again(image, at)
    }

    /// Mounts an image file again, on the next free loop device.
    fn mount_again(image: &Path, at: &Path) -> Self {
        let mut mount = Command::new("mount");
        run(mount.args(["-o", "loop"]).arg(image).arg(at)).expect_ok();
        Self(at.to_owned())
    }

    /// Shows the folder `of` at another place.
    pub(crate) fn mount_bound(of: &Path, at: &Path) -> Self {
        let mut mount = Command::new("mount");
        run(mount.arg("--bind").args([of, at])).expect_ok();
        Self(at.to_owned())
    }

    /// Aborts the filesystem, which becomes read-only while programs write to it, as after a disk
    /// error.
    fn break_down(&self) {
        let mut mount = Command::new("mount");
        run(mount.args(["-o", "remount,abort"]).arg(&self.0)).expect_ok();
    }

    /// Mounts an overlay over `below`. Its upper layer is in `beside`.
    fn mount_overlay(below: &Path, beside: &Path, at: &Path) -> Self {
        let [upper, work] = ["upper", "work"].map(|name| beside.join(name));
        for dir in [&upper, &work] {
            fs::create_dir_all(dir).unwrap();
        }
        let [below, upper, work] = [below, &upper, &work].map(|dir| dir.display());
        let options = format!("lowerdir={below},upperdir={upper},workdir={work}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "overlay", "-o", &options, "none"]);
        run(mount.arg(at)).expect_ok();
        Self(at.to_owned())
    }

    pub(crate) fn mount_with(at: &Path, options: &str) -> Self {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "none"]);
        run(mount.arg(at)).expect_ok();
        Self(at.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A filesystem on which writes wait until this is dropped.
pub(crate) struct Frozen<'a>(&'a Path);

impl<'a> Frozen<'a> {
    pub(crate) fn new(at: &'a Path) -> Self {
        run(Command::new("fsfreeze").arg("-f").arg(at)).expect_ok();
        Self(at)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(self.0).status();
    }
}

fn make_image(image: &Path) {
    make_image_of(&["mkfs.ext4", "-q", "-F"], image);
}

/// A filesystem that this command makes in a new file.
fn make_image_of(mkfs: &[&str], image: &Path) {
    let made = fs::File::create(image).and_then(|file| file.set_len(256 << 20));
    made.unwrap();
    run(Command::new(mkfs[0]).args(&mkfs[1..]).arg(image)).expect_ok();
}

pub(crate) fn images_can_be_mounted() -> Option<String> {
    let can = Command::new("sh")
        .args(["-c", "command -v mkfs.ext4 && losetup -f"])
        .output();
    let can = can.is_ok_and(|tried| tried.status.success());
    (!can).then(|| "needs mkfs.ext4 (apt install e2fsprogs) and a free loop device".to_owned())
}

fn btrfs_images_can_be_mounted() -> Option<String> {
    let tried = "command -v mkfs.btrfs && losetup -f && \
                 { grep -qw btrfs /proc/filesystems || modprobe btrfs; }";
    let can = Command::new("sh").args(["-c", tried]).output();
    let can = can.is_ok_and(|tried| tried.status.success());
    let why =
        "needs mkfs.btrfs (apt install btrfs-progs), btrfs in the kernel, and a free loop device";
    (!can).then(|| why.to_owned())
}

fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = names
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[apply(promise)]
fn a_path_through_a_bind_mount_of_a_folder_names_its_entry() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    fs::create_dir(node.share.join("docs")).unwrap();
    fs::write(node.share.join("docs/file"), "in").unwrap();
    (node.cli(&["wait", "--file", "docs/file", "--timeout", WAIT_LIMIT])).expect_ok();
    let bound = node.home.join("bound");
    fs::create_dir(&bound).unwrap();
    let _bound = Disk::mount_bound(&node.mounted("docs"), &bound);
    let file = bound.join("file");
    assert_eq!(fs::read(&file).unwrap(), b"in");
    let said = node.cli(&["why", file.to_str().unwrap()]).expect_ok();
    assert!(said.contains("docs/file: listed"), "{said}");
    let mut within = node.cli_command(&["why", "file"]);
    let said = run(within.current_dir(&bound)).expect_ok();
    assert!(said.contains("docs/file: listed"), "{said}");
}

#[apply(promise)]
fn a_disk_mounted_below_a_share_is_listed_while_mounted() {
    let mut cluster = Cluster::new();
    let owner = cluster.start("owner");
    let reader = cluster.start("reader");
    let at = owner.share.join("disks/one");
    fs::create_dir_all(&at).unwrap();
    fs::write(at.join("beneath"), b"beneath").unwrap();
    let seen = reader.mounted("disks/one");
    eventually("the folder", HANG_LIMIT, || names(&seen) == ["beneath"]);
    let disk = Disk::mount(&at);
    fs::write(at.join("photo"), b"photo").unwrap();
    eventually("the disk", HANG_LIMIT, || names(&seen) == ["photo"]);
    assert_eq!(fs::read(seen.join("photo")).unwrap(), b"photo");
    fs::write(at.join("later"), b"later").unwrap();
    eventually("it is watched", HANG_LIMIT, || {
        names(&seen) == ["later", "photo"]
    });
    drop(disk);
    eventually("the folder again", HANG_LIMIT, || {
        names(&seen) == ["beneath"]
    });
}

#[apply(promise)]
fn a_disk_below_a_share_that_becomes_private_is_no_longer_listed() {
    let mut cluster = Cluster::new();
    let owner = cluster.start("owner");
    let reader = cluster.start("reader");
    let at = owner.share.join("disk");
    fs::create_dir(&at).unwrap();
    let disk = Disk::mount(&at);
    fs::write(at.join("photo"), b"photo").unwrap();
    let seen = reader.mounted("disk");
    eventually("the disk", HANG_LIMIT, || names(&seen) == ["photo"]);
    set_mode(&at, 0o700);
    // This must not depend on the rescan.
    eventually("it leaves", HANG_LIMIT / 3, || !seen.exists());
    drop(disk);
}

#[apply(promise)]
fn a_disk_mounted_over_a_share_is_shared_instead() {
    let mut cluster = Cluster::new();
    let owner = cluster.start("owner");
    let reader = cluster.start("reader");
    fs::write(owner.share.join("beneath"), b"beneath").unwrap();
    eventually("the share", HANG_LIMIT, || {
        names(&reader.mount) == ["beneath"]
    });
    let disk = Disk::mount(&owner.share);
    fs::write(owner.share.join("photo"), b"photo").unwrap();
    eventually("the disk", HANG_LIMIT, || names(&reader.mount) == ["photo"]);
    drop(disk);
    eventually("the share again", HANG_LIMIT, || {
        names(&reader.mount) == ["beneath"]
    });
}

#[apply(promise)]
fn a_file_too_large_for_the_caches_disk_is_not_pinned_and_the_disk_is_named() {
    let mut cluster = Cluster::new();
    let owner = cluster.start("owner");
    let at = cluster.folder.path().join("reader/cache");
    fs::create_dir_all(&at).unwrap();
    let disk = Disk::mount(&at);
    let reader = cluster.start_with(NodeOptions {
        config: "[cache]\nsize = '1GiB'\nfloor = '64KiB'\n".to_owned(),
        ..NodeOptions::new("reader")
    });
    owner.write("large", &vec![7; 3 << 20]);
    owner.write("small", b"small");
    reader.wait_for_file("large");
    reader.wait_for_file("small");
    for command in ["pin", "prefetch"] {
        let refused = reader.cli(&[command, "large"]);
        assert_eq!(
            refused.status.code(),
            Some(1),
            "{command}: {}",
            refused.stderr
        );
        assert!(
            refused.stderr.contains("the cache's disk has"),
            "{}",
            refused.stderr
        );
        assert!(
            refused.stderr.contains("free some of that disk"),
            "{}",
            refused.stderr
        );
        assert!(
            !refused.stderr.contains("cache resize"),
            "{}",
            refused.stderr
        );
    }
    reader.cli(&["pin", "small"]).expect_ok();
    // This fills the disk: the write ends with an error.
    let _ = fs::write(at.join("of somebody else"), vec![1; 1 << 20]);
    let checkup = reader.cli(&["doctor", "--json"]);
    let told = String::from_utf8_lossy(&checkup.stdout).into_owned();
    assert!(
        told.contains("the cache's disk is full") && !told.contains("has room"),
        "{told}"
    );
    drop(reader);
    drop(disk);
}

#[apply(promise)]
fn a_cache_without_a_floor_that_exceeds_its_disk_drops_old_files() {
    const FILES: u64 = 16;
    let mut cluster = Cluster::new();
    let owner = cluster.start("owner");
    let at = cluster.folder.path().join("reader/cache");
    fs::create_dir_all(&at).unwrap();
    let disk = Disk::mount_with(&at, "size=8m,mode=755");
    let reader = cluster.start_with(NodeOptions {
        config: "[cache]\nsize = '1GiB'\nfloor = '0B'\n".to_owned(),
        ..NodeOptions::new("reader")
    });
    let read = |number: u64| {
        let name = number.to_string();
        let bytes = noise(number, 1 << 20);
        owner.write(&name, &bytes);
        reader.wait_for_file(&name);
        reader.cli(&["prefetch", &name]).expect_ok();
        let listed = reader.cli(&["ls", &name, "--json"]).expect_json();
        assert_eq!(
            listed["entries"][0]["cached_bytes"],
            bytes.len(),
            "{listed}"
        );
        assert!(fs::read(reader.mounted(&name)).unwrap() == bytes);
    };
    (0..FILES).for_each(read);
    // This fills the disk: the write ends with an error.
    let _ = fs::write(at.join("of somebody else"), vec![1; 8 << 20]);
    (FILES..FILES + 3).for_each(read);
    eventually("nothing is said of the disk", HANG_LIMIT, || {
        let status = reader.cli(&["status", "--json"]).expect_json();
        status["warnings"].as_array().is_some_and(Vec::is_empty)
    });
    drop(reader);
    drop(disk);
}

#[apply(promise)]
fn doctor_reports_a_state_that_cannot_be_stored() {
    let mut cluster = Cluster::new();
    let at = cluster.folder.path().join("one/state");
    fs::create_dir_all(&at).unwrap();
    let disk = Disk::mount_with(&at, "size=24m,mode=700");
    let node = cluster.start("one");
    let state = || {
        let finished = node.cli(&["doctor", "--json"]);
        let checkup: serde_json::Value = serde_json::from_slice(&finished.stdout).unwrap();
        let mut checks = checkup["checks"].as_array().unwrap().iter();
        let state = checks.find(|check| check["name"] == "state").cloned();
        (finished.status.code(), state.unwrap())
    };
    assert_eq!(state().1["state"], "ok");
    // This fills the disk: the write ends with an error.
    let _ = fs::write(at.join("ballast"), vec![1; 24 << 20]);
    // No state has been lost yet.
    let (code, told) = state();
    assert_eq!((code, &told["state"]), (Some(0), &"warning".into()));
    assert!(told["found"].to_string().contains("its disk is full"));
    for number in 0..3000 {
        fs::write(node.share.join(format!("file{number}")), b"1").unwrap();
    }
    let (mut code, mut told) = state();
    eventually("it is told of", HANG_LIMIT, || {
        (code, told) = state();
        told["state"] == "failed"
    });
    assert_eq!(code, Some(1));
    let (found, remedy) = (told["found"].to_string(), told["remedy"].to_string());
    assert!(found.contains("the state is not stored"), "{found}");
    assert!(remedy.contains("free some"), "{remedy}");
    drop(node);
    drop(disk);
}

#[apply(promise)]
fn a_share_can_be_added_once_the_states_disk_has_room_again() {
    let mut cluster = Cluster::new();
    let at = cluster.folder.path().join("one/state");
    fs::create_dir_all(&at).unwrap();
    let disk = Disk::mount_with(&at, "size=24m,mode=700");
    let node = cluster.start("one");
    let more = cluster.folder.path().join("more");
    fs::create_dir(&more).unwrap();
    set_mode(&more, 0o755);
    fs::write(more.join("of-more.txt"), b"more").unwrap();
    let add = ["share", "add", more.to_str().unwrap()];
    let _ = fs::write(at.join("ballast"), vec![1; 24 << 20]);
    let refused = node.cli(&add);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    // The database refuses the second write too.
    assert_eq!(node.cli(&add).status.code(), Some(1));
    fs::remove_file(at.join("ballast")).unwrap();
    node.cli(&add).expect_ok();
    node.wait_for_file("of-more.txt");
    drop(node);
    drop(disk);
}

#[apply(promise)]
fn a_disk_below_a_share_can_be_unmounted_soon_after_a_read() {
    let mut cluster = Cluster::new();
    let owner = cluster.start("owner");
    let reader = cluster.start("reader");
    let at = owner.share.join("disk");
    fs::create_dir(&at).unwrap();
    let _disk = Disk::mount(&at);
    let film = noise(1, 600_000);
    fs::write(at.join("film"), &film).unwrap();
    fs::write(at.join("photo"), b"photo").unwrap();
    let seen = reader.mounted("disk");
    eventually("the disk", HANG_LIMIT, || names(&seen) == ["film", "photo"]);
    assert!(fs::read(seen.join("film")).unwrap() == film);
    assert_eq!(fs::read(seen.join("photo")).unwrap(), b"photo");
    eventually("it is not busy", HANG_LIMIT, || {
        Command::new("umount").arg(&at).status().unwrap().success()
    });
    eventually("its files leave", HANG_LIMIT, || names(&seen).is_empty());
}

#[apply(promise)]
fn files_pinned_on_a_full_disk_can_be_unpinned() {
    let mut cluster = Cluster::new();
    let owner = cluster.start("owner");
    let at = cluster.folder.path().join("reader/cache");
    fs::create_dir_all(&at).unwrap();
    let disk = Disk::mount_with(&at, "size=16m,mode=755");
    let reader = cluster.start_with(NodeOptions {
        config: "[cache]\nsize = '1GiB'\nfloor = '64KiB'\n".to_owned(),
        ..NodeOptions::new("reader")
    });
    owner.write("large", &noise(1, 4 << 20));
    owner.write("small", b"stays pinned");
    for file in ["large", "small"] {
        reader.wait_for_file(file);
        reader.cli(&["prefetch", file]).expect_ok();
        reader.cli(&["pin", file]).expect_ok();
    }
    // This fills the disk: the write ends with an error.
    let _ = fs::write(at.join("of somebody else"), vec![1; 16 << 20]);
    reader.cli(&["unpin", "large"]).expect_ok();
    let listed = reader.cli(&["cache", "ls"]).expect_ok();
    assert!(
        listed.contains("small") && !listed.contains("large"),
        "{listed}"
    );
    reader.cli(&["unpin", "small"]).expect_ok();
    let status = reader.cli(&["status", "--json"]).expect_json();
    assert_eq!(status["cache"]["pinned_bytes"], 0, "{status}");
    drop(reader);
    drop(disk);
}

#[apply(promise)]
fn doctor_does_not_claim_room_for_a_cache_whose_writes_fail() {
    let mut cluster = Cluster::new();
    let owner = cluster.start("owner");
    let at = cluster.folder.path().join("reader/cache");
    fs::create_dir_all(&at).unwrap();
    let disk = Disk::mount_with(&at, "size=16m,nr_inodes=64,mode=755");
    let reader = cluster.start_with(NodeOptions {
        config: "[cache]\nfloor = '64KiB'\n".to_owned(),
        ..NodeOptions::new("reader")
    });
    owner.write("docs", b"text");
    reader.wait_for_file("docs");
    // The disk has bytes left and no inodes.
    let mut made = (0..64).map(|number| fs::write(at.join(format!("of others {number}")), b""));
    assert!(made.any(|made| made.is_err()));
    assert_eq!(fs::read(reader.mounted("docs")).unwrap(), b"text");
    eventually("doctor tells of it", HANG_LIMIT, || {
        let told = reader.cli(&["doctor"]).text();
        told.contains("refuses writes") && !told.contains("has room")
    });
    drop(reader);
    drop(disk);
}

mod of_the_state {
    use std::net::SocketAddr;
    use std::pin::pin;
    use std::time::Duration;

    use p2pfs_node::{Leave, Node as EmbeddedNode, StopProblem};
    use p2pfs_types::path::SharedPath;
    use tokio::runtime::Runtime;
    use tokio::time::timeout;

    use super::*;

    const NEEDS: &[Need] = &[root, images_can_be_mounted];

    /// Makes the folders of [`start`], with the state on a disk of its own.
    fn state_disk(folder: &Path) -> Disk {
        let [state, share] = ["one/state", "share"].map(|name| folder.join(name));
        for dir in [&state, &share] {
            fs::create_dir_all(dir).unwrap();
            set_mode(dir, 0o755);
        }
        let disk = Disk::mount_image(&folder.join("image"), &state);
        set_mode(&state, 0o700);
        disk
    }

    async fn start(folder: &Path) -> EmbeddedNode {
        let node = EmbeddedNode::builder("one".parse().unwrap(), folder.join("one"));
        let anywhere: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let node = node.listen(anywhere).lan(false).cache(64 << 20, 0);
        node.share(folder.join("share")).start().await.unwrap()
    }

    /// Writes a file into the share and waits until it is listed.
    async fn list(node: &EmbeddedNode, folder: &Path, name: &str) {
        let file = folder.join("share").join(name);
        fs::write(&file, b"bytes").unwrap();
        set_mode(&file, 0o644);
        let path = SharedPath::new(name.as_bytes()).unwrap();
        node.names().wait_for(&path).await.unwrap();
    }

    #[apply(promise)]
    fn a_stop_waits_until_a_slow_disk_has_stored_the_last_changes() {
        /// More than a farewell takes.
        const STILL_STOPPING: Duration = Duration::from_secs(4);
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let disk = state_disk(folder);
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let node = start(folder).await;
            list(&node, folder, "first").await;
            let state = folder.join("one/state");
            let frozen = Frozen::new(&state);
            list(&node, folder, "last").await;
            let mut stop = pin!(node.stop(Leave::Away));
            let stopped = timeout(STILL_STOPPING, &mut stop).await;
            assert!(stopped.is_err(), "before the disk had stored anything");
            drop(frozen);
            let problems = stop.await;
            assert!(problems.is_empty(), "{problems:?}");
        });
        drop(runtime);
        drop(disk);
    }

    #[apply(promise)]
    fn a_stop_ends_and_says_so_although_the_disk_does_not_answer() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let disk = state_disk(folder);
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let node = start(folder).await;
            list(&node, folder, "first").await;
            let state = folder.join("one/state");
            let frozen = Frozen::new(&state);
            list(&node, folder, "last").await;
            let problems = node.stop(Leave::Away).await;
            assert!(
                matches!(problems[..], [StopProblem::SilentDisk]),
                "{problems:?}"
            );
            drop(frozen);
        });
        drop(runtime);
        drop(disk);
    }

    #[apply(promise)]
    fn a_stop_returns_that_the_disk_refused_the_last_changes() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let disk = state_disk(folder);
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let node = start(folder).await;
            list(&node, folder, "first").await;
            disk.break_down();
            list(&node, folder, "last").await;
            let problems = node.stop(Leave::Away).await;
            assert!(
                matches!(problems[..], [StopProblem::NotStored(_)]),
                "{problems:?}"
            );
        });
        drop(runtime);
        drop(disk);
    }
}

mod of_the_cache {
    use super::*;

    const NEEDS: &[Need] = &[root, mount, images_can_be_mounted];

    #[apply(promise)]
    fn cached_files_are_read_after_the_caches_disk_turned_read_only() {
        let mut cluster = Cluster::new();
        let mut owner = cluster.start("owner");
        let at = cluster.folder.path().join("reader/cache");
        fs::create_dir_all(&at).unwrap();
        let disk = Disk::mount_image(&cluster.folder.path().join("image"), &at);
        let mut reader = cluster.start_with(NodeOptions {
            config: "[cache]\nfloor = '64KiB'\n".to_owned(),
            ..NodeOptions::new("reader")
        });
        // The first file has no hash pairs and its map in an attribute. The second has both. The
        // third keeps all in files.
        let files = [("note", 9_000), ("photo", 90_000), ("film", 3 << 20)];
        let bytes_of = |(name, length): (&str, usize)| noise(name.len() as u64, length);
        for (name, length) in files {
            owner.write(name, &bytes_of((name, length)));
            reader.wait_for_file(name);
            reader.cli(&["pin", name]).expect_ok();
        }
        owner.write("late", &noise(1, 90_000));
        // After the restart, no cache file is open.
        reader.stop();
        reader.launch();
        reader.wait_for_file("late");
        disk.break_down();
        reader.cli(&["cache", "verify"]).expect_ok();
        assert!(fs::read(reader.mounted("late")).unwrap() == noise(1, 90_000));
        eventually("it is told", HANG_LIMIT, || {
            let status = reader.cli(&["status"]).expect_ok();
            status.contains("refuses writes") && status.contains("Read-only")
        });
        let refused = reader.cli(&["prefetch", "late"]);
        assert_eq!(refused.status.code(), Some(1));
        let why = refused.stderr;
        assert!(why.contains("refuses writes"), "{why}");
        owner.stop();
        for file in files {
            let read = fs::read(reader.mounted(file.0));
            assert!(read.unwrap() == bytes_of(file), "{}", file.0);
        }
        drop(reader);
        drop(disk);
    }
}

#[apply(promise)]
fn an_overlay_over_the_mount_never_shows_wrong_bytes_after_a_change() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    let write = |bytes: &[u8]| nodes[0].write("tree/file", bytes);
    write(b"first");
    nodes[1].wait_for_file("tree/file");
    let dirs = ["beside", "merged"].map(|name| cluster.folder.path().join(name));
    dirs.iter().for_each(|dir| fs::create_dir(dir).unwrap());
    let [beside, merged] = &dirs;
    let overlay = || Disk::mount_overlay(&nodes[1].mounted("tree"), beside, merged);
    let file = merged.join("file");
    let first = overlay();
    assert_eq!(fs::read(&file).unwrap(), b"first");
    fs::write(merged.join("own"), b"own").unwrap();
    assert!(!nodes[0].share.join("tree/own").exists());
    write(b"second");
    let seen = nodes[1].mounted("tree/file");
    eventually("the change is seen", HANG_LIMIT, || {
        fs::read(&seen).is_ok_and(|bytes| bytes == b"second")
    });
    match fs::read(&file) {
        Ok(bytes) => assert!(bytes == b"first" || bytes == b"second"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ESTALE)),
    }
    drop(first);
    let _anew = overlay();
    assert_eq!(fs::read(&file).unwrap(), b"second");
    assert_eq!(names(merged), ["file", "own"]);
}

mod of_whole_seconds {
    use std::time::{Duration, SystemTime};

    use super::*;

    const NEEDS: &[Need] = &[root, mount, images_can_be_mounted];

    /// As a file whose date a program keeps, in a deployment with reproducible dates.
    #[apply(promise)]
    fn two_writes_of_one_date_within_a_second_are_seen_where_times_are_whole_seconds() {
        let mut cluster = Cluster::new();
        let owner = cluster.start("owner");
        let reader = cluster.start("reader");
        let at = owner.share.join("disk");
        fs::create_dir_all(&at).unwrap();
        let image = owner.home.join("image");
        // inodes of 128 bytes have no room for parts of seconds
        make_image_of(&["mkfs.ext4", "-q", "-F", "-I", "128"], &image);
        let _disk = Disk::mount_again(&image, &at);
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let times = fs::FileTimes::new().set_accessed(date).set_modified(date);
        let put = |name: &str, bytes: &[u8]| {
            let mut options = fs::OpenOptions::new();
            let file = options.create(true).truncate(false).write(true);
            let file = file.open(at.join(name)).unwrap();
            file.write_all_at(bytes, 0).unwrap();
            file.set_times(times).unwrap();
        };
        for number in 0..4 {
            let name = format!("{number}");
            let seen = reader.mounted(&format!("disk/{name}"));
            put(&name, b"first.");
            eventually("the first bytes", HANG_LIMIT, || {
                fs::read(&seen).is_ok_and(|bytes| bytes == b"first.")
            });
            put(&name, b"second");
            eventually("the second bytes", HANG_LIMIT, || {
                fs::read(&seen).is_ok_and(|bytes| bytes == b"second")
            });
        }
    }
}

mod returning {
    use std::os::unix::fs::MetadataExt;
    use std::time::SystemTime;

    use super::*;

    const NEEDS: &[Need] = &[root, mount, images_can_be_mounted];
    const SIZE: usize = 24 << 20;

    /// Checks that a file on a filesystem at this place in a share is not read again after the
    /// filesystem has got another device number and the daemon was started again.
    fn expect_not_read_again(mkfs: &[&str], place: &str) {
        let mut cluster = Cluster::new();
        let mut owner = cluster.start("owner");
        let reader = cluster.start("reader");
        // The file is at rest before the daemon finds it, so its hash is final.
        owner.stop();
        let at = owner.share.join(place);
        fs::create_dir_all(&at).unwrap();
        let image = owner.home.join("image");
        make_image_of(mkfs, &image);
        let disk = Disk::mount_again(&image, &at);
        let (file, name) = (at.join("film"), Path::new(place).join("film"));
        let name = name.to_str().unwrap();
        fs::write(&file, noise(31, SIZE)).unwrap();
        run(Command::new("touch").args(["-d", "@1000000000"]).arg(&file)).expect_ok();
        owner.launch();
        reader.wait_for_file(name);
        eventually("the hash is proven", HANG_LIMIT, || {
            let changed = fs::metadata(&file).unwrap().ctime();
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            now.unwrap().as_secs().cast_signed() > changed + 5
        });
        // Hashes are stored in batches, and a batch may have begun before this one was known.
        for marker in ["first marker", "second marker"] {
            let before = SystemTime::now();
            owner.write(marker, marker.as_bytes());
            reader.wait_for_file(marker);
            eventually("the hashes are stored", HANG_LIMIT, || {
                let ledger = fs::metadata(owner.home.join("state/shares.redb"));
                ledger.unwrap().modified().unwrap() > before
            });
        }
        let number = |path: &Path| fs::metadata(path).unwrap().dev();
        let before = number(&file);
        owner.stop();
        drop(disk);

        // Other images take device numbers until the disk gets another one.
        let mut others = Vec::new();
        let _disk = loop {
            eventually("the device is free", HANG_LIMIT, || {
                let devices = run(Command::new("losetup").arg("-j").arg(&image));
                devices.stdout.is_empty()
            });
            let number_of_other = others.len();
            let beside = owner.home.join(format!("beside-{number_of_other}"));
            fs::create_dir(&beside).unwrap();
            let other = owner.home.join(format!("other-{number_of_other}"));
            make_image_of(mkfs, &other);
            others.push(Disk::mount_again(&other, &beside));
            let disk = Disk::mount_again(&image, &at);
            if number(&file) != before {
                break disk;
            }
        };
        owner.launch();
        reader.wait_for_file(name);
        owner.wait_for_file(name);
        let io = fs::read_to_string(format!("/proc/{}/io", owner.pid())).unwrap();
        let read: usize = io["rchar: ".len()..]
            .lines()
            .next()
            .unwrap()
            .parse()
            .unwrap();
        assert!(read < SIZE / 2, "{read} bytes");
    }

    const EXT4: &[&str] = &["mkfs.ext4", "-q", "-F"];

    #[apply(promise)]
    fn a_disk_that_returns_under_another_device_number_is_not_read_again() {
        expect_not_read_again(EXT4, "disk");
    }

    #[apply(promise)]
    fn a_share_whose_ext4_returns_under_another_device_number_is_not_hashed_again() {
        expect_not_read_again(EXT4, "");
    }

    mod of_btrfs {
        use super::*;

        const NEEDS: &[Need] = &[root, mount, btrfs_images_can_be_mounted];

        #[apply(promise)]
        fn a_share_whose_btrfs_returns_under_another_device_number_is_not_hashed_again() {
            expect_not_read_again(&["mkfs.btrfs", "-q", "-f"], "");
        }
    }
}

/// Makes the cache of a node an overlay, from which the kernel does not read by itself.
fn stack_cache(home: &Path) -> [Disk; 2] {
    let [at, beside, below] = ["cache", "disk", "below"].map(|name| home.join(name));
    for dir in [&at, &beside, &below] {
        fs::create_dir_all(dir).unwrap();
    }
    let disk = Disk::mount_with(&beside, "size=64m,mode=755");
    [Disk::mount_overlay(&below, &beside, &at), disk]
}

#[apply(promise)]
fn cache_verify_leaves_no_damaged_bytes_to_readers_without_passthrough() {
    let mut cluster = Cluster::new();
    let owner = cluster.start("owner");
    let disks = stack_cache(&cluster.folder.path().join("reader"));
    let reader = cluster.start_with(NodeOptions {
        config: "[cache]\nsize = '32MiB'\nfloor = '64KiB'\n".to_owned(),
        ..NodeOptions::new("reader")
    });
    let bytes = noise(1, 1 << 20);
    owner.write("file", &bytes);
    reader.wait_for_file("file");
    reader.cli(&["prefetch", "file"]).expect_ok();
    reader.damage_cached(&bytes, 300_000);
    let open = fs::File::open(reader.mounted("file")).unwrap();
    let mut read = vec![0; bytes.len()];
    open.read_exact_at(&mut read, 0).unwrap();
    assert!(read != bytes, "the kernel has damaged pages");
    assert_eq!(reader.cli(&["cache", "verify"]).status.code(), Some(1));
    open.read_exact_at(&mut read, 0).unwrap();
    assert!(read == bytes, "through the handle from before");
    assert!(fs::read(reader.mounted("file")).unwrap() == bytes);
    drop((open, reader, disks));
}

#[apply(promise)]
fn doctor_notes_a_cache_whose_files_the_kernel_cannot_read_itself() {
    let mut cluster = Cluster::new();
    let fast = cluster.start("fast");
    let status = fast.cli(&["status", "--json"]).expect_json();
    if status["mount"]["activity"]["passthrough"] != true {
        eprintln!("SKIPPED: no passthrough here");
        return;
    }
    let disks = stack_cache(&cluster.folder.path().join("slow"));
    let slow = cluster.start("slow");
    let checks = |node: &Node| node.cli(&["doctor", "--json"]).text();
    eventually("the note", HANG_LIMIT, || {
        let checks = checks(&slow);
        checks.contains("warm reads") && checks.contains("put cache_dir on ext4, xfs or btrfs")
    });
    let text = slow.cli(&["doctor"]).expect_ok();
    let notes = text.lines().filter(|line| line.contains("warm reads"));
    assert!(notes.count() == 1, "{text}");
    let status = slow.cli(&["status"]).expect_ok();
    assert!(!status.contains("slower"), "{status}");
    assert!(!checks(&fast).contains("warm reads"));
    drop((slow, disks));
}
