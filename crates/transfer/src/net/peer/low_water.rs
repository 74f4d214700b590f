//! How much has to come before a reader is woken: nothing can be opened of a record that is here
//! in part, and on a link that is slower than the processor each packet would wake its reader.
//!
//! Owns the mark in the kernel (`SO_RCVLOWAT` of socket(7), which since Linux 2.6.28 holds for
//! poll(2) and its like too). It holds back no end of a stream, no error, and nothing where memory
//! or the window is short; and what is there already when it is set wakes at once (`tcp_data_ready`
//! and `tcp_set_rcvlowat` of the kernel). Never makes a read that is asked for wait.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many bytes a reader lacks, as it tells the socket below it. Clones are of the same reader.
#[derive(Clone, Debug, Default)]
pub(super) struct Lack(Arc<AtomicUsize>);

impl Lack {
    /// A read that finds fewer is of no use.
    pub(super) fn set(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// One at least.
    pub(super) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed).max(1)
    }
}

/// Wakes whoever waits for this socket to be readable once so many bytes are there.
pub(super) fn set_low_water(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: the descriptor is open for the length of the call, which reads `bytes` and its size.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const bytes).cast(),
            size_of_val(&bytes) as libc::socklen_t,
        )
    };
    match outcome {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
