//! Stream that gives TLS no byte beyond the current record. After the greeting the keys leave
//! rustls, and the stream then stands exactly at the start of a record.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take};

use super::seal::{HEADER_BYTES, record_bytes};

/// Stream for a handshake and a greeting.
#[derive(Debug)]
pub(super) struct Corked<S> {
    stream: Take<S>,
    header: [u8; HEADER_BYTES],
    /// Number of header bytes that arrived.
    filled: usize,
    /// Number of bytes of the record that are still to arrive.
    left: usize,
}

impl<S: AsyncRead> Corked<S> {
    /// Wraps a stream. Must be called before the first byte is read.
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream: stream.take(0),
            header: [0; HEADER_BYTES],
            filled: 0,
            left: 0,
        }
    }

    pub(super) fn get_ref(&self) -> &S {
        self.stream.get_ref()
    }

    pub(super) fn get_mut(&mut self) -> &mut S {
        self.stream.get_mut()
    }

    /// Returns the stream if it stands between two records.
    pub(super) fn into_inner(self) -> Option<S> {
        (self.filled == 0).then(|| self.stream.into_inner())
    }

    fn note(&mut self, came: &[u8]) {
        if self.filled < HEADER_BYTES {
            self.header[self.filled..][..came.len()].copy_from_slice(came);
            self.filled += came.len();
            if self.filled == HEADER_BYTES {
                self.left = record_bytes(&self.header);
            }
        } else {
            self.left -= came.len();
        }
        if self.filled == HEADER_BYTES && self.left == 0 {
            self.filled = 0;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Corked<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let wanted = if this.filled < HEADER_BYTES {
            HEADER_BYTES - this.filled
        } else {
            this.left
        };
        this.stream.set_limit(wanted as u64);
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        this.note(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.get_mut().get_mut()).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.get_mut().get_mut()).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.get_ref().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().get_mut()).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().get_mut()).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_read_goes_beyond_a_record_and_the_stream_is_given_back_between_two_alone() {
        let records = [
            &[22, 3, 1, 0, 4, 1, 2, 3, 4][..],
            &[20, 3, 3, 0, 0],
            &[23, 3, 3, 0, 2, 5, 6],
        ];
        let wire = records.concat();
        let mut corked = Corked::new(&wire[..]);
        for record in records {
            let (mut came, mut some) = (vec![], [0; 100]);
            while came.len() < record.len() {
                let length = corked.read(&mut some).await.unwrap();
                assert!(length > 0);
                came.extend_from_slice(&some[..length]);
                assert_eq!(corked.filled == 0, came.len() == record.len());
            }
            assert_eq!(came, record);
        }
        assert_eq!(corked.into_inner(), Some(&b""[..]));
        let mut corked = Corked::new(&wire[..]);
        corked.read_exact(&mut [0; 3]).await.unwrap();
        assert_eq!(corked.into_inner(), None);
    }
}
