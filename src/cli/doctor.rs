//! `p2pfs doctor`: problems of a node, with remedies.
//!
//! The daemon runs the checks that only it can make. This module checks the mount as programs see
//! it, and, if no daemon runs, the causes that would prevent its start.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Args;

use super::connect::{PATIENCE, Reporting};
use super::daemon::DaemonOptions;
use super::error::{CliError, LOOK_AT_IT, START, mend_the_start};
use super::output::Output;
use super::status::{absent, state_of_check};
use super::text::printable;
use crate::daemon::config::{Config, ConfigError, Loaded, inspect, load, socket_of};
use crate::daemon::control::{
    Call, Check, CheckState, Checkup, Client, ClientError, DAEMON_CHECK, MountStatus, Status,
};
use p2pfs_node::NetError;

/// How long a mount may take to show one of its own files.
const MOUNT_PATIENCE: Duration = Duration::from_secs(3);
/// Device through which the server of a FUSE mount exchanges requests and replies with the kernel.
pub(super) const FUSE_DEVICE: &str = "/dev/fuse";

/// Name of the check of the configuration.
const CONFIGURATION: &str = "configuration";

/// Checks whether this process can open `/dev/fuse`. The error includes a remedy.
pub type LookAtDevice = fn() -> Result<(), (io::Error, &'static str)>;

/// The flags of `p2pfs doctor`.
#[derive(Debug, Clone, Args)]
pub struct DoctorOptions {
    #[command(flatten)]
    reporting: Reporting,
    /// The configuration to check, with the daemon at its socket [without a daemon: the default
    /// one]
    #[arg(
        long,
        value_name = "FILE",
        env = "P2PFS_CONFIG",
        hide_env_values = true
    )]
    config: Option<PathBuf>,
}

pub(super) fn run(
    options: DoctorOptions,
    device: LookAtDevice,
    output: &mut Output,
) -> Result<(), CliError> {
    let json = options.reporting.json;
    let reporting = match &options.config {
        Some(config) => of_configuration(options.reporting, config)?,
        None => options.reporting,
    };
    let checks = look(reporting.try_open_at_hand(), options.config, device)?;
    let failed = checks
        .iter()
        .filter(|check| check.state == CheckState::Failed)
        .count();
    let checkup = Checkup { checks };
    if json {
        output.json(&checkup)?
    } else {
        print(&checkup, output)?
    }
    output.flush()?;
    match failed {
        0 => Ok(()),
        1 => Err(CliError::new("there is one error", "do what its line says")),
        _ => Err(CliError::new(
            format!("there are {failed} errors"),
            "do what their lines say, the first one first",
        )),
    }
}

/// Returns the arguments with the socket that this configuration sets. If it sets none, the
/// arguments stay as they are, and the daemon is looked for at the usual sockets.
fn of_configuration(reporting: Reporting, config: &Path) -> Result<Reporting, CliError> {
    let options = DaemonOptions {
        config: Some(config.to_owned()),
        ..DaemonOptions::default()
    };
    Ok(match socket_of(&options.sources()?) {
        Some(socket) => reporting.or_at(socket),
        None => reporting,
    })
}

fn look(
    asked: Result<Client, ClientError>,
    config: Option<PathBuf>,
    device: LookAtDevice,
) -> Result<Vec<Check>, CliError> {
    match asked.and_then(of_running).map_err(ClientError::explained) {
        Err(error @ ClientError::NotRunning { .. }) => {
            let stopped = Check::failed(DAEMON_CHECK, error.to_string(), START);
            without_daemon(stopped, None, config, device)
        }
        Err(ClientError::DoesNotStart(failed)) => {
            let (reason, remedy) = (failed.reason.clone(), mend_the_start(&failed));
            let error = ClientError::DoesNotStart(failed).to_string();
            let failing = Check::failed(DAEMON_CHECK, error, remedy);
            without_daemon(failing, Some(&reason), config, device)
        }
        Err(error @ ClientError::Silent) => {
            let silent = Check::failed(DAEMON_CHECK, error.to_string(), LOOK_AT_IT);
            with_named(vec![silent], config)
        }
        looked => with_named(looked?, config),
    }
}

/// Adds the checks of the configuration that the user named to those of a running daemon.
fn with_named(mut checks: Vec<Check>, config: Option<PathBuf>) -> Result<Vec<Check>, CliError> {
    if config.is_some() {
        checks.extend(configuration(config)?.0);
    }
    Ok(checks)
}

/// Returns the check `first`, which says why no daemon answers, and then checks for causes that
/// would prevent a start. `reason` is the reason of the last failed start.
fn without_daemon(
    first: Check,
    reason: Option<&str>,
    config: Option<PathBuf>,
    device: LookAtDevice,
) -> Result<Vec<Check>, CliError> {
    let device = device();
    // The reason of the failed start has the remedy already.
    let is_told = device.as_ref().is_err_and(|(_, remedy)| {
        reason.is_some_and(|it| it.contains(FUSE_DEVICE) && it.contains(remedy))
    });
    let mut checks = vec![first];
    checks.extend((!is_told).then(|| device_as_seen(device)));
    let mut more = before_a_start(reason, config)?;
    let is_told = |check: &Check| {
        let is_error = check.name == CONFIGURATION && check.state == CheckState::Failed;
        is_error && reason.is_some_and(|reason| reason.contains(&check.found))
    };
    more.retain(|check| !is_told(check));
    checks.extend(more);
    Ok(checks)
}

fn print(checkup: &Checkup, output: &mut Output) -> Result<(), CliError> {
    for check in &checkup.checks {
        let lead = format!("{}  ", state_of_check(check.state, output));
        output.paragraph(&lead, &printable(&check.sentence()))?;
    }
    Ok(())
}

fn of_running(mut client: Client) -> Result<Vec<Check>, ClientError> {
    let status: Status = client.call(&Call::Status {})?;
    if let Some(phase) = Check::of_phase(status.state) {
        return Ok(vec![phase]);
    }
    let version = env!("CARGO_PKG_VERSION");
    let mut checks = vec![if status.version == version {
        Check::ok(
            DAEMON_CHECK,
            format!("{} runs, version {version}", status.name),
        )
    } else {
        Check::warning(
            DAEMON_CHECK,
            format!(
                "it is of version {}, and this command of {version}",
                status.version
            ),
            "restart it: systemctl restart p2pfs",
        )
    }];
    // The daemon contacts other machines for this call, so the answer takes longer.
    client.set_patience(Some(PATIENCE))?;
    let checkup: Checkup = client.call(&Call::Doctor {})?;
    // The daemon began to stop since it gave its status.
    if checkup.checks.iter().any(|it| it.name == DAEMON_CHECK) {
        return Ok(checkup.checks);
    }
    checks.extend(checkup.checks);
    // Not a warning: a laptop that is switched off is normal.
    let absent = absent(&status.absent, &status.peers);
    checks.extend(absent.map(|absent| Check::note("absent", absent)));
    if status.mount.mounted {
        checks.push(mount_as_seen(&status.mount, status.pid));
    }
    Ok(checks)
}

/// Checks the mount as programs see it. Access to an unresponsive mount may block forever, so it
/// runs in a detached thread.
fn mount_as_seen(mount: &MountStatus, pid: u32) -> Check {
    let name = "folder";
    let dir = mount.dir.as_local().to_owned();
    let (told, answer) = mpsc::channel();
    thread::spawn(move || told.send(read_status(&dir)));
    let remedy = "restart the daemon: systemctl restart p2pfs";
    match answer.recv_timeout(MOUNT_PATIENCE) {
        Err(_) => Check::failed(name, "the mount does not answer", remedy),
        Ok(Err(error)) if error.kind() == ErrorKind::PermissionDenied => {
            Check::ok(name, "it is another user's, who alone sees it")
        }
        Ok(Err(error)) => Check::failed(name, format!("the mount cannot be read: {error}"), remedy),
        Ok(Ok(Some(theirs))) if theirs != pid => Check::failed(
            name,
            format!("another daemon, process {theirs}, serves the mount"),
            "stop one of them, or give it another mount",
        ),
        Ok(Ok(_)) => Check::ok(name, "the mount answers"),
    }
}

/// Returns the process that serves the mount according to the status file in the mount, or `None`
/// if the file names no process.
fn read_status(dir: &Path) -> io::Result<Option<u32>> {
    let text = fs::read(dir.join(".p2pfs/status.json"))?;
    let status: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    Ok(status["pid"]
        .as_u64()
        .and_then(|pid| u32::try_from(pid).ok()))
}

/// Checks the settings for problems that prevent the start of the daemon or its work.
fn before_a_start(reason: Option<&str>, config: Option<PathBuf>) -> Result<Vec<Check>, CliError> {
    let (mut checks, loaded) = configuration(config)?;
    if let Some(Loaded { config, .. }) = loaded {
        checks.extend(rights_to_mount(&config));
        let listen = config.listen;
        let port = may_lack_port(reason, listen).then(|| port(listen));
        // The reason of the failed start has the remedy already.
        let is_told = |check: &Check| check.state == CheckState::Failed && reason.is_some();
        checks.extend(port.filter(|check| !is_told(check)));
    }
    Ok(checks)
}

/// Checks the configuration and the files that it names. Also returns the configuration if it is
/// well formed.
fn configuration(config: Option<PathBuf>) -> Result<(Vec<Check>, Option<Loaded>), CliError> {
    let name = CONFIGURATION;
    let options = DaemonOptions {
        config,
        ..DaemonOptions::default()
    };
    Ok(match load(&options.sources()?) {
        Err(error) => {
            let failed = |why: &ConfigError| {
                let remedy = "mend it, and try it: p2pfs daemon --check-config";
                Check::failed(name, why.to_string(), remedy)
            };
            (error.each().iter().map(failed).collect(), None)
        }
        Ok(loaded) => {
            let mut checks = vec![Check::ok(name, "is well formed")];
            checks.extend(what_it_names(&loaded));
            (checks, Some(loaded))
        }
    })
}

fn what_it_names(loaded: &Loaded) -> Vec<Check> {
    let found = inspect(loaded);
    let remedy = "mend it, or the configuration";
    let errors = found
        .errors
        .iter()
        .map(|why| Check::failed("secret", why, remedy));
    let warnings = found
        .warnings
        .iter()
        .map(|why| Check::warning("share", why, remedy));
    errors.chain(warnings).collect()
}

/// Checks whether a daemon of this user may mount.
fn rights_to_mount(config: &Config) -> Option<Check> {
    let may = rustix::process::geteuid().is_root() || has_mount_helper();
    (config.mount.enabled && !may).then(|| {
        Check::failed(
            "rights",
            "only root may mount, or a user with fusermount3",
            "install the package fuse3, or run the daemon as root",
        )
    })
}

/// Returns whether another program may have the port. This is unlikely if the last start failed for
/// a `reason` that does not contain the address: then the daemon got the port, and it or the
/// service manager still has it.
fn may_lack_port(reason: Option<&str>, listen: SocketAddr) -> bool {
    reason.is_none_or(|reason| reason.contains(&listen.to_string()))
}

fn has_mount_helper() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join("fusermount3").is_file())
}

fn device_as_seen(opened: Result<(), (io::Error, &'static str)>) -> Check {
    match opened {
        Ok(()) => Check::ok("fuse", format!("{FUSE_DEVICE} can be opened")),
        Err((why, remedy)) => Check::failed("fuse", format!("{FUSE_DEVICE}: {why}"), remedy),
    }
}

/// Checks whether the listen address is free for TCP and UDP. The remedy is that of a start that
/// fails for the same reason.
fn port(listen: SocketAddr) -> Check {
    let tcp = TcpListener::bind(listen).map(drop);
    match tcp.and_then(|()| UdpSocket::bind(listen).map(drop)) {
        Ok(()) => Check::ok("port", format!("{listen} is free")),
        Err(error) => {
            let kind = error.kind();
            let of_start = NetError::Bind {
                address: listen,
                kind,
            };
            let of_start = of_start.to_string();
            let told = of_start.split_once("; ");
            let (found, remedy) = told.unwrap_or((&of_start, "set listen to another"));
            Check::failed("port", found, remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use clap::FromArgMatches;

    use super::super::connect::sockets;
    use super::*;

    #[test]
    fn a_port_is_checked_only_if_no_start_got_it() {
        let listen = "0.0.0.0:1378".parse().unwrap();
        assert!(may_lack_port(None, listen));
        assert!(may_lack_port(
            Some("cannot listen on 0.0.0.0:1378: another program uses this port"),
            listen
        ));
        assert!(!may_lack_port(Some("cannot open /dev/fuse"), listen));
    }

    #[test]
    fn a_taken_port_has_the_remedy_of_the_failed_start() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        let check = port(address);
        assert_eq!(check.state, CheckState::Failed);
        let kind = ErrorKind::AddrInUse;
        let of_start = NetError::Bind { address, kind }.to_string();
        let remedy = check.remedy.unwrap();
        assert!(of_start.ends_with(&format!("; {remedy}")), "{of_start}");
        assert!(
            !of_start.contains("--"),
            "a service has no flags: {of_start}"
        );
    }

    #[test]
    fn remedy_for_a_missing_device_is_shown_once() {
        let device = || Err((ErrorKind::NotFound.into(), "mknod"));
        let fuse_checks = |reason: Option<&str>| {
            let first = Check::failed("daemon", "does not start", "mend it");
            let config = tempfile::NamedTempFile::new().unwrap();
            let config = Some(config.path().to_owned());
            let checks = without_daemon(first, reason, config, device).unwrap();
            checks.iter().filter(|it| it.name == "fuse").count()
        };
        assert_eq!(fuse_checks(Some("cannot open /dev/fuse: gone: mknod")), 0);
        assert_eq!(fuse_checks(Some("cannot open /dev/fuse: gone: broker")), 1);
        assert_eq!(fuse_checks(Some("the port is in use")), 1);
        assert_eq!(fuse_checks(None), 1);
    }

    #[test]
    fn an_error_of_the_configuration_that_prevented_the_start_is_shown_once() {
        let config = tempfile::NamedTempFile::new().unwrap();
        fs::write(&config, "cash = 1\n").unwrap();
        let checks = |reason: Option<&str>| {
            let first = Check::failed("daemon", reason.unwrap_or("stopped"), "mend it");
            let path = Some(config.path().to_owned());
            without_daemon(first, reason, path, || Ok(())).unwrap()
        };
        let of_configuration = |checks: &[Check]| {
            let mut found = checks.iter().filter(|it| it.found.contains("cash"));
            (found.next().cloned(), found.count())
        };
        let (told, more) = of_configuration(&checks(None));
        assert_eq!(more, 0);
        let reason = told.unwrap().found;
        let (told, more) = of_configuration(&checks(Some(&reason)));
        assert_eq!((told.unwrap().name, more), ("daemon".to_owned(), 0));
        let (told, _) = of_configuration(&checks(Some("the port is in use")));
        assert_eq!(told.unwrap().name, "configuration");
    }

    /// Returns the sockets at which `p2pfs doctor` with these arguments looks for the daemon.
    fn sockets_of(arguments: &[&str]) -> Vec<PathBuf> {
        let command = DoctorOptions::augment_args(clap::Command::new("doctor"));
        let given = command.get_matches_from([&["doctor"], arguments].concat());
        let options = DoctorOptions::from_arg_matches(&given).unwrap();
        let reporting = of_configuration(options.reporting, &options.config.unwrap());
        reporting.unwrap().sockets()
    }

    #[test]
    fn the_daemon_is_asked_at_the_socket_argument_then_the_configured_then_the_usual_ones() {
        let config = tempfile::NamedTempFile::new().unwrap();
        let path = config.path().to_str().unwrap();
        assert_eq!(sockets_of(&["--config", path]), sockets(None));
        fs::write(&config, "socket = '/run/configured'\n").unwrap();
        let configured = Path::new("/run/configured");
        assert_eq!(sockets_of(&["--config", path]), [configured]);
        let said = ["--config", path, "--socket", "/run/said"];
        assert_eq!(sockets_of(&said), [Path::new("/run/said")]);
    }

    #[test]
    fn a_silent_daemon_is_detected() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        // Clients are connected and receive no answer.
        let _silent = UnixListener::bind(&socket).unwrap();
        let mut client = Client::connect(&[socket]).unwrap();
        client
            .set_patience(Some(Duration::from_millis(10)))
            .unwrap();
        let checks = look(Ok(client), None, || Ok(())).unwrap();
        let said: Vec<_> = checks.iter().map(Check::sentence).collect();
        assert_eq!(checks[0].state, CheckState::Failed);
        assert!(said[0].contains("journalctl -u p2pfs"), "{said:?}");
        assert!(!said[0].contains("systemctl start"), "{said:?}");
    }
}
