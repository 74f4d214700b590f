//! The caller's side: a blocking client, for the command line has nothing else to do.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::again::Breaks;
use super::call::Call;
use super::descriptor;
use super::failure::{Failure, FailureKind, FailureParameters};
use super::framing::{Inbox, REPLY_MAX_BYTES, ReplyMessage, encode_call};
use p2pfs_types::files::SOCKET_PATH_MAX_BYTES;

/// Bytes read from the socket at once.
const READ_BYTES: usize = 64 * 1024;
/// How often a daemon that went is looked for, and the next asked for what it does not know yet.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// How long the next daemon is waited for where the one before was killed and left its socket to
/// nobody: a service manager keeps it, and who starts daemons otherwise does so at once.
const ABANDONED_MAX: Duration = Duration::from_secs(2);

/// How long nothing may come before the daemon is asked whether it is there at all: one that was
/// stopped, or hangs, would else be waited for as one that has much to do.
const LOOK_AFTER: Duration = Duration::from_secs(10);
/// How long it may take to say so.
const LOOK_PATIENCE: Duration = Duration::from_secs(10);

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon answers on {}", list(.sockets))]
    NotRunning {
        /// Where it was looked for.
        sockets: Vec<PathBuf>,
    },
    /// No socket can have this path.
    #[error(
        "{}: a socket's path has at most {SOCKET_PATH_MAX_BYTES} bytes, and this one {}",
        .path.display(),
        .path.as_os_str().len()
    )]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{} is no socket", .path.display())]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// The socket cannot be used.
    #[error("cannot use the control socket: {0}")]
    Socket(#[from] io::Error),
    /// The daemon did not answer in the time it has.
    #[error("the daemon does not answer")]
    Silent,
    /// The daemon closed the connection before its answer.
    #[error("the daemon closed the connection before it answered")]
    Closed,
    /// The daemon's answer is none.
    #[error("the daemon's answer makes no sense: {why}")]
    Malformed {
        /// What is wrong with it.
        why: String,
    },
    /// The daemon says no.
    #[error(transparent)]
    Refused(#[from] Failure),
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
    /// The one of them that it is connected to.
    socket: PathBuf,
    patience: Option<Duration>,
    waits_for_restarts: bool,
    /// Other nodes that the next daemon has to meet before it is asked.
    others: u64,
    stream: UnixStream,
    inbox: Inbox,
    descriptors: VecDeque<OwnedFd>,
}

/// One reply as it came.
#[derive(Debug)]
pub struct RawReply {
    /// Its parameters.
    pub parameters: Value,
    /// Whether another follows.
    pub continues: bool,
    /// What came with it.
    pub descriptor: Option<OwnedFd>,
}

impl RawReply {
    /// The parameters as a type.
    ///
    /// # Errors
    /// [`ClientError::Malformed`] where they are of another.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        T::deserialize(&self.parameters).map_err(|e| ClientError::Malformed { why: e.to_string() })
    }
}

impl Client {
    /// Connects to the first of the sockets that somebody listens on.
    ///
    /// # Errors
    /// Why the first cannot be used of those that cannot, else [`ClientError::NotRunning`].
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

    /// How long to wait for each reply from now on; none is for as long as the daemon is there.
    ///
    /// # Errors
    /// What the system says.
    pub fn set_patience(&mut self, patience: Option<Duration>) -> Result<(), ClientError> {
        let look = patience.map_or(LOOK_AFTER, |patience| patience.min(LOOK_AFTER));
        self.stream.set_read_timeout(Some(look))?;
        self.patience = patience;
        Ok(())
    }

    /// From now on a daemon that ends is waited for, and asked again what may be asked twice.
    pub fn wait_for_restarts(&mut self) {
        self.waits_for_restarts = true;
    }

    /// From now on the next daemon is asked again once it has met so many other nodes and taken in
    /// what they list, or has had the time for it.
    pub fn wait_for_others(&mut self, count: u64) {
        self.others = count;
    }

    /// Connects anew where the error says that the daemon ends, and this caller waits for the
    /// next: the question can then be asked again. Waits 15 s at most, and 2 s for one that was
    /// killed and whose socket nobody kept. What the next one does not find may be what it has not
    /// heard of yet: it is asked for that until it has had the time to.
    ///
    /// # Errors
    /// The error itself where asking again is no use; [`ClientError::NotRunning`] where no daemon
    /// came.
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
            match self.reconnect() {
                Err(error @ ClientError::NotRunning { .. }) => {
                    // one that was stopped has removed its socket
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

    /// Waits until the next daemon has met the others, or has had the time for it; where it ends,
    /// too, the question that follows tells.
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

    /// What was asked before is forgotten.
    fn reconnect(&mut self) -> Result<(), ClientError> {
        let mut anew = Self::connect(&self.sockets)?;
        anew.set_patience(self.patience)?;
        anew.waits_for_restarts = self.waits_for_restarts;
        anew.others = self.others;
        *self = anew;
        Ok(())
    }

    /// Asks, and takes the one reply.
    ///
    /// # Errors
    /// [`ClientError`]; after any but [`ClientError::Refused`] the connection is of no more use.
    pub fn call<T: DeserializeOwned>(&mut self, call: &Call) -> Result<T, ClientError> {
        let mut breaks = Breaks::default();
        loop {
            let asked = self.start(call).and_then(|()| self.next_reply());
            match asked.and_then(|reply| reply.decode()) {
                Err(error) if call.is_repeatable() => self.recover(&mut breaks, error)?,
                outcome => return outcome,
            }
        }
    }

    /// Asks; the replies are to be taken one by one.
    ///
    /// # Errors
    /// [`ClientError`]; the connection is then of no more use.
    pub fn start(&mut self, call: &Call) -> Result<(), ClientError> {
        match self.stream.write_all(&encode_call(call)) {
            // what the daemon said before it closed is still to be read
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => Ok(written?),
        }
    }

    /// Asks, and hands over a descriptor with the question.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(&mut self, call: &Call, given: impl AsFd) -> Result<(), ClientError> {
        let bytes = encode_call(call);
        match descriptor::send(&self.stream, &bytes, given.as_fd()) {
            // what the daemon said before it closed is still to be read
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            sent => Ok(self.stream.write_all(&bytes[sent?..])?),
        }
    }

    /// Takes the next reply.
    ///
    /// # Errors
    /// [`ClientError`]; after any but [`ClientError::Refused`] the connection is of no more use.
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

    /// Whether the daemon answers what it has at hand. One that ends is there: it closes this
    /// connection, too.
    fn is_daemon_there(&self) -> bool {
        let asked = Self::connect(std::slice::from_ref(&self.socket)).and_then(|mut other| {
            other.set_patience(Some(LOOK_PATIENCE))?;
            other.start(&Call::Limits {})?;
            other.next_reply()
        });
        !matches!(asked, Err(ClientError::Silent))
    }
}

/// What is wrong with a socket, but that nobody listens on it. Of another file the system says no
/// more than that.
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
