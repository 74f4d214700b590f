//! Disk cost of a cached file.
//!
//! Pure. For the pages of the file the cost is exact, and for its proofs and its map it is an upper
//! bound.

use super::map::{HEADER_BYTES, RECORD_BYTES, SPARE_RECORDS};
use super::pages::{BLOCK_PAGES, Counts, page_count};
use p2pfs_types::digest::Grain;
use p2pfs_types::extent::{CHUNK_BYTES, PAGE_BYTES};

/// Returns the budget bytes that a complete file of this size takes: its pages, its proofs and its
/// map. To check in advance whether files fit, add these costs instead of the sizes.
pub fn cost_bytes(size_bytes: u64) -> u64 {
    let pages = page_count(size_bytes);
    let counts = Counts {
        pages,
        chunks: size_bytes.div_ceil(CHUNK_BYTES),
        blocks: pages.div_ceil(BLOCK_PAGES),
    };
    charge_bytes(size_bytes, counts)
}

/// Returns the maximum disk space of a file with these counts. Grows with each count.
pub(super) fn charge_bytes(size_bytes: u64, counts: Counts) -> u64 {
    if counts == Counts::default() {
        return if size_bytes == 0 { PAGE_BYTES } else { 0 };
    }
    let data = counts.pages * PAGE_BYTES;
    data + outboard_charge_bytes(size_bytes, counts.chunks) + map_charge_bytes(counts.blocks)
}

/// Returns the size of the whole outboard, or one page for each tree level above each chunk,
/// whichever is less.
fn outboard_charge_bytes(size_bytes: u64, chunks: u64) -> u64 {
    let levels = u64::from(
        size_bytes
            .div_ceil(CHUNK_BYTES)
            .next_power_of_two()
            .trailing_zeros(),
    );
    let paths = chunks.saturating_mul(levels).saturating_mul(PAGE_BYTES);
    Grain::CHUNK
        .outboard_bytes(size_bytes)
        .next_multiple_of(PAGE_BYTES)
        .min(paths)
}

/// Returns the maximum size of the map before a rewrite, plus the size of the new map, which exists
/// beside the old one during the rewrite.
fn map_charge_bytes(blocks: u64) -> u64 {
    let records = 3 * blocks + SPARE_RECORDS;
    (HEADER_BYTES as u64 + records * RECORD_BYTES as u64).next_multiple_of(PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_costs_its_pages_and_one_for_the_map() {
        let one = Counts {
            pages: 1,
            chunks: 1,
            blocks: 1,
        };
        assert_eq!(charge_bytes(100, one), 2 * PAGE_BYTES);
        assert_eq!(charge_bytes(100, Counts::default()), 0);
        assert_eq!(charge_bytes(0, Counts::default()), PAGE_BYTES);
        assert_eq!(
            (cost_bytes(100), cost_bytes(0)),
            (2 * PAGE_BYTES, PAGE_BYTES)
        );
    }

    #[test]
    fn one_page_of_a_huge_file_does_not_cost_its_whole_outboard() {
        let one = Counts {
            pages: 1,
            chunks: 1,
            blocks: 1,
        };
        assert!(charge_bytes(1 << 40, one) < 64 * PAGE_BYTES);
    }

    #[test]
    fn a_complete_file_costs_about_its_size() {
        let size = 1u64 << 30;
        let cost = cost_bytes(size);
        assert!(cost > size && cost < size + size / 500, "{cost}");
    }
}
