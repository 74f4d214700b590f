//! Failures of commands: one line, with the remedy.

use std::io;

use super::text::printable;
use crate::daemon::config::ConfigError;
use crate::daemon::control::{ClientError, FailedStart, Failure};

/// Remedy if the daemon does not run.
pub(super) const START: &str = "start it: systemctl start p2pfs, or p2pfs daemon (if it has \
     another socket, name that with --socket)";
/// Remedy if the daemon runs and does not answer.
pub(super) const LOOK_AT_IT: &str =
    "see what it is at: journalctl -u p2pfs; where it hangs, restart it: systemctl restart p2pfs";

/// Returns the remedy if the last start of the daemon failed. The message has the remedy of the
/// cause.
pub(super) fn mend_the_start(failed: &FailedStart) -> String {
    match &failed.start_by_hand {
        Some(start) => format!("mend it, then {start}"),
        None => "for more: journalctl -u p2pfs".to_owned(),
    }
}

/// Failure of a command.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A failure with an optional remedy.
    #[error("{}{}", printable(.message), ending(.remedy.as_deref()))]
    Failed {
        /// Cause of the failure.
        message: String,
        /// Remedy, if there is one.
        remedy: Option<String>,
    },
    /// The configuration is invalid; one line for each error.
    #[error("{}", lines(.0))]
    Config(#[from] Box<ConfigError>),
    /// Files named by the configuration, or stored data, are unusable until they are repaired.
    #[error("{0}")]
    Unusable(String),
    /// Standard output cannot be written. There is no conversion from every error of the system,
    /// because most of them are not about the output.
    #[error("cannot write the output: {0}")]
    Output(io::Error),
    /// The reader of a file on standard output ended before it had the whole file. This is not
    /// told, as cat(1) tells nothing, but a script must be able to notice it.
    #[error("the file was not read to its end")]
    NotReadToEnd,
}

fn ending(remedy: Option<&str>) -> String {
    remedy
        .map(|remedy| format!("; {}", printable(remedy)))
        .unwrap_or_default()
}

fn lines(errors: &ConfigError) -> String {
    let lines = errors.each().iter();
    let lines: Vec<String> = lines.map(|error| printable(&error.to_string())).collect();
    lines.join("\n")
}

impl CliError {
    /// Creates a failure with a remedy.
    pub fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Failed {
            message: message.into(),
            remedy: Some(remedy.into()),
        }
    }

    /// Creates a failure without a remedy.
    pub fn plain(message: impl Into<String>) -> Self {
        Self::Failed {
            message: message.into(),
            remedy: None,
        }
    }

    /// Returns a function that describes an error of the system by what it prevented: a verb and
    /// its object.
    pub(super) fn cannot(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::plain(format!("cannot {action}: {error}"))
    }

    /// Returns whether the only failure is that the output is no longer read.
    pub(super) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(e) if e.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Returns whether nothing is printed about the failure.
    pub fn is_quiet(&self) -> bool {
        matches!(self, Self::NotReadToEnd)
    }

    /// Returns the exit status. It is 78 (`EX_CONFIG` of sysexits.h) for an invalid configuration
    /// and for unusable files, since a restart does not repair them. It is 1 for all other
    /// failures.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Unusable(_) => 78,
            _ => 1,
        }
    }
}

impl From<Failure> for CliError {
    fn from(failure: Failure) -> Self {
        Self::Failed {
            message: failure.message,
            remedy: failure.remedy,
        }
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        let error = error.explained();
        let message = error.to_string();
        match error {
            ClientError::NotRunning { .. } => Self::new(message, START),
            ClientError::TooLong { .. } => Self::new(
                message,
                "name it by a shorter one, such as a relative one: --socket, or P2PFS_SOCKET",
            ),
            ClientError::NoSocket { .. } => Self::new(
                message,
                "name the control socket of the daemon, or none: --socket, or P2PFS_SOCKET",
            ),
            ClientError::Silent => Self::new(message, LOOK_AT_IT),
            ClientError::DoesNotStart(failed) => Self::new(message, mend_the_start(&failed)),
            ClientError::Closed => Self::new(
                message,
                "it may be done or not: see p2pfs status, then try again",
            ),
            ClientError::Refused(failure) => failure.into(),
            ClientError::Malformed { .. } => {
                Self::new(message, "use the p2pfs of the daemon's own version")
            }
            ClientError::Socket(_) => Self::plain(message),
        }
    }
}
