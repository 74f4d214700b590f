//! Three nodes on which programs write into the mount. What one of them changes is the same on all.
//!
//! The nodes of [`world`] serve most promises, each in its own directory. Each node has a writable
//! share at the top, which is open, beside the closed share of [`Node::share`].

mod away;
mod conflicts;
mod limits;
mod programs;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use macro_rules_attribute::apply;
use parking_lot::{Mutex, MutexGuard};
use rustix::fs::StatVfsMountFlags;

use crate::support::content::{hash_of, names_below, noise};
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

/// The nodes that most promises use.
struct World {
    nodes: Vec<Node>,
    // Declared after the nodes: they stop before their folder is removed.
    _cluster: Cluster,
}

static WORLD: Mutex<Option<World>> = Mutex::new(None);

/// Removes the shared nodes.
pub(crate) fn end() {
    drop(WORLD.lock().take());
}

/// The nodes, started on the first use.
struct Nodes(MutexGuard<'static, Option<World>>);

impl std::ops::Deref for Nodes {
    type Target = [Node];

    fn deref(&self) -> &[Node] {
        &self.0.as_ref().unwrap().nodes
    }
}

fn world() -> Nodes {
    let mut world = WORLD.lock();
    if world.is_none() {
        let mut cluster = Cluster::new();
        let nodes = cluster.start_all(&["one", "two", "three"]);
        nodes.iter().for_each(write_on);
        *world = Some(World {
            nodes,
            _cluster: cluster,
        });
    }
    Nodes(world)
}

/// Makes the mount of a node writable.
fn write_on(node: &Node) {
    node.cli(&["write", "on"]).expect_ok();
    eventually("the mount is writable", HANG_LIMIT, || {
        let found = rustix::fs::statvfs(&node.mount).unwrap();
        !found.f_flag.contains(StatVfsMountFlags::RDONLY)
    });
}

/// Returns the path of a file that was written through the mount, on the disk of its node.
fn on_disk(node: &Node, path: &str) -> PathBuf {
    node.home.join("state/files").join(path)
}

/// Returns what a directory has: its names, and the kind, the hash and the executable bit of each.
fn tree(dir: &Path) -> BTreeMap<PathBuf, String> {
    let described = |name: PathBuf| {
        let path = dir.join(&name);
        let told = describe(&path).unwrap_or_else(|error| error.to_string());
        (name, told)
    };
    names_below(dir).into_iter().map(described).collect()
}

fn describe(path: &Path) -> io::Result<String> {
    let found = fs::symlink_metadata(path)?;
    if found.is_dir() {
        return Ok("directory".to_owned());
    }
    if found.is_symlink() {
        return Ok(format!("link to {}", fs::read_link(path)?.display()));
    }
    let is_executable = found.permissions().mode() & 0o100 != 0;
    let kind = if is_executable { "program" } else { "file" };
    let hash = hash_of(path)?;
    Ok(format!("{kind} of {} bytes, {hash}", found.len()))
}

/// Returns the tree of these files and the directories above them.
fn files(files: &[(&str, &[u8])]) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    for (name, bytes) in files {
        let hash = blake3::hash(bytes).to_hex();
        let told = format!("file of {} bytes, {hash}", bytes.len());
        all.insert(PathBuf::from(name), told);
        let above = Path::new(name).ancestors().skip(1);
        for dir in above.filter(|dir| !dir.as_os_str().is_empty()) {
            all.insert(dir.to_owned(), "directory".to_owned());
        }
    }
    all
}

/// Waits until a directory of the mount is exactly this on each node.
#[track_caller]
fn expect_tree(nodes: &[Node], dir: &str, wanted: &BTreeMap<PathBuf, String>) {
    let begun = Instant::now();
    for node in nodes {
        loop {
            let shown = tree(&node.mounted(dir));
            if shown == *wanted {
                break;
            }
            let name = &node.name;
            let is_late = begun.elapsed() > HANG_LIMIT;
            assert!(
                !is_late,
                "{name} shows {shown:#?} in {dir}, not {wanted:#?}"
            );
            look_again();
        }
    }
}

/// Waits until a directory of the mount has exactly these files on each node.
#[track_caller]
fn expect_files(nodes: &[Node], dir: &str, wanted: &[(&str, &[u8])]) {
    expect_tree(nodes, dir, &files(wanted));
}

/// Makes a directory on a node, and waits until all have it.
fn make_dir(nodes: &[Node], name: &str) {
    fs::create_dir(nodes[0].mounted(name)).unwrap();
    for node in nodes {
        node.wait_for_file(name);
    }
}

/// Waits until no node has the name.
#[track_caller]
fn expect_gone(nodes: &[Node], name: &str) {
    for node in nodes {
        let what = format!("{name} is gone on {}", node.name);
        eventually(&what, HANG_LIMIT, || {
            fs::symlink_metadata(node.mounted(name)).is_err()
        });
    }
}

fn errno<T: std::fmt::Debug>(outcome: io::Result<T>) -> Option<i32> {
    outcome.unwrap_err().raw_os_error()
}

/// Runs a shell line in a directory of a node's mount.
#[track_caller]
fn sh(node: &Node, dir: &str, line: &str) -> Finished {
    let mut shell = Command::new("sh");
    shell.args(["-ec", line]).env("LC_ALL", "C");
    run(shell.current_dir(node.mounted(dir)))
}

/// Bytes of a version that are all equal, so that a mixture of two versions is recognized.
fn version(number: u8) -> Vec<u8> {
    vec![number; 300_000 + usize::from(number) * 1000]
}

/// Reads a file again and again until the end. Each time it must be one version, as a whole.
fn read_all_the_time(path: &Path, is_over: &AtomicBool) -> usize {
    let mut count = 0;
    while !is_over.load(Ordering::Relaxed) {
        let Ok(bytes) = fs::read(path) else {
            // The opened version has no holder any longer.
            continue;
        };
        let is_whole = bytes.first().is_some_and(|first| bytes == version(*first));
        assert!(is_whole, "{} bytes that are no version", bytes.len());
        count += 1;
    }
    count
}

#[apply(promise)]
fn a_written_file_is_on_all_nodes_and_never_a_part_of_it() {
    let world = world();
    make_dir(&world, "stream");
    let [name, over] = ["stream/file", "stream/over"];
    let mut writer = File::create(world[0].mounted(name)).unwrap();
    writer.write_all(&version(0)).unwrap();
    drop(writer);
    expect_files(&world, "stream", &[("file", &version(0))]);
    let is_over = AtomicBool::new(false);
    let counts = thread::scope(|scope| {
        let readers: Vec<_> = (world[1..].iter())
            .map(|node| scope.spawn(|| read_all_the_time(&node.mounted(name), &is_over)))
            .collect();
        for number in 1..8 {
            let mut writer = File::create(world[0].mounted(name)).unwrap();
            for piece in version(number).chunks(50_000) {
                writer.write_all(piece).unwrap();
            }
            drop(writer);
            expect_files(&world, "stream", &[("file", &version(number))]);
        }
        is_over.store(true, Ordering::Relaxed);
        readers
            .into_iter()
            .map(|it| it.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    fs::rename(world[0].mounted(name), world[0].mounted(over)).unwrap();
    expect_files(&world, "stream", &[("over", &version(7))]);
    fs::remove_file(world[0].mounted(over)).unwrap();
    expect_files(&world, "stream", &[]);
}

#[apply(promise)]
fn an_open_file_is_seen_by_its_writer_at_once_and_elsewhere_after_its_close() {
    let world = world();
    make_dir(&world, "open");
    let path = world[0].mounted("open/file");
    let mut writer = File::create_new(&path).unwrap();
    let bytes = noise(1, 2 << 20);
    for (number, piece) in (1..).zip(bytes.chunks(1 << 20)) {
        writer.write_all(piece).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), number << 20);
        assert!(fs::read(&path).unwrap() == bytes[..(number as usize) << 20]);
    }
    drop(writer);
    expect_files(&world, "open", &[("file", &bytes)]);
    let mode = |name| {
        fs::metadata(world[1].mounted(name))
            .unwrap()
            .permissions()
            .mode()
    };
    assert_eq!(
        (mode("open") & 0o777, mode("open/file") & 0o777),
        (0o775, 0o664)
    );
}

#[apply(promise)]
fn appends_and_truncations_are_on_all_nodes() {
    let world = world();
    make_dir(&world, "growing");
    let mut bytes = noise(2, 100_000);
    fs::write(world[0].mounted("growing/log"), &bytes).unwrap();
    expect_files(&world, "growing", &[("log", &bytes)]);
    for (number, node) in (0..).zip(world.iter().chain(&*world)) {
        let mut log = File::options()
            .append(true)
            .open(node.mounted("growing/log"))
            .unwrap();
        let line = noise(number, 1000);
        log.write_all(&line).unwrap();
        drop(log);
        bytes.extend(line);
        expect_files(&world, "growing", &[("log", &bytes)]);
    }
    for (node, length) in world.iter().zip([70_000, 120_000, 5]) {
        let log = File::options()
            .write(true)
            .open(node.mounted("growing/log"))
            .unwrap();
        log.set_len(length as u64).unwrap();
        drop(log);
        bytes.resize(length, 0);
        expect_files(&world, "growing", &[("log", &bytes)]);
    }
}

#[apply(promise)]
fn writes_at_any_place_of_another_nodes_file_are_on_all_nodes() {
    let world = world();
    make_dir(&world, "places");
    let mut bytes = noise(3, 1 << 20);
    fs::write(world[0].mounted("places/file"), &bytes).unwrap();
    expect_files(&world, "places", &[("file", &bytes)]);
    for (offset, node) in [300_000, 0, (1 << 20) - 10]
        .into_iter()
        .zip(world.iter().rev())
    {
        let path = node.mounted("places/file");
        let mut file = File::options().read(true).write(true).open(path).unwrap();
        let new = noise(offset, 10);
        file.write_all_at(&new, offset).unwrap();
        let at = offset as usize;
        bytes[at..at + 10].copy_from_slice(&new);
        let mut read = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut read).unwrap();
        assert!(read == bytes, "the writer reads what it wrote");
        drop(file);
        expect_files(&world, "places", &[("file", &bytes)]);
    }
}

#[apply(promise)]
#[takes("python3")]
fn stores_into_a_mapping_are_on_all_nodes() {
    let world = world();
    make_dir(&world, "mapped");
    let mut bytes = noise(4, 100_000);
    fs::write(world[0].mounted("mapped/file"), &bytes).unwrap();
    expect_files(&world, "mapped", &[("file", &bytes)]);
    for (node, offset) in world.iter().zip([50_000, 60_000, 70_000]) {
        let store = format!(
            "import mmap\nwith open('file', 'r+b') as f, mmap.mmap(f.fileno(), 0) as m:\n \
             m[{offset}:{offset} + 6] = b'stored'"
        );
        let mut python = Command::new("python3");
        python
            .args(["-c", &store])
            .current_dir(node.mounted("mapped"));
        run(&mut python).expect_ok();
        bytes[offset..offset + 6].copy_from_slice(b"stored");
        expect_files(&world, "mapped", &[("file", &bytes)]);
    }
}

#[apply(promise)]
fn an_edit_of_another_nodes_file_replaces_it_everywhere() {
    let world = world();
    make_dir(&world, "edit");
    fs::write(world[0].mounted("edit/plan.txt"), b"first").unwrap();
    expect_files(&world, "edit", &[("plan.txt", b"first")]);
    for (node, bytes) in [(1, "second"), (2, "the third"), (0, "fourth"), (1, "5")] {
        fs::write(world[node].mounted("edit/plan.txt"), bytes).unwrap();
        expect_files(&world, "edit", &[("plan.txt", bytes.as_bytes())]);
    }
    let disk = on_disk(&world[2], "edit/plan.txt");
    assert_eq!(fs::read(disk).unwrap(), b"the third", "its disk is its own");
    let why = world[0].cli(&["why", "edit/plan.txt"]).expect_ok();
    assert!(why.contains("it replaces the other versions"), "{why}");
    assert!(why.contains("the version of two from"), "{why}");
}

#[apply(promise)]
#[takes("cp")]
fn a_copy_with_an_old_date_replaces_a_newer_file() {
    let world = world();
    make_dir(&world, "dated");
    fs::write(world[0].mounted("dated/file"), b"of today").unwrap();
    expect_files(&world, "dated", &[("file", b"of today")]);
    let source = world[1].home.join("of-1999");
    fs::write(&source, b"of 1999").unwrap();
    let date = std::time::UNIX_EPOCH + Duration::from_secs(930_000_000);
    File::options()
        .write(true)
        .open(&source)
        .unwrap()
        .set_modified(date)
        .unwrap();
    let copy = world[1].mounted("dated/file");
    run_with("cp", &[&"-p", &source, &copy]).expect_ok();
    expect_files(&world, "dated", &[("file", b"of 1999")]);
    for node in &*world {
        eventually("its date is shown", HANG_LIMIT, || {
            let found = fs::metadata(node.mounted("dated/file")).unwrap();
            found.modified().unwrap() == date
        });
    }
}

#[apply(promise)]
#[takes("rm")]
fn a_removed_tree_of_another_node_leaves_nothing_and_can_be_made_again() {
    let world = world();
    let make = "mkdir -p tree/a/b tree/empty; echo 1 > tree/1; echo 2 > tree/a/2; \
                echo 3 > tree/a/b/3; ln -s a/2 tree/link";
    make_dir(&world, "removed");
    sh(&world[0], "removed", make).expect_ok();
    let whole = tree(&world[0].mounted("removed"));
    assert_eq!(whole.len(), 8, "{whole:#?}");
    for (remover, maker) in [(1, 1), (0, 2)] {
        expect_tree(&world, "removed", &whole);
        sh(&world[remover], "removed", "rm -r tree; test ! -e tree").expect_ok();
        expect_files(&world, "removed", &[]);
        sh(&world[maker], "removed", make).expect_ok();
    }
    expect_tree(&world, "removed", &whole);
    sh(&world[2], ".", "rm -r removed").expect_ok();
    expect_gone(&world, "removed");
}

#[apply(promise)]
#[takes("rmdir")]
fn a_directory_that_another_node_removed_is_there_as_soon_as_its_maker_makes_it_again() {
    let world = world();
    make_dir(&world, "again");
    let make = "mkdir dir; for i in 1 2 3 4 5 6 7 8; do test -n \"$(ls)\"; test -d dir; \
                : > dir/$i; sync dir; done";
    for _ in 0..4 {
        sh(&world[0], "again", make).expect_ok();
        world[1].wait_for_file("again/dir/8");
        sh(&world[1], "again", "rm dir/*; rmdir dir").expect_ok();
        expect_gone(&world[..1], "again/dir");
    }
    sh(&world[0], "again", make).expect_ok();
    world[2].wait_for_file("again/dir/8");
}

#[apply(promise)]
fn a_link_and_a_directory_made_right_after_their_removal_are_shown_on_all_nodes() {
    let world = world();
    make_dir(&world, "remade");
    for _ in 0..6 {
        sh(&world[1], "remade", "ln -s target link; mkdir dir").expect_ok();
        let again = "until test -L link && test -d dir; do sleep 0.01; done; \
                     rm link; ln -s target link; rmdir dir; mkdir dir";
        sh(&world[0], "remade", again).expect_ok();
        let expected = ["dir", "link"].map(PathBuf::from);
        for node in &*world {
            eventually("both are shown", HANG_LIMIT, || {
                names_below(&node.mounted("remade")) == expected
            });
        }
        sh(&world[0], "remade", "rm link; rmdir dir").expect_ok();
        expect_gone(&world, "remade/link");
        expect_gone(&world, "remade/dir");
    }
}

#[apply(promise)]
fn the_mode_of_another_nodes_open_file_can_be_changed_through_a_descriptor() {
    let world = world();
    make_dir(&world, "modes");
    fs::write(world[0].mounted("modes/tool"), b"bytes").unwrap();
    world[1].wait_for_file("modes/tool");
    let path = world[1].mounted("modes/tool");
    let (reader, other) = (File::open(&path).unwrap(), File::open(&path).unwrap());
    let mode = fs::Permissions::from_mode(0o755);
    other.set_permissions(mode.clone()).unwrap();
    other.set_permissions(mode).unwrap();
    let mut read = [0; 5];
    reader.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(&read, b"bytes");
    drop((reader, other));
    for node in &*world {
        eventually("it is executable", HANG_LIMIT, || {
            let found = fs::metadata(node.mounted("modes/tool"));
            found.is_ok_and(|found| found.permissions().mode() & 0o111 == 0o111)
        });
    }
    let names = names_below(&world[2].mounted("modes"));
    assert_eq!(names, [PathBuf::from("tool")]);
}

#[apply(promise)]
#[takes("mv")]
fn another_nodes_file_and_tree_can_be_moved() {
    let world = world();
    make_dir(&world, "moved");
    let make = "mkdir -p tree/a; echo 1 > tree/1; echo 2 > tree/a/2; echo 3 > file";
    sh(&world[0], "moved", make).expect_ok();
    let tree = [("1", &b"1\n"[..]), ("a/2", b"2\n")];
    for node in &world[1..] {
        expect_files(std::slice::from_ref(node), "moved/tree", &tree);
    }
    let renamed = fs::rename(
        world[1].mounted("moved/tree"),
        world[1].mounted("moved/new"),
    );
    assert_eq!(errno(renamed), Some(libc::EXDEV));
    sh(&world[1], "moved", "mv tree new").expect_ok();
    world[2].wait_for_file("moved/new/a");
    sh(&world[2], "moved", "mv file new/a/file").expect_ok();
    let moved = [
        ("new/1", &b"1\n"[..]),
        ("new/a/2", b"2\n"),
        ("new/a/file", b"3\n"),
    ];
    expect_files(&world, "moved", &moved);
    sh(&world[0], "moved", "mv new/a/file file; mv new tree").expect_ok();
    let moved = [
        ("tree/1", &b"1\n"[..]),
        ("tree/a/2", b"2\n"),
        ("file", b"3\n"),
    ];
    expect_files(&world, "moved", &moved);
}

#[apply(promise)]
fn names_that_a_share_leaves_out_are_files_of_this_machine() {
    let world = world();
    make_dir(&world, "left-out");
    let at = |node: &Node, name| node.mounted("left-out").join(name);
    fs::write(at(&world[0], ".env"), b"secret").unwrap();
    let mut env = File::options()
        .append(true)
        .open(at(&world[0], ".env"))
        .unwrap();
    env.write_all(b" and more").unwrap();
    drop(env);
    fs::write(at(&world[0], "after"), b"listed").unwrap();
    assert_eq!(fs::read(at(&world[0], ".env")).unwrap(), b"secret and more");
    expect_files(&world[1..], "left-out", &[("after", b"listed")]);
    let own = [("after", &b"listed"[..]), (".env", b"secret and more")];
    expect_files(&world[..1], "left-out", &own);
    fs::rename(at(&world[0], ".env"), at(&world[0], "env")).unwrap();
    let renamed = [("after", &b"listed"[..]), ("env", b"secret and more")];
    expect_files(&world, "left-out", &renamed);
    fs::write(at(&world[0], ".env"), b"again").unwrap();
    fs::remove_file(at(&world[0], ".env")).unwrap();
    expect_files(&world, "left-out", &renamed);
}
