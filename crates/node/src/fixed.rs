//! An open version with a fixed content, and what of it is on this machine.
//!
//! Owns the order in which a content is looked for here: the cache, then a shared file of our own
//! that has it. Never asks another node, and never gives a byte that is not of the version.

use std::fs::File;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use p2pfs_cache::{Cache, CacheError, CacheFile, ReadOutcome};
use p2pfs_fs::{FileVersion, FsError, ReadNow};
use p2pfs_share::{ShareError, ShareFile, ShareSet};
use p2pfs_transfer::batches::SmallFile;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::{ByteRange, ExtentSet};

pub(super) struct FixedVersion {
    hash: ContentHash,
    size_bytes: u64,
    /// Held so that it is not evicted while open; absent where the cache could not make room.
    cached: Option<CacheFile>,
    /// A file of our own shares with the same content, the last that was found.
    local: ArcSwapOption<ShareFile>,
    /// What was here when it was opened, where that was not all.
    here: ExtentSet,
    hindrance: Option<Hindrance>,
}

/// Why a content may be here and was not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hindrance {
    /// Descriptors or memory were wanting.
    Want,
    /// Not all shares were added yet.
    Beginning,
    /// A file of ours that had it has just got another name, or was replaced.
    Unsettled,
}

impl FixedVersion {
    /// Opens what is here of it. Asks the disk.
    pub(crate) fn open(file: &FileVersion, cache: &Cache, shares: &ShareSet) -> Self {
        let (kept, local) = (cache.existing(&file.hash), shares.source(&file.hash));
        let hindrance = hindrance(kept.as_ref().err(), local.as_ref().err());
        // what is here proved its size; a version that says another is not what is here
        let kept = kept.ok().flatten();
        let kept = kept.filter(|kept| kept.size_bytes() == file.size_bytes);
        let local = of_size(local, file.size_bytes);
        // a local copy needs no room in the cache
        let cached = match (&local, kept) {
            (_, Some(kept)) => Some(kept),
            (Some(_), None) => None,
            (None, None) => cache.file(file.hash, file.size_bytes).ok(),
        };
        let mut version = Self {
            hash: file.hash,
            size_bytes: file.size_bytes,
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

    pub(crate) fn hash(&self) -> ContentHash {
        self.hash
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(crate) fn small(&self) -> SmallFile {
        SmallFile::new(self.hash, self.size_bytes)
    }

    /// Whether some of it may have to come from other nodes yet.
    pub(crate) fn is_partial(&self) -> bool {
        self.local.load().is_none()
            && self
                .cached
                .as_ref()
                .is_none_or(|cached| !cached.is_complete())
    }

    /// Whether a file of our own shares had all of it.
    pub(crate) fn was_shared(&self) -> bool {
        self.local.load().is_some()
    }

    /// Why some of it may be here that was not found when it was opened.
    pub(crate) fn hindrance(&self) -> Option<Hindrance> {
        self.hindrance.filter(|_| self.is_partial())
    }

    /// How much of a range would have to come from other nodes now.
    pub(crate) fn missing_bytes(&self, range: ByteRange) -> u64 {
        let cached = self.cached.as_ref();
        cached.map_or(range.len(), |cached| cached.missing_in(range).len())
    }

    /// How much of a range was not here when the version was opened.
    pub(crate) fn arrived_bytes(&self, range: ByteRange) -> u64 {
        if self.here.contains(range) {
            0
        } else {
            self.here.missing_in(range).len()
        }
    }

    /// The file of the cache, where the kernel may read it without us.
    pub(crate) fn backing(&self) -> Option<Arc<File>> {
        self.cached.as_ref()?.backing()
    }

    /// Whether it went into the cache past the kernel's pages of the cache's file.
    pub(crate) fn is_past_pages(&self) -> bool {
        let cached = self.cached.as_ref();
        cached.is_some_and(CacheFile::is_past_pages)
    }

    /// Has the cache's file brought into the kernel's pages.
    pub(crate) fn warm(&self) {
        self.cached.iter().for_each(CacheFile::warm);
    }

    /// What is here without waiting.
    pub(crate) fn read_local(&self, shares: &ShareSet, offset: u64, buffer: &mut [u8]) -> ReadNow {
        let wanted = ByteRange::at(offset, buffer.len() as u64);
        if wanted.end > self.size_bytes {
            return ReadNow::Failed(FsError::Fault);
        }
        if let Some(ReadNow::Done(length)) = self.read_cached(offset, buffer) {
            return ReadNow::Done(length);
        }
        let known = self.local.load_full();
        let read = known.map(|local| read_unchanged(&local, offset, buffer));
        if let Some(ReadNow::Done(length)) = read {
            return ReadNow::Done(length);
        }
        match self.look_for_local(shares) {
            Some(local) => read_unchanged(&local, offset, buffer),
            None => ReadNow::Wait,
        }
    }

    /// A shared file that has the content by now, whatever was there when it was opened.
    fn look_for_local(&self, shares: &ShareSet) -> Option<Arc<ShareFile>> {
        if !shares.holds(&self.hash) {
            return None;
        }
        let local = of_size(shares.source(&self.hash), self.size_bytes)?;
        self.local.store(Some(local.clone()));
        Some(local)
    }

    fn read_cached(&self, offset: u64, buffer: &mut [u8]) -> Option<ReadNow> {
        match self.cached.as_ref()?.read_at(offset, buffer) {
            Ok(ReadOutcome::Ready(length)) => Some(ReadNow::Done(length)),
            // a disk that fails under the cache is no reason not to ask another node
            Ok(ReadOutcome::Missing(_)) | Err(_) => None,
        }
    }
}

fn hindrance(kept: Option<&CacheError>, local: Option<&ShareError>) -> Option<Hindrance> {
    if kept.is_some_and(CacheError::is_want) {
        return Some(Hindrance::Want);
    }
    let local = local.filter(|error| error.is_want())?;
    match local {
        ShareError::Missed => Some(Hindrance::Unsettled),
        ShareError::Beginning => Some(Hindrance::Beginning),
        _ => Some(Hindrance::Want),
    }
}

fn of_size(found: Result<ShareFile, ShareError>, size_bytes: u64) -> Option<Arc<ShareFile>> {
    let found = found.ok().filter(|file| file.size_bytes() == size_bytes);
    found.map(Arc::new)
}

/// A file of our own that has this content is only as good as its last look: it is looked at again
/// after the read, so that what was written meanwhile is not taken for the version.
fn read_unchanged(local: &ShareFile, offset: u64, buffer: &mut [u8]) -> ReadNow {
    match local.read_at(offset, buffer) {
        Ok(length) if length == buffer.len() && local.is_unchanged() => ReadNow::Done(length),
        _ => ReadNow::Wait,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use p2pfs_cache::CacheConfig;
    use p2pfs_share::{ShareConfig, ShareSpec};
    use p2pfs_types::path::SharedPath;

    #[test]
    fn an_open_version_is_read_from_an_own_share_that_came_to_have_its_bytes() {
        let home = tempfile::tempdir().unwrap();
        let config = CacheConfig {
            dir: home.path().join("cache"),
            budget_bytes: 1 << 20,
            floor_bytes: 0,
        };
        let (cache, _events) = Cache::open(config).unwrap();
        let state = home.path().join("state");
        let (shares, mut events) = ShareSet::open(ShareConfig::new(state)).unwrap();
        std::thread::spawn(move || while events.blocking_recv().is_some() {});
        let bytes = vec![7; 100_000];
        let file = FileVersion {
            path: SharedPath::root(),
            hash: ContentHash::of(&bytes),
            size_bytes: bytes.len() as u64,
            mtime: Default::default(),
            executable: false,
            own: None,
        };
        let version = FixedVersion::open(&file, &cache, &shares);
        // not all shares were added yet
        assert_eq!(version.hindrance(), Some(Hindrance::Beginning));
        shares.all_added();
        let version = FixedVersion::open(&file, &cache, &shares);
        assert_eq!(version.hindrance(), None);
        let mut page = [0; 4096];
        let mut read = |shares| version.read_local(shares, 4096, &mut page);
        assert_eq!(read(&shares), ReadNow::Wait);
        let dir = home.path().join("share");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("vm.img"), &bytes).unwrap();
        shares.add(ShareSpec::new(&dir)).unwrap();
        assert!(shares.wait_settled(Duration::from_secs(60)));
        assert_eq!(read(&shares), ReadNow::Done(4096));
        assert!(page == bytes[..4096] && !version.is_partial());
    }
}
