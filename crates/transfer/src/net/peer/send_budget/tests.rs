//! Bytes in flight on links of all kinds.

use super::*;

fn room() -> SendBudget {
    SendBudget {
        target: Some(TARGET),
        ..SendBudget::default()
    }
}

const TARGET: QueueTarget = QueueTarget {
    delay: Duration::from_millis(100),
    least_bytes: 32 << 10,
};

/// Link with a queue and an endless supply of bytes to send, in steps of 10 ms.
struct SimLink {
    now: Instant,
    rate: f64,
    distance: Duration,
    queued: f64,
    taken: f64,
    /// Bytes of others in the queue.
    others: f64,
}

impl SimLink {
    fn new(rate: f64, distance_ms: u64) -> Self {
        Self {
            now: Instant::now(),
            rate,
            distance: Duration::from_millis(distance_ms),
            queued: 0.0,
            taken: 0.0,
            others: 0.0,
        }
    }

    fn reading(&self) -> TcpInfo {
        let queue = (self.queued + self.others) / self.rate;
        TcpInfo {
            round_trip: self.distance.max(Duration::from_secs_f64(queue)),
            least: self.distance,
            acked_ago: Duration::ZERO,
            came_ago: Duration::ZERO,
            taken_bytes: self.taken as u64,
            queued_bytes: self.queued as u64,
            unsent_bytes: 0,
            segment_bytes: 1448,
        }
    }

    /// Sends all that may be sent, for a time. Returns the longest round trip of its last second,
    /// and the bytes that arrived.
    fn run(&mut self, room: &mut SendBudget, seconds: u64) -> (Duration, f64) {
        const STEP: Duration = Duration::from_millis(10);
        let (end, before) = (self.now + Duration::from_secs(seconds), self.taken);
        let mut longest = Duration::ZERO;
        while self.now < end {
            // sends until there is no room, as a stream does
            loop {
                let may = if room.is_due(self.now) {
                    room.take(self.now, &self.reading())
                } else {
                    u64::MAX
                };
                // the kernel takes what it has room for: 4 MiB
                let most = (4_194_304.0 - self.queued).max(0.0);
                self.queued += (may as f64).min(most);
                if may == 0 || may as f64 >= most {
                    break;
                }
            }
            let round_trip = self.reading().round_trip.as_secs_f64();
            let in_pipe = self.rate.min(self.queued / round_trip.max(1e-4));
            let came = (in_pipe * STEP.as_secs_f64()).min(self.queued);
            self.queued -= came;
            self.taken += came;
            self.now += STEP;
            if self.now + Duration::from_secs(1) >= end {
                longest = longest.max(self.reading().round_trip);
            }
        }
        (longest, self.taken - before)
    }
}

#[test]
fn the_queue_of_a_slow_link_stays_near_the_target_and_the_link_is_full() {
    for (rate, distance_ms) in [
        (125e3, 1),
        (125e3, 40),
        (2.5e6, 20),
        (1e6, 600),
        (12.5e6, 2),
    ] {
        let (mut link, mut room) = (SimLink::new(rate, distance_ms), room());
        let (longest, _) = link.run(&mut room, 2);
        let start = Duration::from_secs_f64((START_BYTES + START_NEAR_BYTES) as f64 / rate);
        let most = link.distance + TARGET.delay * 2;
        let least = Duration::from_secs_f64(TARGET.least_bytes as f64 * 1.5 / rate);
        let told = (rate, distance_ms);
        assert!(
            longest <= most.max(least).max(start),
            "{told:?}: {longest:?} at first"
        );
        link.run(&mut room, 20);
        let (longest, bytes) = link.run(&mut room, 20);
        assert!(longest <= most.max(least), "{told:?}: {longest:?}");
        assert!(bytes > rate * 20.0 * 0.9, "{told:?}: {bytes}");
    }
}

#[test]
fn a_link_with_a_short_queue_is_not_throttled() {
    let (mut room, start) = (room(), Instant::now());
    for step in 0..100u32 {
        let reading = TcpInfo {
            round_trip: Duration::from_millis(60),
            least: Duration::from_millis(1),
            acked_ago: Duration::ZERO,
            came_ago: Duration::ZERO,
            taken_bytes: 2_000_000 + u64::from(step) * 10_000_000,
            queued_bytes: 3_000_000,
            unsent_bytes: 2_000_000,
            segment_bytes: 1448,
        };
        let now = start + step * SAMPLE;
        assert!(room.is_due(now));
        assert!(room.take(now, &reading) > 1 << 40);
        assert!(!room.is_due(now + SAMPLE / 2));
    }
}

#[test]
fn a_starved_connection_has_little_queued_in_the_kernel() {
    let (mut room, start) = (room(), Instant::now());
    let reading = |step: u32, unsent_bytes| TcpInfo {
        round_trip: Duration::from_millis(400),
        least: Duration::from_millis(160),
        acked_ago: Duration::ZERO,
        came_ago: Duration::ZERO,
        taken_bytes: u64::from(step) * 700,
        queued_bytes: 2_896 + unsent_bytes,
        unsent_bytes,
        segment_bytes: 1448,
    };
    // 7 kB/s: the share of three such connections beside two large ones on 1 Mbit/s
    let mut unsent = 0;
    for step in 0..100 {
        unsent += room.take(start + step * SAMPLE, &reading(step, unsent));
        assert!(unsent <= UNSENT_BYTES[1], "{step}: {unsent}");
        unsent = unsent.saturating_sub(700);
    }
    assert!(unsent <= UNSENT_BYTES[0], "{unsent}");
}

#[test]
fn in_a_queue_filled_by_others_a_little_is_sent_and_later_all_again() {
    let (mut link, mut room) = (SimLink::new(1.25e6, 2), room());
    link.others = 2e6;
    link.run(&mut room, 20);
    let (_, bytes) = link.run(&mut room, 10);
    assert!(bytes > TARGET.least_bytes as f64, "{bytes}");
    link.others = 0.0;
    link.run(&mut room, 2);
    let (_, bytes) = link.run(&mut room, 10);
    assert!(bytes > 1.25e6 * 10.0 * 0.9, "{bytes}");
}

#[test]
fn after_a_pause_or_speedup_a_link_is_soon_fully_used() {
    let (mut link, mut room) = (SimLink::new(125e3, 20), room());
    link.run(&mut room, 10);
    link.queued = 0.0;
    link.now += Duration::from_secs(60);
    link.rate = 12.5e6;
    link.run(&mut room, 2);
    let (_, bytes) = link.run(&mut room, 10);
    assert!(bytes > 12.5e6 * 10.0 * 0.9, "{bytes}");
}

#[test]
fn a_fast_link_is_fully_used_after_a_stall() {
    for (rate, distance_ms) in [(125e6, 1), (12.5e6, 1), (125e6, 20)] {
        let mut link = SimLink::new(rate, distance_ms);
        // the rate that is left when nothing arrived for three seconds
        let mut room = SendBudget::of_rate(TARGET, 20e3);
        link.taken = 2e6;
        link.run(&mut room, 1);
        let (_, bytes) = link.run(&mut room, 5);
        assert!(bytes > rate * 5.0 * 0.9, "{rate}, {distance_ms}: {bytes}");
    }
}

/// Within one machine each small piece counts as a whole segment until it is acknowledged. That
/// happens at once when two segments are full, otherwise after 40 ms (RFC 1122, 4.2.3.2). The
/// sender is told of neither, and has to check again.
#[test]
fn a_near_link_is_fully_used_after_a_stall() {
    const SEGMENT: u64 = 65_483;
    const PIECE: u64 = 16_406;
    // the rate that is left when the other end has no processor for a second
    let mut room = SendBudget::of_rate(TARGET, 1e3);
    let (start, mut now) = (Instant::now(), Instant::now());
    let (mut taken_bytes, mut waits, mut sent_at) = (2 << 20, vec![], start);
    while taken_bytes < 100 << 20 {
        assert!(now < start + SAMPLE * 10, "{taken_bytes}: {room:?}");
        let waiting_bytes = waits.iter().sum::<u64>();
        if waiting_bytes >= 2 * SEGMENT || now >= sent_at + SAMPLE * 2 / 5 {
            taken_bytes += waiting_bytes;
            waits.clear();
        }
        let reading = TcpInfo {
            round_trip: Duration::from_millis(40),
            least: Duration::from_micros(9),
            acked_ago: Duration::ZERO,
            came_ago: Duration::ZERO,
            taken_bytes,
            queued_bytes: waits.len() as u64 * SEGMENT,
            unsent_bytes: 0,
            segment_bytes: SEGMENT,
        };
        match room.take(now, &reading) {
            0 => now += room.check_after(),
            may => {
                waits.push(may.min(PIECE));
                (sent_at, now) = (now, now + Duration::from_micros(20));
            }
        }
    }
}

/// The sender finds the queue empty at each check if the other end takes everything at once.
#[test]
fn a_bursty_link_is_measured_by_what_it_delivered() {
    let (mut room, start) = (SendBudget::of_rate(TARGET, 50e6), Instant::now());
    let reading = |taken_bytes| TcpInfo {
        round_trip: Duration::from_micros(20),
        least: Duration::from_micros(9),
        acked_ago: Duration::ZERO,
        came_ago: Duration::ZERO,
        taken_bytes,
        queued_bytes: 0,
        unsent_bytes: 0,
        segment_bytes: 65_483,
    };
    for step in 0..5_000 {
        let now = start + step * Duration::from_micros(10);
        room.take(now, &reading(u64::from(step) * 16_406));
    }
    assert!(!room.is_limited(), "{room:?}");
    // a small amount to send does not measure the link
    let (now, taken_bytes) = (start + SAMPLE, 5_000 * 16_406);
    for step in 0..50 {
        room.take(now + step * SAMPLE, &reading(taken_bytes + u64::from(step)));
    }
    assert!(!room.is_limited(), "{room:?}");
}

#[test]
fn a_briefly_exclusive_link_at_most_doubles_its_share() {
    let (mut room, start) = (SendBudget::of_rate(TARGET, 1e3), Instant::now());
    let reading = |taken_bytes, queued_bytes| TcpInfo {
        round_trip: Duration::from_millis(1),
        least: Duration::from_millis(1),
        acked_ago: Duration::ZERO,
        came_ago: Duration::ZERO,
        taken_bytes,
        queued_bytes,
        unsent_bytes: 0,
        segment_bytes: 1448,
    };
    let first = room.take(start, &reading(2 << 20, 0));
    assert_eq!(room.take(start, &reading(2 << 20, first)), 0);
    let now = start + Duration::from_millis(1);
    let second = room.take(now, &reading((2 << 20) + first, 0));
    assert!(first < second && second <= 2 * first, "{first}, {second}");
    // a sender with nothing more to send learns nothing about the link
    let third = room.take(now + Duration::from_millis(1), &reading(3 << 20, 0));
    assert_eq!(third, second);
}
