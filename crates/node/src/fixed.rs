//! An open version with a fixed content, and the bytes of it on this machine.
//!
//! Owns the order of the local sources of a content: the cache, then a file in an own share with
//! the same content. Never asks another node, and never returns a byte of another version.

use std::fs::File;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use p2pfs_cache::{CacheError, CacheFile, ReadOutcome};
use p2pfs_content::ContentStore;
use p2pfs_fs::{FileVersion, FsError, ReadNow};
use p2pfs_share::{ShareError, ShareFile, ShareSet};
use p2pfs_transfer::batches::{BATCH_FILE_MAX_BYTES, SmallFile};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::{ByteRange, ExtentSet};
use p2pfs_types::path::SharedPath;

pub(super) struct FixedVersion {
    /// The path under which the version was opened.
    path: SharedPath,
    content: ContentKey,
    /// The cache file, held open so that it is not evicted. `None` if the cache could not open it,
    /// or if the cache did not have it and an own share had the content.
    cached: Option<CacheFile>,
    /// The last file found in the own shares with the same content.
    local: ArcSwapOption<ShareFile>,
    /// The ranges that were here when the version was opened; the whole file if nothing was
    /// missing.
    here: ExtentSet,
    hindrance: Option<MissedReason>,
}

/// The reason why a content was not found although it may be here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MissedReason {
    /// Too few descriptors or too little memory.
    Want,
    /// Some shares had not been added yet.
    Beginning,
    /// An own file that had the content has just been renamed or replaced.
    Unsettled,
}

impl FixedVersion {
    /// Opens the local bytes of a version. Reads the disk.
    pub(crate) fn open(file: &FileVersion, store: &ContentStore) -> Self {
        let (cache, shares) = (store.cache(), store.shares());
        let (kept, local) = (cache.existing(&file.hash), shares.provable(&file.hash));
        let hindrance = hindrance(kept.as_ref().err(), local.as_ref().err());
        // The size of cached bytes was proven. If this version states another size, the cached
        // bytes are not its bytes.
        let kept = kept.ok().flatten();
        let kept = kept.filter(|kept| kept.size_bytes() == file.size_bytes);
        let local = of_size(local, file.size_bytes);
        // With a local copy, no room in the cache is needed.
        let cached = match (&local, kept) {
            (_, Some(kept)) => Some(kept),
            (Some(_), None) => None,
            (None, None) => cache.file(file.hash, file.size_bytes).ok(),
        };
        let mut version = Self {
            path: file.path.clone(),
            content: ContentKey::new(file.hash, file.size_bytes),
            cached,
            local: ArcSwapOption::from(local),
            here: ExtentSet::new(),
            hindrance,
        };
        if version.is_partial() {
            version.here = version
                .cached
                .as_ref()
                .map_or_else(ExtentSet::new, CacheFile::present);
        } else {
            version.here.insert(ByteRange::new(0, file.size_bytes));
        }
        version
    }

    /// Returns the path under which the version was opened. It is the root if it was opened by its
    /// hash.
    pub(crate) fn path(&self) -> &SharedPath {
        &self.path
    }

    pub(crate) fn content(&self) -> ContentKey {
        self.content
    }

    /// Returns the content if it is small enough to arrive in a batch.
    pub(crate) fn small(&self) -> Option<SmallFile> {
        (self.content.size_bytes <= BATCH_FILE_MAX_BYTES).then_some(self.content)
    }

    /// Returns whether some bytes may still have to come from other nodes.
    pub(crate) fn is_partial(&self) -> bool {
        self.local.load().is_none()
            && self
                .cached
                .as_ref()
                .is_none_or(|cached| !cached.is_complete())
    }

    /// Returns whether a file in the own shares had the content at the open or at a later read.
    pub(crate) fn was_shared(&self) -> bool {
        self.local.load().is_some()
    }

    /// Returns why bytes that may be here were not found at the open. Returns `None` if there was
    /// no such reason, or if no bytes are missing.
    pub(crate) fn hindrance(&self) -> Option<MissedReason> {
        self.hindrance.filter(|_| self.is_partial())
    }

    /// Returns how many bytes of a range the cache lacks now.
    pub(crate) fn missing_bytes(&self, range: ByteRange) -> u64 {
        let cached = self.cached.as_ref();
        cached.map_or(range.len(), |cached| cached.missing_in(range).len())
    }

    /// Returns how many bytes of a range were not here when the version was opened.
    pub(crate) fn arrived_bytes(&self, range: ByteRange) -> u64 {
        if self.here.contains(range) {
            0
        } else {
            self.here.missing_in(range).len()
        }
    }

    /// Returns the file of the cache if the kernel may read it directly.
    pub(crate) fn backing(&self) -> Option<Arc<File>> {
        self.cached.as_ref()?.backing()
    }

    /// Reads the bytes that are here, without waiting for the network.
    pub(crate) fn read_local(&self, shares: &ShareSet, offset: u64, buffer: &mut [u8]) -> ReadNow {
        let wanted = ByteRange::at(offset, buffer.len() as u64);
        if wanted.end > self.content.size_bytes {
            return ReadNow::Failed(FsError::Fault);
        }
        if let Some(ReadNow::Done(length)) = self.read_cached(offset, buffer) {
            return ReadNow::Done(length);
        }
        let known = self.local.load_full();
        let read = known.map(|local| read_shared(&local, offset, buffer));
        if let Some(ReadNow::Done(length)) = read {
            return ReadNow::Done(length);
        }
        match self.find_local(shares) {
            Some(local) => read_shared(&local, offset, buffer),
            None => ReadNow::Wait,
        }
    }

    /// Returns a file in the own shares that has the content now, even if it did not exist when the
    /// version was opened.
    fn find_local(&self, shares: &ShareSet) -> Option<Arc<ShareFile>> {
        let ContentKey { hash, size_bytes } = self.content;
        if !shares.holds(&hash) {
            return None;
        }
        let local = of_size(shares.provable(&hash), size_bytes)?;
        self.local.store(Some(local.clone()));
        Some(local)
    }

    fn read_cached(&self, offset: u64, buffer: &mut [u8]) -> Option<ReadNow> {
        match self.cached.as_ref()?.read_at(offset, buffer) {
            Ok(ReadOutcome::Ready(length)) => Some(ReadNow::Done(length)),
            // If the cache's disk fails, the bytes come from an own share or another node.
            Ok(ReadOutcome::Missing(_)) | Err(_) => None,
        }
    }
}

fn hindrance(kept: Option<&CacheError>, local: Option<&ShareError>) -> Option<MissedReason> {
    if kept.is_some_and(CacheError::is_want) {
        return Some(MissedReason::Want);
    }
    let local = local.filter(|error| error.is_want())?;
    match local {
        ShareError::Missed => Some(MissedReason::Unsettled),
        ShareError::Beginning => Some(MissedReason::Beginning),
        _ => Some(MissedReason::Want),
    }
}

fn of_size(found: Result<ShareFile, ShareError>, size_bytes: u64) -> Option<Arc<ShareFile>> {
    let found = found.ok().filter(|file| file.size_bytes() == size_bytes);
    found.map(Arc::new)
}

/// Reads an own file with this content.
fn read_shared(local: &ShareFile, offset: u64, buffer: &mut [u8]) -> ReadNow {
    match local.read_content(offset, buffer) {
        Ok(length) if length == buffer.len() => ReadNow::Done(length),
        _ => ReadNow::Wait,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::time::Duration;

    use super::*;
    use p2pfs_content::sample::{empty_names, store_in};
    use p2pfs_share::ShareSpec;
    use p2pfs_types::digest::ContentHash;

    #[test]
    fn an_open_version_is_read_from_an_own_share_that_acquired_its_bytes() {
        let home = tempfile::tempdir().unwrap();
        let store = store_in(home.path(), empty_names());
        let shares = store.shares();
        let bytes = vec![7; 100_000];
        let file = FileVersion {
            path: SharedPath::root(),
            hash: ContentHash::of(&bytes),
            size_bytes: bytes.len() as u64,
            mtime: Default::default(),
            executable: false,
            own: None,
        };
        let version = FixedVersion::open(&file, &store);
        // some shares are not added yet
        assert_eq!(version.hindrance(), Some(MissedReason::Beginning));
        shares.all_added();
        let version = FixedVersion::open(&file, &store);
        assert_eq!(version.hindrance(), None);
        let mut page = [0; 4096];
        let mut read = |shares| version.read_local(shares, 4096, &mut page);
        assert_eq!(read(shares), ReadNow::Wait);
        let dir = home.path().join("share");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("vm.img"), &bytes).unwrap();
        shares.add(ShareSpec::new(&dir)).unwrap();
        assert!(shares.wait_settled(Duration::from_secs(60)));
        assert_eq!(read(shares), ReadNow::Done(4096));
        assert!(page == bytes[..4096] && !version.is_partial());
    }

    #[test]
    fn version_of_a_growing_own_file_is_read_on_its_own_node() {
        let home = tempfile::tempdir().unwrap();
        let store = store_in(home.path(), empty_names());
        let shares = store.shares();
        let dir = home.path().join("share");
        fs::create_dir(&dir).unwrap();
        for bytes in [vec![7; 100_000], vec![8; 3_000_000]] {
            fs::write(dir.join("log"), &bytes).unwrap();
            shares.add(ShareSpec::new(&dir)).unwrap();
            shares.all_added();
            assert!(shares.wait_settled(Duration::from_secs(60)));
            let file = FileVersion {
                path: SharedPath::root(),
                hash: ContentHash::of(&bytes),
                size_bytes: bytes.len() as u64,
                mtime: Default::default(),
                executable: false,
                own: None,
            };
            let early = FixedVersion::open(&file, &store);
            let mut log = fs::File::options()
                .append(true)
                .open(dir.join("log"))
                .unwrap();
            log.write_all(b"one more line").unwrap();
            let late = FixedVersion::open(&file, &store);
            for version in [early, late] {
                let mut page = [0; 4096];
                let offset = bytes.len() as u64 - 4096;
                let read = version.read_local(shares, offset, &mut page);
                assert_eq!(read, ReadNow::Done(4096));
                assert!(page == bytes[..4096] && !version.is_partial());
            }
            drop(log);
            assert!(shares.wait_settled(Duration::from_secs(60)));
        }
    }
}
