//! `p2pfs wait`: waits until the daemon has reached a state, for scripts.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use clap::Args;
use clap_complete::ArgValueCompleter;

use super::complete;
use super::connect::Reporting;
use super::error::{CliError, START};
use super::names::PathArguments;
use super::output::Output;
use crate::daemon::config::units;
use crate::daemon::control::{Call, Client, ClientError, FailureKind, Nothing};

/// Interval between attempts to reach a daemon that does not answer yet.
const RETRY: Duration = Duration::from_millis(50);
/// How long the client waits beyond the timeout, so that the daemon can report the timeout.
const GRACE: Duration = Duration::from_secs(1);

fn whole_number(text: &str) -> Result<u64, String> {
    let number = text.parse();
    number.map_err(|_| "write a whole number, such as 3".to_owned())
}

/// The flags of `p2pfs wait`; without flags it waits until the daemon answers.
#[derive(Debug, Clone, Args)]
pub struct WaitOptions {
    #[command(flatten)]
    reporting: Reporting,
    /// Until the folder is mounted
    #[arg(long)]
    mounted: bool,
    /// Until at least this many other nodes are alive
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole_number)]
    peers: u64,
    /// Until this file is listed
    #[arg(long, value_name = "PATH")]
    #[arg(add = ArgValueCompleter::new(complete::shared_names))]
    file: Option<OsString>,
    /// How long to wait at most
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::parse_duration)]
    timeout: Duration,
}

pub(super) fn run(options: &WaitOptions, output: &mut Output) -> Result<(), CliError> {
    let sockets = options.reporting.sockets();
    // A deadline beyond the range of the clock counts as none.
    let deadline = Instant::now().checked_add(options.timeout);
    let left = || {
        deadline.map_or(Duration::MAX, |at| {
            at.saturating_duration_since(Instant::now())
        })
    };
    loop {
        let tried = Client::connect(&sockets)
            .map_err(not_connected)
            .and_then(|client| ask(options, client, left()));
        let why = match tried {
            Ok(()) if options.reporting.json => return output.json(&Nothing {}),
            Ok(()) => return Ok(()),
            Err(Tried::Failed(error)) => return Err(error),
            Err(Tried::Again(why)) => why,
        };
        if left().is_zero() {
            return Err(too_late(options, why));
        }
        std::thread::sleep(RETRY.min(left()));
    }
}

/// Result of one failed attempt.
enum Tried {
    /// Another attempt may succeed, for example because the daemon does not run yet, or is busy, or
    /// ended during this attempt.
    Again(ClientError),
    /// Another attempt is useless.
    Failed(CliError),
}

fn not_connected(error: ClientError) -> Tried {
    match error {
        ClientError::TooLong { .. } | ClientError::NoSocket { .. } => Tried::Failed(error.into()),
        error => Tried::Again(error),
    }
}

fn ask(options: &WaitOptions, mut client: Client, left: Duration) -> Result<(), Tried> {
    let patience = left
        .saturating_add(GRACE)
        .min(Duration::from_secs(u32::MAX.into()));
    client.set_patience(Some(patience)).map_err(Tried::Again)?;
    let file = match &options.file {
        None => None,
        Some(path) => {
            let names = PathArguments::ask(&mut client).map_err(Tried::Again)?;
            Some(names.of(path).map_err(Tried::Failed)?)
        }
    };
    let begun = Instant::now();
    let timeout_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    let (mounted, peers) = (options.mounted, options.peers);
    let call = Call::Wait {
        mounted,
        peers,
        file,
        timeout_ms,
    };
    match client.call::<Nothing>(&call) {
        Ok(Nothing {}) => Ok(()),
        Err(ClientError::Refused(failure)) => match failure.kind {
            FailureKind::Busy | FailureKind::Stopping => Err(Tried::Again(failure.into())),
            // The daemon waits at most a day per call.
            FailureKind::TimedOut if begun.elapsed() < left => Err(Tried::Again(failure.into())),
            FailureKind::TimedOut => Err(Tried::Failed(too_late(options, failure.into()))),
            _ => Err(Tried::Failed(failure.into())),
        },
        Err(error @ ClientError::Malformed { .. }) => Err(Tried::Failed(error.into())),
        Err(error) => Err(Tried::Again(error)),
    }
}

fn too_late(options: &WaitOptions, why: ClientError) -> CliError {
    let waited = units::write_duration(options.timeout);
    let why = why.explained();
    let message = format!("not so within {waited}: {why}");
    match why {
        ClientError::Refused(_) => {
            CliError::new(message, "see how it is: p2pfs status, p2pfs peers")
        }
        // The daemon ended, and no other one started.
        ClientError::Closed => CliError::new(message, START),
        why => match CliError::from(why) {
            CliError::Failed { remedy, .. } => CliError::Failed { message, remedy },
            other => other,
        },
    }
}
