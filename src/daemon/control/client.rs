//! The caller's side: a blocking client, because the command line has no other work meanwhile.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::again::Breaks;
use super::calls::Call;
use super::descriptor;
use super::failed_start::FailedStart;
use super::failure::{Failure, FailureKind, FailureParameters};
use super::framing::{Inbox, REPLY_MAX_BYTES, ReplyMessage, encode_call};
use p2pfs_types::files::SOCKET_PATH_MAX_BYTES;

/// Bytes per read from the socket.
const READ_BYTES: usize = 64 * 1024;
/// Interval between attempts to connect to the next daemon, and between retries of a call that the
/// next daemon cannot answer yet.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// How long the client waits for the next daemon after the previous one was killed and left an
/// orphaned socket. A service manager keeps the socket; other supervisors restart a daemon at once.
const ABANDONED_MAX: Duration = Duration::from_secs(2);

/// How long the daemon may send nothing before the client checks whether it is alive. Without the
/// check, the client would wait for a stopped or hung daemon as for a busy one.
const LOOK_AFTER: Duration = Duration::from_secs(10);
/// After a failed start, how long the daemon may send nothing before the client reads the record of
/// the failed start again.
const FAILED_START_PATIENCE: Duration = Duration::from_secs(1);
/// How long the daemon may take to answer the check that follows [`LOOK_AFTER`].
const LOOK_PATIENCE: Duration = Duration::from_secs(10);

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon listens.
    #[error("no daemon answers on {}", list(.sockets))]
    NotRunning {
        /// The sockets that were tried.
        sockets: Vec<PathBuf>,
    },
    /// The path is too long for a socket.
    #[error(
        "{}: a socket's path has at most {SOCKET_PATH_MAX_BYTES} bytes, and this one {}",
        .path.display(),
        .path.as_os_str().len()
    )]
    TooLong {
        /// The rejected path.
        path: PathBuf,
    },
    /// The path is a file of another type.
    #[error("{} is not a socket", .path.display())]
    NoSocket {
        /// The rejected path.
        path: PathBuf,
    },
    /// The socket cannot be used.
    #[error("cannot use the control socket: {0}")]
    Socket(#[from] io::Error),
    /// The daemon did not answer in time.
    #[error("the daemon does not answer")]
    Silent,
    /// The service manager holds the socket, and the last start of the daemon failed.
    #[error("the daemon does not start: {} ({})", .0.reason, .0.attempts(Timestamp::now()))]
    DoesNotStart(FailedStart),
    /// The daemon closed the connection before its answer.
    #[error("the daemon closed the connection before it answered")]
    Closed,
    /// The daemon's answer is malformed.
    #[error("the daemon's answer makes no sense: {why}")]
    Malformed {
        /// The reason.
        why: String,
    },
    /// The daemon refused the call.
    #[error(transparent)]
    Refused(#[from] Failure),
}

impl ClientError {
    /// Returns [`Self::DoesNotStart`] if no daemon listens because its last start failed and no
    /// further one follows. Returns all other errors unchanged.
    pub fn explained(self) -> Self {
        let failed = match &self {
            Self::NotRunning { sockets } => FailedStart::last_beside(sockets),
            _ => None,
        };
        failed.map_or(self, Self::DoesNotStart)
    }
}

fn list(sockets: &[PathBuf]) -> String {
    sockets
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(" or ")
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    sockets: Vec<PathBuf>,
    /// The socket of `sockets` that is connected.
    socket: PathBuf,
    patience: Option<Duration>,
    waits_for_restarts: bool,
    /// How many other nodes the next daemon must meet before the call is repeated.
    others: u64,
    stream: UnixStream,
    inbox: Inbox,
    descriptors: VecDeque<OwnedFd>,
}

/// A reply before it is decoded.
#[derive(Debug)]
pub struct RawReply {
    /// The parameters.
    pub parameters: Value,
    /// Whether another reply follows.
    pub continues: bool,
    /// The descriptor that arrived with the reply.
    pub descriptor: Option<OwnedFd>,
}

impl RawReply {
    /// Decodes the parameters.
    ///
    /// # Errors
    /// [`ClientError::Malformed`] if they do not fit the type.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        T::deserialize(&self.parameters).map_err(|e| ClientError::Malformed { why: e.to_string() })
    }
}

impl Client {
    /// Connects to the first socket that a daemon listens on.
    ///
    /// # Errors
    /// The error of the first unusable socket; [`ClientError::NotRunning`] if there is none.
    pub fn connect(sockets: &[PathBuf]) -> Result<Self, ClientError> {
        let mut unusable = None;
        for path in sockets {
            match UnixStream::connect(path) {
                Ok(stream) => {
                    let (inbox, descriptors) = (Inbox::default(), VecDeque::new());
                    return Ok(Self {
                        sockets: sockets.to_vec(),
                        socket: path.clone(),
                        patience: None,
                        waits_for_restarts: false,
                        others: 0,
                        stream,
                        inbox,
                        descriptors,
                    });
                }
                Err(error) => unusable = unusable.or_else(|| why_unusable(path, error)),
            }
        }
        Err(unusable.unwrap_or_else(|| ClientError::NotRunning {
            sockets: sockets.to_vec(),
        }))
    }

    /// Returns the user of the daemon, which created the socket.
    ///
    /// # Errors
    /// The error of the system.
    pub fn daemon_uid(&self) -> Result<u32, ClientError> {
        let peer = rustix::net::sockopt::socket_peercred(&self.stream).map_err(io::Error::from)?;
        Ok(peer.uid.as_raw())
    }

    /// Sets how long to wait for each reply. `None` waits as long as the daemon is alive.
    ///
    /// # Errors
    /// The error of the system.
    pub fn set_patience(&mut self, patience: Option<Duration>) -> Result<(), ClientError> {
        let look = match FailedStart::beside(&self.socket) {
            Some(_) => FAILED_START_PATIENCE,
            None => LOOK_AFTER,
        };
        let look = patience.map_or(look, |patience| patience.min(look));
        self.stream.set_read_timeout(Some(look))?;
        self.patience = patience;
        Ok(())
    }

    /// Makes the client wait for the next daemon if this one ends, and repeat calls that may be
    /// repeated.
    pub fn wait_for_restarts(&mut self) {
        self.waits_for_restarts = true;
    }

    /// Makes the client repeat a call only after the next daemon has met `count` other nodes and
    /// received their listings, or has had the time for it.
    pub fn wait_for_others(&mut self, count: u64) {
        self.others = count;
    }

    /// Prepares the client to repeat a call that failed with `error`; the caller then repeats it.
    /// If the daemon ended and this client waits for restarts, connects to the next daemon, with a
    /// wait of up to 15 s. Waits only 2 s if the previous daemon was killed and its socket was not
    /// kept. If a name was not found after a restart, the new daemon may not have learned it yet.
    /// Such a call is repeated until the new daemon has had the time to learn it.
    ///
    /// # Errors
    /// Returns the error itself if a retry is useless, and [`ClientError::NotRunning`] or
    /// [`ClientError::DoesNotStart`] if no daemon started.
    pub fn recover(&mut self, breaks: &mut Breaks, error: ClientError) -> Result<(), ClientError> {
        match &error {
            ClientError::Closed => breaks.count(),
            ClientError::Refused(failure) if failure.kind == FailureKind::Stopping => {}
            ClientError::Refused(failure) if failure.kind == FailureKind::NotFound => {
                let left = breaks.left_to_meet().ok_or(error)?;
                sleep(RECONNECT_PAUSE.min(left));
                return Ok(());
            }
            _ => return Err(error),
        }
        let Some(until) = breaks.wait_until().filter(|_| self.waits_for_restarts) else {
            return Err(error);
        };
        let abandoned = until.min(Instant::now() + ABANDONED_MAX);
        loop {
            sleep(RECONNECT_PAUSE);
            match self.reconnect().map_err(ClientError::explained) {
                Err(error @ ClientError::NotRunning { .. }) => {
                    // A daemon that was stopped has removed its socket.
                    let is_abandoned = self.socket.exists();
                    let until = if is_abandoned { abandoned } else { until };
                    if Instant::now() >= until {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
                Ok(()) => {
                    breaks.is_back();
                    return self.await_others(breaks);
                }
            }
        }
    }

    /// Waits until the next daemon has met the other nodes, or has had the time for it. If that
    /// daemon ends too, the repeated call reports it.
    fn await_others(&mut self, breaks: &Breaks) -> Result<(), ClientError> {
        let left = breaks.left_to_meet().filter(|_| self.others > 0);
        let Some(left) = left else {
            return Ok(());
        };
        let met = Call::Wait {
            mounted: false,
            peers: self.others,
            file: None,
            timeout_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        };
        match self.start(&met).and_then(|()| self.next_reply()) {
            Ok(_) | Err(ClientError::Refused(_) | ClientError::Closed) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Connects to the next daemon and discards the state of earlier calls.
    fn reconnect(&mut self) -> Result<(), ClientError> {
        let mut anew = Self::connect(&self.sockets)?;
        anew.set_patience(self.patience)?;
        anew.waits_for_restarts = self.waits_for_restarts;
        anew.others = self.others;
        *self = anew;
        Ok(())
    }

    /// Sends a call and returns its one reply.
    ///
    /// # Errors
    /// [`ClientError`]. After any error except [`ClientError::Refused`] the connection is unusable.
    pub fn call<T: DeserializeOwned>(&mut self, call: &Call) -> Result<T, ClientError> {
        let mut breaks = Breaks::default();
        loop {
            let asked = self.start(call).and_then(|()| self.next_reply());
            match asked.and_then(|reply| reply.decode()) {
                Err(error) if call.info().is_repeatable => self.recover(&mut breaks, error)?,
                outcome => return outcome,
            }
        }
    }

    /// Sends a call; the caller then reads the replies one by one.
    ///
    /// # Errors
    /// [`ClientError`]; the connection is then unusable.
    pub fn start(&mut self, call: &Call) -> Result<(), ClientError> {
        match self.stream.write_all(&encode_call(call)) {
            // A message that the daemon sent before it closed can still be read.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => Ok(written?),
        }
    }

    /// Sends a call together with a descriptor.
    ///
    /// # Errors
    /// [`ClientError`]; the connection is then unusable.
    pub fn start_with(&mut self, call: &Call, given: impl AsFd) -> Result<(), ClientError> {
        let bytes = encode_call(call);
        match descriptor::send(&self.stream, &bytes, given.as_fd()) {
            // A message that the daemon sent before it closed can still be read.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            sent => Ok(self.stream.write_all(&bytes[sent?..])?),
        }
    }

    /// Returns the next reply.
    ///
    /// # Errors
    /// [`ClientError`]. After any error except [`ClientError::Refused`] the connection is unusable.
    pub fn next_reply(&mut self) -> Result<RawReply, ClientError> {
        let bytes = self.next_message()?;
        let message: ReplyMessage = serde_json::from_slice(&bytes)
            .map_err(|e| ClientError::Malformed { why: e.to_string() })?;
        let parameters = Value::Object(message.parameters);
        if let Some(name) = message.error {
            return Err(failure(&name, parameters).into());
        }
        let descriptor = self.descriptors.pop_front();
        Ok(RawReply {
            parameters,
            continues: message.continues,
            descriptor,
        })
    }

    fn next_message(&mut self) -> Result<Vec<u8>, ClientError> {
        let mut buffer = vec![0; READ_BYTES];
        let mut since = Instant::now();
        loop {
            if let Some(message) = self.inbox.next_message() {
                return Ok(message);
            }
            if self.inbox.waiting_bytes() > REPLY_MAX_BYTES {
                let why = format!("it is longer than {REPLY_MAX_BYTES} bytes");
                return Err(ClientError::Malformed { why });
            }
            match descriptor::receive(&self.stream, &mut buffer) {
                Ok((0, _)) => return Err(ClientError::Closed),
                Ok((length, descriptor)) => {
                    self.inbox.bytes_mut().extend_from_slice(&buffer[..length]);
                    self.descriptors.extend(descriptor);
                    since = Instant::now();
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let is_over = |patience| since.elapsed() >= patience;
                    match FailedStart::beside(&self.socket) {
                        Some(failed) if failed.is_lasting() => {
                            return Err(ClientError::DoesNotStart(failed));
                        }
                        Some(_) => continue,
                        None => {}
                    }
                    if self.patience.is_some_and(is_over) || !self.is_daemon_there() {
                        return Err(ClientError::Silent);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(ClientError::Closed);
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Returns false if a prompt call on a second connection gets no reply in time, either. Any
    /// other outcome counts as alive: a daemon that is ending also closes the first connection.
    fn is_daemon_there(&self) -> bool {
        let asked = Self::connect(std::slice::from_ref(&self.socket)).and_then(|mut other| {
            other.set_patience(Some(LOOK_PATIENCE))?;
            other.start(&Call::Limits {})?;
            other.next_reply()
        });
        !matches!(asked, Err(ClientError::Silent))
    }
}

/// Returns why a socket is unusable. Returns `None` if no daemon listens on it. For a file that is
/// not a socket, the system reports only a refused connection.
fn why_unusable(path: &Path, error: io::Error) -> Option<ClientError> {
    if path.as_os_str().len() > SOCKET_PATH_MAX_BYTES {
        return Some(ClientError::TooLong { path: path.into() });
    }
    if path.metadata().is_ok_and(|it| !it.file_type().is_socket()) {
        return Some(ClientError::NoSocket { path: path.into() });
    }
    let is_absent = matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory
    );
    (!is_absent).then(|| error.into())
}

fn failure(name: &str, parameters: Value) -> Failure {
    let kind = FailureKind::from_error_name(name);
    let said: FailureParameters = serde_json::from_value(parameters).unwrap_or_default();
    let message = if said.message.is_empty() {
        format!("the daemon answers {name}: is it of another version?")
    } else {
        said.message
    };
    Failure {
        kind,
        message,
        remedy: said.remedy,
    }
}
