//! Set of the 4 KiB pages of a file: a sparse bitmap of 2 MiB blocks.
//!
//! Pure. A block costs about a hundred bytes. The memory for one file is therefore at most a
//! fortieth of its cached bytes, and about one in twenty thousand for a file that is read
//! sequentially.

use std::collections::BTreeMap;
use std::ops::{Add, Range, Sub};

use p2pfs_types::extent::{ByteRange, CHUNK_BYTES, ChunkIndex, ExtentSet, PAGE_BYTES};

/// Pages of one block: 2 MiB, 64 bytes of bitmap.
pub(super) const BLOCK_PAGES: u64 = 512;
/// Pages of one 64 KiB chunk.
pub(super) const CHUNK_PAGES: u64 = CHUNK_BYTES / PAGE_BYTES;

/// Bitmap of the pages of one block, lowest bit first.
pub(super) type Bits = [u64; 8];

/// Returns the number of pages of a file of `size_bytes`. The last page may be short.
pub(super) const fn page_count(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(PAGE_BYTES)
}

/// Returns the pages that lie completely within `range`. A short last page of the file counts as
/// complete.
pub(super) fn pages_in(range: ByteRange, size_bytes: u64) -> Range<u64> {
    let whole = range.align_in(PAGE_BYTES, size_bytes);
    whole.start / PAGE_BYTES..whole.end.div_ceil(PAGE_BYTES)
}

/// Returns the pages that overlap `range`.
pub(super) fn pages_around(range: ByteRange, size_bytes: u64) -> Range<u64> {
    let around = range.align_out(PAGE_BYTES, size_bytes);
    around.start / PAGE_BYTES..around.end.div_ceil(PAGE_BYTES)
}

/// Returns the byte range of `pages`, cut at the end of the file.
pub(super) fn bytes_of(pages: &Range<u64>, size_bytes: u64) -> ByteRange {
    ByteRange::new(
        (pages.start * PAGE_BYTES).min(size_bytes),
        (pages.end * PAGE_BYTES).min(size_bytes),
    )
}

/// Returns the chunks that overlap `range`, the last one cut at the end of the file.
pub(super) fn chunks_of(range: ByteRange, size_bytes: u64) -> impl Iterator<Item = ByteRange> {
    let end = range.end.min(size_bytes).div_ceil(CHUNK_BYTES);
    (range.start / CHUNK_BYTES..end).map(move |index| ChunkIndex(index).range(size_bytes))
}

/// A set of pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PageMap {
    blocks: BTreeMap<u64, Bits>,
    counts: Counts,
}

impl PageMap {
    pub(super) fn insert(&mut self, pages: Range<u64>) {
        for (block, mask) in masks(pages) {
            self.merge(block, mask);
        }
    }

    pub(super) fn remove(&mut self, pages: Range<u64>) {
        for (block, mask) in masks(pages) {
            let Some(bits) = self.blocks.get_mut(&block) else {
                continue;
            };
            let before = counts_of(bits);
            bits.iter_mut()
                .zip(mask)
                .for_each(|(word, mask)| *word &= !mask);
            let after = counts_of(bits);
            if after.pages == 0 {
                self.blocks.remove(&block);
            }
            self.counts = self.counts - before + after;
        }
    }

    /// Adds pages of one block.
    pub(super) fn merge(&mut self, block: u64, mask: Bits) {
        if mask == Bits::default() {
            return;
        }
        let bits = self.blocks.entry(block).or_default();
        let before = counts_of(bits);
        bits.iter_mut()
            .zip(mask)
            .for_each(|(word, mask)| *word |= mask);
        self.counts = self.counts - before + counts_of(bits);
    }

    /// Returns the counts that [`PageMap::insert`] would add.
    pub(super) fn growth(&self, pages: Range<u64>) -> Counts {
        let mut growth = Counts::default();
        for (block, mask) in masks(pages) {
            let old = self.block(block);
            let new = std::array::from_fn(|i| old[i] | mask[i]);
            growth = growth + (counts_of(&new) - counts_of(&old));
        }
        growth
    }

    pub(super) fn contains(&self, pages: Range<u64>) -> bool {
        self.next(pages.start, pages.end, false) >= pages.end
    }

    pub(super) fn touches(&self, pages: Range<u64>) -> bool {
        self.next(pages.start, pages.end, true) < pages.end
    }

    /// Returns the first run of absent pages within `pages`.
    pub(super) fn first_missing(&self, pages: Range<u64>) -> Option<Range<u64>> {
        let start = self.next(pages.start, pages.end, false);
        (start < pages.end).then(|| start..self.next(start, pages.end, true))
    }

    /// Returns the runs of present pages within `pages`, in order.
    pub(super) fn runs(&self, pages: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut from = pages.start;
        std::iter::from_fn(move || {
            let start = self.next(from, pages.end, true);
            let end = self.next(start, pages.end, false);
            from = end;
            (start < end).then_some(start..end)
        })
    }

    /// Returns the present byte ranges of a file of this size.
    pub(super) fn extents(&self, size_bytes: u64) -> ExtentSet {
        self.runs(0..page_count(size_bytes))
            .map(|run| bytes_of(&run, size_bytes))
            .collect()
    }

    /// Returns the number of present bytes of a file of this size.
    pub(super) fn byte_count(&self, size_bytes: u64) -> u64 {
        let pages = page_count(size_bytes);
        let short = pages * PAGE_BYTES - size_bytes;
        let cut = if pages > 0 && self.contains(pages - 1..pages) {
            short
        } else {
            0
        };
        self.counts.pages * PAGE_BYTES - cut
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    pub(super) fn block(&self, block: u64) -> Bits {
        self.blocks.get(&block).copied().unwrap_or_default()
    }

    pub(super) fn blocks(&self) -> impl Iterator<Item = (u64, &Bits)> {
        self.blocks.iter().map(|(block, bits)| (*block, bits))
    }

    /// Returns the first present page (or absent page) in `from..end`, or `end` if there is none.
    fn next(&self, from: u64, end: u64, present: bool) -> u64 {
        let mut page = from;
        while page < end {
            let Some(bits) = self.blocks.get(&(page / BLOCK_PAGES)) else {
                if !present {
                    return page;
                }
                let later = self.blocks.range(page / BLOCK_PAGES..).next();
                let Some((block, _)) = later else { return end };
                page = block * BLOCK_PAGES;
                continue;
            };
            let word = bits[(page % BLOCK_PAGES / 64) as usize];
            let hits = (if present { word } else { !word }) >> (page % 64);
            if hits != 0 {
                return (page + u64::from(hits.trailing_zeros())).min(end);
            }
            page = (page / 64 + 1) * 64;
        }
        end
    }
}

/// Returns the blocks that `pages` overlaps, each with the bits of the overlap.
pub(super) fn masks(pages: Range<u64>) -> impl Iterator<Item = (u64, Bits)> {
    let last = if pages.is_empty() {
        0
    } else {
        pages.end.div_ceil(BLOCK_PAGES)
    };
    (pages.start / BLOCK_PAGES..last).map(move |block| {
        let first = block * BLOCK_PAGES;
        let word = |i: usize| {
            let at = first + i as u64 * 64;
            let from = pages.start.clamp(at, at + 64) - at;
            let to = pages.end.clamp(at, at + 64) - at;
            below(to) & !below(from)
        };
        (block, std::array::from_fn(word))
    })
}

/// Returns a word whose lowest `count` bits are set.
const fn below(count: u64) -> u64 {
    if count >= 64 {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

fn counts_of(bits: &Bits) -> Counts {
    let pages: u32 = bits.iter().map(|word| word.count_ones()).sum();
    let chunks_in = |word: &u64| {
        (0..4)
            .filter(|lane| word >> (16 * lane) & 0xffff != 0)
            .count()
    };
    let chunks: usize = bits.iter().map(chunks_in).sum();
    Counts {
        pages: pages.into(),
        chunks: chunks as u64,
        blocks: u64::from(pages > 0),
    }
}

/// Number of pages on disk, and numbers of chunks and map blocks with at least one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) pages: u64,
    pub(super) chunks: u64,
    pub(super) blocks: u64,
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            pages: self.pages + other.pages,
            chunks: self.chunks + other.chunks,
            blocks: self.blocks + other.blocks,
        }
    }
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            pages: self.pages - other.pages,
            chunks: self.chunks - other.chunks,
            blocks: self.blocks - other.blocks,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn some_pages() -> impl Strategy<Value = Range<u64>> {
        (0u64..1700, 0u64..700).prop_map(|(start, length)| start..start + length)
    }

    #[test]
    fn a_short_last_page_counts_as_a_whole_page() {
        assert_eq!(pages_in(ByteRange::new(4096, 5000), 5000), 1..2);
        assert!(pages_in(ByteRange::new(4096, 4999), 5000).is_empty());
        assert_eq!(pages_around(ByteRange::new(4000, 4100), 5000), 0..2);
        assert_eq!(bytes_of(&(1..2), 5000), ByteRange::new(4096, 5000));
        assert_eq!(page_count(0), 0);
    }

    proptest! {
        #[test]
        fn a_page_map_is_a_set_of_pages(
            steps in proptest::collection::vec((any::<bool>(), some_pages()), 0..20),
            probe in some_pages(),
        ) {
            let mut map = PageMap::default();
            let mut model = BTreeSet::new();
            for (add, pages) in steps {
                if add {
                    let growth = map.growth(pages.clone());
                    let before = map.counts();
                    map.insert(pages.clone());
                    prop_assert_eq!(before + growth, map.counts());
                    model.extend(pages);
                } else {
                    map.remove(pages.clone());
                    pages.for_each(|page| { model.remove(&page); });
                }
            }
            let all: BTreeSet<u64> = map.runs(0..4096).flatten().collect();
            prop_assert_eq!(&all, &model);
            let chunks: BTreeSet<u64> = model.iter().map(|page| page / CHUNK_PAGES).collect();
            let blocks: BTreeSet<u64> = model.iter().map(|page| page / BLOCK_PAGES).collect();
            let counts = Counts {
                pages: model.len() as u64,
                chunks: chunks.len() as u64,
                blocks: blocks.len() as u64,
            };
            prop_assert_eq!(map.counts(), counts);
            let missing: Vec<u64> = probe.clone().filter(|page| !model.contains(page)).collect();
            prop_assert_eq!(map.contains(probe.clone()), missing.is_empty());
            prop_assert_eq!(map.touches(probe.clone()), missing.len() < probe.clone().count());
            let first = map.first_missing(probe).map(|run| run.start);
            prop_assert_eq!(first, missing.first().copied());
        }
    }
}
