//! Links with a rate and a queue, in virtual time. Frames on a line arrive in order, and lines that
//! meet at a link share its rate. TCP is modelled as a fluid without slow start. Its losses appear
//! as a lower rate of the line.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Maximum size of a small frame. Nodes send small frames before larger ones that have not begun.
const SMALL_MAX_BYTES: f64 = 6.0 * 1024.0;
/// Interval of reports about a frame that is still arriving.
const TELL_EACH: Duration = Duration::from_millis(50);

/// A connection: sender, receiver, and its number between the two.
pub(super) type Line<N> = (N, N, u8);

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

impl Queue {
    /// Returns the part of the first frame to report now. A whole frame is reported in full and
    /// removed.
    fn arrival<N>(&mut self, line: Line<N>, tell: bool) -> Option<Arrival<N>> {
        let first = self.frames.front_mut()?;
        let (id, whole) = (first.id, first.left < 0.5);
        let told = tell && first.untold >= 1.0;
        if !whole && !told {
            return None;
        }
        let bytes = first.untold.round() as u64;
        first.untold -= bytes as f64;
        if whole {
            self.frames.pop_front();
        }
        Some(Arrival {
            line,
            id,
            bytes,
            whole,
        })
    }
}

/// Bytes that arrived over a line since the last report.
#[derive(Debug, PartialEq)]
pub(super) struct Arrival<N> {
    pub line: Line<N>,
    pub id: u64,
    pub bytes: u64,
    pub whole: bool,
}

/// Number of lines at each end, and the ends that changed since rates were last shared.
struct Ends<N> {
    out: BTreeMap<N, f64>,
    into: BTreeMap<N, f64>,
    changed_out: Vec<N>,
    changed_into: Vec<N>,
}

impl<N: Copy + Ord> Ends<N> {
    fn new() -> Self {
        Self {
            out: BTreeMap::new(),
            into: BTreeMap::new(),
            changed_out: Vec::new(),
            changed_into: Vec::new(),
        }
    }

    /// Records that a line came or went.
    fn change(&mut self, (from, to, _): &Line<N>, by: f64) {
        *self.out.entry(*from).or_default() += by;
        *self.into.entry(*to).or_default() += by;
        self.changed_out.push(*from);
        self.changed_into.push(*to);
    }
}

/// The links between nodes.
pub(super) struct Fluid<N> {
    now: Instant,
    told_at: Instant,
    /// Bytes a second out of a node and into it. A node without an entry has no limit.
    pub up: BTreeMap<N, f64>,
    pub down: BTreeMap<N, f64>,
    /// Bytes a second of any one connection out of a node, if that is less.
    pub each: BTreeMap<N, f64>,
    lines: BTreeMap<Line<N>, Queue>,
    ends: Ends<N>,
    pub moved_bytes: BTreeMap<N, f64>,
}

impl<N: Copy + Ord> Fluid<N> {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            now,
            told_at: now,
            up: BTreeMap::new(),
            down: BTreeMap::new(),
            each: BTreeMap::new(),
            lines: BTreeMap::new(),
            ends: Ends::new(),
            moved_bytes: BTreeMap::new(),
        }
    }

    pub(crate) fn send(&mut self, now: Instant, line: Line<N>, id: u64, bytes: u64) {
        self.flow(now);
        let frame = Frame {
            id,
            left: bytes as f64,
            untold: 0.0,
            begun: false,
        };
        let ends = &mut self.ends;
        let queue = self.lines.entry(line).or_insert_with(|| {
            ends.change(&line, 1.0);
            Queue::default()
        });
        let gives_way = |it: &&Frame| !it.begun && it.left > SMALL_MAX_BYTES;
        let overtaken = if frame.left > SMALL_MAX_BYTES {
            0
        } else {
            queue.frames.iter().rev().take_while(gives_way).count()
        };
        queue.frames.insert(queue.frames.len() - overtaken, frame);
    }

    /// Cancels a frame that has not begun. The rest of a frame that has begun is still sent.
    pub(super) fn cancel(&mut self, now: Instant, line: Line<N>, id: u64) {
        self.flow(now);
        if let Some(queue) = self.lines.get_mut(&line) {
            queue.frames.retain(|frame| frame.id != id || frame.begun);
        }
    }

    /// Breaks all lines of a node.
    pub(super) fn cut(&mut self, now: Instant, node: N) {
        self.flow(now);
        let ends = &mut self.ends;
        self.lines.retain(|line, _| {
            let stays = line.0 != node && line.1 != node;
            if !stays {
                ends.change(line, -1.0);
            }
            stays
        });
    }

    pub(super) fn set_up(&mut self, now: Instant, node: N, rate: f64) {
        self.flow(now);
        self.up.insert(node, rate);
        self.ends.changed_out.push(node);
    }

    /// Returns when the next arrival or report is due.
    pub(super) fn next_at(&mut self) -> Option<Instant> {
        self.share();
        let mut soonest = f64::INFINITY;
        for queue in self.lines.values().filter(|queue| queue.rate > 0.0) {
            if let Some(first) = queue.frames.front() {
                soonest = soonest.min(first.left / queue.rate);
            }
        }
        if soonest.is_infinite() {
            return None;
        }
        let soonest = self.now + Duration::from_secs_f64(soonest) + Duration::from_nanos(1);
        Some(soonest.min(self.told_at + TELL_EACH))
    }

    /// Returns what has arrived until now.
    pub(super) fn arrivals(&mut self, now: Instant) -> Vec<Arrival<N>> {
        self.flow(now);
        let tell = now >= self.told_at + TELL_EACH;
        if tell {
            self.told_at = now;
        }
        let mut arrivals = Vec::new();
        let ends = &mut self.ends;
        self.lines.retain(|line, queue| {
            arrivals.extend(queue.arrival(*line, tell));
            if queue.frames.is_empty() {
                ends.change(line, -1.0);
            }
            !queue.frames.is_empty()
        });
        arrivals
    }

    /// Moves the bytes in flight on to a later time.
    fn flow(&mut self, now: Instant) {
        if now <= self.now {
            return;
        }
        self.share();
        let seconds = (now - self.now).as_secs_f64();
        self.now = now;
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

    /// Gives each line its part of the narrower of its two ends. Only lines that share an end with
    /// a new or ended line change.
    fn share(&mut self) {
        let ends = &mut self.ends;
        if ends.changed_out.is_empty() && ends.changed_into.is_empty() {
            return;
        }
        for ((from, to, _), queue) in &mut self.lines {
            if !ends.changed_out.contains(from) && !ends.changed_into.contains(to) {
                continue;
            }
            let part = |rates: &BTreeMap<N, f64>, node, lines: &BTreeMap<N, f64>| {
                rates.get(node).map_or(1e12, |rate| rate / lines[node])
            };
            let each = self.each.get(from).copied().unwrap_or(1e12);
            let shared = part(&self.up, from, &ends.out).min(part(&self.down, to, &ends.into));
            queue.rate = shared.min(each);
        }
        ends.changed_out.clear();
        ends.changed_into.clear();
    }
}
