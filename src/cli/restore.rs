//! `p2pfs restore` and `p2pfs ls --deleted`: deleted and replaced versions.

use std::ffi::OsString;

use clap::Args;
use jiff::{SignedDuration, Timestamp};

use super::connect::Reporting;
use super::error::CliError;
use super::names::PathArguments;
use super::output::Output;
use super::text::{escape, human_bytes, local_time, printable};
use crate::daemon::config::units;
use crate::daemon::control::{Call, Client, DeletedFiles, Named, Restored};

/// Maximum number of versions that were not brought back and that are shown with the reason.
const FAILURES_SHOWN_MAX: usize = 20;

/// The arguments of `p2pfs restore`.
#[derive(Debug, Clone, Args)]
pub struct RestoreOptions {
    #[command(flatten)]
    reporting: Reporting,
    /// Files, or directories with all that was deleted below them; / is the whole folder
    #[arg(required = true)]
    paths: Vec<OsString>,
    /// Only what this node deleted or replaced
    #[arg(long, value_name = "NODE")]
    by: Option<String>,
    /// Only what was deleted or replaced since then, and below directories also what was replaced:
    /// 2h, 3d, or a time as in 2026-12-01T13:00:00Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Timestamp>,
}

/// Parses a duration before now, or a time.
fn since(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let ago = units::parse_positive_duration(text).map_err(|why| why.to_string())?;
    let ago = SignedDuration::try_from(ago).map_err(|why| why.to_string())?;
    let time = Timestamp::now().checked_sub(ago);
    time.map_err(|why| why.to_string())
}

pub(super) fn restore(options: &RestoreOptions, output: &mut Output) -> Result<(), CliError> {
    let mut client = options.reporting.open()?;
    let arguments = PathArguments::ask(&mut client)?;
    let paths: Result<Vec<Named>, CliError> = options
        .paths
        .iter()
        .map(|path| arguments.of(path))
        .collect();
    let mut done = Restored::default();
    for path in paths? {
        let restored: Restored = client.call(&Call::Restore {
            path,
            by: options.by.clone(),
            since: options.since,
        })?;
        done.restored += restored.restored;
        done.failures += restored.failures;
        done.failed.extend(restored.failed);
    }
    if options.reporting.json {
        output.json(&done)?;
    } else {
        let files = if done.restored == 1 { "file" } else { "files" };
        output.line(&format!("restored {} {files}", done.restored))?;
        for failed in done.failed.iter().take(FAILURES_SHOWN_MAX) {
            let path = escape(failed.path.as_bytes());
            output.line(&format!("not restored: {path}: {}", printable(&failed.why)))?;
        }
    }
    if done.failures == 0 {
        return Ok(());
    }
    let message = format!("{} files were not restored", done.failures);
    let remedy = "p2pfs ls --deleted shows them; a file that its own node deleted is kept there";
    Err(CliError::new(message, remedy))
}

/// Prints the deleted and replaced versions at and below a path.
pub(super) fn list(
    client: &mut Client,
    path: Named,
    json: bool,
    output: &mut Output,
) -> Result<(), CliError> {
    let found: DeletedFiles = client.call(&Call::Deleted {
        path,
        by: None,
        since: None,
    })?;
    if json {
        return output.json(&found);
    }
    for version in &found.versions {
        let path = escape(version.path.as_bytes());
        let size = human_bytes(version.size_bytes);
        let lost = local_time(version.lost);
        let what = if version.replaced {
            "replaced"
        } else {
            "deleted"
        };
        let by = printable(&version.by);
        output.line(&format!("{lost}  {what} by {by}  {size:>8}  {path}"))?;
    }
    if found.more {
        output.line("there are more; name a path below")?;
    }
    Ok(())
}
