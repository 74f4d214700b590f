//! Tests of the node from which a log is pulled, and when.

use rand::SeedableRng;

use super::*;

fn node(number: u8) -> NodeId {
    NodeId::new([number; 32])
}

fn pulls() -> Pulls {
    Pulls::new(StdRng::seed_from_u64(7))
}

const START: LogPosition = LogPosition { epoch: 1, after: 0 };

#[test]
fn the_author_is_asked_first_and_only_once() {
    let now = Instant::now();
    let mut pulls = pulls();
    pulls.want(now, node(1), START, Some(node(2)));
    let step = pulls.next_step(now, &[node(1), node(2)]).unwrap();
    assert_eq!(
        step,
        PullStep {
            author: node(1),
            from: node(1),
            position: START
        }
    );
    pulls.want(now, node(1), LogPosition { epoch: 1, after: 9 }, None);
    assert_eq!(pulls.next_step(now, &[node(1), node(2)]), None);
}

#[test]
fn the_reporter_of_a_head_is_asked_when_its_author_is_gone() {
    let now = Instant::now();
    let mut pulls = pulls();
    pulls.want(now, node(1), START, Some(node(3)));
    assert_eq!(
        pulls.next_step(now, &[node(2), node(3)]).unwrap().from,
        node(3)
    );
}

/// Returns the node that is asked first for a new change of the author's log.
fn first_asked(pulls: &mut Pulls, now: Instant, members: &[NodeId]) -> NodeId {
    pulls.want(now, node(1), START, None);
    pulls.next_step(now, members).unwrap().from
}

#[test]
fn an_unreachable_author_does_not_delay_its_later_changes() {
    let begin = Instant::now();
    let (mut pulls, members) = (pulls(), [node(1), node(2)]);
    assert_eq!(first_asked(&mut pulls, begin, &members), node(1));
    let tried = begin + Duration::from_secs(5);
    pulls.fail_silently(tried, node(1), node(1));
    let now = pulls.poll_timeout().unwrap();
    assert_eq!(pulls.next_step(now, &members).unwrap().from, node(2));
    pulls.finish(node(1));

    assert_eq!(first_asked(&mut pulls, now, &members), node(2));
    pulls.finish(node(1));
    assert_eq!(first_asked(&mut pulls, now, &[node(1)]), node(1), "alone");
    pulls.finish(node(1));
    let later = tried + SILENT_FOR;
    assert_eq!(first_asked(&mut pulls, later, &members), node(1));
}

#[test]
fn a_member_that_has_the_log_is_asked_while_its_author_is_silent() {
    let begin = Instant::now();
    let (mut pulls, members) = (pulls(), [node(1), node(2), node(3)]);
    assert_eq!(first_asked(&mut pulls, begin, &members), node(1));
    let offer = |pulls: &mut Pulls, now, from| {
        pulls.want(now, node(1), START, Some(node(from)));
        pulls.next_step(now, &members).map(|step| step.from)
    };
    let later = begin + 2 * SOON;
    assert_eq!(offer(&mut pulls, later, 3), None, "it may be slow");
    pulls.mark_silent(later, node(1));
    assert_eq!(
        offer(&mut pulls, later, 1),
        None,
        "it has the log, but does not answer"
    );
    assert_eq!(offer(&mut pulls, later, 3), Some(node(3)));
    assert_eq!(offer(&mut pulls, later, 3), None, "it is asked once");
    // The request to the author ends late. The other one is not affected.
    pulls.fail_silently(later + SOON, node(1), node(1));
    pulls.refuse(later + SOON, node(1), node(1));
    assert_eq!(offer(&mut pulls, later + SOON, 2), None);
    pulls.refuse(later + SOON, node(1), node(3));
    let next = pulls.poll_timeout().unwrap();
    assert!(pulls.next_step(next, &members).is_some());
}

#[test]
fn a_silent_node_is_asked_again_when_the_others_lack_the_log() {
    let (mut pulls, members) = (pulls(), [node(1), node(2), node(3)]);
    let mut now = Instant::now();
    first_asked(&mut pulls, now, &members);
    now += PART_PATIENCE;
    let mut asked = Vec::new();
    while asked.last() != Some(&node(1)) {
        if let Some(step) = pulls.next_step(now, &members) {
            asked.push(step.from);
            pulls.advance(now, node(1), START);
        }
        assert!(asked.len() < 100, "{asked:?}");
        now = pulls.poll_timeout().unwrap();
    }
    assert!(asked.len() > 1, "{asked:?}");
}

#[test]
fn a_node_that_recovered_or_failed_at_once_is_asked_first() {
    let (mut pulls, members) = (pulls(), [node(1), node(2)]);
    let now = Instant::now();
    first_asked(&mut pulls, now, &members);
    pulls.fail_silently(now, node(1), node(1));
    pulls.finish(node(1));
    assert_eq!(first_asked(&mut pulls, now, &members), node(1));
    let now = now + PART_PATIENCE;
    pulls.fail_silently(now, node(1), node(1));
    pulls.mark_answered(&node(1));
    pulls.finish(node(1));
    assert_eq!(first_asked(&mut pulls, now, &members), node(1));
}

#[test]
fn a_failure_is_retried_after_a_growing_pause() {
    let mut now = Instant::now();
    let mut pulls = pulls();
    let mut pauses = Vec::new();
    pulls.want(now, node(1), START, None);
    for _ in 0..12 {
        assert!(pulls.next_step(now, &[node(2)]).is_some());
        pulls.fail(now, node(1));
        assert_eq!(pulls.next_step(now, &[node(2)]), None);
        let next = pulls.poll_timeout().unwrap();
        pauses.push(next - now);
        now = next;
    }
    assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]));
    assert_eq!(pauses.last(), Some(&RETRY_MAX));
}

#[test]
fn after_a_useless_answer_another_node_is_asked_after_a_pause() {
    let mut now = Instant::now();
    let mut pulls = pulls();
    pulls.want(now, node(1), START, None);
    let members = [node(1), node(2)];
    // an author with an older log than the one it announced: two machines with one key
    for from in [node(1), node(2), node(1)] {
        assert_eq!(pulls.next_step(now, &members).unwrap().from, from);
        pulls.advance(now, node(1), START);
        assert_eq!(pulls.next_step(now, &members), None);
        now = pulls.poll_timeout().unwrap();
    }
}

#[test]
fn without_any_source_a_pull_fails_and_does_not_loop() {
    let now = Instant::now();
    let mut pulls = pulls();
    pulls.want(now, node(1), START, None);
    assert_eq!(pulls.next_step(now, &[]), None);
    assert!(pulls.poll_timeout().unwrap() > now);
}

#[test]
fn a_log_without_room_is_not_pulled_before_its_time() {
    let now = Instant::now();
    let mut pulls = pulls();
    pulls.want(now, node(1), START, None);
    pulls.next_step(now, &[node(1)]).unwrap();
    pulls.postpone(now, node(1));
    let newest = LogPosition { epoch: 3, after: 0 };
    pulls.want(now, node(1), newest, Some(node(1)));
    assert_eq!(pulls.next_step(now, &[node(1)]), None);
    assert_eq!(pulls.poll_timeout(), Some(now + PUT_OFF));
    let step = pulls.next_step(now + PUT_OFF, &[node(1)]).unwrap();
    assert_eq!(step.position, newest);
}

#[test]
fn a_lost_member_is_replaced_at_once() {
    let now = Instant::now();
    let mut pulls = pulls();
    pulls.want(now, node(1), START, None);
    assert_eq!(pulls.next_step(now, &[node(1)]).unwrap().from, node(1));
    pulls.forget_member(now, node(1));
    assert_eq!(pulls.next_step(now, &[node(2)]).unwrap().from, node(2));
}

#[test]
fn another_node_is_asked_when_a_live_member_does_not_answer() {
    let mut now = Instant::now();
    let mut pulls = pulls();
    pulls.want(now, node(1), START, None);
    let members = [node(1), node(2)];
    assert_eq!(pulls.next_step(now, &members).unwrap().from, node(1));
    assert_eq!(pulls.poll_timeout(), Some(now + PART_PATIENCE));
    let mut asked = Vec::new();
    for _ in 0..4 {
        now = pulls.poll_timeout().unwrap();
        asked.extend(pulls.next_step(now, &members).map(|step| step.from));
    }
    assert_eq!(asked, [node(2), node(1)], "in turn, after a pause each");
}

#[test]
fn a_member_that_announces_many_logs_and_gives_none_delays_no_log_of_another_member() {
    let now = Instant::now();
    let (liar, honest, author) = (node(250), node(251), node(252));
    let members = [liar, honest, author];
    let mut pulls = pulls();
    for made_up in 0..100 {
        pulls.want(now, node(made_up), START, Some(liar));
    }
    let asked = |pulls: &mut Pulls| {
        let steps = std::iter::from_fn(|| pulls.next_step(now, &members));
        steps
            .map(|step| (step.author, step.from))
            .collect::<Vec<_>>()
    };
    assert_eq!(asked(&mut pulls).len(), PULLS_PER_MEMBER_MAX);
    assert!(pulls.poll_timeout() > Some(now), "it waits for an answer");
    pulls.want(now, node(200), START, Some(honest));
    pulls.want(now, author, START, Some(liar));
    let mut later = asked(&mut pulls);
    later.sort_unstable();
    assert_eq!(later, [(node(200), honest), (author, author)]);
}

#[test]
fn a_log_that_failed_waits_for_logs_that_did_not() {
    let mut now = Instant::now();
    let mut pulls = pulls();
    pulls.want(now, node(1), START, None);
    assert!(pulls.next_step(now, &[node(1)]).is_some());
    pulls.fail(now, node(1));
    now += RETRY_MIN;
    pulls.want(now, node(2), START, None);
    let members = [node(1), node(2)];
    assert_eq!(pulls.next_step(now, &members).unwrap().author, node(2));
    assert_eq!(pulls.next_step(now, &members).unwrap().author, node(1));
}

#[test]
fn concurrent_pulls_are_bounded() {
    let now = Instant::now();
    let mut pulls = pulls();
    let members = [node(97), node(98), node(99)];
    (0..20).for_each(|n| pulls.want(now, node(n), START, Some(node(97 + n % 3))));
    let steps: Vec<_> = std::iter::from_fn(|| pulls.next_step(now, &members)).collect();
    assert_eq!(steps.len(), PULLS_AT_ONCE_MAX);
    assert_eq!(pulls.poll_timeout(), Some(now + PART_PATIENCE));
    pulls.finish(steps[0].author);
    assert_eq!(pulls.poll_timeout(), Some(now));
    assert!(pulls.next_step(now, &members).is_some());
}

#[test]
fn the_next_part_begins_where_the_last_ended() {
    let now = Instant::now();
    let mut pulls = pulls();
    pulls.want(now, node(1), START, None);
    pulls.next_step(now, &[node(1)]).unwrap();
    let position = LogPosition {
        epoch: 1,
        after: 4096,
    };
    pulls.advance(now, node(1), position);
    assert_eq!(pulls.next_step(now, &[node(1)]).unwrap().position, position);
    pulls.finish(node(1));
    assert_eq!(pulls.next_step(now, &[node(1)]), None);
    assert_eq!(pulls.poll_timeout(), None);
}
