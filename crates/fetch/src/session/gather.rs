//! Assembly of one reader's bytes from memory and from the cache.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use p2pfs_types::digest::Verified;
use p2pfs_types::extent::{ByteRange, ExtentSet};

/// Reason why a range could not be assembled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// Ranges that memory and cache lack, or that the cache failed to read.
    pub missing: ExtentSet,
    /// Description of the failure.
    pub why: String,
}

impl Shortfall {
    /// Returns the shortfall for one range that the cache does not have.
    pub fn missing(range: ByteRange) -> Self {
        Self::all_missing(ExtentSet::of(range))
    }

    /// Returns the shortfall for several ranges that the cache does not have.
    pub fn all_missing(missing: ExtentSet) -> Self {
        let why = "bytes that were there are not any more".into();
        Self { missing, why }
    }

    /// Merges the missing ranges of two shortfalls, and keeps the description of the first.
    fn and(self, more: Self) -> Self {
        let missing = self.missing.union(&more.missing);
        Self { missing, ..self }
    }
}

/// Sources of the bytes of a range.
pub struct Sources<F> {
    /// Verified answers in memory, in order.
    pub held: Vec<Arc<Verified>>,
    /// File of the cache.
    pub file: Option<F>,
}

impl<F> Sources<F> {
    /// Returns the bytes of `range`: without a copy if one verified answer contains them, otherwise
    /// with one copy. `read` fills a buffer with the bytes of a range of the cache's file.
    ///
    /// # Errors
    /// All missing ranges, so that they can be fetched together.
    pub fn gather(
        &self,
        range: ByteRange,
        read: impl Fn(&F, ByteRange, &mut [u8]) -> Result<(), Shortfall>,
    ) -> Result<Bytes, Shortfall> {
        if let Some(bytes) = self.held.iter().find_map(|verified| verified.slice(range)) {
            return Ok(bytes);
        }
        let mut buffer = BytesMut::with_capacity(range.len() as usize);
        let mut short = Vec::new();
        let mut fill = |buffer: &mut BytesMut, to: u64| {
            let filled = buffer.len();
            let gap = ByteRange::new(range.start + filled as u64, to);
            if gap.is_empty() {
                return;
            }
            buffer.resize(filled + gap.len() as usize, 0);
            let done = match &self.file {
                Some(file) => read(file, gap, &mut buffer[filled..]),
                None => Err(Shortfall::missing(gap)),
            };
            short.extend(done.err());
        };
        for (part, bytes) in self.parts(range) {
            // answers may overlap
            let from = part.start.max(range.start + buffer.len() as u64);
            if from < part.end {
                fill(&mut buffer, from);
                buffer.extend_from_slice(&bytes[(from - part.start) as usize..]);
            }
        }
        fill(&mut buffer, range.end);
        match short.into_iter().reduce(Shortfall::and) {
            None => Ok(buffer.freeze()),
            Some(short) => Err(short),
        }
    }

    /// Returns the parts of the range that are in memory.
    fn parts(&self, range: ByteRange) -> impl Iterator<Item = (ByteRange, Bytes)> {
        self.held.iter().filter_map(move |verified| {
            let part = verified.range.intersection(&range);
            Some((part, verified.slice(part)?)).filter(|_| !part.is_empty())
        })
    }
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

    fn gather(sources: &Sources<()>, range: ByteRange) -> Result<Bytes, Shortfall> {
        sources.gather(range, |_, gap, _| Err(Shortfall::missing(gap)))
    }

    fn expected(range: ByteRange) -> Vec<u8> {
        (range.start..range.end).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn a_slice_of_one_answer_is_not_copied() {
        let held = verified(0, 131072);
        let whole = held.bytes.clone();
        let sources = Sources {
            held: vec![held],
            file: None,
        };
        let bytes = gather(&sources, ByteRange::at(61440, 8192)).unwrap();
        assert_eq!(bytes.as_ptr(), whole[61440..].as_ptr());
    }

    #[test]
    fn ranges_across_answers_are_joined_in_order() {
        let held = vec![verified(0, 131072), verified(131072, 8192)];
        let sources = Sources { held, file: None };
        let range = ByteRange::new(60000, 137000);
        assert_eq!(gather(&sources, range).unwrap(), expected(range));
    }

    #[test]
    fn bytes_missing_in_memory_come_from_the_file_and_overlaps_come_once() {
        let held = [(8192, 8192), (12288, 12288), (16384, 4096), (32768, 4096)];
        let sources = Sources {
            held: held.map(|(start, length)| verified(start, length)).into(),
            file: Some(()),
        };
        let range = ByteRange::new(4000, 40000);
        let read_gaps = std::cell::RefCell::new(Vec::new());
        let bytes = sources.gather(range, |(), gap, buffer| {
            read_gaps.borrow_mut().push((gap.start, gap.end));
            buffer.copy_from_slice(&expected(gap));
            Ok(())
        });
        assert_eq!(bytes.unwrap(), expected(range));
        let gaps = [(4000, 8192), (24576, 32768), (36864, 40000)];
        assert_eq!(read_gaps.into_inner(), gaps);
    }

    #[test]
    fn a_missing_range_is_named() {
        let sources = Sources {
            held: vec![verified(0, 4096)],
            file: None,
        };
        let gap = gather(&sources, ByteRange::new(0, 8192)).unwrap_err();
        assert_eq!(gap.missing, ExtentSet::of(ByteRange::new(4096, 8192)));
    }

    #[test]
    fn all_missing_ranges_are_named_together() {
        let held = [4096, 12288].map(|start| verified(start, 4096)).into();
        let file = Some(());
        let gap = gather(&Sources { held, file }, ByteRange::new(0, 20480)).unwrap_err();
        let gaps = [(0, 4096), (8192, 12288), (16384, 20480)];
        let gaps = gaps.map(|(start, end)| ByteRange::new(start, end));
        assert_eq!(gap.missing, gaps.into_iter().collect());
    }
}
