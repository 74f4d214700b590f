//! Files on a disk that hangs, such as an unplugged one or that of an unreachable server. Only
//! readers of these files wait.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use macro_rules_attribute::apply;
use p2pfs_proto::wire::native::tcp::Request;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::ByteRange;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::hostile::Hostile;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, mount, files_can_stand_still];

/// Number of files, more than the initial answering threads of either end.
const STANDING: usize = 12;
/// Number of files, more than may hang on all disks together.
const WANTED: usize = 400;
/// Number of concurrent readers.
const ASKERS: usize = 8;
const EVENT_BYTES: usize = size_of::<libc::fanotify_event_metadata>();

/// Files whose opens hang until this is dropped.
struct StandingFiles {
    opens: File,
    seen: Vec<OwnedFd>,
}

fn files_can_stand_still() -> Option<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let tried = StandingFiles::new(&[file.path()]);
    tried
        .err()
        .map(|error| format!("no open can be made to wait here: {error}"))
}

impl StandingFiles {
    fn new(files: &[impl AsRef<Path>]) -> std::io::Result<Self> {
        let flags = libc::FAN_CLASS_CONTENT | libc::FAN_CLOEXEC;
        // SAFETY: takes no pointers.
        let opens =
            unsafe { libc::fanotify_init(flags, (libc::O_RDONLY | libc::O_CLOEXEC) as u32) };
        if opens < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: it was just opened and has no other owner.
        let opens = unsafe { File::from_raw_fd(opens) };
        for file in files {
            let path = c_string(file.as_ref());
            // For a directory, this marks the files in it.
            let wanted = libc::FAN_OPEN_PERM | libc::FAN_EVENT_ON_CHILD;
            let add = libc::FAN_MARK_ADD;
            let (group, cwd) = (opens.as_raw_fd(), libc::AT_FDCWD);
            // SAFETY: the path ends in a NUL and outlives the call.
            if unsafe { libc::fanotify_mark(group, add, wanted, cwd, path.as_ptr()) } != 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(Self {
            opens,
            seen: Vec::new(),
        })
    }

    /// Waits until this many opens hang.
    fn wait_for(&mut self, count: usize) {
        let patience = Timespec {
            tv_sec: HANG_LIMIT.as_secs() as i64,
            tv_nsec: 0,
        };
        while self.seen.len() < count {
            let mut ready = [PollFd::new(&self.opens, PollFlags::IN)];
            let came = poll(&mut ready, Some(&patience)).unwrap();
            assert!(came > 0, "{} of {count} opens stand still", self.seen.len());
            let mut events = [0; 16 * EVENT_BYTES];
            let length = self.opens.read(&mut events).unwrap();
            for event in events[..length].chunks_exact(EVENT_BYTES) {
                // SAFETY: the kernel filled it in whole, and the read needs no alignment.
                let event: libc::fanotify_event_metadata =
                    unsafe { std::ptr::read_unaligned(event.as_ptr().cast()) };
                // SAFETY: the kernel opened it for us.
                self.seen.push(unsafe { OwnedFd::from_raw_fd(event.fd) });
            }
        }
    }
}

/// A disk that does not answer until this is dropped: a FUSE mount whose server never replies.
struct StandingDisk {
    at: PathBuf,
    server: Option<File>,
}

impl StandingDisk {
    fn mount(at: &Path) -> Self {
        Self {
            at: at.to_owned(),
            server: Some(mount_fuse(at, "")),
        }
    }
}

impl Drop for StandingDisk {
    fn drop(&mut self) {
        // This ends all waiting calls with an error.
        self.server = None;
        detach(&self.at);
    }
}

/// Mounts a FUSE with further options. Returns the server's end.
pub(crate) fn mount_fuse(at: &Path, options: &str) -> File {
    let server = File::options().read(true).write(true).open("/dev/fuse");
    let server = server.unwrap();
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0{options}",
        server.as_raw_fd()
    );
    let [source, kind] = [c"p2pfs-test", c"fuse"];
    let target = c_string(at);
    let options = std::ffi::CString::new(options).unwrap();
    // SAFETY: strings that end in a zero and outlive the call.
    let mounted = unsafe {
        let options = options.as_ptr().cast();
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, options)
    };
    assert_eq!(mounted, 0, "{}", std::io::Error::last_os_error());
    server
}

fn c_string(path: &Path) -> std::ffi::CString {
    std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// Creates folders to share, each with a file of its name.
pub(crate) fn folders<const N: usize>(cluster: &Cluster, names: [&str; N]) -> [PathBuf; N] {
    names.map(|name| {
        let dir = cluster.folder.path().join(name);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(name), b"text").unwrap();
        dir
    })
}

fn read_all(node: &Node, names: &[String]) -> Vec<Running> {
    let read = |name: &String| start(std::process::Command::new("cat").arg(node.mounted(name)));
    names.iter().map(read).collect()
}

#[apply(promise)]
fn files_on_a_hung_disk_delay_no_others_on_any_node() {
    let patient = |name: &str| NodeOptions {
        config: "[mount]\nread_deadline = \"30m\"\n".to_owned(),
        ..NodeOptions::new(name)
    };
    let mut cluster = Cluster::new();
    let sharer = cluster.start_with(patient("sharer"));
    let reader = cluster.start_with(patient("reader"));
    let names: Vec<String> = (0..STANDING).map(|n| format!("far-{n}")).collect();
    for name in names.iter().map(String::as_str).chain(["near", "nearer"]) {
        sharer.write(name, name.as_bytes());
        reader.wait_for_file(name);
    }
    let paths: Vec<_> = names.iter().map(|name| sharer.share.join(name)).collect();
    let mut standing = StandingFiles::new(&paths).unwrap();
    let mut stuck = read_all(&reader, &names);
    // One is enough: the node may request several at once.
    standing.wait_for(1);
    let begun = Instant::now();
    assert_eq!(fs::read(reader.mounted("near")).unwrap(), b"near");
    stuck.extend(read_all(&sharer, &names));
    standing.wait_for(STANDING);
    assert_eq!(fs::read(sharer.mounted("near")).unwrap(), b"near");
    assert_eq!(fs::read(reader.mounted("nearer")).unwrap(), b"nearer");
    sharer.cli(&["status"]).expect_ok();
    let took = begun.elapsed();
    assert!(took < HANG_LIMIT, "by a deadline: {took:?}");
    drop(standing);
    for (number, cat) in stuck.into_iter().enumerate() {
        let read = cat.finish(HANG_LIMIT);
        // The sharer's own opens end with an error after a long hang.
        if number < STANDING {
            assert_eq!(read.expect_ok(), names[number]);
        }
    }
}

#[apply(promise)]
fn a_node_names_its_unresponsive_disk() {
    let patient = NodeOptions {
        config: "[mount]\nread_deadline = \"30m\"\n".to_owned(),
        ..NodeOptions::new("reader")
    };
    let mut cluster = Cluster::new();
    let sharer = cluster.start("sharer");
    let reader = cluster.start_with(patient);
    sharer.write("far", b"far");
    reader.wait_for_file("far");
    let mut standing = StandingFiles::new(&[sharer.share.join("far")]).unwrap();
    let stuck = read_all(&reader, &["far".to_owned()]);
    standing.wait_for(1);
    let share = sharer.share.display().to_string();
    let warned = || {
        let status = sharer.cli(&["status", "--json"]).expect_json();
        let warnings = status["warnings"].to_string();
        warnings.contains(&share) && warnings.contains("does not answer")
    };
    eventually("status tells of it", HANG_LIMIT, warned);
    let doctor = sharer.cli(&["doctor"]);
    assert_eq!(doctor.status.code(), Some(1));
    let told = String::from_utf8_lossy(&doctor.stdout);
    assert!(told.contains("its disk does not answer"), "{told}");
    drop(standing);
    for cat in stuck {
        assert_eq!(cat.finish(HANG_LIMIT).expect_ok(), "far");
    }
    eventually("status is quiet", HANG_LIMIT, || !warned());
}

#[apply(promise)]
fn a_share_on_a_hung_disk_blocks_nothing_else_in_the_daemon() {
    let mut cluster = Cluster::new();
    let reader = cluster.start("reader");
    let [far, farther, near] = folders(&cluster, ["far", "farther", "near"]);
    let mut sharer = cluster.start_with(NodeOptions {
        shares: vec![far.clone(), near.clone()],
        ..NodeOptions::new("sharer")
    });
    let farther_named = farther.to_str().unwrap();
    sharer.cli(&["share", "add", farther_named]).expect_ok();
    reader.wait_for_file("farther");
    sharer.stop();
    let disks = [&far, &farther].map(|at| StandingDisk::mount(at));
    sharer.launch();
    fs::write(near.join("nearer"), b"text").unwrap();
    reader.wait_for_file("nearer");
    assert_eq!(fs::read(reader.mounted("nearer")).unwrap(), b"text");
    let warnings = || sharer.cli(&["status", "--json"]).expect_json()["warnings"].to_string();
    let told = warnings();
    for share in [&far, &farther] {
        let expected = format!(
            "{} is not shared: its disk does not answer",
            share.display()
        );
        assert!(told.contains(&expected), "{told}");
    }
    let listed = reader.cli(&["ls"]).expect_ok();
    assert!(
        listed.contains("far\n") && listed.contains("farther"),
        "{listed}"
    );
    sharer.signal(libc::SIGHUP);
    let removed = sharer.cli(&["share", "remove", farther_named]);
    assert!(removed.status.success(), "{}", removed.stderr);
    assert!(!warnings().contains(farther_named));
    drop(disks);
    eventually("nothing is told of them", HANG_LIMIT, || {
        // The signal makes the node look again sooner than it does by itself.
        sharer.signal(libc::SIGHUP);
        !warnings().contains("not shared")
    });
    let listed = sharer.cli(&["share"]).expect_ok();
    assert!(
        listed.contains(far.to_str().unwrap()) && !listed.contains(farther_named),
        "{listed}"
    );
    assert!(sharer.stop().status.success());
}

#[apply(promise)]
fn a_share_whose_disk_hangs_delays_no_other_share() {
    let mut cluster = Cluster::new();
    let reader = cluster.start("reader");
    let [far, near] = folders(&cluster, ["far", "near"]);
    let mut sharer = cluster.start_with(NodeOptions {
        shares: vec![far.clone(), near.clone()],
        ..NodeOptions::new("sharer")
    });
    reader.wait_for_file("far");
    reader.wait_for_file("near");
    let disk = StandingDisk::mount(&far);
    for name in ["later", "still-later"] {
        fs::write(near.join(name), b"text").unwrap();
        reader.wait_for_file(name);
    }
    let warned = || {
        let status = sharer.cli(&["status", "--json"]).expect_json();
        status["warnings"].to_string().contains("does not answer")
    };
    eventually("it is told of", HANG_LIMIT, warned);
    assert_eq!(sharer.cli(&["doctor"]).status.code(), Some(1));
    reader.cli(&["ls", "far"]).expect_ok();
    drop(disk);
    eventually("it is told of no more", HANG_LIMIT, || !warned());
    fs::write(far.join("again"), b"text").unwrap();
    reader.wait_for_file("again");
    let _again = StandingDisk::mount(&far);
    eventually("it is told of again", HANG_LIMIT, warned);
    assert!(sharer.stop().status.success());
}

#[apply(promise)]
fn files_that_hang_during_hashing_delay_no_others() {
    let mut cluster = Cluster::new();
    let reader = cluster.start("reader");
    let [far, near, outside] = folders(&cluster, ["far", "near", "outside"]);
    let mut sharer = cluster.start_with(NodeOptions {
        shares: vec![far.clone(), near.clone()],
        ..NodeOptions::new("sharer")
    });
    let mut standing = StandingFiles::new(&[&far]).unwrap();
    // The file is not opened here, because that would hang too.
    let put = |share: &Path, name: &str, length: usize| {
        fs::write(outside.join(name), vec![7; length]).unwrap();
        fs::rename(outside.join(name), share.join(name)).unwrap();
    };
    for number in 0..STANDING {
        put(&far, &format!("small-{number}"), 100);
    }
    put(&far, "large", 70 << 20);
    standing.wait_for(1);
    put(&near, "near-small", 100);
    put(&near, "near-large", 70 << 20);
    reader.wait_for_file("near-small");
    reader.wait_for_file("near-large");
    let stop_while_they_stand = sharer.stop();
    assert!(stop_while_they_stand.status.success());
    drop(standing);
    sharer.launch();
    for number in 0..STANDING {
        reader.wait_for_file(&format!("small-{number}"));
    }
    reader.wait_for_file("large");
}

#[apply(promise)]
fn a_hung_cache_disk_blocks_no_uncached_reads() {
    let mut cluster = Cluster::new();
    let owner = cluster.start("owner");
    let reader = cluster.start("reader");
    let [cached, other] = [noise(1, 300_000), noise(2, 300_000)];
    owner.write("cached", &cached);
    owner.write("other", &other);
    reader.wait_for_file("cached");
    reader.wait_for_file("other");
    reader.cli(&["prefetch", "cached"]).expect_ok();
    let disk = StandingDisk::mount(&reader.home.join("cache"));
    let told = || {
        let status = reader.cli(&["status", "--json"]).expect_json();
        status["warnings"].to_string()
    };
    eventually("it is told of", HANG_LIMIT, || {
        told().contains("does not answer")
    });
    let doctor = reader.cli(&["doctor"]);
    let doctor = String::from_utf8_lossy(&doctor.stdout);
    assert!(doctor.contains("does not answer"), "{doctor}");
    assert!(fs::read(reader.mounted("other")).unwrap() == other);
    owner.write("late", b"late");
    reader.wait_for_file("late");
    reader.write("own", b"own");
    owner.wait_for_file("own");
    assert_eq!(fs::read(owner.mounted("own")).unwrap(), b"own");
    drop(disk);
    eventually("it is told of no more", HANG_LIMIT, || {
        !told().contains("does not answer")
    });
}

#[apply(promise)]
fn a_heavily_used_disk_that_hangs_delays_no_others() {
    let mut cluster = Cluster::new();
    let reader = cluster.start("reader");
    let [far, near] = folders(&cluster, ["far", "near"]);
    let names: Vec<String> = (0..WANTED).map(|n| format!("far-{n}")).collect();
    for name in &names {
        fs::write(far.join(name), name).unwrap();
    }
    // The other folder must not have these bytes as well.
    fs::write(near.join("nearer"), b"nearer").unwrap();
    let sharer = cluster.start_with(NodeOptions {
        shares: vec![far.clone(), near.clone()],
        ..NodeOptions::new("sharer")
    });
    for name in names.iter().chain([&"nearer".to_owned()]) {
        reader.wait_for_file(name);
    }
    let mut standing = StandingFiles::new(&[&far]).unwrap();
    let secret = cluster.folder.path().join("secret");
    let wanted: Vec<_> = names.chunks(WANTED / ASKERS).collect();
    let askers = wanted.into_iter().map(|names| {
        let asker = Hostile::join(&secret, &[sharer.address]);
        let content = |name: &String| (ContentHash::of(name.as_bytes()), name.len() as u64);
        let contents: Vec<_> = names.iter().map(content).collect();
        let range = |&(hash, size_bytes): &(ContentHash, u64)| Request::Range {
            hash,
            size_bytes,
            range: ByteRange::new(0, size_bytes),
        };
        asker.ask_all(sharer.address, contents.iter().map(range));
        let hashes: Vec<_> = contents.iter().map(|it| it.0).collect();
        hashes.chunks(8).for_each(|some| asker.want(some));
        asker
    });
    let askers: Vec<Hostile> = askers.collect();
    standing.wait_for(1);
    let warned = || {
        let status = sharer.cli(&["status", "--json"]).expect_json();
        status["warnings"].to_string().contains("does not answer")
    };
    eventually("it is told of", HANG_LIMIT, warned);
    assert_eq!(fs::read(reader.mounted("nearer")).unwrap(), b"nearer");
    drop(standing);
    assert_eq!(fs::read(reader.mounted("far-0")).unwrap(), b"far-0");
    drop(askers);
}

#[apply(promise)]
fn an_inbox_on_a_hung_disk_does_not_prevent_a_start() {
    let mut cluster = Cluster::new();
    let [inbox] = folders(&cluster, ["inbox"]);
    let disk = StandingDisk::mount(&inbox);
    let mut taker = cluster.start_with(NodeOptions {
        config: format!("[inbox]\ndir = {inbox:?}\nfrom = ['*']\nfloor = '0B'\n"),
        ..NodeOptions::new("taker")
    });
    let sender = cluster.start("sender");
    sender.write("other", b"other");
    taker.wait_for_file("other");
    assert_eq!(fs::read(taker.mounted("other")).unwrap(), b"other");
    let sent = sender.share.join("other");
    let send = || sender.cli(&["send", sent.to_str().unwrap(), "--to", "taker"]);
    let refused = send();
    assert!(!refused.status.success());
    assert!(
        refused.stderr.contains("does not answer"),
        "{}",
        refused.stderr
    );
    taker.stop();
    drop(disk);
    taker.launch();
    sender
        .cli(&["wait", "--peers", "1", "--timeout", WAIT_LIMIT])
        .expect_ok();
    send().expect_ok();
    assert_eq!(fs::read(inbox.join("other")).unwrap(), b"other");
}
