//! Real mounts: files and directories opened by a handle, as by an NFS server, after the kernel has
//! forgotten them, and after another process has taken over the mount.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::support::content::noise;
use crate::support::memory::Memory;
use crate::support::mounted::{Mounted, errno, names};
use crate::support::process::{HANG_LIMIT, eventually};
use crate::support::promise::{Need, mount_as_root, promise};
use macro_rules_attribute::apply;
use p2pfs_fs::{ROOT_INO, Stale};

const NEEDS: &[Need] = &[mount_as_root];

/// The result of name_to_handle_at(2): the handle's length and type, and the handle itself.
type FileHandle = [u32; 34];

fn handle_of(path: &Path) -> FileHandle {
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    // The head says how much room there is.
    let mut handle = [0; 34];
    handle[0] = 128;
    let mut number = 0i32;
    // SAFETY: a C string, room for a handle of 128 bytes, and for a number.
    let named = unsafe {
        let (cwd, room) = (libc::AT_FDCWD, handle.as_mut_ptr());
        let call = libc::SYS_name_to_handle_at;
        libc::syscall(call, cwd, name.as_ptr(), room, &raw mut number, 0)
    };
    assert_eq!(named, 0, "{}", io::Error::last_os_error());
    handle
}

fn open_by(mount: &File, handle: &mut FileHandle) -> io::Result<File> {
    // SAFETY: a handle that was given, with its head, and a descriptor that is open.
    let opened = unsafe {
        let call = libc::SYS_open_by_handle_at;
        let room = handle.as_mut_ptr();
        libc::syscall(call, mount.as_raw_fd(), room, libc::O_RDONLY)
    };
    match i32::try_from(opened) {
        // SAFETY: this is a new descriptor without another owner.
        Ok(opened @ 0..) => Ok(unsafe { File::from_raw_fd(opened) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes the kernel forget all unused entries of this mount: each name in the root, and all below
/// it.
fn forget_all(mounted: &Mounted) {
    let invalidator = mounted.mount.invalidator();
    for name in ["a", "b", "other"] {
        invalidator.invalidate(Stale::Name {
            parent: ROOT_INO,
            name: name.as_bytes().into(),
        });
    }
    eventually("the kernel has forgotten all names", HANG_LIMIT, || {
        mounted.mount.activity().inodes == 1
    });
}

fn tree() -> Arc<Memory> {
    let content = Memory::new();
    content.file("a/deep/file", noise(1, 100_000));
    content.file("a/deep/same", noise(1, 100_000));
    content.file("a/empty", Vec::new());
    content.file("b/empty", Vec::new());
    content.file("other", noise(2, 10));
    content.directory("a/deep/empty-dir");
    content
}

const FILES: [&str; 5] = ["a/deep/file", "a/deep/same", "a/empty", "b/empty", "other"];
const DIRECTORIES: [&str; 4] = ["a", "a/deep", "a/deep/empty-dir", "b"];

/// Returns the path of a descriptor, as the kernel knows it.
fn name_of(file: &File) -> std::path::PathBuf {
    fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
}

fn bytes_of(mut file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut file, &mut bytes).unwrap();
    bytes
}

#[apply(promise)]
fn a_handle_opens_its_file_after_the_kernel_has_forgotten_it() {
    let mounted = Mounted::of(&tree());
    let all = || FILES.into_iter().chain(DIRECTORIES);
    let mut handles: Vec<_> = all().map(|path| handle_of(&mounted.at(path))).collect();
    let numbers: Vec<_> = all()
        .map(|path| fs::metadata(mounted.at(path)).unwrap().ino())
        .collect();
    let bytes: Vec<_> = FILES
        .map(|path| fs::read(mounted.at(path)).unwrap())
        .to_vec();
    for (at, path) in all().enumerate() {
        forget_all(&mounted);
        let root = File::open(mounted.dir()).unwrap();
        let opened = open_by(&root, &mut handles[at]).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(opened.metadata().unwrap().ino(), numbers[at], "{path}");
        match bytes.get(at) {
            Some(bytes) => assert!(bytes_of(&opened) == *bytes, "{path}"),
            // The kernel connects a directory to the root by its `..`, level by level.
            None => assert_eq!(name_of(&opened), mounted.at(path)),
        }
        drop((opened, root));
    }
    forget_all(&mounted);
    let listed = File::open(mounted.dir()).unwrap();
    let deep = open_by(&listed, &mut handles[FILES.len() + 1]).unwrap();
    let found = names(Path::new(&format!("/proc/self/fd/{}", deep.as_raw_fd())));
    assert_eq!(
        found,
        ["empty-dir", "file", "same"].map(str::to_owned).into()
    );
}

#[apply(promise)]
fn a_handle_is_valid_for_the_next_process_that_serves_the_mount() {
    let content = tree();
    let before = Mounted::of(&content);
    let mut handles = FILES.map(|path| handle_of(&before.at(path)));
    let directories = DIRECTORIES.map(|path| handle_of(&before.at(path)));
    before.mount.end().unwrap();
    let after = Mounted::of(&content);
    let root = File::open(after.dir()).unwrap();
    for (path, handle) in FILES.iter().zip(&mut handles) {
        let opened = open_by(&root, handle).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert!(
            bytes_of(&opened) == fs::read(after.at(path)).unwrap(),
            "{path}"
        );
    }
    for (path, mut handle) in DIRECTORIES.into_iter().zip(directories) {
        let opened = open_by(&root, &mut handle).unwrap();
        assert_eq!(name_of(&opened), after.at(path));
    }
}

#[apply(promise)]
fn a_handle_of_a_replaced_or_removed_file_is_stale_and_never_another_file() {
    let content = tree();
    let mounted = Mounted::of(&content);
    let mut replaced = handle_of(&mounted.at("a/deep/file"));
    let mut removed = handle_of(&mounted.at("other"));
    let mut stays = handle_of(&mounted.at("a/deep/same"));
    content.file("a/deep/file", noise(3, 100_000));
    content.remove("other");
    mounted.publish();
    eventually("that is shown", HANG_LIMIT, || {
        mounted.mount.is_up_to_date()
    });
    forget_all(&mounted);
    let root = File::open(mounted.dir()).unwrap();
    assert_eq!(errno(open_by(&root, &mut replaced)), libc::ESTALE);
    assert_eq!(errno(open_by(&root, &mut removed)), libc::ESTALE);
    assert!(open_by(&root, &mut stays).is_ok());
    // After the old content is back, the old handle works again.
    content.file("a/deep/file", noise(1, 100_000));
    mounted.publish();
    eventually("the old version is back", HANG_LIMIT, || {
        open_by(&root, &mut replaced).is_ok_and(|file| bytes_of(&file) == noise(1, 100_000))
    });
}
