//! Descriptors on a Unix socket (`SCM_RIGHTS`, unix(7)), one per message.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, sendmsg,
};

/// Capacity of the pipe that a file is written through. An ordinary user cannot set more (pipe(7)).
pub const PIPE_BYTES: usize = 1 << 20;
/// Maximum descriptors received with one message. The protocol sends at most one, and the others
/// are closed.
const DESCRIPTORS_MAX: usize = 4;

/// Sends the first of the bytes with the descriptor, and returns how many were sent.
///
/// # Errors
/// The error of the kernel, including `WouldBlock`.
pub(super) fn send(
    socket: impl AsFd,
    bytes: &[u8],
    descriptor: BorrowedFd<'_>,
) -> io::Result<usize> {
    let descriptors = [descriptor];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?)
}

/// Receives some bytes, and a descriptor if one arrives with them. 0 bytes mean the end of the
/// stream.
///
/// # Errors
/// The error of the kernel.
pub(super) fn receive(
    socket: impl AsFd,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let mut descriptor = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            descriptor = descriptors.last().or(descriptor);
        }
    }
    Ok((received.bytes, descriptor))
}

/// Returns the bytes that wait to be received, up to `max_bytes` of them, and leaves them there.
///
/// # Errors
/// The error of the kernel, including `WouldBlock`.
pub(super) fn peek(socket: impl AsFd, max_bytes: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; rustix::io::ioctl_fionread(&socket)?.min(max_bytes as u64) as usize];
    let (length, _) = recv(&socket, &mut bytes, RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
    bytes.truncate(length);
    Ok(bytes)
}

/// Returns whether the descriptor is open for reading only.
pub(super) fn is_read_only(descriptor: impl AsFd) -> bool {
    fcntl_getfl(descriptor).is_ok_and(|flags| flags & OFlags::ACCMODE == OFlags::RDONLY)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_descriptor_arrives_with_its_bytes_and_reads_the_same_file() {
        let (near, far) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        assert_eq!(send(&near, b"look", file.as_fd()).unwrap(), 4);
        let mut buffer = [0; 16];
        let (length, descriptor) = receive(&far, &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"look");
        let mut text = String::new();
        std::fs::File::from(descriptor.unwrap())
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "content");
        (&near).write_all(b"plain").unwrap();
        let (length, descriptor) = receive(&far, &mut buffer).unwrap();
        assert_eq!((length, descriptor.is_none()), (5, true));
    }

    #[test]
    fn a_writable_descriptor_is_distinguished_from_a_read_only_one() {
        assert!(is_read_only(std::fs::File::open("/dev/null").unwrap()));
        assert!(!is_read_only(tempfile::tempfile().unwrap()));
        let (read, write) = std::io::pipe().unwrap();
        assert!(is_read_only(read) && !is_read_only(write));
    }
}
