//! Checks of the whole configuration: settings that exclude each other, and ranges that the parsers
//! of single settings do not check.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::error::ConfigError;
use super::group::missing_group;
use super::metrics::MetricsAddress;
use super::settings::Config;
use super::shown::{DEFAULT, share_key};
use super::units::write_duration;
use p2pfs_proto::wire::native::record::{KEEP_PATHS_MAX, KEEP_PATHS_MAX_BYTES};
use p2pfs_types::files::SOCKET_PATH_MAX_BYTES;

/// Shortest time between two probes of the membership.
const PERIOD_MIN: Duration = Duration::from_millis(100);

/// Why legacy and mesh peers cannot be spoken to, if this program was built without the feature
/// `legacy`.
pub const NO_LEGACY: &str =
    "this p2pfs was built without the older protocols (the feature legacy of its crate)";

/// Checks the whole configuration. `origin` returns where a key was set. Returns a
/// [`ConfigError::Impossible`] for each error, with the setting and its origin.
pub(super) fn check(config: &Config, origin: impl Fn(&str) -> String) -> Vec<ConfigError> {
    let single = [
        lacking(config, cfg!(feature = "legacy")),
        legacy(config),
        socket(config),
        period(config),
        mesh(config),
        keep(config),
    ];
    let several = [
        ports(config),
        groups(config),
        readers(config),
        writable(config),
    ];
    let broken = single.into_iter().flatten();
    let broken = broken.chain(several.into_iter().flatten());
    let impossible = broken.map(|(key, message)| ConfigError::Impossible {
        key: key.to_owned(),
        message,
        origin: origin(key),
    });
    let clashes = inboxes(config).into_iter().chain(folders(config));
    let clashing = clashes.map(|clash| clash.told(&origin));
    impossible.chain(clashing).collect()
}

type Broken = Option<(&'static str, String)>;

/// Refuses the older protocols if this program was built without them.
fn lacking(config: &Config, has_legacy: bool) -> Broken {
    let key = match config.mesh.listen {
        _ if has_legacy => return None,
        Some(_) => "mesh.listen",
        None if config.legacy.enabled => "legacy.enabled",
        None => return None,
    };
    Some((key, format!("{NO_LEGACY}: leave the setting out")))
}

/// Checks that legacy mode has an IPv4 listen address, because legacy peers support IPv4 only and
/// receive this node's address.
fn legacy(config: &Config) -> Broken {
    let message = "the legacy peers know IPv4 only: listen on an IPv4 address, or leave \
                   legacy.enabled, --legacy and P2P_CLUSTER out";
    let is_impossible = config.legacy.enabled && config.listen.is_ipv6();
    is_impossible.then(|| ("listen", message.to_owned()))
}

/// Checks that the paths to keep fit into the record that announces them.
fn keep(config: &Config) -> Broken {
    let paths = &config.keep.paths;
    let bytes: usize = paths.iter().map(|path| path.0.as_bytes().len()).sum();
    let is_much = paths.len() > KEEP_PATHS_MAX || bytes > KEEP_PATHS_MAX_BYTES;
    let message = format!(
        "a node keeps at most {KEEP_PATHS_MAX} paths of {KEEP_PATHS_MAX_BYTES} bytes together: \
         name paths above them"
    );
    is_much.then_some(("keep.paths", message))
}

/// Rejects a second group of the same name. Only one of the two lists could apply, and the nodes in
/// the other list would not be readers.
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

/// Rejects a share that is for readers and for legacy peers, because legacy peers cannot be
/// identified. Rejects a reader group that does not exist.
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

/// Rejects a second writable share of the same place, because only one could take what is written.
fn writable(config: &Config) -> Vec<(&'static str, String)> {
    let shares = || config.share.iter().filter(|share| share.writable);
    let again = shares().enumerate().filter_map(|(at, share)| {
        let other = shares().take(at).find(|other| other.place == share.place)?;
        let (dir, other) = (share.dir.display(), other.dir.display());
        let message = format!(
            "{dir} and {other} have the same place and cannot both be writable: give one another \
             place with as, or take its writable out"
        );
        Some(("share.writable", message))
    });
    again.collect()
}

/// Checks that the mesh listens on an IPv4 address, because its programs support IPv4 only. Checks
/// that it listens at all if it has peers, because peers of the mesh must be able to dial each
/// other.
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

/// Rejects a listener with the address and port of another one. Port 0 means any free port.
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

/// Returns whether only one of two addresses can be listened on.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    // An IPv4 address in IPv6 form is that IPv4 address.
    let [one_ip, other_ip] = [one, other].map(|address| address.ip().to_canonical());
    let is_same_place = one_ip == other_ip || covers(one_ip, other_ip) || covers(other_ip, one_ip);
    one.port() == other.port() && one.port() != 0 && is_same_place
}

/// Returns whether a listener on `any` takes the connections to `ip` too. A listener on IPv6's
/// "any" address accepts both families.
fn covers(any: IpAddr, ip: IpAddr) -> bool {
    any.is_unspecified() && (any.is_ipv6() || ip.is_ipv4())
}

/// A folder and the setting that names it.
#[derive(Clone, Copy)]
struct ConfiguredFolder<'a> {
    key: &'static str,
    what: &'static str,
    dir: &'a Path,
}

/// Two folders that exclude each other.
struct Clash<'a> {
    one: ConfiguredFolder<'a>,
    other: ConfiguredFolder<'a>,
}

impl Clash<'_> {
    /// Formats the conflict. If only one of the two folders was set, names that setting first,
    /// because a default cannot be corrected in a file.
    fn told(self, origin: impl Fn(&str) -> String) -> ConfigError {
        let origin = |folder: &ConfiguredFolder<'_>| match folder.key {
            "share.dir" => origin(&share_key(&folder.dir.to_string_lossy())),
            key => origin(key),
        };
        let is_default = |folder: &ConfiguredFolder<'_>| origin(folder) == DEFAULT;
        let (one, other) = if is_default(&self.one) && !is_default(&self.other) {
            (self.other, self.one)
        } else {
            (self.one, self.other)
        };
        let (dir, what, at) = (one.dir.display(), other.what, other.dir.display());
        let message = match (one.key, other.key) {
            // The cache may be within the state directory.
            ("cache_dir", "state_dir") => format!("it must not hold {what} {at}"),
            ("state_dir", "cache_dir") => format!("it must not be in {what} {at}"),
            _ => format!("{dir} and {what} {at} overlap"),
        };
        ConfigError::Impossible {
            key: one.key.to_owned(),
            message,
            origin: format!("{}; {}: {}", origin(&one), other.key, origin(&other)),
        }
    }
}

fn clashes<'a>(one: ConfiguredFolder<'a>, others: &[ConfiguredFolder<'a>]) -> Vec<Clash<'a>> {
    let others = others.iter().filter(|other| overlap(one.dir, other.dir));
    others.map(|other| Clash { one, other: *other }).collect()
}

/// Returns the daemon's own folders: the state, the cache and the mount, if it is enabled.
fn own_folders(config: &Config) -> Vec<ConfiguredFolder<'_>> {
    let folder = |key, what, dir| ConfiguredFolder { key, what, dir };
    let mut own = vec![
        folder("state_dir", "the state directory", &*config.state_dir),
        folder("cache_dir", "the cache", &*config.cache_dir),
    ];
    if config.mount.enabled {
        own.push(folder("mount.dir", "the mount", &*config.mount.dir));
    }
    own
}

/// Checks that the inboxes do not overlap the daemon's own folders. Received files are shared, and
/// nothing may be shared from those folders.
fn inboxes(config: &Config) -> Vec<Clash<'_>> {
    let own = own_folders(config);
    let inboxes = config.inboxes().into_iter();
    let inboxes = inboxes.map(|(key, dir)| ConfiguredFolder {
        key,
        what: "the inbox",
        dir,
    });
    inboxes.flat_map(|inbox| clashes(inbox, &own)).collect()
}

fn socket(config: &Config) -> Broken {
    let length_bytes = config.socket.as_os_str().as_bytes().len();
    let message = format!(
        "a socket's path has at most {SOCKET_PATH_MAX_BYTES} bytes, and this one {length_bytes}: \
         choose a shorter one"
    );
    (length_bytes > SOCKET_PATH_MAX_BYTES).then_some(("socket", message))
}

/// Rejects a period below [`PERIOD_MIN`], in which the answer to a probe might not arrive.
fn period(config: &Config) -> Broken {
    let message = format!("at least {} is needed", write_duration(PERIOD_MIN));
    (config.membership.period < PERIOD_MIN).then_some(("membership.period", message))
}

/// Finds folders that must not overlap: the state directory in the cache, which evicts files; the
/// mount and the state directory or cache, from which the mount is served; a share and any of
/// these. A share below the mount would share the cluster with itself. Ignores the mount if it is
/// not enabled.
fn folders(config: &Config) -> Vec<Clash<'_>> {
    let own = own_folders(config);
    let (state, cache) = (own[0], own[1]);
    let is_within = state.dir.starts_with(cache.dir);
    let within = is_within.then_some(Clash {
        one: cache,
        other: state,
    });
    let mount = own.get(2).map(|mount| clashes(*mount, &own[..2]));
    let shares = config.share.iter().map(|share| ConfiguredFolder {
        key: "share.dir",
        what: "the share",
        dir: &share.dir,
    });
    let files = config.files_dir();
    let shares = shares.flat_map(|share| {
        let mut clashes = clashes(share, &own);
        clashes.retain(|clash| clash.other.key != "state_dir" || !share.dir.starts_with(&files));
        clashes
    });
    let all = within.into_iter().chain(mount.into_iter().flatten());
    all.chain(shares).collect()
}

pub(super) fn overlap(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_older_protocols_are_refused_only_by_a_build_without_them() {
        let mut config = Config::default();
        assert_eq!(lacking(&config, false), None);
        config.legacy.enabled = true;
        let (key, message) = lacking(&config, false).unwrap();
        assert_eq!(key, "legacy.enabled");
        assert!(message.contains("built without the older protocols"));
        config.mesh.listen = Some(([127, 0, 0, 1], 1378).into());
        assert_eq!(lacking(&config, false).unwrap().0, "mesh.listen");
        assert_eq!(lacking(&config, true), None);
    }
}
