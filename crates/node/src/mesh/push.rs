//! Pushing a file to one peer, no faster than the limit allows and an original program can take it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use aws_lc_rs::digest::{Context, SHA256};

use super::Target;
use p2pfs_legacy::mesh::Pace;
use p2pfs_legacy::net::mesh::{MeshEnd, Message};
use p2pfs_legacy::wire::mesh::{
    Sha256, chunk_bytes, encode_chunk_head, encode_end, encode_message, encode_start, sent_name,
};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::files::read_full_at;

/// What is read of a file at once.
const STEP_BYTES: u64 = 256 << 10;

/// A file that is to be given to others, read once and known by its hashes.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// Open for reading; whoever gave it may read it.
    pub file: Arc<File>,
    /// Its base name.
    pub name: Vec<u8>,
    /// Its size when it was read.
    pub size_bytes: u64,
    /// What it came to.
    pub hash: ContentHash,
    /// The same for the legacy peers.
    pub sha256: Sha256,
}

/// Why a file was not given. Nobody has a part of it under its name.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The peer is gone, or does not read.
    #[error("its connection ended before the file did")]
    Gone,
    /// The file is another than it was.
    #[error("the file changed while it was sent")]
    Changed,
    /// The file cannot be read.
    #[error("the file cannot be read: {0}")]
    Disk(#[from] io::Error),
    /// As many files are on their way to the peer as it takes at once, for long.
    #[error("too many files are on their way to it: send this one when some of them have come")]
    Busy,
    /// The peer says no.
    #[error("it refused: {why}")]
    Refused {
        /// In its own words.
        why: String,
    },
}

impl From<MeshEnd> for PushError {
    fn from(_: MeshEnd) -> Self {
        Self::Gone
    }
}

impl Parcel {
    /// Reads a file from its begin to its end, for as long as somebody waits for it. Blocking.
    ///
    /// # Errors
    /// What the disk says; [`io::ErrorKind::Interrupted`] where nobody waits any more.
    pub fn read(file: File, name: Vec<u8>, wait: &Weak<()>) -> io::Result<Self> {
        let mut reader = io::BufReader::with_capacity(1 << 20, At { file, offset: 0 });
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

    /// Some of it; fewer bytes where the file is shorter now. Blocking.
    ///
    /// # Errors
    /// What the disk says.
    pub fn part(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let read = read_full_at(&self.file, &mut bytes, offset)?;
        bytes.truncate(read);
        Ok(bytes)
    }
}

/// Reads without moving the position that others of the same descriptor share.
struct At {
    file: File,
    offset: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

impl Target {
    /// Pushes a file; `sent` counts its bytes as they go. That it was written to the connection is
    /// all that is known afterwards: the protocol has no answer.
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
            // before it begins: nothing else could be said while it waited half way
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

    /// Sends bytes of no file; that they were written to the connection is all that is known.
    ///
    /// # Errors
    /// [`PushError::Gone`].
    pub(crate) async fn message(&self, bytes: &[u8]) -> Result<(), PushError> {
        let mut pace = self.pace.lock().await;
        self.whole(&mut pace, encode_message(bytes)).await
    }

    /// A file that became shorter is filled up, so that the connection stays of use: its receiver
    /// finds the hash wrong.
    async fn chunk(
        &self,
        message: &Message,
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

    /// How much goes in one message. As much as lets the peer's queue hold all of a file goes at
    /// once, but under a limit, which keeps the messages apart by itself.
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
