//! Nodes that want a file too, say what they have of it and answer nothing.

use std::time::{Duration, Instant};

use super::bench::{PATIENCE, file_named, node};
use super::{Answers, MIB, listed, step};
use crate::digest::ContentKey;
use crate::extent::{ByteRange, ExtentSet, PAGE_BYTES};
use crate::id::NodeId;
use crate::transfer::plan::{Offer, Plan, PlanConfig, PlanEvent, TURN_PATIENCE, URGENT_MAX_BYTES};

const SIZE: u64 = MIB;
/// 1 Mbit/s, as bytes.
const SLOW: f64 = 125e3;
const DISTANCE: Duration = Duration::from_millis(40);
const HOLDER: u8 = 1;
/// Those that have most of the file and answer nothing.
const MUTES: std::ops::Range<u8> = 2..8;
/// Those that have its end only, and want it all.
const OTHERS: std::ops::Range<u8> = 8..60;

/// A plan among them: only the holder of all of the file answers, and slowly.
struct Among {
    plan: Plan,
    now: Instant,
    content: ContentKey,
    answers: Answers,
    free_at: Instant,
    asked_of_mutes: u64,
}

impl Among {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let content = file_named(1, SIZE);
        let mut plan = Plan::new(PlanConfig::default(), seed);
        plan.open(now, content, ExtentSet::new()).unwrap();
        plan.holders(now, &content, &listed(&[node(HOLDER)]));
        let mut among = Self {
            plan,
            now,
            content,
            answers: Answers::new(),
            free_at: now,
            asked_of_mutes: 0,
        };
        // the first bytes come of the holder, so that it is known
        among.read(ByteRange::new(0, URGENT_MAX_BYTES));
        let end = SIZE - PAGE_BYTES;
        MUTES.for_each(|number| among.tell_of(number, ByteRange::new(0, end)));
        OTHERS.for_each(|number| among.tell_of(number, ByteRange::new(end, SIZE)));
        among
    }

    fn tell_of(&mut self, number: u8, range: ByteRange) {
        let offer = Offer {
            node: node(number),
            content: self.content,
            all: false,
            ranges: [range].into_iter().collect(),
            load: 0,
        };
        self.plan.fellow(self.now, &self.content, offer.node);
        self.plan.offer(self.now, &offer);
    }

    fn read(&mut self, range: ByteRange) {
        let deadline = self.now + PATIENCE;
        let demand = self
            .plan
            .demand_just(self.now, self.content, range, deadline);
        let ready = PlanEvent::Ready(demand.unwrap());
        self.run_until(&ready);
    }

    /// Lets time pass until that is said.
    fn run_until(&mut self, end: &PlanEvent) {
        let limit = self.now + Duration::from_secs(600);
        while self.now < limit {
            while let Some(request) = self.plan.poll_request(self.now) {
                self.asked_of_mutes += u64::from(is_mute(&request.node));
                if request.node == node(HOLDER) {
                    let moving = Duration::from_secs_f64(request.range.len() as f64 / SLOW);
                    self.free_at = self.free_at.max(self.now + DISTANCE) + moving;
                    self.answers.insert((self.free_at, request.id));
                }
            }
            while let Some(event) = self.plan.poll_event() {
                if event == *end {
                    return;
                }
                let failed = matches!(event, PlanEvent::Failed(..) | PlanEvent::FillFailed(..));
                assert!(!failed, "{event:?} though the holder lives");
            }
            step(&mut self.plan, &mut self.now, &mut self.answers);
        }
        panic!("{end:?} never came");
    }
}

fn is_mute(id: &NodeId) -> bool {
    MUTES.map(node).any(|mute| mute == *id)
}

#[test]
fn they_keep_no_reader_from_a_holder_that_answers() {
    for seed in 0..4 {
        let mut among = Among::new(seed);
        for page in (64..128).rev() {
            among.read(ByteRange::at(page * PAGE_BYTES, PAGE_BYTES));
        }
    }
}

#[test]
fn they_keep_no_fill_from_a_holder_that_answers() {
    for seed in 0..4 {
        let mut among = Among::new(seed);
        let content = among.content;
        among.plan.fill(among.now, content, PATIENCE);
        among.run_until(&PlanEvent::Filled(content));
    }
}

/// As of one whose disk hangs below that file alone.
#[test]
fn who_brings_nothing_of_a_file_lets_its_fill_fail_though_readers_of_others_are_served() {
    let (begin, holder) = (Instant::now(), node(HOLDER));
    let [read, wanted] = [1, 2].map(|number| file_named(number, 64 * MIB));
    let mut plan = Plan::new(PlanConfig::default(), 1);
    for content in [read, wanted] {
        plan.open(begin, content, ExtentSet::new()).unwrap();
        plan.holders(begin, &content, &listed(&[holder]));
    }
    plan.fill(begin, wanted, PATIENCE);
    let (mut now, mut answers) = (begin, Answers::new());
    let mut pages = (0..).map(|page| ByteRange::at(page * PAGE_BYTES, PAGE_BYTES));
    let mut demand = None;
    loop {
        while let Some(event) = plan.poll_event() {
            match event {
                PlanEvent::Ready(id) if demand == Some(id) => demand = None,
                PlanEvent::FillFailed(content, _) => {
                    assert_eq!(content, wanted);
                    // not before the last that is asked for it could have had its turn
                    assert!(now >= begin + PATIENCE * TURN_PATIENCE, "{:?}", now - begin);
                    return;
                }
                PlanEvent::Failed(..) => panic!("{event:?} after {:?}", now - begin),
                _ => {}
            }
        }
        if demand.is_none() {
            let page = pages.next().unwrap();
            let next = plan.demand_just(now, read, page, now + PATIENCE);
            demand = Some(next.unwrap());
        }
        while let Some(request) = plan.poll_request(now) {
            if request.content == read {
                answers.insert((now + Duration::from_millis(200), request.id));
            }
        }
        assert!(now < begin + PATIENCE * TURN_PATIENCE * 3, "it never ends");
        step(&mut plan, &mut now, &mut answers);
    }
}

/// The same beside a holder whose disk does not hang: what comes of the other file says nothing of
/// when that one comes.
#[test]
fn who_brings_nothing_of_a_file_keeps_no_reader_from_another_holder_though_others_are_served() {
    let (begin, [hanging, other]) = (Instant::now(), [1, 2].map(node));
    let [read, wanted] = [1, 2].map(|number| file_named(number, 64 * MIB));
    let mut plan = Plan::new(PlanConfig::default(), 1);
    for content in [read, wanted] {
        plan.open(begin, content, ExtentSet::new()).unwrap();
        plan.holders(begin, &content, &listed(&[hanging]));
    }
    let (mut now, mut answers) = (begin, Answers::new());
    let range = ByteRange::new(0, URGENT_MAX_BYTES);
    let waits = plan.demand_just(now, wanted, range, now + PATIENCE);
    let waits = waits.unwrap();
    let mut parts = (0..).map(|part| ByteRange::at(part * URGENT_MAX_BYTES, URGENT_MAX_BYTES));
    let mut demand = None;
    loop {
        while let Some(event) = plan.poll_event() {
            match event {
                PlanEvent::Ready(id) if id == waits => return,
                PlanEvent::Ready(id) if demand == Some(id) => demand = None,
                PlanEvent::Failed(..) => panic!("{event:?} after {:?}", now - begin),
                _ => {}
            }
        }
        if demand.is_none() {
            let part = parts.next().unwrap();
            let next = plan.demand_just(now, read, part, now + PATIENCE);
            demand = Some(next.unwrap());
        }
        while let Some(request) = plan.poll_request(now) {
            if request.node == other || request.content == read {
                answers.insert((now + Duration::from_millis(5), request.id));
            }
            // it is known now that another has it too
            plan.holders(now, &wanted, &listed(&[hanging, other]));
        }
        assert!(
            now < begin + Duration::from_secs(2),
            "it was never asked of the other"
        );
        step(&mut plan, &mut now, &mut answers);
    }
}
