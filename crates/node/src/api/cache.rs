//! Local bytes of other nodes' files: queries, verification, eviction and pins.
//!
//! Owns the answer to whether a content is here, for names, fetches and pins alike. The answer
//! comes from memory.

use std::ops::ControlFlow;
use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use super::{Contents, FileError};
use crate::Node;
use p2pfs_cache::{
    Cache, CacheError, CacheUsage, CachedFile, Cleared, Lack, VerifyProgress, cost_bytes,
};
use p2pfs_share::ShareSet;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::path::SharedPath;

/// Interval at which unfinished pins are tried again after a holder came back or space became free.
/// Each check walks over the pins once, in memory.
const PINS_LOOK_PERIOD: Duration = Duration::from_secs(5);

/// The local sources of contents: the cache and the shares. Clones share their state.
#[derive(Clone)]
pub(super) struct LocalContents {
    cache: Cache,
    shares: ShareSet,
}

impl LocalContents {
    pub(super) fn has(&self, hash: &ContentHash) -> bool {
        self.cache.is_complete(hash) || self.shares.holds(hash)
    }

    pub(super) fn bytes(&self, hash: &ContentHash, size_bytes: u64) -> u64 {
        if self.shares.holds(hash) {
            size_bytes
        } else {
            self.cache.cached_bytes(hash).min(size_bytes)
        }
    }
}

/// A content whose pin could not be set or removed.
#[derive(Debug)]
pub struct NotPinned {
    /// One of the names of the content.
    pub path: SharedPath,
    /// Size of the content in bytes.
    pub size_bytes: u64,
    /// The reason.
    pub why: WhyNotPinned,
}

/// The reason why a pin was not changed.
#[derive(Debug)]
pub enum WhyNotPinned {
    /// The cache has no room for the content beside the contents that it must keep.
    Lack(Lack),
    /// The error of the cache.
    Cache(CacheError),
}

impl Node {
    pub(super) fn here(&self) -> LocalContents {
        LocalContents {
            cache: self.cache.clone(),
            shares: self.shares.clone(),
        }
    }

    /// Returns how many bytes of a content can be read here without another node.
    pub fn here_bytes(&self, hash: &ContentHash, size_bytes: u64) -> u64 {
        self.here().bytes(hash, size_bytes)
    }

    /// Returns the space that the cache takes and may take.
    pub fn cache_usage(&self) -> CacheUsage {
        self.cache.usage()
    }

    /// Returns every content of which the cache has bytes, the least recently used first. Closes
    /// the files that are kept open for the next reader. Blocks on the disk.
    pub fn cached(&self) -> Vec<CachedFile> {
        self.idle_closer()();
        self.cache.list()
    }

    /// Returns the pinned contents that are not complete here and that some node can give. Their
    /// last use is set to the Unix epoch.
    pub fn pins_to_come(&self) -> Vec<CachedFile> {
        let to_come = self.unfinished_pins().into_iter();
        let none_yet = to_come.map(|(hash, (size_bytes, _))| CachedFile {
            hash,
            size_bytes,
            cached_bytes: self.cache.cached_bytes(&hash),
            complete: false,
            pinned: true,
            open: false,
            last_use: SystemTime::UNIX_EPOCH,
        });
        none_yet.collect()
    }

    /// Returns whether a content is pinned.
    pub fn is_pinned(&self, hash: &ContentHash) -> bool {
        self.cache.is_pinned(hash)
    }

    /// Returns whether the cache could hold this many additional bytes if everything evictable were
    /// evicted. The answer is not a reservation. Blocks on the disk.
    pub fn has_room_for(&self, bytes: u64) -> bool {
        self.lack_of_room(bytes).is_none()
    }

    /// Returns why the cache could not hold this many additional bytes, as [`Node::room_needed`]
    /// counts them, beside all pinned contents, if everything evictable were evicted. Returns
    /// `None` if it could. Blocks on the disk.
    pub fn lack_of_room(&self, bytes: u64) -> Option<Lack> {
        self.room()(bytes)
    }

    /// Returns the check of [`Node::lack_of_room`] as a function for a blocking thread.
    pub(super) fn room(&self) -> impl Fn(u64) -> Option<Lack> + Send + 'static {
        let (cache, close_idle) = (self.cache.clone(), self.idle_closer());
        let pins_to_begin_bytes = self.pins_to_begin_bytes();
        let lack = move |bytes| {
            let mut room = cache.room();
            room.take(pins_to_begin_bytes);
            room.lack(bytes)
        };
        move |bytes| {
            lack(bytes).filter(|_| bytes > 0).and_then(|_| {
                // Files that are only kept open for the next reader would be closed soon anyway.
                close_idle();
                lack(bytes)
            })
        }
    }

    /// Returns a function that closes the files kept open for the next reader. Call it on a thread
    /// that may block on the disk.
    pub(super) fn idle_closer(&self) -> impl Fn() + Send + 'static {
        let (fetcher, content) = (self.handles.fetcher.clone(), self.content.clone());
        move || {
            fetcher.close_idle();
            content.close_idle();
        }
    }

    /// Removes the contents that are neither pinned nor open. Blocks on the disk.
    pub fn clear_cache(&self) -> Cleared {
        self.idle_closer()();
        self.cache.clear()
    }

    /// Sets the budget of the cache in bytes and evicts the excess as far as possible. Blocks on
    /// the disk.
    pub fn resize_cache(&self, budget_bytes: u64) -> CacheUsage {
        self.idle_closer()();
        self.cache.resize(budget_bytes)
    }

    /// Writes the state of the cache to disk for the next start. Contents that do not change
    /// afterwards need no check at that start. Blocks on the disk.
    pub fn flush_cache(&self) {
        self.cache.flush_at_end();
    }

    /// Reads and verifies every cached byte and drops damaged ones. Calls `progress` about once per
    /// MiB; the work ends if it breaks. Blocks on the disk.
    pub fn verify_cache(
        &self,
        progress: impl FnMut(&VerifyProgress) -> ControlFlow<()>,
    ) -> VerifyProgress {
        self.cache.verify(progress)
    }

    /// Pins or unpins contents, each independently, as far as the budget and the disk allow.
    /// Returns the changed contents and the failed ones. Blocks on the disk.
    pub fn pin_contents(&self, contents: Contents, pinned: bool) -> (Contents, Vec<NotPinned>) {
        let changed = self.set_each(contents, pinned);
        self.pins.send_replace(());
        changed
    }

    fn set_each(&self, contents: Contents, pinned: bool) -> (Contents, Vec<NotPinned>) {
        let (fitting, mut failed) = if pinned {
            self.fitting(contents)
        } else {
            (contents, Vec::new())
        };
        let close_idle = self.idle_closer();
        // The list of pins is written once for all contents.
        if set_all(&self.cache, &named_pins(&fitting), pinned, &close_idle).is_ok() {
            return (fitting, failed);
        }
        let mut changed = Contents::new();
        for (hash, (size_bytes, path)) in fitting {
            let one = Contents::from([(hash, (size_bytes, path.clone()))]);
            match set_all(&self.cache, &named_pins(&one), pinned, &close_idle) {
                Ok(()) => changed.extend(one),
                Err(why) => failed.push(NotPinned {
                    path,
                    size_bytes,
                    why: WhyNotPinned::Cache(why),
                }),
            }
        }
        (changed, failed)
    }

    /// Splits contents, in their order, into those that fit into the cache together and those that
    /// do not.
    fn fitting(&self, contents: Contents) -> (Contents, Vec<NotPinned>) {
        let mut room = self.cache.room_to_stay();
        room.take(self.pins_to_begin_bytes());
        let (mut fitting, mut failed) = (Contents::new(), Vec::new());
        for (hash, (size_bytes, path)) in contents {
            // A pinned content already has its room, and an own file needs none.
            let needs_none = self.is_pinned(&hash) || self.shares.holds(&hash);
            let needed_bytes = if needs_none {
                0
            } else {
                cost_bytes(size_bytes)
            };
            match room.lack(needed_bytes).filter(|_| needed_bytes > 0) {
                Some(lack) => failed.push(NotPinned {
                    path,
                    size_bytes,
                    why: WhyNotPinned::Lack(lack),
                }),
                None => {
                    room.take(needed_bytes);
                    fitting.insert(hash, (size_bytes, path));
                }
            }
        }
        (fitting, failed)
    }

    /// Returns the cost in bytes of the pinned contents that some node can give and of which no
    /// byte is here yet.
    fn pins_to_begin_bytes(&self) -> u64 {
        let mut unfinished = self.unfinished_pins();
        unfinished.retain(|hash, _| !self.cache.has_begun(hash));
        unfinished
            .values()
            .map(|(size_bytes, _)| cost_bytes(*size_bytes))
            .sum()
    }

    /// Returns the pinned contents of a path: those that are listed there now, and those that were
    /// pinned by a name there and are no longer listed under it.
    ///
    /// # Errors
    /// As [`Node::contents_of`], unless a content is pinned by a name there.
    pub fn pinned_at(&self, path: &SharedPath) -> Result<Contents, FileError> {
        let once = self.pinned_where(|_, name| {
            name.is_some_and(|name| name == path || name.is_beneath(path)) || path.is_root()
        });
        if path.is_root() {
            return Ok(once);
        }
        let now = match self.contents_of(path) {
            Err(FileError::NotFound { .. } | FileError::LinkToNothing { .. })
                if !once.is_empty() =>
            {
                Contents::new()
            }
            found => found?,
        };
        let mut kept = once;
        kept.extend(now.into_iter().filter(|(hash, _)| self.is_pinned(hash)));
        Ok(kept)
    }

    /// Returns the pinned contents whose hash begins with these hexadecimal digits.
    pub fn pinned_with_hash(&self, hash_start: &str) -> Contents {
        self.pinned_where(|hash, _| hash.to_string().starts_with(hash_start))
    }

    /// Returns the name by which a content was pinned.
    pub fn pinned_as(&self, hash: &ContentHash) -> Option<SharedPath> {
        let name = SharedPath::new(self.cache.pin_label(hash)?).ok();
        name.filter(|path| !path.is_root())
    }

    fn pinned_where(
        &self,
        is_meant: impl Fn(&ContentHash, Option<&SharedPath>) -> bool,
    ) -> Contents {
        let pins = self.cache.labelled_pins().into_iter();
        let named = pins.map(|(hash, label)| (hash, SharedPath::new(label).ok()));
        let meant = named.filter(|(hash, name)| is_meant(hash, name.as_ref()));
        // The size of a content is unknown if no node lists it and no byte of it is here.
        let view = self.view();
        let sized = |hash: &ContentHash| {
            let listed = view.contents().get(hash).map(|content| content.size_bytes);
            let known = listed.or_else(|| self.cache.size_bytes(hash));
            known.unwrap_or_default()
        };
        meant
            .map(|(hash, name)| (hash, (sized(&hash), name.unwrap_or_else(SharedPath::root))))
            .collect()
    }

    /// Returns the size in bytes of all pinned contents, including bytes not fetched yet.
    pub fn pinned_bytes(&self) -> u64 {
        let to_come_bytes = self.pinned_bytes_to_come();
        self.cache
            .usage()
            .pinned_bytes
            .saturating_add(to_come_bytes)
    }

    /// Returns how many bytes of the budget all pinned contents take once they are complete.
    pub fn pinned_cost_bytes(&self) -> u64 {
        self.cache
            .pinned_cost_bytes()
            .saturating_add(self.pins_to_begin_bytes())
    }

    fn pinned_bytes_to_come(&self) -> u64 {
        let missing = |(hash, (size_bytes, _)): (_, &(u64, _))| {
            size_bytes.saturating_sub(self.cache.cached_bytes(hash))
        };
        self.unfinished_pins().iter().map(missing).sum()
    }

    /// Fetches the pinned contents that are not complete, for as long as this future is polled. A
    /// pin outlives the process, its holders, and a cache that was too small. The fetch of an
    /// unpinned content stops. While the network is metered, all of these fetches are paused.
    pub async fn keep_pins(&self) {
        let mut look = interval(PINS_LOOK_PERIOD);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut metered = self.handles.fetcher.metered();
        let mut pins = self.pins.subscribe();
        let mut fetches = None;
        loop {
            if self.is_metered() {
                fetches = None;
                // An error means that the node is stopping.
                drop(metered.wait_for(|metered| !metered).await);
            }
            pins.mark_unchanged();
            let mut anew = self.fetch(self.pins_that_fit().await);
            // Begun before the fetches of the last round are cancelled, so that fetches in both
            // rounds continue.
            let _came_meanwhile = anew.begin();
            let fetches = fetches.insert(anew);
            let all_ended = async {
                while fetches.next().await.is_some() {}
                // Failed and cancelled fetches are tried again.
                look.tick().await;
            };
            tokio::select! {
                () = all_ended => {}
                _pins = pins.changed() => {}
                _metered = metered.wait_for(|metered| *metered) => {}
            }
        }
    }

    async fn pins_that_fit(&self) -> Contents {
        let (cache, unfinished) = (self.cache.clone(), self.unfinished_pins());
        let fits = move |(hash, (size_bytes, _)): &(ContentHash, (u64, _))| {
            cache.could_hold(cache.bytes_to_come(hash, *size_bytes))
        };
        // The free space is read from the disk.
        let fitting = spawn_blocking(|| unfinished.into_iter().filter(fits).collect());
        fitting.await.unwrap_or_default()
    }

    /// Returns how many bytes of room the contents need to be here all at once, including their
    /// proofs. An evictable content counts in full. An open content counts with its missing bytes.
    /// A pinned content counts nothing, because it already has its room.
    pub fn room_needed(&self, contents: &Contents) -> u64 {
        let has_room = |hash: &ContentHash| self.shares.holds(hash) || self.is_pinned(hash);
        let others = contents.iter().filter(|(hash, _)| !has_room(hash));
        let needed =
            others.map(|(hash, (size_bytes, _))| self.cache.bytes_to_come(hash, *size_bytes));
        needed.sum()
    }

    /// Returns the pinned contents that are not complete here and that some node can give.
    fn unfinished_pins(&self) -> Contents {
        let (here, view) = (self.here(), self.view());
        let pins = self.cache.pins().into_iter();
        let unfinished = pins.filter(|hash| !here.has(hash));
        unfinished
            .filter_map(|hash| {
                let content = view.contents().get(&hash)?;
                let path = view.contents().names_of(&hash, 1).pop()?;
                Some((hash, (content.size_bytes, path)))
            })
            .collect()
    }
}

/// Returns contents in the form of the cache's pin list, each with one of its names.
pub(super) fn named_pins(contents: &Contents) -> Vec<(ContentHash, Box<[u8]>)> {
    let named = contents.iter();
    named
        .map(|(hash, (_, path))| (*hash, path.as_bytes().into()))
        .collect()
}

pub(super) fn set_all(
    cache: &Cache,
    pins: &[(ContentHash, Box<[u8]>)],
    pinned: bool,
    close_idle: impl Fn(),
) -> Result<(), CacheError> {
    let set = || {
        if pinned {
            cache.pin_all(pins)
        } else {
            cache.unpin_all(&pins.iter().map(|(hash, _)| *hash).collect::<Vec<_>>())
        }
    };
    // On a full disk, closing the idle files makes room for the list.
    set().or_else(|_| {
        close_idle();
        set()
    })
}
