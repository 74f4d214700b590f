//! Answers to questions of peers, delayed as the protocol demands.

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::time::Instant;

use crate::wire::discovery::Name;

/// Maximum waiting answers. Further questions get no answer.
pub const ANSWERS_MAX: usize = 1024;
/// Maximum waiting answers for one IP address.
const ANSWERS_PER_ADDRESS: usize = 64;

/// Answers in the order in which they are due, as all have the same delay.
#[derive(Default)]
pub(super) struct DelayedAnswers(VecDeque<(Instant, SocketAddrV4, Name)>);

impl DelayedAnswers {
    /// Queues an answer about `name` for the peer `to`, due at `at`. If such an answer waits
    /// already, changes nothing. Returns false if there is no room.
    pub(super) fn put(&mut self, at: Instant, to: SocketAddrV4, name: Name) -> bool {
        if (self.0.iter()).any(|(_, asker, asked)| *asker == to && *asked == name) {
            return true;
        }
        let of_same = self.0.iter().filter(|(_, asker, _)| asker.ip() == to.ip());
        let has_room = self.0.len() < ANSWERS_MAX && of_same.count() < ANSWERS_PER_ADDRESS;
        if has_room {
            self.0.push_back((at, to, name));
        }
        has_room
    }

    pub(super) fn take_due(&mut self, now: Instant) -> Option<(SocketAddrV4, Name)> {
        let first = self.0.pop_front_if(|(at, ..)| *at <= now);
        first.map(|(_, to, name)| (to, name))
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.0.front().map(|(at, ..)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn pending_answers_are_bounded_in_total_and_for_each_address() {
        let (mut answers, now) = (DelayedAnswers::default(), Instant::now());
        let asker = |n: usize| {
            let (host, port) = (n / ANSWERS_PER_ADDRESS, n % ANSWERS_PER_ADDRESS);
            SocketAddrV4::new(Ipv4Addr::from(0x0a00_0000 + host as u32), port as u16 + 1)
        };
        let name = || Name::new(b"a").unwrap();
        let first = Ipv4Addr::from(0x0a00_0000);
        for n in 0..ANSWERS_MAX {
            if n == ANSWERS_PER_ADDRESS {
                let one_more = SocketAddrV4::new(first, 9999);
                assert!(!answers.put(now, one_more, name()), "of one address");
            }
            assert!(answers.put(now, asker(n), name()), "{n}");
        }
        assert!(!answers.put(now, asker(ANSWERS_MAX), name()));
        assert!(answers.put(now, asker(0), name()), "it waits already");
        assert!(answers.take_due(now).is_some());
        assert!(
            answers.put(now, asker(ANSWERS_MAX), name()),
            "once there is room"
        );
    }
}
