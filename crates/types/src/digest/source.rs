//! Byte sources of proofs, read at any offset into the send buffer.

use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;

use bytes::{BufMut, BytesMut};
use rustix::io::{ReadWriteFlags, pread, preadv2, retry_on_intr};

use super::ReadAt;

/// A byte source that can be read to the end of a buffer.
pub trait AppendAt: ReadAt {
    /// Reads `length` bytes from `offset` on, and appends them to `buffer`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if there are fewer bytes, and the errors of the source. The
    /// bytes in the buffer after its old end are then unspecified.
    fn append_exact_at(&self, offset: u64, length: usize, buffer: &mut BytesMut) -> io::Result<()> {
        let start = buffer.len();
        buffer.resize(start + length, 0);
        self.read_exact_at(offset, &mut buffer[start..])
    }
}

impl AppendAt for &[u8] {}

/// An open file. Reading it waits for the disk if the bytes are not in the kernel's cache.
#[derive(Clone, Copy, Debug)]
pub struct OnDisk<'a, F>(pub &'a F);

impl<F: AsFd> ReadAt for OnDisk<'_, F> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(pread(self.0, buffer, offset)?)
    }
}

/// Filling a megabyte with zeros that are then overwritten costs a third of hashing it. The kernel
/// therefore writes the bytes into uninitialized memory.
impl<F: AsFd> AppendAt for OnDisk<'_, F> {
    #[allow(
        unsafe_code,
        reason = "only so does a buffer take bytes that a system call wrote"
    )]
    fn append_exact_at(&self, offset: u64, length: usize, buffer: &mut BytesMut) -> io::Result<()> {
        let (start, end) = (buffer.len(), buffer.len() + length);
        buffer.reserve(length);
        while buffer.len() < end {
            let place = offset + (buffer.len() - start) as u64;
            let left = end - buffer.len();
            let room = &mut buffer.spare_capacity_mut()[..left];
            let read =
                retry_on_intr(|| pread(self.0, &mut *room, place).map(|(read, _)| read.len()));
            let read = read?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // SAFETY: the kernel has initialized these bytes.
            unsafe { buffer.advance_mut(read) };
        }
        Ok(())
    }
}

/// The cached part of an open file. Reading other bytes fails with [`io::ErrorKind::WouldBlock`]. A
/// file system that does not support this returns another error.
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

impl<F: AsFd> AppendAt for InMemory<'_, F> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_returns_exactly_the_requested_bytes_or_reports_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"0123456789").unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let file = OnDisk(&file);
        for room in [0, 7, 100] {
            let mut buffer = BytesMut::with_capacity(room);
            buffer.extend_from_slice(b"head ");
            file.append_exact_at(3, 4, &mut buffer).unwrap();
            assert_eq!(buffer[..], b"head 3456"[..]);
            let error = file.append_exact_at(8, 3, &mut buffer).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
