//! A disk that answers until a program watches its directory, and then no longer answers that call.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use macro_rules_attribute::apply;
use rustix::event::{PollFd, PollFlags, poll};

use super::standing::{folders, mount_fuse};
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, mount, system_calls_are_shown];

/// Operations of the FUSE protocol.
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const STATFS: u32 = 17;
const RELEASEDIR: u32 = 29;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;
const REQUEST_MAX_BYTES: usize = 1 << 17;

fn system_calls_are_shown() -> Option<String> {
    let shown = fs::read("/proc/self/syscall");
    shown
        .err()
        .map(|error| format!("cannot read /proc/self/syscall: {error}"))
}

/// An empty directory on such a disk, mounted until this is dropped.
struct UnwatchableDisk {
    at: PathBuf,
    hung: Receiver<()>,
    /// The server ends when this is closed.
    end: Option<OwnedFd>,
    server: Option<JoinHandle<()>>,
}

impl UnwatchableDisk {
    fn mount(at: &Path) -> Self {
        let disk = mount_fuse(at, ",default_permissions");
        let (until, end) = rustix::pipe::pipe().unwrap();
        let (hangs, hung) = channel();
        let server = std::thread::spawn(move || serve(disk, &until, &hangs));
        Self {
            at: at.to_owned(),
            hung,
            end: Some(end),
            server: Some(server),
        }
    }

    /// Waits until a call that adds a watch hangs.
    fn wait_until_it_hangs(&self) {
        self.hung.recv_timeout(HANG_LIMIT).unwrap();
    }
}

impl Drop for UnwatchableDisk {
    fn drop(&mut self) {
        self.end = None;
        let _failed = self.server.take().map(JoinHandle::join);
        detach(&self.at);
    }
}

/// Answers the requests of the kernel, except for attributes that it requests to add a watch.
fn serve(mut disk: File, until: &OwnedFd, hangs: &Sender<()>) {
    let mut request = vec![0; REQUEST_MAX_BYTES];
    loop {
        let mut ready = [
            PollFd::new(&disk, PollFlags::IN),
            PollFd::new(until, PollFlags::IN),
        ];
        poll(&mut ready, None).unwrap();
        if !ready[1].revents().is_empty() {
            return;
        }
        // the kernel may have taken the request back
        let Ok(_) = disk.read(&mut request) else {
            continue;
        };
        let field = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        let (operation, caller) = (field(4), field(32));
        if operation == GETATTR && is_adding_watch(caller) {
            hangs.send(()).unwrap();
            continue;
        }
        let Some(answer) = answer(operation) else {
            continue;
        };
        let (error, body) = match answer {
            Ok(body) => (0, body),
            Err(error) => (-error, Vec::new()),
        };
        let mut reply = (16 + body.len() as u32).to_ne_bytes().to_vec();
        reply.extend(error.to_ne_bytes());
        reply.extend(&request[8..16]);
        reply.extend(body);
        // a caller that was interrupted waits no longer
        let _ = disk.write(&reply);
    }
}

/// Returns the answer to an operation on the root directory, or `None` if it gets none.
fn answer(operation: u32) -> Option<Result<Vec<u8>, i32>> {
    let words = |words: &[u32], length: usize| {
        let mut body: Vec<u8> = words.iter().flat_map(|it| it.to_ne_bytes()).collect();
        body.resize(length, 0);
        Ok(body)
    };
    Some(match operation {
        FORGET | BATCH_FORGET | INTERRUPT => return None,
        // version 7.31, with writes of up to 4096 bytes
        INIT => words(&[7, 31, 0, 0, 0, 4096], 64),
        GETATTR => {
            let mut body = vec![0; 104];
            let (inode, mode, links) = (16, 76, 80);
            body[inode] = 1;
            body[mode..mode + 4].copy_from_slice(&(libc::S_IFDIR | 0o755).to_ne_bytes());
            body[links] = 2;
            Ok(body)
        }
        OPENDIR => words(&[], 16),
        STATFS => words(&[], 80),
        READDIR | RELEASEDIR => words(&[], 0),
        _ => Err(libc::ENOSYS),
    })
}

/// Returns whether this thread waits in a call that adds a watch.
fn is_adding_watch(thread: u32) -> bool {
    loop {
        let call = fs::read_to_string(format!("/proc/{thread}/syscall")).unwrap();
        // until it waits for the answer
        if !call.starts_with("running") {
            let number = call.split(' ').next().unwrap();
            return number.parse() == Ok(libc::SYS_inotify_add_watch);
        }
        std::thread::yield_now();
    }
}

#[apply(promise)]
fn a_share_that_hangs_while_a_watch_is_added_delays_no_other() {
    let mut cluster = Cluster::new();
    let reader = cluster.start("reader");
    let [far, near] = folders(&cluster, ["far", "near"]);
    let mut sharer = cluster.start_with(NodeOptions {
        shares: vec![near.clone()],
        ..NodeOptions::new("sharer")
    });
    reader.wait_for_file("near");
    let disk = UnwatchableDisk::mount(&far);
    sharer
        .cli(&["share", "add", far.to_str().unwrap()])
        .expect_ok();
    disk.wait_until_it_hangs();
    sharer.cli(&["share"]).expect_ok();
    fs::write(near.join("later"), b"later").unwrap();
    reader.wait_for_file("later");
    assert_eq!(fs::read(reader.mounted("later")).unwrap(), b"later");
    drop(disk);
    reader.wait_for_file("far");
    fs::write(far.join("watched"), b"again").unwrap();
    reader.wait_for_file("watched");
    assert!(sharer.stop().status.success());
}
