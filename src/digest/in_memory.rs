//! A file as a byte source that never waits for a disk.

use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;

use rustix::io::{ReadWriteFlags, preadv2};

use super::ReadAt;

/// What of an open file the kernel has in memory. What it has not is
/// [`io::ErrorKind::WouldBlock`]; a filesystem that cannot tell gives an error of its own.
#[derive(Clone, Copy, Debug)]
pub struct InMemory<'a, F>(pub &'a F);

impl<F: AsFd> ReadAt for InMemory<'_, F> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffers = [IoSliceMut::new(buffer)];
        Ok(preadv2(
            self.0,
            &mut buffers,
            offset,
            ReadWriteFlags::NOWAIT,
        )?)
    }
}
