//! Connection to the daemon.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::error::CliError;
use crate::daemon::config::{Environment, Place};
use crate::daemon::control::{Client, ClientError};

/// How long a command waits for an answer for which the daemon works a bounded time. Of these,
/// joining takes the longest, because the daemon connects to another machine for it. Commands whose
/// work grows with the data have no limit ([`Reporting::open_patiently`]).
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// How long a command waits for an answer that the daemon has at hand, such as its status. Equals
/// the time that a client waits for a restarting daemon. The limit is short, because users ask for
/// the status especially when a daemon hangs.
const PATIENCE_AT_HAND: Duration = Duration::from_secs(15);

/// Arguments of every command that calls the daemon. They may precede or follow a subcommand.
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

/// Returns the socket `said`, or without it the sockets of the user's own daemon and the system's.
pub(super) fn sockets(said: Option<&Path>) -> Vec<PathBuf> {
    match said {
        Some(path) => vec![path.to_owned()],
        None => Place::of_this_process(&Environment::of_this_process()).sockets(),
    }
}

impl Reporting {
    /// Returns the same arguments with this socket, unless they name one.
    pub(super) fn or_at(mut self, socket: PathBuf) -> Self {
        self.socket.get_or_insert(socket);
        self
    }

    /// Returns whether the user named a socket.
    pub(super) fn names_socket(&self) -> bool {
        self.socket.is_some()
    }

    /// Returns the possible sockets of the daemon.
    pub(super) fn sockets(&self) -> Vec<PathBuf> {
        sockets(self.socket.as_deref())
    }

    /// Connects, with `patience` as the timeout of each answer. With `None`, the client waits for
    /// an answer as long as the daemon is alive.
    fn connect(&self, patience: Option<Duration>) -> Result<Client, ClientError> {
        let mut client = Client::connect(&self.sockets())?;
        client.set_patience(patience)?;
        client.wait_for_restarts();
        Ok(client)
    }

    /// Connects, with a timeout of [`PATIENCE`] for each answer.
    pub(super) fn open(&self) -> Result<Client, CliError> {
        Ok(self.try_open()?)
    }

    /// Connects, with a short timeout, for answers that the daemon has at hand.
    pub(super) fn open_at_hand(&self) -> Result<Client, CliError> {
        Ok(self.try_open_at_hand()?)
    }

    /// Connects like [`Self::open`], for a caller that handles a missing daemon itself.
    pub(super) fn try_open(&self) -> Result<Client, ClientError> {
        self.connect(Some(PATIENCE))
    }

    /// Connects like [`Self::open_at_hand`], for a caller that handles a missing daemon itself.
    pub(super) fn try_open_at_hand(&self) -> Result<Client, ClientError> {
        self.connect(Some(PATIENCE_AT_HAND))
    }

    /// Connects without a timeout: the client waits for an answer as long as the daemon is alive.
    pub(super) fn open_patiently(&self) -> Result<Client, CliError> {
        Ok(self.connect(None)?)
    }
}
