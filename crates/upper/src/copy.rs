//! Copies of another node's file into the upper folder.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes that are copied at once.
const PIECE_BYTES: u64 = 1 << 20;

/// The bytes that are copied.
pub enum Source<'a> {
    /// A complete local file. The filesystem shares its blocks if it can.
    File(Arc<File>),
    /// A function that fills the buffer from an offset. It may wait for the network.
    Reads(&'a dyn Fn(u64, &mut [u8]) -> io::Result<()>),
}

impl Source<'_> {
    /// Writes the first `size_bytes` bytes into a file.
    ///
    /// # Errors
    /// The error of the read or of the write. [`io::ErrorKind::UnexpectedEof`] for a source that is
    /// shorter.
    pub fn copy_to(&self, file: &File, size_bytes: u64) -> io::Result<()> {
        match self {
            Self::File(source) => copy_file(source, file, size_bytes),
            Self::Reads(read) => {
                let mut piece = vec![0; PIECE_BYTES.min(size_bytes) as usize];
                let mut offset = 0;
                while offset < size_bytes {
                    let length = PIECE_BYTES.min(size_bytes - offset) as usize;
                    read(offset, &mut piece[..length])?;
                    file.write_all_at(&piece[..length], offset)?;
                    offset += length as u64;
                }
                Ok(())
            }
        }
    }
}

fn copy_file(source: &File, file: &File, size_bytes: u64) -> io::Result<()> {
    // The descriptor may be shared, so its position is not used.
    let (mut from, mut to) = (0, 0);
    while to < size_bytes {
        let rest = usize::try_from(size_bytes - to).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(source, Some(&mut from), file, Some(&mut to), rest) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            // The filesystems cannot copy between each other.
            Err(_) if to == 0 => return copy_bytes(source, file, size_bytes),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_bytes(source: &File, file: &File, size_bytes: u64) -> io::Result<()> {
    let read = |offset, piece: &mut [u8]| source.read_exact_at(piece, offset);
    Source::Reads(&read).copy_to(file, size_bytes)
}
