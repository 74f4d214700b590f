//! The bytes of other nodes, for the contents that are opened here.

use p2pfs_content::{RemoteBytes, SupplyReply};
use p2pfs_fs::ReadWait;
use p2pfs_transfer::batches::{BATCH_FILE_MAX_BYTES, Batches};
use p2pfs_transfer::{Fetcher, Read};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::ByteRange;

/// The fetcher, and the batches of small files before it.
pub(super) struct FetchedBytes {
    pub(super) fetcher: Fetcher,
    pub(super) batches: Batches,
}

fn is_small(content: &ContentKey) -> bool {
    content.size_bytes <= BATCH_FILE_MAX_BYTES
}

impl RemoteBytes for FetchedBytes {
    fn read(&self, mut read: Read<SupplyReply>) -> ReadWait {
        if is_small(&read.content) {
            let (content, range, deadline) = (read.content, read.range, read.deadline);
            match self.batches.read(content, range, deadline, read.handle) {
                Ok(wait) => return wait,
                Err(unused) => read.handle = unused,
            }
        }
        self.fetcher.read(read)
    }

    fn read_unstored(&self, content: &ContentKey, offset: u64, buffer: &mut [u8]) -> bool {
        let arrived = is_small(content)
            .then(|| self.batches.here(content))
            .flatten();
        let Some(bytes) = arrived else {
            return false;
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let part = bytes.get(start..).and_then(|rest| rest.get(..buffer.len()));
        if let Some(part) = part {
            buffer.copy_from_slice(part);
        }
        part.is_some()
    }

    fn record_read(&self, content: ContentKey, range: ByteRange) {
        self.fetcher.record_read(content, range);
    }

    fn has_holder(&self, content: &ContentKey) -> bool {
        self.fetcher.has_holder(content)
    }
}
