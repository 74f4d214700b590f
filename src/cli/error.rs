//! How a command fails: one line, with what to do next.

use std::io;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme};

use super::text::{colour_wanted, printable};
use crate::daemon::config::ConfigError;
use crate::daemon::control::{ClientError, Failure};

/// What to do where nobody answers.
pub(super) const START: &str = "start it: systemctl start p2pfs, or p2pfs daemon";
/// What to do where the daemon is there and says nothing.
pub(super) const LOOK_AT_IT: &str =
    "see what it is at: journalctl -u p2pfs; where it hangs, restart it: systemctl restart p2pfs";

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// What, and what to do about it.
    #[error("{}{}", printable(.message), ending(.remedy.as_deref()))]
    Failed {
        /// What failed.
        message: String,
        /// What to do next.
        remedy: Option<String>,
    },
    /// The configuration is wrong; a line for each error.
    #[error("{}", lines(.0))]
    Config(#[from] Box<ConfigError>),
    /// What the configuration names, or what is stored, is of no use until somebody mends it.
    #[error("{0}")]
    Unusable(String),
    /// Our own output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
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
    /// A failure with what to do about it.
    pub fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Failed {
            message: message.into(),
            remedy: Some(remedy.into()),
        }
    }

    /// A failure that speaks for itself.
    pub fn plain(message: impl Into<String>) -> Self {
        Self::Failed {
            message: message.into(),
            remedy: None,
        }
    }

    /// Whether all that happened is that nobody reads our output any more.
    pub(super) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(e) if e.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The exit status that tells it: 78, as `EX_CONFIG` of sysexits.h, for a wrong configuration
    /// and for files that are of no use, since starting again does not mend that; 1 for all else.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Unusable(_) => 78,
            _ => 1,
        }
    }

    /// The place in a configuration file, drawn for a terminal; nothing for other failures.
    pub fn drawing(&self) -> Option<String> {
        let Self::Config(error) = self else {
            return None;
        };
        let mut drawing = String::new();
        let theme = if colour_wanted() {
            GraphicalTheme::unicode()
        } else {
            GraphicalTheme::unicode_nocolor()
        };
        let handler = GraphicalReportHandler::new_themed(theme).with_links(false);
        // paths are copied from it
        let handler = handler.with_wrap_lines(false);
        let drawn = error.each().iter().filter(|it| it.source_code().is_some());
        for error in drawn {
            handler.render_report(&mut drawing, error).ok()?;
        }
        (!drawing.is_empty()).then_some(drawing)
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
