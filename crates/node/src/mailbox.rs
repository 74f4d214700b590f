//! Bytes that other nodes send to the program that embeds this node.
//!
//! The bytes of a message are kept only for readers that had subscribed when it arrived. The
//! [`EventLog`] records each message without its bytes.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use super::events::{EventLog, News};

/// Maximum number of messages that a slow reader may be behind before some are lost: 64 of at most
/// 256 KiB each, 16 MiB in total.
pub(crate) const BEHIND_MAX: usize = 64;

/// A message and its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Name of the sender. The certificate of a node proves its name. Without a certificate, it is
    /// the name that the sender gives itself, or the start of its key.
    pub from: String,
    /// The bytes.
    pub bytes: Bytes,
}

/// The queue of messages to the readers. Clones share their state.
#[derive(Clone)]
pub struct Mailbox {
    /// `None` once the node has ended.
    live: Arc<Mutex<Option<broadcast::Sender<Message>>>>,
    events: EventLog,
}

impl Mailbox {
    pub(super) fn new(events: EventLog) -> Self {
        let live = Some(broadcast::channel(BEHIND_MAX).0);
        Self {
            live: Arc::new(Mutex::new(live)),
            events,
        }
    }

    /// Records a message in the event log and sends it to the readers. `bytes` is `None` if the
    /// message is too large to be delivered; then it is only recorded.
    pub fn deliver(&self, from: String, size_bytes: u64, bytes: Option<Bytes>) {
        if let Some(bytes) = bytes {
            // The bytes may be a slice of a larger buffer, which a slow reader would keep alive.
            let bytes = Bytes::copy_from_slice(&bytes);
            let from = from.clone();
            if let Some(live) = &*self.live.lock() {
                let _nobody_reads = live.send(Message { from, bytes });
            }
        }
        self.events.record(News::Bytes { from, size_bytes });
    }

    /// Returns a receiver of all later messages.
    pub(super) fn follow(&self) -> broadcast::Receiver<Message> {
        match &*self.live.lock() {
            Some(live) => live.subscribe(),
            None => broadcast::channel(1).1,
        }
    }

    /// Ends all receivers after the messages that were delivered before. Later messages are only
    /// recorded.
    pub(super) fn close(&self) {
        let _receivers_end = self.live.lock().take();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast::error::RecvError;

    use super::*;

    #[test]
    fn bytes_are_delivered_to_their_reader_and_always_reported() {
        let events = EventLog::default();
        let mailbox = Mailbox::new(events.clone());
        mailbox.deliver("bob".to_owned(), 2, Some(Bytes::from_static(b"no")));
        let mut reader = mailbox.follow();
        mailbox.deliver("bob".to_owned(), 3, Some(Bytes::from_static(b"yes")));
        mailbox.deliver("bob".to_owned(), 1 << 24, None);
        assert_eq!(reader.try_recv().unwrap().bytes, b"yes"[..]);
        assert!(reader.try_recv().is_err());
        assert_eq!(events.subscribe().0.len(), 3);
    }

    #[test]
    fn an_idle_reader_holds_a_limited_number_of_messages() {
        let mailbox = Mailbox::new(EventLog::default());
        let reader = mailbox.follow();
        for _ in 0..10 * BEHIND_MAX {
            mailbox.deliver("eve".to_owned(), 1, Some(Bytes::from_static(b"x")));
        }
        let held = mailbox.live.lock().as_ref().map(broadcast::Sender::len);
        assert_eq!(held, Some(BEHIND_MAX));
        drop(reader);
    }

    #[tokio::test]
    async fn receivers_end_when_the_mailbox_is_closed() {
        let mailbox = Mailbox::new(EventLog::default());
        let mut reader = mailbox.follow();
        mailbox.deliver("bob".to_owned(), 1, Some(Bytes::from_static(b"x")));
        mailbox.close();
        assert!(reader.recv().await.is_ok());
        assert_eq!(reader.recv().await, Err(RecvError::Closed));
        assert_eq!(mailbox.follow().recv().await, Err(RecvError::Closed));
    }
}
