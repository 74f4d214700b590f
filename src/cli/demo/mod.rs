//! `p2pfs demo`: a cluster of child processes on loopback, and a guided tour of it.
//!
//! The demo owns one folder with all shares, state, caches and mounts, and the daemons that it
//! started. At its end, also after an error or a signal, it stops the daemons, unmounts and removes
//! the folder. The tour consists of commands that a user would type, and the demo checks their
//! results. With `--once`, the demo ends after the tour.

/// Prints a line. Returns [`DemoError::Output`] if it cannot be written, so that the caller ends
/// the demo early. A closed pipe is no such error: the demo checks the rest all the same.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::demo::print_line(format_args!($($text)*))
    };
}

mod files;
mod folder;
mod nodes;
mod tour;
mod typed;

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::{Args, value_parser};

use super::doctor::{FUSE_DEVICE, LookAtDevice};
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
    /// Where to put them: a new or empty folder, removed at the end [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Check everything that is shown, clean up, and end
    #[arg(long)]
    pub once: bool,
}

/// Reason why the demo failed or ended early.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The demo must not use the named folder.
    #[error("cannot use {} for the demo: {cause}; name a new folder", dir.display())]
    FolderRefused {
        /// The named folder.
        dir: PathBuf,
        /// Reason for the refusal.
        cause: &'static str,
    },
    /// A file or folder of the demo could not be created, read or removed.
    #[error("cannot {action} {}: {source}", path.display())]
    Folder {
        /// The failed action, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// A node did not start. Its last message includes the remedy.
    #[error("{node} did not start: {said}")]
    NodeFailed {
        /// Name of the node.
        node: String,
        /// Last message of the node.
        said: String,
    },
    /// A command of the tour failed.
    #[error("{command}: {said}")]
    Command {
        /// Command as typed.
        command: String,
        /// Error output of the command.
        said: String,
    },
    /// A result of the tour or of the cleanup is wrong.
    #[error("not as promised: {what}")]
    Broken {
        /// The difference to the expected result.
        what: String,
    },
    /// Standard output cannot be written.
    #[error("standard output: {0}")]
    Output(io::Error),
    /// Interrupted by Ctrl-C or another ending signal.
    #[error("interrupted")]
    Interrupted,
}

/// Flag that an ending signal sets. The signal has no other effect, so that it never interrupts the
/// cleanup. The demo checks the flag while a command of the tour runs, and while the nodes stay up.
static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Returns whether the user wants the demo to end.
fn is_interrupted() -> bool {
    INTERRUPTED
        .get()
        .is_some_and(|ended| ending::has_come(ended))
}

/// Runs the demo to its end.
///
/// # Errors
/// A [`DemoError`], after the cleanup, or the reason why the demo cannot start. Ctrl-C after the
/// tour is the normal end.
pub fn run(options: &DemoOptions, device: LookAtDevice) -> Result<(), CliError> {
    // Without the device each node would start, and its mount would fail only after a timeout.
    device().map_err(|(why, remedy)| {
        CliError::new(format!("cannot open {FUSE_DEVICE}: {why}"), remedy)
    })?;
    let _set =
        INTERRUPTED.set(ending::catch_as_flag().map_err(CliError::cannot("handle signals"))?);
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

/// Implements `say!`. A command that must complete its work ignores a closed pipe, too.
fn print_line(text: fmt::Arguments<'_>) -> Result<(), DemoError> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(DemoError::Output(error)),
        _ => Ok(()),
    }
}

/// Waits until the user ends the demo. Fails at once if the output cannot be written, because no
/// user would learn how to use the nodes.
fn stay(cluster: &DemoCluster) -> Result<(), DemoError> {
    writeln!(io::stdout()).map_err(DemoError::Output)?;
    cluster.describe()?;
    while !is_interrupted() {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    say!("")
}
