//! Single reads through io_uring(7), with raw kernel calls.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use super::place::outcome;

/// Indices of the field offsets in the answer of io_uring_setup(2), counted in u32s.
mod field {
    pub(super) const SUBMISSION_TAIL: usize = 11;
    pub(super) const SUBMISSION_LIST: usize = 16;
    pub(super) const COMPLETION_HEAD: usize = 20;
    pub(super) const COMPLETIONS: usize = 25;
}

const ENTRIES: u32 = 2;
/// Maximum size of a ring. A ring with so few entries is far shorter.
const RING_BYTES: usize = 4096;
const SUBMISSIONS_OFFSET: libc::off_t = 0x1000_0000;
const OPERATION_READ: u8 = 22;
const GET_EVENTS: u32 = 1;

/// `struct io_uring_sqe`.
#[repr(C)]
struct Submission {
    operation: u8,
    flags: u8,
    priority: u16,
    file: i32,
    offset: u64,
    buffer: u64,
    length: u32,
    read_flags: u32,
    data: u64,
    more: [u64; 3],
}

/// `struct io_uring_cqe`.
#[repr(C)]
struct Completion {
    data: u64,
    result: i32,
    flags: u32,
}

/// A ring that lives as long as the test process.
pub(super) struct Ring {
    ring: File,
    answer: [u32; 30],
    shared: *mut u8,
    submissions: *mut Submission,
}

impl Ring {
    /// Returns a ring, or the errno if this machine has none.
    pub(super) fn new() -> Result<Self, i32> {
        let mut answer = [0u32; 30];
        // SAFETY: room for the answer; the descriptor is new and ours; both mappings are as long
        // as the kernel's, or longer, and stay until the process ends.
        unsafe {
            let ring = libc::syscall(libc::SYS_io_uring_setup, ENTRIES, answer.as_mut_ptr());
            if ring < 0 {
                return Err(outcome(ring));
            }
            let ring = File::from_raw_fd(ring as i32);
            let map = |length, offset| {
                let access = libc::PROT_READ | libc::PROT_WRITE;
                let (flags, none) = (libc::MAP_SHARED, std::ptr::null_mut());
                let mapped = libc::mmap(none, length, access, flags, ring.as_raw_fd(), offset);
                assert_ne!(mapped, libc::MAP_FAILED);
                mapped
            };
            let shared = map(RING_BYTES, 0).cast();
            let submissions = map(RING_BYTES, SUBMISSIONS_OFFSET).cast();
            Ok(Self {
                ring,
                answer,
                shared,
                submissions,
            })
        }
    }

    /// Returns a number that the kernel shares with this process.
    fn number(&self, field: usize) -> &AtomicU32 {
        let offset = self.answer[field] as usize;
        // SAFETY: the kernel put a number there, inside of the mapping.
        unsafe { AtomicU32::from_ptr(self.shared.add(offset).cast()) }
    }

    /// Returns the number of bytes, or a negative errno.
    pub(super) fn read(&mut self, file: &File, room: &mut [u8], offset: usize) -> i32 {
        let submission = Submission {
            operation: OPERATION_READ,
            flags: 0,
            priority: 0,
            file: file.as_raw_fd(),
            offset: offset as u64,
            buffer: room.as_mut_ptr() as u64,
            length: room.len() as u32,
            read_flags: 0,
            data: 7,
            more: [0; 3],
        };
        let tail = self.number(field::SUBMISSION_TAIL);
        let next = tail.load(Ordering::Acquire);
        let slot = next % ENTRIES;
        let list = self.answer[field::SUBMISSION_LIST] as usize + 4 * slot as usize;
        // SAFETY: both slots are inside of the mappings, and the room outlives the read, which is
        // waited for.
        unsafe {
            self.submissions.add(slot as usize).write(submission);
            self.shared.add(list).cast::<u32>().write(slot);
            tail.store(next.wrapping_add(1), Ordering::Release);
            let enter = libc::SYS_io_uring_enter;
            let none = std::ptr::null::<libc::sigset_t>();
            let ring = self.ring.as_raw_fd();
            let submitted = libc::syscall(enter, ring, 1, 1, GET_EVENTS, none, 0);
            assert_eq!(submitted, 1, "{}", std::io::Error::last_os_error());
            let head = self.number(field::COMPLETION_HEAD);
            let next = head.load(Ordering::Acquire);
            let slot = next % (2 * ENTRIES);
            let completions = self.answer[field::COMPLETIONS] as usize;
            let completions: *const Completion = self.shared.add(completions).cast();
            let done = completions.add(slot as usize).read();
            head.store(next.wrapping_add(1), Ordering::Release);
            assert_eq!(done.data, 7);
            done.result
        }
    }
}
