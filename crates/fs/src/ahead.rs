//! Predicts the small files that a program will open next. Most programs read a directory in its
//! listed order, or by name, or by inode number.
//!
//! The state machine is pure: it receives every open and returns the files to request. If a program
//! opens three files in a row in one of these orders, it is expected to continue. Each requested
//! file that it opens raises the number of files requested ahead by one. Each file that it skips
//! halves that number. A program that stops reading in order therefore soon causes no more
//! requests. The detected order also applies to the next directories of the same program. Once the
//! program has moved from one directory to the next, the following directory is requested before
//! the program reaches it.

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::order::{FileOrders, ORDERS, SortKey};

/// Number of times in a row that a program must have opened the next file in one order before files
/// are requested ahead.
const RUN_MIN: usize = 2;
/// Initial number of files requested ahead. Each requested file that the program opens adds one.
const WINDOW_START: usize = 4;
/// Maximum files of one program that are requested and not opened yet.
pub const WINDOW_MAX_FILES: usize = 256;
/// Maximum bytes of the files of one program that are requested and not opened yet: twice the
/// amount that 20 ms at 100 MB/s transfer.
pub const WINDOW_MAX_BYTES: u64 = 4 << 20;
/// Maximum programs that are tracked. The one with the oldest open is forgotten.
const PROGRAMS_MAX: NonZeroUsize = NonZeroUsize::new(8).unwrap();
/// A requested file counts as skipped once the program opens a file more than this many positions
/// after it. The threads of a program open files slightly out of order.
const SLACK_FILES: usize = 8;
/// How long the order of a directory stays valid. The next open after that drops the state of the
/// directory.
const ORDER_LIFETIME: Duration = Duration::from_secs(30);
/// Maximum directories of one program that are tracked. A full window then covers directories with
/// two files each.
const DIRECTORIES_MAX: usize = 128;
/// Maximum files in the tracked directories of one program, so that their names take a few
/// megabytes at most.
const KNOWN_FILES_MAX: usize = 32_768;

/// Files to request after an open or a listing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Prediction<D, T> {
    /// The files to request, in this order.
    pub ask: Vec<T>,
    /// The information needed to request more.
    pub needs: Option<Needs<D>>,
}

/// Information that the state machine needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Needs<D> {
    /// The order of a directory: see [`OpenPredictor::listed`].
    Order(D),
    /// The directory after this one: see [`OpenPredictor::comes_next`].
    After(D, SortKey),
}

/// State of the programs that read. `D` identifies a directory, `T` a file to request.
pub(super) struct OpenPredictor<D, T> {
    programs: LruCache<u32, TrackedProgram<D, T>>,
}

struct TrackedProgram<D, T> {
    /// The tracked directories, the latest last.
    directories: VecDeque<TrackedDirectory<D, T>>,
    window: usize,
    /// The detected order, if there is one.
    by: Option<SortKey>,
    /// Whether the program went on to a second directory. Only then are files of a following
    /// directory requested before the program reaches it.
    goes_on: bool,
    /// The directory of the next files to request.
    asking: Option<D>,
}

struct TrackedDirectory<D, T> {
    name: D,
    order: Option<Arc<FileOrders<T>>>,
    listed_at: Option<Instant>,
    /// Names that were opened before the order was known.
    opened: Vec<Box<[u8]>>,
    /// The position of the last open in each order.
    last: Option<[usize; ORDERS]>,
    /// The number of consecutive neighbours in each order.
    runs: [usize; ORDERS],
    /// The position of the next file to request, in the detected order.
    next: usize,
    /// Positions of files that were requested and not opened yet.
    unread: BTreeSet<usize>,
    /// The bytes of these files.
    unread_bytes: u64,
}

impl<D, T> Prediction<D, T> {
    const NOTHING: Self = Self {
        ask: Vec::new(),
        needs: None,
    };

    fn needs(needs: Needs<D>) -> Self {
        let (ask, needs) = (Vec::new(), Some(needs));
        Self { ask, needs }
    }
}

impl<D: Clone + PartialEq, T: Clone> OpenPredictor<D, T> {
    pub(crate) fn new() -> Self {
        Self {
            programs: LruCache::new(PROGRAMS_MAX),
        }
    }

    /// Records that a program opened a file in a directory.
    pub(crate) fn opened(
        &mut self,
        now: Instant,
        program: u32,
        dir: &D,
        name: &[u8],
    ) -> Prediction<D, T> {
        let program = self
            .programs
            .get_or_insert_mut(program, TrackedProgram::new);
        let knows = program.by.is_some();
        let here = program.directory(dir);
        if here.listed_at.is_some_and(|at| at + ORDER_LIFETIME < now) {
            *here = TrackedDirectory::new(dir.clone());
        }
        if here.order.is_none() {
            here.opened.push(name.into());
            let is_of_use = knows || here.opened.len() > RUN_MIN;
            program.bound();
            return if is_of_use {
                Prediction::needs(Needs::Order(dir.clone()))
            } else {
                Prediction::NOTHING
            };
        }
        program.step(name);
        program.ask()
    }

    /// Records that a program lists a directory. A program with a detected order is expected to
    /// open the first files of the directory.
    pub(crate) fn lists(&mut self, program: u32, dir: &D) -> Prediction<D, T> {
        match self.programs.get_mut(&program) {
            Some(program) if program.by.is_some() && !program.knows(dir) => {
                Prediction::needs(Needs::Order(dir.clone()))
            }
            _ => Prediction::NOTHING,
        }
    }

    /// Sets the order of a directory, as requested by [`Needs::Order`].
    pub(crate) fn listed(
        &mut self,
        now: Instant,
        program: u32,
        dir: &D,
        order: Arc<FileOrders<T>>,
    ) -> Prediction<D, T> {
        let Some(program) = self.programs.get_mut(&program) else {
            return Prediction::NOTHING;
        };
        let here = program.directory(dir);
        (here.order, here.listed_at) = (Some(order), Some(now));
        let opened = std::mem::take(&mut here.opened);
        program.asking = Some(dir.clone());
        opened.iter().for_each(|name| program.step(name));
        program.bound();
        program.ask()
    }

    /// Sets the directory to continue with, as requested by [`Needs::After`]. `order` is called if
    /// the order of `dir` is not known yet.
    pub(crate) fn comes_next(
        &mut self,
        now: Instant,
        program: u32,
        dir: &D,
        order: impl FnOnce() -> Arc<FileOrders<T>>,
    ) -> Prediction<D, T> {
        let Some(program) = self.programs.get_mut(&program) else {
            return Prediction::NOTHING;
        };
        program.asking = Some(dir.clone());
        if !program.knows(dir) {
            let mut next = TrackedDirectory::new(dir.clone());
            (next.order, next.listed_at) = (Some(order()), Some(now));
            // The program itself has not moved, so this directory is not the latest.
            program.directories.push_front(next);
            program.bound();
        }
        program.ask()
    }
}

impl<D: Clone + PartialEq, T: Clone> TrackedProgram<D, T> {
    fn new() -> Self {
        Self {
            directories: VecDeque::new(),
            window: 0,
            by: None,
            goes_on: false,
            asking: None,
        }
    }

    fn knows(&self, dir: &D) -> bool {
        self.directories.iter().any(|it| it.name == *dir)
    }

    /// Makes a directory the latest one and returns it.
    fn directory(&mut self, name: &D) -> &mut TrackedDirectory<D, T> {
        let known = self.directories.iter().position(|it| it.name == *name);
        let here = known.and_then(|at| self.directories.remove(at));
        let here = here.unwrap_or_else(|| TrackedDirectory::new(name.clone()));
        self.directories.push_back(here);
        self.directories.back_mut().expect("one was pushed")
    }

    /// Forgets directories beyond the limits, first those without an open and then those with the
    /// oldest open. Each forgotten directory with requested files that were not opened halves the
    /// window.
    fn bound(&mut self) {
        let files = |it: &TrackedDirectory<D, T>| it.order.as_ref().map_or(0, |order| order.len());
        let mut known: usize = self.directories.iter().map(files).sum();
        while self.directories.len() > DIRECTORIES_MAX || known > KNOWN_FILES_MAX {
            let asking = self.asking.as_ref();
            let left = self
                .directories
                .iter()
                .position(|it| Some(&it.name) != asking);
            let Some(gone) = left.and_then(|at| self.directories.remove(at)) else {
                return;
            };
            known -= files(&gone);
            if !gone.unread.is_empty() {
                self.window /= 2;
            }
        }
    }

    /// Records one more open in the latest directory.
    fn step(&mut self, name: &[u8]) {
        let elsewhere = self.unread() > 0;
        let Some(here) = self.directories.back_mut() else {
            return;
        };
        let Some(places) = here.order.as_ref().and_then(|it| it.places(name)) else {
            return;
        };
        let is_first = here.last.is_none();
        here.run(places);
        match self.by {
            Some(by) if here.unread.contains(&places[by as usize]) => {
                let left_out = here.read(by, places[by as usize]);
                self.goes_on |= is_first;
                self.window = (self.window + 1).min(WINDOW_MAX_FILES);
                (0..left_out).for_each(|_| self.window /= 2);
            }
            // The program moved to another directory than expected.
            Some(_) if is_first && self.goes_on && elsewhere => {
                self.window /= 2;
                self.goes_on = false;
            }
            Some(_) if is_first => self.goes_on = true,
            // The file is next in order, but was not requested: it is too large, or the program
            // opened it before the request.
            Some(by) if here.runs[by as usize] > 0 => {}
            Some(_) => self.window /= 2,
            None => {}
        }
        if self.window == 0 {
            self.take_up();
        }
    }

    /// Detects the order of the program from its consecutive neighbours.
    fn take_up(&mut self) {
        let Some(here) = self.directories.back_mut() else {
            return;
        };
        let shown = |by: &SortKey| here.runs[*by as usize] >= RUN_MIN;
        self.by = SortKey::ALL.into_iter().find(shown);
        self.goes_on = false;
        if self.by.is_some() {
            self.window = WINDOW_START;
        }
    }

    fn unread(&self) -> usize {
        self.directories.iter().map(|it| it.unread.len()).sum()
    }

    /// Returns the files to request now. Returns none while the files that are requested and not
    /// opened fill more than half of the window, or of [`WINDOW_MAX_BYTES`]. Files are therefore
    /// requested in batches.
    fn ask(&mut self) -> Prediction<D, T> {
        let unread = self.unread();
        let unread_bytes: u64 = self.directories.iter().map(|it| it.unread_bytes).sum();
        let (Some(by), Some(asking)) = (self.by, self.asking.clone()) else {
            return Prediction::NOTHING;
        };
        if unread > self.window / 2 || unread_bytes > WINDOW_MAX_BYTES / 2 {
            return Prediction::NOTHING;
        }
        let mut dirs = self.directories.iter_mut();
        let Some(dir) = dirs.find(|it| it.name == asking) else {
            return Prediction::NOTHING;
        };
        let room = self.window - unread;
        let ask = dir.ask(by, room, WINDOW_MAX_BYTES - unread_bytes);
        let is_through = dir.is_through() && ask.len() < room && self.goes_on;
        let needs = is_through.then_some(Needs::After(asking, by));
        Prediction { ask, needs }
    }
}

impl<D, T: Clone> TrackedDirectory<D, T> {
    fn new(name: D) -> Self {
        Self {
            name,
            order: None,
            listed_at: None,
            opened: Vec::new(),
            last: None,
            runs: [0; ORDERS],
            next: 0,
            unread: BTreeSet::new(),
            unread_bytes: 0,
        }
    }

    /// Counts consecutive neighbours in each order.
    fn run(&mut self, places: [usize; ORDERS]) {
        if let Some(last) = self.last {
            for (run, (last, place)) in self.runs.iter_mut().zip(last.into_iter().zip(places)) {
                if place == last + 1 {
                    *run += 1;
                } else if place != last {
                    // If the program opens the same file again, for example after it has examined
                    // the file, the run continues.
                    *run = 0;
                }
            }
        }
        self.last = Some(places);
    }

    /// Records that a requested file was opened. Returns how many requested files count as skipped,
    /// because they are more than [`SLACK_FILES`] positions before it.
    fn read(&mut self, by: SortKey, place: usize) -> usize {
        let before = ..place.saturating_sub(SLACK_FILES);
        let left_out: Vec<usize> = self.unread.range(before).copied().collect();
        for place in left_out.iter().chain([&place]) {
            self.forget(by, *place);
        }
        left_out.len()
    }

    fn forget(&mut self, by: SortKey, place: usize) {
        if self.unread.remove(&place) {
            let file = self.order.as_ref().and_then(|it| it.at(by, place));
            let bytes = file.map_or(0, |file| file.size_bytes);
            self.unread_bytes = self.unread_bytes.saturating_sub(bytes);
        }
    }

    fn is_through(&self) -> bool {
        self.order.as_ref().is_none_or(|it| self.next >= it.len())
    }

    /// Returns the next files to request, at most `files_max` files and `bytes_max` bytes.
    fn ask(&mut self, by: SortKey, files_max: usize, bytes_max: u64) -> Vec<T> {
        let Some(files) = self.order.clone() else {
            return Vec::new();
        };
        let after = self.last.map_or(0, |last| last[by as usize] + 1);
        self.next = self.next.max(after);
        let (mut asked, mut bytes) = (Vec::new(), 0);
        while let Some(file) = files.at(by, self.next) {
            if let Some(ask) = &file.ask {
                if asked.len() == files_max || bytes + file.size_bytes > bytes_max {
                    break;
                }
                asked.push(ask.clone());
                bytes += file.size_bytes;
                self.unread.insert(self.next);
            }
            self.next += 1;
        }
        self.unread_bytes += bytes;
        asked
    }
}

#[cfg(test)]
mod tests;
