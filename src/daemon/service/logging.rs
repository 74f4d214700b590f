//! The destination of the log. If standard error is a stream of the journal, it is the journal,
//! with fields. Otherwise it is standard error, as readable text.
//!
//! Owns the level, which can change while the daemon runs. Library code below the daemon logs
//! mostly at DEBUG or below; the daemon logs what the user should know.
//!
//! `RUST_LOG` sets the level of single targets, as `p2pfs::read=trace`. The configured level holds
//! for all other targets.

use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::{FilterFn, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, reload};

use super::journal::{message, one_line};
use crate::daemon::config::LogLevel;

/// Changes the level of a running log.
#[derive(Debug, Clone)]
pub struct LogHandle {
    filter: reload::Handle<Targets, Registry>,
    /// Levels of single targets from `RUST_LOG`, which hold whatever the configured level is.
    chosen: Targets,
}

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

/// Starts the log of this process.
///
/// # Errors
/// [`LogError`] if it was started before.
pub fn start(level: LogLevel) -> Result<LogHandle, LogError> {
    let named = std::env::var(TARGETS_VARIABLE).unwrap_or_default();
    let (chosen, error) = chosen_targets(&named);
    let are_fields_shown = chosen.iter().next().is_some();
    let (filter, handle) = reload::Layer::new(filter(&chosen, level));
    let subscriber = tracing_subscriber::registry().with(filter);
    let journal = in_journal().then(journal).flatten();
    let started = match journal {
        Some(journal) => subscriber.with(journal.with_filter(ours())).try_init(),
        None => {
            let lines = terminal(are_fields_shown).with_filter(ours());
            subscriber.with(lines).try_init()
        }
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

/// Returns the journal's layer; `None` if its socket is missing, and standard error is used
/// instead.
fn journal() -> Option<tracing_journald::Layer> {
    let mappings = PriorityMappings {
        error: Priority::Error,
        warn: Priority::Warning,
        info: Priority::Informational,
        debug: Priority::Debug,
        trace: Priority::Debug,
    };
    tracing_journald::layer().ok().map(|layer| {
        layer
            .with_priority_mappings(mappings)
            .with_field_prefix(None)
    })
}

/// Returns the layer that writes readable lines. `are_fields_shown` adds the fields and the spans
/// to each line, to follow a read in a terminal.
fn terminal<S>(are_fields_shown: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = io::stderr().is_terminal() && !plain;
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(colour);
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

/// Logs the reason of a failed start with the priority of an error, if standard error is the
/// journal. Returns `false` otherwise: the caller then prints the reason.
///
/// A line that the process prints would have the priority of ordinary output, and no message ID.
pub fn tell_failed_start(reason: &str) -> bool {
    if !in_journal() {
        return false;
    }
    // An invalid configuration ends the start before the log begins.
    let _started_before = start(LogLevel::Error);
    for line in reason.lines() {
        tracing::error!(message_id = message::START_FAILED, "{}", one_line(line));
    }
    true
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
