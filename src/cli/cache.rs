//! `p2pfs cache`, `prefetch`, `pin`, `unpin`: content of the cache.

use std::ffi::OsString;

use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;
use indicatif::ProgressBar;
use serde::de::DeserializeOwned;

use super::complete;
use super::connect::Reporting;
use super::error::CliError;
use super::names::PathArguments;
use super::output::Output;
#[cfg(test)]
use super::output::{COLUMN_GAP, LINE_COLUMNS};
use super::progress;
use super::text::{escape, human_bytes, local_time, percent, printable};
use crate::daemon::config::units::{self, write_count};
use crate::daemon::control::{
    Breaks, CALL_MAX_BYTES, CacheCleared, CacheEntry, CacheListing, CacheUsage, CacheVerified,
    Call, Client, ClientError, Limits, Named, PATHS_MAX, Progress, Touched,
};

const HEADING: [&str; 5] = ["SIZE", "CACHED", "KEPT", "USED", "NAME"];
/// Digits of the hash shown for a content without a name. `p2pfs unpin` accepts a start of this
/// length, and the row of the table fits into a line.
const HASH_START: usize = 8;

/// Maximum bytes of the encoded paths in one call. The rest of the call is far shorter than a KiB.
const PATHS_MAX_BYTES: usize = CALL_MAX_BYTES - 1024;

/// The arguments of `p2pfs cache`.
#[derive(Debug, Clone, Args)]
pub struct CacheOptions {
    #[command(flatten)]
    reporting: Reporting,
    #[command(subcommand)]
    action: CacheAction,
}

#[derive(Debug, Clone, Subcommand)]
enum CacheAction {
    /// List its content
    Ls,
    /// Remove all files except pinned and open ones
    Clear,
    /// Check every byte in it
    Verify,
    /// Change its size, until the next start or a reload that changes it
    Resize {
        /// The new size, such as 20GiB
        #[arg(value_parser = units::parse_positive_size)]
        size: u64,
    },
}

/// The arguments of `p2pfs pin` and `p2pfs unpin`.
#[derive(Debug, Clone, Args)]
pub struct PinOptions {
    #[command(flatten)]
    reporting: Reporting,
    /// Files and directories of the shared folder
    #[arg(required = true, value_name = "PATH")]
    #[arg(add = ArgValueCompleter::new(complete::shared_names))]
    paths: Vec<OsString>,
}

/// The arguments of `p2pfs prefetch`.
#[derive(Debug, Clone, Args)]
pub struct PrefetchOptions {
    #[command(flatten)]
    reporting: Reporting,
    /// Files and directories of the shared folder
    #[arg(required = true, value_name = "PATH")]
    #[arg(add = ArgValueCompleter::new(complete::shared_names))]
    paths: Vec<OsString>,
    /// Even if the network is metered
    #[arg(long)]
    anyway: bool,
}

pub(super) fn run(options: &CacheOptions, output: &mut Output) -> Result<(), CliError> {
    let reporting = &options.reporting;
    match options.action {
        CacheAction::Ls => list(reporting, output),
        CacheAction::Clear => clear(reporting, output),
        CacheAction::Verify => verify(reporting, output),
        CacheAction::Resize { size } => resize(reporting, size, output),
    }
}

fn list(reporting: &Reporting, output: &mut Output) -> Result<(), CliError> {
    let mut client = reporting.open()?;
    let mut entries: Vec<CacheEntry> = Vec::new();
    loop {
        let after = entries.last().map(|entry| entry.hash.clone());
        let page: CacheListing = client.call(&Call::CacheLs { after })?;
        let done = !page.more || page.entries.is_empty();
        entries.extend(page.entries);
        if done {
            break;
        }
    }
    if reporting.json {
        return output.json(&serde_json::json!({"entries": entries}));
    }
    let rows = entries.iter().map(cache_row).collect();
    output.table(&HEADING, &[0, 1], rows)
}

fn cache_row(entry: &CacheEntry) -> Vec<String> {
    let kept = match (entry.pinned, entry.open) {
        (true, true) => "pinned, open",
        (true, false) => "pinned",
        (false, true) => "open",
        (false, false) => "-",
    };
    let start: String = entry.hash.chars().take(HASH_START).collect();
    let unlisted = || match &entry.pinned_as {
        Some(name) => format!("{}, listed no more so", escape(name.as_bytes())),
        None => format!("listed no more: {start}…"),
    };
    vec![
        human_bytes(entry.size_bytes),
        percent(entry.cached_bytes, entry.size_bytes),
        kept.to_owned(),
        entry.last_used.map_or_else(|| "-".to_owned(), local_time),
        entry
            .names
            .first()
            .map_or_else(unlisted, |name| escape(name.as_bytes())),
    ]
}

fn clear(reporting: &Reporting, output: &mut Output) -> Result<(), CliError> {
    let cleared: CacheCleared = reporting.open_patiently()?.call(&Call::CacheClear {})?;
    let text = format!(
        "removed {}, {}; {} stay, pinned or open",
        write_count(cleared.removed_files, "file", "files"),
        human_bytes(cleared.removed_bytes),
        cleared.kept_files
    );
    output.print_value_or_line(reporting.json, &cleared, &text)
}

fn verify(reporting: &Reporting, output: &mut Output) -> Result<(), CliError> {
    let mut client = reporting.open_patiently()?;
    let bar = Bar(progress::of_kept("checked"));
    let verified: CacheVerified = follow(&mut client, &Call::CacheVerify {}, &bar)?;
    let bytes = human_bytes(verified.bytes);
    let text = format!(
        "checked {}, {bytes}",
        write_count(verified.files, "file", "files")
    );
    output.print_value_or_line(reporting.json, &verified, &text)?;
    if verified.dropped_bytes == 0 && verified.unopened_files == 0 {
        return Ok(());
    }
    output.flush()?;
    if verified.dropped_bytes == 0 {
        return Err(CliError::new(
            format!(
                "{} could not be opened",
                write_count(verified.unopened_files, "file", "files")
            ),
            "nothing of them was checked; see that the daemon may write to the disk of its cache",
        ));
    }
    Err(CliError::new(
        format!(
            "{} were wrong and were dropped",
            human_bytes(verified.dropped_bytes)
        ),
        "they are fetched again when they are read; check the disk",
    ))
}

fn resize(reporting: &Reporting, size: u64, output: &mut Output) -> Result<(), CliError> {
    let call = Call::CacheResize { budget_bytes: size };
    let usage: CacheUsage = reporting.open_patiently()?.call(&call)?;
    let text = format!(
        "{} of {} in use; to keep this size, set size in [cache]",
        human_bytes(usage.used_bytes),
        human_bytes(usage.budget_bytes)
    );
    output.print_value_or_line(reporting.json, &usage, &text)
}

pub(super) fn pin(options: &PinOptions, keep: bool, output: &mut Output) -> Result<(), CliError> {
    let mut client = options.reporting.open_patiently()?;
    let mut touched = Touched::default();
    for paths in batches(&mut client, &options.paths)? {
        let call = if keep {
            Call::Pin { paths }
        } else {
            Call::Unpin { paths }
        };
        add(&mut touched, client.call(&call)?);
    }
    let done = if keep { "pinned" } else { "unpinned" };
    conclude(&touched, done, &options.reporting, output)?;
    if keep && !options.reporting.json {
        let limits: Limits = client.call(&Call::Limits {})?;
        if limits.metered {
            output.line("missing bytes wait: the network is metered (p2pfs limits)")?;
        }
    }
    Ok(())
}

pub(super) fn prefetch(options: &PrefetchOptions, output: &mut Output) -> Result<(), CliError> {
    let mut client = options.reporting.open_patiently()?;
    // All names must fit into one call, because only then can the daemon refuse the whole request
    // before it fetches anything.
    let [paths] = <[_; 1]>::try_from(batches(&mut client, &options.paths)?).map_err(|batches| {
        let count = batches.iter().map(Vec::len).sum::<usize>();
        CliError::new(
            format!("{count} names are too many for one call"),
            "name the directories that they are in, or fewer at a time",
        )
    })?;
    let (bar, anyway) = (Bar(progress::of_kept("fetched")), options.anyway);
    let touched = follow(&mut client, &Call::Prefetch { paths, anyway }, &bar)?;
    drop(bar);
    conclude(&touched, "in the cache", &options.reporting, output)
}

/// Converts the arguments to names, and splits the names into batches that each fit into one call.
fn batches(client: &mut Client, paths: &[OsString]) -> Result<Vec<Vec<Named>>, CliError> {
    let names = PathArguments::ask(client)?;
    let named: Result<Vec<_>, _> = paths.iter().map(|path| names.of(path)).collect();
    Ok(in_calls(named?))
}

fn in_calls(named: Vec<Named>) -> Vec<Vec<Named>> {
    let mut calls: Vec<Vec<Named>> = Vec::new();
    let mut left_bytes = 0;
    for name in named {
        let bytes = serde_json::to_vec(&name).map_or(PATHS_MAX_BYTES, |written| written.len() + 1);
        match calls.last_mut() {
            Some(call) if call.len() < PATHS_MAX && bytes <= left_bytes => call.push(name),
            _ => {
                left_bytes = PATHS_MAX_BYTES;
                calls.push(vec![name]);
            }
        }
        left_bytes = left_bytes.saturating_sub(bytes);
    }
    calls
}

fn add(all: &mut Touched, some: Touched) {
    all.files += some.files;
    all.bytes += some.bytes;
    all.failed.extend(some.failed);
}

fn conclude(
    touched: &Touched,
    done: &str,
    reporting: &Reporting,
    output: &mut Output,
) -> Result<(), CliError> {
    let bytes = human_bytes(touched.bytes);
    let text = format!(
        "{}, {bytes}: {done}",
        write_count(touched.files, "file", "files")
    );
    if reporting.json || touched.files > 0 || touched.failed.is_empty() {
        output.print_value_or_line(reporting.json, touched, &text)?;
    }
    let Some(first) = touched.failed.first() else {
        return Ok(());
    };
    output.flush()?;
    let name = escape(first.path.as_bytes());
    let more = match touched.failed.len() {
        1 => String::new(),
        count => format!(", and {} more", count - 1),
    };
    // The reason includes the remedy.
    Err(CliError::plain(format!(
        "{name}: {}{more}",
        printable(&first.why)
    )))
}

/// Progress bar, cleared at the end.
struct Bar(ProgressBar);

impl Bar {
    fn show(&self, progress: &Progress) {
        progress::show(&self.0, progress.done_bytes, progress.total_bytes);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Sends a call, shows its progress, and returns the last reply. If the daemon restarts, sends the
/// call again.
fn follow<T: DeserializeOwned>(client: &mut Client, call: &Call, bar: &Bar) -> Result<T, CliError> {
    let mut breaks = Breaks::default();
    loop {
        match follow_once(client, call, bar) {
            Err(error) => client.recover(&mut breaks, error)?,
            Ok(last) => return Ok(last),
        }
    }
}

fn follow_once<T: DeserializeOwned>(
    client: &mut Client,
    call: &Call,
    bar: &Bar,
) -> Result<T, ClientError> {
    client.start(call)?;
    loop {
        let reply = client.next_reply()?;
        if !reply.continues {
            return reply.decode();
        }
        bar.show(&reply.decode()?);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_packed_into_calls_that_fit_and_none_is_too_long() {
        let call = |count, name: &[u8]| in_calls(vec![Named::new(name); count]);
        let sizes = |calls: Vec<Vec<Named>>| calls.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(call(40, b"file.iso")), [40]);
        assert_eq!(sizes(call(8000, &[b'n'; 100])), [8000]);
        assert_eq!(sizes(call(PATHS_MAX + 1, b"n")), [PATHS_MAX, 1]);
        let longest = [b'\x01'; 4095];
        for (count, name) in [(100, &longest[..]), (20_000, &[b'n'; 200])] {
            let calls = call(count, name);
            assert_eq!(calls.iter().map(Vec::len).sum::<usize>(), count);
            for paths in calls {
                let call = Call::Prefetch {
                    paths,
                    anyway: true,
                };
                let (_, parameters) = call.encode();
                let bytes = serde_json::to_vec(&parameters).unwrap();
                assert!(bytes.len() + 512 < CALL_MAX_BYTES);
            }
        }
    }

    #[test]
    fn an_unnamed_content_fits_a_line_in_any_state() {
        let entry = CacheEntry {
            hash: "0123456789abcdef".repeat(4),
            size_bytes: 1023 << 20,
            cached_bytes: 1023 << 20,
            pinned: true,
            open: true,
            last_used: Some(jiff::Timestamp::UNIX_EPOCH),
            names: Vec::new(),
            pinned_as: None,
        };
        let row = cache_row(&entry);
        let cells = row.iter().map(|cell| cell.chars().count());
        let columns = HEADING
            .iter()
            .zip(cells)
            .map(|(head, cell)| cell.max(head.len()));
        let gaps = (row.len() - 1) * COLUMN_GAP;
        assert!(columns.sum::<usize>() + gaps <= LINE_COLUMNS, "{row:?}");
    }
}
