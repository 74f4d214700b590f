//! Settings that are fine each by itself and cannot be together.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::error::ConfigError;
use super::group::missing_group;
use super::metrics::MetricsAddress;
use super::settings::Config;
use super::units::write_duration;
use crate::files::SOCKET_PATH_MAX_BYTES;

/// The shortest time between two probes of the membership.
const PERIOD_MIN: Duration = Duration::from_millis(100);

/// Checks the whole; `origin` tells where a key was set. Gives each [`ConfigError::Impossible`],
/// naming the setting and where it was set.
pub(super) fn check(config: &Config, origin: impl Fn(&str) -> String) -> Vec<ConfigError> {
    let single = [legacy(config), socket(config), period(config), mesh(config)];
    let several = [
        ports(config),
        inboxes(config),
        groups(config),
        readers(config),
        folders(config),
    ];
    let broken = single.into_iter().flatten();
    let broken = broken.chain(several.into_iter().flatten());
    let impossible = broken.map(|(key, message)| ConfigError::Impossible {
        key: key.to_owned(),
        message,
        origin: origin(key),
    });
    impossible.collect()
}

type Broken = Option<(&'static str, String)>;

/// The legacy peers know IPv4 only, and their members are told of this node's address.
fn legacy(config: &Config) -> Broken {
    let message = "the legacy peers know IPv4 only: listen on an IPv4 address, or leave \
                   legacy.enabled, --legacy and P2P_CLUSTER out";
    let is_impossible = config.legacy.enabled && config.listen.is_ipv6();
    is_impossible.then(|| ("listen", message.to_owned()))
}

/// Of two lists of one name only one could hold, and who is only in the other would read nothing.
fn groups(config: &Config) -> Vec<(&'static str, String)> {
    let groups = config.groups.iter().enumerate();
    let again = groups.filter(|(at, group)| {
        let mut before = config.groups[..*at].iter();
        before.any(|other| other.name == group.name)
    });
    let broken = again.map(|(_, group)| {
        let name = &group.name;
        let message = format!("there are two groups {name:?}: write all members into one");
        ("groups", message)
    });
    broken.collect()
}

/// Legacy peers can be told from nobody, and a group is one that is there.
fn readers(config: &Config) -> Vec<(&'static str, String)> {
    let shares = config.share.iter();
    let broken = shares.filter_map(|share| {
        let (readers, dir) = (share.readers.as_ref()?, share.dir.display());
        if share.legacy {
            let message = format!(
                "{dir} is for its readers alone, and legacy peers can be told from nobody: take \
                 legacy or readers out"
            );
            return Some(("share.legacy", message));
        }
        let name = missing_group(readers, &config.groups)?;
        let message = format!("{dir}: there is no group {name:?}: write it into groups");
        Some(("share.readers", message))
    });
    broken.collect()
}

/// The mesh's programs know IPv4 only, and every peer of it must be one that others can dial.
fn mesh(config: &Config) -> Broken {
    let mesh = &config.mesh;
    if mesh.listen.is_some_and(|listen| listen.is_ipv6()) {
        let message = "the mesh's peers know IPv4 only: listen on an IPv4 address";
        return Some(("mesh.listen", message.to_owned()));
    }
    if mesh.listen.is_none() && !mesh.peers.is_empty() {
        let message = "a node of the mesh is dialled too: say mesh.listen, such as 0.0.0.0:18001";
        return Some(("mesh.peers", message.to_owned()));
    }
    None
}

/// Each listens on a TCP port of its own; port 0 is any free one.
fn ports(config: &Config) -> Vec<(&'static str, String)> {
    let metrics = match config.metrics.listen {
        Some(MetricsAddress::Tcp(address)) => Some(address),
        Some(MetricsAddress::Unix(_)) | None => None,
    };
    let listening = [
        ("listen", Some(config.listen)),
        ("mesh.listen", config.mesh.listen),
        ("metrics.listen", metrics),
    ];
    let taken = |at: usize, address: SocketAddr| {
        let mut before = listening[..at].iter();
        before.find(|(_, other)| other.is_some_and(|other| collide(other, address)))
    };
    let broken = listening
        .iter()
        .enumerate()
        .filter_map(|(at, (key, address))| {
            let address = (*address)?;
            let (other, _) = taken(at, address)?;
            let message = format!(
                "{other} has port {} already: choose another",
                address.port()
            );
            Some((*key, message))
        });
    broken.collect()
}

/// Whether of two addresses only one can be listened on.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let is_any = one.ip().is_unspecified() || other.ip().is_unspecified();
    let is_same_kind = one.is_ipv4() == other.is_ipv4();
    let is_same_place = one.ip() == other.ip() || is_any && is_same_kind;
    one.port() == other.port() && one.port() != 0 && is_same_place
}

/// What is pushed to this node is shared, so it may not lie where nothing may be shared from.
fn inboxes(config: &Config) -> Vec<(&'static str, String)> {
    let mut broken = Vec::new();
    let mount = config.mount.enabled.then_some(config.mount.dir.as_path());
    let own = [
        ("the state directory", Some(config.state_dir.as_path())),
        ("the cache", Some(config.cache_dir.as_path())),
        ("the mount", mount),
    ];
    for (key, inbox) in config.inboxes() {
        for (what, dir) in own {
            if let Some(dir) = dir.filter(|dir| overlap(dir, inbox)) {
                let message = format!("{} and {what} {} overlap", inbox.display(), dir.display());
                broken.push((key, message));
            }
        }
    }
    broken
}

fn socket(config: &Config) -> Broken {
    let length_bytes = config.socket.as_os_str().as_bytes().len();
    let message = format!(
        "a socket's path has at most {SOCKET_PATH_MAX_BYTES} bytes, and this one {length_bytes}: \
         choose a shorter one"
    );
    (length_bytes > SOCKET_PATH_MAX_BYTES).then_some(("socket", message))
}

/// Below this, a probe is over before an answer can be back.
fn period(config: &Config) -> Broken {
    let message = format!("at least {} is needed", write_duration(PERIOD_MIN));
    (config.membership.period < PERIOD_MIN).then_some(("membership.period", message))
}

/// Folders that would swallow each other: the cache is emptied, the mount is made of the others,
/// and a share beneath the mount would share the cluster with itself.
fn folders(config: &Config) -> Vec<(&'static str, String)> {
    let mut broken = Vec::new();
    let (state, cache) = (&config.state_dir, &config.cache_dir);
    if state.starts_with(cache) {
        let message = format!("it must not hold the state directory {}", state.display());
        broken.push(("cache_dir", message));
    }
    let mount = config.mount.enabled.then_some(config.mount.dir.as_path());
    let own = [
        ("the state directory", state.as_path()),
        ("the cache", cache.as_path()),
    ];
    for (what, dir) in own {
        if mount.is_some_and(|mount| overlap(mount, dir)) {
            let message = format!("it and {what} {} overlap", dir.display());
            broken.push(("mount.dir", message));
        }
    }
    for share in &config.share {
        let beside = mount.map(|mount| ("the mount", mount));
        let others = beside.into_iter().chain(own);
        broken.extend(others.filter_map(|(what, dir)| {
            let message = || {
                format!(
                    "{} and {what} {} overlap",
                    share.dir.display(),
                    dir.display()
                )
            };
            overlap(&share.dir, dir).then(|| ("share.dir", message()))
        }));
    }
    broken
}

pub(super) fn overlap(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}
