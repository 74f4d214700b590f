//! Detection of sequential readers, and the read-ahead for each of them. The more readers, the
//! smaller each one's share of all read-ahead.
//!
//! A stream is an offset in one file from which a reader moves forward. Reads carry no reader id,
//! so a read belongs to a stream by its offset. Readers at distant offsets of one file are several
//! streams. Memory is bounded: the least recently used stream is forgotten first.

use super::fetch::FileFetch;
use super::{PIECE_MAX_BYTES, URGENT_MAX_BYTES, WINDOW_MAX_BYTES};
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES, bytes_into_grain};

/// Maximum streams of one file.
pub const STREAMS_MAX: usize = 64;
/// Maximum read-ahead window in bytes: the maximum window of one peer.
pub const AHEAD_MAX_BYTES: u64 = WINDOW_MAX_BYTES;
/// Maximum read-ahead in bytes of all readers together, shared equally: eight full windows.
pub const AHEAD_OF_ALL_MAX_BYTES: u64 = 8 * AHEAD_MAX_BYTES;
/// Number of adjacent reads that start read-ahead, however short they are.
const RUN_MIN_READS: u32 = 3;

#[derive(Debug)]
pub(super) struct Stream {
    /// Lowest offset that the reader has read.
    first: u64,
    /// Highest end of its reads, where its next read is expected.
    pub next: u64,
    /// Bytes read in sequence.
    run_bytes: u64,
    /// Number of reads in sequence.
    reads: u32,
    /// End of the read-ahead: everything from `next` to this offset should be fetched.
    pub target: u64,
    /// Offset from which its read-ahead is divided into pieces: the end of its last read of a whole
    /// piece, or 0 before such a read. The pieces then have the borders of the kernel's next reads.
    /// So each of those reads is answered with one received piece, without a copy.
    origin: u64,
    /// Clock of [`Streams`] at its last read.
    last_read: u64,
}

/// Range to fetch ahead of one reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AheadRange {
    pub range: ByteRange,
    /// Offset from which the range is divided into pieces. It may lie outside the range.
    pub origin: u64,
}

/// Bounds of the read-ahead of a file, and how it is divided into pieces.
#[derive(Clone, Copy, Debug)]
pub(super) struct AheadTerms {
    pub size_bytes: u64,
    /// Maximum window of one reader.
    pub limit_bytes: u64,
    /// Whether pieces are counted from offset 0 for all readers, as the stripes of a swarm are.
    pub in_stripes: bool,
}

impl Stream {
    /// Returns whether it has read-ahead: after [`RUN_MIN_READS`] adjacent reads, or a chunk of
    /// bytes in sequence. With less, random reads of a few neighbouring pages would cost many times
    /// what they request.
    fn is_established(&self) -> bool {
        self.run_bytes >= CHUNK_BYTES || self.reads >= RUN_MIN_READS
    }

    /// Returns the read-ahead window, or 0 if there is none yet. It is at most twice the bytes read
    /// in sequence, so that little is wasted if the reader stops, but at least
    /// [`URGENT_MAX_BYTES`]. `limit_bytes` and [`AHEAD_MAX_BYTES`] bound it in any case.
    fn window_bytes(&self, limit_bytes: u64) -> u64 {
        if !self.is_established() {
            return 0;
        }
        let doubled = self.run_bytes.saturating_mul(2).max(1);
        let power = 1u64 << doubled.min(AHEAD_MAX_BYTES).ilog2();
        power
            .clamp(URGENT_MAX_BYTES, AHEAD_MAX_BYTES)
            .min(limit_bytes)
    }

    fn is_continued_by(&self, range: ByteRange, limit_bytes: u64) -> bool {
        let window = self.window_bytes(limit_bytes);
        if window == 0 {
            return range.start == self.next || range.end == self.first;
        }
        // the kernel's read-ahead asks out of order, so any read nearby is the same reader
        range.start <= self.next.saturating_add(window)
            && range.end.saturating_add(window) >= self.next
    }

    fn advance(&mut self, range: ByteRange, terms: AheadTerms) {
        self.first = self.first.min(range.start);
        if range.end > self.next {
            self.run_bytes = self.run_bytes.saturating_add(range.len());
            self.reads = self.reads.saturating_add(1);
        }
        self.next = self.next.max(range.end);
        if terms.in_stripes {
            self.origin = 0;
        } else if range.len() >= PIECE_MAX_BYTES && range.end.is_multiple_of(CHUNK_BYTES) {
            self.origin = range.end;
        }
        let window = self.window_bytes(terms.limit_bytes);
        if window == 0 {
            return;
        }
        let end = self.next.saturating_add(window);
        // the window ends at a border of a grain, counted from `origin`, so that read-ahead
        // requests large pieces rather than slivers
        let grain = (window / 4).clamp(CHUNK_BYTES, PIECE_MAX_BYTES);
        let grain = grain / CHUNK_BYTES * CHUNK_BYTES;
        let end = if end >= terms.size_bytes {
            terms.size_bytes
        } else {
            end.saturating_sub(bytes_into_grain(end, self.origin, grain))
        };
        self.target = self.target.max(end);
    }
}

/// Streams of one file.
#[derive(Debug, Default)]
pub(super) struct Streams {
    list: Vec<Stream>,
    /// Number of reads so far.
    clock: u64,
}

impl Streams {
    /// Records a read. Returns whether the read-ahead of its stream ends farther than before.
    pub(super) fn read(&mut self, range: ByteRange, terms: AheadTerms) -> bool {
        self.clock += 1;
        let clock = self.clock;
        let found = self
            .list
            .iter_mut()
            .find(|s| s.is_continued_by(range, terms.limit_bytes));
        if let Some(stream) = found {
            let before = stream.target;
            stream.last_read = clock;
            stream.advance(range, terms);
            return stream.target > before;
        }
        if self.list.len() == STREAMS_MAX {
            let oldest = (0..self.list.len()).min_by_key(|&i| self.list[i].last_read);
            self.list.swap_remove(oldest.expect("the list is full"));
        }
        let mut stream = Stream {
            first: range.start,
            next: range.end,
            run_bytes: 0,
            reads: 1,
            target: 0,
            origin: 0,
            last_read: clock,
        };
        // a long read from offset 0 is how a read of a whole file begins
        if range.start == 0 && range.len() >= CHUNK_BYTES {
            stream.run_bytes = range.len();
            stream.advance(ByteRange::new(range.end, range.end), terms);
        }
        let more = stream.target > 0;
        self.list.push(stream);
        more
    }

    /// Returns what to fetch ahead, the most recently moved reader first. Each range is at most
    /// `limit_bytes` long, whatever the limit was when its reader moved.
    pub(super) fn ahead(&self, limit_bytes: u64) -> Vec<AheadRange> {
        let mut wanted: Vec<_> = self.list.iter().filter(|s| s.target > s.next).collect();
        wanted.sort_by_key(|s| std::cmp::Reverse(s.last_read));
        let within = |s: &&Stream| {
            let most = s.next.saturating_add(limit_bytes);
            let end = if s.target > most {
                most / CHUNK_BYTES * CHUNK_BYTES
            } else {
                s.target
            };
            AheadRange {
                range: ByteRange::new(s.next, end.max(s.next)),
                origin: s.origin,
            }
        };
        let ranges = wanted.iter().map(within);
        ranges.filter(|ahead| !ahead.range.is_empty()).collect()
    }

    /// Returns the number of readers with read-ahead.
    pub(super) fn established(&self) -> usize {
        self.list.iter().filter(|s| s.is_established()).count()
    }

    /// Forgets all streams.
    pub(super) fn clear(&mut self) {
        self.list.clear();
    }
}

/// Bounds of the read-ahead of all readers together.
#[derive(Debug, Default)]
pub struct ReadAheadBudget {
    /// Number of readers with read-ahead.
    streams: usize,
    budget_bytes: Option<u64>,
    /// Whether the network is metered (billed by the byte). Read-ahead is off then.
    pub(super) is_metered: bool,
}

impl ReadAheadBudget {
    /// Sets the bound of the read-ahead of all readers together, at most
    /// [`AHEAD_OF_ALL_MAX_BYTES`]. `None` restores that maximum.
    pub fn limit(&mut self, budget_bytes: Option<u64>) {
        self.budget_bytes = budget_bytes;
    }

    /// Returns the maximum read-ahead of one reader in bytes, at present.
    pub(super) fn of_each(&self) -> u64 {
        let own = self.budget_bytes.unwrap_or(AHEAD_OF_ALL_MAX_BYTES);
        let each = own.min(AHEAD_OF_ALL_MAX_BYTES) / self.streams.max(1) as u64;
        each.min(AHEAD_MAX_BYTES)
    }

    /// Records a read in its stream. Returns whether the read-ahead ends farther than before. Does
    /// nothing on a metered network, or if the whole file is here.
    pub(super) fn extend(&mut self, file: &mut FileFetch, range: ByteRange) -> bool {
        if self.is_metered || file.presence.is_whole() {
            return false;
        }
        let terms = AheadTerms {
            size_bytes: file.size_bytes,
            limit_bytes: self.of_each(),
            in_stripes: file.is_swarm(),
        };
        let before = file.streams.established();
        let more = file.streams.read(range, terms);
        self.streams = self.streams + file.streams.established() - before;
        more
    }

    /// Forgets the streams of a file, which ends its read-ahead.
    pub(super) fn forget(&mut self, file: &mut FileFetch) {
        self.streams -= file.streams.established();
        file.streams.clear();
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    const SIZE: u64 = 256 << 20;

    const TERMS: AheadTerms = AheadTerms {
        size_bytes: SIZE,
        limit_bytes: AHEAD_MAX_BYTES,
        in_stripes: false,
    };

    fn read(streams: &mut Streams, start: u64, length: u64) -> bool {
        streams.read(ByteRange::at(start, length), TERMS)
    }

    fn ranges(streams: &Streams) -> Vec<ByteRange> {
        let ahead = streams.ahead(AHEAD_MAX_BYTES);
        ahead.into_iter().map(|ahead| ahead.range).collect()
    }

    /// Returns the ends of the read-ahead after each read of a program that reads the file from its
    /// beginning, as the kernel requests it: 512 KiB first, then pieces.
    fn targets_of_a_program(terms: AheadTerms) -> Vec<(u64, u64)> {
        let mut streams = Streams::default();
        let starts = (0..32).map(|piece| (512 << 10) + piece * PIECE_MAX_BYTES);
        let reads = starts.map(|start| ByteRange::at(start, PIECE_MAX_BYTES));
        streams.read(ByteRange::new(0, 512 << 10), terms);
        let step = |range| {
            streams.read(range, terms);
            let ahead = streams.ahead(AHEAD_MAX_BYTES)[0];
            (ahead.origin, ahead.range.end)
        };
        reads.map(step).collect()
    }

    fn ahead_bytes(streams: &Streams) -> u64 {
        ranges(streams).iter().map(ByteRange::len).sum()
    }

    #[test]
    fn one_small_read_fetches_nothing_ahead() {
        let mut streams = Streams::default();
        assert!(!read(&mut streams, 0, 4096));
        assert!(!read(&mut streams, 40 << 20, 4096));
        assert_eq!(ahead_bytes(&streams), 0);
    }

    #[test]
    fn the_window_of_a_sequential_reader_grows_to_its_limit() {
        let mut streams = Streams::default();
        let mut largest = 0;
        for step in 0..256u64 {
            read(&mut streams, step << 17, 128 << 10);
            let ahead = ahead_bytes(&streams);
            assert!(ahead <= AHEAD_MAX_BYTES);
            largest = largest.max(ahead);
        }
        assert!(largest >= AHEAD_MAX_BYTES - PIECE_MAX_BYTES, "{largest}");
    }

    #[test]
    fn small_sequential_reads_form_a_stream() {
        let mut streams = Streams::default();
        let more = [0, 1, 2].map(|page| read(&mut streams, page * 4096, 4096));
        assert_eq!(more, [false, false, true]);
        assert_eq!(ahead_bytes(&streams), URGENT_MAX_BYTES - 3 * 4096);
    }

    #[test]
    fn reads_out_of_order_form_one_stream() {
        let mut streams = Streams::default();
        for step in [0u64, 2, 1, 4, 3, 5, 7, 6, 8, 10, 9] {
            read(&mut streams, step << 17, 128 << 10);
        }
        assert_eq!(streams.list.len(), 1);
        assert!(
            ahead_bytes(&streams) >= 512 << 10,
            "{}",
            ahead_bytes(&streams)
        );
    }

    #[test]
    fn two_readers_of_one_file_are_two_streams() {
        let mut streams = Streams::default();
        for step in 0..16u64 {
            read(&mut streams, step << 17, 128 << 10);
            read(&mut streams, (128 << 20) + (step << 17), 128 << 10);
        }
        assert_eq!(streams.established(), 2);
        assert_eq!(ranges(&streams).len(), 2);
    }

    #[test]
    fn random_pages_cause_almost_no_read_ahead() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut streams = Streams::default();
        let reads = 10_000;
        let mut wasted = 0;
        for _ in 0..reads {
            let before = ahead_bytes(&streams);
            read(&mut streams, rng.random_range(0..SIZE / 4096) * 4096, 4096);
            wasted += ahead_bytes(&streams).saturating_sub(before);
        }
        assert!(wasted < reads * 4096 / 10, "{wasted} bytes");
    }

    #[test]
    fn nothing_is_fetched_past_the_end_of_the_file() {
        let mut streams = Streams::default();
        for step in 0..8u64 {
            let size_bytes = (1 << 20) + 5;
            let terms = AheadTerms {
                size_bytes,
                ..TERMS
            };
            streams.read(ByteRange::at(step << 17, 128 << 10), terms);
        }
        assert!(ranges(&streams).iter().all(|r| r.end == (1 << 20) + 5));
    }

    #[test]
    fn read_ahead_ends_at_a_chunk_border_regardless_of_its_limit() {
        let mut rng = StdRng::seed_from_u64(9);
        for _ in 0..200 {
            let (mut streams, mut at) = (Streams::default(), 0);
            for _ in 0..40 {
                let limit_bytes = rng.random_range(0..AHEAD_MAX_BYTES);
                let length = rng.random_range(1..3_000_000);
                let terms = AheadTerms {
                    limit_bytes,
                    ..TERMS
                };
                streams.read(ByteRange::at(at, length), terms);
                at += length;
                let limit = rng.random_range(0..AHEAD_MAX_BYTES);
                for AheadRange { range, .. } in streams.ahead(limit) {
                    assert!(range.end.is_multiple_of(CHUNK_BYTES) && range.len() <= limit);
                }
            }
        }
    }

    #[test]
    fn pieces_are_counted_from_where_the_reader_reads_whole_pieces() {
        let phase = 512 << 10;
        for (origin, target) in targets_of_a_program(TERMS).into_iter().skip(4) {
            assert_eq!(origin % PIECE_MAX_BYTES, phase);
            assert_eq!(target % PIECE_MAX_BYTES, phase);
        }
    }

    #[test]
    fn in_stripes_pieces_are_counted_from_the_beginning_of_the_file() {
        let in_stripes = true;
        let terms = AheadTerms {
            in_stripes,
            ..TERMS
        };
        for (origin, target) in targets_of_a_program(terms).into_iter().skip(4) {
            assert_eq!((origin, target % PIECE_MAX_BYTES), (0, 0));
        }
    }

    #[test]
    fn the_number_of_streams_is_bounded() {
        let mut streams = Streams::default();
        for i in 0..1000u64 {
            read(&mut streams, i << 16, 4096);
        }
        assert_eq!(streams.list.len(), STREAMS_MAX);
    }
}
