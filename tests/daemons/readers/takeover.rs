//! A daemon that takes over a mount also takes over the rules for its readers.

use std::io::{ErrorKind, Read};
use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io};

use macro_rules_attribute::apply;
use rustix::fs::{Mode, OFlags};

use super::{MIB, NEEDS, own_name};
use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::promise;

/// Less than the time after which the kernel revalidates cached entries by itself.
const SOON: Duration = Duration::from_secs(30);

/// A node whose mount a broker keeps while it restarts.
struct Kept {
    reader: Node,
    mount: PathBuf,
    _broker: Running,
}

impl Kept {
    fn start(cluster: &mut Cluster, config: String) -> Self {
        let socket = cluster.folder.path().join("broker");
        let mount = cluster.folder.path().join("reader/mnt");
        fs::create_dir_all(&mount).unwrap();
        let mut broker = program();
        broker.arg("mount-broker").arg("--socket").arg(&socket);
        let broker = start(broker.arg("--allow").arg(&mount));
        eventually("the broker listens", HANG_LIMIT, || {
            connected(&socket).is_ok()
        });
        let reader = cluster.start_with(NodeOptions {
            config,
            environment: vec![("P2PFS_BROKER", socket.to_str().unwrap().to_owned())],
            ..NodeOptions::new("reader")
        });
        Self {
            reader,
            mount,
            _broker: broker,
        }
    }

    fn restart(&mut self) {
        self.reader.stop();
        assert!(is_mounted(&self.mount), "the broker keeps it");
        self.reader.launch();
    }
}

#[apply(promise)]
fn files_open_during_a_restart_stay_in_the_cache_and_can_be_opened_by_others() {
    let mut cluster = Cluster::new();
    let author = cluster.start("author");
    let mut kept = Kept::start(&mut cluster, String::new());
    let bytes = noise(41, MIB);
    author.write("picture.bin", &bytes);
    kept.reader.wait_for_file("picture.bin");
    let path = kept.reader.mounted("picture.bin");
    assert!(fs::read(&path).unwrap() == bytes);
    eventually("it is closed", HANG_LIMIT, || {
        let status = kept.reader.cli(&["status", "--json"]).expect_json();
        status["open_versions"] == 0
    });
    let open = fs::File::open(&path).unwrap();
    kept.restart();
    kept.reader.wait_for_file("picture.bin");
    let is_cached = || {
        let listed = kept.reader.cli(&["cache", "ls"]).expect_ok();
        listed.contains("picture.bin")
    };
    eventually("the cache knows it", HANG_LIMIT, is_cached);
    kept.reader.cli(&["cache", "clear"]).expect_ok();
    let others = fs::File::open(&path).expect("it is not damaged");
    for mut file in [open, others] {
        let mut read = Vec::new();
        file.read_to_end(&mut read).unwrap();
        assert!(read == bytes);
    }
    eventually("it is let go of", HANG_LIMIT, || {
        kept.reader.cli(&["cache", "clear"]).expect_ok();
        !is_cached()
    });
}

#[apply(promise)]
fn a_program_in_a_folder_during_a_restart_sees_new_names_in_it() {
    let mut cluster = Cluster::new();
    let author = cluster.start("author");
    let mut kept = Kept::start(&mut cluster, String::new());
    author.write("deep/folder/first", b"1");
    kept.reader.wait_for_file("deep/folder/first");
    let folder = kept.reader.mounted("deep/folder");
    // Like a process whose working directory this is: no later lookup uses the name.
    let folder = fs::File::open(folder).unwrap();
    let names = || {
        let at = rustix::fs::openat(&folder, ".", OFlags::DIRECTORY, Mode::empty()).unwrap();
        let names = rustix::fs::Dir::read_from(at).unwrap().map(|name| {
            let name = name.unwrap();
            name.file_name().to_string_lossy().into_owned()
        });
        names
            .filter(|name| !name.starts_with('.'))
            .collect::<Vec<_>>()
    };
    eventually("it is listed", HANG_LIMIT, || names() == ["first"]);
    kept.reader.stop();
    author.write("deep/folder/second", b"2");
    kept.reader.launch();
    eventually("what came meanwhile is seen", SOON, || names().len() == 2);
    author.write("deep/folder/third", b"3");
    eventually("and what comes then", SOON, || names().len() == 3);
}

#[apply(promise)]
#[takes("cat")]
fn a_program_limited_to_cached_bytes_gets_no_more_after_a_restart() {
    let mut cluster = Cluster::new();
    let author = cluster.start("author");
    let config = format!("[readers]\ncached_only = ['{}']\n", own_name());
    let mut kept = Kept::start(&mut cluster, config);
    let bytes = noise(40, MIB);
    author.write("picture.bin", &bytes);
    kept.reader.wait_for_file("picture.bin");
    let open = || fs::File::open(kept.reader.mounted("picture.bin")).unwrap();
    let mut file = open();
    // After the first close, the kernel sends no more flush requests. This includes the close of
    // the inherited copy of this descriptor when the next daemon starts.
    drop(open());

    kept.restart();
    kept.reader.wait_for_file("picture.bin");
    let mut read = |part: &mut [u8]| -> io::Result<()> { file.read_exact(part) };
    let refused = read(&mut [0; 4096]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{refused}");
    let whole = run_with("cat", &[&kept.reader.mounted("picture.bin")]);
    assert!(whole.stdout == bytes, "others are served");
    let mut part = vec![0; MIB];
    read(&mut part).unwrap();
    assert!(part == bytes, "and then it is cached");
}

#[apply(promise)]
fn a_stop_with_a_kept_mount_leaves_nothing_in_the_cache_to_check() {
    let mut cluster = Cluster::new();
    let author = cluster.start("author");
    let mut kept = Kept::start(&mut cluster, String::new());
    let bytes = noise(42, MIB);
    author.write("picture.bin", &bytes);
    kept.reader.wait_for_file("picture.bin");
    let open = fs::File::open(kept.reader.mounted("picture.bin")).unwrap();
    assert!(fs::read(kept.reader.mounted("picture.bin")).unwrap() == bytes);
    let clean = kept.reader.home.join("cache/clean");
    assert!(!clean.exists());
    kept.reader.stop();
    assert!(is_mounted(&kept.mount), "the broker keeps it");
    assert!(clean.exists());
    kept.reader.launch();
    assert!(!clean.exists());
    drop(open);
}

#[apply(promise)]
fn a_version_replaced_before_a_restart_is_read_to_its_end() {
    let mut cluster = Cluster::new();
    let author = cluster.start("author");
    let mut kept = Kept::start(&mut cluster, String::new());
    let (bytes, newer) = (noise(43, 3 * MIB), noise(44, MIB));
    author.write("report.bin", &bytes);
    kept.reader.wait_for_file("report.bin");
    let path = kept.reader.mounted("report.bin");
    let mut open = fs::File::open(&path).unwrap();
    assert!(fs::read(&path).unwrap() == bytes, "all of it is here");
    let mut read = vec![0; MIB];
    open.read_exact(&mut read).unwrap();
    author.write("report.bin", &newer);
    eventually("the new version is listed", HANG_LIMIT, || {
        fs::read(&path).is_ok_and(|now| now == newer)
    });
    // The kernel drops the file from its memory.
    rustix::fs::fadvise(&open, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    kept.restart();
    kept.reader.wait_for_file("report.bin");
    assert_eq!(open.metadata().unwrap().len(), bytes.len() as u64);
    open.read_to_end(&mut read).unwrap();
    assert!(read == bytes);
}
