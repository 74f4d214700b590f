//! Shares with files that other programs write at the same time: a live database, a large log, and
//! an image that a loop device writes without any report by inotify.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use macro_rules_attribute::apply;

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[mount];

/// Commits a transaction every 0.1 s until the file of its second argument exists.
const WRITER: &str = "import os, sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute('create table if not exists rows (at real, bytes blob)')
while not os.path.exists(sys.argv[2]):
    database.execute('insert into rows values (?, ?)', (time.time(), os.urandom(2000)))
    time.sleep(0.1)
";
#[apply(promise)]
#[takes("python3")]
fn a_live_database_stays_listed_on_all_nodes_while_it_is_written() {
    let mut cluster = Cluster::new();
    let owner = cluster.start("owner");
    let reader = cluster.start("reader");
    let (database, enough) = (owner.share.join("live.db"), owner.home.join("enough"));
    // The first version is listed once the file is at rest.
    fs::write(&database, b"").unwrap();
    reader.wait_for_file("live.db");
    let mut writer = Command::new("python3");
    let writer = start(writer.args(["-c", WRITER]).args([&database, &enough]));
    // A file that is written all the time is listed anew every ten seconds, and each time its next
    // commit may come before the read. So the limit is that of a hang.
    eventually(
        "a later version is read while it is written",
        HANG_LIMIT,
        || {
            for node in [&owner, &reader] {
                let listed = fs::metadata(node.mounted("live.db"));
                listed.unwrap_or_else(|error| panic!("{}: {error}", node.name));
            }
            match fs::read(reader.mounted("live.db")) {
                Ok(bytes) if bytes.is_empty() => false,
                Ok(bytes) => {
                    assert!(bytes.starts_with(b"SQLite format 3"));
                    true
                }
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}");
                    false
                }
            }
        },
    );
    fs::write(enough, b"").unwrap();
    writer.finish(HANG_LIMIT).expect_ok();
    eventually("its last version is read", HANG_LIMIT, || {
        fs::read(reader.mounted("live.db")).ok() == fs::read(&database).ok()
    });
}

/// Size of a log that takes seconds to be read whole.
const LOG_BYTES: usize = 150 << 20;
/// Size of a log that must be listed within 2 s of its writer's close.
const PROMISED_LOG_BYTES: usize = 40 << 20;
/// Length of each line of the log.
const LINE_BYTES: usize = 64;
/// Allowance for reading new lines, their outboard and the samples, in bytes a second. It is far
/// more than they need and far less than the log.
const READ_BYTES_PER_S: usize = 5 << 20;
/// Number of log versions that the other node sees.
const VERSIONS: usize = 4;

fn line(number: usize) -> Vec<u8> {
    format!("{number:063}\n").into_bytes()
}

/// Appends lines to the log of its first argument until the file of its second argument exists.
/// With a third argument it opens and closes the log for each line.
const APPENDER: &str = "import os, sys, time
is_closed, enough, number = len(sys.argv) > 3, sys.argv[2], LINES
log = None if is_closed else open(sys.argv[1], 'ab', 0)
while not os.path.exists(enough):
    if is_closed:
        log = open(sys.argv[1], 'ab', 0)
    log.write(b'%063d\\n' % number)
    if is_closed:
        log.close()
    number += 1
    time.sleep(0.02)
";

/// Reads the last line of a log through the mount of another node.
fn last_line(log: &Path) -> std::io::Result<(u64, Vec<u8>)> {
    let file = File::open(log)?;
    let size_bytes = file.metadata()?.len();
    let mut last = vec![0; LINE_BYTES];
    file.read_exact_at(&mut last, size_bytes - LINE_BYTES as u64)?;
    Ok((size_bytes, last))
}

#[apply(promise)]
#[takes("python3")]
fn large_log_that_grows_costs_the_appended_bytes() {
    check_growing_log(LOG_BYTES, LOG_BYTES / 4, &[]);
}

#[apply(promise)]
#[takes("python3")]
fn large_log_closed_after_each_line_costs_the_appended_bytes() {
    check_growing_log(LOG_BYTES, LOG_BYTES / 4, &["each"]);
}

/// The first changes are read whole.
#[apply(promise)]
#[takes("python3")]
fn smaller_log_closed_after_each_line_soon_costs_the_appended_bytes() {
    check_growing_log(PROMISED_LOG_BYTES, 4 * PROMISED_LOG_BYTES, &["each"]);
}

/// Checks a log of `log_bytes` that grows. `first_bytes` may be read of it besides the allowance.
fn check_growing_log(log_bytes: usize, first_bytes: usize, how: &[&str]) {
    let mut cluster = Cluster::new();
    let owner = cluster.start("owner");
    let reader = cluster.start("reader");
    let log = owner.share.join("large.log");
    let lines: Vec<Vec<u8>> = (0..log_bytes / LINE_BYTES).map(line).collect();
    fs::write(&log, lines.concat()).unwrap();
    reader.wait_for_file("large.log");
    let mounted = reader.mounted("large.log");
    let open = File::open(&mounted).unwrap();
    let opened_bytes = open.metadata().unwrap().len();
    let (before, began) = (read_bytes(&owner), Instant::now());
    let (enough, mut seen) = (owner.home.join("enough"), BTreeSet::new());
    let appender = APPENDER.replace("LINES", &(log_bytes / LINE_BYTES).to_string());
    let mut writer = Command::new("python3");
    let writer = start(
        writer
            .args(["-c", &appender])
            .args([&log, &enough])
            .args(how),
    );
    eventually("several versions are seen", 2 * HANG_LIMIT, || {
        match last_line(&mounted) {
            Ok((size_bytes, last)) => {
                let number = usize::try_from(size_bytes).unwrap() / LINE_BYTES - 1;
                assert_eq!(last, line(number), "a whole line");
                seen.insert(size_bytes);
            }
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}"),
        }
        seen.len() >= VERSIONS
    });
    fs::write(enough, b"").unwrap();
    writer.finish(HANG_LIMIT).expect_ok();
    let (read, lasted) = (read_bytes(&owner) - before, began.elapsed());
    println!("{} versions in {lasted:?}: {read} bytes read", seen.len());
    let allowed = first_bytes + READ_BYTES_PER_S * lasted.as_secs() as usize;
    assert!(read < allowed, "{read} of {allowed}");
    // A program that opened the first version can read on. These bytes of it were not read before.
    let mut bytes = vec![0; LINE_BYTES];
    for number in [
        log_bytes / LINE_BYTES / 2,
        opened_bytes as usize / LINE_BYTES - 1,
    ] {
        open.read_exact_at(&mut bytes, (number * LINE_BYTES) as u64)
            .unwrap();
        assert_eq!(bytes, line(number));
    }
    let last_bytes = fs::metadata(&log).unwrap().len();
    eventually("all lines are seen", HANG_LIMIT, || {
        last_line(&mounted).is_ok_and(|(size_bytes, _)| size_bytes == last_bytes)
    });
}

/// Returns the number of bytes that a daemon has read.
fn read_bytes(node: &Node) -> usize {
    let io = fs::read_to_string(format!("/proc/{}/io", node.pid())).unwrap();
    let read = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    read.expect("a count").parse().unwrap()
}

mod loop_device {
    use super::*;

    const NEEDS: &[Need] = &[root, mount, loop_devices];
    const SIZE: usize = 4 << 20;

    fn loop_devices() -> Option<String> {
        let free = Command::new("losetup").arg("-f").output();
        let free = free.is_ok_and(|tried| tried.status.success());
        (!free).then(|| "needs losetup (apt install mount) and a free loop device".to_owned())
    }

    /// A loop device that writes to its image without the page cache.
    struct LoopDevice(String);

    impl LoopDevice {
        fn attach(image: &Path) -> Self {
            let mut command = Command::new("losetup");
            command.args(["--direct-io=on", "--show", "-f"]).arg(image);
            Self(run(&mut command).expect_ok().trim().to_owned())
        }
    }

    impl Drop for LoopDevice {
        fn drop(&mut self) {
            let _ = Command::new("losetup").args(["-d", &self.0]).status();
        }
    }

    #[apply(promise)]
    fn an_image_written_by_a_loop_device_stays_listed_and_is_read_anew() {
        let mut cluster = Cluster::new();
        let owner = cluster.start("owner");
        let reader = cluster.start("reader");
        let image = owner.share.join("disk.img");
        fs::write(&image, noise(41, SIZE)).unwrap();
        let mounted = reader.mounted("disk.img");
        reader.wait_for_file("disk.img");
        let device = LoopDevice::attach(&image);
        let next = owner.home.join("next");
        fs::write(&next, noise(42, SIZE)).unwrap();
        let mut write = Command::new("dd");
        let (from, to) = (format!("if={}", next.display()), format!("of={}", device.0));
        write.args([&*from, &*to, "bs=1M", "oflag=direct", "conv=fsync"]);
        run(&mut write).expect_ok();
        let expected = fs::read(&image).unwrap();
        assert!(expected == noise(42, SIZE));
        eventually("the new version is read", HANG_LIMIT, || {
            fs::metadata(&mounted).expect("it stays listed");
            match fs::read(&mounted) {
                Ok(bytes) => bytes == expected,
                Err(error) => {
                    let stale = error.raw_os_error() == Some(libc::ESTALE);
                    assert!(stale, "{error}");
                    false
                }
            }
        });
    }
}
