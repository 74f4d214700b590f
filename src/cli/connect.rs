//! Reaching the daemon.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::error::CliError;
use crate::daemon::config::{Environment, Place};
use crate::daemon::control::{Client, ClientError};

/// How long a command waits for an answer that has to be found out. Joining dials another machine,
/// which takes the longest.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// How long for one that the daemon has at hand, such as how it is: as long as one that restarts is
/// waited for. One that hangs is asked for that above all.
const PATIENCE_AT_HAND: Duration = Duration::from_secs(15);

/// What every command that asks the daemon takes; where a command has parts, before them or behind.
#[derive(Debug, Clone, Args)]
pub struct Reporting {
    /// The daemon's control socket [default: the user's own daemon, else the system's]
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "P2PFS_SOCKET",
        hide_env_values = true
    )]
    socket: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
}

/// Where the daemon may be, unless it is said.
pub(super) fn sockets(said: Option<&Path>) -> Vec<PathBuf> {
    match said {
        Some(path) => vec![path.to_owned()],
        None => Place::of_this_process(&Environment::of_this_process()).sockets(),
    }
}

impl Reporting {
    /// Where the daemon may be.
    pub(super) fn sockets(&self) -> Vec<PathBuf> {
        sockets(self.socket.as_deref())
    }

    /// Connects; each answer is waited for so long, or for as long as it takes.
    fn connect(&self, patience: Option<Duration>) -> Result<Client, ClientError> {
        let mut client = Client::connect(&self.sockets())?;
        client.set_patience(patience)?;
        client.wait_for_restarts();
        Ok(client)
    }

    /// Connects; each answer is waited for a while.
    pub(super) fn open(&self) -> Result<Client, CliError> {
        Ok(self.try_open()?)
    }

    /// Connects for answers that the daemon has at hand.
    pub(super) fn open_at_hand(&self) -> Result<Client, CliError> {
        Ok(self.try_open_at_hand()?)
    }

    /// The same, for a caller that has an answer to there being no daemon.
    pub(super) fn try_open(&self) -> Result<Client, ClientError> {
        self.connect(Some(PATIENCE))
    }

    /// [`Self::open_at_hand`], for such a caller.
    pub(super) fn try_open_at_hand(&self) -> Result<Client, ClientError> {
        self.connect(Some(PATIENCE_AT_HAND))
    }

    /// Connects for answers that take as long as they take.
    pub(super) fn open_patiently(&self) -> Result<Client, CliError> {
        Ok(self.connect(None)?)
    }
}
