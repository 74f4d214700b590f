//! Links with a rate and a queue, in virtual time: what is sent over a line arrives in order, and
//! lines that meet at a link share its rate. TCP is taken for a fluid: it does not start slowly,
//! and what it loses shows as a line that carries less.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// How often the arrival of a frame that takes its time is told.
const TELL_EACH: Duration = Duration::from_millis(50);

/// From whom to whom, and by which of their connections.
pub type Line<N> = (N, N, u8);

struct Frame {
    id: u64,
    left: f64,
    untold: f64,
    begun: bool,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Frame>,
    rate: f64,
}

/// What came over a line since the last look.
#[derive(Debug, PartialEq)]
pub struct Arrival<N> {
    pub line: Line<N>,
    pub id: u64,
    pub bytes: u64,
    pub whole: bool,
}

/// The links between nodes.
pub struct Fluid<N> {
    now: Instant,
    told_at: Instant,
    /// Bytes a second out of a node and into it; without an entry there is no limit.
    pub up: BTreeMap<N, f64>,
    pub down: BTreeMap<N, f64>,
    /// Bytes a second of any one connection out of a node, where that is less.
    pub each: BTreeMap<N, f64>,
    lines: BTreeMap<Line<N>, Queue>,
    pub moved_bytes: BTreeMap<N, f64>,
}

impl<N: Copy + Ord> Fluid<N> {
    pub fn new(now: Instant) -> Self {
        Self {
            now,
            told_at: now,
            up: BTreeMap::new(),
            down: BTreeMap::new(),
            each: BTreeMap::new(),
            lines: BTreeMap::new(),
            moved_bytes: BTreeMap::new(),
        }
    }

    pub fn send(&mut self, now: Instant, line: Line<N>, id: u64, bytes: u64) {
        self.flow(now);
        let frame = Frame {
            id,
            left: bytes as f64,
            untold: 0.0,
            begun: false,
        };
        self.lines.entry(line).or_default().frames.push_back(frame);
        self.share();
    }

    /// Takes a frame back that has not begun to be sent; the rest of one that has still crosses.
    pub fn cancel(&mut self, now: Instant, line: Line<N>, id: u64) {
        self.flow(now);
        if let Some(queue) = self.lines.get_mut(&line) {
            queue.frames.retain(|frame| frame.id != id || frame.begun);
        }
        self.share();
    }

    /// All lines of a node break.
    pub fn cut(&mut self, now: Instant, node: N) {
        self.flow(now);
        self.lines
            .retain(|(from, to, _), _| *from != node && *to != node);
        self.share();
    }

    pub fn set_up(&mut self, now: Instant, node: N, rate: f64) {
        self.flow(now);
        self.up.insert(node, rate);
        self.share();
    }

    /// When something of note happens next.
    pub fn next_at(&self) -> Option<Instant> {
        let soonest = self.lines.values().filter_map(|queue| {
            let first = queue.frames.front().filter(|_| queue.rate > 0.0)?;
            Some(
                self.now
                    + Duration::from_secs_f64(first.left / queue.rate)
                    + Duration::from_nanos(1),
            )
        });
        let soonest = soonest.min()?;
        Some(soonest.min(self.told_at + TELL_EACH))
    }

    /// What arrived until now.
    pub fn arrivals(&mut self, now: Instant) -> Vec<Arrival<N>> {
        self.flow(now);
        let tell = now >= self.told_at + TELL_EACH;
        if tell {
            self.told_at = now;
        }
        let mut arrivals = Vec::new();
        for (line, queue) in &mut self.lines {
            let Some(first) = queue.frames.front_mut() else {
                continue;
            };
            let whole = first.left < 0.5;
            if whole || tell && first.untold >= 1.0 {
                let bytes = first.untold.round() as u64;
                first.untold -= bytes as f64;
                let (line, id) = (*line, first.id);
                arrivals.push(Arrival {
                    line,
                    id,
                    bytes,
                    whole,
                });
            }
            if whole {
                queue.frames.pop_front();
            }
        }
        self.lines.retain(|_, queue| !queue.frames.is_empty());
        self.share();
        arrivals
    }

    /// Lets time pass over what is under way.
    fn flow(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.now).as_secs_f64();
        self.now = self.now.max(now);
        for ((from, ..), queue) in &mut self.lines {
            if let Some(first) = queue.frames.front_mut() {
                let moved = (queue.rate * seconds).min(first.left);
                first.begun |= moved > 0.0;
                first.left -= moved;
                first.untold += moved;
                *self.moved_bytes.entry(*from).or_default() += moved;
            }
        }
    }

    /// Each line gets its part of the narrower of its two ends.
    fn share(&mut self) {
        let (mut out, mut into) = (BTreeMap::new(), BTreeMap::new());
        for (from, to, _) in self.lines.keys() {
            *out.entry(*from).or_insert(0.0) += 1.0;
            *into.entry(*to).or_insert(0.0) += 1.0;
        }
        for ((from, to, _), queue) in &mut self.lines {
            let part = |rates: &BTreeMap<N, f64>, node, lines: &BTreeMap<N, f64>| {
                rates.get(node).map_or(1e12, |rate| rate / lines[node])
            };
            let each = self.each.get(from).copied().unwrap_or(1e12);
            let shared = part(&self.up, from, &out).min(part(&self.down, to, &into));
            queue.rate = shared.min(each);
        }
    }
}
