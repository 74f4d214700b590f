//! Finds out whether the machine at a silent address is there, and explains the silence.
//!
//! A firewall that drops packets and a machine that is switched off look the same on one port.
//! Another port and the table of neighbours tell them apart. Neither needs privileges.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::network::is_of_this_machine;
use super::told;
use crate::daemon::control::Check;
use p2pfs_node::{Node, Probed};

/// Port that is dialled besides the silent one: the service discard (RFC 863). It is closed on
/// almost every machine, and a connection to it is harmless where it is open.
const OTHER_PORT: u16 = 9;
/// How long an address may be silent before its machine is looked for. Most answers arrive earlier.
const SILENCE_MIN: Duration = Duration::from_millis(400);
/// How long the other port may take to answer.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);
/// The kernel's neighbours in IPv4 networks.
const NEIGHBOURS: &str = "/proc/net/arp";
/// Flag of a neighbour whose hardware address is known (`ATF_COM` of `linux/if_arp.h`).
const IS_COMPLETE: u32 = 2;

/// Whether the machine at an address is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MachinePresence {
    /// It is this machine or one of the local network, and answers on another port, usually by a
    /// refusal.
    Answers,
    /// A machine answers on another port. It may be a router or a machine that has the address now.
    Reachable,
    /// It is silent, and its hardware address is known, so it was in the local network at most
    /// about a minute ago.
    Neighbour,
    /// It would be in the local network, and no machine there has the address.
    Missing,
    /// It is silent, and the local network does not know it.
    Unknown,
}

/// An address that was probed, with the presence of its machine if the probe failed.
#[derive(Clone, Debug)]
pub(super) struct ProbedMachine {
    pub(super) address: SocketAddr,
    pub(super) probed: Probed,
    presence: MachinePresence,
    /// How long the probe took.
    waited: Duration,
}

/// Finds out which node answers at an address, within `patience`. Looks for the machine if no node
/// answers.
pub(super) async fn probe(node: &Node, address: SocketAddr, patience: Duration) -> ProbedMachine {
    let begun = Instant::now();
    let mut waited = Duration::ZERO;
    let probing = async {
        let probed = node.peers().probe(address, patience).await;
        waited = begun.elapsed();
        probed
    };
    let (probed, looked) = look_if_silent(address.ip(), patience, probing).await;
    let presence = match (looked, &probed) {
        (Some(presence), _) => presence,
        (None, Probed::Unreachable(_)) => look(address.ip(), LOOK_PATIENCE.min(patience)).await,
        (None, _) => MachinePresence::Unknown,
    };
    ProbedMachine {
        address,
        probed,
        presence,
        waited,
    }
}

/// Looks for a machine while the dial of one of its ports takes longer than [`SILENCE_MIN`].
async fn look_if_silent<T>(
    ip: IpAddr,
    patience: Duration,
    dialling: impl Future<Output = T>,
) -> (T, Option<MachinePresence>) {
    let mut dialling = pin!(dialling);
    match timeout(SILENCE_MIN.min(patience / 2), &mut dialling).await {
        Ok(dialled) => (dialled, None),
        Err(_) => {
            let left = patience.saturating_sub(SILENCE_MIN);
            let looking = look(ip, LOOK_PATIENCE.min(left));
            let (dialled, presence) = tokio::join!(dialling, looking);
            (dialled, Some(presence))
        }
    }
}

/// Looks for a machine by its other port and in the table of neighbours.
async fn look(ip: IpAddr, patience: Duration) -> MachinePresence {
    let dialled = timeout(patience, TcpStream::connect((ip, OTHER_PORT))).await;
    let answers = match dialled {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => error.kind() == ErrorKind::ConnectionRefused,
        Err(_) => false,
    };
    let table = fs::read_to_string(NEIGHBOURS).unwrap_or_default();
    match in_table(ip, &table) {
        MachinePresence::Neighbour if answers => MachinePresence::Answers,
        _ if answers && is_of_this_machine(ip) => MachinePresence::Answers,
        _ if answers => MachinePresence::Reachable,
        presence => presence,
    }
}

/// Finds a machine in the text of [`NEIGHBOURS`].
fn in_table(ip: IpAddr, table: &str) -> MachinePresence {
    let ip = ip.to_canonical().to_string();
    let flags = table.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let flags = words.next().filter(|it| *it == ip).and(words.nth(1))?;
        u32::from_str_radix(flags.trim_start_matches("0x"), 16).ok()
    });
    match flags {
        Some(flags) if flags & IS_COMPLETE != 0 => MachinePresence::Neighbour,
        Some(_) => MachinePresence::Missing,
        None => MachinePresence::Unknown,
    }
}

impl ProbedMachine {
    /// Explains an address at which no program answers. `machine` is the machine's name for the
    /// remedy. Returns `None` if a program answers there.
    pub(super) fn trouble(&self, name: &str, machine: &str) -> Option<Check> {
        match &self.probed {
            Probed::Closed => {
                let found = format!(
                    "{} refuses connections, so its machine is on and p2pfs does not run there, or \
                     not on this port",
                    self.address
                );
                let remedy = format!("start p2pfs on {machine}: systemctl start p2pfs");
                Some(Check::warning(name, found, remedy))
            }
            Probed::Silent | Probed::Unreachable(_) => Some(self.unanswered(name, machine)),
            _ => None,
        }
    }

    /// Explains an address to which no connection is established, by the presence of its machine.
    /// It is an error if a firewall surely is the cause, and else a warning.
    pub(super) fn unanswered(&self, name: &str, machine: &str) -> Check {
        let address = self.address;
        let check = match &self.probed {
            Probed::Unreachable(why) => match told(why) {
                (why, Some(remedy)) => return Check::failed(name, why, remedy),
                (why, None) => self.rejected(name, machine, format!("{address}: {why}")),
            },
            _ => {
                let seconds = self.waited.as_secs_f64();
                let found = format!("{address} does not answer over TCP within {seconds:.1} s");
                self.silent(name, machine, found)
            }
        };
        // The finding has a figure.
        check.of_cause(format!("{:?}", self.presence))
    }

    /// Explains an address that does not answer.
    fn silent(&self, name: &str, machine: &str, found: String) -> Check {
        let ip = self.address.ip();
        let pass = let_through(machine, self.address.port());
        match self.presence {
            MachinePresence::Answers => Check::failed(
                name,
                format!("{found}, but its machine answers on another port: a firewall is closed"),
                pass,
            ),
            MachinePresence::Reachable => Check::warning(
                name,
                format!(
                    "{found}, but a machine at {ip} answers on another port, which may be a router \
                     or another machine"
                ),
                format!("if that is {machine}, {pass}; otherwise turn {machine} on"),
            ),
            MachinePresence::Neighbour => Check::warning(
                name,
                format!(
                    "{found}, also not on another port, but its machine was in the local network \
                     within the last minute: most likely a firewall drops the packets"
                ),
                format!("{pass}; or turn {machine} on"),
            ),
            MachinePresence::Missing => missing(name, machine, &found),
            MachinePresence::Unknown => Check::warning(
                name,
                format!(
                    "{found}, also not on another port: either its machine is off, or a firewall \
                     drops the packets"
                ),
                format!("turn {machine} on; if ping {ip} finds it on, {pass}"),
            ),
        }
    }

    /// Explains a connection that the system cannot establish. The system does not tell which
    /// machine rejects it.
    fn rejected(&self, name: &str, machine: &str, found: String) -> Check {
        let port = self.address.port();
        match self.presence {
            MachinePresence::Answers | MachinePresence::Neighbour => Check::warning(
                name,
                format!(
                    "{found}, but its machine is there: its firewall, or that of this machine, \
                     rejects the connection"
                ),
                format!(
                    "let TCP to port {port} out of this machine; {}",
                    let_through(machine, port)
                ),
            ),
            MachinePresence::Missing => missing(name, machine, &found),
            MachinePresence::Reachable | MachinePresence::Unknown => Check::warning(
                name,
                found,
                format!(
                    "mend the network between this machine and {machine}, or name its present \
                     address as a seed"
                ),
            ),
        }
    }
}

/// Explains an address that no machine of the local network has.
fn missing(name: &str, machine: &str, found: &str) -> Check {
    Check::warning(
        name,
        format!("{found}, and no machine of the local network has its address"),
        format!(
            "turn {machine} on, or mend its network; if it has another address now, name that as \
             a seed"
        ),
    )
}

/// Returns the remedy for a closed firewall of another machine.
pub(super) fn let_through(machine: &str, port: u16) -> String {
    let commands = commands(port);
    format!(
        "on {machine}, let TCP and UDP port {port} through its firewall ({commands}) and run p2pfs \
         doctor there"
    )
}

/// Returns the remedy for a closed firewall of this machine.
pub(super) fn let_through_here(port: u16) -> String {
    let commands = commands(port);
    format!("let TCP and UDP port {port} through this machine's firewall ({commands})")
}

/// Returns the commands of common firewalls that open a port.
fn commands(port: u16) -> String {
    format!(
        "ufw allow {port}, or firewall-cmd --permanent --add-port={port}/tcp --add-port={port}/udp \
         and firewall-cmd --reload"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::control::CheckState;

    const TABLE: &str = "\
IP address       HW type     Flags       HW address            Mask     Device
10.77.0.1        0x1         0x2         02:77:00:00:00:01     *        eth0
10.77.0.11       0x1         0x0         00:00:00:00:00:00     *        eth0
";

    fn machine(probed: Probed, presence: MachinePresence) -> ProbedMachine {
        ProbedMachine {
            address: "10.77.0.1:1378".parse().unwrap(),
            probed,
            presence,
            waited: Duration::from_millis(1500),
        }
    }

    #[test]
    fn the_table_of_neighbours_tells_a_machine_that_is_there_from_one_that_is_missing() {
        let found = |ip: &str| in_table(ip.parse().unwrap(), TABLE);
        assert_eq!(found("10.77.0.1"), MachinePresence::Neighbour);
        assert_eq!(found("::ffff:10.77.0.1"), MachinePresence::Neighbour);
        assert_eq!(found("10.77.0.11"), MachinePresence::Missing);
        assert_eq!(found("10.77.0.2"), MachinePresence::Unknown);
        assert_eq!(found("fd77::1"), MachinePresence::Unknown);
    }

    #[test]
    fn only_a_machine_that_surely_is_there_makes_its_firewall_an_error() {
        let closed = || Probed::Unreachable("host unreachable".to_owned());
        for (probed, presence, state, words) in [
            (
                Probed::Silent,
                MachinePresence::Answers,
                CheckState::Failed,
                "a firewall is closed",
            ),
            (
                Probed::Silent,
                MachinePresence::Reachable,
                CheckState::Warning,
                "which may be a router",
            ),
            (
                closed(),
                MachinePresence::Neighbour,
                CheckState::Warning,
                "its firewall, or that of this machine",
            ),
            (
                Probed::Silent,
                MachinePresence::Neighbour,
                CheckState::Warning,
                "most likely a firewall",
            ),
            (
                Probed::Silent,
                MachinePresence::Unknown,
                CheckState::Warning,
                "either its machine is off",
            ),
            (
                Probed::Silent,
                MachinePresence::Missing,
                CheckState::Warning,
                "no machine of the local",
            ),
        ] {
            let check = machine(probed, presence)
                .trouble("peer nas", "nas")
                .unwrap();
            let said = check.sentence();
            assert_eq!(check.state, state, "{said}");
            assert!(
                check.found.contains(words) && said.contains("nas"),
                "{said}"
            );
            assert_eq!(
                said.contains("port 1378"),
                presence != MachinePresence::Missing,
                "{said}"
            );
        }
        let closed = machine(Probed::Closed, MachinePresence::Unknown);
        let said = closed.trouble("peer nas", "nas").unwrap().sentence();
        assert!(
            said.contains("start p2pfs on nas") && !said.contains("firewall"),
            "{said}"
        );
        assert!(
            machine(Probed::Other, MachinePresence::Unknown)
                .trouble("", "")
                .is_none()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_is_looked_for_only_while_a_port_is_silent() {
        let (here, patience) = (IpAddr::from([127, 0, 0, 1]), Duration::from_secs(30));
        let (_, looked) = look_if_silent(here, patience, async {}).await;
        assert_eq!(looked, None);
        let silent = timeout(SILENCE_MIN * 2, std::future::pending::<()>());
        let (silent, looked) = look_if_silent(here, patience, silent).await;
        assert!(silent.is_err());
        assert_eq!(looked, Some(MachinePresence::Answers));
    }
}
