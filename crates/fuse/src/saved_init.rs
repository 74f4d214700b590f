//! FUSE handshake of a mount. The kernel sends FUSE_INIT only once, so the mount broker keeps it
//! and its answer. The session of the next process receives the same request from its own device,
//! and must give the same answer.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Version of the state that one process hands over to the next: the format of the handshake, the
/// records of open files, and the assignment of inode numbers. A mount with another version is not
/// taken over.
const VERSION: u16 = 2;

/// FUSE_INIT and its answer, as bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedInit {
    pub request: Vec<u8>,
    answer: Vec<u8>,
}

impl SavedInit {
    /// Encodes the handshake for the broker.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(&(VERSION, self)).unwrap_or_default()
    }

    /// Decodes a kept handshake. Returns `None` if another version wrote it.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = postcard::take_from_bytes::<u16>(bytes).ok()?;
        (version == VERSION).then(|| postcard::from_bytes(rest).ok())?
    }
}

/// State of the handshake of one mount.
#[derive(Default)]
pub(super) struct InitState {
    /// Handshake of the previous process.
    kept: Option<SavedInit>,
    request_bytes: Mutex<Vec<u8>>,
}

/// Result of the session's answer to the handshake.
pub(super) enum InitAnswer {
    /// The kernel waits for this answer.
    New(SavedInit),
    /// The kernel received the same answer from the previous process.
    Again,
    /// The kernel received a different answer before.
    Otherwise,
}

impl InitState {
    /// Creates the state for a mount with a kept handshake, or for a new mount.
    pub(crate) fn new(kept: Option<SavedInit>) -> Self {
        let request_bytes = kept.as_ref().map(|it| it.request.clone());
        Self {
            kept,
            request_bytes: Mutex::new(request_bytes.unwrap_or_default()),
        }
    }

    /// Records the FUSE_INIT request of the kernel.
    pub(crate) fn record_request(&self, message: &[u8]) {
        message.clone_into(&mut self.request_bytes.lock());
    }

    /// Evaluates the answer of the session.
    pub(crate) fn answer(&self, answer: &[u8]) -> InitAnswer {
        match &self.kept {
            None => InitAnswer::New(SavedInit {
                request: self.request_bytes.lock().clone(),
                answer: answer.to_vec(),
            }),
            Some(kept) if kept.answer == answer => InitAnswer::Again,
            Some(_) => InitAnswer::Otherwise,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_init_is_reused_only_with_an_identical_answer() {
        let first = InitState::new(None);
        first.record_request(b"hello");
        let InitAnswer::New(kept) = first.answer(b"welcome") else {
            panic!("the kernel waits for the first answer")
        };
        let kept_bytes = kept.to_bytes();
        let kept = SavedInit::from_bytes(&kept_bytes).unwrap();
        assert_eq!(kept.request, b"hello");
        let next = InitState::new(Some(kept));
        assert!(matches!(next.answer(b"welcome"), InitAnswer::Again));
        assert!(matches!(next.answer(b"otherwise"), InitAnswer::Otherwise));
        assert_eq!(SavedInit::from_bytes(&[255; 3]), None);
        let mut of_another_version = kept_bytes;
        of_another_version[0] += 1;
        assert_eq!(SavedInit::from_bytes(&of_another_version), None);
    }
}
