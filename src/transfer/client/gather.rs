//! One reader's bytes, put together from memory and from the cache.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::cache::{CacheError, CacheFile, ReadOutcome};
use crate::digest::Verified;
use crate::extent::{ByteRange, ExtentSet};

/// Why a range could not be put together.
#[derive(Debug)]
pub(super) enum Shortfall {
    /// These bytes are nowhere.
    Missing(ByteRange),
    /// The cache failed on these.
    Cache(ByteRange, CacheError),
}

/// Where a range is to be found.
pub(super) struct Sources {
    /// In memory, in order.
    pub held: Vec<Arc<Verified>>,
    /// On disk.
    pub file: Option<CacheFile>,
}

impl Sources {
    /// The bytes of `range`: a part of one verified piece without copying, else one copy.
    pub fn gather(&self, range: ByteRange) -> Result<Bytes, Shortfall> {
        if let Some(bytes) = self.slice(range) {
            return Ok(bytes);
        }
        if let Some(bytes) = self.join(range) {
            return Ok(bytes);
        }
        let mut buffer = BytesMut::zeroed(range.len() as usize);
        let mut gaps = ExtentSet::of(range);
        for verified in &self.held {
            let part = verified.range.intersection(&range);
            verified.copy_to(part.start, part_of(&mut buffer, range, part));
            gaps.remove(part);
        }
        for gap in gaps.iter() {
            self.read_cached(gap, part_of(&mut buffer, range, gap))?;
        }
        Ok(buffer.freeze())
    }

    fn slice(&self, range: ByteRange) -> Option<Bytes> {
        let pieces = self.held.iter().flat_map(|verified| &verified.pieces);
        for piece in pieces {
            let whole = ByteRange::at(piece.offset, piece.bytes.len() as u64);
            if whole.contains(&range) {
                let start = (range.start - piece.offset) as usize;
                return Some(piece.bytes.slice(start..start + range.len() as usize));
            }
        }
        None
    }

    fn join(&self, range: ByteRange) -> Option<Bytes> {
        let held: ExtentSet = self.held.iter().map(|verified| verified.range).collect();
        if !held.contains(range) {
            return None;
        }
        let mut buffer = BytesMut::with_capacity(range.len() as usize);
        for piece in self.held.iter().flat_map(|verified| &verified.pieces) {
            let whole = ByteRange::at(piece.offset, piece.bytes.len() as u64);
            let part = whole.intersection(&range);
            if !part.is_empty() {
                let start = (part.start - piece.offset) as usize;
                buffer.extend_from_slice(&piece.bytes[start..start + part.len() as usize]);
            }
        }
        (buffer.len() as u64 == range.len()).then(|| buffer.freeze())
    }

    fn read_cached(&self, range: ByteRange, buffer: &mut [u8]) -> Result<(), Shortfall> {
        let Some(file) = &self.file else {
            return Err(Shortfall::Missing(range));
        };
        match file.read_at(range.start, buffer) {
            Ok(ReadOutcome::Ready(length)) if length as u64 == range.len() => Ok(()),
            Ok(ReadOutcome::Ready(_)) => Err(Shortfall::Missing(range)),
            Ok(ReadOutcome::Missing(gap)) => Err(Shortfall::Missing(gap)),
            Err(error) => Err(Shortfall::Cache(range, error)),
        }
    }
}

fn part_of(buffer: &mut [u8], whole: ByteRange, part: ByteRange) -> &mut [u8] {
    let start = part.start.saturating_sub(whole.start) as usize;
    &mut buffer[start..start + part.len() as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Piece;

    fn verified(start: u64, lengths: &[usize]) -> Arc<Verified> {
        let (mut at, mut pieces) = (start, Vec::new());
        for length in lengths {
            let bytes: Vec<u8> = (0..*length as u64)
                .map(|i| ((at + i) % 251) as u8)
                .collect();
            pieces.push(Piece {
                offset: at,
                bytes: bytes.into(),
            });
            at += *length as u64;
        }
        Arc::new(Verified {
            range: ByteRange::new(start, at),
            pieces,
            pairs: vec![],
        })
    }

    fn expected(range: ByteRange) -> Vec<u8> {
        (range.start..range.end).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn a_part_of_one_piece_is_not_copied() {
        let held = verified(0, &[65536, 65536]);
        let piece = held.pieces[1].bytes.clone();
        let sources = Sources {
            held: vec![held],
            file: None,
        };
        let bytes = sources.gather(ByteRange::at(65536 + 4096, 4096)).unwrap();
        assert_eq!(bytes.as_ptr(), piece[4096..].as_ptr());
    }

    #[test]
    fn ranges_across_pieces_and_answers_are_joined_in_order() {
        let held = vec![
            verified(0, &[65536, 65536]),
            verified(131072, &[4096, 4096]),
        ];
        let sources = Sources { held, file: None };
        let range = ByteRange::new(60000, 137000);
        assert_eq!(sources.gather(range).unwrap(), expected(range));
    }

    #[test]
    fn what_is_nowhere_is_named() {
        let sources = Sources {
            held: vec![verified(0, &[4096])],
            file: None,
        };
        let gap = match sources.gather(ByteRange::new(0, 8192)) {
            Err(Shortfall::Missing(gap)) => gap,
            other => panic!("{other:?}"),
        };
        assert_eq!(gap, ByteRange::new(4096, 8192));
    }
}
