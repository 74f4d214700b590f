//! Passes the bytes of a file to a caller: the file itself if the caller may have it, otherwise a
//! pipe.

use std::fs::File;
use std::os::fd::OwnedFd;

use tokio::net::unix::pipe;

use super::failed;
use crate::daemon::control::{Failure, PIPE_BYTES, is_one_user};

/// Returns whether a caller may receive a descriptor of the file itself: root, or the owner of the
/// file if that user ID stands for one user ([`is_one_user`]). Any other caller could reopen the
/// file through the descriptor, even if the modes of a directory above the file deny that caller
/// access. If the mode of the file allows it, the caller could reopen the file for writing.
pub(super) fn may_have(caller_uid: u32, file: &File) -> bool {
    let owner = rustix::fs::fstat(file).map(|found| found.st_uid);
    let is_owner = owner.is_ok_and(|owner| owner == caller_uid);
    caller_uid == 0 || (is_owner && is_one_user(caller_uid))
}

/// Returns the ends of a pipe: the sender for this process, and the receiver for the caller.
pub(super) fn pipe_to_caller() -> Result<(pipe::Sender, OwnedFd), Failure> {
    let made = pipe::pipe().and_then(|(sender, receiver)| {
        // A smaller pipe only makes the copy slower.
        let _as_it_is = rustix::pipe::fcntl_setpipe_size(&sender, PIPE_BYTES);
        Ok((sender, receiver.into_blocking_fd()?))
    });
    made.map_err(|error| failed(error.to_string()))
}
