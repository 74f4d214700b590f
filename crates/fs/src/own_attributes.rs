//! How the own files of a directory look, asked of the disk.
//!
//! A disk's filesystem takes microseconds for a name that it knows, and many times that for one
//! that it has forgotten, which the lister of a long directory would wait for at each. So who goes
//! on in a long directory finds the next names looked at already, by a thread that lives for
//! [`BATCH`] of them. Owns such looks; keeps none for longer than [`USED_FOR`].

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::traits::{Content, FileVersion, LiveAttributes, LiveLook};
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_types::path::SharedPath;

/// Names that one thread looks at: enough that beginning one costs nothing beside it, and few
/// enough that what is looked at for a reader who stops is little: some 20 ms of the disk.
const BATCH: usize = 4096;
/// Names that are handed over at once: far fewer wake-ups than names, and young when they are used.
const GROUP: usize = 256;
/// Names that are looked at one by one, before a reader is believed to want the rest.
const ALONE: usize = 256;
/// How old a look may be that is used; a part of what the kernel may believe it for
/// ([`super::LISTED_LIVE_LIFETIME`]), from which its age is taken.
pub(crate) const USED_FOR: Duration = Duration::from_millis(250);
/// The stack of the thread, which makes a system call a name.
const STACK_BYTES: usize = 256 * 1024;

/// Names in the order in which they are listed.
pub(crate) trait InOrder: Send + Sync + 'static {
    /// How many there are.
    fn count(&self) -> usize;
    /// The name at a place, if there is one.
    fn name(&self, place: usize) -> Option<&[u8]>;
    /// What was looked at ahead of who lists them; nothing while somebody uses it.
    fn ahead(&self) -> &Mutex<Option<LooksAhead>>;
}

/// How a file looked, and how long ago.
pub(crate) type Look = Option<(LiveAttributes, Duration)>;

/// What was looked at ahead of a listing's reader.
#[derive(Default)]
pub(crate) struct LooksAhead {
    batch: Option<Batch>,
    next: Option<Batch>,
    /// Few of the names that were looked at could be used: no more of this.
    is_useless: bool,
}

/// The names that a thread looks at, as it hands them over.
struct Batch {
    share: ShareIndex,
    directory: SharedPath,
    groups: Receiver<Group>,
    group: Group,
    /// The place after the last.
    end: usize,
    used: usize,
}

/// Looks at the names from a place on.
struct Group {
    from: usize,
    begun: Instant,
    looks: Vec<Option<LiveAttributes>>,
}

/// Looks at the own files of one directory, for one part of its listing.
pub(crate) struct LiveLooks<'a, L: InOrder> {
    content: &'a Arc<dyn Content>,
    listing: &'a Arc<L>,
    alone: Vec<(ShareIndex, Option<LiveLook>)>,
    /// Nothing where another reader of the same listing has it.
    ahead: Option<LooksAhead>,
}

impl<'a, L: InOrder> LiveLooks<'a, L> {
    /// For who goes on in a listing.
    pub(crate) fn new(content: &'a Arc<dyn Content>, listing: &'a Arc<L>) -> Self {
        Self {
            content,
            listing,
            alone: Vec::new(),
            ahead: listing.ahead().lock().take(),
        }
    }

    /// How the file at this place of the listing looks; nothing for one that is not own, or is
    /// gone.
    pub(crate) fn look(&mut self, at: usize, file: &FileVersion) -> Look {
        if let Some(ahead) = &mut self.ahead
            && let Some(look) = ahead.look(self.content, self.listing, at, file)
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
    /// Leaves what was looked at ahead to the next part.
    fn drop(&mut self) {
        if let Some(ahead) = self.ahead.take() {
            *self.listing.ahead().lock() = Some(ahead);
        }
    }
}

impl LooksAhead {
    /// What was seen of the file at this place, where its look is there and young.
    fn look(
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
            none => none.insert(Batch::begin(content, listing, at, *share, path.parent()?)?),
        };
        let found = batch.take(&**listing, at, *share, path);
        let is_last = batch.group.end() == batch.end && batch.end < listing.count();
        if is_last && self.next.is_none() {
            let directory = batch.directory.clone();
            self.next = Batch::begin(content, listing, batch.end, batch.share, directory);
        }
        found
    }
}

impl Batch {
    /// Looks at the names from a place on; nothing where there is no thread for it.
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
            group: Group {
                from,
                begun: Instant::now(),
                looks: Vec::new(),
            },
            end,
            used: 0,
        })
    }

    /// The look at a file, which is waited for where the thread is at it.
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

impl Group {
    fn end(&self) -> usize {
        self.from + self.looks.len()
    }
}

/// Looks at names and hands the looks over, until nobody wants them.
fn look_at(
    content: &dyn Content,
    listing: &impl InOrder,
    share: ShareIndex,
    directory: &SharedPath,
    mut places: Range<usize>,
    to: &Sender<Group>,
) {
    let Some(look) = content.live_in(share, directory) else {
        return;
    };
    while !places.is_empty() {
        let (from, begun) = (places.start, Instant::now());
        let group = places.by_ref().take(GROUP);
        let looks = group.map(|at| look(listing.name(at)?)).collect();
        if to.send(Group { from, begun, looks }).is_err() {
            return;
        }
    }
}

/// Whether a path is that of a name in a directory.
fn is_in(path: &SharedPath, directory: &SharedPath, name: &[u8]) -> bool {
    let (path, above) = (path.as_bytes(), directory.as_bytes());
    let slash = usize::from(!above.is_empty());
    path.len() == above.len() + slash + name.len()
        && path.starts_with(above)
        && path.ends_with(name)
}
