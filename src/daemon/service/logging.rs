//! The destination of the log. If standard error is a stream of the journal, it is the journal,
//! with fields. Otherwise it is standard error, as readable text.
//!
//! Owns the level, which can change while the daemon runs. Library code below the daemon logs
//! mostly at DEBUG or below; the daemon logs what the user should know.
//!
//! The reader of the log may stand still: a pipe into a pager, a terminal after Ctrl-S, a journal
//! on a full disk. All lines therefore go through a bounded queue with a writer thread of its own.
//!
//! `RUST_LOG` sets the level of single targets, as `p2pfs::read=trace`. The configured level holds
//! for all other targets.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;
use std::sync::{Once, OnceLock};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{FilterFn, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, reload};

use super::journal::{message, one_line};
use super::journal_records::{JournalRecords, JournalSocket};
use super::record_queue::RecordQueue;
use crate::daemon::config::LogLevel;

/// Changes the level of a running log.
#[derive(Debug, Clone)]
pub struct LogHandle {
    filter: reload::Handle<Targets, Registry>,
    /// Levels of single targets from `RUST_LOG`, which hold whatever the configured level is.
    chosen: Targets,
}

/// Maximum bytes of lines that wait for the reader of the log; some 5000 lines.
const QUEUE_MAX_BYTES: usize = 1 << 20;
/// How long the end of the process waits for the reader of the log.
const LAST_LINES_TIME: Duration = Duration::from_secs(1);

/// Environment variable with the levels of single targets.
const TARGETS_VARIABLE: &str = "RUST_LOG";

/// Why the log cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A log was started before in this process.
    #[error("the log was already started")]
    Started,
}

impl LogHandle {
    /// Sets the level.
    pub fn set_level(&self, level: LogLevel) {
        // Fails only if the log itself is gone.
        let _gone = self.filter.reload(filter(&self.chosen, level));
    }
}

/// Lines that wait for the reader of the log.
static LINES: RecordQueue = RecordQueue::new(QUEUE_MAX_BYTES);

/// Returns the socket of the journal, if the log is the journal. Without its socket, the log is
/// standard error.
fn journal() -> Option<&'static JournalSocket> {
    static JOURNAL: OnceLock<Option<JournalSocket>> = OnceLock::new();
    let journal = JOURNAL.get_or_init(|| in_journal().then(JournalSocket::open)?.ok());
    journal.as_ref()
}

/// Starts the log of this process. Its lines wait until `begin_writing`.
///
/// # Errors
/// [`LogError`] if it was started before.
pub fn start(level: LogLevel) -> Result<LogHandle, LogError> {
    let named = std::env::var(TARGETS_VARIABLE).unwrap_or_default();
    let (chosen, error) = chosen_targets(&named);
    let are_fields_shown = chosen.iter().next().is_some();
    let (filter, handle) = reload::Layer::new(filter(&chosen, level));
    let subscriber = tracing_subscriber::registry().with(filter);
    let started = if journal().is_some() {
        let records = JournalRecords(&LINES).with_filter(ours());
        subscriber.with(records).try_init()
    } else {
        let lines = terminal(are_fields_shown).with_filter(ours());
        subscriber.with(lines).try_init()
    };
    started.map_err(|_| LogError::Started)?;
    if let Some(error) = error {
        tracing::warn!(
            "cannot apply {TARGETS_VARIABLE}: {error}; write target=level, as p2pfs::read=trace"
        );
    }
    let filter = handle;
    Ok(LogHandle { filter, chosen })
}

/// Starts the thread that writes the log, unless it runs. Call it after this thread is confined,
/// because the new thread inherits that.
pub(super) fn begin_writing() {
    static BEGUN: Once = Once::new();
    let write = |record: &[u8]| match journal() {
        Some(journal) => journal.send(record),
        None => write_to_standard_error(record),
    };
    BEGUN.call_once(|| {
        LINES.serve("log", write, |dropped| {
            tracing::warn!("{dropped} lines of the log are missing here: it was not read in time");
        });
    });
}

/// Waits until the log is written, at most for [`LAST_LINES_TIME`].
pub(super) fn finish_writing() {
    let _unread = LINES.flush(LAST_LINES_TIME);
}

/// Makes panics lines of the log. The hook of the standard library would make a thread that panics
/// wait for the reader of standard error.
pub(super) fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!("{}", panic_text(panic));
        // A panic of the main thread ends the process without a further line.
        if std::thread::current().name() == Some("main") {
            finish_writing();
        }
    }));
}

fn panic_text(panic: &PanicHookInfo<'_>) -> String {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("without a name");
    let place = panic.location().map(ToString::to_string);
    let place = place.unwrap_or_default();
    let said = panic.payload_as_str().unwrap_or("no text");
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        format!("the thread {name} panicked at {place}: {said}\n{trace}")
    } else {
        format!("the thread {name} panicked at {place}: {said}")
    }
}

/// Writes a record, and waits while no reader reads.
fn write_to_standard_error(mut record: &[u8]) {
    let stderr = io::stderr();
    while !record.is_empty() {
        match rustix::io::write(&stderr, record) {
            Ok(written) => record = &record[written..],
            Err(Errno::INTR) => {}
            // Another program that shares the terminal or the pipe chose this mode.
            Err(Errno::AGAIN) => {
                let _polled = poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None);
            }
            Err(_) => return,
        }
    }
}

/// Returns the targets with their own level, or none and the error in the text.
fn chosen_targets(text: &str) -> (Targets, Option<String>) {
    if text.is_empty() {
        return (Targets::new(), None);
    }
    match text.parse() {
        Ok(chosen) => (chosen, None),
        Err(error) => (Targets::new(), Some(error.to_string())),
    }
}

/// Filters out the messages of other libraries. For example, the end of a mount is an error to the
/// FUSE library and an ordinary stop to us.
fn ours() -> FilterFn {
    filter_fn(|metadata| metadata.target().starts_with("p2pfs"))
}

fn filter(chosen: &Targets, level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    chosen.clone().with_default(level)
}

/// Returns the layer that writes readable lines. `are_fields_shown` adds the fields and the spans
/// to each line, to follow a read in a terminal.
fn terminal<S>(are_fields_shown: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = io::stderr().is_terminal() && !plain;
    let lines = fmt::layer().with_writer(|| &LINES).with_ansi(colour);
    if are_fields_shown {
        Box::new(lines)
    } else {
        Box::new(lines.with_target(false).fmt_fields(message_alone()))
    }
}

/// Formats only the message. The fields are for searches in the journal.
fn message_alone() -> impl for<'a> fmt::FormatFields<'a> {
    fmt::format::debug_fn(|writer, field, value| match field.name() {
        "message" => write!(writer, "{value:?}"),
        _ => Ok(()),
    })
}

/// Reports the reason of a failed start, and waits for the reader of the log for at most
/// `LAST_LINES_TIME`. In the journal, it is a message with the priority of an error. A line that
/// the process prints would have the priority of ordinary output, and no message ID. On standard
/// error it is `printed`.
pub fn report_failed_start(reason: &str, printed: &str) {
    if journal().is_some() {
        // An invalid configuration ends the start before the log begins.
        let _started_before = start(LogLevel::Error);
        for line in reason.lines() {
            tracing::error!(message_id = message::START_FAILED, "{}", one_line(line));
        }
        begin_writing();
        finish_writing();
    } else {
        print_last_words(printed);
    }
}

/// Prints the last line of a process that a service manager may start again. Waits for the reader
/// of standard error for at most `LAST_LINES_TIME`.
pub fn print_last_words(text: &str) {
    static LAST_WORDS: RecordQueue = RecordQueue::new(QUEUE_MAX_BYTES);
    LAST_WORDS.push(format!("{text}\n").into_bytes());
    LAST_WORDS.serve("last words", write_to_standard_error, |_| {});
    let _unread = LAST_WORDS.flush(LAST_LINES_TIME);
}

/// Returns whether standard error is the journal (`JOURNAL_STREAM`, systemd.exec(5)).
fn in_journal() -> bool {
    let Ok(stderr) = rustix::fs::fstat(io::stderr()) else {
        return false;
    };
    let said = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    names_stream(&said, stderr.st_dev, stderr.st_ino)
}

/// Returns whether `JOURNAL_STREAM` names this device and inode. A child process inherits the
/// variable even if its standard error was redirected.
fn names_stream(said: &str, device: u64, inode: u64) -> bool {
    let numbers = said
        .split_once(':')
        .map(|(dev, ino)| (dev.parse(), ino.parse()));
    numbers == Some((Ok(device), Ok(inode)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_used_only_when_standard_error_leads_there() {
        assert!(names_stream("8:27", 8, 27));
        assert!(!names_stream("8:27", 8, 28));
        for said in ["", "8", "8:", ":", "a:b", "8:27:1"] {
            assert!(!names_stream(said, 8, 27), "{said}");
        }
    }

    #[test]
    fn a_target_keeps_its_own_level_whatever_the_configured_level_is() {
        let (chosen, error) = chosen_targets("p2pfs::read=trace");
        assert_eq!(error, None);
        for level in [LogLevel::Error, LogLevel::Info] {
            let filter = filter(&chosen, level);
            assert!(filter.would_enable("p2pfs::read", &tracing::Level::TRACE));
            assert!(!filter.would_enable("p2pfs::pull", &tracing::Level::DEBUG));
        }
        let (none, error) = chosen_targets("p2pfs::read=loud");
        assert!(error.is_some() && none.iter().next().is_none());
    }

    #[test]
    fn the_log_starts_once_and_its_level_can_change() {
        let handle = start(LogLevel::Error).unwrap();
        assert!(!tracing::enabled!(tracing::Level::INFO));
        handle.set_level(LogLevel::Info);
        assert!(tracing::enabled!(tracing::Level::INFO));
        assert!(!tracing::enabled!(tracing::Level::DEBUG));
        assert!(matches!(start(LogLevel::Info), Err(LogError::Started)));
    }
}
