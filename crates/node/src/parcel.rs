//! A file that is sent to others. It is hashed once for all recipients; its bytes are then read for
//! each of them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Weak};

use aws_lc_rs::digest::{Context, SHA256};

use p2pfs_transfer::net::NetError;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::files::read_full_at;

/// A SHA-256, by which foreign peers identify the content of a file.
pub type Sha256 = [u8; 32];

/// A file to send, identified by its hashes.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// The file, open for reading.
    pub file: Arc<File>,
    /// Base name of the file.
    pub name: Vec<u8>,
    /// Size in bytes when it was read.
    pub size_bytes: u64,
    /// BLAKE3 hash of its bytes.
    pub hash: ContentHash,
    /// SHA-256 hash of its bytes, for foreign peers.
    pub sha256: Sha256,
}

/// The reason why a file was not sent.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The peer is gone, or does not read from its connection.
    #[error("its connection ended before the file did")]
    Gone,
    /// The file changed since it was hashed.
    #[error("the file changed while it was sent")]
    Changed,
    /// The file cannot be read.
    #[error("the file cannot be read: {0}")]
    Disk(#[from] io::Error),
    /// The peer has had its maximum number of files in transfer for too long.
    #[error("too many files are on their way to it: send this one when some of them have come")]
    Busy,
    /// The request was not sent, or the peer does not know it.
    #[error("{0}")]
    Unasked(NetError),
    /// The peer refused the file.
    #[error("it refused: {why}")]
    Refused {
        /// The reason in the peer's words.
        why: String,
    },
}

impl Parcel {
    /// Reads and hashes a whole file while `wait` is alive. Blocking.
    ///
    /// # Errors
    /// The error of the disk; [`io::ErrorKind::Interrupted`] if `wait` was dropped.
    pub fn read(file: File, name: Vec<u8>, wait: &Weak<()>) -> io::Result<Self> {
        let mut reader =
            io::BufReader::with_capacity(1 << 20, PositionedReader { file, offset: 0 });
        let (mut hash, mut sha256) = (blake3::Hasher::new(), Context::new(&SHA256));
        let mut size_bytes = 0;
        loop {
            let bytes = io::BufRead::fill_buf(&mut reader)?;
            if bytes.is_empty() {
                break;
            }
            if wait.strong_count() == 0 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            hash.update(bytes);
            sha256.update(bytes);
            let length = bytes.len();
            size_bytes += length as u64;
            io::BufRead::consume(&mut reader, length);
        }
        let mut digest = Sha256::default();
        digest.copy_from_slice(sha256.finish().as_ref());
        Ok(Self {
            file: Arc::new(reader.into_inner().file),
            name,
            size_bytes,
            hash: ContentHash::new(*hash.finalize().as_bytes()),
            sha256: digest,
        })
    }

    /// Reads a part of the file; fewer bytes if the file has become shorter. Blocking.
    ///
    /// # Errors
    /// The error of the disk.
    pub fn part(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let read = read_full_at(&self.file, &mut bytes, offset)?;
        bytes.truncate(read);
        Ok(bytes)
    }
}

/// A reader with its own position. It does not move the file position that other users of the
/// descriptor share.
struct PositionedReader {
    file: File,
    offset: u64,
}

impl Read for PositionedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sent_file_is_read_once_and_known_by_both_hashes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, b"hello").unwrap();
        let (file, wait) = (File::open(&path).unwrap(), Arc::new(()));
        let parcel = Parcel::read(file, b"a".to_vec(), &Arc::downgrade(&wait)).unwrap();
        assert_eq!(
            (parcel.size_bytes, parcel.hash),
            (5, ContentHash::of(b"hello"))
        );
        let sha256 = aws_lc_rs::digest::digest(&SHA256, b"hello");
        assert_eq!(parcel.sha256, sha256.as_ref());
        assert_eq!(parcel.part(1, 3).unwrap(), b"ell");
        assert_eq!(parcel.part(3, 9).unwrap(), b"lo");
    }

    #[test]
    fn a_file_is_not_read_further_after_its_receiver_left() {
        let endless = File::open("/dev/zero").unwrap();
        let read = Parcel::read(endless, b"a".to_vec(), &Weak::new());
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::Interrupted);
    }
}
