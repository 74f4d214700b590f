//! In-memory index of all cached files: their total cost and the eviction order, least recently
//! used first.
//!
//! Pure bookkeeping under one lock, which is never held during I/O. A hash whose files are being
//! opened or removed is *busy*: other users of that hash wait until the work ends. They also wait
//! while its file is being closed. `H` is the handle type of users of an open file; the index only
//! checks whether a handle is alive.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use super::budget::cost_bytes;
use super::file::OpenFileState;
use super::pins::Pins;
use super::summary::FileSummary;
use p2pfs_types::digest::ContentHash;

/// Maximum age of a free-space measurement. Another program can fill the disk unnoticed for this
/// long.
const FREE_GOOD_FOR: Duration = Duration::from_millis(500);
/// Assumed maximum time until a file system reports the space of a removed file as free. btrfs does
/// so with its next commit, twice a minute, and xfs some time later.
const FREED_SHOWS_WITHIN: Duration = Duration::from_secs(60);

/// One file of the cache.
pub(super) struct IndexEntry<H> {
    /// Summary at the last open or close.
    pub(super) summary: FileSummary,
    pub(super) last_use: SystemTime,
    /// Position in the order of use, assigned by [`CacheIndex::insert`].
    pub(super) turn: u64,
    /// Whether the file was present at an unclean stop and was not checked since.
    pub(super) unchecked: bool,
    pub(super) presence: Presence<H>,
}

/// Whether a file is open.
pub(super) enum Presence<H> {
    Closed,
    /// Dropping the handle begins the close. The entry stays in this state until the close is
    /// complete.
    Open(Weak<H>, Arc<OpenFileState>),
}

impl<H> IndexEntry<H> {
    /// Creates the entry of a closed file.
    pub(super) fn closed(summary: FileSummary, last_use: SystemTime, unchecked: bool) -> Self {
        Self {
            summary,
            last_use,
            turn: 0,
            unchecked,
            presence: Presence::Closed,
        }
    }

    /// Returns a copy of the entry as closed, for the thread that is about to open the file.
    pub(super) fn as_closed(&self) -> Self {
        Self {
            turn: self.turn,
            ..Self::closed(self.summary, self.last_use, self.unchecked)
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.presence, Presence::Open(..))
    }

    pub(super) fn cached_bytes(&self) -> u64 {
        match &self.presence {
            Presence::Closed => self.summary.cached_bytes,
            Presence::Open(_, shared) => shared.pages.cached_bytes(),
        }
    }

    /// Returns the bytes that the file takes of the budget.
    pub(super) fn charge_bytes(&self) -> u64 {
        match &self.presence {
            Presence::Closed => self.summary.charge_bytes(),
            Presence::Open(_, shared) => shared.charge.bytes(),
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        match &self.presence {
            Presence::Closed => self.summary.is_complete(),
            Presence::Open(_, shared) => shared.pages.is_complete(),
        }
    }
}

/// Decision about a request to reserve bytes.
pub(super) enum ReserveDecision<H> {
    /// The bytes are charged; continue.
    Granted,
    /// Remove this file, then ask again.
    Evict(EvictionVictim<H>),
    /// Measure the free space, then ask again.
    Measure,
    /// Wait, then ask again: a file is being removed, or is open only while its map is written.
    Wait,
    /// The bytes do not fit, and no eviction helps.
    Refused,
}

/// A file that is being removed. Its hash is busy until [`CacheIndex::removed`] or
/// [`CacheIndex::spared`].
pub(super) struct EvictionVictim<H> {
    pub(super) hash: ContentHash,
    entry: IndexEntry<H>,
    /// Whether [`CacheIndex::reserve`] chose the file.
    makes_room: bool,
}

impl<H> EvictionVictim<H> {
    pub(super) fn charge_bytes(&self) -> u64 {
        self.entry.charge_bytes()
    }

    pub(super) fn was_complete(&self) -> bool {
        self.entry.summary.is_complete()
    }
}

/// Running totals over files, which avoid a walk over the whole index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CacheTotals {
    pub(super) complete_files: usize,
    pub(super) pinned_bytes: u64,
    /// Current charge of the pinned files.
    pub(super) pinned_charge_bytes: u64,
    /// Charge of the pinned files once they are complete.
    pub(super) pinned_cost_bytes: u64,
}

impl CacheTotals {
    fn of<H>(entry: &IndexEntry<H>, is_pinned: bool) -> Self {
        let of_pinned = |bytes| if is_pinned { bytes } else { 0 };
        Self {
            complete_files: usize::from(entry.is_complete()),
            pinned_bytes: of_pinned(entry.cached_bytes()),
            pinned_charge_bytes: of_pinned(entry.charge_bytes()),
            pinned_cost_bytes: of_pinned(cost_bytes(entry.summary.size_bytes)),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            complete_files: self.complete_files + other.complete_files,
            pinned_bytes: self.pinned_bytes + other.pinned_bytes,
            pinned_charge_bytes: self.pinned_charge_bytes + other.pinned_charge_bytes,
            pinned_cost_bytes: self.pinned_cost_bytes + other.pinned_cost_bytes,
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            complete_files: self.complete_files - other.complete_files,
            pinned_bytes: self.pinned_bytes - other.pinned_bytes,
            pinned_charge_bytes: self.pinned_charge_bytes - other.pinned_charge_bytes,
            pinned_cost_bytes: self.pinned_cost_bytes - other.pinned_cost_bytes,
        }
    }
}

pub(super) struct CacheIndex<H> {
    pub(super) space: CacheSpace,
    entries: HashMap<ContentHash, IndexEntry<H>>,
    pub(super) busy: HashSet<ContentHash>,
    /// Number of files that are being removed.
    leaving: usize,
    /// Whether a file is open only because its map is being written.
    pub(super) is_open_for_map: bool,
    pins: Pins,
    /// Keys of `entries` whose files are open. `closed` has the totals of all other files.
    open: HashSet<ContentHash>,
    closed: CacheTotals,
    /// Files that may be evicted, by their turns, with their charge.
    evictable: BTreeMap<u64, (ContentHash, u64)>,
    last_turn: u64,
}

/// The space that the cache may take and takes.
pub(super) struct CacheSpace {
    pub(super) budget_bytes: u64,
    pub(super) floor_bytes: u64,
    pub(super) charged_bytes: u64,
    pub(super) evictable_bytes: u64,
    free: Option<(Instant, u64)>,
    /// Expected free space after evictions that the file system may not report yet, and the start
    /// of this count.
    freed: Option<(Instant, u64)>,
}

impl<H> CacheIndex<H> {
    pub(super) fn new(budget_bytes: u64, floor_bytes: u64, pins: Pins) -> Self {
        Self {
            space: CacheSpace {
                budget_bytes,
                floor_bytes,
                charged_bytes: 0,
                evictable_bytes: 0,
                free: None,
                freed: None,
            },
            entries: HashMap::new(),
            busy: HashSet::new(),
            leaving: 0,
            is_open_for_map: false,
            pins,
            open: HashSet::new(),
            closed: CacheTotals::default(),
            evictable: BTreeMap::new(),
            last_turn: 0,
        }
    }

    /// Charges `bytes` if there is room for them.
    pub(super) fn reserve(&mut self, bytes: u64, now: Instant) -> ReserveDecision<H> {
        let fixed_bytes = self.space.charged_bytes - self.space.evictable_bytes;
        if bytes == 0 {
            return ReserveDecision::Granted;
        }
        if fixed_bytes.saturating_add(bytes) > self.space.budget_bytes {
            return self.no_room();
        }
        let Some(free_bytes) = self.free_bytes(now) else {
            return ReserveDecision::Measure;
        };
        let fits = self.space.charged_bytes.saturating_add(bytes) <= self.space.budget_bytes
            && free_bytes >= self.space.floor_bytes.saturating_add(bytes);
        if !fits {
            let Some(victim) = self.take_victim() else {
                return self.no_room();
            };
            let makes_room = true;
            return ReserveDecision::Evict(EvictionVictim {
                makes_room,
                ..victim
            });
        }
        self.space.charged_bytes += bytes;
        for (_, free_bytes) in self.space.free.iter_mut().chain(&mut self.space.freed) {
            *free_bytes = free_bytes.saturating_sub(bytes);
        }
        ReserveDecision::Granted
    }

    /// Decides when nothing can be evicted: waits for a removal or a map write in progress, or
    /// refuses.
    fn no_room(&self) -> ReserveDecision<H> {
        if self.leaving > 0 || self.is_open_for_map {
            ReserveDecision::Wait
        } else {
            ReserveDecision::Refused
        }
    }

    /// Replaces a charge of `old_bytes` by one of `new_bytes`.
    pub(super) fn recharge(&mut self, old_bytes: u64, new_bytes: u64) {
        self.space.charged_bytes = self.space.charged_bytes.saturating_sub(old_bytes) + new_bytes;
    }

    pub(super) fn measured(&mut self, free_bytes: u64, now: Instant) {
        let freed_bytes = within(self.space.freed, FREED_SHOWS_WITHIN, now).unwrap_or(0);
        self.space.free = Some((now, free_bytes.max(freed_bytes)));
    }

    /// Discards the measurement after a change that only the file system can quantify.
    pub(super) fn forget_measure(&mut self) {
        self.space.free = None;
    }

    fn free_bytes(&self, now: Instant) -> Option<u64> {
        within(self.space.free, FREE_GOOD_FOR, now)
    }

    /// Takes the least recently used evictable file out of the index.
    pub(super) fn take_victim(&mut self) -> Option<EvictionVictim<H>> {
        let (_, (hash, _)) = self.evictable.first_key_value()?;
        let hash = *hash;
        let entry = self.take(&hash)?;
        self.busy.insert(hash);
        self.leaving += 1;
        Some(EvictionVictim {
            hash,
            entry,
            makes_room: false,
        })
    }

    /// Completes the removal of a victim.
    pub(super) fn removed(&mut self, victim: &EvictionVictim<H>, now: Instant) {
        self.busy.remove(&victim.hash);
        self.leaving -= 1;
        let charge_bytes = victim.charge_bytes();
        self.recharge(charge_bytes, 0);
        let freed = within(self.space.freed, FREED_SHOWS_WITHIN, now).and(self.space.freed);
        let known_bytes = within(self.space.free, FREED_SHOWS_WITHIN, now);
        let known_bytes = known_bytes.or(freed.map(|(_, bytes)| bytes));
        if let Some(known_bytes) = known_bytes.filter(|_| victim.makes_room) {
            // The time of the first eviction is kept, so that this estimate expires and writes of
            // other programs are noticed.
            let since = freed.map_or(now, |(since, _)| since);
            self.space.freed = Some((since, known_bytes.saturating_add(charge_bytes)));
        }
        self.forget_measure();
    }

    /// Returns a victim to the index after a failed removal, with its charge.
    pub(super) fn spared(&mut self, victim: EvictionVictim<H>) {
        self.busy.remove(&victim.hash);
        self.leaving -= 1;
        self.insert(victim.hash, victim.entry);
    }

    /// Adds a file as the most recently used one. Its bytes are already charged.
    pub(super) fn insert(&mut self, hash: ContentHash, mut entry: IndexEntry<H>) {
        self.last_turn += 1;
        entry.turn = self.last_turn;
        self.put_back(hash, entry);
    }

    /// Adds a file with its previous position in the order of use.
    pub(super) fn put_back(&mut self, hash: ContentHash, entry: IndexEntry<H>) {
        self.put(hash, entry);
        self.make_evictable(&hash);
    }

    /// Returns the entry of a file.
    pub(super) fn get(&self, hash: &ContentHash) -> Option<&IndexEntry<H>> {
        self.entries.get(hash)
    }

    /// Returns all files.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (&ContentHash, &IndexEntry<H>)> {
        self.entries.iter()
    }

    /// Returns the selected files with their sizes.
    pub(super) fn sizes(&self, wanted: impl Fn(&IndexEntry<H>) -> bool) -> Vec<(ContentHash, u64)> {
        let chosen = self.entries.iter().filter(|(_, entry)| wanted(entry));
        chosen
            .map(|(hash, entry)| (*hash, entry.summary.size_bytes))
            .collect()
    }

    /// Returns the open files.
    pub(super) fn open(&self) -> impl Iterator<Item = &IndexEntry<H>> {
        self.open.iter().filter_map(|hash| self.entries.get(hash))
    }

    /// Adds or replaces the entry of a file.
    fn put(&mut self, hash: ContentHash, entry: IndexEntry<H>) {
        self.take(&hash);
        if entry.is_open() {
            self.open.insert(hash);
        } else {
            let tally = CacheTotals::of(&entry, self.pins.contains(&hash));
            self.closed = self.closed.plus(tally);
        }
        self.entries.insert(hash, entry);
    }

    /// Removes and returns the entry of a file.
    pub(super) fn take(&mut self, hash: &ContentHash) -> Option<IndexEntry<H>> {
        self.take_from_evictable(hash);
        let entry = self.entries.remove(hash)?;
        if !self.open.remove(hash) {
            let tally = CacheTotals::of(&entry, self.pins.contains(hash));
            self.closed = self.closed.minus(tally);
        }
        Some(entry)
    }

    /// Marks a file as checked from end to end.
    pub(super) fn checked(&mut self, hash: &ContentHash) {
        if let Some(entry) = self.entries.get_mut(hash) {
            entry.unchecked = false;
            entry.summary.in_doubt = false;
        }
    }

    /// Returns the totals over all files. The cost is proportional to the number of open files.
    pub(super) fn tally(&self) -> CacheTotals {
        let hashes = self.open.iter();
        let open = hashes.filter_map(|hash| Some((hash, self.entries.get(hash)?)));
        open.fold(self.closed, |tally, (hash, entry)| {
            tally.plus(CacheTotals::of(entry, self.pins.contains(hash)))
        })
    }

    /// Returns the pins.
    pub(super) fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Replaces the pins. `hashes` includes every hash whose pin or label changes. The files of
    /// `hashes` become the most recently used ones.
    pub(super) fn set_pins(&mut self, pins: Pins, hashes: &[ContentHash]) {
        let taken = |hash: &ContentHash| Some((*hash, self.take(hash)?));
        let touched: Vec<_> = hashes.iter().filter_map(taken).collect();
        self.pins = pins;
        for (hash, entry) in touched {
            self.insert(hash, entry);
        }
    }

    /// Adds a file to the eviction order if it is closed, unpinned and not busy.
    fn make_evictable(&mut self, hash: &ContentHash) {
        let Some(entry) = self.entries.get(hash) else {
            return;
        };
        let held = entry.is_open() || self.busy.contains(hash) || self.pins.contains(hash);
        if !held {
            let charge_bytes = entry.charge_bytes();
            self.space.evictable_bytes += charge_bytes;
            self.evictable.insert(entry.turn, (*hash, charge_bytes));
        }
    }

    /// Returns whether a file may be evicted.
    pub(super) fn is_evictable(&self, hash: &ContentHash) -> bool {
        let entry = self.entries.get(hash);
        entry.is_some_and(|entry| self.evictable.contains_key(&entry.turn))
    }

    /// Removes a file from the eviction order.
    pub(super) fn take_from_evictable(&mut self, hash: &ContentHash) {
        let turn = self.entries.get(hash).map(|entry| entry.turn);
        if let Some((_, charge_bytes)) = turn.and_then(|turn| self.evictable.remove(&turn)) {
            self.space.evictable_bytes -= charge_bytes;
        }
    }
}

/// Returns a counted number of bytes if the count is recent enough.
fn within(counted: Option<(Instant, u64)>, good_for: Duration, now: Instant) -> Option<u64> {
    let is_good = |(at, _): &(Instant, u64)| now.saturating_duration_since(*at) < good_for;
    counted.filter(is_good).map(|(_, bytes)| bytes)
}
