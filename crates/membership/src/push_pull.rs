//! Schedule of the exchanges of the whole member list.

use std::time::{Duration, Instant};

use rand::RngExt;

use super::event::Event;
use super::lives::NodeLives;

/// Pauses before the first exchanges of member lists: after this node meets its first member, and
/// then after each exchange. Later pauses are about
/// [`super::ClusterConfig::push_pull_period`].
const FIRST_PUSH_PULLS: [Duration; 3] = [
    Duration::from_millis(300),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// When to exchange member lists next.
pub(super) struct PushPullSchedule {
    /// Time of the next exchange, or none while no member is known.
    next: Option<Instant>,
    /// Number of exchanges since this node met its first member.
    count: usize,
    period: Duration,
}

impl PushPullSchedule {
    pub(super) fn new(period: Duration) -> Self {
        Self {
            next: None,
            count: 0,
            period,
        }
    }

    /// Starts the exchanges when this node meets its first member.
    pub(super) fn start(&mut self, now: Instant) {
        if self.next.is_none() {
            self.count = 0;
            self.next = Some(now + FIRST_PUSH_PULLS[0]);
        }
    }

    /// Ends the exchanges until [`Self::start`].
    pub(super) fn stop(&mut self) {
        self.next = None;
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// Requests the exchange that is due from a random member.
    pub(super) fn handle_timeout(&mut self, now: Instant, lives: &mut NodeLives) {
        if self.next.is_none_or(|at| now < at) {
            return;
        }
        let Some(member) = lives.random_member() else {
            return;
        };
        lives.events.push_back(Event::PushPull {
            node: member.node,
            address: lives.links.table.dial_address(&member),
        });
        self.count += 1;
        let pause = match FIRST_PUSH_PULLS.get(self.count) {
            Some(pause) => *pause,
            None => self.period.mul_f64(lives.rng.random_range(0.75..1.25)),
        };
        self.next = Some(now + pause);
    }
}
