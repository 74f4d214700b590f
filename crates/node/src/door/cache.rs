//! What is here of the others' files: looked at, checked, made smaller, and kept.
//!
//! Owns the answer to "is it here", for names, fetches and pins alike; it is given from memory.

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

/// How soon a pinned file goes on after its holder came back, or there is room again. Looking
/// costs one walk over the pins, in memory.
const PINS_LOOK_PERIOD: Duration = Duration::from_secs(5);

/// What of a content can be read without another node. Clones are the same.
#[derive(Clone)]
pub(super) struct Here {
    cache: Cache,
    shares: ShareSet,
}

impl Here {
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

/// A content that was not pinned, or not unpinned.
#[derive(Debug)]
pub struct NotPinned {
    /// One of the names that it has.
    pub path: SharedPath,
    pub size_bytes: u64,
    pub why: WhyNotPinned,
}

/// Why it was not.
#[derive(Debug)]
pub enum WhyNotPinned {
    /// The cache cannot keep it beside what it keeps already.
    Lack(Lack),
    /// What the cache says.
    Cache(CacheError),
}

impl Node {
    pub(super) fn here(&self) -> Here {
        Here {
            cache: self.cache.clone(),
            shares: self.shares.clone(),
        }
    }

    /// How many of a content's bytes can be read here without another node.
    pub fn here_bytes(&self, hash: &ContentHash, size_bytes: u64) -> u64 {
        self.here().bytes(hash, size_bytes)
    }

    /// What the cache takes and may take.
    pub fn cache_usage(&self) -> CacheUsage {
        self.cache.usage()
    }

    /// Every content that the cache has something of, the least recently used first. What was kept
    /// open for the next reader is closed. Waits for the disk.
    pub fn cached(&self) -> Vec<CachedFile> {
        self.idle_closer()();
        self.cache.list()
    }

    /// What is pinned, not whole here and can be given by somebody, each as if it was last used
    /// when time began.
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

    /// Whether a content is kept.
    pub fn is_pinned(&self, hash: &ContentHash) -> bool {
        self.cache.is_pinned(hash)
    }

    /// Whether the cache could hold so many bytes more, were all evicted that may be. Not a
    /// promise. Waits for the disk.
    pub fn has_room_for(&self, bytes: u64) -> bool {
        self.lack_of_room(bytes).is_none()
    }

    /// Why the cache could not hold so many bytes more, as [`Node::room_needed`] counts them, were
    /// all evicted that may be, beside all that is pinned; none where it could. Waits for the disk.
    pub fn lack_of_room(&self, bytes: u64) -> Option<Lack> {
        self.room()(bytes)
    }

    /// The same, to be asked on a thread that may wait.
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
                // what nobody reads any more holds no room for long, so not now either
                close_idle();
                lack(bytes)
            })
        }
    }

    /// Closes what is kept open for the next reader, on a thread that may wait for the disk.
    pub(super) fn idle_closer(&self) -> impl Fn() + Send + 'static {
        let (fetcher, content) = (self.running.fetcher.clone(), self.content.clone());
        move || {
            fetcher.close_idle();
            content.close_idle();
        }
    }

    /// Removes what is neither pinned nor open. Waits for the disk.
    pub fn clear_cache(&self) -> Cleared {
        self.idle_closer()();
        self.cache.clear()
    }

    /// Gives the cache another budget, in bytes, and evicts what is too much where that may be.
    /// Waits for the disk.
    pub fn resize_cache(&self, budget_bytes: u64) -> CacheUsage {
        self.idle_closer()();
        self.cache.resize(budget_bytes)
    }

    /// Writes down what the cache has, for the next start: what is not changed after it needs no
    /// check then. Waits for the disk.
    pub fn flush_cache(&self) {
        self.cache.flush_at_end();
    }

    /// Reads and checks every cached byte and drops what is damaged. `progress` is called about
    /// once a MiB, and ends the work by breaking. Waits for the disk.
    pub fn verify_cache(
        &self,
        progress: impl FnMut(&VerifyProgress) -> ControlFlow<()>,
    ) -> VerifyProgress {
        self.cache.verify(progress)
    }

    /// Keeps contents, or keeps them no longer: each by itself, as far as the budget and the disk
    /// go. Gives those of which it is so now, and the others. Waits for the disk.
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
        // the list is written once, not once a content
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

    /// Those of the contents that can be kept all at once, taken in their order, and the others.
    fn fitting(&self, contents: Contents) -> (Contents, Vec<NotPinned>) {
        let mut room = self.cache.room_to_stay();
        room.take(self.pins_to_begin_bytes());
        let (mut fitting, mut failed) = (Contents::new(), Vec::new());
        for (hash, (size_bytes, path)) in contents {
            // what is pinned has its room, and an own file needs none
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

    /// What the pinned contents cost of which nothing is here yet, and which somebody can give.
    fn pins_to_begin_bytes(&self) -> u64 {
        let mut unfinished = self.unfinished_pins();
        unfinished.retain(|hash, _| !self.cache.has_begun(hash));
        unfinished
            .values()
            .map(|(size_bytes, _)| cost_bytes(*size_bytes))
            .sum()
    }

    /// What is kept of a path: the pinned ones of the contents that are listed there, and those
    /// that were pinned by a name there and are listed under it no more.
    ///
    /// # Errors
    /// As [`Node::contents_of`], where nothing is kept of it either.
    pub fn kept_of(&self, path: &SharedPath) -> Result<Contents, FileError> {
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

    /// What is pinned and has a hash that begins so, in hexadecimal.
    pub fn kept_with(&self, hash_start: &str) -> Contents {
        self.pinned_where(|hash, _| hash.to_string().starts_with(hash_start))
    }

    /// The name that a content was pinned by.
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
        // of what nobody lists and nothing is here no size is known
        let view = self.view();
        let sized = |hash: &ContentHash| {
            let listed = view.by_hash(hash).map(|content| content.size_bytes);
            let known = listed.or_else(|| self.cache.size_bytes(hash));
            known.unwrap_or_default()
        };
        meant
            .map(|(hash, name)| (hash, (sized(&hash), name.unwrap_or_else(SharedPath::root))))
            .collect()
    }

    /// The bytes of all that is pinned, those that are still to come included.
    pub fn pinned_bytes(&self) -> u64 {
        let to_come_bytes = self.pinned_bytes_to_come();
        self.cache
            .usage()
            .pinned_bytes
            .saturating_add(to_come_bytes)
    }

    /// What all that is pinned takes of the budget once it is whole, in bytes.
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

    /// Fetches what is pinned and not whole yet, for as long as it is polled: a pin outlives the
    /// process, its holders and a cache that was too small. What is pinned no more is fetched no
    /// further, and while the network is metered all of it waits.
    pub async fn keep_pins(&self) {
        let mut look = interval(PINS_LOOK_PERIOD);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut metered = self.running.fetcher.metered();
        let mut pins = self.pins.subscribe();
        let mut fetches = None;
        loop {
            if self.is_metered() {
                fetches = None;
                // an error would be the node's end
                drop(metered.wait_for(|metered| !metered).await);
            }
            pins.mark_unchanged();
            let mut anew = self.fetch(self.pins_that_fit().await);
            // begun before those of the last round are cancelled: what both have goes on
            let _came_meanwhile = anew.begin();
            let fetches = fetches.insert(anew);
            let all_ended = async {
                while fetches.next().await.is_some() {}
                // what failed, or was cut short, is looked at again
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
        // how much is free is asked of the disk
        let fitting = spawn_blocking(|| unfinished.into_iter().filter(fits).collect());
        fitting.await.unwrap_or_default()
    }

    /// How much room contents need that are to be here all at once, their proofs included: all of
    /// those that could be evicted, what is missing of those that are open, and nothing of those
    /// that are pinned, which have their room.
    pub fn room_needed(&self, contents: &Contents) -> u64 {
        let has_room = |hash: &ContentHash| self.shares.holds(hash) || self.is_pinned(hash);
        let others = contents.iter().filter(|(hash, _)| !has_room(hash));
        let needed =
            others.map(|(hash, (size_bytes, _))| self.cache.bytes_to_come(hash, *size_bytes));
        needed.sum()
    }

    /// The pinned contents that are not whole here and that somebody can give.
    fn unfinished_pins(&self) -> Contents {
        let (here, view) = (self.here(), self.view());
        let pins = self.cache.pins().into_iter();
        let unfinished = pins.filter(|hash| !here.has(hash));
        unfinished
            .filter_map(|hash| {
                let content = view.by_hash(&hash)?;
                let path = view.names_of(&hash, 1).pop()?;
                Some((hash, (content.size_bytes, path)))
            })
            .collect()
    }
}

/// Contents as the cache keeps them, each under one of its names.
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
    // on a full disk what is kept open for the next reader makes room for the list
    set().or_else(|_| {
        close_idle();
        set()
    })
}
