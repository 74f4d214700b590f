//! Map file: records which pages of a data file are valid.
//!
//! Pure encoding and decoding. A map is a header followed by records that are appended as blocks
//! change. Each record states the present pages of one 2 MiB block. Its checksum is keyed with the
//! content hash, so a torn, corrupted or misplaced record is skipped. A skipped record loses pages
//! but never invents them. Pages are removed only by a rewrite of the whole map, so all valid
//! records of a block are merged. The map of a small file (at most one chunk) is an attribute of
//! its data file instead, if there are attributes. The file system changes the attribute atomically
//! and removes it with the file. A separate map file would cost more than all other work for a
//! small file.

use super::pages::{BLOCK_PAGES, Bits, CHUNK_PAGES, PageMap, masks, page_count};
use super::summary::FileSummary;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::CHUNK_BYTES;

/// Header size: magic with the format number, file size, checksum.
pub(super) const HEADER_BYTES: usize = 24;
/// Record size: block number, boot, bitmap, checksum.
pub(super) const RECORD_BYTES: usize = 88;
/// A map is rewritten once it has more records than two for each block, plus this number. With this
/// number the map of a file of one block still fits one page.
pub(super) const SPARE_RECORDS: u64 = 32;

const MAGIC: [u8; 8] = *b"p2pmap\x00\x01";
/// Size of the map of a small file: magic with the format number, two bitmaps, file size, boot,
/// checksum.
pub(super) const SMALL_BYTES: usize = 32;
const SMALL_MAGIC: [u8; 4] = *b"p2p\x01";
const SUM_BYTES: usize = 8;

/// Boot of the machine in which a record was written, or the claim that its data was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Boot(u64);

impl Boot {
    /// The data was synced before the record was written.
    pub(super) const DURABLE: Self = Self(0);
    /// The data must be checked before use.
    pub(super) const PAST: Self = Self(1);

    /// Derives the number of the boot with this identifier.
    pub(super) fn named(id: &[u8]) -> Self {
        let sum = *blake3::hash(id).as_bytes();
        let number = u64::from_le_bytes(sum[..8].try_into().expect("eight bytes"));
        Self(number.max(2))
    }
}

/// Content of a map.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LoadedMap {
    pub(super) size_bytes: u64,
    /// Whether the map is an attribute of the data file instead of a separate file.
    pub(super) in_attribute: bool,
    /// Valid pages.
    pub(super) present: PageMap,
    /// Pages of complete chunks that must be checked before use.
    pub(super) doubt: PageMap,
    /// Number of records in the map file.
    pub(super) records: u64,
    /// Whether records can be appended: no record is torn or from another boot.
    pub(super) sound: bool,
    /// Whether a power cut would bring some of the valid pages into doubt.
    pub(super) unsynced: bool,
}

impl LoadedMap {
    /// Moves all pages into doubt, for data that another program may have changed. Pages that
    /// cannot be checked are dropped.
    pub(super) fn in_doubt(self) -> Self {
        let mut all = self.doubt;
        for (block, bits) in self.present.blocks() {
            all.merge(block, *bits);
        }
        let present = PageMap::default();
        Self {
            doubt: checkable(&present, &all, self.size_bytes),
            present,
            sound: false,
            ..self
        }
    }

    pub(super) fn summary(&self) -> FileSummary {
        FileSummary {
            size_bytes: self.size_bytes,
            cached_bytes: self.present.byte_count(self.size_bytes),
            counts: self.present.counts() + self.doubt.counts(),
            in_doubt: !self.doubt.is_empty(),
        }
    }

    /// Returns whether the end of the file was verified, which is possible only with the true size.
    /// Doubtful pages count, because they were verified in an earlier run. A claim of another size
    /// therefore does not replace the file before these pages are checked.
    pub(super) fn size_is_proven(&self) -> bool {
        let pages = page_count(self.size_bytes);
        let last = pages.saturating_sub(1)..pages;
        let was_verified = |map: &PageMap| map.contains(last.clone());
        self.size_bytes == 0 || was_verified(&self.present) || was_verified(&self.doubt)
    }
}

/// Encodes the header of a map file.
pub(super) fn header(hash: &ContentHash, size_bytes: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&size_bytes.to_le_bytes());
    let sum = checksum(hash, &header[..16]);
    header[16..].copy_from_slice(&sum);
    header
}

/// Encodes a whole map: the present pages under `boot`, then the pages in doubt.
pub(super) fn whole(
    hash: &ContentHash,
    size_bytes: u64,
    boot: Boot,
    present: &PageMap,
    doubt: &PageMap,
) -> Vec<u8> {
    let mut bytes = header(hash, size_bytes).to_vec();
    let present = present.blocks().map(|(block, bits)| (block, boot, bits));
    let doubt = doubt
        .blocks()
        .map(|(block, bits)| (block, Boot::PAST, bits));
    for (block, boot, bits) in present.chain(doubt) {
        bytes.extend(record(hash, block, boot, bits));
    }
    bytes
}

/// Encodes the record of one block.
pub(super) fn record(
    hash: &ContentHash,
    block: u64,
    boot: Boot,
    bits: &Bits,
) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[..8].copy_from_slice(&block.to_le_bytes());
    record[8..16].copy_from_slice(&boot.0.to_le_bytes());
    for (to, word) in record[16..80].chunks_exact_mut(8).zip(bits) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    let sum = checksum(hash, &record[..RECORD_BYTES - SUM_BYTES]);
    record[RECORD_BYTES - SUM_BYTES..].copy_from_slice(&sum);
    record
}

/// Returns the file size stated by a map file, or `None` if its header is broken.
pub(super) fn stated_size(hash: &ContentHash, bytes: &[u8]) -> Option<u64> {
    let header = bytes.get(..HEADER_BYTES)?;
    let sound = header[..8] == MAGIC && header[16..] == checksum(hash, &header[..16]);
    sound.then(|| number(&header[8..16]))
}

/// Returns the maximum length of a map for a file of this size. A longer map is broken.
pub(super) fn max_bytes(size_bytes: u64) -> u64 {
    let records = 3 * page_count(size_bytes).div_ceil(BLOCK_PAGES) + SPARE_RECORDS;
    HEADER_BYTES as u64 + records * RECORD_BYTES as u64
}

/// Decodes a map file. Returns `None` if the header is broken.
pub(super) fn parse(hash: &ContentHash, bytes: &[u8], now: Boot) -> Option<LoadedMap> {
    let size_bytes = stated_size(hash, bytes)?;
    let (mut present, mut doubt) = (PageMap::default(), PageMap::default());
    let records = bytes[HEADER_BYTES..].chunks_exact(RECORD_BYTES);
    let mut sound = records.remainder().is_empty();
    let mut unsynced = false;
    let count = records.len() as u64;
    for bytes in records {
        let Some((block, boot, bits)) = read_record(hash, size_bytes, bytes) else {
            sound = false;
            continue;
        };
        let believed = boot == Boot::DURABLE || boot == now;
        sound &= believed;
        unsynced |= believed && boot != Boot::DURABLE;
        (if believed { &mut present } else { &mut doubt }).merge(block, bits);
    }
    let doubt = checkable(&present, &doubt, size_bytes);
    Some(LoadedMap {
        size_bytes,
        in_attribute: false,
        present,
        doubt,
        records: count,
        sound,
        unsynced,
    })
}

/// Returns whether a file of this size is small: its map is an attribute of its data file if the
/// file system has attributes. Such a file has at most one chunk, so two short bitmaps suffice and
/// it has no outboard.
pub(super) fn is_small(size_bytes: u64) -> bool {
    (1..=CHUNK_BYTES).contains(&size_bytes)
}

/// Encodes the map of a small file.
pub(super) fn small(
    hash: &ContentHash,
    size_bytes: u64,
    boot: Boot,
    present: &PageMap,
    doubt: &PageMap,
) -> [u8; SMALL_BYTES] {
    let mut map = [0; SMALL_BYTES];
    map[..4].copy_from_slice(&SMALL_MAGIC);
    // One chunk has 16 pages.
    map[4..6].copy_from_slice(&present.block(0)[0].to_le_bytes()[..2]);
    map[6..8].copy_from_slice(&doubt.block(0)[0].to_le_bytes()[..2]);
    map[8..16].copy_from_slice(&size_bytes.to_le_bytes());
    map[16..24].copy_from_slice(&boot.0.to_le_bytes());
    let sum = checksum(hash, &map[..SMALL_BYTES - SUM_BYTES]);
    map[SMALL_BYTES - SUM_BYTES..].copy_from_slice(&sum);
    map
}

/// Decodes the map of a small file. Returns `None` if it is broken. Pages that were written in an
/// earlier boot and not synced are in doubt. They can be checked only if the whole file is on disk,
/// and are dropped otherwise.
pub(super) fn parse_small(hash: &ContentHash, bytes: &[u8], now: Boot) -> Option<LoadedMap> {
    let (body, sum) = bytes.split_at_checked(SMALL_BYTES - SUM_BYTES)?;
    if sum != checksum(hash, body) || body[..4] != SMALL_MAGIC {
        return None;
    }
    let size_bytes = number(&body[8..16]);
    let (_, inside) = masks(0..page_count(size_bytes)).next()?;
    let pages = |at: usize| {
        let mut bits = Bits::default();
        bits[0] = u64::from(u16::from_le_bytes([body[at], body[at + 1]]));
        let fits = bits[0] & !inside[0] == 0;
        fits.then_some(bits)
    };
    let (mut present, mut doubt) = (PageMap::default(), PageMap::default());
    let boot = Boot(number(&body[16..24]));
    let sound = boot == Boot::DURABLE || boot == now;
    (if sound { &mut present } else { &mut doubt }).merge(0, pages(4)?);
    doubt.merge(0, pages(6)?);
    let doubt = checkable(&present, &doubt, size_bytes);
    is_small(size_bytes).then_some(LoadedMap {
        size_bytes,
        in_attribute: true,
        present,
        doubt,
        records: 0,
        sound,
        unsynced: boot == now,
    })
}

fn read_record(hash: &ContentHash, size_bytes: u64, bytes: &[u8]) -> Option<(u64, Boot, Bits)> {
    let (body, sum) = bytes.split_at(RECORD_BYTES - SUM_BYTES);
    if sum != checksum(hash, body) {
        return None;
    }
    let block = number(&body[..8]);
    let mut bits = Bits::default();
    for (word, bytes) in bits.iter_mut().zip(body[16..].chunks_exact(8)) {
        *word = number(bytes);
    }
    let first = block.checked_mul(BLOCK_PAGES)?;
    let (_, inside) = masks(first..page_count(size_bytes)).next()?;
    let fits = bits
        .iter()
        .zip(inside)
        .all(|(word, inside)| word & !inside == 0);
    fits.then(|| (block, Boot(number(&body[8..16])), bits))
}

/// Returns the doubtful pages whose chunk is completely on disk. Only complete chunks can be
/// checked.
fn checkable(present: &PageMap, doubt: &PageMap, size_bytes: u64) -> PageMap {
    let mut on_disk = present.clone();
    doubt
        .blocks()
        .for_each(|(block, bits)| on_disk.merge(block, *bits));
    let mut kept = PageMap::default();
    let pages = page_count(size_bytes);
    for (block, _) in doubt.blocks() {
        let first = block * BLOCK_PAGES;
        for start in (first..first + BLOCK_PAGES).step_by(CHUNK_PAGES as usize) {
            let chunk = start.min(pages)..(start + CHUNK_PAGES).min(pages);
            if on_disk.contains(chunk.clone()) {
                doubt.runs(chunk).for_each(|run| kept.insert(run));
            }
        }
    }
    present.runs(0..pages).for_each(|run| kept.remove(run));
    kept
}

fn checksum(hash: &ContentHash, bytes: &[u8]) -> [u8; SUM_BYTES] {
    let sum = blake3::keyed_hash(hash.as_bytes(), bytes);
    sum.as_bytes()[..SUM_BYTES]
        .try_into()
        .expect("eight of 32 bytes")
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 3 * 2 * 1024 * 1024 + 5;

    fn hash() -> ContentHash {
        ContentHash::of(b"some content")
    }

    fn bits(word: u64) -> Bits {
        [word, 0, 0, 0, 0, 0, 0, 0]
    }

    fn map(records: &[(u64, Boot, Bits)]) -> Vec<u8> {
        let mut bytes = header(&hash(), SIZE).to_vec();
        for (block, boot, bits) in records {
            bytes.extend(record(&hash(), *block, *boot, bits));
        }
        bytes
    }

    fn runs(pages: &PageMap) -> Vec<(u64, u64)> {
        pages
            .runs(0..9999)
            .map(|run| (run.start, run.end))
            .collect()
    }

    #[test]
    fn records_of_one_block_are_joined() {
        let now = Boot::named(b"now");
        let bytes = map(&[
            (0, now, bits(1)),
            (2, Boot::DURABLE, bits(4)),
            (0, now, bits(3)),
        ]);
        let loaded = parse(&hash(), &bytes, now).unwrap();
        assert_eq!(runs(&loaded.present), [(0, 2), (1026, 1027)]);
        assert!(loaded.sound && loaded.doubt.is_empty());
    }

    #[test]
    fn after_a_reboot_only_whole_chunks_of_a_record_are_kept_and_doubted() {
        let then = Boot::named(b"then");
        let bytes = map(&[(1, then, bits(0x3_ffff)), (1, Boot::DURABLE, bits(0x3))]);
        let loaded = parse(&hash(), &bytes, Boot::named(b"now")).unwrap();
        assert_eq!(runs(&loaded.present), [(512, 514)]);
        assert_eq!(runs(&loaded.doubt), [(514, 528)]);
    }

    #[test]
    fn a_record_for_another_file_or_outside_the_file_is_skipped() {
        let mut bytes = map(&[]);
        bytes.extend(record(
            &ContentHash::of(b"other"),
            0,
            Boot::DURABLE,
            &bits(1),
        ));
        bytes.extend(record(&hash(), 3, Boot::DURABLE, &bits(2)));
        bytes.extend(record(&hash(), 4, Boot::DURABLE, &bits(1)));
        bytes.extend(record(&hash(), u64::MAX, Boot::DURABLE, &bits(1)));
        bytes.extend(record(&hash(), 3, Boot::DURABLE, &bits(1)));
        let loaded = parse(&hash(), &bytes, Boot::PAST).unwrap();
        assert_eq!(runs(&loaded.present), [(1536, 1537)]);
        assert!(!loaded.sound);
    }

    #[test]
    fn a_small_file_is_trusted_within_its_boot_and_doubted_after_another_if_whole() {
        let (then, now) = (Boot::named(b"then"), Boot::named(b"now"));
        let page_map = |pages: std::ops::Range<u64>| {
            let mut map = PageMap::default();
            map.insert(pages);
            map
        };
        let none = PageMap::default();
        let whole = small(&hash(), 20_000, then, &page_map(0..5), &none);
        let loaded = parse_small(&hash(), &whole, then).unwrap();
        assert_eq!((runs(&loaded.present), loaded.sound), (vec![(0, 5)], true));
        let later = parse_small(&hash(), &whole, now).unwrap();
        assert_eq!((runs(&later.doubt), later.sound), (vec![(0, 5)], false));
        assert!(later.present.is_empty());
        let part = small(&hash(), 20_000, then, &page_map(1..5), &none);
        let later = parse_small(&hash(), &part, now).unwrap();
        assert!(later.present.is_empty() && later.doubt.is_empty());
        let doubtful = small(&hash(), 20_000, now, &page_map(0..2), &page_map(2..5));
        let again = parse_small(&hash(), &doubtful, now).unwrap();
        assert_eq!(runs(&again.doubt), [(2, 5)]);
    }

    #[test]
    fn a_flipped_bit_or_another_file_never_yields_a_small_map() {
        let mut present = PageMap::default();
        present.insert(0..5);
        let map = small(
            &hash(),
            20_000,
            Boot::DURABLE,
            &present,
            &PageMap::default(),
        );
        for bit in 0..SMALL_BYTES * 8 {
            let mut bad = map;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse_small(&hash(), &bad, Boot::PAST), None);
        }
        assert_eq!(
            parse_small(&ContentHash::of(b"other"), &map, Boot::PAST),
            None
        );
        assert_eq!(parse_small(&hash(), &map[..20], Boot::PAST), None);
        let outside = small(
            &hash(),
            16_384,
            Boot::DURABLE,
            &present,
            &PageMap::default(),
        );
        assert_eq!(parse_small(&hash(), &outside, Boot::PAST), None);
    }

    proptest! {
        #[test]
        fn damage_loses_pages_and_never_adds_one(
            words in proptest::collection::vec((0u64..3, any::<u64>()), 1..20),
            place in 0.0f64..1.0, bit in 0u8..8, cut in 0.0f64..1.0,
        ) {
            let records: Vec<_> =
                words.iter().map(|(block, word)| (*block, Boot::DURABLE, bits(*word))).collect();
            let mut bytes = map(&records);
            let whole = parse(&hash(), &bytes, Boot::PAST).unwrap();
            let index = (place * bytes.len() as f64) as usize;
            bytes[index] ^= 1 << bit;
            bytes.truncate((cut * bytes.len() as f64) as usize);
            if let Some(damaged) = parse(&hash(), &bytes, Boot::PAST) {
                let mut runs = damaged.present.runs(0..page_count(SIZE));
                prop_assert!(runs.all(|run| whole.present.contains(run)));
                prop_assert!(damaged.doubt.is_empty());
            }
        }

        #[test]
        fn garbage_is_not_a_map(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(parse(&hash(), &bytes, Boot::PAST).is_none());
        }
    }
}
