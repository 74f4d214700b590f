//! Reading and writing of frames on a byte stream, within their size and time limits.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Duration, Instant, timeout};

use super::counters::DropReason;
use super::limits::PeerLimits;
use p2pfs_proto::wire::WireError;
use p2pfs_proto::wire::native::tcp::{Frame, FrameHeader, HEADER_BYTES, Phase};
use p2pfs_records::RecordError;
use p2pfs_types::pool::{PieceBuffer, PiecePool};

/// Smallest body that is aligned, and its alignment. A disk may require it (open(2), `O_DIRECT`).
const ALIGNED_MIN_BYTES: usize = 128 << 10;
const ALIGNED_TO_BYTES: usize = 4096;
/// If the reads of a frame (`Pieces`) have fewer bytes than this on average, the sender made its
/// records small on purpose. A node seals a frame in records of 16 KiB and a shorter last one, and
/// rustls cuts a few more short.
const PIECE_MIN_BYTES: usize = 1 << 10;
/// Minimum number of reads of a frame before their mean size is judged. An honest frame of a header
/// and two short records has fewer.
const DRIP_PIECES_MIN: usize = 4;

/// Number of arrivals of bytes on a connection, and the time of the last one. They show since when
/// the peer is silent.
#[derive(Debug)]
pub(super) struct Pulse {
    start: Instant,
    last_ms: AtomicU64,
    beats: AtomicU64,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            last_ms: AtomicU64::new(0),
            beats: AtomicU64::new(0),
        }
    }

    fn beat(&self) {
        self.last_ms
            .store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    pub(super) fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
    }
}

/// Reader of frames from `stream`. Memory for a body is allocated only after its header was
/// checked.
pub(super) struct FrameReader<'a, R> {
    pub(super) stream: R,
    pub(super) limits: &'a PeerLimits,
    pub(super) pulse: &'a Pulse,
    /// Buffers for large bodies, after the greeting.
    pool: Option<&'a PiecePool>,
    header: [u8; HEADER_BYTES],
    filled: usize,
    pieces: Pieces,
}

/// Number and bytes of the reads of the current frame.
#[derive(Default)]
struct Pieces {
    count: usize,
    bytes: usize,
}

impl Pieces {
    fn add(&mut self, bytes: usize) {
        self.count += 1;
        self.bytes += bytes;
    }

    /// Returns whether the peer made the records small on purpose. A slow link does not split
    /// records: there are few of them, and each takes long.
    fn is_drip(&self) -> bool {
        self.count >= DRIP_PIECES_MIN && self.bytes < self.count * PIECE_MIN_BYTES
    }
}

impl<'a, R: AsyncRead + Unpin> FrameReader<'a, R> {
    pub(super) fn new(stream: R, limits: &'a PeerLimits, pulse: &'a Pulse) -> Self {
        Self {
            stream,
            limits,
            pulse,
            pool: None,
            header: [0; HEADER_BYTES],
            filled: 0,
            pieces: Pieces::default(),
        }
    }

    /// Takes the buffers of large bodies from `pool`.
    pub(super) fn with_pool(mut self, pool: &'a PiecePool) -> Self {
        self.pool = Some(pool);
        self
    }

    /// Waits for the first byte of the next frame without a time limit.
    async fn wait(&mut self) -> Result<(), DropReason> {
        if self.filled == 0 {
            self.pieces = Pieces::default();
            self.filled = self.read_header().await?;
        }
        Ok(())
    }

    /// Reads the next frame. The time limit starts with its first byte.
    pub(super) async fn next(&mut self, phase: Phase) -> Result<(FrameHeader, Bytes), DropReason> {
        self.next_telling(phase, |_, _| ()).await
    }

    /// Reads the next frame, and reports the number of body bytes at each arrival.
    pub(super) async fn next_telling(
        &mut self,
        phase: Phase,
        mut tell: impl FnMut(&FrameHeader, usize),
    ) -> Result<(FrameHeader, Bytes), DropReason> {
        self.wait().await?;
        let grace = self.limits.times.frame_grace;
        let header = timeout(grace, self.finish_header()).await;
        header.map_err(|_| self.too_slow(grace))??;
        self.filled = 0;
        let header = FrameHeader::decode(&self.header, phase).map_err(|e| reason_of(&e))?;
        let body_time = if header.kind.is_response() {
            self.limits.answer_time(header.body_bytes)
        } else {
            self.limits.frame_time(header.body_bytes)
        };
        let reading = self.read_body(header.body_bytes, |bytes| tell(&header, bytes));
        let body = timeout(body_time, reading).await;
        let body = body.map_err(|_| self.too_slow(body_time))??;
        Ok((header, body))
    }

    /// Returns why a frame was not complete in time. Slowness alone is not an offence: if records
    /// arrived in the second half of the time, the link is slow. Otherwise the peer or the way to
    /// it is gone.
    fn too_slow(&self, time: Duration) -> DropReason {
        if self.pieces.is_drip() {
            DropReason::Drip
        } else if self.pulse.last().elapsed() < time / 2 {
            DropReason::SlowFrame
        } else {
            DropReason::Silent
        }
    }

    async fn finish_header(&mut self) -> Result<(), DropReason> {
        while self.filled < HEADER_BYTES {
            self.filled += self.read_header().await?;
        }
        Ok(())
    }

    async fn read_header(&mut self) -> Result<usize, DropReason> {
        let read = self.stream.read(&mut self.header[self.filled..]).await;
        self.pulse.beat();
        match read {
            Ok(0) => Err(DropReason::PeerClosed),
            Ok(length) => {
                self.pieces.add(length);
                Ok(length)
            }
            Err(error) => Err(io_reason(&error)),
        }
    }

    async fn read_body(
        &mut self,
        length_bytes: usize,
        mut tell: impl FnMut(usize),
    ) -> Result<Bytes, DropReason> {
        let (mut room, start) = room_for(self.pool, length_bytes);
        let body = &mut room.bytes_mut()[start..];
        let mut filled = 0;
        while filled < length_bytes {
            match self.stream.read(&mut body[filled..]).await {
                Ok(0) => return Err(DropReason::PeerClosed),
                Ok(length) => {
                    filled += length;
                    self.pulse.beat();
                    self.pieces.add(length);
                    tell(length);
                }
                Err(error) => return Err(io_reason(&error)),
            }
        }
        let mut body = room.freeze();
        body.advance(start);
        Ok(body)
    }
}

/// Returns room for a body, and the offset at which the body starts. A large body ends at the end
/// of a page. So whole pages of data at its end, after a proof, are aligned and may be written to a
/// disk from here.
fn room_for(pool: Option<&PiecePool>, length_bytes: usize) -> (PieceBuffer, usize) {
    if length_bytes < ALIGNED_MIN_BYTES {
        return (PieceBuffer::zeroed(length_bytes), 0);
    }
    let room_bytes = length_bytes + ALIGNED_TO_BYTES;
    let mut room = match pool {
        Some(pool) => pool.take_filled(room_bytes),
        None => PieceBuffer::zeroed(room_bytes),
    };
    let bytes = room.bytes_mut();
    let end = bytes.as_ptr().addr() + length_bytes;
    let start = end.next_multiple_of(ALIGNED_TO_BYTES) - end;
    bytes.truncate(start + length_bytes);
    (room, start)
}

/// Writes a frame within its time limit. The body is not copied on the way to TLS.
pub(super) async fn write_frame<W: AsyncWrite + Unpin>(
    stream: &mut W,
    frame: &Frame,
    limits: &PeerLimits,
) -> Result<(), DropReason> {
    let mut parts = Buf::chain(&frame.header[..], &frame.body[..]);
    let time = limits.frame_time(frame.len_bytes());
    let written = timeout(time, stream.write_all_buf(&mut parts)).await;
    let written = written.map_err(|_| DropReason::SlowReader)?;
    written.map_err(|error| io_reason(&error))
}

/// Flushes the written frames within the time limit.
pub(super) async fn flush<W: AsyncWrite + Unpin>(
    stream: &mut W,
    limits: &PeerLimits,
) -> Result<(), DropReason> {
    let flushed = timeout(limits.times.frame_grace, stream.flush()).await;
    let flushed = flushed.map_err(|_| DropReason::SlowReader)?;
    flushed.map_err(|error| io_reason(&error))
}

pub(super) fn reason_of(error: &WireError) -> DropReason {
    match error {
        WireError::TooLong { .. } => DropReason::Oversized,
        WireError::Malformed { .. } => DropReason::Malformed,
    }
}

/// Returns the reason for an error of the stream. rustls reports a peer's breach of TLS as invalid
/// data.
pub(super) fn io_reason(error: &io::Error) -> DropReason {
    let broken = error
        .get_ref()
        .and_then(|why| why.downcast_ref::<RecordError>());
    match broken {
        Some(RecordError::Malformed) => return DropReason::Malformed,
        Some(RecordError::Empty) => return DropReason::EmptyRecords,
        Some(RecordError::Refused) => return DropReason::Refused,
        _ => {}
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof => DropReason::PeerClosed,
        io::ErrorKind::InvalidData => DropReason::TlsFailed,
        _ => DropReason::Broken,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;
    use p2pfs_proto::wire::native::tcp::{FrameKind, Response};
    use p2pfs_records::CARRIED_MAX_BYTES;

    fn answer(length: usize) -> Frame {
        Response::Data {
            proof: Bytes::from(vec![7; length]),
        }
        .encode(3)
        .unwrap()
    }

    async fn read_one(
        stream: impl AsyncRead + Unpin,
        phase: Phase,
    ) -> Result<(FrameHeader, Bytes), DropReason> {
        let (limits, pulse) = (PeerLimits::default(), Pulse::new());
        FrameReader::new(stream, &limits, &pulse).next(phase).await
    }

    #[tokio::test]
    async fn frames_pass_unchanged_through_a_narrow_pipe() {
        let (mut near, far) = duplex(100);
        let limits = PeerLimits::default();
        let writing = async {
            for length in [0, 1, 5000] {
                write_frame(&mut near, &answer(length), &limits)
                    .await
                    .unwrap();
            }
            flush(&mut near, &limits).await.unwrap();
        };
        let pulse = Pulse::new();
        let mut reader = FrameReader::new(far, &limits, &pulse);
        let reading = async {
            for length in [0, 1, 5000] {
                let (header, body) = reader.next(Phase::Responses).await.unwrap();
                assert_eq!(
                    (header.id, header.kind, body.len()),
                    (3, FrameKind::Data, length)
                );
            }
        };
        tokio::join!(writing, reading);
    }

    #[tokio::test]
    async fn a_large_body_is_unchanged_and_ends_at_a_page() {
        for length in [ALIGNED_MIN_BYTES - 1, ALIGNED_MIN_BYTES, 777_777, 1 << 20] {
            let frame = answer(length);
            let bytes = [&frame.header[..], &frame.body].concat();
            let (_, body) = read_one(&bytes[..], Phase::Responses).await.unwrap();
            assert_eq!(body, frame.body);
            let end = body.as_ptr_range().end.addr();
            let is_aligned = end.is_multiple_of(ALIGNED_TO_BYTES);
            assert!(is_aligned || length < ALIGNED_MIN_BYTES, "{length}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dripping_frame_is_given_up_although_bytes_keep_arriving() {
        let (mut near, far) = duplex(1 << 20);
        let frame = answer(100_000);
        let drip = async {
            let bytes = [&frame.header[..], &frame.body].concat();
            for byte in bytes.chunks(1) {
                if near.write_all(byte).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        let start = Instant::now();
        let reason = tokio::select! {
            read = read_one(far, Phase::Responses) => read.unwrap_err(),
            () = drip => panic!("a dripped frame was waited for to its end"),
        };
        assert_eq!(reason, DropReason::Drip);
        let most = PeerLimits::default().answer_time(100_000) * 2;
        assert!(start.elapsed() <= most, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_arriving_answer_is_awaited_on_a_shared_link() {
        let (mut near, far) = duplex(1 << 20);
        let frame = answer(16 << 10);
        let sending = async {
            let bytes = [&frame.header[..], &frame.body].concat();
            for packet in bytes.chunks(1400) {
                near.write_all(packet).await.unwrap();
                tokio::time::sleep(Duration::from_secs(4)).await;
            }
            std::future::pending::<()>().await;
        };
        let read = tokio::select! {
            read = read_one(far, Phase::Responses) => read.unwrap(),
            () = sending => unreachable!(),
        };
        assert_eq!(read.1, frame.body);
    }

    /// Returns why an answer of this length is given up on a link of this rate. Its records are
    /// those that a node seals.
    async fn given_up(length: usize, bytes_per_s: usize) -> DropReason {
        let (mut near, far) = duplex(1 << 20);
        let frame = answer(length);
        let carry = async {
            let bytes = [&frame.header[..], &frame.body].concat();
            for record in bytes.chunks(CARRIED_MAX_BYTES) {
                let takes = Duration::from_secs_f64(record.len() as f64 / bytes_per_s as f64);
                tokio::time::sleep(takes).await;
                near.write_all(record).await.unwrap();
            }
        };
        tokio::select! {
            read = read_one(far, Phase::Responses) => read.unwrap_err(),
            () = carry => panic!("it was waited for to its end"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_too_slow_for_a_frame_ends_the_connection_without_blame() {
        for (length, bytes_per_s) in [(2 << 20, 5000), (2 << 20, 1000), (300_000, 900)] {
            let reason = given_up(length, bytes_per_s).await;
            assert_eq!(reason, DropReason::SlowFrame, "{bytes_per_s}");
            assert!(!reason.is_breach());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dripping_header_is_given_up() {
        let (mut near, far) = duplex(64);
        let drip = async {
            for _ in 1..HEADER_BYTES {
                near.write_all(&[0]).await.unwrap();
                tokio::time::sleep(PeerLimits::default().times.frame_grace / 4).await;
            }
            std::future::pending().await
        };
        let reason = tokio::select! {
            read = read_one(far, Phase::Responses) => read.unwrap_err(),
            () = drip => unreachable!(),
        };
        assert_eq!(reason, DropReason::Drip);
        assert!(reason.is_breach());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_cut_off_within_a_frame_is_silent_and_not_an_offender() {
        let (mut near, far) = duplex(1 << 20);
        let frame = answer(100_000);
        near.write_all(&frame.header).await.unwrap();
        near.write_all(&frame.body[..50_000]).await.unwrap();
        let reason = read_one(far, Phase::Responses).await.unwrap_err();
        assert_eq!(reason, DropReason::Silent);
        let faultless = [
            DropReason::Silent,
            DropReason::PeerClosed,
            DropReason::Broken,
        ];
        assert!(faultless.iter().all(|reason| !reason.is_breach()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_its_answer_is_given_up() {
        let (mut near, _far) = duplex(64);
        let limits = PeerLimits::default();
        let written = write_frame(&mut near, &answer(1000), &limits).await;
        assert_eq!(written, Err(DropReason::SlowReader));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_between_frames_is_not_a_fault() {
        let (mut near, far) = duplex(1 << 16);
        let limits = PeerLimits::default();
        let later = async {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            write_frame(&mut near, &answer(10), &limits).await.unwrap();
        };
        let (read, ()) = tokio::join!(read_one(far, Phase::Responses), later);
        assert!(read.is_ok());
    }

    #[tokio::test]
    async fn an_oversized_or_misplaced_frame_ends_the_connection_before_its_body() {
        for (kind, length, phase, reason) in [
            (
                FrameKind::Data,
                3u32 << 20,
                Phase::Responses,
                DropReason::Oversized,
            ),
            (
                FrameKind::Data,
                u32::MAX,
                Phase::Responses,
                DropReason::Oversized,
            ),
            (
                FrameKind::AskMembers,
                100,
                Phase::Greeting,
                DropReason::Malformed,
            ),
            (FrameKind::Data, 100, Phase::Requests, DropReason::Malformed),
        ] {
            let (mut near, far) = duplex(64);
            let mut header = Frame::empty(1, kind).header;
            header[..4].copy_from_slice(&length.to_be_bytes());
            near.write_all(&header).await.unwrap();
            assert_eq!(read_one(far, phase).await, Err(reason), "{kind:?}");
        }
    }

    #[tokio::test]
    async fn a_truncated_stream_is_a_closed_connection() {
        let frame = answer(20);
        let bytes = [&frame.header[..], &frame.body].concat();
        for length in 0..bytes.len() {
            let cut = &bytes[..length];
            assert_eq!(
                read_one(cut, Phase::Responses).await,
                Err(DropReason::PeerClosed)
            );
        }
        assert!(read_one(&bytes[..], Phase::Responses).await.is_ok());
    }
}
