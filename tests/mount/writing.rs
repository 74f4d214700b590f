//! Writes through the mount, each with passthrough and through the daemon. They go into a folder of
//! the disk, which the tests also read directly.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

mod model;
mod others;

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use macro_rules_attribute::apply;
use rustix::fs::{CWD, FallocateFlags, RenameFlags, XattrFlags, fallocate, renameat_with};
use rustix::io::Errno;

use crate::support::content::noise;
use crate::support::memory::Memory;
use crate::support::mounted::{Mounted, errno, names};
use crate::support::process::{HANG_LIMIT, eventually, run, run_with};
use crate::support::promise::{Need, mount_as_root, promise};

const NEEDS: &[Need] = &[mount_as_root];

/// Runs a test with a mount whose written files the kernel writes itself, and with one whose files
/// the daemon writes. The other node shares `others/file` with five bytes.
fn each_way(attempt: impl Fn(&Mounted)) {
    for passthrough in [true, false] {
        let content = Memory::new();
        content.file("others/file", b"bytes".to_vec());
        let mounted = Mounted::writable(&content, |options| {
            options.server.passthrough = passthrough;
        });
        attempt(&mounted);
        eventually("nothing stays open", HANG_LIMIT, || {
            mounted.mount.activity().handles == 0
        });
    }
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Checks the bytes of a file in the mount and in the folder.
#[track_caller]
fn expect(mounted: &Mounted, name: &str, bytes: &[u8]) {
    for path in [mounted.at(name), mounted.upper().join(name)] {
        assert!(read(&path) == bytes, "{}", path.display());
    }
    assert_eq!(
        fs::metadata(mounted.at(name)).unwrap().len(),
        bytes.len() as u64
    );
}

fn create_new(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn writer(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

#[apply(promise)]
fn a_new_file_has_what_was_written_at_once_and_on_the_disk() {
    each_way(|mounted| {
        let bytes = noise(1, (3 << 20) + 777);
        let mut file = File::create(mounted.at("new")).unwrap();
        assert!(names(mounted.dir()).contains("new"));
        file.write_all(&bytes).unwrap();
        assert_eq!(file.metadata().unwrap().len(), bytes.len() as u64);
        expect(mounted, "new", &bytes);
        drop(file);
        expect(mounted, "new", &bytes);
    });
}

#[apply(promise)]
fn an_exclusive_creation_succeeds_once() {
    each_way(|mounted| {
        drop(create_new(&mounted.at("lock")).unwrap());
        assert_eq!(errno(create_new(&mounted.at("lock"))), libc::EEXIST);
        assert_eq!(errno(create_new(&mounted.at("others/file"))), libc::EEXIST);
        for round in 0..20 {
            let path = mounted.at(&format!("lock-{round}"));
            let attempts: Vec<_> = (0..4)
                .map(|_| {
                    let path = path.clone();
                    thread::spawn(move || create_new(&path).is_ok())
                })
                .collect();
            let created = attempts.into_iter().filter(|_| true);
            let created = created.filter_map(|it| it.join().unwrap().then_some(()));
            assert_eq!(created.count(), 1);
        }
    });
}

#[apply(promise)]
fn appends_of_many_writers_are_all_there() {
    each_way(|mounted| {
        let path = mounted.at("log");
        fs::write(&path, b"").unwrap();
        let writers: Vec<_> = (0..4)
            .map(|number: u8| {
                let mut file = File::options().append(true).open(&path).unwrap();
                thread::spawn(move || {
                    for _ in 0..50 {
                        file.write_all(&[number; 100]).unwrap();
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|it| it.join().unwrap());
        let written = read(&path);
        assert_eq!(written.len(), 4 * 50 * 100);
        for record in written.chunks(100) {
            assert_eq!(record, [record[0]; 100]);
        }
        expect(mounted, "log", &written);
    });
}

#[apply(promise)]
fn a_file_is_truncated_by_name_by_handle_and_by_open() {
    each_way(|mounted| {
        let path = mounted.at("file");
        fs::write(&path, b"some bytes").unwrap();
        let file = writer(&path);
        file.set_len(4).unwrap();
        expect(mounted, "file", b"some");
        file.set_len(6).unwrap();
        expect(mounted, "file", b"some\0\0");
        drop(file);
        let truncated = run_with("truncate", &[&"-s", &"2", &path]);
        assert!(truncated.status.success(), "{truncated:?}");
        expect(mounted, "file", b"so");
        drop(File::create(&path).unwrap());
        expect(mounted, "file", b"");
        assert_eq!(writer(&path).read_at(&mut [0; 10], 0).unwrap(), 0);
    });
}

#[apply(promise)]
fn random_writes_and_reads_agree_with_memory() {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    each_way(|mounted| {
        let mut random = StdRng::seed_from_u64(7);
        let path = mounted.at("file");
        let file = create_new(&path).unwrap();
        let other = File::open(&path).unwrap();
        let mut model = Vec::new();
        for step in 0..400_u64 {
            let start = random.random_range(0..300_000_usize);
            let length = random.random_range(1..40_000_usize);
            let bytes = noise(step, length);
            file.write_all_at(&bytes, start as u64).unwrap();
            model.resize(model.len().max(start + length), 0);
            model[start..start + length].copy_from_slice(&bytes);
            let from = random.random_range(0..model.len());
            let to = random.random_range(from..=model.len());
            let mut read = vec![0; to - from];
            let reader = if step % 2 == 0 { &file } else { &other };
            reader.read_exact_at(&mut read, from as u64).unwrap();
            assert!(read == model[from..to], "step {step}: {from}..{to}");
        }
        expect(mounted, "file", &model);
    });
}

#[apply(promise)]
fn a_write_continues_where_the_last_one_ended() {
    each_way(|mounted| {
        let mut file = create_new(&mounted.at("file")).unwrap();
        file.write_all(b"one two").unwrap();
        file.seek(SeekFrom::Start(4)).unwrap();
        file.write_all(b"three").unwrap();
        file.seek(SeekFrom::End(3)).unwrap();
        file.write_all(b"!").unwrap();
        let mut all = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut all).unwrap();
        assert_eq!(all, "one three\0\0\0!");
        expect(mounted, "file", all.as_bytes());
    });
}

/// Set in a process that stores into a mapping: the file.
const CHILD_MAPS: &str = "P2PFS_TEST_MAPPED";
/// Length of the mapped file: not a multiple of the page size.
const MAPPED_BYTES: usize = 10_000;

pub(crate) fn is_child_that_maps() -> bool {
    std::env::var_os(CHILD_MAPS).is_some()
}

/// Stores into a shared mapping of a file, after its descriptor was closed.
pub(crate) fn store_into_mapping() {
    let file = writer(&PathBuf::from(std::env::var_os(CHILD_MAPS).unwrap()));
    file.set_len(MAPPED_BYTES as u64).unwrap();
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let (fd, start) = (file.as_raw_fd(), std::ptr::null_mut());
    // SAFETY: a new mapping of an open file.
    let mapped = unsafe { libc::mmap(start, MAPPED_BYTES, access, libc::MAP_SHARED, fd, 0) };
    assert_ne!(mapped, libc::MAP_FAILED, "{}", io::Error::last_os_error());
    drop(file);
    // SAFETY: the mapping has this length, and only this thread uses it.
    unsafe {
        let bytes = std::slice::from_raw_parts_mut(mapped.cast::<u8>(), MAPPED_BYTES);
        assert_eq!(&bytes[..5], b"bytes");
        bytes[5_000..5_006].copy_from_slice(b"stored");
        bytes[MAPPED_BYTES - 1] = b'!';
        assert_eq!(libc::msync(mapped, MAPPED_BYTES, libc::MS_SYNC), 0);
        assert_eq!(libc::munmap(mapped, MAPPED_BYTES), 0);
    }
}

#[apply(promise)]
fn stores_into_a_shared_mapping_reach_the_file() {
    each_way(|mounted| {
        fs::write(mounted.at("file"), b"bytes").unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        run(child.env(CHILD_MAPS, mounted.at("file"))).expect_ok();
        let mut wanted = vec![0; MAPPED_BYTES];
        wanted[..5].copy_from_slice(b"bytes");
        wanted[5_000..5_006].copy_from_slice(b"stored");
        wanted[MAPPED_BYTES - 1] = b'!';
        expect(mounted, "file", &wanted);
    });
}

#[apply(promise)]
fn room_is_allocated_and_holes_are_punched() {
    each_way(|mounted| {
        let file = create_new(&mounted.at("file")).unwrap();
        fallocate(&file, FallocateFlags::empty(), 0, 8192).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 8192);
        file.write_all_at(&[7; 8192], 0).unwrap();
        fallocate(&file, FallocateFlags::KEEP_SIZE, 8192, 8192).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 8192);
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&file, hole, 0, 4096).unwrap();
        let wanted = [[0; 4096], [7; 4096]].concat();
        expect(mounted, "file", &wanted);
    });
}

fn rename_with(from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Errno> {
    renameat_with(CWD, from, CWD, to, flags)
}

#[apply(promise)]
fn a_renamed_file_has_one_name_and_replaces_the_file_there() {
    each_way(|mounted| {
        let at = |name: &str| mounted.at(name);
        fs::write(at("a"), b"new").unwrap();
        fs::write(at("b"), b"old").unwrap();
        let open = File::open(at("b")).unwrap();
        let refused = rename_with(&at("a"), &at("b"), RenameFlags::NOREPLACE);
        assert_eq!(refused, Err(Errno::EXIST));
        let exchanged = rename_with(&at("a"), &at("b"), RenameFlags::EXCHANGE);
        assert_eq!(exchanged, Err(Errno::INVAL));
        fs::rename(at("a"), at("b")).unwrap();
        assert_eq!(errno(fs::metadata(at("a"))), libc::ENOENT);
        expect(mounted, "b", b"new");
        assert_eq!(io::read_to_string(open).unwrap(), "old");
        fs::create_dir(at("dir")).unwrap();
        rename_with(&at("b"), &at("dir/c"), RenameFlags::NOREPLACE).unwrap();
        expect(mounted, "dir/c", b"new");
        assert_eq!(names(&at("dir")).len(), 1);
        assert_eq!(errno(fs::rename(at("b"), at("c"))), libc::ENOENT);
    });
}

#[apply(promise)]
fn a_file_that_is_renamed_while_it_is_written_keeps_its_bytes() {
    each_way(|mounted| {
        let mut file = File::create(mounted.at("file.part")).unwrap();
        file.write_all(b"first, ").unwrap();
        fs::rename(mounted.at("file.part"), mounted.at("file")).unwrap();
        file.write_all(b"second").unwrap();
        expect(mounted, "file", b"first, second");
    });
}

#[apply(promise)]
fn a_directory_is_renamed_with_everything_in_it() {
    each_way(|mounted| {
        let at = |name: &str| mounted.at(name);
        fs::create_dir_all(at("a/deep")).unwrap();
        fs::write(at("a/deep/file"), b"bytes").unwrap();
        let into_itself = fs::rename(at("a"), at("a/deep/a"));
        assert_eq!(errno(into_itself), libc::EINVAL);
        fs::create_dir(at("full")).unwrap();
        fs::write(at("full/file"), b"").unwrap();
        assert_eq!(errno(fs::rename(at("a"), at("full"))), libc::ENOTEMPTY);
        assert_eq!(errno(fs::rename(at("a"), at("full/file"))), libc::ENOTDIR);
        assert_eq!(errno(fs::rename(at("full/file"), at("a"))), libc::EISDIR);
        fs::create_dir(at("empty")).unwrap();
        fs::rename(at("a"), at("empty")).unwrap();
        expect(mounted, "empty/deep/file", b"bytes");
        assert!(!at("a").exists());
        fs::rename(at("empty/deep"), at("full/deep")).unwrap();
        expect(mounted, "full/deep/file", b"bytes");
    });
}

#[apply(promise)]
fn an_open_file_outlives_its_name() {
    each_way(|mounted| {
        let file = create_new(&mounted.at("file")).unwrap();
        file.write_all_at(b"bytes", 0).unwrap();
        fs::remove_file(mounted.at("file")).unwrap();
        assert_eq!(errno(File::open(mounted.at("file"))), libc::ENOENT);
        assert!(!mounted.upper().join("file").exists());
        file.write_all_at(b"more", 5).unwrap();
        let mut read = [0; 9];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"bytesmore");
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        fs::write(mounted.at("file"), b"another").unwrap();
        expect(mounted, "file", b"another");
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"bytesmore");
    });
}

#[apply(promise)]
fn directories_are_made_and_removed_as_on_a_disk() {
    each_way(|mounted| {
        let at = |name: &str| mounted.at(name);
        fs::create_dir(at("dir")).unwrap();
        assert!(at("dir").is_dir() && mounted.upper().join("dir").is_dir());
        assert_eq!(errno(fs::create_dir(at("dir"))), libc::EEXIST);
        assert_eq!(errno(fs::create_dir(at("none/dir"))), libc::ENOENT);
        // `find` relies on the number of subdirectories if there is one.
        assert_eq!(fs::metadata(mounted.dir()).unwrap().nlink(), 1);
        fs::write(at("dir/file"), b"").unwrap();
        assert_eq!(errno(fs::remove_dir(at("dir"))), libc::ENOTEMPTY);
        assert_eq!(errno(fs::remove_file(at("dir"))), libc::EISDIR);
        assert_eq!(errno(fs::remove_dir(at("dir/file"))), libc::ENOTDIR);
        fs::remove_file(at("dir/file")).unwrap();
        fs::remove_dir(at("dir")).unwrap();
        assert!(!at("dir").exists() && !mounted.upper().join("dir").exists());
        assert_eq!(errno(fs::remove_dir(at("dir"))), libc::ENOENT);
    });
}

#[apply(promise)]
fn a_directory_is_made_again_while_the_removed_one_is_open() {
    each_way(|mounted| {
        for _ in 0..3 {
            fs::create_dir(mounted.at("dir")).unwrap();
            let open = File::open(mounted.at("dir")).unwrap();
            fs::remove_dir(mounted.at("dir")).unwrap();
            fs::create_dir(mounted.at("dir")).unwrap();
            fs::write(mounted.at("dir/file"), b"bytes").unwrap();
            expect(mounted, "dir/file", b"bytes");
            fs::remove_file(mounted.at("dir/file")).unwrap();
            fs::remove_dir(mounted.at("dir")).unwrap();
            drop(open);
        }
    });
}

#[apply(promise)]
fn a_directory_in_a_renamed_one_can_be_renamed_and_filled() {
    each_way(|mounted| {
        let at = |name: &str| mounted.at(name);
        fs::create_dir_all(at("a/inner/deep")).unwrap();
        symlink("deep", at("a/inner/link")).unwrap();
        let inside = File::open(at("a/inner/deep")).unwrap();
        fs::rename(at("a"), at("b")).unwrap();
        fs::rename(at("b/inner"), at("c")).unwrap();
        fs::rename(at("c/link"), at("c/moved")).unwrap();
        fs::write(at("c/deep/file"), b"bytes").unwrap();
        expect(mounted, "c/deep/file", b"bytes");
        expect(mounted, "c/moved/file", b"bytes");
        assert!(!at("b/inner").exists() && at("b").exists());
        let now = fs::metadata(at("c/deep")).unwrap();
        assert_eq!(inside.metadata().unwrap().ino(), now.ino());
    });
}

#[apply(promise)]
fn links_lead_to_files_of_the_folder_only() {
    each_way(|mounted| {
        let at = |name: &str| mounted.at(name);
        fs::create_dir(at("dir")).unwrap();
        symlink("../others/file", at("dir/link")).unwrap();
        assert_eq!(
            fs::read_link(at("dir/link")).unwrap(),
            Path::new("../others/file")
        );
        assert_eq!(read(&at("dir/link")), b"bytes");
        assert_eq!(errno(symlink("/etc/passwd", at("out"))), libc::EPERM);
        assert_eq!(errno(symlink("../out", at("out"))), libc::EPERM);
        assert_eq!(errno(symlink("x", at("dir/link"))), libc::EEXIST);
        fs::remove_file(at("dir/link")).unwrap();
        assert_eq!(read(&at("others/file")), b"bytes");
        fs::write(at("file"), b"").unwrap();
        assert_eq!(errno(fs::hard_link(at("file"), at("second"))), libc::EPERM);
    });
}

#[apply(promise)]
fn modes_have_the_executable_bit_only_and_times_are_kept() {
    each_way(|mounted| {
        let path = mounted.at("file");
        fs::write(&path, b"bytes").unwrap();
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o111;
        for (wanted, executable) in [(0o755, true), (0o600, false), (0o700, true), (0o444, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(wanted)).unwrap();
            assert_eq!(mode() != 0, executable, "{wanted:o}");
        }
        let time = UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
        let file = writer(&path);
        file.set_modified(time).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), time);
        drop(file);
        let touched = run_with("touch", &[&"-d", &"@1500000000.5", &path]);
        assert!(touched.status.success(), "{touched:?}");
        let after = UNIX_EPOCH + Duration::from_millis(1_500_000_000_500);
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), after);
        let before = std::time::SystemTime::now();
        fs::write(&path, b"newer").unwrap();
        let changed = fs::metadata(&path).unwrap().modified().unwrap();
        assert!(changed + Duration::from_secs(1) > before, "{changed:?}");
        let owner = fs::metadata(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
        let given_away = std::os::unix::fs::chown(&path, Some(owner.uid() + 1), None);
        assert_eq!(errno(given_away), libc::EPERM);
    });
}

#[apply(promise)]
fn extended_attributes_cannot_be_set() {
    each_way(|mounted| {
        let path = mounted.at("file");
        fs::write(&path, b"bytes").unwrap();
        for _ in 0..2 {
            let set = rustix::fs::setxattr(&path, "user.x", b"1", XattrFlags::empty());
            assert_eq!(set, Err(Errno::OPNOTSUPP));
            let removed = rustix::fs::removexattr(&path, "user.x");
            assert_eq!(removed, Err(Errno::OPNOTSUPP));
        }
    });
}

#[apply(promise)]
fn files_and_directories_can_be_synced() {
    each_way(|mounted| {
        fs::create_dir(mounted.at("dir")).unwrap();
        let file = create_new(&mounted.at("dir/file")).unwrap();
        file.write_all_at(b"bytes", 0).unwrap();
        file.sync_data().unwrap();
        file.sync_all().unwrap();
        for directory in [
            mounted.at("dir"),
            mounted.dir().to_owned(),
            mounted.at("others"),
        ] {
            File::open(directory).unwrap().sync_all().unwrap();
        }
        File::open(mounted.at("others/file"))
            .unwrap()
            .sync_all()
            .unwrap();
        let synced = |it: &p2pfs_fuse::OperationCount| it.name == "fsync" && it.errors == 0;
        assert!(mounted.mount.activity().operations.iter().any(synced));
    });
}

#[apply(promise)]
fn a_file_can_be_copied_inside_the_mount() {
    each_way(|mounted| {
        let bytes = noise(3, 1 << 20);
        fs::write(mounted.at("file"), &bytes).unwrap();
        fs::copy(mounted.at("file"), mounted.at("copy")).unwrap();
        fs::copy(mounted.at("others/file"), mounted.at("taken")).unwrap();
        expect(mounted, "copy", &bytes);
        expect(mounted, "taken", b"bytes");
    });
}

#[apply(promise)]
#[takes("cp", "tar", "rsync")]
fn tools_copy_a_tree_into_the_mount_without_complaint() {
    each_way(|mounted| {
        let tree = mounted.beside("tree");
        fs::create_dir_all(tree.join("deep")).unwrap();
        fs::write(tree.join("deep/file"), b"bytes").unwrap();
        fs::write(tree.join("run"), b"#!/bin/sh\n").unwrap();
        fs::set_permissions(tree.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("deep/file", tree.join("link")).unwrap();
        let (tree, dir) = (tree.display(), mounted.dir().display());
        for (how, to) in [
            (format!("cp -a {tree} {dir}/cp"), "cp"),
            (format!("rsync -a {tree}/ {dir}/rsync"), "rsync"),
            (
                format!("mkdir {dir}/tar && tar -cC {tree} . | tar -xpC {dir}/tar"),
                "tar",
            ),
            (
                format!("mv {dir}/cp {dir}/moved && cp -a {tree} {dir}/cp"),
                "moved",
            ),
        ] {
            let ran = crate::support::process::shell(&how);
            assert!(
                ran.status.success() && ran.stderr.is_empty(),
                "{how}: {ran:?}"
            );
            let same = crate::support::process::shell(&format!("diff -r {tree} {dir}/{to}"));
            assert!(same.status.success(), "{how}: {same:?}");
            let run = fs::metadata(mounted.at(to).join("run")).unwrap();
            assert_ne!(run.permissions().mode() & 0o100, 0, "{how}");
        }
    });
}

#[apply(promise)]
fn many_writers_and_readers_of_many_files_agree() {
    each_way(|mounted| {
        let dir: Arc<Path> = mounted.dir().into();
        let writers: Vec<_> = (0..4_u64)
            .map(|writer| {
                let dir = dir.clone();
                thread::spawn(move || {
                    for number in 0..50 {
                        let name = format!("{writer}-{number}");
                        let bytes = noise(writer * 100 + number, 10_000);
                        let part = dir.join(format!("{name}.part"));
                        fs::write(&part, &bytes).unwrap();
                        fs::rename(&part, dir.join(&name)).unwrap();
                        assert!(read(&dir.join(&name)) == bytes, "{name}");
                        if number % 3 == 0 {
                            fs::remove_file(dir.join(&name)).unwrap();
                        }
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|it| it.join().unwrap());
        let written = names(&dir).into_iter().filter(|name| name.contains('-'));
        assert_eq!(written.count(), 4 * 33);
    });
}
