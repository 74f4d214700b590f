//! A file in transfer from a legacy peer, throttled by the download limit.

use std::net::SocketAddrV4;

use bytes::Bytes;

use crate::net::discovery::{LegacyError, Transfer};
use crate::wire::discovery::Name;
use p2pfs_node::ForeignThrottle;

/// A rate-limited transfer. While nothing is read from the connection, TCP slows the peer down.
#[derive(Debug)]
pub struct ThrottledTransfer {
    transfer: Transfer,
    passage: ForeignThrottle,
    /// Bytes that arrived and must pass the rate limit before more is read.
    owed_bytes: u64,
}

impl ThrottledTransfer {
    /// Begins a transfer, as [`Transfer::begin`] does.
    ///
    /// # Errors
    /// Those of [`Transfer::begin`].
    pub(super) async fn begin(
        at: SocketAddrV4,
        name: &Name,
        passage: ForeignThrottle,
    ) -> Result<Self, LegacyError> {
        Ok(Self {
            transfer: Transfer::begin(at, name).await?,
            passage,
            owed_bytes: 0,
        })
    }

    /// Returns the address at which the peer serves the file.
    pub fn at(&self) -> SocketAddrV4 {
        self.transfer.at()
    }

    /// Returns the announced size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.transfer.size_bytes()
    }

    /// Waits until the rate limit allows further bytes. It is separate from [`Self::next`], so that
    /// a caller does not count the wait as silence of the peer. The future may be dropped early
    /// without loss.
    pub(super) async fn allowed(&mut self, is_waited_for: bool) {
        if self.owed_bytes > 0 {
            let passed = self.passage.pass(self.owed_bytes, is_waited_for).await;
            passed.mark_transferred();
            self.owed_bytes = 0;
        }
    }

    /// Returns the next bytes once the rate limit allows them, or `None` at the end, as
    /// [`Transfer::next`] does.
    ///
    /// # Errors
    /// [`LegacyError`]; then the caller must discard the earlier bytes.
    pub async fn next(&mut self) -> Result<Option<Bytes>, LegacyError> {
        self.allowed(false).await;
        let part = self.transfer.next().await?;
        let length = part.as_ref().map_or(0, Bytes::len) as u64;
        self.owed_bytes = length;
        self.passage.count(length);
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::{Duration, Instant};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::wire::discovery::TransferHeader;
    use p2pfs_node::PeerBytes;
    use p2pfs_transfer::Pace;

    const MIB: u64 = 1 << 20;

    async fn peer_that_gives(name: Name, size_bytes: u64) -> SocketAddrV4 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let SocketAddr::V4(at) = listener.local_addr().unwrap() else {
            panic!("not IPv4");
        };
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _request = stream.read(&mut [0; 64]).await.unwrap();
            let header = TransferHeader::new(name, size_bytes).unwrap();
            stream.write_all(&header.encode()).await.unwrap();
            let bytes = vec![7; usize::try_from(size_bytes).unwrap()];
            stream.write_all(&bytes).await.unwrap();
        });
        at
    }

    #[tokio::test]
    async fn a_limit_applies_in_mid_transfer_and_all_bytes_are_counted() {
        let name = Name::new(b"a.bin").unwrap();
        let at = peer_that_gives(name.clone(), 8 * MIB).await;
        let (pace, taken) = (Pace::default(), PeerBytes::default());
        let passage = ForeignThrottle::new(&pace, &taken);
        let mut incoming = ThrottledTransfer::begin(at, &name, passage).await.unwrap();
        while taken.total() < 4 * MIB {
            assert!(incoming.next().await.unwrap().is_some());
        }
        pace.set(Some(2 * MIB));
        let begun = Instant::now();
        while incoming.next().await.unwrap().is_some() {}
        // about two seconds at the limit, of which half a second's worth may pass at once
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(1), "{took:?}");
        assert_eq!(taken.total(), 8 * MIB);
    }
}
