//! One connection to the control socket, from its first byte to its last.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::call::Right;
use super::calls::Call;
use super::credentials::{Credentials, Policy};
use super::descriptor;
use super::failure::{Failure, FailureKind};
use super::framing::{
    CALL_MAX_BYTES, CallMessage, Inbox, READ_CALL_MAX_BYTES, encode_call_error, encode_error,
    encode_failure, encode_reply,
};
use super::interface;
use super::request::{ControlRequest, Outgoing, Replies, ReplySink};
use super::turn::Turn;

/// How long a caller may take from one call to the end of the next.
pub const IDLE_MAX: Duration = Duration::from_secs(60);
/// How long a caller may take to read one reply. A caller that follows events has no limit and
/// receives the number of events that it lost.
pub const REPLY_READ_MAX: Duration = Duration::from_secs(10);
/// How long a call waits for a slot in the node's queue before the daemon reports that it is busy.
pub const QUEUE_WAIT_MAX: Duration = Duration::from_secs(5);
/// Bytes per read from a socket.
const READ_BYTES: usize = 16 * 1024;
/// Maximum bytes of a call that is parsed on the runtime's own threads, which takes about 20 µs. A
/// longer call is parsed on a blocking thread, so that it delays no reader.
const INLINE_CALL_BYTES: usize = 4 * 1024;

/// State that all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) policy: Policy,
    pub(super) requests: mpsc::Sender<ControlRequest>,
}

impl Shared {
    /// Parses one message of a caller. May take milliseconds.
    fn take_in(&self, caller: &Credentials, bytes: &[u8]) -> Result<Taken, Ended> {
        let message = CallMessage::read(bytes).ok_or(Ended::NoCall)?;
        let oneway = message.oneway;
        if let Some(bytes) = interface::answer(&message) {
            return Ok(Taken::Answered { bytes, oneway });
        }
        Ok(match self.admit(caller, &message) {
            Ok(call) => Taken::Call { call, oneway },
            Err(bytes) => Taken::Answered { bytes, oneway },
        })
    }

    /// Returns the call, or the reply that refuses it.
    fn admit(&self, caller: &Credentials, message: &CallMessage<'_>) -> Result<Call, Vec<u8>> {
        let call = Call::decode(&message.method, message.parameters())
            .map_err(|e| encode_call_error(&e, message))?;
        self.policy
            .check(caller, call.info().right)
            .map_err(|e| encode_failure(&e))?;
        if call.info().needs_more && !message.more {
            return Err(encode_error("org.varlink.service.ExpectedMore", &json!({})));
        }
        if message.upgrade {
            let method = json!({"method": message.method});
            return Err(encode_error(
                "org.varlink.service.MethodNotImplemented",
                &method,
            ));
        }
        Ok(call)
    }
}

/// A parsed message.
enum Taken {
    /// A call for the node.
    Call { call: Call, oneway: bool },
    /// A message with its answer, which needs no node.
    Answered { bytes: Vec<u8>, oneway: bool },
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the caller closed it")]
    Closed,
    #[error("the caller sent nothing for {} s", IDLE_MAX.as_secs())]
    Idle,
    #[error("the caller sent a message of more than {max_bytes} bytes")]
    TooLong {
        /// The limit for the rights of this caller.
        max_bytes: usize,
    },
    #[error("the caller sent something that is not a Varlink call")]
    NoCall,
    #[error("the caller read too slowly")]
    Slow,
    #[error("{0}")]
    Socket(#[from] std::io::Error),
}

/// One connection.
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    pub(super) caller: Credentials,
    pub(super) shared: Arc<Shared>,
    /// The turn of the caller's user.
    turn: Turn,
    /// Maximum bytes of one call of this caller.
    call_max_bytes: usize,
    inbox: Inbox,
    /// The last descriptor that arrived with the call.
    given: Option<OwnedFd>,
    /// Whether the caller has closed its sending side.
    half_closed: bool,
    /// How long the caller may take to read one reply.
    reply_read_max: Duration,
}

impl Connection {
    pub(super) fn new(
        stream: UnixStream,
        caller: Credentials,
        shared: Arc<Shared>,
        turn: Turn,
    ) -> Self {
        let call_max_bytes = if shared.policy.allows(&caller, Right::Cache) {
            CALL_MAX_BYTES
        } else {
            READ_CALL_MAX_BYTES
        };
        Self {
            stream,
            caller,
            shared,
            turn,
            call_max_bytes,
            inbox: Inbox::default(),
            given: None,
            half_closed: false,
            reply_read_max: REPLY_READ_MAX,
        }
    }

    /// Answers calls one after the other until the connection ends, and returns the reason.
    pub(super) async fn serve(mut self) -> Ended {
        loop {
            if let Err(ended) = self.serve_one().await {
                return ended;
            }
        }
    }

    async fn serve_one(&mut self) -> Result<(), Ended> {
        let next = timeout(IDLE_MAX, self.next_message()).await;
        let bytes = next.map_err(|_| Ended::Idle)??;
        match self.take_in(bytes).await? {
            Taken::Call { call, oneway } => self.forward(call, oneway).await,
            Taken::Answered { bytes, oneway } => self.write_unless(oneway, &bytes).await,
        }
    }

    /// Parses a message once its user has the turn.
    async fn take_in(&self, bytes: Vec<u8>) -> Result<Taken, Ended> {
        let _turn = self.turn.take().await;
        if bytes.len() <= INLINE_CALL_BYTES {
            return self.shared.take_in(&self.caller, &bytes);
        }
        let (shared, caller) = (self.shared.clone(), self.caller.clone());
        let reading = spawn_blocking(move || shared.take_in(&caller, &bytes));
        reading.await.unwrap_or(Err(Ended::NoCall))
    }

    /// Passes the call to the node and the replies to the caller.
    async fn forward(&mut self, call: Call, oneway: bool) -> Result<(), Ended> {
        let streams = call.info().needs_more;
        self.reply_read_max = if call.is_followed() {
            Duration::MAX
        } else {
            REPLY_READ_MAX
        };
        let (reply, mut replies) = ReplySink::pair();
        let request = ControlRequest {
            call,
            caller: self.caller.clone(),
            descriptor: self.given.take(),
            turn: self.turn.clone(),
            reply,
        };
        if let Err(failure) = self.enqueue(request).await {
            return self.write_unless(oneway, &encode_failure(&failure)).await;
        }
        while let Some(reply) = self.next_reply(&mut replies, streams).await? {
            if !oneway {
                self.write_reply(&reply, true).await?;
            }
        }
        // A sink always sends its last reply, at the latest when it is dropped.
        match replies.last.await.map_err(|_| Ended::Closed)? {
            _ if oneway => Ok(()),
            Ok(reply) => self.write_reply(&reply, false).await,
            Err(failure) => self.write(&encode_failure(&failure)).await,
        }
    }

    async fn enqueue(&self, request: ControlRequest) -> Result<(), Failure> {
        let refused =
            |kind, message| Err(Failure::new(kind, message).with_remedy("try again in a moment"));
        match timeout(QUEUE_WAIT_MAX, self.shared.requests.reserve()).await {
            Ok(Ok(place)) => {
                place.send(request);
                Ok(())
            }
            Ok(Err(_)) => {
                request.reply.abandon();
                // This failure kind lets a caller repeat the call at the next daemon.
                refused(FailureKind::Stopping, "the daemon is stopping")
            }
            Err(_) => {
                request.reply.abandon();
                refused(FailureKind::Busy, "the daemon has too much to do")
            }
        }
    }

    /// Returns the next reply before the last one; `None` once only the last one is left. If the
    /// call has several replies (`streams`) and the caller closes its sending side, ends the
    /// connection. Otherwise a caller that is gone would not be detected while no reply is due.
    async fn next_reply(
        &mut self,
        replies: &mut Replies,
        streams: bool,
    ) -> Result<Option<Outgoing>, Ended> {
        loop {
            let room = self.inbox.waiting_bytes() < self.call_max_bytes;
            tokio::select! {
                reply = replies.more.recv() => return Ok(reply),
                read = self.read_some(), if room && !self.half_closed => read?,
            }
            if self.half_closed && streams {
                return Err(Ended::Closed);
            }
        }
    }

    async fn next_message(&mut self) -> Result<Vec<u8>, Ended> {
        loop {
            if let Some(message) = self.inbox.next_message() {
                return Ok(message);
            }
            if self.half_closed {
                return Err(Ended::Closed);
            }
            if self.inbox.waiting_bytes() >= self.call_max_bytes {
                let max_bytes = self.call_max_bytes;
                return Err(Ended::TooLong { max_bytes });
            }
            self.read_some().await?;
        }
    }

    /// Reads the available bytes into the inbox. Cancellation loses no bytes.
    async fn read_some(&mut self) -> Result<(), Ended> {
        loop {
            self.stream.readable().await?;
            let mut buffer = [0; READ_BYTES];
            let read = || descriptor::receive(&self.stream, &mut buffer);
            match self.stream.try_io(Interest::READABLE, read) {
                Ok((0, _)) => return self.end_of_calls().await,
                Ok((length, given)) => {
                    self.inbox.bytes_mut().extend_from_slice(&buffer[..length]);
                    self.given = given.or(self.given.take());
                    return Ok(());
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Handles the end of the caller's sending side. The caller either still waits for its replies,
    /// or has closed the connection.
    async fn end_of_calls(&mut self) -> Result<(), Ended> {
        self.half_closed = true;
        let ready = self
            .stream
            .ready(Interest::READABLE | Interest::WRITABLE)
            .await?;
        if ready.is_write_closed() {
            Err(Ended::Closed)
        } else {
            Ok(())
        }
    }

    async fn write_reply(&mut self, reply: &Outgoing, continues: bool) -> Result<(), Ended> {
        let bytes = encode_reply(reply, continues);
        let Some(descriptor) = &reply.descriptor else {
            return self.write(&bytes).await;
        };
        if !descriptor::is_read_only(descriptor) {
            // A caller may be any local user, so no writable descriptor may leave the daemon.
            let message = "the daemon opened the file for writing and keeps it to itself";
            return self
                .write(&encode_failure(&Failure::new(FailureKind::Failed, message)))
                .await;
        }
        let send = self.stream.async_io(Interest::WRITABLE, || {
            descriptor::send(&self.stream, &bytes, descriptor.as_fd())
        });
        let sent = timeout(self.reply_read_max, send)
            .await
            .map_err(|_| Ended::Slow)??;
        self.write(&bytes[sent..]).await
    }

    async fn write_unless(&mut self, oneway: bool, bytes: &[u8]) -> Result<(), Ended> {
        if oneway {
            Ok(())
        } else {
            self.write(bytes).await
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        let write = async {
            let mut rest = bytes;
            while !rest.is_empty() {
                self.stream.writable().await?;
                match self.stream.try_write(rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(e) => return Err(Ended::from(e)),
                }
            }
            Ok(())
        };
        timeout(self.reply_read_max, write)
            .await
            .map_err(|_| Ended::Slow)?
    }
}
