use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::super::abi::{answered, opcode, request};
use super::super::device::Device;
use super::super::kernel_link::KernelLink;
use super::super::requests::Deadlines;
use super::*;
use p2pfs_fs::standin::Names;
use p2pfs_fs::{Filesystem, Options, ROOT_INO};

/// Serves a filesystem without a writable share. Returns the kernel's end of its socket.
fn served() -> (Arc<Device>, OwnedFd) {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let (kernel, ours) = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
    let options = Options {
        uid: 0,
        gid: 0,
        file_mask: 0,
        directory_mask: 0,
    };
    let fs = Arc::new(Filesystem::new(Arc::new(Names::none()), options));
    let deadlines = Deadlines {
        read: Duration::from_secs(60),
        metadata: Duration::from_secs(60),
    };
    let (device, _) = Device::new(
        KernelLink::new(ours, None),
        fs,
        deadlines,
        mpsc::channel().0,
        None,
    )
    .unwrap();
    let serving = device.clone();
    thread::spawn(move || serving.serve());
    (device, kernel)
}

/// Sends a request to the root and returns the errno of its answer.
fn ask(kernel: &OwnedFd, operation: u32, unique: u64, body: &[u8]) -> i32 {
    let message = [&request(operation, unique, ROOT_INO)[..], body].concat();
    rustix::net::send(kernel, &message, SendFlags::empty()).unwrap();
    let mut answer = [0; 256];
    let (_, length) = rustix::net::recv(kernel, &mut answer[..], RecvFlags::empty()).unwrap();
    let (of, errno) = answered(&answer[..length]).unwrap();
    assert_eq!(of, unique);
    errno
}

#[test]
fn without_a_writable_share_each_change_is_answered_once_with_erofs() {
    let (device, kernel) = served();
    let create = [&[0; 16][..], b"name\0"].concat();
    let node = [&(libc::S_IFREG | 0o644).to_ne_bytes()[..], &create[4..]].concat();
    let make = [&[0; 8][..], b"name\0"].concat();
    let truncate = [&8u32.to_ne_bytes()[..], &[0; 84]].concat();
    for (unique, (operation, body)) in [
        (opcode::CREATE, &create[..]),
        (opcode::MKNOD, &node),
        (opcode::MKDIR, &make),
        (opcode::SYMLINK, b"name\0target\0"),
        (opcode::SETATTR, &truncate),
        (opcode::FSYNC, &[]),
        (opcode::LINK, &[0; 8]),
    ]
    .into_iter()
    .enumerate()
    {
        let wanted = match operation {
            opcode::FSYNC => libc::EIO,
            opcode::LINK => libc::EPERM,
            _ => libc::EROFS,
        };
        let unique = unique as u64 * 2 + 2;
        assert_eq!(ask(&kernel, operation, unique, body), wanted, "{operation}");
    }
    assert_eq!(device.mount.requests.table.count(), 0);
    // The device would find the end of a dropped socket again and again.
    std::mem::forget(kernel);
}

#[test]
fn a_sync_succeeds_where_nothing_can_be_written() {
    let (_device, kernel) = served();
    assert_eq!(ask(&kernel, opcode::FSYNCDIR, 2, &[0; 16]), 0);
    std::mem::forget(kernel);
}

#[test]
fn only_a_rename_without_replacement_has_a_flag() {
    let (_device, kernel) = served();
    for flags in [libc::RENAME_EXCHANGE, libc::RENAME_WHITEOUT] {
        let body = [&ROOT_INO.to_ne_bytes()[..], &flags.to_ne_bytes(), &[0; 4]];
        let body = [&body.concat()[..], b"old\0new\0"].concat();
        assert_eq!(ask(&kernel, opcode::RENAME2, 2, &body), libc::EINVAL);
    }
    std::mem::forget(kernel);
}

#[test]
fn changes_beyond_the_limit_wait_in_order_for_a_thread_that_ends_one() {
    let turns = TurnQueue::new(2);
    assert!(turns.begin(b"1") && turns.begin(b"2"));
    assert!(!turns.begin(b"3") && !turns.begin(b"4"));
    assert_eq!(turns.next().as_deref(), Some(&b"3"[..]));
    assert_eq!(turns.next().as_deref(), Some(&b"4"[..]));
    assert_eq!(turns.next(), None);
    assert!(turns.begin(b"5"), "one thread works, and two may");
    assert!(!turns.begin(b"6"));
}

#[test]
fn a_signal_that_a_program_catches_ends_only_a_call_that_it_can_repeat() {
    let (device, kernel) = served();
    let requests = &device.mount.requests;
    let now = Instant::now();
    for (unique, is_repeatable) in [(2, true), (4, false)] {
        let message = request(opcode::OPEN, unique, ROOT_INO);
        let header = RequestHeader::parse(&message).unwrap();
        assert!(requests.expect_change(&header, is_repeatable, now));
        let patience = requests.table.patience_of(unique).flatten().unwrap();
        assert_eq!(patience.until.is_some(), is_repeatable);
    }
    std::mem::forget(kernel);
}
