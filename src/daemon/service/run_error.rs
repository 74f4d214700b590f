//! Why a daemon ends by itself, and whether another start may succeed.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::logging::LogError;
use crate::daemon::config::Place;
use crate::daemon::control::ControlError;
use p2pfs_fuse::MountError;
use p2pfs_node::{NetError, NodeError};
use p2pfs_types::files::stays_refused;

/// Why the daemon stopped without being told to: one line, with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The log cannot start.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The node cannot start.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The system's service has the port of a user's daemon.
    #[error(
        "cannot listen on {listen}: the system's p2pfs service has the port; write listen = \
         \"{other}\" into {}, or use the system's folder alone", .config_file.display()
    )]
    SystemService {
        /// The address of both.
        listen: SocketAddr,
        /// Another address for the user's daemon.
        other: SocketAddr,
        /// The user's configuration.
        config_file: PathBuf,
    },
    /// The folder cannot be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The control socket cannot be opened.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The shares added by command cannot be read.
    #[error("cannot read the shares kept in {}: {source}; {}", .dir.display(), mend(.source))]
    Saved {
        /// The state directory.
        dir: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// Another user can put files into a directory of the daemon.
    #[error("cannot use the {what} {}: {fault}", .dir.display())]
    OpenDir {
        /// The use of the directory.
        what: &'static str,
        /// The directory.
        dir: PathBuf,
        /// The user that can change it, and the remedy.
        fault: String,
    },
    /// The system refuses a basic operation.
    #[error("{what}: {source}")]
    System {
        /// The operation.
        what: &'static str,
        /// The error of the system.
        source: std::io::Error,
    },
}

impl RunError {
    /// If the port is in use and a process listens on the system's control socket, converts the
    /// error of a user's daemon to [`RunError::SystemService`]. Returns all other errors unchanged.
    pub(super) fn of_start(self, place: &Place, is_system_served: impl Fn() -> bool) -> Self {
        let Self::Node(NodeError::Net(NetError::Bind { address, kind })) = &self else {
            return self;
        };
        let is_of_system = place.is_system() || *kind != ErrorKind::AddrInUse;
        if is_of_system || !is_system_served() {
            return self;
        }
        let mut other = *address;
        other.set_port(address.port().checked_add(1).unwrap_or(1024));
        Self::SystemService {
            listen: *address,
            other,
            config_file: place.config_file.clone(),
        }
    }

    /// Returns whether every further start fails in the same way until the user corrects the cause.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Node(error) => error.is_permanent(),
            Self::Saved { dir, source } => {
                source.kind() == ErrorKind::InvalidData || stays_refused(dir, source)
            }
            Self::OpenDir { .. } => true,
            Self::SystemService { .. } => false,
            Self::Log(_) | Self::Mount(_) | Self::Control(_) | Self::System { .. } => false,
        }
    }
}

/// Returns the remedy for saved shares that cannot be read.
fn mend(source: &std::io::Error) -> &'static str {
    match source.kind() {
        ErrorKind::NotADirectory => "name a directory with --state",
        ErrorKind::PermissionDenied => {
            "name another directory with --state, or run it as the user that owns this one"
        }
        _ => "mend or remove shares.toml there",
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::daemon::config::Environment;

    #[test]
    fn port_of_the_systems_service_is_named_with_the_setting_that_helps() {
        let environment = Environment::from([("HOME", "/home/ann")]);
        let place = Place::user("desk", &environment);
        let taken = || {
            RunError::Node(NodeError::Net(NetError::Bind {
                address: "0.0.0.0:1378".parse().unwrap(),
                kind: ErrorKind::AddrInUse,
            }))
        };
        let said = taken().of_start(&place, || true).to_string();
        assert_eq!(
            said,
            "cannot listen on 0.0.0.0:1378: the system's p2pfs service has the port; write listen \
             = \"0.0.0.0:1379\" into /home/ann/.config/p2pfs/p2pfs.toml, or use the system's \
             folder alone"
        );
        let other = taken().of_start(&place, || false).to_string();
        assert!(other.contains("another program uses this port"), "{other}");
        let system = taken().of_start(&Place::system("desk"), || true);
        assert!(matches!(system, RunError::Node(_)));
        assert_eq!(
            place.config_file,
            Path::new("/home/ann/.config/p2pfs/p2pfs.toml")
        );
    }
}
