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
    /// The bytes of `range`: a part of one verified answer without copying, else one copy.
    pub fn gather(&self, range: ByteRange) -> Result<Bytes, Shortfall> {
        if let Some(bytes) = self.held.iter().find_map(|verified| verified.slice(range)) {
            return Ok(bytes);
        }
        let mut buffer = BytesMut::zeroed(range.len() as usize);
        let mut gaps = ExtentSet::of(range);
        for (part, bytes) in self.parts(range) {
            part_of(&mut buffer, range, part).copy_from_slice(&bytes);
            gaps.remove(part);
        }
        for gap in gaps.iter() {
            self.read_cached(gap, part_of(&mut buffer, range, gap))?;
        }
        Ok(buffer.freeze())
    }

    /// What is in memory of the range.
    fn parts(&self, range: ByteRange) -> impl Iterator<Item = (ByteRange, Bytes)> {
        self.held.iter().filter_map(move |verified| {
            let part = verified.range.intersection(&range);
            Some((part, verified.slice(part)?)).filter(|_| !part.is_empty())
        })
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

    fn verified(start: u64, length: u64) -> Arc<Verified> {
        let range = ByteRange::at(start, length);
        let (bytes, pairs) = (expected(range).into(), vec![]);
        Arc::new(Verified {
            range,
            bytes,
            pairs,
        })
    }

    fn expected(range: ByteRange) -> Vec<u8> {
        (range.start..range.end).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn a_part_of_one_answer_is_not_copied() {
        let held = verified(0, 131072);
        let whole = held.bytes.clone();
        let sources = Sources {
            held: vec![held],
            file: None,
        };
        let bytes = sources.gather(ByteRange::at(61440, 8192)).unwrap();
        assert_eq!(bytes.as_ptr(), whole[61440..].as_ptr());
    }

    #[test]
    fn ranges_across_answers_are_joined_in_order() {
        let held = vec![verified(0, 131072), verified(131072, 8192)];
        let sources = Sources { held, file: None };
        let range = ByteRange::new(60000, 137000);
        assert_eq!(sources.gather(range).unwrap(), expected(range));
    }

    #[test]
    fn what_is_nowhere_is_named() {
        let sources = Sources {
            held: vec![verified(0, 4096)],
            file: None,
        };
        let gap = match sources.gather(ByteRange::new(0, 8192)) {
            Err(Shortfall::Missing(gap)) => gap,
            other => panic!("{other:?}"),
        };
        assert_eq!(gap, ByteRange::new(4096, 8192));
    }
}
