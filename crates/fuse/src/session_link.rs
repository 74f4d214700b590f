//! Passes requests to the session and returns its answers, through a socket pair.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::mpsc::Sender;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType};

use super::kernel_link::KernelLink;
use super::saved_init::{InitAnswer, InitState, SavedInit};

/// Buffer size of the socket pair, so that a burst of small requests does not block the device
/// threads.
const PAIR_BUFFER_BYTES: usize = 1 << 20;

/// The device's end of the socket pair, and the state of the handshake.
pub(super) struct SessionLink {
    socket: OwnedFd,
    init_state: InitState,
    init_done: Sender<io::Result<Option<SavedInit>>>,
}

impl SessionLink {
    /// Creates a socket pair. Also returns the session's end of it. `init_done` receives the
    /// handshake to keep for the next process, once the kernel has taken the answer to its
    /// FUSE_INIT. `kept` is the handshake of the previous process.
    pub(crate) fn new(
        init_done: Sender<io::Result<Option<SavedInit>>>,
        kept: Option<SavedInit>,
    ) -> io::Result<(Self, OwnedFd)> {
        let (socket, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        for end in [&socket, &theirs] {
            // The kernel cuts the size to the limit of this user, which is enough for single
            // messages.
            let _ = rustix::net::sockopt::set_socket_send_buffer_size(end, PAIR_BUFFER_BYTES);
        }
        let init_state = InitState::new(kept);
        let link = Self {
            socket,
            init_state,
            init_done,
        };
        Ok((link, theirs))
    }

    /// Sends a message to the session as if from the kernel. Returns `false` if the session is
    /// gone.
    pub(crate) fn send(&self, message: &[u8]) -> bool {
        rustix::net::send(&self.socket, message, SendFlags::NOSIGNAL).is_ok()
    }

    /// Waits for an answer of the session and returns its length in bytes. The length is 0 once the
    /// session is gone.
    pub(crate) fn receive(&self, message: &mut [u8]) -> Result<usize, Errno> {
        let received = rustix::net::recv(&self.socket, &mut *message, RecvFlags::empty());
        received.map(|(_, length)| length.min(message.len()))
    }

    /// Records the FUSE_INIT request of the kernel, for the next process.
    pub(crate) fn record_init(&self, message: &[u8]) {
        self.init_state.record_request(message);
    }

    /// Ends the handshake with the session's answer to FUSE_INIT. The kernel gets the answer,
    /// unless it has one from the previous process. If that one differs, the handshake fails.
    pub(crate) fn finish_init(&self, kernel: &KernelLink, answer: &[u8]) {
        let init_done = match self.init_state.answer(answer) {
            InitAnswer::New(greeting) => match kernel.write(&[IoSlice::new(answer)]) {
                Ok(()) => Ok(Some(greeting)),
                Err(error) => Err(error.into()),
            },
            InitAnswer::Again => Ok(None),
            InitAnswer::Otherwise => Err(io::Error::other("it was agreed on otherwise before")),
        };
        let _ = self.init_done.send(init_done);
    }

    /// Ends the session.
    pub(crate) fn close(&self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }
}
