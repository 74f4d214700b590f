//! Files that other programs write while they are shared: a live database, and an image that a loop
//! device writes without any report by inotify.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

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
    // A first version is listed when it rests.
    fs::write(&database, b"").unwrap();
    reader.wait_for_file("live.db");
    let mut writer = Command::new("python3");
    let writer = start(writer.args(["-c", WRITER]).args([&database, &enough]));
    let mut versions = BTreeSet::new();
    eventually(
        "two versions are read while it is written",
        PATIENCE,
        || {
            for node in [&owner, &reader] {
                let listed = fs::metadata(node.mounted("live.db"));
                listed.unwrap_or_else(|error| panic!("{}: {error}", node.name));
            }
            match fs::read(reader.mounted("live.db")) {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => {
                    assert!(bytes.starts_with(b"SQLite format 3"));
                    versions.insert(bytes);
                }
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}"),
            }
            versions.len() > 1
        },
    );
    fs::write(enough, b"").unwrap();
    writer.finish(HANG_LIMIT).expect_ok();
    eventually("its last version is read", PATIENCE, || {
        fs::read(reader.mounted("live.db")).ok() == fs::read(&database).ok()
    });
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

    /// A loop device for an image, which writes to it past the page cache.
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
        eventually("the new version is read", PATIENCE, || {
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
