//! The service that started the daemon, and the commands for that service.

use std::fs;

/// The unit of the daemon.
const UNIT: &str = "p2pfs.service";

/// The party that started the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartedBy {
    /// The service of the machine.
    System,
    /// The service of a user.
    User,
    /// A person, a script or another service.
    Hand,
}

impl StartedBy {
    /// Returns the party that started this process.
    pub(super) fn of_this_process() -> Self {
        Self::of_groups(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default())
    }

    /// Returns the party that started a process, from its `/proc/PID/cgroup`.
    fn of_groups(groups: &str) -> Self {
        let mut paths = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
        match paths.find(|path| path.split('/').any(|part| part == UNIT)) {
            Some(path) if path.contains("/user@") => Self::User,
            Some(_) => Self::System,
            None => Self::Hand,
        }
    }

    /// Returns the systemctl(1) command with this verb for the service. Returns `None` if no
    /// packaged service started the daemon.
    pub(super) fn command(self, verb: &str) -> Option<String> {
        match self {
            Self::System => Some(format!("systemctl {verb} p2pfs")),
            Self::User => Some(format!("systemctl --user {verb} p2pfs")),
            Self::Hand => None,
        }
    }

    /// Returns the step that starts the daemon of this process again after its cause was mended.
    pub(super) fn start_of_this_process() -> String {
        match Self::of_this_process().command("start") {
            Some(command) => format!("start it: {command}"),
            None => "start it as before".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_origin_of_the_daemon_is_its_unit() {
        let system = "0::/system.slice/p2pfs.service\n";
        let old = "2:cpu:/\n1:name=systemd:/system.slice/p2pfs.service\n";
        let user = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/p2pfs.service\n";
        let shell = "0::/user.slice/user-0.slice/session-1.scope\n";
        assert_eq!(StartedBy::of_groups(system), StartedBy::System);
        assert_eq!(StartedBy::of_groups(old), StartedBy::System);
        assert_eq!(StartedBy::of_groups(user), StartedBy::User);
        assert_eq!(StartedBy::of_groups(shell), StartedBy::Hand);
    }
}
