//! The two places that are compared: the mount, and a read-only kernel filesystem with the same
//! tree. Both are in the mount namespace of this process, and end with it.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use p2pfs_fuse::{Mount, MountOptions};
use p2pfs_proto::wire::native::record::{Entry, Kind, Timestamp};
use p2pfs_types::digest::ContentHash;

use crate::support::content::noise;
use crate::support::memory::{Behaviour, MTIME, Memory};
use crate::support::process::{HANG_LIMIT, eventually, wait_child};

/// Set in the process that serves the mount: the folder of the test.
const SERVED: &str = "P2PFS_TEST_POSIX_SERVED";

/// The files that are read in every possible way.
pub(super) const FLAVOURS: [&str; 4] = ["file", "fetched", "backed", "own"];
/// Length of each: not a multiple of the page size, and longer than one request.
pub(super) const LENGTH: usize = (2 << 20) + 4096 + 777;
/// Size of a page on all machines that run the tests.
pub(super) const PAGE: usize = 4096;
/// Number of names in the directory `many`.
pub(super) const MANY: usize = 4000;
/// Length of `large`. Its last bytes are beyond 2 GiB.
pub(super) const LARGE: u64 = (2 << 30) + 16;
/// Length of `huge`, the maximum length of a file.
pub(super) const HUGE: u64 = i64::MAX as u64;
/// Number of links in a chain. Each leads to the next, and the last to `file`.
pub(super) const CHAIN: usize = 50;
/// A user that owns no file.
pub(super) const NOBODY: u32 = 65534;

/// Returns names that are difficult to carry.
pub(super) fn odd_names() -> Vec<Vec<u8>> {
    vec![
        vec![b'n'; 255],
        b"with space".to_vec(),
        b"new\nline".to_vec(),
        b"-rf".to_vec(),
        b"\xff\xfe\x80".to_vec(),
        "caf\u{e9}".as_bytes().to_vec(),
        "cafe\u{301}".as_bytes().to_vec(),
        "\u{202e}turned".as_bytes().to_vec(),
        b"back\\slash".to_vec(),
        b"CASE".to_vec(),
        b"case".to_vec(),
    ]
}

/// Returns the bytes of one of the [`FLAVOURS`].
pub(super) fn bytes_of(flavour: &str) -> Vec<u8> {
    let seed = FLAVOURS.iter().position(|name| *name == flavour).unwrap();
    noise(seed as u64, LENGTH)
}

fn moment(seconds: i64, nanoseconds: u32) -> Timestamp {
    Timestamp {
        seconds,
        nanoseconds,
    }
}

/// Returns files with difficult times: before 1970, and after 2038 and 2106.
pub(super) fn odd_times() -> [(&'static str, Timestamp); 3] {
    [
        ("before-1970", moment(-1, 0)),
        ("after-2038", moment(1 << 31, 200_000_000)),
        ("after-2106", moment(1 << 32, 100_000_000)),
    ]
}

/// One of the two compared places.
pub(crate) struct Place {
    pub root: PathBuf,
    pub is_mount: bool,
}

impl Place {
    pub(crate) fn what(&self) -> &'static str {
        if self.is_mount { "mount" } else { "disk" }
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn named(&self, name: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(name))
    }

    pub(crate) fn open(&self, name: &str) -> File {
        File::open(self.at(name)).unwrap()
    }
}

/// Returns a path as system calls take it.
pub(super) fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// Returns the result of a system call: 0, or its errno.
pub(super) fn outcome(returned: impl Into<i64>) -> i32 {
    if returned.into() >= 0 {
        return 0;
    }
    std::io::Error::last_os_error().raw_os_error().unwrap()
}

/// Acts as another user without any rights of root. The kernel keeps the user for each thread.
pub(super) fn as_user<T: Send>(uid: u32, act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: the raw calls change this thread only, which ends with the scope.
            unsafe {
                let none = std::ptr::null::<libc::gid_t>();
                assert_eq!(libc::syscall(libc::SYS_setgroups, 0, none), 0);
                assert_eq!(libc::syscall(libc::SYS_setresgid, uid, uid, uid), 0);
                assert_eq!(libc::syscall(libc::SYS_setresuid, uid, uid, uid), 0);
            }
            act()
        });
        thread.join().unwrap()
    })
}

/// Enters a separate mount namespace, so that the machine's mounts never change.
pub(crate) fn enter_own_namespace() -> Result<(), String> {
    // SAFETY: no other thread runs yet; the strings are C strings.
    let entered = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(
                c"none".as_ptr(),
                c"/".as_ptr(),
                std::ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                std::ptr::null(),
            ) == 0
    };
    if entered {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(format!("no namespace of mounts of our own: {error}"))
}

/// Both places, and the process that serves the mount.
pub(super) struct World {
    pub mount: Place,
    pub disk: Place,
    server: Child,
    // The last field: its folder is in use until the mounts are gone.
    _scratch: tempfile::TempDir,
}

impl World {
    pub(super) fn start() -> Self {
        // The folder is on a disk, because the kernel does not pass reads through to a file of a
        // tmpfs.
        let scratch = tempfile::tempdir_in("/var/tmp").unwrap();
        allow(scratch.path(), 0o755);
        let [tree, disk, mnt] = ["tree", "disk", "mnt"].map(|name| scratch.path().join(name));
        for dir in [&tree, &disk, &mnt] {
            fs::create_dir(dir).unwrap();
        }
        plant(&tree);
        // The whole filesystem becomes read-only, as the mount is, and not only its mount point.
        mount_memory(&disk, libc::MS_NOSUID | libc::MS_NODEV);
        plant(&disk);
        let read_only = libc::MS_REMOUNT | libc::MS_RDONLY;
        mount_memory(&disk, read_only | libc::MS_NOSUID | libc::MS_NODEV);
        let mut server = Command::new(std::env::current_exe().unwrap());
        server.env(SERVED, scratch.path()).stdin(Stdio::piped());
        let mut server = server.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        let mut answers = BufReader::new(server.stdout.take().unwrap());
        answers.read_line(&mut said).unwrap();
        assert_eq!(said, "served\n");
        Self {
            mount: Place {
                root: mnt,
                is_mount: true,
            },
            disk: Place {
                root: disk,
                is_mount: false,
            },
            server,
            _scratch: scratch,
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.server.stdin.take());
        wait_child(&mut self.server, HANG_LIMIT);
        let disk = c_path(&self.disk.root);
        // SAFETY: a C string.
        unsafe { libc::umount2(disk.as_ptr(), libc::MNT_DETACH) };
    }
}

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Mounts a tmpfs with these flags.
fn mount_memory(at: &Path, flags: libc::c_ulong) {
    let at = c_path(at);
    let (kind, none) = (c"tmpfs".as_ptr(), std::ptr::null());
    // A program that another test starts meanwhile has a file open for writing until its exec.
    eventually("no file is open for writing", HANG_LIMIT, || {
        // SAFETY: C strings, and no data.
        let mounted = unsafe { libc::mount(kind, at.as_ptr(), kind, flags, none) };
        let said = outcome(mounted);
        assert!(matches!(said, 0 | libc::EBUSY), "{said}");
        said == 0
    });
}

fn set_time(path: &Path, time: Timestamp) {
    let time = libc::timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanoseconds.into(),
    };
    let path = c_path(path);
    // SAFETY: a C string, and two times.
    let set = unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), [time; 2].as_ptr(), 0) };
    assert_eq!(outcome(set), 0);
}

const SCRIPT: &[u8] = b"#!/bin/sh\nexit 7\n";
const DIRECTORIES: [&str; 5] = ["dir", "dir/sub", "dir/empty", "names", "many"];
const SMALL: [(&str, &[u8]); 4] = [
    ("empty", b""),
    ("words", b"some words\n"),
    ("dir/sub/deep", b"deep\n"),
    ("script", SCRIPT),
];

fn links() -> Vec<(String, String)> {
    let fixed = [
        ("link", "file"),
        ("to-dir", "dir"),
        ("dangling", "missing"),
        ("loop-a", "loop-b"),
        ("loop-b", "loop-a"),
        ("loop-self", "loop-self"),
        ("chain-0", "file"),
    ];
    let chain = (1..CHAIN).map(|n| (format!("chain-{n}"), format!("chain-{}", n - 1)));
    let fixed = fixed.map(|(name, target)| (name.to_owned(), target.to_owned()));
    fixed.into_iter().chain(chain).collect()
}

/// Creates the tree on the disk.
fn plant(tree: &Path) {
    for dir in DIRECTORIES {
        fs::create_dir(tree.join(dir)).unwrap();
    }
    let write = |name: &Path, bytes: &[u8], mode: u32, time: Timestamp| {
        fs::write(tree.join(name), bytes).unwrap();
        allow(&tree.join(name), mode);
        set_time(&tree.join(name), time);
    };
    for name in FLAVOURS {
        write(Path::new(name), &bytes_of(name), 0o644, MTIME);
    }
    for (name, bytes) in SMALL {
        let mode = if name == "script" { 0o755 } else { 0o644 };
        write(Path::new(name), bytes, mode, MTIME);
    }
    write(
        Path::new("program"),
        &fs::read("/bin/echo").unwrap(),
        0o755,
        MTIME,
    );
    for name in odd_names() {
        let path = Path::new("names").join(OsStr::from_bytes(&name));
        write(&path, &name, 0o644, MTIME);
    }
    for (name, time) in odd_times() {
        write(Path::new(name), name.as_bytes(), 0o644, time);
    }
    for number in 0..MANY {
        write(
            &Path::new("many").join(format!("{number:04}")),
            b"",
            0o644,
            MTIME,
        );
    }
    for (name, target) in links() {
        symlink(target, tree.join(name)).unwrap();
    }
    for dir in DIRECTORIES.iter().rev() {
        allow(&tree.join(dir), 0o755);
    }
    allow(tree, 0o755);
}

pub(crate) fn is_server() -> bool {
    std::env::var_os(SERVED).is_some()
}

/// Serves the same tree from memory until its input is closed.
pub(crate) fn serve() {
    let scratch = PathBuf::from(std::env::var_os(SERVED).unwrap());
    let content = Memory::new();
    list(&content, &scratch.join("tree"));
    content.publish(None);
    let options = MountOptions::for_this_user();
    let mount = Mount::start(&scratch.join("mnt"), content, &options).unwrap();
    println!("served");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    mount.end().unwrap();
}

fn list(content: &Memory, tree: &Path) {
    for dir in DIRECTORIES {
        content.directory(dir);
    }
    let file = |name: &[u8], bytes: &[u8], mtime: Timestamp| {
        let hash = ContentHash::of(bytes);
        let kind = Kind::File {
            hash,
            size_bytes: bytes.len() as u64,
            executable: false,
        };
        let entry = Entry {
            kind,
            mtime,
            version_time: MTIME,
            sent_by: None,
            replaces: Vec::new(),
        };
        content.put_entry(name, entry);
        content.turn(hash, Behaviour::Here(Arc::new(bytes.to_vec())));
    };
    file(b"file", &bytes_of("file"), MTIME);
    let fetched = Arc::new(bytes_of("fetched"));
    let hash = ContentHash::of(&fetched);
    content.behave("fetched", hash, LENGTH as u64, Behaviour::Fetched(fetched));
    let hash = content.file("backed", bytes_of("backed"));
    content.set_backing(hash, File::open(tree.join("backed")).unwrap());
    content.own("own", &tree.join("own"));
    for (name, bytes) in SMALL {
        file(name.as_bytes(), bytes, MTIME);
    }
    content.executable("script", SCRIPT.to_vec());
    content.executable("program", fs::read("/bin/echo").unwrap());
    for name in odd_names() {
        file(&[b"names/", &name[..]].concat(), &name, MTIME);
    }
    for (name, time) in odd_times() {
        file(name.as_bytes(), name.as_bytes(), time);
    }
    for number in 0..MANY {
        file(format!("many/{number:04}").as_bytes(), b"", MTIME);
    }
    for (name, target) in links() {
        content.symlink(&name, &target);
    }
    for (name, length) in [("large", LARGE), ("huge", HUGE)] {
        let hash = ContentHash::of(name.as_bytes());
        content.behave(name, hash, length, Behaviour::Numbered);
    }
}
