//! Daemons whose log no reader reads: standard error is a full pipe, as with a pager or after Ctrl-S.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use macro_rules_attribute::apply;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

/// Files with long names. At the level debug, the log has a line of 800 bytes for each.
const FILES: usize = 2000;
const READ_FILES: usize = 100;

/// Full pipe with a reader that does not read until it is asked to.
struct FullPipe {
    path: PathBuf,
    end: File,
}

impl FullPipe {
    fn new(dir: &Path) -> Self {
        let path = dir.join("full-pipe");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let mut options = fs::OpenOptions::new();
        let options = options.read(true).write(true);
        let mut end = options.custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        let room = loop {
            if let Err(error) = end.write(b"x") {
                break error;
            }
        };
        assert_eq!(room.kind(), ErrorKind::WouldBlock);
        Self { path, end }
    }

    /// Returns the program and its arguments that execute a daemon with this standard error.
    fn as_standard_error(&self) -> Vec<String> {
        let through = [
            "sh",
            "-c",
            "exec \"$@\" 2>\"$0\"",
            self.path.to_str().unwrap(),
        ];
        through.map(str::to_owned).to_vec()
    }

    /// Returns everything that arrives until the words do.
    fn read_until(&mut self, words: &str) -> String {
        let mut said = Vec::new();
        let mut part = vec![0; 1 << 16];
        eventually(words, HANG_LIMIT, || {
            while let Ok(length) = self.end.read(&mut part) {
                said.extend_from_slice(&part[..length]);
            }
            String::from_utf8_lossy(&said).contains(words)
        });
        String::from_utf8_lossy(&said).into_owned()
    }
}

#[apply(promise)]
fn a_log_that_no_reader_reads_delays_no_read_no_command_and_no_stop() {
    let mut cluster = Cluster::new();
    let author = cluster.start("author");
    let mut pipe = FullPipe::new(cluster.folder.path());
    let mut reader = cluster.start_with(NodeOptions {
        through: pipe.as_standard_error(),
        environment: vec![("P2PFS_LOG_LEVEL", "debug".to_owned())],
        ..NodeOptions::new("reader")
    });
    let directory = ["d"; 3].map(|letter| letter.repeat(250)).join("/");
    let path = |number: usize| format!("{directory}/{number}");
    for number in 0..FILES {
        author.write(&path(number), &noise(number as u64, 1000));
    }
    reader.wait_for_file(&path(FILES - 1));
    for number in 0..READ_FILES {
        let read = fs::read(reader.mounted(&path(number))).unwrap();
        assert_eq!(read, noise(number as u64, 1000));
    }
    reader.cli(&["status"]).expect_ok();
    let said = pipe.read_until("lines of the log are missing here: it was not read in time");
    assert!(said.contains("node reader"), "the first lines are there");
    // The log goes on.
    reader.write("after.bin", b"after");
    pipe.read_until("after.bin");
    reader.stop().expect_ok();
}

#[apply(promise)]
fn a_daemon_with_a_full_standard_error_ends_within_seconds() {
    let mut cluster = Cluster::new();
    let pipe = FullPipe::new(cluster.folder.path());
    let mut node = cluster.start_with(NodeOptions {
        through: pipe.as_standard_error(),
        ..NodeOptions::new("one")
    });
    node.stop().expect_ok();
    assert!(!is_mounted(&node.mounted("")));
    // A start that fails ends, too, so that a service manager can report it.
    node.options.listen = "192.0.2.1:1".to_owned();
    let ended = start(&mut node.daemon_command()).finish(HANG_LIMIT);
    assert_eq!(ended.status.code(), Some(1));
    fs::write(node.home.join("p2pfs.toml"), "no = 'setting'\n").unwrap();
    let ended = start(&mut node.daemon_command()).finish(HANG_LIMIT);
    assert!(!ended.status.success());
}
