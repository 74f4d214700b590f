//! What the daemon and the mount broker say to each other: one packet a message, over a
//! SOCK_SEQPACKET socket, with descriptors beside it.
//!
//! A broker outlives upgrades of the daemon, so variants are only ever added, at the end.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The largest message; a path has at most 4096 bytes.
const MESSAGE_MAX_BYTES: usize = 8192;
/// The most descriptors beside one.
const DESCRIPTORS_MAX: usize = 2;

/// What the daemon asks for. Paths are bytes.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// The mount at this place: the one that stands, or a new one.
    Mount { dir: Vec<u8> },
    /// A new one in place of the one that was handed out.
    Anew,
    /// Keep this for the daemon that comes after.
    Keep { greeting: Vec<u8> },
    /// Let the kernel read the file beside this by itself.
    Register,
    /// Not that one any more.
    Release { number: u32 },
    /// Let the kernel read this far ahead.
    ReadAhead { bytes: u64 },
}

/// What the broker answers, once to each request.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// A mount, with its device and its table of open files beside this.
    Mounted {
        dir: Vec<u8>,
        connection: u32,
        greeting: Option<Vec<u8>>,
    },
    /// So it is.
    Done,
    /// The kernel's number of a file.
    Registered { number: u32 },
    /// No, with the kernel's errno (or 0) and why.
    Refused { errno: i32, why: String },
}

/// Sends one message.
///
/// # Errors
/// Where the other side is gone.
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

/// Receives one message; none where the other side has closed.
///
/// # Errors
/// Where it is no message of ours.
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
