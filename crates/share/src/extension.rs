//! Hashes a file that only grew without reading all of it.
//!
//! The hash tree of a file that grew consists of the subtrees of its listed version and of new ones
//! at its end. A file that became longer can therefore be hashed from the outboard of its listed
//! version, if that is stored: the file is over
//! [`SMALL_FILE_MAX_BYTES`](super::outboards::SMALL_FILE_MAX_BYTES). This costs the appended bytes
//! and some samples. It is done for a file over
//! [`PROMISED_MAX_BYTES`](super::queue::PROMISED_MAX_BYTES), and for a smaller one that changes
//! again and again (`pace`) or is written without a rest. The first growth of a smaller file after
//! a rest is read whole, so the file is listed with its right hash within 2 s.
//!
//! The former bytes of a longer file may have changed too: a database grows and also changes in the
//! middle. So samples of the listed version are compared: its first bytes, which many formats
//! change on every write, its last bytes, and some bytes in between. If a sample differs, the file
//! is read whole. If bytes changed that no sample covers, the file is listed with a wrong hash.
//! Therefore the hash is in doubt until the file is read whole: after a request for a changed byte
//! has failed, or after the file came to rest.

use std::fs::File;

use super::identity::FileIdentity;
use super::outboards::Outboards;
use super::part::{HashPairs, grain_of};
use super::proof::KnownFile;
use p2pfs_types::digest::{ContentHash, HashedVersion, OnDisk, encode_from};
use p2pfs_types::extent::ByteRange;

/// Length of the first and of the last sample: some pages of a database, and more than the padding
/// at the end of an archive of `tar`.
const EDGE_SAMPLE_BYTES: u64 = 64 << 10;
/// Number of samples between the first and the last one. Two bytes of the hash determine the
/// position of each.
const MIDDLE_SAMPLES: usize = 16;

/// The hash tree of the first bytes of a file.
pub(super) struct KnownStart {
    pub(super) version: HashedVersion,
    pub(super) pairs: HashPairs,
}

impl KnownStart {
    pub(super) fn new(hash: ContentHash, size_bytes: u64, pairs: HashPairs) -> Self {
        let grain = grain_of(size_bytes);
        let version = HashedVersion {
            hash,
            size_bytes,
            grain,
        };
        Self { version, pairs }
    }

    /// Returns the listed version of a file as the start of its present bytes, if the file grew,
    /// the outboard is stored and all samples are as before.
    pub(super) fn find(
        outboards: &Outboards,
        file: &File,
        seen: &FileIdentity,
        listed: &KnownFile,
    ) -> Option<Self> {
        let size_bytes = listed.identity.size_bytes;
        if !seen.has_grown_since(&listed.identity) {
            return None;
        }
        let pairs = outboards.stored(&listed.hash, size_bytes)?;
        let start = Self::new(listed.hash, size_bytes, pairs);
        start.is_intact(file).then_some(start)
    }

    /// Returns whether all samples of a file are as in this version.
    pub(super) fn is_intact(&self, file: &File) -> bool {
        let HashedVersion {
            hash,
            size_bytes,
            grain,
        } = self.version;
        let is_same =
            |range| encode_from(grain, hash, size_bytes, range, OnDisk(file), &self.pairs).is_ok();
        sampled(hash, size_bytes).all(is_same)
    }
}

/// Returns the sampled ranges of a version. The hash determines the ranges in the middle, so that
/// each version is sampled at other positions.
fn sampled(hash: ContentHash, size_bytes: u64) -> impl Iterator<Item = ByteRange> {
    let edge_bytes = EDGE_SAMPLE_BYTES.min(size_bytes);
    let edges = [0, size_bytes - edge_bytes].map(|start| ByteRange::at(start, edge_bytes));
    let middle = (0..MIDDLE_SAMPLES).map(move |nth| {
        let places = hash.as_bytes();
        let place = u16::from_le_bytes([places[2 * nth], places[2 * nth + 1]]);
        let start = (u128::from(size_bytes) * u128::from(place)) >> 16;
        ByteRange::at(start as u64, 1)
    });
    edges.into_iter().chain(middle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_lie_within_the_version_and_differ_between_versions() {
        for size_bytes in [1, EDGE_SAMPLE_BYTES + 1, 1 << 40] {
            let [one, other] = [b"one".as_slice(), b"other"].map(|bytes| {
                let ranges = sampled(ContentHash::of(bytes), size_bytes);
                ranges
                    .map(|range| (range.start, range.end))
                    .collect::<Vec<_>>()
            });
            assert_eq!(one.len(), MIDDLE_SAMPLES + 2);
            assert!(
                one.iter()
                    .all(|(start, end)| start < end && *end <= size_bytes)
            );
            assert_eq!(one == other, size_bytes == 1);
        }
    }
}
