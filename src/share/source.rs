//! Serving from a shared file: verified ranges of what it was when it was hashed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock, Weak};

use rustix::fs::fstat;

use super::error::ShareError;
use super::identity::Identity;
use super::outboards::{Outboards, Pairs};
use super::shared::Shared;
use crate::digest::{ContentHash, InMemory, encode, outboard_bytes};
use crate::extent::ByteRange;

/// An open shared file with a content that was asked for. It stays open, and can be served as far
/// as its bytes are the same, whatever becomes of its name.
#[derive(Clone)]
pub struct ShareFile {
    inner: Arc<Inner>,
}

struct Inner {
    file: File,
    hash: ContentHash,
    identity: Identity,
    pairs: OnceLock<Pairs>,
    outboards: Arc<Outboards>,
    shared: Weak<Shared>,
}

impl ShareFile {
    pub(super) fn new(
        file: File,
        hash: ContentHash,
        identity: Identity,
        shared: &Arc<Shared>,
    ) -> Self {
        let outboards = shared.outboards.clone();
        let (pairs, shared) = (OnceLock::new(), Arc::downgrade(shared));
        Self {
            inner: Arc::new(Inner {
                file,
                hash,
                identity,
                pairs,
                outboards,
                shared,
            }),
        }
    }

    /// The content.
    pub fn hash(&self) -> ContentHash {
        self.inner.hash
    }

    /// Its size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.inner.identity.size_bytes
    }

    /// Whether the file looks as it did when it was hashed: nobody wrote, renamed or re-dated it.
    pub fn is_current(&self) -> bool {
        let stat = fstat(&self.inner.file);
        stat.is_ok_and(|stat| Identity::of(&stat) == self.inner.identity)
    }

    /// The range with its proof, as [`crate::digest::encode`] makes it; every group was checked
    /// against the hash. Blocks for the disk; the first call on a file whose outboard was evicted
    /// hashes it whole.
    ///
    /// # Errors
    /// [`ShareError::Gone`] where the bytes are not what they were; then every entry with this
    /// content is withdrawn until its file was hashed again. [`ShareError::OutOfRange`],
    /// [`ShareError::Io`].
    pub fn encode(&self, range: ByteRange) -> Result<Vec<u8>, ShareError> {
        let encoded = self.pairs().and_then(|pairs| {
            let (hash, size_bytes) = (self.inner.hash, self.size_bytes());
            Ok(encode(
                hash,
                size_bytes,
                range,
                &self.inner.file,
                &pairs[..],
            )?)
        });
        if matches!(encoded, Err(ShareError::Gone)) {
            self.withdraw();
        }
        encoded
    }

    /// The same where that takes no waiting, since the bytes and the outboard are in memory; where
    /// it does, or anything is wrong, nothing.
    pub fn encode_at_once(&self, range: ByteRange) -> Option<Vec<u8>> {
        let (hash, size_bytes) = (self.inner.hash, self.size_bytes());
        let pairs = match outboard_bytes(size_bytes) {
            0 => &[],
            _ => &self.inner.pairs.get()?[..],
        };
        encode(hash, size_bytes, range, InMemory(&self.inner.file), pairs).ok()
    }

    /// Unverified bytes from `offset` on, as they are on the disk now; see [`Self::is_current`].
    ///
    /// # Errors
    /// [`ShareError::Io`].
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, ShareError> {
        Ok(self.inner.file.read_at(buffer, offset)?)
    }

    fn pairs(&self) -> Result<&Pairs, ShareError> {
        if let Some(pairs) = self.inner.pairs.get() {
            return Ok(pairs);
        }
        let Inner {
            file,
            hash,
            outboards,
            ..
        } = &*self.inner;
        let pairs = outboards.load(*hash, self.size_bytes(), file)?;
        Ok(self.inner.pairs.get_or_init(|| pairs))
    }

    /// The outboard goes too: it may be what is damaged, and hashing makes it anew.
    fn withdraw(&self) {
        self.inner.outboards.forget(&self.inner.hash);
        if let Some(shared) = self.inner.shared.upgrade() {
            shared.lock().suspect(&self.inner.hash);
            shared.wake();
        }
    }
}
