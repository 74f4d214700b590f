//! Pushing a file to one peer of the mesh, within the rate limit and no faster than an original
//! program can receive.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use aws_lc_rs::digest::{Context, SHA256};

use super::PushTarget;
use p2pfs_legacy::mesh::Pace;
use p2pfs_legacy::net::mesh::{MeshEnd, StreamedMessage};
use p2pfs_legacy::wire::mesh::{
    Sha256, chunk_bytes, encode_chunk_head, encode_end, encode_message, encode_start, sent_name,
};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::files::read_full_at;

/// Number of bytes read from a file at once.
const STEP_BYTES: u64 = 256 << 10;

/// A file to send, read once and identified by its hashes.
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
    /// SHA-256 hash of its bytes, for the legacy peers.
    pub sha256: Sha256,
}

/// The reason why a file was not sent. The recipient has no part of it under its name.
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
    /// The peer refused the file.
    #[error("it refused: {why}")]
    Refused {
        /// The reason in the peer's words.
        why: String,
    },
}

impl From<MeshEnd> for PushError {
    fn from(_: MeshEnd) -> Self {
        Self::Gone
    }
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

impl PushTarget {
    /// Sends a file; `sent` counts the bytes in transfer. Success means that all bytes were written
    /// to the connection, because the protocol has no acknowledgement.
    ///
    /// # Errors
    /// [`PushError`].
    pub(crate) async fn push(&self, parcel: &Parcel, sent: &AtomicU64) -> Result<(), PushError> {
        let mut pace = self.pace.lock().await;
        let name = sent_name(&parcel.name);
        let start = encode_start(&name, parcel.size_bytes, &parcel.sha256);
        self.whole(&mut pace, start).await?;
        let (mut offset, mut is_same) = (0, true);
        while offset < parcel.size_bytes {
            let length = self.step(parcel.size_bytes).min(parcel.size_bytes - offset);
            // Before the message begins: no other message could be sent on this connection in the
            // middle of it.
            self.passage.pass(length, false).await;
            wait_for_turn(&mut pace).await;
            let head = encode_chunk_head(&name, length);
            let message = self.sender.begin(head.into(), length).await?;
            is_same &= self.chunk(&message, parcel, (offset, length), sent).await?;
            pace.sent(Instant::now(), length);
            offset += length;
        }
        let end = encode_end(&name, &parcel.sha256);
        self.whole(&mut pace, end).await?;
        is_same.then_some(()).ok_or(PushError::Changed)
    }

    /// Sends bytes that are not a file. Success means that they were written to the connection.
    ///
    /// # Errors
    /// [`PushError::Gone`].
    pub(crate) async fn message(&self, bytes: &[u8]) -> Result<(), PushError> {
        let mut pace = self.pace.lock().await;
        self.whole(&mut pace, encode_message(bytes)).await
    }

    /// Sends one chunk and returns whether the file still had all its bytes. A file that became
    /// shorter is padded with zeros, so that the connection stays usable. Its receiver then finds a
    /// wrong hash.
    async fn chunk(
        &self,
        message: &StreamedMessage,
        parcel: &Parcel,
        (begin, length): (u64, u64),
        sent: &AtomicU64,
    ) -> Result<bool, PushError> {
        let (mut at, end, mut is_same) = (begin, begin + length, true);
        while at < end {
            let step = STEP_BYTES.min(end - at);
            let (parcel, offset) = (parcel.clone(), at);
            let read = tokio::task::spawn_blocking(move || parcel.part(offset, step as usize));
            let read = read.await.map_err(|_| PushError::Gone)?;
            let mut bytes = read.unwrap_or_default();
            is_same &= bytes.len() as u64 == step;
            bytes.resize(step as usize, 0);
            at += step;
            message.give(bytes.into()).await?;
            sent.fetch_add(step, Ordering::Relaxed);
            self.moved.sent(step);
            self.passage.count(step);
        }
        Ok(is_same)
    }

    /// Returns the number of bytes for one message. Without a rate limit it is large enough that
    /// the peer's queue holds all messages of the file. A rate limit spaces the messages by itself.
    fn step(&self, size_bytes: u64) -> u64 {
        if self.passage.is_limited() {
            STEP_BYTES
        } else {
            chunk_bytes(size_bytes)
        }
    }

    async fn whole(&self, pace: &mut Pace, message: Vec<u8>) -> Result<(), PushError> {
        wait_for_turn(pace).await;
        pace.sent(Instant::now(), message.len() as u64);
        self.sender.begin(message.into(), 0).await?;
        Ok(())
    }
}

async fn wait_for_turn(pace: &mut Pace) {
    let ready = pace.ready_at(Instant::now());
    tokio::time::sleep_until(ready.into()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parcel_is_read_once_and_known_by_both_hashes() {
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
    fn a_file_is_read_no_further_once_nobody_waits_for_it() {
        let endless = File::open("/dev/zero").unwrap();
        let read = Parcel::read(endless, b"a".to_vec(), &Weak::new());
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::Interrupted);
    }
}
