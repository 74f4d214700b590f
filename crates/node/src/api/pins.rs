//! The pinned contents: the node fetches them, and its cache does not evict them. [`NodePins`]
//! changes and lists the pins.

use std::io;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use super::contents::Contents;
use super::{FileAccess, FileError, NodeCache, Prefetch};
use p2pfs_content::ContentStore;
use p2pfs_content::cache::{Cache, CacheError, CachedFile, Lack, Room, cost_bytes};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::path::SharedPath;

/// Interval between retries of unfinished pins. In the meantime a holder may have returned, or
/// space may have become free.
const PINS_LOOK_PERIOD: Duration = Duration::from_secs(5);

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

/// The pins of a node. [`Node::pins`](crate::Node::pins) returns it. Clones share their state.
#[derive(Clone)]
pub struct NodePins {
    pub(crate) store: ContentStore,
    pub(crate) cache: NodeCache,
    pub(crate) files: FileAccess,
    /// Notifies [`NodePins::maintain`] of each change of the pins.
    pub(crate) changed: watch::Sender<()>,
}

impl NodePins {
    /// Pins the current contents of a file, or of all files beneath a directory. Pinned contents
    /// are not evicted, even if their names are removed or get other contents. The returned
    /// [`Prefetch`] fetches the contents.
    ///
    /// # Errors
    /// As [`FileAccess::prefetch`], and [`FileError::NoRoom`] and [`FileError::NotKept`]. Then no
    /// pin was changed. However, after [`FileError::NotKept`] a restart may find the contents
    /// pinned.
    pub async fn pin(&self, path: &SharedPath) -> Result<Prefetch, FileError> {
        let contents = self.files.names.contents_of(path)?;
        self.set_pins(path, &contents, true).await?;
        Ok(self.files.fetch(contents))
    }

    /// Unpins the contents of a path that [`NodePins::at`] returns.
    ///
    /// # Errors
    /// As [`NodePins::at`], and [`FileError::NotKept`].
    pub async fn unpin(&self, path: &SharedPath) -> Result<(), FileError> {
        let contents = self.at(path)?;
        self.set_pins(path, &contents, false).await
    }

    async fn set_pins(
        &self,
        path: &SharedPath,
        contents: &Contents,
        pinned: bool,
    ) -> Result<(), FileError> {
        let (cache, lack_of_room) = (self.store.cache().clone(), self.cache.room());
        let close_idle = self.cache.idle_closer();
        let pins = named_pins(contents);
        let bytes = self.cache.room_needed(contents);
        let own = path.clone();
        let told = self.changed.clone();
        let changed = spawn_blocking(move || {
            if pinned && lack_of_room(bytes).is_some() {
                return Err(FileError::NoRoom { path: own, bytes });
            }
            let changed = set_all(&cache, &pins, pinned, close_idle);
            told.send_replace(());
            changed.map_err(|source| FileError::NotKept { path: own, source })
        });
        // After a panic or the end of the runtime, it is unknown which contents are pinned.
        changed.await.unwrap_or_else(|died| {
            let source = CacheError::Io {
                action: "change the pins in",
                path: self.store.cache().dir().to_owned(),
                source: io::Error::other(died),
            };
            let path = path.clone();
            Err(FileError::NotKept { path, source })
        })
    }

    /// Pins contents as far as the budget and the disk allow, or unpins contents. A content that
    /// fails does not affect the others. Returns the changed contents and the failed ones. Blocks
    /// on the disk.
    pub fn set_contents(&self, contents: Contents, pinned: bool) -> (Contents, Vec<NotPinned>) {
        let changed = self.set_each(contents, pinned, named_pins);
        self.changed.send_replace(());
        changed
    }

    /// Pins contents for [`NodeKeeper`](super::NodeKeeper), or ends such pins, as
    /// [`Self::set_contents`] does. Returns the failed ones. Blocks on the disk.
    pub(super) fn set_kept(&self, contents: Contents, pinned: bool) -> Vec<NotPinned> {
        let (_, failed) = self.set_each(contents, pinned, keeper_pins);
        self.changed.send_replace(());
        failed
    }

    /// Returns the contents that are pinned for [`NodeKeeper`](super::NodeKeeper).
    pub(super) fn kept(&self) -> Contents {
        let pins = self.store.cache().labelled_pins().into_iter();
        let kept = pins.filter(|(_, label)| label.starts_with(KEEPER_LABEL));
        let named = kept.map(|(hash, label)| (hash, name_of_label(&label)));
        self.sized(named)
    }

    fn set_each(
        &self,
        contents: Contents,
        pinned: bool,
        labelled: fn(&Contents) -> Vec<LabelledPin>,
    ) -> (Contents, Vec<NotPinned>) {
        let (fitting, mut failed) = if pinned {
            self.fitting(contents)
        } else {
            (contents, Vec::new())
        };
        let close_idle = self.cache.idle_closer();
        // In the usual case, the list of pins is written once for all contents.
        if set_all(self.store.cache(), &labelled(&fitting), pinned, &close_idle).is_ok() {
            return (fitting, failed);
        }
        let mut changed = Contents::new();
        for (hash, (size_bytes, path)) in fitting {
            let one = Contents::from([(hash, (size_bytes, path.clone()))]);
            match set_all(self.store.cache(), &labelled(&one), pinned, &close_idle) {
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

    /// Splits contents into those that fit into the cache together and those that do not. Each
    /// content in turn gets room if enough is left.
    fn fitting(&self, contents: Contents) -> (Contents, Vec<NotPinned>) {
        let mut room = Room::for_pins(self.store.cache());
        room.take(self.cache.pins_to_begin_bytes());
        let (mut fitting, mut failed) = (Contents::new(), Vec::new());
        for (hash, (size_bytes, path)) in contents {
            // The room of a pinned content is subtracted already, and an own file needs none.
            let needs_none = self.is_pinned(&hash) || self.store.shares().holds(&hash);
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

    /// Returns whether a content is pinned.
    pub fn is_pinned(&self, hash: &ContentHash) -> bool {
        self.store.cache().is_pinned(hash)
    }

    /// Returns the pinned contents that are not complete on this node and that a live node has.
    /// Their last use is set to the Unix epoch.
    pub fn to_come(&self) -> Vec<CachedFile> {
        let to_come = self.cache.unfinished_pins().into_iter();
        let none_yet = to_come.map(|(hash, (size_bytes, _))| CachedFile {
            hash,
            size_bytes,
            cached_bytes: self.store.cache().cached_bytes(&hash),
            complete: false,
            pinned: true,
            open: false,
            last_use: SystemTime::UNIX_EPOCH,
        });
        none_yet.collect()
    }

    /// Returns the pinned contents that are listed at or beneath a path now, and those that were
    /// pinned by a name at or beneath it. For the root of the namespace, returns all pinned
    /// contents.
    ///
    /// # Errors
    /// As [`NameLookup::contents_of`](super::NameLookup::contents_of). If a content was pinned by a
    /// name at or beneath the path, a path that is not listed is not an error.
    pub fn at(&self, path: &SharedPath) -> Result<Contents, FileError> {
        let once = self.filtered(|_, name| {
            name.is_some_and(|name| name == path || name.is_beneath(path)) || path.is_root()
        });
        if path.is_root() {
            return Ok(once);
        }
        let now = match self.files.names.contents_of(path) {
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
    pub fn with_hash(&self, hash_start: &str) -> Contents {
        self.filtered(|hash, _| hash.to_string().starts_with(hash_start))
    }

    /// Returns the name by which a content was pinned, if it was pinned by a name.
    pub fn name_of(&self, hash: &ContentHash) -> Option<SharedPath> {
        let name = name_of_label(&self.store.cache().pin_label(hash)?);
        name.filter(|path| !path.is_root())
    }

    fn filtered(&self, is_meant: impl Fn(&ContentHash, Option<&SharedPath>) -> bool) -> Contents {
        let pins = self.store.cache().labelled_pins().into_iter();
        let named = pins.map(|(hash, label)| (hash, name_of_label(&label)));
        self.sized(named.filter(|(hash, name)| is_meant(hash, name.as_ref())))
    }

    fn sized(&self, pins: impl Iterator<Item = (ContentHash, Option<SharedPath>)>) -> Contents {
        // The size of a content is unknown if no live node has it and the cache has no byte of it.
        // Such a content counts with 0 bytes.
        let view = self.cache.view.load();
        let sized = |hash: &ContentHash| {
            let listed = view.contents().get(hash).map(|content| content.size_bytes);
            let known = listed.or_else(|| self.store.cache().size_bytes(hash));
            known.unwrap_or_default()
        };
        pins.map(|(hash, name)| (hash, (sized(&hash), name.unwrap_or_else(SharedPath::root))))
            .collect()
    }

    /// Returns the cached bytes of all pinned contents, plus the missing bytes of
    /// [`Self::to_come`].
    pub fn bytes(&self) -> u64 {
        let to_come_bytes = self.bytes_to_come();
        self.store
            .cache()
            .usage()
            .pinned_bytes
            .saturating_add(to_come_bytes)
    }

    /// Returns how many bytes of the budget all pinned contents take once they are complete. Omits
    /// a content without an entry in the cache if it is in a share of this node or no live node has
    /// it.
    pub fn cost_bytes(&self) -> u64 {
        self.store
            .cache()
            .usage()
            .pinned_cost_bytes
            .saturating_add(self.cache.pins_to_begin_bytes())
    }

    fn bytes_to_come(&self) -> u64 {
        let missing = |(hash, (size_bytes, _)): (_, &(u64, _))| {
            size_bytes.saturating_sub(self.store.cache().cached_bytes(hash))
        };
        self.cache.unfinished_pins().iter().map(missing).sum()
    }

    /// Fetches the pinned contents that are not complete and fit into the cache, for as long as
    /// this future is polled. Retries contents whose fetch failed, for example because no holder
    /// was live. Cancels the fetch of a content that is unpinned. Pauses all of these fetches while
    /// the network is metered.
    pub async fn maintain(&self) {
        let mut look = interval(PINS_LOOK_PERIOD);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut metered = self.files.fetcher.metered();
        let mut pins = self.changed.subscribe();
        let mut fetches = None;
        loop {
            if self.files.fetcher.is_metered() {
                fetches = None;
                // An error means that the node is stopping.
                drop(metered.wait_for(|metered| !metered).await);
            }
            pins.mark_unchanged();
            let mut anew = self.files.fetch(self.pins_that_fit().await);
            // The fetches of this round begin before `insert` cancels those of the last round, so
            // that a fetch in both rounds continues.
            let _came_meanwhile = anew.begin();
            let fetches = fetches.insert(anew);
            let all_ended = async {
                while fetches.next().await.is_some() {}
                // The next round retries failed and cancelled fetches.
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
        let (cache, unfinished) = (self.store.cache().clone(), self.cache.unfinished_pins());
        let fits = move |(hash, (size_bytes, _)): &(ContentHash, (u64, _))| {
            // The missing bytes are measured first. Bytes that are stored before the room is
            // measured then count twice. In the other order they would not count at all, and a pin
            // could seem to fit too early.
            let to_come_bytes = cache.bytes_to_come(hash, *size_bytes);
            Room::for_reservation(&cache).holds(to_come_bytes)
        };
        // The free space is read from the disk.
        let fitting = spawn_blocking(|| unfinished.into_iter().filter(fits).collect());
        fitting.await.unwrap_or_default()
    }
}

/// A content in the cache's list of pins, with its label.
type LabelledPin = (ContentHash, Box<[u8]>);

/// Begin of the label of a pin for [`NodeKeeper`](super::NodeKeeper). No shared path begins so.
const KEEPER_LABEL: &[u8] = b"/";

/// Returns the contents as entries of the cache's list of pins, each with one of its names as
/// label.
fn named_pins(contents: &Contents) -> Vec<LabelledPin> {
    let named = contents.iter();
    named
        .map(|(hash, (_, path))| (*hash, path.as_bytes().into()))
        .collect()
}

/// Returns the contents as entries of the list of pins that stand for
/// [`NodeKeeper`](super::NodeKeeper).
fn keeper_pins(contents: &Contents) -> Vec<LabelledPin> {
    let label = |path: &SharedPath| [KEEPER_LABEL, path.as_bytes()].concat();
    let named = contents.iter();
    named
        .map(|(hash, (_, path))| (*hash, label(path).into()))
        .collect()
}

/// Returns the name in a label.
fn name_of_label(label: &[u8]) -> Option<SharedPath> {
    let name = label.strip_prefix(KEEPER_LABEL).unwrap_or(label);
    SharedPath::new(name).ok()
}

fn set_all(
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
    // On a full disk, closing the files without a reader may make room for the list of pins.
    set().or_else(|_| {
        close_idle();
        set()
    })
}
