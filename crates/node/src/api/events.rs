//! The stream of a node's events.

use std::collections::VecDeque;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::{Node, Noted};

/// Events in their order: first the remembered ones, then each new one as it happens.
pub struct EventStream {
    remembered: VecDeque<Noted>,
    live: broadcast::Receiver<Noted>,
    lost: u64,
}

impl Node {
    /// Returns a stream of the recent events and all future ones.
    pub fn follow(&self) -> EventStream {
        let (remembered, live) = self.running.events.follow();
        EventStream {
            remembered: remembered.into(),
            live,
            lost: 0,
        }
    }

    /// Records a warning that every user of this machine may see.
    pub fn warn(&self, message: String) {
        self.running.events.warn(message);
    }

    /// Removes the warnings that begin with this text, because their cause is gone.
    pub fn settle_warnings(&self, beginning: &str) {
        self.running.events.settle(beginning);
    }

    /// Records a warning that names local files. It replaces the warnings that begin with this
    /// text, because it describes their current state.
    pub fn warn_owner_instead(&self, beginning: &str, message: String) {
        self.running.events.warn_owner_instead(beginning, message);
    }
}

impl EventStream {
    /// Returns the next event, or `None` once the node has ended. The future may be dropped early
    /// without losing an event.
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

    /// Returns the next of the events that were remembered when the stream began, or `None` after
    /// the last one.
    pub fn next_remembered(&mut self) -> Option<Noted> {
        self.remembered.pop_front()
    }

    /// Returns how many events were dropped because they were not taken in time.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}
