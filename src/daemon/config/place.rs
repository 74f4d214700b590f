//! Default paths: the system's directories for root and the system's service, the XDG directories
//! for a user.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::environment::Environment;

/// The default paths of one kind of user on one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The name of the machine.
    pub host: String,
    /// The configuration file.
    pub config_file: PathBuf,
    /// The state directory.
    pub state_dir: PathBuf,
    /// The cache.
    pub cache_dir: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// The mount.
    pub mount_dir: PathBuf,
    /// The folder for files that other nodes push.
    pub inbox_dir: PathBuf,
}

/// File that p2pfs.service gives to the daemon as a credential (`LoadCredential=`). If
/// `secret_file` has this path or is not set, the daemon reads the service manager's copy, if there
/// is one.
const SYSTEM_SECRET: &str = "/etc/p2pfs/secret";

/// Returns the path of the secret from the service manager (systemd.exec(5), CREDENTIALS). Returns
/// `None` if the settings name another file, or if the manager has no secret. In the latter case,
/// the unit provides a file with an empty line.
pub(super) fn credential(environment: &Environment, wanted: Option<&Path>) -> Option<PathBuf> {
    if wanted.is_some_and(|path| path != Path::new(SYSTEM_SECRET)) {
        return None;
    }
    let file = environment.path("CREDENTIALS_DIRECTORY")?.join("secret");
    let length = std::fs::metadata(&file).ok()?.len();
    (length > 1).then_some(file)
}

/// The control socket of the system's daemon.
const SYSTEM_SOCKET: &str = "/run/p2pfs/p2pfs.sock";

impl Place {
    /// Returns the defaults for the user of this process.
    pub fn of_this_process(environment: &Environment) -> Self {
        let host = p2pfs_node::hostname();
        if rustix::process::geteuid().is_root() {
            Self::system(&host)
        } else {
            Self::service(&host, environment).unwrap_or_else(|| Self::user(&host, environment))
        }
    }

    /// Returns the system's defaults if this is the system's service under its own user: systemd
    /// then names the system's state directory in `STATE_DIRECTORY` (systemd.exec(5)), perhaps
    /// among others, separated by colons. Otherwise returns `None`.
    fn service(host: &str, environment: &Environment) -> Option<Self> {
        let system = Self::system(host);
        let mut states = std::env::split_paths(environment.path("STATE_DIRECTORY")?);
        states
            .any(|state| state == system.state_dir)
            .then_some(system)
    }

    /// Returns the defaults for root.
    pub fn system(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            config_file: PathBuf::from("/etc/p2pfs/p2pfs.toml"),
            state_dir: PathBuf::from("/var/lib/p2pfs"),
            cache_dir: PathBuf::from("/var/cache/p2pfs"),
            socket: PathBuf::from(SYSTEM_SOCKET),
            mount_dir: PathBuf::from("/mnt/p2p"),
            inbox_dir: PathBuf::from("/var/lib/p2pfs-inbox"),
        }
    }

    /// Returns the defaults for a user (XDG Base Directory Specification 0.8). A variable that is
    /// not an absolute path counts as unset, as the specification says.
    pub fn user(host: &str, environment: &Environment) -> Self {
        let variable = |name: &str| {
            environment
                .path(name)
                .filter(|path| path.is_absolute())
                .map(Path::to_path_buf)
        };
        let home = variable("HOME").unwrap_or_else(|| PathBuf::from("/"));
        let under = |name: &str, otherwise: &str| {
            variable(name)
                .unwrap_or_else(|| home.join(otherwise))
                .join("p2pfs")
        };
        let state_dir = under("XDG_STATE_HOME", ".local/state");
        let runtime = variable("XDG_RUNTIME_DIR").map(|dir| dir.join("p2pfs"));
        Self {
            host: host.to_owned(),
            config_file: under("XDG_CONFIG_HOME", ".config").join("p2pfs.toml"),
            cache_dir: under("XDG_CACHE_HOME", ".cache"),
            socket: runtime
                .unwrap_or_else(|| state_dir.clone())
                .join("p2pfs.sock"),
            mount_dir: home.join("p2p"),
            inbox_dir: home.join("p2p-inbox"),
            state_dir,
        }
    }

    /// Returns whether these are the defaults of the system's service.
    pub fn is_system(&self) -> bool {
        self.socket == Path::new(SYSTEM_SOCKET)
    }

    /// Returns whether a process listens on the system's socket.
    pub fn is_system_served() -> bool {
        UnixStream::connect(SYSTEM_SOCKET).is_ok()
    }

    /// Returns the sockets that a client tries, in this order: the user's own, then the system's.
    pub fn sockets(&self) -> Vec<PathBuf> {
        let system = PathBuf::from(SYSTEM_SOCKET);
        let mut sockets = vec![self.socket.clone()];
        if self.socket != system {
            sockets.push(system);
        }
        sockets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_gets_the_system_directories() {
        let place = Place::system("lab");
        assert_eq!(place.socket, Path::new("/run/p2pfs/p2pfs.sock"));
        assert_eq!(place.state_dir, Path::new("/var/lib/p2pfs"));
        assert_eq!(place.cache_dir, Path::new("/var/cache/p2pfs"));
        assert_eq!(place.mount_dir, Path::new("/mnt/p2p"));
        assert_eq!(place.sockets().len(), 1);
    }

    #[test]
    fn the_service_gets_the_system_directories_under_its_own_user() {
        for states in ["/var/lib/p2pfs", "/var/lib/p2pfs:/var/lib/p2pfs-inbox"] {
            let environment = Environment::from([("STATE_DIRECTORY", states)]);
            let place = Place::service("lab", &environment);
            assert_eq!(place, Some(Place::system("lab")), "{states}");
        }
        let other = Environment::from([("STATE_DIRECTORY", "/var/lib/other")]);
        assert_eq!(Place::service("lab", &other), None);
        assert_eq!(Place::service("lab", &Environment::default()), None);
    }

    #[test]
    fn a_user_gets_the_xdg_directories_and_finds_the_systems_daemon() {
        let environment = Environment::from([
            ("HOME", "/home/ann"),
            ("XDG_RUNTIME_DIR", "/run/user/7"),
            ("XDG_CACHE_HOME", "/fast/ann"),
            ("XDG_STATE_HOME", "not/absolute"),
        ]);
        let place = Place::user("lab", &environment);
        assert_eq!(
            place.config_file,
            Path::new("/home/ann/.config/p2pfs/p2pfs.toml")
        );
        assert_eq!(place.state_dir, Path::new("/home/ann/.local/state/p2pfs"));
        assert_eq!(place.cache_dir, Path::new("/fast/ann/p2pfs"));
        assert_eq!(place.mount_dir, Path::new("/home/ann/p2p"));
        assert_eq!(
            place.sockets(),
            [
                Path::new("/run/user/7/p2pfs/p2pfs.sock"),
                Path::new(SYSTEM_SOCKET)
            ]
        );
    }

    #[test]
    fn the_service_managers_secret_is_used_unless_a_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let environment =
            Environment::from([("CREDENTIALS_DIRECTORY", dir.path().to_str().unwrap())]);
        let file = dir.path().join("secret");
        assert_eq!(credential(&environment, None), None, "there is none");
        std::fs::write(&file, "\n").unwrap();
        assert_eq!(credential(&environment, None), None, "an empty one is none");
        std::fs::write(&file, "ab").unwrap();
        assert_eq!(credential(&environment, None), Some(file.clone()));
        let system = Some(Path::new(SYSTEM_SECRET));
        assert_eq!(credential(&environment, system), Some(file));
        let other = Some(Path::new("/etc/p2pfs/other"));
        assert_eq!(credential(&environment, other), None);
        assert_eq!(credential(&Environment::default(), None), None);
    }

    #[test]
    fn without_a_runtime_directory_the_socket_is_in_the_state_directory() {
        let place = Place::user("lab", &Environment::from([("HOME", "/home/ann")]));
        assert_eq!(
            place.socket,
            Path::new("/home/ann/.local/state/p2pfs/p2pfs.sock")
        );
    }
}
