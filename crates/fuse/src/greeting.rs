//! How the kernel greets a mount: once. So what it said, and what it was answered, is kept by the
//! mount broker: the session of the next process hears the same greeting, and must answer it alike.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// What one process hands over to the next: how the greeting is kept, the records of open files,
/// and how inode numbers come about. A mount of another version is not taken over.
const VERSION: u16 = 1;

/// FUSE_INIT and its answer, as bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Greeting {
    pub request: Vec<u8>,
    answer: Vec<u8>,
}

impl Greeting {
    /// As the broker keeps it.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(&(VERSION, self)).unwrap_or_default()
    }

    /// The other way round; none where it was kept by a p2pfs that had it otherwise.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = postcard::take_from_bytes::<u16>(bytes).ok()?;
        (version == VERSION).then(|| postcard::from_bytes(rest).ok())?
    }
}

/// How the greeting of one mount goes.
#[derive(Default)]
pub(super) struct Greetings {
    /// Of the process before.
    kept: Option<Greeting>,
    heard: Mutex<Vec<u8>>,
}

/// What the session's answer to the greeting comes to.
pub(super) enum Answered {
    /// The kernel waits for it.
    New(Greeting),
    /// The kernel has had it, from the process before.
    Again,
    /// The kernel has had another one.
    Otherwise,
}

impl Greetings {
    /// Of a mount that the kernel has greeted before, or has yet to greet.
    pub(crate) fn new(kept: Option<Greeting>) -> Self {
        let heard = kept.as_ref().map(|it| it.request.clone());
        Self {
            kept,
            heard: Mutex::new(heard.unwrap_or_default()),
        }
    }

    /// The kernel says this.
    pub(crate) fn hear(&self, message: &[u8]) {
        message.clone_into(&mut self.heard.lock());
    }

    /// The session answers this.
    pub(crate) fn answer(&self, answer: &[u8]) -> Answered {
        match &self.kept {
            None => Answered::New(Greeting {
                request: self.heard.lock().clone(),
                answer: answer.to_vec(),
            }),
            Some(kept) if kept.answer == answer => Answered::Again,
            Some(_) => Answered::Otherwise,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_is_taken_over_only_where_it_is_answered_alike() {
        let first = Greetings::new(None);
        first.hear(b"hello");
        let Answered::New(kept) = first.answer(b"welcome") else {
            panic!("the kernel waits for the first answer")
        };
        let kept_bytes = kept.to_bytes();
        let kept = Greeting::from_bytes(&kept_bytes).unwrap();
        assert_eq!(kept.request, b"hello");
        let next = Greetings::new(Some(kept));
        assert!(matches!(next.answer(b"welcome"), Answered::Again));
        assert!(matches!(next.answer(b"otherwise"), Answered::Otherwise));
        assert_eq!(Greeting::from_bytes(&[255; 3]), None);
        let mut of_another_version = kept_bytes;
        of_another_version[0] += 1;
        assert_eq!(Greeting::from_bytes(&of_another_version), None);
    }
}
