//! The handshake and the records of a connection: data that a member seals, changed on the way or
//! not, and bytes of any sender.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use arbitrary::{Result, Unstructured};
use p2pfs_records::testing::{self, configs};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream from which some bytes can be read at a time, and which accepts all that is written.
struct Wire<'a> {
    bytes: &'a [u8],
    at_a_time: usize,
}

impl AsyncRead for Wire<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let bytes = self.at_a_time.min(buffer.remaining());
        let (now, later) = self.bytes.split_at(bytes.min(self.bytes.len()));
        buffer.put_slice(now);
        self.bytes = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Returns the output of a future that never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("nothing waits here"),
    }
}

/// Reads a stream to its end or its error, some bytes at a time.
fn read_all(mut stream: impl AsyncRead + Unpin, at_a_time: usize) -> Vec<u8> {
    let (mut all, mut room) = (vec![], vec![0; at_a_time]);
    loop {
        let mut buffer = ReadBuf::new(&mut room);
        let read =
            Pin::new(&mut stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer);
        match read {
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                all.extend_from_slice(buffer.filled());
            }
            _ => return all,
        }
    }
}

/// Reads records that a member sealed. One byte may be changed on the way. The result must be the
/// beginning of the sealed data, up to the first record that is changed or of the wrong form.
pub fn records(choose: &mut Unstructured<'_>) -> Result<()> {
    let (mut sealer, _) = testing::way(0);
    let mut key = testing::first_key();
    let (mut wire, mut honest, mut is_wrong) = (vec![], vec![], false);
    let (at_a_time, read_at_a_time) = (
        choose.int_in_range(1..=9000)?,
        choose.int_in_range(1..=20_000)?,
    );
    let changed: Option<(usize, u8)> = choose.arbitrary()?;
    while !choose.is_empty() && wire.len() < 200_000 {
        let record = match choose.int_in_range(0..=6u8)? {
            0..=2 => {
                let length = choose.int_in_range(0..=16_384)?;
                let padding = choose.int_in_range(0..=255)?;
                let bytes = vec![choose.arbitrary::<u8>()?; length];
                if !is_wrong {
                    honest.extend_from_slice(&bytes);
                }
                let inside = [&bytes[..], &[23], &vec![0; padding][..]].concat();
                testing::seal_inside(&mut sealer, &inside)
            }
            3 | 4 => testing::seal_update(&mut sealer, &mut key, choose.arbitrary()?),
            5 => {
                let length = choose.len().min(40);
                let inside = choose.bytes(length)?;
                // A record of data or of an update is made above.
                is_wrong = true;
                testing::seal_inside(&mut sealer, inside)
            }
            _ => choose.bytes(choose.len().min(40))?.to_vec(),
        };
        wire.extend(record);
    }
    let is_changed = changed.is_some_and(|(_, by)| by != 0) && !wire.is_empty();
    if let Some((at, by)) = changed.filter(|_| is_changed) {
        let length = wire.len();
        wire[at % length] ^= by;
    }
    let stream = Wire {
        bytes: &wire,
        at_a_time,
    };
    let read = read_all(testing::reader(stream, 0), read_at_a_time);
    let common = read.len().min(honest.len());
    assert!(read[..common] == honest[..common]);
    assert!(read.len() <= honest.len() || is_wrong);
    Ok(())
}

/// Sends any bytes to an accepting end, and the answer of the dialled end.
pub fn handshake(choose: &mut Unstructured<'_>) -> Result<()> {
    let at_a_time = choose.int_in_range(1..=5000)?;
    let wrapped: bool = choose.arbitrary()?;
    let mut bytes = choose.bytes(choose.len())?.to_vec();
    if wrapped {
        let pieces = bytes.chunks(at_a_time).map(|piece| {
            let length = (piece.len() as u16).to_be_bytes();
            [&[22, 3, 3, length[0], length[1]], piece].concat()
        });
        bytes = pieces.collect::<Vec<_>>().concat();
    }
    let (client, server) = configs::configs(true);
    let wire = || Wire {
        bytes: &bytes,
        at_a_time,
    };
    assert!(now(p2pfs_records::accept(&server, wire())).is_err());
    assert!(
        now(p2pfs_records::connect(
            &client,
            configs::name(),
            wire(),
            || ()
        ))
        .is_err()
    );
    Ok(())
}
