//! Batches: up to [`BATCH_FILES_MAX`] small files in one request and one response.
//!
//! The request is a list of contents, each a hash and a size (u32, big endian). The response has
//! one part for each, in the same order. A part begins with a byte for its kind. If the file is
//! present, the length of its proof (u32, big endian) and the proof follow, in the format of
//! `digest::encode` for the whole file.

use bytes::Bytes;

use crate::wire::WireError;
use p2pfs_types::digest::ContentHash;
/// One file of a batch, of 1 to [`BATCH_FILE_MAX_BYTES`].
pub use p2pfs_types::digest::ContentKey as SmallFile;
use p2pfs_types::extent::CHUNK_BYTES;

/// Maximum number of files in one batch: some hundred KiB of a source tree or of mail.
pub const BATCH_FILES_MAX: usize = 64;
/// Maximum size of a file in a batch in bytes: one chunk. Its proof consists of its bytes only.
pub const BATCH_FILE_MAX_BYTES: u64 = CHUNK_BYTES;
/// Maximum size of all files in one batch in bytes: as much as one range.
pub const BATCH_MAX_BYTES: u64 = 1 << 20;
/// Size in bytes of a requested file: a hash and a size.
const ASKED_BYTES: usize = 36;
/// Maximum size of a request in bytes.
pub(super) const BATCH_QUESTION_MAX_BYTES: usize = BATCH_FILES_MAX * ASKED_BYTES;
/// Size in bytes of a part without its proof.
const PART_HEAD_BYTES: usize = 5;
/// Maximum size of a response in bytes.
pub(super) const BATCH_ANSWER_MAX_BYTES: usize =
    BATCH_MAX_BYTES as usize + BATCH_FILES_MAX * PART_HEAD_BYTES;

const HERE: u8 = 0;
const GONE: u8 = 1;
const NOT_HERE: u8 = 2;

/// Result for one file of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchPart {
    /// The whole file with its proof, not verified yet.
    Here(Bytes),
    /// The peer has lost this content.
    Gone,
    /// The peer does not send this content in a batch. It may answer a request for it alone.
    NotHere,
}

/// A response under construction: its parts, one after the other.
#[derive(Debug, Default)]
pub struct PackedBatch {
    bytes: Vec<u8>,
}

impl PackedBatch {
    /// Creates an empty response with room for files of `size_bytes` in total, at most
    /// [`BATCH_MAX_BYTES`].
    pub fn with_capacity(size_bytes: u64) -> Self {
        let room = (size_bytes.min(BATCH_MAX_BYTES) as usize) + BATCH_FILES_MAX * PART_HEAD_BYTES;
        Self {
            bytes: Vec::with_capacity(room),
        }
    }

    /// Adds a file that is present, with its proof.
    pub fn push_here(&mut self, proof: &[u8]) {
        self.bytes.push(HERE);
        self.bytes.extend((proof.len() as u32).to_be_bytes());
        self.bytes.extend(proof);
    }

    /// Adds a file with a content that this node has lost.
    pub fn push_gone(&mut self) {
        self.bytes.push(GONE);
    }

    /// Adds a file that is not sent in this batch.
    pub fn push_not_here(&mut self) {
        self.bytes.push(NOT_HERE);
    }

    /// Returns the body of the response.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Splits a response into its parts, without copying their bytes.
///
/// # Errors
/// [`WireError::Malformed`] if the bytes are not a response, if there are more than
/// [`BATCH_FILES_MAX`] parts, or if a proof is longer than [`BATCH_FILE_MAX_BYTES`].
pub fn unpack_batch(packed: &Bytes) -> Result<Vec<BatchPart>, WireError> {
    let malformed = || WireError::Malformed {
        what: "an answer to a batch",
    };
    let mut parts = Vec::new();
    let mut rest = packed.clone();
    while let Some(what) = rest.first().copied() {
        if parts.len() == BATCH_FILES_MAX {
            return Err(malformed());
        }
        let head = rest.split_to(if what == HERE {
            PART_HEAD_BYTES.min(rest.len())
        } else {
            1
        });
        parts.push(match what {
            HERE => {
                let length = head[1..].first_chunk::<4>().ok_or_else(malformed)?;
                let length = u32::from_be_bytes(*length) as usize;
                if length as u64 > BATCH_FILE_MAX_BYTES || length > rest.len() {
                    return Err(malformed());
                }
                BatchPart::Here(rest.split_to(length))
            }
            GONE => BatchPart::Gone,
            NOT_HERE => BatchPart::NotHere,
            _ => return Err(malformed()),
        });
    }
    Ok(parts)
}

/// Encodes the body of a request.
pub(super) fn question(files: &[SmallFile]) -> Result<Bytes, WireError> {
    check(files)?;
    let mut body = Vec::with_capacity(files.len() * ASKED_BYTES);
    for file in files {
        body.extend(file.hash.as_bytes());
        body.extend((file.size_bytes as u32).to_be_bytes());
    }
    Ok(body.into())
}

/// Decodes the body of a request.
pub(super) fn asked(body: &[u8]) -> Result<Vec<SmallFile>, WireError> {
    let (files, []) = body.as_chunks::<ASKED_BYTES>() else {
        return Err(WireError::Malformed { what: WHAT });
    };
    let file = |asked: &[u8; ASKED_BYTES]| {
        let (hash, size) = asked.split_first_chunk::<32>()?;
        Some(SmallFile {
            hash: ContentHash::new(*hash),
            size_bytes: u64::from(u32::from_be_bytes(*size.first_chunk()?)),
        })
    };
    let files: Vec<_> = files.iter().filter_map(file).collect();
    check(&files)?;
    Ok(files)
}

const WHAT: &str = "a request for a batch";

fn check(files: &[SmallFile]) -> Result<(), WireError> {
    let is_small = |file: &SmallFile| (1..=BATCH_FILE_MAX_BYTES).contains(&file.size_bytes);
    let few = (1..=BATCH_FILES_MAX).contains(&files.len()) && files.iter().all(is_small);
    let sum = || files.iter().map(|file| file.size_bytes).sum::<u64>();
    if few && sum() <= BATCH_MAX_BYTES {
        Ok(())
    } else {
        Err(WireError::Malformed { what: WHAT })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn small(seed: u8, size_bytes: u64) -> SmallFile {
        SmallFile {
            hash: ContentHash::new([seed; 32]),
            size_bytes,
        }
    }

    #[test]
    fn a_request_round_trips() {
        let files = vec![small(1, 1), small(2, BATCH_FILE_MAX_BYTES), small(1, 77)];
        assert_eq!(asked(&question(&files).unwrap()).unwrap(), files);
    }

    #[test]
    fn a_request_at_its_limits_is_sent_and_accepted() {
        let most = (BATCH_MAX_BYTES / BATCH_FILE_MAX_BYTES) as usize;
        let mut one_byte_less = vec![small(1, BATCH_FILE_MAX_BYTES); most];
        one_byte_less[0] = small(1, BATCH_FILE_MAX_BYTES - 1);
        for files in [
            one_byte_less,
            vec![small(1, BATCH_FILE_MAX_BYTES); most],
            vec![small(1, 1); BATCH_FILES_MAX - 1],
            vec![small(1, 1); BATCH_FILES_MAX],
        ] {
            assert_eq!(asked(&question(&files).unwrap()).unwrap(), files);
        }
        let mut one_byte_more = vec![small(1, BATCH_FILE_MAX_BYTES); most];
        one_byte_more.push(small(1, 1));
        assert!(question(&one_byte_more).is_err());
    }

    #[test]
    fn a_request_over_a_limit_is_neither_sent_nor_accepted() {
        let over = [
            vec![],
            vec![small(1, 0)],
            vec![small(1, BATCH_FILE_MAX_BYTES + 1)],
            vec![small(1, 1); BATCH_FILES_MAX + 1],
            vec![small(1, BATCH_FILE_MAX_BYTES); 17],
        ];
        for files in over {
            assert!(question(&files).is_err(), "{} files", files.len());
            let mut body = Vec::new();
            for file in &files {
                body.extend(file.hash.as_bytes());
                body.extend((file.size_bytes as u32).to_be_bytes());
            }
            assert!(asked(&body).is_err(), "{} files", files.len());
        }
    }

    #[test]
    fn an_answer_round_trips_and_every_truncation_is_detected() {
        let mut packed = PackedBatch::with_capacity(100);
        packed.push_here(b"some bytes");
        packed.push_gone();
        packed.push_not_here();
        packed.push_here(b"");
        let packed = Bytes::from(packed.into_bytes());
        let parts = unpack_batch(&packed).unwrap();
        let here = |bytes| BatchPart::Here(Bytes::from_static(bytes));
        let whole = [
            here(b"some bytes"),
            BatchPart::Gone,
            BatchPart::NotHere,
            here(b""),
        ];
        assert_eq!(parts, whole);
        for length in 0..packed.len() {
            let cut = unpack_batch(&packed.slice(..length));
            assert!(cut.is_err() || whole.starts_with(&cut.unwrap()), "{length}");
        }
    }

    #[test]
    fn an_answer_with_more_or_longer_parts_than_allowed_is_refused() {
        let many = Bytes::from(vec![GONE; BATCH_FILES_MAX + 1]);
        assert!(unpack_batch(&many).is_err());
        let mut long = PackedBatch::default();
        long.push_here(&vec![0; BATCH_FILE_MAX_BYTES as usize + 1]);
        assert!(unpack_batch(&long.into_bytes().into()).is_err());
        assert!(unpack_batch(&Bytes::from_static(&[9])).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_or_within_the_limits(
            bytes in proptest::collection::vec(any::<u8>(), 0..4096),
        ) {
            let body = Bytes::from(bytes);
            if let Ok(parts) = unpack_batch(&body) {
                let taken: usize = parts.iter().map(|part| match part {
                    BatchPart::Here(proof) => proof.len() + PART_HEAD_BYTES,
                    _ => 1,
                }).sum();
                prop_assert_eq!(taken, body.len());
            }
            if let Ok(files) = asked(&body) {
                prop_assert!(files.len() <= BATCH_FILES_MAX);
            }
        }
    }
}
