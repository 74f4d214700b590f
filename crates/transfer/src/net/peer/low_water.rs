//! Low-water mark: number of bytes that must arrive before a reader is woken. A partial record
//! cannot be opened, and on a slow link each packet would wake the reader.
//!
//! This module owns the mark in the kernel (`SO_RCVLOWAT` of socket(7), which since Linux 2.6.28
//! also applies to poll(2) and the like). The mark does not delay the end of a stream, an error, or
//! any wake-up when memory or the window is short. If enough bytes are already there when the mark
//! is set, the reader is woken at once (`tcp_data_ready` and `tcp_set_rcvlowat` of the kernel). A
//! read call on a non-blocking socket never waits because of the mark.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Number of bytes that a connection's reader lacks for the next record, shared with the socket
/// below it. Clones are of the same reader.
#[derive(Clone, Debug, Default)]
pub(super) struct BytesLacked(Arc<AtomicUsize>);

impl BytesLacked {
    /// Sets the number of bytes below which a read is useless.
    pub(super) fn set(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// Returns the number of bytes, at least one.
    pub(super) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed).max(1)
    }
}

/// Sets the number of bytes from which this socket counts as readable.
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
