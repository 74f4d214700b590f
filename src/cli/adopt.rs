//! `p2pfs adopt`: the files of a departed node.

use std::ffi::OsString;

use clap::Args;

use super::connect::Reporting;
use super::error::CliError;
use super::names::PathArguments;
use super::output::Output;
use super::text::{escape, printable};
use crate::daemon::config::units::write_count;
use crate::daemon::control::{Adopted, Call, Named};

/// Maximum number of files that were not adopted and that are shown with the reason.
const FAILURES_SHOWN_MAX: usize = 20;

/// The arguments of `p2pfs adopt`.
#[derive(Debug, Clone, Args)]
pub struct AdoptOptions {
    #[command(flatten)]
    reporting: Reporting,
    /// The departed node, by its name or key
    node: String,
    /// Only what is at and below this path of the shared folder
    path: Option<OsString>,
}

pub(super) fn adopt(options: &AdoptOptions, output: &mut Output) -> Result<(), CliError> {
    let mut client = options.reporting.open()?;
    let path = match &options.path {
        Some(path) => PathArguments::ask(&mut client)?.of(path)?,
        None => Named::default(),
    };
    let node = options.node.clone();
    let done: Adopted = client.call(&Call::Adopt { node, path })?;
    if options.reporting.json {
        output.json(&done)?;
    } else {
        let files = |count| write_count(count, "file", "files");
        output.line(&format!("adopted {}", files(done.adopted)))?;
        if done.missing > 0 {
            output.line(&format!("no complete copy here: {}", files(done.missing)))?;
        }
        for failed in done.failed.iter().take(FAILURES_SHOWN_MAX) {
            let path = escape(failed.path.as_bytes());
            output.line(&format!("not adopted: {path}: {}", printable(&failed.why)))?;
        }
    }
    if done.failures == 0 {
        return Ok(());
    }
    let message = format!("{} files were not adopted", done.failures);
    Err(CliError::new(
        message,
        "p2pfs write says where this node can write",
    ))
}
