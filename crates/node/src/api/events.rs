//! The stream of a node's events.

use std::collections::VecDeque;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::read_counters::CacheOpens;
use crate::{Audience, Condition, Finding, Node, Noted, StandingCondition};

/// Events in their order: first the remembered ones, then each new one as it happens.
pub struct EventStream {
    remembered: VecDeque<Noted>,
    live: broadcast::Receiver<Noted>,
    lost: u64,
}

impl Node {
    /// Returns a stream of the recent events and all future ones.
    pub fn follow(&self) -> EventStream {
        let (remembered, live) = self.handles.events.follow();
        EventStream {
            remembered: remembered.into(),
            live,
            lost: 0,
        }
    }

    /// Records a warning that every user of this machine may see.
    pub fn warn(&self, message: String) {
        self.handles.events.warn(message);
    }

    /// Records that a condition stands for a subject.
    pub fn begin(&self, condition: Condition, subject: &str, finding: Finding) {
        self.handles.events.begin(condition, subject, finding);
    }

    /// Records that a condition is over for a subject.
    pub fn end(&self, condition: Condition, subject: &str) {
        self.handles.events.end(condition, subject);
    }

    /// Makes exactly these findings of a condition stand, by subject.
    pub fn replace(&self, condition: Condition, found: Vec<(String, Finding)>) {
        self.handles.events.replace(condition, found);
    }

    /// Returns the conditions that stand, in the order of the table.
    pub fn standing(&self) -> Vec<StandingCondition> {
        self.handles.events.standing()
    }

    /// Returns the warnings about happenings, oldest first. For other users than the owner, leaves
    /// out those that name local files.
    pub fn happenings(&self, audience: Audience) -> Vec<String> {
        match audience {
            Audience::Owner => self.handles.events.warnings(),
            Audience::Everybody => self.handles.events.public_warnings(),
        }
    }

    /// Returns the number of offences of other nodes by kind, since the start.
    pub fn offences(&self) -> Vec<(&'static str, u64)> {
        self.handles.offenders.counts()
    }

    /// Returns the number of fetches that failed, since the start.
    pub fn failed_reads(&self) -> u64 {
        self.handles.events.failed_reads()
    }

    /// Returns how many opened versions of other nodes' files the cache had, since the start.
    pub fn cache_opens(&self) -> CacheOpens {
        self.content.cache_opens()
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
