//! The messages to the service manager (sd_notify(3)), and the modes of the directories that the
//! manager creates. Without a manager, no message is sent and no mode is changed.
//!
//! Owns the messages and the watchdog's interval. The daemon serves even if it cannot notify the
//! manager, so no error leaves this module. It also serves while the manager stands still: the
//! messages go through a queue with a thread of its own.

use std::io;
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use p2pfs_types::files::trusted_way::reach;
use p2pfs_types::files::{open_to_all, path_of};
use sd_notify::NotifyState;

use super::record_queue::RecordQueue;
use crate::daemon::config::units::write_count;
use crate::daemon::config::{Config, Environment};
use crate::daemon::control::Status;

/// Maximum bytes of messages that wait for the service manager; some 500 messages.
const QUEUE_MAX_BYTES: usize = 64 << 10;
/// How long the end of the process waits for the service manager to take the last messages.
const LAST_MESSAGES_TIME: Duration = Duration::from_secs(1);

/// Messages that wait for the service manager.
static MESSAGES: RecordQueue = RecordQueue::new(QUEUE_MAX_BYTES);

/// Lets all users enter each inbox that is a state directory of the unit. systemd gives every state
/// directory the mode of `StateDirectoryMode=` at each start, and received files below a directory
/// that others cannot read would leave the shared folder.
pub fn open_inboxes(config: &Config, environment: &Environment) {
    let states = environment.path("STATE_DIRECTORY");
    let states: Vec<_> = states
        .iter()
        .flat_map(|it| std::env::split_paths(it))
        .collect();
    let inboxes = config.inboxes().into_iter().map(|(_, dir)| dir);
    for inbox in inboxes.filter(|dir| states.iter().any(|state| state == dir)) {
        let reached = reach(inbox).map_err(io::Error::from);
        let opened = reached.and_then(|dir| open_to_all(Path::new(&path_of(dir.dir()))));
        if let Err(error) = opened {
            let inbox = inbox.display();
            tracing::warn!(
                "cannot let all users read {inbox}: {error}; received files are not listed: run \
                 chmod 755 {inbox}"
            );
        }
    }
}

/// Returns whether a service manager started this process. The packaged units start it again after
/// a failure.
pub fn is_managed() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Announces that the daemon is serving: it gossips and has mounted, if it is to mount.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Announces a reload of the configuration; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(e) => tracing::debug!("the service manager was not told of the reload: {e}"),
    }
}

/// Announces that the daemon is stopping.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Sets the status line of `systemctl status`.
pub fn status(line: &str) {
    tell(&[NotifyState::Status(&line.replace('\n', " "))]);
}

/// Formats the state of the daemon in one line.
pub fn summary(status: &Status) -> String {
    let peers = write_count(status.peers.alive, "peer", "peers");
    let files = write_count(status.namespace.entries, "entry", "entries");
    let mount = match (status.mount.enabled, status.mount.mounted) {
        (true, true) => "mounted",
        (true, false) => "not mounted",
        (false, _) => "no mount",
    };
    let traffic = &status.traffic;
    format!(
        "{mount}, {peers}, {files}, {} down, {} up",
        rate(traffic.receive_bytes_per_s),
        rate(traffic.send_bytes_per_s)
    )
}

/// Bytes of a KiB.
const KIB: u64 = 1 << 10;
/// Bytes of a MiB.
const MIB: u64 = 1 << 20;

fn rate(bytes_per_s: u64) -> String {
    match bytes_per_s {
        0..MIB => format!("{:.1} KiB/s", bytes_per_s as f64 / KIB as f64),
        _ => format!("{:.1} MiB/s", bytes_per_s as f64 / MIB as f64),
    }
}

/// Sends the keep-alive; call it every [`watchdog_period`].
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// Returns the interval of the keep-alive: half the timeout of the manager's watchdog. Returns
/// `None` if the watchdog is off.
pub fn watchdog_period() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|patience| patience / 2)
}

/// Waits until the service manager has all messages, at most for [`LAST_MESSAGES_TIME`].
pub(super) fn finish_telling() {
    let _untold = MESSAGES.flush(LAST_MESSAGES_TIME);
}

fn tell(states: &[NotifyState<'_>]) {
    static BEGUN: Once = Once::new();
    if !is_managed() {
        return;
    }
    BEGUN.call_once(|| MESSAGES.serve("service manager", send, |_| {}));
    let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
    MESSAGES.push(lines.join("\n").into_bytes());
}

/// Sends a message, and waits while the service manager stands still.
fn send(message: &[u8]) {
    let message = String::from_utf8_lossy(message);
    if let Err(e) = sd_notify::notify(&[NotifyState::Custom(&message)]) {
        tracing::debug!("the service manager was not told: {e}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixDatagram;
    use std::path::Path;
    use std::process::Command;

    use super::*;

    #[test]
    fn rates_have_the_units_of_the_commands() {
        assert_eq!(rate(0), "0.0 KiB/s");
        assert_eq!(rate(1536), "1.5 KiB/s");
        assert_eq!(rate(5 << 19), "2.5 MiB/s");
    }

    /// Sends all messages, in a process of its own that has a service manager.
    #[test]
    #[ignore = "the test below runs it with a service manager"]
    fn says_everything() {
        status("serving,\n2 peers");
        ready();
        reloading();
        alive();
        stopping();
        assert!(MESSAGES.flush(Duration::from_secs(60)));
        assert_eq!(watchdog_period(), Some(Duration::from_secs(10)));
    }

    #[test]
    fn the_service_manager_is_told_the_daemons_state() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args([
            "--exact",
            "--ignored",
            "daemon::service::systemd::tests::says_everything",
        ]);
        child
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "20000000");
        assert!(
            child
                .env_remove("WATCHDOG_PID")
                .output()
                .unwrap()
                .status
                .success()
        );
        manager.set_nonblocking(true).unwrap();
        let mut buffer = [0; 256];
        let mut said = Vec::new();
        while let Ok(length) = manager.recv(&mut buffer) {
            said.push(
                String::from_utf8_lossy(&buffer[..length])
                    .trim_end()
                    .to_owned(),
            );
        }
        assert_eq!(said[..2], ["STATUS=serving, 2 peers", "READY=1"]);
        assert!(
            said[2].starts_with("RELOADING=1\nMONOTONIC_USEC="),
            "{said:?}"
        );
        assert_eq!(said[3..], ["WATCHDOG=1", "STOPPING=1"]);
    }

    #[test]
    fn inboxes_that_systemd_created_are_opened_and_other_directories_keep_their_mode() {
        let folder = tempfile::tempdir().unwrap();
        let (state, inbox) = (folder.path().join("state"), folder.path().join("inbox"));
        let private = Permissions::from_mode(0o700);
        for dir in [&state, &inbox] {
            fs::create_dir(dir).unwrap();
            fs::set_permissions(dir, private.clone()).unwrap();
        }
        let mode_of = |dir: &Path| fs::metadata(dir).unwrap().permissions().mode() & 0o777;
        let mut config = Config::default();
        config.inbox.dir.clone_from(&inbox);
        config.inbox.from = vec!["*".to_owned()];
        open_inboxes(&config, &Environment::default());
        assert_eq!(mode_of(&inbox), 0o700, "an administrator's own choice");
        let states = format!("{}:{}", state.display(), inbox.display());
        let unit = Environment::from([("STATE_DIRECTORY", states.as_str())]);
        open_inboxes(&config, &unit);
        assert_eq!((mode_of(&inbox), mode_of(&state)), (0o755, 0o700));
    }
}
