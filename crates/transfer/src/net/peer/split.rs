//! The two directions of a connection after its greeting, and the observer that passes news about
//! received records to the socket and to the link's figures.

use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::time::Instant;

use super::counters::DropReason;
use super::low_water::BytesLacked;
use super::queue_limit::{LastTcpInfo, QueueLimitedStream};
use super::tcp_info::TcpGauge;
use p2pfs_records::{RecordObserver, RecordReader, RecordWriter, TlsStream};

/// Both directions of a connection.
pub(super) struct SplitConnection<S> {
    pub(super) reading: RecordReader<ReadHalf<S>>,
    pub(super) writing: RecordWriter<WriteHalf<S>>,
    pub(super) link: LastTcpInfo,
}

impl<S: AsyncRead + AsyncWrite + TcpGauge + Unpin> SplitConnection<QueueLimitedStream<S>> {
    /// Takes a connection over after the greeting.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] if the last record of the greeting contains more bytes
    /// than the greeting.
    pub(super) fn after_greeting(
        stream: TlsStream<QueueLimitedStream<S>>,
    ) -> Result<Self, DropReason> {
        let link = stream.get_ref().last_reading();
        let observer = LinkObserver {
            lack: stream.get_ref().lack(),
            link: link.clone(),
        };
        let split = stream.split(observer);
        let (reading, writing) = split.map_err(|_| DropReason::Malformed)?;
        Ok(Self {
            reading,
            writing,
            link,
        })
    }
}

/// Passes news about records to the socket and to the figures of its link.
pub(super) struct LinkObserver {
    pub(super) lack: BytesLacked,
    pub(super) link: LastTcpInfo,
}

impl RecordObserver for LinkObserver {
    fn lacks(&self, bytes: usize) {
        self.lack.set(bytes);
    }

    fn passed_over(&self) {
        self.link.pass_over(Instant::now());
    }
}
