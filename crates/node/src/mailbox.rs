//! Bytes that others send to a program that embeds this node.
//!
//! Owns nothing but those that somebody waits for: bytes that nobody asked for are told of in the
//! [`EventLog`] and dropped.

use bytes::Bytes;
use tokio::sync::broadcast;

use super::events::{EventLog, News};

/// Messages that whoever reads slowly may be behind before some are lost: 64, of at most 256 KiB
/// each, 16 MiB.
pub(crate) const BEHIND_MAX: usize = 64;

/// Some bytes, and who sent them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What their sender calls itself; of a peer of the mesh, nothing proves it.
    pub from: String,
    /// What was sent.
    pub bytes: Bytes,
}

/// Takes messages and hands them on. Clones are the same.
#[derive(Clone)]
pub(super) struct Mailbox {
    live: broadcast::Sender<Message>,
    events: EventLog,
}

impl Mailbox {
    pub(super) fn new(events: EventLog) -> Self {
        let live = broadcast::channel(BEHIND_MAX).0;
        Self { live, events }
    }

    /// So many bytes came; without them where they are too many to be handed on.
    pub(super) fn take(&self, from: String, size_bytes: u64, bytes: Option<Bytes>) {
        if let Some(bytes) = bytes {
            // may share a larger buffer, which a slow reader would keep
            let bytes = Bytes::copy_from_slice(&bytes);
            let from = from.clone();
            let _nobody_reads = self.live.send(Message { from, bytes });
        }
        self.events.note(News::Bytes { from, size_bytes });
    }

    /// Those that come from now on.
    pub(super) fn follow(&self) -> broadcast::Receiver<Message> {
        self.live.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_handed_to_whoever_reads_and_told_of_in_any_case() {
        let events = EventLog::default();
        let mailbox = Mailbox::new(events.clone());
        mailbox.take("bob".to_owned(), 2, Some(Bytes::from_static(b"no")));
        let mut reader = mailbox.follow();
        mailbox.take("bob".to_owned(), 3, Some(Bytes::from_static(b"yes")));
        mailbox.take("bob".to_owned(), 1 << 24, None);
        assert_eq!(reader.try_recv().unwrap().bytes, b"yes"[..]);
        assert!(reader.try_recv().is_err());
        assert_eq!(events.follow().0.len(), 3);
    }

    #[test]
    fn a_reader_that_reads_nothing_holds_a_limited_number() {
        let mailbox = Mailbox::new(EventLog::default());
        let reader = mailbox.follow();
        for _ in 0..10 * BEHIND_MAX {
            mailbox.take("eve".to_owned(), 1, Some(Bytes::from_static(b"x")));
        }
        assert_eq!(mailbox.live.len(), BEHIND_MAX);
        drop(reader);
    }
}
