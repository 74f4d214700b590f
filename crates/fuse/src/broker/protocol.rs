//! Protocol between the daemon and the mount broker: one packet per message over a SOCK_SEQPACKET
//! socket, with attached descriptors.
//!
//! A broker outlives upgrades of the daemon, so variants are only added, at the end.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Maximum size of a message; a path has at most 4096 bytes.
const MESSAGE_MAX_BYTES: usize = 8192;
/// Maximum number of descriptors attached to one message.
const DESCRIPTORS_MAX: usize = 4;

/// Request of the daemon. Paths are bytes.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Requests the mount at this place: the existing one, or a new one.
    Mount {
        /// Mount point.
        dir: Vec<u8>,
    },
    /// Requests a new mount in place of the current one.
    Anew,
    /// Stores the handshake for the next daemon.
    Keep {
        /// FUSE_INIT and its answer, encoded by the daemon.
        greeting: Vec<u8>,
    },
    /// Registers the attached file for passthrough.
    Register,
    /// Releases a passthrough file.
    Release {
        /// Number of the registered file.
        number: u32,
    },
    /// Sets the read-ahead of the kernel.
    ReadAhead {
        /// Read-ahead in bytes.
        bytes: u64,
    },
    /// Makes the mount writable or read-only.
    Writable {
        /// Whether programs may write.
        is_writable: bool,
    },
}

/// Answer of the broker, one for each request.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// A mount, with its device and its table of open files attached. Two sockets for
    /// notifications follow, unless the broker has no threads left: one for names, and one for
    /// pages, which may wait longer.
    Mounted {
        /// Mount point without symbolic links.
        dir: Vec<u8>,
        /// Number of the FUSE connection.
        connection: u32,
        /// Handshake of the previous daemon; `None` for a new mount.
        greeting: Option<Vec<u8>>,
    },
    /// The request succeeded.
    Done,
    /// Number of a registered file.
    Registered {
        /// Number that the kernel assigned.
        number: u32,
    },
    /// The request was refused, with the errno of the kernel (or 0) and the reason.
    Refused {
        /// Errno of the kernel, or 0.
        errno: i32,
        /// Reason in words.
        why: String,
    },
}

/// Sends one message.
///
/// # Errors
/// If the other side is gone.
pub fn send(
    socket: BorrowedFd<'_>,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = postcard::to_stdvec(message).map_err(io::Error::other)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let parts = [IoSlice::new(&bytes)];
    rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message. Returns `None` if the other side has closed.
///
/// # Errors
/// If the message is invalid.
pub fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; MESSAGE_MAX_BYTES];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(socket, &mut parts, &mut control, flags)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            descriptors.extend(sent);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let message = postcard::from_bytes(&bytes[..received.bytes]);
    let message = message.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(Some((message, descriptors)))
}
