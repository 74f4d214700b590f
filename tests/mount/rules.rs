//! Real mounts: statements of the manual about rare calls.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use crate::support::content::noise;
use crate::support::memory::{MTIME, Memory};
use crate::support::mounted::{Mounted, errno, names};
use crate::support::process::{HANG_LIMIT, eventually, run_with};
use crate::support::promise::{Need, mount_as_root, promise};
use macro_rules_attribute::apply;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

const NEEDS: &[Need] = &[mount_as_root];

/// An open directory as programs in C use it.
struct Stream(*mut libc::DIR);

impl Stream {
    fn open(dir: &Path) -> Self {
        let path = CString::new(dir.as_os_str().as_bytes()).unwrap();
        // SAFETY: the path is a C string.
        let stream = unsafe { libc::opendir(path.as_ptr()) };
        assert!(!stream.is_null());
        Self(stream)
    }

    /// Returns the next name and the offset after it, or `None` at the end.
    fn next(&mut self) -> Option<(String, libc::c_long)> {
        // SAFETY: the stream is open, and the entry is read before the next call on it.
        unsafe {
            let entry = libc::readdir(self.0);
            if entry.is_null() {
                return None;
            }
            let name = std::ffi::CStr::from_ptr((*entry).d_name.as_ptr());
            Some((name.to_str().unwrap().to_owned(), libc::telldir(self.0)))
        }
    }

    /// Returns all names from an offset on.
    fn from(&mut self, offset: libc::c_long) -> Vec<String> {
        // SAFETY: the stream is open.
        unsafe { libc::seekdir(self.0, offset) };
        std::iter::from_fn(|| self.next().map(|it| it.0)).collect()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the stream is open, and closed once.
        unsafe { libc::closedir(self.0) };
    }
}

#[apply(promise)]
fn a_telldir_offset_is_valid_in_every_open_directory_and_after_a_restart() {
    let content = Memory::new();
    for number in 0..500 {
        content.file(&format!("dir/{number}"), vec![]);
    }
    let mounted = Mounted::of(&content);
    let mut stream = Stream::open(&mounted.at("dir"));
    let listed: Vec<_> = std::iter::from_fn(|| stream.next()).collect();
    let (_, offset) = listed[200];
    let rest: Vec<String> = listed[201..].iter().map(|it| it.0.clone()).collect();
    assert_eq!(stream.from(offset), rest, "in the same directory");
    let mut other = Stream::open(&mounted.at("dir"));
    assert_eq!(other.from(offset), rest, "in another");
    // Removed and added names do not affect the others.
    content.remove(&format!("dir/{}", listed[100].0));
    content.file("dir/new", vec![]);
    mounted.publish();
    eventually("the change is seen", HANG_LIMIT, || {
        let now = Stream::open(&mounted.at("dir")).from(offset);
        let now: Vec<String> = now.into_iter().filter(|name| name != "new").collect();
        now == rest
    });
    drop((stream, other, mounted));
    let again = Mounted::of(&content);
    let now = Stream::open(&again.at("dir")).from(offset);
    let now: Vec<String> = now.into_iter().filter(|name| name != "new").collect();
    assert_eq!(now, rest, "after a restart");
}

#[apply(promise)]
fn a_hundred_thousand_names_are_listed_correctly_during_changes() {
    let content = Memory::new();
    let staying = 95_000;
    for number in 0..staying {
        content.file(&format!("d/stays-{number:06}"), vec![]);
    }
    for number in 0..5_000 {
        content.file(&format!("d/goes-{number:06}"), vec![]);
    }
    let mounted = Mounted::of(&content);
    let mut readers: Vec<fs::ReadDir> = vec![];
    let mut seen: Vec<Vec<String>> = vec![vec![]; 3];
    for round in 0..10 {
        if round < 3 {
            readers.push(fs::read_dir(mounted.at("d")).unwrap());
        }
        for (reader, seen) in readers.iter_mut().zip(&mut seen) {
            let part = reader.take(9_000);
            seen.extend(part.map(|entry| entry.unwrap().file_name().into_string().unwrap()));
        }
        for number in round * 500..(round + 1) * 500 {
            content.remove(&format!("d/goes-{number:06}"));
            content.file(&format!("d/comes-{number:06}"), vec![]);
        }
        mounted.publish();
    }
    for (reader, mut seen) in readers.into_iter().zip(seen) {
        seen.extend(reader.map(|entry| entry.unwrap().file_name().into_string().unwrap()));
        let stays = seen.iter().filter(|name| name.starts_with("stays-"));
        assert_eq!(stays.count(), staying, "what was there all the while");
        let distinct: BTreeSet<&String> = seen.iter().collect();
        assert_eq!(distinct.len(), seen.len(), "and nothing twice");
    }
    eventually("all changes are seen", HANG_LIMIT, || {
        let names = names(&mounted.at("d"));
        names.len() == 100_000 && !names.contains("goes-004999")
    });
}

#[apply(promise)]
fn no_file_appears_sparse() {
    let content = Memory::new();
    content.dead("not here", 1 << 20);
    content.file("here", vec![0; 1 << 20]);
    let mounted = Mounted::of(&content);
    for name in ["not here", "here"] {
        let mut file = File::open(mounted.at(name)).unwrap();
        let seek = |whence, offset| {
            // SAFETY: moves the offset of an open file.
            unsafe { libc::lseek(file.as_raw_fd(), offset, whence) }
        };
        assert_eq!(seek(libc::SEEK_HOLE, 0), 1 << 20, "{name}");
        assert_eq!(seek(libc::SEEK_DATA, 4096), 4096, "{name}");
        assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), 1 << 20);
    }
}

#[apply(promise)]
fn times_sizes_and_modes_of_non_files_are_fixed() {
    let content = Memory::new();
    let hash = content.file("dir/file", b"bytes".to_vec());
    content.symlink("link", "dir/file");
    let mounted = Mounted::of(&content);
    for name in ["dir", "dir/file", "link"] {
        let meta = fs::symlink_metadata(mounted.at(name)).unwrap();
        assert_eq!(
            (meta.atime(), meta.atime_nsec()),
            (meta.mtime(), meta.mtime_nsec())
        );
        assert_eq!(
            (meta.ctime(), meta.ctime_nsec()),
            (meta.mtime(), meta.mtime_nsec())
        );
        assert_eq!(
            meta.mtime(),
            MTIME.seconds,
            "of a directory, its newest change"
        );
    }
    assert_eq!(fs::metadata(mounted.at("dir")).unwrap().len(), 4096);
    let link = fs::symlink_metadata(mounted.at("link")).unwrap();
    assert_eq!((link.mode() & 0o7777, link.len()), (0o777, 8));
    let hashes = mounted.at(".p2pfs/by-hash");
    assert_eq!(names(&hashes), BTreeSet::new(), "it lists nothing");
    let by_hash = fs::metadata(hashes.join(hash.to_string())).unwrap();
    assert_eq!((by_hash.mtime(), by_hash.len()), (0, 5));
}

#[apply(promise)]
fn an_unavailable_page_is_a_sigbus() {
    let content = Memory::new();
    content.dead("dead", 1 << 20);
    let deadline = Duration::from_millis(200);
    let mounted = Mounted::start(&content, |o| o.server.deadlines.read = deadline);
    let program = "import mmap, sys\n\
        f = open(sys.argv[1], 'rb')\n\
        print(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)[4096])\n";
    let ran = run_with("python3", &[&"-c", &program, &mounted.at("dead")]);
    if ran.status.code() == Some(127) {
        eprintln!("SKIPPED: python3 is not installed");
        return;
    }
    assert_eq!(ran.status.signal(), Some(libc::SIGBUS), "{ran:?}");
}

#[apply(promise)]
fn read_locks_on_records_work_among_local_programs() {
    let content = Memory::new();
    content.file("file", b"bytes".to_vec());
    let mounted = Mounted::of(&content);
    let [one, two] = [(); 2].map(|()| File::open(mounted.at("file")).unwrap());
    let lock = |file: &File, command, kind| {
        // SAFETY: a lock is plain integers, and 0 is a value of each.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = kind as libc::c_short;
        // SAFETY: the descriptor is open, and the lock outlives the call.
        let outcome = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) };
        (outcome, i32::from(lock.l_type))
    };
    let who_reads = |file| lock(file, libc::F_OFD_GETLK, libc::F_WRLCK).1;
    assert_eq!(who_reads(&two), libc::F_UNLCK);
    assert_eq!(lock(&one, libc::F_OFD_SETLK, libc::F_RDLCK).0, 0);
    assert_eq!(who_reads(&two), libc::F_RDLCK, "the other is seen");
    assert_eq!(
        lock(&two, libc::F_OFD_SETLK, libc::F_RDLCK).0,
        0,
        "both may read"
    );
    drop(one);
    eventually("the lock goes with its file", HANG_LIMIT, || {
        who_reads(&two) == libc::F_UNLCK
    });
}

#[apply(promise)]
fn meaningless_requests_are_einval() {
    let content = Memory::new();
    let bytes = noise(3, 1 << 20);
    let hash = content.file("file", bytes.clone());
    content.file("asked", bytes.clone());
    let mounted = Mounted::of(&content);
    assert_eq!(errno(fs::read_link(mounted.at("file"))), libc::EINVAL);
    let directly = |name: &str, offset| {
        let mut options = fs::OpenOptions::new();
        let file = options
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(mounted.at(name));
        let mut room = [0; 1001];
        let read = file.unwrap().read_at(&mut room, offset);
        read.inspect(|length| assert_eq!(room[..*length], bytes[offset as usize..][..*length]))
    };
    // The daemon reads for the kernel, so any offset and length works.
    assert_eq!(directly("asked", 77).unwrap(), 1001);
    let backing = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
    fs::write(backing.path(), &bytes).unwrap();
    content.set_backing(hash, File::open(backing.path()).unwrap());
    eventually("the next open is of the file itself", HANG_LIMIT, || {
        content.open_count() == 0
    });
    match directly("file", 77) {
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EINVAL)),
        Ok(_) => eprintln!("this disk, or a kernel without passthrough, reads it all the same"),
    }
}

#[apply(promise)]
fn inotify_reports_local_programs_and_not_other_nodes() {
    let content = Memory::new();
    content.file("dir/file", b"old".to_vec());
    let mounted = Mounted::of(&content);
    let watcher = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
    let all = WatchFlags::from_bits_retain(libc::IN_ALL_EVENTS);
    for name in ["dir", "dir/file"] {
        inotify::add_watch(&watcher, mounted.at(name), all).unwrap();
    }
    let told = || {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&watcher, &mut buffer);
        let mut told = ReadFlags::empty();
        while let Ok(event) = reader.next() {
            told |= event.events() & !ReadFlags::ISDIR;
        }
        told
    };
    assert_eq!(fs::read(mounted.at("dir/file")).unwrap(), b"old");
    assert_eq!(
        told(),
        ReadFlags::OPEN | ReadFlags::ACCESS | ReadFlags::CLOSE_NOWRITE
    );
    content.file("dir/file", b"new".to_vec());
    content.file("dir/more", b"more".to_vec());
    mounted.publish();
    eventually("the change is seen", HANG_LIMIT, || {
        mounted.at("dir/more").exists()
    });
    eventually("and the other", HANG_LIMIT, || {
        fs::read(mounted.at("dir/file")).unwrap() == b"new"
    });
    let changes = ReadFlags::CREATE
        | ReadFlags::MODIFY
        | ReadFlags::ATTRIB
        | ReadFlags::DELETE
        | ReadFlags::MOVED_TO
        | ReadFlags::MOVED_FROM
        | ReadFlags::CLOSE_WRITE;
    assert_eq!(told() & changes, ReadFlags::empty());
}

#[apply(promise)]
#[takes("getfattr")]
fn names_and_attributes_are_answered_while_bytes_do_not_arrive() {
    let content = Memory::new();
    for number in 0..50 {
        content.dead(&format!("dir/dead-{number}"), 10 << 20);
    }
    let mounted = Mounted::of(&content);
    let path = mounted.at("dir/dead-0");
    let reader = std::thread::spawn(move || fs::read(path));
    content.wait_for_stuck(1);
    let listed = run_with("ls", &[&"-lR", &mounted.dir()]).stdout;
    let lines = String::from_utf8(listed).unwrap();
    assert_eq!(
        lines.lines().filter(|line| line.contains(" dead-")).count(),
        50
    );
    assert!(run_with("df", &[&mounted.dir()]).status.success());
    let hash = run_with(
        "getfattr",
        &[&"-n", &"user.p2pfs.hash", &mounted.at("dir/dead-0")],
    );
    assert!(
        hash.status.success() || hash.status.code() == Some(127),
        "{hash:?}"
    );
    assert!(content.stuck() > 0, "the bytes have not come");
    mounted.mount.end().unwrap();
    assert!(reader.join().unwrap().is_err());
}
