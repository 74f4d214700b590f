//! Reaching the daemon.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::error::CliError;
use crate::daemon::config::{Environment, Place};
use crate::daemon::control::{Client, ClientError};

/// How long a command that has only to be looked up waits for its answer. Joining dials another
/// machine, which takes the longest.
const PATIENCE: Duration = Duration::from_secs(60);

/// What every command that asks the daemon takes.
#[derive(Debug, Clone, Args)]
pub struct Connection {
    /// The daemon's control socket [default: the user's own daemon, else the system's]
    #[arg(
        long,
        value_name = "PATH",
        env = "P2PFS_SOCKET",
        hide_env_values = true
    )]
    socket: Option<PathBuf>,
}

/// As [`Connection`], where there is something to print.
#[derive(Debug, Clone, Args)]
pub struct Reporting {
    #[command(flatten)]
    connection: Connection,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl Connection {
    /// Where the daemon may be.
    fn sockets(&self) -> Vec<PathBuf> {
        match &self.socket {
            Some(path) => vec![path.clone()],
            None => Place::of_this_process(&Environment::of_this_process()).sockets(),
        }
    }

    /// Connects; each answer is waited for a while.
    fn try_open(&self) -> Result<Client, ClientError> {
        let mut client = Client::connect(&self.sockets())?;
        client.set_patience(Some(PATIENCE))?;
        client.wait_for_restarts();
        Ok(client)
    }

    /// Connects for answers that take as long as they take.
    pub(super) fn open_patiently(&self) -> Result<Client, CliError> {
        let mut client = Client::connect(&self.sockets())?;
        client.set_patience(None)?;
        client.wait_for_restarts();
        Ok(client)
    }
}

impl Reporting {
    /// Where the daemon may be.
    pub(super) fn sockets(&self) -> Vec<PathBuf> {
        self.connection.sockets()
    }

    /// Connects; each answer is waited for a while.
    pub(super) fn open(&self) -> Result<Client, CliError> {
        Ok(self.connection.try_open()?)
    }

    /// The same, for a caller that has an answer to there being no daemon.
    pub(super) fn try_open(&self) -> Result<Client, ClientError> {
        self.connection.try_open()
    }

    /// Connects for answers that take as long as they take.
    pub(super) fn open_patiently(&self) -> Result<Client, CliError> {
        self.connection.open_patiently()
    }
}
