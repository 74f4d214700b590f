//! Sessions with a minimal owner.

mod fills;

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::plan::Failure;
use p2pfs_proto::wire::native::tcp::Response;
use p2pfs_types::digest::sample::Content;

const SIZE: u64 = 64 << 20;
const SECOND: Duration = Duration::from_secs(1);

/// Owner that ignores everything.
pub(super) struct Nobody;

impl Owner for Nobody {
    type ReadHandle = ();
    type FillHandle = ();
    type File = ();
    type Question = ();

    fn tell((): &(), _: FillProgress) {}
}

fn node(number: u8) -> NodeId {
    NodeId::new([number; 32])
}

fn address() -> SocketAddr {
    ([127, 0, 0, 1], 1378).into()
}

fn holder(number: u8, content: ContentKey) -> Holder {
    Holder {
        node: node(number),
        address: address(),
        size_bytes: content.size_bytes,
        sequence: 1,
    }
}

/// Starts a read of a file that other nodes also want.
fn read_beside(session: &mut Session<Nobody>, now: Instant, content: ContentKey, others: &[u8]) {
    let cached = Cached {
        file: Some(()),
        on_disk: ExtentSet::new(),
        is_complete: false,
    };
    session.begin(now, content, cached).unwrap();
    let page = ByteRange::new(0, 4096);
    session.read(now, Read::new(content, page, now + 600 * SECOND, ()));
    for other in others {
        session.add_fellow(now, &content.hash, node(*other), address());
    }
}

/// Returns a session with a reader of a file that another node also wants.
fn with_fellow(now: Instant) -> (Session<Nobody>, ContentKey) {
    let content = ContentKey::new(ContentHash::of(b"film"), SIZE);
    let mut session = Session::<Nobody>::new(PlanConfig::default(), 1, 1 << 20);
    read_beside(&mut session, now, content, &[2]);
    (session, content)
}

fn half() -> Response {
    Response::Holdings {
        ranges: ExtentSet::of(ByteRange::new(0, SIZE / 2)),
        size_bytes: SIZE,
    }
}

/// Returns the times of the surveys while nothing else happens.
fn surveys(session: &mut Session<Nobody>, now: &mut Instant, time: Duration) -> Vec<Instant> {
    let (end, mut asked) = (*now + time, Vec::new());
    while *now < end {
        session.plan.handle_timeout(*now);
        asked.extend(session.actions(*now).surveys.iter().map(|_| *now));
        let next = session.plan.poll_timeout().unwrap_or(end).max(*now);
        *now = next.min(end);
    }
    asked
}

#[test]
fn a_peer_that_does_not_report_its_ranges_is_not_asked_in_a_loop() {
    let mut now = Instant::now();
    let (mut session, content) = with_fellow(now);
    assert_eq!(surveys(&mut session, &mut now, 60 * SECOND).len(), 1);
    session.holdings(now, (node(2), address()), content.hash, Ok(half()));
    assert_eq!(surveys(&mut session, &mut now, 60 * SECOND).len(), 1);
}

#[test]
fn a_fill_of_many_files_does_not_block_others_when_peers_report_no_ranges() {
    let mut now = Instant::now();
    let (mut session, _) = with_fellow(now);
    for number in 0..100 {
        let content = ContentKey::new(ContentHash::of(&[number]), SIZE);
        read_beside(&mut session, now, content, &[2, 3]);
    }
    let (end, mut open_at_mute, mut answered) = (now + 60 * SECOND, 0, BTreeSet::new());
    while now < end {
        session.plan.handle_timeout(now);
        for (asked, _, hash) in session.actions(now).surveys {
            if asked == node(2) {
                open_at_mute += 1;
                continue;
            }
            answered.insert(hash);
            session.holdings(now, (asked, address()), hash, Ok(half()));
        }
        now = session.plan.poll_timeout().unwrap_or(end).max(now).min(end);
    }
    assert!(open_at_mute <= 8, "{open_at_mute} places are taken");
    assert_eq!(answered.len(), 100);
}

/// Without this a later reader would wait for seconds, although the file is listed again.
#[test]
fn the_catalogue_is_queried_at_once_when_a_holder_has_just_lost_a_file() {
    let now = Instant::now();
    let (mut session, content) = with_fellow(now);
    let holder = |sequence| Holder {
        node: node(1),
        address: address(),
        size_bytes: SIZE,
        sequence,
    };
    session.actions(now);
    session.open(now, content).unwrap();
    assert_eq!(session.actions(now).wanted, [], "it was asked just now");
    session.record_holders(now, &content.hash, &[holder(1)]);
    let asked = session.actions(now).sends.pop().unwrap().request;
    session.failed(now, &asked, Failure::Gone);
    session.record_holders(now, &content.hash, &[holder(1)]);
    assert!(session.actions(now).sends.is_empty());
    session.open(now, content).unwrap();
    assert_eq!(session.actions(now).wanted, [content.hash]);
    session.record_holders(now, &content.hash, &[holder(2)]);
    let page = ByteRange::new(0, 4096);
    session.read(now, Read::new(content, page, now + SECOND, ()));
    let again = session.actions(now).sends;
    assert!(again.iter().any(|send| send.request.node == node(1)));
}

#[test]
fn a_peer_that_cannot_be_reached_for_its_ranges_is_left_alone_for_a_while() {
    let mut now = Instant::now();
    let (mut session, content) = with_fellow(now);
    let mut asked = 0;
    for _ in 0..40 {
        let more = surveys(&mut session, &mut now, SECOND);
        asked += more.len();
        if !more.is_empty() {
            let from = (node(2), address());
            session.holdings(now, from, content.hash, Err(Failure::Unreachable));
        }
    }
    assert!(
        (2..=20).contains(&asked),
        "asked {asked} times in 40 seconds"
    );
}

/// Reads and fills a file whose holder reports it gone; `then` are its holders in the catalogue
/// afterwards. Returns what ended, and how many requests follow.
fn after_one_that_is_gone(then: &[u8]) -> (usize, usize, usize) {
    let now = Instant::now();
    let content = ContentKey::new(ContentHash::of(b"film"), 4 << 20);
    let mut session = Session::<Nobody>::new(PlanConfig::default(), 1, 1 << 20);
    read_beside(&mut session, now, content, &[]);
    session.record_holders(now, &content.hash, &[holder(1, content)]);
    session.fill(now, content, (FillId(1), ()), 600 * SECOND, ExtentSet::new);
    let sends = session.actions(now).sends;
    assert!(!sends.is_empty());
    for send in sends {
        session.failed(now, &send.request, Failure::Gone);
    }
    let actions = session.actions(now);
    assert!(actions.wanted.contains(&content.hash));
    assert!(actions.ends.is_empty() && actions.fills.is_empty());
    let holders: Vec<_> = then.iter().map(|node| holder(*node, content)).collect();
    session.record_holders(now, &content.hash, &holders);
    let actions = session.actions(now);
    (actions.ends.len(), actions.fills.len(), actions.sends.len())
}

#[test]
fn holders_that_one_host_makes_up_hide_no_holder_at_another() {
    let now = Instant::now();
    let content = ContentKey::new(ContentHash::of(b"film"), 4 << 20);
    let mut session = Session::<Nobody>::new(PlanConfig::default(), 1, 1 << 20);
    read_beside(&mut session, now, content, &[]);
    // They are known first, and have the least keys.
    let mut holders: Vec<_> = (0..=200).map(|number| holder(number, content)).collect();
    session.record_holders(now, &content.hash, &holders);
    let honest = Holder {
        address: "192.0.2.7:1378".parse().unwrap(),
        ..holder(255, content)
    };
    let is_known =
        |session: &Session<Nobody>| session.plan.files().is_holder(&content, &honest.node);
    assert!(!is_known(&session));
    holders.push(honest);
    session.record_holders(now, &content.hash, &holders);
    assert!(is_known(&session));
}

#[test]
fn a_file_lost_by_its_holder_comes_from_a_newly_listed_one() {
    let (ends, fills, sends) = after_one_that_is_gone(&[2]);
    assert_eq!((ends, fills), (0, 0));
    assert!(sends > 0);
}

#[test]
fn a_reader_of_a_file_without_holders_fails_at_once() {
    // the catalogue may not know about it yet
    for then in [&[][..], &[1]] {
        assert_eq!(after_one_that_is_gone(then), (1, 1, 0));
    }
}

/// Models a cache disk that does not return what was stored.
#[test]
fn a_reader_that_lost_its_bytes_waits_again_under_the_same_id() {
    let begin = Instant::now();
    let file = Content::new(8, 64 << 10);
    let content = ContentKey::new(file.hash(), file.size());
    let mut session = Session::<Nobody>::new(PlanConfig::default(), 1, 1 << 20);
    read_beside(&mut session, begin, content, &[]);
    session.record_holders(begin, &content.hash, &[holder(1, content)]);
    let (page, patience) = (ByteRange::new(0, 4096), 10 * SECOND);
    let read = Read::new(content, page, begin + patience, ());
    let id = session.read(begin, read).unwrap();
    let now = begin + patience - SECOND;
    let mut delivered = Vec::new();
    for send in session.actions(now).sends {
        let proof = file.encode(send.request.range).into();
        let verified = verify(&send.request, proof).unwrap();
        session.accept(now, &send.request, &verified);
        session.stored(content, send.request.range, true);
        delivered.extend(session.actions(now).deliveries);
    }
    let mut reads = delivered.into_iter().map(|delivery| delivery.read);
    let read = reads
        .find(|read| read.deadline == begin + patience)
        .unwrap();
    session.fell_short(now, read, Shortfall::missing(page));
    assert_eq!(session.actions(now).sends.len(), 1);
    let until = session.plan.waits_until(now, id).unwrap();
    assert!(until >= now + patience, "{:?}", until - now);
    session.plan.handle_timeout(begin + patience + SECOND);
    assert!(session.actions(begin + patience + SECOND).ends.is_empty());
    session.cancel(id);
    assert_eq!(session.actions(now).ends, [((), TransferError::Cancelled)]);
}

#[test]
fn a_read_begins_once_its_content_is_open_and_ends_at_once_if_its_bytes_are_here() {
    let now = Instant::now();
    let content = ContentKey::new(ContentHash::new([1; 32]), SIZE);
    let mut session = Session::<Nobody>::new(PlanConfig::default(), 1, 0);
    let here = ByteRange::new(0, 4096);
    let read = || Read::new(content, here, now + SECOND, ());
    assert!(matches!(
        session.start(now, read()),
        StartOutcome::NotBegun(_)
    ));
    let cached = Cached {
        file: Some(()),
        on_disk: ExtentSet::of(here),
        is_complete: false,
    };
    session.begin(now, content, cached).unwrap();
    assert!(matches!(
        session.start(now, read()),
        StartOutcome::Started(_)
    ));
    let actions = session.actions(now);
    assert_eq!((actions.deliveries.len(), actions.sends.len()), (1, 0));
}
