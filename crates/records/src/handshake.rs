//! The handshake: rustls decides what is sent and accepted. This module moves the bytes, and limits
//! how many of them may wait.
//!
//! This module shows whole records to rustls, one more at a time, and none after the last record of
//! the handshake. Bytes that arrived behind that record become the first received bytes of
//! [`TlsStream`]. Resumption, early data and tickets must be off in the configuration: no handshake
//! message but a key update is accepted later.

use std::io;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, Error, ExtractedSecrets, InvalidMessage, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::exporter::ExporterLog;
use crate::keys::{KeySource, KeyUpdates};
use crate::limits::HANDSHAKE_MAX_BYTES;
use crate::seal::{BODY_MAX_BYTES, HEADER_BYTES, Opener, Sealer, record_bytes};
use crate::stream::{ConnectionFacts, TlsStream};

/// Valid types of records, from a change of ciphers to data. The first byte of their version is
/// [`VERSION_MAJOR`].
const RECORD_TYPES: std::ops::RangeInclusive<u8> = 20..=23;
const VERSION_MAJOR: u8 = 3;
/// Maximum bytes of one read of the socket during the handshake.
const READ_BYTES: usize = 4 << 10;

/// The end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The end that dialled.
    Client,
    /// The end that accepted.
    Server,
}

/// Reason why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The network failed, or the other end closed the connection.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// rustls reported an error, such as a key that it refuses or an alert of the other end.
    #[error(transparent)]
    Tls(#[from] Error),
    /// [`HANDSHAKE_MAX_BYTES`] of an unfinished message arrived.
    #[error("a message of the handshake is longer than {HANDSHAKE_MAX_BYTES} bytes")]
    TooLong,
    /// The other end closed the connection by an alert or sent data before the handshake was
    /// complete. Or its last message of the handshake did not end with a record.
    #[error("the other end left the handshake")]
    Left,
    /// The handshake gave no TLS 1.3 keys that this crate supports, or no exporter.
    #[error("the handshake gave no keys of TLS 1.3")]
    NoKeys,
}

impl From<HandshakeError> for io::Error {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::Io(error) => error,
            HandshakeError::Left => io::ErrorKind::UnexpectedEof.into(),
            error => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// Opens a TLS connection on a stream. Calls `on_first_bytes` when the first bytes from the other
/// end arrive.
///
/// # Errors
/// [`HandshakeError`]
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    config: &ClientConfig,
    name: ServerName<'static>,
    stream: S,
    on_first_bytes: impl FnOnce(),
) -> Result<TlsStream<S>, HandshakeError> {
    let log = Arc::new(ExporterLog::default());
    let mut config = config.clone();
    config.key_log = log.clone();
    config.enable_secret_extraction = true;
    let connection = UnbufferedClientConnection::new(Arc::new(config), name)?;
    let mut driver = Driver::new(connection, stream, Some(on_first_bytes));
    driver.run().await?;
    driver.into_stream(Side::Client, &log)
}

/// Accepts a TLS connection on a stream.
///
/// # Errors
/// [`HandshakeError`]
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    config: &ServerConfig,
    stream: S,
) -> Result<TlsStream<S>, HandshakeError> {
    let log = Arc::new(ExporterLog::default());
    let mut config = config.clone();
    config.key_log = log.clone();
    config.enable_secret_extraction = true;
    let connection = UnbufferedServerConnection::new(Arc::new(config))?;
    let mut driver = Driver::new(connection, stream, None::<fn()>);
    driver.run().await?;
    driver.into_stream(Side::Server, &log)
}

/// Common interface of rustls's connections of clients and servers.
trait Unbuffered {
    type ConnectionData;
    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::ConnectionData>;
    fn common(&self) -> &CommonState;
    fn into_keys(self) -> Result<(ExtractedSecrets, KeySource), Error>;
}

impl Unbuffered for UnbufferedClientConnection {
    type ConnectionData = ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::ConnectionData> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_keys(self) -> Result<(ExtractedSecrets, KeySource), Error> {
        let (secrets, kernel) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, KeySource::Client(kernel)))
    }
}

impl Unbuffered for UnbufferedServerConnection {
    type ConnectionData = ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::ConnectionData> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_keys(self) -> Result<(ExtractedSecrets, KeySource), Error> {
        let (secrets, kernel) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, KeySource::Server(kernel)))
    }
}

/// Next action that rustls needs.
enum Step {
    /// Call rustls again.
    Again,
    /// Send the outgoing bytes.
    Send,
    /// Read the next record.
    Read,
    /// The handshake is complete.
    Done,
}

struct Driver<C, S, F> {
    connection: C,
    stream: S,
    on_first_bytes: Option<F>,
    incoming: Vec<u8>,
    /// Number of bytes at the beginning of `incoming` that rustls may see.
    shown: usize,
    outgoing: Vec<u8>,
}

impl<C: Unbuffered, S: AsyncRead + AsyncWrite + Unpin, F: FnOnce()> Driver<C, S, F> {
    fn new(connection: C, stream: S, on_first_bytes: Option<F>) -> Self {
        Self {
            connection,
            stream,
            on_first_bytes,
            incoming: Vec::new(),
            shown: 0,
            outgoing: Vec::new(),
        }
    }

    async fn run(&mut self) -> Result<(), HandshakeError> {
        loop {
            match self.step() {
                Ok(Step::Again) => {}
                Ok(Step::Send) => self.send().await?,
                Ok(Step::Read) => self.show_record().await?,
                // A message must not span a change of keys (RFC 8446, section 5.1). So rustls must
                // have used all bytes that it saw.
                Ok(Step::Done) if self.shown > 0 => return Err(HandshakeError::Left),
                Ok(Step::Done) => return Ok(()),
                Err(error) => {
                    self.send_alerts().await;
                    return Err(error);
                }
            }
        }
    }

    /// Lets rustls process the bytes that it may see.
    fn step(&mut self) -> Result<Step, HandshakeError> {
        let status = self.connection.process(&mut self.incoming[..self.shown]);
        let UnbufferedStatus { discard, state } = status;
        let step = match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                encode(&mut self.outgoing, |room| data.encode(room)).map(|()| Step::Again)
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                Ok(Step::Send)
            }
            Ok(ConnectionState::BlockedHandshake) => Ok(Step::Read),
            Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Done),
            Ok(_) => Err(HandshakeError::Left),
            Err(error) => Err(error.into()),
        };
        self.incoming.drain(..discard);
        self.shown -= discard;
        // A server can write before the client's last message arrives, so `WriteTraffic` alone does
        // not mean that the handshake is complete.
        let is_complete = !self.connection.common().is_handshaking();
        match step {
            Ok(Step::Done) if !is_complete => Ok(Step::Read),
            step => step,
        }
    }

    async fn send(&mut self) -> Result<(), HandshakeError> {
        self.stream.write_all(&self.outgoing).await?;
        self.stream.flush().await?;
        self.outgoing.clear();
        Ok(())
    }

    /// Sends the remaining outgoing bytes, and the alerts that rustls has queued about an error.
    /// Ignores a failure to send.
    async fn send_alerts(&mut self) {
        // While an alert is queued, rustls encodes it before it looks at the incoming bytes again.
        // Without a queued alert, rustls must not be called after an error.
        while self.connection.common().wants_write() && matches!(self.step(), Ok(Step::Again)) {}
        // The error ends the connection in any case.
        let _sent = self.send().await;
    }

    /// Lets rustls see one more record. Reads from the stream until that record is complete.
    async fn show_record(&mut self) -> Result<(), HandshakeError> {
        loop {
            if let Some(end) = end_of_record(&self.incoming, self.shown)? {
                self.shown = end;
                return Ok(());
            }
            if self.incoming.len() >= HANDSHAKE_MAX_BYTES {
                return Err(HandshakeError::TooLong);
            }
            let mut room = [0; READ_BYTES];
            let most = READ_BYTES.min(HANDSHAKE_MAX_BYTES - self.incoming.len());
            let came = self.stream.read(&mut room[..most]).await?;
            if came == 0 {
                return Err(HandshakeError::Io(io::ErrorKind::UnexpectedEof.into()));
            }
            if let Some(tell) = self.on_first_bytes.take() {
                tell();
            }
            self.incoming.extend_from_slice(&room[..came]);
        }
    }

    /// Makes the stream of a complete handshake, with its keys.
    fn into_stream(self, side: Side, log: &ExporterLog) -> Result<TlsStream<S>, HandshakeError> {
        let common = self.connection.common();
        let suite = common.negotiated_cipher_suite();
        let suite = suite.and_then(|suite| suite.tls13());
        let exporter = suite.and_then(|suite| log.take(suite));
        let key = common.peer_certificates().and_then(<[_]>::first);
        let facts = ConnectionFacts {
            side,
            peer_certificate: key.map(|key| key.clone().into_owned()),
            alpn_protocol: common.alpn_protocol().map(<[u8]>::to_vec),
            exporter: exporter.ok_or(HandshakeError::NoKeys)?,
        };
        let (secrets, source) = self.connection.into_keys()?;
        let keys = Sealer::new(secrets.tx).zip(Opener::new(secrets.rx));
        let (sealer, opener) = keys.ok_or(HandshakeError::NoKeys)?;
        let updates = Arc::new(KeyUpdates::new(source));
        let (stream, rest) = (self.stream, &self.incoming[..]);
        Ok(TlsStream::new(
            stream,
            facts,
            (sealer, opener),
            updates,
            rest,
        ))
    }
}

/// Appends the bytes that `encode` writes to the outgoing bytes.
fn encode(
    outgoing: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), HandshakeError> {
    let begin = outgoing.len();
    let encoded = match encode(&mut []) {
        Err(EncodeError::InsufficientSize(size)) => {
            outgoing.resize(begin + size.required_size, 0);
            encode(&mut outgoing[begin..])
        }
        encoded => encoded,
    };
    let length = encoded.map_err(|error| Error::General(error.to_string()))?;
    outgoing.truncate(begin + length);
    Ok(())
}

/// Returns the end of the record at `begin`, or `None` if the record is incomplete. If the bytes at
/// `begin` are not a record, returns the end of all bytes, so that rustls sees and refuses them.
///
/// # Errors
/// The error of rustls for a record over [`BODY_MAX_BYTES`]. rustls itself accepts headers
/// of somewhat longer records.
fn end_of_record(bytes: &[u8], begin: usize) -> Result<Option<usize>, Error> {
    let bytes_here = &bytes[begin..];
    let is_type = |kind: &u8| RECORD_TYPES.contains(kind);
    let is_record = bytes_here.first().is_none_or(is_type)
        && bytes_here
            .get(1)
            .is_none_or(|version| *version == VERSION_MAJOR);
    if !is_record {
        return Ok(Some(bytes.len()));
    }
    let Some(header) = bytes_here.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let body_bytes = record_bytes(header);
    if body_bytes > BODY_MAX_BYTES {
        return Err(InvalidMessage::MessageTooLarge.into());
    }
    let end = begin + HEADER_BYTES + body_bytes;
    Ok((end <= bytes.len()).then_some(end))
}

#[cfg(test)]
mod tests;
