//! Reads the attributes of a directory's own files from the disk.
//!
//! A disk's filesystem takes microseconds for the attributes of a name that it has cached, and many
//! times that for a name that it has evicted. A program that lists a long directory would wait for
//! each of these. While it continues, a thread therefore reads the attributes of the next [`BATCH`]
//! names in advance. No result is used for longer than [`USED_FOR`].

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::traits::{Content, FileVersion, LiveAttributes, LiveLook};
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_types::path::SharedPath;

/// Number of names that one thread examines. With so many, starting the thread costs little in
/// comparison. If the reader stops, little work is wasted: some 20 ms of disk time.
const BATCH: usize = 4096;
/// Number of names whose results are passed to the reader at once. Each wake-up then serves many
/// names, and the results are still fresh.
const GROUP: usize = 256;
/// Number of names at the start of a listing that are examined one by one. A reader that continues
/// after them is expected to read the whole listing.
const ALONE: usize = 256;
/// Maximum age of a result that is used. It is a part of [`super::LISTED_LIVE_LIFETIME`], from
/// which the age is subtracted.
pub(crate) const USED_FOR: Duration = Duration::from_millis(250);
/// Stack of the thread, which makes one system call for each name.
const STACK_BYTES: usize = 256 * 1024;

/// Names in their listed order.
pub(crate) trait InOrder: Send + Sync + 'static {
    /// Returns the number of names.
    fn count(&self) -> usize;
    /// Returns the name at an index, if there is one.
    fn name(&self, place: usize) -> Option<&[u8]>;
    /// Returns the prefetched results. They are `None` while a reader uses them.
    fn ahead(&self) -> &Mutex<Option<LooksAhead>>;
}

/// The attributes of a file and their age. `None` if the file is gone.
pub(crate) type Look = Option<(LiveAttributes, Duration)>;

/// Results that are prefetched for a listing's reader.
#[derive(Default)]
pub(crate) struct LooksAhead {
    batch: Option<LookBatch>,
    next: Option<LookBatch>,
    /// Whether prefetching has ended because less than half of a batch could be used.
    is_useless: bool,
}

/// The names that one thread examines, and the results that it has sent.
struct LookBatch {
    share: ShareIndex,
    directory: SharedPath,
    groups: Receiver<LookGroup>,
    group: LookGroup,
    /// The index after the last name.
    end: usize,
    used: usize,
}

/// Results for consecutive names.
struct LookGroup {
    from: usize,
    begun: Instant,
    looks: Vec<Option<LiveAttributes>>,
}

/// Reads the attributes of the own files of one directory, for one part of its listing.
pub(crate) struct LiveLooks<'a, L: InOrder> {
    content: &'a Arc<dyn Content>,
    listing: &'a Arc<L>,
    alone: Vec<(ShareIndex, Option<LiveLook>)>,
    /// The prefetched results. `None` if another reader of the same listing has them.
    ahead: Option<LooksAhead>,
}

impl<'a, L: InOrder> LiveLooks<'a, L> {
    /// Creates a reader for a part of a listing.
    pub(crate) fn new(content: &'a Arc<dyn Content>, listing: &'a Arc<L>) -> Self {
        Self {
            content,
            listing,
            alone: Vec::new(),
            ahead: listing.ahead().lock().take(),
        }
    }

    /// Returns the attributes of the file at this index of the listing. Returns `None` if it is not
    /// an own file or is gone.
    pub(crate) fn attributes_at(&mut self, at: usize, file: &FileVersion) -> Look {
        if let Some(ahead) = &mut self.ahead
            && let Some(look) = ahead.attributes_at(self.content, self.listing, at, file)
        {
            return look;
        }
        let (share, path) = file.own.as_ref()?;
        let known = self.alone.iter().position(|(known, _)| known == share);
        let at = known.unwrap_or_else(|| {
            let look = path.parent();
            let look = look.and_then(|dir| self.content.live_in(*share, &dir));
            self.alone.push((*share, look));
            self.alone.len() - 1
        });
        let look = match &self.alone[at].1 {
            Some(look) => look(path.file_name()),
            None => self.content.live(file),
        };
        look.map(|look| (look, Duration::ZERO))
    }
}

impl<L: InOrder> Drop for LiveLooks<'_, L> {
    /// Returns the prefetched results to the listing, for its next part.
    fn drop(&mut self) {
        if let Some(ahead) = self.ahead.take() {
            *self.listing.ahead().lock() = Some(ahead);
        }
    }
}

impl LooksAhead {
    /// Returns the prefetched result of the file at this index, if it is available and fresh.
    fn attributes_at(
        &mut self,
        content: &Arc<dyn Content>,
        listing: &Arc<impl InOrder>,
        at: usize,
        file: &FileVersion,
    ) -> Option<Look> {
        let (share, path) = file.own.as_ref()?;
        if self.is_useless || at < ALONE {
            return None;
        }
        if self.batch.as_ref().is_none_or(|batch| at >= batch.end) {
            let last = self.batch.take();
            self.is_useless = last.is_some_and(|last| last.used < BATCH / 2);
            self.batch = self.next.take().filter(|next| at < next.end);
        }
        let batch = match &mut self.batch {
            Some(batch) => batch,
            None if self.is_useless => return None,
            none => none.insert(LookBatch::begin(
                content,
                listing,
                at,
                *share,
                path.parent()?,
            )?),
        };
        let found = batch.take(&**listing, at, *share, path);
        let is_last = batch.group.end() == batch.end && batch.end < listing.count();
        if is_last && self.next.is_none() {
            let directory = batch.directory.clone();
            self.next = LookBatch::begin(content, listing, batch.end, batch.share, directory);
        }
        found
    }
}

impl LookBatch {
    /// Starts a thread for the names from an index on. Returns `None` if no thread can be started.
    fn begin(
        content: &Arc<dyn Content>,
        listing: &Arc<impl InOrder>,
        from: usize,
        share: ShareIndex,
        directory: SharedPath,
    ) -> Option<Self> {
        let end = listing.count().min(from + BATCH);
        let (sender, groups) = channel();
        let (content, listing, dir) = (content.clone(), listing.clone(), directory.clone());
        std::thread::Builder::new()
            .name("look-ahead".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || look_at(&*content, &*listing, share, &dir, from..end, &sender))
            .ok()?;
        Some(Self {
            share,
            directory,
            groups,
            group: LookGroup {
                from,
                begun: Instant::now(),
                looks: Vec::new(),
            },
            end,
            used: 0,
        })
    }

    /// Returns the result of a file, and waits while the thread is working on it.
    fn take(
        &mut self,
        listing: &impl InOrder,
        at: usize,
        share: ShareIndex,
        path: &SharedPath,
    ) -> Option<Look> {
        while at >= self.group.end() {
            self.group = self.groups.recv().ok()?;
        }
        let look = *self.group.looks.get(at.checked_sub(self.group.from)?)?;
        let age = self.group.begun.elapsed();
        let is_it = share == self.share && is_in(path, &self.directory, listing.name(at)?);
        if !is_it || age > USED_FOR {
            return None;
        }
        self.used += 1;
        Some(look.map(|look| (look, age)))
    }
}

impl LookGroup {
    fn end(&self) -> usize {
        self.from + self.looks.len()
    }
}

/// Examines names and sends the results, until the receiver is dropped.
fn look_at(
    content: &dyn Content,
    listing: &impl InOrder,
    share: ShareIndex,
    directory: &SharedPath,
    mut places: Range<usize>,
    to: &Sender<LookGroup>,
) {
    let Some(look) = content.live_in(share, directory) else {
        return;
    };
    while !places.is_empty() {
        let (from, begun) = (places.start, Instant::now());
        let group = places.by_ref().take(GROUP);
        let looks = group.map(|at| look(listing.name(at)?)).collect();
        if to.send(LookGroup { from, begun, looks }).is_err() {
            return;
        }
    }
}

/// Returns whether a path is a given name in a directory.
fn is_in(path: &SharedPath, directory: &SharedPath, name: &[u8]) -> bool {
    let (path, above) = (path.as_bytes(), directory.as_bytes());
    let slash = usize::from(!above.is_empty());
    path.len() == above.len() + slash + name.len()
        && path.starts_with(above)
        && path.ends_with(name)
}
