//! Granting and withholding of turns.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use super::*;

fn limits() -> ServerLimits {
    ServerLimits {
        makers_max: 2,
        waiting_max: 10,
        waiting_of_peer_max: 6,
        held_max_bytes: 140,
        held_of_peer_max_bytes: 90,
        held_of_bulk_max_bytes: 60,
    }
}

fn peer(number: u8) -> (Lane, NodeId) {
    (Lane::Bulk, NodeId::new([number; 32]))
}

fn asked(of: (Lane, NodeId), bytes: u64) -> QueuedRequest {
    QueuedRequest {
        of,
        hash: None,
        bytes,
    }
}

/// Makes an answer that is not sent.
fn unsent(queue: &FairQueue, asked: QueuedRequest) -> ServeTurn {
    let mut turn = queue.pass_at_once(asked).unwrap();
    turn.mark_made();
    turn
}

fn now<T>(future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

#[test]
fn a_peer_with_many_requests_leaves_others_their_turn() {
    let queue = FairQueue::new(limits());
    let mut greedy: Vec<_> = (0..6)
        .map(|_| Box::pin(queue.line_up(asked(peer(1), 1))))
        .collect();
    let mut made: Vec<_> = greedy
        .iter_mut()
        .map(|f| now(f.as_mut()).flatten())
        .collect();
    assert_eq!(made.iter().flatten().count(), 2);
    let mut modest = pin!(queue.line_up(asked(peer(2), 1)));
    assert!(now(modest.as_mut()).is_none());
    made[0] = None;
    made[1] = None;
    // two turns became free: one for each peer, though four of the greedy one waited longer
    let served = greedy.iter_mut().skip(2).map(|f| now(f.as_mut()).flatten());
    let served: Vec<_> = served.collect();
    assert_eq!(served.iter().flatten().count(), 1);
    assert!(now(modest.as_mut()).flatten().is_some());
}

#[test]
fn a_request_that_would_overtake_or_exceed_a_limit_waits() {
    let queue = FairQueue::new(limits());
    let first = queue.pass_at_once(asked(peer(1), 60));
    assert!(first.is_some());
    assert!(
        queue.pass_at_once(asked(peer(1), 1)).is_none(),
        "its own memory"
    );
    assert!(
        queue.pass_at_once(asked(peer(2), 41)).is_none(),
        "everybody's"
    );
    let second = queue.pass_at_once(asked(peer(2), 1));
    assert!(second.is_some());
    assert!(
        queue.pass_at_once(asked(peer(3), 1)).is_none(),
        "two are made"
    );
    let mut waiting = Box::pin(queue.line_up(asked(peer(4), 60)));
    assert!(now(waiting.as_mut()).is_none());
    drop(second);
    assert!(
        queue.pass_at_once(asked(peer(3), 1)).is_none(),
        "one waits longer"
    );
    drop((first, waiting));
    let inner = queue.turns.lock();
    assert_eq!((inner.making.len(), inner.held_bytes), (0, 0));
}

#[test]
fn a_peer_awaiting_its_own_answers_blocks_no_other_and_is_no_load() {
    let queue = FairQueue::new(limits());
    let sending = unsent(&queue, asked(peer(1), 60));
    let mut waiting = Box::pin(queue.line_up(asked(peer(1), 10)));
    assert!(now(waiting.as_mut()).is_none());
    assert_eq!(queue.load(), 0);
    let reader = (Lane::Urgent, peer(1).1);
    assert!(queue.pass_at_once(asked(reader, 40)).is_some());
    assert!(queue.pass_at_once(asked(peer(2), 40)).is_some());
    drop(sending);
    assert!(now(waiting.as_mut()).flatten().is_some());
}

#[test]
fn no_request_overtakes_an_earlier_one_of_its_peer() {
    let queue = FairQueue::new(limits());
    let sending = unsent(&queue, asked(peer(1), 50));
    let mut large = Box::pin(queue.line_up(asked(peer(1), 20)));
    assert!(now(large.as_mut()).is_none());
    assert!(queue.pass_at_once(asked(peer(1), 1)).is_none());
    drop(sending);
    assert!(now(large.as_mut()).flatten().is_some());
}

#[test]
fn more_answers_are_prepared_ahead_for_readers_than_for_bulk() {
    let queue = FairQueue::new(limits());
    let reader = (Lane::Urgent, peer(1).1);
    assert!(queue.pass_at_once(asked(peer(1), 61)).is_none());
    assert!(queue.pass_at_once(asked(reader, 61)).is_some());
    assert!(queue.pass_at_once(asked(reader, 91)).is_none());
}

#[test]
fn waiting_readers_come_before_bulk_of_any_peer_without_starving_it() {
    let queue = FairQueue::new(ServerLimits {
        makers_max: 1,
        waiting_of_peer_max: 100,
        waiting_max: 100,
        ..limits()
    });
    let mut making = now(pin!(queue.line_up(asked(peer(1), 1))).as_mut()).flatten();
    assert!(making.is_some());
    let mut bulk: Vec<_> = (0..3)
        .map(|_| Box::pin(queue.line_up(asked(peer(1), 1))))
        .collect();
    let urgent = (Lane::Urgent, peer(2).1);
    let mut readers: Vec<_> = (0..20)
        .map(|_| Box::pin(queue.line_up(asked(urgent, 1))))
        .collect();
    assert!(bulk.iter_mut().all(|it| now(it.as_mut()).is_none()));
    assert!(readers.iter_mut().all(|it| now(it.as_mut()).is_none()));
    let mut order = String::new();
    for _ in 0..10 {
        drop(making.take());
        let lines = [(&mut readers, 'u'), (&mut bulk, 'b')];
        for (line, name) in lines {
            let Some(turn) = now(line[0].as_mut()) else {
                continue;
            };
            drop(line.remove(0));
            making = turn;
            order.push(name);
            break;
        }
    }
    assert_eq!(order, "uuuuuuuubu");
}

#[test]
fn too_many_requests_are_refused_at_once() {
    let queue = FairQueue::new(limits());
    let mut all: Vec<_> = (0..9)
        .map(|_| Box::pin(queue.line_up(asked(peer(1), 1))))
        .collect();
    let outcomes: Vec<_> = all.iter_mut().map(|f| now(f.as_mut())).collect();
    assert_eq!(
        outcomes.iter().filter(|o| matches!(o, Some(None))).count(),
        1
    );
    assert!(queue.load() > 0);
}

#[test]
fn unsent_answers_delay_their_own_peer_first() {
    let queue = FairQueue::new(limits());
    let mut slow = now(pin!(queue.line_up(asked(peer(1), 60))).as_mut())
        .flatten()
        .unwrap();
    slow.mark_made();
    let mut more = pin!(queue.line_up(asked(peer(1), 10)));
    assert!(now(more.as_mut()).is_none());
    assert!(
        now(pin!(queue.line_up(asked(peer(2), 40))).as_mut())
            .flatten()
            .is_some()
    );
    drop(slow);
    assert!(now(more.as_mut()).flatten().is_some());
}

#[test]
fn peers_that_read_no_answers_never_block_others() {
    let limits = ServerLimits {
        makers_max: 1000,
        ..ServerLimits::default()
    };
    for members in [4, 16] {
        let queue = FairQueue::new(limits.clone());
        let lanes = (0..members).flat_map(|n| [peer(n), (Lane::Urgent, peer(n).1)]);
        let ask = |of| {
            let mut turn = queue.pass_at_once(asked(of, 1 << 20))?;
            turn.mark_made();
            Some(turn)
        };
        // each peer asks as long as it gets anything
        let mut held: Vec<ServeTurn> = Vec::new();
        loop {
            let before = held.len();
            held.extend(lanes.clone().filter_map(ask));
            if held.len() == before {
                break;
            }
        }
        let held_bytes = queue.turns.lock().held_bytes;
        assert!(held_bytes <= limits.held_max_bytes && held_bytes > limits.held_max_bytes / 2);
        let other = (Lane::Urgent, peer(200).1);
        assert!(ask(other).is_some(), "{members} hold {held_bytes}");
    }
}

#[test]
fn a_departing_peer_leaves_nothing_behind() {
    let queue = FairQueue::new(limits());
    let first = now(pin!(queue.line_up(asked(peer(1), 60))).as_mut()).flatten();
    {
        let mut gone = Box::pin(queue.line_up(asked(peer(1), 60)));
        assert!(now(gone.as_mut()).is_none());
    }
    drop(first);
    let inner = queue.turns.lock();
    assert_eq!(
        (inner.making.len(), inner.held_bytes, inner.waiting_count),
        (0, 0, 0)
    );
    assert!(inner.bulk.is_empty() && inner.waiting.is_empty());
    assert!(inner.held_of_peer.is_empty());
}

#[test]
fn thousands_of_cancelled_requests_are_skipped_on_a_small_stack() {
    const WAITING: usize = 4096;
    let queue = FairQueue::new(ServerLimits {
        waiting_max: WAITING,
        waiting_of_peer_max: WAITING,
        ..limits()
    });
    let turns: Vec<_> = (0..2)
        .map(|_| queue.pass_at_once(asked(peer(1), 1)))
        .collect();
    let wait = |_| {
        let mut left = Box::pin(queue.line_up(asked(peer(1), 1)));
        assert!(now(left.as_mut()).is_none());
        left
    };
    drop((0..WAITING - 1).map(wait).collect::<Vec<_>>());
    let mut last = wait(WAITING);
    assert_eq!(queue.turns.lock().waiting_count, WAITING);
    let freed = std::thread::Builder::new().stack_size(128 << 10);
    freed.spawn(|| drop(turns)).unwrap().join().unwrap();
    assert!(now(last.as_mut()).flatten().is_some());
}

#[test]
fn a_stalled_request_takes_neither_turns_memory_nor_a_second_thread() {
    let queue = FairQueue::new(limits());
    let of_disk = |number: u8| QueuedRequest {
        hash: Some(ContentHash::of(&[number])),
        ..asked(peer(1), 30)
    };
    let mut stuck: Vec<_> = (0..2).map(|n| queue.pass_at_once(of_disk(n))).collect();
    assert!(stuck.iter().all(Option::is_some));
    let mut other = pin!(queue.line_up(asked(peer(1), 40)));
    queue.free_stuck_turns(Instant::now());
    assert!(now(other.as_mut()).is_none(), "two are made");
    queue.free_stuck_turns(Instant::now() + STANDS_STILL);
    let mut other = now(other.as_mut()).flatten().expect("they stand still");
    other.mark_made();
    assert!(queue.pass_at_once(of_disk(0)).is_none());
    let is_stuck = |number| queue.turns.lock().is_stuck(&of_disk(number));
    assert!(is_stuck(1) && !is_stuck(2));
    let long = |now| queue.stuck_for(STANDS_STILL, now).len();
    assert_eq!(
        (long(Instant::now()), long(Instant::now() + STANDS_STILL)),
        (0, 2)
    );
    assert!(
        now(pin!(queue.line_up(of_disk(1))).as_mut())
            .unwrap()
            .is_none()
    );
    // it continues, and holds memory until it is sent
    stuck[0].as_mut().unwrap().mark_made();
    assert_eq!(queue.turns.lock().held_bytes, 70);
    assert!(
        queue.pass_at_once(asked(peer(1), 1)).is_none(),
        "its memory"
    );
    drop((stuck, other));
    let inner = queue.turns.lock();
    assert!(inner.making.is_empty() && inner.standing.is_empty());
    assert!(inner.held_bytes == 0 && inner.held_of_peer.is_empty());
}

#[test]
fn a_batch_stalls_only_at_its_current_file() {
    let queue = FairQueue::new(limits());
    let [first, second] = [[1; 32], [2; 32]].map(ContentHash::new);
    let mut batch = queue.pass_at_once(asked(peer(1), 60)).unwrap();
    let standing = || queue.stuck_for(STANDS_STILL, Instant::now() + STANDS_STILL);
    assert_eq!(standing(), []);
    batch.continue_with(first);
    assert_eq!(standing(), [first]);
    queue.free_stuck_turns(Instant::now() + STANDS_STILL);
    assert_eq!(queue.turns.lock().held_bytes, 0);
    // the disk responds
    batch.continue_with(second);
    assert_eq!(standing(), [second]);
    {
        let turns = queue.turns.lock();
        let counts = (turns.making.len(), turns.standing.len(), turns.held_bytes);
        assert_eq!(counts, (1, 0, 60));
    }
    batch.mark_made();
    assert_eq!(standing(), []);
    drop(batch);
    assert_eq!(queue.turns.lock().held_bytes, 0);
}

#[test]
fn stalled_requests_are_bounded() {
    let queue = FairQueue::new(ServerLimits {
        waiting_max: 1000,
        waiting_of_peer_max: 1000,
        ..limits()
    });
    let mut line: Vec<_> = (0..500)
        .map(|_| Box::pin(queue.line_up(asked(peer(1), 0))))
        .collect();
    let mut begun = Vec::new();
    for _ in 0..20 {
        line.retain_mut(|it| {
            now(it.as_mut()).is_none_or(|turn| {
                begun.push(turn);
                false
            })
        });
        queue.free_stuck_turns(Instant::now() + STANDS_STILL);
    }
    assert_eq!(begun.len(), 2 * STANDING_MAX);
}
