//! Real mounts: FUSE traps in which a mount once hung. Without its fix, each of these tests hangs
//! or ends at its limit. The other traps are in `waits`, `changes` and
//! `tests/daemons/legacy/mount.rs`, and the documentation of `fuse` has the table.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::content::noise;
use crate::support::memory::{Behaviour, Memory};
use crate::support::mounted::{Mounted, errno, names};
use crate::support::process::{AT_ONCE, HANG_LIMIT, eventually, wait_child};
use crate::support::promise::{Need, mount_as_root, promise};
use crate::waits::{direct_reader, signal};
use macro_rules_attribute::apply;
use p2pfs_types::digest::ContentHash;
use rustix::process::Signal;

const NEEDS: &[Need] = &[mount_as_root];

fn count(mounted: &Mounted, operation: &str) -> u64 {
    let operations = mounted.mount.activity().operations;
    let found = operations.iter().find(|it| it.name == operation);
    found.map_or(0, |it| it.count)
}

/// A lookup holds its directory's lock until the answer. A thread that notifies the kernel of a
/// change in that directory waits for the lock, so no request may depend on that thread.
#[apply(promise)]
fn notifications_and_requests_never_wait_for_each_other() {
    let content = Memory::new();
    let scratch = tempfile::tempdir().unwrap();
    let own = scratch.path().join("late");
    fs::write(&own, "late").unwrap();
    content.file("dir/old", b"old".to_vec());
    content.file("beside/file", b"beside".to_vec());
    let late = content.own("dir/late", &own);
    let deadline = Duration::from_secs(120);
    let mounted = Mounted::start(&content, |o| o.server.deadlines.metadata = deadline);
    assert_eq!(fs::read(mounted.at("dir/old")).unwrap(), b"old");
    content.turn(late, Behaviour::LooksLate);
    let path = mounted.at("dir/late");
    let begun = Instant::now();
    let lookup = thread::spawn(move || fs::metadata(path));
    content.wait_for_late(1);
    for number in 0..100 {
        content.file(&format!("dir/new-{number}"), b"new".to_vec());
    }
    content.remove("dir/old");
    content.file("beside/new", b"new".to_vec());
    let publishing = Instant::now();
    mounted.publish();
    assert!(
        publishing.elapsed() < AT_ONCE,
        "the namespace waits for nobody"
    );
    assert_eq!(fs::read(mounted.at("beside/file")).unwrap(), b"beside");
    assert!(begun.elapsed() < deadline, "others never waited");
    content.open_gate();
    let _ = lookup.join().unwrap();
    eventually("all changes are seen", HANG_LIMIT, || {
        names(&mounted.at("dir")).len() == 101 && mounted.at("beside/new").exists()
    });
    eventually("what went is gone", HANG_LIMIT, || {
        !mounted.at("dir/old").exists()
    });
}

/// A blocked reader holds the locks of its pages. A notification about its file takes them too,
/// unless it is about attributes only.
#[apply(promise)]
fn a_change_of_a_file_with_a_blocked_reader_is_notified() {
    let content = Memory::new();
    let dead = content.dead("file", 4 << 20);
    content.file("dir/a", b"a".to_vec());
    let mounted = Mounted::start(&content, |o| {
        o.server.deadlines.read = Duration::from_secs(600);
    });
    let mut stuck = Command::new("cat");
    stuck.arg(mounted.at("file")).stdout(Stdio::null());
    let mut stuck = stuck.spawn().unwrap();
    content.wait_for_stuck(1);
    content.set_cached(dead, 1 << 20);
    mounted.mount.cached_changed(&dead);
    content.file("file", b"another version".to_vec());
    content.file("dir/b", b"b".to_vec());
    mounted.publish();
    // This must not read: an opener of the old version waits for its bytes.
    eventually("the new version has the name", HANG_LIMIT, || {
        fs::metadata(mounted.at("file")).unwrap().len() == 15
    });
    assert_eq!(fs::read(mounted.at("file")).unwrap(), b"another version");
    let wanted = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
    eventually("what came after it is listed", HANG_LIMIT, || {
        names(&mounted.at("dir")) == wanted
    });
    stuck.kill().unwrap();
    wait_child(&mut stuck, HANG_LIMIT);
}

/// The kernel sends a request at each close until one answer says that it is not needed. Each exec
/// of a program with open files closes them.
#[apply(promise)]
fn closing_sends_no_request() {
    let content = Memory::new();
    content.file("file", noise(1, 10_000));
    let mounted = Mounted::of(&content);
    for _ in 0..50 {
        assert_eq!(fs::read(mounted.at("file")).unwrap().len(), 10_000);
    }
    assert!(count(&mounted, "open") >= 50);
    // These requests were in flight before the first answer.
    assert!(
        count(&mounted, "flush") < 5,
        "{:?}",
        mounted.mount.activity()
    );
}

#[apply(promise)]
fn a_process_with_files_open_on_its_own_mount_can_start_others() {
    let content = Memory::new();
    content.dead("dead", 8 << 20);
    content.file("file", noise(2, 1 << 20));
    content.executable("program", fs::read("/bin/true").unwrap());
    let mounted = Mounted::start(&content, |o| {
        o.server.deadlines.read = Duration::from_secs(600);
    });
    let mut stuck = Command::new("cat");
    stuck.arg(mounted.at("dead")).stdout(Stdio::null());
    let mut stuck = stuck.spawn().unwrap();
    content.wait_for_stuck(1);
    // Each child closes all of these before it runs.
    let open: Vec<File> = ["dead", "file", "dead", "file"]
        .into_iter()
        .map(|name| File::open(mounted.at(name)).unwrap())
        .collect();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for program in ["/bin/true".into(), mounted.at("program")] {
                    for _ in 0..10 {
                        let mut child = Command::new(&program).spawn().unwrap();
                        assert!(wait_child(&mut child, HANG_LIMIT).success());
                    }
                }
            });
        }
    });
    drop(open);
    stuck.kill().unwrap();
    wait_child(&mut stuck, HANG_LIMIT);
}

/// No program waits for the read-ahead of a killed reader, but it must still end. Otherwise each
/// killed reader would use up some of the allowed concurrent requests for ever.
#[apply(promise)]
fn requests_of_a_killed_reader_end_by_their_deadline() {
    let content = Memory::new();
    content.dead("dead", 64 << 20);
    let deadline = Duration::from_secs(3);
    let mounted = Mounted::start(&content, |o| o.server.deadlines.read = deadline);
    let mut reader = Command::new("cat");
    reader.arg(mounted.at("dead")).stdout(Stdio::null());
    let mut reader = reader.spawn().unwrap();
    content.wait_for_stuck(1);
    reader.kill().unwrap();
    wait_child(&mut reader, HANG_LIMIT);
    eventually("nothing is under way", HANG_LIMIT, || {
        mounted.mount.activity().waiting == 0
    });
    assert_eq!(errno(fs::read(mounted.at("dead"))), libc::EIO);
    let alive = ContentHash::of(b"dead");
    content.turn(alive, Behaviour::Fetched(noise(3, 64 << 20).into()));
    eventually("it is read once it is there", HANG_LIMIT, || {
        fs::read(mounted.at("dead")).is_ok_and(|bytes| bytes == noise(3, 64 << 20))
    });
}

/// More calls hang at once than there are initial threads, as over a disk that hangs.
#[apply(promise)]
fn hung_calls_delay_no_others() {
    let content = Memory::new();
    for number in 0..20u8 {
        let hash = ContentHash::of(&[number]);
        let name = format!("late-{number}");
        content.behave(&name, hash, 100, Behaviour::OpensLate);
    }
    content.file("beside/file", b"beside".to_vec());
    let mounted = Mounted::start(&content, |options| {
        options.server.deadlines.metadata = Duration::from_secs(600);
    });
    let late = (0..20).map(|number| mounted.at(&format!("late-{number}")));
    let stuck: Vec<_> = late
        .map(|path| thread::spawn(move || File::open(path).map(drop)))
        .collect();
    content.wait_for_late(20);
    let begun = Instant::now();
    assert_eq!(fs::read(mounted.at("beside/file")).unwrap(), b"beside");
    assert_eq!(names(&mounted.at("beside")).len(), 1);
    assert!(!mounted.at("beside/other").exists());
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    content.open_gate();
    for open in stuck {
        let _ = open.join().unwrap();
    }
    eventually("all is closed", HANG_LIMIT, || {
        mounted.mount.activity().handles == 0
    });
}

/// More programs than there are initial threads list the own files of a share whose disk hangs.
#[apply(promise)]
fn hung_listings_delay_no_others() {
    let content = Memory::new();
    let scratch = tempfile::tempdir().unwrap();
    let late: Vec<String> = (0..20).map(|number| format!("late-{number}")).collect();
    for name in &late {
        let own = scratch.path().join(name);
        fs::write(&own, name).unwrap();
        let hash = content.own(&format!("{name}/file"), &own);
        content.turn(hash, Behaviour::LooksLate);
    }
    content.file("beside/file", b"beside".to_vec());
    content.symlink("beside/link", "file");
    let mounted = Mounted::start(&content, |options| {
        options.server.deadlines.metadata = Duration::from_secs(600);
    });
    let directories = late.iter().map(|name| mounted.at(name));
    let stuck: Vec<_> = directories
        .map(|path| thread::spawn(move || names(&path)))
        .collect();
    content.wait_for_late(20);
    let begun = Instant::now();
    let wanted = BTreeSet::from(["file".to_owned(), "link".to_owned()]);
    assert_eq!(names(&mounted.at("beside")), wanted);
    assert_eq!(fs::read(mounted.at("beside/link")).unwrap(), b"beside");
    assert!(rustix::fs::statvfs(mounted.dir()).is_ok());
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    assert!(mounted.mount.answers(AT_ONCE), "no watchdog ends it");
    content.open_gate();
    for listing in stuck {
        assert_eq!(listing.join().unwrap().len(), 1);
    }
}

/// More readers than there are initial threads bypass the page cache, in a share or cache whose
/// disk hangs.
#[apply(promise)]
#[takes("dd")]
fn hung_reads_end_by_a_signal_or_the_deadline_and_delay_no_others() {
    let content = Memory::new();
    content.behave("late", ContentHash::of(b"late"), 100, Behaviour::ReadsLate);
    content.file("beside/file", b"beside".to_vec());
    let mounted = Mounted::start(&content, |o| {
        o.server.deadlines.read = Duration::from_secs(600);
    });
    let mut readers: Vec<Child> = (0..10)
        .map(|_| direct_reader(&mounted.at("late")))
        .collect();
    content.wait_for_late(10);
    let begun = Instant::now();
    assert_eq!(fs::read(mounted.at("beside/file")).unwrap(), b"beside");
    for (reader, how) in readers
        .iter_mut()
        .zip([Signal::INT, Signal::KILL].iter().cycle())
    {
        signal(reader, *how);
        let status = wait_child(reader, HANG_LIMIT);
        assert_eq!(status.signal(), Some(how.as_raw()));
    }
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    assert!(mounted.mount.answers(AT_ONCE), "no watchdog ends it");
    content.open_gate();
    eventually("nothing waits", HANG_LIMIT, || {
        mounted.mount.activity().waiting == 0
    });
    drop(mounted);

    let content = Memory::new();
    content.behave("late", ContentHash::of(b"late"), 100, Behaviour::ReadsLate);
    let deadline = Duration::from_secs(2);
    let mounted = Mounted::start(&content, |o| o.server.deadlines.read = deadline);
    let begun = Instant::now();
    assert_eq!(errno(fs::read(mounted.at("late"))), libc::EIO);
    assert!(begun.elapsed() >= deadline);
    assert!(mounted.mount.activity().expired > 0);
    content.open_gate();
}

/// A program that ends closes all its open files of the cache, even while the disk hangs.
#[apply(promise)]
fn hung_closes_delay_no_others() {
    let content = Memory::new();
    for number in 0..20u8 {
        let hash = ContentHash::of(&[number]);
        let name = format!("late-{number}");
        content.behave(&name, hash, 100, Behaviour::ClosesLate);
    }
    content.file("beside/file", b"beside".to_vec());
    let mounted = Mounted::start(&content, |options| {
        options.server.deadlines.metadata = Duration::from_secs(600);
    });
    let late = (0..20).map(|number| mounted.at(&format!("late-{number}")));
    let open: Vec<File> = late.map(|path| File::open(path).unwrap()).collect();
    drop(open);
    content.wait_for_late(20);
    let begun = Instant::now();
    assert_eq!(fs::read(mounted.at("beside/file")).unwrap(), b"beside");
    assert_eq!(names(&mounted.at("beside")).len(), 1);
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    assert!(mounted.mount.answers(AT_ONCE), "no watchdog ends it");
    content.open_gate();
    eventually("all is closed", HANG_LIMIT, || content.open_count() == 0);
}

/// Each lookup of a name that only a foreign peer may have waits for that peer.
#[apply(promise)]
fn thousands_of_waiting_lookups_of_one_user_delay_no_others() {
    const LOOKUPS: usize = 2_000;
    let content = Memory::new();
    content.ask_foreign();
    content.file("listed", b"listed".to_vec());
    let mounted = Mounted::start(&content, |options| {
        options.server.deadlines.metadata = Duration::from_secs(600);
    });
    let look_up = |number: usize| {
        let path = mounted.at(&format!("absent-{number}"));
        let small = thread::Builder::new().stack_size(1 << 17);
        // Half of them query the attributes, and half open the file.
        let look = move || match number % 2 {
            0 => errno(fs::metadata(path)),
            _ => errno(File::open(path)),
        };
        small.spawn(look).unwrap()
    };
    let waiting: Vec<_> = (0..LOOKUPS).map(look_up).collect();
    eventually("all lookups wait", HANG_LIMIT, || {
        let begun = Instant::now();
        assert_eq!(fs::metadata(mounted.at("listed")).unwrap().len(), 6);
        assert_eq!(fs::read(mounted.at("listed")).unwrap(), b"listed");
        assert!(rustix::fs::statvfs(mounted.dir()).is_ok());
        assert!(names(mounted.dir()).contains("listed"));
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
        content.foreign_calls() == LOOKUPS
    });
    assert!(mounted.mount.answers(AT_ONCE), "no watchdog ends it");
    content.refuse_foreign();
    for lookup in waiting {
        assert_eq!(lookup.join().unwrap(), libc::ENOENT);
    }
    assert_eq!(mounted.mount.activity().waiting, 0);
    eventually("the kernel forgets the absent names", HANG_LIMIT, || {
        mounted.mount.activity().inodes < 10
    });
}

/// The kernel keeps an inode of each name that it looked up until it is short of memory.
#[apply(promise)]
fn names_tried_at_random_leave_a_bounded_number_of_inodes() {
    const TRIES: usize = 20_000;
    const INODES_MAX: u64 = 4_096;
    let content = Memory::new();
    content.ask_foreign();
    let mounted = Mounted::start(&content, |_| {});
    let inodes = || mounted.mount.activity().inodes;
    for number in 0..TRIES {
        let made = errno(fs::create_dir(mounted.at(&format!("try-{number}"))));
        assert!([libc::EEXIST, libc::EAGAIN].contains(&made), "{made}");
        assert!(inodes() <= 2 * INODES_MAX, "{}", inodes());
    }
    eventually("the kernel forgets them", HANG_LIMIT, || {
        let made = errno(fs::create_dir(mounted.at("another")));
        made == libc::EEXIST && inodes() < 10
    });
}

/// Returns the path that a file is open at; it ends in "(deleted)" if the kernel has dropped the
/// name.
fn opened_at(file: &File) -> PathBuf {
    fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
}

/// Tries names of which a foreign peer might have each, until the kernel has forgotten them, and so
/// all that were tried before and may be forgotten. `left` is the number of inodes that stay.
fn forget_tried_names(mounted: &Mounted, left: u64) {
    let try_name = |name: &str| {
        assert_eq!(errno(fs::create_dir(mounted.at(name))), libc::EEXIST);
    };
    (0..50).for_each(|number| try_name(&format!("tried-{number}")));
    eventually("the kernel forgets the tried names", HANG_LIMIT, || {
        try_name("another");
        mounted.mount.activity().inodes <= left + 1
    });
}

/// A name that only a foreign peer might have is forgotten a second later. By then a node may share
/// it.
#[apply(promise)]
fn a_name_that_is_shared_after_a_foreign_peer_might_have_it_is_not_forgotten() {
    let content = Memory::new();
    content.ask_foreign();
    let mounted = Mounted::of(&content);
    let shared = mounted.at("shared");
    assert_eq!(errno(fs::create_dir(&shared)), libc::EEXIST);
    content.file("shared/file", b"1".to_vec());
    mounted.publish();
    eventually("it is shared", HANG_LIMIT, || shared.join("file").exists());
    let directory = File::open(&shared).unwrap();
    assert_eq!(opened_at(&directory), shared);
    forget_tried_names(&mounted, 3);
    assert_eq!(opened_at(&directory), shared);
}

/// A lookup that waits for foreign peers ends when a node shares the name.
#[apply(promise)]
fn a_name_that_is_shared_during_a_query_is_found_at_once() {
    let content = Memory::new();
    content.ask_foreign();
    let mounted = Mounted::of(&content);
    let paths = ["looked-up", "opened"].map(|name| mounted.at(name));
    let [looked_up, opened] = paths.clone();
    let stat = thread::spawn(move || fs::metadata(looked_up).unwrap().len());
    eventually("the peer is asked", HANG_LIMIT, || {
        content.foreign_calls() == 1
    });
    let open = thread::spawn(move || fs::read(opened).unwrap());
    eventually("it is asked again", HANG_LIMIT, || {
        content.foreign_calls() == 2
    });
    content.file("looked-up", b"1".to_vec());
    content.file("opened", b"22".to_vec());
    mounted.publish();
    assert_eq!(stat.join().unwrap(), 1);
    assert_eq!(open.join().unwrap(), b"22");
    assert_eq!(content.foreign_calls(), 2, "both queries still run");
    content.refuse_foreign();
    assert_eq!(fs::read(&paths[1]).unwrap(), b"22");
}

#[apply(promise)]
fn a_foreign_file_found_after_a_long_query_is_open_under_its_name() {
    let content = Memory::new();
    content.ask_foreign();
    let mounted = Mounted::of(&content);
    let path = mounted.at("late");
    let opening = path.clone();
    let opener = thread::spawn(move || File::open(opening).unwrap());
    eventually("the peer is asked", HANG_LIMIT, || {
        content.foreign_calls() == 1
    });
    forget_tried_names(&mounted, 2);
    let late = content.find_foreign("late");
    content.answer_foreign(late);
    let file = opener.join().unwrap();
    assert_eq!(opened_at(&file), path);
    forget_tried_names(&mounted, 2);
    assert_eq!(opened_at(&file), path);
}

/// A foreign file that was opened too late is closed without a request, and that close may block
/// too.
#[apply(promise)]
fn the_close_of_an_undelivered_open_delays_no_others() {
    let content = Memory::new();
    let late = content.add_foreign("late");
    content.turn(late, Behaviour::ClosesLate);
    content.file("beside/file", b"beside".to_vec());
    let mounted = Mounted::start(&content, |options| {
        options.server.deadlines.metadata = Duration::from_secs(1);
    });
    assert_eq!(errno(File::open(mounted.at("late"))), libc::EIO);
    content.answer_foreign(late);
    content.wait_for_late(1);
    assert!(mounted.mount.answers(AT_ONCE), "no watchdog ends it");
    content.open_gate();
    eventually("it is closed", HANG_LIMIT, || content.open_count() == 0);
}
