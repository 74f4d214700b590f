//! The trace tells what was decided during a stall, and why.

use std::io;
use std::sync::OnceLock;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, registry};

use super::*;
use crate::TRACE_TARGET;

/// Log of this process, which all its tests share.
#[derive(Clone, Default)]
struct SharedLog(Arc<Mutex<Vec<u8>>>);

impl io::Write for SharedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SharedLog {
    /// Returns the log. The first call starts it, for the trace of reads only.
    fn get() -> &'static Self {
        static LOG: OnceLock<SharedLog> = OnceLock::new();
        LOG.get_or_init(|| {
            let log = Self::default();
            let writer = log.clone();
            let lines = fmt::layer().with_ansi(false).without_time();
            let lines = lines.with_writer(move || writer.clone());
            let only = Targets::new().with_target(TRACE_TARGET, tracing::Level::TRACE);
            registry().with(lines.with_filter(only)).init();
            log
        })
    }

    /// Returns the lines about a content.
    fn of(&self, content: &Content) -> Vec<String> {
        let log = String::from_utf8(self.0.lock().clone()).unwrap();
        let hash = content.hash().to_string();
        let lines = log.lines().filter(|line| line.contains(&hash));
        lines.map(str::to_owned).collect()
    }
}

/// Returns the number of the first read in these lines.
fn first_read(lines: &[String]) -> u64 {
    let number = |line: &String| {
        let (_, rest) = line.split_once("read{read=")?;
        rest.split_once(' ')?.0.parse().ok()
    };
    lines.iter().find_map(number).expect("a read is traced")
}

/// Asserts that the life of the first read of a content has these steps, in this order.
fn assert_life(content: &Content, steps: &[&str]) {
    let lines = SharedLog::get().of(content);
    let read = format!("read{{read={} ", first_read(&lines));
    let life: Vec<_> = lines.iter().filter(|line| line.contains(&read)).collect();
    let mut rest = life.iter();
    for step in steps {
        assert!(
            rest.any(|line| line.contains(step)),
            "{step:?} is missing or out of order in {life:#?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_a_read_tells_that_its_holder_fell_silent_and_which_other_was_asked() {
    SharedLog::get();
    for seed in 0..16 {
        let content = Content::new(100 + seed, 64 << 10);
        let peers = [Manner::Silent, Manner::Honest];
        let scene = scene_with(FetchConfig::new(seed), &content, 1 << 30, &peers);
        let range = ByteRange::new(0, content.size());
        assert_eq!(
            scene.read(&content, range).await.unwrap(),
            content.part(range)
        );
        let first_asked = scene.asked.lock()[0].0;
        if first_asked == node(2) {
            continue;
        }
        let silent = format!("peer={}", node(1));
        let honest = format!("peer={}", node(2));
        let lines = SharedLog::get().of(&content);
        let taken_back = lines.iter().find(|it| it.contains("taken back"));
        assert!(
            taken_back.is_some_and(|it| it.contains(&silent)),
            "{lines:#?}"
        );
        let answered = lines.iter().find(|it| it.contains("answered"));
        assert!(
            answered.is_some_and(|it| it.contains(&honest)),
            "{lines:#?}"
        );
        let steps = [
            "the read waits",
            "chosen: Demand",
            "sent",
            "chosen",
            "answered",
            "the bytes are here",
        ];
        return assert_life(&content, &steps);
    }
    panic!("the silent holder is asked first in one of 16 schedules");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_a_read_tells_that_a_limit_throttled_it() {
    SharedLog::get();
    let content = Content::new(121, 768 << 10);
    let scene = scene(&content, 1 << 30, &[Manner::Honest]);
    scene.fetcher.download().set(Some(128 << 10));
    scene.read_through(&content, 1 << 20).await;
    let steps = [
        "the read waits",
        "throttled by the download limit",
        "passed by the download limit",
        "the bytes are here",
    ];
    assert_life(&content, &steps);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_a_read_tells_that_a_holder_lied_and_why_it_was_given_up() {
    SharedLog::get();
    let content = Content::new(122, 64 << 10);
    let scene = scene(&content, 1 << 30, &[Manner::Lying]);
    let (reply, outcome) = reply();
    let deadline = Instant::now() + Duration::from_millis(300);
    let range = ByteRange::new(0, content.size());
    let fetcher = &scene.fetcher;
    fetcher.read(Read::new(content.key(), range, deadline, reply));
    let outcome = tokio::task::spawn_blocking(move || outcome.recv_timeout(LONG).unwrap());
    assert_eq!(outcome.await.unwrap(), Err(PlanError::OnlyLiars.into()));
    let why = format!("the read is given up: {}", PlanError::OnlyLiars);
    let steps = [
        "chosen: Demand",
        "failed: Lied",
        "not requested now: NoHolder",
        &why,
    ];
    assert_life(&content, &steps);
    let lines = SharedLog::get().of(&content);
    let named = lines
        .iter()
        .any(|it| it.contains("the peer gave wrong bytes"));
    assert!(named, "{lines:#?}");
}
