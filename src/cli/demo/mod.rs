//! `p2pfs demo`: a cluster of child processes on loopback, and a guided tour of it.
//!
//! Owns a folder with everything in it (shares, state, caches, mounts) and the daemons that it
//! started; whatever happens, it stops them, takes their mounts away and removes the folder. The
//! tour is made of the commands that a user would type. With `--once` each thing that it shows is
//! checked.

/// Prints a line; fails where nobody reads it any more, which ends the demo as an error does.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::demo::print_line(format_args!($($text)*))
    };
}

mod files;
mod folder;
mod nodes;
mod tour;

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::{Args, value_parser};

use super::ending;
use super::error::CliError;
use nodes::DemoCluster;
pub use tour::Tour;

/// The flags of `p2pfs demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoOptions {
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 3)]
    #[arg(value_parser = value_parser!(u8).range(2..=16))]
    pub nodes: u8,
    /// Where to put them: a new or empty folder [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Check everything that is shown, clean up, and end
    #[arg(long)]
    pub once: bool,
}

/// Why the tour ended early. Everything was cleaned up.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The folder named is one that the demo must not use.
    #[error("cannot use {} for the demo: {cause}; name a new folder", dir.display())]
    FolderRefused {
        dir: PathBuf,
        /// What is wrong with it.
        cause: &'static str,
    },
    /// A file or folder of the demo could not be made.
    #[error("cannot make {}: {source}", path.display())]
    Folder {
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A node did not start; what it said last is its own advice.
    #[error("{node} did not start: {said}")]
    NodeFailed {
        node: String,
        /// Its last words.
        said: String,
    },
    /// A command of the tour failed.
    #[error("{command}: {said}")]
    Command {
        /// As it was typed.
        command: String,
        /// What it said.
        said: String,
    },
    /// Something shown is not as it should be.
    #[error("not as promised: {what}")]
    Broken { what: String },
    /// Nobody reads what it shows, or there is no room for it.
    #[error("standard output: {0}")]
    Output(io::Error),
    /// Ctrl-C, or a request to end.
    #[error("interrupted")]
    Interrupted,
}

/// Set by the first signal, so that the cleaning up is never cut short; looked at between and
/// during the steps.
static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Whether the user wants the demo to end.
fn is_interrupted() -> bool {
    INTERRUPTED
        .get()
        .is_some_and(|ended| ending::has_come(ended))
}

/// Runs the demo to its end.
///
/// # Errors
/// [`DemoError`], after cleaning up. Ctrl-C once the tour is over is the normal end.
pub fn run(options: &DemoOptions) -> Result<(), CliError> {
    let _set = INTERRUPTED.set(ending::noted()?);
    tour(options).map_err(|error| match error {
        DemoError::Output(error) => CliError::Output(error),
        error => CliError::plain(error.to_string()),
    })
}

fn tour(options: &DemoOptions) -> Result<(), DemoError> {
    let mut cluster = DemoCluster::start(options)?;
    let walked = Tour::new(&mut cluster).walk();
    let result = if options.once {
        walked
    } else {
        walked.and_then(|()| stay(&cluster))
    };
    let stopped = cluster.stop();
    match result {
        Ok(()) => stopped,
        Err(error) => Err(error),
    }
}

fn print_line(text: fmt::Arguments<'_>) -> Result<(), DemoError> {
    writeln!(io::stdout(), "{text}").map_err(DemoError::Output)
}

/// Until somebody ends it.
fn stay(cluster: &DemoCluster) -> Result<(), DemoError> {
    cluster.describe()?;
    while !is_interrupted() {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    say!("")
}
