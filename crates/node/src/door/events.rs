//! What happens, as it happens.

use std::collections::VecDeque;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::{Node, Noted};

/// Events in their order: those that the node remembers first, then each as it comes.
pub struct EventStream {
    remembered: VecDeque<Noted>,
    live: broadcast::Receiver<Noted>,
    lost: u64,
}

impl Node {
    /// What happened lately and what happens from now on.
    pub fn follow(&self) -> EventStream {
        let (remembered, live) = self.running.events.follow();
        EventStream {
            remembered: remembered.into(),
            live,
            lost: 0,
        }
    }

    /// Remembers a warning that every user of this machine may know.
    pub fn warn(&self, message: String) {
        self.running.events.warn(message);
    }

    /// Forgets the warnings that begin so: what they told of is over.
    pub fn settle_warnings(&self, beginning: &str) {
        self.running.events.settle(beginning);
    }

    /// Remembers a warning that names local files, in place of those that begin so: what they told
    /// of is now as this one says.
    pub fn warn_owner_instead(&self, beginning: &str, message: String) {
        self.running.events.warn_owner_instead(beginning, message);
    }
}

impl EventStream {
    /// The next event; none once the node is gone. May be dropped before it is done: no event is
    /// lost by that.
    pub async fn next(&mut self) -> Option<Noted> {
        if let Some(noted) = self.next_remembered() {
            return Some(noted);
        }
        loop {
            match self.live.recv().await {
                Ok(noted) => return Some(noted),
                Err(RecvError::Lagged(events)) => self.lost += events,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// The next of the events that were remembered when this began; none once all are told.
    pub fn next_remembered(&mut self) -> Option<Noted> {
        self.remembered.pop_front()
    }

    /// How many events were dropped because they were not taken in time.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}
